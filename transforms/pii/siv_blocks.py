"""What `siv.py` is built from: columns as bytes, AES-SIV over rows of blocks, and columns again.

In: `chunks` gives a column as runs of bytes with their offsets, some tens of thousands of rows at a
time. Out: `ViewColumn` points into whatever buffers the rows were written to (Arrow string views),
so nothing is compacted and rows of different widths mix freely.

Between them stands `Siv`, RFC 5297 taken apart so that no step looks at single values: numpy moves
bytes, and one ECB call a step enciphers them for every row. A value of L bytes has
n = max(1, ceil(L / 16)) blocks, of which the last holds `rest` = L - 16 (n - 1) bytes: the only thing
in which rows of one block count differ. Whatever depends on it (mask, padding, the place of the
column constant D, the subkey of CMAC) stands in a table of 17 rows of 16 bytes, one for each `rest`,
so a step is one table look-up and one exclusive-or over the whole column.

"Blocks" are one-dimensional, contiguous arrays of dtype V16: numpy copies those 16 bytes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from transforms.coding import to_arrow
from transforms.errors import DecryptionError, UsageError
from transforms.pii.ciphers import BlockEncryptor, block_encryptor

BLOCK_BYTES = 16

# What a step touches should stay in the second-level cache: fresh pages cost more than AES.
CHUNK_ROWS = 1 << 14
CHUNK_BYTES = 1 << 22
SCAN_ROWS = 1 << 19
# Offsets in a view have 31 bits; far below that, a buffer of long values is closed.
BUFFER_BYTES = 1 << 24
INLINE_BYTES = 12

Blocks: TypeAlias = npt.NDArray[np.void]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.intp]
Words: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = slice | Ints

_ALL_BITS = (1 << 128) - 1
# S2V clears the top bit of two 32-bit words of V before it counts on from there: both lie in the
# second half of the block, and without them the counter can be added to the last word alone.
_COUNTER_MASK = np.frombuffer(b"\x7f\xff\xff\xff\x7f\xff\xff\xff", dtype=np.uint64)[0]


def double(block: int) -> int:
    """Double in GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1 (RFC 5297, 2.3).

    >>> hex(double(1 << 127))
    '0x87'
    """
    return ((block << 1) & _ALL_BITS) ^ (0x87 if block >> 127 else 0)


def strided(buffer: Any, offset: int, width: int, stride: int, count: int) -> Blocks:  # noqa: ANN401
    """View `width` bytes in each of `count` rows that lie `stride` bytes apart; copies nothing."""
    return np.ndarray((count,), dtype=f"V{width}", buffer=buffer, offset=offset, strides=(stride,))


def windows(text: Bytes, width: int) -> Blocks:
    """View the `width` bytes that begin at every single byte of `text`; copies nothing.

    Index it, never `take` from it: `take` would first write out the overlapping windows one by one.
    """
    return strided(text, 0, width, 1, len(text) - width + 1)


def _table(rows: list[int]) -> Blocks:
    return np.frombuffer(b"".join(row.to_bytes(BLOCK_BYTES, "big") for row in rows), dtype="V16")


def _xor(blocks: Blocks, others: Blocks) -> Blocks:
    words = np.bitwise_xor(blocks.view(np.uint64), others.view(np.uint64))
    return words.view("V16")


def _xor_into(blocks: Blocks, others: Blocks) -> None:
    words = blocks.view(np.uint64)
    np.bitwise_xor(words, others.view(np.uint64), out=words)


def _ecb(encryptor: BlockEncryptor, blocks: Blocks) -> Blocks:
    # One block more than needed: the library insists on 15 spare bytes behind its output.
    out = np.empty(len(blocks) + 1, dtype="V16")
    encryptor.update_into(blocks.view(np.uint8).data, out.view(np.uint8).data)
    return out[:-1]


_MASK = _table([_ALL_BITS ^ (_ALL_BITS >> 8 * rest) for rest in range(17)])


def masks(rest: Ints) -> Blocks:
    """Give, for each row, the block that keeps its first `rest` bytes and zeroes the others."""
    return _MASK.take(rest)


def mask_blocks(blocks: Blocks, kept: Blocks) -> None:
    """Zero, in place, what `masks` says."""
    words = blocks.view(np.uint64)
    np.bitwise_and(words, kept.view(np.uint64), out=words)


class Siv:
    """AES-SIV with one key and one list of associated data, over rows of one block count.

    Source: RFC 5297; CMAC is RFC 4493. Not for two threads at once: make one for each.
    """

    def __init__(self, key: bytes, associated: tuple[bytes, ...]) -> None:
        """Take the key apart and set up the tables.

        Units: `key` of 32, 48 or 64 bytes; the first half authenticates, the second enciphers.
        """
        half = len(key) // 2
        self._authenticator = block_encryptor(key[:half])
        self._encipherer = block_encryptor(key[half:])
        self._subkey = double(self._authenticate_block(0))
        constant = self._cmac(bytes(BLOCK_BYTES))
        for text in associated:
            constant = double(constant) ^ self._cmac(text)
        self._set_tables(constant)

    def _set_tables(self, constant: int) -> None:
        """Write out what the last two blocks are combined with, for each `rest`."""
        subkey, padded_subkey = self._subkey, double(self._subkey)
        padding = [0x80 << 8 * (15 - rest) for rest in range(16)]
        # One block only: S2V either doubles D and pads, or (full block) takes D as it is; the result
        # is one full block for CMAC in both cases, so its first subkey.
        self._only = _table([double(constant) ^ pad ^ subkey for pad in padding] + [constant ^ subkey])
        # Several: D lies over the last 16 bytes, hence over two blocks unless the last is full.
        self._last_but_one = _table([constant >> 8 * rest for rest in range(17)])
        spilled = [constant << 8 * (16 - rest) & _ALL_BITS for rest in range(17)]
        ends = [pad ^ padded_subkey for pad in padding] + [subkey]
        self._last = _table([spill ^ end for spill, end in zip(spilled, ends, strict=True)])

    def _authenticate_block(self, block: int) -> int:
        out = bytearray(2 * BLOCK_BYTES)
        self._authenticator.update_into(block.to_bytes(BLOCK_BYTES, "big"), out)
        return int.from_bytes(out[:BLOCK_BYTES], "big")

    def _cmac(self, text: bytes) -> int:
        """Authenticate one associated-data string (RFC 4493, 2.4)."""
        whole = bool(text) and len(text) % BLOCK_BYTES == 0
        padded = text if whole else text + b"\x80" + bytes(-(len(text) + 1) % BLOCK_BYTES)
        blocks = [int.from_bytes(padded[at : at + 16], "big") for at in range(0, len(padded), 16)]
        blocks[-1] ^= self._subkey if whole else double(self._subkey)
        chain = 0
        for block in blocks:
            chain = self._authenticate_block(chain ^ block)
        return chain

    def authenticate(self, plain: list[Blocks], rest: Ints) -> Blocks:
        """Give V of each value: S2V over the associated data and the value.

        Shape: `plain[j]` holds block j of every value, the last one masked by `mask_blocks`.
        """
        if len(plain) == 1:
            return _ecb(self._authenticator, _xor(plain[0], self._only.take(rest)))
        chain: Blocks | None = None
        for place, block in enumerate(plain, start=1 - len(plain)):
            block = block.copy() if chain is None else _xor(chain, block)
            if place >= -1:
                _xor_into(block, (self._last if place == 0 else self._last_but_one).take(rest))
            chain = _ecb(self._authenticator, block)
        assert chain is not None  # noqa: S101 - for the type checker: there is at least one block
        return chain

    def encipher(self, vectors: Blocks, plain: list[Blocks], kept: Blocks) -> list[Blocks]:
        """Encipher, or decipher (it is the same), the blocks of each value in counter mode from V."""
        count = len(vectors)
        counters = np.empty((len(plain), count), dtype="V16")
        halves = counters[0].view(np.uint64)[1::2]
        counters[0] = vectors
        np.bitwise_and(halves, _COUNTER_MASK, out=halves)
        if len(plain) > 1:
            counters[1:] = counters[0]
            words = counters.view(">u4")[:, 3::4]
            start = words[0].astype(np.uint32)
            for place in range(1, len(plain)):
                words[place] = start + np.uint32(place)
        stream = _ecb(self._encipherer, counters.reshape(-1)).reshape(len(plain), count)
        for place, block in enumerate(plain):
            _xor_into(stream[place], block)
        mask_blocks(stream[-1], kept)
        return list(stream)


@dataclass(frozen=True)
class Chunk:
    """A run of values of a column, none of them null.

    Shape: value i is `text[starts[i] : starts[i] + lengths[i]]`; `rows` says where in the column the
    values stand. Behind the last value `text` has slack, so that a window may reach beyond it.
    """

    rows: Rows
    text: bytearray
    starts: Ints
    lengths: Ints

    def part(self, picked: Ints) -> Chunk:
        """Take some of the values."""
        rows = picked + self.rows.start if isinstance(self.rows, slice) else self.rows[picked]
        return Chunk(rows, self.text, self.starts[picked], self.lengths[picked])

    def windows(self, width: int) -> Blocks:
        """Copy out the `width` bytes that begin where each value begins, whatever its length."""
        return windows(np.frombuffer(self.text, dtype=np.uint8), width)[self.starts]


def chunks(values: pl.Series, slack: int, fill: bytes = b"\0") -> Iterator[Chunk]:
    """Cut a column into chunks that bound the memory of every later step; nulls are left out.

    Raises: UsageError for a column that is neither String nor Binary.
    """
    if values.dtype not in (pl.String, pl.Binary):
        raise UsageError(f"column {values.name!r} is {values.dtype}; tokens are made of String or Binary")
    for scanned in range(0, len(values), SCAN_ROWS):
        for start, piece in _bounded(scanned, values.slice(scanned, SCAN_ROWS)):
            rows: Rows = slice(start, start + len(piece))
            if piece.null_count():
                rows = np.flatnonzero(piece.is_not_null().to_numpy()) + start
                piece = piece.drop_nulls()
            if len(piece):
                yield _chunk(rows, piece, slack, fill)


def _bounded(start: int, values: pl.Series) -> Iterator[tuple[int, pl.Series]]:
    """Halve where values are long; a single long value is left whole."""
    if len(values) > 1 and _size_bytes(values) > CHUNK_BYTES:
        half = len(values) // 2
        yield from _bounded(start, values.slice(0, half))
        yield from _bounded(start + half, values.slice(half))
        return
    for at in range(0, len(values), CHUNK_ROWS):
        yield start + at, values.slice(at, CHUNK_ROWS)


def _size_bytes(values: pl.Series) -> int:
    """Add up the lengths where they stand, in the column's own views."""
    views = values.to_arrow(compat_level=pl.CompatLevel.newest())
    buffers: list[Any] = views.buffers()
    lengths = np.frombuffer(buffers[1], dtype="<u4")[4 * views.offset :: 4][: len(values)]
    return int(lengths.sum(dtype=np.int64))


def _chunk(rows: Rows, values: pl.Series, slack: int, fill: bytes) -> Chunk:
    arrow = to_arrow(values)
    buffers: list[Any] = arrow.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[arrow.offset :][: len(values) + 1]
    first, behind = int(offsets[0]), int(offsets[-1])
    # In one piece: a buffer that is filled first, then written over, is written twice.
    held = memoryview(buffers[2])[first:behind] if behind > first else b""
    text = bytearray().join((held, fill * slack))
    return Chunk(rows, text, (offsets[:-1] - first).astype(np.intp, copy=False), np.diff(offsets))


class ViewColumn:
    """A column under construction: 16-byte Arrow views into buffers of any layout.

    Source: the Arrow columnar format, "Variable-size Binary View Layout": length, first 4 bytes,
    buffer number, offset; values of up to 12 bytes stand in the view itself.
    """

    def __init__(self, values: pl.Series) -> None:
        """Prepare as many rows as `values` has, with its name and its nulls."""
        self._name, self._rows = values.name, len(values)
        self._views = np.zeros((len(values), 2), dtype="<u8")
        self._buffers: list[pa.Buffer] = []
        self._validity = _validity(values) if values.null_count() else None

    def add_rows(self, rows: Rows, heads: Words, buffer: Any, stride: int) -> None:  # noqa: ANN401
        """Point at values of more than 12 bytes that begin `stride` bytes apart in `buffer`."""
        self._views[rows, 0] = heads
        self._views[rows, 1] = self._places(buffer, stride, len(heads))

    def _places(self, buffer: Any, stride: int, count: int) -> Words:  # noqa: ANN401
        number = len(self._buffers)
        self._buffers.append(pa.py_buffer(buffer))
        return np.arange(number, number + (count * stride << 32), stride << 32, dtype=np.uint64)

    def add_blocks(self, rows: Rows, lengths: Ints, blocks: list[Blocks]) -> None:
        """Take over values given as blocks, the last one masked."""
        count, width = len(lengths), len(blocks) * BLOCK_BYTES
        matrix = np.empty((count, len(blocks)), dtype="V16")
        for place, block in enumerate(blocks):
            matrix[:, place] = block
        firsts = np.ndarray((count,), dtype="<u4", buffer=matrix, strides=(width,))
        places = self._places(matrix.view(np.uint8), width, count)
        if len(blocks) == 1:
            inline = np.ndarray((count,), dtype="<u8", buffer=matrix, offset=4, strides=(width,))
            places = np.where(lengths <= INLINE_BYTES, inline, places)
        self._views[rows, 0] = lengths.astype(np.uint64) | firsts.astype(np.uint64) << np.uint64(32)
        self._views[rows, 1] = places

    def add_each(self, rows: Rows, values: Sequence[bytes]) -> None:
        """Take over values that come one by one."""
        numbers = range(rows.start, rows.stop) if isinstance(rows, slice) else rows
        held: list[bytes] = []
        size = 0
        for row, value in zip(numbers, values, strict=True):
            if size + len(value) > BUFFER_BYTES:
                self._close(held)
                held, size = [], 0
            head = len(value) | int.from_bytes(value[:4], "little") << 32
            if len(value) <= INLINE_BYTES:
                self._views[row] = head, int.from_bytes(value[4:], "little")
                continue
            self._views[row] = head, len(self._buffers) | size << 32
            held.append(value)
            size += len(value)
        self._close(held)

    def _close(self, held: list[bytes]) -> None:
        self._buffers.append(pa.py_buffer(b"".join(held)))

    def to_series(self, text: bool, verify: bool = False) -> pl.Series:
        """Give the column, as String or Binary; `verify` where its bytes may not be UTF-8.

        Raises: DecryptionError where they are not.
        """
        kind = pa.string_view() if text and not verify else pa.binary_view()
        buffers = [self._validity, pa.py_buffer(self._views.data), *self._buffers]
        series = pl.Series(self._name, pa.Array.from_buffers(kind, self._rows, buffers))
        if not text or not verify:
            return series
        try:
            return series.cast(pl.String)
        except pl.exceptions.ComputeError:
            raise DecryptionError(f"column {self._name!r}") from None


def _validity(values: pl.Series) -> pa.Buffer:
    """Write out which rows are not null: one bit each, the lowest first."""
    bits = [
        np.packbits(values.slice(at, SCAN_ROWS).is_not_null().to_numpy(), bitorder="little")
        for at in range(0, len(values), SCAN_ROWS)
    ]
    return pa.py_buffer(np.concatenate(bits).data)
