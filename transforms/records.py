"""From the bytes of a delivery to its records, each with its exact bytes and its place.

A delivery is JSON lines or one JSON array, plain or in gzip or zstd, told apart by content and
never by name; its records may be queue messages around the real ones. What cannot be read is
not dropped: `Damage` carries the rest of the bytes and the reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, BinaryIO, NamedTuple

import msgspec
import numpy as np

from transforms.errors import UnreadableError
from transforms.streams import MAX_DELIVERY_BYTES, MAX_REST_BYTES, plain_blocks
from transforms.streams import Damage as Damage  # readers of records need it by this place

# What is cut into records at once; small enough to stay near the processor meanwhile.
BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20
# The first moment that Python's dates have no name for: the year 10000.
_NO_TIME_MS = 253_402_300_800_000

_BLANK = b" \t\r\n"
_IS_BLANK = np.isin(np.arange(256), list(_BLANK))
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """A run of records of one delivery: exact bytes, and the offset of each in the plain text."""

    first: int
    payloads: list[bytes]
    offsets: Sequence[int]
    damage: Damage | None = None


@dataclass
class _Cursor:
    """How far the plain text has been cut into records."""

    number: int = 0
    offset: int = 0
    buffer: bytes = b""


def read_records(stream: BinaryIO, max_bytes: int = MAX_DELIVERY_BYTES) -> Iterator[Piece]:
    """Read a delivery piece by piece; memory is bounded by a block and the largest record.

    The pieces hold the longest good beginning; the last may carry a `Damage`. Nothing is raised
    for bad content.
    """
    blocks = plain_blocks(stream, max_bytes, BLOCK_BYTES)
    head, reason = _first_text(blocks)
    if reason is not None:
        yield Piece(0, [], [], Damage(reason, 0, None))
    elif not head.strip(_BLANK):
        yield Piece(0, [], [], Damage("the file is empty", 0, None))
    elif head.lstrip(_BLANK).startswith(b"["):
        yield from _array_pieces(head, blocks)
    elif head.lstrip(_BLANK).startswith(b"{"):
        yield from _line_pieces(head, blocks)
    else:
        yield Piece(0, [], [], Damage("neither JSON lines nor a JSON array", 0, None))


def _first_text(blocks: Iterator[bytes]) -> tuple[bytes, str | None]:
    head = b""
    try:
        for block in blocks:
            head += block
            text = head.removeprefix(_BOM).strip(_BLANK)
            if (text and not _BOM.startswith(head)) or len(head) > MAX_RECORD_BYTES:
                break
    except UnreadableError as error:
        return head, str(error)
    # A byte order mark is no part of JSON (RFC 8259 section 8.1); blanks keep the offsets right.
    return (b" " * 3 + head[3:] if head.startswith(_BOM) else head), None


def _line_pieces(head: bytes, blocks: Iterator[bytes]) -> Iterator[Piece]:
    """Cut JSON lines: a record a line, blank lines passed over."""
    cursor = _Cursor(buffer=head)
    try:
        while True:
            cut = cursor.buffer.rfind(b"\n") + 1
            if cut:
                yield _cut_lines(cursor, cut)
            if len(cursor.buffer) > MAX_RECORD_BYTES:
                yield _stop(cursor, f"a record of more than {MAX_RECORD_BYTES} bytes", blocks)
                return
            cursor.buffer += next(blocks)
    except StopIteration:
        if cursor.buffer.strip(_BLANK):
            cursor.buffer += b"\n"  # the last line may go without
            yield _cut_lines(cursor, len(cursor.buffer))
    except UnreadableError as error:
        yield Piece(cursor.number, [], [], Damage(str(error), cursor.offset, None))


def _cut_lines(cursor: _Cursor, cut: int) -> Piece:
    """Cut whole lines off the buffer; only where blanks surround a record is each looked at."""
    octets = np.frombuffer(cursor.buffer, np.uint8, cut)
    *lines, rest = cursor.buffer.split(b"\n")
    ends = np.flatnonzero(octets == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    offsets = array("q", (starts + cursor.offset).tobytes())
    # An empty line begins with the blank that ends it.
    if (_IS_BLANK[octets[starts]] | _IS_BLANK[octets[ends - 1]]).any():
        kept = [_stripped(line, at) for line, at in zip(lines, offsets, strict=True)]
        lines, offsets = [line for line, _ in kept if line], array("q", [at for line, at in kept if line])
    piece = Piece(cursor.number, lines, offsets)
    cursor.number += len(lines)
    cursor.offset += cut
    cursor.buffer = rest
    return piece


def _stripped(text: bytes, at: int) -> tuple[bytes, int]:
    """Take the blanks off a record; give where it begins without them."""
    begun = text.lstrip(_BLANK)
    return begun.rstrip(_BLANK), at + len(text) - len(begun)


def _stop(cursor: _Cursor, reason: str, blocks: Iterable[bytes]) -> Piece:
    """End reading here and keep all the bytes that follow; if they are too many, the file as it came."""
    rest, size = [cursor.buffer], len(cursor.buffer)
    for block in blocks:
        size += len(block)
        if size <= MAX_REST_BYTES:
            rest.append(block)
    kept = b"".join(rest) if size <= MAX_REST_BYTES else None
    return Piece(cursor.number, [], [], Damage(reason, cursor.offset, kept))


def _array_pieces(head: bytes, blocks: Iterator[bytes]) -> Iterator[Piece]:
    """Cut one JSON array into its elements without parsing them."""
    opening = head.index(b"[") + 1
    cursor = _Cursor(offset=opening, buffer=head[opening:])
    try:
        while True:
            ends, closed = _element_ends(cursor.buffer)
            if ends.size or closed is not None:
                yield _cut_elements(cursor, ends, closed)
            if closed is not None:
                yield from _after_array(cursor, blocks)
                return
            if len(cursor.buffer) > MAX_RECORD_BYTES:
                yield _stop(cursor, f"a record of more than {MAX_RECORD_BYTES} bytes", blocks)
                return
            cursor.buffer += next(blocks)
    except StopIteration:
        yield _stop(cursor, "the JSON array does not end", ())
    except UnreadableError as error:
        yield Piece(cursor.number, [], [], Damage(str(error), cursor.offset, None))


_STRUCTURAL = np.zeros(256, dtype=np.int8)
_STRUCTURAL[[ord("{"), ord("[")]] = 1
_STRUCTURAL[[ord("}"), ord("]")]] = -1
_STRUCTURAL[ord(",")] = 2
_STRUCTURAL[ord('"')] = 3


def _element_ends(buffer: bytes) -> tuple[np.ndarray, int | None]:
    """Find the commas between elements, and the bracket that closes the array.

    The buffer begins between two elements. Quotes count only when no backslash escapes them;
    brackets and commas only outside strings; that is all of JSON's structure that is needed.
    """
    octets = np.frombuffer(buffer, np.uint8)
    kinds = _STRUCTURAL[octets]
    at = np.flatnonzero(kinds)
    kinds = kinds[at]
    quote = kinds == 3
    if b"\\" in buffer:
        escaped = _escaped(octets, at[quote])
        quote[np.flatnonzero(quote)[escaped]] = False
        kinds = np.where((kinds == 3) & ~quote, 0, kinds)
    outside = (np.cumsum(quote) & 1) == 0
    depth = np.cumsum(np.where(outside & (np.abs(kinds) == 1), kinds, 0))
    closing = np.flatnonzero(outside & (depth < 0))
    commas = at[outside & (kinds == 2) & (depth == 0)]
    if not closing.size:
        return commas, None
    closed = int(at[closing[0]])
    # A brace closes no array: what stands before the last comma is good, and the array does not end.
    return commas[commas < closed], closed if octets[closed] == ord("]") else None


def _escaped(octets: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    """Tell which quotes stand behind an odd number of backslashes."""
    backslash = np.flatnonzero(octets == ord("\\"))
    breaks = np.flatnonzero(np.diff(backslash, prepend=-2) != 1)
    run_start = np.repeat(backslash[breaks], np.diff(breaks, append=backslash.size))
    last = np.searchsorted(backslash, quotes) - 1
    behind = (last >= 0) & (backslash[last] == quotes - 1)
    return np.asarray(behind & ((quotes - run_start[last]) % 2 == 1))


def _cut_elements(cursor: _Cursor, ends: np.ndarray, closed: int | None) -> Piece:
    stops = [*ends.tolist(), *([closed] if closed is not None else [])]
    starts = [0, *(stop + 1 for stop in stops)]
    buffer = cursor.buffer
    spans = [_stripped(buffer[a:b], a) for a, b in zip(starts, stops, strict=False)]
    if closed is not None and not spans[-1][0] and cursor.number + len(spans) == 1:
        spans = []  # `[]` has no element; `[1,]` has an empty one, which will be refused as a record
    payloads = [payload for payload, _ in spans]
    piece = Piece(cursor.number, payloads, [cursor.offset + at for _, at in spans])
    cursor.number += len(payloads)
    cursor.offset += starts[-1]
    cursor.buffer = buffer[starts[-1] :]
    return piece


def _after_array(cursor: _Cursor, blocks: Iterable[bytes]) -> Iterator[Piece]:
    piece = _stop(cursor, "text after the end of the JSON array", blocks)
    if piece.damage is not None and (piece.damage.rest is None or piece.damage.rest.strip(_BLANK)):
        yield piece


class _Message(msgspec.Struct, rename="pascal", gc=False):
    """What a queue wraps around a record (Amazon SQS, ReceiveMessage), and what our receiver adds."""

    message_id: str
    body: str
    received_at: Annotated[int, msgspec.Meta(ge=0, lt=_NO_TIME_MS)] | None = None
    fault: str | None = None


class OpenedMessage(NamedTuple):
    """A queue message taken apart. Units: `received_ms` since 1970; None where no receiver of ours wrote it.

    `fault` is what the receiver found wrong with it.
    """

    id: str
    body: bytes
    received_ms: int | None
    fault: str | None


_decode_message = msgspec.json.Decoder(_Message).decode


def is_message(payload: bytes) -> bool:
    """Whether a record is a queue message with the real record in its body."""
    try:
        _decode_message(payload)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def open_message(payload: bytes) -> OpenedMessage:
    """Give a queue message's id and body, and when the queue handed it out.

    Raises: msgspec.ValidationError where it is no queue message.
    """
    message = _decode_message(payload)
    return OpenedMessage(message.message_id, message.body.encode(), message.received_at, message.fault)
