"""Settings of the test suite and of the processes that it starts."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import environ

# The suite sets its server later (see conftest); child processes get it like this.
_URL = os.environ.get("ZOO_DATABASE_URL", "postgres://nobody@127.0.0.1:1/unset")

SECRET_KEY = "not secret"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = os.environ.get("ZOO_USE_TZ") != "no"
TIME_ZONE = "Europe/Berlin"
DATABASES = {
    "default": environ.Env.db_url_config(_URL),
    "second": environ.Env.db_url_config(os.environ.get("ZOO_SECOND_URL", _URL)),
}
DATABASES["second"].setdefault("TEST", {})["NAME"] = "test_second"
DATABASE_ROUTERS = ["tests.zoo.router.OneDatabase"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "walex_django",
    "tests.zoo",
    "tests.exact",
]
if "ZOO_TASKS" in os.environ:
    # Django has tasks since 6.0.
    backport = [] if find_spec("django.tasks") else ["django_tasks"]
    INSTALLED_APPS += [*backport, "django_tasks_db"]
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "tests.urls.strict_csp",
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# More settings of a child process's first stream, as JSON.
_STREAM = json.loads(os.environ.get("ZOO_STREAM", "{}"))
ZOO_MASCOT_MODEL = "zoo.Mascot"
WALEX = {
    "default": {
        "PUBLICATION": "zoo_events",
        "SLOT_NAME": "zoo_walex",
        "DURABLE_SLOT": True,
        "SUBSCRIPTIONS": ["zoo.*", "legacy.*"],
        **_STREAM,
    },
    "second": {
        "DATABASE": "second",
        "PUBLICATION": "zoo_events",
        "SLOT_NAME": "second_walex",
        "DURABLE_SLOT": True,
        "SUBSCRIPTIONS": ["zoo.Keeper"],
    },
}
if "ZOO_NO_SECOND" in os.environ:
    del WALEX["second"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"walex_django": {"handlers": ["console"], "level": "INFO"}},
}
