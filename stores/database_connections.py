"""How a database is reached, in SQLite and in PostgreSQL: addresses, connections, how transactions begin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from stores.sqlite_files import use_wal
from transforms.errors import UsageError

if TYPE_CHECKING:
    from alembic.config import Config

    from stores.settings import Settings

# One number of ours among PostgreSQL's advisory locks, for whoever changes the application database.
_LOCK = 0x6C6F636B61707064
_CONNECT_S = 10
_WAIT_S = 60


def prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection
    """Wait for other writers, sync every commit, overwrite what is deleted."""
    connection.isolation_level = None  # transactions are begun below, as immediate ones
    use_wal(connection)
    for pragma in (
        "synchronous = full",
        "busy_timeout = 60000",
        "secure_delete = on",
        "foreign_keys = on",
    ):
        connection.execute(f"pragma {pragma}")


def leave_sync_to_later(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection
    """Let commits not wait for the disk; `Database.sync` does."""
    connection.execute("pragma synchronous = normal")


def begin_immediate(connection: sa.Connection) -> None:
    """Take the write lock first: a chain is never extended from a head that somebody else moved."""
    connection.exec_driver_sql("begin immediate")


def begin_reading(connection: sa.Connection) -> None:
    """Begin without a lock: who only reads waits for nobody."""
    connection.exec_driver_sql("begin")


def begin_alone(connection: sa.Connection) -> None:
    """Do on PostgreSQL what an immediate transaction does in SQLite; who only reads does not wait."""
    if not connection.get_execution_options().get("only_reads"):
        connection.exec_driver_sql("select pg_advisory_xact_lock(%s)", (_LOCK,))


def forbid_changes(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection
    """Let a connection read and nothing else, whatever it is asked to do."""
    is_sqlite = type(connection).__module__.startswith("sqlite3")
    statement = "pragma query_only = on" if is_sqlite else "set default_transaction_read_only = on"
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()
    if not is_sqlite:
        connection.commit()


def connect_options(is_embedded: bool) -> dict[str, Any]:
    """Give the options of an engine: how long a server is waited for, and in which zone it tells the time."""
    if is_embedded:
        return {}
    # A connection that died in the pool is replaced, and who waits for the lock gives up in the end.
    settings = f"-c lock_timeout={_WAIT_S}s -c timezone=UTC"
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_S, "options": settings}}


def close_all(engine: sa.Engine, readers: list[Any]) -> None:
    """Close what an engine has at rest, and the connections that were taken out of it."""
    while readers:
        readers.pop().close()
    engine.dispose()


def name_driver(url: str) -> str:
    """Name the driver that we have: SQLAlchemy would take another one."""
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url


def alembic_config(url: str, scripts: str) -> Config:
    """Give what alembic has to know: the address, and the folder of the migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / scripts))
    config.attributes["url"] = url
    return config


def run_migrations(context: Any, **options: Any) -> None:  # noqa: ANN401 - alembic's context has no types
    """Run what a folder's `env.py` is called for, on the address that alembic was given."""
    engine = sa.create_engine(context.config.attributes["url"])
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


def read_address(settings: Settings, name: str) -> str | None:
    """Give the address in a setting, or in the file that `<name>_file` names; None where there is none.

    Raises: UsageError where the file cannot be read.
    """
    url: str | None = getattr(settings, name)
    file: Path | None = getattr(settings, f"{name}_file")
    if file is not None:
        try:
            url = file.read_text().strip()
        except OSError as error:
            raise UsageError(f"{name}_file cannot be read: {error.strerror}") from None
    return url or None


def read_database_address(settings: Settings) -> str | None:
    """Give the application database's address; None for SQLite in the home.

    Raises: UsageError where the file cannot be read, or the address is of no database that we know.
    """
    url = read_address(settings, "database_url")
    if url and url.partition("://")[0].partition("+")[0] not in ("postgresql", "postgres", "sqlite"):
        raise UsageError("database_url is no address of PostgreSQL: postgresql://user@host/database")
    return url
