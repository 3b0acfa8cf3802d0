"""Who has come already in a Rollout, and how long after its Request Feedback was told."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text
from sqlalchemy.dialects.sqlite import INTEGER, REAL

revision = "0003"
down_revision = "0002"


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _real(name: str) -> Column[float]:
    return Column(name, REAL(), nullable=False)


def _text(name: str, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    op.create_table(
        "units",
        _text("rollout", primary_key=True),
        _text("unit", primary_key=True),
        _number("step"),
        _number("candidate"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.rename_table("feedback_windows", "feedback_windows_before")
    op.create_table(
        "feedback_windows",
        _number("start_s", primary_key=True),
        _text("arm", primary_key=True),
        _text("name", primary_key=True),
        _number("within_s", primary_key=True),
        _number("n"),
        *(_real(name) for name in ("total", "squares", "low", "high")),
        _number("judged"),
        _number("right"),
        _number("stamp"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.execute(
        'INSERT INTO feedback_windows SELECT start_s, arm, name, 0, n, total, squares, low, high, judged, "right", stamp'
        " FROM feedback_windows_before"
    )
    op.drop_table("feedback_windows_before")
