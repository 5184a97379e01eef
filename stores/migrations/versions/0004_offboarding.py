"""Off-boarded tenants: when one ended, and what it held then."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Text

revision = "0004"
down_revision = "s001"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("tenants", sa.Column("ended_at", Text))
    op.add_column("tenants", sa.Column("ending", Text))


def downgrade() -> None:
    """Drop the columns."""
    for name in ("ending", "ended_at"):
        op.drop_column("tenants", name)
