"""Case 26: what networks do to the connection of a listener."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import Process, eventually, read_journal

from .ledger import Ledger
from .listener import AGAIN, BACK, ONE, heard, ids, listening, stop, with_stream
from .patience import patiently
from .proxy import Proxy
from .server import Server, lsn

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "cut": lambda proxy: proxy.cut(),
    "reset": lambda proxy: proxy.reset(),
    "half-open": lambda proxy: proxy.freeze(),
    "silent server": lambda proxy: proxy.freeze(to_server=False),
    "silent client": lambda proxy: proxy.freeze(to_client=False),
    "garbage": lambda proxy: proxy.inject(b"garbage, which libpq cannot read"),
    "message of garbage": lambda proxy: proxy.inject(b"d\0\0\0\x0agarbag"),
    "endless message": lambda proxy: proxy.inject(b"d\x7f\xff\xff\xff"),
}

# Silence is noticed in so much time.
pytestmark = pytest.mark.parametrize(
    "server", [{"wal_sender_timeout": "2s"}], indirect=True, ids=["2s"]
)


def faults(*names: str) -> pytest.MarkDecorator:
    """Parametrize a test with these faults."""
    chosen = [
        # This one takes as long as the half-open one, and is noticed in the same way.
        pytest.param(FAULTS[name], id=name, marks=[pytest.mark.heavy])
        if name == "silent server"
        else pytest.param(FAULTS[name], id=name)
        for name in names
    ]
    return pytest.mark.parametrize("fault", chosen)


@pytest.fixture
def url(server: Server, proxy: Proxy) -> str:
    """The server's, behind the proxy."""
    return server.url().replace(f":{server.port}/", f":{proxy.port}/")


@pytest.fixture
def behind(environment: dict[str, str], url: str) -> dict[str, str]:
    """The environment of a listener that replicates through the proxy."""
    return with_stream(environment, URL=url)


def test_latency_is_borne(
    server: Server, proxy: Proxy, behind: dict[str, str], journal: Path
) -> None:
    """Much of it, for a connection within a house."""
    proxy.latency = 0.05
    names = [str(number) for number in range(500)]
    with listening(behind) as listener:
        walsender = server.walsender()
        server.write(*names[:400])
        for name in names[400:]:
            server.write(name)
        position = server.position()
        eventually(lambda: heard(journal) == names)
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        assert server.walsender() == walsender
        stop(listener)
    assert AGAIN not in listener.output


@faults(*FAULTS)
def test_a_fault_in_an_idle_connection_is_noticed(
    server: Server,
    proxy: Proxy,
    behind: dict[str, str],
    journal: Path,
    fault: Callable[[Proxy], None],
) -> None:
    with listening(behind) as listener:
        server.write("before")
        position = server.position()
        eventually(lambda: heard(journal) == ["before"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        fault(proxy)
        listener.wait_for(AGAIN)
        server.write("after")
        eventually(lambda: heard(journal)[-1] == "after", "what came after")
        stop(listener)

    assert heard(journal) == ["before", "after"]
    _assert_told_once(listener)


@faults("cut", "reset", "silent client", "garbage")
def test_a_fault_while_a_receiver_works_loses_nothing(
    server: Server,
    proxy: Proxy,
    behind: dict[str, str],
    journal: Path,
    fault: Callable[[Proxy], None],
) -> None:
    with listening(behind) as listener:
        with server.held(1):
            server.write("wait for 1")
            eventually(server.waits_for_lock, "the receiver's work")
            server.hear(2)
            confirmed = server.confirmed()
            fault(proxy)
        listener.wait_for(AGAIN)
        server.write("after")
        eventually(lambda: heard(journal)[-1:] == ["after"], "what came after")
        stop(listener)

    assert list(dict.fromkeys(heard(journal))) == ["wait for 1", "after"]
    assert len(set(ids(journal))) == 2
    assert confirmed < lsn(read_journal(journal)[0]["lsn"]) < server.confirmed()
    _assert_told_once(listener)


@pytest.mark.parametrize(
    "fault", [Proxy.cut, Proxy.reset, Proxy.freeze], ids=["cut", "reset", "half-open"]
)
def test_a_transaction_that_arrived_in_part_comes_again(
    server: Server,
    proxy: Proxy,
    url: str,
    loaded: dict[str, str],
    ledger: Ledger,
    fault: Callable[..., None],
) -> None:
    """The connection ends after so many bytes, wherever in a message that is."""
    rows = 5000
    with listening(with_stream(loaded, URL=url)) as listener:
        fault(proxy, after=100_001)
        server.write(*map(str, range(rows)))
        position = server.position()
        listener.wait_for(AGAIN)
        ledger.read()
        in_part = len(ledger.entries)
        assert 0 < in_part < rows
        assert server.confirmed() < position
        ledger.wait_for(rows)
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        stop(listener)

    again = ledger.entries[in_part:]
    assert [entry.change.split()[-1] for entry in again] == [*map(str, range(rows))]
    assert ledger.entries[:in_part] == again[:in_part]
    _assert_told_once(listener)


def test_a_server_that_refuses_for_a_while_is_waited_for(
    server: Server, proxy: Proxy, behind: dict[str, str], journal: Path
) -> None:
    with listening(behind) as listener:
        proxy.refuse()
        proxy.cut()
        server.write("meanwhile")
        listener.wait_for("Connection refused")
        proxy.accept()
        eventually(lambda: heard(journal) == ["meanwhile"])
        stop(listener)
    assert listener.output.count(BACK) == 1


def test_nobody_there_at_the_start_is_waited_for(
    server: Server, proxy: Proxy, behind: dict[str, str], journal: Path
) -> None:
    proxy.refuse()
    server.write("before")
    with Process("walex_listen", *ONE, env=behind) as listener:
        assert "Connection refused" in listener.wait_for(AGAIN)
        proxy.accept()
        listener.wait_for("Quit with")
        eventually(lambda: heard(journal) == ["before"])
        stop(listener)
    assert listener.output.count(AGAIN) == 1


@pytest.mark.parametrize(
    "marker",
    [
        b"",
        b"user\0",
        pytest.param(b"SELECT", marks=pytest.mark.heavy),
        pytest.param(b"IDENTIFY_SYSTEM", marks=pytest.mark.heavy),
        pytest.param(b"START_REPLICATION", marks=pytest.mark.heavy),
    ],
)
def test_a_start_that_gets_no_answer_is_given_up(
    server: Server,
    proxy: Proxy,
    url: str,
    environment: dict[str, str],
    journal: Path,
    marker: bytes,
) -> None:
    """The server falls silent when it has got the marker."""
    proxy.freezes_at = marker
    server.write("before")
    env = with_stream(environment, URL=f"{url}?connect_timeout=2")
    with Process("walex_listen", *ONE, env=env) as listener:
        patiently(lambda: AGAIN in listener.output, "giving up")
        proxy.freezes_at = None
        patiently(lambda: "Quit with" in listener.output, "the start")
        eventually(lambda: heard(journal) == ["before"])
        stop(listener)
    assert listener.output.count(AGAIN) == 1


@pytest.mark.parametrize("atomic", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_a_network_that_is_gone_for_receivers_too_is_noticed(
    server: Server,
    proxy: Proxy,
    environment: dict[str, str],
    url: str,
    journal: Path,
    atomic: bool,
) -> None:
    """The checkpoint is on the same server as the stream, and cannot be written."""
    env = {**with_stream(environment, ATOMIC=atomic), "ZOO_DATABASE_URL": url}
    with listening(env) as listener:
        server.write("before")
        position = server.position()
        eventually(lambda: heard(journal) == ["before"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        proxy.freeze()
        listener.wait_for(AGAIN)
        server.write("after")
        eventually(lambda: heard(journal)[-1] == "after", "what came after")
        stop(listener)
    assert heard(journal) == ["before", "after"]
    _assert_told_once(listener)


def test_a_stop_does_not_wait_for_a_dead_network(
    server: Server, proxy: Proxy, behind: dict[str, str]
) -> None:
    with listening(behind) as listener:
        proxy.freeze()
        stop(listener)


def _assert_told_once(listener: Process) -> None:
    assert listener.output.count(AGAIN) == 1, listener.output
    assert listener.output.count(BACK) == 1, listener.output
    assert "Traceback" not in listener.output
