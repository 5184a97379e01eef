"""From the bytes of a delivered capture to its packets in normal form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transforms.capture.ngblocks import PCAPNG_MAGIC
from transforms.capture.packets import Packets
from transforms.capture.parts import Opening, Side
from transforms.capture.pcap import is_pcap, read_pcap
from transforms.capture.pcapng import read_pcapng
from transforms.streams import MAX_DELIVERY_BYTES, Damage, PlainBytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Damage", "Opening", "Packets", "Side", "read_capture"]


def read_capture(
    content: ReadableBuffer, max_bytes: int = MAX_DELIVERY_BYTES
) -> Iterator[Opening | Packets | Side | Damage]:
    """Read a whole delivered file, best given as a map of it: pcap or pcapng, plain, in gzip or zstd.

    What is given: an `Opening` for every file that can be read; then, window by window, what is no
    packet and the packets, those of each interface in the order of the file; last, where the file
    is damaged, one `Damage`. Everything before it is good, and nothing is raised for bad content.
    Memory is bounded by some windows of 8 to 32 MiB, or by the largest record or block where one is
    larger. The records of plain little-endian pcap files are views of `content`.

    Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
    """
    plain = PlainBytes(content, max_bytes)
    magic = plain.window(4).tobytes()
    if not magic:
        yield plain.stop(plain.failure or "the file is empty")
    elif magic == PCAPNG_MAGIC:
        yield from read_pcapng(plain)
    elif is_pcap(magic):
        yield from read_pcap(plain)
    else:
        yield plain.stop(plain.failure or "neither pcap nor pcapng")
