"""What `servery router train` is worth on questions whose answers by two models are known; see README.md beside this file.

SERVERY_DATA=FOLDER python benchmarks/router.py [--into FOLDER]

FOLDER holds routing/mmlu.csv.gz and routing/gsm8k.csv.gz: lm-sys/RouteLLM's outcomes of Mixtral-8x7B and GPT-4-1106.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import machine
from servery.learning.choosing import compare
from servery.learning.fitting import parts
from servery.learning.judged import Floats
from servery.learning.prompts import Answered, Columns, read_answered
from servery.learning.train import Prompts, crossed, train
from servery.routing.complexity import features_of

HERE = Path(__file__).parent
FOLDS, SEED = 5, 0
BASELINE, LENGTH = "TF-IDF, two logistic regressions", "prompt length"
GSM8K = Columns("prompt", "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")


class Set(msgspec.Struct, frozen=True):
    """A way to split a file, and what is expected of it."""

    name: str
    file: str
    columns: Columns
    grouped: bool
    bar: str


SETS = (
    Set("MMLU, random folds", "mmlu.csv.gz", Columns("prompt", "weak_correct", "strong_correct", "subject"), False,
        "APGR 0.70, and above the baseline's with its whole interval"),
    Set("MMLU, whole subjects left out", "mmlu.csv.gz", Columns("prompt", "weak_correct", "strong_correct", "subject"),
        True, "above length alone"),
    Set("GSM8K, random folds", "gsm8k.csv.gz", GSM8K, False, "not below length alone"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="What a trained router is worth.")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    into: Path = parser.parse_args().into
    data = os.environ.get("SERVERY_DATA")
    if not data:
        print("SERVERY_DATA must name the folder that holds routing/mmlu.csv.gz", file=sys.stderr)
        return 2
    lines = [f"# Routers, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", "```", *machine.facts(HERE.parent), "```", ""]
    lines += [
        f"{FOLDS} folds, seed {SEED}; everything is tuned inside the training folds. Intervals: 95 %, 1,000 bootstrap samples",
        "of the prompts; *router ahead by*: how far its APGR is above this line's, on the same samples.",
        "",
    ]
    print("\n".join(lines), flush=True)
    for one in SETS:
        page = _evaluate(one, Path(data) / "routing" / one.file)
        print("\n".join(page), flush=True)
        lines += page
    path = into / f"{datetime.now(UTC):%Y-%m-%d}-router.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")
    return 0


def _evaluate(one: Set, path: Path) -> list[str]:
    answered = read_answered(path, one.columns)
    groups = answered.groups if one.grouped else ()
    began = time.monotonic()
    prompts = Prompts([features_of(text) for text in answered.texts], answered.judged, groups)
    router = crossed(prompts, FOLDS, SEED, lambda: None)
    took = time.monotonic() - began
    scores = {
        LENGTH: np.array([float(len(text)) for text in answered.texts]),
        BASELINE: _baseline(answered, prompts),
        "servery router": router,
    }
    found = compare(answered.judged, scores, SEED)
    alone = f"Mixtral-8x7B answers {100 * found.cheap:.2f} % rightly, GPT-4 {100 * found.strong:.2f} %"
    lines = [f"## {one.name}", "", f"{found.rows} prompts; {alone}. Wanted: {one.bar}.", ""]
    lines += ["| | APGR | 95 % | router ahead by | strong calls for 50 % | for 80 % | right at 30 % | at 50 % |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for line in found.lines:
        spread, measured = line.spread, line.measured
        between = f"{spread.apgr.low:.3f} to {spread.apgr.high:.3f}" if spread else ""
        ahead = f"{-spread.ahead.high:+.3f} to {-spread.ahead.low:+.3f}" if spread and spread.ahead else ""
        lines.append(
            f"| {line.name} | {measured.apgr:.3f} | {between} | {ahead if line.name != found.beside else ''} | "
            f"{100 * measured.cpt_50:.1f} % | {100 * measured.cpt_80:.1f} % | {100 * measured.accuracy[3]:.2f} % | "
            f"{100 * measured.accuracy[5]:.2f} % |"
        )
    lines += [
        "",
        f"Training for {FOLDS} folds took {took:.0f} s; a score takes {_score_us(answered, prompts):.0f} µs (p50).",
        "",
    ]
    return lines


def _baseline(answered: Answered, prompts: Prompts) -> Floats:
    """TF-IDF of words and characters into one logistic regression per model, scored by the difference."""
    score = np.zeros(answered.judged.rows)
    for learn, judge in parts(prompts.texts, FOLDS, SEED):
        looks: tuple[Any, ...] = (
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2),
        )
        known = [look.fit_transform([answered.texts[row] for row in learn]) for look in looks]
        unknown = [look.transform([answered.texts[row] for row in judge]) for look in looks]
        chances = [_chances(known, unknown, right[learn]) for right in (answered.judged.cheap, answered.judged.strong)]
        score[judge] = chances[1] - chances[0]
    return score


def _chances(known: list[Any], unknown: list[Any], right: Floats) -> Floats:
    from scipy import sparse  # noqa: PLC0415

    fitted = LogisticRegression(C=1.0, solver="liblinear").fit(sparse.hstack(known).tocsr(), right)
    return fitted.predict_proba(sparse.hstack(unknown).tocsr())[:, 1]


def _score_us(answered: Answered, prompts: Prompts) -> float:
    scorer = train(prompts.at(np.arange(min(600, answered.judged.rows))), SEED, lambda: None)
    took: list[float] = []
    for text in answered.texts[:1000]:
        began = time.perf_counter()
        scorer.gain(text)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


if __name__ == "__main__":
    sys.exit(main())
