"""`user_logins` in PostgreSQL: masked logins for programs that read rows, kept equal to Delta.

Nothing readable goes there: people, devices and addresses are tokens, as in the masked table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, LiteralString

import polars as pl

from stores.database_connections import alembic_config, name_driver, read_address
from stores.settings import Settings
from transforms.errors import ServedError, UsageError
from transforms.user_logins import ABSENT, COLUMNS, DIGEST_DIGITS, SEPARATOR, digest_rows, rows_csv

if TYPE_CHECKING:
    from psycopg import Connection

_CONNECT_S = 10
# One number of ours for PostgreSQL's advisory locks: who changes the table waits for who does.
_LOCK = 0x6C6F636B
_NAMES = ", ".join(one.name for one in COLUMNS)
_CHANGING = [one.name for one in COLUMNS if one.name not in ("event_id", "tenant")]
_COPY = f"copy {{}} ({_NAMES}) from stdin (format csv, null '{ABSENT}')"
# An unchanged row is left alone: writing it again would only bloat the table.
_UPSERT = (
    f"insert into user_logins ({_NAMES}) select {_NAMES} from incoming order by event_id"  # noqa: S608 - our own names
    f" on conflict (event_id, tenant) do update set {', '.join(f'{one} = excluded.{one}' for one in _CHANGING)}"
    f" where ({', '.join(f'user_logins.{one}' for one in _CHANGING)})"
    f" is distinct from ({', '.join(f'excluded.{one}' for one in _CHANGING)})"
)


@dataclass(frozen=True)
class Standing:
    """How many rows there are, and their digest: two tables with the same rows have the same."""

    rows: int
    digest: int


def standing_of(rows: pl.DataFrame) -> Standing:
    """Give the standing of rows that are at hand."""
    return Standing(*digest_rows(rows))


def read_served_address(settings: Settings) -> str | None:
    """Give PostgreSQL's address; None where nothing is served.

    Raises: UsageError where the file cannot be read, or the address is none of PostgreSQL.
    """
    url = read_address(settings, "postgres_url")
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise UsageError("postgres_url is no address of PostgreSQL: postgresql://user@host/database")
    return f"postgresql://{rest}"


class UserLogins:
    """The served table. Making one connects to nothing; the first use brings the schema up to date."""

    def __init__(self, url: str, descriptions: Mapping[str, str]) -> None:
        """Remember the address, and the columns' meanings for their comments."""
        self._url, self._descriptions = url, descriptions
        self._is_prepared = False

    def publish(self, tenant: str, rows: pl.DataFrame) -> int:
        """Put served rows into the table, whatever of them is there already; gives how many there are.

        Raises: ServedError where the database cannot be reached.
        """
        from psycopg.errors import UniqueViolation

        if rows.is_empty():
            return 0
        content = rows_csv(rows)
        try:
            # Rows are new, nearly always: then one copy is all there is to do.
            with self._changing(tenant) as connection:
                _copy(connection, "user_logins", content)
        except UniqueViolation:
            with self._changing(tenant) as connection:
                _bring(connection, content)
                connection.execute(_UPSERT)
        return rows.height

    def make_equal(self, tenant: str, since: datetime, until: datetime, rows: pl.DataFrame) -> int:
        """Make what arrived in [since, until) exactly these rows; gives how many rows went.

        For what was erased, masked anew or had failed. Raises: ServedError as `publish`.
        """
        with self._changing(tenant) as connection:
            _bring(connection, rows_csv(rows))
            gone = connection.execute(
                "delete from user_logins u where tenant = %s and received_at >= %s and received_at < %s"
                " and not exists (select from incoming i where i.event_id = u.event_id)",
                (tenant, since, until),
            ).rowcount
            connection.execute(_UPSERT)
        return gone

    def delete_tokens(self, tenant: str, tokens: Sequence[str]) -> int:
        """Delete every row of some people by their tokens; gives how many rows went.

        The table is vacuumed afterwards, so that no later row version keeps them. Raises: ServedError
        as `publish`.
        """
        return self._delete(tenant, "user_id = any(%s)", list(tokens))

    def delete_tenant(self, tenant: str) -> int:
        """Delete every row of a tenant, as `delete_tokens` does; gives how many rows went."""
        return self._delete(tenant, "true")

    def _delete(self, tenant: str, condition: LiteralString, *values: object) -> int:
        query = "delete from user_logins where tenant = %s and "
        with self._changing(tenant) as connection:
            gone = connection.execute(query + condition, (tenant, *values)).rowcount
        if gone:
            with self._connected(autocommit=True) as connection:
                connection.execute("vacuum user_logins")
        return gone

    def count_tokens(self, tenant: str, tokens: Sequence[str]) -> int:
        """Count the rows of some people by their tokens."""
        return self._standing("user_id = any(%s)", tenant, list(tokens)).rows

    def dates(self, tenant: str) -> list[date]:
        """Give the UTC dates on which served rows of a tenant arrived."""
        query = "select distinct (received_at at time zone 'UTC')::date from user_logins where tenant = %s"
        with self._prepared() as connection:
            return [found for (found,) in connection.execute(query, (tenant,))]

    def standing(self, tenant: str, since: datetime, until: datetime) -> Standing:
        """Give the standing of what arrived in [since, until)."""
        return self._standing("received_at >= %s and received_at < %s", tenant, since, until)

    def standing_of_arrivals(self, tenant: str, moments: Sequence[datetime]) -> Standing:
        """Give the standing of what arrived at these very moments: those of batches."""
        return self._standing("received_at = any(%s)", tenant, list(moments))

    def _standing(self, condition: LiteralString, tenant: str, *values: object) -> Standing:
        query = (
            f"select count(*), coalesce(sum({_DIGEST}), 0) from user_logins where tenant = %s and {condition}"  # noqa: S608
        )
        with self._prepared() as connection:
            found = connection.execute(query.encode(), (tenant, *values)).fetchone()
        return Standing(int(found[0]), int(found[1])) if found else Standing(0, 0)

    @contextmanager
    def _changing(self, tenant: str) -> Iterator[Connection[Any]]:
        """Give a connection in a transaction, alone among those that change a tenant's rows."""
        with self._prepared() as connection:
            connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, tenant))
            yield connection

    @contextmanager
    def _prepared(self) -> Iterator[Connection[Any]]:
        if not self._is_prepared:
            self._prepare()
            self._is_prepared = True
        with self._connected() as connection:
            yield connection

    def _prepare(self) -> None:
        """Bring the schema to the newest migration, and the comments to what the contract says."""
        with self._connected() as connection:
            # Held until the migrations are done: two processes may start at once.
            connection.execute("select pg_advisory_xact_lock(%s, 0)", (_LOCK,))
            with _reduced():
                _migrate(self._url)
            with self._connected() as other:
                self._describe(other)

    def _describe(self, connection: Connection[Any]) -> None:
        from psycopg import sql

        query = (
            "select attname, col_description(attrelid, attnum) from pg_attribute"
            " where attrelid = 'user_logins'::regclass"
        )
        there = dict(connection.execute(query).fetchall())
        for name, text in self._descriptions.items():
            if there.get(name) != text:
                statement = sql.SQL("comment on column user_logins.{} is {}")
                connection.execute(statement.format(sql.Identifier(name), sql.Literal(text)))

    @contextmanager
    def _connected(self, *, autocommit: bool = False) -> Iterator[Connection[Any]]:
        import psycopg

        with (
            _reduced(),
            psycopg.connect(self._url, connect_timeout=_CONNECT_S, autocommit=autocommit) as connection,
        ):
            yield connection


_DIGEST_PARTS = {
    "timestamptz": "(extract(epoch from {}) * 1000000)::bigint::text",
    "uuid": "{}::text",
    "integer": "{}::text",
    "text": "{}",
}
_TEXT = " || ".join(
    f"coalesce({_DIGEST_PARTS[one.type].format(one.name)}, '{ABSENT}') || chr({ord(SEPARATOR)})"
    for one in COLUMNS
)
_DIGEST = f"('x' || left(md5({_TEXT}), {DIGEST_DIGITS}))::bit({4 * DIGEST_DIGITS})::bigint"


def _bring(connection: Connection[Any], content: bytes) -> None:
    """Copy rows into a table of this transaction's own."""
    connection.execute("create temp table incoming (like user_logins) on commit drop")
    _copy(connection, "incoming", content)


def _copy(connection: Connection[Any], table: str, content: bytes) -> None:
    with connection.cursor() as cursor, cursor.copy(_COPY.format(table).encode()) as copy:
        copy.write(content)


def _migrate(url: str) -> None:
    from alembic import command

    command.upgrade(alembic_config(name_driver(url), "migrations/served"), "head")


@contextmanager
def _reduced() -> Iterator[None]:
    """Keep the driver's text back: it quotes rows. A known one that callers deal with passes."""
    import psycopg
    import sqlalchemy as sa
    from psycopg.errors import UniqueViolation

    try:
        yield
    except UniqueViolation:
        raise
    except psycopg.OperationalError as error:
        reason = error.sqlstate or "no answer"
        raise ServedError(
            f"PostgreSQL cannot be reached ({reason}): see that it runs and that postgres_url is right; "
            "the next run brings what is missing"
        ) from None
    except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
        code = getattr(error, "sqlstate", None) or type(error).__name__
        raise ServedError(f"PostgreSQL refused a change of user_logins: {code}") from None
