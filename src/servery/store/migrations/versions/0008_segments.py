"""Segments of the units of Experiments."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("unit_sums", Column("segment", Text, nullable=False, server_default=""))
