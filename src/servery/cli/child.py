"""A `servery` of our own in a child process: started, waited for, stopped, whatever happens in between."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from servery.host.clock import Clock

READY_S = 60.0
STOP_S = 40.0
POLL_S = 0.05


class ChildFailed(Exception):
    """The server ended, or did not become ready in time; the message holds what it wrote."""


class Child:
    """`servery up MANIFEST`, or another command that serves a port of loopback, as a context manager: ready once it is
    entered, gone once it is left.
    """

    def __init__(
        self, arguments: Sequence[str | Path], port: int, clock: Clock, ready: str = "/v2/health/ready"
    ) -> None:
        self.port = port or free_port()
        self._clock = clock
        self._ready = ready  # the path that answers 200 when we may begin
        self._command = [*servery_command(), *map(str, arguments), "--port", str(self.port)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        # In a session of its own: a Ctrl-C in our terminal reaches us only, and we stop it in order.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, and the end of the process; a process that ignores it for 40 s is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._output.close()

    def written(self) -> str:
        """What it has written so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace").strip()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline_ns = self._clock.steady_ns() + int(READY_S * 1e9)
        while not self._is_ready():
            if process.poll() is not None:
                raise ChildFailed(f"the server ended with exit code {process.returncode}:\n{self.written()}")
            if self._clock.steady_ns() > deadline_ns:
                raise ChildFailed(f"the server was not ready within {READY_S:.0f} s:\n{self.written()}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def servery_command() -> list[str]:
    """This very installation's `servery`, whatever PATH says."""
    return [sys.executable, "-c", "import sys; from servery.cli.app import main; sys.exit(main())"]


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def typed(name: str) -> str:
    """How `name`, a program of this installation, is typed here: with its path where the shell would not find it."""
    ours = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found and Path(found).parent == ours.parent:
        return name
    return str(ours.relative_to(Path.cwd())) if ours.is_relative_to(Path.cwd()) else str(ours)
