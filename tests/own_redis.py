"""A redis-server of the tests' own, on loopback, which keeps nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest

from living import until
from servery.cli.child import free_port
from servery.host.clock import Clock
from servery.quota.redis_server import RedisServer
from servery.terms.limits import Counters


class OwnRedis:
    """The process, as a context manager; it may be killed and started again at the same place."""

    def __init__(self, folder: Path, *options: str) -> None:
        if shutil.which("redis-server") is None:
            assert not os.environ.get("CI"), "CI must install redis-server"
            pytest.skip("needs redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._log = folder / "redis.txt"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._log.parent))
        keeps_nothing = ("--save", "", "--appendonly", "no")
        with self._log.open("ab") as log:
            command = ["redis-server", *where, *keeps_nothing, *self._options]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers, said=self._log.read_text)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL: what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def command(self, *words: str) -> bytes:
        """What it answers to one command, as it is on the wire."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as line:
            if "--requirepass" in self._options:
                _say(line, "AUTH", self._options[-1])
            return _say(line, *words)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False


def _say(line: socket.socket, *words: str) -> bytes:
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    line.sendall("".join(parts).encode())
    return line.recv(65536)


def connected(url: str, prefix: str = "servery", password: str = "", worker: str = "w") -> RedisServer:
    """A worker's way there."""
    return RedisServer(Counters(redis=url, prefix=prefix), password, worker, Clock().steady_ns)
