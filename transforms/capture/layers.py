"""What stands in packets' headers, as columns: one row a packet, all packets of a chunk at once.

Nothing is decoded packet by packet. The bytes of a header are gathered for 16,384 packets together
and cut into fields; VLAN tags and IPv6 extension headers are followed for the few that have them.
A field that the capture does not hold (cut short, another protocol) is null and never an error.

Source: RFC 791, 8200, 4302, 9293, 768, 792, 4443, 9260, 4340, 2784.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.capture.links import (
    IPV4,
    IPV6,
    LINKS,
    SLACK,
    Chunk,
    Fields,
    Ints,
    Link,
    Mask,
    lay_out,
)
from transforms.capture.packets import HEADER_BYTES, Packets

# So many headers stay near the processor while their fields are cut out of them; fewer cost more
# calls for each packet, more leave the cache (measured: 4,096 and 65,536 are both slower).
CHUNK_PACKETS = 16_384
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
DCCP, GRE, SCTP, UDPLITE, AH, FRAGMENT = 33, 47, 132, 136, 51, 44
MOST_EXTENSIONS = 6
_MAPPED = np.uint64(0xFFFF_0000_0000)  # ::ffff:0:0/96
# Each column, and by group where it is not null.
Columns: TypeAlias = "tuple[dict[str, Fields], dict[str, Mask]]"


_IP = lay_out(
    40,
    first=("u1", 0),
    total=(">u2", 2),
    fragment=(">u2", 6),
    ttl=("u1", 8),
    protocol=("u1", 9),
    src=(">u4", 12),
    dst=(">u4", 16),
    payload=(">u2", 4),
    next=("u1", 6),
    hops=("u1", 7),
    src_high=(">u8", 8),
    src_low=(">u8", 16),
    dst_high=(">u8", 24),
    dst_low=(">u8", 32),
)
_TRANSPORT = lay_out(
    20,
    src_port=(">u2", 0),
    dst_port=(">u2", 2),
    type=("u1", 0),
    code=("u1", 1),
    dccp_words=("u1", 4),
    words=("u1", 12),
    flags=("u1", 13),
)


def _table(chosen: dict[int, int]) -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[list(chosen)] = list(chosen.values())
    return table


_HAS_PORTS = _table(dict.fromkeys((TCP, UDP, DCCP, SCTP, UDPLITE), 1)).astype(bool)
_IS_ICMP = _table({ICMP: 1, ICMPV6: 1}).astype(bool)
# Extension headers, with the unit of their length field; a fragment header has 8 bytes always.
_UNITS = _table({0: 8, 43: 8, 60: 8, FRAGMENT: 8, AH: 4})
# What has to be captured before a payload can begin; where the length varies, its shortest.
_LEAST_HEADER = _table({TCP: 20, UDP: 8, UDPLITE: 8, SCTP: 12, ICMP: 8, ICMPV6: 8, DCCP: 12, GRE: 4})

# Each column, its type, and the group of columns that are null together with it.
_COLUMNS: dict[str, tuple[type[np.generic], str]] = {
    "src_mac": (np.uint64, "src_mac"),
    "dst_mac": (np.uint64, "dst_mac"),
    "ethertype": (np.uint16, "ethertype"),
    "l3_offset": (np.int32, "l3_offset"),
    "ip_version": (np.uint8, "ip"),
    "src_ip_high": (np.uint64, "ip"),
    "src_ip_low": (np.uint64, "ip"),
    "dst_ip_high": (np.uint64, "ip"),
    "dst_ip_low": (np.uint64, "ip"),
    "ttl": (np.uint8, "ip"),
    "is_fragment": (np.bool_, "ip"),
    "protocol": (np.uint8, "protocol"),
    "l4_offset": (np.int32, "protocol"),
    "src_port": (np.uint16, "ports"),
    "dst_port": (np.uint16, "ports"),
    "tcp_flags": (np.uint8, "tcp_flags"),
    "icmp_type": (np.uint8, "icmp"),
    "icmp_code": (np.uint8, "icmp"),
    "payload_offset": (np.int32, "payload"),
    "payload_bytes": (np.int32, "payload"),
}


def read_layers(packets: Packets) -> pl.DataFrame:
    """Read the headers of each packet, from the link layer to the transport layer.

    Shape: one row a packet, in order. `src_mac`, `dst_mac` (UInt64, the lower 48 bits); `ethertype`
    (behind VLAN tags); `ip_version`; `src_ip_high`, `src_ip_low`, `dst_ip_high`, `dst_ip_low` (UInt64,
    the halves of the 16 bytes, IPv4 as ::ffff:a.b.c.d); `ttl` (or hop limit); `is_fragment`;
    `protocol` (behind IPv6 extension headers); `src_port`, `dst_port`; `tcp_flags`; `icmp_type`,
    `icmp_code` (of ICMPv6 as well). The IP columns are there when the whole fixed header was captured,
    ports with their four bytes, never in a later fragment.
    Units: `l3_offset`, `l4_offset`, `payload_offset` in bytes from the record's start, its 16-byte
    header counted; `payload_bytes` is what was captured of the payload, padding and frame check
    sequence left out. Link types that are not understood give nulls.
    """
    return fields_to_frame(*read_fields(packets))


def read_fields(packets: Packets) -> Columns:
    """Read what `read_layers` does, as plain arrays: each column, and where its group is not null.

    Shape: columns by name; masks by group: `ip` for what an IP header says, `ports`, `icmp`, `payload`,
    `protocol` (with `l4_offset`), else the column's own name. Where a mask is false, a column holds
    anything.
    """
    return read_spans(packets.records, packets.starts[:-1], packets.starts[1:], packets.interface.link_type)


def read_inner_layers(packets: Packets, rows: Ints, offsets: Ints, link_type: int) -> pl.DataFrame:
    """Read what a tunnel carries, as if it were a packet of its own.

    Shape: `rows` are numbers of packets, rising, and `offsets` the places from each record's start
    where the inner packet begins, all of one link type; the columns are those of `read_layers`, one
    row for each of `rows`.
    Units: the offset columns count from each record's start as well.
    """
    starts, ends = packets.starts[rows] + offsets - HEADER_BYTES, packets.starts[rows + 1]
    layers = fields_to_frame(*read_spans(packets.records, starts, ends, link_type))
    moved = pl.Series("moved", offsets - HEADER_BYTES).cast(pl.Int32)
    return layers.with_columns(pl.col("l3_offset", "l4_offset", "payload_offset") + moved)


def read_spans(octets: NDArray[np.uint8], starts: Ints, ends: Ints, link_type: int) -> Columns:
    """Read what `read_fields` does of the records that begin and end at some places."""
    rows = len(starts)
    columns = {name: np.zeros(rows, kind) for name, (kind, _) in _COLUMNS.items()}
    valid = {group: np.zeros(rows, bool) for _, group in _COLUMNS.values()}
    read_link = LINKS.get(link_type & 0xFFFF)
    if read_link is not None:
        for first in range(0, rows, CHUNK_PACKETS):
            cut = slice(first, first + CHUNK_PACKETS)
            chunk = Chunk(
                *with_slack(octets, starts[cut], ends[cut]),
                {name: column[cut] for name, column in columns.items()},
                {group: mask[cut] for group, mask in valid.items()},
            )
            _read_network(chunk, read_link(chunk))
    return columns, valid


def fields_to_frame(columns: dict[str, Fields], valid: dict[str, Mask]) -> pl.DataFrame:
    """Turn what `read_fields` gave, or some columns of it, into what `read_layers` gives; without a copy."""
    return pl.DataFrame({name: _series(column, valid[group_of(name)]) for name, column in columns.items()})


def frame_to_fields(layers: pl.DataFrame) -> Columns:
    """Turn what `read_layers` gave into what `read_fields` gives; nulls are 0."""
    columns = {one.name: one.fill_null(False if one.dtype == pl.Boolean else 0).to_numpy() for one in layers}
    return columns, {group_of(one.name): one.is_not_null().to_numpy() for one in layers}


def group_of(name: str) -> str:
    """Give the group of columns together with which a column of `read_fields` is null."""
    return _COLUMNS[name][1]


def with_slack(octets: NDArray[np.uint8], starts: Ints, ends: Ints) -> tuple[NDArray[np.uint8], Ints, Ints]:
    """Copy the last records out, so that a gather may reach behind the last byte."""
    if ends[-1] + len(SLACK) <= len(octets):
        return octets, starts, ends
    origin = int(starts[0])
    return np.concatenate((octets[origin : ends[-1]], SLACK)), starts - origin, ends - origin


def _series(column: Fields, valid: Mask) -> pl.Series:
    """Lay a column over the numbers without a copy; polars and numpy agree on them but for bits."""
    if column.dtype == bool:
        column = np.packbits(column, bitorder="little")
        kind: pa.DataType = pa.bool_()
    else:
        kind = pa.from_numpy_dtype(column.dtype)
    bitmap = None if valid.all() else _buffer(np.packbits(valid, bitorder="little"))
    array = pa.Array.from_buffers(kind, len(valid), [bitmap, _buffer(column)])
    return pl.Series(pl.from_arrow(array))


def _buffer(array: Fields) -> pa.Buffer:
    return pa.py_buffer(cast("bytes", array))  # any object with a buffer; the stubs know fewer


# -- the network layer --------------------------------------------------------------------------


@dataclass
class _Network:
    """What the transport layer needs: where it begins and ends, and which it is.

    `known` is false where no protocol can be told, `later` true where no header of it follows.
    """

    l4: Ints
    stop: Ints
    protocol: NDArray[np.uint8]
    known: Mask
    later: Mask


def _read_network(chunk: Chunk, link: Link) -> None:
    chunk.put("l3_offset", link.l3 - chunk.starts, link.l3 <= chunk.ends)
    head = chunk.gather(chunk.bounded(link.l3), _IP)
    left = chunk.ends - link.l3
    is_ipv4 = (link.network == IPV4) & ((head["first"] & 0xF0) == 0x40) & (left >= 20)
    is_ipv4 &= (head["first"] & 0x0F) >= 5
    is_ipv6 = (link.network == IPV6) & ((head["first"] & 0xF0) == 0x60) & (left >= 40)
    chunk.valid["ip"][:] = is_ipv4 | is_ipv6
    network = _read_ipv4(chunk, link.l3, head, is_ipv4)
    if is_ipv6.any():
        _read_ipv6(chunk, link.l3, head, np.flatnonzero(is_ipv6), network)
    network.known &= network.l4 <= network.stop
    chunk.put("protocol", network.protocol, network.known)
    chunk.columns["l4_offset"][:] = network.l4 - chunk.starts
    _read_transport(chunk, network)


def _read_ipv4(chunk: Chunk, l3: Ints, head: Fields, is_ipv4: Mask) -> _Network:
    """Read all rows as IPv4, since nearly all are; what is not is overwritten or null."""
    columns = chunk.columns
    columns["ip_version"][:] = 4
    columns["src_ip_low"][:] = head["src"] | _MAPPED
    columns["dst_ip_low"][:] = head["dst"] | _MAPPED
    columns["ttl"][:] = head["ttl"]
    fragment = head["fragment"].astype(np.uint16)
    columns["is_fragment"][:] = (fragment & 0x3FFF) != 0
    size = (head["first"] & 0x0F).astype(np.int64) * 4
    total = head["total"].astype(np.int64)
    # A length of 0 is what a network card that segments by itself leaves behind.
    # Never beyond what was captured, so that padding and frame check sequence are no payload.
    stop = np.where(total >= size, np.minimum(chunk.ends, l3 + total), chunk.ends)
    later = (fragment & 0x1FFF) != 0
    return _Network(l3 + size, stop, head["protocol"].copy(), is_ipv4, later)


def _read_ipv6(chunk: Chunk, l3: Ints, heads: Fields, rows: Ints, network: _Network) -> None:
    head, columns = heads[rows], chunk.columns
    columns["ip_version"][rows] = 6
    for name in ("src", "dst"):
        columns[f"{name}_ip_high"][rows] = head[f"{name}_high"]
        columns[f"{name}_ip_low"][rows] = head[f"{name}_low"]
    columns["ttl"][rows] = head["hops"]
    columns["is_fragment"][rows] = False
    payload = head["payload"].astype(np.int64)
    l4 = l3[rows] + 40
    # A length of 0 is a jumbogram (RFC 2675) or, as above, a card's doing.
    network.stop[rows] = np.where(payload > 0, np.minimum(chunk.ends[rows], l4 + payload), chunk.ends[rows])
    network.l4[rows] = l4
    network.protocol[rows] = head["next"]
    network.known[rows] = True
    network.later[rows] = False
    _skip_extensions(chunk, rows, network)


def _skip_extensions(chunk: Chunk, rows: Ints, network: _Network) -> None:
    """Step over IPv6 extension headers; a longer chain keeps the number of the header it stops at."""
    for _ in range(MOST_EXTENSIONS):
        rows = rows[(_UNITS[network.protocol[rows]] > 0) & ~network.later[rows]]
        if not rows.size:
            return
        places, kind = network.l4[rows], network.protocol[rows]
        cut = places + 8 > network.stop[rows]
        network.known[rows[cut]] = False
        rows, places, kind = rows[~cut], places[~cut], kind[~cut]
        octets = chunk.gather(places, np.dtype("4u1"))
        length = octets[:, 1].astype(np.int64)
        is_fragment = kind == FRAGMENT
        step = np.where(kind == AH, (length + 2) * 4, np.where(is_fragment, 8, (length + 1) * 8))
        offset = (octets[:, 2].astype(np.uint16) << 8) | octets[:, 3]
        chunk.columns["is_fragment"][rows] |= is_fragment & ((offset & 0xFFF9) != 0)
        network.later[rows] = is_fragment & ((offset & 0xFFF8) != 0)
        network.protocol[rows] = octets[:, 0]
        network.l4[rows] = places + step
        network.known[rows] = network.l4[rows] <= network.stop[rows]
        rows = rows[network.known[rows]]


# -- the transport layer ------------------------------------------------------------------------


def _read_transport(chunk: Chunk, network: _Network) -> None:
    columns, valid = chunk.columns, chunk.valid
    protocol = network.protocol
    head = chunk.gather(chunk.bounded(network.l4), _TRANSPORT)
    left = network.stop - network.l4
    begins = network.known & ~network.later
    columns["src_port"][:] = head["src_port"]
    columns["dst_port"][:] = head["dst_port"]
    valid["ports"][:] = begins & _HAS_PORTS[protocol] & (left >= 4)
    is_tcp = begins & (protocol == TCP)
    chunk.put("tcp_flags", head["flags"], is_tcp & (left >= 14))
    columns["icmp_type"][:] = head["type"]
    columns["icmp_code"][:] = head["code"]
    valid["icmp"][:] = begins & _IS_ICMP[protocol] & (left >= 2)
    size = np.where(network.later, 0, _LEAST_HEADER[protocol]).astype(np.int64)
    _vary_sizes(head, protocol, network.later, size)
    payload = network.l4 + size
    columns["payload_offset"][:] = payload - chunk.starts
    columns["payload_bytes"][:] = network.stop - payload
    valid["payload"][:] = network.known & (payload <= network.stop)


def _vary_sizes(head: Fields, protocol: NDArray[np.uint8], later: Mask, size: Ints) -> None:
    """Put in the sizes of headers that tell their own; a size below the least is no header's."""
    is_tcp = (protocol == TCP) & ~later
    told = (head["words"] >> 4).astype(np.int64) * 4
    np.copyto(size, np.where(told >= 20, told, 1 << 40), where=is_tcp)
    rows = np.flatnonzero(((protocol == GRE) | (protocol == DCCP)) & ~later)
    if rows.size:
        # GRE: a checksum, a key and a sequence number of 4 bytes each, as its first bits tell.
        bits = head["type"][rows]
        gre = 4 + 4 * ((bits >> 7) + ((bits >> 5) & 1) + ((bits >> 4) & 1)).astype(np.int64)
        dccp = head["dccp_words"][rows].astype(np.int64) * 4
        size[rows] = np.where(protocol[rows] == GRE, gre, np.where(dccp >= 12, dccp, 1 << 40))


# -- distinct addresses -------------------------------------------------------------------------


def distinct_addresses(
    layers: pl.DataFrame, names: Sequence[str] = ("src_ip", "dst_ip")
) -> tuple[list[pl.Series], NDArray[np.uint8]]:
    """Give numbers to the addresses of some columns, so that a caller works on distinct values only.

    Shape: for each of `names` ("src_ip", "dst_ip", "src_mac", "dst_mac"; all IP or all MAC) a UInt32
    series of codes, null where the address is; and the distinct addresses, one row of 16 or 6 bytes
    each in network order, numbered through all of the columns together. What was made of them, as a
    series, spreads to the packets by `made.gather(codes)`.
    """
    rows = layers.height
    is_ip = f"{names[0]}_low" in layers.columns
    low = pl.concat([layers[f"{name}_low" if is_ip else name].rename("low") for name in names])
    high = pl.concat([layers[f"{name}_high"].rename("high") for name in names]) if is_ip else None
    if high is not None and (high > 0).any():
        codes, octets = _number_wide(high, low)
    else:
        codes, octets = _number_narrow(low)
    codes = codes.rename("code")
    return [codes.slice(turn * rows, rows) for turn in range(len(names))], octets[:, 0 if is_ip else 10 :]


def _number_narrow(low: pl.Series) -> tuple[pl.Series, NDArray[np.uint8]]:
    encoded = low.rechunk().to_arrow().dictionary_encode()
    values = encoded.dictionary.to_numpy(zero_copy_only=False)
    pairs = np.zeros((len(values), 2), ">u8")
    pairs[:, 1] = values
    return _codes(encoded), pairs.view(np.uint8)


def _number_wide(high: pl.Series, low: pl.Series) -> tuple[pl.Series, NDArray[np.uint8]]:
    # The bytes in network order, 16 to a row, are what arrow numbers; each of its rows is hashed once.
    pairs = np.empty((len(low), 2), ">u8")
    pairs[:, 0] = high.fill_null(0).to_numpy()
    pairs[:, 1] = low.fill_null(0).to_numpy()
    bitmap = _buffer(np.packbits(low.is_not_null().to_numpy(), bitorder="little"))
    array = pa.Array.from_buffers(pa.binary(16), len(low), [bitmap, _buffer(pairs)])
    encoded = array.dictionary_encode()
    octets = np.frombuffer(b"".join(cast("list[bytes]", encoded.dictionary.to_pylist())), np.uint8)
    return _codes(encoded), octets.reshape(-1, 16)


def _codes(encoded: pa.DictionaryArray[Any, Any]) -> pl.Series:
    return pl.Series(pl.from_arrow(encoded.indices)).cast(pl.UInt32)


def format_ips(distinct: NDArray[np.uint8]) -> pl.Series:
    r"""Write addresses as text, IPv4 with dots and IPv6 as RFC 5952 has it.

    Shape: rows of 16 bytes in; String out, in the same order.

    >>> mapped = bytes(10) + bytes((255, 255, 192, 0, 2, 7))
    >>> format_ips(np.frombuffer(mapped + bytes(15) + b"\1", np.uint8).reshape(2, 16)).to_list()
    ['192.0.2.7', '::1']
    """
    octets = np.ascontiguousarray(distinct).reshape(-1, 16)
    halves = octets.view(">u8")
    is_ipv4 = (halves[:, 0] == 0) & (halves[:, 1] >> np.uint64(32) == 0xFFFF)
    parts = pl.DataFrame(octets[:, 12:], schema=["a", "b", "c", "d"])
    texts: pl.Series = parts.select(pl.concat_str(pl.all().cast(pl.String), separator=".").alias("ip"))["ip"]
    rows = np.flatnonzero(~is_ipv4)
    if rows.size:
        # Python's spelling is that of RFC 5952, but for addresses that carry an IPv4 one.
        written = [str(ipaddress.IPv6Address(octets[row].tobytes())) for row in rows.tolist()]
        texts = texts.scatter(pl.Series(rows), pl.Series(written, dtype=pl.String))
    return texts


def format_macs(distinct: NDArray[np.uint8]) -> pl.Series:
    """Write hardware addresses as text: six bytes in lower-case hexadecimal with colons.

    Shape: rows of 6 bytes in; String out, in the same order.

    >>> format_macs(np.array([[2, 0, 94, 16, 0, 255]], np.uint8)).to_list()
    ['02:00:5e:10:00:ff']
    """
    text = np.ascontiguousarray(distinct).tobytes().hex(":")
    return pl.Series("mac", [text[at : at + 17] for at in range(0, len(text), 18)], dtype=pl.String)
