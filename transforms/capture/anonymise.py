"""Packets that may leave: addresses encrypted with their prefixes kept, payloads cut, checksums right.

What is kept of a packet is its headers (see `cuts`). In them IP addresses are encrypted so that common
prefixes stay common, hardware addresses are permuted, and checksums are changed by what changed: a
good one stays good and a bad one bad, also where the payload that it covers is cut.

Source: RFC 1624, equation 3 (incremental update of a checksum); RFC 768 (a UDP checksum of 0 is none).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.capture.cuts import (
    COOKED,
    COOKED_2,
    ETHERNET,
    Columns,
    Masks,
    Octets,
    find_arp,
    gather,
    measure_kept,
)
from transforms.capture.layers import (
    CHUNK_PACKETS,
    DCCP,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    UDPLITE,
    distinct_addresses,
    fields_to_frame,
    read_fields,
)
from transforms.capture.links import Fields, Ints, lay_out
from transforms.capture.macs import KEY_BYTES as MAC_KEY_BYTES
from transforms.capture.macs import permute_macs
from transforms.capture.packets import HEADER, HEADER_BYTES, Packets
from transforms.capture.prefixes import KEY_BYTES as IP_KEY_BYTES
from transforms.capture.prefixes import encrypt_cryptopan, encrypt_prefixes
from transforms.errors import UsageError

Rows: TypeAlias = "NDArray[np.intp]"
Sums: TypeAlias = "NDArray[np.uint32]"
Codes: TypeAlias = "NDArray[np.uint32]"
Scheme: TypeAlias = Literal["ipcrypt-pfx", "cryptopan"]

_SCHEMES: dict[str, Callable[[Octets, bytes], Octets]] = {
    "ipcrypt-pfx": encrypt_prefixes,
    "cryptopan": encrypt_cryptopan,
}
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
_WORD = np.uint32(0xFFFF)
_REDIRECT = 5
# Where a checksum over the addresses too stands in its header.
_SUM_AT = np.zeros(256, np.int64)
_SUM_AT[[TCP, UDP, UDPLITE, DCCP, ICMPV6]] = 16, 6, 6, 6, 2
# Where Linux' cooked headers have their one address, of up to eight bytes.
_COOKED_MAC_AT = {COOKED: 6, COOKED_2: 12}
_NO_OPERATION = 1
# Beyond so many different lengths in a chunk, copying packet by packet is no slower than by length.
_MOST_LENGTHS = 128

_IPV4_TAIL = lay_out(10, checksum=(">u2", 0), src=(">u4", 2), dst=(">u4", 6))
_IPV6_TAIL = lay_out(32, src_high=(">u8", 0), src_low=(">u8", 8), dst_high=(">u8", 16), dst_low=(">u8", 24))
_WORD_FIELD = np.dtype(">u2")


@dataclass(frozen=True)
class AnonymiseKeys:
    """The keys of one anonymised release; whoever has them can turn IP addresses back.

    Units: `ip` and `mac` of 32 bytes each.
    Raises: UsageError for other lengths.
    """

    ip: bytes = field(repr=False)
    mac: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the lengths, once and here."""
        if len(self.ip) != IP_KEY_BYTES or len(self.mac) != MAC_KEY_BYTES:
            raise UsageError(f"the keys to anonymise with have {IP_KEY_BYTES} and {MAC_KEY_BYTES} bytes")


@dataclass(frozen=True)
class _Table:
    """What each distinct IP address becomes, and by how much a checksum over it changes."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    change: Sums
    src: Codes
    dst: Codes


def anonymise_packets(
    packets: Packets, keys: AnonymiseKeys, keep_payload: bool = False, scheme: Scheme = "ipcrypt-pfx"
) -> Packets:
    """Anonymise packets: the same packets in the same order, with less in them.

    Shape: packets out with times and original lengths as they were and captured lengths cut. Kept are
    the link header, the IP header (options overwritten), and of the transport header: TCP with the
    options that are known to be numbers, UDP, UDP-Lite and ICMP 8 bytes, SCTP and DCCP 12, GRE 4; ARP
    bodies for IPv4 over Ethernet. What follows is cut, among it inner packets of tunnels, packets
    quoted in ICMP errors, neighbour discovery's options, and IPv6 extension headers other than a
    fragment's. Of an unknown ethertype the link header is kept, of other link types (IEEE 802.11 as
    well) nothing: their captured length is 0. All IP addresses are encrypted, special ones too.

    `keep_payload` keeps what TCP, UDP and ICMP echo carry, but for ports whose protocols are known to
    tell addresses (DNS, DHCP, tunnels ...). What else stands in a payload stands in the result.
    `scheme` is how IP addresses are encrypted: both keep prefixes, "cryptopan" is for older captures.
    Raises: UsageError for another scheme, and what the scheme raises for its key.
    """
    if scheme not in _SCHEMES:
        raise UsageError(f"no scheme {scheme!r}; there are {', '.join(_SCHEMES)}")
    columns, valid = read_fields(packets)
    kept = measure_kept(packets, columns, valid, keep_payload)
    encrypt = _encryptor(scheme, keys.ip)
    # Addresses are few and packets many: each distinct one is encrypted once, then looked up.
    layers = fields_to_frame(columns, valid)
    table = _encrypt_table(*distinct_addresses(layers), encrypt)
    codes, macs = distinct_addresses(layers, ("dst_mac", "src_mac"))
    new_macs = permute_macs(macs, keys.mac)
    arp = find_arp(packets, columns, valid)
    records, starts = _copy_beginnings(packets, kept)
    result = _Rewriting(records, starts, kept, columns, valid)
    link_type = packets.interface.link_type & 0xFFFF
    dst, src = (code.fill_null(0).to_numpy() for code in codes)
    for first in range(0, len(packets), CHUNK_PACKETS):
        cut = slice(first, first + CHUNK_PACKETS)
        result.rewrite_ip(cut, table)
        result.rewrite_macs(cut, link_type, new_macs, dst[cut], src[cut])
    result.rewrite_redirects(encrypt)
    result.rewrite_arp(arp[kept[arp] > columns["l3_offset"][arp]], encrypt, keys.mac)
    return Packets(packets.interface, records, starts, packets.era)


def _encryptor(scheme: str, key: bytes) -> Callable[[Octets], Octets]:
    return lambda addresses: _SCHEMES[scheme](addresses, key)


def _encrypt_table(codes: Sequence[Any], distinct: Octets, encrypt: Callable[[Octets], Octets]) -> _Table:
    made = encrypt(distinct)
    words = made.view(">u8").astype(np.uint64).reshape(-1, 2)
    src, dst = (code.fill_null(0).to_numpy() for code in codes)
    return _Table(words[:, 0], words[:, 1], _change(distinct, made), src, dst)


def _change(old: Octets, new: Octets) -> Sums:
    """Sum up, word by word, what is taken from a sum and what is put in."""
    was, now = (np.ascontiguousarray(octets).view(">u2").astype(np.uint32) for octets in (old, new))
    change: Sums = ((_WORD - was) + now).sum(axis=1, dtype=np.uint32)
    return change


def _update(checksum: Fields, change: Fields) -> NDArray[np.uint32]:
    """Change a checksum (RFC 1624, equation 3)."""
    total = (_WORD - checksum.astype(np.uint32)) + change
    # Two folds do: a change is the sum of at most 36 words, of twice 16 bits each.
    for _ in range(2):
        total = (total & _WORD) + (total >> np.uint32(16))
    folded: NDArray[np.uint32] = _WORD - total
    return folded


# -- copying ------------------------------------------------------------------------------------


def _copy_beginnings(packets: Packets, kept: Ints) -> tuple[Octets, Ints]:
    """Copy the beginning of each record, and write how much of it was captured."""
    starts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=starts[1:])
    records = np.empty(starts[-1], np.uint8)
    for first in range(0, len(kept), CHUNK_PACKETS):
        rows = np.arange(first, min(first + CHUNK_PACKETS, len(kept)))
        # Records of one length are one gather; a stable sort keeps them near to each other in memory.
        order = rows[np.argsort(kept[rows].astype(np.uint32), kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(kept[order])) + 1)
        if len(groups) > _MOST_LENGTHS:
            _copy_each(packets, rows, kept, records, starts)
            continue
        for group in groups:
            whole = np.dtype(f"V{kept[group[0]]}")
            _scatter(records, starts[group], gather(packets.records, packets.starts[group], whole))
    captured = (kept - HEADER_BYTES).astype(HEADER["captured"])
    _scatter(records, starts[:-1] + HEADER.fields["captured"][1], captured)  # type: ignore[index]
    return records, starts


def _copy_each(packets: Packets, rows: Rows, kept: Ints, records: Octets, starts: Ints) -> None:
    source = packets.records.data
    begins = packets.starts[rows]
    spans = zip(begins.tolist(), (begins + kept[rows]).tolist(), strict=True)
    joined = b"".join([source[begin:end] for begin, end in spans])
    records[starts[rows[0]] : starts[rows[-1] + 1]] = np.frombuffer(joined, np.uint8)


def _scatter(octets: Octets, places: Ints, values: Fields) -> None:
    """Write values over the bytes at their places."""
    if not len(places):
        return
    size = values.dtype.itemsize
    windows = np.ndarray((len(octets) - size + 1,), f"V{size}", octets, strides=(1,))
    windows[places] = np.ascontiguousarray(values).view(f"V{size}")


# -- rewriting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rewriting:
    """The copied beginnings, and what is known of the packets that they are from."""

    records: Octets
    starts: Ints
    kept: Ints
    columns: Columns
    valid: Masks

    def rewrite_ip(self, cut: slice, table: _Table) -> None:
        """Put in the encrypted addresses, and set right the checksums over them."""
        columns = self.columns
        # Behind MPLS labels nothing was kept, though IP may have been read there.
        l3 = columns["l3_offset"][cut]
        there = self.valid["ip"][cut] & (self.kept[cut] > l3)
        rows = np.flatnonzero(there) + cut.start
        is_ipv4 = columns["ip_version"][rows] == 4
        change = table.change[table.src[rows]] + table.change[table.dst[rows]]
        self._rewrite_ipv4(rows[is_ipv4], change[is_ipv4], table)
        self._rewrite_ipv6(rows[~is_ipv4], table)
        self._rewrite_transport(rows, change)

    def _rewrite_ipv4(self, rows: Rows, change: Sums, table: _Table) -> None:
        l3 = self.starts[rows] + self.columns["l3_offset"][rows]
        # Where the protocol is not known, the options were cut off, and there is nothing to cover.
        ends = np.minimum(
            self.kept[rows], np.where(self.valid["protocol"][rows], self.columns["l4_offset"][rows], 0)
        )
        change = change + self._cover_options(l3 + 20, self.starts[rows] + ends)
        checksum = gather(self.records, l3 + 10, _WORD_FIELD)
        # Checksum and addresses stand side by side, so one write does for all three.
        tail = np.empty(len(rows), _IPV4_TAIL)
        tail["checksum"] = _update(checksum, change)
        tail["src"] = table.low[table.src[rows]]
        tail["dst"] = table.low[table.dst[rows]]
        _scatter(self.records, l3 + 10, tail)

    def _cover_options(self, at: Ints, ends: Ints) -> Sums:
        """Overwrite IPv4 options, which may record a route, and give what that changes."""
        change = np.zeros(len(at), np.uint32)
        nothing = _NO_OPERATION << 8 | _NO_OPERATION
        rows = np.flatnonzero(at < ends)
        places = at[rows]
        while rows.size:
            was = gather(self.records, places, _WORD_FIELD).astype(np.uint32)
            change[rows] += (_WORD - was) + np.uint32(nothing)
            _scatter(self.records, places, np.full(len(rows), nothing, _WORD_FIELD))
            more = places + 2 < ends[rows]
            rows, places = rows[more], places[more] + 2
        return change

    def _rewrite_ipv6(self, rows: Rows, table: _Table) -> None:
        tail = np.empty(len(rows), _IPV6_TAIL)
        for name, codes in (("src", table.src[rows]), ("dst", table.dst[rows])):
            tail[f"{name}_high"], tail[f"{name}_low"] = table.high[codes], table.low[codes]
        _scatter(self.records, self.starts[rows] + self.columns["l3_offset"][rows] + 8, tail)

    def _rewrite_transport(self, rows: Rows, change: Sums) -> None:
        """Change the checksums that cover the addresses, where their header was kept."""
        protocol, l4 = self.columns["protocol"][rows], self.columns["l4_offset"][rows]
        at = _SUM_AT[protocol]
        there = self.valid["protocol"][rows] & (at > 0) & (self.kept[rows] >= l4 + at + 2)
        rows, change, protocol = rows[there], change[there], protocol[there]
        places = self.starts[rows] + l4[there] + at[there]
        was = gather(self.records, places, _WORD_FIELD)
        now = _update(was, change)
        is_udp = (protocol == UDP) | (protocol == UDPLITE)
        # A sum that comes out as 0 is sent as its other spelling, since 0 says that there is none.
        now[is_udp & (now == 0)] = _WORD
        now[is_udp & (was == 0)] = 0
        _scatter(self.records, places, now.astype(_WORD_FIELD))

    def rewrite_redirects(self, encrypt: Callable[[Octets], Octets]) -> None:
        """Encrypt the gateway that an ICMP redirect names."""
        columns, l4 = self.columns, self.columns["l4_offset"]
        is_redirect = self.valid["icmp"] & (columns["protocol"] == ICMP) & (columns["icmp_type"] == _REDIRECT)
        rows = np.flatnonzero(is_redirect & (self.kept >= l4 + 8))
        if not rows.size:
            return
        places = self.starts[rows] + l4[rows]
        old, new = _encrypt_ipv4(gather(self.records, places + 4, np.dtype("4u1")), encrypt)
        checksum = gather(self.records, places + 2, _WORD_FIELD)
        _scatter(self.records, places + 2, _update(checksum, _change(old, new)).astype(_WORD_FIELD))
        _scatter(self.records, places + 4, _joined(new[:, 12:]))

    def rewrite_macs(self, cut: slice, link_type: int, macs: Octets, dst: Codes, src: Codes) -> None:
        """Put the permuted hardware addresses into the link headers."""
        rows = np.flatnonzero(self.kept[cut] > HEADER_BYTES)
        places = self.starts[cut.start + rows] + HEADER_BYTES
        if link_type == ETHERNET:
            items = _joined(macs)
            pair = np.empty(len(rows), [("dst", "V6"), ("src", "V6")])
            pair["dst"], pair["src"] = items[dst[rows]], items[src[rows]]
            _scatter(self.records, places, pair)
        elif link_type in _COOKED_MAC_AT:
            # An address of another length may be an IP address, of a tunnel: it is not kept.
            octets = np.zeros((len(rows), 8), np.uint8)
            known = self.valid["src_mac"][cut][rows]
            octets[known, :6] = macs[src[rows[known]]]
            _scatter(self.records, places + _COOKED_MAC_AT[link_type], _joined(octets))

    def rewrite_arp(self, rows: Rows, encrypt: Callable[[Octets], Octets], mac_key: bytes) -> None:
        """Rewrite both pairs of addresses in ARP bodies."""
        if not rows.size:
            return
        places = self.starts[rows] + self.columns["l3_offset"][rows] + 8
        body = gather(self.records, places, np.dtype("20u1"))
        # Sender and target alike: a hardware address, then an IP address.
        halves = body.reshape(-1, 10)
        macs, number = np.unique(halves[:, :6], axis=0, return_inverse=True)
        new = np.empty_like(halves)
        new[:, :6] = permute_macs(macs, mac_key)[number.reshape(-1)]
        new[:, 6:] = _encrypt_ipv4(halves[:, 6:], encrypt)[1][:, 12:]
        _scatter(self.records, places, _joined(new.reshape(-1, 20)))


def _joined(octets: Octets) -> Fields:
    """See rows of bytes as one item each."""
    joined: Fields = np.ascontiguousarray(octets).view(f"V{octets.shape[1]}")[:, 0]
    return joined


def _encrypt_ipv4(addresses: Octets, encrypt: Callable[[Octets], Octets]) -> tuple[Octets, Octets]:
    """Encrypt IPv4 addresses that stand elsewhere than in an IP header; give both as 16 bytes."""
    distinct, number = np.unique(addresses, axis=0, return_inverse=True)
    wide = np.concatenate((np.broadcast_to(_MAPPED, (len(distinct), 12)), distinct), axis=1)
    number = number.reshape(-1)
    return wide[number], encrypt(wide)[number]
