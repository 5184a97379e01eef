"""The application database: tenants, principals, roles, batches, deliveries, the audit trail.

SQLite in the home, PostgreSQL in production. Tables are declared here for queries and made by the
migrations in `stores/migrations`; a test holds the two together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Text

from transforms.errors import UsageError

if TYPE_CHECKING:
    from alembic.config import Config

METADATA = MetaData()
HEAD = "v001"  # the newest migration

# `ending` is what an off-boarded tenant held, written down before the first of it went.
TENANTS = sa.Table(
    "tenants",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("created_at", Text, nullable=False),
    Column("ended_at", Text),
    Column("ending", Text),
)

PRINCIPALS = sa.Table(
    "principals",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

# A role held by a principal in one tenant; `*` is every tenant.
ROLE_ASSIGNMENTS = sa.Table(
    "role_assignments",
    METADATA,
    Column("principal", Text, sa.ForeignKey("principals.id"), primary_key=True),
    Column("role", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("created_at", Text, nullable=False),
)

# A batch of files on its way: landed -> sealed -> masked -> done.
BATCHES = sa.Table(
    "batches",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("received_at", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("files", Integer, nullable=False, default=0),
    Column("rows", Integer, nullable=False, default=0),
    Column("accepted", Integer, nullable=False, default=0),
    Column("quarantined", Integer, nullable=False, default=0),
    Column("duplicates", Integer, nullable=False, default=0),
    Column("refused", Integer, nullable=False, default=0),
    Column("chunks", Integer, nullable=False, default=0),
    Column("size_bytes", Integer, nullable=False, default=0),
    Column("changed_at", Text, nullable=False),
    # When its oldest message was sent, and when its rows were in PostgreSQL.
    Column("sent_at", Text),
    Column("published_at", Text),
)

# The counts of a batch's chunks, each written once with its commit.
CHUNKS = sa.Table(
    "chunks",
    METADATA,
    Column("batch_id", Text, sa.ForeignKey("batches.id"), primary_key=True),
    Column("chunk", Integer, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("accepted", Integer, nullable=False),
    Column("quarantined", Integer, nullable=False),
    Column("duplicates", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("unknown", Integer, nullable=False),
)

# Delivered files by their keyed digest: the same file again is told at once.
DELIVERIES = sa.Table(
    "deliveries",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("batch_id", Text, nullable=False),
    Column("file", Integer, nullable=False),
    Column("rows", Integer, nullable=False, default=0),
)

# Devices by their keyed pseudonym; the token opens to the id for whoever may reveal.
DEVICES = sa.Table(
    "devices",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("device_ref", Text, primary_key=True),
    Column("token", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

# Who had a device from when on; the next ownership ends this one. Number 0 is that of nobody.
OWNERSHIPS = sa.Table(
    "ownerships",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("device_ref", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner_token", Text),
    Column("since", Text, nullable=False),
)

# Which addresses a device had when, by keyed pseudonyms of the addresses.
DEVICE_ADDRESSES = sa.Table(
    "device_addresses",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("address_ref", Text, primary_key=True),
    Column("since", Text, primary_key=True),
    Column("device_ref", Text, nullable=False),
    Column("until", Text),
)

# What Dagster is asked to do by programs that do not know it; a sensor turns each row into a run.
OUTBOX = sa.Table(
    "outbox",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("done_at", Text),
)

# People who may sign in. The name is the principal; the password is stretched.
USERS = sa.Table(
    "users",
    METADATA,
    Column("principal", Text, sa.ForeignKey("principals.id"), primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("disabled_at", Text),
)

# Who is signed in, by the digest of what the browser keeps.
SESSIONS = sa.Table(
    "sessions",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("principal", Text, sa.ForeignKey("users.principal"), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("csrf", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
)

# Programs. A token bears the epoch in which it was given: a later epoch cuts off all that went before.
CLIENTS = sa.Table(
    "clients",
    METADATA,
    Column("principal", Text, sa.ForeignKey("principals.id"), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("revoked_at", Text),
)

CLIENT_SECRETS = sa.Table(
    "client_secrets",
    METADATA,
    Column("principal", Text, sa.ForeignKey("clients.principal"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

# Which devices a group has, by their pseudonyms.
DEVICE_GROUPS = sa.Table(
    "device_groups",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("device_ref", Text, primary_key=True),
)

# A role over the devices of a group, for some time.
GRANTS = sa.Table(
    "grants",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("device_group", Text, nullable=False),
    Column("since", Text, nullable=False),
    Column("until", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", Text),
)

# What a request with an idempotency key came to; its body is known by a keyed digest.
IDEMPOTENCY = sa.Table(
    "idempotency",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("principal", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("status", Integer),
    Column("response", Text),
    Column("created_at", Text, nullable=False),
)

# Requests to erase data subjects. `work` is sealed and holds whom; it is null once that is certified.
ERASURES = sa.Table(
    "erasures",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("subjects", Text, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_at", Text, nullable=False),
    Column("deadline", Text, nullable=False),
    Column("changed_at", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("work", LargeBinary),
    Column("certificate", Text),
)

# Reveals that somebody asked for and a second person decides on.
APPROVALS = sa.Table(
    "approvals",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("described", Text, nullable=False),
    Column("decision", Text),
    Column("decided_by", Text),
    Column("decided_at", Text),
    Column("used_at", Text),
)

# The epochs of a tenant's token keys. A replaced one ends once nothing in the lake is under it.
EPOCHS = sa.Table(
    "epochs",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("began_at", Text),
    Column("replaced_at", Text),
    Column("renewed_at", Text),
    Column("ends_at", Text),
    Column("destroyed_at", Text),
)

# Requests for validation as the gateway last sealed them; a deleted one keeps its id and the time.
VALIDATION_REQUESTS = sa.Table(
    "validation_requests",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("change", Text, nullable=False),
    Column("fields", Text),
    Column("deleted", Text),
)

# Under which key a request came, by keyed digests of the key and of what was sent.
VALIDATION_KEYS = sa.Table(
    "validation_keys",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("validation", Text, nullable=False),
    Column("body", Text),
    Column("created_at", Text, nullable=False),
)

# The gateway's events on their way to the queues.
VALIDATION_EVENTS = sa.Table(
    "validation_events",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("message", Text, nullable=False),
    sqlite_autoincrement=True,
)

# Which events analytics has met of a change, and the batch that took its record to the lake.
VALIDATION_COMPLETIONS = sa.Table(
    "validation_completions",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("validation", Text, primary_key=True),
    Column("change", Text, primary_key=True),
    Column("met", Text, nullable=False),
    Column("batch_id", Text),
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

AUDIT_CHECKPOINTS = sa.Table(
    "audit_checkpoints",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("head", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("signature", Text, nullable=False),
)


class Database:
    """Connections to the application database. Making one connects to nothing."""

    def __init__(
        self, url: str, scripts: str = "migrations", head: str = HEAD, *, is_read_only: bool = False
    ) -> None:
        """Take SQLAlchemy's address, the folder of the migrations and the newest of them."""
        self.url, self._scripts, self._head = url, scripts, head
        self._engine = sa.create_engine(url)
        self._reading = threading.local()
        if url.startswith("sqlite"):
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_reading if is_read_only else _begin_immediate)
        if is_read_only:
            sa.event.listen(self._engine, "connect", _forbid_changes)

    @staticmethod
    def at(path: Path, url: str | None = None) -> Database:
        """Give the database at an address, or the embedded one in a file."""
        return Database(url or f"sqlite:///{path}")

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Give a connection in one transaction, durable when the block ends."""
        with self._engine.begin() as connection:
            yield connection

    def rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """Run a query and give its rows as dictionaries."""
        with self.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def prepare(self, query: sa.Select[Any]) -> Callable[..., list[tuple[Any, ...]]]:
        """Compile a query of named parameters once; give what runs it, some twenty times faster than `rows`.

        It reads outside of any transaction, on a connection that its thread keeps.
        """
        compiled = query.compile(dialect=self._engine.dialect)
        text, names = str(compiled), compiled.positiontup
        fixed = {name: one.value for name, one in compiled.binds.items() if not one.required}

        def run(**values: object) -> list[tuple[Any, ...]]:
            given = fixed | values
            cursor = self._reader().cursor()
            try:
                cursor.execute(text, tuple(given[name] for name in names) if names is not None else given)
                return list(cursor.fetchall())
            finally:
                cursor.close()

        return run

    def _reader(self) -> Any:  # noqa: ANN401 - a driver's connection
        """Give this thread's own connection, taken out of the pool: threads outlive what the pool lends."""
        if not hasattr(self._reading, "connection"):
            borrowed = self._engine.raw_connection()
            borrowed.detach()
            if self._engine.dialect.name != "sqlite":
                borrowed.driver_connection.autocommit = True  # type: ignore[union-attr]
            self._reading.connection = borrowed
        return self._reading.connection

    def close(self) -> None:
        """Give back every connection that is at rest; the next use takes new ones."""
        self._engine.dispose()

    def settle(self) -> None:
        """Write SQLite's log back and cut it to nothing: an old page there would still hold what went."""
        if self.url.startswith("sqlite"):
            with self._engine.connect() as connection:
                raw: Any = connection.connection.driver_connection
                raw.execute("pragma wal_checkpoint(truncate)")

    def migrate(self) -> None:
        """Bring the schema to the newest migration; nothing happens where it is there."""
        if self.revision() == self._head:
            return
        from alembic import command

        command.upgrade(_alembic_config(self.url, self._scripts), "head")

    def revision(self) -> str | None:
        """Give the schema's migration, None for an empty database."""
        with self.begin() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.execute(sa.text("select version_num from alembic_version")).scalar()
            return found

    def require(self) -> None:
        """Refuse to work with a database that was not made or is of another release.

        Raises: UsageError with what to do.
        """
        if self.revision() != self._head:
            raise UsageError("this home is not made yet, or is of another release: run `lockhouse init`")


def _alembic_config(url: str, scripts: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / scripts))
    config.attributes["url"] = url
    return config


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection
    """Wait for other writers, sync every commit, overwrite what is deleted."""
    connection.isolation_level = None  # transactions are begun below, as immediate ones
    for pragma in (
        "journal_mode = wal",
        "synchronous = full",
        "busy_timeout = 60000",
        "secure_delete = on",
        "foreign_keys = on",
    ):
        connection.execute(f"pragma {pragma}")


def _begin_reading(connection: sa.Connection) -> None:
    connection.exec_driver_sql("begin")


def _forbid_changes(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection
    """Let a connection read and nothing else, whatever it is asked to do."""
    is_sqlite = type(connection).__module__.startswith("sqlite3")
    statement = "pragma query_only = on" if is_sqlite else "set default_transaction_read_only = on"
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()
    if not is_sqlite:
        connection.commit()


def _begin_immediate(connection: sa.Connection) -> None:
    """Take the write lock first: a chain is never extended from a head that somebody else moved."""
    connection.exec_driver_sql("begin immediate")
