"""A server that receives webhooks."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any, Self

from tests.listening import TIMEOUT


class Inbox:
    """An HTTP server that stores requests and responds with a status."""

    def __init__(self) -> None:
        self.posted: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self._changed = Condition()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(inbox.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                inbox.store(dict(self.headers.items()), body)

            def log_message(self, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/events"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def store(self, headers: dict[str, str], body: bytes) -> None:
        with self._changed:
            self.posted.append((headers, body))
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Return the bodies once that many requests have arrived."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.posted) >= count, TIMEOUT)
        return [json.loads(body) for _, body in self.posted]
