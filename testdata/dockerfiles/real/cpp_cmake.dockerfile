# syntax=docker/dockerfile:1
# A compiler cache, a sanitizer variant, symbols kept aside.
FROM debian:bookworm AS toolchain
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean; \
    apt-get update && apt-get install -y --no-install-recommends ccache cmake g++ ninja-build

FROM toolchain AS build
ARG SANITIZE=""
ARG CXXFLAGS="-O2 -g${SANITIZE:+ -fsanitize=$SANITIZE}"
ENV CCACHE_DIR=/ccache
WORKDIR /src
COPY CMakeLists.txt ./
COPY src src
RUN --mount=type=cache,target=/ccache,id=ccache${SANITIZE:+-$SANITIZE} \
    cmake -S . -B /build -G Ninja -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_FLAGS="$CXXFLAGS" \
    && cmake --build /build \
    && objcopy --only-keep-debug /build/app /out.debug \
    && strip -o /out /build/app

FROM scratch AS symbols
COPY --from=build /out.debug /app.debug

FROM debian:bookworm-slim
COPY --from=build /out /usr/bin/app
ENTRYPOINT ["/usr/bin/app"]
