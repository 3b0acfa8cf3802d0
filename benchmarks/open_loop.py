"""Requests that come at random moments (Poisson), whether or not the ones before have been answered; each answer is checked.

Latency is counted from the moment a request was due, so that a slow server can't hide behind a late client. The client's
own lag is the time from that moment to the one when the request was written. It never sleeps: it wants a core of its own.

    python benchmarks/open_loop.py PORT PATH BODY_FILE ANSWER_FILE KEY RATE SECONDS SEED
"""

from __future__ import annotations

import gc
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

import msgspec
import numpy as np

MOST_CONNECTIONS = 512
FIRST_CONNECTIONS = 32
DRAIN_NS = 3_000_000_000


class Seen(msgspec.Struct, frozen=True):
    """What came of one run. Times in microseconds; `late` are the lags of the client itself."""

    sent: int
    answered: int
    wrong: int
    broken: int
    seconds: float
    p50_us: float
    p99_us: float
    late_p99_us: float
    late_max_us: float
    connections: int


class Connection:
    """One connection; it carries one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=2)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due_ns = 0
        self.busy = False
        self.held = b""

    def body(self) -> bytes | None:
        """The whole body once it is there; None before. ConnectionError where the answer isn't a good one."""
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("closed")
        self.held = self.held + got if self.held else got
        end = self.held.find(b"\r\n\r\n")
        if end < 0:
            return None
        head, body = self.held[:end].lower(), self.held[end + 4 :]
        if not head.startswith(b"http/1.1 200"):
            raise ConnectionError("not 200")
        at = head.find(b"content-length:")
        if at < 0:
            return _joined(body) if body.endswith(b"0\r\n\r\n") else None
        size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        return body if len(body) == size else None


def _joined(chunks: bytes) -> bytes:
    parts: list[bytes] = []
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        chunks = rest[int(size, 16) + 2 :]
    return b"".join(parts)


class Generator:
    """The requests of one run."""

    def __init__(self, port: int, request: bytes, answer: bytes) -> None:
        self._port, self._request, self._answer = port, request, answer
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._waiting: deque[int] = deque()  # due times that no connection was free for: the server's fault, no lag
        self.took_ns: list[int] = []
        self.late_ns: list[int] = []
        self.wrong = self.broken = 0
        for _ in range(FIRST_CONNECTIONS):
            self._idle.append(self._open())

    @property
    def connections(self) -> int:
        return len(self._by_fd)

    def _open(self) -> Connection:
        made = Connection(self._port)
        self._by_fd[made.socket.fileno()] = made
        self._epoll.register(made.socket.fileno(), select.EPOLLIN)
        return made

    def run(self, due_ns: list[int]) -> None:
        """Send at these moments (of the steady clock), then wait for what is still out."""
        clock, count, next_one = time.perf_counter_ns, len(due_ns), 0
        give_up = due_ns[-1] + DRAIN_NS
        while next_one < count or len(self.took_ns) + self.broken < count:
            now = clock()
            while next_one < count and due_ns[next_one] <= now:
                self._ask(due_ns[next_one])
                now = clock()
                next_one += 1
            for fd, _ in self._epoll.poll(0):
                if fd in self._by_fd:  # its send may have failed since
                    self._take(self._by_fd[fd])
            if now > give_up:
                return

    def _ask(self, due_ns: int) -> None:
        if not self._idle and len(self._by_fd) >= MOST_CONNECTIONS:
            self._waiting.append(due_ns)
            return
        try:
            connection = self._idle.pop() if self._idle else self._open()
        except OSError:
            self.broken += 1
            return
        self._send(connection, due_ns)
        self.late_ns.append(time.perf_counter_ns() - due_ns)

    def _send(self, connection: Connection, due_ns: int) -> None:
        connection.due_ns, connection.held, connection.busy = due_ns, b"", True
        try:
            connection.socket.send(self._request)
        except OSError:
            self._lose(connection)

    def _take(self, connection: Connection) -> None:
        try:
            body = connection.body()
        except OSError:
            self._lose(connection)
            return
        if body is None:
            return
        self.took_ns.append(time.perf_counter_ns() - connection.due_ns)
        connection.busy = False
        self.wrong += body != self._answer
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _lose(self, connection: Connection) -> None:
        """It was closed: with its request, or while it was idle, which is a server's right."""
        if connection.busy:
            self.broken += 1
        else:
            self._idle.remove(connection)
        fd = connection.socket.fileno()
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        connection.socket.close()


def run(port: int, request: bytes, answer: bytes, rate: float, seconds: float, seed: int) -> Seen:
    generator = Generator(port, request, answer)
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, max(10, round(rate * seconds)))
    gc.disable()  # its pauses would be lag
    start = time.perf_counter_ns() + 5_000_000
    due_ns = [start + int(at) for at in np.cumsum(gaps)]
    generator.run(due_ns)
    took, late = generator.took_ns or [0], generator.late_ns or [0]
    p50, p99 = (float(value) / 1e3 for value in np.percentile(took, (50, 99)))
    return Seen(
        len(due_ns),
        len(generator.took_ns),
        generator.wrong,
        generator.broken,
        (due_ns[-1] - start) / 1e9,
        p50,
        p99,
        float(np.percentile(late, 99)) / 1e3,
        max(late) / 1e3,
        generator.connections,
    )


def main(arguments: list[str]) -> None:
    port, path, body_file, answer_file, key, rate, seconds, seed = arguments
    body = Path(body_file).read_bytes()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = Path(answer_file).read_bytes()
    seen = run(int(port), head.encode() + body, answer, float(rate), float(seconds), int(seed))
    print(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
