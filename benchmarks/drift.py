"""What watching for drift costs a request, and whether a vendor's silent change of its model is seen; see README.md.

SERVERY_DATA=FOLDER python benchmarks/drift.py [--shuffles 200]

FOLDER holds drift/llmdrift_prime_full.csv.gz and drift/llmdrift_countahappynumber.csv.gz (GPT-4 of March and of June 2023).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import random
import re
import statistics
import timeit
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from servery.control.drift import look, window_of
from servery.gateway.sketches import Sketches
from servery.host.clock import Clock, Dice
from servery.stats.bins import bin_of, bucket_of
from servery.terms.drift import DriftPolicy, Judged
from servery.terms.manifest import Manifest
from servery.terms.record import Binned, Sketched

DAY_NS = 86_400 * 10**9
A_DAY = 100  # requests
AT_ONCE = 6  # as many as are counted in a turn
POLICY = DriftPolicy(reference_windows=5)
FIRST = 19_000
SAID = re.compile(r"\[yes\]|\[no\]|boxed\{\d+\}")
MARCH, JUNE = "openaichat/gpt-4-0314", "openaichat/gpt-4-0613"


class Answer(msgspec.Struct, frozen=True):
    """One answer: its tokens, what it says, and whether that is right."""

    tokens: float
    said: str
    right: bool


def answers(path: Path, model: str) -> list[Answer]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [_answer(row) for row in csv.DictReader(file) if row["model"] == model]


def _answer(row: dict[str, str]) -> Answer:
    """Answers end in [Yes], [No] or a number in \\boxed{}; letters are compared without regard to case."""
    whole, wanted = row["answer"].lower(), row["ref_answer"].strip().lower()
    said = SAID.findall(whole)
    right = (wanted if "boxed" in wanted else f"[{wanted}]") in whole
    return Answer(float(row["answer_token"] or 0), said[-1] if said else "", right)


def day(number: int, asked: list[Answer]) -> tuple[Sketched, list[Judged]]:
    """A day's answers, as a worker counts them, and what Feedback says of them."""
    tokens, said = (
        _counted([bin_of(one.tokens) for one in asked]), _counted([bucket_of(one.said.encode()) for one in asked])
    )  # fmt: skip
    features = (Binned("answer tokens", True, *tokens), Binned("prediction", False, *said))
    line = Sketched(os.urandom(16), number * DAY_NS, (number + 1) * DAY_NS - 1, "gpt-4", "v", "acme", features)
    return line, [Judged(number * DAY_NS + at, "acme", "v", one.right, None) for at, one in enumerate(asked)]


def _counted(places: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bins, counts = np.unique(places, return_counts=True)
    return tuple(bins.tolist()), tuple(counts.tolist())


def lived(dice: random.Random, march: list[Answer], june: list[Answer]) -> tuple[int, int, list[str]]:
    """Of five days of March beside five others the number with an alarm; the days of June until one, and by what."""
    before, after = dice.sample(march, len(march)), dice.sample(june, len(june))
    reference = [day(FIRST + at, before[at * A_DAY : (at + 1) * A_DAY]) for at in range(5)]
    false, found, by = 0, 0, list[str]()
    days = [before[at * A_DAY : (at + 1) * A_DAY] for at in range(5, len(before) // A_DAY)]
    quiet = len(days)
    days += [after[at * A_DAY : (at + 1) * A_DAY] for at in range(len(after) // A_DAY)]
    for at, asked in enumerate(days, 5):
        today = day(FIRST + at, asked)
        every = [*reference, today]
        facts = [fact for _, judged in every for fact in judged]
        seen = look(window_of("gpt-4", POLICY, FIRST + at, {"v": FIRST * DAY_NS}), [line for line, _ in every], facts)
        if at - 5 < quiet:
            false += bool(seen.alarmed)
        elif seen.alarmed:
            found, by = at - 4 - quiet, [shift.feature for shift in seen.alarmed]
            break
    return false, found, by


def real(folder: Path, shuffles: int) -> None:
    for name in ("prime_full", "countahappynumber"):
        path = folder / "drift" / f"llmdrift_{name}.csv.gz"
        march, june = answers(path, MARCH), answers(path, JUNE)
        size = len(march)
        right = [100 * statistics.mean(one.right for one in every) for every in (march, june)]
        print(f"{name}: {size} questions; right {right[0]:.1f} % in March, {right[1]:.1f} % in June")
        if size < 10 * A_DAY:
            march, june = march * 2, june * 2  # each question is asked twice
        runs = [lived(random.Random(seed), march, june) for seed in range(shuffles)]
        false = sum(one[0] for one in runs)
        found = [one[1] for one in runs]
        names = sorted({feature for one in runs for feature in one[2]})
        by = ", ".join(f"{feature} {sum(feature in one[2] for one in runs)}" for feature in names)
        print(
            f"  {shuffles} shuffles: {false} of {5 * shuffles} days of March alarmed; June alarmed on its first day in "
            f"{found.count(1)}, later in {sum(one > 1 for one in found)}, never in {found.count(0)}; by {by}"
        )


def cost() -> None:
    """What a request pays on the event loop, and what one that is in the sample pays later."""
    features = tuple(f"x.{at}" for at in range(10))
    manifest = msgspec.convert(
        {
            "servery": 1,
            "models": {"m": {"runtime": "onnx", "artifact": "m.onnx", "drift": {"features": list(features)}}},
        },
        Manifest,
    )
    sketches = Sketches(lambda _: None, Clock(), Dice())
    sketches.follow(manifest)
    # As much of a Trail as is counted.
    called = SimpleNamespace(outputs={"label": np.array([3])}, tokens=None, failure="")
    tier = SimpleNamespace(model="m", version="v", prediction="label", confidence=None)
    made = SimpleNamespace(tier=tier, called=called, left=False, sent=None, rows=1)
    trail: Any = SimpleNamespace(made=[made], caller=SimpleNamespace(tenant="acme"))
    feeds = {"x": np.arange(30, dtype=np.float32).reshape(1, 30)}
    nothing: Sketches | None = None
    off = statistics.median(timeit.repeat(lambda: nothing is not None, number=100_000, repeat=9)) / 100_000
    waiting: list[Any] = vars(sketches)["_pending"]
    noted = timeit.repeat(lambda: (sketches.note(trail, feeds), waiting.clear()), number=100_000, repeat=9)
    for _ in range(AT_ONCE):
        sketches.note(trail, feeds)
    full = timeit.repeat(lambda: sketches.note(trail, feeds), number=100_000, repeat=9)
    turns: list[float] = []
    for _ in range(2_000):
        for _ in range(AT_ONCE):
            sketches.note(trail, feeds)
        turns.append(timeit.timeit(sketches.turn, number=1) / AT_ONCE)
        sketches.write()
    print(f"no model is watched: {off * 1e9:.0f} ns a request, with the call that measures it")
    print(f"noted: {statistics.median(noted) / 1e-4:.0f} ns; past the sample: {statistics.median(full) / 1e-4:.0f} ns")
    print(f"counted later, 10 features and a prediction: {statistics.median(turns) * 1e6:.1f} µs, at most 120 a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shuffles", type=int, default=200)
    given = parser.parse_args()
    cost()
    if folder := os.environ.get("SERVERY_DATA"):
        real(Path(folder), given.shuffles)


if __name__ == "__main__":
    main()
