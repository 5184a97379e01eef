"""What packets say in plain text of who talks: names asked for, servers, hosts, and what tunnels carry.

Candidates are chosen by protocol, port and first bytes for all packets at once; only they are looked
at one by one, and only so far as their first 4 KiB. What does not decode is left out, never an error:
a port is a hint and no promise.

Source: RFC 1035 (DNS), RFC 8446 and 6066 (TLS), RFC 2131 (DHCP), RFC 9112 (HTTP), RFC 2784 (GRE),
RFC 2003 and 4213 (IP in IP), RFC 7348 (VXLAN).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import dpkt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.capture.layers import GRE, TCP, UDP, read_inner_layers
from transforms.capture.links import IPV4, IPV6
from transforms.capture.packets import Packets

Numbers: TypeAlias = "NDArray[np.int64]"
Mask: TypeAlias = "NDArray[np.bool_]"
Found: TypeAlias = "dict[str, Any]"

# A ClientHello with post-quantum key shares has about 2 KiB, a request's headers seldom more.
MOST_BYTES = 4096
_LONGEST_LABEL, _LONGEST_NAME = 63, 254
# DNS, its multicast form and LLMNR share their layout.
_DNS_PORTS = (53, 5353, 5355)
_DHCP_PORTS = (67, 68)
_VXLAN_PORT = 4789
_ETHERNET, _RAW = 1, 101
_BRIDGED = 0x6558  # GRE that carries Ethernet
_METHODS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")
_HOST = re.compile(rb"\r\nhost:[ \t]*([^\r\n\t ]{1,255})[ \t]*\r\n", re.IGNORECASE)

SCHEMA: dict[str, type[pl.DataType]] = {
    "row": pl.UInt32,
    "dns_query": pl.String,
    "dns_type": pl.UInt16,
    "tls_sni": pl.String,
    "dhcp_hostname": pl.String,
    "dhcp_client_mac": pl.UInt64,
    "http_host": pl.String,
    "tunnel": pl.String,
    "inner_ip_version": pl.UInt8,
    "inner_src_ip_high": pl.UInt64,
    "inner_src_ip_low": pl.UInt64,
    "inner_dst_ip_high": pl.UInt64,
    "inner_dst_ip_low": pl.UInt64,
    "inner_protocol": pl.UInt8,
    "inner_src_port": pl.UInt16,
    "inner_dst_port": pl.UInt16,
}


def decode_packets(packets: Packets, layers: pl.DataFrame) -> pl.DataFrame:
    """Decode what packets say in plain text.

    Shape: the packets and what `read_layers` gave for them in; out, sorted by `row` (the packet's
    number), one row for each packet that said something: `dns_query` and `dns_type` (of the first
    question), `tls_sni`, `dhcp_hostname` and `dhcp_client_mac` (UInt64, the lower 48 bits), `http_host`,
    or `tunnel` (ipip, 6in4, gre, vxlan, or ip6 for what else is carried in IPv6) with the `inner_`
    columns as in `read_layers`; the others are null. Fragments are not looked at.
    """
    view = _View(packets, layers)
    parts = [_decode_each(view, rows, decode) for rows, decode in _choose(view)]
    parts += [_decode_tunnels(view, *chosen) for chosen in _choose_tunnels(view)]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *parts], how="diagonal").sort("row")


class _View:
    """The columns that choose, as numbers without nulls, and the bytes."""

    def __init__(self, packets: Packets, layers: pl.DataFrame) -> None:
        """Take the columns over; what is null is -1, which no protocol, port or size is."""
        self.packets = packets
        names = ("protocol", "src_port", "dst_port", "l4_offset", "payload_offset", "payload_bytes")
        columns = {name: layers[name].cast(pl.Int64).fill_null(-1).to_numpy() for name in names}
        self.src_port, self.dst_port = columns["src_port"], columns["dst_port"]
        self.l4_offset, self.payload_offset = columns["l4_offset"], columns["payload_offset"]
        self.payload_bytes, self.version = (
            columns["payload_bytes"],
            layers["ip_version"].fill_null(0).to_numpy(),
        )
        whole = ~layers["is_fragment"].fill_null(True).to_numpy()
        self.protocol = np.where(whole, columns["protocol"], -1)

    def has_port(self, *ports: int) -> Mask:
        """Whether either end is one of these."""
        return np.isin(self.src_port, ports) | np.isin(self.dst_port, ports)

    def payloads(self, rows: Numbers) -> Iterator[tuple[int, bytes]]:
        """Give the first bytes of some packets' payloads, with the packets' numbers."""
        octets = self.packets.records.data
        starts = self.packets.starts[rows] + self.payload_offset[rows]
        ends = starts + np.minimum(self.payload_bytes[rows], MOST_BYTES)
        for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
            yield row, octets[start:end].tobytes()

    def words(self, rows: Numbers, offsets: Numbers, kind: str) -> NDArray[Any]:
        """Gather a number from each of some packets; the caller knows that it was captured."""
        fields = np.dtype(kind)
        places = self.packets.starts[rows] + offsets
        octets = np.arange(fields.itemsize)
        return np.ascontiguousarray(self.packets.records[places[:, None] + octets]).view(fields)[:, 0]


def _choose(view: _View) -> list[tuple[Numbers, Callable[[bytes], Found | None]]]:
    """Choose the candidates of each decoder; none is chosen twice."""
    udp, tcp = view.protocol == UDP, view.protocol == TCP
    dns = udp & (view.payload_bytes >= 17) & view.has_port(*_DNS_PORTS)
    dns_tcp = tcp & (view.payload_bytes >= 19) & view.has_port(_DNS_PORTS[0])
    dhcp = udp & (view.payload_bytes >= 240) & view.has_port(*_DHCP_PORTS) & ~dns
    rest = np.flatnonzero(tcp & (view.payload_bytes >= 16) & ~dns_tcp)
    # What these begin with is surer than a port: TLS and HTTP run on any.
    first = view.words(rest, view.payload_offset[rest], ">u4")
    methods = [int.from_bytes(method, "big") for method in _METHODS]
    # A record of the handshake (22), version 3.x; whether it is a ClientHello is seen when it is read.
    return [
        (np.flatnonzero(dns), _decode_dns),
        (np.flatnonzero(dns_tcp), _decode_dns_stream),
        (np.flatnonzero(dhcp), _decode_dhcp),
        (rest[first >> 16 == 0x1603], _decode_tls),
        (rest[np.isin(first, methods)], _decode_http),
    ]


def _decode_each(view: _View, rows: Numbers, decode: Callable[[bytes], Found | None]) -> pl.DataFrame:
    found: dict[str, list[Any]] = {name: [] for name in SCHEMA if not name.startswith("inner_")}
    for row, payload in view.payloads(rows):
        try:
            said = decode(payload)
        except Exception:  # a decoder raises whatever its slicing raises; it then decodes nothing
            said = None
        if said:
            for name, values in found.items():
                values.append(said.get(name))
            found["row"][-1] = row
    return pl.DataFrame(found, schema={name: SCHEMA[name] for name in found})


# -- one payload --------------------------------------------------------------------------------


def _decode_dns(payload: bytes) -> Found | None:
    """Read the first question; the records behind it are not looked at.

    Its name stands first in the message, so there is nothing that it could be compressed against.
    """
    if payload[4:6] == b"\0\0":
        return None
    labels, at = [], 12
    while size := payload[at]:
        labels.append(payload[at + 1 : at + 1 + size])
        at += 1 + size
        if size > _LONGEST_LABEL or at > 12 + _LONGEST_NAME:
            return None
    kind = payload[at + 1 : at + 3]
    name = b".".join(labels).decode() or "."
    return {"dns_query": name, "dns_type": int.from_bytes(kind, "big")} if len(payload) >= at + 5 else None


def _decode_dns_stream(payload: bytes) -> Found | None:
    return _decode_dns(payload[2:])


def _decode_dhcp(payload: bytes) -> Found | None:
    message = dpkt.dhcp.DHCP(payload)
    if message.magic != dpkt.dhcp.DHCP_MAGIC:
        return None
    found: Found = {}
    if message.hln == 6:
        found["dhcp_client_mac"] = int.from_bytes(message.chaddr[:6], "big")
    for option, value in message.opts:
        if option == dpkt.dhcp.DHCP_OPT_HOSTNAME:
            found["dhcp_hostname"] = value.rstrip(b"\0").decode()
    return found


def _decode_tls(payload: bytes) -> Found | None:
    """Find the server's name in a ClientHello, of which the rest may be in later packets."""
    if payload[5] != 1:
        return None
    at = 5 + 4 + 2 + 32
    at += 1 + payload[at]
    at += 2 + int.from_bytes(payload[at : at + 2], "big")
    at += 1 + payload[at] + 2
    while at + 4 <= len(payload):
        kind, size = (int.from_bytes(payload[place : place + 2], "big") for place in (at, at + 2))
        if kind == 0:
            # A list of names: its length, then the name's type (0 for a host), its length, itself.
            length = int.from_bytes(payload[at + 7 : at + 9], "big")
            name = payload[at + 9 : at + 9 + length]
            is_whole = payload[at + 6] == 0 and 0 < len(name) == length
            return {"tls_sni": name.decode("ascii")} if is_whole else None
        at += 4 + size
    return None


def _decode_http(payload: bytes) -> Found | None:
    head = payload.partition(b"\r\n\r\n")[0] + b"\r\n"
    host = _HOST.search(head)
    return {"http_host": host[1].decode("ascii")} if host else None


# -- tunnels ------------------------------------------------------------------------------------


def _choose_tunnels(view: _View) -> list[tuple[str, Numbers, Numbers, int]]:
    """Give, for each kind of tunnel: its name, the packets, where the inner ones begin, their link type."""
    chosen = []
    for name, protocol, version in (("ipip", 4, 4), ("6in4", 41, 4), ("ip6", 4, 6), ("ip6", 41, 6)):
        rows = np.flatnonzero((view.protocol == protocol) & (view.version == version))
        chosen.append((name, rows, view.l4_offset[rows], _RAW))
    gre = np.flatnonzero((view.protocol == GRE) & (view.payload_bytes > 0))
    kinds = view.words(gre, view.l4_offset[gre] + 2, ">u2")
    for numbers, link_type in (((IPV4, IPV6), _RAW), ((_BRIDGED,), _ETHERNET)):
        rows = gre[np.isin(kinds, numbers)]
        chosen.append(("gre", rows, view.payload_offset[rows], link_type))
    vxlan = np.flatnonzero((view.protocol == UDP) & (view.dst_port == _VXLAN_PORT) & (view.payload_bytes >= 8))
    is_valid = view.words(vxlan, view.payload_offset[vxlan], "u1") & 0x08 == 0x08
    vxlan = vxlan[is_valid]
    chosen.append(("vxlan", vxlan, view.payload_offset[vxlan] + 8, _ETHERNET))
    return chosen


def _decode_tunnels(view: _View, tunnel: str, rows: Numbers, offsets: Numbers, link_type: int) -> pl.DataFrame:
    inner = read_inner_layers(view.packets, rows, offsets, link_type)
    names = [name.removeprefix("inner_") for name in SCHEMA if name.startswith("inner_")]
    columns = [pl.col(name).alias(f"inner_{name}") for name in names]
    numbers = pl.Series("row", rows).cast(pl.UInt32)
    return inner.select(numbers, pl.lit(tunnel).alias("tunnel"), *columns).filter(
        pl.col("inner_ip_version").is_not_null()
    )
