"""Settings of the test suite; the server's address comes from `conftest`."""

from __future__ import annotations

import os

import environ

SECRET_KEY = "tests"  # noqa: S105
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
DATABASES = {
    "default": environ.Env.db_url_config(
        os.environ.get(
            "WALEX_TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres"
        )
    ),
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.postgres",
    "walex_django",
    "tests.zoo",
]
WALEX = {"default": {"PUBLICATION": "zoo_events", "SUBSCRIPTIONS": ["zoo.*"]}}
