"""The packet table's rows: headers as they are, addresses as tokens, names as tokens, no payload.

Whatever repeats (addresses, hours, blocks) is made once for each distinct value and spread by codes;
the columns stay dictionaries until they are in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.capture.blocks import Block, join_packets
from transforms.capture.community import distinct_flows
from transforms.capture.decoding import decode_packets
from transforms.capture.layers import distinct_addresses, format_ips, format_macs, read_layers
from transforms.capture.packets import Packets
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


def read_headers(parts: Sequence[Packets]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the headers of all packets, and the names that some tell in the clear.

    Shape: what `read_layers` gives, a row for each packet in order; of `decode_packets` the column `row`
    (the packet's number among all) and `NAMES`.
    """
    layers, names, first = [], [], 0
    for packets in _joined(parts):
        layers.append(read_layers(packets))
        found = decode_packets(packets, layers[-1]).select("row", *NAMES)
        names.append(found.with_columns(pl.col("row").cast(pl.Int64) + first))
        first += len(packets)
    return pl.concat(layers, rechunk=True), pl.concat(names)


def _joined(parts: Sequence[Packets]) -> Iterator[Packets]:
    """Put small neighbours of one link type together: a frame costs the same for few packets as for many."""
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


def mask_packets(
    blocks: Sequence[Block],
    block_ids: Sequence[str],
    device_tokens: Sequence[str],
    layers: pl.DataFrame,
    names: pl.DataFrame,
    keys: PacketKeys,
) -> pa.Table:
    """Make the rows of blocks.

    Shape: an id and the device's token for each block; `layers` has a row for each packet of the
    blocks, in their order; `names` the few packets in which names were found (`row` and `NAMES`). The
    result has a row for each packet, with all columns of the table but those that are the same for the
    whole batch.
    """
    counts = [len(block.packets) for block in blocks]
    of_block = np.repeat(np.arange(len(blocks), dtype=np.int32), counts)
    ts = np.concatenate([block.packets.ts_ns for block in blocks])
    headers = np.concatenate([block.packets.headers for block in blocks])
    offsets = np.concatenate([block.packets.starts[:-1] for block in blocks])
    hours = np.array([block.hour for block in blocks], np.int64)
    link_types = np.array([block.packets.interface.link_type & 0xFFFF for block in blocks], np.int32)
    columns: dict[str, Column] = {
        "block_id": _spread(of_block, pa.array(block_ids, pa.large_string())),
        "device_token": _spread(of_block, pa.array(device_tokens, pa.large_string())),
        "record_offset": pa.array(offsets.astype(np.int32)),
        "packet_hour": pa.array([hour_text(block.hour) for block in blocks], pa.large_string()).take(of_block),
        "occurred_at": _moments(ts // 1000),
        "event_hour": _moments((hours * 3_600_000_000)[of_block]),
        "link_type": pa.array(link_types[of_block]),
        "captured_bytes": pa.array(headers["captured"].astype(np.int32)),
        "original_bytes": pa.array(headers["original"].astype(np.int64)),
        "is_fragment": layers["is_fragment"].to_arrow(),
    }
    for name, column in _NUMBERS.items():
        columns[column] = layers[name].cast(pl.Int32).to_arrow()
    columns |= _addresses(layers, keys)
    columns["community_id_token"] = _flows(layers, keys.tokens["flow"])
    columns |= _names(names, len(ts), keys.tokens["host"])
    return pa.table(columns)


def _moments(microseconds: NDArray[np.int64]) -> Column:
    return pa.array(microseconds).view(pa.timestamp("us", tz="UTC"))


def _spread(codes: NDArray[np.int32] | pl.Series, distinct: Column) -> Column:
    """Give a column by codes into its distinct values; a null code is a null."""
    indices: Any = codes.cast(pl.Int32).to_arrow() if isinstance(codes, pl.Series) else pa.array(codes)
    spread: Column = pa.DictionaryArray.from_arrays(indices, distinct)
    return spread


def _texts(values: pl.Series) -> Column:
    return values.to_arrow(compat_level=pl.CompatLevel.oldest())


def _addresses(layers: pl.DataFrame, keys: PacketKeys) -> dict[str, Column]:
    """Mask the addresses, each distinct one once."""
    columns: dict[str, Column] = {}
    codes, macs = distinct_addresses(layers, ("src_mac", "dst_mac"))
    tokens = _texts(encrypt_column(format_macs(macs), keys.tokens["mac"]))
    for side, code in zip(("src", "dst"), codes, strict=True):
        columns[f"{side}_mac_token"] = _spread(code, tokens)
    codes, ips = distinct_addresses(layers, ("src_ip", "dst_ip"))
    tokens = _texts(encrypt_column(format_ips(ips), keys.tokens["ip"]))
    prefixes = _texts(format_ips(encrypt_prefixes(ips, keys.prefixes)))
    for side, code in zip(("src", "dst"), codes, strict=True):
        columns[f"{side}_ip_token"] = _spread(code, tokens)
        columns[f"{side}_ip_prefix"] = _spread(code, prefixes)
    return columns


def _flows(layers: pl.DataFrame, key: SivKey) -> Column:
    """Give each packet its flow's Community ID as a token: a bare one is a digest that can be guessed."""
    codes, ids = distinct_flows(layers)
    return _spread(codes, _texts(encrypt_column(ids, key)))


def _names(names: pl.DataFrame, rows: int, key: SivKey) -> dict[str, Column]:
    """Spread the tokens of the few names over all packets."""
    columns: dict[str, Column] = {}
    for name in NAMES:
        found = names.select("row", name).drop_nulls()
        distinct = found[name].unique(maintain_order=True)
        codes = np.full(rows, -1, np.int32)
        numbered = found.join(
            pl.DataFrame({name: distinct, "code": pl.Series(range(len(distinct)), dtype=pl.Int32)}),
            on=name,
            maintain_order="left",
        )
        codes[numbered["row"].to_numpy()] = numbered["code"].to_numpy()
        spread = pl.Series(codes).to_frame("code").select(pl.when(pl.col("code") >= 0).then(pl.col("code")))
        columns[f"{name}_token"] = _spread(spread.to_series(), _texts(encrypt_column(distinct, key)))
    return columns


def constant(value: object, kind: pa.DataType, rows: int) -> Column:
    """Give a column that holds one value throughout."""
    return _spread(np.zeros(rows, np.int32), pa.array([value], kind))
