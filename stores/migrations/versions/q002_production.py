"""Objects that were announced by a bucket; on PostgreSQL, large numbers and a trail that only grows."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text

revision = "q002"
down_revision = "0004"

_COUNTS = ("rows", "accepted", "quarantined", "duplicates", "refused", "size_bytes")
_LARGE = {"batches": _COUNTS, "audit": ("seq",), "audit_checkpoints": ("seq",)}
_TRAIL = ("audit", "audit_checkpoints")


def upgrade() -> None:
    """Make the table; SQLite had the rest from the beginning."""
    op.create_table(
        "objects",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "source", "digest")),
        Column("landed_at", Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        return
    _resize(Integer(), BigInteger())
    op.execute(
        "create function refuse_change() returns trigger language plpgsql as "
        "$$ begin raise exception 'the audit trail is append-only'; end $$"
    )
    for table in _TRAIL:
        op.execute(
            f"create trigger {table}_only_grows before update or delete or truncate on {table} "
            "for each statement execute function refuse_change()"
        )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("objects")
    if op.get_bind().dialect.name == "sqlite":
        return
    for table in _TRAIL:
        op.execute(f"drop trigger {table}_only_grows on {table}")
    op.execute("drop function refuse_change()")
    _resize(BigInteger(), Integer())


def _resize(old: Integer, new: Integer) -> None:
    for table, columns in _LARGE.items():
        for name in columns:
            op.alter_column(table, name, existing_type=old, type_=new)
