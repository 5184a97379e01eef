"""How alembic reaches the served database; `stores.user_logins` calls it."""

from alembic import context
from sqlalchemy import create_engine

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    # A version table of its own: the application database may be in the same PostgreSQL.
    context.configure(connection=connection, version_table="served_version")
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
