"""What it costs to bring captures into the lake: from a landed file to sealed, committed blocks.

Wall time and CPU seconds of one process, in turns, with the packet table and without it. Peers: dpkt
reading packet by packet into rows that deltalake appends, on a smaller file that both take whole; and zstd
at level 1 alone over the same bytes in memory, in pieces of a block, on one core, before and after each
ingest. Ratios are the medians of the turns': on a machine that is slow for seconds at a time, the least of
some turns favours what is short. Then two ingests side by side against one (wall time), and two of zstd
against one, which share nothing: what the machine's cores gave at the time; and a thousand small files of a
hundred devices in one delivery. Every figure is of a result that was checked: packets are counted, and what
is exported is the file that was delivered.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import dpkt
import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake

sys.path.insert(0, str(Path(__file__).parent))
from captures_input import FILE_HEADER, HOUR_START_S, write_iot

from orchestration.resources import Platform
from stores.settings import load_settings
from transforms.capture.blocks import BLOCK_BYTES
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture

SEED = 20_260_101
HOUR = datetime.fromtimestamp(HOUR_START_S, UTC)
APPENDED_ROWS = 50_000
ZSTD = WriterProperties(compression="ZSTD", compression_level=1)
SMALL_FILES, SMALL_DEVICES = 1_000, 100
SMALL_BYTES = (100_000, 1_000_000)
EXPORTS = 15
CHILD_TURNS = 3
# Seconds by the wall clock, and of CPU.
Taken: TypeAlias = "tuple[float, float]"


@dataclass
class Bench:
    """A home in a folder, and the way into it and out."""

    platform: Platform

    @classmethod
    def at(cls, folder: Path) -> Bench:
        """Make the home."""
        platform = Platform(load_settings(folder))
        platform.create_home("bench")
        return cls(platform)

    def ingest(self, tenant: str, path: Path, *, has_rows: bool = True) -> int:
        """Bring a file in, with the packet table or without; gives the packets. It is copied beforehand."""
        captures = self.platform.captures
        (batch,) = self.platform.landing.copy_in("captures", tenant, [path], "dev-1")
        start = now()
        if has_rows:
            counts = captures.seal_batch(batch.id)
            captures.mask_batch(batch.id)
        else:
            with patch("stores.capture_sealing.Masker.mask", lambda *_: pa.table({})):
                counts = captures.seal_batch(batch.id)
        self.taken = since(start)
        assert counts.balances
        return counts.accepted

    def export(self, tenant: str, device: str) -> bytes:
        """Give what a device sent in the hour."""
        exports = self.platform.capture_exports(tenant)
        found = self.platform.devices(tenant).find(device)
        with exports.planned(found, HOUR, HOUR + timedelta(hours=1), "pcap") as plan:
            return b"".join(exports.stream(plan))

    def stored_bytes(self, tenant: str, key: str) -> int:
        """Give a table's size on disk."""
        return self.platform.tables.info(tenant, key).size_bytes


def packet_by_packet(path: Path, target: Path) -> int:
    """Read, decode and append row by row; gives the packets."""
    names = ("ts", "src", "dst", "protocol", "src_port", "dst_port", "size", "frame")
    rows: list[tuple[Any, ...]] = []
    count = 0

    def append() -> None:
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        write_deltalake(target, pa.table(columns), mode="append", writer_properties=ZSTD)
        rows.clear()

    with path.open("rb") as file:
        for ts, frame in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(frame).data
            src, dst = dpkt.utils.inet_to_str(ip.src), dpkt.utils.inet_to_str(ip.dst)
            rows.append((float(ts), src, dst, ip.p, ip.data.sport, ip.data.dport, len(frame), frame))
            count += 1
            if len(rows) == APPENDED_ROWS:
                append()
    if rows:
        append()
    return count


def compress_alone(content: bytes) -> int:
    """Compress bytes in pieces of a block; gives the size."""
    codec, view = pa.Codec("zstd", 1), memoryview(content)
    return sum(len(codec.compress(view[at : at + BLOCK_BYTES])) for at in range(0, len(content), BLOCK_BYTES))


def now() -> Taken:
    """Give the wall clock and the CPU seconds of this process, all its threads."""
    return time.monotonic(), time.process_time()


def since(start: Taken) -> Taken:
    """Give the seconds since then."""
    wall_s, cpu_s = now()
    return wall_s - start[0], cpu_s - start[1]


def taken_by(call: Callable[[], Any]) -> Taken:
    """Give the seconds that a call takes."""
    start = now()
    call()
    return since(start)


def check(bench: Bench, path: Path, folder: Path) -> None:
    """Raise unless the peer and we did what we say."""
    bench.platform.add_tenant("check", "bench")
    packets = count_packets(path)
    assert bench.ingest("check", path) == packets
    assert bench.export("check", "dev-1") == path.read_bytes()
    with bench.platform.tables.reading("check", "masked.packets") as table:
        assert table.select(pl.len()).collect().item() == packets
    assert packet_by_packet(path, folder / "check-rows") == packets
    assert DeltaTable(folder / "check-rows").count() == packets


def count_packets(path: Path) -> int:
    """Count the packets of a whole file."""
    return sum(len(part) for part in read_capture(path.read_bytes()) if isinstance(part, Packets))


@dataclass
class Turn:
    """What each way took in one turn; `beside` is what zstd took before and after one of ours, the mean."""

    taken: dict[str, Taken]
    beside: dict[str, Taken]

    def against_zstd(self, case: str, clock: int) -> float:
        """Give the speed of one of ours, zstd's being 1."""
        return self.beside[case][clock] / self.taken[case][clock]


def turn(bench: Bench, at: int, large: Path, small: Path, folder: Path) -> Turn:
    """Run every way once."""
    one, content = Turn({}, {}), large.read_bytes()
    before = taken_by(lambda: compress_alone(content))
    for case, has_rows in (("blocks", False), ("with packet table", True)):
        tenant = f"turn-{at}-{'rows' if has_rows else 'blocks'}"
        bench.platform.add_tenant(tenant, "bench")
        bench.ingest(tenant, large, has_rows=has_rows)
        one.taken[case] = bench.taken
        if at or not has_rows:
            shutil.rmtree(bench.platform.home.lake / tenant)
        after = taken_by(lambda: compress_alone(content))
        one.beside[case] = (before[0] + after[0]) / 2, (before[1] + after[1]) / 2
        before = after
    one.taken["zstd alone"] = before
    bench.platform.add_tenant(f"turn-{at}-small", "bench")
    bench.ingest(f"turn-{at}-small", small, has_rows=False)
    one.taken["blocks, smaller file"] = bench.taken
    one.taken["dpkt, smaller file"] = taken_by(lambda: packet_by_packet(small, folder / f"rows-{at}"))
    shutil.rmtree(folder / f"rows-{at}")
    shutil.rmtree(bench.platform.home.lake / f"turn-{at}-small")
    return one


def in_children(work: str, folder: Path, path: Path, count: int) -> list[dict[str, Any]]:
    """Do the same at the same time in some processes, each in a folder of its own; all begin together."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    children = []
    for at in range(count):
        home = Path(tempfile.mkdtemp(prefix=f"child-{at}-", dir=folder))
        command = [sys.executable, __file__, "--child", work, str(home), str(path)]
        children.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)  # noqa: S603 - this file
        )
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    found = [json.loads(child.communicate()[0]) for child in children]
    assert all(child.returncode == 0 for child in children)
    assert len({one["result"] for one in found}) == 1
    return found


def run_child(work: str, home: Path, path: Path) -> None:
    """Ingest or compress one file when told to; print how long it took and what memory."""
    call = _prepared_ingest(home, path) if work == "ingest" else partial(compress_alone, path.read_bytes())
    print("ready", flush=True)
    sys.stdin.readline()
    before = peak_mb()
    start = time.monotonic()
    result = call()
    wall = time.monotonic() - start
    after = peak_mb()
    shutil.rmtree(home)
    print(json.dumps({"wall_s": wall, "result": result, "before_mb": before, "after_mb": after}))


def _prepared_ingest(home: Path, path: Path) -> Callable[[], int]:
    bench = Bench.at(home / "home")
    (batch,) = bench.platform.landing.copy_in("captures", "default", [path], "dev-1")

    def ingest() -> int:
        packets = bench.platform.captures.seal_batch(batch.id).accepted
        assert bench.platform.captures.mask_batch(batch.id) == packets
        return packets

    return ingest


def peak_mb() -> int:
    """Give the most memory that this process had; `getrusage` would count what its parent had, too."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def side_by_side(folder: Path, path: Path) -> dict[str, float]:
    """Give the wall seconds of one ingest and of two at once, least of some turns; memory; and zstd's."""
    found: dict[str, float] = {}
    for _ in range(CHILD_TURNS):
        for work in ("ingest", "zstd"):
            (alone,) = in_children(work, folder, path, 1)
            both = max(one["wall_s"] for one in in_children(work, folder, path, 2))
            walls = {f"{work}_s": alone["wall_s"], f"two_{work}_s": both}
            found |= {name: min(wall, found.get(name, wall)) for name, wall in walls.items()}
            if work == "ingest":
                found |= {"rss_before_mb": alone["before_mb"], "rss_after_mb": alone["after_mb"]}
    return found


def cut_small_files(path: Path, folder: Path, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Cut a capture into small ones, dealt to the devices in turn; small ones are more frequent."""
    content = path.read_bytes()
    starts = np.concatenate([part.starts[1:] for part in _shifted(read_capture(content))])
    least, most = np.log(SMALL_BYTES)
    ends = np.cumsum(np.exp(rng.uniform(least, most, SMALL_FILES)))
    cuts = starts[np.searchsorted(starts, ends * ((starts[-1] - 1) / ends[-1]))]
    files: dict[str, list[Path]] = {}
    begin = len(FILE_HEADER)
    for number, end in enumerate(cuts.tolist()):
        device = f"dev-{number % SMALL_DEVICES}"
        target = folder / device / f"{number:04}.pcap"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(FILE_HEADER + content[begin:end])
        files.setdefault(device, []).append(target)
        begin = end
    return files


def _shifted(parts: Any) -> Sequence[Packets]:  # noqa: ANN401 - whatever a capture's reader gives
    """Give packets whose starts count from the file's beginning."""
    found, at = [], len(FILE_HEADER)
    for part in parts:
        if isinstance(part, Packets):
            found.append(Packets(part.interface, part.records, part.starts + at))
            at += len(part.records)
    return found


def small_files(bench: Bench, folder: Path, rng: np.random.Generator) -> dict[str, float]:
    """Give CPU milliseconds for each of many small files, and those of a device's export out of them."""
    mean = (SMALL_BYTES[1] - SMALL_BYTES[0]) / np.log(SMALL_BYTES[1] / SMALL_BYTES[0])
    write_iot(folder / "many.pcap", int(SMALL_FILES * mean / 196.5), SEED + 1)
    files = cut_small_files(folder / "many.pcap", folder / "many", rng)
    bench.platform.add_tenant("many", "bench")
    landing, captures = bench.platform.landing, bench.platform.captures
    dropped = landing.drop_folder("captures", "many")
    shutil.copytree(folder / "many", dropped, dirs_exist_ok=True)
    paths = sorted(dropped.rglob("*.pcap"), key=lambda one: one.name)
    packets = 0
    start = time.process_time()
    batches = landing.claim("captures", "many", paths)
    for batch in batches:
        packets += captures.seal_batch(batch.id).accepted
        captures.mask_batch(batch.id)
        captures.finish_batch(batch.id)
    taken = (time.process_time() - start) / SMALL_FILES * 1e3
    assert packets == count_packets(folder / "many.pcap")
    sizes = [path.stat().st_size for one in files.values() for path in one]
    walls = []
    for device in list(files)[:EXPORTS]:
        start = time.monotonic()
        exported = bench.export("many", device)
        walls.append((time.monotonic() - start) * 1e3)
        assert exported == FILE_HEADER + b"".join(one.read_bytes()[24:] for one in files[device])
    return {
        "cpu_ms_per_file": taken,
        "export_ms": statistics.median(walls),
        "export_ms_least": min(walls),
        "file_kb": statistics.mean(sizes) / 1e3,
        "batches": len(batches),
    }


def report(packets: int, sample: int, turns: int) -> dict[str, Any]:
    """Measure everything."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="lockhouse-bench-") as name:
        folder = Path(name)
        bench = Bench.at(folder / "home")
        large, small = folder / "large.pcap", folder / "small.pcap"
        size, small_size = write_iot(large, packets, SEED), write_iot(small, sample, SEED)
        check(bench, small, folder)
        found = [turn(bench, at, large, small, folder) for at in range(turns)]
        wall_s, cpu_s = (
            {case: statistics.median(one.taken[case][clock] for one in found) for case in found[0].taken}
            for clock in (0, 1)
        )
        assert count_packets(large) == packets
        stored = bench.stored_bytes("turn-0-rows", "raw.capture_blocks")
        rows = bench.stored_bytes("turn-0-rows", "masked.packets")
        together = side_by_side(folder, large)
        many = small_files(bench, folder, rng)
    ratios = {
        "ingest vs dpkt and deltalake": statistics.median(
            one.taken["dpkt, smaller file"][1] / one.taken["blocks, smaller file"][1] for one in found
        ),
        "blocks vs zstd alone": statistics.median(one.against_zstd("blocks", 0) for one in found),
        "blocks and packet table vs zstd alone": statistics.median(
            one.against_zstd("with packet table", 0) for one in found
        ),
        "blocks vs zstd alone, CPU": statistics.median(one.against_zstd("blocks", 1) for one in found),
        "blocks and packet table vs zstd alone, CPU": statistics.median(
            one.against_zstd("with packet table", 1) for one in found
        ),
        "stored vs delivered": stored / size,
        "two side by side vs one": 2 * together["ingest_s"] / together["two_ingest_s"],
        # Two processes that share nothing, on the same cores.
        "two of zstd side by side vs one": 2 * together["zstd_s"] / together["two_zstd_s"],
    }
    return {
        "ratios": {case: round(ratio, 4) for case, ratio in ratios.items()},
        "wall_s": {case: round(seconds, 3) for case, seconds in wall_s.items()},
        "cpu_s": {case: round(seconds, 3) for case, seconds in cpu_s.items()},
        "mb_per_cpu_s": {
            case: round((small_size if "smaller" in case else size) / seconds / 1e6, 1)
            for case, seconds in cpu_s.items()
        },
        "packet_table_vs_delivered": round(rows / size, 4),
        "side_by_side": {case: round(figure, 2) for case, figure in together.items()},
        "small_files": {case: round(figure, 2) for case, figure in many.items()},
        "packets": packets,
        "file_mb": round(size / 1e6, 1),
        "record_bytes": round((size - len(FILE_HEADER)) / packets, 1),
        "sample": sample,
        "turns": turns,
        "checked": True,
    }


def print_table(found: dict[str, Any]) -> None:
    """Print what a person reads."""
    print(f"medians of {found['turns']} turns, {found['packets']:,} packets, {found['file_mb']} MB")
    for case, seconds in found["cpu_s"].items():
        speed = f"{found['mb_per_cpu_s'][case]:>9.1f} MB/CPU s"
        print(f"{case:28}{found['wall_s'][case]:>9.3f} s{seconds:>9.3f} CPU s{speed}")
    print(f"two processes: {found['side_by_side']}")
    print(f"{SMALL_FILES} small files: {found['small_files']}")
    print(f"packet table: {found['packet_table_vs_delivered']} of what was delivered")
    for name, ratio in found["ratios"].items():
        print(f"{name:42}{ratio:>8.3f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--packets", type=int, default=1_500_000, help="packets of the file")
    parser.add_argument("--sample", type=int, default=150_000, help="packets of the file for dpkt")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work, home, path = options.child
        run_child(work, Path(home), Path(path))
        return
    found = report(options.packets, options.sample, options.turns)
    print(json.dumps(found)) if options.json else print_table(found)


if __name__ == "__main__":
    main()
