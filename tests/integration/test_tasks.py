"""Events are handed over to workers of Celery or of Django's tasks."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process import Process, eventually
from tests.redis_server import RedisServer

from .stream import Stream

pytestmark = pytest.mark.django_db(transaction=True)

_EFFECTS = """
CREATE TABLE zoo_effect (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL,
    label text NOT NULL
)
"""


class HandingOver(Stream):
    """A stream whose events are handed over to workers."""

    def configure(self, **options: Any) -> None:
        """Change settings of the stream."""
        settings = {**json.loads(self.env.get("ZOO_STREAM", "{}")), **options}
        self.env["ZOO_STREAM"] = json.dumps(settings)

    def effects(self) -> list[str]:
        """Return the names that the workers have processed."""
        rows = self.execute("SELECT label FROM zoo_effect ORDER BY id")
        return [label.split(" ", 2)[2] for (label,) in rows]

    def wait_for_effects(self, *names: str) -> None:
        """Wait until the workers have processed exactly these names."""
        eventually(lambda: len(self.effects()) >= len(names), f"work for {names}")
        assert sorted(self.effects()) == sorted(names)

    def wait_until_acknowledged(self) -> None:
        """Wait until everything written is acknowledged."""
        eventually(self._is_acknowledged, "the acknowledgement")

    def parked(self) -> list[tuple[str, str]]:
        """Return the signals and receivers of the parked calls."""
        return [
            (signal, receiver)
            for signal, receiver in self.execute(
                "SELECT signal, receiver FROM walex_django_parkedevent ORDER BY id"
            )
        ]


@pytest.fixture
def handing(stream: Stream) -> Iterator[HandingOver]:
    """The stream, with a table for the workers' effects."""
    handing = HandingOver(stream.env | {"ZOO_HANDS_OVER": "1"})
    handing.configure(SUBSCRIPTIONS=["zoo.Keeper"], MAX_RETRIES=1, RETRY_BACKOFF=0.1)
    handing.execute(_EFFECTS)
    yield handing
    handing.execute("DROP TABLE zoo_effect")


@pytest.mark.services("redis")
class TestCelery:
    """With a real Redis."""

    @pytest.fixture
    def redis(self) -> Iterator[RedisServer]:
        """A broker."""
        with RedisServer() as redis:
            yield redis

    @pytest.fixture
    def celery(self, handing: HandingOver, redis: RedisServer) -> HandingOver:
        """The stream with a handler whose function is a task of Celery."""
        handing.env |= {"ZOO_BROKER": redis.url}
        handing.configure(MODULES=["tests.zoo.celery_tasks"])
        return handing

    @pytest.fixture
    def worker(self, celery: HandingOver) -> Iterator[Process]:
        """A worker process."""
        env = {k: v for k, v in celery.env.items() if k not in _LISTENERS_OWN}
        with Process(
            *("worker", "--pool=solo", "--loglevel=INFO"),
            program=["-m", "celery", "-A", "tests.celery_worker"],
            env=env,
        ) as worker:
            yield worker

    def test_a_worker_gets_the_events(
        self, celery: HandingOver, worker: Process
    ) -> None:
        with celery.listening():
            celery.write("Ada", "Bob")
            celery.wait_for_effects("Ada", "Bob")
            celery.wait_until_acknowledged()
        ids = celery.execute("SELECT event_id FROM zoo_effect ORDER BY id")
        assert len(set(ids)) == 2
        assert celery.parked() == []

    def test_killed_broker_loses_nothing(
        self, celery: HandingOver, redis: RedisServer, request: pytest.FixtureRequest
    ) -> None:
        with celery.listening() as listener:
            celery.write("Ada")
            celery.wait_until_acknowledged()
            redis.kill()
            celery.write("Bob")
            celery.wait_until_acknowledged()
            task = ("function", "tests.zoo.celery_tasks.keep")
            assert celery.parked() == [task]
            celery.write("Cem")
            celery.wait_until_acknowledged()
            assert celery.parked() == [task, task]
            listener.signal(signal.SIGTERM)
            assert listener.wait() == 0, listener.output
        assert "retrying in 0.1 s" in listener.output

        redis.start()
        request.getfixturevalue("worker")
        celery.wait_for_effects("Ada")
        assert celery.run("walex_replay") == ["2 delivered, 0 failed again"]
        celery.wait_for_effects("Ada", "Bob", "Cem")
        assert celery.parked() == []

    def test_broker_that_recovers_in_time_gets_the_task(
        self, celery: HandingOver, redis: RedisServer, worker: Process
    ) -> None:
        celery.configure(MAX_RETRIES=1000)
        with celery.listening() as listener:
            celery.write("Ada")
            celery.wait_for_effects("Ada")
            celery.wait_until_acknowledged()
            redis.kill()
            celery.write("Bob")
            listener.wait_for("retrying in 0.2 s")
            assert celery.acknowledged("Ada")
            assert not celery.acknowledged("Bob")
            redis.start()
            celery.wait_until_acknowledged()
            celery.wait_for_effects("Ada", "Bob")
        assert celery.parked() == []

    def test_listener_killed_while_handing_over_repeats_it(
        self, celery: HandingOver, redis: RedisServer, worker: Process
    ) -> None:
        with redis.frozen(), celery.listening() as listener:
            celery.write("Ada")
            # The receivers come first.
            eventually(lambda: celery.delivered() == ["Ada"], "the delivery of Ada")
            listener.signal(signal.SIGKILL)
            listener.wait()
        assert not celery.acknowledged("Ada")
        assert celery.effects() == []

        with celery.listening():
            celery.wait_until_acknowledged()
            eventually(lambda: set(celery.effects()) == {"Ada"}, "work for Ada")
        assert celery.delivered() == ["Ada", "Ada"]


class TestDjango:
    """With the backend of django-tasks-db, whose queue is a table."""

    @pytest.fixture
    def tasks(self, handing: HandingOver) -> Iterator[HandingOver]:
        """The stream with a handler whose function is a task of Django."""
        handing.env |= {"ZOO_TASKS": "1"}
        handing.run("migrate", "django_tasks_database", "--verbosity=0")
        handing.configure(MODULES=["tests.zoo.django_tasks"])
        yield handing
        # These migrations cannot be reversed.
        handing.execute(f"DROP TABLE {_QUEUE}")
        handing.execute(
            "DELETE FROM django_migrations WHERE app = 'django_tasks_database'"
        )

    def test_a_worker_gets_the_events(self, tasks: HandingOver) -> None:
        env = {k: v for k, v in tasks.env.items() if k not in _LISTENERS_OWN}
        options = ("--interval=0.1", "--no-startup-delay")
        with Process("db_worker", *options, env=env), tasks.listening():
            tasks.write("Ada", "Bob")
            tasks.wait_for_effects("Ada", "Bob")
            tasks.wait_until_acknowledged()
        assert tasks.parked() == []

    def test_task_that_the_queue_refuses_is_parked_and_replayed(
        self, tasks: HandingOver
    ) -> None:
        tasks.execute(f"ALTER TABLE {_QUEUE} RENAME TO away")
        with tasks.listening():
            tasks.write("Ada")
            tasks.wait_until_acknowledged()
            assert tasks.parked() == [("function", "tests.zoo.django_tasks.keep")]
        tasks.execute(f"ALTER TABLE away RENAME TO {_QUEUE}")
        assert tasks.run("walex_replay") == ["1 delivered, 0 failed again"]
        assert self._queued(tasks) == 1

    def test_with_atomic_a_task_is_enqueued_once(self, tasks: HandingOver) -> None:
        tasks.configure(ATOMIC=True)
        with tasks.blocked(1), tasks.listening() as listener:
            tasks.write("handler waits for 1")
            eventually(tasks.is_blocked, "the handler's work")
            assert self._queued(tasks) == 0
            listener.signal(signal.SIGKILL)
            listener.wait()
        assert self._queued(tasks) == 0

        with tasks.listening():
            tasks.wait_until_acknowledged()
        assert self._queued(tasks) == 1

    def test_without_atomic_a_task_is_enqueued_again(self, tasks: HandingOver) -> None:
        with tasks.blocked(1), tasks.listening() as listener:
            tasks.write("handler waits for 1")
            eventually(tasks.is_blocked, "the handler's work")
            assert self._queued(tasks) == 1
            listener.signal(signal.SIGKILL)
            listener.wait()

        with tasks.listening():
            tasks.wait_until_acknowledged()
        assert self._queued(tasks) == 2

    def _queued(self, tasks: HandingOver) -> int:
        ((count,),) = tasks.execute(f"SELECT count(*) FROM {_QUEUE}")
        return int(count)


_LISTENERS_OWN = {"ZOO_STREAM", "ZOO_HANDS_OVER", "ZOO_JOURNAL"}
_QUEUE = "django_tasks_database_dbtaskresult"
