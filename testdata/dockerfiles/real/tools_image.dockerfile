# syntax=docker/dockerfile:1
# Many tools out of many images, versions by argument, a shell with better manners.
ARG KUBECTL=1.33 HELM=3.17
FROM registry.k8s.io/kubectl:v${KUBECTL}.0 AS kubectl
FROM alpine/helm:${HELM}.0 AS helm
FROM debian:bookworm-slim
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --link --from=kubectl /bin/kubectl /usr/local/bin/
COPY --link --from=helm /usr/bin/helm /usr/local/bin/
COPY --link --from=mikefarah/yq:4 /usr/bin/yq /usr/local/bin/
RUN curl -fsSL https://example.com/install.sh | bash -s -- --prefix /opt/tool
ENV PATH=${PATH}:/opt/tool/bin
ENTRYPOINT ["/bin/bash"]
