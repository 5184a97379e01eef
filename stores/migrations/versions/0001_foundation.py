"""Tenants, principals and roles, batches and deliveries, the audit trail."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Integer, LargeBinary, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and forbid changes to the audit trail."""
    op.create_table(
        "tenants", Column("name", Text, primary_key=True), Column("created_at", Text, nullable=False)
    )
    op.create_table(
        "principals",
        Column("id", Text, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "role_assignments",
        Column("principal", Text, sa.ForeignKey("principals.id"), primary_key=True),
        Column("role", Text, primary_key=True),
        Column("tenant", Text, primary_key=True),
        Column("created_at", Text, nullable=False),
    )
    _make_batches()
    _make_audit()


def _make_batches() -> None:
    op.create_table(
        "batches",
        Column("id", Text, primary_key=True),
        Column("source", Text, nullable=False),
        Column("tenant", Text, nullable=False),
        Column("received_at", Text, nullable=False),
        Column("state", Text, nullable=False),
        *(
            Column(name, Integer, nullable=False)
            for name in (
                "files",
                "rows",
                "accepted",
                "quarantined",
                "duplicates",
                "refused",
                "chunks",
                "size_bytes",
            )
        ),
        Column("changed_at", Text, nullable=False),
    )
    op.create_index("batches_open", "batches", ["state"])
    op.create_table(
        "chunks",
        Column("batch_id", Text, sa.ForeignKey("batches.id"), primary_key=True),
        Column("chunk", Integer, primary_key=True),
        *(
            Column(name, Integer, nullable=False)
            for name in ("rows", "accepted", "quarantined", "duplicates", "refused", "unknown")
        ),
    )
    op.create_table(
        "deliveries",
        Column("tenant", Text, primary_key=True),
        Column("source", Text, primary_key=True),
        Column("digest", LargeBinary, primary_key=True),
        Column("batch_id", Text, nullable=False),
        Column("file", Integer, nullable=False),
        Column("rows", Integer, nullable=False),
    )


def _make_audit() -> None:
    op.create_table(
        "audit",
        Column("tenant", Text, primary_key=True),
        Column("seq", Integer, primary_key=True),
        *(
            Column(name, Text, nullable=False)
            for name in ("at", "principal", "action", "outcome", "parameters", "previous", "hash")
        ),
    )
    op.create_table(
        "audit_checkpoints",
        Column("tenant", Text, primary_key=True),
        Column("seq", Integer, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("head", "at", "signature")),
    )
    if op.get_bind().dialect.name == "sqlite":
        for table in ("audit", "audit_checkpoints"):
            for verb in ("update", "delete"):
                op.execute(
                    f"create trigger {table}_no_{verb} before {verb} on {table} "
                    "begin select raise(abort, 'the audit trail is append-only'); end"
                )
