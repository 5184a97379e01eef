"""Real captures: every packet's time, lengths and bytes as Wireshark's tools read them.

Run by `make test-corpus`, over ../shared/data or CORPUS=folder. What is known of the captures there
is kept in tests/golden/captures_corpus.json; `python tests/corpus/test_captures.py` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

from corpus import CORPUS, captures
from transforms.capture.packets import Packets
from transforms.capture.reading import Damage, read_capture

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "captures_corpus.json"
FILES = captures()
# A link type that no tool rewrites (LINKTYPE_USER0).
PLAIN_LINK_TYPE = 147

# Where the tools give something else than what stands in the file: why, and how it is looked at then.
WRAPS = "the tools keep seconds and nanoseconds in 32 bits each; ours keep what was written"
ATM = "the tools rewrite this link type's pseudo-header; read without it"
BEHIND = "the tools refuse a simple packet block longer than its packet; ours keep what is behind it beside"
DIFFERENCES = {
    "atm-oam-heapoverflow.pcap": (ATM,),
    "atm-oam-loopback-print-overrun.pcap": (ATM, WRAPS),
    "rx_serviceid_oobr.pcap": (WRAPS,),
    "test007.ntar": (BEHIND,),
    "test010.ntar": (BEHIND,),
    "time_2106_overflow.pcapng": (WRAPS,),
    "time_2107.pcapng": (WRAPS,),
    "timestamp_invalid_micro.pcap": (WRAPS,),
}


class Packet(NamedTuple):
    """One packet as anybody would describe it; `ts_ns` None where a tool gives no time."""

    ts_ns: int | None
    captured: int
    original: int
    content: bytes


class Read(NamedTuple):
    """What a file holds: packets by interface, and why reading ended early."""

    packets: dict[object, list[Packet]]
    damage: Damage | None


def read_ours(content: bytes) -> Read:
    packets: dict[object, list[Packet]] = {}
    damage = None
    for part in read_capture(content):
        if isinstance(part, Damage):
            damage = part
        if isinstance(part, Packets):
            rows = packets.setdefault(part.interface.number, [])
            headers, starts, records = part.headers, part.starts.tolist(), part.records.tobytes()
            for nth, ts_ns in enumerate(part.ts_ns.tolist()):
                lengths = int(headers["captured"][nth]), int(headers["original"][nth])
                rows.append(Packet(ts_ns, *lengths, records[starts[nth] + 16 : starts[nth + 1]]))
    return Read(packets, damage)


def in_order(packets: dict[object, list[Packet]]) -> list[list[Packet]]:
    return [packets[key] for key in sorted(packets)]


def run_tool(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(str(arguments[0])) is None:
        pytest.fail(f"{arguments[0]} is missing: apt-get install wireshark-common tshark", pytrace=False)
    return subprocess.run([str(one) for one in arguments], capture_output=True, check=False)


def read_editcap(path: Path, folder: Path) -> list[Packet] | None:
    """The packets as editcap rewrites them, of all interfaces; None where it refuses the file."""
    out = folder / "out.pcap"
    out.unlink(missing_ok=True)
    refused = run_tool("editcap", "-F", "nsecpcap", path, out).returncode
    if refused or not out.exists():
        return None
    content, at, packets = out.read_bytes(), 24, []
    while at < len(content):
        seconds, nanoseconds, captured, original = struct.unpack_from("<IIII", content, at)
        data = content[at + 16 : at + 16 + captured]
        packets.append(Packet(seconds * 1_000_000_000 + nanoseconds, captured, original, data))
        at += 16 + captured
    return packets


def read_tshark(path: Path) -> dict[object, list[Packet]] | None:
    """The packets by section and interface; None where tshark does not know the link type."""
    done = run_tool("tshark", "-r", path, "-T", "json", "-x", "-j", "frame")
    if b"unknown or unsupported" in done.stderr:
        return None
    packets: dict[object, list[Packet]] = {}
    for layers in (one["_source"]["layers"] for one in json.loads(done.stdout or b"[]")):
        frame = layers["frame"]
        if "frame.cb_pen" in frame:
            continue  # a custom block is shown as if it were a packet
        time = frame.get("frame.time_epoch")
        ts_ns = None if time is None else int(Decimal(time) * 1_000_000_000)
        content = bytes.fromhex(layers["frame_raw"][0])
        interface = int(frame.get("frame.section_number", 1)), int(frame.get("frame.interface_id", 0))
        lengths = int(frame["frame.cap_len"]), int(frame["frame.len"])
        packets.setdefault(interface, []).append(Packet(ts_ns, *lengths, content))
    return packets


def as_plain_link_type(path: Path, folder: Path) -> Path:
    """The same classic capture with a link type that no tool interprets."""
    content = bytearray(path.read_bytes())
    order = "little" if content[0] in (0xD4, 0x4D) else "big"
    content[20:24] = PLAIN_LINK_TYPE.to_bytes(4, order)
    copy = folder / "plain.pcap"
    copy.write_bytes(content)
    return copy


def simple_packets(content: bytes) -> list[Packet]:
    """What stands in a file of one little-endian section, one interface and simple packet blocks."""
    packets, snaplen, at = [], 0, 0
    while at < len(content):
        kind, length, original = struct.unpack_from("<III", content, at)
        if kind == 1:
            (snaplen,) = struct.unpack_from("<I", content, at + 12)
        if kind == 3:
            captured = min(snaplen, original)
            packets.append(Packet(0, captured, original, content[at + 12 : at + 12 + captured]))
        at += length + 3 & ~3
    return packets


def wrapped_times(content: bytes) -> list[int]:
    """Each packet's time with its seconds and its nanoseconds cut to 32 bits."""
    return [
        int(one["seconds"]) * 1_000_000_000 + int(one["fraction"]) * part.interface.unit_ns % (1 << 32)
        for part in read_capture(content)
        if isinstance(part, Packets)
        for one in part.headers
    ]


@pytest.fixture(scope="session", autouse=True)
def corpus() -> Path:
    if not FILES:
        pytest.fail(
            f"no captures in {CORPUS}: give CORPUS=folder, one with pcap or pcapng files", pytrace=False
        )
    return CORPUS


def test_there_are_captures(corpus):
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_packet_is_what_the_tools_read(path, tmp_path):
    content = path.read_bytes()
    ours = in_order(read_ours(content).packets)
    why = DIFFERENCES.get(path.name, ())
    theirs = read_editcap(as_plain_link_type(path, tmp_path) if ATM in why else path, tmp_path)
    if BEHIND in why:
        assert theirs == [], "no difference any more: take it out of the table"
        theirs = simple_packets(content)
    if theirs is not None and len(ours) <= 1:
        expected = [theirs] if theirs else []
        if WRAPS in why:
            assert ours != expected, "no difference any more: take it out of the table"
            assert [one.ts_ns for one in theirs] == wrapped_times(content)
            ours = [[one._replace(ts_ns=None) for one in rows] for rows in ours]
            expected = [[one._replace(ts_ns=None) for one in rows] for rows in expected]
        assert ours == expected
        return
    # Several interfaces or link types, or blocks that editcap cannot write as pcap.
    by_interface = read_tshark(path)
    if by_interface is None:
        plain = read_editcap(as_plain_link_type(path, tmp_path), tmp_path)
        assert plain is not None
        assert ours == ([plain] if plain else [])
        return
    expected = in_order(by_interface)
    assert [len(rows) for rows in ours] == [len(rows) for rows in expected]
    for mine, yours in zip(chain.from_iterable(ours), chain.from_iterable(expected), strict=True):
        # A simple packet block has no time: tshark shows none, editcap and we say 0.
        assert mine == (yours if yours.ts_ns is not None else yours._replace(ts_ns=0))


def facts_of(path: Path) -> dict[str, object]:
    """What the golden file keeps of a capture: counts and digests, no bytes of it."""
    read = read_ours(path.read_bytes())
    digest = hashlib.sha256()
    for rows in in_order(read.packets):
        for one in rows:
            digest.update(struct.pack("<qII", one.ts_ns, one.captured, one.original) + one.content)
    damage = None if read.damage is None else [read.damage.offset, read.damage.reason]
    packets = [len(rows) for rows in in_order(read.packets)]
    return {"name": path.name, "packets": packets, "damage": damage, "sha256": digest.hexdigest()}


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


KNOWN = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@pytest.mark.parametrize("path", [one for one in FILES if digest_of(one) in KNOWN], ids=lambda path: path.name)
def test_a_known_capture_is_read_as_it_always_was(path):
    assert facts_of(path) | {"name": ""} == KNOWN[digest_of(path)] | {"name": ""}


if __name__ == "__main__":
    facts = {digest_of(path): facts_of(path) for path in FILES}
    lines = [f"{json.dumps(key)}: {json.dumps(facts[key])}" for key in sorted(facts)]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
