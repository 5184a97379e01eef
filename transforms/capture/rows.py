"""The packet table's rows: headers as they are, addresses as tokens, names as tokens, no payload.

Whatever repeats (addresses, hours, blocks) is made once for each distinct value and spread by codes;
the columns stay dictionaries until they are in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.capture.blocks import Block, join_packets, slice_packets
from transforms.capture.community import distinct_flows, number_directions
from transforms.capture.decoding import Said, decode_names
from transforms.capture.layers import (
    CHUNK_PACKETS,
    distinct_addresses,
    fields_to_frame,
    format_ips,
    format_macs,
    group_of,
    read_fields,
)
from transforms.capture.links import Fields, Mask
from transforms.capture.packets import Interface, Packets
from transforms.capture.prefixes import encrypt_prefixes
from transforms.pii.siv import SivKey, encrypt_column

Column: TypeAlias = "pa.Array[Any]"

# What decoding finds, by the column that its token stands in.
NAMES = ("dns_query", "tls_sni", "http_host", "dhcp_hostname")
_NUMBERS = {
    "ethertype": "ether_type",
    "ip_version": "ip_version",
    "protocol": "protocol",
    "src_port": "src_port",
    "dst_port": "dst_port",
    "tcp_flags": "tcp_flags",
    "icmp_type": "icmp_type",
    "icmp_code": "icmp_code",
    "ttl": "ttl",
    "payload_bytes": "payload_bytes",
}
# Few enough to stay near the processor.
_JOINED_BYTES = 8 << 20
_CUT_PACKETS = 8 * CHUNK_PACKETS
_HALVES = ("src_ip_high", "dst_ip_high")
_OF_FLOWS = (
    "ip_version",
    "src_ip_high",
    "src_ip_low",
    "dst_ip_high",
    "dst_ip_low",
    "protocol",
    "src_port",
    "dst_port",
    "icmp_type",
    "icmp_code",
)
_KEPT = (*dict.fromkeys((*_OF_FLOWS, *_NUMBERS, "src_mac", "dst_mac", "is_fragment")),)
# Once they are read, numbers have the type that they have in the table.
_KINDS = dict.fromkeys(_NUMBERS, np.int32)
_NONE = Packets(Interface(0, 1, 0, 1000), np.empty(0, np.uint8), np.zeros(1, np.int64))
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

    Shape: `columns` and `valid` as `read_fields` gives them, for all packets in order, without offsets;
    the halves of addresses that are all 0 are left out. `names` has for each of `NAMES` the distinct
    ones, and each packet's number among them, -1 where it tells none.
    """

    columns: dict[str, Fields]
    valid: dict[str, Mask]
    names: dict[str, tuple[NDArray[np.int32], list[str]]]


def read_headers(parts: Sequence[Packets]) -> Headers:
    """Read the headers of all packets, and the names that some tell in the clear."""
    rows = sum(map(len, parts))
    columns: dict[str, Fields] = {}
    valid: dict[str, Mask] = {}
    names: dict[str, _Names] = {name: _Names(rows) for name in NAMES}
    first = 0
    for packets in _joined(parts):
        fields, known = read_fields(packets)
        cut = slice(first, first + len(packets))
        for name in _KEPT:
            if name not in columns and name in _HALVES and not fields[name].any():
                continue
            if name not in columns:
                columns[name] = np.zeros(rows, _KINDS.get(name, fields[name].dtype))
            columns[name][cut] = fields[name]
        for group, mask in known.items():
            if group not in valid:
                valid[group] = np.zeros(rows, bool)
            valid[group][cut] = mask
        for said in decode_names(packets, fields, known):
            for name in NAMES:
                names[name].add(said, name, first)
        first += len(packets)
    found = {name: (one.codes, list(one.numbers)) for name, one in names.items()}
    if not columns:
        columns, valid = read_fields(_NONE)
    return Headers(columns, valid, found)


class _Names:
    """The names of one kind that packets tell, each with its number."""

    def __init__(self, rows: int) -> None:
        self.codes = np.full(rows, -1, np.int32)
        self.numbers: dict[str, int] = {}

    def add(self, said: Said, name: str, first: int) -> None:
        """Note who tells which name; the first packet has the number `first`."""
        numbers = self.numbers
        told = [one.get(name) for one in said.sayings]
        own = [-1 if text is None else numbers.setdefault(text, len(numbers)) for text in told]
        if max(own, default=-1) >= 0:
            self.codes[said.rows + first] = np.array(own, np.int32)[said.codes]


def _joined(parts: Sequence[Packets]) -> Iterator[Packets]:
    """Put small neighbours of one link type together, and cut large ones.

    A frame costs the same for few packets as for many, until it does not fit near the processor.
    """
    gathered: list[Packets] = []
    for packets in parts:
        size = sum(len(one.records) for one in gathered) + len(packets.records)
        is_same = not gathered or gathered[0].interface.link_type == packets.interface.link_type
        if gathered and (size > _JOINED_BYTES or not is_same):
            yield from _cut(join_packets(gathered))
            gathered = []
        gathered.append(packets)
    if gathered:
        yield from _cut(join_packets(gathered))


def _cut(packets: Packets) -> Iterator[Packets]:
    for first in range(0, len(packets), _CUT_PACKETS):
        yield slice_packets(packets, first, min(first + _CUT_PACKETS, len(packets)))


def mask_packets(
    blocks: Sequence[Block],
    block_ids: Sequence[str],
    device_tokens: Sequence[str],
    headers: Headers,
    keys: PacketKeys,
) -> pa.Table:
    """Make the rows of blocks.

    Shape: an id and the device's token for each block; `headers` are of the packets of the blocks, in
    their order. The result has a row for each packet, with all columns of the table but those that
    are the same for the whole batch.
    """
    counts = [len(block.packets) for block in blocks]
    of_block = np.repeat(np.arange(len(blocks), dtype=np.int32), counts)
    records = np.concatenate([block.packets.headers for block in blocks])
    offsets = np.concatenate([block.packets.starts[:-1].astype(np.int32) for block in blocks])
    hours = np.array([block.hour for block in blocks], np.int64)
    link_types = np.array([block.packets.interface.link_type & 0xFFFF for block in blocks], np.int32)
    devices = {token: number for number, token in enumerate(dict.fromkeys(device_tokens))}
    of_device = np.array([devices[token] for token in device_tokens], np.int32)
    columns: dict[str, Column] = {
        "block_id": _spread(of_block, pa.array(block_ids, pa.large_string())),
        "device_token": _spread(of_device[of_block], pa.array(devices, pa.large_string())),
        "record_offset": pa.array(offsets),
        "packet_hour": _hours(blocks, of_block),
        "occurred_at": _moments(np.concatenate([block.packets.ts_ns // 1000 for block in blocks])),
        "event_hour": _moments((hours * 3_600_000_000)[of_block]),
        "link_type": pa.array(link_types[of_block]),
        "captured_bytes": pa.array(records["captured"].astype(np.int32)),
        "original_bytes": pa.array(records["original"].astype(np.int64)),
        "is_fragment": pa.array(headers.columns["is_fragment"], mask=~headers.valid["ip"]),
    }
    for name, column in _NUMBERS.items():
        columns[column] = _numbers(headers.columns[name], headers.valid[group_of(name)])
    columns |= _addresses(headers, keys)
    for name, (codes, texts) in headers.names.items():
        tokens = encrypt_column(pl.Series(name, texts, dtype=pl.String), keys.tokens["host"])
        columns[f"{name}_token"] = _spread(codes, _texts(tokens))
    return pa.table(columns)


def _hours(blocks: Sequence[Block], of_block: NDArray[np.int32]) -> Column:
    """Name each packet's hour; a dictionary where there is one, since rows are not parted by a dictionary."""
    hours = pa.array([hour_text(block.hour) for block in blocks], pa.large_string())
    distinct = hours.unique()
    return _spread(np.zeros(len(of_block), np.int32), distinct) if len(distinct) == 1 else hours.take(of_block)


def _moments(microseconds: NDArray[np.int64]) -> Column:
    return pa.array(microseconds).view(pa.timestamp("us", tz="UTC"))


def _numbers(column: Fields, valid: Mask) -> Column:
    """Give numbers as a column without a copy."""
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").data)
    made: Column = pa.Array.from_buffers(pa.int32(), len(column), [bitmap, pa.py_buffer(column.data)])
    return made


def _spread(codes: NDArray[np.int32], distinct: Column) -> Column:
    """Give a column by codes into its distinct values; a code below 0 is a null."""
    spread: Column = pa.DictionaryArray.from_arrays(cast("Any", _numbers(codes, codes >= 0)), distinct)
    return spread


def _texts(values: pl.Series) -> Column:
    return values.to_arrow(compat_level=pl.CompatLevel.oldest())


def _codes(numbers: pl.Series) -> NDArray[np.int32]:
    """Give numbers with -1 for a null."""
    return numbers.cast(pl.Int32).fill_null(-1).to_numpy()


def _addresses(headers: Headers, keys: PacketKeys) -> dict[str, Column]:
    """Mask addresses and flows, each distinct one once.

    A flow's Community ID is a token too: a bare one is a digest that can be guessed.
    """
    directions, firsts = number_directions(headers.columns, headers.valid)
    columns = _hardware_addresses(headers, directions, firsts, keys.tokens["mac"])
    flows = _taken(headers, _OF_FLOWS, firsts)
    codes, distinct = distinct_addresses(flows, ("src_ip", "dst_ip"))
    tokens = _texts(encrypt_column(format_ips(distinct), keys.tokens["ip"]))
    prefixes = _texts(format_ips(encrypt_prefixes(distinct, keys.prefixes)))
    for side, code in zip(("src", "dst"), codes, strict=True):
        spread = _codes(code)[directions]
        columns[f"{side}_ip_token"] = _spread(spread, tokens)
        columns[f"{side}_ip_prefix"] = _spread(spread, prefixes)
    code, ids = distinct_flows(flows)
    tokens = _texts(encrypt_column(ids, keys.tokens["flow"]))
    columns["community_id_token"] = _spread(_codes(code)[directions], tokens)
    return columns


def _hardware_addresses(
    headers: Headers, directions: NDArray[np.int64], firsts: NDArray[np.int64], key: SivKey
) -> dict[str, Column]:
    """Mask hardware addresses; most often those of a direction's first packet are those of all."""
    names = ("src_mac", "dst_mac")
    is_same = all(
        (column[firsts][directions] == column).all()
        for column in (*(headers.columns[name] for name in names), *(headers.valid[name] for name in names))
    )
    layers = _taken(headers, names, firsts if is_same else slice(None))
    codes, distinct = distinct_addresses(layers, names)
    tokens = _texts(encrypt_column(format_macs(distinct), key))
    spread = [_codes(code)[directions] if is_same else _codes(code) for code in codes]
    return {f"{name}_token": _spread(code, tokens) for name, code in zip(names, spread, strict=True)}


def _taken(headers: Headers, names: Sequence[str], rows: NDArray[np.int64] | slice) -> pl.DataFrame:
    """Give some columns of some packets as a frame; halves that were left out are 0."""
    count = len(headers.valid["ip"][rows])
    columns = {
        name: headers.columns[name][rows] if name in headers.columns else np.zeros(count, np.uint64)
        for name in names
    }
    return fields_to_frame(columns, {group: mask[rows] for group, mask in headers.valid.items()})
