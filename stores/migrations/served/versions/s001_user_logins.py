"""Logins as rows: people, devices and addresses as tokens."""

from alembic import op
from sqlalchemy import Column, DateTime, Integer, Text
from sqlalchemy.dialects.postgresql import UUID

revision = "s001"
down_revision = None


def upgrade() -> None:
    """Make the table and its indexes."""
    op.create_table(
        "user_logins",
        Column("event_id", UUID, primary_key=True),
        Column("tenant", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("user_id", "device_type")),
        *(Column(name, Text, nullable=False) for name in ("masked_ip", "masked_device_id")),
        Column("locale", Text),
        Column("app_version", Text, nullable=False),
        *(Column(name, Integer) for name in ("app_major", "app_minor", "app_patch")),
        *(Column(name, DateTime(timezone=True), nullable=False) for name in ("create_date", "received_at")),
    )
    # Not unique: one person may sign in twice within a second.
    op.create_index("user_logins_of_a_person", "user_logins", ["user_id", "create_date"])
    # Rows arrive in the order of their time: a summary for each run of pages finds an hour, at no cost.
    op.create_index("user_logins_arrivals", "user_logins", ["received_at"], postgresql_using="brin")


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("user_logins")
