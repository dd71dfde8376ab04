# syntax=docker/dockerfile:1
# Wheels are built where compilers are, and installed where none is.
ARG PYTHON=3.13
FROM python:${PYTHON}-bookworm AS wheels
WORKDIR /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt \
    pip wheel --requirement /tmp/requirements.txt

FROM python:${PYTHON}-slim-bookworm
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install /wheels/*.whl
WORKDIR /app
COPY app/ app/
RUN addgroup --system app && adduser --system --ingroup app app
USER app:app
EXPOSE 8000
CMD ["gunicorn", "app.main:app", "--bind", "0.0.0.0:8000", "--workers", "4"]
