"""How much of each packet an anonymised capture keeps: headers that are understood, and no more.

Whatever is behind the last header that we know how to rewrite is cut off; what is not understood at
all keeps nothing. So an address that hides where nobody looked for it is not in the result.

Source: RFC 826 (ARP), RFC 792, 4443 and 4861 (ICMP), RFC 8684 (Multipath TCP).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.capture.layers import (
    DCCP,
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
)
from transforms.capture.links import ARP, MPLS, Fields, Ints, Mask, lay_out
from transforms.capture.packets import HEADER_BYTES, Packets

Octets: TypeAlias = "NDArray[np.uint8]"
Columns: TypeAlias = "dict[str, Fields]"
Masks: TypeAlias = "dict[str, Mask]"

ETHERNET, COOKED, COOKED_2 = 1, 113, 276
RARP = 0x8035
ARP_BYTES = 28
_PPP = (9, 50)
# Link headers that hold no addresses, or hold them where they are rewritten. IEEE 802.11 has up to four.
_KEPT_LINKS = (0, 9, 12, 14, 50, 51, 101, 104, 108, ETHERNET, COOKED, 228, 229, COOKED_2)
_LINK_BYTES = {ETHERNET: 14, COOKED: 16, COOKED_2: 20, **dict.fromkeys(_PPP, 4)}
# Of IPv4 over Ethernet, which alone is rewritten: hardware type 1 or 6, lengths 6 and 4.
_ARP_HEADS = (0x0001_0800_0604, 0x0006_0800_0604)

# What is kept of a transport header; TCP keeps its options, but see `_cut_options`.
_KEPT = np.zeros(256, np.int64)
_KEPT[[TCP, UDP, UDPLITE, SCTP, DCCP, ICMP, ICMPV6, GRE]] = 60, 8, 8, 12, 12, 8, 8, 4
_ICMP_CHECKED = 4
# The types whose second four bytes are numbers (or, in a redirect, an address that is rewritten).
_ICMP_TYPES = np.isin(np.arange(256), (0, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18))
_ICMPV6_TYPES = np.isin(np.arange(256), (1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143))
_ECHO = {ICMP: (0, 8), ICMPV6: (128, 129)}
# Payloads that are known to carry addresses: names, leases, tunnels, discovery, signalling.
_TELLING_PORTS = (
    (21, 53, 67, 68, 137, 138, 546, 547, 1701, 1900, 2152, 3544, 3702, 4789, 4790, 5060, 5353, 5355, 6081, 8472)
)  # fmt: skip
# TCP options that hold numbers only, with the most bytes that they have: no operation, segment size,
# window scale, selective acknowledgement permitted and given, timestamps.
_OPTIONS = np.zeros(256, np.int64)
_OPTIONS[[1, 2, 3, 4, 5, 8]] = 1, 4, 3, 2, 34, 10
_TIMESTAMPS_ONLY = 0x0101_080A


def measure_kept(packets: Packets, columns: Columns, valid: Masks, keep_payload: bool) -> Ints:
    """Say how many bytes of each record are kept, the 16 of its header counted.

    Shape: the packets and what `read_fields` gave for them in, one number for each packet out.
    """
    kept = np.full(len(packets), HEADER_BYTES, np.int64)
    if packets.interface.link_type & 0xFFFF not in _KEPT_LINKS:
        return kept
    l3 = columns["l3_offset"].astype(np.int64)
    kept = np.where(valid["l3_offset"], l3, kept)
    arp = find_arp(packets, columns, valid)
    kept[arp] += ARP_BYTES
    is_ipv4 = columns["ip_version"] == 4
    fixed = l3 + np.where(is_ipv4, 20, 40)
    l4 = columns["l4_offset"].astype(np.int64)
    # IPv6 extension headers can hold addresses; a fragment header alone, of eight bytes, does not.
    follows = valid["protocol"] & (is_ipv4 | (l4 == fixed) | (columns["is_fragment"] & (l4 == fixed + 8)))
    kept = np.where(valid["ip"], np.where(follows, l4, fixed), kept)
    whole = follows & valid["payload"]
    protocol = columns["protocol"]
    header = np.minimum(columns["payload_offset"] - l4, _KEPT[protocol])
    kept = np.where(whole, kept + header, kept)
    _cut_unknown_icmp(columns, whole, kept)
    _cut_options(packets, l4, np.flatnonzero(whole & (protocol == TCP) & (header > 20)), kept)
    # Behind MPLS labels a frame can look like IP by chance, and what looks so is not rewritten right.
    labelled = valid["ethertype"] & (columns["ethertype"] == MPLS)
    link_type = packets.interface.link_type & 0xFFFF
    size = _LINK_BYTES.get(link_type, 0)
    if link_type in _PPP:
        labelled = l3 > HEADER_BYTES + size
    kept = np.where(labelled, np.minimum(kept, HEADER_BYTES + size), kept)
    if keep_payload:
        # Where something of the header was cut already, the payload goes with it.
        uncut = kept == columns["payload_offset"]
        rows = np.flatnonzero(whole & uncut & _is_free(columns, valid))
        kept[rows] = columns["payload_offset"][rows] + columns["payload_bytes"][rows]
    return kept


def find_arp(packets: Packets, columns: Columns, valid: Masks) -> NDArray[np.intp]:
    """Find the packets with a whole ARP body (or RARP) for IPv4 over Ethernet, by their numbers."""
    ethertype = columns["ethertype"]
    rows = np.flatnonzero(valid["ethertype"] & ((ethertype == ARP) | (ethertype == RARP)))
    places = packets.starts[rows] + columns["l3_offset"][rows]
    inside = places + ARP_BYTES <= packets.starts[rows + 1]
    rows, places = rows[inside], places[inside]
    heads = gather(packets.records, places, np.dtype(">u8")) >> np.uint64(16)
    return rows[np.isin(heads, _ARP_HEADS)]


def gather(octets: Octets, places: Ints, fields: np.dtype[Any]) -> Fields:
    """Copy the bytes at each place, all of which are there, and see them as fields."""
    if not len(places):
        return np.empty(0, fields)
    windows: Fields = np.ndarray(
        (len(octets) - fields.itemsize + 1,), f"V{fields.itemsize}", octets, strides=(1,)
    )
    return windows[places].view(fields)


def _cut_unknown_icmp(columns: Columns, whole: Mask, kept: Ints) -> None:
    for protocol, known in ((ICMP, _ICMP_TYPES), (ICMPV6, _ICMPV6_TYPES)):
        rows = np.flatnonzero(whole & (columns["protocol"] == protocol))
        # A later fragment has no header here, and nothing of it was kept.
        rows = rows[(columns["payload_offset"] > columns["l4_offset"])[rows]]
        kept[rows[~known[columns["icmp_type"][rows]]]] -= _KEPT[protocol] - _ICMP_CHECKED


def _cut_options(packets: Packets, l4: Ints, rows: NDArray[np.intp], kept: Ints) -> None:
    """Cut a TCP header's options behind those that are known to be numbers.

    Multipath TCP announces addresses in an option, and some proxies put their client's into one.
    """
    at = packets.starts[rows] + l4[rows] + 20
    ends = packets.starts[rows] + kept[rows]
    plain = (ends - at == 12) & (gather(packets.records, at, np.dtype(">u4")) == _TIMESTAMPS_ONLY)
    rows, at, ends = rows[~plain], at[~plain], ends[~plain]
    option = lay_out(2, kind=("u1", 0), length=("u1", 1))
    # Each step passes at least one byte of at most 40.
    while rows.size:
        head = gather(packets.records, np.minimum(at, ends - 2), option)
        size = np.where(head["kind"] == 1, 1, np.maximum(head["length"], 2))
        known = (size <= _OPTIONS[head["kind"]]) & (at + size <= ends) & (at + 1 < ends)
        known |= (at + 1 == ends) & (head["length"] == 1)  # one that fills the header's last byte
        kept[rows[~known]] -= (ends - at)[~known]
        at = at + np.where(at + 1 == ends, 1, size)
        on = known & (at < ends)
        rows, at, ends = rows[on], at[on], ends[on]


def _is_free(columns: Columns, valid: Masks) -> Mask:
    """Whether a payload may be kept where that is asked for: no fragment, and not known to tell addresses."""
    protocol = columns["protocol"]
    free = np.isin(protocol, (TCP, UDP)) & valid["ports"] & ~columns["is_fragment"]
    free &= ~np.isin(columns["src_port"], _TELLING_PORTS) & ~np.isin(columns["dst_port"], _TELLING_PORTS)
    for number, types in _ECHO.items():
        free |= (protocol == number) & valid["icmp"] & np.isin(columns["icmp_type"], types)
    return free
