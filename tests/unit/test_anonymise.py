"""What an anonymised packet keeps, what is rewritten in it, and what is cut."""

import struct

import dpkt
import numpy as np
import pytest

from transforms.capture import macs
from transforms.capture.anonymise import AnonymiseKeys, anonymise_packets
from transforms.capture.macs import permute_macs
from transforms.capture.packets import HEADER_BYTES, Interface, Packets
from transforms.capture.prefixes import encrypt_prefixes
from transforms.errors import UsageError

KEYS = AnonymiseKeys(bytes(range(32)), bytes(range(32, 64)))
A, B, C = bytes([192, 0, 2, 7]), bytes([198, 51, 100, 9]), bytes([203, 0, 113, 5])
A6, B6 = bytes.fromhex("20010db8" + "00" * 11 + "07"), bytes.fromhex("20010db8" + "00" * 11 + "09")
MAC_A, MAC_B = bytes.fromhex("02005e100001"), bytes.fromhex("3c5ab4000002")


def packets_of(frames, link_type=1):
    records = [struct.pack("<4I", 1, 2, len(frame), len(frame)) + frame for frame in frames]
    starts = np.cumsum([0, *map(len, records)], dtype=np.int64)
    octets = np.frombuffer(b"".join(records), np.uint8)
    return Packets(Interface(0, link_type, 65535, 1000), octets, starts)


def anonymise(frame, link_type=1, **options):
    made = anonymise_packets(packets_of([frame], link_type), KEYS, **options)
    return made.records[HEADER_BYTES:].tobytes()


def ip_of(address):
    wide = address if len(address) == 16 else bytes(10) + b"\xff\xff" + address
    return encrypt_prefixes(np.frombuffer(wide, np.uint8).reshape(1, 16), KEYS.ip).tobytes()[-len(address) :]


def mac_of(address):
    return permute_macs(np.frombuffer(address, np.uint8).reshape(1, 6), KEYS.mac).tobytes()


def ethernet(payload, ethertype=0x0800):
    return MAC_A + MAC_B + struct.pack(">H", ethertype) + payload


def ipv4(payload, protocol=17, options=b"", fragment=0):
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 1, fragment, 64, protocol, 0)
    return head + A + B + options + payload


def ipv6(payload, following=17):
    return struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + A6 + B6 + payload


def udp(payload=b"payload", dst=7000, src=7001):
    return struct.pack(">4H", src, dst, 8 + len(payload), 0) + payload


def tcp(options=b"", payload=b"payload"):
    words = (20 + len(options)) // 4 << 4
    return struct.pack(">HHIIBBHHH", 7000, 7001, 1, 2, words, 24, 9, 0, 0) + options + payload


# -- addresses ----------------------------------------------------------------------------------


def test_one_address_becomes_one_wherever_it_stands():
    made = anonymise(ethernet(ipv4(udp())))
    assert made[:12] == mac_of(MAC_A) + mac_of(MAC_B)
    assert made[26:34] == ip_of(A) + ip_of(B)
    body = bytes.fromhex("0001080006040001") + MAC_A + A + MAC_B + B
    made = anonymise(ethernet(body + bytes(18), 0x0806))
    assert made[14:] == body[:8] + mac_of(MAC_A) + ip_of(A) + mac_of(MAC_B) + ip_of(B)
    redirect = bytes([5, 1, 0, 0]) + B + ipv4(udp())
    assert anonymise(ethernet(ipv4(redirect, 1)))[38:] == ip_of(B)


def test_the_checksum_of_a_redirect_follows_its_gateway():
    redirect = bytes(dpkt.icmp.ICMP(type=5, code=1, data=A + bytes(8)))
    made = anonymise(ethernet(ipv4(redirect, 1)))[34:]
    assert dpkt.in_cksum(redirect) == dpkt.in_cksum(made + bytes(8)) == 0


def ones_sum(octets):
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("at", [17, 136])
def test_a_udp_checksum_that_comes_out_as_none_is_sent_as_all_ones(at):
    def segment(word, checksum=0):
        return struct.pack(">5H", 7000, 7001, 10, checksum, word)

    ends = struct.pack(">HH", at, 10)
    word = 0xFFFF - ones_sum(ip_of(A) + ip_of(B) + ends + segment(0))
    checksum = 0xFFFF - ones_sum(A + B + ends + segment(word))
    made = anonymise(ethernet(ipv4(segment(word, checksum), at)))
    assert made[40:42] == b"\xff\xff"


def test_ipv6_and_vlan():
    made = anonymise(MAC_A + MAC_B + b"\x81\0\0\7\x86\xdd" + ipv6(udp()))
    assert made[12:18] == b"\x81\0\0\7\x86\xdd"
    assert made[26:58] == ip_of(A6) + ip_of(B6)
    assert len(made) == 18 + 48


def test_another_scheme_gives_others():
    frame = ethernet(ipv4(udp()))
    assert anonymise(frame)[26:34] != anonymise(frame, scheme="cryptopan")[26:34] != frame[26:34]


# -- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "kept"),
    [
        (ipv4(udp()), 28),
        (ipv4(udp(), options=b"\x07\x07\x08" + A + b"\0"), 36),
        (ipv4(udp(), fragment=0x2000), 28),
        (ipv4(udp(), fragment=0x00B9), 20),
        (ipv4(tcp(), 6), 40),
        (ipv4(bytes([0, 0]) + bytes(9), 1), 28),
        (ipv4(bytes([40, 0]) + bytes(9), 1), 24),
        (ipv4(bytes(20), 132), 32),
        (ipv4(bytes(4) + bytes([4]) + bytes(20), 33), 32),
        (ipv4(b"\x20\0\x08\0" + A + bytes(20), 47), 24),
        (ipv4(ipv4(udp()), 4), 20),
        (ipv4(b"\x16\0\0\0" + A, 2), 20),
        (ipv4(udp())[:26], 20),
        (ipv4(udp())[:19], 0),
    ],
)
def test_what_is_kept_of_ipv4(packet, kept):
    assert len(anonymise(ethernet(packet))) == 14 + kept
    assert len(anonymise(packet, 101)) == kept


@pytest.mark.parametrize(
    ("packet", "kept"),
    [
        (ipv6(udp()), 48),
        (ipv6(bytes([135, 0, 0, 0]) + bytes(4) + A6, 58), 48),
        (ipv6(bytes([200, 0, 0, 0]) + A6, 58), 44),
        (ipv6(bytes([17, 0, 0, 1]) + bytes(4) + udp(), 44), 56),
        (ipv6(bytes([17, 0]) + bytes(6) + udp(), 0), 40),
        (ipv6(bytes([17, 2, 0, 1]) + bytes(4) + A6 + udp(), 43), 40),
    ],
)
def test_what_is_kept_of_ipv6(packet, kept):
    assert len(anonymise(ethernet(packet, 0x86DD))) == 14 + kept


TIMESTAMPS = b"\1\1\x08\x0a" + bytes(8)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (b"", 0),
        (TIMESTAMPS, 12),
        (b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\7", 20),
        (b"\1\1\5\x0a" + bytes(8), 12),
        (b"\x1e\x08\x30\1" + A, 0),
        (TIMESTAMPS + b"\x1c\x06" + A + b"\1\1", 12),
        (b"\1\1\1\0", 3),
        (b"\2\x08\5\xb4" + A, 0),
        (b"\1\1\1\1", 4),
        (b"\1\1\1\2", 3),
        (b"\2\4\5\xb4\x08\x0a\0\0", 4),
    ],
)
def test_tcp_options_that_may_hold_an_address_are_cut(options, kept):
    assert len(anonymise(ethernet(ipv4(tcp(options), 6)))) == 14 + 40 + kept
    more = 7 if kept == len(options) else 0
    assert len(anonymise(ethernet(ipv4(tcp(options), 6)), keep_payload=True)) == 14 + 40 + kept + more


def test_ipv4_options_are_overwritten():
    made = anonymise(ethernet(ipv4(udp(), options=b"\x07\x07\x08" + C + b"\0")))
    assert made[34:42] == b"\1" * 8


@pytest.mark.parametrize(
    ("frame", "kept"),
    [
        (ethernet(b"\2\7\4" + MAC_A, 0x88CC), 14),
        (ethernet(b"\x42\x42\3" + bytes(35), 38), 14),
        (ethernet(b"\0\1\1\xff" + ipv4(udp()), 0x8847), 14),
        (ethernet(bytes.fromhex("1100000100210021") + ipv4(udp()), 0x8864), 14 + 8 + 28),
        (ethernet(bytes.fromhex("0001080006040001") + MAC_A, 0x0806), 14),
        (ethernet(bytes.fromhex("000f080008040001") + bytes(24), 0x0806), 14),
        (MAC_A + MAC_B[:3], 0),
    ],
)
def test_what_is_not_understood_keeps_its_link_header(frame, kept):
    made = anonymise(frame)
    assert len(made) == kept
    assert made[:12] == (mac_of(MAC_A) + mac_of(MAC_B))[:kept]


def test_rarp_is_rewritten_too():
    body = bytes.fromhex("0001080006040003") + MAC_A + bytes(4) + MAC_A + A
    assert anonymise(ethernet(body, 0x8035))[-4:] == ip_of(A)


@pytest.mark.parametrize(("head", "kept"), [("ff030021", 4 + 28), ("ff030281000101ff", 4), ("ff03c021", 4)])
def test_point_to_point(head, kept):
    assert len(anonymise(bytes.fromhex(head) + ipv4(udp()), 9)) == kept


@pytest.mark.parametrize("link_type", [105, 127, 147, 249])
def test_other_link_types_keep_nothing(link_type):
    assert anonymise(bytes([0x08, 0, 0, 0]) + MAC_A * 3 + bytes(2), link_type) == b""


@pytest.mark.parametrize(
    ("length", "address", "made"),
    [(6, MAC_A + b"\7\7", mac_of(MAC_A) + bytes(2)), (4, A + bytes(4), bytes(8)), (8, A6[:8], bytes(8))],
)
def test_cooked_headers(length, address, made):
    one = struct.pack(">HHH", 0, 1, length) + address + struct.pack(">H", 0x0800)
    two = struct.pack(">HHIHBB", 0x0800, 0, 3, 1, 0, length) + address
    assert anonymise(one + ipv4(udp()), 113)[6:14] == made
    assert anonymise(two + ipv4(udp()), 276)[12:20] == made


# -- payloads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "kept"),
    [
        (ipv4(udp()), 35),
        (ipv4(udp(dst=53)), 28),
        (ipv4(udp(src=67)), 28),
        (ipv4(udp(), fragment=0x2000), 28),
        (ipv4(bytes([8, 0]) + bytes(13), 1), 35),
        (ipv4(bytes([3, 0]) + bytes(33), 1), 28),
        (ipv4(ipv4(udp()), 4), 20),
    ],
)
def test_payloads_are_kept_where_asked_for_and_known_to_be_free(packet, kept):
    assert len(anonymise(ethernet(packet) + MAC_A, keep_payload=True)) == 14 + kept


def test_many_lengths_in_one_chunk():
    frames = [ethernet(ipv4(udp(bytes([size % 251]) * size))) for size in range(300)]
    made = anonymise_packets(packets_of(frames), KEYS, keep_payload=True)
    assert np.diff(made.starts).tolist() == [HEADER_BYTES + len(frame) for frame in frames]
    for start, frame in zip(made.starts[:-1], frames, strict=True):
        assert made.records[start + 16 + 42 : start + 16 + len(frame)].tobytes() == frame[42:]


def test_no_packets():
    made = anonymise_packets(packets_of([]), KEYS)
    assert (len(made), made.starts.tolist(), len(made.records)) == (0, [0], 0)


# -- hardware addresses -------------------------------------------------------------------------


def test_macs_are_permuted_within_their_kind():
    rng = np.random.default_rng(5)
    plain = np.unique(rng.integers(0, 256, (50_000, 6), np.uint8), axis=0)
    made = permute_macs(plain, KEYS.mac)
    assert len(np.unique(made, axis=0)) == len(plain)
    assert (made[:, 0] & 3 == plain[:, 0] & 3).all()
    assert (made[:, :3] == plain[:, :3]).all(axis=1).mean() < 0.001
    assert (permute_macs(plain, bytes(32)) == made).all(axis=1).mean() < 0.001


def test_what_is_no_device_stays():
    fixed = np.array([[0] * 6, [255] * 6], np.uint8)
    assert (permute_macs(fixed, KEYS.mac) == fixed).all()
    assert permute_macs(np.empty((0, 6), np.uint8), KEYS.mac).shape == (0, 6)


def test_what_would_become_a_fixed_value_takes_its_place(monkeypatch):
    turned = np.uint64(0x3C_5AB4_0000_02 & ~(3 << 40))
    monkeypatch.setattr(macs, "_permute", lambda values, encryptor: values ^ turned)
    address = np.frombuffer(int(turned).to_bytes(6, "big"), np.uint8).reshape(1, 6)
    assert (permute_macs(address, KEYS.mac) == address).all()
    both = np.concatenate((address, np.zeros((1, 6), np.uint8)))
    assert (permute_macs(both, KEYS.mac) == both).all()


# -- what is refused ----------------------------------------------------------------------------


def test_keys_of_other_lengths_are_refused_and_keys_are_not_shown():
    for ip, mac in ((bytes(16), bytes(32)), (bytes(32), bytes(16))):
        with pytest.raises(UsageError, match="32"):
            AnonymiseKeys(ip, mac)
    assert repr(KEYS) == "AnonymiseKeys()"


def test_another_scheme_is_refused():
    with pytest.raises(UsageError, match="ipcrypt-pfx, cryptopan"):
        anonymise_packets(packets_of([]), KEYS, scheme="rot13")
