from __future__ import annotations

from django.contrib import admin
from django.urls import path

from example_project.shop import views

urlpatterns = [
    path("", views.storefront, name="storefront"),
    path("healthz", views.health, name="health"),
    path("admin/", admin.site.urls),
]
