"""The tables of Content's database. Times are ns since 1970."""

from __future__ import annotations

from sqlalchemy import Index, MetaData, Table

from servery.store.columns import number, raw, text

HEAD = "0001"  # the migration that these tables are the result of

metadata = MetaData()


contents = Table(
    "contents",
    metadata,
    raw("record_id", primary_key=True),
    text("tenant"),
    text("region"),
    number("expires_ns"),
    text("key_id"),
    raw("box"),
    Index("contents_expire", "expires_ns"),
    Index("contents_of_tenants", "tenant", "record_id"),
    sqlite_strict=True,
)

# What was erased: what comes later of the same is not stored. An empty tenant or id is any.
erasures = Table(
    "erasures",
    metadata,
    raw("record_id", primary_key=True),
    text("tenant", primary_key=True),
    number("before_ns", primary_key=True),
    number("at_ns"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)

# What workers dropped for want of room, since each run's begin.
dropped = Table(
    "dropped",
    metadata,
    text("run", primary_key=True),
    text("tenant", primary_key=True),
    text("why", primary_key=True),
    number("count"),
    number("at_ns"),
    sqlite_with_rowid=False,
    sqlite_strict=True,
)
