"""The cut-off of flows: headers stay, payload beyond the limit goes, and every byte of it is counted."""

from datetime import UTC, datetime

import numpy as np

from transforms.capture.cutoff import cut_flows
from transforms.capture.layers import read_layers
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.capture.synthetic import synthetic_capture

LIMIT = 100


def parts(count: int = 400) -> list[Packets]:
    content = synthetic_capture(7, count, datetime(2026, 11, 21, 8, tzinfo=UTC))
    return [part for part in read_capture(content) if isinstance(part, Packets)]


def flows_of(packets: Packets) -> list[tuple[object, ...]]:
    """The oracle's flows: both ends, in one order, and the protocol."""
    rows = read_layers(packets).select("src_ip_low", "src_port", "dst_ip_low", "dst_port", "protocol").rows()
    return [(*sorted([(a, b), (c, d)]), p) for a, b, c, d, p in rows]


def test_payload_goes_once_a_flow_has_had_its_bytes():
    (packets,) = parts()
    seen: dict[str, int] = {}
    cut, gone = cut_flows(packets, read_layers(packets), LIMIT, seen)
    heads = (read_layers(packets)["payload_offset"] - 16).to_list()
    before: dict[object, int] = {}
    expected = []
    for flow, captured, head in zip(
        flows_of(packets), packets.headers["captured"].tolist(), heads, strict=True
    ):
        expected.append(head if before.get(flow, 0) >= LIMIT else captured)
        before[flow] = before.get(flow, 0) + captured
    assert cut.headers["captured"].tolist() == expected
    assert cut.headers["original"].tolist() == packets.headers["original"].tolist()
    assert gone == int(packets.headers["captured"].sum()) - sum(expected) > 0
    assert sorted(seen.values()) == sorted(before.values())
    whole = read_layers(packets).drop("payload_bytes")
    assert read_layers(cut).drop("payload_bytes").equals(whole)


def test_what_was_seen_before_counts():
    (packets,) = parts()
    seen: dict[str, int] = {}
    cut_flows(packets, read_layers(packets), 10**9, seen)
    cut, gone = cut_flows(packets, read_layers(packets), 1, seen)
    heads = (read_layers(packets)["payload_offset"] - 16).to_numpy()
    assert np.array_equal(cut.headers["captured"], heads)
    assert gone > 0


def test_a_high_limit_and_no_packets_change_nothing():
    (packets,) = parts(30)
    same, gone = cut_flows(packets, read_layers(packets), 10**9, {})
    assert (same, gone) == (packets, 0)
    empty = Packets(packets.interface, packets.records[:0], packets.starts[:1] * 0)
    assert cut_flows(empty, read_layers(empty), 1, {}) == (empty, 0)
