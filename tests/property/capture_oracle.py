"""A second reader of captures, as plain as can be, and makers of files for it and for ours.

It goes from record to record, knows no window and no array, and counts in Python's whole numbers.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

MICROSECONDS, NANOSECONDS, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
MOST = 262_144
NS = 10**9
KINDS = {0x0A0D0D0A: "section", 1: "interface", 4: "names", 5: "statistics", 10: "secrets"}


class Packet(NamedTuple):
    ts_ns: int
    unit_ns: int
    captured: int
    original: int
    content: bytes


class Found:
    """What a file holds: the opening's fields, packets by interface, sides in order, where it is damaged."""

    def __init__(self) -> None:
        self.opening: tuple[Any, ...] | None = None
        self.packets: dict[tuple[int, int, int], list[Packet]] = {}
        self.sides: list[tuple[int, str, bytes]] = []
        self.damaged_at: int | None = None

    def add(self, interface: tuple[int, int, int], packet: Packet) -> None:
        self.packets.setdefault(interface, []).append(packet)


def read_plainly(content: bytes) -> Found:
    found = Found()
    magics = {
        m.to_bytes(4, o): (m, o) for m in (MICROSECONDS, NANOSECONDS, MODIFIED) for o in ("little", "big")
    }
    if content[:4] in magics and len(content) >= 24:
        _read_pcap(content, *magics[content[:4]], found)
    elif content[:4] == b"\x0a\x0d\x0d\x0a":
        _read_pcapng(content, found)
    else:
        found.damaged_at = 0
    return found


def _read_pcap(content, magic, order, found):
    mark = "<" if order == "little" else ">"
    major, minor, snaplen, link_type = struct.unpack(mark + "4xHH8xII", content[:24])
    if major not in (2, 543):
        found.damaged_at = 0
        return
    unit = 1 if magic == NANOSECONDS else 1000
    header = 24 if magic == MODIFIED else 16
    name = "pcap-modified" if magic == MODIFIED else "pcap"
    resolution = "ns" if unit == 1 else "us"
    found.opening = (name, order, resolution, f"{major}.{minor}", snaplen, link_type, content[:24])
    at = 24
    while at < len(content):
        found.damaged_at = at
        if at + header > len(content):
            return
        seconds, fraction, captured, original = struct.unpack_from(mark + "IIII", content, at)
        if major == 543 or minor < 3 or (minor == 3 and captured > original):
            captured, original = original, captured
        if captured > most_of(link_type) or at + header + captured > len(content):
            return
        if header == 24:
            found.sides.append((at, "packet extras", content[at + 16 : at + 24]))
        data = content[at + header : at + header + captured]
        time = seconds * NS + fraction * unit
        found.add((0, link_type, snaplen), Packet(time, unit, captured, original, data))
        at += header + captured
    found.damaged_at = None


def most_of(link_type):
    return {231: 128 << 20, 249: 128 << 20, 279: 8 << 20}.get(link_type & 0xFFFF, MOST)


def _read_pcapng(content, found):
    mark, version, at = "<", None, 0
    interfaces, first_of_section = [], 0
    while at < len(content):
        found.damaged_at = at
        if content[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            mark = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(content[at + 8 : at + 12])
        block = _take_block(content, at, mark)
        if block is None:
            break
        (kind,) = struct.unpack_from(mark + "I", block)
        if kind == 0x0A0D0D0A:
            version = version or (mark, *struct.unpack_from(mark + "HH", block, 12))
            first_of_section = len(interfaces)
        if kind == 1:
            interfaces.append(_read_interface(block, mark))
        if kind not in (2, 3, 6):
            found.sides.append((at, KINDS.get(kind, "other"), block))
        elif not _read_packet(block, kind, mark, at, interfaces, first_of_section, found):
            break
        at += len(block)
    else:
        found.damaged_at = None
    if version is not None:
        order = "little" if version[0] == "<" else "big"
        named = interfaces[0][2] if interfaces else 6
        resolution = {6: "us", 9: "ns"}.get(named) or f"{2 if named > 127 else 10}^-{named % 128}"
        found.opening = ("pcapng", order, resolution, f"{version[1]}.{version[2]}", 0, -1, b"")


def _take_block(content, at, mark):
    if mark is None or at + 12 > len(content):
        return None
    kind, length = struct.unpack_from(mark + "II", content, at)
    end = at + length + -length % 4
    if length < 12 or end > len(content):
        return None
    block = content[at:end]
    least = {0x0A0D0D0A: 28, 1: 20, 2: 32, 6: 32, 3: 16}.get(kind, 12)
    if struct.unpack(mark + "I", block[-4:])[0] != length or len(block) < least:
        return None
    if kind == 0x0A0D0D0A and struct.unpack_from(mark + "H", block, 12) != (1,):
        return None
    return block


def _read_interface(block, mark):
    link_type, _, snaplen = struct.unpack_from(mark + "HHI", block, 8)
    code, offset, at = 6, 0, 16
    while at + 4 <= len(block) - 4:
        option, length = struct.unpack_from(mark + "HH", block, at)
        value, after = block[at + 4 : at + 4 + length], at + 4 + length + -length % 4
        if option == 0 or after > len(block) - 4:
            break
        if option == 9 and length == 1:
            code = value[0]
        if option == 14 and length == 8:
            (offset,) = struct.unpack(mark + "q", value)
        at = after
    return link_type, snaplen, code, offset


def _read_packet(block, kind, mark, at, interfaces, first, found):
    if kind == 3:
        number, ticks, data_at = 0, None, 12
        (original,) = struct.unpack_from(mark + "I", block, 8)
        captured = original
    elif kind == 2:
        number, _, high, low, captured, original = struct.unpack_from(mark + "HHIIII", block, 8)
        ticks, data_at = high << 32 | low, 28
    else:
        number, high, low, captured, original = struct.unpack_from(mark + "IIIII", block, 8)
        ticks, data_at = high << 32 | low, 28
    number += first
    if number >= len(interfaces):
        return False
    link_type, snaplen, code, offset = interfaces[number]
    if kind == 3 and snaplen:
        captured = min(captured, snaplen)
    if captured > most_of(link_type) or data_at + captured > len(block) - 4:
        return False
    unit = 2 ** (code - 128) if code > 127 else 10**code
    time = 0 if ticks is None else ticks * NS // unit + offset * NS
    if not -(2**63) <= time < 2**63 or (time < 0 and time // NS * NS < -(2**63)):
        return False
    options = block[data_at + captured + -captured % 4 : -4]
    if options:
        found.sides.append((at + len(block) - 4 - len(options), "packet options", options))
    packet = Packet(time, 1000 if code == 6 else 1, captured, original, block[data_at : data_at + captured])
    found.add((number, link_type, snaplen), packet)
    return True


# -- makers -------------------------------------------------------------------------------------


def make_payload(rng: np.random.Generator, style: str, size: int, seconds: int, mark: str) -> bytes:
    """A payload: noise, zeros, what looks like the headers around it, or captures themselves."""
    if style == "zeros":
        return bytes(size)
    if style == "headers":
        # Many plausible records, one inside the other's data at every offset.
        length = int(rng.integers(0, 64))
        return (struct.pack(mark + "IIII", seconds, 5, length, length) * (size // 16 + 1))[:size]
    if style == "blocks":
        length = 32 + 4 * int(rng.integers(0, 8))
        block = struct.pack(mark + "IIIIIII", 6, length, 0, 0, seconds, length - 32, length - 32)
        return ((block + bytes(length - 32) + struct.pack(mark + "I", length)) * (size // length + 1))[:size]
    if style == "capture":
        return make_pcap(rng, count=8, style="noise", biggest=40)[-size:] if size else b""
    return rng.bytes(size)


STYLES = ("noise", "zeros", "headers", "blocks", "capture")


def make_pcap(
    rng: np.random.Generator,
    count: int,
    style: str = "noise",
    biggest: int = 120,
    magic: int = MICROSECONDS,
    mark: str = "<",
    version: tuple[int, int] = (2, 4),
    link_type: int = 1,
) -> bytes:
    seconds = 1_700_000_000
    parts = [struct.pack(mark + "IHHiIII", magic, *version, 0, 0, 65_535, link_type)]
    for nth in range(count):
        size = int(rng.integers(0, biggest + 1))
        payload = make_payload(rng, style, size, seconds + nth, mark)
        lengths = [len(payload), len(payload) + int(rng.integers(0, 3))]
        if version < (2, 3) or version[0] == 543 or (version == (2, 3) and rng.random() < 0.5):
            lengths.reverse()
        parts.append(struct.pack(mark + "IIII", seconds + nth, int(rng.integers(0, 10**6)), *lengths))
        if magic == MODIFIED:
            parts.append(rng.bytes(8))
        parts.append(payload)
    return b"".join(parts)


def make_option(mark: str, code: int, value: bytes) -> bytes:
    return struct.pack(mark + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def make_block(mark: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(mark + "I", len(body) + 12)
    return struct.pack(mark + "I", kind) + length + body + length


def make_section(mark: str) -> bytes:
    return make_block(mark, 0x0A0D0D0A, struct.pack(mark + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def make_interface(mark: str, rng: np.random.Generator, is_plain: bool) -> bytes:
    body = struct.pack(mark + "HHI", int(rng.choice([1, 1, 113, 231])), 0, int(rng.choice([0, 64, 262_144])))
    if not is_plain:
        code = int(rng.choice([0, 3, 6, 9, 10, 12, 18, 19, 20, 27, 28, 29, 40, 127, *range(128, 256, 5)]))
        body += make_option(mark, 9, bytes([code]))
        offset = int(rng.choice([0, 1, -1, 3600, -(10**9), 5 * 10**9, 2**62, -(2**63)]))
        body += make_option(mark, 14, struct.pack(mark + "q", offset))
        body += make_option(mark, 2, b"eth0") + make_option(mark, 0, b"")
    return make_block(mark, 1, body)


def make_pcapng(
    rng: np.random.Generator, count: int, style: str = "noise", biggest: int = 120, odd: float = 0.0
) -> bytes:
    """A file of enhanced packet blocks; `odd` is the share of everything else."""
    mark = "<" if odd == 0 or rng.random() < 0.7 else ">"
    parts, interfaces = [make_section(mark), make_interface(mark, rng, odd == 0)], 1
    for nth in range(count):
        dice = rng.random() / odd if odd else 1.0
        payload = make_payload(rng, style, int(rng.integers(0, biggest + 1)), 1_700_000_000, mark)
        if dice < 0.1:
            mark = str(rng.choice(["<", ">"]))
            parts += [make_section(mark), make_interface(mark, rng, False)]
            interfaces = 1
        elif dice < 0.3:
            parts.append(make_interface(mark, rng, bool(rng.random() < 0.5)))
            interfaces += 1
        elif dice < 0.5:
            parts.append(make_block(mark, int(rng.choice([4, 5, 10, 0xBAD, 0x80000001])), payload))
        elif dice < 0.7:
            parts.append(make_block(mark, 3, struct.pack(mark + "I", len(payload)) + payload[:64]))
        elif dice < 0.8:
            parts.append(_packet(mark, rng, 2, int(rng.integers(interfaces)), nth, payload))
        else:
            options = dice < 0.9
            parts.append(_packet(mark, rng, 6, int(rng.integers(interfaces)), nth, payload, options))
    return b"".join(parts)


def _packet(mark, rng, kind, interface, nth, payload, options=False):
    ticks = int(rng.choice([1_700_000_000_000_000 + nth, 2**32 * 10**6 + nth, nth], p=[0.9, 0.05, 0.05]))
    words = (ticks >> 32, ticks & 0xFFFFFFFF, len(payload), len(payload) + 1)
    head = struct.pack(mark + ("HH" if kind == 2 else "I"), *((interface, 0) if kind == 2 else (interface,)))
    body = head + struct.pack(mark + "IIII", *words) + payload + bytes(-len(payload) % 4)
    if options:
        body += make_option(mark, 1, b"a comment") + make_option(mark, 0, b"")
    return make_block(mark, kind, body)


def mutate(rng: np.random.Generator, content: bytes, count: int) -> bytes:
    """Change some places: bits, words of lengths that matter, cuts, repeats."""
    changed = bytearray(content)
    for _ in range(count):
        if not changed:
            break
        at = int(rng.integers(len(changed)))
        what = int(rng.integers(6))
        if what == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif what == 1:
            changed[at] = int(rng.integers(256))
        elif what == 2:
            word = int(
                rng.choice([0, 1, 12, 16, 28, 32, 0x7FFFFFFF, 0xFFFFFFFF, 262_144, 262_145, 0x0A0D0D0A, 6, 3])
            )
            at &= ~3
            changed[at : at + 4] = word.to_bytes(4, "little" if rng.random() < 0.7 else "big")
        elif what == 3:
            del changed[at:]
        elif what == 4:
            del changed[at : at + int(rng.integers(1, 24))]
        else:
            piece = changed[at : at + int(rng.integers(1, 80))]
            place = int(rng.integers(len(changed)))
            changed[place:place] = piece
    return bytes(changed)
