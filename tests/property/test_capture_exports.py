"""Blocks and exports against plain lists: no packet is lost, doubled or moved, whatever its time."""

import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.capture.blocks import (
    HOUR_NS,
    cut_blocks,
    in_unit,
    join_packets,
    open_block,
    order_by_hour,
    take_packets,
)
from transforms.capture.exports import (
    Stored,
    Whole,
    count_inside,
    is_inside,
    lay_out,
    merge_blocks,
    select_window,
    write_packets,
)
from transforms.capture.packets import NS, Interface, Packets
from transforms.capture.reading import read_capture
from transforms.errors import UsageError

BASE_S = 1_767_261_600

TIMES = st.lists(st.integers(0, 3 * 3600 * 1_000_000 - 1), max_size=60)


@dataclass(frozen=True)
class One:
    """A packet as the oracle has it."""

    ts_ns: int
    content: bytes


def make(times_us: list[int], unit_ns: int = 1000, link_type: int = 1, first: int = 0) -> Packets:
    parts, starts = [], [0]
    for number, at in enumerate(times_us):
        content = struct.pack(">I", first + number) + bytes(number % 7)
        fraction = at % 1_000_000 * (1000 // unit_ns)
        parts.append(struct.pack("<IIII", BASE_S + at // 1_000_000, fraction, len(content), 99) + content)
        starts.append(starts[-1] + len(parts[-1]))
    records = np.frombuffer(b"".join(parts), np.uint8)
    return Packets(Interface(0, link_type, 65_535, unit_ns), records, np.array(starts, np.int64))


def listed(packets: Packets) -> list[One]:
    bounds = zip(packets.ts_ns.tolist(), packets.starts[:-1].tolist(), packets.starts[1:].tolist(), strict=True)
    return [One(ts, packets.records[begin + 16 : end].tobytes()) for ts, begin, end in bounds]


@given(TIMES, st.integers(20, 200))
def test_blocks_hold_every_packet_once_in_its_hour_and_order(times: list[int], size: int):
    packets = make(times)
    blocks = list(cut_blocks(order_by_hour(packets), size))
    expected = sorted(listed(packets), key=lambda one: one.ts_ns // HOUR_NS)
    assert [one for block in blocks for one in listed(block.packets)] == expected
    for block in blocks:
        inside = listed(block.packets)
        assert {one.ts_ns // HOUR_NS for one in inside} == {block.hour}
        assert (block.ts_min, block.ts_max) == (min(o.ts_ns for o in inside), max(o.ts_ns for o in inside))
        assert block.is_sorted == (inside == sorted(inside, key=lambda one: one.ts_ns))
        assert block.bytes_captured == sum(len(one.content) for one in inside)
        assert block.bytes_padded == sum(-(-len(one.content) // 4) * 4 for one in inside)
        assert block.bytes_original == 99 * len(inside)
        assert sum(block.minutes) == len(inside)
        assert len(block.packets.records) < size + 64 or len(inside) == 1
        assert listed(open_block(block.packets.records.tobytes(), packets.interface, 0, len(inside))) == inside


@given(
    st.lists(st.tuples(TIMES, st.sampled_from([1, 1000])), max_size=4),
    TIMES,
    st.sampled_from(["pcap", "pcapng"]),
)
def test_an_export_is_the_window_merged_by_time(
    parts: list[tuple[list[int], int]], window: list[int], wanted: str
):
    since_ns, until_ns = (
        BASE_S * NS + at * 1000 for at in (sorted(window)[0:1] or [0]) + [max(window, default=0) + 1]
    )
    stored, contents, expected = [], {}, []
    for number, (times, unit) in enumerate(parts):
        for block in cut_blocks(order_by_hour(make(times, unit, first=number * 1000)), 120):
            at = len(stored)
            contents[at] = block.packets.records.tobytes()
            stored.append(
                Stored(
                    at,
                    block.packets.interface,
                    0,
                    block.ts_min,
                    block.ts_max,
                    len(block.packets),
                    block.bytes_captured,
                    block.bytes_padded,
                )
            )
            expected += [one for one in listed(block.packets) if since_ns <= one.ts_ns < until_ns]
    inside = [
        block
        if is_inside(block, since_ns, until_ns)
        else count_inside(
            block, select_window(Whole(block, contents[block.number]).walked(), since_ns, until_ns)
        )
        for block in stored
    ]
    inside = [block for block in inside if block.packets]
    layout = lay_out(inside, wanted)
    chosen = [block for block in stored if block.number in {one.number for one in inside}]
    runs = list(merge_blocks(chosen, lambda block: contents[block.number], since_ns, until_ns))
    content = layout.opening() + b"".join(write_packets(run, layout) for run in runs)
    assert len(content) == layout.size_bytes(inside)
    read = [one for part in read_capture(content) if isinstance(part, Packets) for one in listed(part)]
    assert sorted(read, key=repr) == sorted(expected, key=repr)
    ordered = all(block.ts_min == block.ts_max or is_rising(contents[block.number], block) for block in chosen)
    if ordered:
        assert [one.ts_ns for one in read] == sorted(one.ts_ns for one in expected)


def is_rising(content: bytes, block: Stored) -> bool:
    ts = open_block(content, block.interface, 0, block.packets).ts_ns
    return bool((ts[1:] >= ts[:-1]).all())


@given(TIMES)
def test_packets_are_taken_joined_and_turned_without_a_change(times: list[int]):
    packets = make(times)
    order = np.argsort(packets.ts_ns, kind="stable")
    assert listed(take_packets(packets, order)) == sorted(listed(packets), key=lambda one: one.ts_ns)
    odd = np.arange(len(packets)) % 2 == 1
    assert listed(take_packets(packets, odd)) == listed(packets)[1::2]
    assert listed(join_packets([packets, packets])) == 2 * listed(packets)
    assert listed(in_unit(packets, 1)) == listed(packets)


def test_a_block_that_does_not_hold_what_it_says_is_refused():
    packets = make([1, 2, 3])
    for count in (2, 4):
        with pytest.raises(ValueError, match="a block does not hold"):
            open_block(packets.records.tobytes(), packets.interface, 0, count)
    with pytest.raises(ValueError, match="a block does not hold"):
        open_block(packets.records.tobytes() + b"x", packets.interface, 0, 3)


def test_a_classic_file_holds_one_link_type_and_one_era():
    one = Stored(0, Interface(0, 1, 0, 1000), 0, 0, 1, 1, 1, 4)
    with pytest.raises(UsageError, match="--format pcapng"):
        lay_out([one, Stored(1, Interface(0, 113, 0, 1000), 0, 0, 1, 1, 1, 4)], "pcap")
    with pytest.raises(UsageError, match="--format pcapng"):
        lay_out([Stored(0, one.interface, 1, 0, 1, 1, 1, 4)], "pcap")
    assert lay_out([one], "pcap").interfaces[0].snaplen == 262_144


def test_a_fraction_of_a_second_or_more_is_carried_where_the_unit_changes():
    record = struct.pack("<IIII", BASE_S, 2_500_000, 1, 1) + b"x"
    packets = Packets(Interface(0, 1, 0, 1000), np.frombuffer(record, np.uint8), np.array([0, 17]))
    turned = in_unit(packets, 1)
    assert turned.headers[0].tolist()[:2] == (BASE_S + 2, 500_000_000)
    assert listed(turned) == listed(packets)
