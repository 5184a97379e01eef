"""Identity validations: the gateway's requests, keys and events, and what analytics has met."""

from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "v001"
down_revision = "s002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "validation_requests",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "id")),
        Column("change", Text, nullable=False),
        *(Column(name, Text) for name in ("fields", "deleted")),
    )
    op.create_table(
        "validation_keys",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "key")),
        Column("validation", Text, nullable=False),
        Column("body", Text),
        Column("created_at", Text, nullable=False),
    )
    op.create_index("validation_keys_of_a_request", "validation_keys", ["tenant", "validation"])
    op.create_table(
        "validation_events",
        Column("number", Integer, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("message", Text, nullable=False),
        # A number never comes again: who closes an event cannot close another one.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "validation_completions",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "validation", "change")),
        Column("met", Text, nullable=False),
        Column("batch_id", Text),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("completions", "events", "keys", "requests"):
        op.drop_table(f"validation_{name}")
