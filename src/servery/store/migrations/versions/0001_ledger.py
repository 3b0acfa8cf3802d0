"""The first ledger: records, feedback, uptime, summaries and the shipper's cursors."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text
from sqlalchemy.dialects.sqlite import INTEGER

revision = "0001"
down_revision = None


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _text(name: str, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def _bytes(name: str, primary_key: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    _create_records()
    _create_feedback()
    _create_feedback_waiting()
    _create_uptime()
    _create_summaries()
    _create_cursors()
    _create_counts()


def _create_records() -> None:
    op.create_table(
        "records",
        _number("day", primary_key=True),
        _bytes("id", primary_key=True),
        _number("at_ns"),
        _text("tenant"),
        _text("key"),
        _text("route"),
        _text("tier"),
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
        _text("attempts"),
        _text("predictions"),
        _text("answered_by"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        _number("day", primary_key=True),
        _bytes("record_id", primary_key=True),
        _number("row", primary_key=True),
        _text("name", primary_key=True),
        _number("at_ns", primary_key=True),
        _bytes("id", primary_key=True),
        _text("tenant"),
        _text("value"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )


def _create_feedback_waiting() -> None:
    op.create_table(
        "feedback_waiting",
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


def _create_uptime() -> None:
    op.create_table(
        "uptime",
        _text("run", primary_key=True),
        _text("model", primary_key=True),
        _text("version", primary_key=True),
        _number("since_ns", primary_key=True),
        _number("until_ns"),
        _number("pico_per_hour"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )


def _create_summaries() -> None:
    op.create_table(
        "summaries",
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


def _create_cursors() -> None:
    op.create_table(
        "cursors",
        _text("run", primary_key=True),
        _number("segment"),
        _number("group_number"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )


def _create_counts() -> None:
    op.create_table(
        "counts",
        _text("name", primary_key=True),
        _number("count"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
