"""Parquet files of columns that are codes already: their pages are the codes as they lie in memory.

A masked table repeats itself: its columns come as dictionaries, some of them with the same codes.
pyarrow looks each code up, counts runs and packs bits, for each column; here a page is the codes behind
a few bytes, compressed once however many columns have it. Widths are whole bytes, which the format allows.

Source: the Parquet format, "parquet.thrift" and "Encodings.md" (hybrid of RLE and bit-packing, dictionary,
delta encoding), version 1 of data pages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.coding import Codes, cuts, number_close, smallest_kind
from transforms.thrift import Value, binary, boolean, int32, int64, listing, structure, varint, zigzag

Octets: TypeAlias = "bytes | memoryview"
Mask: TypeAlias = "npt.NDArray[np.bool_]"

# A page holds a column of so many rows: what is read at once should not be more.
GROUP_ROWS = 1 << 20
_MAGIC, _MAKER = b"PAR1", b"lockhouse"
_BOOLEAN, _INT32, _INT64, _DOUBLE, _OCTETS = 0, 1, 2, 5, 6
_PLAIN, _RLE, _DELTA, _CODES = 0, 3, 5, 8
_AS_IT_IS, _ZSTD = 0, 6
# What is near the processor is looked through: a fifth to a third faster than level 1 as it is, for codes and
# tokens, and 1 to 5 % larger.
_LEVEL, _WINDOW_LOG, _HASH_LOG, _AT_ONCE = 1, 17, 11, 128 << 10
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_REQUIRED, _OPTIONAL = 0, 1
_NOTHING = structure({})
_MICROSECONDS_UTC = structure({1: boolean(True), 2: structure({2: _NOTHING})})
# How a type is stored; what it was called, and how it is described now.
_KINDS: dict[pa.DataType, tuple[int, dict[int, Value]]] = {
    pa.bool_(): (_BOOLEAN, {}),
    pa.int32(): (_INT32, {}),
    pa.int64(): (_INT64, {}),
    pa.date32(): (_INT32, {6: int32(6), 10: structure({6: _NOTHING})}),
    pa.timestamp("us", tz="UTC"): (_INT64, {6: int32(10), 10: structure({8: _MICROSECONDS_UTC})}),
    pa.float64(): (_DOUBLE, {}),
    pa.large_binary(): (_OCTETS, {}),
    pa.large_string(): (_OCTETS, {6: int32(0), 10: structure({1: _NOTHING})}),
}
_NONE: Mask = np.zeros(0, bool)
_BETWEEN = pa.scalar(b"", pa.large_binary())
_WIDTHS = {_INT32: np.dtype("<i4"), _INT64: np.dtype("<i8")}
# A block of differences, its parts, and the values in a part.
_BLOCK, _PARTS, _PART = 128, 4, 32
_STEPS_AT_ONCE = 1024 * _BLOCK
# By a piece from the middle of a page: what stays above this share of its size is not compressed. Codes that
# are packed less well than by half are quick to write, and to pack; texts are long.
_SAMPLE_BYTES, _WORTH, _WORTH_OF_CODES = 32 << 10, 0.6, 0.5


@dataclass(frozen=True)
class _Column:
    """A column of a row group: values, or codes into them, and which rows have one.

    Shape: `valid` is None where all have one, and empty where none has.
    """

    kind: int
    values: pa.Array[Any]
    codes: Codes | None
    valid: Mask | None
    encoding: int
    # Two columns with the same place have the same codes and the same nulls.
    place: tuple[int, ...] | None


@dataclass(frozen=True)
class _Page:
    """A page as it is written, and its size before it was compressed, the header counted in both."""

    parts: Sequence[Octets]
    plain_bytes: int
    codec: int

    def __len__(self) -> int:
        """Count the bytes as they are written."""
        return sum(map(len, self.parts))


@dataclass
class _Group:
    """A row group while its columns are written."""

    rows: int
    chunks: list[Value] = field(default_factory=list)
    pages: dict[tuple[int, ...], _Page] = field(default_factory=dict)
    # A place in memory means something only as long as what lies there does.
    held: list[pa.Array[Any]] = field(default_factory=list)


def write_file(
    rows: pa.Table,
    nullable: Collection[str],
    bounded: Collection[str],
    rising: Collection[str] = (),
) -> Iterator[Octets]:
    """Write rows as a Parquet file, with zstd where that saves something, piece by piece.

    Shape: columns of booleans, integers of 32 or 64 bits, floats of 64, dates, times in microseconds of
    UTC, texts and bytes, or dictionaries of these without nulls in them. `nullable` names those that may
    have nulls; `bounded` numbers whose least and most may be known; `rising` numbers that are written as
    their differences.
    Raises: KeyError for a column of another type, ValueError for nulls in a column that may have none.
    """
    yield _MAGIC
    at, groups = len(_MAGIC), []
    for first in range(0, max(rows.num_rows, 1), GROUP_ROWS):
        part, begun = rows.slice(first, GROUP_ROWS), at
        group = _Group(part.num_rows)
        for name, chunked in zip(part.schema.names, part.columns, strict=True):
            if chunked.null_count and name not in nullable:
                raise ValueError(f"column {name} has nulls")
            whole: Any = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
            group.held.append(whole)
            column = _read_column(whole, is_rising=name in rising)
            pages = _write_pages(column, group, is_nullable=name in nullable)
            described = _describe(name, column, group, pages, at, is_bounded=name in bounded)
            group.chunks.append(structure({2: int64(at), 3: described}))
            for page in pages:
                at += len(page)
                yield from page.parts
        groups.append(structure({1: listing(group.chunks), 2: int64(at - begun), 3: int64(group.rows)}))
    columns = [_declare(one, is_nullable=one.name in nullable) for one in rows.schema]
    root = structure({4: binary(b"schema"), 5: int32(len(columns))})
    footer = {1: int32(1), 2: listing([root, *columns]), 3: int64(rows.num_rows), 4: listing(groups)}
    # Bounds count only where the order is said that they are in: that of the type.
    orders = listing([structure({1: _NOTHING})] * len(columns))
    _, content = structure({**footer, 6: binary(_MAKER), 7: orders})
    yield content + len(content).to_bytes(4, "little") + _MAGIC


def _declare(one: pa.Field[Any], *, is_nullable: bool) -> Value:
    """Describe a column for the schema."""
    kind, described = _KINDS[_value_type(one.type)]
    repetition = int32(_OPTIONAL if is_nullable else _REQUIRED)
    return structure({1: int32(kind), 3: repetition, 4: binary(one.name.encode()), **described})


def _value_type(kind: Any) -> pa.DataType:  # noqa: ANN401 - a type of whatever column
    found: pa.DataType = kind.value_type if pa.types.is_dictionary(kind) else kind
    return found


# -- what a column holds ------------------------------------------------------------------------


def _read_column(column: Any, *, is_rising: bool) -> _Column:  # noqa: ANN401 - an array of whatever type
    """See a column as codes wherever that is possible."""
    kind, _ = _KINDS[_value_type(column.type)]
    if column.null_count == len(column):
        return _Column(kind, pa.array([], _value_type(column.type)), None, _NONE, _PLAIN, None)
    valid = _valid(column) if column.null_count else None
    if pa.types.is_dictionary(column.type):
        bitmap, codes = column.indices.buffers()
        place = (codes.address, bitmap.address if bitmap and valid is not None else 0, column.offset)
        read = partial(_Column, kind, column.dictionary, _kept(_numbers(column.indices), valid), valid)
        return read(_PLAIN if kind == _BOOLEAN else _CODES, place)
    if is_rising and kind in _WIDTHS:
        return _Column(kind, column.drop_null(), None, valid, _DELTA, None)
    return _look_up(kind, column, valid)


def _valid(column: pa.Array[Any]) -> Mask:
    """Tell which rows have a value, from the column's bits."""
    bits = np.frombuffer(memoryview(column.buffers()[0] or b""), np.uint8)
    rows = slice(column.offset, column.offset + len(column))
    return np.unpackbits(bits, count=rows.stop, bitorder="little")[rows].view(bool)


def _look_up(kind: int, column: Any, valid: Mask | None) -> _Column:  # noqa: ANN401 - an array of whatever type
    """Give numbers that lie close together codes; others stay what they are."""
    plain = _Column(kind, column.drop_null(), None, valid, _PLAIN, None)
    if kind not in _WIDTHS:
        return plain
    found = number_close(_numbers(plain.values))
    if found is None:
        return plain
    codes, distinct = found
    return _Column(kind, pa.array(distinct).view(column.type), codes, valid, _CODES, None)


def _numbers(column: pa.Array[Any]) -> npt.NDArray[Any]:
    """See numbers without nulls, or with anything in their place, as numpy does; dates and times as numbers."""
    width = column.type.bit_width // 8
    kind = f"<u{width}" if pa.types.is_unsigned_integer(column.type) else f"<i{width}"
    content = column.buffers()[1]
    return np.frombuffer(memoryview(content or b""), kind)[column.offset : column.offset + len(column)]


def _kept(codes: Codes, valid: Mask | None) -> Codes:
    # Places and then values take a fifth of the time that numpy takes by a mask of which nobody knows the next.
    return codes if valid is None else codes[np.flatnonzero(valid)]


# -- what is written of it ----------------------------------------------------------------------


def _write_pages(column: _Column, group: _Group, *, is_nullable: bool) -> list[_Page]:
    """Write a column's pages: the distinct values, where there are codes, and the rows."""
    count = len(column.values)
    place = (*column.place, count, is_nullable) if column.place and column.encoding == _CODES else None
    rows = group.pages.get(place) if place else None
    if rows is None:
        rows = _data_page(column, group.rows, is_nullable=is_nullable)
        if place:
            group.pages[place] = rows
    if column.encoding != _CODES:
        return [rows]
    header = {7: structure({1: int32(count), 2: int32(_PLAIN)})}
    return [_page(_DICTIONARY_PAGE, [_plain(column.kind, column.values)], header, rows.codec), rows]


def _data_page(column: _Column, rows: int, *, is_nullable: bool) -> _Page:
    parts: list[Octets] = [_levels(column.valid, rows)] if is_nullable else []
    if column.encoding == _DELTA:
        parts += _differences(_numbers(column.values))
    elif column.codes is None:
        parts.append(_plain(column.kind, column.values))
    elif column.encoding == _CODES:
        parts += _hybrid(column.codes, len(column.values))
    else:
        parts.append(_bits(column.values, column.codes))
    header = {1: int32(rows), 2: int32(column.encoding), 3: int32(_RLE), 4: int32(_RLE)}
    codec = _choose_codec(parts, _WORTH if column.codes is None else _WORTH_OF_CODES)
    return _page(_DATA_PAGE, parts, {5: structure(header)}, codec)


def _bits(values: pa.Array[Any], codes: Codes) -> bytes:
    """Write truth values by their codes."""
    if len(values) == 1:
        return bytes([0xFF * values[0].as_py()]) * -(-len(codes) // 8)
    return np.packbits(values.to_numpy(zero_copy_only=False)[codes], bitorder="little").tobytes()


def _choose_codec(parts: Sequence[Octets], worth: float) -> int:
    """Leave what hardly gets smaller as it is: codes of addresses and ports, say."""
    largest = max(parts, key=len)
    middle = len(largest) // 2
    sample = largest[middle : middle + _SAMPLE_BYTES]
    return _ZSTD if sum(map(len, _compressed([sample]))) <= worth * len(sample) else _AS_IT_IS


def _page(kind: int, parts: Sequence[Octets], header: dict[int, Value], codec: int) -> _Page:
    packed = _compressed(parts) if codec == _ZSTD else parts
    plain, written = (sum(map(len, some)) for some in (parts, packed))
    sizes = {1: int32(kind), 2: int32(plain), 3: int32(written)}
    _, head = structure({**sizes, **header})
    return _Page([head, *packed], len(head) + plain, codec)


def _compressed(parts: Sequence[Octets]) -> list[Octets]:
    """Compress parts as one, some at a time: what comes of each is small, and takes memory that was used."""
    from backports.zstd import CompressionParameter, ZstdCompressor

    options: dict[int, int] = {
        CompressionParameter.compression_level: _LEVEL,
        CompressionParameter.window_log: _WINDOW_LOG,
        CompressionParameter.hash_log: _HASH_LOG,
    }
    compressor = ZstdCompressor(options=options)
    pieces = (part[at : at + _AT_ONCE] for part in parts for at in range(0, len(part), _AT_ONCE))
    packed = [compressor.compress(piece) for piece in pieces]
    return [*packed, compressor.flush()]


def _describe(
    name: str, column: _Column, group: _Group, pages: list[_Page], at: int, *, is_bounded: bool
) -> Value:
    """Describe a column's pages, which begin at a place of the file, for the footer."""
    first = len(pages[0]) if len(pages) > 1 else 0
    described = {
        1: int32(column.kind),
        2: listing([int32(one) for one in dict.fromkeys((_PLAIN, _RLE, column.encoding))]),
        3: listing([binary(name.encode())]),
        4: int32(pages[0].codec),
        5: int64(group.rows),
        6: int64(sum(page.plain_bytes for page in pages)),
        7: int64(sum(map(len, pages))),
        9: int64(at + first),
    }
    if first:
        described[11] = int64(at)
    if is_bounded and column.kind in _WIDTHS and len(column.values):
        lacking = 0 if column.valid is None else group.rows - int(column.valid.sum())
        numbers = _numbers(column.values)
        least, most = (binary(one.tobytes()) for one in (numbers.min(), numbers.max()))
        described[12] = structure({3: int64(lacking), 5: most, 6: least})
    return structure(described)


def _plain(kind: int, values: pa.Array[Any]) -> bytes:
    """Write values one behind the other."""
    if kind in _WIDTHS:
        return _numbers(values).tobytes()
    if kind == _DOUBLE:
        return np.asarray(values.to_numpy(zero_copy_only=False), "<f8").tobytes()
    if kind == _BOOLEAN:
        return np.packbits(values.to_numpy(zero_copy_only=False), bitorder="little").tobytes()
    return _behind_their_lengths(values.cast(pa.large_binary()))


def _behind_their_lengths(texts: Any) -> bytes:  # noqa: ANN401 - an array of bytes
    """Write texts or bytes, each behind its length; where those are the same, as a table of bytes."""
    _, places, content = texts.buffers()
    ends = np.frombuffer(memoryview(places or bytes(8)), np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends).astype("<u4")
    if len(lengths) and (lengths == lengths[0]).all():
        rows = np.empty((len(lengths), 4 + int(lengths[0])), np.uint8)
        rows[:, :4] = lengths.view(np.uint8).reshape(-1, 4)
        octets = np.frombuffer(memoryview(content or b""), np.uint8)[ends[0] : ends[-1]]
        rows[:, 4:] = octets.reshape(len(lengths), -1)
        return rows.tobytes()
    heads: Any = pa.Array.from_buffers(pa.binary(4), len(lengths), [None, pa.py_buffer(lengths.data)])
    joined: Any = pc.binary_join_element_wise(heads.cast(pa.large_binary()), texts, _BETWEEN)
    written: bytes = joined.buffers()[2].to_pybytes() if len(lengths) else b""
    return written


def _levels(valid: Mask | None, rows: int) -> bytes:
    """Say which rows have a value, behind the length of that."""
    if valid is None or not valid.any():
        written = varint(rows << 1) + bytes([valid is None])
    else:
        written = _eights(rows) + np.packbits(valid, bitorder="little").tobytes()
    return len(written).to_bytes(4, "little") + written


def _hybrid(codes: Codes, distinct: int) -> list[Octets]:
    """Write codes, behind the width of one in bits."""
    if distinct == 1:
        return [b"\1" + varint(len(codes) << 1) + b"\0"]
    octets = codes.astype(smallest_kind(distinct), copy=False)
    width = octets.itemsize
    padding = bytes(-len(codes) % 8 * width)
    return [bytes([width * 8]) + _eights(len(codes)), octets.view(np.uint8).data, padding]


def _eights(count: int) -> bytes:
    """Say how many values follow that are packed: how many times eight."""
    return varint((count + 7 >> 3) << 1 | 1)


def _differences(numbers: npt.NDArray[Any]) -> list[Octets]:
    """Write numbers as their differences, in blocks, some at a time."""
    head = varint(_BLOCK) + varint(_PARTS) + varint(len(numbers)) + zigzag(int(numbers[0]))
    pieces = cuts(len(numbers) - 1, _STEPS_AT_ONCE)
    # Where a difference does not fit, it comes round to the same number again when it is added.
    return [head, *(_blocks(np.diff(numbers[piece.start : piece.stop + 1])) for piece in pieces)]


def _blocks(steps: npt.NDArray[Any]) -> memoryview:
    """Write differences, a block's in as many whole bytes as they take.

    Blocks that take as many are written alike, less the least of all their differences: where numbers fall
    back to the beginning, one block is wide, and no other.
    """
    blocks, parts = -(-len(steps) // _BLOCK), -(-len(steps) // _PART)
    padded = np.full((blocks, _BLOCK), steps[-1])
    padded.reshape(-1)[: len(steps)] = steps
    widths = _widths(padded.max(axis=1) - padded.min(axis=1))
    written = {width: _write_blocks(padded[widths == width]) for width in np.unique(widths).tolist()}
    # Of the last block, parts without a value are left out.
    last_width = written[int(widths[-1])].shape[1] // _BLOCK
    lacking = (blocks * _PARTS - parts) * _PART * last_width
    joined = _in_order(widths, written)
    return joined[: len(joined) - lacking].data


def _write_blocks(steps: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Write blocks alike. Shape: a row of differences for each in, a row of as many bytes for each out."""
    least = steps.min()
    above = (steps - least).view(f"<u{steps.itemsize}")
    width = int(_widths(above.max()))
    begin = zigzag(int(least)) + bytes([width * 8] * _PARTS)
    rows = np.empty((len(steps), len(begin) + _BLOCK * width), np.uint8)
    rows[:, : len(begin)] = np.frombuffer(begin, np.uint8)
    rows[:, len(begin) :] = above.astype(f"<u{width}").view(np.uint8)
    return rows


def _widths(spans: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Give the whole bytes that differences up to these take; a negative one went round, and is the largest."""
    unsigned = spans.view(f"<u{spans.itemsize}")
    return np.array((1, 2, 4, 8))[np.searchsorted((1 << 8, 1 << 16, 1 << 32), unsigned, side="right")]


def _in_order(kinds: npt.NDArray[np.int64], rows: dict[int, npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Put rows of some kinds, each as long as its kind's are, in the order that the kinds are named in."""
    sizes = {kind: each.shape[1] for kind, each in rows.items()}
    if len(sizes) == 1:
        return next(iter(rows.values())).reshape(-1)
    ends = np.cumsum([sizes[kind] for kind in kinds.tolist()])
    joined = np.empty(int(ends[-1]), np.uint8)
    for kind, each in rows.items():
        whole, size = np.dtype(f"V{sizes[kind]}"), sizes[kind]
        places: Any = np.ndarray((len(joined) - size + 1,), whole, joined, strides=(1,))
        places[ends[kinds == kind] - size] = each.view(whole).ravel()
    return joined
