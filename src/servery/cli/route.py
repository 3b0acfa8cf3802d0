"""`servery route`: what can be done with one route of a manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from servery.cli.calibrating import Asking, Cascade, read_cascade, run
from servery.cli.calibration import promise, shortfall, show
from servery.cli.options import command
from servery.cli.pictures import check_plot
from servery.cli.plan import SERVER_HELP
from servery.cli.reach import fail, told
from servery.cli.standing import show_standing
from servery.control.edit import CannotEdit, diff, read_text, replace_file, with_numbers
from servery.control.places import did_you_mean
from servery.learning.examples import Unusable
from servery.learning.thresholds import Share, Wanted
from servery.terms.paced import PacedRoutes

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_BAND = re.compile(r"(?P<tier>.+)=(?P<low>[0-9]*\.?[0-9]+)\.\.(?P<high>[0-9]*\.?[0-9]+)")


class CalibrateOptions(msgspec.Struct, frozen=True):
    """What `servery route calibrate` is told."""

    route: Annotated[str, typer.Argument(help="A route with the policy `cascade`.")]
    data: Annotated[
        Path,
        typer.Option(
            help="Labelled examples that no model was trained on: .csv, .ndjson, .jsonl or .npz.", show_default=False
        ),
    ]
    manifest: Annotated[Path, typer.Argument(help="The manifest that declares it.")] = Path("servery.yaml")
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="At least this share of the rows is to be answered rightly.")
    ] = None
    cost: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="At most so many dollars per million rows, on the mean.")
    ] = None
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIER=LOW..HIGH", help="The share of rows that a tier answers; may be given several times."
        ),
    ] = None
    risk: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="The chance that what is wanted doesn't hold may be so large.")
    ] = 0.05
    label: Annotated[str, typer.Option(help="The column or key that says what is true.")] = "label"
    answer: Annotated[
        str | None,
        typer.Option(help="The output to compare with it; default: each model's `prediction`.", show_default=False),
    ] = None
    rows_per_call: Annotated[
        int, typer.Option(min=1, help="Rows that your callers send at once: the time of such calls is what is priced.")
    ] = 1
    seed: Annotated[int, typer.Option(min=0, help="Which examples draw the path, and which test it.")] = 0
    plot: Annotated[
        Path | None, typer.Option(help="Draw cost against accuracy into this .png or .svg file.", show_default=False)
    ] = None
    write: Annotated[bool, typer.Option("--write", help="Change the thresholds in the manifest.")] = False


@app.callback()
def routes() -> None:
    """Routes of a manifest."""


@app.command()
def now(
    route: Annotated[
        str, typer.Argument(help="A route whose thresholds follow its traffic; default: all of them.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Data folder of the running Servery; default: .servery here.")
    ] = None,
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = "",
) -> None:
    """Where the thresholds stand that follow their traffic, and what they give beside what is promised."""
    found = told(data, server, "/paced", PacedRoutes).routes
    wanted = [one for one in found if route in ("", one.route)]
    if not wanted:
        named = f"of {route!r}" if route else "of any route"
        fail(f"no thresholds {named} follow their traffic: that takes a `range`, and a mean ceiling or a `share`")
    for one in wanted:
        show_standing(one)


@app.command()
@command(CalibrateOptions)
def calibrate(given: CalibrateOptions) -> None:
    """Set a cascade's thresholds from labelled examples, with a bound on the risk that they don't give what you want.

    With --accuracy the cheapest thresholds are chosen that are accurate enough; otherwise the most accurate ones within
    --cost and --share. Prints what they give and the change of the manifest. Exit 1 where nothing can be promised.
    """
    if missing := check_plot(given.plot):
        _stop(missing)
    try:
        cascade = read_cascade(given.route, given.manifest)
        wanted = _wanted(given, cascade)
        asking = Asking(given.data, given.label, given.answer, given.rows_per_call)
        found = run(cascade, asking, wanted, given.risk, given.seed)
        show(cascade, found)
        if given.plot is not None:
            from servery.cli.curve import draw  # noqa: PLC0415 (an extra)

            draw(cascade, found, wanted, given.plot)
            typer.echo(f"drew {given.plot}", err=True)
        if found.after is None:
            _stop(shortfall(cascade, found, wanted, given.risk))
        typer.echo(promise(cascade, wanted, given.risk))
        before = read_text(given.manifest)
        after = with_numbers(before, cascade.places, cascade.numbers(found.after.thresholds))
        typer.echo("\n" + (diff(given.manifest, before, after) or "The thresholds stay as they are."))
        if given.write and before != after:
            replace_file(given.manifest, before, after)
            typer.echo(f"wrote {given.manifest}", err=True)
    except (Unusable, CannotEdit) as stopped:
        _stop(str(stopped))


def _wanted(given: CalibrateOptions, cascade: Cascade) -> Wanted:
    shares: list[Share] = []
    for text in given.share or ():
        found = _BAND.fullmatch(text)
        if found is None or not 0 <= float(found["low"]) <= float(found["high"]) <= 1:
            raise typer.BadParameter(f"{text!r}: write TIER=LOW..HIGH, such as cheap=0.6..0.8", param_hint="--share")
        if found["tier"] not in cascade.names:
            guess = did_you_mean(found["tier"], cascade.names)
            fix = f"did you mean {guess!r}?" if guess else f"the tiers are {', '.join(cascade.names)}"
            raise typer.BadParameter(f"there is no tier {found['tier']!r}: {fix}", param_hint="--share")
        shares.append(Share(cascade.names.index(found["tier"]), float(found["low"]), float(found["high"])))
    if given.accuracy is None and given.cost is None and not shares:
        raise typer.BadParameter("say what you want: --accuracy, --cost or --share")
    return Wanted(given.accuracy, None if given.cost is None else given.cost / 1e6, tuple(shares))


def _stop(message: str) -> NoReturn:
    typer.echo(f"servery route calibrate: {message}", err=True)
    raise typer.Exit(1)
