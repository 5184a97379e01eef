"""Personal data of validations, each field sealed; what was deleted; events on their way."""

from alembic import op
from sqlalchemy import Column, Integer, LargeBinary, Text

revision = "v201"
down_revision = None

# As the contract had them then; a later migration adds what it has since.
REQUIRED = ("username", "full_name", "date_of_birth", "address_country", "phone_number")
OPTIONAL = ("address_street", "address_postal_code", "address_city", "document_type", "document_number")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "records",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "id")),
        Column("change", Text, nullable=False),
        *(Column(name, LargeBinary, nullable=False) for name in REQUIRED),
        *(Column(name, LargeBinary) for name in OPTIONAL),
        *(Column(name, Text, nullable=False) for name in ("created", "updated")),
    )
    op.create_table(
        "deletions",
        *(Column(name, Text, primary_key=True) for name in ("tenant", "id")),
        Column("deleted", Text, nullable=False),
    )
    op.create_table(
        "events",
        Column("number", Integer, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("message", Text, nullable=False),
        # A number never comes again: who closes an event cannot close another one.
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("events", "deletions", "records"):
        op.drop_table(name)
