"""Access requests with their packages; when devices of a tenant should send."""

from alembic import op
from sqlalchemy import Column, Integer, LargeBinary, Text

revision = "s002"
down_revision = "q002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "access_requests",
        Column("id", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("tenant", "state", "subject", "requested_by")),
        *(Column(name, Text, nullable=False) for name in ("reason", "requested_at", "deadline", "changed_at")),
        Column("work", LargeBinary),
        Column("key", LargeBinary),
        Column("pieces", Integer, nullable=False),
        Column("size_bytes", Integer, nullable=False),
        Column("files", Integer, nullable=False),
        Column("expires_at", Text),
        Column("problem", Text),
    )
    op.create_table(
        "upload_policies",
        Column("tenant", Text, primary_key=True),
        *(Column(name, Integer, nullable=False) for name in ("interval_seconds", "wifi_only", "charging_only")),
        Column("changed_at", Text, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("upload_policies", "access_requests"):
        op.drop_table(name)
