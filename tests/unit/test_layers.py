"""Headers as columns: every link type, tags and extension headers, and nothing invented where it is cut."""

import ipaddress
import struct

import dpkt
import numpy as np
import polars as pl
import pytest

from transforms.capture.layers import (
    CHUNK_PACKETS,
    distinct_addresses,
    format_ips,
    format_macs,
    read_layers,
)
from transforms.capture.packets import Interface, Packets

A, B = ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("198.51.100.9")
A6, B6 = ipaddress.ip_address("2001:db8::7"), ipaddress.ip_address("fe80::ff:fe00:9")
MACS = bytes.fromhex("020000000001 0200000000ff")


def packets_of(frames, link_type=1):
    records = [struct.pack("<4I", 1, 2, len(frame), len(frame)) + frame for frame in frames]
    starts = np.cumsum([0, *map(len, records)], dtype=np.int64)
    return Packets(
        Interface(0, link_type, 65535, 1000), np.frombuffer(b"".join(records), np.uint8).copy(), starts
    )


def layers_of(frame, link_type=1):
    [row] = read_layers(packets_of([frame], link_type)).rows(named=True)
    return row


def ethernet(payload, ethertype=0x0800):
    return MACS + struct.pack(">H", ethertype) + payload


def ipv4(payload, protocol=17, options=b"", fragment=0, total=None, ttl=61):
    size = 20 + len(options)
    total = size + len(payload) if total is None else total
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, total, 1, fragment, ttl, protocol, 0)
    return head + A.packed + B.packed + options + payload


def ipv6(payload, following=17, length=None):
    length = len(payload) if length is None else length
    return struct.pack(">IHBB", 6 << 28, length, following, 62) + A6.packed + B6.packed + payload


def udp(payload=b"payload", src=5353, dst=53):
    return struct.pack(">4H", src, dst, 8 + len(payload), 0) + payload


def tcp(payload=b"payload", options=b"", flags=0x12):
    words = (20 + len(options)) // 4 << 4
    return struct.pack(">HHIIBBHHH", 1883, 443, 1, 2, words, flags, 9, 0, 0) + options + payload


def address(row, name):
    high, low = row[f"{name}_high"], row[f"{name}_low"]
    return None if low is None else ipaddress.ip_address((high << 64 | low).to_bytes(16, "big"))


def is_udp(row, *, offset=16 + 14 + 28, payload=b"payload"):
    assert (row["ip_version"], row["protocol"], row["src_port"], row["dst_port"]) == (4, 17, 5353, 53)
    assert (address(row, "src_ip").ipv4_mapped, address(row, "dst_ip").ipv4_mapped) == (A, B)
    assert (row["payload_offset"], row["payload_bytes"]) == (offset, len(payload))
    return True


# -- the link layer -----------------------------------------------------------------------------


def test_ethernet():
    row = layers_of(ethernet(ipv4(udp())))
    assert is_udp(row)
    assert (row["dst_mac"], row["src_mac"]) == (0x020000000001, 0x0200000000FF)
    assert (row["ethertype"], row["l3_offset"], row["l4_offset"], row["ttl"]) == (0x0800, 30, 50, 61)
    assert row["is_fragment"] is False
    assert [row[name] for name in ("tcp_flags", "icmp_type", "icmp_code")] == [None] * 3


@pytest.mark.parametrize("tags", [(0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100)])
def test_vlan_tags_are_stepped_over(tags):
    words = [*tags, 0x0800]
    tagged = b"".join(struct.pack(">HH", 7, following) for following in words[1:])
    row = layers_of(ethernet(tagged + ipv4(udp()), tags[0]))
    assert is_udp(row, offset=16 + 14 + 4 * len(tags) + 28)
    assert row["ethertype"] == 0x0800


def test_a_third_tag_is_the_ethertype():
    row = layers_of(ethernet(struct.pack(">6H", 1, 0x8100, 2, 0x8100, 3, 0x0800) + ipv4(udp()), 0x8100))
    assert (row["ethertype"], row["ip_version"]) == (0x8100, None)


def test_snap_is_stepped_over_and_other_llc_has_no_ethertype():
    snap = bytes.fromhex("aaaa030000000800") + ipv4(udp())
    assert is_udp(layers_of(ethernet(snap, len(snap))), offset=16 + 14 + 8 + 28)
    row = layers_of(ethernet(b"\x42\x42\x03" + bytes(35), 38))
    assert (row["ethertype"], row["ip_version"], row["dst_mac"]) == (None, None, 0x020000000001)


@pytest.mark.parametrize("link_type", [12, 14, 101, 228])
def test_raw_ip(link_type):
    row = layers_of(ipv4(udp()), link_type)
    assert is_udp(row, offset=16 + 28)
    assert (row["ethertype"], row["src_mac"], row["dst_mac"]) == (None, None, None)


def test_raw_ipv6():
    row = layers_of(ipv6(udp()), 229)
    assert (row["ip_version"], row["l3_offset"], address(row, "src_ip")) == (6, 16, A6)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("link_type", [0, 108])
def test_loopback_in_both_orders(link_type, order):
    assert is_udp(layers_of(struct.pack(f"{order}I", 2) + ipv4(udp()), link_type), offset=16 + 4 + 28)
    for family in (24, 28, 30):
        row = layers_of(struct.pack(f"{order}I", family) + ipv6(udp()), link_type)
        assert (row["ip_version"], row["src_port"]) == (6, 5353)
    assert layers_of(struct.pack(f"{order}I", 7) + ipv4(udp()), link_type)["ip_version"] is None


def test_cooked():
    one = struct.pack(">HHH8sH", 0, 1, 6, MACS[6:] + b"\0\0", 0x0800)
    two = struct.pack(">HHIHBB8s", 0x0800, 0, 3, 1, 0, 6, MACS[6:] + b"\0\0")
    for head, link_type in ((one, 113), (two, 276)):
        row = layers_of(head + ipv4(udp()), link_type)
        assert is_udp(row, offset=16 + len(head) + 28)
        assert (row["src_mac"], row["dst_mac"], row["ethertype"]) == (0x0200000000FF, None, 0x0800)


@pytest.mark.parametrize(
    ("head", "link_type"),
    [
        (bytes.fromhex("ff030021"), 9),
        (bytes.fromhex("0021"), 9),
        (bytes.fromhex("21"), 9),
        (bytes.fromhex("ff0321"), 50),
        (bytes.fromhex("ff030281") + b"\0\1\1\xff", 9),
        (bytes.fromhex("0f000800"), 104),
        (bytes.fromhex("1100000100210021"), 51),
    ],
)
def test_point_to_point(head, link_type):
    assert is_udp(layers_of(head + ipv4(udp()), link_type), offset=16 + len(head) + 28)


@pytest.mark.parametrize("labels", [1, 2, 6])
def test_mpls_labels_are_stepped_over(labels):
    stack = b"\0\1\0\xff" * (labels - 1) + b"\0\1\1\xff"
    row = layers_of(ethernet(stack + ipv4(udp()), 0x8847))
    assert is_udp(row, offset=16 + 14 + 4 * labels + 28)
    assert row["ethertype"] == 0x8847


def test_what_mpls_does_not_lead_to_ip_is_left():
    for stack in (b"\0\1\0\xff" * 7, b"\0\1\1\xff\0", b"\0\1\1\xff"):
        row = layers_of(ethernet(stack, 0x8847))
        assert (row["ip_version"], row["l3_offset"]) == (None, 30)


def test_pppoe_is_stepped_over_when_it_carries_ip():
    session = bytes.fromhex("110000010021")
    row = layers_of(ethernet(session + b"\0\x21" + ipv4(udp()), 0x8864))
    assert is_udp(row, offset=16 + 14 + 8 + 28)
    row = layers_of(ethernet(session + b"\0\x57" + ipv6(udp()), 0x8864))
    assert (row["ip_version"], row["ethertype"]) == (6, 0x8864)
    row = layers_of(ethernet(session + b"\xc0\x21" + bytes(40), 0x8864))
    assert (row["ip_version"], row["l3_offset"]) == (None, 30)


SNAP = bytes.fromhex("aaaa030000000800")
WIFI = b"".join(bytes([0x02, 0, 0, 0, 0, last]) for last in (1, 2, 3))


@pytest.mark.parametrize(
    ("flags", "src", "dst", "more"),
    [(0, 2, 1, b""), (1, 2, 3, b""), (2, 3, 1, b""), (3, 4, 3, b"\2\0\0\0\0\4")],
)
@pytest.mark.parametrize("quality", [False, True])
@pytest.mark.parametrize("radiotap", [b"", bytes([0, 0, 12, 0]) + bytes(8)])
def test_wifi(flags, src, dst, more, quality, radiotap):
    head = bytes([0x88 if quality else 0x08, flags, 0, 0]) + WIFI + bytes(2) + more + bytes(2 * quality)
    row = layers_of(radiotap + head + SNAP + ipv4(udp()), 127 if radiotap else 105)
    assert is_udp(row, offset=16 + len(radiotap) + len(head) + 8 + 28)
    assert (row["src_mac"], row["dst_mac"]) == (0x020000000000 + src, 0x020000000000 + dst)


@pytest.mark.parametrize("kind", [b"\x08\x40", b"\x48\x00", b"\x80\x00", b"\xb4\x00"])
def test_wifi_that_carries_nothing_readable(kind):
    row = layers_of(kind + bytes(2) + WIFI + bytes(2) + SNAP + ipv4(udp()), 105)
    assert row["ip_version"] is None
    assert (row["dst_mac"] is None) == (kind[0] == 0xB4)


def test_a_cooked_address_of_another_length_is_no_mac():
    head = struct.pack(">HHH8sH", 0, 512, 0, bytes(8), 0x0800)
    assert layers_of(head + ipv4(udp()), 113)["src_mac"] is None


def test_the_upper_half_of_the_link_type_does_not_matter():
    assert is_udp(layers_of(ethernet(ipv4(udp())) + b"fcs!", 0x5000_0001))


@pytest.mark.parametrize("link_type", [119, 147, 163, 65535])
def test_unknown_link_types_give_nulls(link_type):
    assert set(layers_of(ethernet(ipv4(udp())), link_type).values()) == {None}


# -- the network layer --------------------------------------------------------------------------


def test_ipv4_options_and_padding():
    row = layers_of(ethernet(ipv4(udp(b"x"), options=b"\1" * 40)) + bytes(9))
    assert is_udp(row, offset=16 + 14 + 68, payload=b"x")


def test_a_length_of_zero_reaches_to_the_end():
    assert is_udp(layers_of(ethernet(ipv4(udp(), total=0))))
    assert layers_of(ethernet(ipv6(udp(), length=0), 0x86DD))["payload_bytes"] == len(b"payload")


@pytest.mark.parametrize(("fragment", "has_ports"), [(0x2000, True), (0x2001, False), (0x00B9, False)])
def test_ipv4_fragments(fragment, has_ports):
    row = layers_of(ethernet(ipv4(udp(), fragment=fragment)))
    assert row["is_fragment"] is True
    assert (row["src_port"] is not None) == has_ports
    assert row["payload_offset"] == (58 if has_ports else 50)


def test_do_not_fragment_is_no_fragment():
    assert layers_of(ethernet(ipv4(udp(), fragment=0x4000)))["is_fragment"] is False


def extension(following, size=8):
    return bytes([following, size // 8 - 1]) + bytes(size - 2)


def fragment_header(following, field):
    return struct.pack(">BBHI", following, 0, field, 9)


@pytest.mark.parametrize(
    ("first", "chain", "fragmented", "has_ports"),
    [
        (17, b"", False, True),
        (0, extension(17), False, True),
        (0, extension(43) + extension(60, 24) + extension(17, 16), False, True),
        (51, struct.pack(">BB", 17, 4) + bytes(22), False, True),
        (44, fragment_header(17, 0), False, True),
        (44, fragment_header(17, 1), True, True),
        (44, fragment_header(17, 8), True, False),
        (0, extension(0) * 5 + extension(17), False, True),
    ],
)
def test_ipv6_extension_headers(first, chain, fragmented, has_ports):
    row = layers_of(ethernet(ipv6(chain + udp(), first), 0x86DD))
    assert (row["ip_version"], row["ttl"], row["protocol"]) == (6, 62, 17)
    assert (address(row, "src_ip"), address(row, "dst_ip")) == (A6, B6)
    assert (row["src_port"], row["is_fragment"]) == (5353 if has_ports else None, fragmented)
    assert row["l4_offset"] == 70 + len(chain)
    assert row["payload_bytes"] == len(udp()) - (8 if has_ports else 0)


def test_a_longer_chain_stops_at_the_seventh_header():
    row = layers_of(ethernet(ipv6(extension(0) * 6 + extension(17) + udp(), 0), 0x86DD))
    assert (row["protocol"], row["src_port"], row["l4_offset"]) == (0, None, 70 + 48)


def test_a_chain_that_leaves_the_packet_has_no_protocol():
    row = layers_of(ethernet(ipv6(bytes([17, 9]) + bytes(14), 0), 0x86DD))
    assert (address(row, "src_ip"), row["protocol"], row["payload_offset"]) == (A6, None, None)


@pytest.mark.parametrize("frame", [ipv6(udp()), b"\x43" + ipv4(udp())[1:], b"\x50" + ipv4(udp())[1:]])
def test_a_wrong_version_or_header_length_is_no_ip(frame):
    row = layers_of(ethernet(frame, 0x0800))
    assert (row["ethertype"], row["ip_version"], row["src_ip_low"], row["ttl"]) == (0x0800, None, None, None)


def test_arp_is_not_ip():
    row = layers_of(ethernet(bytes(28), 0x0806))
    assert (row["ethertype"], row["l3_offset"], row["ip_version"]) == (0x0806, 30, None)


# -- the transport layer ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [b"", b"\1" * 12, b"\1" * 40])
def test_tcp(options):
    row = layers_of(ethernet(ipv4(tcp(options=options), 6)))
    assert (row["src_port"], row["dst_port"], row["tcp_flags"]) == (1883, 443, 0x12)
    assert (row["payload_offset"], row["payload_bytes"]) == (16 + 14 + 40 + len(options), 7)


def test_a_tcp_header_that_is_too_small_has_no_payload():
    wrong = bytearray(tcp())
    wrong[12] = 0x40
    row = layers_of(ethernet(ipv4(bytes(wrong), 6)))
    assert (row["src_port"], row["payload_offset"], row["payload_bytes"]) == (1883, None, None)


@pytest.mark.parametrize(
    ("protocol", "header", "size"),
    [
        (1, bytes([3, 4]) + bytes(6), 8),
        (58, bytes([135, 0]) + bytes(6), 8),
        (47, b"\0\0\x08\0", 4),
        (47, b"\xb0\0\x08\0" + bytes(12), 16),
        (132, bytes(12), 12),
        (33, bytes([0, 7, 0, 9, 4]) + bytes(11), 16),
        (136, struct.pack(">4H", 1, 2, 8, 0), 8),
        (50, b"", 0),
    ],
)
def test_other_protocols(protocol, header, size):
    row = layers_of(ethernet(ipv4(header + b"payload" * 3, protocol)))
    assert (row["protocol"], row["payload_offset"], row["payload_bytes"]) == (protocol, 50 + size, 21)
    icmp = (header[0], header[1]) if protocol in (1, 58) else (None, None)
    assert (row["icmp_type"], row["icmp_code"]) == icmp
    assert (row["src_port"] is not None) == (protocol in (33, 132, 136))


# -- what is cut --------------------------------------------------------------------------------


FRAMES = [
    ethernet(b"\0\1\0\xff\0\1\1\xff" + ipv4(udp()), 0x8847),
    ethernet(bytes.fromhex("1100000100210021") + ipv4(udp()), 0x8864),
    ethernet(ipv4(tcp(options=b"\1" * 12), 6)),
    ethernet(ipv6(extension(17) + udp(), 0), 0x86DD),
    ethernet(struct.pack(">HH", 7, 0x0800) + ipv4(bytes([3, 4]) + bytes(9), 1), 0x8100),
]


@pytest.mark.parametrize("frame", FRAMES, ids=["mpls", "pppoe", "tcp", "ipv6", "vlan"])
def test_a_cut_packet_gives_what_it_holds_and_nulls(frame):
    """What a cut packet tells is what the whole one tells, whatever stands behind it in the buffer."""
    whole = layers_of(frame)
    cuts = [frame[:size] for size in range(len(frame) + 1)]
    told = []
    for filler in (b"\0" * 90, b"\xff" * 90):
        mixed = [one for cut in cuts for one in (cut, filler)]
        rows = read_layers(packets_of(mixed)).gather_every(2)
        told.append(rows)
        for row in rows.rows(named=True):
            wrong = {
                name
                for name, value in row.items()
                if value not in (None, whole[name]) and name not in ("payload_bytes", "ethertype", "l3_offset")
            }
            assert wrong == set()
    assert told[0].equals(told[1])
    last = told[0].rows(named=True)[-1]
    assert last == whole
    seen = [row["src_port"] is not None or row["icmp_type"] is not None for row in told[0].rows(named=True)]
    assert seen == sorted(seen), "a longer packet tells no less"


def test_no_packets():
    frame = read_layers(packets_of([]))
    assert frame.height == 0
    assert frame.schema["src_ip_high"] == pl.UInt64


# -- against a peer -----------------------------------------------------------------------------


def random_frame(rng):
    transport, protocol = [
        (udp(rng.bytes(int(rng.integers(9))), *map(int, rng.integers(1, 65535, 2))), 17),
        (tcp(rng.bytes(int(rng.integers(9))), b"\1" * (4 * int(rng.integers(11)))), 6),
        (bytes([8, 0]) + rng.bytes(12), 1),
    ][int(rng.integers(3))]
    if rng.integers(2):
        return ethernet(ipv6(transport, protocol), 0x86DD)
    return ethernet(ipv4(transport, protocol, b"\1" * (4 * int(rng.integers(11)))))


def test_dpkt_says_the_same():
    rng = np.random.default_rng(7)
    frames = [random_frame(rng) for _ in range(500)]
    for row, frame in zip(read_layers(packets_of(frames)).rows(named=True), frames, strict=True):
        ip = dpkt.ethernet.Ethernet(frame).data
        version = 4 if isinstance(ip, dpkt.ip.IP) else 6
        inner = ip.data
        assert (row["ip_version"], row["protocol"]) == (version, ip.p)
        ports = (inner.sport, inner.dport) if ip.p in (6, 17) else (None, None)
        assert (row["src_port"], row["dst_port"]) == ports
        assert row["ttl"] == (ip.ttl if version == 4 else ip.hlim)
        source = address(row, "src_ip")
        assert (source.ipv4_mapped or source).packed == ip.src
        if ip.p in (6, 17):
            assert row["payload_bytes"] == len(inner.data)


def test_chunks_join_without_a_seam():
    few = [ethernet(ipv4(udp(bytes(size), dst=size))) for size in range(1, 8)]
    count = 2 * CHUNK_PACKETS // len(few) * len(few) + len(few)
    rows = read_layers(packets_of(few * (count // len(few))))
    assert rows.height == count
    assert rows["dst_port"].to_list() == list(range(1, 8)) * (count // len(few))
    assert rows["payload_bytes"].to_list() == rows["dst_port"].to_list()


# -- distinct addresses -------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True])
def test_distinct_addresses_spread_back(mixed):
    frames = [ethernet(ipv4(udp())), ethernet(bytes(28), 0x0806), ethernet(ipv4(tcp(), 6))]
    frames += [ethernet(ipv6(udp()), 0x86DD)] if mixed else []
    layers = read_layers(packets_of(frames))
    (src, dst), distinct = distinct_addresses(layers)
    texts = format_ips(distinct)
    assert src.dtype == pl.UInt32
    assert texts.gather(src).to_list() == [str(A), None, str(A), *([str(A6)] if mixed else [])]
    assert texts.gather(dst).to_list() == [str(B), None, str(B), *([str(B6)] if mixed else [])]
    assert len(texts) == len(set(texts)) == (4 if mixed else 2)


def test_distinct_macs():
    frames = [ethernet(ipv4(udp())), b"short"]
    (src, dst), distinct = distinct_addresses(read_layers(packets_of(frames)), ("src_mac", "dst_mac"))
    assert format_macs(distinct).gather(src).to_list() == ["02:00:00:00:00:ff", None]
    assert format_macs(distinct).gather(dst).to_list() == ["02:00:00:00:00:01", None]


def test_distinct_of_nothing():
    (src, _), distinct = distinct_addresses(read_layers(packets_of([])))
    assert (len(src), distinct.shape) == (0, (0, 16))
    assert format_ips(distinct).to_list() == format_macs(distinct[:, 10:]).to_list() == []


@pytest.mark.parametrize(
    "text", "0.0.0.0 255.255.255.255 :: ::1 2001:db8::1 2001:db8:0:1:1:1:1:1 fe80::1:0:0:1 1::".split()
)
def test_addresses_are_written_as_rfc_5952_has_it(text):
    ip = ipaddress.ip_address(text)
    octets = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    assert format_ips(np.frombuffer(octets, np.uint8).reshape(1, 16)).to_list() == [text]
