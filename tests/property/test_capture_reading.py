"""Whatever a capture looks like: the same packets as a plain reader finds, and no byte lost."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import capture_oracle as oracle
from transforms.capture import ngblocks, pcap, pcapng, walk
from transforms.capture.packets import Packets
from transforms.capture.reading import Damage, Opening, Side, read_capture
from transforms.streams import is_compressed

FUZZ = int(os.environ.get("LOCKHOUSE_FUZZ", "0"))
MANY = settings(max_examples=max(60, FUZZ // 1000))
SEEDS = st.integers(0, 2**32 - 1)
STYLES = st.sampled_from(oracle.STYLES)
MARKS = st.sampled_from("<>")


@pytest.fixture(scope="module", autouse=True)
def small_limits():
    """Let small files take the ways of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "PROBED", 4)
        patch.setattr(walk, "FEWEST", 150)
        patch.setattr(walk, "FEWEST_WALKERS", 4)
        yield patch


def read_ours(content: bytes) -> tuple[object, Damage | None]:
    """What ours finds, in the oracle's words; also the checks that hold for everything it gives."""
    found, damage = oracle.Found(), None
    for nth, part in enumerate(read_capture(content)):
        assert damage is None, "something came behind the damage"
        if isinstance(part, Opening):
            assert nth == 0
            found.opening = tuple(vars(part).values())
        elif isinstance(part, Damage):
            damage = part
            found.damaged_at = part.offset
        elif isinstance(part, Side):
            found.sides.append((part.offset, part.kind, part.content))
        else:
            add_packets(found, part)
    return found, damage


def add_packets(found: object, part: Packets) -> None:
    records, starts = part.records.tobytes(), part.starts.tolist()
    assert starts[0] == 0 and starts[-1] == len(records) and len(part) > 0
    one = part.interface
    for nth, (ts_ns, header) in enumerate(zip(part.ts_ns.tolist(), part.headers, strict=True)):
        data = records[starts[nth] + 16 : starts[nth + 1]]
        lengths = int(header["captured"]), int(header["original"])
        found.add((one.number, one.link_type, one.snaplen), oracle.Packet(ts_ns, one.unit_ns, *lengths, data))


def agree(content: bytes, has_windows: bool = False) -> bool:
    """Compare with the plain reader; give whether the file is damaged."""
    expected = oracle.read_plainly(content)
    found, damage = read_ours(content)
    if expected.opening and expected.opening[0] == "pcap-modified":
        # Ours gives a window's extra bytes at once.
        joined = [b"".join(extra for *_, extra in sides) for sides in (found.sides, expected.sides)]
        assert joined[0] == joined[1]
        found.sides = expected.sides = []
    if not content:
        expected.damaged_at = 0
    if has_windows and found.opening and expected.opening:
        # The first interface may stand behind the first window, which is small only here.
        expected.opening = (*expected.opening[:2], found.opening[2], *expected.opening[3:])
    assert vars(found) == vars(expected)
    if damage is not None:
        # Of a damaged container the file itself is what is kept.
        assert damage.rest == (None if is_compressed(content) else content[damage.offset :])
    return damage is not None


@given(
    seed=SEEDS,
    count=st.integers(0, 400),
    style=STYLES,
    mark=MARKS,
    magic=st.sampled_from([oracle.MICROSECONDS, oracle.NANOSECONDS, oracle.MODIFIED]),
    version=st.sampled_from([(2, 4), (2, 4), (2, 3), (2, 2), (543, 0), (2, 5), (1, 0)]),
    biggest=st.sampled_from([0, 7, 60, 200]),
    mutations=st.integers(0, 3),
)
@MANY
def test_classic_files_are_read_as_plainly(seed, count, style, mark, magic, version, biggest, mutations):
    rng = np.random.default_rng(seed)
    content = oracle.make_pcap(rng, count, style, biggest, magic, mark, version)
    agree(oracle.mutate(rng, content, mutations))


@given(
    seed=SEEDS,
    count=st.integers(0, 400),
    style=STYLES,
    biggest=st.sampled_from([0, 7, 60, 200]),
    odd=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    mutations=st.integers(0, 3),
)
@MANY
def test_pcapng_files_are_read_as_plainly(seed, count, style, biggest, odd, mutations):
    rng = np.random.default_rng(seed)
    agree(oracle.mutate(rng, oracle.make_pcapng(rng, count, style, biggest, odd), mutations))


@given(
    seed=SEEDS,
    window=st.sampled_from([24, 64, 100, 1000]),
    odd=st.sampled_from([0.0, 0.3]),
    mutations=st.integers(0, 2),
)
@MANY
def test_windows_cut_nothing_and_repeat_nothing(seed, window, odd, mutations):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pcap, "VIEWED_BYTES", window)
        patch.setattr(pcap, "COPIED_BYTES", window)
        patch.setattr(pcapng, "WINDOW_BYTES", window)
        for content in (
            oracle.make_pcap(rng, 30),
            oracle.make_pcap(rng, 30, magic=oracle.MODIFIED, mark=">"),
            oracle.make_pcapng(rng, 30, odd=odd),
        ):
            agree(oracle.mutate(rng, content, mutations), has_windows=True)


@given(
    content=st.binary(max_size=300),
    head=st.sampled_from([b"", b"\x0a\x0d\x0d\x0a", b"\xd4\xc3\xb2\xa1\x02\0\x04\0"]),
)
@example(b"", b"")
@MANY
def test_no_bytes_at_all_raise_anything(content, head):
    agree(head + content)


@given(
    seed=SEEDS,
    is_classic=st.booleans(),
    pack=st.sampled_from([gzip.compress, lambda plain: pa.Codec("zstd").compress(plain, asbytes=True)]),
    cut=st.integers(1, 40),
)
@MANY
def test_compressed_files_are_the_plain_ones(seed, is_classic, pack, cut):
    rng = np.random.default_rng(seed)
    make = oracle.make_pcap if is_classic else oracle.make_pcapng
    plain = oracle.mutate(rng, make(rng, 60), int(rng.integers(2)))
    if plain[:2] == b"\x1f\x8b":
        return
    packed = pack(plain)
    whole, _ = read_ours(plain)
    found, _ = read_ours(packed)
    assert vars(found) == vars(whole)
    broken, damage = read_ours(packed[:-cut])
    assert damage is not None
    kept = [packet for rows in broken.packets.values() for packet in rows]
    assert kept == [packet for rows in whole.packets.values() for packet in rows][: len(kept)]


@given(
    seed=SEEDS, style=STYLES, mark=MARKS, mutations=st.integers(0, 40), biggest=st.sampled_from([0, 30, 300])
)
@MANY
def test_the_lock_step_walk_is_the_walk_in_sequence(seed, style, mark, mutations, biggest):
    rng = np.random.default_rng(seed)
    content = oracle.make_pcap(rng, 900, style, biggest, mark=mark)
    window = np.frombuffer(oracle.mutate(rng, content[24:], mutations), np.uint8)
    layout = pcap._lay_out(oracle.MICROSECONDS, mark == ">", (2, 4), 1)
    probe = pcap._probe_for(window, layout)
    found = walk.find_records(window, layout.framing, probe)
    assert found.offsets.tolist() == walk.walk_in_sequence(window, layout.framing).tolist()
    if found.heads is not None:
        assert found.heads.tobytes() == walk.gather_heads(window, found.offsets[:-1]).tobytes()


@given(seed=SEEDS, style=STYLES, mutations=st.integers(0, 12), biggest=st.sampled_from([0, 30, 300]))
@MANY
def test_the_lock_step_walk_over_blocks_is_the_walk_in_sequence(seed, style, mutations, biggest):
    rng = np.random.default_rng(seed)
    content = oracle.make_pcapng(rng, 700, style, biggest)
    window = np.frombuffer(oracle.mutate(rng, content, mutations), np.uint8)
    order = ngblocks.ORDERS[False]
    framing = ngblocks._FRAMINGS[order]
    starts, heads = walk.find_records(window, framing, ngblocks._probe_for(window, framing))
    assert starts.tolist() == walk.walk_in_sequence(window, framing).tolist()
    if heads is not None:
        # Before the first block there is nothing: zeros stand for it.
        behind = np.concatenate((np.zeros(4, np.uint8), window))
        assert heads.tobytes() == walk.gather_heads(behind, starts[:-1], walk.BLOCK_HEAD_BYTES).tobytes()
