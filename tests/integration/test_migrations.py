"""The migrations of walex_django's own tables."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from example_project.postgres import Postgres

from .stream import Stream
from .test_mistakes import at, fails

pytestmark = pytest.mark.django_db(transaction=True)


def test_migrations_match_models() -> None:
    call_command("makemigrations", "walex_django", check=True, dry_run=True)


def test_commands_report_missing_tables(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    stream = Stream(at(own_server, environment))
    stream.run("migrate", "zoo", "--verbosity=0")
    stream.execute("CREATE PUBLICATION zoo_events FOR ALL TABLES")
    stream.create_slot()

    for command in ("walex_setup", "walex_listen"):
        line = fails(command, stream.env)
        assert line.endswith(
            "Run: python manage.py migrate walex_django --database default"
        )
        assert 'relation "walex_django_checkpoint" does not exist' in line
        # PostgreSQL quotes the statement, which doesn't help the user.
        assert "LINE 1" not in line
