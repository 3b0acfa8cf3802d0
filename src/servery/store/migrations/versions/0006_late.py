"""Attempts that ended after their Request."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text
from sqlalchemy.dialects.sqlite import INTEGER

revision = "0006"
down_revision = "0005"


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def upgrade() -> None:
    op.create_table(
        "late",
        _number("day", primary_key=True),
        *(Column(name, LargeBinary, primary_key=True, nullable=False) for name in ("record_id", "id")),
        _number("at_ns"),
        *(Column(name, Text, nullable=False) for name in ("tenant", "route", "attempt")),
        _number("rows"),
        _number("alike"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
