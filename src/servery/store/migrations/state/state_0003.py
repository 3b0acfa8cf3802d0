"""Experiments, and each look at them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text
from sqlalchemy.dialects.sqlite import INTEGER

revision = "state_0003"
down_revision = "state_0002"


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _text(name: str, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    op.create_table(
        "experiments",
        _text("id", primary_key=True),
        _text("name"),
        _number("began_ns"),
        _text("stage"),
        _text("experiment"),
        Column("judged", LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "experiment_looks",
        _text("experiment", primary_key=True),
        _number("number", primary_key=True),
        _number("at_ns"),
        _text("looks"),
        sqlite_strict=True,
    )
