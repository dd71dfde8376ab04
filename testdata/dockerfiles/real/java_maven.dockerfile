# syntax=docker/dockerfile:1
# A repository of artifacts in a cache, settings as a secret, layers by how often they change.
FROM eclipse-temurin:21-jdk AS build
WORKDIR /build
COPY --chmod=0755 mvnw mvnw
COPY .mvn/ .mvn/
RUN --mount=type=bind,source=pom.xml,target=pom.xml \
    --mount=type=cache,target=/root/.m2 \
    --mount=type=secret,id=settings,target=/root/.m2/settings.xml \
    ./mvnw dependency:go-offline -DskipTests
COPY ./src src/
RUN --mount=type=bind,source=pom.xml,target=pom.xml \
    --mount=type=cache,target=/root/.m2 \
    ./mvnw package -DskipTests && mv target/*.jar target/app.jar

FROM build AS layers
RUN java -Djarmode=tools -jar target/app.jar extract --layers --destination extracted

FROM eclipse-temurin:21-jre
ARG UID=10001
RUN useradd --no-create-home --uid "${UID}" app
USER app
WORKDIR /app
COPY --from=layers /build/extracted/dependencies/ ./
COPY --from=layers /build/extracted/spring-boot-loader/ ./
COPY --from=layers /build/extracted/snapshot-dependencies/ ./
COPY --from=layers /build/extracted/application/ ./
EXPOSE 8080
ENTRYPOINT ["java", "-jar", "app.jar"]
