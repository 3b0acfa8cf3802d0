"""What was counted for drift."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.sqlite import INTEGER

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "sketches",
        sa.Column("model", sa.Text, primary_key=True, nullable=False),
        sa.Column("until_ns", INTEGER, primary_key=True, nullable=False, autoincrement=False),
        sa.Column("id", sa.LargeBinary, primary_key=True, nullable=False),
        sa.Column("since_ns", INTEGER, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("version", "tenant", "features")),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_index("sketches_by_version", "sketches", ["model", "version", "since_ns"])
