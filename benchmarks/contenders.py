"""
The readers of the backlog of `benchmarks.drain`, each of which runs in its own process.

    python -m benchmarks.contenders URL CONTENDER
"""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .project import PUBLICATION, TABLE, configure

CONTENDERS = {
    "pg_recvlogical": "pg_recvlogical",
    "psycopg2": "psycopg2 consume_stream",
    "type": "ours: event.type",
    "new_record": "ours: event.new_record",
    "instance": "ours: event.instance",
    "handler": "ours: 1 handler",
    "handlers10": "ours: 10 handlers",
    "handlers100": "ours: 100 handlers",
    "filter": "ours: 99 % filtered out",
    "one_table": "ours: one of the tables",
}


class Run(NamedTuple):
    """
    The resources that a contender used.

    Attributes:
        seconds: The elapsed time.
        cpu: The CPU time in seconds.
        peak: The peak memory in MB.
        idle: The memory in MB before it starts to read.
    """

    seconds: float
    cpu: float
    peak: float
    idle: float


def main() -> None:
    """Drain the slot ``run`` and print the resources used."""
    url, contender = sys.argv[1:]
    drain = _psycopg2(url) if contender == "psycopg2" else _ours(url, contender)
    idle = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    drain()
    run = Run(time.perf_counter() - start, time.process_time() - cpu, _peak(), idle)
    print(json.dumps(run._asdict()))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _psycopg2(url: str) -> Callable[[], None]:
    import psycopg2
    from psycopg2.extras import LogicalReplicationConnection, StopReplication

    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {TABLE}")
        (rows,) = cursor.fetchone()
    connection.close()

    def drain() -> None:
        received = 0

        def consume(message: Any) -> None:
            nonlocal received
            kind = message.payload[0]
            if kind == 73:  # I
                received += 1
            elif kind == 67:  # C
                message.cursor.send_feedback(flush_lsn=message.data_start)
                if received == rows:
                    raise StopReplication

        connection = psycopg2.connect(
            url, connection_factory=LogicalReplicationConnection
        )
        cursor = connection.cursor()
        cursor.start_replication(
            slot_name="run",
            options={"proto_version": "1", "publication_names": PUBLICATION},
        )
        with contextlib.suppress(StopReplication):
            cursor.consume_stream(consume)
        connection.close()

    return drain


def _ours(url: str, contender: str) -> Callable[[], None]:
    options: dict[str, Any] = {}
    if contender == "filter":
        unwatched = {"unwatched_records": {"active": False}}
        options["FILTERS"] = {"benchmarks.BenchRow": unwatched}
    if contender == "one_table":
        options["SUBSCRIPTIONS"] = ["benchmarks.BenchRow"]
    configure(url, slot="run", **options)

    from walex_django import Event, on_insert
    from walex_django.conf.configs import get_config
    from walex_django.listening.listener import Listener
    from walex_django.signals import post_db_insert

    from .models import BenchRow

    received = 0

    def receive(sender: Any, event: Event, **kwargs: Any) -> None:
        nonlocal received
        getattr(event, attribute)
        received += 1

    def handle(events: list[Event]) -> None:
        nonlocal received
        for event in events:
            event.type  # noqa: B018
            received += 1

    if contender.startswith("handler"):
        for number in range(int(contender.removeprefix("handler").strip("s") or 1)):
            handler = lambda events: handle(events)  # noqa: E731, PLW0108
            handler.__qualname__ = f"handler_{number}"
            on_insert(BenchRow)(handler)
    else:
        attribute = contender if contender in {"new_record", "instance"} else "type"
        post_db_insert.connect(receive, sender=BenchRow, weak=False)

    def drain() -> None:
        gc.freeze()  # as walex_listen does
        Listener(get_config("default"), drain=True).run()
        if not received:
            raise RuntimeError(f"{contender} received no events")

    return drain


if __name__ == "__main__":
    main()
