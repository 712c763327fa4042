"""Network faults on the listener's connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import Process, eventually, read_journal

from .ledger import Ledger
from .listener import (
    ONE,
    RECONNECTED,
    RETRYING,
    delivered,
    ids,
    listening,
    stop,
    with_stream,
)
from .proxy import Proxy
from .server import Server, lsn
from .waiting import wait_long

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "cut": lambda proxy: proxy.cut(),
    "reset": lambda proxy: proxy.reset(),
    "half-open": lambda proxy: proxy.freeze(),
    "silent server": lambda proxy: proxy.freeze(to_server=False),
    "silent client": lambda proxy: proxy.freeze(to_client=False),
    "garbage": lambda proxy: proxy.inject(b"garbage, which libpq cannot read"),
    "garbage message": lambda proxy: proxy.inject(b"d\0\0\0\x0agarbag"),
    "endless message": lambda proxy: proxy.inject(b"d\x7f\xff\xff\xff"),
}

# A silent connection is detected after this time.
pytestmark = pytest.mark.parametrize(
    "server", [{"wal_sender_timeout": "2s"}], indirect=True, ids=["2s"]
)


def faults(*names: str) -> pytest.MarkDecorator:
    """Parametrize a test with these faults."""
    chosen = [
        # Takes as long as the half-open connection and is detected in the same way.
        pytest.param(FAULTS[name], id=name, marks=[pytest.mark.heavy])
        if name == "silent server"
        else pytest.param(FAULTS[name], id=name)
        for name in names
    ]
    return pytest.mark.parametrize("fault", chosen)


@pytest.fixture
def url(server: Server, proxy: Proxy) -> str:
    """The server's URL through the proxy."""
    return server.url().replace(f":{server.port}/", f":{proxy.port}/")


@pytest.fixture
def proxied(environment: dict[str, str], url: str) -> dict[str, str]:
    """The environment of a listener that replicates through the proxy."""
    return with_stream(environment, URL=url)


def test_stream_tolerates_latency(
    server: Server, proxy: Proxy, proxied: dict[str, str], journal: Path
) -> None:
    """50 ms in each direction."""
    proxy.latency = 0.05
    names = [str(number) for number in range(500)]
    with listening(proxied) as listener:
        walsender = server.walsender()
        server.write(*names[:400])
        for name in names[400:]:
            server.write(name)
        position = server.position()
        eventually(lambda: delivered(journal) == names)
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        assert server.walsender() == walsender
        stop(listener)
    assert RETRYING not in listener.output


@faults(*FAULTS)
def test_fault_in_an_idle_connection_is_detected(
    server: Server,
    proxy: Proxy,
    proxied: dict[str, str],
    journal: Path,
    fault: Callable[[Proxy], None],
) -> None:
    with listening(proxied) as listener:
        server.write("before")
        position = server.position()
        eventually(lambda: delivered(journal) == ["before"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        fault(proxy)
        listener.wait_for(RETRYING)
        server.write("after")
        eventually(lambda: delivered(journal)[-1] == "after", "the later event")
        stop(listener)

    assert delivered(journal) == ["before", "after"]
    _assert_reported_once(listener)


@faults("cut", "reset", "silent client", "garbage")
def test_fault_while_a_receiver_runs_loses_nothing(
    server: Server,
    proxy: Proxy,
    proxied: dict[str, str],
    journal: Path,
    fault: Callable[[Proxy], None],
) -> None:
    with listening(proxied) as listener:
        with server.blocking_receivers(1):
            server.write("wait for 1")
            eventually(server.has_blocked_receiver, "the blocked receiver")
            server.wait_for_replies(2)
            confirmed = server.confirmed()
            fault(proxy)
        listener.wait_for(RETRYING)
        server.write("after")
        eventually(lambda: delivered(journal)[-1:] == ["after"], "the later event")
        stop(listener)

    assert list(dict.fromkeys(delivered(journal))) == ["wait for 1", "after"]
    assert len(set(ids(journal))) == 2
    assert confirmed < lsn(read_journal(journal)[0]["lsn"]) < server.confirmed()
    _assert_reported_once(listener)


@pytest.mark.parametrize(
    "fault", [Proxy.cut, Proxy.reset, Proxy.freeze], ids=["cut", "reset", "half-open"]
)
def test_partially_received_transaction_is_redelivered(
    server: Server,
    proxy: Proxy,
    url: str,
    loaded: dict[str, str],
    ledger: Ledger,
    fault: Callable[..., None],
) -> None:
    """The connection fails after that many bytes, in the middle of a message."""
    rows = 5000
    with listening(with_stream(loaded, URL=url)) as listener:
        fault(proxy, after=100_001)
        server.write(*map(str, range(rows)))
        position = server.position()
        listener.wait_for(RETRYING)
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
    _assert_reported_once(listener)


def test_listener_retries_while_connections_are_refused(
    server: Server, proxy: Proxy, proxied: dict[str, str], journal: Path
) -> None:
    with listening(proxied) as listener:
        proxy.refuse()
        proxy.cut()
        server.write("meanwhile")
        listener.wait_for("Connection refused")
        proxy.accept()
        eventually(lambda: delivered(journal) == ["meanwhile"])
        stop(listener)
    assert listener.output.count(RECONNECTED) == 1


def test_listener_retries_when_the_server_is_down_at_its_start(
    server: Server, proxy: Proxy, proxied: dict[str, str], journal: Path
) -> None:
    proxy.refuse()
    server.write("before")
    with Process("walex_listen", *ONE, env=proxied) as listener:
        assert "Connection refused" in listener.wait_for(RETRYING)
        proxy.accept()
        listener.wait_for("Quit with")
        eventually(lambda: delivered(journal) == ["before"])
        stop(listener)
    assert listener.output.count(RETRYING) == 1


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
def test_unanswered_start_times_out_and_is_retried(
    server: Server,
    proxy: Proxy,
    url: str,
    environment: dict[str, str],
    journal: Path,
    marker: bytes,
) -> None:
    """The server stops responding once it has received the marker."""
    proxy.freezes_at = marker
    server.write("before")
    env = with_stream(environment, URL=f"{url}?connect_timeout=2")
    with Process("walex_listen", *ONE, env=env) as listener:
        wait_long(lambda: RETRYING in listener.output, "the timeout")
        proxy.freezes_at = None
        wait_long(lambda: "Quit with" in listener.output, "the start")
        eventually(lambda: delivered(journal) == ["before"])
        stop(listener)
    assert listener.output.count(RETRYING) == 1


@pytest.mark.parametrize("atomic", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_fault_that_also_affects_receivers_is_detected(
    server: Server,
    proxy: Proxy,
    environment: dict[str, str],
    url: str,
    journal: Path,
    atomic: bool,
) -> None:
    """The checkpoint is on the stream's server and cannot be written."""
    env = {**with_stream(environment, ATOMIC=atomic), "ZOO_DATABASE_URL": url}
    with listening(env) as listener:
        server.write("before")
        position = server.position()
        eventually(lambda: delivered(journal) == ["before"])
        eventually(lambda: server.confirmed() >= position, "the acknowledgement")
        proxy.freeze()
        listener.wait_for(RETRYING)
        server.write("after")
        eventually(lambda: delivered(journal)[-1] == "after", "the later event")
        stop(listener)
    assert delivered(journal) == ["before", "after"]
    _assert_reported_once(listener)


def test_stop_does_not_wait_for_a_dead_network(
    server: Server, proxy: Proxy, proxied: dict[str, str]
) -> None:
    with listening(proxied) as listener:
        proxy.freeze()
        stop(listener)


def _assert_reported_once(listener: Process) -> None:
    assert listener.output.count(RETRYING) == 1, listener.output
    assert listener.output.count(RECONNECTED) == 1, listener.output
    assert "Traceback" not in listener.output
