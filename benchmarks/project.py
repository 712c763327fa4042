"""The database objects and the Django settings of the benchmarks."""

from __future__ import annotations

from typing import Any

import django
import environ
import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connection

PUBLICATION = "bench"
TABLE = "bench_row"


def create(session: psycopg.Connection, *, slot: str, tables: int = 1) -> None:
    """Recreate the tables and their publication, and create a slot."""
    session.execute(f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
    names = [TABLE, *(f"{TABLE}_{number}" for number in range(1, tables))]
    for name in names:
        session.execute(f"DROP TABLE IF EXISTS {name}")
        session.execute(
            f"CREATE TABLE {name} (id bigserial PRIMARY KEY, name text, quantity int,"
            " price numeric(10, 2), active bool, created timestamptz DEFAULT now(),"
            " tags text[], data jsonb)"
        )
    session.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {', '.join(names)}")
    session.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])


def configure(url: str, *, slot: str, **options: Any) -> None:
    """
    Configure Django in this process, with one stream.

    Args:
        url: The database's URL.
        slot: The name of the stream's slot.
        options: Further settings of the stream.
    """
    settings.configure(
        DATABASES={"default": environ.Env.db_url_config(url)},
        INSTALLED_APPS=["django.contrib.postgres", "walex_django", "benchmarks"],
        USE_TZ=True,
        WALEX={
            "default": {
                "PUBLICATION": PUBLICATION,
                "SLOT_NAME": slot,
                "DURABLE_SLOT": True,
                **options,
            }
        },
    )
    django.setup()
    call_command("migrate", "walex_django", verbosity=0)

    from walex_django.models import Checkpoint

    Checkpoint.objects.all().delete()
    connection.close()
