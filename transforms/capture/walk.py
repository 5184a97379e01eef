"""Where records begin: from the lengths in their headers, in lock-step.

Each record tells only where the next one begins, so that a file has to be walked from its start. The
lock-step walk has many walkers do so at once, one in each segment of a window. A walker begins where
something looks like a record; that may be wrong, so nothing is believed until the walker before it,
itself believed, lands on exactly that place. Where it does not, the way is walked in sequence until
it meets one that was walked already. The result is that of the sequential walk, always.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
Window = NDArray[np.uint8]
Heads = NDArray[np.void]

# So many records are walked in sequence first: they tell how large records are, and most of the
# files of devices have no more.
PROBED = 64
# Few or large records are walked in sequence, where a step costs less than what looks for walkers.
FEWEST = 4096
LARGEST_MEAN = 2048
# A payload full of things that look like records must not slow the walk down.
MOST_CANDIDATES = 64
# What finds one walker costs as much as some steps of it; what a step costs is shared by all walkers.
STEPS_PER_WALKER = 6.0
# Numpy's cost of a step is that of some tens of records in sequence.
FEWEST_WALKERS = 12
# A walker reads, with the length of each record, what lies beside it and will be asked for: the header of
# a classic record; of a pcapng block the header of a packet, and the 4 bytes before it, which end the last.
HEAD_BYTES = 16
BLOCK_HEAD_BYTES, BEFORE_BLOCK_BYTES = 32, 4


@dataclass(frozen=True)
class Framing:
    """How records tell their lengths.

    `header` bytes have to be there before a length can be read, at `length_at`; the record has `added`
    bytes more than it says, and it may say `most`. Where `other_at` is not None the smaller of two
    lengths counts (pcap 2.3). Where `is_repeated` the length is that of a whole pcapng block, padded
    to 4 bytes, with the length again at its end.
    """

    header: int
    length_at: int
    added: int
    most: int
    is_big: bool = False
    other_at: int | None = None
    is_repeated: bool = False

    @cached_property
    def word(self) -> struct.Struct:
        """A length as it is written."""
        return struct.Struct(">I" if self.is_big else "<I")

    @property
    def before(self) -> int:
        """Where a record's head begins: so many bytes before the record."""
        return BEFORE_BLOCK_BYTES if self.is_repeated else 0

    @property
    def head_bytes(self) -> int:
        """How long the head is, what lies before the record included."""
        return BLOCK_HEAD_BYTES if self.is_repeated else HEAD_BYTES

    def words_of(self, heads: Heads, at: int) -> NDArray[np.uint32]:
        """Look at the words of heads, so many bytes behind where each begins."""
        return heads.view(">u4" if self.is_big else "<u4")[at // 4 :: self.head_bytes // 4]

    def step(self, window: memoryview, at: int) -> int | None:
        """Give where the next record begins; None where no whole and valid record stands here."""
        if at + self.header > len(window):
            return None
        (length,) = self.word.unpack_from(window, at + self.length_at)
        if self.other_at is not None:
            length = min(length, self.word.unpack_from(window, at + self.other_at)[0])
        end: int = at + self.added + (length + 3 & ~3 if self.is_repeated else length)
        if length > self.most or end > len(window):
            return None
        if self.is_repeated and (length < self.header or self.word.unpack_from(window, end - 4)[0] != length):
            return None
        return end


class Walked(NamedTuple):
    """Every whole and valid record of a window.

    Shape: the offsets of the records and, last, where they end: one entry more than there are records.
    `heads` has the head of each, as its `Framing` says, and is None where the walk has not gathered them.
    """

    offsets: Offsets
    heads: Heads | None = None


class Probe(Protocol):
    """Tells what looks like a record, to place walkers."""

    @property
    def chain(self) -> int:
        """So many records have to follow each other."""

    def match_rows(self, rows: Window) -> Offsets:
        """Look at every offset of every row quickly, the last 16 bytes of each left out.

        Shape: where something was found, counted through all rows of that width, a multiple of 4.
        """

    def match_offsets(self, window: Window, at: Offsets) -> NDArray[np.bool_]:
        """Look at some offsets closely; a header's bytes are there."""


def read_words(window: Window, at: Offsets, is_big: bool) -> Offsets:
    """Read 32-bit numbers at offsets that need not be aligned."""
    words = np.ndarray((len(window) - 3,), ">u4" if is_big else "<u4", window, strides=(1,))
    return words[at].astype(np.int64)


def gather_heads(window: Window, at: Offsets, size: int = HEAD_BYTES) -> Heads:
    """Read some bytes at offsets that need not be aligned. Shape: V16, or of that size, for each offset."""
    return np.asarray(_heads_at_all(window, size)[at])


def _heads_at_all(window: Window, size: int) -> Heads:
    return np.ndarray((max(len(window) - size + 1, 0),), f"V{size}", window, strides=(1,))


def walk(window: Window, framing: Framing, probe: Probe | None = None) -> Offsets:
    """Find every whole and valid record from the window's start on. Shape: as the offsets of `Walked`."""
    return find_records(window, framing, probe).offsets


def find_records(window: Window, framing: Framing, probe: Probe | None = None) -> Walked:
    """Find every whole and valid record from the window's start on.

    The offsets are the same with and without a probe; without one the walk is in sequence.
    """
    begin = walk_in_sequence(window, framing, 0, PROBED)
    if len(begin) <= PROBED:
        return Walked(begin)
    mean = int(begin[-1]) / PROBED
    if probe is None or framing.other_at is not None or mean > LARGEST_MEAN or len(window) < FEWEST * mean:
        rest = walk_in_sequence(window, framing, int(begin[-1]))
        return Walked(np.concatenate((begin[:-1], rest)))
    # There is nothing before the first block, where the head of one would begin.
    lead = begin[:1] if framing.before else begin[:0]
    return _walk_in_lock_step(window, framing, probe, mean, lead, int(begin[len(lead)]))


def walk_in_sequence(
    window: Window, framing: Framing, begun: int = 0, count: int = -1, until: int | None = None
) -> Offsets:
    """Walk from record to record, at most `count` of them, begun before `until`. Shape: as `walk`."""
    view, at, left, found = window.data, begun, count, [begun]
    until = min(len(view) if until is None else until, len(view) - framing.header + 1)
    if framing.other_at is not None:
        while left and at < until and (end := framing.step(view, at)) is not None:
            found.append(at := end)
            left -= 1
    elif framing.is_repeated:
        _walk_blocks(view, framing, until, left, found)
    else:
        _walk_records(view, framing, until, left, found)
    return np.array(found, np.int64)


def _walk_records(view: memoryview, framing: Framing, until: int, left: int, found: list[int]) -> None:
    """Do the same as `step`, without the call: this is the loop of most small files."""
    read, place, added, most = framing.word.unpack_from, framing.length_at, framing.added, framing.most
    at, size, append = found[-1], len(view), found.append
    while left and at < until:
        (length,) = read(view, at + place)
        at += added + length
        if length > most or at > size:
            break
        append(at)
        left -= 1


def _walk_blocks(view: memoryview, framing: Framing, until: int, left: int, found: list[int]) -> None:
    """Do the same for pcapng blocks."""
    read, place, least, most = framing.word.unpack_from, framing.length_at, framing.header, framing.most
    at, size, append = found[-1], len(view), found.append
    while left and at < until:
        (length,) = read(view, at + place)
        at += length + 3 & ~3
        if length < least or length > most or at > size or read(view, at - 4)[0] != length:
            break
        append(at)
        left -= 1


def _walk_in_lock_step(
    window: Window, framing: Framing, probe: Probe, mean: float, lead: Offsets, begun: int
) -> Walked:
    """Walk from `begun` on; `lead` are the records before it, one or none."""
    walkers = int((len(window) / mean * STEPS_PER_WALKER) ** 0.5)
    # A multiple of 4, since the blocks of a pcapng file stand on such offsets.
    spacing = len(window) // walkers & ~3
    width = min(int(2 * mean) + 64 & ~3, spacing - 32)
    floors = spacing * np.arange(1, walkers, dtype=np.int64)
    starts = np.append(begun, find_starts(window, framing, probe, floors[floors > begun], width))
    if len(starts) < max(FEWEST_WALKERS, walkers // 4):
        return Walked(walk_in_sequence(window, framing))
    (visited, heads), landed = _walk_segments(window, framing, starts, lead)
    joined = _join_segments(window, framing, starts, visited, landed)
    # Where strays were left out, what was gathered on the way is not that of these records.
    if (landed[:-1] != starts[1:]).any():
        return Walked(_cut_at_violation(window, framing, joined, None))
    offsets = _cut_at_violation(window, framing, joined, heads)
    # Blocks that are shorter than a head may stand at the very end.
    rest = walk_in_sequence(window, framing, int(offsets[-1]))
    if len(rest) > 1:
        return Walked(np.concatenate((offsets[:-1], rest)))
    return Walked(offsets, heads[: len(offsets) - 1])


def find_starts(window: Window, framing: Framing, probe: Probe, floors: Offsets, width: int) -> Offsets:
    """Find, behind each of evenly spaced offsets, the first place that looks like a record.

    Shape: one place or none for each floor, in order. No more than `MOST_CANDIDATES` are tried for each.
    """
    spacing = int(floors[1] - floors[0])
    floors = floors[floors + width + BLOCK_HEAD_BYTES <= len(window)]
    rows = np.lib.stride_tricks.as_strided(
        window[floors[0] :], (len(floors), width + 16), (spacing, 1), writeable=False
    )
    lanes, columns = np.divmod(probe.match_rows(rows), width)
    at = floors[lanes] + columns
    close = np.flatnonzero(probe.match_offsets(window, at))
    lanes, at = lanes[close], at[close]
    rank = np.arange(len(lanes)) - np.searchsorted(lanes, lanes)
    lanes, at = lanes[rank < MOST_CANDIDATES], at[rank < MOST_CANDIDATES]
    return at[_first_chained(window, framing, probe, lanes, at)]


def _first_chained(window: Window, framing: Framing, probe: Probe, lanes: Offsets, at: Offsets) -> Offsets:
    """Choose in each lane the first candidate that others follow. Shape: indexes of candidates."""
    alive, reached, next_of = np.arange(len(at)), at, _stepper(window, framing)
    for _ in range(probe.chain):
        reached, _ = next_of(reached)
        inside = np.flatnonzero(reached < _limit(window, framing))
        alive, reached = alive[inside], reached[inside]
        good = np.flatnonzero(probe.match_offsets(window, reached))
        alive, reached = alive[good], reached[good]
    return alive[np.unique(lanes[alive], return_index=True)[1]]


def _limit(window: Window, framing: Framing) -> int:
    """Give the offset from which on there is no room for a head."""
    return len(window) - framing.head_bytes + framing.before + 1


def _stepper(window: Window, framing: Framing) -> Callable[[Offsets], tuple[Offsets, Heads]]:
    """Make the step of many walkers at once; it believes any length, but always moves on.

    With a record's length its whole head is read: what takes time is to fetch it from memory.
    """
    heads, before, added = _heads_at_all(window, framing.head_bytes), framing.before, framing.added
    place, least, words_of = before + framing.length_at, framing.header, framing.words_of

    def step_blocks(at: Offsets) -> tuple[Offsets, Heads]:
        found = heads[at - before]
        padded = words_of(found, place) + np.uint32(3) & ~np.uint32(3)
        return np.asarray(at + np.maximum(padded, least)), found

    def step_records(at: Offsets) -> tuple[Offsets, Heads]:
        found = heads[at]
        return np.asarray(words_of(found, place) + (at + added)), found

    return step_blocks if framing.is_repeated else step_records


def _walk_segments(
    window: Window, framing: Framing, starts: Offsets, lead: Offsets
) -> tuple[tuple[Offsets, Heads], Offsets]:
    """Walk every segment from its start until the next one's start is reached or passed.

    Shape: `lead` and the offsets visited, in order, with their heads, and for each segment where its
    walker landed.
    """
    next_of, landed = _stepper(window, framing), np.empty_like(starts)
    ends = np.append(starts[1:], _limit(window, framing))
    at, walkers, counts = starts, np.arange(len(starts)), np.zeros(len(starts), np.int64)
    steps: list[tuple[Offsets, Offsets, Heads]] = []
    while len(at) >= FEWEST_WALKERS:
        reached, heads = next_of(at)
        steps.append((walkers, at, heads))
        going = reached < ends
        if not going.all():
            landed[walkers[~going]], counts[walkers[~going]] = reached[~going], len(steps)
            reached, ends, walkers = reached[going], ends[going], walkers[going]
        at = reached
    # The few that are left would share what a step costs among too few.
    tails = {}
    for walker, begun, end in zip(walkers.tolist(), at.tolist(), ends.tolist(), strict=True):
        found = walk_in_sequence(window, framing, begun, until=end)
        landed[walker], counts[walker] = found[-1], len(steps) + len(found) - 1
        tails[walker] = found[:-1]
    return _in_order(window, framing, steps, tails, lead, np.cumsum(counts)), landed


def _in_order(
    window: Window,
    framing: Framing,
    steps: Sequence[tuple[Offsets, Offsets, Heads]],
    tails: Mapping[int, Offsets],
    lead: Offsets,
    ends: Offsets,
) -> tuple[Offsets, Heads]:
    """Bring what walkers visited step by step into the order of the window: one walker after the other.

    Shape: a step has its walkers, and each one's offset and head; the last of `tails` walked on alone.
    `ends` says where each walker's places end, behind those of `lead`.
    """
    first, before, size = len(lead), framing.before, framing.head_bytes
    begins = first + np.append(0, ends[:-1])
    numbers = np.repeat(np.arange(len(steps)), [len(at) for _, at, _ in steps])
    places = [begins[np.concatenate([walkers for walkers, _, _ in steps])] + numbers, np.arange(first)]
    places += [first + np.arange(ends[walker] - len(at), ends[walker]) for walker, at in tails.items()]
    visited = np.concatenate([*(at for _, at, _ in steps), lead, *tails.values()])
    heads = [*(found for _, _, found in steps)]
    heads += [np.full(first, np.void(bytes(before) + window[: size - before].tobytes()))]
    heads += [gather_heads(window, at - before, size) for at in tails.values()]
    order = np.empty(len(visited), np.int64)
    order[np.concatenate(places)] = np.arange(len(visited))
    return visited[order], np.concatenate(heads).take(order)


def _join_segments(
    window: Window, framing: Framing, starts: Offsets, visited: Offsets, landed: Offsets
) -> Offsets:
    """Keep of what was visited what the walk in sequence visits. Shape: as `walk`.

    A segment is believed when the one before it is and landed on its start.
    """
    missed = [*np.flatnonzero(landed[:-1] != starts[1:]).tolist(), len(starts) - 1]
    if len(missed) == 1:
        return np.append(visited, landed[-1])
    bounds = np.append(np.searchsorted(visited, starts), len(visited))
    if len(missed) > len(starts) // 2:
        # Zeros at the end of a file look like records everywhere: to mend it all is to walk it all.
        first = missed[0]
        rest = walk_in_sequence(window, framing, int(landed[first]))
        return np.concatenate((visited[: bounds[first + 1]], rest))
    parts, segment, begun = [], 0, 0
    while True:
        last = missed[bisect_right(missed, segment - 1)]
        parts.append(visited[begun : bounds[last + 1]])
        at = int(landed[last])
        if last == len(starts) - 1:
            break
        strays, at, segment, begun = _walk_until_met(window, framing, at, starts, visited, bounds)
        parts.append(strays)
        if segment < 0:
            break
    return np.concatenate([*parts, [at]])


def _walk_until_met(
    window: Window, framing: Framing, at: int, starts: Offsets, visited: Offsets, bounds: Offsets
) -> tuple[Offsets, int, int, int]:
    """Walk in sequence until a place is met that a walker visited.

    Returns: the offsets before it, the place, its segment and its index among the visited ones; the
    segment is -1 where the walk ends before that.
    """
    view, floors = window.data, starts.tolist()
    found: list[int] = []
    segment, known = -1, {}
    while True:
        if (here := bisect_right(floors, at) - 1) != segment:
            segment, first = here, int(bounds[here])
            known = {place: first + nth for nth, place in enumerate(visited[first : bounds[here + 1]].tolist())}
        if at in known:
            return np.array(found, np.int64), at, segment, known[at]
        end = framing.step(view, at)
        if end is None:
            return np.array(found, np.int64), at, -1, -1
        found.append(at)
        at = end


def _cut_at_violation(window: Window, framing: Framing, offsets: Offsets, heads: Heads | None) -> Offsets:
    """End the walk before the first record that is not whole or not valid."""
    ends = offsets[1:]
    if framing.is_repeated:
        ends = ends[: int(np.searchsorted(ends, len(window), "right"))]
        lengths, repeated = _read_both_lengths(window, framing, offsets[: len(ends) + 1], heads)
        wrong = (lengths != repeated) | (lengths < framing.header) | (lengths > framing.most)
    else:
        wrong = (np.diff(offsets) > framing.most + framing.added) | (ends > len(window))
    bad = np.flatnonzero(wrong)
    return offsets[: (int(bad[0]) if bad.size else len(ends)) + 1]


def _read_both_lengths(
    window: Window, framing: Framing, offsets: Offsets, heads: Heads | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the length at each block's beginning and the one at its end."""
    begins, ends = offsets[:-1] + framing.length_at, offsets[1:] - framing.before
    if heads is None or not len(begins):
        return read_words(window, begins, framing.is_big), read_words(window, ends, framing.is_big)
    lengths = framing.words_of(heads, framing.before + framing.length_at)[: len(begins)]
    last = read_words(window, ends[-1:], framing.is_big)
    return lengths, np.append(framing.words_of(heads, 0)[1 : len(begins)], last)
