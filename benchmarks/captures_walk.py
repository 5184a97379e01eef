"""What finding every packet of a capture costs, against Wireshark's capinfos and dpkt: CPU time, in turns.

The file is made (`captures_input`): an hour of small packets, as classic pcap and, by editcap, as
pcapng. Ours maps the file and gives all packets in normal form: views of the map for pcap, copies for
pcapng, where capinfos only counts. Its time is that of a whole process, without the start that a
capture of no packets costs; dpkt's loop runs on the first packets. Every count is compared.
"""

from __future__ import annotations

import argparse
import json
import mmap
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dpkt
from captures_input import FILE_HEADER, write_iot

from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture

FORMATS = {"pcap": dpkt.pcap.Reader, "pcapng": dpkt.pcapng.Reader}


def count_ours(path: Path) -> int:
    """Read a whole file, window by window."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(len(part) for part in read_capture(content) if isinstance(part, Packets))


def count_capinfos(path: Path) -> int:
    """Let capinfos count."""
    said = subprocess.run(["capinfos", "-Mc", str(path)], check=True, capture_output=True, text=True)  # noqa: S603, S607
    return int(said.stdout.rpartition(":")[2])


def count_dpkt(path: Path) -> int:
    """Let dpkt's reader of the format give every packet."""
    with path.open("rb") as file:
        return sum(1 for _ in FORMATS[path.suffix[1:]](file))


def own_cpu_s(call: Callable[[], int]) -> tuple[int, float]:
    """Give a call's result and the CPU seconds of this process."""
    began = time.process_time()
    found = call()
    return found, time.process_time() - began


def child_cpu_s(call: Callable[[], int]) -> tuple[int, float]:
    """Give a call's result and the CPU seconds of the processes that it started."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = call()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found, ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def make_files(folder: Path, packets: int, few: int) -> dict[str, Path]:
    """Write the inputs: both formats, whole and short, and one capture of nothing."""
    files = {"empty": folder / "empty.pcap"}
    files["empty"].write_bytes(FILE_HEADER)
    for name, count in (("whole", packets), ("short", few)):
        classic, other = folder / f"{name}.pcap", folder / f"{name}.pcapng"
        write_iot(classic, count, seed=11)
        subprocess.run(["editcap", "-F", "pcapng", str(classic), str(other)], check=True)  # noqa: S603, S607
        files |= {f"{name} pcap": classic, f"{name} pcapng": other}
    return files


def measure(folder: Path, packets: int, few: int, turns: int) -> dict[str, list[float]]:
    """Run everything once a turn, so that a slow spell meets all alike. Units: CPU ns per packet."""
    files = make_files(folder, packets, few)
    taken: dict[str, list[float]] = {}
    for _ in range(turns):
        _, start_s = child_cpu_s(lambda: count_capinfos(files["empty"]))
        for form in FORMATS:
            whole, short = files[f"whole {form}"], files[f"short {form}"]
            runs = {
                f"ours {form}": (own_cpu_s(lambda path=whole: count_ours(path)), packets, 0.0),
                f"capinfos {form}": (child_cpu_s(lambda path=whole: count_capinfos(path)), packets, start_s),
                f"dpkt {form}": (own_cpu_s(lambda path=short: count_dpkt(path)), few, 0.0),
            }
            for name, ((found, cpu_s), count, less_s) in runs.items():
                assert found == count, f"{name} found {found} of {count} packets"
                taken.setdefault(name, []).append((cpu_s - less_s) / count * 1e9)
    return taken


def report(packets: int, few: int, turns: int) -> dict[str, Any]:
    """Measure; the ratios are of medians."""
    with tempfile.TemporaryDirectory() as folder:
        taken = measure(Path(folder), packets, few, turns)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratios = {
        f"{form} vs {peer}": round(medians[f"{peer} {form}"] / medians[f"ours {form}"], 2)
        for form in FORMATS
        for peer in ("capinfos", "dpkt")
    }
    figures = {
        name: {"min": round(min(times), 1), "median": round(medians[name], 1)} for name, times in taken.items()
    }
    return {"ratios": ratios, "ns_per_packet": figures, "packets": packets, "turns": turns, "checked": True}


def print_table(found: dict[str, Any]) -> None:
    """Print what a person reads."""
    print(f"CPU ns per packet, min / median of {found['turns']} turns, {found['packets']:,} packets")
    for name, figure in found["ns_per_packet"].items():
        print(f"{name:20}{figure['min']:>10.1f} /{figure['median']:>9.1f}")
    for name, ratio in found["ratios"].items():
        print(f"{name:24}{ratio:>8.2f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--packets", type=int, default=2_000_000)
    parser.add_argument("--few", type=int, default=50_000, help="packets for dpkt's loop")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    missing = [tool for tool in ("capinfos", "editcap") if shutil.which(tool) is None]
    if missing:
        parser.exit(1, f"{', '.join(missing)} missing: apt-get install wireshark-common\n")
    found = report(options.packets, options.few, options.turns)
    print(json.dumps(found)) if options.json else print_table(found)


if __name__ == "__main__":
    main()
