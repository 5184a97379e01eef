"""What it costs to take an hour, or some minutes of it, out of the lake again: wall time, in turns.

Peer: editcap over the capture file that was delivered, `-A -B -F pcap`, for the same windows; it reads
the whole file for any of them. Ours plans, opens sealed blocks and writes the file; every output is the
peer's byte for byte. The memory of an export is that of a process of its own.

Then the time to the first packets of one device's hour out of a table with 1,000 devices and 30 days,
against one day. That table is made from one real delivery of a small capture for each device: for every
other hour its rows are appended again with times, file ids and hour moved. Their bytes are those of the
first hour, which nothing of a whole hour's export looks at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
from captures_input import HOUR_START_S, write_iot

from orchestration.resources import Platform
from stores.settings import load_settings
from stores.tables import Commit
from transforms.capture.blocks import HOUR_NS
from transforms.capture.rows import hour_text
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES

SEED = 20_260_102
HOUR = datetime.fromtimestamp(HOUR_START_S, UTC)
WINDOWS = {"1 minute": (17, 18), "10 minutes": (20, 30), "the hour": (0, 60)}
DEVICES, DAYS = 1_000, 30
DEVICE_PACKETS = 4


@dataclass
class Bench:
    """A home in a folder, and the way into it and out."""

    platform: Platform

    @classmethod
    def at(cls, folder: Path) -> Bench:
        """Open the home, made where it is none yet."""
        platform = Platform(load_settings(folder))
        if not platform.home.keyring.exists():
            platform.create_home("bench")
        return cls(platform)

    def deliver(self, tenant: str, paths: list[Path], device: str | None) -> int:
        """Bring files into blocks; gives the packets. The packet table is left out: no export reads it."""
        landing, packets = self.platform.landing, 0
        if device is None:
            batches = landing.claim("captures", tenant, paths)
        else:
            batches = landing.copy_in("captures", tenant, paths, device)
        with patch("stores.capture_sealing.Masker.mask", lambda *_: pa.table({})):
            for batch in batches:
                packets += self.platform.captures.seal_batch(batch.id).accepted
        return packets

    def export(self, target: Path, minutes: tuple[int, int]) -> None:
        """Write some minutes of the busy hour as a file."""
        since, until = (HOUR + timedelta(minutes=one) for one in minutes)
        exports = self.platform.capture_exports("busy")
        device = self.platform.devices("busy").find("dev-1")
        with exports.planned(device, since, until, "pcap") as plan, target.open("wb") as out:
            for part in exports.stream(plan):
                out.write(part)
        assert target.stat().st_size == plan.size_bytes

    def first_packets(self, tenant: str, device: str, start: datetime) -> float:
        """Give the milliseconds to the first packets of a device's hour."""
        begun = time.monotonic()
        exports = self.platform.capture_exports(tenant)
        found = self.platform.devices(tenant).find(device)
        with exports.planned(found, start, start + timedelta(hours=1), "pcap") as plan:
            parts = exports.stream(plan)
            next(parts)
            size = len(next(parts))
            taken = (time.monotonic() - begun) * 1e3
        assert plan.packets == DEVICE_PACKETS and size == plan.size_bytes - 24
        return taken


def edit_with_editcap(source: Path, target: Path, minutes: tuple[int, int]) -> None:
    """Let editcap do it."""
    since, until = (f"{HOUR + timedelta(minutes=one):%Y-%m-%dT%H:%M:%SZ}" for one in minutes)
    command = ["editcap", "-A", since, "-B", until, "-F", "pcap", str(source), str(target)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a peer, with our own arguments


def wall_s(call: Callable[[], None]) -> float:
    """Give how long it takes; what the other one wrote is on disk before."""
    os.sync()
    start = time.monotonic()
    call()
    return time.monotonic() - start


def windows(bench: Bench, source: Path, folder: Path, turns: int) -> dict[str, dict[str, float]]:
    """Give the wall seconds of both for each window, least of some turns; outputs must be the same."""
    found: dict[str, dict[str, float]] = {}
    ours, theirs = folder / "ours.pcap", folder / "theirs.pcap"
    for name, minutes in WINDOWS.items():
        taken = []
        for _ in range(turns):
            ours.unlink(missing_ok=True)
            theirs.unlink(missing_ok=True)
            peer = wall_s(lambda minutes=minutes: edit_with_editcap(source, theirs, minutes))  # type: ignore[misc]
            own = wall_s(lambda minutes=minutes: bench.export(ours, minutes))  # type: ignore[misc]
            taken.append((own, peer))
        subprocess.run(["cmp", str(ours), str(theirs)], check=True)  # noqa: S603, S607 - our own files
        if minutes == WINDOWS["the hour"]:
            subprocess.run(["cmp", str(ours), str(source)], check=True)  # noqa: S603, S607 - our own files
        own, peer = (min(one) for one in zip(*taken, strict=True))
        found[name] = {"ours_s": own, "editcap_s": peer, "mb": ours.stat().st_size / 1e6}
    return found


def memory_of_export(home: Path, target: Path) -> dict[str, int]:
    """Give a process's peak memory (MB) before and after it exports the hour."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, "--child", str(home), str(target)]
    told = subprocess.run(command, check=True, capture_output=True, env=environment).stdout  # noqa: S603 - this file
    found: dict[str, int] = json.loads(told)
    return found


def run_child(home: Path, target: Path) -> None:
    """Export a minute, then the hour; print the peaks of memory."""
    bench, peaks = Bench.at(home), {"imported": peak_mb()}
    for name, minutes in (("minute", WINDOWS["1 minute"]), ("hour", WINDOWS["the hour"])):
        bench.export(target, minutes)
        peaks[name] = peak_mb()
    print(json.dumps(peaks))


def peak_mb() -> int:
    """Give the most memory that this process had; `getrusage` would count what its parent had, too."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


# -- many devices, many hours -------------------------------------------------------------------


def fill(bench: Bench, tenant: str, hours: int, folder: Path) -> None:
    """Make a tenant's tables: every device has a file in every hour."""
    bench.platform.add_tenant(tenant, "bench")
    dropped = bench.platform.landing.drop_folder("captures", tenant)
    paths = []
    for number in range(DEVICES):
        path = dropped / f"dev-{number}" / "one.pcap"
        path.parent.mkdir(parents=True)
        write_iot(path, DEVICE_PACKETS, number)
        paths.append(path)
    assert bench.deliver(tenant, paths, None) == DEVICES * DEVICE_PACKETS
    tables = bench.platform.tables
    made = {}
    for spec in (CAPTURE_BLOCKS, CAPTURE_FILES):
        with tables.reading(tenant, spec.key) as table:
            made[spec.key] = table.collect()
    for hour in range(1, hours):
        for spec in (CAPTURE_FILES, CAPTURE_BLOCKS):
            tables.append(tenant, spec, move_rows(made[spec.key], hour), Commit(f"hour-{hour}", hour, {}))


def move_rows(rows: pl.DataFrame, hour: int) -> pl.DataFrame:
    """Give rows as if they had come so many hours later."""
    moved = {"received_at": pl.col("received_at") + timedelta(hours=hour)}
    moved["received_date"] = moved["received_at"].dt.date()
    moved["received_hour"] = moved["received_at"].dt.truncate("1h")
    moved["batch_id"] = pl.concat_str(pl.lit(f"{hour:03}"), pl.col("batch_id").str.slice(3))
    moved["file_id"] = pl.concat_str(pl.lit(f"{hour:03}"), pl.col("file_id").str.slice(3))
    moved["packet_hour"] = pl.lit(hour_text(HOUR_START_S // 3600 + hour))
    moved |= {name: pl.col(name) + hour * HOUR_NS for name in ("ts_min", "ts_max")}
    return rows.with_columns(**{name: made for name, made in moved.items() if name in rows.columns})


def first_packets(bench: Bench, folder: Path, days: int, samples: int) -> dict[str, float]:
    """Give the milliseconds to the first packets, from one day and from many, asked for in turns."""
    rng = np.random.default_rng(SEED)
    tenants = {"1 day": ("day", 24), f"{days} days": ("days", 24 * days)}
    for tenant, hours in tenants.values():
        fill(bench, tenant, hours, folder)
    taken: dict[str, list[float]] = {name: [] for name in tenants}
    for at in range(samples + 3):
        # Neither is always the one that finds the other's traces in the processor's memory.
        for name, (tenant, hours) in list(tenants.items())[:: 1 if at % 2 else -1]:
            device = f"dev-{rng.integers(DEVICES)}"
            found = bench.first_packets(tenant, device, HOUR + timedelta(hours=int(rng.integers(hours))))
            if at >= 3:
                taken[name].append(found)
    return {
        f"{name}, {label}": float(np.quantile(found, share))
        for name, found in taken.items()
        for label, share in (("median", 0.5), ("p99", 0.99))
    }


def report(packets: int, turns: int, days: int, samples: int) -> dict[str, Any]:
    """Measure everything."""
    with tempfile.TemporaryDirectory(prefix="lockhouse-bench-") as name:
        folder = Path(name)
        bench, source = Bench.at(folder / "home"), folder / "busy.pcap"
        size = write_iot(source, packets, SEED)
        bench.platform.add_tenant("busy", "bench")
        assert bench.deliver("busy", [source], "dev-1") == packets
        found = windows(bench, source, folder, turns)
        memory = memory_of_export(folder / "home", folder / "child.pcap")
        first = first_packets(bench, folder, days, samples)
    ratios = {f"{name} vs editcap": one["editcap_s"] / one["ours_s"] for name, one in found.items()}
    ratios["first packets, p99: many days vs one"] = first[f"{days} days, p99"] / first["1 day, p99"]
    ratios["first packets, median: many days vs one"] = first[f"{days} days, median"] / first["1 day, median"]
    return {
        "ratios": {case: round(ratio, 4) for case, ratio in ratios.items()},
        "windows": {
            case: {name: round(figure, 4) for name, figure in one.items()} for case, one in found.items()
        },
        "peak_rss_mb": memory,
        "first_packets_ms": {case: round(figure, 1) for case, figure in first.items()},
        "devices": DEVICES,
        "days": days,
        "packets": packets,
        "file_mb": round(size / 1e6, 1),
        "turns": turns,
        "samples": samples,
        "checked": True,
    }


def print_table(found: dict[str, Any]) -> None:
    """Print what a person reads."""
    print(f"wall time, least of {found['turns']} turns, {found['packets']:,} packets, {found['file_mb']} MB")
    for case, one in found["windows"].items():
        print(f"{case:12}{one['mb']:>8.1f} MB{one['ours_s']:>9.3f} s, editcap{one['editcap_s']:>9.3f} s")
    print(f"peak memory of a process, MB: {found['peak_rss_mb']}")
    print(f"ms to the first packets, {DEVICES:,} devices: {found['first_packets_ms']}")
    for name, ratio in found["ratios"].items():
        print(f"{name:42}{ratio:>8.3f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--packets", type=int, default=3_310_000, help="packets of the busy hour")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--days", type=int, default=DAYS, help="days of hours on disk")
    parser.add_argument("--samples", type=int, default=1_000, help="first packets asked for")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child)
        return
    if shutil.which("editcap") is None:
        sys.exit("editcap is not there: apt-get install wireshark-common")
    found = report(options.packets, options.turns, options.days, options.samples)
    print(json.dumps(found)) if options.json else print_table(found)


if __name__ == "__main__":
    main()
