"""The application database: tenants, principals, roles, batches, deliveries, the audit trail.

SQLite in the home, PostgreSQL in production. Tables are declared here for queries and made by the
migrations in `stores/migrations`; a test holds the two together.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Text

from stores.database_connections import (
    alembic_config,
    begin_alone,
    begin_immediate,
    begin_reading,
    close_all,
    connect_options,
    forbid_changes,
    leave_sync_to_later,
    name_driver,
    prepare_sqlite,
)
from stores.home import sync
from transforms.errors import DatabaseError, UsageError

METADATA = MetaData()
HEAD = "s003"  # the newest migration

# What may pass two thousand millions. SQLite's whole numbers are all of 64 bits, and are left alone.
LARGE = sa.BigInteger().with_variant(Integer, "sqlite")

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
    Column("rows", LARGE, nullable=False, default=0),
    Column("accepted", LARGE, nullable=False, default=0),
    Column("quarantined", LARGE, nullable=False, default=0),
    Column("duplicates", LARGE, nullable=False, default=0),
    Column("refused", LARGE, nullable=False, default=0),
    Column("chunks", Integer, nullable=False, default=0),
    Column("size_bytes", LARGE, nullable=False, default=0),
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

# Objects in buckets that were announced and have landed, by a keyed digest of which one it was.
OBJECTS = sa.Table(
    "objects",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("landed_at", Text, nullable=False),
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

# Requests for everything about a data subject. `work` is sealed and holds whom, until the package is made;
# `key` is the package's own, sealed, and null once it has expired or its subject was erased.
ACCESS_REQUESTS = sa.Table(
    "access_requests",
    METADATA,
    Column("id", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("tenant", "state", "subject", "requested_by")),
    *(Column(name, Text, nullable=False) for name in ("reason", "requested_at", "deadline", "changed_at")),
    *(Column(name, LargeBinary) for name in ("work", "key")),
    *(Column(name, Integer, nullable=False) for name in ("pieces", "size_bytes", "files")),
    *(Column(name, Text) for name in ("expires_at", "problem")),
)

# When devices of a tenant should send; a tenant without a row goes by the settings.
UPLOAD_POLICIES = sa.Table(
    "upload_policies",
    METADATA,
    Column("tenant", Text, primary_key=True),
    *(Column(name, Integer, nullable=False) for name in ("interval_seconds", "wifi_only", "charging_only")),
    Column("changed_at", Text, nullable=False),
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
    Column("seq", LARGE, primary_key=True),
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
    Column("seq", LARGE, primary_key=True),
    Column("head", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("signature", Text, nullable=False),
)


# Where something may be deleted for good and must not stay behind; the trail only grows.
_TRAIL = (AUDIT.name, AUDIT_CHECKPOINTS.name)
FORGETTING = tuple(one.name for one in METADATA.sorted_tables if one.name not in _TRAIL)


class Database:
    """Connections to the application database. Making one connects to nothing."""

    def __init__(
        self,
        url: str,
        scripts: str = "migrations",
        head: str = HEAD,
        forgetting: Sequence[str] = FORGETTING,
        *,
        is_read_only: bool = False,
    ) -> None:
        """Take SQLAlchemy's address, the folder of the migrations and the newest of them.

        `forgetting` names the tables of which nothing may stay behind that was deleted.
        """
        self._scripts, self._head, self._forgetting = scripts, head, forgetting
        self.is_embedded = url.startswith("sqlite")
        self.url = url if self.is_embedded else name_driver(url)
        self._engine = self._made_engine(is_read_only)
        # Texts and not what runs them, which would keep this and its connections from being let go.
        self._known: dict[sa.Executable, tuple[str, Callable[[dict[str, object]], object]]] = {}
        self._driver: Any = self._engine.dialect.dbapi
        self._reading = threading.local()
        self._readers: list[Any] = []
        if not self.is_embedded:
            # A server counts its connections; nobody has to remember to give them back.
            weakref.finalize(self, close_all, self._engine, self._readers)
        # A server syncs every commit; in SQLite a connection says whether it waits for the disk.
        self._unsynced = self._made_engine(is_read_only) if self.is_embedded else self._engine
        if self.is_embedded:
            sa.event.listen(self._unsynced, "connect", leave_sync_to_later)

    def _made_engine(self, is_read_only: bool) -> sa.Engine:
        engine = sa.create_engine(self.url, hide_parameters=True, **connect_options(self.is_embedded))
        if self.is_embedded:
            sa.event.listen(engine, "connect", prepare_sqlite)
        begin = begin_reading if is_read_only else begin_immediate
        sa.event.listen(engine, "begin", begin if self.is_embedded else begin_alone)
        if is_read_only:
            sa.event.listen(engine, "connect", forbid_changes)
        return engine

    @staticmethod
    def at(path: Path, url: str | None = None) -> Database:
        """Give the database at an address, or the embedded one in a file."""
        return Database(url or f"sqlite:///{path}")

    @contextmanager
    def begin(self, is_synced: bool = True) -> Iterator[sa.Connection]:
        """Give a connection in one transaction, durable when the block ends; one at a time may change things.

        Without `is_synced` it outlives a killed process at once, a power failure from the next synced
        transaction or `sync` on: all of them stand in one log, in their order. Raises: DatabaseError where a
        server cannot be reached.
        """
        with self._told(), (self._engine if is_synced else self._unsynced).begin() as connection:
            yield connection

    @contextmanager
    def _looking(self) -> Iterator[sa.Connection]:
        """Give a connection that only reads: on a server, it waits for nobody."""
        reading = self._engine.execution_options(only_reads=True)
        with self._told(), reading.begin() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what a lost server means; the driver's own text names addresses and people."""
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InterfaceError, self._driver.OperationalError) as error:
            if self.is_embedded:
                raise
            reason = getattr(getattr(error, "orig", error), "sqlstate", None) or "no answer"
            raise DatabaseError(
                f"the application database cannot be reached ({reason}): "
                "see that PostgreSQL runs and that database_url is right"
            ) from None

    def sync(self) -> None:
        """Bring to disk what was committed without."""
        log = Path(f"{self._engine.url.database}-wal")
        if self.is_embedded:
            # Whoever closes the database last removes its log, with everything on disk.
            with suppress(FileNotFoundError):
                sync(log)

    def compile(self, statement: sa.Executable) -> Callable[..., list[tuple[Any, ...]]]:
        """Compile a statement of named parameters once; give what runs it in a transaction.

        The driver is asked itself: SQLAlchemy's own way costs more than the statement.
        """
        text, bind = self._compiled(statement)

        def run(connection: sa.Connection, **values: object) -> list[tuple[Any, ...]]:
            driver: Any = connection.connection.driver_connection
            cursor = driver.execute(text, bind(values))
            return list(cursor.fetchall()) if cursor.description else []

        return run

    def _compiled(self, statement: sa.Executable) -> tuple[str, Callable[[dict[str, object]], object]]:
        """Give a statement's text, and what puts named values as the driver takes them."""
        compiled = statement.compile(dialect=self._engine.dialect)  # type: ignore[attr-defined]
        names = compiled.positiontup
        fixed = {name: one.value for name, one in compiled.binds.items() if not one.required}

        def bind(values: dict[str, object]) -> object:
            given = fixed | values
            return tuple([given[name] for name in names]) if names else given

        return str(compiled), bind

    def rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """Run a query and give its rows as dictionaries."""
        with self._looking() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def prepare(self, query: sa.Select[Any] | sa.CompoundSelect[Any]) -> Callable[..., list[tuple[Any, ...]]]:
        """Compile a query of named parameters once; give what runs it, some twenty times faster than `rows`.

        It reads outside of any transaction, on a connection that its thread keeps.
        """
        if query not in self._known:
            self._known[query] = self._compiled(query)
        text, bind = self._known[query]

        def run(**values: object) -> list[tuple[Any, ...]]:
            bound = bind(values)
            try:
                return self._read(text, bound)
            except self._driver.OperationalError:
                if self.is_embedded:
                    raise
                # The server was started anew since, say: the next connection tells.
                del self._reading.connection
                with self._told():
                    return self._read(text, bound)

        return run

    def _read(self, text: str, bound: object) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._reader().execute(text, bound).fetchall()
        return found

    def _reader(self) -> Any:  # noqa: ANN401 - a driver's connection
        """Give this thread's own connection, taken out of the pool: threads outlive what the pool lends."""
        if not hasattr(self._reading, "connection"):
            borrowed = self._engine.raw_connection()
            taken: Any = borrowed.driver_connection
            borrowed.detach()
            if not self.is_embedded:
                taken.autocommit = True
                self._readers.append(taken)
            self._reading.connection = taken
        return self._reading.connection

    def settle(self) -> None:
        """Leave nothing of what went: SQLite's log is cut, PostgreSQL writes its tables anew.

        An old page of the log, or a row's earlier version, would still hold it.
        """
        with self._told(), self._engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            if self.is_embedded:
                raw.execute("pragma wal_checkpoint(truncate)")
                return
            raw.autocommit = True
            try:
                for name in self._forgetting:
                    raw.execute(f"vacuum full {name}")
            finally:
                raw.autocommit = False

    def close(self) -> None:
        """Close the connections that nobody uses; the next use opens new ones."""
        close_all(self._engine, self._readers)
        self._reading = threading.local()

    def migrate(self) -> None:
        """Bring the schema to the newest migration; nothing happens where it is there."""
        if self.revision() == self._head:
            return
        from alembic import command

        # On a server, the lock lets one process after the other make the tables.
        with nullcontext() if self.is_embedded else self.begin():
            command.upgrade(alembic_config(self.url, self._scripts), "head")

    def revision(self) -> str | None:
        """Give the schema's migration, None for an empty database."""
        with self._looking() as connection:
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
