"""Blocks: about 1 MiB of packets of one device and hour, which are compressed, sealed and stored at once.

What a block says of its packets in clear (times, counts) is enough to choose blocks, to know the
exact size of an export, and to count packets by the minute, without opening one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.capture.packets import NS, Interface, Packets
from transforms.capture.pcap import walk_normal
from transforms.capture.spans import gather_spans, write_headers

Ints: TypeAlias = "NDArray[np.int64]"

BLOCK_BYTES = 1 << 20
HOUR_NS = 3600 * NS
MINUTE_NS = 60 * NS


@dataclass(frozen=True)
class Block:
    """Packets of one hour with what is said of them in clear. Units: nanoseconds since 1970, bytes."""

    packets: Packets
    hour: int  # hours since 1970
    ts_min: int
    ts_max: int
    is_sorted: bool
    bytes_captured: int
    bytes_original: int
    bytes_padded: int
    minutes: list[int]  # packets in each of the hour's 60 minutes


def order_by_hour(packets: Packets) -> Packets:
    """Bring the packets of each hour together, the hours in order; within an hour nothing moves."""
    hours = _hours(packets)
    if (hours[1:] >= hours[:-1]).all():
        return packets
    return take_packets(packets, np.argsort(hours, kind="stable"))


def _hours(packets: Packets) -> Ints:
    """Give each packet's hour; one number for all where they share it, as they most often do."""
    ts = packets.ts_ns
    if len(ts) and ts.min() // HOUR_NS == ts.max() // HOUR_NS:
        return np.broadcast_to(ts[:1] // HOUR_NS, len(ts))
    return np.asarray(ts // HOUR_NS)


def cut_blocks(packets: Packets, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Cut packets whose hours come in order into blocks: where an hour ends, and after some `block_bytes`.

    Every packet is in exactly one block, in the order that they have.
    """
    hours = _hours(packets)
    borders = np.flatnonzero(hours[1:] != hours[:-1]) + 1
    for start, stop in _runs(borders, len(packets)):
        begin, end = int(packets.starts[start]), int(packets.starts[stop])
        wanted = np.arange(begin + block_bytes, end, block_bytes)
        cuts = np.unique(np.searchsorted(packets.starts[start : stop + 1], wanted))
        for first, last in _runs(cuts[cuts < stop - start], stop - start):
            yield describe_block(slice_packets(packets, start + first, start + last), int(hours[start]))


def _runs(cuts: Ints, stop: int) -> Iterator[tuple[int, int]]:
    edges = [0, *cuts.tolist(), stop]
    return ((first, last) for first, last in pairwise(edges) if last > first)


def describe_block(packets: Packets, hour: int) -> Block:
    """Say of packets of one hour what may be known of them."""
    ts, headers = packets.ts_ns, packets.headers
    is_sorted = bool((ts[1:] >= ts[:-1]).all())
    minutes = _count_minutes(ts, hour * HOUR_NS, is_sorted)
    return Block(
        packets,
        hour,
        ts_min=int(ts[0] if is_sorted else ts.min()),
        ts_max=int(ts[-1] if is_sorted else ts.max()),
        is_sorted=is_sorted,
        bytes_captured=packets.bytes_captured,
        bytes_original=int(headers["original"].sum(dtype=np.int64)),
        bytes_padded=packets.bytes_captured + int((-headers["captured"] & 3).sum(dtype=np.int64)),
        minutes=minutes.tolist(),
    )


def _count_minutes(ts: Ints, start_ns: int, is_sorted: bool) -> Ints:
    if is_sorted:
        edges = np.searchsorted(ts, start_ns + MINUTE_NS * np.arange(61))
        return np.diff(edges)
    return np.bincount((ts - start_ns) // MINUTE_NS, minlength=60)


def slice_packets(packets: Packets, first: int, last: int) -> Packets:
    """Give the packets from `first` up to `last`, without a copy."""
    begin, end = int(packets.starts[first]), int(packets.starts[last])
    sliced = Packets(
        packets.interface,
        packets.records[begin:end],
        packets.starts[first : last + 1] - begin,
        packets.era,
    )
    # What has been gathered for all of them need not be gathered again for some.
    for name in vars(packets).keys() & {"headers", "ts_ns"}:
        vars(sliced)[name] = vars(packets)[name][first:last]
    return sliced


def take_packets(packets: Packets, chosen: Ints | NDArray[np.bool_]) -> Packets:
    """Give some packets: by a mask, in their order, or by their numbers, in that order."""
    begins, ends = packets.starts[:-1], packets.starts[1:]
    if chosen.dtype == np.bool_:
        if chosen.all():
            return packets
        records, starts = gather_spans(packets.records, begins[chosen], ends[chosen])
    else:
        records, starts = gather_spans(packets.records, begins, ends, chosen.astype(np.int64))
    return Packets(packets.interface, records, starts, packets.era)


def join_packets(parts: Sequence[Packets]) -> Packets:
    """Put packets of one interface and era together, in the order of the parts."""
    if len(parts) == 1:
        return parts[0]
    records = np.concatenate([part.records for part in parts])
    shifts = np.cumsum([0, *(len(part.records) for part in parts)])
    starts = [part.starts[:-1] + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Packets(parts[0].interface, records, np.concatenate([*starts, shifts[-1:]]), parts[0].era)


def open_block(records: bytes | memoryview, interface: Interface, era: int, packets: int) -> Packets:
    """Find the packets in a block's bytes.

    Raises: ValueError where there are not as many whole ones as were stored.
    """
    content = np.frombuffer(records, np.uint8)
    starts = walk_normal(content, interface)
    if len(starts) != packets + 1 or starts[-1] != len(content):
        raise ValueError("a block does not hold the packets that it says")
    return Packets(interface, content, starts, era)


def in_unit(packets: Packets, unit_ns: int) -> Packets:
    """Give packets with fractions in another unit; only microseconds become nanoseconds.

    A fraction of a second or more is carried into the seconds, since nanoseconds of it need not fit.
    """
    if packets.interface.unit_ns == unit_ns:
        return packets
    records = packets.records.copy()
    headers = packets.headers.copy()
    fractions = headers["fraction"].astype(np.int64) * packets.interface.unit_ns
    headers["seconds"] += (fractions // NS).astype(np.uint32)
    headers["fraction"] = fractions % NS
    if len(packets):
        write_headers(records, packets.starts[:-1], headers)
    old = packets.interface
    interface = Interface(old.number, old.link_type, old.snaplen, unit_ns)
    return Packets(interface, records, packets.starts, packets.era)
