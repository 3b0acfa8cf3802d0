"""Full disks and ledgers that can't be written, under the real server: callers are served, and nothing is forgotten."""

from __future__ import annotations

import json
import resource
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import artifacts
from lines import kept
from living import Living, running, until
from server import tensor
from servery.cli.app import build

QUICK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})


LOG_ONLY = 4096  # bytes: the worker's log is a file too, and small; a segment needs more


def declared(folder: Path, **records: Any) -> dict[str, Any]:
    artifacts.classifier(folder / "quick.onnx")
    model = {"runtime": "onnx", "artifact": "quick.onnx", "price": {"usd_per_hour": 1.5}}
    return {"models": {"quick": model}, "records": records}


def limit_files(server: Living, size: int) -> None:
    """No file of the worker's may grow above `size` bytes: what a full disk is to it."""
    server.child("worker").rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def report(server: Living) -> Any:
    done = CliRunner().invoke(build("report"), ["report", "--data", str(server.data), "--since", "all", "-o", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def ask(server: Living, count: int) -> list[int]:
    return [server.infer("quick", QUICK.encode()).status for _ in range(count)]


def test_a_full_disk_costs_detail_but_neither_counts_nor_money(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        assert ask(server, 50) == [200] * 50
        limit_files(server, LOG_ONLY)
        until(lambda: ask(server, 1) == [200] and server.log_lines("no room for Records"), said=server.written)
        before = len(server.log_lines("."))
        assert ask(server, 200) == [200] * 200
        assert server.status_of("ready") == 200
        assert len(server.log_lines(".")) == before  # said once
        limit_files(server, resource.RLIM_INFINITY)
        until(lambda: server.log_lines("there is room for Records again"), said=server.written)
        assert ask(server, 50) == [200] * 50
        worker = server.child("worker").pid
        assert server.stop() == 0
        assert f"process {worker}" not in server.written()
        answer = report(server)
        requests, pico = kept(server.data / "ledger.db")
        assert answer["total"]["requests"] == answer["total"]["served"] == requests
        assert requests >= 300
        assert answer["summarised"] >= 200
        assert answer["total"]["pico_usd"] == answer["busy_pico"] == pico
        assert answer["bill_pico"] == answer["busy_pico"] + answer["idle_pico"]
        assert server.spool() == []


def test_every_request_of_a_full_spool_counts(tmp_path: Path) -> None:
    """The shipper stands still, so that the spool reaches its limit; the client counts what it was answered."""
    with Living(tmp_path, declared(tmp_path, spool_mb=1)) as server:
        server.child("shipper").suspend()
        client = server.client("quick", QUICK)
        until(lambda: server.log_lines("no room for Records"), 30, server.written)
        full = time.perf_counter_ns()
        until(lambda: len(client.served(full)) > 300)
        server.child("shipper").resume()
        until(lambda: server.log_lines("there is room for Records again"), said=server.written)
        answers = client.stop()
        assert server.stop() == 0
        assert {answer.status for answer in answers} == {200}
        answer = report(server)
        assert answer["total"]["requests"] == len(answers)
        assert answer["summarised"] > 200
        assert answer["total"]["pico_usd"] == kept(server.data / "ledger.db")[1]


def test_a_full_disk_refuses_where_the_manifest_says_so(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path, when_full="refuse")) as server:
        limit_files(server, LOG_ONLY)
        refused = until(
            lambda: reply if (reply := server.infer("quick", QUICK.encode())).status == 503 else None,
            said=server.written,
        )
        assert "records.when_full" in refused.error
        assert int(refused.headers["retry-after"]) >= 1
        assert server.status_of("live") == 200
        assert "spool is full" in " ".join(server.get("/v2/health/ready").json["reasons"])
        limit_files(server, resource.RLIM_INFINITY)
        server.await_ready()
        assert ask(server, 3) == [200] * 3
        assert server.stop() == 0
        assert "Traceback" not in server.written()


def test_a_locked_ledger_makes_records_wait(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        assert ask(server, 5) == [200] * 5
        server.await_stored(5)
        other = sqlite3.connect(server.data / "ledger.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert ask(server, 20) == [200] * 20
        until(lambda: server.log_lines("Records wait in the spool.*locked"), said=server.written)
        assert server.spool()
        assert ask(server, 20) == [200] * 20
        other.execute("ROLLBACK")
        other.close()
        until(lambda: server.log_lines("reach the ledger .* again"), said=server.written)
        assert server.stop() == 0
        assert kept(server.data / "ledger.db")[0] == 45
        assert server.spool() == []
        assert "Traceback" not in server.written()


@pytest.mark.parametrize("junk", [b"this is no database" * 500, b""])
def test_a_corrupt_ledger_makes_records_wait(tmp_path: Path, junk: bytes) -> None:
    server = Living(tmp_path, declared(tmp_path))
    ledger = server.data / "ledger.db"
    server.data.mkdir()
    ledger.write_bytes(junk)
    with running(server):
        server.begin().await_ready()
        assert ask(server, 20) == [200] * 20
        if junk:
            until(lambda: server.log_lines("Records wait in the spool.*not a database"), said=server.written)
            assert server.stop() == 0
            assert server.spool()
            assert ledger.read_bytes() == junk
            ledger.unlink()
            server.begin().await_ready()
        assert server.stop() == 0
        assert kept(ledger)[0] == 20
        assert server.spool() == []
        assert "Traceback" not in server.written()
