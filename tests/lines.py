"""Lines to test with."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from servery.terms.record import Attempt, Feedback, Outcome, Record, Role, Uptime

DIGEST = "0123456789abcdef" * 4
MS = 1_000_000


def new_id(at_ns: int) -> bytes:
    return (at_ns // MS).to_bytes(6, "big") + os.urandom(20)


def attempt(tier: str = "cheap", answered: int = 1, pico_usd: int = 700, rows: int = 1) -> Attempt:
    return Attempt(Role.SERVE, tier, f"digits-{tier}", DIGEST, rows, answered, 50_000, pico_usd)


def record(
    *attempts: Attempt,
    at_ns: int = 0,
    tenant: str = "acme",
    route: str = "digits",
    outcome: Outcome = Outcome.SERVED,
    rows: int = 1,
    duration_ns: int = 400_000,
    predictions: tuple[str | None, ...] = (),
    answered_by: tuple[int, ...] = (),
) -> Record:
    at_ns = at_ns or time.time_ns()
    spent = sum(part.pico_usd for part in attempts)
    return Record(
        new_id(at_ns), at_ns, tenant, "k1", route, outcome, "" if outcome is Outcome.SERVED else "rate_limited", rows,
        duration_ns, spent, attempts, predictions, answered_by, "r-1", "", "", "local",
    )  # fmt: skip


def feedback(
    of: Record, value: bool | float | str, row: int = -1, tenant: str = "acme", name: str = "label", at_ns: int = 0
) -> Feedback:
    at_ns = at_ns or of.at_ns
    return Feedback(new_id(at_ns), at_ns, tenant, of.id, row, name, value)


def uptime(model: str, since_ns: int, until_ns: int, pico_per_hour: int, run: str = "r1") -> Uptime:
    return Uptime(run, model, DIGEST, since_ns, until_ns, pico_per_hour)


def no_uptime(_: int) -> list[Uptime]:
    return []


def rows(ledger: Path, query: str) -> list[tuple[object, ...]]:
    """What plain SQL reads from a ledger."""
    connection = sqlite3.connect(ledger)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def kept(ledger: Path) -> tuple[int, int]:
    """(Requests, pico-dollars) that a ledger knows, as Records and as summaries."""
    found = rows(
        ledger,
        "SELECT (SELECT count(*) FROM records) + (SELECT ifnull(sum(requests), 0) FROM summaries), "
        "(SELECT ifnull(sum(pico_usd), 0) FROM records) + (SELECT ifnull(sum(pico_usd), 0) FROM summaries)",
    )
    requests, pico = found[0]
    assert isinstance(requests, int)
    assert isinstance(pico, int)
    return requests, pico
