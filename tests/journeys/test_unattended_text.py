"""Ten minutes of vendors that fail in every way, and of callers who leave: memory that stays."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from fake_vendor import FakeVendor
from living import Living
from streaming import hear, play
from vendor_faults import APIS, PAIRS, SAYS, STREAMED, WHOLE, manifest

CALLERS = 6
LOOK_S = 5.0
MIB = 1 << 20
# A fault that lasts until a deadline would fill ten minutes with waiting.
SLOW = ("stall", "latency_ms", "endless")
QUICK = {
    True: [name for name, order in STREAMED.items() if not any(slow in order for slow in SLOW)],
    False: [name for name, order in WHOLE.items() if not any(slow in order for slow in SLOW)],
}


class Callers:
    """Who asks, of every fault by turns, until the time is over."""

    def __init__(self, server: Living, end: float) -> None:
        self._server = server
        self._end = end
        self.statuses: Counter[int] = Counter()
        self.left = 0
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def busy(self, within_s: float) -> bool:
        """Whether anybody still asks after so long."""
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return any(thread.is_alive() for thread in self._threads)

    def _ask_on(self, seed: int) -> None:
        dice = random.Random(seed)
        asks = [
            (face, f"route {face} by {target}: {name}", stream)
            for stream, names in QUICK.items()
            for name, (target, face) in itertools.product(names, PAIRS)
        ]
        while time.monotonic() < self._end:
            face, called, stream = dice.choice(asks)
            if dice.random() < 0.1:  # a caller who leaves in the middle
                play(lambda: hear(self._server.port, prompt("leaving", True), most=2))
                self.left += 1
                continue
            reply = self._server.ask("POST", f"/v1/{APIS[face]}", prompt(called, stream))
            self.statuses[reply.status] += 1


def prompt(called: str, stream: bool) -> bytes:
    said = [{"role": "user", "content": "count"}]
    return json.dumps({"model": called, "max_tokens": 99, "stream": stream, "messages": said}).encode()


def asked_for(folder: Path, minutes: float) -> tuple[dict[str, list[float]], Callers]:
    """MiB of each process, every few seconds, while all faults are met; and who met them."""
    with FakeVendor(folder) as vendor:
        declared = manifest(vendor)
        price = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
        leaving = {"runtime": "openai", "endpoint": vendor.url, "serves": f"x?says={SAYS}&gap_ms=20", "price": price}
        declared["models"]["leaving"] = leaving
        with Living(folder, declared) as server:
            processes = {kind: server.child(kind) for kind in ("worker", "shipper")}
            taken: dict[str, list[float]] = {kind: [] for kind in processes}
            callers = Callers(server, time.monotonic() + minutes * 60)
            callers.start()
            while callers.busy(LOOK_S):
                for kind, process in processes.items():
                    taken[kind].append(process.memory_full_info().uss / MIB)
            assert server.stop() == 0
            assert server.log_lines("ERROR|Traceback") == []
            stored = len(server.ids())
        assert stored == sum(callers.statuses.values()) + callers.left
    return taken, callers


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_ten_minutes_of_faults_and_of_callers_who_leave_take_no_memory(tmp_path: Path) -> None:
    taken, callers = asked_for(tmp_path, 10)
    requests = sum(callers.statuses.values()) + callers.left
    grown: dict[str, float] = {}
    for kind, mib in taken.items():
        settled = mib[len(mib) // 3 :]  # until then the allocator fills its pools
        slope = statistics.linear_regression(range(len(settled)), settled).slope * MIB
        grown[kind] = slope / (requests / len(mib))
        print(
            f"\n{kind}: {mib[0]:.1f} MiB at first, {settled[0]:.1f} after a third, {settled[-1]:.1f} at the end; "
            f"{grown[kind]:+.0f} bytes a request of {requests}, of which {callers.left} were left by their callers"
        )
    assert set(callers.statuses) == {200}, callers.statuses
    assert callers.left > 100
    assert max(grown.values()) < 64, grown
