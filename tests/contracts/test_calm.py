"""Work that runs when no other wants the core: on a core that others want all the time it must still end when it has to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lines import attempt, no_uptime, record, rows
from servery.host.clock import Clock
from servery.store.calm import Calm
from servery.store.shipper import Shipper
from servery.store.spool import Spool
from servery.terms.server import Records

STOP_S = 25.0  # before the supervisor kills what doesn't stop


@pytest.fixture
def busy_core() -> Iterator[int]:
    """A core that a process of ours wants all the time."""
    core = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        yield core
        hog.kill()


def burn(cpu_s: float) -> None:
    while time.thread_time() < cpu_s:
        pass


def test_a_shipper_stops_in_time_though_others_want_its_core(tmp_path: Path, busy_core: int) -> None:
    ledger, stop = tmp_path / "ledger.db", threading.Event()
    (tmp_path / "spool").mkdir()

    async def fill() -> None:
        spool = Spool(tmp_path / "spool", "r1", Records(), Clock(), no_uptime)
        await spool.start()
        for _ in range(2_000):
            spool.append(record(attempt()))
        await spool.drain()

    asyncio.run(fill())

    def ship() -> None:
        os.sched_setaffinity(0, {busy_core})  # of this thread and those that it starts
        Shipper(tmp_path / "spool", ledger, Records(), Clock()).run(stop)

    thread = threading.Thread(target=ship, daemon=True)
    thread.start()
    stop.wait(0.5)
    stop.set()
    thread.join(STOP_S)
    assert not thread.is_alive()
    assert rows(ledger, "SELECT count(*) FROM records") == [(2_000,)]


def test_what_has_waited_for_long_or_has_to_stop_is_hurried(busy_core: int) -> None:
    stop, told = threading.Event(), threading.Event()

    def work() -> bool:
        burn(0.001)
        return told.wait(STOP_S)

    calm = Calm(Clock(), 10**8)
    assert calm.idly(work, stop, told.set)
    assert told.is_set()
    told.clear()
    stop.set()
    impatient = Calm(Clock(), 10**15)
    assert impatient.idly(work, stop, told.set)
    calm.close()
    impatient.close()


def test_who_works_nicely_has_a_small_share_and_the_process_keeps_its_own() -> None:
    calm = Calm(Clock(), 10**9)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nice = calm.nicely(lambda: os.getpriority(os.PRIO_PROCESS, 0), threading.Event(), lambda: None)
    assert (nice - own, os.getpriority(os.PRIO_PROCESS, 0)) == (10, own)
    calm.close()


def test_what_goes_wrong_is_raised_where_it_was_asked_for() -> None:
    calm = Calm(Clock(), 10**9)
    with pytest.raises(ZeroDivisionError):
        calm.idly(lambda: 1 // 0, threading.Event(), lambda: None)
    calm.close()
