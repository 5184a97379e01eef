"""Classic captures in every form they come in: all end in the one normal form."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from transforms.capture import pcap
from transforms.capture.packets import Interface, Packets
from transforms.capture.reading import Opening, Side, read_capture
from transforms.capture.walk import FEWEST

US, NS, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
ROWS = [(1_700_000_000, 5, b"", 0), (1_700_000_001, 999_999, b"abc", 90), (1_700_000_000, 7, b"x" * 60, 60)]


def header(magic: int, mark: str, minor: int = 4, major: int = 2, link_type: int = 1) -> bytes:
    return struct.pack(mark + "IHHiIII", magic, major, minor, 0, 0, 65_535, link_type)


def record(
    row: tuple[int, int, bytes, int], mark: str = "<", swapped: bool = False, extra: bytes = b""
) -> bytes:
    seconds, fraction, data, original = row
    lengths = (original, len(data)) if swapped else (len(data), original)
    return struct.pack(mark + "IIII", seconds, fraction, *lengths) + extra + data


NORMAL = b"".join(record(row) for row in ROWS)


def read_packets(content: bytes) -> list[Packets]:
    return [part for part in read_capture(content) if isinstance(part, Packets)]


@pytest.mark.parametrize("mark", "<>")
@pytest.mark.parametrize(("magic", "unit_ns", "resolution"), [(US, 1000, "us"), (NS, 1, "ns")])
def test_both_byte_orders_and_resolutions(mark, magic, unit_ns, resolution):
    content = header(magic, mark) + b"".join(record(row, mark) for row in ROWS)
    opening, packets = read_capture(content)
    order = "little" if mark == "<" else "big"
    assert opening == Opening("pcap", order, resolution, "2.4", 65_535, 1, content[:24])
    assert isinstance(packets, Packets)
    assert packets.interface == Interface(0, 1, 65_535, unit_ns)
    assert (packets.records.tobytes(), packets.starts.tolist()) == (NORMAL, [0, 16, 35, 111])
    assert packets.ts_ns.tolist() == [s * 10**9 + f * unit_ns for s, f, _, _ in ROWS]
    assert packets.era == 0


@pytest.mark.parametrize("version", [(2, 0), (2, 2), (543, 0)])
@pytest.mark.parametrize("mark", "<>")
def test_lengths_stood_the_other_way_round_before_2_3(version, mark):
    content = header(US, mark, version[1], version[0]) + b"".join(record(row, mark, True) for row in ROWS)
    (packets,) = read_packets(content)
    assert packets.records.tobytes() == NORMAL


def test_in_2_3_the_smaller_length_is_the_captured_one():
    mixed = record(ROWS[1], swapped=True) + record(ROWS[1]) + record(ROWS[2])
    (packets,) = read_packets(header(US, "<", 3) + mixed)
    assert packets.records.tobytes() == 2 * record(ROWS[1]) + record(ROWS[2])


@pytest.mark.parametrize("mark", "<>")
def test_modified_headers_are_shortened_and_their_extra_bytes_kept(mark):
    extras = [bytes([nth]) * 8 for nth in range(3)]
    rows = [record(row, mark, extra=extra) for row, extra in zip(ROWS, extras, strict=True)]
    opening, side, packets = read_capture(header(MODIFIED, mark) + b"".join(rows))
    assert isinstance(opening, Opening) and opening.format == "pcap-modified"
    assert side == Side(24, "packet extras", b"".join(extras))
    assert isinstance(packets, Packets) and packets.records.tobytes() == NORMAL
    assert packets.starts.tolist() == [0, 16, 35, 111]


def test_a_fraction_of_a_second_or_more_and_a_length_beyond_the_original_are_kept():
    row = struct.pack("<IIII", 0xFFFFFFFF, 3_000_000_000, 2, 1) + b"ab"
    (packets,) = read_packets(header(US, "<") + row)
    assert packets.records.tobytes() == row
    assert packets.ts_ns.tolist() == [0xFFFFFFFF * 10**9 + 3_000_000_000_000]


def test_the_whole_word_of_the_link_type_is_kept():
    (packets,) = read_packets(header(US, "<", link_type=0x1400_0001) + NORMAL)
    assert packets.interface.link_type == 0x1400_0001


def test_a_large_packet_is_good_where_its_link_type_allows_it():
    large = record((0, 0, bytes(300_000), 300_000))
    assert len(read_packets(header(US, "<", link_type=249) + large)[0]) == 1
    assert read_packets(header(US, "<", link_type=1) + large) == []


@pytest.mark.parametrize("mark", "<>")
@pytest.mark.parametrize(("magic", "minor"), [(US, 4), (NS, 4), (MODIFIED, 4), (US, 2)])
def test_headers_of_many_packets_are_those_of_their_records(monkeypatch, mark, magic, minor):
    """Most are gathered while the records are found, in whatever form these have."""
    walked = []
    find = pcap.find_records
    monkeypatch.setattr(pcap, "find_records", lambda *arguments: walked.append(find(*arguments)) or walked[-1])
    extra = bytes(range(8)) if magic == MODIFIED else b""
    sizes = np.random.default_rng(5).integers(0, 300, FEWEST + 2000).tolist()
    rows = [(1_700_000_000 + at // 9, at, bytes(size), size + 9) for at, size in enumerate(sizes)]
    content = header(magic, mark, minor) + b"".join(record(row, mark, minor == 2, extra) for row in rows)
    (packets,) = read_packets(content)
    assert walked[0].heads is not None
    assert packets.records.tobytes() == b"".join(record(row) for row in rows)
    again = Packets(packets.interface, packets.records, packets.starts)
    assert packets.headers.tolist() == again.headers.tolist()
    assert packets.bytes_captured == sum(sizes)


def test_windows_are_cut_at_records(monkeypatch):
    monkeypatch.setattr(pcap, "VIEWED_BYTES", 50)
    parts = read_packets(header(US, "<") + NORMAL * 3)
    assert b"".join(part.records.tobytes() for part in parts) == NORMAL * 3
    assert [len(part) for part in parts] == [2, 2, 1, 2, 1, 1]
    assert all(part.starts[0] == 0 and part.starts[-1] == len(part.records) for part in parts)


@pytest.mark.parametrize("unit_ns", [1, 1000])
def test_bytes_of_normal_form_are_walked(unit_ns):
    records = np.frombuffer(NORMAL, np.uint8)
    assert pcap.walk_normal(records, Interface(0, 1, 0, unit_ns)).tolist() == [0, 16, 35, 111]
    assert pcap.walk_normal(records[:0], Interface(0, 1, 0, unit_ns)).tolist() == [0]
