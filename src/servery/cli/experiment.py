"""`servery experiment`: what is compared, what it says so far, and starting and stopping it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from servery.cli.experiment_page import page
from servery.cli.plan import SERVER_HELP
from servery.cli.plan_text import moment
from servery.cli.reach import Cut, Failed, Unreached, fail, fail_with, folder_of, reach
from servery.terms.experiments import Conclusion, Experiment, Look, Stage
from servery.web.bodies import AllExperiments, ExperimentReport

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path | None, typer.Option(help="Data folder of the running Servery; default: .servery here.")]
Elsewhere = Annotated[str, typer.Option(help=SERVER_HELP)]
Name = Annotated[str, typer.Argument(help="The experiment, as the manifest calls it.")]
Why = Annotated[str, typer.Option("--reason", envvar="SERVERY_REASON", help="Why; it is remembered.")]
Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")]
Kind = TypeVar("Kind", AllExperiments, ExperimentReport)


@app.command("list")
def list_(data: Data = None, server: Elsewhere = "", output: Output = "text") -> None:
    """Show the experiments that run, those that are only declared, and those that were concluded."""
    found = _get(data, server, "/experiments", AllExperiments)
    lines = [_head(one.experiment) for one in found.experiments]
    _print(found, output, lines or ["No experiment is declared: add one under `experiments` of the manifest."])


@app.command()
def report(
    name: Name,
    data: Data = None,
    server: Elsewhere = "",
    output: Output = "text",
    html: Annotated[
        Path | None, typer.Option(help="Write it as a page that needs nothing else, with the interval over time.")
    ] = None,
) -> None:
    """Show what one says of each arm and metric, by bounds that hold however often one looks."""
    found = _get(data, server, f"/experiments/{name}", ExperimentReport)
    if html is not None:
        html.write_text(page(found.experiment, found.looks), "utf-8")
        typer.echo(f"{html} has {len(found.looks)} looks")
        return
    if output == "json":
        _print(found, output, [])
        return
    experiment = found.experiment
    typer.echo(_head(experiment))
    last = found.looks[-1] if found.looks else Look(0, ())
    if not last.looks:
        typer.echo("Nothing has come yet.")
        return
    Console(width=None if Console().is_terminal else 200).print(_table(last))
    for one in last.looks:
        of = f" ({one.segment})" if one.segment else ""
        typer.echo(f"{one.arm}{of}: {one.said}")
    if experiment.conclusion is Conclusion.SHIP:
        typer.echo(_to_ship(experiment))


@app.command()
def start(name: Name, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Share the route's units out to the arms from now on. What it compares can't change until it has ended."""
    _act(name, "start", reason, data, server)


@app.command()
def stop(name: Name, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Conclude one with what is known: everybody gets the control again."""
    _act(name, "stop", reason, data, server)


@app.command()
def size(
    name: Name,
    manifest: Annotated[Path, typer.Argument(help="The manifest, for instance servery.yaml.")],
    data: Annotated[Path | None, typer.Option(help="Data folder with Records; default: .servery beside it.")] = None,
    days: Annotated[float, typer.Option(min=0.001, help="How many days of Records say what is normal.")] = 7,
    power: Annotated[float, typer.Option(help="The chance with which the margin is to be seen.")] = 0.8,
    mean: Annotated[float | None, typer.Option(help="What a unit has without the experiment.")] = None,
    deviation: Annotated[float | None, typer.Option(help="The standard deviation of that between units.")] = None,
    units_per_day: Annotated[float | None, typer.Option(help="How many units come a day.")] = None,
) -> None:
    """Forecast how many units one needs, and how many days: by Records, or by what you say is normal. Changes nothing."""
    from servery.cli.sizing import Normal, size_of  # noqa: PLC0415 numpy, where it is needed

    size_of(name, manifest, folder_of(manifest, data), days, power, Normal(mean, deviation, units_per_day))


def _act(name: str, verb: str, reason: str, data: Path | None, server: str) -> None:
    try:
        done = reach(folder_of(None, data), server).post(f"/experiments/{name}/{verb}", {"reason": reason}, Experiment)
    except (Unreached, Cut) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)
    typer.echo(_head(done))


def _get(data: Path | None, server: str, path: str, kind: type[Kind]) -> Kind:
    try:
        return reach(folder_of(None, data), server).get(path, kind)
    except (Unreached, Cut) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)


def _print(value: msgspec.Struct, output: str, lines: list[str]) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2) if output == "json" else "\n".join(lines))


def _head(experiment: Experiment) -> str:
    arms = ", ".join(f"{arm.name} {arm.share:.3g}" for arm in experiment.design.arms)
    told = f"{experiment.name} on {experiment.design.route} ({arms}): {experiment.stage.value}"
    if experiment.stage in (Stage.BEFORE, Stage.RUNNING):
        return f"{told} since {moment(experiment.since_ns)}"
    if experiment.conclusion is None:
        return told
    arm = f" {experiment.arm}" if experiment.arm else ""
    return f"{told} {moment(experiment.since_ns)}: {experiment.conclusion.value}{arm}; {experiment.why}"


def _table(look: Look) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("arm", "segment", "metric", "verdict", "control", "arm's", "harm", "bounds", "matters", "units"):
        table.add_column(name, justify="left" if name in ("arm", "segment", "metric", "verdict") else "right")
    for one in look.looks:
        metric = one.metric if one.primary else f"{one.metric} (guardrail)"
        table.add_row(
            one.arm, one.segment or "all", metric, one.verdict.value, f"{one.control:.4g}", f"{one.value:.4g}", f"{one.harm:+.4g}",
            f"{one.low:.4g} to {one.high:.4g}", f"{one.margin:.4g}", f"{one.units:,}",
        )  # fmt: skip
    return table


def _to_ship(experiment: Experiment) -> str:
    arm = next(one for one in experiment.design.arms if one.name == experiment.arm)
    written = msgspec.json.encode(msgspec.structs.replace(arm, name="-", share=0.5)).decode()
    return (
        f"To ship {arm.name}: write what it changes into the route '{experiment.design.route}' and apply it: {written}"
    )
