"""The tables of the state: revisions, the journal, what is held, and the audit. Times are ns since 1970."""

from __future__ import annotations

from sqlalchemy import MetaData, Table

from servery.store.columns import number as _number
from servery.store.columns import raw as _raw
from servery.store.columns import text as _text

HEAD = "state_0003"  # the migration that these tables are the result of

metadata = MetaData()

# What was published, each with all that it takes to serve it again.
revisions = Table(
    "revisions",
    metadata,
    _number("number", primary_key=True),
    _number("at_ns"),
    _text("act"),
    _text("who"),
    _text("why"),
    _text("digest"),  # of the manifest
    _text("serves"),  # a digest of all that is served: two revisions in a row never have the same
    _number("epoch"),
    _text("file"),
    _number("returns_to"),  # the revision that was returned to; 0: none
    _text("steps"),  # JSON: a list of lines
    _text("source"),  # what the manifest's file said; "" once it can't be returned to any more
    _text("snapshot"),  # JSON; "" once it can't be returned to any more
    sqlite_strict=True,
)

# The journal: a line for each change, written before anything is done.
changes = Table(
    "changes",
    metadata,
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
    _text("under_way"),  # JSON: an Underway; "" once the change has ended
    sqlite_strict=True,
)

held = Table(
    "held",
    metadata,
    _text("model", primary_key=True),
    _text("digest", primary_key=True),
    _number("since_ns"),
    _text("who"),
    _text("why"),
    _text("evidence"),  # JSON
    sqlite_strict=True,
)

# Nothing here is ever changed or removed.
audit = Table(
    "audit",
    metadata,
    _number("number", primary_key=True),
    _number("at_ns"),
    _text("who"),
    _text("why"),
    _text("act"),
    _text("subject"),
    _text("outcome"),
    _text("evidence"),  # JSON
    _text("before"),  # JSON
    _text("after"),  # JSON
    _text("previous"),
    _text("seal"),
    sqlite_strict=True,
)

rollouts = Table(
    "rollouts",
    metadata,
    _text("id", primary_key=True),
    _text("model"),
    _number("began_ns"),
    _text("phase"),
    _text("rollout"),  # JSON
    _raw("judged"),  # what its Judge has come to: MessagePack
    sqlite_strict=True,
)

# Looks that said something new. Nothing here is ever changed.
looks = Table(
    "looks",
    metadata,
    _text("rollout", primary_key=True),
    _number("number", primary_key=True),
    _number("at_ns"),
    _text("looks"),  # JSON: a list, one for each guard
    sqlite_strict=True,
)

experiments = Table(
    "experiments",
    metadata,
    _text("id", primary_key=True),
    _text("name"),
    _number("began_ns"),
    _text("stage"),
    _text("experiment"),  # JSON
    _raw("judged"),  # what is kept between looks: MessagePack
    sqlite_strict=True,
)

# Looks that said something new. Nothing here is ever changed.
experiment_looks = Table(
    "experiment_looks",
    metadata,
    _text("experiment", primary_key=True),
    _number("number", primary_key=True),
    _number("at_ns"),
    _text("looks"),  # JSON: a list, one for each arm and metric
    sqlite_strict=True,
)
