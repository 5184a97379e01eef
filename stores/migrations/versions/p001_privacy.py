"""Erasure requests, and approvals of reveals."""

from alembic import op
from sqlalchemy import Column, LargeBinary, Text

revision = "p001"
down_revision = "q001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "erasures",
        Column("id", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("tenant", "state", "subjects", "requested_by")),
        *(Column(name, Text, nullable=False) for name in ("reason", "requested_at", "deadline", "changed_at")),
        Column("progress", Text, nullable=False),
        Column("work", LargeBinary),
        Column("certificate", Text),
    )
    op.create_table(
        "approvals",
        Column("id", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("tenant", "asked_by", "asked_at", "question")),
        Column("described", Text, nullable=False),
        *(Column(name, Text) for name in ("decision", "decided_by", "decided_at", "used_at")),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("approvals", "erasures"):
        op.drop_table(name)
