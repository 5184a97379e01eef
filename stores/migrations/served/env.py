"""How alembic reaches the served database; `stores.user_logins` calls it."""

from alembic import context

from stores.database_connections import run_migrations

# A version table of its own: the application database may be in the same PostgreSQL.
run_migrations(context, version_table="served_version")
