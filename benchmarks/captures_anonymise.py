"""A capture anonymised, file to file, against tcprewrite: CPU seconds of each process, in turns.

Both read the same made capture and write one. tcprewrite (`--seed --fixcsum`) replaces IP addresses and
computes checksums anew; its addresses keep no prefixes, and its hardware addresses stay. Ours encrypts
with prefixes kept, permutes hardware addresses, and cuts payloads; it is measured with payloads kept as
well (but for DNS, 15 % of the packets, whose payloads tell addresses). Before a figure counts, packets
are counted and the checksums of a sample of every output are verified.
"""

from __future__ import annotations

import argparse
import json
import mmap
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from captures_input import FILE_HEADER, write_iot

from transforms.capture.anonymise import AnonymiseKeys, anonymise_packets
from transforms.capture.packets import HEADER_BYTES, Packets
from transforms.capture.reading import read_capture

KEYS = AnonymiseKeys(bytes(range(32)), bytes(range(32, 64)))
FULL = 0xFFFF
ETHERNET_BYTES = 14
SUM_AT = {6: 16, 17: 6}
SAMPLE = 2_000


def anonymise_file(source: Path, target: Path, keep_payload: bool) -> None:
    """Read, anonymise and write a whole capture."""
    with source.open("rb") as file, target.open("wb") as out:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        out.write(FILE_HEADER)
        for part in read_capture(content):
            if isinstance(part, Packets):
                out.write(anonymise_packets(part, KEYS, keep_payload).records.data)


def tcprewrite_file(source: Path, target: Path) -> None:
    """Let tcprewrite do its form of it."""
    command = ["tcprewrite", "--seed=42", "--fixcsum", f"--infile={source}", f"--outfile={target}"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a peer, with our own arguments


def cpu_s(call: Callable[[], None]) -> float:
    """Units: CPU seconds of this process and of the children that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.process_time()
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return time.process_time() - start + spent


# -- what was computed --------------------------------------------------------------------------


def ones_sum(octets: bytes) -> int:
    """Sum up 16-bit words with the carry put back in."""
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total > FULL:
        total = (total & FULL) + (total >> 16)
    return total


def frames(path: Path) -> tuple[int, list[bytes]]:
    """Count a capture's packets, and give the captured bytes of a sample of them."""
    parts = [part for part in read_capture(path.read_bytes()) if isinstance(part, Packets)]
    count = sum(map(len, parts))
    step = max(1, count // SAMPLE)
    chosen, first = [], 0
    for part in parts:
        # Windows differ between files: a packet is known by its number in the whole.
        for row in range(-first % step, len(part), step):
            chosen.append(part.records[part.starts[row] + HEADER_BYTES : part.starts[row + 1]].tobytes())
        first += len(part)
    return count, chosen


def check(source: Path, target: Path) -> None:
    """Raise unless the output has every packet, other addresses, and checksums that are right."""
    (count, before), (made, after) = frames(source), frames(target)
    assert made == count
    for old, new in zip(before, after, strict=True):
        was, ip = old[ETHERNET_BYTES:], new[ETHERNET_BYTES:]
        assert was[12:16] != ip[12:16]
        assert was[16:20] != ip[16:20]
        assert ones_sum(ip[:20]) == FULL
        # A payload that was cut is still what the checksum is over.
        segment = ip[20:] + was[len(ip) :]
        protocol, at = ip[9], 20 + SUM_AT[ip[9]]
        assert was[at : at + 2] != b"\0\0"
        assert ones_sum(ip[12:20] + struct.pack(">HH", protocol, len(segment)) + segment) == FULL


def report(packets: int, turns: int) -> dict[str, Any]:
    """Measure every way in turns; the ratios are of medians."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.pcap"
        size = write_iot(source, packets, seed=7)
        targets = {name: Path(folder) / f"{name}.pcap" for name in ("anonymise", "payload kept", "tcprewrite")}
        calls: dict[str, Callable[[], None]] = {
            "anonymise": lambda: anonymise_file(source, targets["anonymise"], keep_payload=False),
            "payload kept": lambda: anonymise_file(source, targets["payload kept"], keep_payload=True),
            "tcprewrite": lambda: tcprewrite_file(source, targets["tcprewrite"]),
        }
        for turn in range(turns + 1):
            for name, call in calls.items():
                spent = cpu_s(call)
                if turn:  # the first warms caches
                    taken.setdefault(name, []).append(spent)
        for target in targets.values():
            check(source, target)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratios = {
        "anonymise vs tcprewrite": round(medians["tcprewrite"] / medians["anonymise"], 2),
        "anonymise vs tcprewrite (payload kept)": round(medians["tcprewrite"] / medians["payload kept"], 2),
    }
    figures = {
        name: {"min": round(min(times), 3), "median": round(medians[name], 3)} for name, times in taken.items()
    }
    return {
        "ratios": ratios,
        "cpu_s": figures,
        "mb_per_cpu_s": {name: round(size / 1e6 / median) for name, median in medians.items()},
        "packets": packets,
        "bytes": size,
        "turns": turns,
        "checked": True,
    }


def print_table(found: dict[str, Any]) -> None:
    """Print what a person reads."""
    megabytes = round(found["bytes"] / 1e6)
    print(f"{found['packets']:,} packets, {megabytes} MB, {found['turns']} turns, CPU s: min / median")
    for name, times in found["cpu_s"].items():
        print(f"{name:40}{times['min']:>8.3f} /{times['median']:>7.3f}{found['mb_per_cpu_s'][name]:>8} MB/s")
    for name, ratio in found["ratios"].items():
        print(f"{name:40}{ratio:>8.2f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--packets", type=int, default=1_000_000, help="packets in the made capture")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    if shutil.which("tcprewrite") is None:
        parser.exit(1, "tcprewrite is not installed: it is in Debian's tcpreplay\n")
    found = report(options.packets, options.turns)
    print(json.dumps(found)) if options.json else print_table(found)


if __name__ == "__main__":
    main()
