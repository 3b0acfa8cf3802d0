"""`servery policy`: what another policy would have been worth on the traffic that was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import typer
from sqlalchemy.exc import DBAPIError

from servery.cli.from_records import prompts_of
from servery.cli.options import command
from servery.control.apply import Checked, check
from servery.control.places import did_you_mean
from servery.control.published import SnapshotError, read_snapshot
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.learning.examples import Unusable
from servery.learning.files import read_router
from servery.learning.recorded import Chunk
from servery.learning.replay import Another, Measure, Replayed, replay
from servery.learning.ways import models_of, otherwise, plan_of, unlike
from servery.routing.hardness import hardness
from servery.store.ledger import Ledger, WrongLedger
from servery.telemetry.spans import parse_span
from servery.terms.change import Snapshot
from servery.terms.placement import speaks
from servery.terms.record import Record
from servery.terms.routes import Route

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_EXPLORE = "`policy: {explore: 0.1}` has a tenth of the first tiers drawn; wait for some traffic with it"
UNITS = {
    Measure.COST: "dollars per million requests",
    Measure.ERRORS: "share of requests without an answer",
    Measure.LATENCY: "ms per request, on the mean",
}


class ReplayOptions(msgspec.Struct, frozen=True):
    """What `servery policy replay` is told."""

    manifest: Annotated[Path, typer.Argument(help="A manifest with the other policy.", show_default=False)]
    route: Annotated[str, typer.Option(help="The route whose Records are looked at, and whose policy is tried.")]
    data: Annotated[Path, typer.Option(help="The data folder of the Servery that keeps the Records.")] = Path(
        ".servery"
    )
    metric: Annotated[
        Literal["cost", "errors", "latency", "feedback"], typer.Option(help="What a request is judged by.")
    ] = "cost"
    feedback: Annotated[str, typer.Option(help="With --metric feedback: the name of that Feedback.")] = ""
    since: Annotated[str, typer.Option(help="How far back: 1h, 7d, 12w, or all.")] = "all"
    output: Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="How to print.")] = "table"


class Answer(msgspec.Struct, frozen=True):
    """What `servery policy replay -o json` prints."""

    route: str
    metric: str
    unit: str
    found: Replayed
    notes: tuple[str, ...]


@app.callback()
def policies() -> None:
    """Policies of routes."""


@app.command("replay")
@command(ReplayOptions)
def run(given: ReplayOptions) -> None:
    """Say what another policy would have cost, failed, taken or been judged, from Records of one that explores.

    Each estimate has a 95 % interval. Exit 1 where the Records can't tell, with the reason.
    """
    measure = Measure(given.metric)
    if (measure is Measure.FEEDBACK) != bool(given.feedback):
        raise typer.BadParameter("--metric feedback and --feedback NAME go together", param_hint="--feedback")
    try:
        answer = _replayed(given, measure)
    except (Unusable, WrongLedger, SnapshotError) as error:
        _stop(str(error))
    except DBAPIError as error:
        _stop(f"{DataFolder(given.data).ledger} can't be read: {error.orig}")
    if given.output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))
    else:
        from servery.cli.worth import show  # noqa: PLC0415 (rich is for people, and takes a while to import)

        show(answer.found, answer.unit, answer.notes)


def _replayed(given: ReplayOptions, measure: Measure) -> Answer:
    """Unusable where nothing can be told."""
    folder = DataFolder(given.data)
    snapshot = read_snapshot(folder.snapshot)
    before = _route(snapshot, given.route)
    checked = check(given.manifest)
    if checked.manifest is None or not checked.servable:
        for problem in checked.problems:
            typer.echo(str(problem), err=True)
        raise Unusable(f"{given.manifest} doesn't declare what could be served")
    after = checked.manifest.routes.get(given.route)
    if after is None:
        raise Unusable(f"{given.manifest} declares no route {given.route!r}")
    if stopped := list(otherwise(before, after)):
        raise Unusable("; ".join(stopped))
    span = parse_span(given.since)
    if span is None:
        message = f"{given.since!r} is not a span of time; write for instance 7d, 12w or all"
        raise typer.BadParameter(message, param_hint="--since")
    now_ns = Clock().wall_ns()
    since_ns = now_ns - span if span else 0
    ledger = Ledger(folder.ledger)
    try:
        ids: list[bytes] = []
        if not _knows_scores(snapshot, checked, given.route):
            ids = _ids(ledger.read(since_ns, now_ns + 1, given.route), set(snapshot.manifest.tenants))
        another = _another(given, snapshot, checked, ids)
        found = replay(ledger.read(since_ns, now_ns + 1, given.route), another, measure, given.feedback)
    finally:
        ledger.close()
    if found.value is None:
        raise Unusable(_why(found, given))
    unit = f"{given.feedback}, on the mean" if measure is Measure.FEEDBACK else UNITS[measure]
    notes = tuple(unlike(snapshot.manifest, checked.manifest, given.route))
    return Answer(given.route, given.metric, unit, found, notes)


def _route(snapshot: Snapshot, name: str) -> Route:
    """What is served under this name; Unusable where it has no choice."""
    manifest = snapshot.manifest
    route = manifest.routes.get(name)
    if route is None:
        guess = did_you_mean(name, list(manifest.routes))
        known = f"did you mean {guess!r}?" if guess else f"there is {', '.join(manifest.routes) or 'none'}"
        raise typer.BadParameter(f"there is no route {name!r}; {known}", param_hint="--route")
    if not speaks(manifest.models[route.tiers[0].model]):
        raise Unusable(
            f"`{name}` answers tensors: its policy leaves nothing to chance, so its Records tell of no other one. For the thresholds of "
            "a cascade, labelled examples do: servery route calibrate"
        )
    return route


def _knows_scores(snapshot: Snapshot, checked: Checked, route: str) -> bool:
    """Whether Records hold the scores that the other policy goes by, or it needs none."""
    assert checked.manifest is not None
    before, after = snapshot.manifest.routes[route].policy, checked.manifest.routes[route].policy
    if after.kind != "complexity":
        return True
    digests = [one.routers[route].digest if route in one.routers else "" for one in (snapshot, checked.files)]
    return before.kind == "complexity" and digests[0] == digests[1]


def _ids(chunks: Iterable[Chunk], tenants: set[str]) -> list[bytes]:
    """The Records that have a choice, and whose prompts may be read: those of tenants that are still declared."""
    records = [record for chunk in chunks for record in chunk.records]
    return [
        one.id
        for one in records
        if one.attempts and one.attempts[0].choice is not None and (not tenants or one.tenant in tenants)
    ]


def _another(given: ReplayOptions, snapshot: Snapshot, checked: Checked, ids: list[bytes]) -> Another:
    """The policy that is tried. `ids` are the Records whose prompts have to be scored anew, as theirs are of another score."""
    assert checked.manifest is not None
    route = checked.manifest.routes[given.route]
    policy = route.policy
    thresholds: tuple[float, ...] = ()
    score: Callable[[Record], float | None] = lambda _: 0.0  # noqa: E731
    if policy.kind == "complexity":
        pinned = checked.files.routers.get(given.route)
        thresholds = policy.thresholds or (() if pinned is None else (pinned.threshold,))
        score = _recorded
        if ids:
            gain = hardness if pinned is None else read_router(Path(pinned.path)).scorer.gain
            scores = {
                record: gain(text)
                for record, text in prompts_of(DataFolder(given.data), "policy replay", given.route, ids).items()
            }
            score = lambda record: scores.get(record.id)  # noqa: E731
    picks: dict[str, int] = {}
    if policy.kind == "static":
        picks = _picks(checked, route)
    before = models_of(snapshot.manifest.routes[given.route])
    controls = frozenset([(one.id, one.design.arms[0].name) for one in snapshot.experiments.values()])
    return Another(plan_of(route), models_of(route), before, policy.explore, thresholds, score, picks, controls)


def _recorded(record: Record) -> float | None:
    choice = record.attempts[0].choice
    return None if choice is None else choice.score


def _picks(checked: Checked, route: Route) -> dict[str, int]:
    """By tenant the first step of a `static` policy. Unusable where it goes by what Records don't hold."""
    assert checked.manifest is not None
    policy = route.policy
    if policy.by != "subscription":
        raise Unusable(f"the policy chooses by a {policy.by}, and Records don't hold what callers said in it")
    steps = {tier.name: at for at, tier in enumerate(route.tiers)}
    default = 0 if policy.default is None else steps[policy.default]
    return {
        name: steps[policy.choose[tenant.subscription]] if tenant.subscription in policy.choose else default
        for name, tenant in checked.manifest.tenants.items()
    }


def _why(found: Replayed, given: ReplayOptions) -> str:
    """Why the Records can't tell, and what to do."""
    if not found.records:
        return f"there are no Records of the route {given.route!r}; `servery report` names those that there are"
    left_out = ", ".join(f"{count:,} {why}" for why, count in found.left_out.items())
    counted = f" ({left_out})" if left_out else ""
    if not found.usable:
        named = ", ".join(f"`{name}` ({count:,})" for name, count in found.names.items()) or "none"
        told = f"; the Feedback that there is: {named}" if given.feedback else ""
        return f"none of {found.records:,} Records tells anything{counted}{told}. {_EXPLORE}"
    return f"{found.refusal}: {found.usable:,} of {found.records:,} Records were looked at{counted}. {_EXPLORE}"


def _stop(message: str) -> NoReturn:
    typer.echo(f"servery policy replay: {message}", err=True)
    raise typer.Exit(1)
