"""One stream after the other, and how long each takes until its first word.

    python benchmarks/first_token.py PORT PATH BODY_FILE KEY SECONDS [HEADER: VALUE ...]

Prints a line as post.lua does: requests, microseconds, p50 and p99 until the first word, then what went wrong. An answer
that isn't 200, or whose stream says nothing or doesn't end, is a wrong one.
"""

from __future__ import annotations

import gc
import socket
import statistics
import sys
import time
from pathlib import Path

_WORD = b'"content":"'
_NOTHING = b'"content":""'


class Caller:
    """One connection that is kept. Streams end with the chunk of length 0."""

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request

    def ask(self) -> int | None:
        """Nanoseconds until the first word; None where there was none. OSError, TimeoutError."""
        began = time.perf_counter_ns()
        self._socket.sendall(self._request)
        heard, first = b"", None
        while not heard.endswith(b"0\r\n\r\n"):
            if not (part := self._socket.recv(65536)):
                raise ConnectionError("closed")
            heard += part
            if first is None and heard.count(_WORD) > heard.count(_NOTHING):
                first = time.perf_counter_ns() - began
        right = heard.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in heard
        return first if right else None


def main(arguments: list[str]) -> None:
    port, path, body, key, seconds, *headers = arguments
    content = Path(body).read_bytes()
    fields = ["host: 127.0.0.1", f"authorization: Bearer {key}", "content-type: application/json", *headers]
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{field}\r\n" for field in fields)
    caller = Caller(int(port), f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    gc.disable()
    taken: list[int] = []
    wrong = 0
    began = time.perf_counter_ns()
    while (now := time.perf_counter_ns()) < began + float(seconds) * 1e9:
        first = caller.ask()
        if first is None:
            wrong += 1
        else:
            taken.append(first)
    cuts = statistics.quantiles(taken, n=100) if len(taken) > 1 else [0.0] * 99
    print(
        "RESULT",
        len(taken) + wrong,
        (now - began) // 1000,
        round(cuts[49] / 1e3),
        round(cuts[98] / 1e3),
        0,
        0,
        0,
        wrong,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
