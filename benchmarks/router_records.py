"""What `servery router train --from-records` learns and measures, where the truth is known; see README.md beside this file.

SERVERY_DATA=FOLDER python benchmarks/router_records.py [--into FOLDER]

FOLDER holds routing/mmlu.csv.gz: lm-sys/RouteLLM's outcomes of Mixtral-8x7B and GPT-4-1106. A route that sends the longer half of the
prompts to GPT-4, and explores, is played on some of them: of each prompt one outcome is kept, with its propensity, as Records keep
it. The router that learns from that is judged by both outcomes of prompts that nobody was asked.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

import machine
from servery.learning.estimated import Asked, mean_of, worth_of
from servery.learning.judged import Floats, Judged, measure, ordered
from servery.learning.prompts import Answered, Columns, read_answered
from servery.learning.train import Prompts, foretold, train
from servery.routing.complexity import Scorer, features_of
from servery.routing.hardness import hardness

HERE = Path(__file__).parent
FOLDS, SEED, LEARNED_FROM = 3, 0, 4_000
EXPLORED = (0.1, 0.2, 0.5)
Rows = NDArray[np.int64]


class Known(msgspec.Struct, frozen=True):
    """All prompts as they are looked at, with both outcomes; some to learn from, and the others to judge by."""

    answered: Answered
    all: Prompts
    learn: Rows
    judge: Rows


def main() -> int:
    parser = argparse.ArgumentParser(description="What a router that learns from Records is worth.")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    into: Path = parser.parse_args().into
    data = os.environ.get("SERVERY_DATA")
    if not data:
        print("SERVERY_DATA must name the folder that holds routing/mmlu.csv.gz", file=sys.stderr)
        return 2
    known = _read(Path(data) / "routing" / "mmlu.csv.gz")
    lines = [
        f"# Routers from Records, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        "```",
        *machine.facts(HERE.parent),
        "```",
        "",
    ]
    lines += _page(known)
    path = into / f"{datetime.now(UTC):%Y-%m-%d}-router-records.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")
    return 0


def _read(path: Path) -> Known:
    answered = read_answered(path, Columns("prompt", "weak_correct", "strong_correct", "subject"))
    order = np.random.default_rng(SEED).permutation(answered.judged.rows)
    prompts = Prompts([features_of(text) for text in answered.texts], answered.judged)
    return Known(answered, prompts, order[:LEARNED_FROM], order[LEARNED_FROM:])


def _page(known: Known) -> list[str]:
    truth = known.all.at(known.learn).judged
    lengths = np.array([float(len(text)) for text in known.answered.texts])
    both = _apgr(_gains(train(known.all.at(known.learn), SEED, _nothing), known), known)
    told = (
        f"{LEARNED_FROM:,} prompts of MMLU to learn from, {len(known.judge):,} others to judge by; the true gap is "
        f"{100 * truth.gain.mean():.1f} points. APGR on the others: {_apgr(lengths[known.judge], known):.3f} by length, "
        f"{both:.3f} by a router that learned from both outcomes of the same prompts."
    )
    head = "| explore | began cheap, strong | say as much as | gap, 95 % | the same without what was foretold | APGR of the router |"
    lines = [told, "", head, "|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for share in EXPLORED:
        line = _line(known, share)
        print(line, flush=True)
        lines.append(line)
    return [*lines, ""]


def _line(known: Known, share: float) -> str:
    prompts = _played(known, share)
    asked = prompts.asked
    assert asked is not None
    judged = prompts.judged_by(foretold(prompts, FOLDS, SEED, _nothing))
    plain = Judged(asked.cheap * prompts.judged.cheap, asked.strong * prompts.judged.strong)
    apgr = _apgr(_gains(train(prompts, SEED, _nothing), known), known)
    began, worth = ((asked.cheap > 0).sum(), (asked.strong > 0).sum()), (worth_of(asked.cheap), worth_of(asked.strong))
    return (
        f"| {share:g} | {began[0]:,}, {began[1]:,} | {worth[0]:,.0f}, {worth[1]:,.0f} | {_points(judged.gain)} | {_points(plain.gain)} "
        f"| {apgr:.3f} |"
    )


def _played(known: Known, share: float) -> Prompts:
    """What Records would hold of a route that sends the longer half to the strong model, and explores this share."""
    scores = np.array([hardness(known.answered.texts[row]) for row in known.learn])
    picked = scores > np.median(scores)
    rng = np.random.default_rng(SEED)
    strong = np.where(rng.random(LEARNED_FROM) < share, rng.random(LEARNED_FROM) < 0.5, picked)
    weight = 1 / np.where(strong == picked, 1 - share / 2, share / 2)
    both = known.all.at(known.learn)
    seen = Judged(both.judged.cheap * ~strong, both.judged.strong * strong)
    return Prompts(both.features, seen, asked=Asked(weight * ~strong, weight * strong))


def _gains(scorer: Scorer, known: Known) -> Floats:
    return np.array([scorer.gain_of(features) for features in known.all.at(known.judge).features])


def _apgr(score: Floats, known: Known) -> float:
    return measure(ordered(score), known.all.at(known.judge).judged).apgr


def _points(values: Floats) -> str:
    mean, between = mean_of(values)
    return f"{100 * mean:.1f} ({100 * between.low:.1f} to {100 * between.high:.1f})"


def _nothing() -> None:
    """Nobody watches."""


if __name__ == "__main__":
    sys.exit(main())
