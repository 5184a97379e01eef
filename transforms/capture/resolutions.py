"""Times of pcapng packets: from 64-bit counts of an interface's unit to seconds and fractions.

Source: draft-ietf-opsawg-pcapng, the options if_tsresol and if_tsoffset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.capture.packets import NS

MICROSECONDS, NANOSECONDS = 6, 9
_NAMES = {MICROSECONDS: "us", NANOSECONDS: "ns"}
# Beyond this many seconds no time fits, and up to it 64 bits hold any.
_FAR_S = 1 << 61
_LAST_S, _LAST_NS = divmod((1 << 63) - 1, NS)
_FIRST_S = -((1 << 63) // NS)


@dataclass(frozen=True)
class Resolution:
    """What an interface counts in: `code` as if_tsresol has it, and seconds on top of all its times."""

    code: int
    offset_s: int = 0

    @property
    def name(self) -> str:
        """The unit for a reader: us, ns, else as a power."""
        return _NAMES.get(self.code) or f"{2 if self.code & 0x80 else 10}^-{self.code & 0x7F}"

    @property
    def unit_ns(self) -> int:
        """The unit of fractions in normal form: microseconds stay what they are."""
        return 1000 if self.code == MICROSECONDS else 1


def split_time(ticks: NDArray[np.uint64], code: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Split counts of units since 1970 into seconds and fractions, rounded down.

    Units: fractions are microseconds where the units are, else nanoseconds.
    """
    exponent = code & 0x7F
    return _split_binary(ticks, exponent) if code & 0x80 else _split_decimal(ticks, exponent)


def _split_decimal(ticks: NDArray[np.uint64], exponent: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    if exponent > 19:  # a second is more than 64 bits can count
        seconds, rest = np.zeros_like(ticks), ticks
    else:
        unit = np.uint64(10**exponent)
        seconds = ticks // unit
        rest = ticks - seconds * unit
    if exponent == MICROSECONDS:
        return seconds, rest
    if exponent <= NANOSECONDS:
        return seconds, rest * np.uint64(10 ** (9 - exponent))
    if exponent - 9 > 19:
        return seconds, np.zeros_like(ticks)
    return seconds, rest // np.uint64(10 ** (exponent - 9))


def _split_binary(ticks: NDArray[np.uint64], exponent: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    if exponent > 63:
        seconds, rest = np.zeros_like(ticks), ticks
    else:
        seconds = ticks >> np.uint64(exponent)
        rest = ticks & np.uint64((1 << exponent) - 1)
    # rest * 10**9 needs more than 64 bits: its upper and lower half, then the shift of both.
    low = (rest & np.uint64(0xFFFFFFFF)) * np.uint64(NS)
    high = (rest >> np.uint64(32)) * np.uint64(NS) + (low >> np.uint64(32))
    if exponent < 32:
        return seconds, low >> np.uint64(exponent)
    return seconds, high >> np.uint64(min(exponent - 32, 63))


def add_offsets(seconds: NDArray[np.uint64], offsets_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add interfaces' offsets; what is far beyond any time that fits stays beyond it."""
    if not offsets_s.any():
        return np.minimum(seconds, np.uint64(_FAR_S)).astype(np.int64)
    # A sum may need 66 bits. The nearest float tells how far it lies; near enough, its 64 bits are right.
    near = seconds.astype(np.float64) + offsets_s.astype(np.float64)
    sums = (seconds + offsets_s.view(np.uint64)).view(np.int64)
    return np.where(near > _FAR_S, _FAR_S, np.where(near < -_FAR_S, -_FAR_S, sums))


def fits_ns(seconds: NDArray[np.int64], fractions_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether times fit 64 bits of nanoseconds."""
    is_last = (seconds == _LAST_S) & (fractions_ns <= _LAST_NS)
    return np.asarray((seconds >= _FIRST_S) & (seconds < _LAST_S) | is_last)
