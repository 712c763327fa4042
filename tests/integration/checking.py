"""Run the database checks and follow their hints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from io import StringIO
from typing import Any, NamedTuple

import psycopg
from django.core.management import call_command

from example_project.postgres import Postgres
from tests.process import Process
from walex_django.conf.configs import get_config
from walex_django.diagnosis.problems import diagnose


class Problem(NamedTuple):
    """A problem that a check reports."""

    id: str
    message: str
    hint: str


def diagnosed(stream: str = "default") -> dict[str, Problem]:
    """Return the problems of a stream, diagnosed in this process, by id."""
    return _by_id(Problem(*problem) for problem in diagnose(get_config(stream)))


def checked(env: dict[str, str], *options: str) -> dict[str, Problem]:
    """Return the problems that ``manage.py check --database default`` prints, by id."""
    found = []
    options = ("check", "--database", "default", *options)
    with Process(*options, env={**env, "ZOO_NO_SECOND": "1"}) as process:
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output
        for line, after in zip(process.lines, [*process.lines[1:], ""], strict=True):
            if match := re.match(
                r"WALEX\['default'\]: \(walex_django.(\w+)\) (.*)", line
            ):
                assert after.startswith("\tHINT: "), after
                found.append(
                    Problem(match[1], match[2], after.removeprefix("\tHINT: "))
                )
    return _by_id(found)


def _by_id(found: Iterable[Problem]) -> dict[str, Problem]:
    every = list(found)
    by_id = {each.id: each for each in every}
    assert len(by_id) == len(every), every
    assert all(each.message.endswith(".") for each in every)
    assert all(each.hint for each in every)
    return by_id


def command_of(hint: str) -> list[str]:
    """Return the command that a hint names, with its options."""
    (command,) = re.findall(r"python manage\.py ([^;]+)", hint)
    return str(command).split()


def run_command_of(hint: str, *options: str) -> str:
    """Run the command that a hint names; return its output."""
    output = StringIO()
    call_command(*command_of(hint), *options, stdout=output, stderr=output)
    return output.getvalue()


def sql_of(hint: str) -> list[str]:
    """Return the SQL statements that a hint names."""
    found = re.findall(r"(?:ALTER|SELECT pg_reload_conf).*?;", hint)
    assert found, hint
    return found


def run_sql_of(hint: str, server: Postgres) -> None:
    """Run the SQL that a hint names, and restart the server if it says so."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for statement in sql_of(hint):
            connection.execute(statement.encode())
            for name in re.findall(r"ALTER SYSTEM SET (\w+)", statement):
                # Settings given when the server starts take precedence.
                server.settings.pop(name, None)
    if "restart PostgreSQL" in hint:
        server.stop("fast")
        server.start()


def write_settings_of(hint: str, settings: Any) -> None:
    """Add the settings that a hint names to the first stream."""
    (written,) = re.findall(r'"REPLICA_IDENTITY": (\{.*?\})', hint)
    assert "WALEX['default']" in hint
    change_stream(settings, REPLICA_IDENTITY=json.loads(written))


def change_stream(settings: Any, **options: Any) -> None:
    """Change settings of the first stream."""
    stream = {**settings.WALEX["default"], **options}
    settings.WALEX = {**settings.WALEX, "default": stream}
