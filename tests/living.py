"""A `servery up` whose life is the test: started without waiting, signalled, killed, and asked by a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil

from server import READY_S, Reply, Server
from servery.cli.child import free_port, servery_command
from servery.host.channel import connect_to
from servery.host.settings import DataFolder

TESTS = Path(__file__).parent
PROMISE_NS = 50_000_000  # a Record is safe this long after its answer
POLL_S = 0.02


def until(done: Callable[[], Any], limit_s: float = 50.0, said: Callable[[], object] = str) -> Any:
    """The first truthy value of `done`, looked at again and again; fails with `said` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not (value := done()):
        assert time.monotonic() < deadline, said()
        time.sleep(POLL_S)
    return value


class Answered(msgspec.Struct, frozen=True):
    """One call of the client process: status 0 when there was no answer, then `record` is the name of the error."""

    status: int
    record: str
    sent_ns: int
    ended_ns: int


class Client:
    """A process that asks again and again on some connections, until it is stopped. Its clock is ours."""

    def __init__(self, folder: Path, port: int, called: str, body: str, connections: int = 4) -> None:
        self._path = folder / f"client-{time.monotonic_ns()}.txt"
        with self._path.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(TESTS / "sending.py"), str(port), called, body, str(connections)],
                stdin=subprocess.PIPE,
                stdout=file,
            )

    def answers(self) -> list[Answered]:
        """What ended so far."""
        lines = self._path.read_text().splitlines(keepends=True)
        parts = [line.split() for line in lines if line.endswith("\n")]
        return [Answered(int(status), record, int(sent), int(ended)) for status, record, sent, ended in parts]

    def served(self, after_ns: int = 0) -> list[Answered]:
        return [answer for answer in self.answers() if answer.status == 200 and answer.ended_ns > after_ns]

    def stop(self) -> list[Answered]:
        """Everything it was answered, once it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(40)
        return self.answers()

    def end(self) -> None:
        """Nothing of it is left, also when nobody stopped it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Living(Server):
    """A Server that is started and ended by the test's own steps."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *options: str) -> None:
        super().__init__(folder, manifest, *options)
        self.port = free_port()
        self._clients: list[Client] = []

    def begin(self, **popen: Any) -> Self:
        """Start the process, and no more. What it writes is added to what an earlier one wrote."""
        arguments = ("up", str(self.manifest), "--port", str(self.port), "--data", str(self.data), *self._options)
        with (self.folder / "log.txt").open("ab") as log:
            given: dict[str, Any] = {"stdout": log, "stderr": log, **popen}
            process: subprocess.Popen[Any] = subprocess.Popen(
                [*servery_command(), *arguments], stdin=subprocess.DEVNULL, **given
            )
            self.process = process
        return self

    def __enter__(self) -> Self:
        try:
            return self.begin().await_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        """Whatever the test did: nothing of it is left."""
        for client in self._clients:
            client.end()
        left = [self.process.pid] if self.process and self.process.poll() is None else []
        for pid in left:
            for child in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        if self.process is not None and left:
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    def await_ready(self) -> Self:
        until(lambda: self.status_of("ready") == 200, READY_S, self.written)
        return self

    def status_of(self, health: str) -> int:
        """200 or 503; 0 when nobody listens."""
        try:
            return self.get(f"/v2/health/{health}").status
        except OSError:
            return 0

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, limit_s: float = 50.0) -> int:
        """The exit code, once it has ended by itself."""
        assert self.process is not None
        return self.process.wait(limit_s)

    def child(self, kind: str) -> psutil.Process:
        """The `worker` or `shipper` that runs now."""
        return until(lambda: self.find(kind), said=self.written)

    def await_busy(self, cpu_s: float = 0.1) -> None:
        """Until the worker computes: a call of a slow model, asked before, is under way.

        `cpu_s` above what its start may still take tells the two apart.
        """
        worker = self.child("worker")
        before = worker.cpu_times().user
        until(lambda: worker.cpu_times().user > before + cpu_s, said=self.written)

    def find(self, kind: str) -> psutil.Process | None:
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if (
                    re.search(f"servery.wiring {kind}", " ".join(child.cmdline()))
                    and child.status() != psutil.STATUS_ZOMBIE
                ):
                    return child
        return None

    def replicas(self) -> list[psutil.Process]:
        """The Replicas that run now."""
        return self._all("replica")

    def workers(self) -> list[psutil.Process]:
        """The workers that run now."""
        return self._all("worker")

    def _all(self, kind: str) -> list[psutil.Process]:
        assert self.process is not None
        found: list[psutil.Process] = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if f"servery.wiring {kind}" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def client(self, called: str, body: str, connections: int = 4) -> Client:
        self._clients.append(Client(self.folder, self.port, called, body, connections))
        return self._clients[-1]

    def controlled(self) -> bool:
        """Whether a controller answers the commands of this user."""
        try:
            connect_to(DataFolder(self.data).admin).close()
        except OSError:  # it starts again
            return False
        return True

    def ids(self) -> list[str]:
        """The ids of all Records in the ledger."""
        return [row[0] for row in self.records("SELECT lower(hex(id)) FROM records")]

    def await_stored(self, count: int) -> None:
        """Until the ledger holds so many Records."""

        def stored() -> bool:
            try:
                return len(self.ids()) == count
            except sqlite3.OperationalError:  # not made yet
                return False

        until(stored, said=self.written)

    def spool(self) -> list[Path]:
        """Files that wait in the spool."""
        return [path for path in (self.data / "spool").rglob("*") if path.suffix in {".open", ".seg"}]

    def log_lines(self, pattern: str) -> list[str]:
        return [line for line in self.written().splitlines() if re.search(pattern, line)]


@contextlib.contextmanager
def running(*servers: Living) -> Generator[None]:
    """Leaves no process of `servers` behind."""
    try:
        yield
    finally:
        for server in servers:
            server.__exit__()


def end(processes: Sequence[psutil.Process]) -> None:
    """Wait until all of these have ended by themselves, then make sure."""
    _, alive = psutil.wait_procs(processes, timeout=15)
    for process in alive:
        os.kill(process.pid, signal.SIGKILL)
    assert not alive


def up(*arguments: object, **popen: Any) -> subprocess.CompletedProcess[str]:
    """`servery up` that ends by itself."""
    return servery("up", *arguments, **popen)


def servery(*arguments: object, limit_s: float = 20.0, **popen: Any) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    command = [*servery_command(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, **popen)
    assert "Traceback" not in done.stderr
    return done


def apply(server: Server, *options: object, reason: str = "a test") -> subprocess.CompletedProcess[str]:
    """`servery apply` of the server's manifest, without being asked."""
    return servery("apply", server.manifest, "--data", server.data, "--yes", "--reason", reason, *options)


class Asked(threading.Thread):
    """One call, made now, whose answer is looked at later."""

    def __init__(self, server: Living, name: str, body: str) -> None:
        super().__init__()
        self.reply: Reply | None = None
        self.error: Exception | None = None
        self._ask = lambda: server.infer(name, body.encode())
        self.start()

    def run(self) -> None:
        try:
            self.reply = self._ask()
        except Exception as error:
            self.error = error

    def status(self) -> int:
        self.join()
        return self.reply.status if self.reply else 0
