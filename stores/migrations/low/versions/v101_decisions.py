"""Decisions about validations, what was deleted, and events on their way."""

from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "v101"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "decisions",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "id")),
        Column("change", Text, nullable=False),
        *(Column(name, Text) for name in ("decision", "reasons")),
        *(Column(name, Text, nullable=False) for name in ("status", "created", "updated")),
    )
    op.create_table(
        "deletions",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "id")),
        Column("deleted", Text, nullable=False),
        Column("decision", Text),
    )
    op.create_table(
        "events",
        Column("number", Integer, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("message", Text, nullable=False),
        # A number never comes again: who closes an event cannot close another one.
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("events", "deletions", "decisions"):
        op.drop_table(name)
