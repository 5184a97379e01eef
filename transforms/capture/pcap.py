"""Classic capture files: either byte order, micro- or nanoseconds, and their odd relatives.

Source: draft-ietf-opsawg-pcap; what its authors no longer tell is taken from what libpcap does
(sf-pcap.c): lengths in the other order before version 2.3, and longer record headers behind the
magic number of A. Kuznetzov's patch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transforms.capture.packets import HEADER, HEADER_BYTES, Interface, Packets
from transforms.capture.parts import Opening, Side, most_captured
from transforms.capture.spans import gather_spans, write_headers
from transforms.capture.walk import Framing, Heads, Offsets, Window, find_records, gather_heads, walk
from transforms.streams import Damage, PlainBytes

FILE_HEADER_BYTES = 24
# A window whose records are views of the map costs nothing; one that is copied stays small.
VIEWED_BYTES = 32 << 20
COPIED_BYTES = 8 << 20

_MICROSECONDS, _NANOSECONDS, _MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_MAGICS = {
    magic.to_bytes(4, order): (magic, order)
    for magic in (_MICROSECONDS, _NANOSECONDS, _MODIFIED)
    for order in _ORDERS
}
# DG/UX's tcpdump wrote version 543.0, with the lengths in the old order.
_DGUX = 543


def is_pcap(magic: bytes) -> bool:
    """Whether a file's first four bytes are those of a classic capture."""
    return magic in _MAGICS


@dataclass(frozen=True)
class _Layout:
    """How records are written: seconds, fraction and two lengths as words, of which one counts."""

    framing: Framing
    fraction_limit: int
    is_swapped: bool

    @property
    def is_normal(self) -> bool:
        """Whether records are in normal form as they stand."""
        framing = self.framing
        return not (framing.is_big or self.is_swapped or framing.other_at or framing.added > HEADER_BYTES)


@dataclass(frozen=True)
class _Probe:
    """A record: its time near that of the first one, a whole fraction, likely lengths."""

    layout: _Layout
    seconds: int
    chain: int = 4

    def match_rows(self, rows: Window) -> Offsets:
        big = self.layout.framing.is_big
        width = rows.shape[1] - HEADER_BYTES
        # The highest byte of two words: a time within half a year, a length below 16 MiB.
        time, length = (rows[:, at + (0 if big else 3) :][:, :width] for at in (0, 8))
        return np.flatnonzero((time == self.seconds >> 24) & (length == 0))

    def match_offsets(self, window: Window, at: Offsets) -> NDArray[np.bool_]:
        headers = read_headers(window, at, self.layout.framing.is_big)
        captured, original = headers["captured"], headers["original"]
        if self.layout.is_swapped:
            captured, original = original, captured
        near = np.abs(headers["seconds"].astype(np.int64) - self.seconds) < 1 << 24
        likely = (captured <= original) & (captured <= self.layout.framing.most)
        return np.asarray(near & likely & (headers["fraction"] < self.layout.fraction_limit))


def read_headers(window: Window, at: Offsets, is_big: bool) -> NDArray[np.void]:
    """Gather record headers. Shape: a structured array, an entry for each offset."""
    return _as_headers(gather_heads(window, at), is_big)


def _as_headers(heads: Heads, is_big: bool) -> NDArray[np.void]:
    return heads.view(HEADER.newbyteorder(">") if is_big else HEADER)


def walk_normal(records: Window, interface: Interface) -> Offsets:
    """Find the records in bytes of normal form, such as a stored block's. Shape: as `walk`."""
    magic = _NANOSECONDS if interface.unit_ns == 1 else _MICROSECONDS
    layout = _lay_out(magic, False, (2, 4), interface.link_type)
    return walk(records, layout.framing, _probe_for(records, layout))


def read_pcap(plain: PlainBytes) -> Iterator[Opening | Packets | Side | Damage]:
    """Read a classic capture whose magic number has been seen already.

    Records that are in normal form as they stand are given as views; others are copied.
    """
    header = plain.window(FILE_HEADER_BYTES).tobytes()
    if len(header) < FILE_HEADER_BYTES:
        yield plain.stop(plain.failure or "the file's header is cut")
        return
    magic, order = _MAGICS[header[:4]]
    major, minor, snaplen, link_type = struct.unpack((">" if order == "big" else "<") + "4xHH8xII", header)
    if major not in (2, _DGUX):
        yield plain.stop(f"version {major}.{minor} of the format is not known")
        return
    is_nano = magic == _NANOSECONDS
    yield Opening(
        "pcap-modified" if magic == _MODIFIED else "pcap",
        order,
        "ns" if is_nano else "us",
        f"{major}.{minor}",
        snaplen,
        link_type,
        header,
    )
    plain.advance(FILE_HEADER_BYTES)
    layout = _lay_out(magic, order == "big", (major, minor), link_type)
    yield from _read_records(plain, layout, Interface(0, link_type, snaplen, 1 if is_nano else 1000))


def _lay_out(magic: int, is_big: bool, version: tuple[int, int], link_type: int) -> _Layout:
    # libpcap interchanged the lengths with 2.3, and some wrote 2.3 without having done so.
    is_swapped = version < (2, 3) or version[0] == _DGUX
    framing = Framing(
        header=24 if magic == _MODIFIED else HEADER_BYTES,
        length_at=12 if is_swapped else 8,
        added=24 if magic == _MODIFIED else HEADER_BYTES,
        most=most_captured(link_type),
        is_big=is_big,
        other_at=12 if version == (2, 3) else None,
    )
    return _Layout(framing, 1_000_000_000 if magic == _NANOSECONDS else 1_000_000, is_swapped)


def _read_records(
    plain: PlainBytes, layout: _Layout, interface: Interface
) -> Iterator[Packets | Side | Damage]:
    usual = VIEWED_BYTES if layout.is_normal and not plain.is_expanded else COPIED_BYTES
    size = usual
    while True:
        window = plain.window(size)
        offsets, heads = find_records(window, layout.framing, _probe_for(window, layout))
        if len(offsets) > 1:
            heads = gather_heads(window, offsets[:-1]) if heads is None else heads
            headers = _as_headers(heads, layout.framing.is_big)
            yield from _give_packets(window, offsets, headers, layout, interface, plain.offset)
        reached, had = int(offsets[-1]), len(window)
        plain.advance(reached)
        is_end = had < size or plain.ends_after(had - reached)
        reason = _reason_to_stop(window[reached:], layout.framing)
        if reason is None and is_end:
            reason = plain.failure or ("the last record is cut" if reached < had else None)
        if reason is not None:
            yield plain.stop(reason)
        if is_end or reason is not None:
            return
        # What is left is a record that does not fit into the window.
        size = usual if reached else 2 * size


def _probe_for(window: Window, layout: _Layout) -> _Probe | None:
    if len(window) < HEADER_BYTES:
        return None
    seconds = read_headers(window, np.zeros(1, np.int64), layout.framing.is_big)["seconds"]
    return _Probe(layout, int(seconds[0]))


def _reason_to_stop(rest: Window, framing: Framing) -> str | None:
    """Say why no record can begin here; None where it would only have to be whole."""
    if len(rest) < framing.header:
        return None
    places = (framing.length_at,) if framing.other_at is None else (framing.length_at, framing.other_at)
    length = min(int(framing.word.unpack_from(rest.data, at)[0]) for at in places)
    return f"a captured length of {length}, more than {framing.most}" if length > framing.most else None


def _give_packets(
    window: Window,
    offsets: Offsets,
    headers: NDArray[np.void],
    layout: _Layout,
    interface: Interface,
    base: int,
) -> Iterator[Packets | Side]:
    if layout.is_normal:
        packets = Packets(interface, window[: offsets[-1]], offsets)
        # What the walk has gathered on its way need not be gathered again.
        vars(packets)["headers"] = headers
        yield packets
        return
    extra = layout.framing.added - HEADER_BYTES
    headers = headers.astype(HEADER)
    _set_lengths(headers, layout)
    if extra:
        yield Side(base, "packet extras", _read_extras(window, offsets[:-1]))
        # The data of a record with its header in front of it, once the header has moved up.
        records, starts = gather_spans(window, offsets[:-1] + extra, offsets[1:])
    else:
        records, starts = window[: offsets[-1]].copy(), offsets
    write_headers(records, starts[:-1], headers)
    yield Packets(interface, records, starts)


def _set_lengths(headers: NDArray[np.void], layout: _Layout) -> None:
    captured, original = headers["captured"].copy(), headers["original"].copy()
    if layout.is_swapped:
        headers["captured"], headers["original"] = original, captured
    elif layout.framing.other_at is not None:
        headers["captured"], headers["original"] = (
            np.minimum(captured, original),
            np.maximum(captured, original),
        )


def _read_extras(window: Window, at: Offsets) -> bytes:
    """Give what modified record headers have on top: interface, protocol and type, 8 bytes a packet."""
    places = np.ndarray((len(window) - 23,), "V8", window, offset=16, strides=(1,))
    return places[at].tobytes()
