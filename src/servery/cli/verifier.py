"""`servery verifier`: learn from judged answers which ones may stand, and say what a cascade by that is worth."""

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
from servery.cli.spending import draw, manifest_line, promise, show_told, show_weighed
from servery.learning.accepting import Wanted, accepted, confidence_for
from servery.learning.answers import Columns, JudgedAnswers, read_answers
from servery.learning.calibrated import told
from servery.learning.cascades import DRAWS, Costs, Way, weigh
from servery.learning.examples import Unusable
from servery.learning.files import read_router, read_verifier, write_verifier
from servery.routing.answers import features_of
from servery.routing.complexity import features_of as features_of_prompt
from servery.routing.learned import Floats
from servery.routing.verifier_file import Trained

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_DATA = "Answers that were judged: a .csv or .csv.gz file with a prompt, its answer, and a 1 (right) or 0 (wrong)."
_STRONG = "The column that says whether the next tier's model was right; with it dollars and quality are weighed."

Prompt = Annotated[str, typer.Option(help="The column of the prompts.")]
Answer = Annotated[str, typer.Option(help="The column of the answers.")]
Right = Annotated[str, typer.Option(help="The column that says whether the answer is right.")]
Strong = Annotated[str, typer.Option(help=_STRONG)]
CheapUsd = Annotated[float, typer.Option(metavar="USD", min=0, help="Dollars of these answers, for a million.")]
StrongUsd = Annotated[float, typer.Option(metavar="USD", min=0, help="Dollars of the next tier's, for a million.")]
Plot = Annotated[Path | None, typer.Option(help="Draw quality against dollars: .png or .svg.", show_default=False)]


class TrainOptions(msgspec.Struct, frozen=True):
    """What `servery verifier train` is told."""

    data: Annotated[Path, typer.Option(help=_DATA, show_default=False)]
    out: Annotated[Path, typer.Option(help="The file that the verifier is written into: NAME.npz.")]
    prompt: Prompt = "prompt"
    answer: Answer = "answer"
    right: Right = "right"
    strong: Strong = ""
    group: Annotated[
        str, typer.Option(help="A column of subjects or customers: judge by groups that were never seen.")
    ] = ""
    accept: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How many of the answers that stand are to be right; 0.9 without --strong."),
    ] = None
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share of prompts that may go on to the next tier.")
    ] = None
    recover: Annotated[
        float | None, typer.Option(min=0, max=1, help="The part of the gap between the models to recover; default 0.8.")
    ] = None
    cost: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Dollars per million prompts, on the mean.")
    ] = None
    cheap_usd: CheapUsd = 1.0
    strong_usd: StrongUsd = 10.0
    folds: Annotated[int, typer.Option(min=2, max=20, help="Parts that are judged by what the others taught.")] = 5
    seed: Annotated[int, typer.Option(min=0, help="Which answers are in which part.")] = 0
    plot: Plot = None


class EvaluateOptions(msgspec.Struct, frozen=True):
    """What `servery verifier evaluate` is told."""

    verifier: Annotated[Path, typer.Argument(help="What `servery verifier train` wrote.")]
    data: Annotated[Path, typer.Option(help=_DATA + " The verifier must not have seen them.", show_default=False)]
    prompt: Prompt = "prompt"
    answer: Answer = "answer"
    right: Right = "right"
    strong: Strong = ""
    router: Annotated[
        Path | None, typer.Option(help="A file of `servery router train` to compare with.", show_default=False)
    ] = None
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="From which on an answer stands; default: as it was trained.")
    ] = None
    cheap_usd: CheapUsd = 1.0
    strong_usd: StrongUsd = 10.0
    seed: Annotated[int, typer.Option(min=0, help="Which samples the intervals come from.")] = 0
    plot: Plot = None


class Shown(msgspec.Struct, frozen=True):
    """What is said of a verifier: the chances that it gave, beside a router's gains where there are some."""

    answers: JudgedAnswers
    chance: Floats
    confidence: float
    gain: Floats | None
    usd: tuple[float, float]  # a million prompts: the cheap model's, the strong one's
    seed: int
    plot: Path | None


@app.callback()
def verifiers() -> None:
    """Verifiers: whether an answer in text may stand."""


@app.command()
@command(TrainOptions)
def train(given: TrainOptions) -> None:
    """Learn from judged answers which ones are right, and write a verifier for a cascade.

    Prints how well it tells right answers from wrong ones that it had not seen (cross-fitting) and, with --strong, what a
    cascade by it is worth at the same dollars as a router, the cheap calls that are wasted counted. The confidence gives the
    --share, --recover of the gap, --cost or --accept that you want.
    """
    if missing := check_plot(given.plot):
        _stop("train", missing)
    if find_spec("sklearn") is None:
        _stop("train", "this needs scikit-learn: pip install 'servery[train]'")
    try:
        if not given.out.parent.is_dir():
            raise Unusable(f"the folder {given.out.parent} doesn't exist")
        wanted = _wanted(given)
        answers = read_answers(given.data, Columns(given.prompt, given.answer, given.right, given.strong, given.group))
        chance, gain, trained = _learn(given, answers, wanted)
        usd = (given.cheap_usd, given.strong_usd)
        _show(Shown(answers, chance, trained.confidence, gain, usd, given.seed, given.plot))
        write_verifier(given.out, trained)
        typer.echo("\n" + manifest_line(given.out, trained.confidence))
        typer.echo(f"wrote {given.out}", err=True)
    except Unusable as stopped:
        _stop("train", str(stopped))


@app.command()
@command(EvaluateOptions)
def evaluate(given: EvaluateOptions) -> None:
    """Say what a verifier is worth on answers that it has not seen, with 95 % intervals."""
    if missing := check_plot(given.plot):
        _stop("evaluate", missing)
    _usd(given)
    try:
        trained = read_verifier(given.verifier)
        router = None if given.router is None else read_router(given.router)
        answers = read_answers(given.data, Columns(given.prompt, given.answer, given.right, given.strong))
        pairs = zip(answers.prompts, answers.answers, strict=True)
        chance = np.array([trained.verifier.chance(prompt, answer) for prompt, answer in pairs])
        gain = None if router is None else np.array([router.scorer.gain(prompt) for prompt in answers.prompts])
        confidence = trained.confidence if given.confidence is None else given.confidence
        usd = (given.cheap_usd, given.strong_usd)
        _show(Shown(answers, chance, confidence, gain, usd, given.seed, given.plot))
    except Unusable as stopped:
        _stop("evaluate", str(stopped))


def _usd(given: TrainOptions | EvaluateOptions) -> None:
    """Whether the dollars make sense, and are for something."""
    if given.strong_usd <= given.cheap_usd:
        raise typer.BadParameter("it has to be above --cheap-usd", param_hint="--strong-usd")
    if given.plot is not None and not given.strong:
        raise typer.BadParameter("a picture of quality and dollars needs --strong", param_hint="--plot")


def _wanted(given: TrainOptions) -> Wanted:
    _usd(given)
    named = [value for value in (given.accept, given.share, given.recover, given.cost) if value is not None]
    if len(named) > 1:
        raise typer.BadParameter("say one of --accept, --share, --recover and --cost")
    if given.recover is not None and not given.strong:
        raise typer.BadParameter("the gap isn't known without --strong", param_hint="--recover")
    if given.cost is not None:
        if given.cost < given.cheap_usd:
            raise typer.BadParameter("even the cheap model costs more", param_hint="--cost")
        return Wanted(share=min(1.0, (given.cost - given.cheap_usd) / given.strong_usd))
    if given.share is not None:
        return Wanted(share=given.share)
    if given.accept is not None or not given.strong:
        return Wanted(right=0.9 if given.accept is None else given.accept)
    return Wanted(recover=0.8 if given.recover is None else given.recover)


def _learn(given: TrainOptions, answers: JudgedAnswers, wanted: Wanted) -> tuple[Floats, Floats | None, Trained]:
    """(the chances by what hadn't seen an answer, the gains by a router that hadn't, the verifier that has seen all)."""
    from servery.learning import train as routers  # noqa: PLC0415 (an extra)
    from servery.learning import verify  # noqa: PLC0415 (an extra)

    judged, gain = answers.judged, None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        learning = progress.add_task("learning", total=verify.steps(given.folds))
        features = [features_of(*pair) for pair in zip(answers.prompts, answers.answers, strict=True)]
        known = verify.Answers(features, answers.right, answers.groups)
        chance = verify.crossed(known, given.folds, given.seed, lambda: progress.advance(learning))
        verifier = verify.train(known, given.seed, lambda: progress.advance(learning))
        if judged is not None:
            comparing = progress.add_task("learning a router to compare with", total=routers.steps(given.folds))
            prompts = routers.Prompts([features_of_prompt(one) for one in answers.prompts], judged, answers.groups)
            gain = routers.crossed(prompts, given.folds, given.seed, lambda: progress.advance(comparing))
    confidence = confidence_for(chance, answers, wanted)
    return chance, gain, Trained(verifier, len(features), confidence)


def _show(shown: Shown) -> None:
    """Print what the chances are worth and, where the strong model's answers were judged too, the cascade; draw it."""
    answers, chance = shown.answers, shown.chance
    show_told(told(chance, answers.right, DRAWS, shown.seed))
    judged = answers.judged
    if judged is not None:
        cheap, strong = (np.full(len(chance), usd / 1e6) for usd in shown.usd)
        costs = Costs(cheap, strong)
        lengths = Way("prompt length", np.array([float(len(prompt)) for prompt in answers.prompts]))
        routed = lengths if shown.gain is None else Way("a router", shown.gain)
        checked = Way("the cascade with this verifier", -chance, checks=True)
        ways = [routed, checked] if routed is lengths else [routed, lengths, checked]
        typer.echo()
        show_weighed(weigh(judged, costs, ways, shown.seed), routed.name)
        if shown.plot is not None:
            draw(judged, costs, ways, 1 - float((chance >= shown.confidence).mean()), shown.plot)
            typer.echo(f"drew {shown.plot}", err=True)
    typer.echo("\n" + promise(accepted(chance, answers, shown.confidence), shown.usd))


def _stop(name: str, message: str) -> NoReturn:
    typer.echo(f"servery verifier {name}: {message}", err=True)
    raise typer.Exit(1)
