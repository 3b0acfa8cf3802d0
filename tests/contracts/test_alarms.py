"""Each window is looked at once, and each alarm is told once: over failures, restarts, a controller that was away, and other windows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heard import listening
from lines import new_id
from servery.control.alarms import Alarms, Standing, unseen
from servery.control.telling import Untold, post, run
from servery.host.clock import Clock
from servery.store.ledger import Cursor, Ledger
from servery.terms.audit import Draft
from servery.terms.change import Snapshot
from servery.terms.drift import DriftPolicy
from servery.terms.manifest import Manifest
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Binned, Sketched
from servery.terms.rollouts import Rollout, RolloutPolicy

HOUR_NS = 3_600 * 10**9
START = 480_000  # hours since 1970
DRIFT: dict[str, Any] = {"window_hours": 1, "reference_windows": 2, "expected_days_between_false_alarms": 10}


def line(hour: int, *bins: int) -> Sketched:
    since_ns = hour * HOUR_NS
    features = (Binned("x", True, bins, (100,) * len(bins)),)
    return Sketched(new_id(since_ns), since_ns, since_ns + 60 * 10**9, "m", "v", "acme", features)


class Holder:
    """Who holds rollouts: there is one of `m`, or none."""

    def __init__(self, there: bool = True) -> None:
        self.held: list[tuple[str, str, str]] = []
        self._there = there

    async def act(self, model: str, verb: str, who: str, why: str) -> Rollout:
        if not self._there:
            raise Refusal(Reason.NOT_FOUND, "no rollout is under way")
        self.held.append((model, verb, why))
        return Rollout("id", model, "v", "w", "", RolloutPolicy(), 0)


class Watching:
    """Alarms over a ledger, by a clock that is set by hand. `begin` is a new life of the controller."""

    def __init__(self, folder: Path, holder: Holder, **drift: Any) -> None:
        self.now_ns = 0
        self.drafts: list[Draft] = []
        self.holder = holder
        self.folder = folder
        self.declare(**drift)
        self.ledger = Ledger(folder / "ledger.db", create=True)
        self.alarms = self.begin()

    def declare(self, **drift: Any) -> None:
        model = {"runtime": "onnx", "artifact": "m.onnx", "drift": {**DRIFT, **drift}}
        self.manifest = msgspec.convert({"servery": 1, "models": {"m": model}}, Manifest)

    def begin(self) -> Alarms:
        files = (self.folder / "ledger.db", self.folder / "drift.json")
        served = (Snapshot(1, self.manifest, "", {}), self.folder / "servery.yaml")
        clock = Clock(lambda: self.now_ns)
        self.alarms = Alarms(lambda: served, self.holder, files, self.drafts.append, clock)
        return self.alarms

    def write(self, lines: Sequence[Sketched]) -> None:
        self.ledger.write(lines, "r", Cursor(1), 0)

    def turn(self, hours: float, times: int = 1) -> None:
        """What happens so long after the start, when `times` turns are made."""
        self.now_ns = round((START + hours) * HOUR_NS)

        async def turns() -> None:
            for _ in range(times):
                await self.alarms.turn()

        asyncio.run(turns())

    def restart(self) -> None:
        """A new life that knows what the file says."""

        async def start() -> None:
            alarms = self.begin()
            alarms.turn = _nothing  # only what was remembered
            await alarms.start()
            await alarms.drain()
            del alarms.turn

        asyncio.run(start())

    @property
    def acts(self) -> list[tuple[str, str]]:
        return [(draft.act, draft.outcome) for draft in self.drafts]


async def _nothing() -> None:
    pass


@pytest.fixture
def quiet() -> list[Sketched]:
    return [line(START, 1, 2), line(START + 1, 1, 2), line(START + 2, 1, 2)]


def test_an_alarm_is_told_once_and_holds_a_rollout(tmp_path: Path, quiet: list[Sketched]) -> None:
    with listening(204) as (url, told):
        holder = Holder()
        on_alarm = {
            "webhook": url,
            "hold_rollouts": True,
            "command": [sys.executable, "-c", "open('ran', 'a').write('1')"],
        }
        watching = Watching(tmp_path, holder, on_alarm=on_alarm)
        watching.write([*quiet, line(START + 3, 8, 9)])
        watching.turn(3.2, 3)
        assert (watching.acts, told, holder.held) == ([], [], [])
        watching.turn(4.2, 3)
        assert watching.acts == [
            ("drift", "alarm"),
            ("drift hold", "done"),
            ("drift webhook", "done"),
            ("drift command", "done"),
        ]
        assert [(model, verb) for model, verb, _ in holder.held] == [("m", "hold")]
        assert (tmp_path / "ran").read_text() == "1"
        assert told[0]["look"]["shifts"][0]["alarm"] is True
        watching.restart()
        watching.turn(4.4, 3)
        assert len(told) == len(holder.held) == 1
        assert (tmp_path / "ran").read_text() == "1"


def test_what_fails_is_tried_again_over_a_restart(tmp_path: Path, quiet: list[Sketched]) -> None:
    with listening(500, 302, 200) as (url, told):
        watching = Watching(tmp_path, Holder(there=False), on_alarm={"webhook": url, "hold_rollouts": True})
        watching.write([*quiet, line(START + 3, 8, 9)])
        watching.turn(4.2, 2)
        watching.turn(4.2, 2)
        assert len(told) == 1
        watching.restart()
        watching.turn(4.2 + 2 / 3600)
        watching.turn(4.2 + 3 / 3600)
        assert len(told) == 2
        watching.turn(4.2 + 10 / 3600, 2)
        assert len(told) == 3
        held = ("drift hold", "nothing to hold: no rollout is under way")
        assert watching.acts == [("drift", "alarm"), held, ("drift webhook", "done")]


def test_what_is_never_heard_ends(tmp_path: Path, quiet: list[Sketched]) -> None:
    watching = Watching(tmp_path, Holder(), on_alarm={"command": [str(tmp_path / "nothing")]})
    watching.write([*quiet, line(START + 3, 8, 9)])
    watching.turn(4.2)
    for at in range(20):
        watching.turn(4.2 + at / 1000 if at < 2 else 5.1 + 1.001 * at)
    assert watching.acts == [("drift", "alarm"), ("drift command", "failed")]


def test_windows_that_ended_while_the_controller_was_away_are_looked_at(tmp_path: Path, quiet: list[Sketched]) -> None:
    watching = Watching(tmp_path, Holder())
    watching.write([*quiet, *[line(START + hour, 8, 9) for hour in (3, 4, 5)], line(START + 6, 1, 2)])
    watching.turn(3.2)
    watching.restart()
    watching.turn(7.2)
    assert watching.acts == [("drift", "alarm")] * 3
    watching.declare(window_hours=3)
    watching.restart()
    watching.turn(7.3)
    assert watching.acts == [("drift", "alarm")] * 3


def test_which_windows_are_due() -> None:
    policy = DriftPolicy(window_hours=1)
    now_ns = 100 * HOUR_NS + 700 * 10**9
    assert list(unseen(policy, None, now_ns)) == [99]
    assert list(unseen(policy, 100 * HOUR_NS, now_ns)) == []
    assert list(unseen(policy, 98 * HOUR_NS, now_ns)) == [98, 99]
    assert len(unseen(policy, 0, now_ns)) == 30


def test_a_file_that_is_spoilt_is_no_reason_to_stop(tmp_path: Path, quiet: list[Sketched]) -> None:
    (tmp_path / "drift.json").write_text("{")
    watching = Watching(tmp_path, Holder())
    watching.write([*quiet, line(START + 3, 8, 9)])
    watching.restart()
    watching.turn(4.2)
    assert watching.acts == [("drift", "alarm")]
    assert msgspec.json.decode((tmp_path / "drift.json").read_bytes(), type=Standing).looked == {
        "m": (START + 4) * HOUR_NS
    }


def test_a_program_gets_no_secrets_and_no_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", "secret")
    code = "import os, sys; open('got', 'w').write(repr((sorted(os.environ), sys.argv[1:], sys.stdin.read())))"
    asyncio.run(run([sys.executable, "-c", code, "$HOME; true"], b"{}", tmp_path))
    names, arguments, given = eval((tmp_path / "got").read_text())
    assert "VENDOR_KEY" not in names
    assert (arguments, given) == (["$HOME; true"], "{}")


@pytest.mark.parametrize(
    ("command", "why"), [(["/nowhere"], "No such file"), ([sys.executable, "-c", "exit(3)"], "it ended with 3")]
)
def test_a_program_that_fails_is_told(tmp_path: Path, command: list[str], why: str) -> None:
    with pytest.raises(Untold, match=why):
        asyncio.run(run(command, b"{}", tmp_path))


def test_nobody_listens() -> None:
    with pytest.raises(Untold):
        asyncio.run(post("http://127.0.0.1:1/", b"{}"))


def test_before_the_first_record_there_is_nothing_to_look_at(tmp_path: Path, quiet: list[Sketched]) -> None:
    watching = Watching(tmp_path, Holder())
    watching.ledger.close()
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    watching.turn(3.5)
    assert watching.drafts == []
    watching.ledger = Ledger(tmp_path / "ledger.db", create=True)
    watching.write([*quiet, line(START + 3, 8, 9)])
    watching.turn(4.5)
    assert ("drift", "alarm") in watching.acts
