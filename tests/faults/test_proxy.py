"""The proxy's faults, as both sides of a connection see them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.process import eventually

from .proxy import Proxy

Pair = tuple[socket.socket, socket.socket]

_SILENCE = 0.2  # seconds without data


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """The socket to which the proxy forwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def proxy(target: socket.socket) -> Iterator[Proxy]:
    """A proxy whose threads must end with it."""
    before = threading.active_count()
    with Proxy(target.getsockname()[1]) as proxy:
        yield proxy
    assert threading.active_count() == before


@pytest.fixture
def pair(proxy: Proxy, target: socket.socket) -> Iterator[Pair]:
    """The client's and the server's end of a connection."""
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as client:
        server, _ = target.accept()
        with server:
            server.settimeout(10)
            yield client, server


def read(side: socket.socket, count: int) -> bytes:
    """Return that many bytes, or fewer at the end of the connection."""
    data = b""
    while len(data) < count and (more := side.recv(count - len(data))):
        data += more
    return data


def test_data_and_close_are_forwarded_in_both_directions(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100) == b""
    server.sendall(b"last")
    server.close()
    assert client.recv(100) == b"last"
    assert client.recv(100) == b""


def test_cut_closes_both_sides_cleanly(proxy: Proxy, pair: Pair) -> None:
    proxy.cut()
    for side in pair:
        assert side.recv(100) == b""


def test_reset_aborts_both_sides(proxy: Proxy, pair: Pair) -> None:
    proxy.reset()
    for side in pair:
        with pytest.raises(ConnectionResetError):
            side.recv(100)


def test_freeze_forwards_neither_data_nor_close(proxy: Proxy, pair: Pair) -> None:
    client, server = pair
    proxy.freeze()
    client.sendall(b"question")
    server.sendall(b"answer")
    server.close()
    client.settimeout(_SILENCE)
    with pytest.raises(TimeoutError):
        client.recv(100)


def test_freeze_of_one_direction_does_not_affect_the_other(
    proxy: Proxy, pair: Pair
) -> None:
    client, server = pair
    proxy.freeze(to_server=False)
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    client.settimeout(_SILENCE)
    with pytest.raises(TimeoutError):
        client.recv(100)


def test_fault_happens_after_the_exact_number_of_bytes(
    proxy: Proxy, pair: Pair
) -> None:
    client, server = pair
    proxy.cut(after=10)
    server.sendall(b"1234567")
    assert read(client, 7) == b"1234567"
    server.sendall(b"890abc")
    assert client.recv(100) == b"890"
    assert client.recv(100) == b""


def test_inject_inserts_bytes_into_the_data_of_the_server(
    proxy: Proxy, pair: Pair
) -> None:
    client, server = pair
    proxy.inject(b"!", after=2)
    server.sendall(b"abcd")
    assert read(client, 5) == b"ab!cd"


def test_refuse_and_accept(proxy: Proxy, pair: Pair) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 10)
    proxy.accept()
    socket.create_connection(("127.0.0.1", proxy.port), 10).close()


def test_connections_freeze_at_the_marker(proxy: Proxy, pair: Pair) -> None:
    client, server = pair
    proxy.freezes_at = b"START"
    client.sendall(b"before")
    assert server.recv(100) == b"before"
    client.sendall(b"START now")
    assert server.recv(100) == b"START now"
    server.sendall(b"answer")
    client.settimeout(_SILENCE)
    with pytest.raises(TimeoutError):
        client.recv(100)


def test_new_connections_use_a_changed_target(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(10)
        proxy.target = other.getsockname()[1]
        with socket.create_connection(("127.0.0.1", proxy.port), 10):
            other.accept()[0].close()


def test_client_is_disconnected_when_the_target_is_down(
    proxy: Proxy, target: socket.socket
) -> None:
    target.close()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as client:
        assert client.recv(100) == b""
    eventually(lambda: not proxy.links, "the end of the link")
