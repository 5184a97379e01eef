"""Where the blocks of a pcapng file begin, and the words in them, in either byte order.

Source: draft-ietf-opsawg-pcapng, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.capture.walk import Framing, Heads, Offsets, Window, find_records, read_words

Order: TypeAlias = Literal["little", "big"]
ORDERS: dict[bool, Order] = {False: "little", True: "big"}
_MARKS = {"little": "<", "big": ">"}

SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, PACKET = 0x0A0D0D0A, 1, 2, 3, 6
# The largest packet that is believed, and what may stand around it.
MOST_BLOCK_BYTES = (128 << 20) + (16 << 20)
PCAPNG_MAGIC = SECTION.to_bytes(4, "big")  # the same in either order
_ORDER_MAGICS = {(0x1A2B3C4D).to_bytes(4, order): order for order in ORDERS.values()}
# What an enhanced packet block has before its data.
_HEADER_NAMES = ("type", "length", "interface", "high", "low", "captured", "original")
_HEADERS = {order: np.dtype([(name, f"{mark}u4") for name in _HEADER_NAMES]) for order, mark in _MARKS.items()}
# A head of the walk: before that the last 4 bytes of what came before.
_HEADS = {order: np.dtype([("before", "V4"), *one.descr]) for order, one in _HEADERS.items()}
_FRAMINGS = {
    order: Framing(12, 4, 0, MOST_BLOCK_BYTES, is_big=is_big, is_repeated=True)
    for is_big, order in ORDERS.items()
}


@dataclass(frozen=True)
class Blocks:
    """The whole blocks at a window's start.

    Shape: `starts` has where each begins and, last, where they end; `is_big` is the order of each, or
    one for all; `heads` are those of the walk, where they are of one order and it gathered them.
    """

    window: Window
    starts: Offsets
    is_big: bool | NDArray[np.bool_]
    order_after: Order
    heads: Heads | None = None

    @cached_property
    def types(self) -> Offsets:
        """The blocks' types."""
        if self.heads is not None and isinstance(self.is_big, bool):
            return self.heads.view(_HEADS[ORDERS[self.is_big]])["type"].astype(np.int64)
        return self.words(np.arange(len(self.starts) - 1), 0)

    @cached_property
    def others(self) -> Offsets:
        """The numbers of the blocks that are no enhanced packets: few, in the files of today."""
        return np.flatnonzero(self.types != PACKET)

    def is_big_at(self, row: int) -> bool:
        """Whether a block's words have their highest byte first."""
        return self.is_big if isinstance(self.is_big, bool) else bool(self.is_big[row])

    def bytes_of(self, row: int) -> bytes:
        """Give a whole block."""
        return self.window[self.starts[row] : self.starts[row + 1]].tobytes()

    def words(self, rows: Offsets, at: int) -> Offsets:
        """Read a 32-bit word of some blocks, so many bytes behind their beginnings."""
        if not len(rows):
            return np.empty(0, np.int64)
        places = self.starts[rows] + at
        if isinstance(self.is_big, bool):
            return read_words(self.window, places, self.is_big)
        little, big = (read_words(self.window, places, is_big) for is_big in (False, True))
        return np.where(self.is_big[rows], big, little)

    def packet_headers(self, rows: Offsets) -> NDArray[np.void]:
        """Read the first 28 bytes of packet blocks, gathered once. Shape: a structured array, by row."""
        if self.heads is not None and isinstance(self.is_big, bool):
            heads = self.heads if len(rows) == len(self.heads) else self.heads[rows]
            return heads.view(_HEADS[ORDERS[self.is_big]])
        size = _HEADERS["little"].itemsize
        if not len(rows):
            return np.empty(0, _HEADERS["little"])
        places = np.ndarray((len(self.window) - size + 1,), f"V{size}", self.window, strides=(1,))
        gathered = places[self.starts[rows]]
        if isinstance(self.is_big, bool):
            return gathered.view(_HEADERS[ORDERS[self.is_big]])
        headers = gathered.view(_HEADERS["little"]).copy()
        is_big = self.is_big[rows]
        headers[is_big] = gathered[is_big].view(_HEADERS["big"]).astype(_HEADERS["little"])
        return headers

    def halves(self, rows: Offsets, at: int) -> Offsets:
        """Read a 16-bit word of some blocks; two more bytes are there."""
        is_big = self.is_big if isinstance(self.is_big, bool) else self.is_big[rows]
        words = self.words(rows, at)
        return np.where(is_big, words >> 16, words & 0xFFFF)


@dataclass(frozen=True)
class _Probe:
    """A packet block: its type, a likely length, and the same length at its end."""

    type: int
    framing: Framing
    chain: int = 2

    def match_rows(self, rows: Window) -> Offsets:
        # Blocks stand on multiples of 4.
        words = rows.view(">u4" if self.framing.is_big else "<u4")[:, : (rows.shape[1] - 16) // 4]
        return np.flatnonzero(words == self.type) * 4

    def match_offsets(self, window: Window, at: Offsets) -> NDArray[np.bool_]:
        lengths = read_words(window, at + 4, self.framing.is_big)
        ends = at + lengths
        likely = (lengths >= 16) & (lengths & 3 == 0) & (ends <= len(window))
        likely &= read_words(window, at, self.framing.is_big) == self.type
        rows = np.flatnonzero(likely)
        likely[rows] = read_words(window, ends[rows] - 4, self.framing.is_big) == lengths[rows]
        return np.asarray(likely)


def find_blocks(window: Window, order: Order) -> Blocks:
    """Find the whole blocks at a window's start; `order` is that of the section they begin in."""
    is_big = order == "big"
    framing = _FRAMINGS[order]
    starts, heads = find_records(window, framing, _probe_for(window, framing))
    blocks = Blocks(window, starts, is_big, order, heads)
    turned = _first_turned(blocks)
    if turned is None:
        return blocks
    # The order of the words changes here: from now on each section is asked for its own.
    more, orders = _walk_sections(window, int(starts[turned]))
    mixed = np.concatenate((np.full(turned, is_big), orders[:-1]))
    return Blocks(window, np.concatenate((starts[:turned], more)), mixed, ORDERS[bool(orders[-1])])


def _probe_for(window: Window, framing: Framing) -> _Probe | None:
    """Look for the type of packet block that comes next, among the first blocks."""
    view, at = window.data, 0
    for _ in range(8):
        if at + 12 > len(window):
            break
        (kind,) = framing.word.unpack_from(view, at)
        if kind in (PACKET, SIMPLE_PACKET, OLD_PACKET):
            return _Probe(kind, framing)
        step = framing.step(view, at)
        if step is None:
            break
        at = step
    return _Probe(PACKET, framing)


def _first_turned(blocks: Blocks) -> int | None:
    """Find the first section header that is not of the order that was expected."""
    sections = np.flatnonzero(blocks.types == SECTION)
    other = np.flatnonzero(blocks.words(sections, 8) != 0x1A2B3C4D)
    if other.size:
        return int(sections[other[0]])
    end = int(blocks.starts[-1])
    magic = blocks.window[end + 8 : end + 12].tobytes()
    is_section = blocks.window[end : end + 4].tobytes() == PCAPNG_MAGIC
    is_other = _ORDER_MAGICS.get(magic) == ORDERS[not blocks.is_big]
    return len(blocks.starts) - 1 if is_section and is_other else None


def _walk_sections(window: Window, at: int) -> tuple[Offsets, NDArray[np.bool_]]:
    """Walk in sequence from a section header on. Shape: offsets as `walk`, and the order at each."""
    view, order = window.data, ORDERS[False]
    starts, orders = [at], []
    while True:
        if view[at : at + 4] == PCAPNG_MAGIC:
            known = _ORDER_MAGICS.get(bytes(view[at + 8 : at + 12]))
            order = known or order
            end = _FRAMINGS[order].step(view, at) if known else None
        else:
            end = _FRAMINGS[order].step(view, at)
        orders.append(order == "big")
        if end is None:
            return np.array(starts, np.int64), np.array(orders, np.bool_)
        starts.append(at := end)


def reason_to_stop(rest: Window, order: Order) -> str | None:
    """Say why no block can begin here; None where it would only have to be whole."""
    if len(rest) < 12:
        return None
    if rest[:4].tobytes() == PCAPNG_MAGIC:
        known = _ORDER_MAGICS.get(rest[8:12].tobytes())
        if known is None:
            return "a section without a byte order"
        order = known
    framing = _FRAMINGS[order]
    (length,) = framing.word.unpack_from(rest.data, framing.length_at)
    if length < framing.header or length > framing.most:
        return f"a block length of {length}"
    return "a block whose two lengths differ" if (length + 3 & ~3) <= len(rest) else None
