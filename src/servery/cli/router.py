"""`servery router`: learn from judged prompts which of two models to ask, and say what that is worth."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from servery.cli.options import command
from servery.cli.pictures import check_plot
from servery.cli.recovery import draw, promise, show
from servery.cli.router_options import EvaluateOptions, JudgedOptions, TrainOptions
from servery.learning.choosing import Choice, compare, threshold_for
from servery.learning.estimated import Asked, check_gap, mean_of, worth_of
from servery.learning.examples import Unusable
from servery.learning.files import read_router, write_router
from servery.learning.judged import Judged
from servery.learning.prompts import Answered, Columns, read_answered
from servery.learning.recorded import Fact, usd_per_million
from servery.routing.complexity import Scorer, features_of
from servery.routing.learned import Features, Floats
from servery.routing.router_file import Router

if TYPE_CHECKING:
    from servery.learning.train import Prompts

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def routers() -> None:
    """Routers: which of two models a prompt needs."""


@app.command()
@command(TrainOptions)
def train(given: TrainOptions) -> None:
    """Learn from judged prompts which ones need the strong model, and write a router.

    Prints what it is worth, measured on prompts that it had not seen (cross-fitting), beside chance, each model alone,
    the prompts' length and what could be reached at most. The threshold gives the --share of strong calls, --recover of
    the gap, or the --cost that you want.
    """
    if missing := check_plot(given.plot):
        _stop("train", missing)
    if find_spec("sklearn") is None:
        _stop("train", "this needs scikit-learn: pip install 'servery[train]'")
    try:
        if not given.out.parent.is_dir():
            raise Unusable(f"the folder {given.out.parent} doesn't exist")
        if not given.from_records:
            _wanted(given)  # what makes no sense is said before the file is read
        answered, facts = _read(given, "train", given.group)
        given = _priced(given, answered, facts)
        judged, gain, router = _learn(given, answered, _wanted(given))
        answered = msgspec.structs.replace(answered, judged=judged)
        choice = _told(answered, gain, router, given.seed, "this router, on prompts that it had not seen")
        _draw(given.plot, answered, gain, choice)
        write_router(given.out, router)
        typer.echo(f"wrote {given.out}", err=True)
    except Unusable as stopped:
        _stop("train", str(stopped))


@app.command()
@command(EvaluateOptions)
def evaluate(given: EvaluateOptions) -> None:
    """Say what a router is worth on prompts that it has not seen, with 95 % intervals.

    With --from-records of a prompt only the tier that was drawn is known: what the other one would have answered is estimated
    (doubly robust, by cross-fitting).
    """
    if missing := check_plot(given.plot):
        _stop("evaluate", missing)
    if given.from_records and find_spec("sklearn") is None:
        _stop("evaluate", "--from-records needs scikit-learn: pip install 'servery[train]'")
    try:
        router = read_router(given.router)
        answered, _ = _read(given, "evaluate", "")
        gain = np.array([router.scorer.gain(text) for text in answered.texts])
        if answered.asked is not None:
            prompts, chances, _ = _foretold(given, answered, learns=False)
            answered = msgspec.structs.replace(answered, judged=_estimated(prompts, chances))
        choice = _told(answered, gain, router, given.seed, "this router")
        _draw(given.plot, answered, gain, choice)
    except Unusable as stopped:
        _stop("evaluate", str(stopped))


def _wanted(given: TrainOptions) -> Choice:
    named = [value for value in (given.share, given.recover, given.cost) if value is not None]
    if len(named) > 1:
        raise typer.BadParameter("say one of --share, --recover and --cost")
    if given.cost is not None:
        if given.cheap_usd is None or given.strong_usd is None or given.strong_usd <= given.cheap_usd:
            raise typer.BadParameter("--cost needs --cheap-usd and, above it, --strong-usd", param_hint="--cost")
        if given.cost < given.cheap_usd:
            raise typer.BadParameter("even the cheap model costs more", param_hint="--cost")
        return Choice(share=min(1.0, (given.cost - given.cheap_usd) / (given.strong_usd - given.cheap_usd)))
    return Choice(share=given.share) if given.share is not None else Choice(recover=given.recover or 0.8)


def _read(given: JudgedOptions, verb: str, group: str) -> tuple[Answered, tuple[Fact, ...]]:
    """The judged prompts, and the facts behind them where they come from Records. Unusable."""
    if not given.from_records:
        named = [name for name in ("route", "feedback", "tenant") if getattr(given, name)]
        if named:
            raise typer.BadParameter(
                "it is for --from-records; without it --data is a file", param_hint=f"--{named[0]}"
            )
        return read_answered(
            given.data, Columns(given.prompt, given.cheap or "cheap", given.strong or "strong", group)
        ), ()
    for option, value in (("--route", given.route), ("--feedback", given.feedback)):
        if not value:
            raise typer.BadParameter("--from-records needs it", param_hint=option)
    if group not in ("", "tenant"):
        raise typer.BadParameter("Records have one kind of groups: `tenant`", param_hint="--group")
    from servery.cli.from_records import read_recorded  # noqa: PLC0415 (the store, where it is read)

    answered, facts, told = read_recorded(given, f"router {verb}")
    typer.echo(told)
    return answered if group else msgspec.structs.replace(answered, groups=()), facts


def _priced(given: TrainOptions, answered: Answered, facts: tuple[Fact, ...]) -> TrainOptions:
    """With what a million prompts cost, where that is needed and Records say it."""
    asked = answered.asked
    if given.cost is None or given.cheap_usd is not None or given.strong_usd is not None or asked is None:
        return given
    cheap, strong = usd_per_million(facts, asked.cheap), usd_per_million(facts, asked.strong)
    typer.echo(f"a million prompts cost ${cheap:,.2f} or ${strong:,.2f}")
    return msgspec.structs.replace(given, cheap_usd=cheap, strong_usd=strong)


def _foretold(given: JudgedOptions, answered: Answered, learns: bool) -> tuple[Prompts, Floats, Scorer | None]:
    """The prompts, what is foretold of each by what hadn't seen it, and what has seen all of them, if one `learns`."""
    from servery.learning.train import Prompts, foretold, steps, train  # noqa: PLC0415 (an extra)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        looking = progress.add_task("looking at the prompts", total=len(answered.texts))
        features: list[Features] = []
        for text in answered.texts:
            features.append(features_of(text))
            progress.advance(looking)
        learning = progress.add_task("learning", total=steps(given.folds, learns))
        prompts = Prompts(features, answered.judged, answered.groups, answered.asked)
        chances = foretold(prompts, given.folds, given.seed, lambda: progress.advance(learning))
        scorer = train(prompts, given.seed, lambda: progress.advance(learning)) if learns else None
    return prompts, chances, scorer


def _estimated(prompts: Prompts, chances: Floats) -> Judged:
    """How both models answered; where Records say it of one only, as it is estimated, and what each way is worth. Unusable."""
    judged = prompts.judged_by(chances)
    if prompts.asked is not None:
        _tell_ways(judged, prompts.asked)
        check_gap(judged)
    return judged


def _learn(given: TrainOptions, answered: Answered, wanted: Choice) -> tuple[Judged, Floats, Router]:
    """(how both models answered, the gain that is foretold of each prompt by what hadn't seen it, the router that has seen all)."""
    from servery.learning.train import scale_of  # noqa: PLC0415 (an extra)

    prompts, chances, scorer = _foretold(given, answered, learns=True)
    assert scorer is not None, "one that learns"
    judged = _estimated(prompts, chances)
    gain = chances[1] - chances[0]
    scale = scale_of(gain, judged)
    gain = np.clip(scale[0] * gain + scale[1], -1, 1)
    scorer = msgspec.structs.replace(scorer, scale=scale)
    # Estimates scatter too much for a single point of their curve: there, what is foretold on the mean decides.
    by = judged if answered.asked is None else Judged(np.zeros(len(gain)), gain)
    return judged, gain, Router(scorer, len(prompts.features), threshold_for(gain, by, wanted))


def _told(answered: Answered, gain: Floats, router: Router, seed: int, name: str) -> float:
    """Print the table and what the threshold gives; the share of strong calls."""
    lengths = np.array([float(len(text)) for text in answered.texts])
    scores = {name: gain, "prompt length": lengths}
    show(compare(answered.judged, scores, seed, oracle=answered.asked is None))
    typer.echo("\n" + promise(answered.judged, gain, router.threshold))
    return float((gain > router.threshold).mean())


def _draw(plot: Path | None, answered: Answered, gain: Floats, share: float) -> None:
    if plot is not None:
        lengths = np.array([float(len(text)) for text in answered.texts])
        scores = {"router": gain, "prompt length": lengths}
        draw(answered.judged, scores, share, plot, oracle=answered.asked is None)
        typer.echo(f"drew {plot}", err=True)


def _tell_ways(judged: Judged, asked: Asked) -> None:
    """Print what each of the two ways is worth alone, with its interval."""
    for name, values, weights in (("cheap", judged.cheap, asked.cheap), ("strong", judged.strong, asked.strong)):
        mean, between = mean_of(values)
        typer.echo(
            f"{name}: {int((weights > 0).sum()):,} began there, which say as much as {worth_of(weights):,.0f} that count alike; "
            f"all prompts begun there: {100 * mean:.1f} % right (95 %: {100 * between.low:.1f} to {100 * between.high:.1f} %)"
        )
    typer.echo("")


def _stop(name: str, message: str) -> NoReturn:
    typer.echo(f"servery router {name}: {message}", err=True)
    raise typer.Exit(1)
