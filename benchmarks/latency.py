"""
Measure the time from COMMIT to the receiver, compared with LISTEN/NOTIFY.

    python -m benchmarks.latency [--changes N] [--pause SECONDS] [--json]

One session alternates between committing an INSERT and a NOTIFY. A listener of
walex_django and a psycopg session that uses LISTEN, each in its own process, record the
times at which they receive it. Each time starts immediately before COMMIT is sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import psycopg

from example_project.postgres import Postgres

from .project import TABLE, configure, create

CONTENDERS = {"notify": "LISTEN/NOTIFY", "ours": "ours: post_db_insert"}
READY = "ready"


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument(
        "--changes",
        type=int,
        default=2000,
        help="number of changes per contender (default: %(default)s)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=0.002,
        metavar="SECONDS",
        help="pause after each change (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _run_worker(**json.loads(arguments.worker))
        return
    with Postgres() as postgres:
        latencies = _measure(postgres.url(), arguments.changes, arguments.pause)
    results = {name: _percentiles(values) for name, values in latencies.items()}
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"\n{arguments.changes} changes each, µs since COMMIT\n")
    print(f"| {'method':22} |  p50 |  p99 | p50 ratio |")
    print(f"|{'-' * 24}|-----:|-----:|----------:|")
    for name, row in results.items():
        ratio = row["p50_us"] / results["notify"]["p50_us"]
        print(
            f"| {CONTENDERS[name]:22} | {row['p50_us']:4} | {row['p99_us']:4} |"
            f" {ratio:9.2f} |"
        )


def _measure(url: str, changes: int, pause: float) -> dict[str, list[float]]:
    with psycopg.connect(url, autocommit=True) as connection:
        create(connection, slot="latency")
        workers = {name: _start(name, url, changes) for name in CONTENDERS}
        sent: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        statements = {
            "ours": f"INSERT INTO {TABLE} (name, quantity, price, active, tags, data)"
            " VALUES ('a', 1, 1, true, '{}', '{}')",
            "notify": "NOTIFY bench",
        }
        for _ in range(changes):
            for name, statement in statements.items():
                connection.execute("BEGIN")
                connection.execute(statement)
                sent[name].append(time.perf_counter())
                connection.execute("COMMIT")
                time.sleep(pause)
    received = {
        name: json.loads(worker.communicate()[0]) for name, worker in workers.items()
    }
    return {
        name: [
            end - start for start, end in zip(sent[name], received[name], strict=True)
        ]
        for name in CONTENDERS
    }


def _start(contender: str, url: str, changes: int) -> subprocess.Popen[str]:
    worker = json.dumps({"contender": contender, "url": url, "changes": changes})
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.latency", "--worker", worker],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    if process.stdout.readline().strip() != READY:
        raise RuntimeError(f"{contender} did not start")
    return process


def _percentiles(seconds: list[float]) -> dict[str, int]:
    centiles = statistics.quantiles(seconds, n=100)
    return {
        "p50_us": round(centiles[49] * 1e6),
        "p99_us": round(centiles[98] * 1e6),
    }


def _run_worker(*, contender: str, url: str, changes: int) -> None:
    receive_times = _notify_times if contender == "notify" else _signal_times
    print(json.dumps(receive_times(url, changes)))


def _notify_times(url: str, changes: int) -> list[float]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN bench")
        print(READY, flush=True)
        notifies = connection.notifies(stop_after=changes)
        # The kernel's clock, which all processes share.
        return [time.perf_counter() for _ in notifies]


def _signal_times(url: str, changes: int) -> list[float]:
    configure(url, slot="latency")

    from walex_django.conf.configs import get_config
    from walex_django.listening.listener import Listener
    from walex_django.signals import post_db_insert

    from .models import BenchRow

    times: list[float] = []

    def receive(sender: Any, **kwargs: Any) -> None:
        times.append(time.perf_counter())
        if len(times) == changes:
            listener.stop()

    post_db_insert.connect(receive, sender=BenchRow)
    listener = Listener(
        get_config("default"), started=lambda _: print(READY, flush=True)
    )
    listener.run()
    return times


if __name__ == "__main__":
    main()
