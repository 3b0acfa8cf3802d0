"""How long after their Request units of Experiments were told of. What was told before this counts as told at once."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text
from sqlalchemy.dialects.sqlite import INTEGER, REAL

revision = "0009"
down_revision = "0008"

_KEYS = ("experiment", "unit", "arm", "name")


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _real(name: str) -> Column[float]:
    return Column(name, REAL(), nullable=False)


def upgrade() -> None:
    # SQLite can't give a table another primary key.
    op.rename_table("unit_facts", "unit_facts_before")
    op.create_table(
        "unit_facts",
        *(Column(name, Text, primary_key=True, nullable=False) for name in _KEYS),
        _number("after_ns", primary_key=True),
        _number("n"),
        _real("total"),
        *(_number(name) for name in ("judged", "right")),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.execute(
        'INSERT INTO unit_facts (experiment, unit, arm, name, after_ns, n, total, judged, "right") '
        'SELECT experiment, unit, arm, name, 0, n, total, judged, "right" FROM unit_facts_before'
    )
    op.drop_table("unit_facts_before")
