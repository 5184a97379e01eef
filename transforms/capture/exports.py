"""From blocks to a capture file: packets of a window, merged by time, written as pcap or pcapng.

Packets leave in the order in which they are stored in their block. Where blocks overlap in time they
are merged; no more blocks are held at once than overlap. The size is known before the first byte.

Source: the pcap and pcapng drafts of the IETF's opsawg group.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.capture.blocks import in_unit, open_block, slice_packets, take_packets
from transforms.capture.packets import ERA_S, HEADER_BYTES, NS, Interface, Packets
from transforms.errors import UsageError

Format: TypeAlias = Literal["pcap", "pcapng"]
FORMATS: tuple[Format, ...] = ("pcap", "pcapng")
MEDIA_TYPES = {"pcap": "application/vnd.tcpdump.pcap", "pcapng": "application/x-pcapng"}

FILE_HEADER_BYTES = 24
_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
# What a reader expects where no file named a limit.
_USUAL_SNAPLEN = 262_144
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_PACKET_BYTES = 32  # of an enhanced packet block without its data
_RESOLUTION = 9  # the option if_tsresol


@dataclass(frozen=True)
class Stored:
    """A block as the table describes it; `number` is its place in the order of storing."""

    number: int
    interface: Interface
    era: int
    ts_min: int
    ts_max: int
    packets: int
    bytes_captured: int
    bytes_padded: int

    @property
    def records_bytes(self) -> int:
        """The size of its records in normal form."""
        return self.bytes_captured + HEADER_BYTES * self.packets


@dataclass(frozen=True)
class Layout:
    """How a file will be written: its format, its unit, its interfaces."""

    format: Format
    unit_ns: int
    interfaces: tuple[Interface, ...]

    def opening(self) -> bytes:
        """Give the bytes before the first packet."""
        if self.format == "pcap":
            magic = _MICROSECONDS if self.unit_ns == 1000 else _NANOSECONDS
            (one,) = self.interfaces
            return struct.pack("<IHHiIII", magic, 2, 4, 0, 0, one.snaplen, one.link_type)
        section = struct.pack("<IIIHHqI", _SECTION, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        return section + b"".join(_describe_interface(one) for one in self.interfaces)

    def size_bytes(self, blocks: Iterable[Stored]) -> int:
        """Give the exact size of the file."""
        header = len(self.opening())
        if self.format == "pcap":
            return header + sum(one.records_bytes for one in blocks)
        return header + sum(one.bytes_padded + _PACKET_BYTES * one.packets for one in blocks)


def lay_out(blocks: Sequence[Stored], wanted: Format) -> Layout:
    """Choose how to write blocks.

    Raises: UsageError where a classic file cannot hold them: several link types, times beyond 2106.
    """
    found = {(one.interface.link_type, one.interface.unit_ns) for one in blocks}
    snaplens = [one.interface.snaplen for one in blocks]
    unit_ns = 1000 if all(unit == 1000 for _, unit in found) else 1
    if wanted == "pcapng":
        kinds = sorted({(kind, _snaplen(snaplens)) for kind, _ in found})
        interfaces = [Interface(at, kind, snaplen, 1) for at, (kind, snaplen) in enumerate(kinds)]
        return Layout("pcapng", 1, tuple(interfaces))
    link_types = sorted({kind for kind, _ in found})
    if len(link_types) > 1:
        raise UsageError(
            f"packets of link types {link_types}, and a classic pcap holds one: use --format pcapng"
        )
    if any(one.era for one in blocks):
        raise UsageError(
            "packets before 1970 or after 2106, which a classic pcap cannot date: use --format pcapng"
        )
    link_type = link_types[0] if link_types else 1
    return Layout("pcap", unit_ns, (Interface(0, link_type, _snaplen(snaplens), unit_ns),))


def _snaplen(promised: Sequence[int]) -> int:
    """Give the longest promise; a file that made none could hold anything."""
    return max(promised) if promised and min(promised) > 0 else _USUAL_SNAPLEN


def _describe_interface(one: Interface) -> bytes:
    options = struct.pack("<HHB3xHH", _RESOLUTION, 1, 9, 0, 0)
    size = 20 + len(options)
    # Only the lower half of the word is the link type here.
    head = struct.pack("<IIHHI", _INTERFACE, size, one.link_type & 0xFFFF, 0, one.snaplen)
    return head + options + struct.pack("<I", size)


@dataclass(frozen=True)
class Whole:
    """A block that leaves as it is: its records' bytes, not yet walked."""

    block: Stored
    records: bytes | memoryview

    def walked(self) -> Packets:
        """Find its packets.

        Raises: ValueError where there are not as many as were stored.
        """
        return open_block(self.records, self.block.interface, self.block.era, self.block.packets)


def merge_blocks(
    blocks: Sequence[Stored],
    read: Callable[[Stored], memoryview],
    since_ns: int,
    until_ns: int,
    selected: Mapping[int, Packets] | None = None,
) -> Iterator[Packets | Whole]:
    """Give the packets of a window, merged by time; `read` gives a block's records when they are needed.

    Blocks that lie wholly in the window and overlap no other are given as they are. `selected` are the
    packets of blocks, by number, that were opened and cut to the window before.
    """
    known = selected or {}
    waiting = sorted(blocks, key=lambda one: (one.ts_min, one.number))
    held: list[_Held] = []
    for block, following in zip_longest(waiting, waiting[1:]):
        until = following.ts_min if following is not None else until_ns
        if not held and is_inside(block, since_ns, until_ns) and block.ts_max <= until:
            yield Whole(block, read(block))
            continue
        chosen = known.get(block.number)
        if chosen is None:
            chosen = select_window(Whole(block, read(block)).walked(), since_ns, until_ns)
        held.append(_Held.of(block.number, chosen))
        yield from _give_until(held, until if following is not None else None)
        held = [one for one in held if one.left()]


def is_inside(block: Stored, since_ns: int, until_ns: int) -> bool:
    """Whether all packets of a block lie in a window."""
    return block.ts_min >= since_ns and block.ts_max < until_ns


def select_window(packets: Packets, since_ns: int, until_ns: int) -> Packets:
    """Give the packets in [since, until)."""
    ts = packets.ts_ns
    return take_packets(packets, (ts >= since_ns) & (ts < until_ns))


@dataclass
class _Held:
    """An opened block on its way out: the time by which each packet is merged, and how many have gone."""

    number: int
    packets: Packets
    keys: NDArray[np.int64]
    gone: int = 0

    @classmethod
    def of(cls, number: int, packets: Packets) -> _Held:
        # A packet never overtakes one before it in its block: it is as late as the latest so far.
        return cls(number, packets, np.maximum.accumulate(packets.ts_ns) if len(packets) else packets.ts_ns)

    def left(self) -> bool:
        return self.gone < len(self.packets)

    def take_until(self, until: int | None) -> tuple[Packets, NDArray[np.int64]]:
        first = self.gone
        self.gone = len(self.packets) if until is None else max(first, int(np.searchsorted(self.keys, until)))
        return slice_packets(self.packets, first, self.gone), self.keys[first : self.gone]


def _give_until(held: list[_Held], until: int | None) -> Iterator[Packets]:
    """Give what is before a time, from all opened blocks together."""
    parts = [(one.number, *one.take_until(until)) for one in held]
    parts = [part for part in parts if len(part[1])]
    parts.sort(key=lambda part: (part[2][0], part[0]))
    if all(left[2][-1] <= right[2][0] for left, right in pairwise(parts)):
        yield from (packets for _, packets, _ in parts)
        return
    yield from _merge([part[1] for part in parts], [part[2] for part in parts])


def _merge(parts: Sequence[Packets], keys: Sequence[NDArray[np.int64]]) -> Iterator[Packets]:
    """Merge parts that overlap; runs of one part stay together."""
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    within = np.concatenate([np.arange(len(part)) for part in parts])
    order = np.argsort(np.concatenate(keys), kind="stable")
    owner, within = owner[order], within[order]
    edges = [0, *(np.flatnonzero(owner[1:] != owner[:-1]) + 1).tolist(), len(owner)]
    for first, last in pairwise(edges):
        begin = int(within[first])
        yield slice_packets(parts[owner[first]], begin, begin + last - first)


def count_inside(block: Stored, chosen: Packets) -> Stored:
    """Describe a block of which only some packets are wanted."""
    captured = chosen.headers["captured"].astype(np.int64)
    return replace(
        block,
        packets=len(chosen),
        bytes_captured=int(captured.sum()),
        bytes_padded=int((captured + 3 & ~3).sum()),
    )


def write_packets(given: Packets | Whole, layout: Layout) -> memoryview:
    """Write packets as they stand in a file of this layout."""
    if isinstance(given, Whole):
        if layout.format == "pcap" and given.block.interface.unit_ns == layout.unit_ns:
            return memoryview(given.records)
        given = given.walked()
    packets = in_unit(given, layout.unit_ns)
    if layout.format == "pcap":
        return packets.records.data
    numbers = {one.link_type: one.number for one in layout.interfaces}
    return _write_enhanced(packets, numbers[packets.interface.link_type])


def _write_enhanced(packets: Packets, interface: int) -> memoryview:
    """Write enhanced packet blocks; Arrow joins head, data, padding and tail of all of them at once."""
    headers = packets.headers
    count = len(packets)
    captured = headers["captured"].astype(np.int64)
    sizes = (captured + 3 & ~3) + _PACKET_BYTES
    seconds = headers["seconds"].astype(np.int64) + packets.era * ERA_S
    ticks = (seconds * NS + headers["fraction"]).astype(np.uint64)
    heads = np.empty((count, 7), "<u4")
    heads[:, 0], heads[:, 1], heads[:, 2] = _PACKET, sizes, interface
    heads[:, 3], heads[:, 4] = ticks >> np.uint64(32), ticks & np.uint64(0xFFFF_FFFF)
    heads[:, 5], heads[:, 6] = captured, headers["original"]
    bodies = _spans(packets.records, packets.starts[:-1] + HEADER_BYTES, packets.starts[1:])
    paddings: Any = pa.array([b"", b"\0", b"\0\0", b"\0\0\0"], pa.large_binary())
    padding = paddings.take(-captured % 4)
    joined = cast("Any", pc).binary_join_element_wise(
        _fixed(heads),
        bodies,
        padding,
        _fixed(sizes.astype("<u4").reshape(-1, 1)),
        pa.scalar(b"", pa.large_binary()),
    )
    return memoryview(joined.buffers()[2] or b"")[: int(sizes.sum())]


def _fixed(rows: NDArray[Any]) -> pa.Array[Any]:
    """Give rows of equal length as a column of bytes, without a copy."""
    width = rows.shape[1] * rows.itemsize
    offsets = np.arange(0, (len(rows) + 1) * width, width, dtype=np.int64)
    return pa.Array.from_buffers(
        pa.large_binary(),
        len(rows),
        [None, pa.py_buffer(offsets.data), pa.py_buffer(np.ascontiguousarray(rows).reshape(-1).data)],
    )


def _spans(records: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> pa.Array[Any]:
    """Give spans of bytes as a column: every second element of one that lies over all bytes."""
    places = np.zeros(2 * len(begins) + 1, np.int64)
    places[1::2], places[2::2] = begins, ends
    column = pa.Array.from_buffers(
        pa.large_binary(), 2 * len(begins), [None, pa.py_buffer(places.data), pa.py_buffer(records.data)]
    )
    return column.take(np.arange(1, 2 * len(begins), 2))
