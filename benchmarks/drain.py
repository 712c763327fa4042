"""
How fast a backlog is drained, beside `pg_recvlogical` and psycopg2 in the same run.

    python -m benchmarks.drain [--rows N] [--runs N] [--json]

A backlog of N rows of 8 columns, in transactions of 1, of 100 and of all rows, is read
by each contender in turn, each in a process of its own, from a copy of the same slot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from example_project.postgres import Postgres

from .project import PUBLICATION, TABLE, configure, create

READS = {
    "type": "ours: event.type",
    "new_record": "ours: event.new_record",
    "instance": "ours: event.instance",
}
PEERS = {"pg_recvlogical": "pg_recvlogical", "psycopg2": "psycopg2 consume_stream"}
CONTENDERS = {**PEERS, **READS}


class Run(NamedTuple):
    """Seconds on the clock and on the processor; MB at the peak and before."""

    seconds: float
    cpu: float
    peak: float
    idle: float


def main() -> None:
    """Run the benchmark and print its table."""
    arguments = _arguments()
    if arguments.worker:
        _work(**json.loads(arguments.worker))
        return
    results = {}
    with Postgres(settings={"max_wal_size": "8GB"}, bin=arguments.bin) as postgres:
        for size in arguments.transactions:
            results[size] = _measure(postgres, arguments.rows, size, arguments.runs)
            if not arguments.json:
                _print(size, results[size], arguments.rows)
    if arguments.json:
        print(json.dumps(_summary(results, arguments.rows), indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--transactions",
        nargs="+",
        default=["1", "100", "all"],
        help="rows in a transaction, numbers or 'all'",
    )
    parser.add_argument(
        "--bin", type=Path, help="directory of another server's programs"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(
    postgres: Postgres, rows: int, size: str, runs: int
) -> dict[str, list[Run]]:
    measured: dict[str, list[Run]] = {contender: [] for contender in CONTENDERS}
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        _backlog(connection, rows, rows if size == "all" else int(size))
        for _ in range(runs):
            for contender in CONTENDERS:
                connection.execute(
                    "SELECT pg_copy_logical_replication_slot('backlog', 'run')"
                )
                measured[contender].append(_run(postgres, connection, contender, rows))
                connection.execute("SELECT pg_drop_replication_slot('run')")
        connection.execute("SELECT pg_drop_replication_slot('backlog')")
    return measured


def _backlog(connection: psycopg.Connection, rows: int, size: int) -> None:
    create(connection, slot="backlog")
    insert = sql.SQL(
        f"INSERT INTO {TABLE} (name, quantity, price, active, tags, data)"
        " SELECT 'name of ' || i, i, i * 1.25, i % 2 = 0, ARRAY['red', 'blue'],"
        " jsonb_build_object('key', i, 'text', 'some words', 'flag', true)"
        " FROM generate_series(1, {}) AS i"
    )
    statement = insert.format(sql.Literal(size)).as_string(connection)
    connection.execute(
        f"DO $$ BEGIN FOR n IN 1..{rows // size} LOOP {statement}; COMMIT; END LOOP;"
        " END $$"
    )


def _run(
    postgres: Postgres, connection: psycopg.Connection, contender: str, rows: int
) -> Run:
    if contender == "pg_recvlogical":
        (end,) = (
            connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ()
        )
        return _recvlogical(postgres, end)
    worker = json.dumps({"url": postgres.url(), "contender": contender, "rows": rows})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drain", "--worker", worker],
        check=True,
        stdout=subprocess.PIPE,
    )
    return Run(**json.loads(done.stdout))


def _recvlogical(postgres: Postgres, end: str) -> Run:
    command = [
        str(postgres.bin / "pg_recvlogical"),
        "--start",
        "--slot=run",
        f"--dbname={postgres.url()}",
        "--option=proto_version=1",
        f"--option=publication_names={PUBLICATION}",
        "--file=/dev/null",
        "--fsync-interval=0",
        f"--endpos={end}",
        "--no-loop",
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"pg_recvlogical failed with status {status}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, 0)


def _work(*, url: str, contender: str, rows: int) -> None:
    drain = _psycopg2(url, rows) if contender == "psycopg2" else _ours(url, contender)
    idle = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    got = drain()
    run = Run(time.perf_counter() - start, time.process_time() - cpu, _peak(), idle)
    if got != rows:
        raise RuntimeError(f"{contender} got {got} of {rows} rows")
    print(json.dumps(run._asdict()))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _psycopg2(url: str, rows: int) -> Callable[[], int]:
    import psycopg2
    from psycopg2.extras import LogicalReplicationConnection, StopReplication

    def drain() -> int:
        got = 0

        def consume(message: Any) -> None:
            nonlocal got
            kind = message.payload[0]
            if kind == 73:  # I
                got += 1
            elif kind == 67:  # C
                message.cursor.send_feedback(flush_lsn=message.data_start)
                if got == rows:
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
        return got

    return drain


def _ours(url: str, contender: str) -> Callable[[], int]:
    import gc

    configure(url, slot="run")

    from walex_django import Event
    from walex_django.conf import get_config
    from walex_django.listener import Listener
    from walex_django.signals import post_db_insert

    from .models import BenchRow

    got = 0

    def receive(sender: Any, event: Event, **kwargs: Any) -> None:
        nonlocal got
        getattr(event, contender)
        got += 1

    post_db_insert.connect(receive, sender=BenchRow, weak=False)

    def drain() -> int:
        gc.freeze()  # as walex_listen does
        Listener(get_config("default"), drain=True).run()
        return got

    return drain


def _rows(results: dict[str, list[Run]], rows: int) -> Iterator[tuple[str, Any]]:
    peer = statistics.median(run.seconds for run in results["pg_recvlogical"])
    for contender, runs in results.items():
        seconds = statistics.median(run.seconds for run in runs)
        yield (
            contender,
            {
                "rows_per_second": round(rows / seconds),
                "ratio": round(peer / seconds, 2),
                "cpu_us_per_row": round(
                    statistics.median(run.cpu for run in runs) / rows * 1e6, 2
                ),
                "peak_mb": round(max(run.peak for run in runs), 1),
                "grown_mb": round(max(run.peak - run.idle for run in runs), 1),
            },
        )


def _summary(results: dict[str, dict[str, list[Run]]], rows: int) -> dict[str, Any]:
    return {size: dict(_rows(runs, rows)) for size, runs in results.items()}


def _print(size: str, results: dict[str, list[Run]], rows: int) -> None:
    print(
        f"\n{rows} rows in transactions of {size}, median of {len(results['type'])}\n"
    )
    print(f"| {'reader':26} | rows/s | ratio | CPU µs/row | peak MB | grown MB |")
    print(f"|{'-' * 28}|-------:|------:|-----------:|--------:|---------:|")
    for contender, row in _rows(results, rows):
        print(
            f"| {CONTENDERS[contender]:26} | {row['rows_per_second']:6} |"
            f" {row['ratio']:5.2f} | {row['cpu_us_per_row']:10.2f} |"
            f" {row['peak_mb']:7.1f} | {row['grown_mb']:8.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
