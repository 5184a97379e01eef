"""The dbt-duckdb plugin: Delta tables of one tenant as views, models as Delta tables.

dbt finds `Plugin` by its name. A lake is laid out as `<lake_root>/<tenant>/<zone>/<table>`; the
schema of a dbt relation is its zone. What is written goes through `replace_window`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.plugins import BasePlugin

from stores.delta_views import open_table, select_nothing, select_table
from transforms.errors import BusyError, TableError, UsageError

if TYPE_CHECKING:
    from dbt.adapters.duckdb.credentials import DuckDBCredentials
    from dbt.adapters.duckdb.utils import TargetConfig
    from duckdb import DuckDBPyConnection
    from pyarrow import RecordBatchReader


@dataclass(frozen=True)
class Window:
    """The dates that a write replaces; none = the whole table."""

    column: str
    dates: Sequence[date]

    def predicate(self) -> str | None:
        """Write the SQL condition of the rows to replace; None for all of them."""
        if not self.dates:
            return None
        days = ", ".join(f"DATE '{day}'" for day in self.dates)
        return f"{self.column} IN ({days})"


# -- the seam: the only calls to deltalake ------------------------------------------------------


def replace_window(
    path: Path,
    rows: RecordBatchReader,
    window: Window,
    stats_columns: Sequence[str],
    metadata: Mapping[str, str],
) -> int:
    """Replace the window's rows in one commit and return the version; make the table if absent.

    No rows is a valid input: the old rows of the window go.

    Raises: BusyError when another writer was faster; TableError when the rows do not fit the table or
    the window. The cause is not chained, since deltalake prints rows in its message.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        return _commit(path, rows, window, stats_columns, metadata)
    except CommitFailedError:
        failure: BusyError | TableError = BusyError(f"{path.parent.name}/{path.name}: a commit was overtaken")
    except (DeltaError, ValueError):
        failure = TableError(
            f"{path.parent.name}/{path.name}: the window was not replaced: a row lies outside of it, or "
            "the columns are not those of the table (then rebuild without event_dates)"
        )
    raise failure


def _commit(
    path: Path,
    rows: RecordBatchReader,
    window: Window,
    stats_columns: Sequence[str],
    metadata: Mapping[str, str],
) -> int:
    """Write with the rules of every table of ours: zstd 1, stats on named columns, no row in the log."""
    from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake

    table = open_table(path)
    predicate = window.predicate() if table is not None else None
    write_deltalake(
        path if table is None else table,
        rows,
        mode="overwrite",
        predicate=predicate,
        # Only a full rebuild may change columns: a window of the new shape would not fit the rest.
        schema_mode=None if window.dates else "overwrite",
        partition_by=[window.column],
        configuration={"delta.dataSkippingStatsColumns": ",".join(stats_columns)},
        writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
        commit_properties=CommitProperties(custom_metadata=dict(metadata), max_commit_retries=100),
    )
    return (table or DeltaTable(path)).version()


# -- the plugin ---------------------------------------------------------------------------------


class Plugin(BasePlugin):
    """What dbt calls: at the connection, and through `store_relation` in our macros."""

    connection: DuckDBPyConnection

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Keep the settings of the profile: whose lake, where, for which batch, where to spill."""
        self.tenant = str(plugin_config.get("tenant", ""))
        self.lake_root = str(plugin_config.get("lake_root", ""))
        self.batch = str(plugin_config.get("batch", ""))
        self.spill_path = str(plugin_config.get("spill_path", ""))

    def update_connection_config(self, creds: DuckDBCredentials, config: dict[str, Any]) -> None:
        """Say where DuckDB may spill. Its default is `.tmp` of the working folder; empty is never."""
        config["temp_directory"] = self.spill_path

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Keep the connection and put every cursor of it on UTC."""
        conn.execute("set global TimeZone = 'UTC'")
        self.connection = conn

    def store(self, target_config: TargetConfig) -> None:
        """Do what the macro asked for: show a table (`view`), an `empty` one, or write a `delta` one."""
        asked = target_config.location.format if target_config.location else ""
        actions = {"view": self._show, "empty": self._show_empty, "delta": self._write}
        if asked not in actions:
            raise UsageError(f"dbt_delta: met format {asked!r}; allowed: {[*actions]}")
        actions[asked](target_config)

    def _show(self, target: TargetConfig) -> None:
        table = open_table(self._path_of(target)) if self.lake_root else None
        self._create_view(target, select_table(table, target.config["columns"]))

    def _show_empty(self, target: TargetConfig) -> None:
        self._create_view(target, select_nothing(target.config["columns"]))

    def _write(self, target: TargetConfig) -> None:
        """Write the built rows, leave version and count in the macro's mapping, show the new version."""
        asked = target.config
        built = str(asked["built"])
        window = Window(asked["window_column"], [date.fromisoformat(day) for day in asked["window_dates"]])
        cursor = self.connection.cursor()
        asked["rows"] = cursor.sql(f"select count(*) from {built}").fetchall()[0][0]  # noqa: S608 - a relation of dbt
        asked["version"] = replace_window(
            self._path_of(target),
            cursor.sql(f"select * from {built} order by all").to_arrow_reader(),  # noqa: S608 - same
            window,
            asked["stats_columns"],
            {"model": asked["model"], "batch": self.batch},
        )
        cursor.execute(f"drop table {built}")
        self._show(target)

    def _create_view(self, target: TargetConfig, sql: str) -> None:
        relation = target.relation
        cursor = self.connection.cursor()
        cursor.execute(f"create schema if not exists {relation.without_identifier()}")
        cursor.execute(f"create or replace view {relation} as {sql}")

    def _path_of(self, target: TargetConfig) -> Path:
        """Return the table's folder.

        Raises: UsageError without a lake or a tenant, or for a tenant that is not one folder's name.
        """
        if not self.lake_root or not self.tenant:
            raise UsageError("dbt needs --vars with lake_root and tenant to read or write tables")
        if self.tenant in {".", ".."} or "/" in self.tenant or "\\" in self.tenant:
            raise UsageError("the tenant is not the name of a folder in the lake")
        relation = target.relation
        return Path(self.lake_root) / self.tenant / str(relation.schema) / str(relation.identifier)
