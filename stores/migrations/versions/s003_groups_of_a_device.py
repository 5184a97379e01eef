"""Indexes by which the grants over one device are found at once, however many devices and grants there are."""

from alembic import op

revision = "s003"
down_revision = "v001"


def upgrade() -> None:
    """Make the indexes; the one of grants goes on to the group."""
    op.create_index("groups_of_a_device", "device_groups", ["tenant", "device_ref", "name"])
    op.drop_index("grants_of", "grants")
    op.create_index("grants_of", "grants", ["tenant", "principal", "device_group"])


def downgrade() -> None:
    """Have what was before."""
    op.drop_index("grants_of", "grants")
    op.create_index("grants_of", "grants", ["tenant", "principal"])
    op.drop_index("groups_of_a_device", "device_groups")
