# A base for applications that only bring their files.
FROM python:3.13-slim AS framework
ONBUILD ARG EXTRAS=
ONBUILD COPY requirements.txt /app/
ONBUILD RUN --mount=type=cache,target=/root/.cache/pip pip install -r /app/requirements.txt $EXTRAS
ONBUILD COPY . /app
ONBUILD WORKDIR /app
ONBUILD EXPOSE 8000
CMD ["python", "main.py"]

FROM framework
ENV MODE=demo
