"""
Settings of the example shop, read from the environment.

`DATABASE_URL`, `SECRET_KEY`, `DEBUG` and `ALLOWED_HOSTS` can also be set in a file
``.env`` next to ``manage.py``.
"""

from __future__ import annotations

from pathlib import Path

import environ

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env(
    DEBUG=(bool, False),
    ALLOWED_HOSTS=(list, ["localhost", "127.0.0.1"]),
    # The demo and docker-compose.yml set another key.
    SECRET_KEY=(str, "example-only-not-for-production"),
    SHOP_PRINT_EVENTS=(bool, False),
    SHOP_COLOR=(bool, False),
)
environ.Env.read_env(BASE_DIR / ".env")

DEBUG = env("DEBUG")
SECRET_KEY = env("SECRET_KEY")
ALLOWED_HOSTS = env("ALLOWED_HOSTS")

DATABASES = {
    "default": env.db(
        "DATABASE_URL", default="postgres://postgres:postgres@localhost:5432/shop"
    )
}

WALEX = {
    "default": {
        "PUBLICATION": "shop_events",
        "SLOT_NAME": "shop_walex",
        "DURABLE_SLOT": True,
        "SUBSCRIPTIONS": [
            "shop.Customer",
            "shop.Product",
            "shop.Order",
            "shop.OrderItem",
        ],
    },
}
if walex_url := env("WALEX_URL", default=None):
    # If DATABASE_URL points to a pooler, replication needs the server's own address.
    WALEX["default"]["URL"] = walex_url

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "walex_django",
    "example_project.shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
# The listener invalidates what the web server caches, so the processes must share it.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "shop_cache",
    }
}
ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
# For the demo: print events, and in color even though the output is a pipe.
SHOP_PRINT_EVENTS = env("SHOP_PRINT_EVENTS")
SHOP_COLOR = env("SHOP_COLOR")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"walex_django": {"handlers": ["console"], "level": "INFO"}},
}
