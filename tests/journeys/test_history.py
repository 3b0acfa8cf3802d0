"""What is remembered of changes: the history and the way back, and the audit that shows whether it was altered."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import artifacts
import living
from living import Living, servery
from servery.host.users import own_user
from servery.store.state import State
from servery.terms.audit import Draft

SURE = {1: [0.9, 0.1], 2: [0.2, 0.8]}


def declared(number: int, **more: Any) -> dict[str, Any]:
    model = {"runtime": "onnx", "artifact": "m", "versions": {"only": [number]}, **more}
    return {"servery": 1, "models": {"m": model}, "server": {"in_process_ms": 60_000}}


def write(server: Living, number: int, **more: Any) -> str:
    text = json.dumps(declared(number, **more), indent=1)
    server.manifest.write_text(text)
    return text


def begin(folder: Path) -> Living:
    for number, sure in SURE.items():
        artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
    return Living(folder, declared(1))


def history(server: Living, *options: object) -> str:
    done = servery("history", "--data", server.data, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def version_of(server: Living) -> str:
    return server.get("/v2/models/m").json["versions"][0]


def test_history_tells_what_was_published_and_the_way_back_leads_there(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        first = server.manifest.read_text()
        second = write(server, 2, price={"usd_per_hour": 1})
        assert living.apply(server, reason="the model of May").returncode == 0
        lines = history(server).splitlines()
        assert [line.split()[0] for line in lines[1:3]] == ["2", "1"]
        assert "the model of May" in lines[1]
        assert "replace models.m: price.usd_per_hour – → 1" in lines[1]
        assert history(server, 1) == first
        assert history(server, 2) == second

        done = servery("apply", "--revision", 1, "--data", server.data, "--yes", "--reason", "May was worse")
        assert done.returncode == 0, done.stderr
        assert "± models.m" in done.stdout
        assert "epoch 3 is in effect in 1 worker (revision 3, audit 3:" in done.stdout
        assert done.stdout.endswith(first)
        assert f"{server.manifest} says something else than what is served now" in done.stderr
        assert version_of(server) == "1"
        newest = json.loads(history(server, "-o", "json", "--most", 1))["revisions"]
        assert [(one["number"], one["returns_to"], one["why"], one["who"]) for one in newest] == [
            (3, 1, "May was worse", own_user())
        ]
        assert "apply 1" in history(server).splitlines()[1]
        done = servery("plan", server.manifest, "--data", server.data, "--detailed-exitcode")
        assert (done.returncode, "versions.only: [1] → [2]" in done.stdout) == (2, True)
        server.manifest.write_text(history(server, 3))
        done = servery("plan", server.manifest, "--data", server.data, "--detailed-exitcode")
        assert done.returncode == 0, done.stdout
        done = servery("apply", "--revision", 1, "--data", server.data)
        assert (done.returncode, "Nothing to change" in done.stdout, done.stderr) == (0, True, "")
        assert server.stop() == 0
    assert len(history(server).splitlines()) >= 4  # also when nothing runs
    assert "there is no revision 9" in servery("history", 9, "--data", server.data).stderr


def test_what_is_no_longer_there_cannot_be_returned_to(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        write(server, 2)
        assert living.apply(server).returncode == 0
        artifacts.constant(tmp_path / "m" / "1" / "model.onnx", [0.5, 0.5])
        back = ("apply", "--revision", 1, "--data", server.data, "--yes", "--reason", "back")
        done = servery(*back)
        assert done.returncode == 1
        assert "is no longer what version 1 was then" in done.stderr
        (tmp_path / "m" / "1" / "model.onnx").unlink()
        assert "can't be read" in servery(*back).stderr
        assert "there is no revision 7" in servery(*back[:2], 7, *back[3:]).stderr
        assert version_of(server) == "2"


@pytest.fixture
def kept(tmp_path: Path) -> State:
    """A state with nine entries."""
    state = State(tmp_path / "state.db", tmp_path / "audit.heads", create=True)
    for number in range(1, 10):
        state.record(Draft(number * 10**9, "root", f"reason {number}", "apply", outcome="in effect"))
    return state


def sql(statement: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        connection = sqlite3.connect(folder / "state.db")
        with connection:
            connection.executescript(statement)
        connection.close()

    return act


def replaced(folder: Path) -> None:
    """Another state in the place of the whole file, with a chain that is sound in itself."""
    other = folder / "other"
    other.mkdir()
    state = State(other / "state.db", other / "audit.heads", create=True)
    for number in range(1, 10):
        state.record(Draft(number * 10**9, "nobody", "nothing", "apply"))
    shutil.copy(other / "state.db", folder / "state.db")


def headless(folder: Path) -> None:
    (folder / "audit.heads").unlink()


TAMPERING = [
    ("a field is edited", sql("UPDATE audit SET why = 'no reason' WHERE number = 4"), "entry 4 was altered"),
    ("a row is deleted", sql("DELETE FROM audit WHERE number = 4"), "entry 4 is missing"),
    ("the tail is cut", sql("DELETE FROM audit WHERE number > 7"), "entries 8 to 9 are missing: they were cut off"),
    (
        "two rows are swapped",
        sql("UPDATE audit SET number = 99 WHERE number = 4; UPDATE audit SET number = 4 WHERE number = 5;"
            "UPDATE audit SET number = 5 WHERE number = 99"),
        "entry 4 was altered",
    ),
    ("the file is replaced", replaced, "entry 1 is another one than was written first"),
    ("the heads are removed", headless, "whether entries were cut off at the end can't be seen"),
    ("all is removed", sql("DELETE FROM audit"), "entries 1 to 9 are missing"),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "told"), [case[1:] for case in TAMPERING], ids=[case[0] for case in TAMPERING])
def test_tampering_is_found(tmp_path: Path, kept: State, tamper: Callable[[Path], None], told: str) -> None:
    done = servery("audit", "verify", "--data", tmp_path)
    assert (done.returncode, done.stdout.startswith("whole: 9 entries, the head is 9:")) == (0, True), done.stderr
    tamper(tmp_path)
    done = servery("audit", "verify", "--data", tmp_path)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr


def test_a_head_that_was_kept_elsewhere_finds_what_was_replaced_with_its_heads(tmp_path: Path, kept: State) -> None:
    *_, last = kept.entries()
    replaced(tmp_path)
    shutil.copy(tmp_path / "other" / "audit.heads", tmp_path / "audit.heads")
    assert servery("audit", "verify", "--data", tmp_path).returncode == 0  # this is what can't be found without
    done = servery("audit", "verify", "--data", tmp_path, "--head", f"9:{last.seal}")
    assert (done.returncode, "entry 9 is not the one whose head is" in done.stderr) == (1, True)
    assert "--head is NUMBER:SEAL" in servery("audit", "verify", "--data", tmp_path, "--head", "9").stderr


def test_entries_are_shown(tmp_path: Path, kept: State) -> None:
    lines = servery("audit", "show", "--data", tmp_path).stdout.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("1  1970-01-01 00:00:01Z  root  apply, in effect: reason 1  ")
    found = [
        json.loads(line) for line in servery("audit", "show", "--data", tmp_path, "-o", "json").stdout.splitlines()
    ]
    assert [(one["number"], one["evidence"]) for one in found] == [(number, {}) for number in range(1, 10)]
    assert servery("audit", "show", "--data", tmp_path, "--since", "1h").stdout == ""
    assert servery("audit", "show", "--data", tmp_path, "--since", "soon").returncode == 1
    for command in (("audit", "show"), ("audit", "verify"), ("history",)):
        done = servery(*command, "--data", tmp_path / "nowhere")
        assert (done.returncode, "nothing was ever served from here" in done.stderr) == (1, True)
