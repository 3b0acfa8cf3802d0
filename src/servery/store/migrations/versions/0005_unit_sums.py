"""Unit sums of Experiments."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text
from sqlalchemy.dialects.sqlite import INTEGER, REAL

revision = "0005"
down_revision = "0004"


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger().with_variant(INTEGER(), "sqlite"), nullable=False, autoincrement=False)


def _key(name: str) -> Column[str]:
    return Column(name, Text, primary_key=True, nullable=False)


def _real(name: str) -> Column[float]:
    return Column(name, REAL(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "unit_sums",
        *(_key(name) for name in ("experiment", "unit", "arm")),
        *(_number(name) for name in ("first_ns", "last_ns", "requests", "errors", "rows", "pico_usd", "served", "ns")),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_table(
        "unit_facts",
        *(_key(name) for name in ("experiment", "unit", "arm", "name")),
        _number("n"),
        _real("total"),
        *(_number(name) for name in ("judged", "right")),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
