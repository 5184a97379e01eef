"""Devices, their ownerships and their addresses; the outbox."""

from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "devices",
        Column("tenant", Text, primary_key=True),
        Column("device_ref", Text, primary_key=True),
        Column("token", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "ownerships",
        Column("tenant", Text, primary_key=True),
        Column("device_ref", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("owner_token", Text),
        Column("since", Text, nullable=False),
    )
    op.create_table(
        "device_addresses",
        Column("tenant", Text, primary_key=True),
        Column("kind", Text, primary_key=True),
        Column("address_ref", Text, primary_key=True),
        Column("since", Text, primary_key=True),
        Column("device_ref", Text, nullable=False),
        Column("until", Text),
    )
    op.create_table(
        "outbox",
        Column("id", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("kind", "tenant", "parameters", "created_at")),
        Column("done_at", Text),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("outbox", "device_addresses", "ownerships", "devices"):
        op.drop_table(name)
