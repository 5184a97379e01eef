"""From the block table to a capture file of one device and window, in bounded memory.

First the plan: which blocks, how many packets, how many bytes, from what the table says in clear; only
blocks at the window's edges are opened for it. Then the bytes, a few blocks at a time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.devices import Device
from stores.sealing import Sealer
from stores.tables import Tables
from transforms.capture.blocks import HOUR_NS, MINUTE_NS
from transforms.capture.exports import (
    Format,
    Layout,
    Stored,
    Whole,
    count_inside,
    is_inside,
    lay_out,
    merge_blocks,
    select_window,
    write_packets,
)
from transforms.capture.packets import Interface, Packets
from transforms.capture.rows import hour_text
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES
from transforms.errors import UsageError
from transforms.pii.identities import uuid_bytes

LONGEST = timedelta(hours=1)
# Row groups of some 8 MiB that are held for blocks that follow.
_HELD_GROUPS = 2
# 840 KB each where a file holds 80 MB of packets.
_HELD_FOOTERS = 8
# Instead of a row group's whole column beside what becomes of it.
_READ_BYTES = 1 << 20
# For a block of 1 MiB and its last packet; a larger one has room of its own.
_ROOM_BYTES = 3 << 19
# Packets of a window's edges that are kept from the plan for the file.
_HELD_BYTES = 8 << 20
# From here on a thread saves more than it takes.
_AHEAD_FROM_BYTES = 32 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLEAR = [one.name for one in CAPTURE_BLOCKS.columns if one.name not in ("records", "packet_hour")]

_STORED_ORDER = itemgetter("received_at", "batch_id", "chunk", "file_id", "block_number")

Change = Callable[[Packets], Packets]


@dataclass(frozen=True)
class Place:
    """Where a block lies: its file, row group and row in that, and what opens it."""

    file: pq.ParquetFile
    group: int
    row: int
    block_id: str
    subject_ref: bytes
    file_id: str


@dataclass
class Summary:
    """Times and counts of an export. Units: nanoseconds since 1970; minutes since 1970."""

    first_ns: int | None = None
    last_ns: int | None = None
    minutes: Counter[int] = field(default_factory=Counter)

    def add_whole(self, block: Stored, minutes: Sequence[int]) -> None:
        """Count a whole block by what is known of it."""
        self._widen(block.ts_min, block.ts_max)
        hour = block.ts_min // HOUR_NS
        self.minutes.update({hour * 60 + at: count for at, count in enumerate(minutes) if count})

    def add_part(self, packets: Packets) -> None:
        """Count packets that were found by opening a block."""
        ts = packets.ts_ns
        self._widen(int(ts.min()), int(ts.max()))
        minutes, counts = np.unique(ts // MINUTE_NS, return_counts=True)
        self.minutes.update(dict(zip(minutes.tolist(), counts.tolist(), strict=True)))

    def _widen(self, first_ns: int, last_ns: int) -> None:
        self.first_ns = min(first_ns, self.first_ns if self.first_ns is not None else first_ns)
        self.last_ns = max(last_ns, self.last_ns if self.last_ns is not None else last_ns)


@dataclass(frozen=True)
class Plan:
    """What an export will be. Units: nanoseconds since 1970, bytes; `size_bytes` is exact.

    `selected` holds packets of blocks at the window's edges: they had to be opened to be counted. `read`
    opens a block with the keys that were there for the plan.
    """

    since_ns: int
    until_ns: int
    layout: Layout
    blocks: tuple[Stored, ...]
    places: Mapping[int, Place]
    inside: tuple[Stored, ...]
    selected: Mapping[int, Packets]
    summary: Summary
    find_files: Callable[[], tuple[dict[str, Any], ...]] = field(repr=False)
    read: Callable[[Stored], memoryview] = field(repr=False)

    @property
    def packets(self) -> int:
        """How many packets."""
        return sum(one.packets for one in self.inside)

    @property
    def size_bytes(self) -> int:
        """The exact size of the file."""
        return self.layout.size_bytes(self.inside)

    @cached_property
    def files(self) -> tuple[dict[str, Any], ...]:
        """What is known of the delivered files; only a manifest asks, and a first byte does not wait for it."""
        return self.find_files()


class CaptureExports:
    """Exports of one tenant's captures."""

    def __init__(self, tenant: str, tables: Tables, sealer: Sealer) -> None:
        """Remember the tables; nothing is read yet."""
        self._tenant, self._tables, self._sealer = tenant, tables, sealer

    @contextmanager
    def planned(self, device: Device, since: datetime, until: datetime, wanted: Format) -> Iterator[Plan]:
        """Plan an export; the files that it needs stay for as long as the block lasts.

        Raises: UsageError where the window is none, is longer than an hour, or does not fit the format.
        """
        check_window(since, until)
        since_ns, until_ns = to_ns(since), to_ns(until)
        if not self._tables.exists(self._tenant, CAPTURE_BLOCKS.key):
            yield self._plan([], {}, since_ns, until_ns, wanted)
            return
        hours = {hour_text(hour) for hour in range(since_ns // HOUR_NS, -(-until_ns // HOUR_NS))}
        with self._tables.reading_files(self._tenant, CAPTURE_BLOCKS.key) as files, ExitStack() as opened:
            chosen = files.filter(pl.col("partition.packet_hour").is_in(hours))["path"]
            rows: list[dict[str, Any]] = []
            for path in chosen:
                # Opened once: what a file says of its row groups takes longer to read than a block.
                known = _footer(path)
                file = pq.ParquetFile(path, metadata=known, pre_buffer=False, buffer_size=_READ_BYTES)
                if found := list(_rows_of(file, device.ref, since_ns, until_ns)):
                    rows += found
                    opened.enter_context(file)
                else:
                    file.close()
            # Without the blocks of erased owners, which nothing opens any more.
            keys = self._sealer.subjects.existing(list({row["subject_ref"] for row in rows}))
            there = [row for row in rows if row["subject_ref"] in keys]
            yield self._plan(sorted(there, key=_STORED_ORDER), keys, since_ns, until_ns, wanted)

    def stream(self, plan: Plan, change: Change | None = None) -> Iterator[memoryview]:
        """Give the file's bytes; `change` is made to every packet first (the size is then another).

        Of a large one the next block is opened, in a thread, while the last one is used.
        """
        yield memoryview(plan.layout.opening())
        written = self._written(plan, change)
        yield from written if plan.size_bytes < _AHEAD_FROM_BYTES else one_ahead(written)

    def _written(self, plan: Plan, change: Change | None) -> Iterator[memoryview]:
        for part in self.merged(plan):
            if change is not None:
                yield write_packets(change(part.walked() if isinstance(part, Whole) else part), plan.layout)
            else:
                yield write_packets(part, plan.layout)

    def merged(self, plan: Plan) -> Iterator[Packets | Whole]:
        """Give the packets of a plan, merged by time, each part of one block."""
        return merge_blocks(plan.blocks, plan.read, plan.since_ns, plan.until_ns, plan.selected)

    def _plan(
        self,
        rows: list[dict[str, Any]],
        keys: Mapping[bytes, bytes],
        since_ns: int,
        until_ns: int,
        wanted: Format,
    ) -> Plan:
        blocks = [_stored(number, row) for number, row in enumerate(rows)]
        places = {number: _place(row) for number, row in enumerate(rows)}
        read, inside, summary = self._reader(places, keys), [], Summary()
        selected: dict[int, Packets] = {}
        for block, row in zip(blocks, rows, strict=True):
            if is_inside(block, since_ns, until_ns):
                inside.append(block)
                summary.add_whole(block, row["minutes"])
            else:
                chosen = select_window(Whole(block, read(block)).walked(), since_ns, until_ns)
                if len(chosen):
                    inside.append(count_inside(block, chosen))
                    summary.add_part(chosen)
                    if sum(len(one.records) for one in selected.values()) < _HELD_BYTES:
                        selected[block.number] = chosen
        used = {one.number for one in inside}
        kept = tuple(block for block in blocks if block.number in used)
        layout = lay_out(inside, wanted)
        find = partial(self._files, [rows[number] for number in used])
        return Plan(since_ns, until_ns, layout, kept, places, tuple(inside), selected, summary, find, read)

    def _files(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
        """Describe the delivered files that blocks came from; only what arrived with them is looked at."""
        if not rows:
            return ()
        ids, moments = sorted({row["file_id"] for row in rows}), sorted({row["received_at"] for row in rows})
        with self._tables.reading_files(self._tenant, CAPTURE_FILES.key) as files:
            chosen = files.filter(
                pl.col("partition.received_date").is_in([moment.date() for moment in moments])
                & (pl.col("min.received_at") <= moments[-1])
                & (pl.col("max.received_at") >= moments[0])
            )
            read = [_columns_of(path) for path in chosen["path"]]
        found = [
            row
            for table in read
            for row in table.filter(pc.is_in(table["file_id"], pa.array(ids, pa.large_string()))).to_pylist()
        ]
        return tuple(sorted(found, key=itemgetter("received_at", "file_id")))

    def _reader(
        self, places: Mapping[int, Place], keys: Mapping[bytes, bytes]
    ) -> Callable[[Stored], memoryview]:
        """Give the function that opens a block; neighbours are read from disk together."""
        groups: OrderedDict[tuple[int, int], pa.ChunkedArray[Any]] = OrderedDict()
        last_rows: dict[tuple[int, int], int] = {}
        # What is decrypted lies here until it is decompressed: the same memory for every block.
        room = memoryview(bytearray(_ROOM_BYTES))
        for place in places.values():
            at = id(place.file), place.group
            last_rows[at] = max(place.row, last_rows.get(at, 0))

        def read(block: Stored) -> memoryview:
            place = places[block.number]
            at = id(place.file), place.group
            if at not in groups:
                if len(groups) == _HELD_GROUPS:
                    groups.popitem(last=False)
                read_group = place.file.read_row_group
                groups[at] = read_group(place.group, columns=["records"], use_threads=False)["records"]
            envelope = groups[at][place.row].as_buffer()
            if place.row == last_rows[at]:
                # Most often nobody asks for it again: the next one takes its place, not one beside it.
                del groups[at]
            sealed = memoryview(envelope).cast("B")
            return self._sealer.open_large_for_subject(
                CAPTURE_BLOCKS.key,
                "records",
                sealed,
                keys[place.subject_ref],
                uuid_bytes(place.block_id),
                room if len(sealed) <= len(room) else memoryview(bytearray(len(sealed))),
            )

        return read


@lru_cache(maxsize=_HELD_FOOTERS)
def _footer(path: str) -> pq.FileMetaData:
    """Give what a data file says of its row groups; it never changes, and the next export asks again."""
    return pq.read_metadata(path)


def one_ahead(parts: Iterator[memoryview]) -> Iterator[memoryview]:
    """Give parts, the next one in the making, in a thread, while the last one is used."""
    with ThreadPoolExecutor(1, "export") as worker:
        coming = worker.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = worker.submit(next, parts, None)
            yield part


def check_window(since: datetime, until: datetime) -> None:
    """Refuse a window that is none, or longer than an hour.

    Raises: UsageError; for a longer window it says how to split it.
    """
    if until <= since:
        raise UsageError("the window ends before it begins: windows are [from, to)")
    if until - since > LONGEST:
        starts = [since + LONGEST * at for at in range(-(-(until - since) // LONGEST))]
        shown = ", ".join(
            f"{one:%Y-%m-%dT%H:%M:%SZ} to {min(one + LONGEST, until):%Y-%m-%dT%H:%M:%SZ}" for one in starts[:3]
        )
        more = f" and {len(starts) - 3} more" if len(starts) > 3 else ""
        raise UsageError(f"at most one hour at a time; ask for {shown}{more}")


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def to_ns(moment: datetime) -> int:
    """Give nanoseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _rows_of(file: pq.ParquetFile, device_ref: str, since_ns: int, until_ns: int) -> Iterator[dict[str, Any]]:
    """Give a device's blocks of a window from one data file, each with its place."""
    heads = file.read(columns=["device_ref", "ts_min", "ts_max"], use_threads=False)
    is_wanted = pc.equal(heads["device_ref"], pa.scalar(device_ref, pa.large_string())).to_numpy()
    is_wanted &= (heads["ts_max"].to_numpy() >= since_ns) & (heads["ts_min"].to_numpy() < until_ns)
    wanted = np.flatnonzero(is_wanted)
    if not wanted.size:
        return
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    begins = np.cumsum([0, *sizes])
    groups = np.searchsorted(begins, wanted, side="right") - 1
    chosen = np.unique(groups)
    # Where each row is among those of the groups that are read.
    shifts = begins[:-1][chosen] - np.cumsum([0, *(sizes[group] for group in chosen[:-1])])
    clear = file.read_row_groups(chosen.tolist(), columns=_CLEAR, use_threads=False)
    rows = clear.take(wanted - shifts[np.searchsorted(chosen, groups)]).to_pylist()
    for row, group, at in zip(rows, groups.tolist(), (wanted - begins[groups]).tolist(), strict=True):
        yield {**row, "file": file, "group": group, "row": at}


def _columns_of(path: str) -> pa.Table:
    # A third of the time that `read_table` takes, which looks for a dataset first.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return file.read(columns=list(_FILE_COLUMNS), use_threads=False)


def _stored(number: int, row: Mapping[str, Any]) -> Stored:
    interface = Interface(row["interface"], row["link_type"], row["snaplen"], row["unit_ns"])
    names = ("era", "ts_min", "ts_max", "packets", "bytes_captured", "bytes_padded")
    return Stored(number, interface, *(row[name] for name in names))


def _place(row: Mapping[str, Any]) -> Place:
    names = ("file", "group", "row", "block_id", "subject_ref", "file_id")
    return Place(*(row[name] for name in names))


_FILE_COLUMNS = ("file_id", "received_at", "format", "status", "reason", "damage_offset")
