"""What `servery up` publishes and writes down before there is a controller."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import artifacts
from servery.control.apply import Checked, check
from servery.control.published import read_snapshot
from servery.control.remembered import draft_of
from servery.control.starting import Started, start
from servery.host.settings import DataFolder
from servery.host.users import own_user
from servery.store.state import State
from servery.terms.audit import Draft
from servery.terms.history import Ended, Held, Intent, Underway

MANIFEST = "servery: 1\nmodels:\n  m: {runtime: onnx, artifact: m, versions: {only: [%d]}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    for number, sure in ((1, [0.9, 0.1]), (2, [0.2, 0.8])):
        artifacts.constant(tmp_path / "m" / str(number) / "model.onnx", sure)
    folder = DataFolder(tmp_path / "data")
    folder.create()
    return folder


def begin(folder: DataFolder, number: int = 1) -> Started:
    file = folder.path.parent / "servery.yaml"
    file.write_text(MANIFEST % number)
    return start(folder, file, checked(folder), 1)


def checked(folder: DataFolder) -> Checked:
    found = check(folder.path.parent / "servery.yaml")
    assert found.problems == ()
    return found


def state_of(folder: DataFolder) -> State:
    return State(folder.state, folder.heads)


def test_history_begins_with_the_first_start_and_a_start_again_is_no_revision(folder: DataFolder) -> None:
    for epoch in (1, 2, 3):
        assert begin(folder).snapshot.epoch == epoch
    assert begin(folder, 2).snapshot.epoch == 4
    state = state_of(folder)
    assert [(one.number, one.act, one.who, one.epoch) for one in state.revisions()] == [
        (2, "up", own_user(), 4),
        (1, "up", own_user(), 1),
    ]
    assert state.revisions()[0].steps[0].startswith("replace models.m: versions.only [1] → [2]")
    assert [entry.act for entry in state.entries()] == ["up"] * 4
    assert read_snapshot(folder.snapshot).models["m"].latest.number == "2"


def test_a_snapshot_that_cannot_be_read_is_begun_anew(folder: DataFolder) -> None:
    begin(folder)
    folder.snapshot.write_bytes(b'{"epoch": 9')
    assert begin(folder).snapshot.epoch == 1


def test_a_change_that_was_under_way_was_overtaken(folder: DataFolder) -> None:
    old = begin(folder).snapshot
    state = State(folder.state, folder.heads, create=True)
    state.begin(Underway(Intent("c1", "apply", "root", "why"), 10, old, msgspec.structs.replace(old, epoch=2)))
    assert begin(folder, 2).snapshot.epoch == 2
    journaled = state.journaled("c1")
    assert journaled is not None
    assert (journaled.ended, journaled.message) == (Ended.OVERTAKEN, "Servery was started anew")
    assert [entry.outcome for entry in state.entries()][-2:] == ["overtaken: Servery was started anew", "in effect"]


def hold(folder: DataFolder, digest: str) -> None:
    state = State(folder.state, folder.heads, create=True)
    state.hold(Held("m", digest, 5, "rollout m", "it was worse"), Draft(5, "rollout m", "it was worse", "hold", "m"))


def test_what_is_held_is_not_served_by_a_start_either(folder: DataFolder) -> None:
    first = begin(folder).snapshot.models["m"]
    second = begin(folder, 2).snapshot.models["m"].latest.digest
    begin(folder)
    hold(folder, second)
    started = begin(folder, 2)
    assert started.snapshot.models["m"] == first
    assert started.warnings == (
        f"version {second[:12]} of 'm' is held (it was worse): {first.latest.name} is served, as before",
    )


def test_what_is_held_is_unavailable_where_nothing_was_served_before(folder: DataFolder) -> None:
    digest = begin(folder).snapshot.models["m"].latest.digest
    hold(folder, digest)
    started = begin(folder)
    assert "nothing else was served in its place" in started.warnings[0]
    assert started.snapshot.models["m"].latest.problem == f"version {digest[:12]} of 'm' is held (it was worse)"


def test_without_a_state_that_can_be_used_what_is_declared_is_served(folder: DataFolder) -> None:
    folder.state.write_bytes(b"no database" * 100)
    started = begin(folder)
    assert read_snapshot(folder.snapshot) == started.snapshot
    assert "file is not a database; what is declared is served" in started.warnings[0]


def test_the_entry_of_a_change_has_only_what_differs(folder: DataFolder) -> None:
    old = begin(folder).snapshot
    new = begin(folder, 2).snapshot
    draft = draft_of(Underway(Intent("c", "apply", "root", "w", "m"), 1, old, new), Ended.IN_EFFECT, "", new, 2)
    before, after = (msgspec.json.decode(one) for one in (draft.before, draft.after))
    assert before["models"]["m"]["versions"] == {"1": old.models["m"].latest.digest}
    assert after["models"]["m"]["versions"] == {"2": new.models["m"].latest.digest}
    same = draft_of(Underway(Intent("c", "apply", "root", "w"), 1, old, new), Ended.RETURNED, "why", old, 2)
    assert msgspec.json.decode(same.after)["models"] == {}
    assert same.outcome == "returned: why"
