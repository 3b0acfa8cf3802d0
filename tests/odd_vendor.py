"""A vendor of the tests' own that answers with whatever bytes it is told to, by the name of the model that is asked."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

Asked = dict[str, Any]
Answer = Callable[[Asked], Iterable[bytes]]  # what is sent for a prompt, before the connection ends


class OddVendor:
    """A server, as a context manager; `answers` are by the name of the model. `heads` are those of what it was asked."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.heads: list[bytes] = []
        vendor = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                vendor.answer(self, answers)

        class Threads(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 256

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, asked: socketserver.StreamRequestHandler, answers: Mapping[str, Answer]) -> None:
        """One request, and the end of its connection."""
        lines = [asked.rfile.readline()]
        while lines[-1] not in (b"\r\n", b""):
            lines.append(asked.rfile.readline())
        if lines[-1] == b"":
            return
        self.heads.append(b"".join(lines))
        size = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
        body: Asked = json.loads(asked.rfile.read(size))
        with contextlib.suppress(OSError):  # nobody listens any more
            for part in answers[body["model"]](body):
                asked.wfile.write(part)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
