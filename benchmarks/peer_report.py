"""What bench_peers.py found, as a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from open_loop import Seen
from pairs import Measured, Result, spread

LATE_US = 1000.0  # a client later than this measures itself


class Opened(msgspec.Struct, frozen=True):
    """A run of random arrivals at a share of what a server can do."""

    name: str
    share: float
    rate: float
    seen: Seen
    unsettled: str = ""

    @property
    def fault(self) -> str:
        seen = self.seen
        if seen.wrong or seen.broken or seen.answered < seen.sent:
            left = seen.sent - seen.answered - seen.broken
            return f"{seen.wrong} wrong answers, {seen.broken} broken connections, {left} without an answer"
        return self.unsettled

    @property
    def punctual(self) -> bool:
        """Whether the client kept up with its own plan, so that the figures are the server's."""
        return self.seen.late_p99_us < LATE_US


class Block(msgspec.Struct, frozen=True):
    """All about one contender. `weights`: MB of Servery and of it after the load; `missing`: why there is nothing."""

    name: str
    words: str
    version: str = ""
    http: tuple[Result, ...] = ()
    opened: tuple[Opened, ...] = ()
    grpc: tuple[Result, ...] = ()
    weights: tuple[float, ...] = ()
    missing: str = ""

    @property
    def faults(self) -> list[str]:
        results = [f"{result.row.name}: {fault}" for result in (*self.http, *self.grpc) for fault in result.faults]
        return results + [f"open loop, {one.name}: {one.fault}" for one in self.opened if one.fault]


def page(blocks: Sequence[Block], facts: Sequence[str]) -> list[str]:
    """The lines of the page."""
    there = [block for block in blocks if not block.missing]
    lines = ["# Servery and other model servers", "", *facts, ""]
    lines += [
        "One JSON row of 30 numbers to one linear ONNX model, which answers a label and two probabilities; the same bytes to",
        "each server, every answer compared. Both servers on core 0, the client on core 1, in turn; who isn't measured stands",
        "still. Servery checks a key, limits and a deadline, and keeps a durable Record of each answer; the others do not.",
        "The ratio is Servery's throughput to the other's, by neighbouring runs. CPU is that of the whole tree for one request,",
        "Servery's with the ledger's catching up. Memory is the proportional set size of the tree after the load. Where the",
        "client was busy near 100 % of its core (its start is counted in), it set the pace.",
        "",
    ]
    lines += [_about(block) for block in blocks]
    lines += _summary(there)
    lines += _closed("HTTP", [(block, result) for block in there for result in block.http])
    lines += _closed("gRPC", [(block, result) for block in there for result in block.grpc])
    lines += _opened(there)
    lines += _memory(there)
    faults = [f"- {block.name}: {fault}" for block in there for fault in block.faults]
    return lines + (["", "## What does not count", "", *faults] if faults else [])


def _about(block: Block) -> str:
    if block.missing:
        return f"- **{block.name}** is missing on this machine: {_short(block.missing)}"
    return f"- **{block.name}**{f' ({block.version})' if block.version else ''}: {block.words}"


def _short(reason: str) -> str:
    return " ".join(reason.split())[:400]


def _summary(blocks: Sequence[Block]) -> list[str]:
    """Servery's throughput and p99 over the other's, at each number in flight."""
    rows: list[tuple[str, ...]] = []
    for face in ("HTTP", "gRPC"):
        for block in blocks:
            results = [result for result in (block.http if face == "HTTP" else block.grpc) if result.pairs]
            if results:
                slow = [
                    result.median(lambda pair: pair.other.run.p99_us / max(pair.floor.run.p99_us, 1))
                    for result in results
                ]
                fast = [spread(result.ratios())[0] for result in results]
                ahead = min(fast) >= 1 and max(slow) <= 1
                counts = ", ".join(str(result.row.in_flight) for result in results)
                rows.append((face, block.name, counts, _numbers(fast), _numbers(slow), "yes" if ahead else "no"))
    head = ("", "server", "in flight", "Servery's throughput to its", "Servery's p99 to its", "ahead in all")
    return ["", *_table(head, rows)] if rows else []


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _closed(title: str, found: Sequence[tuple[Block, Result]]) -> list[str]:
    if not found:
        return []
    head = ("server", "in flight", "its /s", "Servery /s", "ratio", "its p50, p99 ms", "Servery p50, p99 ms")
    head += ("CPU µs: its, Servery", "client busy %: its, Servery", "Servery is ahead")
    return ["", f"## {title}", "", *_table(head, [_closed_cells(block, result) for block, result in found])]


def _closed_cells(block: Block, result: Result) -> tuple[str, ...]:
    if not result.pairs:
        return (block.name, str(result.row.in_flight), *["–"] * 8)
    ratio, least, most = spread(result.ratios())
    theirs, ours = ([getattr(pair, side) for pair in result.pairs] for side in ("floor", "other"))
    return (
        block.name,
        str(result.row.in_flight),
        f"{_middle(theirs, 'per_second'):,.0f}",
        f"{_middle(ours, 'per_second'):,.0f}",
        f"{ratio:.2f} ({least:.2f}–{most:.2f})",
        _latency(theirs),
        _latency(ours),
        f"{_cpu_us(theirs):.0f}, {_cpu_us(ours):.0f}",
        f"{_client(theirs):.0f}, {_client(ours):.0f}",
        _ahead(ratio, _middle(ours, "p99_us"), _middle(theirs, "p99_us")),
    )


def _ahead(ratio: float, our_p99: float, their_p99: float) -> str:
    behind = ["throughput"] * (ratio < 1) + ["p99"] * (our_p99 > their_p99)
    return f"no: {' and '.join(behind)}" if behind else "yes"


def _middle(runs: Sequence[Measured], field: str) -> float:
    return spread([getattr(one.run, field) for one in runs])[0]


def _latency(runs: Sequence[Measured]) -> str:
    return ", ".join(f"{_middle(runs, field) / 1000:.2f}" for field in ("p50_us", "p99_us"))


def _client(runs: Sequence[Measured]) -> float:
    """Per cent of its core; near 100 the client set the pace."""
    return spread([100 * one.run.wrk_cpu_s / one.run.seconds for one in runs])[0]


def _cpu_us(runs: Sequence[Measured]) -> float:
    late = [one.settled.cpu_s * 1e6 / max(one.run.requests, 1) if one.settled else 0.0 for one in runs]
    return spread([one.run.cpu_us + more for one, more in zip(runs, late, strict=True)])[0]


def _opened(blocks: Sequence[Block]) -> list[str]:
    rows = [
        (
            theirs.name,
            f"{100 * theirs.share:.0f} %",
            *_open_cells(theirs),
            *_open_cells(ours),
            "; ".join(_uncounted(one) for one in (theirs, ours) if _uncounted(one)) or "yes",
        )
        for block in blocks
        for ours, theirs in pairwise(block.opened)
        if ours.name != block.name == theirs.name
    ]
    if not rows:
        return []
    head = ("server", "of its own maximum", "its /s", "its p50, p99 ms", "client's lag: p99, max ms")
    head += ("Servery /s", "Servery p50, p99 ms", "client's lag", "counts")
    words = "Requests at random moments (Poisson), each server at shares of its own maximum; latency from the moment one was due."
    return ["", "## HTTP, open loop", "", words, "", *_table(head, rows)]


def _open_cells(one: Opened) -> tuple[str, str, str]:
    seen = one.seen
    return (
        f"{one.rate:,.0f}",
        f"{seen.p50_us / 1000:.2f}, {seen.p99_us / 1000:.2f}",
        f"{seen.late_p99_us / 1000:.2f}, {seen.late_max_us / 1000:.2f}",
    )


def _uncounted(one: Opened) -> str:
    reason = one.fault or ("" if one.punctual else "the client was late")
    return f"not {one.name}'s: {reason}" if reason else ""


def _memory(blocks: Sequence[Block]) -> list[str]:
    rows = [(block.name, f"{block.weights[1]:,.0f}", f"{block.weights[0]:,.0f}") for block in blocks if block.weights]
    return ["", "## Memory", "", *_table(("server", "MB", "Servery beside it, MB"), rows)] if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def line(opened: Opened) -> str:
    """One run, as progress."""
    seen = opened.seen
    late = f"lag p99 {seen.late_p99_us / 1000:.2f} ms, {'kept' if opened.punctual else 'TOO LATE'}"
    times = f"p50 {seen.p50_us / 1000:.2f}, p99 {seen.p99_us / 1000:.2f} ms"
    return f"{opened.name} {opened.rate:,.0f}/s, {times}, {late}{', ' + opened.fault if opened.fault else ''}"
