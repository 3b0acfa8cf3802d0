"""What `servery router` is told: where judged prompts are, in a file or in Records, and what is wanted of a router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

_DATA = "Prompts that both models have answered: a .csv or .csv.gz file with a 1 (right) or 0 (wrong) for each model."


class JudgedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where judged prompts are found."""

    data: Annotated[Path, typer.Option(help=_DATA + " With --from-records: the data folder.", show_default=False)]
    from_records: Annotated[
        bool,
        typer.Option("--from-records", help="Go by Records of a --route that explores, with --feedback and Content."),
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
    folds: Annotated[
        int, typer.Option(min=2, max=20, help="Parts of which each is judged by what the others taught.")
    ] = 5
    seed: Annotated[
        int, typer.Option(min=0, help="Which prompts are in which part, and which samples the intervals come from.")
    ] = 0
    plot: Annotated[
        Path | None, typer.Option(help="Draw quality against strong calls: .png or .svg.", show_default=False)
    ] = None


class TrainOptions(JudgedOptions, frozen=True, kw_only=True):
    """What `servery router train` is told."""

    out: Annotated[Path, typer.Option(help="The file that the router is written into: NAME.npz.")]
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


class EvaluateOptions(JudgedOptions, frozen=True, kw_only=True):
    """What `servery router evaluate` is told."""

    router: Annotated[
        Path, typer.Argument(help="What `servery router train` wrote. It must not have seen the prompts of --data.")
    ]
