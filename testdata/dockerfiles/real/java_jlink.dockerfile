# A runtime of only the modules that the program needs.
FROM eclipse-temurin:21-alpine AS runtime
RUN apk add --no-cache binutils
RUN jlink \
        --add-modules java.base,java.logging,java.net.http \
        --strip-debug --no-man-pages --no-header-files --compress=zip-6 \
        --output /runtime

FROM gradle:8-jdk21 AS build
COPY --chown=gradle:gradle . /home/gradle/src
WORKDIR /home/gradle/src
RUN gradle shadowJar --no-daemon

FROM alpine:3.22
ENV JAVA_HOME=/opt/java
ENV PATH=$JAVA_HOME/bin:$PATH
COPY --from=runtime /runtime $JAVA_HOME
COPY --from=build /home/gradle/src/build/libs/*-all.jar /app/app.jar
ENTRYPOINT ["java", "-XX:MaxRAMPercentage=75", "-jar", "/app/app.jar"]
