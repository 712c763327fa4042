"""
Measure how fast a backlog is drained, compared with `pg_recvlogical` and psycopg2.

    python -m benchmarks.drain [--rows N] [--runs N] [--handlers | --tables N] [--json]

Each contender in turn reads the same backlog, in its own process and from a copy of the
same slot. The backlog has N rows of 8 columns, in transactions of 1, of 100 and of all
rows. With --handlers, the contenders are a receiver, handlers and a filter. With
--tables N, the rows are distributed over N tables, and the contenders subscribe to all
of them or to one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from example_project.postgres import Postgres

from .contenders import CONTENDERS, Run
from .project import PUBLICATION, TABLE, create

READS = ["pg_recvlogical", "psycopg2", "type", "new_record", "instance"]
HANDLERS = ["pg_recvlogical", "type", "handler", "handlers10", "handlers100", "filter"]
SUBSCRIBED = ["pg_recvlogical", "type", "one_table"]


def main() -> None:
    """Run the benchmark and print its table."""
    arguments = _arguments()
    contenders = HANDLERS if arguments.handlers else READS
    if arguments.tables > 1:
        contenders = SUBSCRIBED
    results = {}
    with Postgres(
        settings={"max_wal_size": "8GB", "max_locks_per_transaction": "2000"},
        bin=arguments.bin,
    ) as postgres:
        for size in arguments.transactions:
            backlog = (arguments.rows, size, arguments.tables)
            results[size] = _measure(postgres, contenders, arguments.runs, *backlog)
            if not arguments.json:
                _print(size, results[size], arguments.rows)
    if arguments.json:
        print(json.dumps(_summary(results, arguments.rows), indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument(
        "--rows",
        type=int,
        default=200_000,
        help="rows of the backlog (default: %(default)s)",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=5,
        help="runs per contender (default: %(default)s)",
    )
    parser.add_argument(
        "--transactions",
        nargs="+",
        default=["1", "100", "all"],
        help="rows per transaction: numbers or 'all' (default: 1 100 all)",
    )
    parser.add_argument(
        "--bin", type=Path, help="directory of the PostgreSQL programs to use"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--handlers",
        action="store_true",
        help="compare a receiver, handlers and a filter",
    )
    parser.add_argument(
        "--tables",
        type=int,
        default=1,
        help="tables of the backlog (default: %(default)s)",
    )
    return parser.parse_args()


def _measure(
    postgres: Postgres,
    contenders: Sequence[str],
    runs: int,
    rows: int,
    size: str,
    tables: int,
) -> dict[str, list[Run]]:
    measured: dict[str, list[Run]] = {contender: [] for contender in contenders}
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        _backlog(connection, rows, rows if size == "all" else int(size), tables)
        for _ in range(runs):
            for contender in contenders:
                connection.execute(
                    "SELECT pg_copy_logical_replication_slot('backlog', 'run')"
                )
                measured[contender].append(_run(postgres, connection, contender))
                connection.execute("SELECT pg_drop_replication_slot('run')")
        connection.execute("SELECT pg_drop_replication_slot('backlog')")
    return measured


def _backlog(connection: psycopg.Connection, rows: int, size: int, tables: int) -> None:
    """Write the rows, one transaction to each table in turn."""
    create(connection, slot="backlog", tables=tables)
    connection.execute(
        f"""
        DO $$ BEGIN FOR n IN 0..{rows // size - 1} LOOP
            EXECUTE 'INSERT INTO {TABLE}' || CASE n % {tables} WHEN 0 THEN ''
                ELSE '_' || n % {tables} END
                || ' (name, quantity, price, active, tags, data)
                SELECT ''name of '' || i, i, i * 1.25, ($1 + i) % 100 = 0,
                ARRAY[''red'', ''blue''], jsonb_build_object(''key'', i,
                ''text'', ''some words'', ''flag'', true)
                FROM generate_series(1, {size}) AS i' USING n * {size};
            COMMIT;
        END LOOP; END $$
        """
    )


def _run(postgres: Postgres, connection: psycopg.Connection, contender: str) -> Run:
    if contender == "pg_recvlogical":
        (end,) = (
            connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ()
        )
        return _recvlogical(postgres, end)
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.contenders", postgres.url(), contender],
        check=True,
        stdout=subprocess.PIPE,
    )
    return Run(**json.loads(process.stdout))


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
    (runs, *_) = map(len, results.values())
    print(f"\n{rows} rows in transactions of {size}, median of {runs}\n")
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
