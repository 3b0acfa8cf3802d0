"""The path of a change as values: problems found in a Manifest, pinned Versions, and the Snapshot that is published."""

from __future__ import annotations

import enum
from collections.abc import Collection

import msgspec

from servery.terms.experiments import Experiment
from servery.terms.manifest import Manifest, Model
from servery.terms.rollouts import Unit
from servery.terms.tensors import Signature
from servery.terms.text import TokenPrice


class Severity(enum.Enum):
    ERROR = "error"
    UNAVAILABLE = "unavailable"  # an artifact that can't be read: that Model is unavailable, the others serve


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a Manifest. `line` and `column` count from 1; 0 where there is no place in the file."""

    file: str
    line: int
    column: int
    where: str  # dotted path of the field, for instance "routes.digits.tiers[0].model"
    message: str
    fix: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.where}: {self.message}" + (f" → {self.fix}" if self.fix else "")


class Version(msgspec.Struct, frozen=True):
    """An immutable state of a Model, named by a digest over its artifact and what determines its answers.

    An artifact that could not be read has no digest and no signature, but the `problem` that a caller is told.
    """

    model: str
    number: str
    digest: str
    artifact: str  # absolute path
    files: tuple[str, ...] = ()  # the artifact and its weights, in the order of the digest
    signature: Signature | None = None
    problem: str = ""
    size: int = 0  # bytes of its files
    price: TokenPrice | None = None  # of a language model: declared, or of the table that Servery carries

    @property
    def name(self) -> str:
        """How replies, Records and reports write it: the first 12 hex digits of the digest."""
        return self.digest[:12]


class Standing(enum.Enum):
    """Whether a Model's Versions are kept loaded."""

    LOADED = "loaded"
    UNLOADED = "unloaded"  # by an operator, until it is loaded again
    ASLEEP = "asleep"  # to make room for others, until somebody asks for it


class Served(msgspec.Struct, frozen=True):
    """What of a Model is served: its Versions in the order of their numbers, and the labels that name some of them.

    There is at least one Version, if only to say why it can't be loaded.
    """

    versions: tuple[Version, ...]
    labels: dict[str, str] = {}  # label → number
    standing: Standing = Standing.LOADED
    apart: tuple[str, ...] = ()  # numbers that run in Replicas, though the declaration leaves it open
    copies: int = 0  # how many Replicas of each run for now (0: as many as are declared)

    @property
    def latest(self) -> Version:
        """The one that answers a call that names no version."""
        return self.versions[-1]

    def named(self, name: str | None) -> Version | None:
        """The Version that a number or a label names; `None` names the latest."""
        if name is None:
            return self.latest
        number = self.labels.get(name, name)
        return next((version for version in self.versions if version.number == number), None)


def same(one: Served, other: Served) -> bool:
    """Whether callers get the same Versions by the same names."""
    return (
        one.labels == other.labels
        and len(one.versions) == len(other.versions)
        and all(
            (version.number, version.digest) == (another.number, another.digest)
            for version, another in zip(one.versions, other.versions, strict=True)
        )
    )


class Candidate(msgspec.Struct, frozen=True):
    """What of a Model would be served if its Rollout were promoted, and the share of the units that get it already."""

    rollout: str
    model: Model  # its declaration
    served: Served
    share: float
    unit: Unit | None = None  # None: each Request is one
    step: int = 0


class Change(msgspec.Struct, frozen=True):
    """What became of a change that was asked for. Without `epoch` nothing has changed, and `problems` say why."""

    epoch: int = 0
    digest: str = ""
    problems: tuple[Problem, ...] = ()
    message: str = ""
    workers: int = 0  # that have it in effect
    revision: int = 0
    audit: str = ""  # the head of the audit, with this change's entry


class Pinned(msgspec.Struct, frozen=True):
    """A file as it was when it was looked at; what is published has a copy of it."""

    path: str  # absolute
    digest: str
    threshold: float = 0.0  # of a router: the one that it was trained for


class Snapshot(msgspec.Struct, frozen=True):
    """The published value that a worker compiles its Table from."""

    epoch: int
    manifest: Manifest
    manifest_digest: str
    models: dict[str, Served]
    workers: int = 1  # how many processes answer callers
    routers: dict[str, Pinned] = {}  # by Route, of those that choose by a trained one
    verifiers: dict[str, Pinned] = {}  # by the path that the Manifest names
    candidates: dict[str, Candidate] = {}  # by Model, beside what `manifest` and `models` say of it
    experiments: dict[str, Experiment] = {}  # by name, of those that run

    def promoted(self, names: Collection[str]) -> Snapshot:
        """With the candidates of these Models in the place of what is served of them."""
        chosen = {name: self.candidates[name] for name in names}
        declared = {**self.manifest.models, **{name: one.model for name, one in chosen.items()}}
        return msgspec.structs.replace(
            self,
            manifest=msgspec.structs.replace(self.manifest, models=declared),
            models={
                **self.models,
                **{name: msgspec.structs.replace(one.served, copies=0) for name, one in chosen.items()},
            },
            candidates={name: one for name, one in self.candidates.items() if name not in chosen},
        )

    @property
    def views(self) -> tuple[Snapshot, ...]:
        """What is served, and beside it what would be: all that has to run."""
        return (self, self.promoted(self.candidates)) if self.candidates else (self,)
