"""Batches: when their oldest message was sent, and when they were published."""

from alembic import op
from sqlalchemy import Column, Text

revision = "q001"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("batches", Column("sent_at", Text))
    op.add_column("batches", Column("published_at", Text))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("batches", "published_at")
    op.drop_column("batches", "sent_at")
