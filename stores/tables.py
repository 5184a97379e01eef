"""The lake: Delta tables under `<tenant>/<zone>/<table>`, written once and read pinned.

Every write is identified by its batch (an app transaction of its own), so that a retry finds it
done. One process writes a table at a time; readers hold a shared lock that only a vacuum waits for.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa

from stores.delta_files import commit_actions, commit_rows, merge_files, write_rows
from stores.locks import exclusive, shared
from transforms.errors import TableError
from transforms.tables import TableSpec

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, WriterProperties
    from deltalake.transaction import AddAction, RemoveAction

ZONES = ("raw", "quarantine", "masked", "curated", "vault")
# How long a batch may be retried; after that its mark leaves the log (decision 20).
_RETRY_WINDOW = "interval 45 days"
_MAX_COMMIT_RETRIES = 100
# A file system's clock may move in steps; none that we know of in longer ones.
_SETTLED_NS = 2_000_000_000
# Longer than anybody reads one version without a lock.
VACUUM_HOURS = 24


@dataclass(frozen=True)
class Commit:
    """What identifies a write, and what the table's history says of it. `marks` hold no personal data.

    `covers` are the ids of writes whose rows this one brings along: they change nothing afterwards.
    """

    id: str
    written_at_ms: int
    marks: Mapping[str, str]
    covers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Committed:
    """What a write came to. `is_new` is False where the same write had been done before."""

    version: int
    rows: int
    is_new: bool


@dataclass(frozen=True)
class Prepared:
    """Files that were written for a table and are not part of it yet."""

    files: Sequence[AddAction]
    rows: int

    def __len__(self) -> int:
        """Count the rows."""
        return self.rows


@dataclass(frozen=True)
class TableInfo:
    """A table as it stands: sizes of the present version."""

    tenant: str
    zone: str
    name: str
    version: int
    rows: int
    files: int
    size_bytes: int

    @property
    def key(self) -> str:
        """The table's name in SQL and messages."""
        return f"{self.zone}.{self.name}"


@dataclass(frozen=True)
class Described:
    """A table's partition columns, and those whose bounds may stand in its log."""

    partition_by: tuple[str, ...]
    statistics: tuple[str, ...]


class Tables:
    """The Delta tables of a lake. Making one touches nothing."""

    def __init__(self, lake: Path, locks: Path, rollup_commits: int = 50) -> None:
        """Remember the folders; `rollup_commits` is the number of small commits between roll-ups."""
        self._lake, self._locks, self._rollup = lake, locks, rollup_commits
        # By folder, its number on disk and its last cut: a table that was made anew is another one, and
        # what was read before a log was cut short must not be built on.
        self._written: dict[tuple[Path, int, int], DeltaTable] = {}
        self._listed: dict[tuple[Path, int, int], tuple[DeltaTable, int, pl.DataFrame, int | None]] = {}
        self._listing = threading.Lock()

    def path(self, tenant: str, key: str) -> Path:
        """Give the folder of a table by its key, such as `masked.logins`."""
        return self._lake / tenant / Path(*key.split(".", 1))

    def tenants(self) -> list[str]:
        """Give the tenants that have a folder in the lake, sorted."""
        return sorted(path.name for path in self._lake.glob("*") if path.is_dir())

    def exists(self, tenant: str, key: str) -> bool:
        """Whether the table has been created."""
        # A process that is killed while it creates a table leaves the log's folder, and no commit in it.
        log = self.path(tenant, key) / "_delta_log"
        return any(file.suffix in (".json", ".parquet") for file in log.glob("0*"))

    def prepare(self, tenant: str, spec: TableSpec, rows: pl.DataFrame | pa.Table) -> Prepared:
        """Write rows into files of a table that are no part of it yet; `append` commits them.

        What is never committed goes with a later vacuum. Raises: TableError as `append`.
        """
        with self._writing(tenant, spec.key):
            fitting = _fitting(self._opened_for(tenant, spec), spec, rows)
            return Prepared(write_rows(self.path(tenant, spec.key), spec, fitting), len(rows))

    def are_there(self, tenant: str, key: str, prepared: Prepared) -> bool:
        """Whether no vacuum has taken prepared files away since they were written."""
        return all((self.path(tenant, key) / unquote(one.path)).exists() for one in prepared.files)

    def append(
        self, tenant: str, spec: TableSpec, rows: pl.DataFrame | pa.Table | Prepared, commit: Commit
    ) -> Committed:
        """Append rows once: a second call with the same commit id changes nothing.

        Raises: TableError where the rows do not fit the table.
        """
        with self._writing(tenant, spec.key):
            table = self._opened_for(tenant, spec)
            if table.transaction_version(commit.id) is not None:
                return Committed(table.version(), len(rows), is_new=False)
            if isinstance(rows, Prepared):
                written = rows.files
            else:
                written = write_rows(self.path(tenant, spec.key), spec, _fitting(table, spec, rows))
            commit_rows(table, spec, written, _properties(commit), _upkeep())
            self._roll_up(table, tenant, spec, commit)
            return Committed(table.version(), len(rows), is_new=True)

    def replace(
        self, tenant: str, spec: TableSpec, frame: pl.DataFrame, predicate: str, commit: Commit
    ) -> Committed:
        """Put rows in the place of those that a predicate selects; every new row must satisfy it.

        The predicate is written to the log: it may name times and partitions, never a person.
        Raises: TableError where a row does not satisfy it, or does not fit the table.
        """
        from deltalake import write_deltalake

        with self._writing(tenant, spec.key):
            table = self._opened_for(tenant, spec)
            if frame.is_empty():
                table.delete(predicate, commit_properties=_properties(commit))
            else:
                with _wordless(spec.key):
                    write_deltalake(
                        table,
                        _fitting(table, spec, frame),
                        mode="overwrite",
                        predicate=predicate,
                        writer_properties=writer_properties(spec),
                        commit_properties=_properties(commit),
                    )
            return Committed(table.version(), frame.height, is_new=True)

    def delete_rows(self, tenant: str, spec: TableSpec, ids: pl.Series, column: str, commit: Commit) -> int:
        """Delete the rows whose `column` is among `ids`; no value of them reaches the log."""
        with self._writing(tenant, spec.key):
            table = self._opened_for(tenant, spec)
            wanted = ids.unique().rename(column).to_frame()
            outcome = (
                table.merge(
                    wanted.to_arrow(compat_level=pl.CompatLevel.oldest()),
                    predicate=f"t.{column} = s.{column}",
                    source_alias="s",
                    target_alias="t",
                    # With False the smallest and largest id would land in the log.
                    streamed_exec=True,
                    commit_properties=_properties(commit),
                    writer_properties=writer_properties(spec),
                )
                .when_matched_delete()
                .execute()
            )
            return int(outcome["num_target_rows_deleted"])

    @contextmanager
    def reading(self, tenant: str, key: str) -> Iterator[pl.LazyFrame]:
        """Give the table's rows, pinned to one version, for as long as the block lasts.

        Raises: TableError where there is no such table.
        """
        if not self.exists(tenant, key):
            raise TableError(f"tenant {tenant} has no table {key} yet: materialise it first")
        with shared(self._lock(tenant, key, "read")):
            # By its path alone, the version would be looked up when rows are collected.
            yield pl.scan_delta(self.opened(tenant, key))

    @contextmanager
    def held(self, tenant: str, key: str) -> Iterator[None]:
        """Keep every file of a table, of whatever version, for as long as the block lasts."""
        with shared(self._lock(tenant, key, "read")):
            yield

    @contextmanager
    def reading_files(self, tenant: str, key: str) -> Iterator[pl.DataFrame]:
        """Give the data files of one version, which stay for as long as the block lasts.

        Shape: `path` (absolute), `num_records`, and `partition.<name>` for each partition column.
        Raises: TableError where there is no such table.
        """
        if not self.exists(tenant, key):
            raise TableError(f"tenant {tenant} has no table {key} yet: materialise it first")
        with shared(self._lock(tenant, key, "read")):
            yield self._list_files(tenant, key)

    def _list_files(self, tenant: str, key: str) -> pl.DataFrame:
        """List a table's data files; what was listed once is only brought up to date."""
        from deltalake import DeltaTable

        path = self.path(tenant, key)
        place = self._place(tenant, key)
        with self._listing:
            changed_ns = _changed_ns(path / "_delta_log")
            known = self._listed.get(place)
            if known is None:
                table = DeltaTable(str(path))
                self._listed = {at: one for at, one in self._listed.items() if at[0] != path}
            else:
                table, version, files, seen_ns = known
                if seen_ns is not None and seen_ns == changed_ns:
                    return files
                table.update_incremental()
                if table.version() == version:
                    self._listed[place] = table, version, files, changed_ns
                    return files
            actions = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
            files = actions.with_columns(path=pl.lit(f"{path}/") + pl.col("path"))
            self._listed[place] = table, table.version(), files, changed_ns
            return files

    def files(self, tenant: str, key: str) -> tuple[str, ...]:
        """Give the data files of the present version, for readers that are pinned to a list."""
        return tuple(self.opened(tenant, key).file_uris())

    def schema(self, tenant: str, key: str) -> pa.Schema:
        """Give the table's Arrow schema."""
        return pa.schema(list(pa.schema(self.opened(tenant, key).schema())))  # type: ignore[arg-type]

    def info(self, tenant: str, key: str) -> TableInfo:
        """Describe a table from its log, without opening a data file."""
        table = self.opened(tenant, key)
        actions = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
        rows = actions["num_records"].sum() if "num_records" in actions.columns else 0
        zone, name = key.split(".", 1)
        return TableInfo(
            tenant,
            zone,
            name,
            table.version(),
            int(rows or 0),
            actions.height,
            int(actions["size_bytes"].sum()),
        )

    def listing(self, tenant: str) -> list[TableInfo]:
        """Describe every table of a tenant, in the order of the zones."""
        found = []
        for zone in ZONES:
            keys = [f"{zone}.{path.name}" for path in sorted((self._lake / tenant / zone).glob("*"))]
            found += [self.info(tenant, key) for key in keys if self.exists(tenant, key)]
        return found

    def describe(self, tenant: str, key: str) -> Described:
        """Give what a table says of itself, for a table without a specification."""
        metadata = self.opened(tenant, key).metadata()
        statistics = metadata.configuration.get("delta.dataSkippingStatsColumns") or ""
        return Described(tuple(metadata.partition_columns), tuple(filter(None, statistics.split(","))))

    def history(self, tenant: str, key: str, limit: int = 10) -> list[dict[str, Any]]:
        """Give the latest commits with their marks, newest first."""
        return self.opened(tenant, key).history(limit)

    def vacuum(self, tenant: str, key: str, retention_hours: int = VACUUM_HOURS) -> int:
        """Delete files that no version within the retention needs, orphans of crashed writes included.

        Waits for readers. Gives the number of files deleted.
        """
        with self._writing(tenant, key), exclusive(self._lock(tenant, key, "read")):
            table = self.opened(tenant, key)
            removed = table.vacuum(
                retention_hours=retention_hours, dry_run=False, enforce_retention_duration=False, full=True
            )
            return len(removed)

    @contextmanager
    def rewriting(self, tenant: str, spec: TableSpec) -> Iterator[DeltaTable]:
        """Give a table to somebody who puts its files in order, alone among writers."""
        with self._writing(tenant, spec.key):
            yield self._opened_for(tenant, spec)

    def forget_past(self, tenant: str, key: str) -> int:
        """Delete every file that the present version does not need, and the log of every earlier version.

        Waits for readers. Gives how many data files went.
        """
        with self._writing(tenant, key), exclusive(self._lock(tenant, key, "read")):
            folder = self.path(tenant, key)
            gone = self.opened(tenant, key).vacuum(
                retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True
            )
            table = self.opened(tenant, key)
            table.create_checkpoint()
            # Before the first file of the log goes: whoever keeps this table opened opens it again.
            _mark(self._lock(tenant, key, "cut"))
            cut_log(folder / "_delta_log", table.version())
            kept = {Path(uri.removeprefix("file://")).name for uri in table.file_uris()}
            left = [path for path in folder.rglob("*.parquet") if path.name not in kept]
            left = [path for path in left if path.parent.name != "_delta_log"]
            for path in left:
                path.unlink()
            return len(gone) + len(left)

    def _place(self, tenant: str, key: str) -> tuple[Path, int, int]:
        """Give what an opened table is known by; it changes whenever its log was cut short."""
        path, mark = self.path(tenant, key), self._lock(tenant, key, "cut")
        last_cut = mark.stat().st_mtime_ns if mark.exists() else 0
        return path, (path / "_delta_log").stat().st_ino, last_cut

    def exchange_files(
        self,
        table: DeltaTable,
        spec: TableSpec,
        actions: Sequence[AddAction | RemoveAction],
        marks: Mapping[str, str] | None = None,
    ) -> None:
        """Commit files that come and files that go, together, for somebody who holds the table so."""
        from deltalake import CommitProperties

        properties = CommitProperties(
            max_commit_retries=_MAX_COMMIT_RETRIES, custom_metadata=dict(marks) if marks else None
        )
        commit_actions(table, spec, actions, properties, _upkeep())

    def drop(self, tenant: str, key: str) -> None:
        """Delete a table with its history; readers are waited for."""
        with self._writing(tenant, key), exclusive(self._lock(tenant, key, "read")):
            path = self.path(tenant, key)
            shutil.rmtree(path, ignore_errors=True)
            # The next one's folder may get the same number.
            self._written = {at: table for at, table in self._written.items() if at[0] != path}
            self._listed = {at: known for at, known in self._listed.items() if at[0] != path}

    @contextmanager
    def writing_zone(self, tenant: str, zone: str) -> Iterator[None]:
        """Hold every table of a zone alone, for a writer that is not this store (dbt)."""
        with exclusive(self._lock(tenant, zone, "zone")):
            yield

    @contextmanager
    def _writing(self, tenant: str, key: str) -> Iterator[None]:
        zone = key.partition(".")[0]
        with shared(self._lock(tenant, zone, "zone")), exclusive(self._lock(tenant, key, "write")):
            yield

    def _lock(self, tenant: str, key: str, kind: str) -> Path:
        return self._locks / tenant / f"{key}.{kind}.lock"

    def opened(self, tenant: str, key: str) -> DeltaTable:
        """Open a table as it stands.

        Raises: TableError where there is no such table.
        """
        from deltalake import DeltaTable

        if not self.exists(tenant, key):
            raise TableError(f"tenant {tenant} has no table {key} yet: materialise it first")
        return DeltaTable(str(self.path(tenant, key)))

    def _opened_for(self, tenant: str, spec: TableSpec) -> DeltaTable:
        """Open the table that a specification describes; create it on first use.

        To be called by who holds the table for writing: what was opened once is only brought up to date.
        """
        from deltalake import DeltaTable

        path = self.path(tenant, spec.key)
        if self.exists(tenant, spec.key):
            table = self._written.get(self._place(tenant, spec.key))
            if table is None:
                table = DeltaTable(str(path))
            else:
                table.update_incremental()
        else:
            path.mkdir(parents=True, exist_ok=True)
            table = DeltaTable.create(
                str(path),
                spec.schema,
                partition_by=list(spec.partition_by),
                description=spec.description,
                configuration=_configuration(spec),
            )
        self._written[self._place(tenant, spec.key)] = table
        _grow(table, spec)
        return table

    def _roll_up(self, table: DeltaTable, tenant: str, spec: TableSpec, commit: Commit) -> None:
        """Merge the small files of an open day every so many commits, and shorten the log."""
        from deltalake import CommitProperties

        if table.version() % self._rollup == 0:
            properties = CommitProperties(max_commit_retries=_MAX_COMMIT_RETRIES)
            folder = self.path(tenant, spec.key)
            merge_files(table, folder, spec, commit.written_at_ms, properties, _upkeep())
            table.create_checkpoint()
            # Each commit lists the log: of a thousand entries it took 17 ms, of fifty 3. What was read at the
            # last roll-up may still be read: whoever is opening the table began no earlier.
            _mark(self._lock(tenant, spec.key, "cut"))
            cut_log(folder / "_delta_log", table.version() - self._rollup)
            self._written = {at: one for at, one in self._written.items() if at[0] != folder}
            self._written[self._place(tenant, spec.key)] = table


def _changed_ns(log: Path) -> int | None:
    """Tell when a log was last changed; None so soon afterwards that one more change could bear that time."""
    changed_ns = log.stat().st_mtime_ns
    return changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else None


def cut_log(log: Path, version: int) -> None:
    """Delete what a log says of the versions before one that has a checkpoint."""
    for path in log.iterdir():
        number = path.name.partition(".")[0]
        if number.isdigit() and int(number) < version:
            path.unlink()


def _mark(path: Path) -> None:
    """Give a file another time of change, always a later one."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    at = max(path.stat().st_mtime_ns, before + 1)
    os.utime(path, ns=(at, at))


def _grow(table: DeltaTable, spec: TableSpec) -> None:
    """Add the columns that a newer contract brings; older rows have none of them.

    Raises: TableError where a column has another type than before: that needs a new table.
    """
    from deltalake import Field, Schema

    wanted = {field.name: field for field in Schema.from_arrow(spec.schema).fields}
    there = {field.name: field for field in table.schema().fields}
    changed = [name for name in wanted.keys() & there.keys() if wanted[name].type != there[name].type]
    if changed:
        raise TableError(
            f"{spec.key}: columns {sorted(changed)} have another type than the table's: rebuild it"
        )
    missing = [Field(name, wanted[name].type, nullable=True) for name in wanted if name not in there]
    if missing:
        table.alter.add_columns(missing)


def _configuration(spec: TableSpec) -> dict[str, str | None]:
    """Give a table's properties: statistics of nothing personal, marks of batches that expire."""
    return {
        "delta.dataSkippingStatsColumns": ",".join(spec.statistics),
        "delta.setTransactionRetentionDuration": _RETRY_WINDOW,
        # Opening a table costs what was committed since the last checkpoint, and the log's length.
        "delta.checkpointInterval": "10",
        "delta.logRetentionDuration": "interval 2 days",
    }


def _fitting(table: DeltaTable, spec: TableSpec, frame: pl.DataFrame | pa.Table) -> pa.Table:
    """Give rows as the table takes them; a column that the contract has no more is null."""
    try:
        rows = spec.conform(frame)
    except (pa.ArrowException, pl.exceptions.PolarsError, ValueError) as error:
        # The library's own text may hold a value.
        raise TableError(f"rows do not fit {spec.key}: {type(error).__name__}") from None
    for gone in pa.schema(table.schema()):  # type: ignore[arg-type]
        if gone.name not in rows.schema.names:
            rows = rows.append_column(gone, pa.nulls(rows.num_rows, gone.type))
    return rows


@contextmanager
def _wordless(key: str) -> Iterator[None]:
    """Keep the text of a write's error back: deltalake prints the rows that break a condition."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except DeltaError as error:
        raise TableError(f"{key} was not written: {type(error).__name__}") from None


def writer_properties(spec: TableSpec) -> WriterProperties:
    """Give how a table's files are written, whoever writes them."""
    from deltalake import ColumnProperties, WriterProperties

    silent = ColumnProperties(statistics_enabled="NONE")
    plain = ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
    ranged = ColumnProperties(statistics_enabled="CHUNK")
    return WriterProperties(
        compression=spec.compression,  # type: ignore[arg-type]
        compression_level=1 if spec.compression == "ZSTD" else None,
        # A file's own statistics would show tokens that the log does not.
        default_column_properties=silent,
        column_properties={**dict.fromkeys(spec.unique, plain), **dict.fromkeys(spec.statistics, ranged)},
    )


def _upkeep() -> PostCommitHookProperties:
    """Leave expired log files to the roll-up: looking for them at every commit costs as much as it."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


def _properties(commit: Commit) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(
        custom_metadata=dict(commit.marks),
        max_commit_retries=_MAX_COMMIT_RETRIES,
        app_transactions=[Transaction(one, 1, commit.written_at_ms) for one in (commit.id, *commit.covers)],
    )
