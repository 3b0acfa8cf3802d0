"""What `servery verifier train` is worth on answers that were judged, beside routing alone; see README.md beside this file.

SERVERY_DATA=FOLDER python benchmarks/verifier.py [--into FOLDER]

FOLDER holds routing/gsm8k.csv.gz: lm-sys/RouteLLM's answers of Mixtral-8x7B and GPT-4-1106, and which of them are right.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import machine
from servery.control.prices import listed_price
from servery.learning.answers import Columns, JudgedAnswers, read_answers
from servery.learning.calibrated import told
from servery.learning.cascades import DRAWS, PARTS, SPENT, Costs, Line, Way, weigh
from servery.learning.fitting import parts
from servery.learning.judged import Floats, Judged
from servery.learning.lines import read_lines
from servery.learning.train import Prompts
from servery.learning.train import crossed as crossed_router
from servery.learning.verify import Answers, crossed, train
from servery.routing.answers import MOST_CHARS, features_of
from servery.routing.arithmetic import numbers
from servery.routing.complexity import features_of as features_of_prompt
from servery.routing.verifier import Verifier

HERE = Path(__file__).parent
FOLDS, SEED, SEEDS = 5, 0, 5
CHEAP, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
COLUMNS = Columns("prompt", f"{CHEAP}_response", CHEAP, STRONG)
LISTED = ("mistral.mixtral-8x7b-instruct-v0:1", "gpt-4-1106-preview")  # in the table of prices
CHARS_A_TOKEN = 4
WORDS = (
    "*gap*: the part of the gap between the models that is recovered, on the mean over all costs between theirs; *for N %*: the",
    "dollars, as a part of always asking GPT-4, that recover so much of it; *right for N %*: the answers that are right for so many",
    "dollars. A cascade pays its cheap call always.",
    "",
)
ROUTER, CASCADE = "servery router, before it asks", "servery verifier, cascade"
BASELINE, LENGTH = "TF-IDF of the answer, cascade", "length of the answer, cascade"


class Priced(msgspec.Struct, frozen=True):
    """What both models' answers cost, and in words."""

    name: str
    costs: Costs


def main() -> int:
    parser = argparse.ArgumentParser(description="What a trained verifier is worth.")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    into: Path = parser.parse_args().into
    data = os.environ.get("SERVERY_DATA")
    if not data:
        print("SERVERY_DATA must name the folder that holds routing/gsm8k.csv.gz", file=sys.stderr)
        return 2
    path = Path(data) / "routing" / "gsm8k.csv.gz"
    answers = read_answers(path, COLUMNS)
    lines = [f"# Verifiers, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", "```", *machine.facts(HERE.parent), "```", ""]
    column = f"{STRONG}_response"
    others = [row[column] for _, row in read_lines(path, (column,))]
    lines += _page(answers, _prices(answers, others), others)
    print("\n".join(lines))
    written = into / f"{datetime.now(UTC):%Y-%m-%d}-verifier.md"
    written.write_text("\n".join(lines))
    print(f"written to {written}")
    return 0


def _prices(answers: JudgedAnswers, others: Sequence[str]) -> list[Priced]:
    """Flat prices, and those of vendors for each prompt and answer."""
    rows = len(answers.prompts)
    found = [Priced(f"1 to {ratio}", Costs(np.full(rows, 1.0), np.full(rows, float(ratio)))) for ratio in (10, 30)]
    cheap, strong = (
        _usd(name, answers.prompts, said) for name, said in zip(LISTED, (answers.answers, others), strict=True)
    )
    words = f"by token, {LISTED[0]} and {LISTED[1]}: 1 to {strong.mean() / cheap.mean():.1f} on the mean"
    return [*found, Priced(words, Costs(cheap, strong))]


def _usd(name: str, prompts: Sequence[str], answers: Sequence[str]) -> Floats:
    """Dollars of each answer, at the price that Servery carries."""
    price = listed_price(name)
    assert price is not None
    assert price.usd_per_1m_input is not None
    assert price.usd_per_1m_output is not None
    read, written = (np.array([len(one) / CHARS_A_TOKEN for one in texts]) for texts in (prompts, answers))
    return (read * price.usd_per_1m_input + written * price.usd_per_1m_output) / 1e6


def _page(answers: JudgedAnswers, priced: Sequence[Priced], others: Sequence[str]) -> list[str]:
    judged = answers.judged
    assert judged is not None
    began = time.monotonic()
    features = [features_of(*pair) for pair in zip(answers.prompts, answers.answers, strict=True)]
    known = Answers(features, answers.right)
    chance = crossed(known, FOLDS, SEED, _nothing)
    took = time.monotonic() - began
    gain = _gain(answers, judged, SEED)
    ways = [
        Way(ROUTER, gain),
        Way("prompt length, before it asks", np.array([float(len(one)) for one in answers.prompts])),
        Way(LENGTH, np.array([float(len(one)) for one in answers.answers]), checks=True),
        Way(BASELINE, -_baseline(answers, known), checks=True),
        Way(CASCADE, -chance, checks=True),
    ]
    intro = (
        f"{len(features)} questions of GSM8K: Mixtral-8x7B answers {100 * judged.cheap.mean():.2f} % rightly, GPT-4 "
        f"{100 * judged.strong.mean():.2f} %. {FOLDS} random folds, seed {SEED}, the same for all; everything is trained, tuned and "
        f"calibrated inside the training folds. Intervals: 95 %, {DRAWS} bootstrap samples of the prompts, the same for all. "
        "What is counted of an answer, and how strongly weights are held back at most, was decided by looking at these questions."
    )
    lines = [intro, "", *_told(answers, chance, ways), *WORDS]
    for one in priced:
        lines += _weighed(judged, one, ways)
    lines += _elsewhere(answers, known, others)
    lines += _seeds(answers, known, priced[0].costs)
    lines += [f"Training for {FOLDS} folds took {took:.0f} s.", "", *_times(known, answers, others)]
    return lines


def _nothing() -> None:
    """What training calls as it goes on."""


def _gain(answers: JudgedAnswers, judged: Judged, seed: int) -> Floats:
    """The learned router's, in the same folds."""
    prompts = Prompts([features_of_prompt(one) for one in answers.prompts], judged)
    return crossed_router(prompts, FOLDS, seed, _nothing)


def _told(answers: JudgedAnswers, chance: Floats, ways: Sequence[Way]) -> list[str]:
    lines = ["## Right answers told from wrong ones", ""]
    lines += ["| | AUC | 95 % | Brier score | 95 % | calibration error |", "|---|---|---|---|---|---|"]
    found = told(chance, answers.right, DRAWS, SEED)
    lines.append(f"| the share that is right, every time | 0.500 | | {found.plain_brier:.3f} | | 0.000 |")
    for way in ways[:-1]:
        other = told(-way.score, answers.right, DRAWS, SEED)
        lines.append(f"| {way.name.split(', ')[0]} | {other.auc:.3f} | {_between(other.auc_95)} | | | |")
    lines.append(
        f"| servery verifier | {found.auc:.3f} | {_between(found.auc_95)} | {found.brier:.3f} | {_between(found.brier_95)} | "
        f"{found.ece:.3f} |"
    )
    return [*lines, ""]


def _elsewhere(answers: JudgedAnswers, known: Answers, others: Sequence[str]) -> list[str]:
    """GPT-4's answers, by a verifier that learned from others of them, and by one that learned from Mixtral's."""
    assert answers.strong is not None
    features = [features_of(*pair) for pair in zip(answers.prompts, others, strict=True)]
    strong = Answers(features, answers.strong)
    foreign = np.zeros(len(features))
    for learn, judge in parts(known.texts, FOLDS, SEED):
        verifier = train(known.at(learn), SEED, _nothing)
        foreign[judge] = [verifier.chance_of(one) for one in strong.at(judge).features]
    lines = [
        "## GPT-4's answers",
        "",
        "| | AUC | 95 % | Brier score | 95 % | calibration error |",
        "|---|---|---|---|---|---|",
    ]
    for name, chance in (("GPT-4's", crossed(strong, FOLDS, SEED, _nothing)), ("Mixtral's", foreign)):
        one = told(chance, strong.right, DRAWS, SEED)
        figures = f"{one.auc:.3f} | {_between(one.auc_95)} | {one.brier:.3f} | {_between(one.brier_95)} | {one.ece:.3f}"
        lines.append(f"| servery verifier, learned from {name} | {figures} |")
    plain = float(strong.right.mean() * (1 - strong.right.mean()))
    return [*lines, f"| the share that is right, every time | 0.500 | | {plain:.3f} | | 0.000 |", ""]


def _between(interval: Any) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _weighed(judged: Judged, priced: Priced, ways: Sequence[Way]) -> list[str]:
    found = weigh(judged, priced.costs, ways, SEED)
    spent = " | ".join(f"right for {100 * part:.0f} %" for part in SPENT)
    lines = [f"## Prices {priced.name}", ""]
    lines.append(f"| | gap | 95 % | {' | '.join(f'for {100 * part:.0f} %' for part in PARTS)} | {spent} |")
    lines += ["|---" * (3 + len(PARTS) + len(SPENT)) + "|", *[_row(line) for line in found.lines], ""]
    lines += [f"| above the router, on the same samples (95 %) | gap | {spent} |", "|---" * (2 + len(SPENT)) + "|"]
    for line in found.lines:
        if line.ahead is not None:
            right = " | ".join(f"{100 * one.low:+.1f} to {100 * one.high:+.1f} points" for one in line.ahead.right)
            lines.append(f"| {line.name} | {line.ahead.gap.low:+.3f} to {line.ahead.gap.high:+.3f} | {right} |")
    return [*lines, ""]


def _row(line: Line) -> str:
    one = line.worth
    least = " | ".join(f"{100 * part:.1f} %" for part in one.least)
    right = " | ".join("" if math.isnan(part) else f"{100 * part:.2f} %" for part in one.right)
    return f"| {line.name} | {one.gap:.3f} | {_between(line.gap_95) if line.gap_95 else ''} | {least} | {right} |"


def _seeds(answers: JudgedAnswers, known: Answers, costs: Costs) -> list[str]:
    """How much of it is the luck of the folds."""
    judged = answers.judged
    assert judged is not None
    lines = ["## Other folds", "", "Prices 1 to 10.", ""]
    lines += ["| seed | AUC | gap: router | gap: cascade | cascade above the router (95 %) |", "|---|---|---|---|---|"]
    for seed in range(SEEDS):
        chance = crossed(known, FOLDS, seed, _nothing)
        ways = [Way(ROUTER, _gain(answers, judged, seed)), Way(CASCADE, -chance, checks=True)]
        _, router, cascade, *_ = weigh(judged, costs, ways, seed).lines
        assert cascade.ahead is not None
        between = f"{cascade.ahead.gap.low:+.3f} to {cascade.ahead.gap.high:+.3f}"
        auc = told(chance, answers.right, 2, seed).auc
        lines.append(f"| {seed} | {auc:.3f} | {router.worth.gap:.3f} | {cascade.worth.gap:.3f} | {between} |")
    return [*lines, ""]


def _baseline(answers: JudgedAnswers, known: Answers) -> Floats:
    """TF-IDF of an answer's words and characters into a logistic regression, in the same folds."""
    chance = np.zeros(len(answers.answers))
    for learn, judge in parts(known.texts, FOLDS, SEED):
        looks: tuple[Any, ...] = (
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2),
        )
        taught = sparse.hstack([look.fit_transform([answers.answers[row] for row in learn]) for look in looks]).tocsr()
        asked = sparse.hstack([look.transform([answers.answers[row] for row in judge]) for look in looks]).tocsr()
        fitted = LogisticRegression(C=1.0, solver="liblinear").fit(taught, answers.right[learn])
        chance[judge] = fitted.predict_proba(asked)[:, 1]
    return chance


def _times(known: Answers, answers: JudgedAnswers, others: Sequence[str]) -> list[str]:
    verifier = train(known, SEED, _nothing)
    chars = np.mean([len(one) for one in answers.answers])
    lines = [
        "| a score takes, of CPU time | p50 | p99 |",
        "|---|---|---|",
        f"| these answers, of {chars:.0f} characters on the mean | {_us(verifier, answers.prompts, answers.answers)} |",
    ]
    for whose, texts, size in (
        ("GPT-4's", others, 2_048),
        ("these", answers.answers, 2_048),
        ("these", answers.answers, MOST_CHARS),
    ):
        long = [_several(texts, at, size) for at in range(len(texts))]
        in_one = np.mean([len(numbers(one)) for one in long])
        said = f"several of {whose} in one, of {size} characters and {in_one:.0f} numbers"
        lines.append(f"| {said} | {_us(verifier, answers.prompts, long)} |")
    return [*lines, ""]


def _several(answers: Sequence[str], at: int, chars: int) -> str:
    """So many characters of answers that follow each other."""
    return "\n".join(answers[(at + step) % len(answers)] for step in range(chars // 50))[:chars]


def _us(verifier: Verifier, prompts: Sequence[str], answers: Sequence[str]) -> str:
    """Of the CPU: a score waits for nothing, and what else this machine does shall not count."""
    took: list[float] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        began = time.thread_time()
        verifier.chance(prompt, answer)
        took.append(time.thread_time() - began)
    p50, p99 = np.quantile(took, (0.5, 0.99)) * 1e6
    return f"{p50:.0f} µs | {p99:.0f} µs"


if __name__ == "__main__":
    sys.exit(main())
