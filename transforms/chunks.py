"""Chunks: the records of a batch that are sealed, masked and committed at once.

A chunk is cut by the size of its plain bytes, over the borders of files, so that a thousand small
files make one commit and one huge file makes several. The same files give the same chunks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from transforms.notifications import FAULT_REASONS
from transforms.records import Damage, Piece, is_message, open_message

# As many records as are sealed at once.
_LOOKED_UP = 512


@dataclass(frozen=True)
class Fault:
    """Bytes that are not accepted: where they stood, and why. `content` None stands for the whole file."""

    file: int
    record: int
    offset: int
    reason: str
    content: bytes | None


def _numbers() -> array[int]:
    """Give an array without a Python object for each number."""
    return array("q")


@dataclass
class Chunk:
    """Records with their places. Shape: the lists run in parallel, an entry for each record.

    `names` maps the records that came in queue messages, by their index, to the messages' ids, and
    `received_ms` to when the queue handed them out, where that is known. `refused` gives the reason
    for those with which the receiver found something wrong.
    """

    number: int
    payloads: list[bytes] = field(default_factory=list)
    files: array[int] = field(default_factory=_numbers)
    records: array[int] = field(default_factory=_numbers)
    offsets: array[int] = field(default_factory=_numbers)
    names: dict[int, str] = field(default_factory=dict)
    received_ms: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.payloads and not self.faults

    def payloads_in(self, rows: npt.NDArray[np.int64]) -> Iterator[bytes]:
        """Give payloads by their numbers, some at a time: none is looked at long before it is used."""
        # numpy looks objects up in half of the time that a list takes.
        each = np.fromiter(self.payloads, object, len(self.payloads))
        for start in range(0, len(rows), _LOOKED_UP):
            yield from each.take(rows[start : start + _LOOKED_UP]).tolist()

    def faults_of(self, rejected: Mapping[int, str]) -> Iterator[Fault]:
        """Give the faults of records that were rejected, by their index, each with the reason."""
        for row, reason in sorted(rejected.items()):
            yield Fault(self.files[row], self.records[row], self.offsets[row], reason, self.payloads[row])


def cut_chunks(pieces: Iterable[tuple[int, Piece]], chunk_bytes: int) -> Iterator[Chunk]:
    """Cut the pieces of a batch's files (number, piece) into chunks."""
    chunk = Chunk(0)
    in_messages: dict[int, bool] = {}
    for file, piece in pieces:
        if piece.payloads and file not in in_messages:
            in_messages[file] = is_message(piece.payloads[0])
        _add(chunk, file, piece, in_messages.get(file, False))
        if chunk.size_bytes >= chunk_bytes:
            yield chunk
            chunk = Chunk(chunk.number + 1)
    if not chunk.is_empty:
        yield chunk


def _add(chunk: Chunk, file: int, piece: Piece, in_messages: bool) -> None:
    numbers = range(piece.first, piece.first + len(piece.payloads))
    if in_messages:
        for number, offset, payload in zip(numbers, piece.offsets, piece.payloads, strict=True):
            _add_message(chunk, file, number, offset, payload)
    else:
        chunk.payloads += piece.payloads
        chunk.files.extend(array("q", [file]) * len(numbers))
        chunk.records.frombytes(np.arange(numbers.start, numbers.stop).tobytes())
        chunk.offsets.extend(piece.offsets)
    chunk.size_bytes += sum(map(len, piece.payloads))
    if piece.damage is not None:
        _add_damage(chunk, file, piece.first + len(piece.payloads), piece.damage)


def _add_message(chunk: Chunk, file: int, number: int, offset: int, payload: bytes) -> None:
    try:
        message = open_message(payload)
    except (ValueError, RecursionError):
        chunk.faults.append(
            Fault(file, number, offset, "not a queue message, unlike the first of its file", payload)
        )
        return
    chunk.names[len(chunk.payloads)] = message.id
    if message.received_ms is not None:
        chunk.received_ms[len(chunk.payloads)] = message.received_ms
    if message.fault in FAULT_REASONS:
        # A reason is one of ours: a dropped file must not write its own into a table.
        chunk.refused[len(chunk.payloads)] = FAULT_REASONS[message.fault]
    chunk.payloads.append(message.body)
    chunk.files.append(file)
    chunk.records.append(number)
    chunk.offsets.append(offset)


def _add_damage(chunk: Chunk, file: int, record: int, damage: Damage) -> None:
    chunk.faults.append(Fault(file, record, damage.offset, damage.reason, damage.rest))
    chunk.size_bytes += len(damage.rest or b"")
