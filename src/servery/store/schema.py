"""The ledger's tables. Times are ns since 1970, money is pico-dollars, `day` counts days since 1970 in UTC.

Records and Feedback lie in the order of (day, id), and ids begin with their time: inserts append, and what is too old
goes from the front.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects.sqlite import REAL

from servery.store.columns import number as _number
from servery.store.columns import raw as _bytes
from servery.store.columns import text as _text

HEAD = "0009"  # the migration that these tables are the result of

metadata = MetaData()

records = Table(
    "records",
    metadata,
    _number("day", primary_key=True),
    _bytes("id", primary_key=True),
    _number("at_ns"),
    _text("tenant"),
    _text("key"),
    _text("route"),
    _text("tier"),  # of the Attempt that answered most rows; of the last one when none did
    _text("model"),
    _text("version"),
    _text("outcome"),
    _text("reason"),
    _number("rows"),
    _number("duration_ns"),
    _number("pico_usd"),
    _text("degraded"),
    _text("request_id"),
    _text("traceparent"),
    _text("region"),
    _text("attempts"),  # JSON: a list of objects with the fields of an Attempt
    _text("predictions"),  # JSON: a text or null for each row
    _text("answered_by"),  # JSON: for each row the index of its Attempt; [] when one answered all
    # JSON: rollout, arm, propensity and unit of each Rollout that it met
    Column("arms", Text, nullable=False, server_default="[]"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

# All Feedback is kept; of each (record, row, name) the last counts.
feedback = Table(
    "feedback",
    metadata,
    _number("day", primary_key=True),  # the Record's
    _bytes("record_id", primary_key=True),
    _number("row", primary_key=True),  # -1: the whole Record
    _text("name", primary_key=True),
    _number("at_ns", primary_key=True),
    _bytes("id", primary_key=True),
    _text("tenant"),
    _text("value"),  # JSON: a boolean, a number or a text
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

# Feedback that came before its Record.
feedback_waiting = Table(
    "feedback_waiting",
    metadata,
    _bytes("id", primary_key=True),
    _number("day"),
    _bytes("record_id"),
    _number("row"),
    _text("name"),
    _number("at_ns"),
    _text("tenant"),
    _text("value"),
    _number("expires_ns"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

# Attempts that ended after their Request, such as those of a Version that callers aren't given.
late = Table(
    "late",
    metadata,
    _number("day", primary_key=True),  # the Record's
    _bytes("record_id", primary_key=True),
    _bytes("id", primary_key=True),
    _number("at_ns"),  # of its end
    _text("tenant"),
    _text("route"),
    _text("attempt"),  # JSON: an object with the fields of an Attempt
    _number("rows"),  # that were compared with what the caller was answered
    _number("alike"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

uptime = Table(
    "uptime",
    metadata,
    _text("run", primary_key=True),
    _text("model", primary_key=True),
    _text("version", primary_key=True),
    _number("since_ns", primary_key=True),
    _number("until_ns"),
    _number("pico_per_hour"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

summaries = Table(
    "summaries",
    metadata,
    _bytes("id", primary_key=True),
    _number("minute_ns"),
    _text("tenant"),
    _text("route"),
    _text("tier"),
    _text("model"),
    _text("version"),
    _text("outcome"),
    _number("requests"),
    _number("rows"),
    _number("answered"),
    _number("busy_ns"),
    _number("pico_usd"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

# What Versions were asked and said, as counts: for drift.
sketches = Table(
    "sketches",
    metadata,
    _text("model", primary_key=True),
    _number("until_ns", primary_key=True),
    _bytes("id", primary_key=True),
    _number("since_ns"),
    _text("version"),
    _text("tenant"),
    _text("features"),  # JSON: for each feature its name, whether its bins are numbers', bins and counts
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
Index("sketches_by_version", sketches.c.model, sketches.c.version, sketches.c.since_ns)

# How far each run's spool is shipped: every segment below `segment`, and of it the groups up to `group_number`.
cursors = Table(
    "cursors",
    metadata,
    _text("run", primary_key=True),
    _number("segment"),
    _number("group_number"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

# What was dropped by rule: feedback_rejected, feedback_expired.
counts = Table(
    "counts",
    metadata,
    _text("name", primary_key=True),
    _number("count"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)


def _real(name: str) -> Column[float]:
    return Column(name, REAL(), nullable=False)


def _windows(name: str, *told_apart: str) -> Table:
    """A family of windows: `seconds` long, from `start_s` (since 1970) on. `stamp` grows with each change of the ledger."""
    sums: list[Column[Any]] = [
        *(_number(column) for column in ("n", "rows", "ns")),
        _real("ns_squared"),
        _number("pico_usd"),
        _real("pico_usd_squared"),
        Column("times", LargeBinary, nullable=False),  # a sketch of ns
        Column("prices", LargeBinary, nullable=False),  # a sketch of pico-dollars a row; of arms only
        _number("stamp"),
    ]
    return Table(
        name,
        metadata,
        _number("seconds", primary_key=True),
        _number("start_s", primary_key=True),
        *(_text(column, primary_key=True) for column in told_apart),
        *sums,
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )


# Who has come already while a Rollout goes on: the step in which its arm was drawn last, and whether that was the candidate.
units = Table(
    "units",
    metadata,
    _text("rollout", primary_key=True),
    _text("unit", primary_key=True),
    _number("step"),
    _number("candidate"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

feedback_windows = Table(
    "feedback_windows",
    metadata,
    _number("start_s", primary_key=True),
    _text("arm", primary_key=True),
    _text("name", primary_key=True),
    _number(
        "within_s", primary_key=True
    ),  # how long after its Request it was told: at most so long; 0: longer than any
    _number("n"),
    *(_real(column) for column in ("total", "squares", "low", "high")),
    _number("judged"),
    _number("right"),
    _number("stamp"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
# What the units of Experiments had: sums over their Requests, and over what callers told of them later.
unit_sums = Table(
    "unit_sums",
    metadata,
    *(_text(name, primary_key=True) for name in ("experiment", "unit", "arm")),
    *(_number(name) for name in ("first_ns", "last_ns", "requests", "errors", "rows", "pico_usd", "served", "ns")),
    Column("segment", Text, nullable=False, server_default=""),  # what the first Request said
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
unit_facts = Table(
    "unit_facts",
    metadata,
    *(_text(name, primary_key=True) for name in ("experiment", "unit", "arm", "name")),
    # How long after its Request it was told, where each Request is a unit; 0 of a unit that comes again.
    _number("after_ns", primary_key=True),
    _number("n"),
    _real("total"),
    *(_number(name) for name in ("judged", "right")),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
# How long the answers took: counts by bin, as `stats.sketch` has them.
unit_bins = Table(
    "unit_bins",
    metadata,
    *(_text(name, primary_key=True) for name in ("experiment", "arm", "unit")),
    _number("bin", primary_key=True),
    _number("n"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
request_windows = _windows("request_windows", "route", "tier", "tenant", "arm", "outcome")
attempt_windows = _windows("attempt_windows", "route", "model", "version", "role", "reason", "arm", "outcome")
Index("attempt_windows_by_arm", attempt_windows.c.arm, attempt_windows.c.stamp)
