"""walex_config changes settings from another process."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connections

from example_project.postgres import Postgres
from tests.process import Process, eventually, read_journal
from tests.zoo.models import Keeper
from walex_django.conf.stream import StreamConfig
from walex_django.models import StreamSetting

from .stream import Stream
from .test_mistakes import ONE, at, fails
from .test_takeover import standby

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "second"])

CHANGED = "reloaded its settings"


@pytest.fixture
def keepers(stream: Stream) -> Stream:
    """A stream that delivers only keepers."""
    stream.env["ZOO_STREAM"] = json.dumps({"SUBSCRIPTIONS": ["zoo.Keeper"]})
    return stream


def change(stream: Stream, *arguments: str) -> list[str]:
    return stream.run("walex_config", "default", *arguments)


def refused(stream: Stream, *arguments: str) -> str:
    """Return the single line that a failing walex_config prints."""
    with Process("walex_config", "default", *arguments, env=stream.env) as process:
        assert process.wait() == 1, process.output
        (line,) = process.lines
        return line


def unsupported(key: str) -> str:
    """Return the error for a key that walex_config does not support."""
    return (
        f"{key} can't be changed with walex_config. These settings can: SUBSCRIPTIONS, "
    )


def build(stream: Stream, *names: str) -> None:
    for name in names:
        stream.execute("INSERT INTO zoo_building (name) VALUES (%s)", [name])


def test_change_reaches_a_running_listener(keepers: Stream) -> None:
    with keepers.listening() as listener:
        build(keepers, "nobody's")
        assert change(keepers, "add", "SUBSCRIPTIONS", "zoo.Building") == [
            'SUBSCRIPTIONS = ["zoo.Keeper", "zoo.Building"]  (changed)'
        ]
        build(keepers, "aviary")
        listener.wait_for(CHANGED)
        eventually(lambda: keepers.delivered() == ["aviary"])

        change(keepers, "remove", "SUBSCRIPTIONS", "zoo.Keeper")
        keepers.write("nobody's")
        build(keepers, "stable")
        eventually(lambda: keepers.delivered() == ["aviary", "stable"])

        change(keepers, "replace", "SUBSCRIPTIONS", '["zoo.Keeper", "zoo.Animal"]')
        build(keepers, "nobody's")
        keepers.write("Ada")
        eventually(lambda: keepers.delivered() == ["aviary", "stable", "Ada"])

        filters = {"zoo.Keeper": {"unwatched_records": {"name": "out"}}}
        change(keepers, "add", "FILTERS", json.dumps(filters))
        keepers.write("out", "in")
        eventually(lambda: keepers.delivered()[3:] == ["in"])
        change(keepers, "remove", "FILTERS", "zoo.Keeper")
        keepers.write("out")
        eventually(lambda: keepers.delivered()[3:] == ["in", "out"])

        assert change(keepers, "reset", "SUBSCRIPTIONS") == [
            'SUBSCRIPTIONS = ["zoo.Keeper"]'
        ]
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0


def test_change_survives_a_restart(keepers: Stream) -> None:
    change(keepers, "add", "SUBSCRIPTIONS", "zoo.Building")
    change(keepers, "replace", "MAX_BATCH", "7")
    for name in ("aviary", "stable"):
        with keepers.listening() as listener:
            listener.wait_for("public.zoo_building, public.zoo_keeper")
            build(keepers, name)
            eventually(lambda: keepers.delivered()[-1:] == [name])  # noqa: B023
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0
    assert "MAX_BATCH = 7  (changed)" in change(keepers, "show")

    change(keepers, "reset", "SUBSCRIPTIONS")
    with keepers.listening() as listener:
        build(keepers, "nobody's")
        keepers.write("Ada")
        eventually(lambda: len(keepers.delivered()) == 3)
    assert keepers.delivered() == ["aviary", "stable", "Ada"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_standby_takes_over_with_the_change(
    keepers: Stream, end: signal.Signals
) -> None:
    """It waits for the slot while another listener receives the change."""
    with keepers.listening() as first, standby(keepers) as second:
        change(keepers, "add", "SUBSCRIPTIONS", "zoo.Building")
        build(keepers, "aviary")
        eventually(lambda: keepers.delivered() == ["aviary"])
        eventually(keepers._is_acknowledged, "the acknowledgement")
        first.signal(end)
        first.wait()
        second.wait_for("Quit with")
        second.wait_for("public.zoo_building, public.zoo_keeper")
        build(keepers, "stable")
        eventually(lambda: keepers.delivered() == ["aviary", "stable"])


def test_start_warns_about_the_settings_in_force(
    keepers: Stream, tmp_path: Path
) -> None:
    (tmp_path / "zoo_receivers.py").write_text(
        "from walex_django.signals import post_db_message\n"
        "post_db_message.connect(lambda **kwargs: None, weak=False)\n"
    )
    keepers.env.update(PYTHONPATH=str(tmp_path), ZOO_IMPORT="zoo_receivers")
    warning = "Receivers are connected to post_db_message, but no stream has MESSAGES."
    with keepers.listening() as listener:
        listener.wait_for(f"Warning: {warning}")
    change(keepers, "add", "MESSAGES", "zoo")
    with keepers.listening() as listener:
        assert warning not in listener.output


def test_unpublished_table_causes_a_warning(keepers: Stream) -> None:
    keepers.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_building")
    problem = (
        "SUBSCRIPTIONS names tables that are missing from the publication"
        ' "zoo_events": public.zoo_building. Run: python manage.py walex_setup'
    )
    with keepers.listening() as listener:
        lines = change(keepers, "add", "SUBSCRIPTIONS", "zoo.Building")
        assert f"Warning: {problem}" in lines
        keepers.write("Ada")
        listener.wait_for(f"Stream default: {problem}")
        build(keepers, "unpublished")

        (setup,) = keepers.run("walex_setup", *ONE)
        assert setup == (
            'default: add to the publication "zoo_events": public.zoo_building'
        )
        build(keepers, "aviary")
        eventually(lambda: keepers.delivered() == ["Ada", "aviary"])


def test_start_refuses_an_unpublished_table(keepers: Stream) -> None:
    keepers.execute("ALTER PUBLICATION zoo_events DROP TABLE zoo_building")
    change(keepers, "add", "SUBSCRIPTIONS", "zoo.Building")

    line = fails("walex_listen", keepers.env)
    assert (
        'missing from the publication "zoo_events": public.zoo_building.'
        " Run: python manage.py walex_setup"
    ) in line


def test_concurrent_changes_are_all_applied(keepers: Stream) -> None:
    change(keepers, "add", "MESSAGES", "first")
    table = "walex_django_streamsetting"
    with (
        psycopg.connect(keepers.env["ZOO_DATABASE_URL"]) as other,
        Process(
            "walex_config", "default", "add", "MESSAGES", "third", env=keepers.env
        ) as process,
    ):
        other.execute(f"""UPDATE {table} SET value = '["first", "second"]'""")
        eventually(keepers.is_blocked, "the wait for the other")
        other.commit()
        assert process.wait() == 0, process.output

    assert StreamSetting.objects.get().value == ["first", "second", "third"]


def test_invalid_change_is_refused_and_not_stored(keepers: Stream) -> None:
    for arguments, problem in (
        (["add", "SUBSCRIPTIONS", "zoo.Kepper"], "no model 'Kepper'"),
        (
            ["remove", "SUBSCRIPTIONS", "zoo.Building"],
            "does not contain 'zoo.Building'",
        ),
        (["add", "MODULES", "zoo.gone"], "No module named 'zoo.gone'"),
        (["replace", "MAX_BATCH", "none"], "at least 1, not 'none'"),
        (["add", "FILTERS", "zoo.Keeper"], "zoo.Keeper is not valid JSON"),
        (
            ["add", "ON_ERROR", "stop"],
            "ON_ERROR is not a list. Replace its value instead.",
        ),
        (["replace", "SLOT_NAME", "other"], unsupported("SLOT_NAME")),
        (["reset", "NONSENSE"], unsupported("NONSENSE")),
        (["show", "NONSENSE"], unsupported("NONSENSE")),
        (["add"], "add requires a KEY"),
        (["add", "MESSAGES"], "add requires a VALUE"),
    ):
        line = refused(keepers, *arguments)
        assert line.startswith("CommandError: ")
        assert problem in line
    with Process("walex_config", "defautl", "show", env=keepers.env) as process:
        assert process.wait() == 1
        assert "Did you mean 'default'?" in process.output

    assert not StreamSetting.objects.exists()


def test_invalid_stored_setting_is_reported_with_its_fix(
    keepers: Stream,
) -> None:
    StreamSetting.objects.create(stream="default", key="MODULES", value=["zoo.gone"])
    StreamSetting.objects.create(stream="default", key="DATABASE", value="second")
    for key, problem in (
        ("DATABASE", "DATABASE can't be changed at runtime. These settings can: "),
        ("MODULES", "No module named 'zoo.gone'."),
    ):
        fix = f"Run: python manage.py walex_config default reset {key}"
        for command in ("walex_listen", "walex_setup"):
            line = fails(command, keepers.env)
            assert problem in line
            assert line.endswith(fix)
        assert refused(keepers, "show").endswith(fix)
        with Process(
            "walex_config", "default", "reset", key, env=keepers.env
        ) as process:
            # The first reset still reports the other setting.
            assert process.wait() == (1 if key == "DATABASE" else 0), process.output

    assert not StreamSetting.objects.exists()
    keepers.deliver("Ada")


def test_no_secret_is_shown(keepers: Stream) -> None:
    url = keepers.env["ZOO_DATABASE_URL"]
    secret = url.replace("postgres://", "postgres://s3cret:")
    keepers.env["ZOO_STREAM"] = json.dumps({"URL": secret})

    assert "s3cret" not in "\n".join(change(keepers, "show"))
    assert unsupported("URL") in refused(keepers, "show", "URL")
    assert "s3cret" not in refused(keepers, "replace", "URL", secret)


def test_show_prints_the_settings_in_force(keepers: Stream) -> None:
    change(keepers, "replace", "ON_ERROR", "skip")

    assert change(keepers, "show") == [
        'SUBSCRIPTIONS = ["zoo.Keeper"]',
        "FILTERS = {}",
        "MODULES = []",
        "MESSAGES = []",
        "MAX_BATCH = 1000",
        'ON_ERROR = "skip"  (changed)',
        "MAX_RETRIES = 5",
        "RETRY_BACKOFF = 0.5",
        "BREAKER_THRESHOLD = 5",
        "PAUSED = false",
    ]
    assert change(keepers, "show", "ON_ERROR") == ['ON_ERROR = "skip"  (changed)']


def test_help_explains_the_command() -> None:
    with Process("walex_config", "--help") as process:
        assert process.wait() == 0
        text = " ".join(process.output.split())
    assert "STREAM {show,add,remove,replace,reset} [KEY] [VALUE ...]" in text
    assert "reset: restore the value from settings.WALEX" in text
    assert "walex_config default add SUBSCRIPTIONS shop.Order shop.Item" in text


@pytest.fixture
def second(durable: StreamConfig, environment: dict[str, str]) -> Iterator[Stream]:
    """The stream on the second database."""
    stream = Stream(environment)
    stream.run("walex_setup", "--stream", "second")
    yield stream
    connections["second"].close()
    stream.run("walex_teardown", "--stream", "second", "--no-input")


def test_a_stream_on_another_database(second: Stream) -> None:
    """Settings are stored in the first database and announced in the second."""
    with Process("walex_listen", "--stream", "second", env=second.env) as listener:
        listener.wait_for("Quit with")
        filters = {"zoo.Keeper": {"unwatched_records": {"name": "out"}}}
        second.run("walex_config", "second", "add", "FILTERS", json.dumps(filters))
        Keeper.objects.using("second").create(name="out")
        Keeper.objects.using("second").create(name="in")
        eventually(lambda: second.delivered() == ["in"])
        listener.signal(signal.SIGTERM)
        assert listener.wait() == 0
    (line,) = read_journal(Path(second.env["ZOO_JOURNAL"]))
    assert line["stream"] == "second"


def test_project_without_migrations(
    own_server: Postgres, environment: dict[str, str]
) -> None:
    """A temporary stream needs no table of walex_django."""
    with psycopg.connect(own_server.url(), autocommit=True) as sql:
        sql.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")
        stream = Stream(at(own_server, environment))
        stream.env["ZOO_STREAM"] = json.dumps(
            {"DURABLE_SLOT": False, "SUBSCRIPTIONS": ["public.things"]}
        )
        stream.run("walex_setup", *ONE)
        with stream.listening() as listener:
            sql.execute("INSERT INTO things VALUES (1, 'lamp')")
            eventually(lambda: stream.delivered() == ["lamp"])
            for arguments in (["show"], ["add", "MESSAGES", "jobs"]):
                line = refused(stream, *arguments)
                assert "Run: python manage.py migrate walex_django" in line
            sql.execute("INSERT INTO things VALUES (2, 'rope')")
            eventually(lambda: stream.delivered() == ["lamp", "rope"])
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0
