"""How many messages a second one receiver takes from SQS into synced segments, and what it costs at rest.

The peer does what most consumers do on the same server: receive ten, write and sync them, delete
them. Wall time, in turns; what came is counted against what was sent. Processor time of the receiver
and of the server stands beside it, since the machine may be busy with other things.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from queue_input import make_bodies, make_platform, running_sqs, show

from orchestration.resources import Platform
from stores.queue import Queue
from stores.receiver import write_segment


def timed(action: Callable[[], object]) -> float:
    """Measure wall time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def receive_tens(queue: Queue, folder: Path, count: int) -> None:
    """Write and sync each ten messages as a file, and delete them one by one."""
    done = 0
    while done < count:
        messages = queue.receive(10, 1)
        write_segment(folder, messages)
        for one in messages:
            queue.delete([one])
        done += len(messages)


def lines_of(folder: Path) -> int:
    """Count the messages in segments, and delete them."""
    files = list(folder.glob("queue-*.ndjson"))
    lines = sum(len(path.read_bytes().splitlines()) for path in files)
    for path in files:
        path.unlink()
    return lines


def receive_all(platform: Platform, count: int) -> None:
    """Receive until so many came."""
    receiver = platform.receivers("logins", "default", print)[0]
    receiver.run(lambda: receiver.received.messages >= count)


def cpu_s(process: psutil.Process) -> float:
    """Give the processor time that a process has used."""
    used = process.cpu_times()
    return float(used.user + used.system)


def measure_rest(folder: Path, seconds: float, **settings: str) -> float:
    """Give the share of a core that a receiver takes while nothing comes, in percent."""
    folder.mkdir()
    platform = make_platform(folder, **settings)
    command = [sys.executable, "-m", "lockhouse.receiver", "--home", str(platform.home.root)]
    with subprocess.Popen(command, env=dict(os.environ)) as process:  # noqa: S603 - our own command
        watched = psutil.Process(process.pid)
        while not (platform.home.locks / "default" / "logins.receive.lock").exists():
            time.sleep(0.2)
        time.sleep(5)  # its first poll imports what it needs
        before = cpu_s(watched)
        time.sleep(seconds)
        used = cpu_s(watched) - before
        process.terminate()
    return 100 * used / seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest-seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    times: dict[str, list[float]] = {"ours": [], "tens": []}
    used: dict[str, list[float]] = {"receiver": [], "server": []}
    with running_sqs() as address, tempfile.TemporaryDirectory() as folder:
        sqs = {"queue_url": f"{address}/1/logins", "aws_endpoint_url": address}
        platform = make_platform(Path(folder), **sqs)
        [server] = psutil.Process().children()
        both = {"receiver": psutil.Process(), "server": server}
        queue, drop = platform.queue("logins", "default"), platform.landing.drop_folder("logins", "default")
        few = chosen.messages // 5
        for number in range(chosen.rounds):
            queue.send(make_bodies(few, number))
            times["tens"].append(timed(lambda: receive_tens(queue, drop, few)) / few)
            assert lines_of(drop) == few
            queue.send(make_bodies(chosen.messages, number))
            before = {name: cpu_s(one) for name, one in both.items()}
            times["ours"].append(timed(lambda: receive_all(platform, chosen.messages)) / chosen.messages)
            for name, one in both.items():
                used[name].append((cpu_s(one) - before[name]) / chosen.messages)
            assert lines_of(drop) == chosen.messages
        rest = {
            "embedded": measure_rest(Path(folder) / "embedded", chosen.rest_seconds),
            "sqs": measure_rest(Path(folder) / "sqs", chosen.rest_seconds, **sqs),
        }
    best = {name: statistics.median(found) for name, found in times.items()}
    show(
        {
            "ratios": {"receiver vs ten at a time": round(best["tens"] / best["ours"], 2)},
            "checked": True,
            "messages": chosen.messages,
            "messages a second": {name: round(1 / seconds) for name, seconds in best.items()},
            "microseconds of processor a message": {
                name: round(1e6 * statistics.median(found)) for name, found in used.items()
            },
            "percent of a core at rest": {name: round(share, 2) for name, share in rest.items()},
            "load of the machine": round(os.getloadavg()[0], 1),
        },
        chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
