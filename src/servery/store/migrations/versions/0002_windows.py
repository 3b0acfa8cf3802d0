"""Folds: windows of Requests and Attempts; and the arms of a Record."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text
from sqlalchemy.dialects.sqlite import INTEGER, REAL

revision = "0002"
down_revision = "0001"


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _real(name: str) -> Column[float]:
    return Column(name, REAL(), nullable=False)


def _text(name: str, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def _sums() -> list[Column[int] | Column[float] | Column[bytes]]:
    return [
        _number("n"),
        _number("rows"),
        _number("ns"),
        _real("ns_squared"),
        _number("pico_usd"),
        _real("pico_usd_squared"),
        Column("times", LargeBinary, nullable=False),
        Column("prices", LargeBinary, nullable=False),
        _number("stamp"),
    ]


def upgrade() -> None:
    op.add_column("records", Column("arms", Text, nullable=False, server_default="[]"))
    op.create_table(
        "request_windows",
        _number("seconds", primary_key=True),
        _number("start_s", primary_key=True),
        *(_text(name, primary_key=True) for name in ("route", "tier", "tenant", "arm", "outcome")),
        *_sums(),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_table(
        "attempt_windows",
        _number("seconds", primary_key=True),
        _number("start_s", primary_key=True),
        *(_text(name, primary_key=True) for name in ("route", "model", "version", "role", "reason", "arm", "outcome")),
        *_sums(),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_table(
        "feedback_windows",
        _number("start_s", primary_key=True),
        _text("arm", primary_key=True),
        _text("name", primary_key=True),
        _number("n"),
        *(_real(name) for name in ("total", "squares", "low", "high")),
        _number("judged"),
        _number("right"),
        _number("stamp"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_index("attempt_windows_by_arm", "attempt_windows", ["arm", "stamp"])
