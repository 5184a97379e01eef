"""How alembic reaches the low-security store; `stores.database` calls it."""

from alembic import context

from stores.database_connections import run_migrations

run_migrations(context)
