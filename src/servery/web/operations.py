"""All that the admin API does: one Operation each, which says who may do it and what it takes and gives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec
from sqlalchemy.exc import DBAPIError

from servery.control.alarms import looks_of
from servery.control.auditing import head_of, verify
from servery.control.experiments import VERBS as EXPERIMENT_VERBS
from servery.control.experiments import Experiments
from servery.control.loop import Controller
from servery.control.rollouts import VERBS, Rollouts
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.ledger import WrongLedger
from servery.telemetry.report import Question, Report
from servery.telemetry.spans import parse_span
from servery.telemetry.tally import By
from servery.terms.admin import Role
from servery.terms.audit import Verified
from servery.terms.change import Change, Problem
from servery.terms.drift import DriftLooks
from servery.terms.experiments import Experiment
from servery.terms.history import Journaled, Wish
from servery.terms.paced import PacedRoutes
from servery.terms.reasons import Reason, Refusal
from servery.terms.rollouts import Rollout
from servery.web import bodies
from servery.web.contents import ContentCount, ContentDesk, EraseAsked, Erased
from servery.web.reports import Unreadable, read_report


class Unfit(Exception):
    """A manifest that has problems."""

    def __init__(self, message: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems


class Asked(msgspec.Struct, frozen=True):
    """One request: who asks, whether from this machine's own socket, the values of its path, its query, and its body."""

    who: str
    here: bool
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None

    def number(self, name: str, default: int, most: int) -> int:
        """A number of the query. Refusal."""
        written = self.query.get(name, str(default))
        if not (written.isascii() and written.isdigit() and len(written) < 20 and int(written) <= most):
            raise Refusal(Reason.INVALID_REQUEST, f"`{name}` is a number from 0 to {most}, not {written[:32]!r}")
        return int(written)

    def reason(self, given: str) -> str:
        """Why: whoever comes with a key has to say it. Refusal."""
        if not given.strip() and not self.here:
            raise Refusal(Reason.INVALID_REQUEST, 'say why, for instance {"reason": "the new model of May"}')
        return given.strip()


class Query(msgspec.Struct, frozen=True):
    """A parameter of the query."""

    name: str
    meaning: str
    kind: Literal["integer", "string"] = "integer"


_MOST = 500
_REPORTS = 8

Read = TypeVar("Read")


class Acts:
    """What the Operations do, by one Controller."""

    def __init__(
        self, controller: Controller, rollouts: Rollouts, experiments: Experiments, folder: DataFolder, clock: Clock
    ) -> None:
        self._controller = controller
        self._rollouts = rollouts
        self._experiments = experiments
        self._ledger = folder.ledger
        self._desk = ContentDesk(folder.contents, clock)
        self._clock = clock
        self._reporting = asyncio.Lock()
        self._reports = 0  # that are made, or wait for their turn

    async def status(self, _: Asked) -> bodies.Status:
        """What is published, and who answers by it."""
        snapshot = self._controller.snapshot
        workers = tuple(bodies.WorkerNow(peer.name, peer.epoch) for peer in self._controller.peers)
        versions = tuple(
            bodies.VersionNow(
                version.model,
                version.number,
                version.name,
                tuple(label for label, number in served.labels.items() if number == version.number),
                served.standing.value,
                version.problem,
            )
            for served in snapshot.models.values()
            for version in served.versions
        )
        return bodies.Status(
            snapshot.epoch, snapshot.manifest_digest, workers, versions, str(self._controller.manifest)
        )

    async def plan(self, asked: Asked) -> bodies.Planned:
        """What it takes to serve what is declared. Refusal, Unfit."""
        wish = Wish(asked.who, "", _file(asked, asked.body.file), asked.body.revision)
        looked = await self._controller.look(wish)
        if looked.plan is None:
            raise Unfit("the manifest has problems", looked.problems)
        return bodies.Planned(looked.plan, looked.problems)

    async def apply(self, asked: Asked) -> Change:
        """Put it into effect. Refusal, Unfit."""
        body: bodies.ApplyAsked = asked.body
        why = asked.reason(body.reason or body.retry)
        wish = Wish(asked.who, why, _file(asked, body.file), body.revision, body.retry, body.mark, body.change)
        change = await self._controller.apply(wish)
        if change.problems:
            raise Unfit(change.message, change.problems)
        if not change.epoch:
            raise Refusal(Reason.CHANGE_REFUSED, change.message)
        return change

    async def change(self, asked: Asked) -> Journaled:
        """What became of a change. Refusal."""
        name = asked.path["change"]
        found = await self._controller.journal.ask(lambda state: state.journaled(name))
        if found is None:
            raise Refusal(Reason.NOT_FOUND, f"the journal knows no change {name[:64]!r}, or not any more")
        return found

    async def history(self, asked: Asked) -> bodies.Revisions:
        """What was published, the newest first. Refusal."""
        most, before = asked.number("most", 50, _MOST), asked.number("before", 2**62, 2**62)
        found = await self._controller.journal.ask(lambda state: state.revisions(most, before))
        return bodies.Revisions(tuple(found))

    async def revision(self, asked: Asked) -> bodies.RevisionText:
        """A Revision with its manifest. Refusal."""
        written = asked.path["number"]
        if not (written.isascii() and written.isdigit() and len(written) < 19):
            raise Refusal(Reason.NOT_FOUND, f"a revision is a number, not {written[:32]!r}")
        revision, source, _ = await self._controller.journal.revision(int(written))
        return bodies.RevisionText(revision, source)

    async def held(self, _: Asked) -> bodies.AllHeld:
        """The Versions that are held. Refusal."""
        return bodies.AllHeld(tuple(await self._controller.journal.ask(lambda state: state.held())))

    async def audit(self, asked: Asked) -> bodies.Entries:
        """Entries of the audit, the oldest first. Refusal."""
        after, most = asked.number("after", 0, 2**62), asked.number("most", 100, _MOST)
        found = await self._controller.journal.ask(lambda state: state.entries_after(after, most))
        return bodies.Entries(tuple(map(bodies.shown, found)))

    async def verify(self, asked: Asked) -> Verified:
        """Whether the audit is whole. Refusal."""
        heads = [head_of(one) for one in asked.query.get("heads", "").split(",") if one]
        if None in heads:
            raise Refusal(Reason.INVALID_REQUEST, "`heads` are NUMBER:SEAL, with commas between them")
        noted = [head for head in heads if head is not None]
        return await self._controller.journal.ask(lambda state: verify(state, noted))

    async def report(self, asked: Asked) -> Report:
        """What the Records say; one at a time, as a long span takes a while. Refusal."""
        span = parse_span(asked.query.get("since", "1h"))
        if span is None:
            raise Refusal(Reason.INVALID_REQUEST, "`since` is a span of time such as 30m, 1h, 2d or all")
        try:
            by: By = msgspec.convert(asked.query.get("by", "tier"), By)
        except msgspec.ValidationError:
            raise Refusal(Reason.INVALID_REQUEST, f"`by` is one of {', '.join(get_args(By))}") from None
        until_ns = self._clock.wall_ns() + 1
        question = Question(until_ns - span if span else 0, until_ns, by, asked.query.get("route"))
        routes = self._controller.settled.manifest.routes
        return await self._read(lambda: read_report(self._ledger, question, routes))

    async def drift(self, asked: Asked) -> DriftLooks:
        """What of models has drifted in a window. Refusal."""
        manifest, now_ns = self._controller.settled.manifest, self._clock.wall_ns()
        model, back = asked.query.get("model", ""), asked.number("back", 0, 1_000)
        return DriftLooks(await self._read(lambda: looks_of(self._ledger, manifest, model, back, now_ns)))

    async def _read(self, read: Callable[[], Read]) -> Read:
        """What is read of the ledger, off the event loop. Refusal."""
        if self._reports >= _REPORTS:
            raise Refusal(Reason.NO_ROOM, f"{_REPORTS} reports are being made already", 10)
        self._reports += 1
        try:
            async with self._reporting:
                return await asyncio.to_thread(read)
        except LookupError as error:
            raise Refusal(Reason.NOT_FOUND, str(error)) from None
        except (Unreadable, WrongLedger) as error:
            raise Refusal(Reason.NO_STATE, str(error)) from None
        except DBAPIError as error:
            raise Refusal(Reason.NO_STATE, f"the ledger can't be read: {error.orig}") from None
        finally:
            self._reports -= 1

    async def content(self, asked: Asked) -> ContentCount:
        """How much of what callers said is kept. Refusal."""
        tenant, before = (asked.query.get(name, "")[:128] for name in ("tenant", "before"))
        return await asyncio.to_thread(self._desk.count, tenant, before)

    async def erase(self, asked: Asked) -> Erased:
        """Erase some of it for good. Refusal."""
        why = asked.reason(asked.body.reason)
        return await self._controller.journal.ask(lambda state: self._desk.erase(state, asked.who, why, asked.body))

    async def load(self, asked: Asked) -> Change:
        """Read a Model's artifacts again. Refusal."""
        return await self._controller.load(asked.path["model"], asked.who, asked.reason(asked.body.reason))

    async def unload(self, asked: Asked) -> Change:
        """Take a Model out of memory. Refusal."""
        return await self._controller.unload(asked.path["model"], asked.who, asked.reason(asked.body.reason))

    async def paced(self, _: Asked) -> PacedRoutes:
        """Where thresholds stand that follow their traffic."""
        return self._controller.posting.paced()

    async def rollouts(self, _: Asked) -> bodies.AllRollouts:
        """Those that are under way, each with its last look."""
        return bodies.AllRollouts(tuple(bodies.RolloutNow(*one) for one in self._rollouts.under_way))

    async def past_rollouts(self, asked: Asked) -> bodies.PastRollouts:
        """Those that are over, the newest first. Refusal."""
        most = asked.number("most", 50, _MOST)
        return bodies.PastRollouts(tuple(await self._rollouts.over(most)))

    async def rollout_by_hand(self, asked: Asked) -> Rollout:
        """Pause, resume, promote or abort one. Refusal."""
        verb = asked.path["verb"]
        if verb not in VERBS:
            raise Refusal(Reason.NOT_FOUND, f"a rollout can be {', '.join(VERBS)}d, not {verb[:32]!r}")
        return await self._rollouts.act(asked.path["model"], verb, asked.who, asked.reason(asked.body.reason))

    async def experiments(self, asked: Asked) -> bodies.AllExperiments:
        """Those that run, drafts, and those that were concluded. Refusal."""
        found = await self._experiments.all(asked.number("most", 50, _MOST))
        return bodies.AllExperiments(tuple(bodies.ExperimentNow(*one) for one in found))

    async def experiment(self, asked: Asked) -> bodies.ExperimentReport:
        """One with every look at it. Refusal."""
        experiment, looks = await self._experiments.report(asked.path["experiment"])
        return bodies.ExperimentReport(experiment, tuple(looks))

    async def experiment_by_hand(self, asked: Asked) -> Experiment:
        """Start or stop one. Refusal."""
        verb = asked.path["verb"]
        if verb not in EXPERIMENT_VERBS:
            message = f"an experiment can be told to {' or '.join(EXPERIMENT_VERBS)}, not to {verb[:32]!r}"
            raise Refusal(Reason.NOT_FOUND, message)
        why = asked.reason(asked.body.reason)
        return await self._experiments.act(asked.path["experiment"], verb, asked.who, why)


def _file(asked: Asked, file: str) -> str:
    if not file:
        return ""
    if not asked.here:
        message = "files are named over the machine's own socket only: leave `file` out, and the manifest is read again where it lies"
        raise Refusal(Reason.NOT_PERMITTED, message)
    if not Path(file).is_absolute():
        raise Refusal(Reason.INVALID_REQUEST, f"`file` must be an absolute path, not {file[:256]!r}")
    return file


class Operation(msgspec.Struct, frozen=True):
    """One thing that the admin API does. `path` follows the prefix; `{model:path}` may hold slashes."""

    name: str
    method: Literal["GET", "POST"]
    path: str
    role: Role
    summary: str
    act: Callable[[Acts, Asked], Awaitable[msgspec.Struct]]
    reply: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
    query: tuple[Query, ...] = ()


_PAGES = (Query("most", f"how many, at most {_MOST}"), Query("before", "only those with lower numbers"))
# Everything that can be asked of a Controller.
OPERATIONS = (
    Operation("status", "GET", "/status", "viewer", "What is published, and who answers by it", Acts.status, bodies.Status),
    Operation(
        "plan", "POST", "/plan", "viewer", "What it takes to serve what is declared", Acts.plan, bodies.Planned, bodies.PlanAsked
    ),
    Operation(
        "apply", "POST", "/apply", "operator", "Put what is declared, or a revision, into effect; answers once all workers have it",
        Acts.apply, Change, bodies.ApplyAsked,
    ),
    Operation("change", "GET", "/changes/{change}", "viewer", "What became of a change", Acts.change, Journaled),
    Operation("history", "GET", "/history", "viewer", "What was published", Acts.history, bodies.Revisions, query=_PAGES),
    Operation("revision", "GET", "/history/{number}", "viewer", "A revision and its manifest", Acts.revision, bodies.RevisionText),
    Operation(
        "audit", "GET", "/audit", "viewer", "Who changed what, when and why", Acts.audit, bodies.Entries,
        query=(_PAGES[0], Query("after", "only those with higher numbers")),
    ),
    Operation(
        "verify", "GET", "/audit/verify", "viewer", "Whether an entry of the audit was altered, left out or cut off",
        Acts.verify, Verified, query=(Query("heads", "NUMBER:SEAL of entries, kept elsewhere, with commas", "string"),),
    ),
    Operation(
        "paced", "GET", "/paced", "viewer", "Where thresholds stand that follow their traffic, and what that gives",
        Acts.paced, PacedRoutes,
    ),
    Operation(
        "report", "GET", "/report", "viewer", "Shares, latency, dollars and quality, from the Records", Acts.report, Report,
        query=(
            Query("since", "how far back: 30m, 1h (the default), 2d, or all", "string"),
            Query("by", "what the lines stand for: tier (the default), model, version or tenant", "string"),
            Query("route", "only this route", "string"),
        ),
    ),
    Operation(
        "drift", "GET", "/drift", "viewer", "What of models has drifted, and what could not have been seen", Acts.drift, DriftLooks,
        query=(Query("model", "only this one", "string"), Query("back", "so many windows before the last whole one")),
    ),
    Operation(
        "content", "GET", "/content", "viewer", "How much Content is kept, by tenant, region and key", Acts.content, ContentCount,
        query=(
            Query("tenant", "only this tenant's", "string"),
            Query("before", "only of requests that began before: 2026-01-31, or 30d for 30 days ago", "string"),
        ),
    ),
    Operation("erase", "POST", "/content/erase", "operator", "Erase Content for good", Acts.erase, Erased, EraseAsked),
    Operation("held", "GET", "/held", "viewer", "Versions that are held", Acts.held, bodies.AllHeld),
    Operation(
        "rollouts", "GET", "/rollouts", "viewer", "Rollouts that are under way, each with the last look at it",
        Acts.rollouts, bodies.AllRollouts,
    ),
    Operation(
        "past-rollouts", "GET", "/rollouts/past", "viewer", "Rollouts that are over", Acts.past_rollouts, bodies.PastRollouts,
        query=_PAGES[:1],
    ),
    Operation(
        "rollout-by-hand", "POST", "/rollouts/{model:path}/{verb}", "operator",
        "Pause, resume, promote or abort the rollout of a model", Acts.rollout_by_hand, Rollout, bodies.ReasonGiven,
    ),
    Operation(
        "experiments", "GET", "/experiments", "viewer", "Experiments that run, those that are declared only, and those that are over",
        Acts.experiments, bodies.AllExperiments, query=_PAGES[:1],
    ),
    Operation(
        "experiment", "GET", "/experiments/{experiment:path}", "viewer", "An experiment with every look at it",
        Acts.experiment, bodies.ExperimentReport,
    ),
    Operation(
        "experiment-by-hand", "POST", "/experiments/{experiment:path}/{verb}", "operator", "Start or stop an experiment",
        Acts.experiment_by_hand, Experiment, bodies.ReasonGiven,
    ),
    Operation(
        "load", "POST", "/models/{model:path}/load", "operator", "Read a model's artifacts again, and serve them",
        Acts.load, Change, bodies.ReasonGiven,
    ),
    Operation(
        "unload", "POST", "/models/{model:path}/unload", "operator", "Take a model out of memory until it is loaded again",
        Acts.unload, Change, bodies.ReasonGiven,
    ),
)  # fmt: skip
