"""pcapng files: sections of either byte order, any number of interfaces, packets and all the rest.

A window's blocks are found by the lock-step walk and read as columns; what is no packet is given as
it stands. Interfaces count through the whole file, over its sections.

Source: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transforms.capture.ngblocks import (
    INTERFACE,
    OLD_PACKET,
    ORDERS,
    PACKET,
    SECTION,
    SIMPLE_PACKET,
    Blocks,
    Order,
    find_blocks,
    reason_to_stop,
)
from transforms.capture.packets import ERA_S, HEADER, Interface, Packets
from transforms.capture.parts import Opening, Side, most_captured
from transforms.capture.resolutions import MICROSECONDS, Resolution, add_offsets, fits_ns, split_time
from transforms.capture.spans import gather_spans, write_headers
from transforms.capture.walk import Offsets
from transforms.streams import Damage, PlainBytes

WINDOW_BYTES = 16 << 20
# Names, statistics and secrets are kept whole; nobody writes more than this into one block.
MOST_SIDE_BYTES = 16 << 20
# Each interface is an entry of a table that is held as long as the file is read.
MOST_INTERFACES = 1 << 16

_KINDS = {SECTION: "section", INTERFACE: "interface", 4: "names", 5: "statistics", 10: "secrets"}
_LEAST_BYTES = {SECTION: 28, INTERFACE: 20, OLD_PACKET: 32, SIMPLE_PACKET: 16, PACKET: 32}
_RESOLUTION_OPTION, _OFFSET_OPTION = 9, 14
# Where an enhanced packet block and a simple one have their data.
_DATA_AT, _SIMPLE_DATA_AT = 28, 12


@dataclass
class _Interfaces:
    """The interfaces that were described so far."""

    known: list[Interface] = field(default_factory=list)
    resolutions: list[Resolution] = field(default_factory=list)
    section_begun: int = 0  # the number of the first one of the present section

    def describe(self, block: bytes, order: Order) -> None:
        """Add the interface of a description block."""
        link_type, snaplen = int.from_bytes(block[8:10], order), int.from_bytes(block[12:16], order)
        resolution = _read_resolution(block, order)
        self.known.append(Interface(len(self.known), link_type, snaplen, resolution.unit_ns))
        self.resolutions.append(resolution)


@dataclass(frozen=True)
class _Fields:
    """What a window's packet blocks say: an entry for each."""

    numbers: Offsets  # of interfaces
    ticks: NDArray[np.uint64]
    captured: Offsets
    original: Offsets

    def before(self, count: int) -> _Fields:
        """Give the first ones."""
        return _Fields(self.numbers[:count], self.ticks[:count], self.captured[:count], self.original[:count])


@dataclass(frozen=True)
class _Columns:
    """A window's packets: an entry for each. `data_at` and `ends` are offsets in the window."""

    rows: Offsets  # which blocks they are
    interfaces: Offsets
    seconds: NDArray[np.int64]
    fractions: NDArray[np.int64]
    captured: Offsets
    original: Offsets
    data_at: Offsets

    def before(self, row: int) -> _Columns:
        """Give those before a block."""
        count = int(np.searchsorted(self.rows, row))
        if count == len(self.rows):
            return self
        return _Columns(*(getattr(self, name)[:count] for name in self.__dataclass_fields__))


def read_pcapng(plain: PlainBytes) -> Iterator[Opening | Packets | Side | Damage]:
    """Read a pcapng file whose first four bytes have been seen already.

    Of each window first what is no packet, in order, then the packets of each interface.
    """
    interfaces, order, size = _Interfaces(), ORDERS[False], WINDOW_BYTES
    while True:
        window = plain.window(size)
        blocks = find_blocks(window, order)
        bad, reason, columns = _read_blocks(blocks, interfaces)
        if plain.offset == 0 and bad:
            yield _open(blocks, bad, interfaces)
        yield from _give_sides(blocks, columns, bad, plain.offset)
        yield from _give_packets(blocks, columns, interfaces.known)
        reached, had = int(blocks.starts[bad]), len(window)
        plain.advance(reached)
        order = blocks.order_after
        is_end = had < size or plain.ends_after(had - reached)
        reason = reason or reason_to_stop(window[reached:], order)
        if reason is None and is_end:
            reason = plain.failure or ("the last block is cut" if reached < had else None)
        if reason is not None:
            yield plain.stop(reason)
        if is_end or reason is not None:
            return
        # What is left is a block that does not fit into the window.
        size = WINDOW_BYTES if reached else 2 * size


def _open(blocks: Blocks, bad: int, interfaces: _Interfaces) -> Opening:
    order = ORDERS[blocks.is_big_at(0)]
    major, minor = (int.from_bytes(blocks.window[at : at + 2].tobytes(), order) for at in (12, 14))
    # What stands behind the damage describes nothing.
    is_described = (blocks.types[:bad] == INTERFACE).any()
    resolution = interfaces.resolutions[0] if is_described else Resolution(MICROSECONDS)
    return Opening("pcapng", order, resolution.name, f"{major}.{minor}", 0, -1, b"")


def _read_blocks(blocks: Blocks, interfaces: _Interfaces) -> tuple[int, str | None, _Columns]:
    """Read interfaces and packets up to the first bad block: its number, the reason, the packets."""
    bad, reason = _first_bad(blocks, len(interfaces.known))
    rows, bases, counts = _read_interfaces(blocks, bad, interfaces)
    fields = _gather_fields(blocks, rows)
    np.add(fields.numbers, bases, out=fields.numbers)
    unknown = np.flatnonzero(fields.numbers >= counts)
    if unknown.size:
        bad, reason = int(rows[unknown[0]]), "a packet of no interface"
        rows, fields = rows[: unknown[0]], fields.before(int(unknown[0]))
    columns = _read_columns(blocks, rows, fields, interfaces)
    for wrong, why in _find_wrong(blocks, columns, interfaces):
        if wrong.any() and (row := int(rows[np.argmax(wrong)])) < bad:
            bad, reason = row, why
    return bad, reason, columns.before(bad)


def _read_interfaces(
    blocks: Blocks, bad: int, interfaces: _Interfaces
) -> tuple[Offsets, int | Offsets, int | Offsets]:
    """Add the interfaces that are described here.

    Returns: which blocks are packets, and how many interfaces there were before the section of each,
    and before it.
    """
    described = len(interfaces.known)
    if not blocks.others.size:
        return np.arange(bad), interfaces.section_begun, described
    types = blocks.types[:bad]
    for row in np.flatnonzero(types == INTERFACE).tolist():
        interfaces.describe(blocks.bytes_of(row), ORDERS[blocks.is_big_at(row)])
    counts = described + np.cumsum(types == INTERFACE)
    begun = np.append(interfaces.section_begun, counts[types == SECTION])
    interfaces.section_begun = int(begun[-1])
    rows = np.flatnonzero(_are_packets(types))
    return rows, begun[np.cumsum(types == SECTION)[rows]], counts[rows]


def _are_packets(types: Offsets) -> NDArray[np.bool_]:
    return np.asarray((types == PACKET) | (types == SIMPLE_PACKET) | (types == OLD_PACKET))


def _first_bad(blocks: Blocks, described: int) -> tuple[int, str | None]:
    """Find the first block that is wrong by itself: its number (or how many there are) and why."""
    sizes, rows = np.diff(blocks.starts), blocks.others
    types, larger = blocks.types[rows], sizes[rows]
    short, versions = np.zeros((2, len(rows)), np.bool_)
    for kind, least in _LEAST_BYTES.items():
        short |= (types == kind) & (larger < least)
    # A section that is too short may be the last thing there is.
    sections = np.flatnonzero((types == SECTION) & ~short)
    versions[sections] = blocks.halves(rows[sections], 12) != 1
    many = (types == INTERFACE) & (described + np.cumsum(types == INTERFACE) > MOST_INTERFACES)
    long = (larger > MOST_SIDE_BYTES) & ~_are_packets(types)
    short_packets = (sizes < _LEAST_BYTES[PACKET]) & (blocks.types == PACKET)
    bad, reason = len(sizes), None
    for places, why in (
        (np.flatnonzero(short_packets), "a block too short for its type"),
        (rows[short], "a block too short for its type"),
        (rows[versions], "a section of a version that is not known"),
        (rows[many], f"more than {MOST_INTERFACES} interfaces"),
        (rows[long], f"a block of more than {MOST_SIDE_BYTES} bytes that is no packet"),
    ):
        if places.size and places[0] < bad:
            bad, reason = int(places[0]), why
    return bad, reason


def _gather_fields(blocks: Blocks, rows: Offsets) -> _Fields:
    """Gather what packet blocks say, as it stands there."""
    kinds = blocks.types[rows]
    full = np.flatnonzero(kinds != SIMPLE_PACKET)
    headers = blocks.packet_headers(rows[full])
    numbers, captured, original = (
        headers[name].astype(np.int64) for name in ("interface", "captured", "original")
    )
    ticks = headers["high"].astype(np.uint64) << np.uint64(32) | headers["low"]
    old = np.flatnonzero(kinds[full] == OLD_PACKET)
    numbers[old] = blocks.halves(rows[full[old]], 8)
    if len(full) == len(rows):
        return _Fields(numbers, ticks, captured, original)
    spread = np.zeros((3, len(rows)), np.int64)
    spread[:, full] = numbers, captured, original
    simple = np.flatnonzero(kinds == SIMPLE_PACKET)
    spread[1:, simple] = blocks.words(rows[simple], 8)
    all_ticks = np.zeros(len(rows), np.uint64)
    all_ticks[full] = ticks
    return _Fields(spread[0], all_ticks, spread[1], spread[2])


def _read_columns(blocks: Blocks, rows: Offsets, fields: _Fields, interfaces: _Interfaces) -> _Columns:
    """Read packets; a simple one has no time, for which tools say 0, and is cut where its interface says."""
    seconds, fractions = _read_times(fields, interfaces)
    captured, data_at = fields.captured, blocks.starts[rows] + _DATA_AT
    simple = np.flatnonzero(blocks.types[rows] == SIMPLE_PACKET)
    if simple.size:
        snaplens = np.array([one.snaplen for one in interfaces.known], np.int64)[fields.numbers[simple]]
        captured[simple] = np.where(snaplens > 0, np.minimum(snaplens, captured[simple]), captured[simple])
        data_at[simple] += _SIMPLE_DATA_AT - _DATA_AT
        seconds[simple], fractions[simple] = 0, 0
    return _Columns(rows, fields.numbers, seconds, fractions, captured, fields.original, data_at)


def _find_wrong(
    blocks: Blocks, columns: _Columns, interfaces: _Interfaces
) -> list[tuple[NDArray[np.bool_], str]]:
    """Tell which packets are wrong, and why."""
    most = np.array([most_captured(one.link_type) for one in interfaces.known], np.int64)
    units = np.array([one.unit_ns for one in interfaces.known], np.int64)
    numbers, ends = columns.interfaces, columns.data_at + columns.captured
    return [
        (ends > blocks.starts[columns.rows + 1] - 4, "a captured length beyond its block"),
        (columns.captured > most[numbers], "a captured length of more than its link type may have"),
        (~fits_ns(columns.seconds, columns.fractions * units[numbers]), "a time beyond 64 bits of nanoseconds"),
    ]


def _read_times(fields: _Fields, interfaces: _Interfaces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    codes = np.array([one.code for one in interfaces.resolutions], np.int64)
    offsets_s = np.array([one.offset_s for one in interfaces.resolutions], np.int64)
    used, ticks = np.unique(codes), fields.ticks
    if len(used) == 1:
        seconds, fractions = split_time(ticks, int(used[0]))
    else:
        seconds, fractions = np.zeros_like(ticks), np.zeros_like(ticks)
        for code in used.tolist():
            chosen = np.flatnonzero(codes[fields.numbers] == code)
            seconds[chosen], fractions[chosen] = split_time(ticks[chosen], code)
    return add_offsets(seconds, offsets_s[fields.numbers]), fractions.astype(np.int64)


def _read_resolution(block: bytes, order: Order) -> Resolution:
    """Find an interface's resolution and offset among its options; what is malformed ends them."""
    code, offset_s, at, end = MICROSECONDS, 0, 16, len(block) - 4
    while at + 4 <= end:
        option, length = (int.from_bytes(block[place : place + 2], order) for place in (at, at + 2))
        value = block[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)
        if option == 0 or at > end:
            break
        if option == _RESOLUTION_OPTION and length == 1:
            code = value[0]
        elif option == _OFFSET_OPTION and length == 8:
            offset_s = int.from_bytes(value, order, signed=True)
    return Resolution(code, offset_s)


def _give_sides(blocks: Blocks, columns: _Columns, bad: int, base: int) -> Iterator[Side]:
    """Give whole blocks that are no packets, and what packets have behind their data."""
    rows, begins = columns.rows, columns.data_at + (columns.captured + 3 & ~3)
    behind = np.flatnonzero(begins < blocks.starts[rows + 1] - 4)
    others = blocks.others[: np.searchsorted(blocks.others, bad)]
    others = others[~_are_packets(blocks.types[others])]
    kinds = [_KINDS.get(kind, "other") for kind in blocks.types[others].tolist()]
    kinds += ["packet options"] * len(behind)
    begun = np.concatenate((blocks.starts[others], begins[behind]))
    ended = np.concatenate((blocks.starts[others + 1], blocks.starts[rows[behind] + 1] - 4))
    for nth in np.argsort(begun).tolist():
        begin, end = int(begun[nth]), int(ended[nth])
        yield Side(base + begin, kinds[nth], blocks.window[begin:end].tobytes())


def _give_packets(blocks: Blocks, columns: _Columns, known: list[Interface]) -> Iterator[Packets]:
    count = len(columns.rows)
    if not count:
        return
    eras, seconds = columns.seconds >> 32, columns.seconds & ERA_S - 1
    headers = np.empty(count, HEADER)
    headers["seconds"], headers["fraction"] = seconds, columns.fractions
    headers["captured"], headers["original"] = columns.captured, columns.original
    numbers, order = columns.interfaces, None
    if (numbers != numbers[0]).any():
        order = np.argsort(numbers, kind="stable")
        headers, numbers, eras = headers[order], numbers[order], eras[order]
    # A record of normal form ends where its data do, and its header takes the 16 bytes before them.
    records, starts = gather_spans(
        blocks.window, columns.data_at - HEADER.itemsize, columns.data_at + columns.captured, order
    )
    write_headers(records, starts[:-1], headers)
    changes = np.flatnonzero((numbers[1:] != numbers[:-1]) | (eras[1:] != eras[:-1])) + 1
    for begin, end in pairwise([0, *changes.tolist(), count]):
        first, last = starts[begin], starts[end]
        run = starts[begin : end + 1] - first
        yield Packets(known[int(numbers[begin])], records[first:last], run, int(eras[begin]))
