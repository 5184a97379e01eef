"""What the tables of captures look like. They hold packets, not records of a contract."""

from __future__ import annotations

import pyarrow as pa

from transforms.tables import ARRIVAL, BATCH, TENANT, TIME, Column, TableSpec, column, quarantine_of

SOURCE = "captures"
OWNER = "network"
# The join domains of its tokens, with the canonical format of their values.
DOMAIN_FORMATS: dict[str, str | None] = {"device": None, "ip": "ip", "mac": "mac", "flow": None, "host": None}
_PACKET_HOUR = column(
    "packet_hour", pa.large_string(), "The UTC hour of the packets, as 2026-11-21T07; partitions the table."
)
_BLOCK_ID = column("block_id", pa.large_string(), "The block's id: a UUID, stable over deliveries and retries.")
_DEVICE_REF = column(
    "device_ref", pa.large_string(), "Keyed pseudonym of the device, in hexadecimal.", pii="pseudonym"
)
_FILE_ID = column("file_id", pa.large_string(), "The delivered file: its id in `raw.capture_files`.")
_TOKEN_NOTE = "as a reversible token; its first 28 characters join"  # noqa: S105 - a description

CAPTURE_BLOCKS = TableSpec(
    "raw",
    "capture_blocks",
    "Packets of a device in normal form, about 1 MiB a row, compressed, then sealed under the key of the "
    "device's ownership.",
    OWNER,
    (
        _BLOCK_ID,
        TENANT,
        _PACKET_HOUR,
        *ARRIVAL,
        *BATCH,
        _FILE_ID,
        _DEVICE_REF,
        column("subject_ref", pa.large_binary(), "Keyed pseudonym of the device's ownership.", pii="pseudonym"),
        column("block_number", pa.int32(), "The block's number in its file, from 0."),
        column("interface", pa.int32(), "The number of the interface in its file, from 0."),
        column("link_type", pa.int64(), "The file's 32-bit word; its lower half is the LINKTYPE."),
        column("snaplen", pa.int64(), "The longest captured length that the file promised; 0 for none."),
        column("unit_ns", pa.int32(), "Nanoseconds in a unit of the fractions: 1000 or 1."),
        column("era", pa.int32(), "How many 2**32 seconds come on top of the seconds; 0 from 1970 to 2106."),
        column("ts_min", pa.int64(), "The earliest packet, nanoseconds since 1970.", in_statistics=True),
        column("ts_max", pa.int64(), "The latest packet, nanoseconds since 1970.", in_statistics=True),
        column("ts_sorted", pa.bool_(), "Whether no packet is earlier than the one before it."),
        column("packets", pa.int32(), "How many packets.", in_statistics=True),
        column("bytes_captured", pa.int64(), "Bytes of the packets that were captured.", in_statistics=True),
        column("bytes_original", pa.int64(), "Bytes of the packets on the wire.", in_statistics=True),
        column("bytes_padded", pa.int64(), "Captured bytes, each packet rounded up to four (pcapng)."),
        column("minutes", pa.large_list(pa.int32()), "Packets in each of the hour's 60 minutes."),
        column(
            "records",
            pa.large_binary(),
            "The packets in an envelope.",
            pii="sealed",
            is_unique=True,
        ),
    ),
    ("packet_hour",),
    compression="UNCOMPRESSED",
    # Up to 8 MiB, and more rows where that is less than 2: what is read at once for an export.
    row_group_rows=8,
)

CAPTURE_FILES = TableSpec(
    "raw",
    "capture_files",
    "One row for each delivered capture file: what it said of itself, what became of it.",
    OWNER,
    (
        column("file_id", pa.large_string(), "The file's id: a keyed digest of its bytes, as a UUID."),
        TENANT,
        *ARRIVAL,
        *BATCH,
        column("file", pa.int32(), "The file's number in its batch."),
        column(
            "device_ref",
            pa.large_string(),
            "Keyed pseudonym of the device; null for a capture of many.",
            pii="pseudonym",
            nullable=True,
        ),
        column("status", pa.large_string(), "complete, partial or rejected."),
        column("reason", pa.large_string(), "Why it is not complete.", nullable=True),
        column("damage_offset", pa.int64(), "The plain byte at which reading stopped.", nullable=True),
        column("format", pa.large_string(), "pcap, pcap-modified or pcapng.", nullable=True),
        column("byte_order", pa.large_string(), "little or big.", nullable=True),
        column("resolution", pa.large_string(), "Of its times: us, ns, 10^-3, ...", nullable=True),
        column("format_version", pa.large_string(), "Of the format, such as 2.4.", nullable=True),
        column("snaplen", pa.int64(), "The header's; null for pcapng.", nullable=True),
        column("link_type", pa.int64(), "The header's; null for pcapng.", nullable=True),
        column("interfaces", pa.int32(), "How many interfaces had packets."),
        column("first_at", TIME, "The earliest packet, UTC.", nullable=True, in_statistics=True),
        column("last_at", TIME, "The latest packet, UTC.", nullable=True, in_statistics=True),
        column("packets", pa.int64(), "Packets read.", in_statistics=True),
        column(
            "packets_stored",
            pa.int64(),
            "Packets in blocks: one between two known devices is stored for both, one of an erased owner "
            "for nobody.",
            in_statistics=True,
        ),
        column("packets_refused", pa.int64(), "Packets of erased owners.", in_statistics=True),
        column("bytes_captured", pa.int64(), "Captured bytes of the packets read.", in_statistics=True),
        column("bytes_file", pa.int64(), "The file's size as it arrived.", in_statistics=True),
        column("bytes_cut", pa.int64(), "Payload that a cut-off of flows left out.", in_statistics=True),
        column(
            "bytes_quarantined", pa.int64(), "Bytes that could not be read, kept aside.", in_statistics=True
        ),
        column("sides", pa.int32(), "Blocks that are no packets (pcapng).", in_statistics=True),
        column(
            "side_blocks",
            pa.large_binary(),
            "Those blocks, sealed; secrets of decryption among them are never exported by default.",
            pii="sealed",
            nullable=True,
        ),
    ),
)


def _address(name: str, text: str) -> tuple[Column, ...]:
    return (
        column(
            f"{name}_mac_token",
            pa.large_string(),
            f"The {text} hardware address, {_TOKEN_NOTE}.",
            pii="token",
            nullable=True,
            domain="mac",
        ),
        column(
            f"{name}_ip_token",
            pa.large_string(),
            f"The {text} IP address, {_TOKEN_NOTE}.",
            pii="token",
            nullable=True,
            domain="ip",
        ),
        column(
            f"{name}_ip_prefix",
            pa.large_string(),
            f"The {text} IP address, encrypted so that addresses of one network still share their prefix.",
            pii="pseudonym",
            nullable=True,
        ),
    )


def _name(name: str, text: str, domain: str = "host") -> Column:
    described = f"{text}, {_TOKEN_NOTE}."
    return column(f"{name}_token", pa.large_string(), described, pii="token", nullable=True, domain=domain)


PACKETS = TableSpec(
    "masked",
    "packets",
    "One row for each stored packet: its headers, addresses as tokens, no payload.",
    OWNER,
    (
        _BLOCK_ID,
        column(
            "record_offset",
            pa.int32(),
            "Where the packet begins in its block; with it, the packet's id.",
            is_rising=True,
        ),
        TENANT,
        _PACKET_HOUR,
        *ARRIVAL,
        column("received_hour", TIME, "The hour of arrival, UTC.", in_statistics=True),
        *BATCH,
        column("device_token", pa.large_string(), f"The device, {_TOKEN_NOTE}.", pii="token", domain="device"),
        column(
            "occurred_at",
            TIME,
            "The packet's time, UTC, cut to microseconds.",
            in_statistics=True,
            is_rising=True,
        ),
        column("event_hour", TIME, "The packet's hour, UTC.", in_statistics=True),
        column("link_type", pa.int32(), "The LINKTYPE."),
        column("captured_bytes", pa.int32(), "What was captured of it.", in_statistics=True),
        column("original_bytes", pa.int64(), "Its length on the wire.", in_statistics=True),
        column("ether_type", pa.int32(), "The EtherType behind VLAN tags.", nullable=True),
        column("ip_version", pa.int32(), "4 or 6.", nullable=True),
        column("protocol", pa.int32(), "The IP protocol behind extension headers.", nullable=True),
        *_address("src", "sender's"),
        *_address("dst", "receiver's"),
        column("src_port", pa.int32(), "The sender's port.", nullable=True),
        column("dst_port", pa.int32(), "The receiver's port.", nullable=True),
        column("tcp_flags", pa.int32(), "TCP's flags as a number.", nullable=True),
        column("icmp_type", pa.int32(), "The type of an ICMP or ICMPv6 message.", nullable=True),
        column("icmp_code", pa.int32(), "The code of an ICMP or ICMPv6 message.", nullable=True),
        column("ttl", pa.int32(), "Time to live or hop limit.", nullable=True),
        column("is_fragment", pa.bool_(), "Whether it is part of a fragmented datagram.", nullable=True),
        column("payload_bytes", pa.int32(), "What was captured behind the transport header.", nullable=True),
        _name("community_id", "The flow's Community ID (version 1, seed 0)", "flow"),
        _name("dns_query", "The name asked for in DNS"),
        _name("tls_sni", "The server's name in a TLS greeting"),
        _name("http_host", "The host named in an HTTP request"),
        _name("dhcp_hostname", "The name that a device gives itself in DHCP"),
    ),
    ("packet_hour",),
    is_coded=True,
)

QUARANTINE = quarantine_of(SOURCE, "Captures", OWNER)

CAPTURE_SPECS = (CAPTURE_FILES, CAPTURE_BLOCKS, QUARANTINE, PACKETS)
