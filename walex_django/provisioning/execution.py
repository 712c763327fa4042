"""Execution of the steps of a plan, without making the application wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from walex_django import log
from walex_django.conf.stream import StreamConfig
from walex_django.replication import locks, server, transactions
from walex_django.replication.connection import BoundedConnection, NoAnswer, connect
from walex_django.replication.errors import LockTimeout
from walex_django.replication.locks import Blocker, Watch
from walex_django.replication.publications import TableName

from .plan import Step

logger = log.logger(__name__)


def execute(
    config: StreamConfig,
    connection: BoundedConnection,
    step: Step,
    *,
    timeout: float = math.inf,
    report: Callable[[str], object] = logger.info,
) -> None:
    """
    Run one step of a plan.

    Args:
        config: The stream's configuration.
        connection: A connection to its database.
        step: The step.
        timeout: The seconds that the creation of a slot may wait for running
            transactions.
        report: A callable that is called with the reason for a wait.

    Raises:
        LockTimeout: If another session holds a lock that the step needs, or if its
            transaction lasts longer than ``timeout``.
        psycopg.Error: If the server rejects the statement.
    """
    parameters = config.connection_parameters()
    if step.replication:
        with connect(parameters, replication=True) as sender:
            sender.execute(step.statement)
    elif step.makes_slot:
        server.require_free_slot(server.read(connection))
        _create_slot(config, connection, step, timeout=timeout, report=report)
    else:
        locks.execute(connection, step.statement, parameters=parameters, what=step.what)


def await_writers(
    connection: BoundedConnection,
    tables: Collection[TableName],
    *,
    timeout: float = math.inf,
    report: Callable[[str], object] = logger.info,
) -> None:
    """
    Wait for the transactions that wrote to tables before these were published.

    The stream gets only what such a transaction writes afterwards. Once this returns,
    every transaction that commits is delivered as a whole.

    Args:
        connection: A connection to the database of the tables.
        tables: The tables that have just been published.
        timeout: The maximum time to wait, in seconds.
        report: A callable that is called with the reason for a wait.

    Raises:
        LockTimeout: A transaction took too long, or the wait was interrupted.
    """
    ids = transactions.writers(connection, tables)
    found: list[Blocker] = []

    def find() -> list[Blocker]:
        found[:] = transactions.still_running(connection, ids) if ids else []
        return found

    def on_change(blockers: list[Blocker]) -> None:
        for blocker in blockers:
            report(f"waiting for {blocker}, which may have written before the addition")

    try:
        left = transactions.wait(find, timeout=timeout, on_change=on_change)
    except KeyboardInterrupt:
        left = found
    if left:
        raise LockTimeout(
            f"The changes that {'; '.join(map(str, left))} made to"
            f" {', '.join(map(str, tables))} before these tables were published are not"
            " delivered.",
            hint="The publication is complete: later changes are delivered.",
        )


def _create_slot(
    config: StreamConfig,
    connection: BoundedConnection,
    step: Step,
    *,
    timeout: float,
    report: Callable[[str], object],
) -> None:
    def on_change(blockers: list[Blocker]) -> None:
        for blocker in blockers:
            report(f"waiting for {blocker} to {step.what}")

    parameters = config.connection_parameters()
    pid = connection.info.backend_pid
    with Watch(parameters, pid, on_change) as watch:
        try:
            with connection.long_wait(seconds=timeout, on_wait=watch):
                connection.execute(step.statement)
        except NoAnswer as error:
            raise wait_timeout(step.what, watch.blockers, timeout) from error


def wait_timeout(what: str, blockers: list[Blocker], timeout: float) -> LockTimeout:
    """
    Return the error for a wait that has lasted too long.

    Args:
        what: A description of what waited.
        blockers: The transactions that it waited for.
        timeout: The seconds after which it gave up.
    """
    names = "; ".join(map(str, blockers)) or "running transactions"
    remedies = " ".join(blocker.remedy for blocker in blockers)
    end = f", or end it: {remedies}" if remedies else ""
    return LockTimeout(
        f"Could not {what} within {timeout:g} s: it has to wait for {names}.",
        hint=f"Run this again once the transaction has ended{end}",
    )
