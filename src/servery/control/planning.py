"""Look at what is declared and what is served, and say which Plan leads from one to the other. Blocking: not for an event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from servery.control.apply import Copies, check
from servery.control.frozen import frozen
from servery.control.places import Places, at
from servery.control.plan import plan
from servery.control.resolve import digest_now
from servery.control.restart import needs_restart
from servery.runtimes.artifact import ArtifactError
from servery.terms.change import Problem, Severity, Snapshot, Standing
from servery.terms.history import Held, Revision
from servery.terms.placement import place, speaks
from servery.terms.plan import Plan

_LOOKS = 3


class Standpoint(msgspec.Struct, frozen=True):
    """What is served, and what is known of it: the Revision, what is held, and how long calls took."""

    snapshot: Snapshot | None
    revision: int
    held: Sequence[Held]
    took_ns: Mapping[str, float]
    copies: Copies

    @property
    def workers(self) -> int:
        return 1 if self.snapshot is None else self.snapshot.workers


class Looked(msgspec.Struct, frozen=True):
    """What was found. Without `wanted` there are errors among the `problems`; with it, it is what would be published."""

    file: Path
    source: str
    problems: tuple[Problem, ...]
    plan: Plan | None = None
    wanted: Snapshot | None = None

    @property
    def applicable(self) -> bool:
        """Whether nothing is wrong: `servery up` serves what is left when an artifact is missing, `apply` doesn't."""
        return self.wanted is not None and not self.problems


def look_at_file(file: Path, here: Standpoint) -> Looked:
    """Of the manifest at `file`."""
    source, checked = read_source(file), check(file, here.copies)
    for _ in range(_LOOKS):  # what is remembered of it is what was read
        if (again := read_source(file)) == source:
            break
        source, checked = again, check(file, here.copies)
    problems = checked.problems
    if checked.manifest is None or any(one.severity is Severity.ERROR for one in problems):
        return Looked(file, source, problems)
    if here.snapshot is not None:
        problems += tuple(needs_restart(here.snapshot.manifest, checked.manifest, checked.declared.places))
        problems += tuple(frozen(here.snapshot, checked.snapshot(0, here.workers), checked.declared.places))
    return _looked(file, source, problems, checked.snapshot(0, here.workers), here)


def look_at_revision(revision: Revision, source: str, snapshot: Snapshot, here: Standpoint) -> Looked:
    """Of a Revision: the Versions that it stood for, if their artifacts are still what they were."""
    places = Places(f"revision {revision.number}")
    models = {
        name: msgspec.structs.replace(served, standing=Standing.LOADED, apart=())
        for name, served in snapshot.models.items()
    }
    wanted = msgspec.structs.replace(
        snapshot, epoch=0, models=models, workers=here.workers, candidates={}, experiments={}
    )
    problems = list(_changed(wanted, places))
    if here.snapshot is not None:
        problems += needs_restart(here.snapshot.manifest, wanted.manifest, places)
        problems += frozen(here.snapshot, wanted, places)
    return _looked(Path(revision.file), source, tuple(problems), wanted, here)


def _looked(file: Path, source: str, problems: tuple[Problem, ...], wanted: Snapshot, here: Standpoint) -> Looked:
    wanted = place(wanted, here.took_ns)
    return Looked(file, source, problems, plan(here.snapshot, wanted, here.held, here.revision), wanted)


def _changed(wanted: Snapshot, places: Places) -> list[Problem]:
    """A Problem for each Version whose artifact is gone, or another one by now."""
    found: list[Problem] = []
    for name, model in wanted.manifest.models.items():
        for version in wanted.models[name].versions if not speaks(model) else ():
            where = at("models", name)
            if version.problem:
                continue
            try:
                same = digest_now(model, version) == version.digest
                why = "" if same else f"{version.artifact} is no longer what version {version.number} was then"
            except ArtifactError as error:
                why = str(error)
            if why:
                fix = "put back the file that it was, or write a manifest that declares what there is"
                found.append(places.problem(where, why, fix, Severity.UNAVAILABLE))
    return found


def read_source(file: Path) -> str:
    """What the file says, as far as that can be remembered; why it can't be read is said by whoever checks it."""
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:
        return ""
