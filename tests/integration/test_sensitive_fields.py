"""Receivers get the values of sensitive fields; logs and errors do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.transaction import on_commit

from tests.listening import Connect, Listening
from tests.process import eventually
from tests.zoo.models import Keeper
from walex_django import Event, on_insert
from walex_django.conf.configs import get_config
from walex_django.conf.stream import StreamConfig
from walex_django.delivery.dispatch import ReceiverFailed
from walex_django.events.masking import MASK
from walex_django.filters import Filter
from walex_django.management.streams import format_error
from walex_django.models import ListenerState, ParkedEvent
from walex_django.signals import post_db_insert, post_db_transaction, post_db_update

from .handling import wait_until_done
from .mascots import Sql

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("own_handlers"),
]

SECRET = "ada@example.org"


def sensitive(config: StreamConfig, entry: str = "zoo.Keeper") -> StreamConfig:
    """Return a stream whose keepers' names are sensitive, with one retry."""
    filters = {entry: Filter(sensitive_fields=("name",))}
    return replace(config, filters=filters, max_retries=1, retry_backoff=0.001)


class Failing:
    """Receivers of all kinds that raise an error naming a keeper."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def hear(self, event: Event, **kwargs: Any) -> None:
        if event.name != "zoo_keeper":
            return
        assert event.new_record is not None
        self.names.append(event.new_record["name"])
        raise ValueError(f"no mail to {self.names[-1]}")

    def hear_all(self, events: Sequence[Event], **kwargs: Any) -> None:
        self.hear(events[0])


def signal(failing: Failing, connect: Connect) -> None:
    connect(post_db_insert, failing.hear)


def transaction(failing: Failing, connect: Connect) -> None:
    connect(post_db_transaction, failing.hear_all)


def handler(failing: Failing, connect: Connect) -> None:
    @on_insert("zoo.Keeper")
    def handle(events: Sequence[Event]) -> None:
        failing.hear_all(events)


def function(failing: Failing, connect: Connect) -> None:
    @on_insert("zoo.Keeper", functions=[failing.hear])
    def handle(events: Sequence[Event]) -> None:
        pass


KINDS = [signal, transaction, handler, function]


@pytest.mark.parametrize("kind", KINDS)
def test_logged_failure_masks_the_values(
    kind: Callable[[Failing, Connect], None],
    config: StreamConfig,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing()
    kind(failing, connect)
    with caplog.at_level(logging.DEBUG), Listening(sensitive(config)) as listening:
        Keeper.objects.create(name=SECRET)
        wait_until_done(listening)

    assert failing.names == [SECRET] * 2
    assert SECRET not in caplog.text
    assert SECRET not in repr([record.__dict__ for record in caplog.records])
    records = [r for r in caplog.records if r.name == "walex_django.delivery.dispatch"]
    assert [record.levelname for record in records] == ["WARNING", "ERROR"]
    assert records[0].getMessage().endswith(f"ValueError: no mail to {MASK}")
    assert records[1].getMessage().endswith(f"ValueError: no mail to {MASK}")
    assert "in hear\n" in records[1].getMessage()
    assert records[1].exc_info is None
    # The parked event contains the values, because it may be replayed.
    parked = ParkedEvent.objects.get()
    assert SECRET in parked.arguments_json
    assert SECRET in parked.error


def test_reason_of_a_broken_transaction_masks_the_values(
    atomic: StreamConfig, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(event: Event, **kwargs: Any) -> None:
        assert event.new_record is not None
        connection.close()
        raise ValueError(f"no mail to {event.new_record['name']}")

    connect(post_db_insert, leave)
    with Listening(sensitive(atomic)) as listening:
        Keeper.objects.create(name=SECRET)
        eventually(lambda: listening.report.state == ListenerState.RETRYING)
        reason = listening.report.reason
        eventually(ParkedEvent.objects.exists)

    assert f"ValueError: no mail to {MASK}" in reason
    assert SECRET not in caplog.text


def test_logged_failure_of_an_on_commit_callback_omits_the_values(
    atomic: StreamConfig, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def announce(event: Event, **kwargs: Any) -> None:
        def fail() -> None:
            raise ValueError(event.instance.name)  # type: ignore[union-attr]

        on_commit(fail)

    connect(post_db_insert, announce, Keeper)
    with Listening(sensitive(atomic)) as listening:
        Keeper.objects.create(name=SECRET)
        listening.wait_for(1)
        eventually(lambda: "on_commit() callback failed" in caplog.text)
    assert SECRET not in caplog.text
    assert "in announce" not in caplog.text
    assert "in fail" in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("entry", ["zoo.*", "public.zoo_keeper", "public.*", "*"])
def test_entries_of_all_kinds_mask_the_values(
    entry: str,
    config: StreamConfig,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing()
    connect(post_db_insert, failing.hear)
    with Listening(sensitive(config, entry)) as listening:
        Keeper.objects.create(name=SECRET)
        wait_until_done(listening)
    assert "failed 2 times" in caplog.text
    assert SECRET not in caplog.text


def test_values_of_other_tables_are_not_masked(
    config: StreamConfig, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect(post_db_insert, Failing().hear)
    with Listening(sensitive(config, "zoo.Mascot")) as listening:
        Keeper.objects.create(name=SECRET)
        wait_until_done(listening)
    assert f"ValueError: no mail to {SECRET}" in caplog.text
    assert caplog.records[-1].exc_info


def test_old_values_are_masked(
    config: StreamConfig, connect: Connect, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event, **kwargs: Any) -> None:
        raise ValueError(f"{event.changes}")

    connect(post_db_update, fail)
    sql.execute("ALTER TABLE zoo_keeper REPLICA IDENTITY FULL")
    try:
        with Listening(sensitive(config)) as listening:
            Keeper.objects.create(name=SECRET)
            Keeper.objects.update(name="bob@example.org")
            wait_until_done(listening)
    finally:
        sql.execute("ALTER TABLE zoo_keeper REPLICA IDENTITY DEFAULT")
    assert f"Change(old_value='{MASK}', new_value='{MASK}')" in caplog.text
    assert "@example" not in caplog.text


def test_error_of_a_stopped_stream_masks_the_values(
    config: StreamConfig, connect: Connect
) -> None:
    connect(post_db_insert, Failing().hear)
    with Listening(replace(sensitive(config), on_error="stop")) as listening:
        Keeper.objects.create(name=SECRET)
        error = listening.wait_for_end()
    assert isinstance(error, ReceiverFailed)
    assert f"ValueError: no mail to {MASK}" in format_error(error)
    assert SECRET not in format_error(error)
    assert error.__cause__ is None


def test_logged_failure_of_a_condition_masks_the_values(
    config: StreamConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> bool:
        raise ValueError(f"what of {(event.new_record or {})['name']}")

    filters = {
        "zoo.*": Filter(sensitive_fields=("name",)),
        "zoo.Keeper": Filter(where=fail),
    }
    with Listening(replace(config, filters=filters)) as listening:
        Keeper.objects.create(name=SECRET)
        listening.wait_for(1)
    assert f"ValueError: what of {MASK}" in caplog.text
    assert SECRET not in caplog.text


def test_sensitive_fields_do_not_filter_events(config: StreamConfig) -> None:
    with Listening(sensitive(config)) as listening:
        Keeper.objects.create(name=SECRET)
        (event,) = listening.wait_for(1)
    for chosen in sensitive(config).filters.values():
        assert chosen.for_table(event._table) is None
    assert event._table.sensitive == {"name"}
    assert (event.new_record or {})["name"] == SECRET


class TestReplay:
    """``walex_replay`` masks the values in errors."""

    @pytest.fixture
    def failing(self, config: StreamConfig, connect: Connect, settings: Any) -> Failing:
        """A receiver, with a parked event."""
        failing = Failing()
        connect(post_db_insert, failing.hear)
        with Listening(replace(config, max_retries=0)) as listening:
            Keeper.objects.create(name=SECRET)
            wait_until_done(listening)
        return failing

    def configure(self, settings: Any, **options: Any) -> None:
        walex = settings.WALEX
        settings.WALEX = {**walex, "default": {**walex["default"], **options}}

    @pytest.mark.parametrize("entry", ["zoo.Keeper", "zoo.*", "public.zoo_keeper"])
    def test_sensitive_field_is_masked(
        self, entry: str, failing: Failing, settings: Any
    ) -> None:
        self.configure(settings, FILTERS={entry: {"SENSITIVE_FIELDS": ["name"]}})
        for options in (["--dry-run"], []):
            printed = replay(*options)
            assert f"ValueError: no mail to {MASK}\n" in printed
            assert SECRET not in printed
        assert failing.names == [SECRET] * 2

    def test_field_of_a_renamed_table_is_masked(
        self, failing: Failing, settings: Any, sql: Sql
    ) -> None:
        filters = {"public.staff": {"sensitive_fields": ["name"]}}
        self.configure(settings, FILTERS=filters)
        assert SECRET in replay("--dry-run")
        sql.execute("ALTER TABLE zoo_keeper RENAME TO staff")
        try:
            assert SECRET not in replay("--dry-run")
        finally:
            sql.execute("ALTER TABLE staff RENAME TO zoo_keeper")

    def test_field_that_became_sensitive_at_runtime_is_masked(
        self, failing: Failing
    ) -> None:
        assert SECRET in replay("--dry-run")
        added = '{"zoo.Keeper": {"sensitive_fields": ["name"]}}'
        call_command("walex_config", "default", "add", "FILTERS", added)
        try:
            assert SECRET not in replay("--dry-run")
        finally:
            call_command("walex_config", "default", "reset", "FILTERS")

    def test_all_fields_of_a_removed_stream_are_masked(
        self, failing: Failing, settings: Any
    ) -> None:
        settings.WALEX = {"other": settings.WALEX["default"]}
        assert SECRET not in replay("--dry-run")

    def test_all_fields_of_a_removed_model_are_masked(
        self, failing: Failing, settings: Any
    ) -> None:
        filters = {"zoo.Animal": {"sensitive_fields": ["name"]}}
        self.configure(settings, FILTERS=filters)
        parked = ParkedEvent.objects.get()
        text = parked.arguments_json.replace('"zoo.Keeper"', '"zoo.Ghost"')
        assert text != parked.arguments_json
        assert SECRET in replay("--dry-run")
        ParkedEvent.objects.update(arguments_json=text)
        assert SECRET not in replay("--dry-run")


def replay(*options: str) -> str:
    """Run ``walex_replay``; return its output."""
    output = StringIO()
    try:
        call_command("walex_replay", *options, stdout=output, no_color=True)
    except CommandError as error:
        output.write(str(error))
    return output.getvalue()


def test_e008_unknown_sensitive_field(settings: Any) -> None:
    stream = settings.WALEX["default"]
    filters = {"zoo.Keeper": {"sensitive_fields": ["mail"]}}
    settings.WALEX = {"default": {**stream, "FILTERS": filters}}
    with pytest.raises(Exception, match=r"(?s)walex_django\.E008.*no field 'mail'"):
        call_command("check", tags=["walex_django"])


@pytest.mark.parametrize("key", ["sensitive_fields", "SENSITIVE_FIELDS"])
def test_keys_may_be_written_in_any_case(settings: Any, key: str) -> None:
    stream = settings.WALEX["default"]
    settings.WALEX = {"default": {**stream, "FILTERS": {"zoo.*": {key: ["name"]}}}}
    filters = get_config("default").filters
    assert filters == {"zoo.*": Filter(sensitive_fields=("name",))}


def test_duplicate_key_is_refused(settings: Any) -> None:
    both = {"changed": ["name"], "CHANGED": ["id"]}
    stream = settings.WALEX["default"]
    settings.WALEX = {"default": {**stream, "FILTERS": {"zoo.*": both}}}
    with pytest.raises(Exception, match="changed is given twice"):
        get_config("default")
