"""People and programs at the door: users, sessions, clients, device groups, grants, idempotency keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "s001"
down_revision = "p001"


def upgrade() -> None:
    """Make the tables."""
    _make_people()
    _make_programs()
    _make_grants()
    op.create_table(
        "idempotency",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "principal", "key")),
        Column("digest", Text, nullable=False),
        Column("status", Integer),
        Column("response", Text),
        Column("created_at", Text, nullable=False),
    )


def _make_people() -> None:
    op.create_table(
        "users",
        Column("principal", Text, sa.ForeignKey("principals.id"), primary_key=True),
        Column("password_hash", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        Column("disabled_at", Text),
    )
    op.create_table(
        "sessions",
        Column("digest", Text, primary_key=True),
        Column("principal", Text, sa.ForeignKey("users.principal"), nullable=False),
        *(Column(name, Text, nullable=False) for name in ("tenant", "csrf", "expires_at")),
    )


def _make_programs() -> None:
    op.create_table(
        "clients",
        Column("principal", Text, sa.ForeignKey("principals.id"), primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("scopes", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("created_at", Text, nullable=False),
        Column("revoked_at", Text),
    )
    op.create_table(
        "client_secrets",
        Column("principal", Text, sa.ForeignKey("clients.principal"), primary_key=True),
        Column("id", Text, primary_key=True),
        Column("digest", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )


def _make_grants() -> None:
    op.create_table(
        "device_groups",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "name", "device_ref")),
    )
    named = ("tenant", "principal", "role", "device_group", "since", "until", "created_by")
    op.create_table(
        "grants",
        Column("id", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in named),
        Column("revoked_at", Text),
    )
    op.create_index("grants_of", "grants", ["tenant", "principal"])


def downgrade() -> None:
    """Drop the tables."""
    for name in ("idempotency", "grants", "device_groups", "client_secrets", "clients", "sessions", "users"):
        op.drop_table(name)
