"""What is worked out for distinct values only is what would be worked out packet by packet."""

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from made_packets import ADDRESSES, ethernet, frames, packets_of
from transforms.capture import decoding, numbering, rows
from transforms.capture.blocks import cut_blocks, describe_block, slice_packets
from transforms.capture.community import words_of_directions
from transforms.capture.decoding import choose_speaking, decode_names, decode_packets
from transforms.capture.kinds import KIND_COLUMNS, ROOM_BYTES, KindReader
from transforms.capture.layers import fields_to_frame, frame_to_fields, group_of, read_fields, read_layers
from transforms.capture.packets import Interface, Packets
from transforms.capture.rows import NAMES, read_headers

OF_FLOWS = {
    "ip": ("ip_version", "src_ip_high", "src_ip_low", "dst_ip_high", "dst_ip_low"),
    "protocol": ("protocol",),
    "ports": ("src_port", "dst_port"),
    "icmp": ("icmp_type", "icmp_code"),
}
LABELS = st.lists(st.sampled_from([b"a", b"www", b"\xff", b"x" * 63, b"y" * 64]), max_size=6)


def reference_of(layers):
    """What a direction is, packet by packet."""
    columns, valid = frame_to_fields(layers)
    return [
        tuple(
            columns[name][row] if valid[group][row] else None
            for group, names in OF_FLOWS.items()
            for name in names
        )
        for row in range(layers.height)
    ]


@pytest.mark.parametrize("factors", [None, np.zeros(8, np.uint64), np.ones(8, np.uint64)])
@given(sent=st.lists(frames(), min_size=1, max_size=40))
def test_packets_have_one_direction_where_they_agree(sent, factors):
    packets = packets_of(sent)
    columns, valid = read_fields(packets)
    with pytest.MonkeyPatch.context() as patch:
        if factors is not None:
            # As if packets were made so that different directions have the same sum.
            patch.setattr(numbering, "_FACTORS", factors)
        codes, firsts = numbering.number_rows(words_of_directions(columns, valid))
    expected = reference_of(read_layers(packets))
    assert len(set(zip(codes.tolist(), expected, strict=True))) == len(set(expected)) == len(firsts)
    assert firsts.tolist() == [codes.tolist().index(code) for code in range(len(firsts))]


@given(sent=st.lists(frames(), min_size=1, max_size=20))
def test_fields_and_frames_say_the_same(sent):
    layers = read_layers(packets_of(sent))
    assert fields_to_frame(*frame_to_fields(layers)).equals(layers)


# -- names --------------------------------------------------------------------------------------


def question_of(payload):
    """The first question, read by itself as RFC 1035 has it; None where there is no whole one."""
    labels, at = [], 12
    try:
        while size := payload[at]:
            labels.append(payload[at + 1 : at + 1 + size])
            at += 1 + size
            if size > 63 or at > 12 + 254:
                return None
        name = b".".join(labels).decode() or "."
    except (IndexError, UnicodeDecodeError):
        return None
    is_whole = payload[4:6] != b"\0\0" and len(payload) >= at + 5
    return (name, int.from_bytes(payload[at + 1 : at + 3], "big")) if is_whole else None


@st.composite
def messages(draw):
    name = b"".join(bytes([len(one)]) + one for one in draw(LABELS))
    count = draw(st.sampled_from([0, 1, 1, 1, 256]))
    whole = struct.pack(">6H", 7, 0, count, 0, 0, 0) + name + b"\0" + struct.pack(">HH", 28, 1) + b"rest"
    return whole[: draw(st.sampled_from([None, None, 17, len(whole) - 4, len(whole) - 5]))]


def udp(payload, port):
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0) + ADDRESSES[1] + ADDRESSES[2]
    return ethernet(head + struct.pack(">4H", 40_000, port, 8 + len(payload), 0) + payload, 0x0800)


@given(sent=st.lists(st.tuples(messages(), st.sampled_from([53, 5353, 9])), min_size=1, max_size=30))
@example(sent=[(bytes(4) + b"\0\1" + bytes(6) + b"\x01a\0\0\1\0\1", 53)] * 3)
def test_every_message_tells_its_own_question(sent):
    packets = packets_of([udp(payload, port) for payload, port in sent])
    found = decode_packets(packets, read_layers(packets))
    told = dict(zip(found["row"], found.select("dns_query", "dns_type").rows(), strict=True))
    expected = {
        row: question_of(payload)
        for row, (payload, port) in enumerate(sent)
        if port != 9 and len(payload) >= 17
    }
    assert told == {row: question for row, question in expected.items() if question is not None}
    names = {
        row: said.sayings[code]["dns_query"]
        for said in decode_names(choose_speaking(packets, np.arange(len(packets)), *read_fields(packets)))
        for row, code in zip(said.rows.tolist(), said.codes.tolist(), strict=True)
    }
    assert names == {row: name for row, (name, _) in told.items()}
    (codes, texts) = read_headers([packets, packets]).names["dns_query"] or (np.empty(0), [])
    again = {row: texts[code] for row, code in enumerate(codes.tolist()) if code >= 0}
    assert again == names | {row + len(packets): name for row, name in names.items()}


@pytest.mark.parametrize("most", [1 << 16, 0])
@given(windows=st.lists(st.lists(messages(), min_size=1, max_size=6), min_size=1, max_size=4))
def test_names_are_the_same_whichever_window_tells_them(windows, most):
    parts = [packets_of([udp(payload, 53) for payload in sent]) for sent in windows]
    whole = read_headers(parts).names
    with pytest.MonkeyPatch.context() as patch:
        # Each part is looked into by itself; questions are remembered over them, or from none to the next.
        patch.setattr(rows, "_JOINED_BYTES", 0)
        patch.setattr(decoding, "_MOST_ASKED", most)
        apart = read_headers(parts).names
    assert [told and (told[0].tolist(), told[1]) for told in apart.values()] == [
        told and (told[0].tolist(), told[1]) for told in whole.values()
    ]


def test_no_packets_have_no_headers():
    headers = read_headers([])
    assert headers.names == dict.fromkeys(NAMES)
    assert len(headers.kinds.of_packets) == len(headers.kinds.payload_bytes) == 0


# -- kinds --------------------------------------------------------------------------------------


@st.composite
def heads(draw):
    """Ethernet and IPv4 as most packets have it, with each part of it off now and then; some are cut."""
    protocol = draw(st.sampled_from([6, 6, 17, 17, 1, 47]))
    words = draw(st.sampled_from([0x50, 0x50, 0x50, 0x80, 0x40, 0xF0]))
    ports = draw(st.sampled_from([b"\x01\xbb\x9c\x40", b"\x9c\x40\x01\xbb", b"\0\x35\x9c\x40"]))
    flags = draw(st.sampled_from([0x10, 0x18]))
    transport = ports + draw(st.binary(min_size=8, max_size=8)) + bytes([words, flags]) + bytes(6)
    transport += draw(st.binary(max_size=30))
    if protocol == 17:
        transport = transport[:8] + draw(st.binary(max_size=40))
    first, kind = draw(st.sampled_from([(0x45, 0x0800)] * 6 + [(0x46, 0x0800), (0x65, 0x0800), (0x45, 0x86DD)]))
    total = draw(st.sampled_from([20 + len(transport)] * 4 + [0, 19, 21, 41, 65_535]))
    fragment = draw(st.sampled_from([0, 0, 0x4000, 0x8000, 0x2000, 1]))
    tos, identity, checksum = draw(st.tuples(*[st.sampled_from([0, 7])] * 3))
    ttl = draw(st.sampled_from([64, 63]))
    head = struct.pack(">BBHHHBBH", first, tos, total, identity, fragment, ttl, protocol, checksum)
    src, dst = draw(st.tuples(*[st.sampled_from(ADDRESSES)] * 2))
    macs = draw(st.sampled_from([bytes(12), bytes(range(12)), bytes(range(12, 24))]))
    frame = (
        macs + struct.pack(">H", kind) + head + src + dst + transport + draw(st.sampled_from([b"", bytes(4)]))
    )
    return frame[: draw(st.sampled_from([None] * 5 + [13, 33, 34, 41, 42, 47, 48, 53, 54]))]


@pytest.mark.parametrize("link_type", [1, 101, 0x1_0001])
@given(sent=st.lists(heads() | frames(), max_size=40))
def test_a_kind_says_what_each_of_its_packets_does(link_type, sent):
    packets = packets_of(sent, link_type)
    # Memory that held something else before, and more of it than is needed.
    reader = KindReader(2 * len(packets), memoryview(bytearray(b"\xa5" * (2 * len(packets) + 1) * ROOM_BYTES)))
    speaking = [reader.read(packets), reader.read(packets)]
    kinds = reader.finish()
    columns, valid = read_fields(packets)
    for name in KIND_COLUMNS:
        mask = kinds.valid[group_of(name)][kinds.of_packets]
        assert mask.tolist() == [*valid[group_of(name)]] * 2, name
        found = np.where(mask, kinds.columns[name][kinds.of_packets], 0)
        assert found.tolist() == [*np.where(valid[group_of(name)], columns[name], 0)] * 2, name
        assert kinds.columns[name].dtype == columns[name].dtype
    assert kinds.payload_bytes.tolist() == [*np.where(valid["payload"], columns["payload_bytes"], -1)] * 2
    assert set(kinds.of_packets.tolist()) == set(range(len(kinds.valid["ip"])))
    expected = choose_speaking(packets, np.arange(len(packets)), columns, valid)
    for one in speaking:
        assert sorted(rows_of(one)) == rows_of(expected)


def rows_of(speaking):
    names = ("rows", "starts", "protocol", "src_port", "dst_port", "payload_offset", "payload_bytes")
    return list(zip(*(getattr(speaking, name).tolist() for name in names), strict=True))


def test_packets_that_differ_in_what_headers_do_not_say_are_of_one_kind():
    frames_sent = [udp(bytes(size), 9) for size in (1, 2, 30)]
    frames_sent += [frame[:15] + b"\7" + frame[16:18] + b"\1\2" + frame[20:] for frame in frames_sent]
    reader = KindReader(len(frames_sent))
    reader.read(packets_of(frames_sent))
    assert reader.finish().of_packets.tolist() == [0] * 6


# -- blocks -------------------------------------------------------------------------------------


@given(sent=st.lists(st.binary(max_size=60), min_size=1, max_size=60), size=st.integers(40, 600))
def test_a_block_is_described_the_same_from_what_was_gathered_before(sent, size):
    packets = packets_of(sent)
    blocks = list(cut_blocks(packets, size))
    assert b"".join(block.packets.records.tobytes() for block in blocks) == packets.records.tobytes()
    for block in blocks:
        fresh = Packets(block.packets.interface, block.packets.records, block.packets.starts)
        assert fresh.ts_ns.tolist() == block.packets.ts_ns.tolist()
        assert fresh.headers.tolist() == block.packets.headers.tolist()
        again = describe_block(fresh, block.hour)
        assert again.minutes == block.minutes and sum(block.minutes) == len(fresh) and len(block.minutes) == 60
        assert (again.ts_min, again.ts_max) == (block.ts_min, block.ts_max)
        backward = slice_packets(fresh, 0, len(fresh))
        assert describe_block(backward, block.hour).minutes == block.minutes


@given(st.permutations(range(20)))
def test_minutes_are_counted_in_any_order(order):
    records = b"".join(struct.pack("<4I", 100 * at, 0, 0, 0) for at in order)
    packets = Packets(Interface(0, 1, 0, 1000), np.frombuffer(records, np.uint8), np.arange(0, 321, 16))
    block = describe_block(packets, 0)
    expected = [0] * 60
    for at in order:
        expected[100 * at // 60] += 1
    assert block.minutes == expected
    assert (block.ts_min, block.ts_max) == (0, 1900 * 10**9)
    assert block.is_sorted == (list(order) == sorted(order))
