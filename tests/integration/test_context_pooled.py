"""Context with PgBouncer's transaction pooling, where clients share sessions."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from example_project.guard import end, guarded
from tests.listening import TIMEOUT, Listening
from tests.process import eventually
from tests.programs import pgbouncer
from tests.zoo.models import Keeper
from walex_django.context import context

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "second"]),
    pytest.mark.services("pgbouncer"),
]

CLIENTS = 4
SESSIONS = 2


@pytest.fixture
def pooled(transactional_db: None) -> Iterator[str]:
    """
    Alias of the first database, through a pool with fewer sessions than clients.

    It is the second database's alias, for threads that start from now on.
    """
    server = connections["default"].settings_dict
    second = connections.settings["second"]
    with TemporaryDirectory(prefix="walex-pgbouncer-") as home:
        port = free_port()
        pooler = start_pgbouncer(Path(home), port, server)
        connections.settings["second"] = {
            **server,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "DISABLE_SERVER_SIDE_CURSORS": True,
        }
        try:
            eventually(lambda: responds(port, pooler), "a response from pgbouncer")
            yield "second"
        finally:
            connections.settings["second"] = second
            end(pooler)


def test_clients_sharing_sessions_keep_their_own_context(
    pooled: str, listening: Listening
) -> None:
    together = Barrier(CLIENTS)
    keepers = Keeper.objects.using(pooled)

    def work(number: int) -> None:
        try:
            for _ in range(5):
                together.wait(TIMEOUT)
                with context(client=number):
                    keepers.create(name=str(number))
                    with transaction.atomic(using=pooled):
                        keepers.create(name=str(number))
                        keepers.create(name=str(number))
                keepers.create(name="nobody")
        finally:
            connections[pooled].close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))

    for event in listening.wait_for(CLIENTS * 5 * 4):
        assert event.new_record is not None
        name = event.new_record["name"]
        assert event.context == (None if name == "nobody" else {"client": int(name)})


def start_pgbouncer(
    home: Path, port: int, server: dict[str, Any], *lines: str
) -> subprocess.Popen[str]:
    program = pgbouncer()
    assert program
    configuration = home / "pgbouncer.ini"
    configuration.write_text(
        "[databases]\n"
        f"* = host={server['HOST']} port={server['PORT']} user={server['USER']}"
        f" password='{server['PASSWORD']}'\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {SESSIONS}\n"
        + "".join(f"{line}\n" for line in lines)
    )
    options: dict[str, Any] = {}
    if os.geteuid() == 0:  # PgBouncer refuses to run as root
        nobody = pwd.getpwnam("nobody")
        options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        os.chown(configuration, nobody.pw_uid, nobody.pw_gid)
    return guarded([str(program), "--quiet", str(configuration)], **options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def responds(port: int, pooler: subprocess.Popen[str]) -> bool:
    assert pooler.poll() is None, "pgbouncer has exited"
    try:
        psycopg.connect(
            host="127.0.0.1", port=port, user="zoo", dbname="postgres"
        ).close()
    except psycopg.OperationalError:
        return False
    return True
