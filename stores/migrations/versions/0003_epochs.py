"""Epochs of token keys: when each began, when its tokens were gone, when its root goes."""

from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "epochs",
        Column("tenant", Text, primary_key=True),
        Column("epoch", Integer, primary_key=True),
        Column("began_at", Text),
        Column("replaced_at", Text),
        Column("renewed_at", Text),
        Column("ends_at", Text),
        Column("destroyed_at", Text),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("epochs")
