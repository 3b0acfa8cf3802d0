"""`servery router`: learn from judged prompts which of two models to ask, and say what that is worth."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from servery.cli.options import command
from servery.cli.pictures import check_plot
from servery.cli.recovery import draw, promise, show
from servery.learning.choosing import Choice, compare, threshold_for
from servery.learning.estimated import Asked, check_gap, mean_of, worth_of
from servery.learning.examples import Unusable
from servery.learning.files import read_router, write_router
from servery.learning.judged import Judged
from servery.learning.prompts import Answered, Columns, read_answered
from servery.learning.recorded import usd_per_million
from servery.routing.complexity import features_of
from servery.routing.learned import Features, Floats
from servery.routing.router_file import Router

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_DATA = "Prompts that both models have answered: a .csv or .csv.gz file with a 1 (right) or 0 (wrong) for each model."


class TrainOptions(msgspec.Struct, frozen=True):
    """What `servery router train` is told."""

    data: Annotated[Path, typer.Option(help=_DATA + " With --from-records: the data folder.", show_default=False)]
    out: Annotated[Path, typer.Option(help="The file that the router is written into: NAME.npz.")]
    from_records: Annotated[
        bool,
        typer.Option(
            "--from-records", help="Learn from Records of a --route that explores, with --feedback and Content."
        ),
    ] = False
    route: Annotated[str, typer.Option(help="With --from-records: the route.")] = ""
    feedback: Annotated[
        str, typer.Option(help="With --from-records: the Feedback that says whether an answer was right.")
    ] = ""
    right_from: Annotated[float, typer.Option(help="From which number on that Feedback says right.")] = 0.5
    since: Annotated[str, typer.Option(help="With --from-records: how far back; 7d, 12w, or all.")] = "all"
    tenant: Annotated[str, typer.Option(help="With --from-records: only this tenant's.")] = ""
    prompt: Annotated[str, typer.Option(help="The column of the prompts.")] = "prompt"
    cheap: Annotated[
        str,
        typer.Option(
            help="The column that says whether the cheap model was right (default: cheap); or its tier (the first)."
        ),
    ] = ""
    strong: Annotated[
        str,
        typer.Option(
            help="The column that says whether the strong model was right (default: strong); or its tier (the last)."
        ),
    ] = ""
    group: Annotated[
        str,
        typer.Option(
            help="A column of subjects or customers, or `tenant` of Records: judge by groups that were never seen."
        ),
    ] = ""
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share of prompts that may go to the strong model.")
    ] = None
    recover: Annotated[
        float | None, typer.Option(min=0, max=1, help="The part of the gap between the models to recover; default 0.8.")
    ] = None
    cost: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Dollars per million prompts, on the mean.")
    ] = None
    cheap_usd: Annotated[float | None, typer.Option(metavar="USD", min=0, help="The cheap model's, for a million.")] = (
        None
    )
    strong_usd: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="The strong model's, for a million.")
    ] = None
    folds: Annotated[int, typer.Option(min=2, max=20, help="Parts that are judged by what the others taught.")] = 5
    seed: Annotated[int, typer.Option(min=0, help="Which prompts are in which part.")] = 0
    plot: Annotated[
        Path | None, typer.Option(help="Draw quality against strong calls: .png or .svg.", show_default=False)
    ] = None


class EvaluateOptions(msgspec.Struct, frozen=True):
    """What `servery router evaluate` is told."""

    router: Annotated[Path, typer.Argument(help="What `servery router train` wrote.")]
    data: Annotated[Path, typer.Option(help=_DATA + " The router must not have seen them.", show_default=False)]
    prompt: Annotated[str, typer.Option(help="The column of the prompts.")] = "prompt"
    cheap: Annotated[str, typer.Option(help="The column that says whether the cheap model was right.")] = "cheap"
    strong: Annotated[str, typer.Option(help="The column that says whether the strong model was right.")] = "strong"
    seed: Annotated[int, typer.Option(min=0, help="Which samples the intervals come from.")] = 0
    plot: Annotated[
        Path | None, typer.Option(help="Draw quality against strong calls: .png or .svg.", show_default=False)
    ] = None


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
        given, answered = _read(given)
        wanted = _wanted(given)
        judged, gain, router = _learn(given, answered, wanted)
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
    """Say what a router is worth on prompts that it has not seen, with 95 % intervals."""
    if missing := check_plot(given.plot):
        _stop("evaluate", missing)
    try:
        router = read_router(given.router)
        answered = read_answered(given.data, Columns(given.prompt, given.cheap, given.strong))
        gain = np.array([router.scorer.gain(text) for text in answered.texts])
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


def _read(given: TrainOptions) -> tuple[TrainOptions, Answered]:
    """The judged prompts, and the options with what wasn't said. Unusable."""
    if not given.from_records:
        named = [name for name in ("route", "feedback", "tenant") if getattr(given, name)]
        if named:
            raise typer.BadParameter(
                "it is for --from-records; without it --data is a file", param_hint=f"--{named[0]}"
            )
        _wanted(given)  # what makes no sense is said before the file is read
        columns = Columns(given.prompt, given.cheap or "cheap", given.strong or "strong", given.group)
        return given, read_answered(given.data, columns)
    for option, value in (("--route", given.route), ("--feedback", given.feedback)):
        if not value:
            raise typer.BadParameter("--from-records needs it", param_hint=option)
    if given.group not in ("", "tenant"):
        raise typer.BadParameter("Records have one kind of groups: `tenant`", param_hint="--group")
    from servery.cli.from_records import Asking, read_recorded  # noqa: PLC0415 (the store, where it is read)

    answered, facts, told = read_recorded(
        Asking(
            given.data,
            given.route,
            given.feedback,
            given.right_from,
            given.since,
            given.tenant,
            given.cheap,
            given.strong,
        )
    )
    typer.echo(told)
    asked = answered.asked
    if given.cost is not None and given.cheap_usd is None and given.strong_usd is None and asked is not None:
        usd = {"cheap_usd": usd_per_million(facts, asked.cheap), "strong_usd": usd_per_million(facts, asked.strong)}
        given = msgspec.structs.replace(given, **usd)
        typer.echo(f"a million prompts cost ${usd['cheap_usd']:,.2f} or ${usd['strong_usd']:,.2f}")
    return given, answered if given.group else msgspec.structs.replace(answered, groups=())


def _learn(given: TrainOptions, answered: Answered, wanted: Choice) -> tuple[Judged, Floats, Router]:
    """(how both models answered, the gain that is foretold of each prompt by what hadn't seen it, the router that has seen all)."""
    from servery.learning.train import Prompts, foretold, scale_of, steps, train  # noqa: PLC0415 (an extra)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        looking = progress.add_task("looking at the prompts", total=len(answered.texts))
        features: list[Features] = []
        for text in answered.texts:
            features.append(features_of(text))
            progress.advance(looking)
        learning = progress.add_task("learning", total=steps(given.folds))
        prompts = Prompts(features, answered.judged, answered.groups, answered.asked)
        chances = foretold(prompts, given.folds, given.seed, lambda: progress.advance(learning))
        scorer = train(prompts, given.seed, lambda: progress.advance(learning))
    judged = prompts.judged_by(chances)
    if answered.asked is not None:
        _tell_ways(judged, answered.asked)
        check_gap(judged)
    gain = chances[1] - chances[0]
    scale = scale_of(gain, judged)
    gain = np.clip(scale[0] * gain + scale[1], -1, 1)
    scorer = msgspec.structs.replace(scorer, scale=scale)
    # Estimates scatter too much for a single point of their curve: there, what is foretold on the mean decides.
    by = judged if answered.asked is None else Judged(np.zeros(len(gain)), gain)
    return judged, gain, Router(scorer, len(features), threshold_for(gain, by, wanted))


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
