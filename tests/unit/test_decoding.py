"""What packets say in plain text: names, hosts, tunnels; and nothing where it does not decode."""

import ipaddress
import struct

import dpkt
import numpy as np
import polars as pl
import pytest

from transforms.capture.decoding import SCHEMA, decode_packets
from transforms.capture.layers import read_layers
from transforms.capture.packets import Interface, Packets

A, B = ipaddress.ip_address("192.0.2.7").packed, ipaddress.ip_address("198.51.100.9").packed
A6, B6 = ipaddress.ip_address("2001:db8::7").packed, ipaddress.ip_address("2001:db8::9").packed


def packets_of(frames):
    records = [struct.pack("<4I", 1, 2, len(frame), len(frame)) + frame for frame in frames]
    starts = np.cumsum([0, *map(len, records)], dtype=np.int64)
    octets = np.frombuffer(b"".join(records), np.uint8)
    return Packets(Interface(0, 1, 65535, 1000), octets, starts)


def decode(*frames):
    packets = packets_of(frames)
    return decode_packets(packets, read_layers(packets))


def said(frame):
    """What one packet says, without nulls."""
    rows = decode(frame).rows(named=True)
    return [{name: value for name, value in row.items() if value is not None and name != "row"} for row in rows]


def ethernet(payload, ethertype=0x0800):
    return bytes(12) + struct.pack(">H", ethertype) + payload


def ipv4(payload, protocol=17, fragment=0):
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + A + B + payload


def ipv6(payload, following=17):
    return struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + A6 + B6 + payload


def udp(payload, dst, src=40000):
    return ethernet(ipv4(struct.pack(">4H", src, dst, 8 + len(payload), 0) + payload))


def tcp(payload, dst=443):
    return ethernet(ipv4(struct.pack(">HHIIBBHHH", 40000, dst, 1, 1, 0x50, 0x18, 9, 0, 0) + payload, 6))


def question(name="www.example.org", kind=28):
    return bytes(dpkt.dns.DNS(id=7, qd=[dpkt.dns.DNS.Q(name=name, type=kind)]))


# -- DNS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ports", [(53, 40000), (40000, 53), (5353, 5353), (5355, 40000)])
def test_dns_over_udp(ports):
    assert said(udp(question(), *ports)) == [{"dns_query": "www.example.org", "dns_type": 28}]


def test_dns_over_tcp():
    message = question(kind=1)
    frame = tcp(struct.pack(">H", len(message)) + message, 53)
    assert said(frame) == [{"dns_query": "www.example.org", "dns_type": 1}]


def test_dns_whose_answers_are_cut_or_wrong_still_tells_the_question():
    message = bytearray(question())
    message[6:8] = b"\0\7"
    assert said(udp(bytes(message) + b"\xc0\x0c\0", 53)) == [{"dns_query": "www.example.org", "dns_type": 28}]


def test_the_root_is_a_name():
    assert said(udp(question(name=""), 53)) == [{"dns_query": ".", "dns_type": 28}]


@pytest.mark.parametrize(
    "payload",
    [
        question()[:20],
        b"\0\1\0\0\0\0" + bytes(20),
        b"\0\1\0\0\0\1\0\0\0\0\0\0" + b"\xc0\x0c\0\1\0\1",
        bytes(range(200, 230)),
        question()[:-1],
        b"\0\1\0\0\0\1\0\0\0\0\0\0" + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
        b"\0\1\0\0\0\1\0\0\0\0\0\0" + b"\2\xff\xfe\0\0\1\0\1",
    ],
    ids=[
        "cut",
        "no question",
        "a name that points at itself",
        "no DNS",
        "cut in its class",
        "too long",
        "no text",
    ],
)
def test_what_is_no_question_is_left_out(payload):
    assert said(udp(payload, 53)) == []


# -- TLS, HTTP, DHCP ----------------------------------------------------------------------------


def hello(name=b"mail.example.org", before=b"", session=b"", kind=1):
    server = struct.pack(">HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    extensions = before + server + struct.pack(">HH", 23, 0)
    body = b"\3\3" + bytes(32) + bytes([len(session)]) + session + struct.pack(">H", 4) + bytes(4) + b"\1\0"
    body += struct.pack(">H", len(extensions)) + extensions
    shake = bytes([kind]) + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack(">H", len(shake)) + shake


@pytest.mark.parametrize("port", [443, 8883])
@pytest.mark.parametrize("session", [b"", bytes(32)])
@pytest.mark.parametrize("before", [b"", struct.pack(">HH", 51, 900) + bytes(900)])
def test_tls_server_name_on_any_port(port, session, before):
    assert said(tcp(hello(session=session, before=before), port)) == [{"tls_sni": "mail.example.org"}]


def test_a_hello_that_goes_on_in_the_next_packet():
    whole = hello()
    assert said(tcp(whole[:-3])) == [{"tls_sni": "mail.example.org"}]
    assert said(tcp(whole[:-6])) == []


@pytest.mark.parametrize(
    "payload",
    [hello(kind=2), hello(name=b""), hello(name=b"\xff\xfe"), b"\x16\3\1" + bytes(30), b"\x16\3\1\0\0\1" * 3],
)
def test_what_is_no_hello_with_a_name_is_left_out(payload):
    assert said(tcp(payload)) == []


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "CONNECT"])
def test_http_host(method):
    frame = tcp(f"{method} / HTTP/1.1\r\nAccept: x\r\nhOST:  device.example.org:80 \r\n\r\n".encode(), 8080)
    assert said(frame) == [{"http_host": "device.example.org:80"}]


def test_a_host_in_the_body_is_not_one():
    assert said(tcp(b"POST / HTTP/1.0\r\n\r\n\r\nHost: evil\r\n", 80)) == []
    assert said(tcp(b"XGET / HTTP/1.1\r\nHost: a\r\n\r\n", 80)) == []


def dhcp(hostname=b"camera-7", hardware=6, magic=dpkt.dhcp.DHCP_MAGIC):
    options = ((53, b"\3"), (dpkt.dhcp.DHCP_OPT_HOSTNAME, hostname)) if hostname else ((53, b"\3"),)
    chaddr = bytes([2, 0, 0, 0, 0, 9]) + bytes(10)
    return bytes(dpkt.dhcp.DHCP(chaddr=chaddr, hln=hardware, magic=magic, opts=options))


def test_dhcp():
    assert said(udp(dhcp(), 67, 68)) == [{"dhcp_hostname": "camera-7", "dhcp_client_mac": 0x020000000009}]
    assert said(udp(dhcp(hostname=b""), 67, 68)) == [{"dhcp_client_mac": 0x020000000009}]
    assert said(udp(dhcp(hardware=16), 67, 68)) == [{"dhcp_hostname": "camera-7"}]
    assert said(udp(dhcp(magic=7), 67, 68)) == said(udp(dhcp()[:200], 67, 68)) == []
    assert said(udp(dhcp(hostname=b"\xff\xff"), 67, 68)) == []


# -- tunnels ------------------------------------------------------------------------------------


def inner(row):
    high, low = row["inner_src_ip_high"], row["inner_src_ip_low"]
    return row["tunnel"], row["inner_ip_version"], (high << 64 | low).to_bytes(16, "big"), row["inner_dst_port"]


MAPPED = bytes(10) + b"\xff\xff" + A
INNER4 = ipv4(struct.pack(">4H", 1, 77, 8, 0))
INNER6 = ipv6(struct.pack(">4H", 1, 77, 8, 0))
VXLAN = b"\x08\0\0\0\0\0\7\0"


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (ethernet(ipv4(INNER4, 4)), ("ipip", 4, MAPPED, 77)),
        (ethernet(ipv4(INNER6, 41)), ("6in4", 6, A6, 77)),
        (ethernet(ipv6(INNER6, 41), 0x86DD), ("ip6", 6, A6, 77)),
        (ethernet(ipv6(INNER4, 4), 0x86DD), ("ip6", 4, MAPPED, 77)),
        (ethernet(ipv4(b"\0\0\x08\0" + INNER4, 47)), ("gre", 4, MAPPED, 77)),
        (ethernet(ipv4(b"\x20\0\x86\xdd\0\0\0\1" + INNER6, 47)), ("gre", 6, A6, 77)),
        (ethernet(ipv4(b"\0\0\x65\x58" + ethernet(INNER4), 47)), ("gre", 4, MAPPED, 77)),
        (udp(VXLAN + ethernet(INNER6, 0x86DD), 4789), ("vxlan", 6, A6, 77)),
    ],
)
def test_tunnels(frame, told):
    [row] = decode(frame).rows(named=True)
    assert inner(row) == told
    assert row["inner_protocol"] == 17


@pytest.mark.parametrize(
    "frame",
    [
        ethernet(ipv4(bytes(30), 4)),
        ethernet(ipv4(INNER4, 4, fragment=0x2000)),
        ethernet(ipv4(b"\0\0\x88\x0b" + INNER4, 47)),
        ethernet(ipv4(INNER4[:10], 4)),
        ethernet(ipv4(b"\0\0", 47)),
        udp(b"\0" * 8 + ethernet(INNER4), 4789),
    ],
)
def test_what_is_no_tunnel_is_left_out(frame):
    assert said(frame) == []


# -- together -----------------------------------------------------------------------------------


def test_rows_are_numbers_of_packets_in_order():
    frames = [
        tcp(hello()),
        bytes(60),
        udp(question(), 53),
        ethernet(ipv4(INNER4, 4)),
        tcp(b"GET / x\r\nHost: h\r\n"),
    ]
    found = decode(*frames)
    assert found["row"].to_list() == [0, 2, 3, 4]
    assert found.schema == pl.Schema(SCHEMA)
    assert found["tunnel"].to_list() == [None, None, "ipip", None]


def test_nothing_said():
    assert decode().schema == decode(bytes(60)).schema == pl.Schema(SCHEMA)


def test_any_cut_is_without_error():
    for frame in (
        tcp(hello()),
        udp(question(), 53),
        udp(dhcp(), 67),
        ethernet(ipv4(b"\0\0\x08\0" + INNER4, 47)),
    ):
        assert decode(*[frame[:size] for size in range(len(frame))]).height < len(frame)
