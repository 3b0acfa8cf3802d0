"""The kinds of columns that tables of ours have. None may be empty."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, Text
from sqlalchemy.dialects.sqlite import INTEGER

_NUMBER = BigInteger().with_variant(INTEGER(), "sqlite")


def number(name: str, primary_key: bool = False) -> Column[int]:
    """A whole number of 64 bits."""
    return Column(name, _NUMBER, primary_key=primary_key, nullable=False, autoincrement=False)


def text(name: str, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def raw(name: str, primary_key: bool = False) -> Column[bytes]:
    """Bytes."""
    return Column(name, LargeBinary, primary_key=primary_key, nullable=False)
