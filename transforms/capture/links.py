"""The link layer: what stands before the network layer, for each link type, all packets of a chunk at once.

Source: the registry of link types of tcpdump.org, IEEE 802.3, 802.1Q, 802.1ad, 802.11; RFC 1042,
RFC 1661 (PPP), RFC 2516 (PPPoE), RFC 3032 (MPLS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.capture.packets import HEADER_BYTES

Ints: TypeAlias = "NDArray[np.int64]"
Mask: TypeAlias = "NDArray[np.bool_]"
Fields: TypeAlias = "NDArray[Any]"

# A gather may reach so far behind the end of the record that it begins in.
SLACK = np.zeros(128, np.uint8)

IPV4, IPV6, ARP, MPLS, PPPOE = 0x0800, 0x86DD, 0x0806, 0x8847, 0x8864
_LEAST_ETHERTYPE = 0x600  # below, the field is the length of an IEEE 802.3 frame
_MOST_LABELS = 6


def lay_out(size: int, **places: tuple[str, int]) -> np.dtype[Any]:
    """Lay out a header: each field's type and its offset; fields may overlap."""
    kinds, offsets = zip(*places.values(), strict=True)
    return np.dtype({"names": [*places], "formats": kinds, "offsets": offsets, "itemsize": size})


def gather(octets: NDArray[np.uint8], places: Ints, fields: np.dtype[Any]) -> Fields:
    """Copy the bytes at each place and see them as fields; all of them must be there."""
    if not places.size:
        return np.empty(0, fields)
    shape = (len(octets) - fields.itemsize + 1,)
    windows: Fields = np.ndarray(shape, f"V{fields.itemsize}", octets, strides=(1,))
    return windows[places].view(fields)


_BY_VERSION: NDArray[np.uint16] = np.zeros(16, np.uint16)
_BY_VERSION[[4, 6]] = IPV4, IPV6

# A hardware address is the upper 48 bits of the 8 bytes that begin with it.
_ETHERNET = lay_out(14, dst=(">u8", 0), src=(">u8", 6), ethertype=(">u2", 12))
_COOKED = lay_out(16, length=(">u2", 4), mac=(">u8", 6), ethertype=(">u2", 14))
_COOKED_2 = lay_out(20, ethertype=(">u2", 0), length=("u1", 11), mac=(">u8", 12))

_PPPOE = lay_out(8, session=(">u4", 0), protocol=(">u2", 6))
# IEEE 802.11: the first three addresses, and what its bits say of them.
_WIFI = lay_out(32, kind=("u1", 0), flags=("u1", 1), a=(">u8", 4), b=(">u8", 10), c=(">u8", 16), d=(">u8", 24))


@dataclass
class Chunk:
    """Some packets on their way through the layers. Places are offsets into `octets`."""

    octets: NDArray[np.uint8]
    starts: Ints
    ends: Ints
    columns: dict[str, Fields]
    valid: dict[str, Mask]

    def gather(self, places: Ints, fields: np.dtype[Any]) -> Fields:
        """Copy the bytes at each place and see them as fields."""
        return gather(self.octets, places, fields)

    def bounded(self, places: Ints) -> Ints:
        """Keep places within their records, so that a gather stays within the buffer."""
        return np.minimum(places, self.ends)

    def put(self, name: str, values: Fields, valid: Mask) -> None:
        """Write a column that is null by itself, in no group."""
        self.columns[name][:] = values
        self.valid[name][:] = valid


@dataclass
class Link:
    """Where the network layer begins, and which it is: its ethertype, 0 where it is not known."""

    l3: Ints
    network: NDArray[np.uint16]


def _mac(field: Fields) -> Fields:
    return field >> np.uint64(16)


# -- Ethernet and what is like it ---------------------------------------------------------------


def _read_ethernet(chunk: Chunk) -> Link:
    head = chunk.gather(chunk.starts + HEADER_BYTES, _ETHERNET)
    link = Link(chunk.starts + (HEADER_BYTES + 14), head["ethertype"].astype(np.uint16))
    captured = chunk.ends >= link.l3
    chunk.put("dst_mac", _mac(head["dst"]), captured)
    chunk.put("src_mac", _mac(head["src"]), captured)
    _skip_tags(chunk, link)
    _skip_snap(chunk, link, np.flatnonzero(link.network < _LEAST_ETHERTYPE))
    return _follow_ethertype(chunk, link)


def _skip_tags(chunk: Chunk, link: Link) -> None:
    """Step over up to two VLAN tags (IEEE 802.1Q and 802.1ad, and 0x9100 of older switches)."""
    for _ in range(2):
        tags = (link.network == 0x8100) | (link.network == 0x88A8) | (link.network == 0x9100)
        rows = np.flatnonzero(tags)
        if not rows.size:
            return
        places = np.minimum(link.l3[rows], chunk.ends[rows])
        link.network[rows] = chunk.gather(places + 2, np.dtype(">u2"))
        link.l3[rows] += 4


def _skip_snap(chunk: Chunk, link: Link, rows: NDArray[np.intp]) -> None:
    """Step over LLC with SNAP (RFC 1042); other LLC has no ethertype."""
    if rows.size:
        octets = chunk.gather(np.minimum(link.l3[rows], chunk.ends[rows]), np.dtype(">u8"))
        is_snap = (octets >> np.uint64(16)) == 0xAAAA_0300_0000
        link.network[rows] = np.where(is_snap, octets & np.uint64(0xFFFF), 0)
        link.l3[rows] += np.where(is_snap, 8, 0)


def _follow_ethertype(chunk: Chunk, link: Link) -> Link:
    """Say what the ethertype is, and follow those that lead to IP: PPPoE and MPLS."""
    link.network[chunk.ends < link.l3] = 0
    chunk.put("ethertype", link.network, link.network != 0)
    rows = np.flatnonzero(link.network == PPPOE)
    if rows.size:
        _skip_pppoe(chunk, link, rows)
    rows = np.flatnonzero(link.network == MPLS)
    if rows.size:
        _skip_labels(chunk, link, rows)
    return link


def _skip_pppoe(chunk: Chunk, link: Link, rows: NDArray[np.intp]) -> None:
    inner = chunk.gather(np.minimum(link.l3[rows], chunk.ends[rows]), _PPPOE)["protocol"]
    places = link.l3[rows] + _PPPOE.itemsize
    network = _ppp_network(inner)
    found = (network != 0) & (places <= chunk.ends[rows])
    link.network[rows] = np.where(found, network, PPPOE)
    link.l3[rows[found]] = places[found]


def _ppp_network(protocol: Fields) -> Fields:
    return np.where(protocol == 0x0021, IPV4, np.where(protocol == 0x0057, IPV6, 0)).astype(np.uint16)


def _skip_labels(chunk: Chunk, link: Link, rows: NDArray[np.intp]) -> None:
    """Step over MPLS labels; what they carry is not said, so the version's digit has to tell."""
    places, bottom = link.l3[rows], np.zeros(len(rows), bool)
    # A deeper stack than this is no stack that a network sends.
    for _ in range(_MOST_LABELS):
        label = chunk.gather(np.minimum(places, chunk.ends[rows]), np.dtype("4u1"))
        places = np.where(bottom, places, places + 4)
        bottom |= label[:, 2] & 1 == 1
    inside = bottom & (places < chunk.ends[rows])
    network = _network_by_version(chunk, np.where(inside, places, chunk.ends[rows]))
    found = inside & (network != 0)
    link.network[rows[found]] = network[found]
    link.l3[rows[found]] = places[found]


def _read_cooked(chunk: Chunk) -> Link:
    """Read the header of Linux' capture on `any`, version 1."""
    return _read_any(chunk, _COOKED)


def _read_cooked_2(chunk: Chunk) -> Link:
    """Read the header of Linux' capture on `any`, version 2."""
    return _read_any(chunk, _COOKED_2)


def _read_any(chunk: Chunk, fields: np.dtype[Any]) -> Link:
    at = chunk.starts + HEADER_BYTES
    head = chunk.gather(at, fields)
    link = Link(at + fields.itemsize, head["ethertype"].astype(np.uint16))
    is_mac = (head["length"] == 6) & (chunk.ends >= link.l3)
    chunk.put("src_mac", _mac(head["mac"]), is_mac)
    link.network[link.network < _LEAST_ETHERTYPE] = 0
    _skip_tags(chunk, link)
    return _follow_ethertype(chunk, link)


# -- no more than the protocol ------------------------------------------------------------------


def _read_raw(chunk: Chunk) -> Link:
    """Nothing stands before the IP header; its version says which it is."""
    return _by_version(chunk, chunk.starts + HEADER_BYTES)


def _read_loopback(chunk: Chunk) -> Link:
    """Step over BSD's address family; each system has its own number for IPv6, in its own order."""
    at = chunk.starts + HEADER_BYTES
    family = chunk.gather(at, np.dtype(">u4"))
    # A family is a small number: one that is not was written in the other order.
    family = np.where(family > 0xFFFF, family.byteswap(), family)
    link = _by_version(chunk, at + 4)
    link.network[~np.isin(family, (2, 24, 28, 30))] = 0
    return link


def _read_ppp(chunk: Chunk) -> Link:
    """Step over PPP's header, with its address and control bytes or without, its protocol short or not."""
    at = chunk.starts + HEADER_BYTES
    head = chunk.gather(at, np.dtype("4u1"))
    framed = (head[:, 0] == 0xFF) & (head[:, 1] == 0x03)
    high, low = np.where(framed, head[:, 2], head[:, 0]), np.where(framed, head[:, 3], head[:, 1])
    short = high & 1 == 1
    protocol = np.where(short, high, high.astype(np.uint16) << 8 | low)
    link = Link(at + np.where(framed, 2, 0) + np.where(short, 1, 2), _ppp_network(protocol))
    _skip_labels(chunk, link, np.flatnonzero((protocol == 0x0281) & (link.l3 <= chunk.ends)))
    return link


def _read_cisco_hdlc(chunk: Chunk) -> Link:
    at = chunk.starts + HEADER_BYTES
    link = Link(at + 4, chunk.gather(at, np.dtype(">u4")).astype(np.uint16))
    return _follow_ethertype(chunk, link)


def _read_pppoe(chunk: Chunk) -> Link:
    at = chunk.starts + HEADER_BYTES
    return Link(at + _PPPOE.itemsize, _ppp_network(chunk.gather(at, _PPPOE)["protocol"]))


def _by_version(chunk: Chunk, l3: Ints) -> Link:
    return Link(l3, _network_by_version(chunk, chunk.bounded(l3)))


def _network_by_version(chunk: Chunk, places: Ints) -> NDArray[np.uint16]:
    networks: NDArray[np.uint16] = _BY_VERSION[chunk.gather(places, np.dtype("u1")) >> 4]
    return networks


# -- IEEE 802.11 --------------------------------------------------------------------------------


def _read_wifi(chunk: Chunk) -> Link:
    return _read_wifi_at(chunk, chunk.starts + HEADER_BYTES)


def _read_radiotap(chunk: Chunk) -> Link:
    at = chunk.starts + HEADER_BYTES
    length = chunk.gather(at, lay_out(4, length=("<u2", 2)))["length"].astype(np.int64)
    return _read_wifi_at(chunk, chunk.bounded(at + length))


def _read_wifi_at(chunk: Chunk, at: Ints) -> Link:
    """Read a frame's header; only data frames that are not encrypted lead to the network layer."""
    head = chunk.gather(at, _WIFI)
    kind, flags = head["kind"], head["flags"]
    is_data = kind & 0x0C == 0x08
    to_system, from_system = is_data & (flags & 1 == 1), is_data & (flags & 2 == 2)
    # Where a frame goes to, or comes from, stands in another place when an access point relays it.
    dst = np.where(to_system, head["c"], head["a"])
    src = np.where(from_system, np.where(to_system, head["d"], head["c"]), head["b"])
    size = 24 + 6 * (to_system & from_system) + 2 * (is_data & (kind & 0x80 == 0x80))
    size += 4 * (is_data & (kind & 0x80 == 0x80) & (flags & 0x80 == 0x80))
    link = Link(at + size, np.zeros(len(at), np.uint16))
    whole = (kind & 0x0C != 0x04) & (chunk.ends >= link.l3)
    chunk.put("dst_mac", _mac(dst), whole)
    chunk.put("src_mac", _mac(src), whole)
    readable = whole & is_data & (kind & 0x40 == 0) & (flags & 0x40 == 0)
    _skip_snap(chunk, link, np.flatnonzero(readable))
    return _follow_ethertype(chunk, link)


LINKS: dict[int, Callable[[Chunk], Link]] = {
    0: _read_loopback,
    108: _read_loopback,
    1: _read_ethernet,
    9: _read_ppp,
    50: _read_ppp,
    51: _read_pppoe,
    104: _read_cisco_hdlc,
    105: _read_wifi,
    127: _read_radiotap,
    **dict.fromkeys((12, 14, 101, 228, 229), _read_raw),
    113: _read_cooked,
    276: _read_cooked_2,
}
