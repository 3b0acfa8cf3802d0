"""A supervisor and a process that it can't end in order: nothing of that keeps it from stopping."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from servery.host.supervisor import Child, Supervisor

# It has a process of its own, which outlives it and has all that it had: also its end of the line to the supervisor.
FORKS = """
import os, sys, time
line = int(sys.argv[1])
if not os.fork():
    open(sys.argv[3], "w").write(str(os.getpid()))
    time.sleep(600)
os.write(line, b"ready\\n")
while os.read(line, 64):
    pass
"""


def test_a_process_that_leaves_another_behind_is_over_when_it_has_ended(tmp_path: Path) -> None:
    left = tmp_path / "left.txt"
    code = FORKS.replace("sys.argv[3]", repr(str(left)))
    child = Child("forks", (sys.executable, "-c", code), (), 5.0)

    def said(name: str, word: str) -> None:
        if word == "ready":
            os.kill(os.getpid(), signal.SIGTERM)

    async def run() -> bool:
        async with asyncio.timeout(30):
            return await Supervisor([child], [], said).run()

    began = time.monotonic()
    try:
        assert asyncio.run(run())
        assert time.monotonic() - began < 5.0
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(left.read_text()), signal.SIGKILL)
