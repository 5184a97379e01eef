"""The lock-step walk finds what the walk in sequence finds, whatever stands in the payloads."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from transforms.capture import walk as walks
from transforms.capture.ngblocks import ORDERS, find_blocks
from transforms.capture.packets import Interface
from transforms.capture.pcap import _lay_out, _Probe, walk_normal
from transforms.capture.walk import (
    Framing,
    find_records,
    gather_heads,
    read_words,
    walk,
    walk_in_sequence,
)

SECONDS = 1_700_000_000
CLASSIC = Framing(header=16, length_at=8, added=16, most=262_144)
ETHERNET = Interface(0, 1, 65_535, 1000)


def record(data: bytes, nth: int = 0, captured: int | None = None) -> bytes:
    length = len(data) if captured is None else captured
    return struct.pack("<IIII", SECONDS + nth // 50, nth, length, max(length, 60)) + data


def as_window(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def noise(count: int, biggest: int, seed: int = 3) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(size)) for size in rng.integers(0, biggest + 1, count)]


def records(datas: list[bytes]) -> bytes:
    return b"".join(record(data, nth) for nth, data in enumerate(datas))


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []
    original = getattr(walks, name)

    def counted(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(walks, name, counted)
    return calls


def assert_walked(window: np.ndarray) -> np.ndarray:
    expected = walk_in_sequence(window, CLASSIC)
    assert walk_normal(window, ETHERNET).tolist() == expected.tolist()
    heads = heads_of(window)
    if heads is not None:
        assert heads.tobytes() == gather_heads(window, expected[:-1]).tobytes()
    return expected


def heads_of(window: np.ndarray) -> np.ndarray | None:
    seconds = int(read_words(window, np.zeros(1, np.int64), False)[0])
    probe = _Probe(_lay_out(0xA1B2C3D4, False, (2, 4), 1), seconds)
    return find_records(window, CLASSIC, probe).heads


def test_many_records_are_walked_in_lock_step(monkeypatch):
    segments, joins = count_calls(monkeypatch, "_walk_segments"), count_calls(monkeypatch, "_walk_until_met")
    window = as_window(records(noise(20_000, 300)))
    found = assert_walked(window)
    assert len(found) == 20_001 and found[-1] == len(window)
    assert len(segments) == 2 and len(segments[0][2]) > 100, "hardly any walkers"
    assert joins == []
    assert heads_of(window) is not None, "the headers are gathered again"


@pytest.mark.parametrize("biggest", [0, 1, 40, 1500])
def test_records_of_all_sizes(biggest):
    assert_walked(as_window(records(noise(6000, biggest))))


@pytest.mark.parametrize(
    ("count", "biggest"), [(walks.FEWEST // 2, 100), (walks.FEWEST + 2000, 2 * walks.LARGEST_MEAN + 2000)]
)
def test_few_or_large_records_are_walked_in_sequence(monkeypatch, count, biggest):
    segments = count_calls(monkeypatch, "_walk_segments")
    assert_walked(as_window(records(noise(count, biggest))))
    assert segments == []


def test_a_payload_full_of_headers_is_no_record(monkeypatch):
    strays: list[int] = []
    walk_until_met = walks._walk_until_met

    def counted(*arguments):
        found = walk_until_met(*arguments)
        strays.append(len(found[0]))
        return found

    monkeypatch.setattr(walks, "_walk_until_met", counted)
    # Chains of plausible records at an odd offset, longer than what a candidate has to show.
    trap = b"!" + 20 * record(b"abcd", 1)
    window = as_window(records([b"x" * 200 if nth % 6 else trap for nth in range(8000)]))
    found = assert_walked(window)
    assert len(found) == 8001
    assert strays, "no walker was led astray: the trap is none"
    assert sum(strays) < 2000, "more than the failed segments was walked again"


def test_captures_inside_of_packets():
    inner = records(noise(30, 20))
    assert_walked(as_window(records([inner, *noise(4, 30)] * 1500)))


def test_no_more_candidates_are_tried_than_the_bound(monkeypatch):
    tried = count_calls(monkeypatch, "_first_chained")
    # Zero time and zero lengths are as plausible as can be, at every offset.
    window = as_window(b"".join(struct.pack("<IIII", 0, 0, 200, 200) + bytes(200) for _ in range(8000)))
    assert len(assert_walked(window)) == 8001
    lanes = tried[0][3]
    assert np.bincount(lanes).max() == walks.MOST_CANDIDATES


def test_a_file_that_ends_in_zeros_is_not_mended_piece_by_piece(monkeypatch):
    segments, repairs = count_calls(monkeypatch, "_walk_segments"), count_calls(monkeypatch, "_walk_until_met")
    window = as_window(struct.pack("<IIII", 0, 0, 3, 3) + b"abc" + bytes(16 * 9000 + 5))
    assert len(assert_walked(window)) == 9002
    assert len(segments) == 2 and repairs == []
    assert heads_of(window) is None, "these are of places where no record was"


@pytest.mark.parametrize("captured", [262_145, 0x7FFFFFFF, 0xFFFFFFFF, 5000])
@pytest.mark.parametrize("at", [10, 4000, 7999])
def test_a_wrong_length_ends_the_walk_where_the_walk_in_sequence_ends(captured, at):
    datas = noise(8000, 200)
    parts = [record(data, nth, captured if nth == at else None) for nth, data in enumerate(datas)]
    found = assert_walked(as_window(b"".join(parts)))
    if captured > CLASSIC.most:
        assert len(found) == at + 1


def test_times_that_jump_leave_no_walkers_but_a_right_result(monkeypatch):
    segments = count_calls(monkeypatch, "_walk_segments")
    rng = np.random.default_rng(1)
    content = b"".join(
        struct.pack("<IIII", int(rng.integers(1 << 32)), 0, 100, 100) + rng.bytes(100) for _ in range(8000)
    )
    assert len(assert_walked(as_window(content))) == 8001
    assert segments == []


def test_a_cut_end_is_left(monkeypatch):
    content = records(noise(9000, 120))
    whole = assert_walked(as_window(content))
    for cut in (1, 15, 17, 100):
        found = assert_walked(as_window(content[:-cut]))
        assert found[-1] <= len(content) - cut
        assert set(found.tolist()) <= set(whole.tolist())


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", [2, 3, 6])
def test_blocks_are_walked_in_lock_step(monkeypatch, order, kind):
    segments = count_calls(monkeypatch, "_walk_segments")
    mark = "<" if order == "little" else ">"
    parts = []
    for data in noise(8000, 150):
        body = bytes(20) + data + bytes(-len(data) % 4)
        length = struct.pack(mark + "I", len(body) + 12)
        parts.append(struct.pack(mark + "I", kind) + length + body + length)
    blocks = find_blocks(as_window(b"".join(parts)), order)
    assert blocks.starts.tolist() == np.cumsum([0, *map(len, parts)]).tolist()
    assert (blocks.types == kind).all() and blocks.order_after == order
    assert len(segments) == 1
    assert blocks.heads is not None, "the headers are gathered again"


def test_the_last_block_may_be_shorter_than_a_records_header():
    block, empty = (
        struct.pack("<II", 6, 12 + size) + bytes(size) + struct.pack("<I", 12 + size) for size in (28, 0)
    )
    window = as_window(block * 8000 + empty)
    assert len(find_blocks(window, ORDERS[False]).starts) == 8002


@pytest.mark.parametrize("wrong", [0, 4, 8, 11, 20, 0xFFFFFFFF])
def test_a_block_with_a_wrong_length_ends_the_walk(wrong):
    block = struct.pack("<II", 6, 40) + bytes(28) + struct.pack("<I", 40)
    content = bytearray(block * 8000)
    content[40 * 5000 + 4 : 40 * 5000 + 8] = wrong.to_bytes(4, "little")
    window = as_window(bytes(content))
    assert len(find_blocks(window, ORDERS[False]).starts) == 5001
    content = bytearray(block * 8000)
    content[40 * 5001 - 4 : 40 * 5001] = wrong.to_bytes(4, "little")
    assert len(find_blocks(as_window(bytes(content)), ORDERS[False]).starts) == 5001


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"", None),
        (record(b"")[:15], None),
        (record(b""), 16),
        (record(b"abc"), 19),
        (record(b"abc")[:-1], None),
        (record(b"", captured=262_145), None),
    ],
)
def test_a_step_needs_a_whole_record(content, end):
    assert CLASSIC.step(memoryview(content), 0) == end
    assert walk(as_window(content), CLASSIC).tolist() == ([0] if end is None else [0, end])


def test_the_smaller_of_two_lengths_may_count():
    framing = Framing(header=16, length_at=8, added=16, most=262_144, other_at=12)
    for lengths in ((3, 90), (90, 3)):
        content = struct.pack("<IIII", SECONDS, 0, *lengths) + b"abc"
        assert walk(as_window(content), framing).tolist() == [0, 19]


def test_words_are_read_in_either_order_at_any_offset():
    window = as_window(bytes(range(12)))
    assert read_words(window, np.array([0, 1, 8]), False).tolist() == [0x03020100, 0x04030201, 0x0B0A0908]
    assert read_words(window, np.array([0, 1, 8]), True).tolist() == [0x00010203, 0x01020304, 0x08090A0B]
