"""How alembic reaches the application database; `stores.database` calls it."""

from alembic import context

from stores.database import METADATA
from stores.database_connections import run_migrations

run_migrations(context, target_metadata=METADATA, render_as_batch=True)
