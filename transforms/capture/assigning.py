"""Whose packets these are: a capture of many devices is split by the addresses that each had at the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.capture.layers import distinct_addresses, format_ips, format_macs

Ints: TypeAlias = "NDArray[np.int64]"
_FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Claim:
    """A device had an address. Units: nanoseconds since 1970, [since, until); None for no end."""

    device: int
    since_ns: int
    until_ns: int | None


# Gives the claims to each of some addresses: of "mac" or "ip", in canonical form.
FindClaims: TypeAlias = "Callable[[Literal['mac', 'ip'], Sequence[str]], Sequence[Sequence[Claim]]]"


def split_by_device(layers: pl.DataFrame, ts_ns: Ints, find: FindClaims) -> Iterator[tuple[int, Ints]]:
    """Give the packets of each device, by number; -1 stands for packets of none.

    A packet between two devices is given for both, once each; the numbers of a device's packets come
    in order.
    """
    pairs = [_matches(layers, ts_ns, "mac", find), _matches(layers, ts_ns, "ip", find)]
    devices = np.concatenate([device for device, _ in pairs])
    packets = np.concatenate([packet for _, packet in pairs])
    both = np.unique(np.stack([devices, packets]), axis=1) if len(devices) else np.empty((2, 0), np.int64)
    for device in np.unique(both[0]).tolist():
        yield device, both[1][both[0] == device]
    claimed = np.zeros(len(ts_ns), bool)
    claimed[both[1]] = True
    if not claimed.all():
        yield -1, np.flatnonzero(~claimed)


def _matches(
    layers: pl.DataFrame, ts_ns: Ints, kind: Literal["mac", "ip"], find: FindClaims
) -> tuple[Ints, Ints]:
    """Give (device, packet) for every claim that holds. Shape: two arrays of one length."""
    codes, distinct = distinct_addresses(layers, (f"src_{kind}", f"dst_{kind}"))
    held = find(kind, (format_macs if kind == "mac" else format_ips)(distinct).to_list())
    devices, packets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    # Most addresses have one claim; the rounds are as many as the most that one has.
    for turn in range(max(map(len, held), default=0)):
        of = [one[turn] if turn < len(one) else None for one in held]
        device = np.array([one.device if one else -1 for one in of], np.int64)
        since = np.array([one.since_ns if one else 0 for one in of], np.int64)
        until = np.array(
            [_FOREVER if one is None or one.until_ns is None else one.until_ns for one in of], np.int64
        )
        for side in codes:
            there = side.is_not_null().to_numpy()
            code = side.fill_null(0).to_numpy()
            found = there & (device[code] >= 0) & (ts_ns >= since[code]) & (ts_ns < until[code])
            devices.append(device[code][found])
            packets.append(np.flatnonzero(found))
    return np.concatenate(devices), np.concatenate(packets)
