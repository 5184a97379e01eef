"""A live capture cut into files: whole records only, each file with the header that it needs.

What arrives over a connection ends anywhere. Here it is held until a record is whole, and what a new
file has to begin with is remembered: the 24 bytes of a classic capture, or the section header and all
interface descriptions so far of a pcapng.

Source: draft-ietf-opsawg-pcap, section 4; draft-ietf-opsawg-pcapng, sections 3 and 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from transforms.capture.ngblocks import INTERFACE, OLD_PACKET, PACKET, PCAPNG_MAGIC, SECTION, SIMPLE_PACKET
from transforms.capture.packets import HEADER_BYTES
from transforms.capture.parts import most_captured
from transforms.capture.pcap import FILE_HEADER_BYTES

# A record is held until it is whole, for each connection: far less than a file may have.
LONGEST_RECORD = 4 << 20
# Interfaces and their options, repeated in each file.
LONGEST_OPENING = 1 << 20
_ORDERS = {
    bytes.fromhex(magic): order
    for order, magics in {"<": ("d4c3b2a1", "4d3cb2a1"), ">": ("a1b2c3d4", "a1b23c4d")}.items()
    for magic in magics
}
_BYTE_ORDER = 0x1A2B3C4D
# A section's length is of a whole file; behind a cut it would be wrong. All ones stand for "not told".
_UNTOLD = b"\xff" * 8
_PACKETS = frozenset({PACKET, SIMPLE_PACKET, OLD_PACKET})
# A block's length says how much has come of it; a section tells its byte order behind that.
_BLOCK_HEAD, _SECTION_HEAD, _SECTION_BYTES = 8, 12, 28


class LiveCapture:
    """The records of one connection's stream, as they become whole."""

    def __init__(self) -> None:
        """Begin before the first byte."""
        self.opening = b""
        self.failure: str | None = None
        self.packets = 0
        self._held = bytearray()
        self._order = ""
        self._is_pcapng = False
        self._longest = LONGEST_RECORD

    @property
    def rest(self) -> bytes:
        """What has come of a record that is not whole; after a failure, where it begins and all behind."""
        return bytes(self._held)

    def take(self, content: bytes) -> Iterator[bytes]:
        """Take bytes that came; give runs of whole records.

        `opening` is what a file that begins with the run has to have before it: where an opening
        changes, a run ends. Nothing more is given after a `failure`, which says what is wrong.
        """
        self._held += content
        if self.failure is None and not self.opening and not self._is_pcapng:
            self._begin()
        if self.failure is None and (self.opening or self._is_pcapng):
            yield from self._blocks() if self._is_pcapng else self._records()

    def _begin(self) -> None:
        """Look at the stream's first bytes."""
        magic = bytes(self._held[:4])
        if len(magic) == 4 and magic == PCAPNG_MAGIC:
            self._is_pcapng = True
        elif len(magic) == 4 and magic not in _ORDERS:
            self.failure = "no capture: neither a pcap nor a pcapng begins so"
        elif len(self._held) >= FILE_HEADER_BYTES:
            self._order = _ORDERS[magic]
            self.opening = bytes(self._held[:FILE_HEADER_BYTES])
            del self._held[:FILE_HEADER_BYTES]
            (link_type,) = struct.unpack_from(f"{self._order}I", self.opening, 20)
            self._longest = min(LONGEST_RECORD, most_captured(link_type))

    def _records(self) -> Iterator[bytes]:
        """Give the whole records of a classic capture."""
        held, at = self._held, 0
        length_of = struct.Struct(f"{self._order}8xI4x").unpack_from
        while len(held) - at >= HEADER_BYTES:
            (captured,) = length_of(held, at)
            if captured > self._longest:
                self.failure = f"a record of {captured} bytes: at most {self._longest} are taken"
                break
            if len(held) - at < HEADER_BYTES + captured:
                break
            at += HEADER_BYTES + captured
            self.packets += 1
        if at:
            run = bytes(held[:at])
            del held[:at]
            yield run

    def _blocks(self) -> Iterator[bytes]:
        """Give the whole blocks of a pcapng; sections and interfaces become part of the opening instead."""
        begin = at = 0
        while (end := self._block_end(at)) is not None:
            (kind,) = struct.unpack_from(f"{self._order}I", self._held, at)
            if kind in (SECTION, INTERFACE):
                if begin < at:
                    yield bytes(self._held[begin:at])
                begin = at
                if not self._open_with(kind, bytes(self._held[at:end])):
                    break
                begin = end
            self.packets += kind in _PACKETS
            at = end
        if begin < at:
            yield bytes(self._held[begin:at])
        del self._held[:at]

    def _open_with(self, kind: int, block: bytes) -> bool:
        before = b"" if kind == SECTION else self.opening
        if len(before) + len(block) > LONGEST_OPENING:
            self.failure = "too many interfaces, or too long descriptions of them"
            return False
        self.opening = before + (block[:16] + _UNTOLD + block[24:] if kind == SECTION else block)
        return True

    def _block_end(self, at: int) -> int | None:
        """Find where a block ends; None where it is not whole, or none can begin here."""
        held = self._held
        is_section = held[at : at + 4] == PCAPNG_MAGIC
        if self.failure is not None or len(held) - at < (_SECTION_HEAD if is_section else _BLOCK_HEAD):
            return None
        if is_section:
            self._order = next(
                (mark for mark in "<>" if struct.unpack_from(f"{mark}I", held, at + 8) == (_BYTE_ORDER,)), ""
            )
            if not self._order:
                self.failure = "a section without a byte order"
                return None
        length: int = struct.unpack_from(f"{self._order}I", held, at + 4)[0]
        if length % 4 or not (_SECTION_BYTES if is_section else 12) <= length <= LONGEST_RECORD:
            self.failure = f"a block of {length} bytes: at most {LONGEST_RECORD} are taken"
            return None
        if len(held) - at < length:
            return None
        if held[at + length - 4 : at + length] != held[at + 4 : at + 8]:
            self.failure = "a block whose two lengths differ"
            return None
        return at + length
