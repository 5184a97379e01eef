"""One batch of captures on its way into blocks: read, split by device, owner and hour, sealed, committed."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from stores.batch_steps import commit_of
from stores.devices import UNASSIGNED, Device, Devices, Kind
from stores.home import blake3_of
from stores.keys import TenantKeys
from stores.landing import SHARED, Batch
from stores.ledger import Counts, Delivery, Ledger
from stores.quarantine import Quarantine
from stores.sealing import Sealer
from stores.sealing_room import SealingRoom
from stores.tables import Tables
from transforms.capture.assigning import Claim, split_by_device
from transforms.capture.blocks import Block, cut_blocks, order_by_hour, take_packets
from transforms.capture.cutoff import cut_flows
from transforms.capture.kinds import ROOM_BYTES
from transforms.capture.layers import read_layers
from transforms.capture.packets import Packets
from transforms.capture.reading import Damage, Opening, Side, read_capture
from transforms.capture.rows import PacketKeys, PacketMasker, hour_text, read_headers
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, DOMAIN_FORMATS, QUARANTINE
from transforms.chunks import Fault
from transforms.pii.identities import (
    delivery_digest,
    digest_uuid,
    each_id,
    numbered_event_ids,
    uuid_bytes,
    uuid_texts,
)
from transforms.tables import TableSpec, with_arrival

# Blocks of so many plain bytes are committed together, as a multiple of the batch's chunk size.
_CHUNKS_AT_ONCE = 4
# Files whose digests are looked up together: few enough that what was read is still in memory.
_LOOKED_UP, _LOOKED_UP_BYTES = 256, 64 << 20
# Sealed blocks; a copy of all of them would cost as much as sealing them.
_LARGE_BYTES = 1 << 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class FileTally:
    """What is known of a delivered file while it is read."""

    number: int
    device: str
    digest: bytes
    size_bytes: int
    opening: Opening | None = None
    damage: Damage | None = None
    packets: int = 0
    stored: int = 0
    refused: int = 0
    blocks: int = 0
    bytes_captured: int = 0
    bytes_cut: int = 0
    flows: dict[str, int] = field(default_factory=dict)
    interfaces: set[int] = field(default_factory=set)
    first_ns: int | None = None
    last_ns: int | None = None
    sides: list[tuple[int, str, bytes]] = field(default_factory=list)

    @cached_property
    def id(self) -> str:
        """The file's id in tables."""
        return digest_uuid(self.digest)

    def count(self, packets: Packets) -> None:
        """Take packets that were read into account."""
        first, last = int(packets.ts_ns.min()), int(packets.ts_ns.max())
        self.packets += len(packets)
        self.bytes_captured += packets.bytes_captured
        self.interfaces.add(packets.interface.number)
        self.first_ns = first if self.first_ns is None else min(first, self.first_ns)
        self.last_ns = last if self.last_ns is None else max(last, self.last_ns)

    @property
    def bytes_quarantined(self) -> int:
        """What could not be read: the plain rest, or the file where its container is damaged."""
        if self.damage is None:
            return 0
        return self.size_bytes if self.damage.rest is None else len(self.damage.rest)

    @property
    def status(self) -> str:
        """complete, partial or rejected."""
        if self.damage is None:
            return "complete"
        return "partial" if self.opening is not None and self.packets else "rejected"


@dataclass(frozen=True)
class Sealed:
    """Blocks of a device on their way into the packet table, and the packets that they were cut from."""

    device_token: str
    blocks: Sequence[Block]
    block_ids: Sequence[str]
    packets: Packets


@dataclass
class Chunk:
    """What is committed together."""

    number: int
    blocks: list[dict[str, Any]] = field(default_factory=list)
    sealed: list[Sealed] = field(default_factory=list)
    files: list[FileTally] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    packets: int = 0
    refused: int = 0
    size_bytes: int = 0


class Masker:
    """Makes packet rows of one batch."""

    def __init__(self, keys: TenantKeys, tenant: str, room: SealingRoom) -> None:
        """Take the tenant's present keys, and memory that is free whenever rows are made."""
        token_keys = keys.token_keys(tuple(DOMAIN_FORMATS))
        self._packets = PacketMasker(PacketKeys(token_keys, keys.prefix_key()))
        self._tenant, self._room = tenant, room

    def mask(self, parts: Sequence[Sealed], arrival: tuple[datetime, str, int]) -> pa.Table:
        """Make the rows of blocks that arrived together; their addresses are masked once for all of them."""
        if not parts:
            return pa.table({})
        # Packets of one kind together: many small files are looked into as if they were one.
        parts = sorted(parts, key=lambda part: part.packets.interface.link_type)
        packets = [part.packets for part in parts]
        headers = read_headers(packets, self._room.offer(sum(map(len, packets)) * ROOM_BYTES))
        blocks = [block for part in parts for block in part.blocks]
        ids = [one for part in parts for one in part.block_ids]
        tokens = [part.device_token for part in parts for _ in part.blocks]
        return with_arrival(self._packets.mask(blocks, ids, tokens, headers), self._tenant, arrival)


class BatchSealing:
    """One batch on its way into blocks."""

    def __init__(
        self,
        batch: Batch,
        sealer: Sealer,
        registry: Devices,
        tables: Tables,
        ledger: Ledger,
        now: datetime,
        flow_bytes: int | None,
        room: SealingRoom,
        keep: Callable[[int, pa.Table], None],
    ) -> None:
        """Begin with nothing.

        `now` is the time that the commits bear; `flow_bytes` cuts long flows off; `room` is empty before and
        after; `keep` is given the masked rows of each chunk, by its number, once the chunk is committed.
        """
        self._batch, self._sealer, self._registry = batch, sealer, registry
        self._tables, self._ledger, self._now = tables, ledger, now
        self._flow_bytes, self._room, self._keep = flow_bytes, room, keep
        self._masker = Masker(self._sealer.keys, batch.tenant, room)
        self._known: dict[str, Device] = {}
        self._subject_keys: dict[tuple[str, int], tuple[bytes, bytes | None]] = {}
        self._digests: dict[int, bytes] = {}
        self._counted: dict[int, int] = {}
        self._chunk = Chunk(0)
        self._limit = _CHUNKS_AT_ONCE * batch.chunk_bytes
        self._block_key = sealer.keys.identity_key("block")

    def run(self) -> None:
        """Take every file that is new; count the others as duplicates, whole."""
        self._take_files()
        self._commit()

    def _take_files(self) -> None:
        key = self._sealer.keys.identity_key("delivery")
        if self._batch.devices:
            refs = {self._registry.ref(name) for name in self._batch.devices if name != SHARED}
            self._known = {device.id: device for device in self._registry.listing(list(refs))}
        for files in _together(self._batch.files()):
            digests = {number: delivery_digest(key, blake3_of(path)) for number, path in files.items()}
            self._digests |= digests
            for number, first in self._ledger.deliver(self._batch, digests).items():
                if (first.batch_id, first.file) == (self._batch.id, number):
                    device = self._batch.devices[number] if self._batch.devices else UNASSIGNED
                    path = files[number]
                    self._read(FileTally(number, device, digests[number], path.stat().st_size), path)
                else:
                    self._count_duplicate(number, first)

    def _count_duplicate(self, number: int, first: Delivery) -> None:
        """Count a file that came before, whole: in another batch, or earlier in this one."""
        is_ours = first.batch_id == self._batch.id
        rows = (self._counted[first.file] if is_ours else first.rows) or 1
        # Negative numbers stand for whole files, beside the chunks.
        self._ledger.add_chunk(self._batch.id, -1 - number, Counts(rows=rows, duplicates=rows))

    def _read(self, file: FileTally, path: Path) -> None:
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if file.size_bytes else b""
            for part in read_capture(mapped):
                if isinstance(part, Packets):
                    self._take(file, part)
                    if isinstance(mapped, mmap.mmap) and not self._chunk.packets:
                        # What has been committed stays in the system's cache, and is no more ours.
                        mapped.madvise(mmap.MADV_DONTNEED)
                elif isinstance(part, Opening):
                    file.opening = part
                elif isinstance(part, Side):
                    file.sides.append((part.offset, part.kind, part.content))
                else:
                    file.damage = part
                    place = Fault(file.number, file.packets, part.offset, part.reason, part.rest)
                    self._chunk.faults.append(place)
        self._chunk.files.append(file)
        self._counted[file.number] = file.packets + (file.damage is not None)

    def _take(self, file: FileTally, packets: Packets) -> None:
        """Seal packets for whom they belong to, and mask them."""
        file.count(packets)
        if self._flow_bytes is not None:
            packets, cut = cut_flows(packets, read_layers(packets), self._flow_bytes, file.flows)
            file.bytes_cut += cut
        refused_before = file.refused
        for device, number, chosen in self._split(file, packets):
            part = packets if chosen is None else take_packets(packets, chosen)
            self._seal(file, device, number, order_by_hour(part))
        self._chunk.packets += len(packets)
        self._chunk.refused += file.refused - refused_before
        self._chunk.size_bytes += len(packets.records)
        if self._chunk.size_bytes >= self._limit:
            self._commit()

    def _split(
        self, file: FileTally, packets: Packets
    ) -> Iterator[tuple[Device, int, np.ndarray[Any, Any] | None]]:
        """Give (device, ownership, packets' numbers) for everybody to whom some belong."""
        if file.device != SHARED:
            yield from self._split_by_owner(self._device(file.device), packets.ts_ns, None)
            return
        for at, chosen in split_by_device(read_layers(packets), packets.ts_ns, self._find_claims):
            device = self._registered[at] if at >= 0 else self._device(UNASSIGNED)
            yield from self._split_by_owner(device, packets.ts_ns, chosen)

    def _split_by_owner(
        self, device: Device, ts_ns: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any] | None
    ) -> Iterator[tuple[Device, int, np.ndarray[Any, Any] | None]]:
        """Packets belong to who had the device at their time."""
        if len(device.ownerships) == 1:
            yield device, 0, chosen
            return
        rows = np.arange(len(ts_ns)) if chosen is None else chosen
        begins = np.array([one.since_ns for one in device.ownerships[1:]])
        owner = np.searchsorted(begins, ts_ns[rows], side="right")
        for at in np.unique(owner).tolist():
            yield device, device.ownerships[at].number, rows[owner == at]

    @cached_property
    def _registered(self) -> list[Device]:
        return self._registry.listing()

    @cached_property
    def _addresses(self) -> dict[tuple[str, str], list[Claim]]:
        """Every registered address with its claims, by kind and pseudonym."""
        numbers = {device.ref: at for at, device in enumerate(self._registered)}
        found: dict[tuple[str, str], list[Claim]] = {}
        for one in self._registry.addresses():
            claim = Claim(numbers[one.device_ref], one.since_ns, one.until_ns)
            found.setdefault((one.kind, one.address_ref), []).append(claim)
        return found

    def _find_claims(self, kind: Kind, addresses: Sequence[str]) -> list[Sequence[Claim]]:
        if not self._addresses:
            return [()] * len(addresses)
        refs = self._registry.address_refs(kind, addresses)
        return [self._addresses.get((kind, ref), ()) for ref in refs]

    def _device(self, name: str) -> Device:
        if name not in self._known:
            self._known[name] = self._registry.register(name)
        return self._known[name]

    def _key_for(self, device: Device, number: int) -> tuple[bytes, bytes | None]:
        """Give an ownership's subject and its key, None where the owner was erased."""
        place = device.ref, number
        if place not in self._subject_keys:
            ref = self._registry.subject(device.id, number)
            self._subject_keys[place] = ref, self._sealer.subjects.keys_for([ref]).get(ref)
        return self._subject_keys[place]

    def _seal(self, file: FileTally, device: Device, number: int, packets: Packets) -> None:
        ref, key = self._key_for(device, number)
        if key is None:
            file.refused += len(packets)
            return
        blocks = list(cut_blocks(packets))
        numbers = range(file.blocks, file.blocks + len(blocks))
        ids = numbered_event_ids(self._block_key, file.digest, numbers)
        names: Any = uuid_texts(ids).to_pylist()
        file.blocks += len(blocks)
        file.stored += len(packets)
        sealed = self._sealer.seal_large_for_subjects(
            CAPTURE_BLOCKS.key,
            "records",
            [block.packets.records.data for block in blocks],
            [key] * len(blocks),
            each_id(ids),
            self._room,
        )
        for block, block_id, at, envelope in zip(blocks, names, numbers, sealed, strict=True):
            place = {"block_id": block_id, "block_number": at, "file_id": file.id, "records": envelope}
            self._chunk.blocks.append(
                {**place, "device_ref": device.ref, "subject_ref": ref, **_describe(block)}
            )
        self._chunk.sealed.append(Sealed(device.token, blocks, names, packets))

    def _commit(self) -> None:
        """Commit what has gathered, in the order in which a crash may leave it: quarantine, blocks, files."""
        chunk, batch = self._chunk, self._batch
        if not (chunk.files or chunk.packets):
            return
        commit = commit_of(batch, chunk.number, self._now)
        store = Quarantine(batch.tenant, self._tables, self._sealer, QUARANTINE)
        store.add(batch, chunk.faults, self._digests, commit)
        if chunk.blocks:
            self._tables.append(batch.tenant, CAPTURE_BLOCKS, self._block_rows(chunk), commit)
        if chunk.files:
            self._tables.append(batch.tenant, CAPTURE_FILES, self._file_rows(chunk), commit)
        self._ledger.count_deliveries(
            batch.id, {file.number: self._counted[file.number] for file in chunk.files}
        )
        faults = len(chunk.faults)
        counts = Counts(
            rows=chunk.packets + faults,
            accepted=chunk.packets - chunk.refused,
            quarantined=faults,
            refused=chunk.refused,
        )
        self._ledger.add_chunk(batch.id, chunk.number, counts)
        # The envelopes are on disk; those of the next chunk take the memory that they had.
        chunk.blocks.clear()
        self._room.clear()
        self._keep(chunk.number, self._masker.mask(chunk.sealed, self._arrival(chunk)))
        self._chunk = Chunk(chunk.number + 1)

    def _block_rows(self, chunk: Chunk) -> pa.Table:
        """Give the rows of a chunk's blocks; a device's stand together, in the order of time."""
        ordered = sorted(chunk.blocks, key=lambda row: (row["device_ref"], row["ts_min"]))
        return self._arrived(_rows_of(CAPTURE_BLOCKS, ordered), chunk)

    def _file_rows(self, chunk: Chunk) -> pa.Table:
        return self._arrived(_rows_of(CAPTURE_FILES, [self._described(one) for one in chunk.files]), chunk)

    def _arrived(self, rows: pa.Table, chunk: Chunk) -> pa.Table:
        """Add what the whole batch shares."""
        return with_arrival(rows, self._batch.tenant, self._arrival(chunk))

    def _arrival(self, chunk: Chunk) -> tuple[datetime, str, int]:
        return self._batch.received_at, self._batch.id, chunk.number

    def _described(self, file: FileTally) -> dict[str, object]:
        opening, is_classic = file.opening, file.opening is not None and file.opening.link_type >= 0
        return {
            "file_id": file.id,
            "file": file.number,
            "device_ref": None if file.device == SHARED else self._device(file.device).ref,
            "status": file.status,
            "reason": file.damage.reason if file.damage else None,
            "damage_offset": file.damage.offset if file.damage else None,
            "format": opening.format if opening else None,
            "byte_order": opening.byte_order if opening else None,
            "resolution": opening.resolution if opening else None,
            "format_version": opening.version if opening else None,
            "snaplen": opening.snaplen if opening and is_classic else None,
            "link_type": opening.link_type if opening and is_classic else None,
            "interfaces": len(file.interfaces),
            "first_at": _moment(file.first_ns),
            "last_at": _moment(file.last_ns),
            "packets": file.packets,
            "packets_stored": file.stored,
            "packets_refused": file.refused,
            "bytes_captured": file.bytes_captured,
            "bytes_file": file.size_bytes,
            "bytes_cut": file.bytes_cut,
            "bytes_quarantined": file.bytes_quarantined,
            "sides": len(file.sides),
            "side_blocks": self._sealed_sides(file),
        }

    def _sealed_sides(self, file: FileTally) -> bytes | None:
        """Seal what is no packet for who had the device at the file's last packet."""
        if not file.sides:
            return None
        device = self._device(UNASSIGNED if file.device == SHARED else file.device)
        last = file.last_ns if file.last_ns is not None else 0
        number = [one.number for one in device.ownerships if one.since_ns <= last or not one.number][-1]
        _, key = self._key_for(device, number)
        if key is None:
            return None
        content, record_id = msgspec.msgpack.encode(file.sides), uuid_bytes(file.id)
        (sealed,) = self._sealer.seal_for_subjects(
            CAPTURE_FILES.key, "side_blocks", [content], [key], [record_id]
        )
        return sealed


def _together(files: Sequence[tuple[int, Path, str]]) -> Iterator[dict[int, Path]]:
    """Give files by their numbers, small ones many at a time: each group is looked up at once."""
    group: dict[int, Path] = {}
    size = 0
    for number, path, _ in files:
        group[number] = path
        size += path.stat().st_size
        if size >= _LOOKED_UP_BYTES or len(group) == _LOOKED_UP:
            yield group
            group, size = {}, 0
    if group:
        yield group


def _rows_of(spec: TableSpec, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Give rows as columns of the table's types; what the batch shares is added later."""
    names = [one.name for one in spec.columns if rows and one.name in rows[0]]
    kinds = [spec.schema.field(name).type for name in names]
    columns = [_column_of([row[name] for row in rows], kind) for name, kind in zip(names, kinds, strict=True)]
    return pa.table(columns, names)


def _column_of(values: list[Any], kind: pa.DataType) -> pa.Array[Any] | pa.ChunkedArray[Any]:
    """Give values as a column; large ones stay where they are, each a chunk of its own."""
    if kind != pa.large_binary() or max(map(len, filter(None, values)), default=0) < _LARGE_BYTES:
        return pa.array(values, kind)
    chunks: list[Any] = []
    for value in values:
        ends = pa.py_buffer(np.array([0, len(value)], np.int64).data)
        chunks.append(pa.Array.from_buffers(kind, 1, [None, ends, pa.py_buffer(value)]))
    joined: pa.ChunkedArray[Any] = pa.chunked_array(chunks)
    return joined


def _describe(block: Block) -> dict[str, object]:
    """Give a block's columns that are in clear."""
    one = block.packets.interface
    return {
        "packet_hour": hour_text(block.hour),
        "interface": one.number,
        "link_type": one.link_type,
        "snaplen": one.snaplen,
        "unit_ns": one.unit_ns,
        "era": block.packets.era,
        "ts_min": block.ts_min,
        "ts_max": block.ts_max,
        "ts_sorted": block.is_sorted,
        "packets": len(block.packets),
        "bytes_captured": block.bytes_captured,
        "bytes_original": block.bytes_original,
        "bytes_padded": block.bytes_padded,
        "minutes": block.minutes,
    }


def _moment(ns: int | None) -> datetime | None:
    """Give a time as the tables have it; None also for one that a calendar cannot hold."""
    return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)
