"""Sandboxed SQL over a tenant's masked and curated tables.

Views over the pinned files of one version of each table, in an in-memory DuckDB that may open those
files and nothing else, whose configuration is locked before the query is seen. Only reading
statements are run.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from stores.delta_views import open_table, quote_name, quote_text, select_table
from stores.tables import Tables
from transforms.errors import QueryError, UsageError
from transforms.tables import TOKEN_MAP

if TYPE_CHECKING:
    import duckdb

READABLE_ZONES = ("masked", "curated")
_MEMORY_LIMIT = "2GB"
_AGAIN_S = 0.05
_ALLOWED = "one reading statement is allowed: select, with, describe, show or explain"
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)


@contextmanager
def _interrupting(connection: duckdb.DuckDBPyConnection, timeout_s: float | None) -> Iterator[None]:
    """Stop what runs on a connection once it takes too long.

    An interrupt between two steps of a query is lost: it comes again until nothing runs any more.
    """
    if timeout_s is None:
        yield
        return
    is_over = threading.Event()

    def interrupt() -> None:
        wait_s = timeout_s
        while not is_over.wait(wait_s):
            connection.interrupt()
            wait_s = _AGAIN_S

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class SqlSandbox:
    """Runs queries for one tenant."""

    def __init__(self, tables: Tables, tenant: str) -> None:
        """Remember the tenant; nothing is opened yet."""
        self._tables, self._tenant = tables, tenant

    def names(self) -> list[str]:
        """Give the tables that can be queried, such as `masked.logins`."""
        return [info.key for info in self._tables.listing(self._tenant) if info.zone in READABLE_ZONES]

    def run(self, query: str, limit: int | None = None, timeout_s: float | None = None) -> pa.Table:
        """Run one query and give its rows, at most `limit`; it is stopped after `timeout_s`.

        Raises: UsageError where it is no single reading statement; QueryError where DuckDB does not
        understand it, or it takes too long.
        """
        import duckdb

        with self.opened() as connection, _interrupting(connection, timeout_s):
            try:
                self._check_reading(connection, query)
                relation = connection.sql(query)
                if relation is None:
                    return pa.table({})
                result: pa.Table = (relation.limit(limit) if limit else relation).to_arrow_table()
                return result
            except duckdb.InterruptException:
                raise QueryError(f"the query was stopped after {timeout_s:g} seconds") from None
            except duckdb.Error as error:
                raise QueryError(f"the query does not run: {error}") from None

    @contextmanager
    def opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a locked-down connection; its tables stay pinned for as long as the block lasts."""
        import duckdb

        with ExitStack() as stack:
            names = self.names()
            for name in names:
                stack.enter_context(self._tables.reading(self._tenant, name))
            if self._tables.exists(self._tenant, TOKEN_MAP.key):
                stack.enter_context(self._tables.reading(self._tenant, TOKEN_MAP.key))
            connection = stack.enter_context(duckdb.connect(":memory:"))
            self._make_views(connection, names)
            yield connection

    def _make_views(self, connection: duckdb.DuckDBPyConnection, names: list[str]) -> None:
        for setting in (
            "TimeZone = 'UTC'",
            f"memory_limit = '{_MEMORY_LIMIT}'",
            "temp_directory = ''",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
        ):
            connection.execute(f"set {setting}")
        renewals, files = self._renewals()
        for zone in READABLE_ZONES:
            connection.execute(f"create schema {zone}")
        for name in names:
            zone, table = name.split(".", 1)
            pinned = self._tables.files(self._tenant, name)
            if not pinned:
                # A mart may hold nothing that it may show; its columns are known all the same.
                nothing = self._tables.schema(self._tenant, name).empty_table()
                connection.from_arrow(nothing).create(f"{zone}.{quote_name(table)}")
                continue
            selected = select_table(open_table(self._tables.path(self._tenant, name)), {})
            renewed = _with_present_tokens(selected, self._tables.schema(self._tenant, name).names, renewals)
            connection.execute(f"create view {zone}.{quote_name(table)} as {renewed}")
            files += pinned
        allowed = ", ".join(quote_text(file.removeprefix("file://")) for file in files)
        connection.execute(f"set allowed_paths = [{allowed}]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")

    def _renewals(self) -> tuple[str, list[str]]:
        """Give the map of tokens as a relation, and its files; nothing where no rotation is on its way."""
        if not self._tables.exists(self._tenant, TOKEN_MAP.key):
            return "", []
        files = list(self._tables.files(self._tenant, TOKEN_MAP.key))
        return select_table(open_table(self._tables.path(self._tenant, TOKEN_MAP.key)), {}), files

    def _check_reading(self, connection: duckdb.DuckDBPyConnection, query: str) -> None:
        import duckdb

        statements = connection.extract_statements(query)
        reading = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
        if len(statements) != 1 or statements[0].type not in reading:
            raise UsageError(_ALLOWED)
        if statements[0].type == duckdb.StatementType.EXPLAIN:
            # `explain analyze` runs what it explains, and a `copy` could write over the tables' own files.
            begin = _EXPLAIN.match(query)
            explained = connection.extract_statements(query[begin.end() :]) if begin else []
            if [one.type for one in explained] != [duckdb.StatementType.SELECT]:
                raise UsageError(_ALLOWED)


def _with_present_tokens(selected: str, columns: Sequence[str], renewals: str) -> str:
    """Show the present token where a row still has an old one, so that equal values stay equal."""
    tokens = [name for name in columns if name.endswith("_token")]
    if not renewals or not tokens:
        return selected
    named = [(f"m{at}", f"t.{quote_name(name)}", quote_name(name)) for at, name in enumerate(tokens)]
    # A value that is in the vault has no more than 28 characters.
    shown = ", ".join(
        f"coalesce(left({one}.new_token, length({token})), {token}) as {name}" for one, token, name in named
    )
    joins = " ".join(
        f"left join ({renewals}) {one} on {one}.old_token = left({token}, 28)" for one, token, _ in named
    )
    return f"select t.* replace ({shown}) from ({selected}) t {joins}"  # noqa: S608 - every part is quoted
