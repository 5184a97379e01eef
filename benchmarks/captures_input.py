"""Made captures for the benchmarks: what small connected things send in an hour, from a seed.

Three kinds of packet, all Ethernet and IPv4 with right checksums, of 100 to 300 bytes (about 197 with
the record's header): readings over TLS (TCP 8883), names looked up (UDP 53), readings in the clear
(CoAP, UDP 5683). Half of the bytes are random and half repeat themselves, as in real traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

HOUR_START_S = 1_767_261_600  # 2026-01-01 10:00 UTC
HOUR_US = 3600 * 1_000_000
CHUNK_PACKETS = 1 << 17
DEVICES, SERVERS = 2_000, 16
TCP, UDP = 6, 17
# magic, version 2.4, zone, accuracy, snaplen, Ethernet
FILE_HEADER = np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262_144, 1], "<u4").tobytes()
READING = b'{"temp":293,"hum":40.2,"bat":3.61,"rssi":-71,"fw":"2.4.1","up":86400},'
QUESTION = b"\x07metrics\x05cloud\x07example\x03com\x00\x00\x01\x00\x01"
NAME = QUESTION + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xcb\x00\x71\x0a"


@dataclass(frozen=True)
class Kind:
    """One kind of packet: its share, port, protocol, what opens its payload, and its frame's lengths."""

    share: float
    protocol: int
    port: int
    opening: bytes
    filling: bytes  # repeated behind that; random where empty
    digits_at: int  # in the filling: three digits that differ from packet to packet
    lengths: tuple[int, ...]


KINDS = (
    Kind(0.55, TCP, 8883, b"\x17\x03\x03\x00\x60", b"", 0, tuple(range(100, 301, 20))),
    Kind(
        0.15, UDP, 53, b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00", NAME, 1, tuple(range(100, 161, 12))
    ),
    Kind(0.30, UDP, 5683, b"\x40\x02\x30\x39\xb2rd\xff", READING, 8, tuple(range(100, 241, 14))),
)


def write_iot(path: Path, packets: int, seed: int) -> int:
    """Write a classic little-endian capture (microseconds) of so many packets, in order of time.

    Returns: the file's size in bytes. The same arguments give the same file.
    """
    rng = np.random.default_rng(seed)
    with path.open("wb") as out:
        out.write(FILE_HEADER)
        for first in range(0, packets, CHUNK_PACKETS):
            count = min(CHUNK_PACKETS, packets - first)
            _write_chunk(out, _times_us(first, count, packets, rng), rng)
        return out.tell()


def _times_us(first: int, count: int, packets: int, rng: np.random.Generator) -> NDArray[np.int64]:
    # One packet in each of as many equal spells: sorted without sorting, and irregular.
    spells = np.arange(first, first + count) + rng.random(count)
    return np.asarray((spells * (HOUR_US / packets)).astype(np.int64))


def _write_chunk(out: BinaryIO, times_us: NDArray[np.int64], rng: np.random.Generator) -> None:
    count = len(times_us)
    kinds = rng.choice(len(KINDS), count, p=[kind.share for kind in KINDS])
    lengths = np.empty(count, np.int64)
    for number, kind in enumerate(KINDS):
        chosen = kinds == number
        lengths[chosen] = rng.choice(kind.lengths, int(chosen.sum()))
    starts = np.append(0, np.cumsum(lengths + 16))
    records = np.empty(starts[-1], np.uint8)
    for number, kind in enumerate(KINDS):
        for length in kind.lengths:
            rows = np.flatnonzero((kinds == number) & (lengths == length))
            if rows.size:
                made = _records(kind, length, times_us[rows], rng)
                # One packet is one element here, so that numpy copies it whole.
                places = np.ndarray(
                    (len(records) - made.shape[1] + 1,), f"V{made.shape[1]}", records, strides=(1,)
                )
                places[starts[rows]] = made.view(f"V{made.shape[1]}")[:, 0]
    out.write(records.tobytes())


def _records(
    kind: Kind, length: int, times_us: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Make records of one kind and length. Shape: a row for each, its header included."""
    count = len(times_us)
    made = np.zeros((count, 16 + length), np.uint8)
    header = np.empty((count, 4), "<u4")
    header[:, 0], header[:, 1] = HOUR_START_S + times_us // 1_000_000, times_us % 1_000_000
    header[:, 2:] = length
    made[:, :16] = header.view(np.uint8)
    _fill_frames(made[:, 16:], kind, rng)
    return made


def _fill_frames(frames: NDArray[np.uint8], kind: Kind, rng: np.random.Generator) -> None:
    count, length = frames.shape
    devices = rng.integers(0, DEVICES, count)
    # A thing keeps to two servers and a few ports: an hour has some ten thousand flows, as real ones have.
    servers = (devices + rng.integers(0, 2, count)) % SERVERS
    upward = rng.random(count) < 0.6
    macs, ips, ports = _endpoints(devices, servers, kind.port, rng)
    for side, swapped in ((0, upward), (1, ~upward)):
        which = swapped.astype(np.int64)  # from the device (1) or from the server (0)
        rows = np.arange(count)
        frames[:, 6 - 6 * side : 12 - 6 * side] = macs[which, rows]
        frames[:, 26 + 4 * side : 30 + 4 * side] = ips[which, rows]
        frames[:, 34 + 2 * side : 36 + 2 * side] = ports[which, rows]
    frames[:, 12] = 8  # IPv4
    frames[:, 14], frames[:, 22], frames[:, 23] = 0x45, 64, kind.protocol
    frames[:, 16:18] = _big(np.full(count, length - 14))
    frames[:, 18:20] = _big(rng.integers(0, 1 << 16, count))
    payload = 54 if kind.protocol == TCP else 42
    _fill_payload(frames[:, payload:], kind, rng)
    if kind.protocol == TCP:
        frames[:, 38:46] = np.frombuffer(rng.bytes(8 * count), np.uint8).reshape(count, 8)
        frames[:, 46], frames[:, 47], frames[:, 48] = 0x50, 0x18, 0x20
    else:
        frames[:, 38:40] = _big(np.full(count, length - 34))
    _set_checksums(frames, kind.protocol)


def _endpoints(
    devices: NDArray[np.int64], servers: NDArray[np.int64], port: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Give addresses and ports. Shape: (2, packets, bytes): the server's, then the device's."""
    count = len(devices)
    macs, ips = np.zeros((2, count, 6), np.uint8), np.zeros((2, count, 4), np.uint8)
    ports = np.zeros((2, count, 2), np.uint8)
    macs[0, :, :3], macs[1, :, :3] = (0x00, 0x1B, 0x17), (0x24, 0x0A, 0xC4)
    macs[0, :, 5], macs[1, :, 4:] = 1, _big(devices)
    ips[0, :, :3], ips[1, :, :2] = (203, 0, 113), (10, 20)
    ips[0, :, 3], ips[1, :, 2:] = servers + 10, _big(devices + 256)
    ports[0], ports[1] = _big(np.full(count, port)), _big(49_152 + (devices * 7 + rng.integers(0, 2, count)))
    return macs, ips, ports


def _fill_payload(payload: NDArray[np.uint8], kind: Kind, rng: np.random.Generator) -> None:
    count, length = payload.shape
    begin = len(kind.opening)
    payload[:, :begin] = np.frombuffer(kind.opening, np.uint8)
    if kind.filling:
        payload[:, begin:] = np.resize(np.frombuffer(kind.filling, np.uint8), length - begin)
        digits = slice(begin + kind.digits_at, begin + kind.digits_at + 3)
        payload[:, digits] = rng.integers(48, 58, (count, 3), np.uint8)
    else:
        payload[:, begin:] = np.frombuffer(rng.bytes(count * (length - begin)), np.uint8).reshape(count, -1)


def _set_checksums(frames: NDArray[np.uint8], protocol: int) -> None:
    """Set the checksums of IPv4 (RFC 791), TCP and UDP (RFC 9293, RFC 768); they are zero so far."""
    frames[:, 24:26] = _big(_folded(_sums(frames[:, 14:34])))
    pseudo = _sums(frames[:, 26:34]) + protocol + (frames.shape[1] - 34)
    checksums = _folded(_sums(frames[:, 34:]) + pseudo)
    at = 50 if protocol == TCP else 40
    # Over UDP, 0 would say that there is none.
    frames[:, at : at + 2] = _big(np.where((checksums == 0) & (protocol == UDP), 0xFFFF, checksums))


def _sums(columns: NDArray[np.uint8]) -> NDArray[np.int64]:
    high, low = columns[:, 0::2].sum(axis=1, dtype=np.int64), columns[:, 1::2].sum(axis=1, dtype=np.int64)
    return np.asarray(high * 256 + low)


def _folded(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    for _ in range(3):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return sums ^ 0xFFFF


def _big(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write numbers as two bytes, the higher first. Shape: (numbers, 2)."""
    return np.ascontiguousarray(numbers, ">u2").view(np.uint8).reshape(-1, 2)
