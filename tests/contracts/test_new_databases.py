"""A new database gets its tables as they are declared; they are what the migrations of an old one would have come to."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, MetaData, text

from servery.store import contents_schema, schema, state_schema
from servery.store.database import bring_up, engine_of, migrate, revision_of

KINDS = {
    "ledger": ("versions", schema.HEAD, schema.metadata),
    "state": ("state", state_schema.HEAD, state_schema.metadata),
    "contents": ("versions/contents", contents_schema.HEAD, contents_schema.metadata),
}


def made(connection: Connection) -> dict[str, str]:
    """Tables and indexes by name, without regard to white space."""
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    return {name: " ".join(sql.split()) for name, sql in rows}


@pytest.mark.parametrize(("versions", "head", "tables"), KINDS.values(), ids=KINDS)
def test_a_new_one_is_as_if_it_had_been_migrated(tmp_path: Path, versions: str, head: str, tables: MetaData) -> None:
    with engine_of(tmp_path / "new.db", writes=True).begin() as connection:
        bring_up(connection, versions, head, tables)
        assert revision_of(connection) == head
        new = made(connection)
    with engine_of(tmp_path / "old.db", writes=True).begin() as connection:
        migrate(connection, versions, head)
        assert made(connection) == new
        bring_up(connection, versions, head, tables)
        assert made(connection) == new
