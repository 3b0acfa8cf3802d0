"""An address of the tests' own that is posted to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@contextlib.contextmanager
def listening(*statuses: int) -> Generator[tuple[str, list[Any]]]:
    """An address that answers with these statuses in turn, and then with the last one; and what it was told."""
    told: list[Any] = []

    class Face(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(statuses[min(len(told), len(statuses)) - 1])
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 its own names
            pass

    server = HTTPServer(("127.0.0.1", 0), Face)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
