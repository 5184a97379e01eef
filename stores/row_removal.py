"""Taking rows out of a Delta table: only the files that hold them are written again.

A library's delete reads the whole table and writes its predicate into the log. Here one column of
each file is read, by its dictionary where it has one; files without a hit are left as they are, and
the log learns the names of files, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stores.delta_files import write_parts
from stores.home import sha256_of
from stores.tables import Tables
from transforms.privacy.removals import FileMark, Removal
from transforms.tables import Column, TableSpec

if TYPE_CHECKING:
    from deltalake.transaction import AddAction, RemoveAction

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Match:
    """Which rows go: those whose column has one of the values, in some partitions or in all.

    `edits` are for rows that stay, changed: by the value of the column, the new values of others.
    """

    column: str
    values: tuple[Any, ...]
    partitions: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    edits: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def wanted(self) -> list[Any]:
        """Every value that a file is looked through for."""
        return [*self.values, *self.edits]


@dataclass(frozen=True)
class Found:
    """A file that has to be written again: what the log says of it, and a mask of its rows that match."""

    name: str
    path: Path
    size_bytes: int
    partition: Mapping[str, Any]
    gone: Mask


class RowRemoval:
    """Removes rows from the tables of one tenant."""

    def __init__(self, tables: Tables, tenant: str) -> None:
        """Remember the tables; nothing is opened yet."""
        self._tables, self._tenant = tables, tenant

    def find(self, spec: TableSpec, matches: Sequence[Match]) -> list[Found]:
        """Find the files that hold matching rows of a table that exists."""
        with self._tables.reading_files(self._tenant, spec.key) as files:
            root = f"{self._tables.path(self._tenant, spec.key)}/"
            return list(_holding(files.with_columns(name=pl.col("path").str.strip_prefix(root)), matches))

    def rows(self, spec: TableSpec, matches: Sequence[Match], columns: Sequence[str]) -> pl.DataFrame:
        """Give some columns of the matching rows; no file without one is read further.

        Shape: `columns` that partition the table are text. Nothing for a table that does not exist.
        """
        parts = [pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))]
        if self._tables.exists(self._tenant, spec.key):
            with self._tables.reading_files(self._tenant, spec.key) as files:
                root = f"{self._tables.path(self._tenant, spec.key)}/"
                named = files.with_columns(name=pl.col("path").str.strip_prefix(root))
                parts += [_columns_of(one, columns) for one in _holding(named, matches)]
        return pl.concat(parts, how="vertical_relaxed")

    def remove(
        self, spec: TableSpec, matches: Sequence[Match], mark: str, note: Callable[[Removal], None]
    ) -> Removal | None:
        """Take matching rows out in one commit; None where there are none.

        `note` is given the removal before it is committed: a process that takes over then knows what a
        killed one was about to do, and `was_committed` whether it did.
        """
        folder = self._tables.path(self._tenant, spec.key)
        with self._tables.rewriting(self._tenant, spec) as table:
            found = self.find(spec, matches)
            if not found:
                return None
            added = [one for one in (self._rewritten(folder, spec, one, matches) for one in found) if one]
            removal = Removal(
                table=spec.key,
                mark=mark,
                version_before=table.version(),
                version_after=None,
                rows=int(sum(int(one.gone.sum()) for one in found)),
                removed=tuple(mark_file(folder, one.path) for one in found),
                added=tuple(mark_file(folder, folder / unquote(one.path)) for one in added),
            )
            note(removal)
            self._tables.exchange_files(table, spec, [*added, *_removals(found)], {"erasure": mark})
            return removal.committed(table.version())

    def was_committed(self, spec: TableSpec, removal: Removal) -> Removal | None:
        """Give a noted removal as committed, where the files that it takes out are out; else None."""
        folder = self._tables.path(self._tenant, spec.key)
        with self._tables.reading_files(self._tenant, spec.key) as files:
            live = {str(Path(unquote(path)).relative_to(folder)) for path in files["path"]}
        if {one.name for one in removal.removed} & live:
            return None
        return removal.committed(self._tables.info(self._tenant, spec.key).version)

    def _rewritten(
        self, folder: Path, spec: TableSpec, found: Found, matches: Sequence[Match]
    ) -> AddAction | None:
        if found.gone.all():
            return None
        texts = {name: _text(value) for name, value in found.partition.items()}
        name = found.path.name.partition("-")[0]
        return write_parts(folder, spec, _parts(found, matches), texts, name, adds_rows=True)


def _removals(found: Sequence[Found]) -> Iterator[RemoveAction]:
    from deltalake.transaction import RemoveAction

    # A vacuum compares it with the machine's own clock.
    at_ms = int(time.time() * 1000)
    for one in found:
        texts: dict[str, str | None] = {name: _text(value) for name, value in one.partition.items()}
        yield RemoveAction(one.name, True, at_ms, one.size_bytes, texts)


def _partition(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("partition."): value for name, value in row.items() if name.startswith("partition.")
    }


def _holding(files: pl.DataFrame, matches: Sequence[Match]) -> Iterator[Found]:
    for row in files.iter_rows(named=True):
        partition = _partition(row)
        fitting = [one for one in matches if _may_hold(one, partition)]
        if not fitting:
            continue
        path = Path(unquote(row["path"]))
        with pq.ParquetFile(path, pre_buffer=False, read_dictionary=[one.column for one in fitting]) as file:
            count = file.metadata.num_rows
            gone, edited = np.zeros(count, bool), np.zeros(count, bool)
            for one in fitting:
                if one.column in file.schema_arrow.names:
                    gone |= _hits(file, one.column, one.values)
                    edited |= _hits(file, one.column, list(one.edits)) if one.edits else False
        if gone.any() or edited.any():
            yield Found(row["name"], path, path.stat().st_size, partition, gone)


def _may_hold(match: Match, partition: Mapping[str, Any]) -> bool:
    wanted = match.partitions.items()
    return bool(match.wanted) and all(partition.get(name) in values for name, values in wanted)


def _hits(file: pq.ParquetFile, column: str, values: Sequence[Any]) -> Mask:
    """Tell which rows have one of the values; a row group whose dictionary has none is passed over."""
    found = []
    for group in range(file.num_row_groups):
        read = file.read_row_group(group, columns=[column], use_threads=False)[column]
        chunks: list[Any] = list(read.chunks)
        for chunk in chunks:
            if pa.types.is_dictionary(chunk.type):
                known: Any = pc.is_in(chunk.dictionary, _set(values, chunk.dictionary.type))
                hits: Any = pc.take(known, chunk.indices)
            else:
                hits = pc.is_in(chunk, _set(values, chunk.type))
            found.append(pc.fill_null(hits, False).to_numpy(zero_copy_only=False))
    return np.concatenate(found) if found else np.zeros(0, bool)


def _set(values: Sequence[Any], kind: pa.DataType) -> Any:  # noqa: ANN401 - pyarrow's stubs lack it
    return pa.array(list(values), kind)


def _parts(found: Found, matches: Sequence[Match]) -> Iterator[pa.Table]:
    """Give a file's rows without those that go, a row group at a time."""
    edits = {one.column: one.edits for one in matches if one.edits}
    with pq.ParquetFile(found.path, memory_map=True, pre_buffer=False) as file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            stays = ~found.gone[begin:end]
            if stays.any():
                rows = file.read_row_group(group).filter(pa.array(stays))
                for column, changes in edits.items():
                    rows = _edited(rows, column, changes)
                yield rows
            begin = end


def _edited(rows: pa.Table, column: str, changes: Mapping[Any, Mapping[str, Any]]) -> pa.Table:
    """Give rows with new values in the columns that the edits name."""
    keys = rows[column].to_pylist()
    if not changes.keys() & set(keys):
        return rows
    for name in {name for change in changes.values() for name in change}:
        values = [
            changes.get(key, {}).get(name, old) for key, old in zip(keys, rows[name].to_pylist(), strict=True)
        ]
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    return rows


def _columns_of(found: Found, columns: Sequence[str]) -> pl.DataFrame:
    stored = [name for name in columns if name not in found.partition]
    with pq.ParquetFile(found.path, memory_map=True, pre_buffer=False) as file:
        rows = file.read(columns=stored, use_threads=False).filter(pa.array(found.gone))
    texts = {name: pl.lit(_text(found.partition[name])) for name in columns if name in found.partition}
    return pl.DataFrame(rows).with_columns(**texts).select(columns)


def _text(value: Any) -> str:  # noqa: ANN401 - a value of any partition column
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def mark_file(root: Path, path: Path) -> FileMark:
    """Give a file's name below a folder, its size and its SHA-256."""
    return FileMark(str(path.relative_to(root)), path.stat().st_size, sha256_of(path).hex())


def mart_spec(tables: Tables, tenant: str, key: str) -> TableSpec:
    """Describe a mart by what its own table says, as far as writing its files needs it."""
    table = tables.opened(tenant, key)
    counted = (table.metadata().configuration.get("delta.dataSkippingStatsColumns") or "").split(",")
    columns = tuple(
        Column(one.name, one.type, "", nullable=one.nullable, in_statistics=one.name in counted)
        for one in tables.schema(tenant, key)
    )
    zone, name = key.split(".", 1)
    return TableSpec(zone, name, "", "", columns, tuple(table.metadata().partition_columns))
