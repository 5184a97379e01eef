"""What becomes of each record of a small body: held against its contract, before anything is kept."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass

from transforms.chunks import Chunk, cut_chunks
from transforms.parsing import parse_records
from transforms.pii.contracts import Contract
from transforms.records import read_records

ACCEPTED, QUARANTINED = "accepted", "quarantined"


@dataclass(frozen=True)
class Verdict:
    """A record's fate: `index` counts from 0 as the records stand in the body; the reason names no value."""

    index: int
    result: str
    reason: str | None = None


def judge_records(content: bytes, contract: Contract, most: int) -> list[Verdict] | None:
    """Say which records of a delivery fit their contract; None where there are more than `most`.

    The same cutting and checking as on the way to the lake, so the same verdicts. Only the lake knows whether
    a record came before, or is of somebody who was erased.
    """
    pieces = ((0, piece) for piece in read_records(io.BytesIO(content)))
    chunk = next(cut_chunks(pieces, sys.maxsize), Chunk(0))
    if len(chunk.payloads) + len(chunk.faults) > most:
        return None
    rejected = parse_records(chunk.payloads, contract).rejected
    found = [
        Verdict(record, QUARANTINED, rejected[row]) if row in rejected else Verdict(record, ACCEPTED)
        for row, record in enumerate(chunk.records)
    ]
    found += [Verdict(fault.record, QUARANTINED, fault.reason) for fault in chunk.faults]
    return sorted(found, key=lambda one: one.index)
