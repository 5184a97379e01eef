"""Kinds of packets: those whose headers say the same of who talks to whom, and how.

There are far fewer kinds than packets, and whatever is made of headers is made once for each kind.
Nearly all packets are plain: Ethernet, IPv4 without options, TCP or UDP, no fragment. One gather of 112
bytes tells what is plain, its kind and its payload, and whether it may tell a name; all else is read by
`layers.py`, field by field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.capture.community import words_of_directions
from transforms.capture.decoding import Speaking, choose_speaking, may_tell
from transforms.capture.layers import TCP, UDP, Columns, group_of, read_spans, with_slack
from transforms.capture.links import Fields, Ints, Mask, gather, lay_out
from transforms.capture.numbering import Numbers, Words, number_rows
from transforms.capture.packets import HEADER_BYTES, Packets
from transforms.coding import cuts

# What tells kinds apart, and is null with its group.
KIND_COLUMNS = (
    "src_mac",
    "dst_mac",
    "ethertype",
    "ip_version",
    "src_ip_high",
    "src_ip_low",
    "dst_ip_high",
    "dst_ip_low",
    "ttl",
    "is_fragment",
    "protocol",
    "src_port",
    "dst_port",
    "tcp_flags",
    "icmp_type",
    "icmp_code",
)
_MACS = ("src_mac", "dst_mac")
# What is kept of a packet until its kind has a number.
ROOM_BYTES = 32
# So many heads stay near the processor while they are looked at.
_AT_ONCE = 8_192
_ETHERNET_LINK = 1
_MAPPED = 0xFFFF_0000_0000  # ::ffff:0:0/96
_ETHERNET_BYTES, _TCP_BYTES, _UDP_BYTES = 14, 54, 42
# A record's header and the beginning of its frame; numbers of eight bytes as they lie in memory.
_HEAD = lay_out(
    112,
    captured=("<u4", 8),
    a=("<u8", 16),
    b=("<u8", 24),
    c=("<u8", 32),
    d=("<u8", 40),
    e=("<u8", 48),
    f=("<u8", 56),
    total=(">u2", 32),
    protocol=("u1", 39),
    src_port=(">u2", 50),
    dst_port=(">u2", 52),
    words=("u1", 62),
)
# What of a plain head tells its kind, packed into four numbers; seen as fields again by these places.
_KEY = lay_out(
    32,
    dst_mac=(">u8", 0),
    src_mac=(">u8", 6),
    tcp_flags=("u1", 15),
    src_port=(">u2", 16),
    dst_port=(">u2", 18),
    ttl=("u1", 22),
    protocol=("u1", 23),
    dst_low=(">u2", 24),
    src_ip=(">u4", 26),
    dst_high=(">u2", 30),
)


def _octets(*places: int) -> np.uint64:
    """Give the mask of some of the eight bytes of a number, by their places in memory."""
    return np.uint64(sum(0xFF << (8 * place) for place in places))


_IS_IPV4, _IPV4 = _octets(4, 5, 6), np.uint64(0x45_0008 << 32)
# Of flags and offset, all but "don't fragment" and the reserved bit.
_FRAGMENT = np.uint64(0xFF3F << 32)
_MAC_END, _TTL_PROTOCOL, _ADDRESSES = _octets(0, 1, 2, 3), _octets(6, 7), _octets(2, 3, 4, 5, 6, 7)
_TCP_WORDS, _ADDRESS_END, _PORTS = _octets(6, 7), _octets(0, 1), _octets(0, 1, 2, 3)
_SIXTEEN = np.uint64(16)


@dataclass(frozen=True)
class Kinds:
    """Packets by kind.

    Shape: `of_packets` has each packet's kind; `columns` and `valid` are what `read_fields` gives, an
    entry for each kind, of `KIND_COLUMNS`; `payload_bytes` has what was captured of each packet's payload,
    -1 where that is null.
    """

    of_packets: Numbers
    columns: dict[str, Fields]
    valid: dict[str, Mask]
    payload_bytes: NDArray[np.int32]


class KindReader:
    """Reads packets window by window, and numbers their kinds when all are there."""

    def __init__(self, rows: int, room: memoryview | None = None) -> None:
        """Begin, for so many packets. Units: `room` has `ROOM_BYTES` for each, used until `finish` is done."""
        self._rows, self._plain = 0, 0
        octets = bytearray(rows * ROOM_BYTES) if room is None else room[: rows * ROOM_BYTES]
        self._words: list[Words] = list(np.frombuffer(octets, np.uint64).reshape(ROOM_BYTES // 8, rows))
        self._payload = np.empty(rows, np.int32)
        self._others: list[tuple[Ints, Columns]] = []

    def read(self, packets: Packets) -> Speaking:
        """Take packets; gives those among them that may tell a name."""
        found: list[Speaking] = []
        for cut in cuts(len(packets), _AT_ONCE):
            found += self._read(packets, cut)
        return Speaking.join(packets.records, found)

    def _read(self, packets: Packets, cut: slice) -> Iterator[Speaking]:
        octets, starts, ends = with_slack(packets.records, packets.starts[:-1][cut], packets.starts[1:][cut])
        payload = self._payload[self._rows : self._rows + len(starts)]
        is_plain = np.zeros(len(starts), bool)
        link_type = packets.interface.link_type
        if link_type & 0xFFFF == _ETHERNET_LINK:
            heads = gather(octets, starts, _HEAD)
            # All ask for it: its bytes stand side by side now, not one in each head.
            protocol = heads["protocol"].copy()
            sizes, stops = _measure(heads, protocol)
            is_plain = _is_plain(heads, protocol, sizes, stops)
            np.subtract(stops, sizes, out=payload)
            is_all = bool(is_plain.all())
            told = payload if is_all else np.where(is_plain, payload, -1)
            yield _choose_speaking(packets, cut.start, heads, protocol, sizes, told)
            kept = slice(None) if is_all else is_plain
            self._keep(heads[kept], protocol[kept])
        rows = np.flatnonzero(~is_plain)
        if rows.size:
            columns, valid = read_spans(octets, starts[rows], ends[rows], link_type)
            self._others.append((rows + self._rows, (columns, valid)))
            payload[rows] = np.where(valid["payload"], columns["payload_bytes"], -1)
            yield choose_speaking(packets, rows + cut.start, columns, valid)
        self._rows += len(starts)

    def _keep(self, heads: Fields, protocol: Fields) -> None:
        """Keep what tells the kinds of plain packets apart."""
        cut = slice(self._plain, self._plain + len(heads))
        one, two, three, four = (word[cut] for word in self._words)
        one[:] = heads["a"]
        is_tcp = protocol == TCP
        # What stands there in a datagram is payload.
        np.bitwise_or(heads["b"] & _MAC_END, (heads["f"] & _TCP_WORDS) * is_tcp, out=two)
        np.bitwise_or(heads["c"] & _TTL_PROTOCOL, (heads["e"] >> _SIXTEEN) & _PORTS, out=three)
        np.bitwise_or(heads["d"] & _ADDRESSES, heads["e"] & _ADDRESS_END, out=four)
        self._plain += len(heads)

    def finish(self) -> Kinds:
        """Give the kinds of all that was read."""
        words = [word[: self._plain] for word in self._words]
        codes, firsts = number_rows(words)
        columns, valid = _fields_of_keys(np.stack([word[firsts] for word in words], axis=1))
        payload = self._payload[: self._rows]
        if not self._others:
            return Kinds(codes, columns, valid, payload)
        rows = np.concatenate([rows for rows, _ in self._others])
        others = _joined([fields for _, fields in self._others])
        numbers, first_others = number_rows(_words_of_kinds(*others))
        of_packets = np.empty(self._rows, np.int64)
        is_plain = np.ones(self._rows, bool)
        is_plain[rows] = False
        of_packets[is_plain], of_packets[rows] = codes, numbers + len(firsts)
        taken = [{name: one[first_others] for name, one in part.items()} for part in others]
        return Kinds(of_packets, *_joined([(columns, valid), (taken[0], taken[1])]), payload)


def _measure(heads: Fields, protocol: Fields) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give the headers' size and where the datagram ends, for what is plain. Units: bytes of the frame."""
    captured, total = heads["captured"].astype(np.int32), heads["total"].astype(np.int32)
    # A length of 0 is what a network card that segments by itself leaves behind; as in `layers.py`.
    stops = np.where(total >= 20, np.minimum(captured, total + _ETHERNET_BYTES), captured)
    told = (heads["words"] >> 4).astype(np.int32) * 4 + (_TCP_BYTES - 20)
    # Arithmetic, since a choice that nobody can predict takes three times as long.
    return (protocol == TCP) * (told - _UDP_BYTES) + _UDP_BYTES, stops


def _is_plain(heads: Fields, protocol: Fields, sizes: NDArray[np.int32], stops: NDArray[np.int32]) -> Mask:
    """Tell which packets are plain: their headers are all there, and nothing in them is out of the common."""
    is_plain = (heads["b"] & _IS_IPV4) == _IPV4
    is_plain &= (heads["c"] & _FRAGMENT) == 0
    is_plain &= (protocol == UDP) | ((protocol == TCP) & (sizes >= _TCP_BYTES))
    is_plain &= stops >= sizes
    return np.asarray(is_plain)


def _choose_speaking(
    packets: Packets,
    first: int,
    heads: Fields,
    protocol: Fields,
    sizes: NDArray[np.int32],
    payload_bytes: NDArray[np.int32],
) -> Speaking:
    """Choose packets that may tell something among plain ones; the longest headers end within the heads."""
    places = np.arange(HEADER_BYTES, HEADER_BYTES + heads.nbytes, _HEAD.itemsize)
    first_octets = heads.view(np.uint8)[places + sizes]
    ports = heads["src_port"], heads["dst_port"]
    chosen = np.flatnonzero(may_tell(protocol, *ports, payload_bytes, first_octets))
    rows = chosen + first
    columns = (one[chosen] for one in (protocol, *ports, sizes + HEADER_BYTES, payload_bytes))
    return Speaking(packets.records, rows, packets.starts[rows], *columns)


def _fields_of_keys(keys: NDArray[np.uint64]) -> Columns:
    """See what was packed as the fields that `read_fields` gives."""
    rows = len(keys)
    key = np.ascontiguousarray(keys).view(_KEY).ravel()
    is_tcp = key["protocol"] == TCP
    none, every = np.zeros(rows, bool), np.ones(rows, bool)
    dst_ip = (key["dst_high"].astype(np.uint64) << _SIXTEEN) | key["dst_low"]
    columns: dict[str, Any] = {
        "src_mac": key["src_mac"] >> _SIXTEEN,
        "dst_mac": key["dst_mac"] >> _SIXTEEN,
        "ethertype": np.full(rows, 0x0800, np.uint16),
        "ip_version": np.full(rows, 4, np.uint8),
        "src_ip_low": key["src_ip"].astype(np.uint64) | np.uint64(_MAPPED),
        "dst_ip_low": dst_ip | np.uint64(_MAPPED),
        "is_fragment": none,
        "ttl": key["ttl"].copy(),
        "protocol": key["protocol"].copy(),
        "src_port": key["src_port"].astype(np.uint16),
        "dst_port": key["dst_port"].astype(np.uint16),
        "tcp_flags": key["tcp_flags"].copy(),
    }
    columns |= {name: np.zeros(rows, np.uint64) for name in ("src_ip_high", "dst_ip_high")}
    columns |= {name: np.zeros(rows, np.uint8) for name in ("icmp_type", "icmp_code")}
    groups = dict.fromkeys(map(group_of, KIND_COLUMNS), every) | {"tcp_flags": is_tcp, "icmp": none}
    return columns, groups


def _words_of_kinds(columns: dict[str, Fields], valid: dict[str, Mask]) -> list[Words]:
    """Give what tells kinds apart, as numbers of 64 bits; what is not valid is 0."""
    rest = np.zeros(len(valid["ip"]), np.uint64)
    for name, bits in (("ethertype", 16), ("ttl", 8), ("tcp_flags", 8), ("is_fragment", 1)):
        mask = valid[group_of(name)]
        # Each number behind the ones before it, and behind each whether it is there.
        rest = rest << np.uint64(bits) | np.where(mask, columns[name], 0).astype(np.uint64)
        rest = rest << np.uint64(1) | mask
    macs = [np.where(valid[name], columns[name], np.uint64(0)) for name in _MACS]
    for name in _MACS:
        rest = rest << np.uint64(1) | valid[name]
    return [*words_of_directions(columns, valid), *macs, rest]


def _joined(parts: list[Columns]) -> Columns:
    """Put the fields of some packets behind those of others."""
    columns = {name: np.concatenate([part[name] for part, _ in parts]) for name in KIND_COLUMNS}
    groups = dict.fromkeys(map(group_of, KIND_COLUMNS))
    return columns, {name: np.concatenate([part[name] for _, part in parts]) for name in groups}
