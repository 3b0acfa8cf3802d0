"""The state store: what every implementation of it has to keep, whatever happens to whoever writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery.control.remembered import draft_of
from servery.store.state import State, WrongState
from servery.terms.audit import BEGINNING, Draft, Head, faults
from servery.terms.change import Served, Snapshot, Version
from servery.terms.history import Ended, Held, Intent, Journaled, Underway
from servery.terms.manifest import Manifest

Make = Callable[[], State]


def snapshot(epoch: int, digest: str = "d1") -> Snapshot:
    manifest = msgspec.convert({"servery": 1, "models": {"m": {"runtime": "onnx", "artifact": "m.onnx"}}}, Manifest)
    return Snapshot(epoch, manifest, "manifest", {"m": Served((Version("m", "1", digest, "/m.onnx"),))})


def intent(name: str, **more: Any) -> Intent:
    told: dict[str, Any] = {"file": "/servery.yaml", "source": "servery: 1\n", **more}
    return Intent(name, "apply", "root", "a reason", **told)


def change(
    state: State, name: str, old: Snapshot, new: Snapshot, ended: Ended = Ended.IN_EFFECT, **more: Any
) -> Journaled:
    under_way = Underway(intent(name, **more), 10, old, new)
    state.begin(under_way)
    now = new if ended is Ended.IN_EFFECT else old
    return state.end(name, ended, "", now, draft_of(under_way, ended, "", now, 20))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda: State(tmp_path / "state.db", tmp_path / "audit.heads", create=True)


def test_a_change_is_under_way_until_it_ends_also_for_the_next_life(make: Make) -> None:
    state = make()
    assert state.under_way() is None
    begun = Underway(intent("c1"), 10, snapshot(1), snapshot(3, "d2"), room=2)
    state.begin(begun)
    state.step("c1", "published")
    assert make().under_way() == begun
    journaled = make().journaled("c1")
    assert journaled is not None
    assert (journaled.step, journaled.ended, journaled.epoch) == ("published", Ended.UNDER_WAY, 1)
    with pytest.raises(WrongState, match="another change is under way"):
        make().begin(Underway(intent("c2"), 11, snapshot(1), snapshot(2)))
    done = state.end("c1", Ended.IN_EFFECT, "", snapshot(3, "d2"), Draft(20, "root", "a reason", "apply"))
    assert (done.ended, done.epoch, done.revision) == (Ended.IN_EFFECT, 3, 1)
    assert make().journaled("c1") == done
    assert make().under_way() is None
    with pytest.raises(WrongState, match="is not under way"):
        state.end("c1", Ended.RETURNED, "", snapshot(3), Draft(20, "root", "", "apply"))


def test_only_what_is_new_is_a_revision(make: Make) -> None:
    state = make()
    assert change(state, "c1", snapshot(0), snapshot(1)).revision == 1
    assert change(state, "c2", snapshot(1), snapshot(2)).revision == 1  # the same again
    assert change(state, "c3", snapshot(2), snapshot(3, "d2")).revision == 2
    assert change(state, "c4", snapshot(3), snapshot(4, "d3"), Ended.RETURNED).revision == 2
    assert change(state, "c5", snapshot(3), snapshot(5), returns_to=1).revision == 3
    found = state.revisions()
    assert [(one.number, one.epoch, one.returns_to, one.kept) for one in found] == [
        (3, 5, 1, True),
        (2, 3, 0, True),
        (1, 1, 0, True),
    ]
    assert [one.number for one in state.revisions(1, before=3)] == [2]
    kept = state.revision(2)
    assert kept is not None
    assert kept[1:] == ("servery: 1\n", snapshot(3, "d2"))
    assert state.revision(9) is None


def test_what_lies_elsewhere_but_says_the_same_is_where_it_lies_now(make: Make) -> None:
    state = make()
    change(state, "c1", snapshot(0), snapshot(1))
    change(state, "c2", snapshot(1), snapshot(2), file="/new.yaml", source="servery: 1 # new\n")
    change(state, "c3", snapshot(2), snapshot(3, "d2"), file="", source="")  # not about the manifest
    assert [one.file for one in state.revisions()] == ["/new.yaml", "/new.yaml"]


def test_old_revisions_are_a_line(make: Make) -> None:
    state = make()
    for number in range(1, 6):
        begun = Underway(intent(f"c{number}"), 10, snapshot(number - 1), snapshot(number, f"d{number}"))
        state.begin(begun)
        state.end(begun.intent.id, Ended.IN_EFFECT, "", begun.new, Draft(20, "root", "", "apply"), keep=2)
    assert [one.kept for one in state.revisions()] == [True, True, False, False, False]
    assert state.revision(3) is None


def test_what_is_held_stays_so_until_a_change_that_lifts_it_is_in_effect(make: Make) -> None:
    state = make()
    held = Held("m", "d2", 5, "rollout m", "worse", '{"low": 0.1}')
    state.hold(held, Draft(5, "rollout m", "worse", "hold", "m"))
    state.hold(msgspec.structs.replace(held, digest="d3", since_ns=6), Draft(6, "rollout m", "worse", "hold", "m"))
    assert make().held()[0] == held
    change(state, "c1", snapshot(0), snapshot(1, "d2"), Ended.RETURNED, lifted=(held,), retry="again")
    assert [one.digest for one in state.held()] == ["d2", "d3"]
    change(state, "c2", snapshot(0), snapshot(1, "d2"), lifted=(held,), retry="again")
    assert [one.digest for one in state.held()] == ["d3"]
    *_, last = state.entries()
    assert '"retry":"again"' in last.evidence


def test_every_end_is_an_entry_whose_head_lies_apart(make: Make, tmp_path: Path) -> None:
    state = make()
    change(state, "c1", snapshot(0), snapshot(1))
    change(state, "c2", snapshot(1), snapshot(2, "d2"), Ended.RETURNED)
    state.record(Draft(30, "judge", "worse by 3 %", "verdict", "m", "worse", '{"n": 100}'))
    entries = list(make().entries())
    assert [(one.number, one.act, one.outcome) for one in entries] == [
        (1, "apply", "in effect"),
        (2, "apply", "returned"),
        (3, "verdict", "worse"),
    ]
    assert [one.number for one in make().entries(since_ns=25)] == [3]
    heads = make().heads.all()
    assert heads == {one.number: one.seal for one in entries}
    assert list(faults(entries, heads)) == []
    assert (tmp_path / "audit.heads").stat().st_mode & 0o777 == 0o600
    journaled = make().journaled("c2")
    assert journaled is not None
    assert journaled.audit == f"2:{entries[1].seal}"


def test_a_head_that_was_not_written_is_written_with_the_next(make: Make, tmp_path: Path) -> None:
    state = make()
    state.record(Draft(1, "root", "", "a"))
    path = tmp_path / "audit.heads"
    whole = path.read_bytes()
    for left in (b"", whole[:30], whole[:-1]):  # killed before, or the machine died in the middle of it
        path.write_bytes(left)
        state.record(Draft(2, "root", "", "b"))
        assert list(faults(state.entries(), state.heads.all())) == []


def test_what_follows_a_cut_does_not_hide_it(make: Make, tmp_path: Path) -> None:
    state = make()
    for number in range(4):
        state.record(Draft(number, "root", "", "a"))
    sql(tmp_path, "DELETE FROM audit WHERE number > 2")
    state.record(Draft(9, "root", "", "b"))
    entries, heads = list(state.entries()), state.heads.all()
    assert [one.number for one in entries] == [1, 2, 5]
    assert "entries 3 to 4 are missing" in list(faults(entries, heads))


def test_before_the_first_entry_there_is_no_head(make: Make) -> None:
    state = make()
    assert state.heads.all() == {}
    assert state.heads.last() == Head(0, BEGINNING)


def test_many_entries_come_in_order(make: Make) -> None:
    state = make()
    for number in range(1, 12):
        state.record(Draft(number, "root", "", "a"))
    assert [one.number for one in state.entries()] == list(range(1, 12))


def test_a_state_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    path, heads = tmp_path / "state.db", tmp_path / "audit.heads"
    with pytest.raises(WrongState, match="nothing was ever served from here"):
        State(path, heads)
    sqlite3.connect(path).close()
    with pytest.raises(WrongState, match=r"schema of .* is missing"):
        State(path, heads)
    path.write_bytes(b"no database at all" * 100)
    for create in (False, True):
        with pytest.raises(WrongState, match=r"state\.db can't be used: file is not a database"):
            State(path, heads, create)


def test_a_state_that_somebody_else_holds_says_so(make: Make, tmp_path: Path) -> None:
    state = make()
    connection = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(WrongState, match="locked"):
            state.record(Draft(1, "root", "", "a"))
        assert list(State(tmp_path / "state.db", tmp_path / "audit.heads").entries()) == []  # readers don't wait
    finally:
        connection.close()


def sql(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "state.db")
    with connection:
        connection.execute(statement)
    connection.close()
