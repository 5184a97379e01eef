"""Columns of Parquet and Arrow files as plain values, for the leak scan.

Whatever an array is made of, its parts without children come out: the elements of lists, the fields
of structs, and every entry of a dictionary, used by a row or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# pyarrow's stubs know neither nested arrays nor a file that we hand in: Any, under names that say what.
Column: TypeAlias = Any
Found: TypeAlias = "tuple[str, Column | str]"

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1 << 16
# Neither text of one byte a character, nor UTF-16, nor base64 goes on over this.
_SEPARATOR = b"\n\0\n"
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


def parquet_columns(file: BinaryIO, row_group_bytes: int) -> Iterator[Found]:
    """Give a Parquet file's metadata, statistics and columns, in batches.

    Shape: each part's place, then its values; a text in their stead is the reason why it was not read.
    """
    source: Any = file
    try:
        plain = pq.ParquetFile(source, pre_buffer=False)
        texts = {one.path for one in _parquet_leaves(plain) if one.physical_type == "BYTE_ARRAY"}
        # Read as dictionaries, so that entries which no row uses are seen as well.
        by_dictionary = pq.ParquetFile(source, read_dictionary=sorted(texts), pre_buffer=False)
        yield "key-value metadata", _binary(metadata_parts(plain.schema_arrow, plain.metadata.metadata))
    except _UNREADABLE as error:
        yield "Parquet", f"damaged or of an unknown kind ({type(error).__name__})"
        return
    for group in range(plain.num_row_groups):
        for number, leaf in enumerate(_parquet_leaves(plain)):
            place = f"column {leaf.path}, row group {group}"
            chunk = plain.metadata.row_group(group).column(number)
            yield f"{place}, statistics", _statistics(chunk)
            if chunk.total_uncompressed_size > row_group_bytes:
                yield place, "the bound on a row group is reached"
            else:
                has_dictionary = leaf.path in texts and any("DICT" in one for one in chunk.encodings)
                readers = [by_dictionary, plain] if has_dictionary else [plain]
                yield from ((place, found) for found in _first_readable(readers, group, chunk))


def _first_readable(readers: list[Any], group: int, chunk: Any) -> Iterator[Column | str]:  # noqa: ANN401
    """Give one column of one row group, read in the first way that works, or why none does."""
    reason = ""
    for reader in readers:
        try:
            yield from _batches(reader, group, chunk)
        except _UNREADABLE as error:
            # A writer that left its dictionary for a delta encoding can only be read the plain way.
            reason = f"damaged or of an unknown kind ({type(error).__name__})"
        else:
            return
    yield reason


def _batches(reader: Any, group: int, chunk: Any) -> Iterator[Column]:  # noqa: ANN401
    """Give a column chunk in batches; the dictionary that batches share only once."""
    rows = reader.metadata.row_group(group).num_rows
    per_row = chunk.total_uncompressed_size // max(rows, 1) + 1
    batch_rows = min(max(_BATCH_BYTES // per_row, 1), _BATCH_ROWS)
    known: list[Column] = []
    for batch in reader.iter_batches(batch_rows, [group], [chunk.path_in_schema], use_threads=False):
        fresh = [leaf for array in batch.columns for leaf in leaves(array)]
        for at, leaf in enumerate(fresh):
            if at >= len(known) or not leaf.equals(known[at]):
                yield leaf
        known = fresh


def arrow_columns(file: BinaryIO, *, stream: bool) -> Iterator[Found]:
    """Give the metadata and the columns of an Arrow file or stream; see `parquet_columns`."""
    source: Any = file
    try:
        reader: Any = pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)
        yield "key-value metadata", _binary(metadata_parts(reader.schema, reader.schema.metadata))
        numbers = () if stream else range(reader.num_record_batches)
        for batch in reader if stream else map(reader.get_batch, numbers):
            for field, column in zip(reader.schema, batch.columns, strict=True):
                yield from ((f"column {field.name}", leaf) for leaf in leaves(column))
    except _UNREADABLE as error:
        yield "Arrow", f"damaged or of an unknown kind ({type(error).__name__})"


def metadata_parts(schema: pa.Schema, pairs: Mapping[bytes, bytes] | None) -> list[bytes]:
    """Give every key and value of a file's metadata, and the names and metadata of all its fields."""
    parts = [part for pair in (pairs or {}).items() for part in pair]
    nested = list(schema)
    while nested:
        field = nested.pop()
        parts += [field.name.encode(), *chain.from_iterable((field.metadata or {}).items())]
        nested += [field.type.field(at) for at in range(field.type.num_fields)]
    return parts


def leaves(array: Column) -> Iterator[Column]:
    """Give the arrays without children that make up an array."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        yield from leaves(array.storage)
    elif pa.types.is_dictionary(kind):
        yield from leaves(array.dictionary)
    elif pa.types.is_struct(kind) or pa.types.is_union(kind):
        yield from chain.from_iterable(leaves(array.field(at)) for at in range(kind.num_fields))
    elif pa.types.is_map(kind):
        yield from chain(leaves(array.keys), leaves(array.items))
    elif pa.types.is_nested(kind) or pa.types.is_run_end_encoded(kind):
        yield from leaves(array.values)
    else:
        yield array


def is_written_in_digits(leaf: Column) -> bool:
    """Whether an array holds numbers, dates or times, which are written without letters but a few."""
    kind, types = leaf.type, pa.types
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return is_number or types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind)


def values_of(leaf: Column) -> Column:
    """Give an array's values as bytes, without nulls: texts as they are, everything else written out.

    Raises: pyarrow's ArrowException for a type that cannot be written as text.

    >>> values_of(pa.array([2026, None])).to_pylist()
    [b'2026']
    """
    kind = leaf.type
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_duration(kind):
        return _binary([])
    present = leaf.drop_null()
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if is_text or "binary" in str(kind):
        return present.cast(pa.binary())
    return present.cast(pa.string()).cast(pa.binary())


def joined(values: Column) -> bytes:
    """Join values with a separator, so that two neighbours do not make up a third value."""
    one_list: Any = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    result: Any = pc.binary_join(one_list, _SEPARATOR)
    text: bytes = result[0].as_py()
    return text


def beginning_with(magic: bytes, values: Column) -> list[bytes]:
    """Give the values that begin with these bytes."""
    pattern: Any = magic
    matching: Any = pc.starts_with(values, pattern)
    found: list[bytes] = values.filter(matching).to_pylist()
    return found


def places_of(magic: bytes, values: Column) -> frozenset[int]:
    """Tell where in the joined values those begin that begin with these bytes.

    >>> sorted(places_of(b"b", pa.array([b"ab", b"ba", b"b"])))
    [5, 10]
    """
    pattern: Any = magic
    matching: Any = pc.starts_with(values, pattern)
    if not pc.any(matching).as_py():
        return frozenset()
    lengths: Any = pc.binary_length(values)
    strides = lengths.to_numpy().astype(np.int64) + len(_SEPARATOR)
    starts = np.cumsum(strides) - strides
    return frozenset(starts[matching.to_numpy(zero_copy_only=False)].tolist())


def _parquet_leaves(parquet: pq.ParquetFile) -> list[Any]:
    return [parquet.schema.column(number) for number in range(len(parquet.schema))]


def _statistics(chunk: Any) -> Column:  # noqa: ANN401 - pyarrow.parquet.ColumnChunkMetaData
    if not chunk.is_stats_set or not chunk.statistics.has_min_max:
        return _binary([])
    try:
        bounds = (chunk.statistics.min, chunk.statistics.max)
    except (pa.ArrowException, UnicodeDecodeError):
        return _binary([])  # cut inside a character; the footer's raw bytes are searched in any case
    return _binary([one if isinstance(one, bytes) else str(one).encode() for one in bounds])


def _binary(parts: list[bytes]) -> Column:
    return pa.array(parts, pa.binary())
