"""What reading a capture gives besides packets."""

from __future__ import annotations

from dataclasses import dataclass

# The largest captured length that is believed, by LINKTYPE: libpcap's and Wireshark's limits, the
# larger of the two (libpcap: pcap-common.c, max_snaplen_for_dlt; Wireshark: wiretap/wtap.h).
MOST_CAPTURED = 262_144
MOST_CAPTURED_BY_LINK_TYPE = {231: 128 << 20, 249: 128 << 20, 279: 8 << 20}  # D-Bus, USBPcap, EBHSCR


@dataclass(frozen=True)
class Opening:
    """What a file says of itself: given first for every file that can be read.

    `format` is pcap, pcap-modified or pcapng; `byte_order` little or big (of the first section);
    `resolution` us or ns, in pcapng that of the first interface (us, ns, 10^-3, 2^-10); `snaplen` 0 and
    `link_type` -1 for pcapng, where each interface has its own; `header` the 24 bytes of a classic
    file's header.
    """

    format: str
    byte_order: str
    resolution: str
    version: str
    snaplen: int
    link_type: int
    header: bytes


@dataclass(frozen=True)
class Side:
    """What is no packet: whole blocks of a pcapng file, options of packets, extra header fields.

    `offset` counts in the plain bytes. `kind` is section, interface, names, statistics, secrets,
    "packet options", "packet extras" or other; `content` are the exact bytes.
    """

    offset: int
    kind: str
    content: bytes


def most_captured(link_type: int) -> int:
    """Give the largest captured length that is believed for a link type."""
    return MOST_CAPTURED_BY_LINK_TYPE.get(link_type & 0xFFFF, MOST_CAPTURED)
