"""A thousand streams at once on one worker: all whole, all in the books, and nobody else is kept waiting; and what is left of them."""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fake_vendor import FakeVendor
from living import Living, running, until
from servery.host.tuning import open_many
from streaming import Heard, answered, hear_all, play

STREAMS = 1_000
WORDS = 12
GAP_MS = 1_000
MIB = 1 << 20
PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    def at(serves: str) -> dict[str, Any]:
        return {"runtime": "openai", "endpoint": vendor.url, "serves": serves, "price": PRICE}

    models = {
        "slowly": at(f"slowly?tokens={WORDS}&gap_ms={GAP_MS}"),
        "quick": at("quick?tokens=5"),
        "canned": {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "Nine to five."}]},
        "endless": at("endless?tokens=2000&gap_ms=500"),
    }
    routes = {
        name: {"deadline_ms": 120_000, "tiers": [{"name": "only", "model": name}]} for name in ("slowly", "endless")
    }
    routes = {f"route {name}": route for name, route in routes.items()}
    return {"models": models, "routes": routes, "server": {"concurrency_per_worker": 2_000}}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def prompt(called: str, number: int, stream: bool = True) -> bytes:
    said = [{"role": "user", "content": f"Tell me the story number {number}."}]
    return json.dumps({"model": called, "messages": said, "stream": stream}).encode()


class Seen:
    """What the worker took at its most."""

    def __init__(self, worker: psutil.Process) -> None:
        self.worker = worker
        self.mib = 0.0
        self.descriptors = 0
        self.waits_s: list[float] = []

    def look(self) -> None:
        self.mib = max(self.mib, self.worker.memory_full_info().uss / MIB)
        self.descriptors = max(self.descriptors, self.worker.num_fds())

    async def look_on(self, port: int, until: asyncio.Future[Any]) -> None:
        """Look, and ask for something small, until the others are done."""
        number = 0
        while not until.done():
            number += 1
            self.waits_s.append(await answered(port, prompt("canned", number, stream=False)))
            self.look()
            await asyncio.sleep(0.1)


def stream_on(server: Living, seen: Seen) -> list[Heard]:
    """A thousand streams, and the small requests beside them."""

    async def scene() -> list[Heard]:
        streams = asyncio.ensure_future(
            hear_all(server.port, [prompt("route slowly", number) for number in range(STREAMS)])
        )
        await seen.look_on(server.port, streams)
        return await streams

    return play(scene)


def check_heard(heard: list[Heard]) -> None:
    assert [one for one in heard if one.error or not one.done or len(one.words) != WORDS] == []
    assert max(one.words[0] for one in heard) < min(one.words[-1] for one in heard)  # all were open at once
    first, gaps = [one.first_s for one in heard], [gap for one in heard for gap in one.gaps_s]
    print(f"\nfirst word after {_ms(first)}; {len(gaps)} gaps of {GAP_MS} ms at the vendor were {_ms(gaps)}")
    assert statistics.median(gaps) < 1.5 * GAP_MS / 1e3


def _ms(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"{1e3 * cuts[49]:.0f} (p50), {1e3 * cuts[98]:.0f} (p99), {1e3 * max(seconds):.0f} ms (most)"


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_thousand_streams_at_once_are_whole_and_starve_nobody(vendor: FakeVendor, tmp_path: Path) -> None:
    open_many()
    before = len(vendor.invoice())
    with Living(tmp_path, manifest(vendor)) as server:
        worker = server.child("worker")
        play(lambda: answered(server.port, prompt("quick", 0, stream=False)))  # it connects
        mib, descriptors = worker.memory_full_info().uss / MIB, worker.num_fds()
        rounds: list[Seen] = []
        for _ in range(2):
            rounds.append(Seen(worker))
            check_heard(stream_on(server, rounds[-1]))
            print(f"meanwhile {len(rounds[-1].waits_s)} small requests took {_ms(rounds[-1].waits_s)}")
            assert statistics.quantiles(rounds[-1].waits_s, n=20)[18] < 1
            until(lambda: worker.num_fds() <= descriptors + 8, 90)  # connections that are kept end when they were idle
        first, second = rounds
        left = worker.memory_full_info().uss / MIB
        print(
            f"memory {mib:.1f} MiB before, {first.mib:.1f} at the most ({1024 * (first.mib - mib) / STREAMS:.0f} KiB a stream), "
            f"{second.mib:.1f} in a second round, {left:.1f} after it; {first.descriptors} descriptors at the most, "
            f"{descriptors} before, {worker.num_fds()} after"
        )
        assert first.descriptors > 2 * STREAMS
        assert first.mib - mib < STREAMS * 0.2  # 200 KiB a stream
        assert second.mib < first.mib + 8
        assert server.stop() == 0
        rows = server.records("select outcome, attempts from records where route = 'route slowly'")
        lines = [line for line in vendor.invoice()[before:] if line["model"].startswith("slowly")]
        tokens = [attempt["tokens"] for _, attempts in rows for attempt in json.loads(attempts)]
        assert {outcome for outcome, _ in rows} == {"served"}
        assert len(rows) == len(lines) == 2 * STREAMS
        assert (
            sum(each["output"] for each in tokens)
            == sum(line["completion_tokens"] for line in lines)
            == 2 * STREAMS * WORDS
        )
        assert sum(each["input"] for each in tokens) == sum(line["prompt_tokens"] for line in lines)
        assert server.log_lines("ERROR|Traceback") == []


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_thousand_callers_who_leave_end_their_calls_and_pay_for_what_was_said(
    vendor: FakeVendor, tmp_path: Path
) -> None:
    open_many()
    before = len(vendor.invoice())
    with Living(tmp_path, manifest(vendor)) as server:
        worker = server.child("worker")
        play(lambda: answered(server.port, prompt("quick", 0, stream=False)))
        descriptors = worker.num_fds()
        for number in range(5):  # so that it is known how long a token is there
            play(lambda: answered(server.port, prompt("endless", number, stream=False)))  # noqa: B023 it is played now
        bodies = [prompt("route endless", number) for number in range(STREAMS)]
        heard = play(lambda: hear_all(server.port, bodies, 4))
        assert {len(one.words) for one in heard} == {4}
        lines = until(
            lambda: all((found := vendor.invoice()[before + 6 :]) and [line["ended"] for line in found]) and found, 60
        )
        until(lambda: worker.num_fds() <= descriptors + 8, 90)
        play(lambda: answered(server.port, prompt("quick", 1, stream=False)))  # there are turns for others
        assert server.stop() == 0
        rows = server.records("select outcome, pico_usd, attempts from records where route = 'route endless'")
        assert len(rows) == len(lines) == STREAMS
        assert {outcome for outcome, _, _ in rows} == {"abandoned"}
        attempts = [attempt for _, _, text in rows for attempt in json.loads(text)]
        assert all(attempt["estimated"] and attempt["outcome"] == "abandoned" for attempt in attempts)
        ours = sum(attempt["tokens"]["input"] + attempt["tokens"]["output"] for attempt in attempts)
        theirs = sum(line["prompt_tokens"] + line["completion_tokens"] for line in lines)
        print(f"\n{STREAMS} callers left; the vendor billed {theirs} tokens, {ours} were booked")
        assert ours == pytest.approx(theirs, rel=0.15)
        assert max(line["completion_tokens"] for line in lines) < 100
        assert server.log_lines("ERROR|Traceback") == []


def test_a_worker_opens_more_connections_than_a_shell_lets_it_by_itself(vendor: FakeVendor, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    server = Living(tmp_path, manifest(vendor))
    try:
        server.begin()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with running(server):
        server.await_ready()
        bodies = [prompt("quick", number) for number in range(150)]
        assert all(one.done for one in play(lambda: hear_all(server.port, bodies)))
