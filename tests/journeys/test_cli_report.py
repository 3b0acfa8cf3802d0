"""`servery report` as a user runs it: a real ledger, a real process."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lines import attempt, feedback, record, uptime
from servery.host.clock import Clock
from servery.store.ledger import Cursor, Ledger
from servery.telemetry.report import Report
from servery.terms.change import Snapshot
from servery.terms.manifest import Manifest, Model
from servery.terms.routes import Route, Slo, Tier

ROUTE = Route(tiers=(Tier("cheap", "digits-cheap"), Tier("mid", "digits-mid")), slo=Slo(p50_ms=0.1))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    models = {name: Model("onnx", f"{name}.onnx") for name in ("digits-cheap", "digits-mid")}
    snapshot = Snapshot(1, Manifest(servery=1, models=models, routes={"digits": ROUTE}), "", {})
    (tmp_path / "snapshot.json").write_bytes(msgspec.json.encode(snapshot))
    now = Clock().wall_ns()
    lines = [record(attempt("cheap"), at_ns=now - 10**9, predictions=("3",)) for _ in range(30)]
    lines += [record(attempt("cheap", 0), attempt("mid"), at_ns=now - 10**9) for _ in range(10)]
    old = record(attempt("cheap"), at_ns=now - 7_200 * 10**9)
    facts = [feedback(line, 3.0) for line in lines[:20]]
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    bill = uptime("digits-cheap", now - 10**9, now, 10**12)
    ledger.write([*lines, old, *facts, bill], "r1", Cursor(), now)
    ledger.close()
    return tmp_path


def report(data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("servery")), "report", "--data", str(data), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_table_says_it_all(data: Path) -> None:
    done = report(data)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["cheap", "75.0", "%", "30", "0.40", "–", "–", "0.0007", "100.0", "%", "(83.9–100.0)"] in lines
    assert any(line[:1] == ["idle"] for line in lines)
    assert any(line[:1] == ["total"] for line in lines)
    assert ["digits", "p50", "ms", "≤", "0.1", "0.4", "NO"] in lines
    assert "…" not in done.stdout
    assert done.stderr == ""


def test_json_is_a_report(data: Path) -> None:
    done = report(data, "-o", "json", "--since", "all")
    answer = msgspec.convert(json.loads(done.stdout), Report)
    assert answer.total.requests == 41
    assert answer.bill_pico == answer.busy_pico + answer.idle_pico


def test_csv_has_a_row_for_each_line(data: Path) -> None:
    found = list(csv.DictReader(report(data, "-o", "csv", "--by", "model").stdout.splitlines()))
    assert [(row["kind"], row["name"]) for row in found] == [
        ("line", "digits-cheap"), ("line", "digits-mid"), ("idle", "digits-cheap"), ("total", "total"),
    ]  # fmt: skip
    assert found[0]["requests"] == "30"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--since", "yesterday"), "30m, 1h, 2d or all"),
        (("--data", "nowhere"), "nowhere/ledger.db does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(data: Path, options: tuple[str, ...], said: str) -> None:
    done = report(data, *options)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no ledger" * 1_000)
    done = report(tmp_path)
    assert done.returncode == 1
    assert "not a database" in done.stderr
    assert "Traceback" not in done.stderr
