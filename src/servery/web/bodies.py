"""What the admin API takes and gives, as values; its description is made of these."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from servery.terms.audit import Entry
from servery.terms.change import Problem
from servery.terms.experiments import Experiment, Look
from servery.terms.history import Held, Revision
from servery.terms.plan import Plan
from servery.terms.rollouts import Looked, Rollout

_JSON = ("evidence", "before", "after")

Reason = Annotated[str, Meta(max_length=2_000, description="why; it is remembered. With a key it is required")]
File = Annotated[
    str,
    Meta(
        max_length=4_096,
        description="absolute path of a manifest on that machine, only over its own socket; default: the one that is served, read again",
    ),
]
Number = Annotated[int, Meta(ge=0, description="a revision to return to, in the place of a file")]


class PlanAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to plan for."""

    file: File = ""
    revision: Number = 0


class ApplyAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to put into effect."""

    file: File = ""
    revision: Number = 0
    reason: Reason = ""
    retry: Annotated[str, Meta(max_length=2_000, description="why a version that is held may be tried again")] = ""
    mark: Annotated[str, Meta(max_length=64, description="of the plan that was shown: nothing else is done")] = ""
    change: Annotated[
        str, Meta(pattern="^[A-Za-z0-9_-]{0,64}$", description="an id of yours, to ask by what became of it")
    ] = ""


class ReasonGiven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why."""

    reason: Reason = ""


class WorkerNow(msgspec.Struct, frozen=True):
    """A worker that is connected, and the epoch that it answers by."""

    name: str
    epoch: int


class VersionNow(msgspec.Struct, frozen=True):
    """A Version that is published."""

    model: str
    number: str
    version: str
    labels: tuple[str, ...]
    standing: str
    problem: str


class Status(msgspec.Struct, frozen=True):
    """What is published, and who answers by it."""

    epoch: int
    digest: str
    workers: tuple[WorkerNow, ...]
    versions: tuple[VersionNow, ...]
    file: str = ""


class Planned(msgspec.Struct, frozen=True):
    """A Plan, and what is in its way: with `problems` it can't be applied."""

    plan: Plan
    problems: tuple[Problem, ...]


class Revisions(msgspec.Struct, frozen=True):
    """Revisions, the newest first."""

    revisions: tuple[Revision, ...]


class RevisionText(msgspec.Struct, frozen=True):
    """A Revision with what its manifest's file said."""

    revision: Revision
    source: str


class AllHeld(msgspec.Struct, frozen=True):
    """Versions that are held, the oldest first."""

    held: tuple[Held, ...]


class EntryShown(msgspec.Struct, frozen=True):
    """An entry of the audit, with what it holds as JSON."""

    number: int
    at_ns: int
    who: str
    why: str
    act: str
    subject: str
    outcome: str
    evidence: msgspec.Raw
    before: msgspec.Raw
    after: msgspec.Raw
    previous: str
    seal: str


class Entries(msgspec.Struct, frozen=True):
    """Entries of the audit, the oldest first."""

    entries: tuple[EntryShown, ...]


def shown(entry: Entry) -> EntryShown:
    """An Entry with its JSON as it is written."""
    fields: dict[str, Any] = msgspec.structs.asdict(entry)
    fields |= {name: _raw(fields[name]) for name in _JSON}
    return EntryShown(**fields)


def _raw(text: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:  # it was altered
        return msgspec.Raw(msgspec.json.encode(text))
    return msgspec.Raw(text.encode())


class RolloutNow(msgspec.Struct, frozen=True):
    """A Rollout that is under way, and what the last look at each of its guards said."""

    rollout: Rollout
    looks: tuple[Looked, ...]


class AllRollouts(msgspec.Struct, frozen=True):
    """All Rollouts that are under way."""

    rollouts: tuple[RolloutNow, ...]


class PastRollouts(msgspec.Struct, frozen=True):
    """Rollouts that are over, the newest first."""

    rollouts: tuple[Rollout, ...]


class ExperimentNow(msgspec.Struct, frozen=True):
    """An Experiment, and the last look at it where it runs."""

    experiment: Experiment
    look: Look


class AllExperiments(msgspec.Struct, frozen=True):
    """Experiments that run, those that are declared only, and those that were concluded."""

    experiments: tuple[ExperimentNow, ...]


class ExperimentReport(msgspec.Struct, frozen=True):
    """An Experiment with every look at it, the oldest first."""

    experiment: Experiment
    looks: tuple[Look, ...]


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every error: what is wrong and what to do instead; the Reason's word; the problems of a manifest."""

    error: str
    reason: str
    problems: tuple[Problem, ...] = ()
