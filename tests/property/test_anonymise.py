"""Packets of every kind, anonymised: no address left, prefixes kept, checksums as good or bad as before."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.capture.anonymise import AnonymiseKeys, anonymise_packets
from transforms.capture.community import community_ids
from transforms.capture.decoding import decode_packets
from transforms.capture.layers import read_layers
from transforms.capture.packets import HEADER_BYTES, Interface, Packets

KEYS = AnonymiseKeys(bytes(range(32)), bytes(range(32, 64)))
OTHER_KEYS = AnonymiseKeys(bytes(range(64, 96)), bytes(range(96, 128)))
FULL = 0xFFFF


def packets_of(frames, link_type):
    records = [
        struct.pack("<4I", number, number, len(frame), len(frame) + 7) + frame
        for number, frame in enumerate(frames)
    ]
    starts = np.cumsum([0, *map(len, records)], dtype=np.int64)
    octets = np.frombuffer(b"".join(records), np.uint8)
    return Packets(Interface(0, link_type, 65535, 1000), octets, starts, 3)


def frames_of(packets):
    return [
        packets.records[start + HEADER_BYTES : end].tobytes()
        for start, end in zip(packets.starts[:-1], packets.starts[1:], strict=True)
    ]


def ones_sum(octets):
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total > FULL:
        total = (total & FULL) + (total >> 16)
    return total


class Maker:
    """Makes packets out of random addresses, and remembers every address that it used."""

    def __init__(self, seed, link_type):
        self.rng = np.random.default_rng(seed)
        self.link_type = link_type
        self.used = set()
        # Two bytes that headers never have side by side.
        self.nets = [bytes([0xC1 + at, 0xC0 | int(self.rng.integers(16))]) for at in range(3)]
        self.good = True

    def pick(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def address(self, size):
        made = self.pick(*self.nets) + self.rng.bytes(size - 2)
        self.used.add(made)
        return made

    def mac(self):
        made = bytes([self.pick(0, 1, 2, 3) | 0x40]) + self.rng.bytes(5)
        self.used.add(made)
        return made

    def checksum(self, octets):
        total = FULL - ones_sum(octets)
        return total if self.good else total ^ 0x1234

    # -- transport -------------------------------------------------------------------------------

    def transport(self, pseudo, version):
        kind = self.pick("udp", "udp0", "tcp", "tcp", "icmp", "sctp", "gre", "inner", "vxlan")
        body = self.body()
        if kind in ("udp", "udp0"):
            return 17, self.summed(
                struct.pack(">4H", 5, 6, 8 + len(body), 0) + body, 6, pseudo, 17, kind == "udp0"
            )
        if kind == "tcp":
            options = self.pick(b"", b"\1\1\x08\x0a" + bytes(8), b"\2\4\5\xb4\4\2\1\1", self.multipath())
            words = (20 + len(options)) // 4 << 4
            head = struct.pack(">HHIIBBHHH", 5, 6, 1, 2, words, 24, 9, 0, 0)
            return 6, self.summed(head + options + body, 16, pseudo, 6)
        if kind == "icmp" and version == 4:
            quoted = self.ipv4()
            head = bytes([5, 1, 0, 0]) + self.address(4) if self.pick(0, 1) else bytes([3, 1]) + bytes(6)
            message = bytearray(head + quoted)
            message[2:4] = struct.pack(">H", self.checksum(bytes(message)))
            return 1, bytes(message)
        if kind == "icmp":
            target = bytes([135, 0, 0, 0]) + bytes(4) + self.address(16) + b"\1\1" + self.mac()
            return 58, self.summed(target, 2, pseudo, 58)
        if kind == "sctp":
            return 132, struct.pack(">HHII", 5, 6, 7, 8) + self.address(4) + body
        if kind == "gre":
            return 47, b"\0\0\x08\0" + self.ipv4()
        if kind == "inner":
            return (4, self.ipv4()) if self.pick(0, 1) else (41, self.ipv6())
        inner = struct.pack(">4H", 5, 4789, 8, 0) + b"\x08\0\0\0\0\0\7\0" + self.ethernet()
        return 17, self.summed(inner, 6, pseudo, 17)

    def multipath(self):
        return b"\x1e\x08\x30\1" + self.address(4)

    def body(self):
        return self.address(4) + self.address(16) + self.rng.bytes(int(self.rng.integers(20)))

    def summed(self, segment, at, pseudo, protocol, none=False):
        if none:
            return segment
        whole = pseudo + struct.pack(">II", len(segment), protocol) + segment
        number = self.checksum(whole) or FULL
        return segment[:at] + struct.pack(">H", number) + segment[at + 2 :]

    # -- network ---------------------------------------------------------------------------------

    def ipv4(self, depth=0):
        src, dst = self.address(4), self.address(4)
        protocol, payload = self.deep(src + dst, 4)
        options = self.pick(b"", b"", b"\x07\x07\x08" + self.address(4) + b"\0", b"\1" * 4)
        size, total = 20 + len(options), 20 + len(options) + len(payload)
        head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, total, 1, 0, 64, protocol, 0)
        number = struct.pack(">H", self.checksum(head + src + dst + options))
        return head[:10] + number + src + dst + options + payload

    def deep(self, pseudo, version):
        # What is inside of something else need not nest for ever.
        self.depth = getattr(self, "depth", 0) + 1
        made = self.transport(pseudo, version) if self.depth < 3 else (17, struct.pack(">4H", 5, 6, 8, 0))
        self.depth -= 1
        return made

    def ipv6(self):
        src, dst = self.address(16), self.address(16)
        protocol, payload = self.deep(src + dst, 6)
        routing = self.pick(b"", b"", bytes([protocol, 2, 0, 1]) + bytes(4) + self.address(16))
        following = 43 if routing else protocol
        head = struct.pack(">IHBB", 6 << 28, len(routing) + len(payload), following, 64)
        return head + src + dst + routing + payload

    def arp(self):
        return bytes.fromhex("0001080006040001") + self.mac() + self.address(4) + self.mac() + self.address(4)

    def network(self):
        kind = self.pick(4, 4, 6, 6, "arp", "lldp", "mpls", "pppoe")
        if kind in (4, 6):
            return (0x0800, self.ipv4()) if kind == 4 else (0x86DD, self.ipv6())
        if kind == "arp":
            return 0x0806, self.arp()
        if kind == "lldp":
            return 0x88CC, b"\2\7\4" + self.mac() + self.address(4)
        if kind == "mpls":
            return 0x8847, b"\0\1\1\xff" + self.pick(self.ipv4, self.ethernet_like_ip)()
        return 0x8864, bytes.fromhex("1100000100200021") + self.ipv4()

    def ethernet_like_ip(self):
        return b"\x45" + self.mac()[1:] + self.mac() + self.ipv4()

    def ethernet(self):
        ethertype, payload = self.network()
        tags = self.pick(b"", b"", b"\x81\0\0\7", b"\x88\xa8\0\7\x81\0\0\1")
        return self.mac() + self.mac() + tags + struct.pack(">H", ethertype) + payload + self.padding()

    def padding(self):
        return self.pick(b"", b"", self.mac())

    def frame(self):
        self.good = bool(self.rng.integers(4))
        if self.link_type == 1:
            return self.ethernet()
        if self.link_type in (0, 101):
            head = struct.pack("<I", 2) if self.link_type == 0 else b""
            return head + self.ipv4()
        ethertype, payload = self.network()
        address = self.pick(
            struct.pack(">H", 6) + self.mac() + b"\7\7", struct.pack(">H", 4) + self.address(4) + bytes(4)
        )
        if self.link_type == 113:
            return struct.pack(">HH", 0, 1) + address + struct.pack(">H", ethertype) + payload
        if self.link_type == 276:
            return struct.pack(">HHIHB", ethertype, 0, 3, 1, 0) + address[1:] + payload
        return bytes([0x08, 2, 0, 0]) + self.mac() + self.mac() + self.mac() + bytes(2) + payload


LINK_TYPES = [0, 1, 101, 105, 113, 147, 276]
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("scheme", ["ipcrypt-pfx", "cryptopan"])
@pytest.mark.parametrize("link_type", LINK_TYPES)
@settings(max_examples=20)
@given(seed=seeds, cut=st.booleans())
def test_no_address_of_the_input_is_in_the_output(link_type, scheme, seed, cut):
    maker = Maker(seed, link_type)
    frames = [maker.frame() for _ in range(12)]
    if cut:
        frames = [frame[: int(maker.rng.integers(len(frame) + 1))] for frame in frames]
    packets = packets_of(frames, link_type)
    made = anonymise_packets(packets, KEYS, scheme=scheme)
    # Chance writes an address under one key; what was left in place is there under both.
    again = frames_of(anonymise_packets(packets, OTHER_KEYS, scheme=scheme))
    for frame, other, original in zip(frames_of(made), again, frames, strict=True):
        assert [one.hex() for one in maker.used if one in frame and one in other] == []
        assert len(frame) <= len(original)
    for name in ("seconds", "fraction", "original"):
        assert (made.headers[name] == packets.headers[name]).all()
    assert (made.headers["captured"] == np.diff(made.starts) - HEADER_BYTES).all()
    assert (made.interface, made.era) == (packets.interface, packets.era)
    if link_type in (105, 147):
        assert set(frames_of(made)) == {b""}


def transport_of(frame):
    """Where the transport header of a raw IPv4 or IPv6 packet is, which it is, and its pseudo-header's part."""
    if frame[0] >> 4 == 4:
        size = (frame[0] & 15) * 4
        return size, frame[9], frame[12:20], frame[size:]
    return 40, frame[6], frame[8:40], frame[40:]


SUM_AT = {6: 16, 17: 6, 58: 2}


@settings(max_examples=20)
@given(seed=seeds)
def test_good_checksums_stay_good_and_bad_ones_bad(seed):
    """A checksum that the result shows is what one would compute over all that the packet had."""
    maker = Maker(seed, 101)
    frames = [maker.pick(maker.ipv4, maker.ipv6)() for _ in range(4) for maker.good in (True, False)]
    made = frames_of(anonymise_packets(packets_of(frames, 101), KEYS))
    for frame, new, good in zip(frames, made, [True, False] * 4, strict=True):
        size, protocol, _, payload = transport_of(frame)
        if frame[0] >> 4 == 4:
            header = new[:20] + b"\1" * (size - 20)
            assert (ones_sum(header) == FULL) == good
        at = SUM_AT.get(protocol)
        if at is None or len(new) < size + at + 2:
            continue
        kept = new[size:]
        whole = payload[:at] + kept[at : at + 2] + payload[at + 2 :]
        addresses = new[12:20] if frame[0] >> 4 == 4 else new[8:40]
        if protocol == 17 and payload[6:8] == b"\0\0":
            assert kept[6:8] == b"\0\0"
        else:
            pseudo = addresses + struct.pack(">II", len(payload), protocol)
            assert (ones_sum(pseudo + whole) == FULL) == good


@pytest.mark.parametrize("scheme", ["ipcrypt-pfx", "cryptopan"])
@settings(max_examples=20)
@given(seed=seeds)
def test_prefixes_are_kept_through_all_packets(scheme, seed):
    maker = Maker(seed, 101)
    frames = [maker.ipv4() for _ in range(8)]
    made = frames_of(anonymise_packets(packets_of(frames, 101), KEYS, scheme=scheme))
    old = [int.from_bytes(frame[at : at + 4], "big") for frame in frames for at in (12, 16)]
    new = [int.from_bytes(frame[at : at + 4], "big") for frame in made for at in (12, 16)]
    for a in range(len(old)):
        for b in range(a):
            assert (old[a] ^ old[b]).bit_length() == (new[a] ^ new[b]).bit_length()


@settings(max_examples=20)
@given(seed=seeds)
def test_a_payload_that_is_kept_is_kept_whole(seed):
    maker = Maker(seed, 101)
    frames = [maker.pick(maker.ipv4, maker.ipv6)() for _ in range(8)]
    packets = packets_of(frames, 101)
    cut = frames_of(anonymise_packets(packets, KEYS))
    for frame, less, more in zip(
        frames, cut, frames_of(anonymise_packets(packets, KEYS, keep_payload=True)), strict=True
    ):
        assert more.startswith(less)
        size, protocol, _, payload = transport_of(frame)
        if protocol == 17 and b"\x12\xb5" not in payload[:4]:
            assert more[size + 8 :] == payload[8:]
        elif protocol not in (6, 17):
            assert more == less


@pytest.mark.parametrize("link_type", [*LINK_TYPES, 9, 51, 104, 127])
@settings(max_examples=20)
@given(seed=seeds, noise=st.integers(0, 3))
def test_no_bytes_are_an_error_or_lead_out_of_their_record(link_type, seed, noise):
    """Damaged and random packets: places stay within the record, and what is kept is its beginning."""
    maker = Maker(seed, link_type if link_type in LINK_TYPES else 101)
    frames = [bytearray(maker.frame()) for _ in range(10)]
    for frame in frames:
        for _ in range(noise):
            frame[int(maker.rng.integers(len(frame)))] = int(maker.rng.integers(256))
    frames += [maker.rng.bytes(int(maker.rng.integers(80))) for _ in range(10)]
    packets = packets_of(frames, link_type)
    layers = read_layers(packets)
    sizes = np.diff(packets.starts)
    for name in ("l3_offset", "l4_offset", "payload_offset"):
        places = layers[name].fill_null(HEADER_BYTES).to_numpy()
        assert (places >= HEADER_BYTES).all()
        assert (places <= sizes).all()
    ends = (layers["payload_offset"] + layers["payload_bytes"]).fill_null(0).to_numpy()
    assert (ends <= sizes).all()
    assert decode_packets(packets, layers).height <= len(frames)
    assert len(community_ids(layers)) == len(frames)
    made = anonymise_packets(packets, KEYS, keep_payload=bool(noise))
    assert (np.diff(made.starts) <= sizes).all()
