"""Process trees as the kernel counts them: start one on a core, its CPU time, its memory, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType

TICKS = os.sysconf("SC_CLK_TCK")
START_S = 60.0
STOP_S = 40.0


class Failed(Exception):
    """A process did not do what the benchmark needs; the message says which and where its output is."""


class Tree:
    """A process and its descendants, all on one core: the affinity is set before exec, so that children inherit it."""

    def __init__(
        self, command: list[str], core: int, log: Path, folder: Path, variables: dict[str, str] | None = None
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._root = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
            )
        self.pid = self._root.pid

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole tree when that isn't obeyed in time."""
        if self._root.poll() is not None:
            return
        members = self.members()
        self._root.terminate()
        try:
            self._root.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._root.kill()
            self._root.wait()
        for pid in members[1:]:  # a child that its parent forgot
            _signal(pid, signal.SIGKILL)

    @property
    def ended(self) -> bool:
        return self._root.poll() is not None

    def last_words(self) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-1500:]

    @contextlib.contextmanager
    def still(self) -> Generator[None]:
        """Everything in it stands still meanwhile."""
        members = self.members()
        for pid in members:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(members):
                _signal(pid, signal.SIGCONT)

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Poll `ready`; Failed when the process ends first, or after a minute."""
        deadline = time.monotonic() + START_S
        while not ready():
            if self._root.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{what}: not ready; its output:\n{self.last_words()}")
            time.sleep(0.05)

    def members(self) -> list[int]:
        """The ids of the root and of every living descendant."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.pid]
        for pid in found:  # grows while it is walked
            found.extend(children.get(pid, ()))
        return found

    def cpu_s(self, *pids: int) -> float:
        """User and system seconds so far, with those of reaped children; of the whole tree when no ids are given."""
        return sum(sum(int(ticks) for ticks in _stat(pid)[11:15]) for pid in pids or self.members()) / TICKS

    def command(self, pid: int) -> str:
        """The command line of one member."""
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()

    def threads_s(self, pid: int) -> dict[int, float]:
        """User and system seconds so far of each thread of one member."""
        return {
            int(thread.name): sum(int(ticks) for ticks in _stat(pid, int(thread.name))[11:13]) / TICKS
            for thread in Path(f"/proc/{pid}/task").iterdir()
        }

    def cores(self) -> set[int]:
        """Where any thread of the tree may run: one core, or the benchmark is wrong."""
        allowed: set[int] = set()
        for pid in self.members():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                allowed |= os.sched_getaffinity(int(thread.name))
        return allowed

    def memory(self) -> dict[int, tuple[str, float]]:
        """By process id: its command line and its proportional set size in MB (10^6 bytes)."""
        weighed: dict[int, tuple[str, float]] = {}
        for pid in self.members():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kilobytes = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            weighed[pid] = (self.command(pid), kilobytes * 1024 / 1e6)
        return weighed


def _stat(pid: int, thread: int | None = None) -> list[str]:
    """Fields of a process's or a thread's `stat` from the third (state) on; none when it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, number)
