# build: --target=dev
# One file for development and production.
FROM python:3.13-slim-bookworm as base
ENV DJANGO_SETTINGS_MODULE site.settings.base
RUN apt-get update \
    # For the database driver.
    && apt-get install -y --no-install-recommends libpq5 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /code
COPY requirements/base.txt requirements/
RUN pip install -r requirements/base.txt

FROM base as dev
COPY requirements/dev.txt requirements/
RUN pip install -r requirements/dev.txt
VOLUME /code
CMD python manage.py runserver 0.0.0.0:8000

FROM base as production
COPY . .
RUN python manage.py collectstatic --noinput
CMD ["gunicorn", "site.wsgi"]
