"""The first state: revisions, the journal, what is held, the audit."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text
from sqlalchemy.dialects.sqlite import INTEGER

revision = "state_0001"
down_revision = None


def _number(name: str, primary_key: bool = False) -> Column[int]:
    kind = BigInteger().with_variant(INTEGER(), "sqlite")
    return Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _text(name: str, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    _create_revisions()
    _create_changes()
    _create_held()
    _create_audit()


def _create_revisions() -> None:
    op.create_table(
        "revisions",
        _number("number", primary_key=True),
        _number("at_ns"),
        _text("act"),
        _text("who"),
        _text("why"),
        _text("digest"),
        _text("serves"),
        _number("epoch"),
        _text("file"),
        _number("returns_to"),
        _text("steps"),
        _text("source"),
        _text("snapshot"),
        sqlite_strict=True,
    )


def _create_changes() -> None:
    op.create_table(
        "changes",
        _number("number", primary_key=True),
        _text("id"),
        _text("act"),
        _text("subject"),
        _text("who"),
        _text("why"),
        _number("at_ns"),
        _text("step"),
        _text("ended"),
        _text("message"),
        _number("epoch"),
        _number("revision"),
        _text("audit"),
        _text("under_way"),
        sqlite_strict=True,
    )


def _create_held() -> None:
    op.create_table(
        "held",
        _text("model", primary_key=True),
        _text("digest", primary_key=True),
        _number("since_ns"),
        _text("who"),
        _text("why"),
        _text("evidence"),
        sqlite_strict=True,
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        _number("number", primary_key=True),
        _number("at_ns"),
        _text("who"),
        _text("why"),
        _text("act"),
        _text("subject"),
        _text("outcome"),
        _text("evidence"),
        _text("before"),
        _text("after"),
        _text("previous"),
        _text("seal"),
        sqlite_strict=True,
    )
