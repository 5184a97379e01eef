"""pcapng: every kind of block, in either byte order; nothing that is no packet is lost."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.capture import pcapng
from transforms.capture.packets import Interface, Packets
from transforms.capture.reading import Damage, Opening, Side, read_capture
from transforms.capture.resolutions import Resolution, add_offsets, fits_ns, split_time
from transforms.capture.spans import gather_spans

MARKS = pytest.mark.parametrize("mark", "<>")
MICROS = 1_700_000_000_123_456


def block(mark: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(mark + "I", len(body) + 12)
    return struct.pack(mark + "I", kind) + length + body + length


def section(mark: str, major: int = 1) -> bytes:
    return block(mark, 0x0A0D0D0A, struct.pack(mark + "IHHq", 0x1A2B3C4D, major, 0, -1))


def option(mark: str, code: int, value: bytes) -> bytes:
    return struct.pack(mark + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(mark: str, link_type: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(mark, 1, struct.pack(mark + "HHI", link_type, 0, snaplen) + options)


def packet(mark: str, data: bytes, ticks: int = MICROS, number: int = 0, options: bytes = b"") -> bytes:
    words = struct.pack(mark + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) + 1)
    return block(mark, 6, words + data + bytes(-len(data) % 4) + options)


def packets_of(content: bytes) -> list[Packets]:
    return [part for part in read_capture(content) if isinstance(part, Packets)]


def sides_of(content: bytes) -> list[Side]:
    return [part for part in read_capture(content) if isinstance(part, Side)]


def damage_of(content: bytes) -> Damage:
    *_, last = read_capture(content)
    assert isinstance(last, Damage)
    assert last.rest == content[last.offset :]
    return last


def data_of(packets: Packets) -> list[bytes]:
    records, starts = packets.records.tobytes(), packets.starts.tolist()
    return [records[begin + 16 : end] for begin, end in pairwise(starts)]


@MARKS
def test_enhanced_packets(mark):
    content = section(mark) + interface(mark, 113, 96) + packet(mark, b"abcde") + packet(mark, b"", MICROS + 1)
    opening, *sides, packets = read_capture(content)
    assert opening == Opening("pcapng", "little" if mark == "<" else "big", "us", "1.0", 0, -1, b"")
    assert [(side.offset, side.kind, side.content) for side in sides] == [
        (0, "section", content[:28]),
        (28, "interface", content[28:48]),
    ]
    assert isinstance(packets, Packets) and packets.interface == Interface(0, 113, 96, 1000)
    normal = struct.pack("<IIII", 1_700_000_000, 123_456, 5, 6) + b"abcde"
    normal += struct.pack("<IIII", 1_700_000_000, 123_457, 0, 1)
    assert packets.records.tobytes() == normal and packets.starts.tolist() == [0, 21, 37]


@MARKS
def test_simple_packets_have_no_time_and_end_where_their_interface_says(mark):
    simple = block(mark, 3, struct.pack(mark + "I", 100) + bytes(range(8)))
    whole = block(mark, 3, struct.pack(mark + "I", 3) + b"abc")
    (packets,) = packets_of(section(mark) + interface(mark, snaplen=8) + simple + whole + packet(mark, b"xy"))
    assert data_of(packets) == [bytes(range(8)), b"abc", b"xy"]
    assert packets.headers["captured"].tolist() == [8, 3, 2]
    assert packets.headers["original"].tolist() == [100, 3, 3]
    assert packets.ts_ns.tolist() == [0, 0, MICROS * 1000]


@MARKS
def test_a_window_that_begins_with_a_simple_packet(mark, monkeypatch):
    simple = block(mark, 3, struct.pack(mark + "I", 4) + b"abcd")
    monkeypatch.setattr(pcapng, "WINDOW_BYTES", 48)
    parts = packets_of(section(mark) + interface(mark) + 4 * simple)
    assert [data for part in parts for data in data_of(part)] == 4 * [b"abcd"]
    assert len(parts) > 1


def test_spans_are_copied_in_any_order_and_zeros_stand_for_what_is_not_there():
    window = np.arange(-9, 21).astype(np.uint8)[10:]  # what stands before it in memory is no zero
    begins, ends = np.array([-2, 5, 9]), np.array([3, 9, 9])
    records, starts = gather_spans(window, begins, ends)
    assert (records.tolist(), starts.tolist()) == ([0, 0, 1, 2, 3, 6, 7, 8, 9], [0, 5, 9, 9])
    records, starts = gather_spans(window, begins[1:], ends[1:], np.array([1, 0, 0]))
    assert (records.tolist(), starts.tolist()) == ([6, 7, 8, 9] * 2, [0, 0, 4, 8])
    records, starts = gather_spans(window, begins[:0], ends[:0])
    assert (records.tolist(), starts.tolist()) == ([], [0])


@MARKS
def test_old_packet_blocks(mark):
    words = struct.pack(mark + "HHIIII", 1, 7, MICROS >> 32, MICROS & 0xFFFFFFFF, 3, 9)
    content = section(mark) + interface(mark) + interface(mark, 12) + block(mark, 2, words + b"abc")
    (packets,) = packets_of(content)
    assert (packets.interface.number, packets.interface.link_type) == (1, 12)
    assert data_of(packets) == [b"abc"] and packets.ts_ns.tolist() == [MICROS * 1000]


@MARKS
def test_packets_come_by_interface_each_in_the_order_of_the_file(mark):
    rows = [(0, b"a"), (1, b"b"), (0, b"cc"), (2, b"d"), (1, b"eee")]
    content = section(mark) + 3 * interface(mark)
    content += b"".join(packet(mark, data, number=number) for number, data in rows)
    found = {part.interface.number: data_of(part) for part in packets_of(content)}
    assert found == {0: [b"a", b"cc"], 1: [b"b", b"eee"], 2: [b"d"]}


@pytest.mark.parametrize("marks", ["<>", "><", "<<", "><>"])
def test_interfaces_count_through_sections_of_either_order(marks):
    content = b"".join(
        section(mark) + interface(mark, nth) + packet(mark, b"abc") for nth, mark in enumerate(marks)
    )
    parts = packets_of(content)
    assert [(part.interface.number, part.interface.link_type) for part in parts] == [
        (nth, nth) for nth in range(len(marks))
    ]
    assert [data_of(part) for part in parts] == [[b"abc"]] * len(marks)
    assert not isinstance(list(read_capture(content))[-1], Damage)


@MARKS
def test_all_that_is_no_packet_goes_on_as_it_stands(mark):
    blocks = [(4, "names"), (5, "statistics"), (10, "secrets"), (0xBAD, "other"), (0x8000_0001, "other")]
    content = section(mark) + interface(mark)
    content += b"".join(block(mark, kind, bytes([kind & 0xFF] * 5)) for kind, _ in blocks)
    sides = sides_of(content)
    assert [side.kind for side in sides] == ["section", "interface", *(name for _, name in blocks)]
    assert b"".join(side.content for side in sides) == content
    assert [side.offset for side in sides] == np.cumsum([0, *map(len, (side.content for side in sides))])[
        :-1
    ].tolist()


@MARKS
def test_what_stands_behind_a_packet_goes_on_as_its_options(mark):
    comment = option(mark, 1, b"hello") + option(mark, 0, b"")
    head = section(mark) + interface(mark)
    content = (
        head
        + packet(mark, b"abcde", options=comment)
        + block(mark, 3, struct.pack(mark + "I", 2) + b"abcdefgh")
    )
    *_, first, second = sides_of(content)
    assert (first.offset, first.kind, first.content) == (len(head) + 28 + 8, "packet options", comment)
    assert (second.kind, second.content) == ("packet options", b"efgh")
    assert content[second.offset :][:4] == b"efgh"


@pytest.mark.parametrize(
    ("code", "name"), [(6, "us"), (9, "ns"), (3, "10^-3"), (0, "10^-0"), (0x8A, "2^-10"), (0xFF, "2^-127")]
)
def test_the_resolution_of_the_first_interface_is_told(code, name):
    options = option("<", 2, b"eth0") + option("<", 9, bytes([code])) + option("<", 0, b"")
    content = section("<") + interface("<", options=options) + packet("<", b"a", 1 << 32)
    opening, *_, packets = read_capture(content)
    assert isinstance(opening, Opening) and opening.resolution == name
    assert isinstance(packets, Packets)
    unit = 2 ** (code - 128) if code > 127 else 10**code
    assert packets.ts_ns.tolist() == [(1 << 32) * 10**9 // unit]
    assert packets.interface.unit_ns == (1000 if code == 6 else 1)


def test_an_interface_behind_the_damage_describes_nothing():
    nano = interface("<", options=option("<", 9, bytes([9])))
    opening, side, damage = read_capture(section("<") + packet("<", b"a") + nano)
    assert isinstance(opening, Opening) and opening.resolution == "us"
    assert isinstance(side, Side) and side.kind == "section"
    assert isinstance(damage, Damage) and damage.offset == 28


@MARKS
def test_offsets_move_times_and_options_behind_the_end_do_not_count(mark):
    offset = option(mark, 14, struct.pack(mark + "q", -1_700_000_001))
    options = offset + option(mark, 0, b"") + option(mark, 9, b"\x09")
    (packets,) = packets_of(section(mark) + interface(mark, options=options) + packet(mark, b"a"))
    assert packets.ts_ns.tolist() == [123_456_000 - 10**9]
    assert packets.era == -1
    (packets,) = packets_of(
        section(mark) + interface(mark, options=struct.pack(mark + "HH", 9, 40)) + packet(mark, b"")
    )
    assert packets.ts_ns.tolist() == [MICROS * 1000]


def test_packets_are_split_where_the_era_changes():
    late = (1 << 32) * 10**6 + 5
    content = section("<") + interface("<") + b"".join(packet("<", b"", ticks) for ticks in (1, late, late, 2))
    parts = packets_of(content)
    assert [(part.era, part.ts_ns.tolist()) for part in parts] == [
        (0, [1000]),
        (1, [late * 1000] * 2),
        (0, [2000]),
    ]


LAST_MICROS = ((1 << 63) - 1) // 1000


def test_a_time_beyond_64_bits_of_nanoseconds_is_damage():
    good = section("<") + interface("<") + packet("<", b"a", LAST_MICROS)
    assert packets_of(good)[0].ts_ns.tolist() == [LAST_MICROS * 1000]
    damage = damage_of(good + packet("<", b"b", LAST_MICROS + 1))
    assert (damage.reason, damage.offset) == ("a time beyond 64 bits of nanoseconds", len(good))
    assert damage_of(good + packet("<", b"b", (1 << 64) - 1)).offset == len(good)


GOOD = section("<") + interface("<") + packet("<", b"abc")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (packet("<", b"abc")[:-1], "the last block is cut"),
        (b"\x06\0\0\0", "the last block is cut"),
        (packet("<", b"abc", number=1), "a packet of no interface"),
        (section("<") + packet("<", b"abc"), "a packet of no interface"),
        (section("<") + block("<", 3, bytes(8)), "a packet of no interface"),
        (packet("<", b"abc")[:-4] + b"\x28\0\0\0", "a block whose two lengths differ"),
        (struct.pack("<III", 5, 8, 8), "a block length of 8"),
        (struct.pack("<III", 5, 0xFFFFFFF0, 8), "a block length of 4294967280"),
        (block("<", 6, bytes(16)), "a block too short for its type"),
        (block("<", 1, bytes(4)), "a block too short for its type"),
        (section("<", major=2), "a section of a version that is not known"),
        (block("<", 0x0A0D0D0A, bytes(16)), "a section without a byte order"),
        (packet("<", b"abc")[:20] + b"\x05" + packet("<", b"abc")[21:], "a captured length beyond its block"),
        (packet("<", bytes(262_145)), "a captured length of more than its link type may have"),
    ],
)
def test_a_wrong_block_is_damage_behind_the_good_ones(wrong, reason):
    damage = damage_of(GOOD + wrong + packet("<", b"later") if "cut" not in reason else GOOD + wrong)
    begun = wrong.startswith(section("<")) and reason == "a packet of no interface"
    assert (damage.reason, damage.offset) == (reason, len(GOOD) + (28 if begun else 0))
    assert [data_of(part) for part in packets_of(GOOD + wrong)] == [[b"abc"]]


def test_there_are_bounds_for_interfaces_and_for_what_is_no_packet(monkeypatch):
    monkeypatch.setattr(pcapng, "MOST_INTERFACES", 2)
    monkeypatch.setattr(pcapng, "MOST_SIDE_BYTES", 100)
    two = section("<") + 2 * interface("<")
    assert damage_of(two + interface("<")) == Damage("more than 2 interfaces", len(two), interface("<"))
    long = block("<", 4, bytes(100))
    assert damage_of(two + long).reason == "a block of more than 100 bytes that is no packet"
    assert len(packets_of(two + packet("<", bytes(200)))) == 1


def test_a_length_that_leaves_out_the_padding_is_understood():
    body = struct.pack("<IIIII", 0, 0, 5, 3, 3) + b"abc"
    unpadded = struct.pack("<II", 6, 12 + len(body)) + body + b"\0" + struct.pack("<I", 12 + len(body))
    (packets,) = packets_of(section("<") + interface("<") + 2 * unpadded)
    assert data_of(packets) == [b"abc", b"abc"]


@pytest.mark.parametrize("code", [0, 1, 6, 7, 9, 10, 19, 20, 28, 29, 127, *range(128, 256)])
def test_times_are_split_exactly(code):
    ticks = [0, 1, 999_999, 1_000_000, 1_700_000_000_123_456_789, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    seconds, fractions = split_time(np.array(ticks, np.uint64), code)
    unit = Fraction(2 ** (code - 128) if code > 127 else 10**code)
    for tick, second, fraction in zip(ticks, seconds.tolist(), fractions.tolist(), strict=True):
        assert second == tick // unit
        assert fraction == (tick - second * unit) * (10**6 if code == 6 else 10**9) // unit


def test_offsets_and_limits():
    far = np.array([0, 5, (1 << 64) - 1], np.uint64)
    assert add_offsets(far, np.array([-7, 2, 0])).tolist()[:2] == [-7, 7]
    assert add_offsets(far, np.array([-(1 << 63), (1 << 63) - 1, 0]))[1:].min() > 9_223_372_036


@given(st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
def test_an_offset_and_a_time_that_undo_each_other_are_a_time(seconds: int, offset: int):
    """Found by changed captures: an offset of the least number that there is, below a time as large."""
    for moment in (seconds, -offset + seconds % 10_000_000_000, -offset - 1):
        moment = min(max(moment, 0), (1 << 64) - 1)
        [found] = add_offsets(np.array([moment], np.uint64), np.array([offset], np.int64)).tolist()
        wanted = moment + offset
        assert found == wanted if abs(wanted) <= 1 << 60 else found * (1 if wanted > 0 else -1) >= 1 << 60
    edges = np.array([-9_223_372_037, -9_223_372_036, 9_223_372_036, 9_223_372_036, 9_223_372_037])
    fractions = np.array([0, 0, 854_775_807, 854_775_808, 0])
    assert fits_ns(edges, fractions).tolist() == [False, True, True, False, False]
    assert Resolution(6).unit_ns == 1000 and Resolution(9).unit_ns == 1
