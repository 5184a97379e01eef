"""Appending to a Delta table: Parquet files by pyarrow, then one commit that names them.

deltalake's own writer goes through a query engine and takes twice the CPU for the same bytes. What
the log says of a file is here what the specification allows, and nothing else.

Source: the Delta transaction protocol, "Add File" and "Per-file Statistics".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.coding import hardly_repeats
from transforms.parquet import write_file
from transforms.tables import TableSpec

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
    from deltalake.transaction import AddAction, RemoveAction

_DICTIONARY_BYTES = 16 << 20
_LARGE_PAGE_BYTES = 64 << 10
# Where rows are small, a row group has more of them: what a file says of its groups is read before any row.
_LEAST_GROUP_BYTES = 2 << 20
# What an append leaves is merged if it is smaller than this, into files of at most that; both bound
# the memory that it takes.
_SMALL_BYTES = 16 << 20
_MERGED_BYTES = 64 << 20


def write_rows(folder: Path, spec: TableSpec, rows: pa.Table) -> list[AddAction]:
    """Write rows that fit the table, a file for each partition; they are no part of it before a commit."""
    write = _written_from_codes if spec.is_coded else _written
    return [
        write(folder, spec, part, _partition_texts(values))
        for values, part in _partitions(rows, spec.partition_by)
    ]


def commit_rows(
    table: DeltaTable,
    spec: TableSpec,
    written: Sequence[AddAction],
    properties: CommitProperties,
    upkeep: PostCommitHookProperties,
) -> None:
    """Make written files part of the table, together."""
    commit_actions(table, spec, written, properties, upkeep)


def merge_files(
    table: DeltaTable,
    folder: Path,
    spec: TableSpec,
    merged_at_ms: int,
    properties: CommitProperties,
    upkeep: PostCommitHookProperties,
) -> None:
    """Merge the small files that appends left, in each partition; what was merged once stays as it is.

    So the cost is that of the rows since the last time, however many there were before.
    """
    files = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
    small = files.filter(pl.col("path").str.contains("/part-[^/]*$") & (pl.col("size_bytes") < _SMALL_BYTES))
    keys = [f"partition.{name}" for name in spec.partition_by]
    actions: list[AddAction | RemoveAction] = []
    for values, part in small.group_by(keys, maintain_order=True):
        chosen = part.filter(pl.col("size_bytes").cum_sum() <= _MERGED_BYTES)
        if chosen.height > 1:
            texts = _partition_texts(dict(zip(spec.partition_by, values, strict=True)))
            actions += _merged(folder, spec, chosen, texts, merged_at_ms)
    if actions:
        commit_actions(table, spec, actions, properties, upkeep)


def _merged(
    folder: Path, spec: TableSpec, files: pl.DataFrame, texts: dict[str, str], merged_at_ms: int
) -> Iterator[AddAction | RemoveAction]:
    from deltalake.transaction import RemoveAction

    tables = [pq.ParquetFile(folder / unquote(path)).read() for path in files["path"]]
    # Files from before a column was declared lack it.
    rows = pa.concat_tables(tables, promote_options="permissive")
    yield write_parts(folder, spec, [rows], texts, "merged", adds_rows=False)
    for path, size in files.select("path", "size_bytes").iter_rows():
        yield RemoveAction(path, False, merged_at_ms, size, dict(texts))


def commit_actions(
    table: DeltaTable,
    spec: TableSpec,
    actions: Sequence[AddAction | RemoveAction],
    properties: CommitProperties,
    upkeep: PostCommitHookProperties,
) -> None:
    """Commit files that come and files that go, together."""
    table.create_write_transaction(
        list(actions),
        mode="append",
        schema=table.schema(),
        partition_by=list(spec.partition_by),
        commit_properties=properties,
        post_commithook_properties=upkeep,
    )
    table.update_incremental()


def _partitions(rows: pa.Table, names: tuple[str, ...]) -> Iterator[tuple[Mapping[str, Any], pa.Table]]:
    """Part rows by their partition; most often there is one."""
    keys = _partition_keys(rows, names)
    files = rows.drop_columns(list(names))
    for values in keys:
        if len(keys) == 1:
            yield values, files
        else:
            chosen = (pc.equal(rows[name], pa.scalar(values[name], rows[name].type)) for name in names)
            yield values, _with_own_dictionaries(files.filter(reduce(pc.and_, chosen)))


def _partition_keys(rows: pa.Table, names: tuple[str, ...]) -> list[dict[str, Any]]:
    if len(names) == 1:
        # A tenth of what grouping costs, where a dictionary names the partitions.
        (name,) = names
        return [{name: value} for value in pc.unique(rows[name]).to_pylist()]
    return rows.select(list(names)).group_by(list(names), use_threads=False).aggregate([]).to_pylist()


def _with_own_dictionaries(rows: pa.Table) -> pa.Table:
    """Leave in each dictionary what some of these rows use: a file holds its dictionaries whole."""
    for at, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            used = rows[field.name].cast(field.type.value_type).dictionary_encode()
            rows = rows.set_column(at, field.name, used)
    return rows


def _written(folder: Path, spec: TableSpec, rows: pa.Table, texts: Mapping[str, str]) -> AddAction:
    return write_parts(folder, spec, [rows], texts, "part", adds_rows=True)


def _written_from_codes(folder: Path, spec: TableSpec, rows: pa.Table, texts: Mapping[str, str]) -> AddAction:
    """Write rows that come as codes as what they are; half of the time that pyarrow takes."""
    path = _new_path(folder, texts, "part")
    # A column that the contract has no more is there, and null.
    whole = {one.name for one in spec.columns if not one.nullable}
    nullable = [name for name in rows.schema.names if name not in whole]
    with path.open("wb") as file:
        file.writelines(write_file(rows, nullable, spec.statistics, spec.rising))
    return _add_action(folder, spec, path, texts, [rows], adds_rows=True)


def write_parts(
    folder: Path,
    spec: TableSpec,
    parts: Iterable[pa.Table],
    texts: Mapping[str, str],
    prefix: str,
    *,
    adds_rows: bool,
) -> AddAction:
    """Write one file of a partition, `<prefix>-<uuid>.parquet`, from rows that come in parts.

    No row group holds rows of two parts, and one part at a time is held: at least one must come.
    `adds_rows` is False where the rows are in the table already.
    """
    path = _new_path(folder, texts, prefix)
    coming = iter(parts)
    first = next(coming)
    known = [name for name in spec.statistics if name in first.schema.names]
    written = []
    with pq.ParquetWriter(path, first.schema, **_writing_options(spec, first)) as writer:
        for rows in chain([first], coming):
            writer.write_table(rows, row_group_size=group_rows(spec, rows.num_rows, rows.nbytes))
            written.append(rows.select(known))
    return _add_action(folder, spec, path, texts, written, adds_rows=adds_rows)


def group_rows(spec: TableSpec, rows: int, size_bytes: int) -> int | None:
    """Give the rows of a row group, of so many rows in all; None for the writer's own measure."""
    if spec.row_group_rows is None:
        return None
    return max(spec.row_group_rows, _LEAST_GROUP_BYTES * rows // max(size_bytes, 1))


def _new_path(folder: Path, texts: Mapping[str, str], prefix: str) -> Path:
    place = "/".join(f"{name}={quote(text, safe=' ')}" for name, text in texts.items())
    path = folder / place / f"{prefix}-{uuid.uuid4()}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _add_action(
    folder: Path,
    spec: TableSpec,
    path: Path,
    texts: Mapping[str, str],
    written: Sequence[pa.Table],
    *,
    adds_rows: bool,
) -> AddAction:
    """Say of a file what the log has to; `written` has the columns that may be known, at least."""
    from deltalake.transaction import AddAction

    found = path.stat()
    stats = json.dumps(_statistics(spec, pa.concat_tables(written)), separators=(",", ":"))
    relative = quote(str(path.relative_to(folder)), safe="/=")
    return AddAction(relative, found.st_size, dict(texts), int(found.st_mtime * 1000), adds_rows, stats)


def _writing_options(spec: TableSpec, rows: pa.Table) -> dict[str, Any]:
    names = rows.schema.names
    plain = {*spec.unique, *spec.rising, *_mostly_distinct(rows)}
    return {
        "compression": "zstd" if spec.compression == "ZSTD" else "none",
        "compression_level": 1 if spec.compression == "ZSTD" else None,
        # Of few large rows nothing repeats often enough: a dictionary is a page more to write and to read.
        "use_dictionary": [name for name in names if name not in plain] if not spec.row_group_rows else False,
        "column_encoding": dict.fromkeys(spec.rising, "DELTA_BINARY_PACKED") or None,
        # Some thousand tokens to a column; past the limit each row would hold its own in full.
        "dictionary_pagesize_limit": _DICTIONARY_BYTES,
        # A file's own statistics would show tokens that the log does not.
        "write_statistics": [name for name in spec.statistics if name in names],
        "store_schema": False,
        # A large value goes to the file before the next one is copied, while it is near the processor.
        "write_batch_size": 1 if spec.row_group_rows else None,
        "data_page_size": _LARGE_PAGE_BYTES if spec.row_group_rows else None,
    }


def _mostly_distinct(rows: pa.Table) -> Iterator[str]:
    """Name the texts that hardly repeat: a dictionary of them costs twice, and saves nothing."""
    for field in rows.schema:
        if pa.types.is_large_string(field.type) and hardly_repeats(rows[field.name]):
            yield field.name


def _partition_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Write a partition's values as the protocol does."""
    return {name: _partition_text(value) for name, value in values.items()}


def _partition_text(value: date | bool | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)


def _statistics(spec: TableSpec, rows: pa.Table) -> dict[str, Any]:
    """Give the smallest and largest values of the columns that may be known."""
    found: dict[str, Any] = {"numRecords": rows.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for name in spec.statistics:
        if name not in rows.schema.names:
            continue
        found["nullCount"][name] = rows[name].null_count
        bounds: Any = pc.min_max(_met(rows[name])).as_py()
        least, most = bounds["min"], bounds["max"]
        if least is not None and not isinstance(least, bool):
            found["minValues"][name] = _bound(least, timedelta(0))
            found["maxValues"][name] = _bound(most, timedelta(microseconds=999))
    return found


def _met(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Give the values that a column holds, those of a dictionary once: it names none that no row has."""
    if not pa.types.is_dictionary(column.type):
        return column
    chunks: list[Any] = column.chunks
    found: pa.ChunkedArray[Any] = pa.chunked_array([one.dictionary for one in chunks], column.type.value_type)
    return found


def _bound(value: Any, up: timedelta) -> Any:  # noqa: ANN401 - a value of any column
    """Write a bound; times have milliseconds there, and a largest one must not lie below the truth."""
    if isinstance(value, datetime):
        return (value + up).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
