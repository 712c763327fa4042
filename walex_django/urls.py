"""URL patterns, for ``include("walex_django.urls")``."""

from __future__ import annotations

from django.urls import path

from .monitoring import views

app_name = "walex_django"

urlpatterns = [
    path("health/", views.health, name="health"),
    path("metrics/", views.metrics, name="metrics"),
]
