"""The packet table's rows: headers as they are, addresses as tokens, names as tokens, no payload.

Whatever repeats (addresses, flows, hours, blocks) is made once for each kind of packet, or for each distinct
value, and spread by codes; the columns stay dictionaries until they are in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.capture.blocks import Block, join_packets
from transforms.capture.decoding import Found, Said, decode_names
from transforms.capture.flows import FlowMasker
from transforms.capture.kinds import KindReader, Kinds
from transforms.capture.layers import distinct_addresses, fields_to_frame, format_macs, group_of
from transforms.capture.numbering import Numbers, numbers_of
from transforms.capture.packets import Packets
from transforms.coding import Column, constant, number_close, smallest_kind, spread, to_arrow, with_values
from transforms.pii.siv import SivKey, encrypt_column

# What decoding finds, by the column that its token stands in.
NAMES = ("dns_query", "tls_sni", "http_host", "dhcp_hostname")
_NUMBERS = {
    "ether_type": "ethertype",
    "ip_version": "ip_version",
    "protocol": "protocol",
    "src_port": "src_port",
    "dst_port": "dst_port",
    "tcp_flags": "tcp_flags",
    "icmp_type": "icmp_type",
    "icmp_code": "icmp_code",
    "ttl": "ttl",
    "is_fragment": "is_fragment",
}
_LENGTHS = ("captured", "original")
_MACS = ("src_mac", "dst_mac")
# Few enough to stay near the processor.
_JOINED_BYTES = 8 << 20
_TIME = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PacketKeys:
    """The keys of the packet table: a token key for each of its join domains, 32 bytes for prefixes."""

    tokens: Mapping[str, SivKey]
    prefixes: bytes


def hour_text(hour: int) -> str:
    """Name a packet hour, given in hours since 1970.

    >>> hour_text(0)
    '1970-01-01T00'
    """
    return f"{_EPOCH + timedelta(hours=hour):%Y-%m-%dT%H}"


@dataclass(frozen=True)
class Headers:
    """What is in the headers of packets, and the names that some tell in the clear.

    Shape: `names` has for each of `NAMES` the distinct ones, and each packet's number among them, -1 where
    it tells none; None where no packet does.
    """

    kinds: Kinds
    names: dict[str, tuple[NDArray[np.int32], list[str]] | None]


def read_headers(parts: Sequence[Packets], room: memoryview | None = None) -> Headers:
    """Read the headers of all packets, and the names that some tell in the clear.

    Units: `room` has `ROOM_BYTES` for each packet, and is free again afterwards; None for new memory.
    """
    rows = sum(map(len, parts))
    reader, first = KindReader(rows, room), 0
    names: dict[str, _Names] = {name: _Names(rows) for name in NAMES}
    asked: dict[bytes, Found | None] = {}
    for packets in _joined(parts):
        for said in decode_names(reader.read(packets), asked):
            for name in NAMES:
                names[name].add(said, name, first)
        first += len(packets)
    return Headers(reader.finish(), {name: one.told() for name, one in names.items()})


class _Names:
    """The names of one kind that packets tell, each with its number."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._numbers: dict[str, int] = {}
        self._told: list[tuple[Numbers, NDArray[np.int32]]] = []

    def add(self, said: Said, name: str, first: int) -> None:
        """Note who tells which name; the first packet has the number `first`."""
        numbers = self._numbers
        told = [one.get(name) for one in said.sayings]
        own = [-1 if text is None else numbers.setdefault(text, len(numbers)) for text in told]
        if max(own, default=-1) >= 0:
            self._told.append((said.rows + first, np.array(own, np.int32)[said.codes]))

    def told(self) -> tuple[NDArray[np.int32], list[str]] | None:
        """Give each packet's number, and the names by number."""
        if not self._told:
            return None
        codes = np.full(self._rows, -1, np.int32)
        for rows, own in self._told:
            codes[rows] = own
        return codes, list(self._numbers)


def _joined(parts: Sequence[Packets]) -> Iterator[Packets]:
    """Put small neighbours of one link type together: a look costs the same for few packets as for many."""
    gathered: list[Packets] = []
    for packets in parts:
        size = sum(len(one.records) for one in gathered) + len(packets.records)
        is_same = not gathered or gathered[0].interface.link_type == packets.interface.link_type
        if gathered and (size > _JOINED_BYTES or not is_same):
            yield join_packets(gathered)
            gathered = []
        gathered.append(packets)
    if gathered:
        yield join_packets(gathered)


class PacketMasker:
    """Makes packet rows; what it masked once it knows for as long as it lives."""

    def __init__(self, keys: PacketKeys) -> None:
        """Begin with nothing known."""
        self._keys = keys
        self._flows = FlowMasker(keys.tokens["ip"], keys.tokens["flow"], keys.prefixes)

    def mask(
        self, blocks: Sequence[Block], block_ids: Sequence[str], device_tokens: Sequence[str], headers: Headers
    ) -> pa.Table:
        """Make the rows of blocks.

        Shape: an id and the device's token for each block; `headers` are of the packets of the blocks, in
        their order. The result has a row for each packet, with all columns of the table but those that
        are the same for the whole batch.
        """
        kinds = headers.kinds
        columns: dict[str, Column] = _of_blocks(blocks, block_ids, device_tokens)
        columns |= {
            "record_offset": pa.array(
                np.concatenate([block.packets.starts[:-1].astype(np.int32) for block in blocks])
            ),
            "occurred_at": _moments(np.concatenate([block.packets.ts_ns // 1000 for block in blocks])),
            **_lengths(
                *(np.concatenate([block.packets.headers[name] for block in blocks]) for name in _LENGTHS)
            ),
            "payload_bytes": _sizes(kinds.payload_bytes),
        }
        columns |= {column: _numbers(kinds, name) for column, name in _NUMBERS.items()}
        columns |= self._addresses(kinds)
        columns |= {f"{name}_token": self._names(told, kinds) for name, told in headers.names.items()}
        return pa.table(columns)

    def _addresses(self, kinds: Kinds) -> dict[str, Column]:
        """Mask addresses and flows, each distinct one once."""
        fields = fields_to_frame({name: kinds.columns[name] for name in _MACS}, kinds.valid)
        codes, distinct = distinct_addresses(fields, _MACS)
        tokens = to_arrow(encrypt_column(format_macs(distinct), self._keys.tokens["mac"]))
        columns = {}
        for name, code in zip(_MACS, codes, strict=True):
            columns[f"{name}_token"] = spread(numbers_of(code), tokens, kinds.of_packets)
        ends = self._flows.mask(kinds.columns, kinds.valid)
        for side, numbers in (("src", ends.src), ("dst", ends.dst)):
            masked: Any = spread(numbers, ends.tokens, kinds.of_packets)
            columns[f"{side}_ip_token"] = masked
            # The same codes: their page is written once.
            columns[f"{side}_ip_prefix"] = with_values(masked, ends.prefixes)
        columns["community_id_token"] = spread(ends.flow, ends.flow_tokens, kinds.of_packets)
        return columns

    def _names(self, told: tuple[NDArray[np.int32], list[str]] | None, kinds: Kinds) -> Column:
        """Mask the names of one kind."""
        if told is None:
            return constant(None, pa.large_string(), len(kinds.of_packets))
        codes, names = told
        tokens = encrypt_column(pl.Series(names, dtype=pl.String), self._keys.tokens["host"])
        return spread(codes, to_arrow(tokens))


def _of_blocks(
    blocks: Sequence[Block], block_ids: Sequence[str], device_tokens: Sequence[str]
) -> dict[str, Column]:
    """Give the columns that say one thing for all packets of a block."""
    values: dict[str, tuple[Sequence[Any], pa.DataType]] = {
        "block_id": (block_ids, pa.large_string()),
        "device_token": (device_tokens, pa.large_string()),
        "packet_hour": ([hour_text(block.hour) for block in blocks], pa.large_string()),
        "event_hour": ([_EPOCH + timedelta(hours=block.hour) for block in blocks], _TIME),
        "link_type": ([block.packets.interface.link_type & 0xFFFF for block in blocks], pa.int32()),
    }
    columns, packets = {}, [len(block.packets) for block in blocks]
    for name, (each, kind) in values.items():
        encoded = pa.array(each, kind).dictionary_encode()
        narrow = encoded.indices.to_numpy().astype(smallest_kind(len(encoded.dictionary)))
        columns[name] = spread(np.repeat(narrow, packets), encoded.dictionary)
    return columns


def _moments(microseconds: NDArray[np.int64]) -> Column:
    return pa.array(microseconds).view(_TIME)


def _lengths(captured: NDArray[np.uint32], original: NDArray[np.uint32]) -> dict[str, Column]:
    """Give what was captured and what was on the wire; most often that is the same, and has the same codes."""
    found = number_close(captured) if captured.size and (captured == original).all() else None
    if found is None:
        return {
            "captured_bytes": pa.array(captured.astype(np.int32)),
            "original_bytes": pa.array(original.astype(np.int64)),
        }
    codes, distinct = found
    short: Any = spread(codes, pa.array(distinct.astype(np.int32)))
    long = with_values(short, short.dictionary.cast(pa.int64()))
    return {"captured_bytes": short, "original_bytes": long}


def _sizes(sizes: NDArray[np.int32]) -> Column:
    return pa.array(sizes, mask=sizes < 0) if sizes.min(initial=0) < 0 else pa.array(sizes)


def _numbers(kinds: Kinds, name: str) -> Column:
    """Give a number of the headers for each packet."""
    valid, column = kinds.valid[group_of(name)], kinds.columns[name]
    wanted = pa.bool_() if column.dtype == bool else pa.int32()
    if valid.all() and (column == column[:1]).all():
        return constant(column[0].item(), wanted, len(kinds.of_packets))
    # Of 16 bits at most.
    codes, distinct = cast("Any", number_close(column.view(np.uint8) if column.dtype == bool else column))
    known = codes if valid.all() else np.where(valid, codes.astype(np.int32), -1)
    return spread(known, pa.array(distinct).cast(wanted), kinds.of_packets)
