"""The first database of Content: what is kept, what was erased, and what was dropped."""

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
    op.create_table(
        "contents",
        _bytes("record_id", primary_key=True),
        _text("tenant"),
        _text("region"),
        _number("expires_ns"),
        _text("key_id"),
        _bytes("box"),
        sqlite_strict=True,
    )
    op.create_index("contents_expire", "contents", ["expires_ns"])
    op.create_index("contents_of_tenants", "contents", ["tenant", "record_id"])
    op.create_table(
        "erasures",
        _bytes("record_id", primary_key=True),
        _text("tenant", primary_key=True),
        _number("before_ns", primary_key=True),
        _number("at_ns"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_table(
        "dropped",
        _text("run", primary_key=True),
        _text("tenant", primary_key=True),
        _text("why", primary_key=True),
        _number("count"),
        _number("at_ns"),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
