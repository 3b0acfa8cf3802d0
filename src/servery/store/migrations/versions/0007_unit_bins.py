"""How long the answers to units of Experiments took."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text
from sqlalchemy.dialects.sqlite import INTEGER

revision = "0007"
down_revision = "0006"


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def upgrade() -> None:
    op.create_table(
        "unit_bins",
        *(Column(name, Text, primary_key=True, nullable=False) for name in ("experiment", "arm", "unit")),
        _number("bin", primary_key=True),
        _number("n"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
