"""Cutting a live stream: whole records only, every piece with the opening that it needs."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.capture.segments import LONGEST_OPENING, LONGEST_RECORD, LiveCapture

ORDERS = ("<", ">")


def pcap_header(order: str = "<", link_type: int = 1) -> bytes:
    return struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link_type)


def record(number: int, order: str = "<") -> bytes:
    content = struct.pack(">I", number) + bytes(number % 50)
    return struct.pack(f"{order}IIII", 1_790_000_000 + number, number, len(content), len(content)) + content


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    length = len(body) + 12
    return struct.pack(f"{order}II", kind, length) + body + struct.pack(f"{order}I", length)


def section(order: str = "<", length: int = -1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, length), order)


def interface(order: str = "<", link_type: int = 1) -> bytes:
    return block(1, struct.pack(f"{order}HHI", link_type, 0, 0), order)


def packet(number: int, order: str = "<", at: int = 0) -> bytes:
    content = struct.pack(">I", number) + bytes(number % 13 * 4)
    head = struct.pack(f"{order}IIIII", at, 0, number, len(content), len(content))
    return block(6, head + content, order)


def fed(content: bytes, sizes: Iterator[int] | list[int]) -> tuple[LiveCapture, list[bytes]]:
    """Give each run as a file of its own, and the capture behind the last byte."""
    live, files, at = LiveCapture(), [], 0
    for size in sizes:
        files += [live.opening + run for run in live.take(content[at : at + size])]
        at += size
    files += [live.opening + run for run in live.take(content[at:])]
    return live, files


def packets_of(content: bytes) -> list[tuple[int, int, bytes]]:
    """Link type, time and bytes of each packet; in the file's order, by interface."""
    found = []
    for part in read_capture(content):
        assert type(part).__name__ != "Damage", part
        if isinstance(part, Packets):
            bounds = zip(part.ts_ns.tolist(), part.starts, part.starts[1:], strict=False)
            link_type = part.interface.link_type
            found += [(link_type, ts, part.records[a + 16 : b].tobytes()) for ts, a, b in bounds]
    return found


@given(
    st.sampled_from(ORDERS), st.integers(0, 40), st.lists(st.integers(1, 90), max_size=60), st.integers(0, 20)
)
def test_pieces_of_a_pcap_hold_its_packets_together(order: str, count: int, sizes: list[int], cut: int):
    whole = pcap_header(order) + b"".join(record(number, order) for number in range(count))
    content = whole + record(99, order)[:cut]
    live, files = fed(content, sizes)
    assert live.failure is None
    assert live.packets == count
    assert live.rest == content[len(whole) :]
    assert [one for file in files for one in packets_of(file)] == packets_of(whole)


@given(st.lists(st.sampled_from(ORDERS), min_size=1, max_size=3), st.lists(st.integers(1, 90), max_size=60))
def test_pieces_of_a_pcapng_hold_its_packets_together(orders: list[str], sizes: list[int]):
    """Every section has interfaces of its own; one comes after packets of the first."""
    content = b"".join(
        section(order)
        + interface(order)
        + b"".join(packet(number, order) for number in range(7))
        + interface(order, 101)
        + b"".join(packet(number, order, number % 2) for number in range(5))
        for order in orders
    )
    live, files = fed(content, sizes)
    assert (live.failure, live.rest, live.packets) == (None, b"", 12 * len(orders))
    assert sorted(one for file in files for one in packets_of(file)) == sorted(packets_of(content))


def test_a_repeated_section_tells_no_length():
    live, _ = fed(section(length=1000) + interface(), [])
    assert live.opening == section() + interface()


@pytest.mark.parametrize(
    ("content", "kept", "failure"),
    [
        (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", "no capture"),
        (pcap_header() + record(3) + b"\xff" * 16, b"\xff" * 16, "a record of 4294967295 bytes"),
        (pcap_header() + struct.pack("<IIII", 0, 0, 262_145, 0), None, "at most 262144"),
        (section() + struct.pack("<II", 6, LONGEST_RECORD + 4), None, f"at most {LONGEST_RECORD}"),
        (section() + packet(1)[:-4] + bytes(4), None, "lengths differ"),
        (section() + struct.pack("<II", 6, 33), None, "a block of 33 bytes"),
        (b"\x0a\x0d\x0d\x0a" + bytes(24), None, "without a byte order"),
        (section()[:4] + struct.pack("<I", 16) + section()[8:], None, "a block of 16 bytes"),
    ],
)
def test_garbage_ends_it_with_a_reason_and_is_kept(content: bytes, kept: bytes | None, failure: str):
    live, files = fed(content, [])
    assert failure in str(live.failure)
    assert live.rest == (kept if kept is not None else content[len(b"".join(files) or live.opening) :])
    assert list(live.take(b"more")) == []
    assert live.rest.endswith(b"more")


def test_openings_do_not_grow_for_ever():
    live, _ = fed(section() + interface() * (LONGEST_OPENING // 20 + 1), [])
    assert "interfaces" in str(live.failure)
    assert len(live.opening) <= LONGEST_OPENING
    assert live.rest.startswith(interface())
