"""What packets say in plain text of who talks: names asked for, servers, hosts, and what tunnels carry.

Candidates are chosen by protocol, port and first bytes for all packets at once; only they are looked
at, questions of DNS all at once and the others one by one, so far as their first 4 KiB. What does not
decode is left out, never an error: a port is a hint and no promise.

Source: RFC 1035 (DNS), RFC 8446 and 6066 (TLS), RFC 2131 (DHCP), RFC 9112 (HTTP), RFC 2784 (GRE),
RFC 2003 and 4213 (IP in IP), RFC 7348 (VXLAN).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, cast

import dpkt
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms.capture.layers import GRE, TCP, UDP, frame_to_fields, read_inner_layers
from transforms.capture.links import IPV4, IPV6, Fields, gather
from transforms.capture.packets import Packets
from transforms.capture.spans import gather_spans

Numbers: TypeAlias = "NDArray[np.int64]"
Mask: TypeAlias = "NDArray[np.bool_]"
Found: TypeAlias = "dict[str, Any]"

# A ClientHello with post-quantum key shares has about 2 KiB, a request's headers seldom more.
MOST_BYTES = 4096
_LONGEST_LABEL, _LONGEST_NAME = 63, 254
_MOST_ASKED = 1 << 16
_QUESTION_AT = 12  # behind a message's header
# DNS, its multicast form and LLMNR share their layout.
_DNS_PORTS = (53, 5353, 5355)
_DHCP_PORTS = (67, 68)
_VXLAN_PORT = 4789
_ETHERNET, _RAW = 1, 101
_BRIDGED = 0x6558  # GRE that carries Ethernet
_METHODS = tuple(
    int.from_bytes(method, "big")
    for method in (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")
)
_LEAST_PAYLOAD = 16
_IS_PORT: Mask = np.zeros(1 << 16, bool)
_IS_PORT[[*_DNS_PORTS, *_DHCP_PORTS]] = True
_HANDSHAKE = 0x1603  # TLS' kind of record and its version's first byte
_IS_FIRST: Mask = np.zeros(1 << 8, bool)
_IS_FIRST[[_HANDSHAKE >> 8, *(method >> 24 for method in _METHODS)]] = True
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


@dataclass(frozen=True)
class Said:
    """What some packets of one protocol say, each distinct saying once.

    Shape: `rows` are the packets' numbers, in order; `codes` index `sayings`, each a column's value by
    its name (the columns of `SCHEMA`).
    """

    rows: Numbers
    codes: Numbers
    sayings: Sequence[Found]


def decode_packets(packets: Packets, layers: pl.DataFrame) -> pl.DataFrame:
    """Decode what packets say in plain text.

    Shape: the packets and what `read_layers` gave for them in; out, sorted by `row` (the packet's
    number), one row for each packet that said something: `dns_query` and `dns_type` (of the first
    question), `tls_sni`, `dhcp_hostname` and `dhcp_client_mac` (UInt64, the lower 48 bits), `http_host`,
    or `tunnel` (ipip, 6in4, gre, vxlan, or ip6 for what else is carried in IPv6) with the `inner_`
    columns as in `read_layers`; the others are null. Fragments are not looked at.
    """
    columns, valid = frame_to_fields(layers)
    rows = np.arange(len(packets))
    parts = [_to_frame(said) for said in decode_names(choose_speaking(packets, rows, columns, valid))]
    tunnels = _choose_tunnels(packets, columns, valid)
    parts += [_decode_tunnels(packets, *chosen) for chosen in tunnels if chosen[1].size]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *parts], how="diagonal").sort("row")


def _to_frame(said: Said) -> pl.DataFrame:
    schema = {name: kind for name, kind in SCHEMA.items() if name != "row" and not name.startswith("inner_")}
    sayings = pl.DataFrame(list(said.sayings), schema=schema)
    return sayings[said.codes].with_columns(pl.Series("row", said.rows).cast(pl.UInt32))


@dataclass(frozen=True)
class Speaking:
    """Packets that may tell something, by what can be seen of all of them at once.

    Shape: an entry for each: `rows` are their numbers, `starts` where their records begin in `octets`;
    `payload_offset` counts from there.
    """

    octets: NDArray[np.uint8]
    rows: Numbers
    starts: Numbers
    protocol: Fields
    src_port: Fields
    dst_port: Fields
    payload_offset: Fields
    payload_bytes: Fields

    @classmethod
    def join(cls, octets: NDArray[np.uint8], parts: Sequence[Speaking]) -> Speaking:
        """Put some that are in the same bytes together; there may be none."""
        kinds: tuple[Any, ...] = (np.int64, np.int64, np.uint8, np.uint16, np.uint16, np.int32, np.int32)
        parts = [cls(octets, *(np.empty(0, kind) for kind in kinds)), *parts]
        columns = [np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)[1:]]
        return cls(octets, *columns)

    def rows_of(self, protocol: int, least_bytes: int) -> Numbers:
        """Choose packets by protocol and by what was captured of their payload."""
        return np.flatnonzero((self.protocol == protocol) & (self.payload_bytes >= least_bytes))

    def has_port(self, rows: Numbers, *ports: int) -> Mask:
        """Whether either end is one of these; a payload that was captured has its ports before it."""
        src, dst = self.src_port[rows], self.dst_port[rows]
        found = np.zeros(len(rows), bool)
        for port in ports:
            found |= (src == port) | (dst == port)
        return found

    def spans(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """Give where the payloads of some packets begin in the records, and how far they are looked at."""
        starts = self.starts[rows] + self.payload_offset[rows]
        return starts, starts + np.minimum(self.payload_bytes[rows], MOST_BYTES)


def may_tell(
    protocol: Fields, src_port: Fields, dst_port: Fields, payload_bytes: Fields, first: NDArray[np.uint8]
) -> Mask:
    """Whether packets may tell something, by their ports and the first byte of their payload."""
    # numpy looks up by its own kind of index several times as fast as by any other.
    has_port = _IS_PORT[src_port.astype(np.intp)] | _IS_PORT[dst_port.astype(np.intp)]
    is_tcp = protocol == TCP
    chosen = (is_tcp & _IS_FIRST[first.astype(np.intp)]) | (has_port & (is_tcp | (protocol == UDP)))
    return np.asarray(chosen & (payload_bytes >= _LEAST_PAYLOAD))


def choose_speaking(
    packets: Packets, rows: Numbers, columns: dict[str, Fields], valid: dict[str, Mask]
) -> Speaking:
    """Choose packets that may tell something among some, by what `read_fields` gave for these."""
    protocol, payload_bytes = _whole(columns, valid)
    places = np.where(payload_bytes >= _LEAST_PAYLOAD, packets.starts[rows] + columns["payload_offset"], 0)
    first = packets.records[places]
    chosen = may_tell(protocol, columns["src_port"], columns["dst_port"], payload_bytes, first)
    src_port, dst_port, offset = (columns[name][chosen] for name in ("src_port", "dst_port", "payload_offset"))
    rows, sizes = rows[chosen], payload_bytes[chosen]
    return Speaking(
        packets.records, rows, packets.starts[rows], protocol[chosen], src_port, dst_port, offset, sizes
    )


def _whole(columns: dict[str, Fields], valid: dict[str, Mask]) -> tuple[Fields, Fields]:
    """Give protocols, 0 where none is known and for fragments; and payloads, -1 where there is none."""
    is_whole = valid["protocol"] & ~columns["is_fragment"]
    return np.where(is_whole, columns["protocol"], 0), np.where(valid["payload"], columns["payload_bytes"], -1)


def decode_names(speaking: Speaking, asked: dict[bytes, Found | None] | None = None) -> Iterator[Said]:
    """Decode what `decode_packets` does but tunnels: the candidates of each decoder, none of them twice.

    `asked` remembers questions of DNS from one call to the next, as many as are few.
    """
    asked = {} if asked is None else asked
    if len(asked) > _MOST_ASKED:
        asked.clear()
    udp = speaking.rows_of(UDP, 17)
    is_dns = speaking.has_port(udp, *_DNS_PORTS)
    yield _decode_questions(speaking, udp[is_dns], 0, asked)
    udp = udp[~is_dns]
    udp = udp[speaking.payload_bytes[udp] >= 240]
    yield _decode_payloads(speaking, udp[speaking.has_port(udp, *_DHCP_PORTS)], _decode_dhcp)
    tcp = speaking.rows_of(TCP, 16)
    is_dns = speaking.has_port(tcp, _DNS_PORTS[0]) & (speaking.payload_bytes[tcp] >= 19)
    yield _decode_questions(speaking, tcp[is_dns], 2, asked)
    tcp = tcp[~is_dns]
    # What these begin with is surer than a port: TLS and HTTP run on any.
    first = gather(speaking.octets, speaking.starts[tcp] + speaking.payload_offset[tcp], np.dtype(">u4"))
    # A record of the handshake (22), version 3.x; whether it is a ClientHello is seen when it is read.
    yield _decode_payloads(speaking, tcp[first >> 16 == _HANDSHAKE], _decode_tls)
    is_request = np.logical_or.reduce([first == method for method in _METHODS])
    yield _decode_payloads(speaking, tcp[is_request], _decode_http)


def _decode_payloads(speaking: Speaking, rows: Numbers, decode: Callable[[bytes], Found | None]) -> Said:
    """Decode payloads one by one."""
    octets, sayings = speaking.octets.data, []
    found: list[int] = []
    for row, start, end in zip(rows.tolist(), *(bound.tolist() for bound in speaking.spans(rows)), strict=True):
        try:
            said = decode(octets[start:end].tobytes())
        except Exception:  # a decoder raises whatever its slicing raises; it then decodes nothing
            said = None
        if said:
            found.append(row)
            sayings.append(said)
    return Said(speaking.rows[found], np.arange(len(found)), sayings)


# -- names asked for ----------------------------------------------------------------------------


def _decode_questions(speaking: Speaking, rows: Numbers, begins: int, asked: dict[bytes, Found | None]) -> Said:
    """Read the first question of DNS messages; the records behind it are not looked at.

    Devices ask for the same names all the time, so that equal questions are read once. A message
    `begins` so many bytes into the payload.
    """
    starts, ends = speaking.spans(rows)
    starts = starts + begins
    whole, stops = _find_questions(speaking.octets, starts, ends)
    rows, starts, stops = rows[whole], starts[whole], stops[whole]
    if not rows.size:
        return Said(rows, rows, [])
    octets, places = gather_spans(speaking.octets, starts + _QUESTION_AT, stops)
    column = pa.Array.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(places.data), pa.py_buffer(octets.data)]
    ).dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    questions = cast("list[bytes]", column.dictionary.to_pylist())
    asked |= {question: _decode_question(question) for question in questions if question not in asked}
    sayings = [asked[question] for question in questions]
    good = np.array([said is not None for said in sayings])
    numbers, kept = np.cumsum(good) - 1, good[codes]
    return Said(speaking.rows[rows[kept]], numbers[codes[kept]], [said for said in sayings if said])


def _find_questions(octets: NDArray[np.uint8], starts: Numbers, ends: Numbers) -> tuple[Numbers, Numbers]:
    """Step from label to label of all messages at once, to where each one's question ends.

    Shape: where messages begin and end; out, the numbers of those that hold a whole question, and
    for every message where its name's type ends. A name stands first in its message, so there is
    nothing that it could be compressed against.
    """
    stops = np.zeros(len(starts), np.int64)
    left = np.flatnonzero((octets[starts + 4] | octets[starts + 5]) != 0)
    at = starts[left] + _QUESTION_AT
    bounds = np.minimum(ends[left], at + (_LONGEST_NAME + 1))
    while left.size:
        left, at, bounds = _where(at < bounds, left, at, bounds)
        size = octets[at].astype(np.int64)
        ended = np.flatnonzero(size == 0)
        stops[left[ended]] = at[ended] + 3
        at += 1 + size
        left, at, bounds = _where((size > 0) & (size <= _LONGEST_LABEL), left, at, bounds)
    # Behind the type, the question has two more bytes.
    return np.flatnonzero((stops > 0) & (stops + 2 <= ends)), stops


def _where(chosen: Mask, *columns: Numbers) -> Sequence[Numbers]:
    """Choose among rows; most often it is all of them."""
    return columns if chosen.all() else [column[np.flatnonzero(chosen)] for column in columns]


def _decode_question(question: bytes) -> Found | None:
    """Decode a name's labels and its type; None where a label is no text."""
    labels, at = [], 0
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size])
        at += 1 + size
    try:
        name = b".".join(labels).decode() or "."
    except UnicodeDecodeError:
        return None
    return {"dns_query": name, "dns_type": int.from_bytes(question[at + 1 :], "big")}


# -- one payload --------------------------------------------------------------------------------


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


def _choose_tunnels(
    packets: Packets, columns: dict[str, Fields], valid: dict[str, Mask]
) -> list[tuple[str, Numbers, Numbers, int]]:
    """Give, for each kind of tunnel: its name, the packets, where the inner ones begin, their link type."""
    l4, payload = (columns[name].astype(np.int64) for name in ("l4_offset", "payload_offset"))
    protocol, payload_bytes = _whole(columns, valid)
    chosen = []
    for name, number, version in (("ipip", 4, 4), ("6in4", 41, 4), ("ip6", 4, 6), ("ip6", 41, 6)):
        rows = np.flatnonzero((protocol == number) & (columns["ip_version"] == version))
        chosen.append((name, rows, l4[rows], _RAW))
    gre = np.flatnonzero((protocol == GRE) & (payload_bytes >= 1))
    kinds = gather(packets.records, packets.starts[gre] + l4[gre] + 2, np.dtype(">u2"))
    for numbers, link_type in (((IPV4, IPV6), _RAW), ((_BRIDGED,), _ETHERNET)):
        rows = gre[np.isin(kinds, numbers)]
        chosen.append(("gre", rows, payload[rows], link_type))
    vxlan = np.flatnonzero((protocol == UDP) & (payload_bytes >= 8))
    vxlan = vxlan[columns["dst_port"][vxlan] == _VXLAN_PORT]
    flags = gather(packets.records, packets.starts[vxlan] + payload[vxlan], np.dtype("u1"))
    vxlan = vxlan[flags & 0x08 == 0x08]
    chosen.append(("vxlan", vxlan, payload[vxlan] + 8, _ETHERNET))
    return chosen


def _decode_tunnels(
    packets: Packets, tunnel: str, rows: Numbers, offsets: Numbers, link_type: int
) -> pl.DataFrame:
    inner = read_inner_layers(packets, rows, offsets, link_type)
    names = [name.removeprefix("inner_") for name in SCHEMA if name.startswith("inner_")]
    columns = [pl.col(name).alias(f"inner_{name}") for name in names]
    numbers = pl.Series("row", rows).cast(pl.UInt32)
    return inner.select(numbers, pl.lit(tunnel).alias("tunnel"), *columns).filter(
        pl.col("inner_ip_version").is_not_null()
    )
