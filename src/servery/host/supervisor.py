"""The supervisor: starts processes in order, starts them again when they die, and stops them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from servery.host.channel import get

log = logging.getLogger("servery.supervisor")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_STEADY_S = 10.0  # a process that lived this long starts again after the first pause
_LAST_WORDS_S = 1.0
_NOW_S = 3.0  # how long a process that is told to stop now may take
_FIRST_ANSWER_S = 60.0  # how long a process that is watched may take until it answers for the first time
_HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Not SIGTERM once more: a service manager may send that to every process by itself, and must not cut requests short.
NOW = signal.SIGUSR1


class Watch(msgspec.Struct, frozen=True):
    """Where a process says that it lives: a GET of `url` at the socket `path`. After `threshold` looks in a row
    without an answer it is killed, and starts again.
    """

    path: str
    url: str
    interval_s: float
    limit_s: float
    threshold: int


class Child(msgspec.Struct, frozen=True):
    """A kind of process: how to start it, which descriptors it inherits, and how long it may take to stop.

    Those of the highest `stage` stop first, and those of one stage together. One that `finishes` has work to do at its
    end: if it had died when it was to stop, it gets one more life for that.
    """

    name: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...]
    stop_limit_s: float
    stage: int = 0
    watch: Watch | None = None
    finishes: bool = False


class Lifeline:
    """A child's end of the socket to its supervisor: says how it is, and reads its end when it is to stop.

    Unlike a signal it can't come too early, and it also comes when the supervisor was killed. `life` counts the times
    that the child was started again: 0 at first.
    """

    def __init__(self, descriptor: int, life: int) -> None:
        self.life = life
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)

    def say(self, word: str) -> None:
        try:
            self._socket.send(word.encode()[:4000] + b"\n")
        except OSError:
            log.warning("the supervisor is gone")

    def when_ended(self, act: Callable[[], None]) -> None:
        """Call `act` on the running loop when this process is to stop."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            if self._has_ended():
                loop.remove_reader(self._socket)
                act()

        loop.add_reader(self._socket, readable)

    def wait_ended(self) -> None:
        """Block until this process is to stop."""
        self._socket.setblocking(True)
        while not self._has_ended():
            pass

    def _has_ended(self) -> bool:
        try:
            return not self._socket.recv(64)
        except BlockingIOError:
            return False
        except OSError:  # it was killed before it had read what we said
            return True


class Watched:
    """One child's life: started, watched, started again with back-off, stopped."""

    def __init__(self, child: Child, said: Callable[[str, str], None]) -> None:
        self.child = child
        self.process: asyncio.subprocess.Process | None = None
        self._said = said
        self._line: socket.socket | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._life = 0
        self._hurried = False
        self._answered = False  # in this life
        self._meant_for_later = 0  # a signal
        self.killed = False  # because it didn't stop in time

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._live(), name=self.child.name)

    async def _live(self) -> None:
        if not await self._lives() and self.child.finishes and not self._hurried:
            with contextlib.suppress(OSError):  # no process to be had
                await self._one_life()

    async def _lives(self) -> bool:
        """One life after another until it is to stop; whether the last one ended well."""
        pause = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                code = await self._one_life()
                how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            except OSError as error:  # no memory, no process to be had: it may pass
                code = 1
                how = f"can't be started: {error}"
            if self._stopping.is_set():
                return code == 0
            if loop.time() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            log.error("the %s %s; it starts again in %.1f s", self.child.name, how, pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE_S)
        return False

    async def _one_life(self) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                self.process = await asyncio.create_subprocess_exec(
                    *self.child.arguments,
                    str(theirs.fileno()),
                    str(self._life),
                    pass_fds=(*self.child.descriptors, theirs.fileno()),
                    # A terminal's Ctrl-C is for the supervisor, which stops in order. Not a session: Linux would give each
                    # one an equal share of the processor (autogroup), and the shipper's nice value would mean nothing.
                    process_group=0,
                )
            self._line = ours
            self._life += 1
            self._answered = False
            if self._stopping.is_set():  # asked for while the process was being made
                self._end_line()
            loop = asyncio.get_running_loop()
            listening = loop.create_task(self._listen(ours))
            watching = loop.create_task(self._watch(self.child.watch)) if self.child.watch is not None else None
            code = await self.process.wait()
            if watching is not None:
                watching.cancel()
            # What it has said is here. The end of its line may never come: a process that it has left behind may have it still.
            await asyncio.wait((listening,), timeout=_LAST_WORDS_S)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            self._line = None
            return code

    async def _watch(self, watch: Watch) -> None:
        """Kill the process when it doesn't answer any more; what hangs can't end by itself."""
        missed = 0
        while not self._stopping.is_set():
            await asyncio.sleep(watch.interval_s)
            if await get(Path(watch.path), watch.url, watch.limit_s):
                self._answered, missed = True, 0
                continue
            missed += 1
            passed_s = missed * watch.interval_s
            silent = missed >= watch.threshold and (self._answered or passed_s > _FIRST_ANSWER_S)
            if silent and not self._stopping.is_set():
                log.error("the %s didn't answer %d times in a row and is killed", self.child.name, missed)
                self.signal(signal.SIGKILL)
                return

    def _end_line(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):  # it ended meanwhile
                self._line.shutdown(socket.SHUT_WR)

    async def _listen(self, line: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        rest = b""
        while received := await _receive(loop, line):
            *words, rest = (rest + received).split(b"\n")
            for word in words:
                if word == b"ready":
                    self._answered = True
                    number, self._meant_for_later = self._meant_for_later, 0
                    if number:
                        self.signal(number)
                self._said(self.child.name, word.decode(errors="replace"))

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    def signal_when_ready(self, number: int) -> None:
        """Send a signal that would end it if it came before it is ready."""
        if self._answered:
            self.signal(number)
        else:
            self._meant_for_later = number

    async def stop(self) -> None:
        """End its lifeline, then SIGKILL when the limit has passed."""
        self._stopping.set()
        self._end_line()
        if self._task is None:
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._task), self.child.stop_limit_s)
        except TimeoutError:
            log.error("the %s didn't stop within %g s and is killed", self.child.name, self.child.stop_limit_s)
            self.killed = True
            self.signal(signal.SIGKILL)
            await self._task

    def stop_now(self) -> None:
        """NOW, then SIGKILL a moment later; `stop` returns when it has ended."""
        self._hurried = True
        self._stopping.set()
        self.signal(NOW)
        asyncio.get_running_loop().call_later(_NOW_S, self.signal, signal.SIGKILL)


async def _receive(loop: asyncio.AbstractEventLoop, line: socket.socket) -> bytes:
    """The next bytes; none when the other end is closed, in whatever way."""
    try:
        return await loop.sock_recv(line, 4096)
    except OSError:
        return b""


class Supervisor:
    """Runs `children`, and stops them stage by stage. `listeners` are closed when stopping begins."""

    def __init__(
        self, children: Sequence[Child], listeners: Sequence[socket.socket], said: Callable[[str, str], None]
    ) -> None:
        self._watched = {child: Watched(child, said) for child in children}
        self._listeners = listeners
        self._said = said
        self._stopping = asyncio.Event()
        self._hurried = False
        self._going: dict[asyncio.Task[None], Watched] = {}  # those that are wanted no more, until they have ended

    def want(self, children: Sequence[Child]) -> None:
        """Run these from now on: new ones are started, those that aren't among them drain, the others run on.

        Their order is that of starting; nothing happens once stopping has begun.
        """
        if self._stopping.is_set():
            return
        before = self._watched
        self._watched = {child: before.get(child) or Watched(child, self._said) for child in children}
        loop = asyncio.get_running_loop()
        for child, watched in before.items():
            if child not in self._watched:
                task = loop.create_task(watched.stop())
                self._going[task] = watched
                task.add_done_callback(self._going.pop)
        for child, watched in self._watched.items():
            if child not in before:
                watched.start()

    def _signalled(self) -> None:
        if self._stopping.is_set():
            self._hurried = True
            for watched in (*self._watched.values(), *self._going.values()):
                watched.stop_now()
        self._stopping.set()

    def _pass_on(self, number: int, name: str) -> None:
        for watched in self._watched.values():
            if watched.child.name == name:
                watched.signal_when_ready(number)

    async def run(self) -> bool:
        """Until SIGTERM or SIGINT; a second one tells the children to stop now. Whether they could stop in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP, "controller")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        for watched in self._watched.values():
            watched.start()
        await self._stopping.wait()
        log.info("stopping once what is in flight has ended; a second signal stops at once")
        for listener in self._listeners:
            listener.close()
        for stage in sorted({child.stage for child in self._watched}, reverse=True):
            together = [watched.stop() for child, watched in self._watched.items() if child.stage == stage]
            await asyncio.gather(*together)
        await asyncio.gather(*self._going)
        return not self._hurried and not any(watched.killed for watched in self._watched.values())


def hold_signals() -> None:
    """Have those that stop it wait until a Supervisor runs, which knows what to do."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def python(*arguments: str) -> tuple[str, ...]:
    """The command line of a child in this interpreter, with what it may import fixed: nothing from the work folder."""
    return (sys.executable, "-P", *arguments)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that children inherit; OSError says what is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener
