"""Made captures: what a small network sends in an hour, from a seed; for the demo and for tests."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
_ROUTER = bytes.fromhex("02005e100001")
_HOSTS = ("metrics.example.com", "www.example.org", "time.example.net", "updates.example.com")
_TCP, _UDP = 6, 17


def synthetic_capture(seed: int, packets: int, end: datetime, words: Sequence[str] = ()) -> bytes:
    """Make a classic capture of the hour before `end`: names asked for, TLS greetings, readings.

    `words` are put into payloads and names, one after the other: canaries that nobody may find again.
    The same arguments give the same bytes.
    """
    rng = random.Random(seed)  # noqa: S311 - synthetic data
    start = end - timedelta(hours=1)
    times = sorted(rng.randrange(3_600_000_000) for _ in range(packets))
    frames = _frames(rng, packets, words)
    records = []
    for micros, frame in zip(times, frames, strict=True):
        at = start + timedelta(microseconds=micros)
        records.append(
            struct.pack("<IIII", int(at.timestamp()), at.microsecond, len(frame), len(frame)) + frame
        )
    return _HEADER + b"".join(records)


def _frames(rng: random.Random, packets: int, words: Sequence[str]) -> Iterator[bytes]:
    for number in range(packets):
        host = rng.randrange(1, 30)
        mac, ip = bytes((2, 0, 0, 0, 1, host)), bytes((10, 20, 0, host))
        server = bytes((203, 0, 113, rng.randrange(1, 9)))
        word = words[number % len(words)] if words else ""
        kind = rng.random()
        if kind < 0.2:
            name = word.replace(".", "-") if word and number % 3 == 0 else rng.choice(_HOSTS)
            body = _datagram(50_000 + host, 53, _question(name))
            yield _frame(mac, ip, server, _UDP, body)
        elif kind < 0.7:
            reading = f'{{"host":{host},"temp":{rng.uniform(15, 25):.2f},"note":"{word}"}}'
            yield _frame(mac, ip, server, _UDP, _datagram(40_000 + host, 5683, reading.encode()))
        else:
            content = rng.randbytes(rng.randrange(60, 600))
            head = struct.pack(">HHIIBBHHH", 41_000 + host, 443, number, 0, 0x50, 0x18, 8192, 0, 0)
            yield _frame(mac, ip, server, _TCP, head + content)


def _question(name: str) -> bytes:
    labels = b"".join(
        bytes((len(part[:63].encode()),)) + part[:63].encode() for part in name.split(".") if part
    )
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def _datagram(source: int, target: int, content: bytes) -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(content), 0) + content


def _frame(mac: bytes, source: bytes, target: bytes, protocol: int, content: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(content), 0, 0, 64, protocol, 0, source, target)
    return _ROUTER + mac + b"\x08\x00" + head + content
