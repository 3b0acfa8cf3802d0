"""What `servery up` does before there is a controller: publish what is declared, and write down that it did."""

from __future__ import annotations

from pathlib import Path

import msgspec

from servery.control.apply import Checked
from servery.control.arrange import arrange, refused
from servery.control.frozen import carried
from servery.control.plan import plan, summary
from servery.control.planning import read_source
from servery.control.published import SnapshotError, publish, read_snapshot, read_took
from servery.control.remembered import draft_of
from servery.host.clock import Clock, Dice
from servery.host.settings import DataFolder
from servery.host.users import own_user
from servery.store.state import State, WrongState
from servery.terms.change import Served, Snapshot
from servery.terms.history import Ended, Held, Intent, Underway
from servery.terms.manifest import Manifest
from servery.terms.placement import fit, place


class Started(msgspec.Struct, frozen=True):
    """What is served from now on, and what whoever started it has to know."""

    snapshot: Snapshot
    warnings: tuple[str, ...] = ()


def start(folder: DataFolder, file: Path, checked: Checked, workers: int) -> Started:
    """Publish what was checked, with the next epoch; OSError.

    A Version that is held is not served: the one that was served before goes on. Without a state that can be used, what is
    declared is served all the same.
    """
    try:
        old = read_snapshot(folder.snapshot)
    except SnapshotError:
        old = Snapshot(0, Manifest(1), "", {}, workers)
    wanted, ended = carried(old, checked.snapshot(old.epoch + 1, workers))
    try:
        started = _recorded(State(folder.state, folder.heads, create=True), folder, file, old, wanted)
        return Started(started.snapshot, (*ended, *started.warnings))
    except WrongState as error:
        warning = f"{error}; what is declared is served, but can't be changed until the state can be used"
        return Started(publish(_placed(wanted, folder), folder), (*ended, warning))


def _recorded(state: State, folder: DataFolder, file: Path, old: Snapshot, wanted: Snapshot) -> Started:
    clock, dice = Clock(), Dice()
    if (left := state.under_way()) is not None:
        message = "Servery was started anew"
        draft = draft_of(left, Ended.OVERTAKEN, message, old, clock.wall_ns())
        state.end(left.intent.id, Ended.OVERTAKEN, message, old, draft)
    wanted, warnings = without_held(wanted, old, state.held())
    steps = summary(plan(old if old.epoch else None, _placed(wanted, folder)))
    arranged = arrange(old, wanted, lambda: dice.bits(6).hex())
    warnings += tuple(
        f"{refused(name, old)}; version {old.models[name].latest.name} goes on" for name in arranged.conflicts
    )
    snapshot = _placed(arranged.snapshot, folder)
    intent = Intent(
        dice.bits(16).hex(), "up", own_user(), "started", file=str(file), source=read_source(file), steps=steps
    )
    under_way = Underway(intent, clock.wall_ns(), old, snapshot)
    state.begin(under_way)
    publish(snapshot, folder)
    draft = draft_of(under_way, Ended.IN_EFFECT, "", snapshot, clock.wall_ns())
    state.end(intent.id, Ended.IN_EFFECT, "", snapshot, draft, snapshot.manifest.server.keep_revisions)
    return Started(snapshot, warnings)


def without_held(wanted: Snapshot, old: Snapshot, held: list[Held]) -> tuple[Snapshot, tuple[str, ...]]:
    """`wanted` with no Version that is held: its Model goes on as in `old`, or is unavailable. Pure."""
    models, warnings = dict(wanted.models), list[str]()
    reasons = {(one.model, one.digest): one for one in held}
    for name, served in wanted.models.items():
        found = next((reasons[name, one.digest] for one in served.versions if (name, one.digest) in reasons), None)
        if found is None:
            continue
        said = f"version {found.digest[:12]} of {name!r} is held ({found.why})"
        before = old.models.get(name)
        same = before is not None and old.manifest.models[name].runtime == wanted.manifest.models[name].runtime
        if before is not None and same and not any((name, one.digest) in reasons for one in before.versions):
            models[name] = before
            warnings.append(f"{said}: {before.latest.name or 'what was'} is served, as before")
        else:
            models[name] = Served(tuple(msgspec.structs.replace(one, problem=said) for one in served.versions))
            warnings.append(f"{said}: nothing else was served in its place, so it is unavailable")
    return msgspec.structs.replace(wanted, models=models), tuple(warnings)


def _placed(wanted: Snapshot, folder: DataFolder) -> Snapshot:
    return fit(place(wanted, read_took(folder.took)), {})
