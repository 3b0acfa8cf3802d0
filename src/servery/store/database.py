"""What the databases of a data folder have in common: how SQLite is opened, and how a schema is brought up to date."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

BUSY_MS = 2_000


def engine_of(path: Path, writes: bool, more: Sequence[str] = ()) -> Engine:
    """An engine for the database at `path`; `more` are further pragmas. Who `writes` has the database from the beginning of
    each transaction.
    """
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
    )

    def on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        _prepare(connection, more)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", _begin_write if writes else _begin_read)
    return engine


def revision_of(connection: Connection) -> str:
    """The migration that the schema is the result of; "" where there is none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""


def bring_up(connection: Connection, versions: str, head: str, tables: MetaData) -> None:
    """Bring a schema to `head`: a new database gets the `tables`, others the migrations in the folder `versions`."""
    if inspect(connection).get_table_names():
        migrate(connection, versions, head)
        return
    tables.create_all(connection)
    # As Alembic makes it, without importing that.
    version = "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    connection.execute(text(f"CREATE TABLE alembic_version ( {version} )"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": head})


def migrate(connection: Connection, versions: str, head: str) -> None:
    """Bring a schema to `head`, by the migrations in the folder `versions` of `migrations`."""
    # Imported here: it takes 0.2 s and is needed once in a database's life.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    with importlib.resources.as_file(importlib.resources.files("servery.store") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("version_locations", str(folder / versions).replace("%", "%%"))
        config.set_main_option("path_separator", "newline")
        config.attributes["connection"] = connection
        command.upgrade(config, head)


def _prepare(connection: DBAPIConnection, more: Sequence[str]) -> None:
    # The driver's own transactions begin too late; ours begin where SQLAlchemy says so.
    connection.isolation_level = None  # pyright: ignore
    cursor = connection.cursor()
    try:
        for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", *more):
            # FULL: what depends on a commit is done after it, so the commit has to survive the machine's death.
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def inode_of(path: Path) -> int:
    """Which file it is; 0 where there is none. Another one than before: somebody has replaced it."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _begin_write(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_read(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
