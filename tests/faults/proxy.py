"""A TCP proxy that simulates network faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Self

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close() sends RST


@dataclass
class Trap:
    """A fault that a link suffers after that many further bytes to its client."""

    after: int
    spring: Callable[[Link], None]


class Link:
    """
    A client's connection and the one to the target, in the proxy's event loop.

    Attributes:
        to_client: Set while data is forwarded to the client.
        to_server: Set while data is forwarded to the server.
    """

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.to_client, self.to_server = asyncio.Event(), asyncio.Event()
        self.to_client.set()
        self.to_server.set()
        self.trap: Trap | None = None
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._server = socket.socket()
        self._server.setblocking(False)
        self._closed = False
        self.task = self._loop.create_task(self._run())
        self.task.add_done_callback(self._end)

    def close(self, *, reset: bool = False) -> None:
        """Close both sides, by RST instead of FIN if ``reset``."""
        if reset:
            for side in (self._client, self._server):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._closed = True
        self.task.cancel()

    def inject(self, data: bytes) -> None:
        """Send the client bytes that do not come from the server."""
        self._client.send(data)

    def freeze(self, *, to_client: bool = True, to_server: bool = True) -> None:
        """Stop forwarding, including the closing of a side."""
        if to_client:
            self.to_client.clear()
        if to_server:
            self.to_server.clear()

    async def _run(self) -> None:
        try:
            if self._proxy.freezes_at == b"":
                self.freeze()
            await self.to_server.wait()
            await self._loop.sock_connect(
                self._server, ("127.0.0.1", self._proxy.target)
            )
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_to_client())
                pumps.create_task(self._pump_to_server())
        except* OSError:
            pass  # both sides are closed below

    def _end(self, task: asyncio.Task[None]) -> None:
        self._client.close()
        self._server.close()
        self._proxy.links.discard(self)

    async def _pump_to_client(self) -> None:
        while data := await self._read(self._server, self.to_client):
            if (trap := self.trap) and len(data) >= trap.after:
                self.trap = None
                await self._loop.sock_sendall(self._client, data[: trap.after])
                trap.spring(self)
                if self._closed:
                    return
                data = data[trap.after :]
                await self.to_client.wait()
            elif trap:
                trap.after -= len(data)
            for english, other in self._proxy.translations.items():
                data = data.replace(english, other)
            await self._loop.sock_sendall(self._client, data)
        self._client.shutdown(socket.SHUT_WR)

    async def _pump_to_server(self) -> None:
        while data := await self._read(self._client, self.to_server):
            await self._loop.sock_sendall(self._server, data)
            marker = self._proxy.freezes_at
            if marker and marker in data:
                self.freeze()
        self._server.shutdown(socket.SHUT_WR)

    async def _read(self, side: socket.socket, flowing: asyncio.Event) -> bytes:
        data = await self._loop.sock_recv(side, _CHUNK)
        if self._proxy.latency:
            await asyncio.sleep(self._proxy.latency)
        # The end of the connection waits as well.
        await flowing.wait()
        return data


class Proxy:
    """
    A proxy that forwards connections to a local port, in its own thread.

    Faults affect the connections that exist at the time, not later ones.

    Args:
        target: The port to forward to. A change applies to new connections.

    Attributes:
        port: The port on which it listens.
        latency: The delay in seconds, in each direction.
        freezes_at: The bytes from a client at which its connection freezes; `b""`
            freezes from the start, `None` never.
        translations: Replacements, of equal length, in what the server sends.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.latency = 0.0
        self.freezes_at: bytes | None = None
        self.translations: dict[bytes, bytes] = {}
        self.links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="proxy")
        self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, *, after: int = 0) -> None:
        """Close all connections cleanly, after that many bytes to the client."""
        self._lay(Trap(after, Link.close))

    def reset(self, *, after: int = 0) -> None:
        """Close all connections by RST, after that many bytes to the client."""
        self._lay(Trap(after, lambda link: link.close(reset=True)))

    def freeze(
        self, *, to_client: bool = True, to_server: bool = True, after: int = 0
    ) -> None:
        """
        Keep the connections open but forward nothing: half-open for both sides.

        Args:
            to_client: Whether to stop forwarding to the client.
            to_server: Whether to stop forwarding to the server.
            after: The number of bytes to the client before the fault.
        """
        self._lay(
            Trap(
                after,
                lambda link: link.freeze(to_client=to_client, to_server=to_server),
            )
        )

    def inject(self, data: bytes, *, after: int = 0) -> None:
        """Send all clients foreign bytes, after that many bytes of the server."""
        self._lay(Trap(after, lambda link: link.inject(data)))

    def refuse(self) -> None:
        """Refuse connections until `accept`."""
        self._do(self._stop())

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._listen(self.port)
        self._do(self._start())

    def _lay(self, trap: Trap) -> None:
        async def lay() -> None:
            for link in self.links:
                if trap.after:
                    link.trap = Trap(trap.after, trap.spring)
                else:
                    trap.spring(link)

        self._do(lay())

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)

    async def _start(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    async def _stop(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def _end(self) -> None:
        if self._listener.fileno() >= 0:
            await self._stop()
        for link in self.links:
            link.close()
        await asyncio.gather(
            *(link.task for link in self.links), return_exceptions=True
        )

    def _accept(self) -> None:
        with suppress(OSError):  # the client has disconnected
            client, _ = self._listener.accept()
            client.setblocking(False)
            self.links.add(Link(self, client))

    def _do(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the loop's thread and wait for it."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
