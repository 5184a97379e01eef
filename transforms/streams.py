"""The plain bytes of a delivery, whatever compression is around them, in bounded steps.

gzip (any number of members) and zstd are told apart by their first bytes, never by a name. `Damage`
says where reading had to stop, for every kind of delivery.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from transforms.errors import UnreadableError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# How much is expanded at once; small enough to stay near the processor meanwhile.
BLOCK_BYTES = 1 << 20
# What cannot be read is kept by itself up to here, beyond as the file that it came in.
MAX_REST_BYTES = 64 << 20
# A delivery may be 500 MB; text compresses tenfold and more. Beyond this it is taken for a bomb.
MAX_DELIVERY_BYTES = 16 << 30

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_PIECE_BYTES = 1 << 15
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Damage:
    """Where reading had to stop, why, and the bytes from there on.

    `rest` is None where the container itself (gzip, zstd) is damaged, or where there is too much of
    it: then the file's own bytes are what has to be kept.
    """

    reason: str
    offset: int
    rest: bytes | None


def plain_blocks(
    stream: BinaryIO, max_bytes: int = MAX_DELIVERY_BYTES, block_bytes: int = BLOCK_BYTES
) -> Iterator[bytes]:
    """Give the plain bytes of a seekable stream, in blocks that are not empty.

    Raises: UnreadableError where the compression is damaged or ends early, or where it expands to
    more than `max_bytes`; every block before that was good.
    """
    magic = stream.read(4)
    stream.seek(0)
    if magic.startswith(_GZIP_MAGIC):
        blocks = _gzip_blocks(stream, block_bytes)
    elif magic == _ZSTD_MAGIC:
        blocks = _zstd_blocks(stream, block_bytes)
    else:
        blocks = iter(lambda: stream.read(block_bytes), b"")
    total = 0
    for block in blocks:
        total += len(block)
        if total > max_bytes:
            raise UnreadableError(f"expands to more than {max_bytes} bytes")
        yield block


def is_compressed(content: ReadableBuffer) -> bool:
    """Whether bytes begin as gzip (RFC 1952 section 2.3.1) or zstd (RFC 8878 section 3.1.1) does."""
    magic = bytes(memoryview(content)[:4])
    return magic.startswith(_GZIP_MAGIC) or magic == _ZSTD_MAGIC


def _gzip_blocks(stream: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    """Inflate a gzip file of any number of members (RFC 1952 section 2.2), in bounded steps."""
    inflater, tail = zlib.decompressobj(wbits=31), b""
    fresh = True
    while chunk := tail or stream.read(1 << 16):
        fresh = False
        try:
            block = inflater.decompress(chunk, block_bytes)
        except zlib.error as error:
            raise UnreadableError("damaged gzip") from error
        tail = inflater.unconsumed_tail
        if inflater.eof:
            tail = inflater.unused_data or stream.read(1 << 16)
            inflater, fresh = zlib.decompressobj(wbits=31), True
        if block:
            yield block
    if not fresh:
        raise UnreadableError("truncated gzip")


def _zstd_blocks(stream: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    import pyarrow as pa

    pieces: list[bytes] = []
    try:
        with pa.CompressedInputStream(pa.PythonFile(cast("io.IOBase", stream), mode="r"), "zstd") as plain:
            # What is asked for at once is lost where the damage is in it.
            while piece := plain.read(min(block_bytes, _ZSTD_PIECE_BYTES)):
                pieces.append(piece)
                if sum(map(len, pieces)) >= block_bytes:
                    yield b"".join(pieces)
                    pieces.clear()
    except OSError as error:
        if pieces:
            yield b"".join(pieces)
        raise UnreadableError("damaged or truncated zstd") from error
    if pieces:
        yield b"".join(pieces)


class _BufferStream(io.RawIOBase):
    """A stream over bytes that are in memory or mapped already, without a copy of the whole."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = (0, self._at, len(self._content))[whence]
        self._at = origin + offset
        return self._at

    def readinto(self, target: WriteableBuffer, /) -> int:
        taken = self._content[self._at : self._at + memoryview(target).nbytes]
        memoryview(target)[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)


class PlainBytes:
    """The plain bytes of a delivery, looked at through a window that only moves on.

    A mapped file is looked at in place; of a compressed one no more is expanded than the window
    needs. `failure` says why the compression ended early, None where it did not.
    """

    def __init__(self, content: ReadableBuffer, max_bytes: int = MAX_DELIVERY_BYTES) -> None:
        """Take bytes, or a map of a file; nothing is read yet."""
        whole = memoryview(content).cast("B")
        self.offset = 0
        self.failure: str | None = None
        self._held = np.empty(0, np.uint8)
        self._blocks: Iterator[bytes] | None = None
        if is_compressed(whole):
            stream = cast("BinaryIO", _BufferStream(whole))
            self._blocks = plain_blocks(stream, max_bytes)
        elif len(whole):
            self._held = np.frombuffer(whole, np.uint8)
        self.is_expanded = self._blocks is not None

    def window(self, size: int) -> NDArray[np.uint8]:
        """Give so many bytes from `offset` on, fewer only where the plain bytes end."""
        if self._blocks is not None and len(self._held) < size:
            self._expand(size)
        return self._held[:size]

    def _expand(self, size: int) -> None:
        blocks, total = [self._held.tobytes()], len(self._held)
        while total < size and (block := self._next_block()) is not None:
            blocks.append(block)
            total += len(block)
        self._held = np.frombuffer(b"".join(blocks), np.uint8)

    def _next_block(self) -> bytes | None:
        if self._blocks is None:
            return None
        try:
            return next(self._blocks)
        except StopIteration:
            self._blocks = None
        except UnreadableError as error:
            self._blocks, self.failure = None, str(error)
        return None

    def ends_after(self, size: int) -> bool:
        """Whether there is nothing behind the window of this size."""
        return len(self.window(size + 1)) <= size

    def advance(self, count: int) -> None:
        """Move the window on, within what it showed."""
        self._held = self._held[count:]
        self.offset += count

    def stop(self, reason: str) -> Damage:
        """End reading here: give the damage with all the bytes that follow, where they can be had."""
        rest = self.window(MAX_REST_BYTES + 1)
        is_kept = self.failure is None and len(rest) <= MAX_REST_BYTES
        return Damage(reason, self.offset, rest.tobytes() if is_kept else None)
