"""Writing files of captures' tables again: a closed hour in order, or a file without some of its rows.

Rows are read a row group at a time, so that memory does not grow with the hour: to sort it, only
columns in clear are read first. deltalake's own `optimize` knows neither the order nor row groups of
a few large rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stores.delta_files import group_rows, write_parts
from transforms.capture.tables import CAPTURE_BLOCKS
from transforms.tables import TableSpec

if TYPE_CHECKING:
    from deltalake.transaction import AddAction

ORDERED = "ordered"
ORDERED_BYTES = 256 << 20
# Of row groups that are held while rows are gathered from several files.
_HELD_BYTES = 64 << 20
# The last five make the order one of many that are possible: a repetition writes the same file.
_ORDER = ("device_ref", "ts_min", "received_at", "batch_id", "chunk", "file_id", "block_number")


def order_blocks(
    folder: Path, paths: Sequence[Path], texts: Mapping[str, str], size_bytes: int
) -> Iterator[AddAction]:
    """Write the blocks of some files again, sorted by device and time, into as few files as may be.

    `size_bytes` is that of all of them; no file is much larger than `ORDERED_BYTES`.
    """
    places = pl.concat([_heads(at, path) for at, path in enumerate(paths)]).sort(_ORDER)
    rows = group_rows(CAPTURE_BLOCKS, places.height, size_bytes) or 1
    files = max(1, -(-size_bytes // ORDERED_BYTES))
    # Cut between row groups, so that all but the last one are full.
    step = -(-places.height // (files * rows)) * rows
    groups = _Groups(paths)
    for start in range(0, places.height, step):
        chosen = places[start : start + step]
        parts = (groups.rows(chosen[at : at + rows]) for at in range(0, chosen.height, rows))
        yield write_parts(folder, CAPTURE_BLOCKS, parts, texts, ORDERED, adds_rows=False)


def keep_rows(
    folder: Path, spec: TableSpec, path: Path, texts: Mapping[str, str], keep: NDArray[np.bool_]
) -> AddAction:
    """Write a file again with those rows for which `keep` is true; at least one is.

    Shape: `keep` has an entry for each row of the file.
    """
    name = path.name.partition("-")[0]
    return write_parts(folder, spec, _kept_parts(path, keep), texts, name, adds_rows=True)


def read_column(path: Path, name: str) -> pl.Series:
    """Read one column of a data file."""
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        return pl.Series(name, file.read(columns=[name])[name])


def _kept_parts(path: Path, keep: NDArray[np.bool_]) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if keep[begin:end].any():
                yield file.read_row_group(group).filter(pa.array(keep[begin:end]))
            begin = end


def _heads(number: int, path: Path) -> pl.DataFrame:
    """Give what a file's blocks are sorted by, and where each lies: file, row group, row."""
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        heads = pl.DataFrame(file.read(columns=list(_ORDER)))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.concatenate([np.arange(size) for size in sizes])
    return heads.select(_ORDER).with_columns(file=pl.lit(number), group=pl.Series(groups), row=pl.Series(rows))


class _Groups:
    """Row groups of several files; those that were used last are held."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        # Files from before a column was declared lack it: every part has all of them.
        schemas = [pq.read_schema(path) for path in paths]
        self._empty = pa.unify_schemas(schemas, promote_options="permissive").empty_table()
        self._held: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def rows(self, places: pl.DataFrame) -> pa.Table:
        """Give rows from their places, in that order."""
        found = [self._row(*place) for place in places.select("file", "group", "row").iter_rows()]
        return pa.concat_tables([self._empty, *found], promote_options="permissive")

    def _row(self, number: int, group: int, row: int) -> pa.Table:
        at = number, group
        if at not in self._held:
            with pq.ParquetFile(self._paths[number], memory_map=True, pre_buffer=False) as file:
                self._held[at] = file.read_row_group(group)
            while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > _HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(at)
        # A copy: a slice would hold the whole group for as long as the part is held.
        return self._held[at].take(pc.cast(pa.array([row]), pa.int64()))
