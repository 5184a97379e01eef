"""Community IDs: one short name for a flow that Zeek, Suricata, Wireshark and others give as well.

The endpoints are put in order, so that both directions have one name, and hashed with SHA-1 (as the
specification has it: the name joins tables, it protects nothing). Only distinct flows are hashed.

Source: corelight/community-id-spec, version 1; the pairs of ICMP types are those of Zeek, as its
README says and corelight/pycommunityid has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha1

import numpy as np
import polars as pl
import pyarrow as pa
import pybase64
from numpy.typing import NDArray

from transforms.capture.layers import ICMP, ICMPV6, SCTP, TCP, UDP, distinct_addresses
from transforms.capture.links import Fields, Mask
from transforms.capture.numbering import Numbers, number_values
from transforms.errors import UsageError

_ICMP_PAIRS = ((0, 8), (9, 10), (13, 14), (15, 16), (17, 18))
_ICMPV6_PAIRS = ((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145))
_WITH_PORTS, _WITH_ICMP = 1 << 32, 2 << 32
_WIDE = ("src_ip_high", "src_ip_low", "dst_ip_high", "dst_ip_low")
# Where the message is one way, or its partner is not known, its own code takes the port's place.
_NO_PARTNER = -1


def _partners() -> NDArray[np.int16]:
    """Shape: by protocol (0 for ICMP, 1 for ICMPv6) and type."""
    table = np.full((2, 256), _NO_PARTNER, np.int16)
    for row, pairs in enumerate((_ICMP_PAIRS, _ICMPV6_PAIRS)):
        for one, other in pairs:
            table[row, one], table[row, other] = other, one
    return table


_PARTNERS = _partners()


def community_ids(layers: pl.DataFrame, seed: int = 0) -> pl.Series:
    """Name the flow of each packet.

    Shape: what `read_layers` gives in; a String series `community_id` of as many rows out, null where
    there is no IP, or where a TCP, UDP, SCTP or ICMP packet does not show its ports or its type (a
    later fragment, a cut capture). Inner packets of tunnels do not count.
    Units: `seed` of 16 bits.
    Raises: UsageError for another seed.
    """
    codes, ids = distinct_flows(layers, seed)
    return ids.gather(codes) if len(ids) else ids.clear().extend_constant(None, layers.height)


def distinct_flows(layers: pl.DataFrame, seed: int = 0) -> tuple[pl.Series, pl.Series]:
    """Give each packet the number of its flow, and each flow its name, so that a caller works on flows only.

    Shape: as many numbers (Int64) as rows, null where `community_ids` is null; the names by number.
    Raises: UsageError for a seed of more than 16 bits.
    """
    if not 0 <= seed <= 0xFFFF:
        raise UsageError(f"a seed of {seed}; a community ID's seed has 16 bits")
    is_icmp = pl.col("protocol").is_in([ICMP, ICMPV6])
    has_ports = pl.col("protocol").is_in([TCP, UDP, SCTP])
    named = layers.select(
        (is_icmp & pl.col("icmp_code").is_not_null())
        | (has_ports & pl.col("src_port").is_not_null())
        | ~(is_icmp | has_ports)
    ).to_series()
    rows = named.fill_null(False).arg_true()
    if len(rows) == layers.height and len(rows):
        return _name_flows(layers, seed)
    whole = pl.Series("flow", [None], dtype=pl.Int64).new_from_index(0, layers.height)
    if not len(rows):
        return whole, pl.Series("community_id", [], dtype=pl.String)
    codes, ids = _name_flows(layers[rows], seed)
    return whole.scatter(rows, codes), ids


def words_of_directions(columns: Mapping[str, Fields], valid: Mapping[str, Mask]) -> list[NDArray[np.uint64]]:
    """Give what tells directions apart, as numbers of 64 bits; what is not valid is 0.

    A direction is what agrees in addresses, protocol and ports, or type and code.
    Shape: what `read_fields` gives in.
    """
    # Bits, from the lowest: ports or type and code 32, whether they are there 2, protocol 9, version 3.
    rest = (columns["src_port"].astype(np.int64) << 16) | columns["dst_port"] | _WITH_PORTS
    rest = np.where(valid["ports"], rest, 0)
    if valid["icmp"].any():
        icmp = (columns["icmp_type"].astype(np.int64) << 16) | columns["icmp_code"] | _WITH_ICMP
        rest = np.where(valid["icmp"], icmp, rest)
    protocol = np.where(valid["protocol"], columns["protocol"].astype(np.int64), 0x100)
    rest |= protocol << 34
    rest |= np.where(valid["ip"], columns["ip_version"].astype(np.int64), 0) << 43
    return [rest.view(np.uint64), *(np.where(valid["ip"], columns[name], np.uint64(0)) for name in _WIDE)]


def _name_flows(flows: pl.DataFrame, seed: int) -> tuple[pl.Series, pl.Series]:
    """Give each packet the number of its flow, and each flow its name."""
    (src, dst), distinct = distinct_addresses(flows)
    # Ranks compare as the addresses do, and are one number instead of sixteen bytes.
    order = _ranks(distinct)
    one, two = src.to_numpy().astype(np.int64), dst.to_numpy().astype(np.int64)
    protocol, version = _column(flows, "protocol"), _column(flows, "ip_version")
    port_one, port_two, one_way = _ports(flows, protocol)
    turned = (order[one] > order[two]) | ((one == two) & (port_one > port_two))
    turned &= ~one_way
    one, two = np.where(turned, two, one), np.where(turned, one, two)
    port_one, port_two = np.where(turned, port_two, port_one), np.where(turned, port_one, port_two)
    # Addresses, then what is left, then both together: three hash tables of 64-bit numbers.
    pair, pairs = number_values((one << 32) | two)
    rest, rests = number_values((version << 40) | (protocol << 32) | (port_one << 16) | port_two)
    flow, both = number_values((pair << 32) | rest)
    digests = _hash_flows(pairs[both >> 32], rests[both & 0xFFFF_FFFF], distinct, seed)
    return pl.Series(flow), _write_ids(digests)


def _column(flows: pl.DataFrame, name: str) -> Numbers:
    return flows[name].fill_null(0).to_numpy().astype(np.int64)


def _ranks(distinct: NDArray[np.uint8]) -> Numbers:
    """Rank addresses by their bytes."""
    halves = np.ascontiguousarray(distinct).view(">u8").astype(np.uint64)
    ranks = np.empty(len(halves), np.int64)
    ranks[np.lexsort((halves[:, 1], halves[:, 0]))] = np.arange(len(halves))
    return ranks


def _ports(flows: pl.DataFrame, protocol: Numbers) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Take the ports, or the types of an ICMP message and of its answer."""
    one, two = _column(flows, "src_port"), _column(flows, "dst_port")
    one_way = np.zeros(len(one), bool)
    for row, number in enumerate((ICMP, ICMPV6)):
        at = np.flatnonzero(protocol == number)
        if at.size:
            kind, code = _column(flows, "icmp_type")[at], _column(flows, "icmp_code")[at]
            partner = _PARTNERS[row, kind]
            one_way[at] = partner == _NO_PARTNER
            one[at], two[at] = kind, np.where(one_way[at], code, partner)
    return one, two, one_way


def _hash_flows(pairs: Numbers, rests: Numbers, distinct: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Hash seed, addresses, protocol, a zero, and ports where the protocol has them. Shape: 20 bytes each."""
    src, dst = distinct[pairs >> 32], distinct[pairs & 0xFFFF_FFFF]
    tail = np.zeros((len(rests), 6), np.uint8)
    protocol = (rests >> 32) & 0xFF
    tail[:, 0] = protocol
    for place in range(4):
        tail[:, 2 + place] = (rests >> (24 - 8 * place)) & 0xFF
    # Protocols other than these are named by their addresses alone, though some have ports.
    bare = ~np.isin(protocol, (TCP, UDP, SCTP, ICMP, ICMPV6))
    ends = np.where(bare, -4, 0)
    first = np.where(rests >> 40 == 4, 12, 0)
    head = np.broadcast_to(np.array([seed >> 8, seed & 0xFF], np.uint8), (len(rests), 2))
    digests = np.empty((len(rests), 20), np.uint8)
    # Four shapes of message, by version and by whether there are ports; each is one table of bytes.
    for start in (0, 12):
        for end in (0, -4):
            rows = np.flatnonzero((first == start) & (ends == end))
            parts = (head[rows], src[rows, start:], dst[rows, start:], tail[rows, : 6 + end])
            table = np.concatenate(parts, axis=1)
            messages = np.ascontiguousarray(table).view(f"V{table.shape[1]}").ravel().tolist()
            hashed = b"".join(one.digest() for one in map(sha1, messages))
            digests[rows] = np.frombuffer(hashed, np.uint8).reshape(-1, 20)
    return digests


def _write_ids(digests: NDArray[np.uint8]) -> pl.Series:
    """Write digests as the names of flows: `1:` and base64, all of them in one piece."""
    count = len(digests)
    # With a byte more they are thirds, so that none shares a letter with the next; the last letter,
    # which stands for that byte, is where padding belongs.
    padded = np.concatenate((digests, np.zeros((count, 1), np.uint8)), axis=1)
    names = np.empty((count, 30), np.uint8)
    names[:, :2] = np.frombuffer(b"1:", np.uint8)
    names[:, 2:] = np.frombuffer(pybase64.b64encode(padded.tobytes()), np.uint8).reshape(-1, 28)
    names[:, 29] = ord("=")
    ends = pa.py_buffer(np.arange(0, 30 * count + 1, 30, dtype=np.int64).data)
    texts = pa.Array.from_buffers(pa.large_string(), count, [None, ends, pa.py_buffer(names.reshape(-1).data)])
    return pl.Series("community_id", pl.from_arrow(texts))
