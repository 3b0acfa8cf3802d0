"""`servery` whose controller kills itself at a given point of a change: `faulty.py FILE` and the arguments of servery.

FILE names the point of the next `apply`, and goes when it was reached. The product knows nothing of this: what the
controller does at its own seams (the journal, what it publishes, what workers say) is wrapped before it starts.

A point is NAME:before or NAME:after; of what happens several times NAME#2 is the second one since the change began.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from servery.cli import app
from servery.control import journal, loop
from servery.host.supervisor import python
from servery.store.state import State
from servery.terms.messages import Acknowledged
from servery.wiring import __main__, supervisor


class Fault:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Counter[str] = Counter()
        self._on = False

    def begin(self) -> None:
        """A change begins: from here on points are counted."""
        self._on = True
        self._seen.clear()

    def count(self, name: str) -> str:
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f"{name}#{self._seen[name]}"

    def at(self, point: str) -> None:
        if self._on and self._path.exists() and self._path.read_text() == point:
            self._path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: Callable[..., str], act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            point = self.count(name(*arguments))
            self.at(f"{point}:before")
            result = act(*arguments)
            self.at(f"{point}:after")
            return result

        return wrapped

    def around_slow(self, name: Callable[..., str], act: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*arguments: Any) -> Any:
            point = self.count(name(*arguments))
            self.at(f"{point}:before")
            result = await act(*arguments)
            self.at(f"{point}:after")
            return result

        return wrapped


def arm(fault: Fault) -> None:
    begin = journal.Journal.begin

    async def beginning(self: Any, intent: Any, *rest: Any) -> None:
        if intent.act == "apply":
            fault.begin()
        fault.at("begin:before")
        await begin(self, intent, *rest)
        fault.at("begin:after")

    def heard(_: Any, __: Any, message: Any) -> str:
        return "acknowledged" if isinstance(message, Acknowledged) else "something else"

    def stepping(_: Any, step: str, *__: Any) -> str:
        return step

    put(journal.Journal, "begin", beginning)
    put(journal.Journal, "step", fault.around_slow(stepping, journal.Journal.step))
    put(journal.Journal, "end", fault.around_slow(lambda *_: "end", journal.Journal.end))
    put(State, "write_head", fault.around(lambda *_: "head", State.write_head))
    put(loop, "publish", fault.around(lambda *_: "publish", loop.publish))
    put(loop.Controller, "_hear", fault.around(heard, vars(loop.Controller)["_hear"]))


def put(where: Any, name: str, act: Any) -> None:
    setattr(where, name, act)


def main() -> None:
    path, *arguments = sys.argv[1:]
    if arguments[0] == "servery.wiring":
        arm(Fault(Path(path)))
        sys.argv = arguments
        __main__.main()
        return
    plain = supervisor.command

    def command(kind: str, settings: msgspec.Struct) -> tuple[str, ...]:
        if kind != "controller":
            return plain(kind, settings)
        return python(__file__, path, "servery.wiring", kind, msgspec.json.encode(settings).decode())

    put(supervisor, "command", command)
    sys.argv = ["servery", *arguments]
    app.main()


if __name__ == "__main__":
    main()
