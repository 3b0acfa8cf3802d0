"""A canary from GPT-4 of March to GPT-4 of June 2023, judged by the code that judges rollouts; see README.md beside this file.

SERVERY_DATA=FOLDER python benchmarks/canary.py [--shuffles 200] [--into FOLDER]

FOLDER holds drift/llmdrift_*.csv.gz: lchen001/LLMDrift's answers of both versions to the same questions, with times and dollars. The
questions come in random order; each is answered by the version that its request was drawn for, and its label is told at once.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

import machine
from servery.control.evidence import Draw, Seen, Totals, calls_of
from servery.control.judge import Judge
from servery.control.promote import moved
from servery.stats.windows import Sums
from servery.terms.folds import Told
from servery.terms.rollouts import Guard, Phase, Rollout, RolloutPolicy, RolloutStep

HERE = Path(__file__).parent
MARCH, JUNE = "openaichat/gpt-4-0314", "openaichat/gpt-4-0613"
TASKS = {"prime": "llmdrift_prime_full", "happy numbers": "llmdrift_countahappynumber"}
NS = 10**9
LOOK, LATER = 10, 10  # requests between two looks, or a tenth of those so far
MOST = 3_000
SHARES = (0.1, 0.5)
QUALITY = Guard("feedback", 0.05, name="label", better="equal")
GUARDS = (QUALITY, Guard("errors", 0.01), Guard("latency", 0.25), Guard("cost", 0.25, most_usd=0.06))


class Answer(NamedTuple):
    """One version's answer to one question."""

    right: bool
    ns: int
    pico_usd: int


class Ended(NamedTuple):
    """How one canary ended: after so many requests, of which the candidate had some."""

    phase: Phase
    requests: int
    candidates: int
    why: str


def read(path: Path) -> dict[str, list[Answer]]:
    """Each version's answers, in the order of the questions."""
    found: dict[str, list[tuple[int, Answer]]] = {}
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            said, wanted = row["answer"].lower(), row["ref_answer"].lower().replace("\\\\", "\\")
            wanted = wanted if "boxed" in wanted else f"[{wanted}]"
            answer = Answer(wanted in said, round(float(row["latency"]) * 1e9), round(float(row["cost"]) * 1e12))
            found.setdefault(row["model"], []).append((int(row["id"]), answer))
    return {model: [answer for _, answer in sorted(rows)] for model, rows in found.items()}


def canary(incumbent: Sequence[Answer], candidate: Sequence[Answer], guards: tuple[Guard, ...], seed: int) -> Ended:
    """One rollout, request by request."""
    draws = np.random.default_rng(seed)
    steps = tuple(RolloutStep(share, 50, 0, 10**7) for share in SHARES)
    policy = RolloutPolicy("canary", None, steps, guards)
    judge, rollout = Judge(policy), Rollout("r", "gpt-4", "march", "june", "june", policy, 0)
    evidence: dict[Draw, Seen] = {}
    order: list[int] = []
    next_look = LOOK
    for request in range(1, MOST + 1):
        order = order or draws.permutation(len(incumbent)).tolist()
        question = order.pop()
        seen = evidence.setdefault(Draw(rollout.step), Seen(Totals(), Totals()))
        exposed = draws.random() < rollout.share
        _add(seen.candidate if exposed else seen.incumbent, (candidate if exposed else incumbent)[question])
        if request == next_look:
            next_look += max(LOOK, request // LATER)
            rollout = moved(rollout, judge.look(evidence), calls_of(evidence), request * NS)
            if rollout.phase.over:
                return Ended(rollout.phase, request, calls_of(evidence), rollout.why)
    return Ended(rollout.phase, MOST, calls_of(evidence), "")


def _add(totals: Totals, answer: Answer) -> None:
    totals.requests += 1
    totals.calls += 1
    totals.times.add(answer.ns)
    totals.prices.add(answer.pico_usd)
    exact = Sums(1, answer.pico_usd, float(answer.pico_usd) ** 2)
    totals.priced = (totals.priced or Sums()).plus(exact)
    totals.told.setdefault("label", Told()).merge(Told(judged=1, right=answer.right))


def _row(name: str, ended: list[Ended]) -> str:
    phases = Counter(one.phase for one in ended)
    back = [one for one in ended if one.phase is Phase.ROLLED_BACK]
    when = "–"
    if back:
        requests = np.quantile([one.requests for one in back], (0.5, 0.9, 1))
        candidates = float(np.median([one.candidates for one in back]))
        when = f"{requests[0]:.0f} (of the candidate {candidates:.0f}); 9 of 10 within {requests[1]:.0f}, all within {requests[2]:.0f}"
    cells = (f"{len(back) / len(ended):.1%}", when, f"{phases[Phase.PROMOTED] / len(ended):.1%}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="When a canary with a known harm is rolled back.")
    parser.add_argument("--shuffles", type=int, default=200)
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    given = parser.parse_args()
    data = os.environ.get("SERVERY_DATA")
    if not data:
        print("SERVERY_DATA must name the folder that holds drift/llmdrift_prime_full.csv.gz", file=sys.stderr)
        return 2
    began = time.monotonic()
    lines = [
        f"# Canaries from March to June, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "",
        f"`SERVERY_DATA=… python benchmarks/canary.py --shuffles {given.shuffles}`", "",
        "```", *machine.facts(HERE.parent), "```", "",
        f"Steps of {' and '.join(f'{share:.0%}' for share in SHARES)}, looked at after every {LOOK} requests, later after a tenth more, for up to {MOST:,}. *quality*: one guard,",
        f"labels within {QUALITY.margin:.0%}. *all*: with guards on errors (1 %), latency (p95, 25 %) and cost (25 %) beside it, so each may be wrong a quarter as often.", "",
        "| Canary | Rolled back | after requests (median) | Promoted |", "|---|---|---|---|",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    for task, name in TASKS.items():
        answers = read(Path(data) / "drift" / f"{name}.csv.gz")
        right = {model: np.mean([one.right for one in answers[model]]) for model in (MARCH, JUNE)}
        for guards, word in (((QUALITY,), "quality"), (GUARDS, "all"))[: 2 if task == "prime" else 1]:
            for to, version in ((JUNE, "June"), (MARCH, "March")):
                ended = [canary(answers[MARCH], answers[to], guards, seed) for seed in range(given.shuffles)]
                row = _row(f"{task}, March → {version} ({right[MARCH]:.1%} → {right[to]:.1%} right), {word}", ended)
                print(row, flush=True)
                lines.append(row)
    lines += ["", f"All of it took {time.monotonic() - began:.0f} s.", ""]
    path = given.into / f"{datetime.now(UTC):%Y-%m-%d}-canary.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
