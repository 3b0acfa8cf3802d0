"""Whether thresholds that follow the traffic keep their promises when the mix shifts, on real prompts and arrivals; see README.md.

SERVERY_DATA=FOLDER python benchmarks/pacing.py [--seeds 10] [--into FOLDER] [--plot docs/images/pacing.svg]

FOLDER holds routing/mmlu.csv.gz, routing/gsm8k.csv.gz (Mixtral-8x7B's and GPT-4-1106's outcomes) and
traces/azure_llm_conv.csv.gz. The world is that of tests/worlds/test_pacing_world.py.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

import machine
from servery.control.prices import listed_price
from servery.learning.judged import Judged
from servery.learning.prompts import Columns, read_answered
from servery.learning.train import Prompts, train
from servery.routing.complexity import features_of
from servery.terms.routes import Accept, Ceiling, Policy, Route, Tier

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from worlds.pacing import Ask, Draw, Lived, World, given  # noqa: E402

BEFORE, BACK, AFTER = 4_000, 2_000, 10_000
SLOW = 4_000  # requests that a slow shift takes
WORKERS = 4
CHARS_A_TOKEN = 4
MMLU = Columns("prompt", "weak_correct", "strong_correct", "subject")
GSM8K = Columns("prompt", "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
CHEAP, DEAR = "fireworks_ai/accounts/fireworks/models/mixtral-8x7b-instruct", "azure/gpt-4-1106-preview"


class Prompt(msgspec.Struct, frozen=True):
    """A prompt as the router sees it, how many tokens it has, and whether each model answered it rightly."""

    score: float
    sure: float
    read: int
    right: tuple[bool, bool]


class Asked(msgspec.Struct, frozen=True):
    """Prompts that the router wasn't trained on, when they are asked, and how long the answers at those moments were."""

    mmlu: list[Prompt]
    gsm8k: list[Prompt]
    times: list[int]
    written: list[int]


class Case(msgspec.Struct, frozen=True):
    """A route, and which part of the prompts is GSM8K's after so many requests. Answers are as long as any of the trace's, or as
    those `of_the_moment`, which drift too: from 283 tokens to 128 and back to 273 within the hour.
    """

    name: str
    route: Route
    part: Callable[[int], float]
    of_the_moment: bool = False


class Result(msgspec.Struct, frozen=True):
    """One seed. `back`: requests after the shift until the promises are kept for good by the mix as a whole; shares of the cheap
    tier and means over ceilings in the 1,000 requests before `BACK`, and in the `AFTER` that follow; `right` in these.
    """

    back: int
    shares: tuple[float, float]
    means: tuple[float, float]
    still: tuple[float, float]
    inside: float
    turns: int
    steps: int
    right: float
    right_still: float


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether thresholds that follow the traffic keep their promises.")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--plot", type=Path, help="draw the first seed of the first case")
    given_ = parser.parse_args()
    data = os.environ.get("SERVERY_DATA")
    if not data:
        print("SERVERY_DATA must name the folder that holds routing/mmlu.csv.gz", file=sys.stderr)
        return 2
    prompts = read(Path(data))
    lines = [f"# Pacing, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", "```", *machine.facts(HERE.parent), "```", ""]
    about = (
        f"{len(prompts.mmlu)} prompts of MMLU and {len(prompts.gsm8k)} of GSM8K that the router wasn't trained on, at the moments of "
        f"the Azure trace; {WORKERS} workers report twice a second."
    )
    head = (
        "| | promises kept after | share of cheap, requests 1,000 to 2,000 | in the next 10,000 | mean / ceiling, 1,000 to 2,000 | "
        "in the next 10,000 | of these 10,000, windows of 1,000 inside | turns | steps |"
    )
    lines += [
        about,
        f"{BEFORE:,} requests, then the shift; {given_.seeds} seeds, each cell: median (worst).",
        "",
        head,
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for case in cases(prompts):
        results = [run(case, prompts, seed)[1] for seed in range(given_.seeds)]
        lines.append(_line(case, results))
        notes.append(_note(case, results))
        print(lines[-1], notes[-1], sep="\n", flush=True)
    lines += ["", *notes, ""]
    path: Path = given_.into / f"{datetime.now(UTC):%Y-%m-%d}-pacing.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")
    if given_.plot is not None:
        draw(cases(prompts)[0], run(cases(prompts)[0], prompts, 0)[0], given_.plot)
    return 0


def cases(prompts: Asked) -> list[Case]:
    """By the router's score, and as a cascade by how sure the router is that the cheap model will be right; thresholds by which
    the cheap one answers three of five questions of MMLU.
    """
    score, sure = (
        round(float(np.quantile([getattr(prompt, name) for prompt in prompts.mmlu], part)), 3)
        for name, part in (("score", 0.58), ("sure", 0.41))
    )
    by_score = Route(
        (Tier("cheap", "mixtral", share=(0.5, 0.7)), Tier("dear", "gpt-4")),
        Policy("complexity", thresholds=(score,), ranges=((-0.3, 0.7),)),
        ceiling=Ceiling(3_400),
    )
    by_sure = Route(
        (Tier("cheap", "mixtral", Accept(sure, (0.2, 0.95), "logprob"), (0.5, 0.7)), Tier("dear", "gpt-4")),
        Policy("cascade"),
        ceiling=Ceiling(3_700),
    )

    def sudden(count: int) -> float:
        return 0.1 if count < BEFORE else 0.9

    def slow(count: int) -> float:
        return min(max(0.1 + 0.8 * (count - BEFORE) / SLOW, 0.1), 0.9)

    def back(count: int) -> float:
        return 0.9 - sudden(count) + 0.1

    return [
        Case("a score, MMLU to GSM8K", by_score, sudden),
        Case("a confidence, MMLU to GSM8K", by_sure, sudden),
        Case("a score, GSM8K to MMLU", by_score, back),
        Case("a confidence, GSM8K to MMLU", by_sure, back),
        Case(f"a confidence, over {SLOW:,} requests", by_sure, slow),
        Case("a score, MMLU to GSM8K, answers of the moment", by_score, sudden, True),
    ]


def read(folder: Path) -> Asked:
    """Half of the prompts train the router; the other half is asked."""
    mmlu = read_answered(folder / "routing" / "mmlu.csv.gz", MMLU)
    gsm8k = read_answered(folder / "routing" / "gsm8k.csv.gz", GSM8K)
    features = [features_of(text) for text in (*mmlu.texts, *gsm8k.texts)]
    cheap = np.concatenate([mmlu.judged.cheap, gsm8k.judged.cheap])
    strong = np.concatenate([mmlu.judged.strong, gsm8k.judged.strong])
    order = np.random.default_rng(0).permutation(len(features))
    learn = order[: len(order) // 2]
    scorer = train(Prompts([features[at] for at in learn], Judged(cheap[learn], strong[learn]), ()), 0, lambda: None)
    sets: tuple[list[Prompt], list[Prompt]] = ([], [])
    for at in sorted(order[len(order) // 2 :].tolist()):
        text, of_gsm8k = (mmlu.texts + gsm8k.texts)[at], at >= len(mmlu.texts)
        prompt = Prompt(
            scorer.gain_of(features[at]),
            scorer.chances_of(features[at])[0],
            len(text) // CHARS_A_TOKEN,
            (bool(cheap[at]), bool(strong[at])),
        )
        sets[of_gsm8k].append(prompt)
    times, written = _trace(folder / "traces" / "azure_llm_conv.csv.gz")
    return Asked(*sets, times, written)


def _trace(path: Path) -> tuple[list[int], list[int]]:
    """Moments in ns, and tokens written."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: BEFORE + BACK + AFTER]
    moments = [datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp() for row in rows]
    return [round(moment * 1e9) for moment in moments], [int(row["GeneratedTokens"]) for row in rows]


def ask_of(prompt: Prompt, written: int, usual: float) -> Ask:
    """What is asked, with dollars at public prices. Forecast are what it will read, and an answer of the usual length."""
    cost: list[float] = []
    forecast: list[float] = []
    for name in (CHEAP, DEAR):
        price = listed_price_of(name)
        cost.append(price[0] * prompt.read + price[1] * written)
        forecast.append(price[0] * prompt.read + price[1] * usual)
    return Ask(prompt.score, (prompt.sure, 1.0), (cost[0], cost[1]), (forecast[0], forecast[1]))


def listed_price_of(name: str) -> tuple[int, int]:
    """Pico-dollars for a token read, and for one written."""
    if name not in _PRICES:
        price = listed_price(name)
        assert price is not None
        tokens = price.of_tokens
        assert tokens is not None
        _PRICES[name] = tokens.input, tokens.output
    return _PRICES[name]


_PRICES: dict[str, tuple[int, int]] = {}


def run(case: Case, prompts: Asked, seed: int) -> tuple[Lived, Result]:
    """One life of the world, and what it comes to."""
    drawn: list[Prompt] = []
    rng, lengths = np.random.default_rng(seed), np.array(prompts.written)
    usual = float(lengths.mean())

    def pick(count: int, dice: Draw) -> Prompt:
        among = prompts.gsm8k if dice.random() < case.part(count) else prompts.mmlu
        return among[int(dice.integers(len(among)))]

    def ask(count: int) -> Ask:
        drawn.append(pick(count, rng))
        written = prompts.written[count] if case.of_the_moment else int(rng.choice(lengths))
        return ask_of(drawn[-1], written, usual)

    world = World(case.route, prompts.times, ask, WORKERS, rng).live()
    dice = np.random.default_rng(1_000_000 + seed)
    mix = [ask_of(pick(10**9, dice), int(dice.choice(lengths)), usual) for _ in range(4_000)]
    first = BEFORE + BACK
    still = given(case.route, world.pace.declared, mix)
    right = [prompt.right[one.tier] for prompt, one in zip(drawn, world.answered, strict=True)][first:]
    declared = world.pace.declared[0]
    goes_up = [p.score > declared if world.pace.dials[0].enters else p.sure < declared for p in drawn[first:]]
    ceiling = world.pace.most_pico
    return world, Result(
        _back(case, world, mix),
        (world.share(0, first - 1_000, first), world.share(0, first, first + AFTER)),
        (world.mean_pico(first - 1_000, first) / ceiling, world.mean_pico(first, first + AFTER) / ceiling),
        (still[0][0], still[1] / ceiling),
        _inside(case, world),
        world.turns(first, first + AFTER),
        len(world.steps),
        sum(right) / len(right),
        sum(p.right[up] for p, up in zip(drawn[first:], goes_up, strict=True)) / AFTER,
    )


def _back(case: Case, world: Lived, mix: list[Ask]) -> int:
    """After how many requests the thresholds in effect keep the promises of the new mix, for good."""
    kept: dict[tuple[float, ...], bool] = {}
    last = -1
    for at, one in enumerate(world.answered[BEFORE:]):
        if one.thresholds not in kept:
            shares, pico = given(case.route, one.thresholds, mix)
            low, high = case.route.tiers[0].share or (0.0, 1.0)
            kept[one.thresholds] = low <= shares[0] <= high and pico <= world.pace.most_pico
        if not kept[one.thresholds]:
            last = at
    return last + 1


def _inside(case: Case, world: Lived) -> float:
    """The part of all windows of 1,000 requests, of those after `BACK`, whose share is in its band."""
    low, high = case.route.tiers[0].share or (0.0, 1.0)
    shares = _trailing(np.array([one.tier == 0 for one in world.answered[BEFORE + BACK :]], float), 1_000)
    return float(((shares >= low) & (shares <= high)).mean())


def _trailing(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return (sums[window:] - sums[:-window]) / window


def _line(case: Case, results: list[Result]) -> str:
    def cell(values: list[float], worst: float, form: str = ".3f") -> str:
        return f"{statistics.median(values):{form}} ({worst:{form}})"

    low, high = case.route.tiers[0].share or (0.0, 1.0)
    shares = [[one.shares[at] for one in results] for at in (0, 1)]
    far = [max(part, key=lambda share: abs(share - (low + high) / 2)) for part in shares]
    means = [[one.means[at] for one in results] for at in (0, 1)]
    back = [0.0 if case.of_the_moment else float(one.back) for one in results]
    turns, steps = [float(one.turns) for one in results], [float(one.steps) for one in results]
    return (
        f"| {case.name} | {'' if case.of_the_moment else cell(back, max(back), '.0f')} | {cell(shares[0], far[0])} | {cell(shares[1], far[1])} | "
        f"{cell(means[0], max(means[0]))} | {cell(means[1], max(means[1]))} | "
        f"{cell([one.inside for one in results], min(one.inside for one in results), '.1%')} | "
        f"{cell(turns, max(turns), '.0f')} | {cell(steps, max(steps), '.0f')} |"
    )


def _note(case: Case, results: list[Result]) -> str:
    still = [statistics.median([one.still[at] for one in results]) for at in (0, 1)]
    right = statistics.median([one.right for one in results])
    right_still = statistics.median([one.right_still for one in results])
    return (
        f"- {case.name}: cheap is promised {case.route.tiers[0].share}; with the declared threshold it would answer {still[0]:.3f} after "
        f"the shift, at {still[1]:.3f} of the ceiling, and {right_still:.2%} of the answers would be right; paced, {right:.2%} are."
    )


def draw(case: Case, world: Lived, path: Path) -> None:
    """Shares, dollars and the threshold, request by request."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    ceiling, window, every = world.pace.most_pico, 500, 50
    low, high = case.route.tiers[0].share or (0.0, 1.0)
    share = _trailing(np.array([one.tier == 0 for one in world.answered], float), window)[::every]
    mean = _trailing(np.array([one.pico for one in world.answered]), window)[::every] / 1e6
    stood = np.array([one.thresholds[0] for one in world.answered])[window - 1 :][::every]
    at = np.arange(len(share)) * every + window - BEFORE
    with mpl.rc_context({"svg.hashsalt": "servery", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                         "axes.spines.right": False}):  # fmt: skip
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True)
        for panel, values, title in zip(
            panels,
            (share, mean, stood),
            ("share that the cheap tier answers", "dollars per million", "threshold of the score"),
            strict=True,
        ):
            panel.plot(
                at, values, color="#1d4ed8", linewidth=1.2, drawstyle="steps-post" if values is stood else "default"
            )
            panel.set_title(title, loc="left", fontsize=9)
            panel.axvline(0, color="#374151", linestyle=":", linewidth=1)
            panel.grid(alpha=0.25, linewidth=0.6)
        panels[0].axhspan(low, high, color="#15803d", alpha=0.12, linewidth=0)
        panels[1].axhline(ceiling / 1e6, color="#15803d", linestyle="--", linewidth=1)
        panels[2].axhline(world.pace.declared[0], color="#15803d", linestyle="--", linewidth=1)
        panels[2].set_xlabel("requests since the mix shifted (means of the last 500)")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    sys.exit(main())
