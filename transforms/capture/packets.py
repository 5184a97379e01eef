"""Packets in normal form: what every capture format is read into, stored as, and written from.

A record is the header below and the captured bytes; records stand back to back. It is the record of
a little-endian classic capture file, so that such a file is stored and exported without a rewrite.

    seconds 4 | fraction 4 | captured length 4 | original length 4 | captured bytes

Times are kept as written: a fraction may be a second or more, in units of the interface's. What the
32 bits of seconds cannot hold is the era, the number of 2**32 seconds that come on top, the same for
all packets of one `Packets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 16
HEADER = np.dtype([("seconds", "<u4"), ("fraction", "<u4"), ("captured", "<u4"), ("original", "<u4")])
ERA_S = 1 << 32
NS = 1_000_000_000


@dataclass(frozen=True)
class Interface:
    """Where packets were captured.

    `number` counts through the file. `link_type` is the file's whole 32-bit word: its lower 16 bits
    are the LINKTYPE, its upper ones may tell the length of a frame check sequence. `unit_ns` is the
    unit of the fractions of a second in normal form: 1000 where the file counts microseconds, else 1.
    """

    number: int
    link_type: int
    snaplen: int
    unit_ns: int


@dataclass(frozen=True)
class Packets:
    """Packets of one interface and era, in the order of their file.

    Shape: `records` holds bytes (uint8); `starts` has the offset of each record in it and, last, the
    end: one entry more than there are packets (int64).
    """

    interface: Interface
    records: NDArray[np.uint8]
    starts: NDArray[np.int64]
    era: int = 0

    def __len__(self) -> int:
        """Count the packets."""
        return len(self.starts) - 1

    @property
    def bytes_captured(self) -> int:
        """What was captured of all packets: records stand back to back."""
        return int(self.starts[-1] - self.starts[0]) - HEADER_BYTES * len(self)

    @cached_property
    def headers(self) -> NDArray[np.void]:
        """The records' headers, gathered once. Shape: a structured array, an entry for each packet."""
        if not len(self):
            return np.empty(0, HEADER)
        windows = np.ndarray(
            (len(self.records) - HEADER_BYTES + 1,), f"V{HEADER_BYTES}", self.records, strides=(1,)
        )
        return windows[self.starts[:-1]].view(HEADER)

    @cached_property
    def ts_ns(self) -> NDArray[np.int64]:
        """The packets' times in nanoseconds since 1970, UTC."""
        seconds = self.headers["seconds"].astype(np.int64) + self.era * ERA_S
        return seconds * NS + self.headers["fraction"].astype(np.int64) * self.interface.unit_ns
