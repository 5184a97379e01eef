"""Captures told apart by content, and every kind of bad file: the good beginning, then the damage."""

from __future__ import annotations

import gzip
import mmap
import struct

import numpy as np
import pyarrow as pa
import pytest

from transforms import streams
from transforms.capture.packets import Packets
from transforms.capture.parts import most_captured
from transforms.capture.reading import Damage, Opening, Side, read_capture
from transforms.streams import PlainBytes, plain_blocks

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
RECORD = struct.pack("<IIII", 1_700_000_000, 250_000, 4, 60) + b"abcd"


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def read(content: bytes, **options: int) -> tuple[Opening | None, int, Damage | None]:
    parts = list(read_capture(content, **options))
    openings = [part for part in parts if isinstance(part, Opening)]
    damages = [part for part in parts if isinstance(part, Damage)]
    assert parts[: len(openings)] == openings and len(openings) <= 1
    assert parts[len(parts) - len(damages) :] == damages and len(damages) <= 1
    packets = sum(len(part) for part in parts if isinstance(part, Packets))
    return (openings or [None])[0], packets, (damages or [None])[0]


def test_a_file_that_is_only_a_header_has_no_packets_and_no_damage():
    opening = Opening("pcap", "little", "us", "2.4", 65_535, 1, HEADER)
    assert list(read_capture(HEADER)) == [opening]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\x7fELF" + bytes(60), "neither pcap nor pcapng"),
        (HEADER[:3], "neither pcap nor pcapng"),
        (HEADER[:20], "the file's header is cut"),
        (HEADER[:4] + b"\x01\0\x04\0" + HEADER[8:], "version 1.4 of the format is not known"),
        (b"\x0a\x0d\x0d\x0a", "the last block is cut"),
    ],
)
def test_what_cannot_be_opened_is_kept_whole(content, reason):
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    assert read(content) == (None, 0, Damage(reason, 0, plain))


@pytest.mark.parametrize("kept", [1, 15, 16, 19])
def test_a_cut_record_is_damage_behind_the_whole_ones(kept):
    opening, packets, damage = read(HEADER + 3 * RECORD + RECORD[:kept])
    assert opening is not None
    assert (packets, damage) == (3, Damage("the last record is cut", 24 + 3 * len(RECORD), RECORD[:kept]))


def test_an_absurd_captured_length_is_damage_where_it_stands():
    wrong = struct.pack("<IIII", 1_700_000_000, 0, 0x7FFFFFFF, 60) + b"rest"
    _, packets, damage = read(HEADER + 2 * RECORD + wrong)
    reason = "a captured length of 2147483647, more than 262144"
    assert (packets, damage) == (2, Damage(reason, 24 + 2 * len(RECORD), wrong))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_compression_is_seen_through(pack):
    content = HEADER + 3 * RECORD
    assert read(pack(content)) == read(content)


def test_gzip_of_several_members_is_one_file():
    content = HEADER + 3 * RECORD
    assert read(gzip.compress(content[:30]) + gzip.compress(content[30:])) == read(content)


@pytest.mark.parametrize(
    ("pack", "reason"), [(gzip.compress, "truncated gzip"), (zstd, "damaged or truncated zstd")]
)
def test_a_cut_container_gives_what_came_out_and_keeps_the_file(pack, reason):
    noise = np.random.default_rng(5).bytes(300_000)
    records = b"".join(
        RECORD[:8] + struct.pack("<II", 100, 100) + noise[at : at + 100] for at in range(0, 300_000, 100)
    )
    _, packets, damage = read(pack(HEADER + records)[:-5000])
    assert damage == Damage(reason, 24 + 116 * packets, None)
    assert 2000 < packets < 3000


def test_a_gzip_of_a_cut_file_is_a_cut_file():
    content = HEADER + 2 * RECORD + RECORD[:10]
    assert read(gzip.compress(content)) == read(content)


def test_a_damage_before_that_of_the_container_is_told_first():
    wrong = HEADER + RECORD + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 0)
    _, packets, damage = read(gzip.compress(wrong)[:-4])
    assert (packets, damage) == (1, Damage("a captured length of 4294967295, more than 262144", 44, None))


def test_a_bomb_is_stopped_at_the_bound():
    bomb = gzip.compress(HEADER + bytes(3 << 20))
    _, packets, damage = read(bomb, max_bytes=1 << 20)
    assert damage is not None and damage.reason == "expands to more than 1048576 bytes"
    assert packets <= 1 << 16 and damage.rest is None


def test_more_rest_than_is_kept_by_itself_means_the_file(monkeypatch):
    monkeypatch.setattr(streams, "MAX_REST_BYTES", 10)
    assert read(HEADER + b"0123456789")[2] == Damage("the last record is cut", 24, b"0123456789")
    assert read(HEADER + b"0123456789a")[2] == Damage("the last record is cut", 24, None)


def test_a_mapped_file_is_read_in_place(tmp_path):
    path = tmp_path / "capture"
    path.write_bytes(HEADER + 3 * RECORD)
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (packets,) = (part for part in read_capture(content) if isinstance(part, Packets))
    assert np.shares_memory(packets.records, np.frombuffer(content, np.uint8))
    assert packets.records.tobytes() == 3 * RECORD and packets.starts.tolist() == [0, 20, 40, 60]


@pytest.mark.parametrize(
    ("link_type", "bound"),
    [(1, 262_144), (0x1400_0001, 262_144), (231, 128 << 20), (249, 128 << 20), (279, 8 << 20)],
)
def test_the_captured_length_is_bounded_by_the_link_type(link_type, bound):
    assert most_captured(link_type) == bound


def test_a_window_moves_on_and_shows_no_more_than_there_is():
    plain = PlainBytes(gzip.compress(bytes(range(100))))
    assert plain.window(10).tolist() == list(range(10))
    plain.advance(7)
    assert plain.window(1000).tolist() == list(range(7, 100))
    assert (plain.offset, plain.failure) == (7, None)
    assert plain.ends_after(93) and not plain.ends_after(92)


def test_blocks_of_a_stream_that_is_not_compressed(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(b"0123456789")
    with path.open("rb") as stream:
        assert list(plain_blocks(stream, block_bytes=4)) == [b"0123", b"4567", b"89"]


def test_sides_are_not_packets():
    assert not [part for part in read_capture(HEADER + RECORD) if isinstance(part, Side)]
