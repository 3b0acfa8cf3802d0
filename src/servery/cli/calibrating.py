"""What `servery route calibrate` does before it prints: read the route, ask its tiers, look for thresholds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from servery.control.apply import check
from servery.control.places import Places, at, did_you_mean
from servery.host.clock import Clock
from servery.learning.calibrate import Calibration, calibrate
from servery.learning.examples import Examples, Unusable, read_examples
from servery.learning.measure import Asked, Measured, measure
from servery.learning.thresholds import Range, Sample, Thresholds, Wanted
from servery.terms.change import Served, Version
from servery.terms.manifest import Manifest, Model
from servery.terms.routes import Route, Tier
from servery.terms.tensors import Signature
from servery.wiring.loading import runtime_of

LEAST_ROWS = 30


class Asking(msgspec.Struct, frozen=True):
    """How the tiers are asked."""

    data: Path
    label: str
    answer: str | None
    rows_per_call: int


class Rung(msgspec.Struct, frozen=True):
    """A tier with what answers for it."""

    tier: Tier
    model: Model
    version: Version
    signature: Signature


class Cascade(msgspec.Struct, frozen=True):
    """A route that can be calibrated, and where its manifest wrote what."""

    name: str
    rungs: tuple[Rung, ...]
    places: Places

    @property
    def names(self) -> list[str]:
        return [rung.tier.name for rung in self.rungs]

    @property
    def current(self) -> Thresholds:
        return tuple(rung.tier.accept.confidence for rung in self.rungs[:-1] if rung.tier.accept)

    @property
    def ranges(self) -> tuple[Range, ...]:
        return tuple(rung.tier.accept.range or (0.0, 1.0) for rung in self.rungs[:-1] if rung.tier.accept)

    def numbers(self, thresholds: Thresholds) -> dict[str, float]:
        """By their dotted paths in the manifest."""
        where = at("routes", self.name, "tiers")
        return {at(where, tier, "accept", "confidence"): number for tier, number in enumerate(thresholds)}


def read_cascade(name: str, path: Path) -> Cascade:
    """The route of a sound manifest; Unusable where it isn't one whose thresholds can be set."""
    checked = check(path)
    manifest = checked.manifest
    if manifest is None or not checked.servable:
        raise Unusable("\n".join(["the manifest has problems:", *map(str, checked.problems)]))
    route = manifest.routes.get(name)
    if route is None:
        guess = did_you_mean(name, manifest.routes)
        known = f"did you mean {guess!r}?" if guess else f"the routes are {', '.join(map(repr, manifest.routes))}"
        raise Unusable(f"{path} has no route {name!r}: {known}")
    if route.policy.kind != "cascade" or len(route.tiers) < 2:
        raise Unusable(f"the route {name!r} has no thresholds: it is no cascade of two tiers or more")
    return Cascade(name, _rungs(manifest, route, checked.models), checked.declared.places)


def _rungs(manifest: Manifest, route: Route, models: dict[str, Served]) -> tuple[Rung, ...]:
    rungs: list[Rung] = []
    for tier in route.tiers:
        model, version = manifest.models[tier.model], models[tier.model].named(tier.version)
        assert version is not None, "validate has seen to it"
        if version.signature is None or version.problem:
            raise Unusable(f"the model {tier.model!r} can't be run: {version.problem}")
        if model.price is None:
            raise Unusable(
                f"the model {tier.model!r} has no price, so nothing says what is cheap: "
                "add for instance `price: {usd_per_hour: 0.05}`"
            )
        rungs.append(Rung(tier, model, version, version.signature))
    return tuple(rungs)


def ask_tiers(cascade: Cascade, asking: Asking) -> Sample:
    """What each tier says of each example, with a progress bar on stderr. Unusable."""
    examples = read_examples(asking.data, cascade.rungs[0].signature, asking.label)
    rows = len(examples.labels)
    if rows < LEAST_ROWS:
        raise Unusable(f"{asking.data} has {rows} examples; give {LEAST_ROWS} or more, better a thousand")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    found: list[Measured] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for rung in cascade.rungs:
            task = progress.add_task(f"asking {rung.tier.name}", total=rows)
            found.append(_ask(rung, examples, asking, lambda count, task=task: progress.advance(task, count)))
    usd = [one.row_s * ((rung.model.price and rung.model.price.usd_per_hour) or 0) / 3600
           for one, rung in zip(found, cascade.rungs, strict=True)]  # fmt: skip
    return Sample(np.stack([one.sure for one in found]), np.stack([one.right for one in found]), tuple(usd))


def _ask(rung: Rung, examples: Examples, asking: Asking, done: Callable[[int], None]) -> Measured:
    answer = asking.answer or (rung.model.prediction.output if rung.model.prediction else "")
    if not answer:
        raise Unusable(
            f"nothing says which output of the model {rung.tier.model!r} is its answer: "
            "add `prediction: {output: NAME}` to it, or give --answer NAME"
        )
    if rung.signature.output(answer) is None:
        raise Unusable(f"the model {rung.tier.model!r} has no output {answer!r}")
    asked = Asked(rung.tier.name, rung.signature, answer, rung.model.confidence)
    try:
        runtime = runtime_of(rung.model, rung.version)
        return measure(runtime, asked, examples, asking.rows_per_call, Clock().steady_ns, done)
    except Unusable:
        raise
    except Exception as error:  # a model may raise anything
        raise Unusable(f"the model {rung.tier.model!r} failed: {error}") from None


def run(cascade: Cascade, asking: Asking, wanted: Wanted, risk: float, seed: int) -> Calibration:
    """Ask the tiers and look for thresholds."""
    return calibrate(ask_tiers(cascade, asking), cascade.ranges, cascade.current, wanted, risk, seed)
