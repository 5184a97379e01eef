"""Erasing one person of many: what it costs, against DELETE and VACUUM on a table in order of arrival.

Logins of several closed days are taken in the usual way, then put in order by the nightly upkeep, as in
operation. The person who is erased has a device with captures and a validated request besides. The
whole erasure is timed step by step; the masked table alone is raced against deltalake's
own delete and vacuum on a copy that was never put in order. Everything that was timed is checked: rows,
the scan, the certificate on a copy, and what a backup made before still gives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from deltalake import DeltaTable

sys.path.insert(0, str(Path(__file__).parent))
from captures_input import HOUR_START_S, write_iot

from orchestration import resources
from orchestration.resources import Platform
from orchestration.validations import LISTENERS
from stores.contracts import load_contract
from stores.erasure_plan import matches_of, way_to
from stores.home import Home
from stores.row_removal import RowRemoval
from stores.settings import Settings
from stores.verification import verify_certificate
from transforms.errors import ErasedSubjectError
from transforms.tables import masked_table, raw_table

CONTRACT = load_contract("logins")
VALIDATIONS = load_contract("validations")
DELIVERIES = 10
PACKETS = 50_000
# Where the person is met, in every source.
EXPECTED = {"raw.logins", "masked.logins", "raw.capture_blocks", "masked.packets", "raw.validations"}
EXPECTED |= {"masked.validations"}
REQUEST = {
    "full_name": "Benchmark Person",
    "date_of_birth": "1990-02-28",
    "address_street": "Teststrasse 1",
    "address_postal_code": "10115",
    "address_city": "Berlin",
    "address_country": "DE",
    "phone_number": "+4930901820",
    "document_type": "passport",
    "document_number": "L898902C36",
}
FIRST = datetime(2026, 3, 2, 6, tzinfo=UTC)


class Clock:
    """The platform's time while the lake is made."""

    def __init__(self) -> None:
        """Begin on the first day."""
        self.at = FIRST

    def __call__(self) -> datetime:
        """Give the time."""
        return self.at


def people(count: int) -> list[str]:
    """Give ids of people, always the same."""
    rng = np.random.default_rng(7)
    return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(count)]


def write_delivery(path: Path, ids: list[str], rows: int, seed: int) -> None:
    """Write logins of random people as JSON lines."""
    rng = np.random.default_rng(seed)
    chosen, parts = rng.integers(0, len(ids), rows).tolist(), rng.integers(1, 255, (rows, 3)).tolist()
    lines = [
        f'{{"user_id": "{ids[who]}", "ip": "10.{a}.{b}.{c}", "device_id": "d-{who % 977}-{a}",'
        f' "device_type": "ios", "app_version": "1.{b % 9}.{c % 9}", "locale": "DE"}}\n'
        for who, (a, b, c) in zip(chosen, parts, strict=True)
    ]
    path.write_text("".join(lines))


def make_lake(folder: Path, ids: list[str], rows: int, days: int) -> tuple[Platform, Path]:
    """Take in the logins; give the platform in order, and a copy of the masked table as it arrived."""
    clock = Clock()
    resources.now = clock  # type: ignore[assignment]
    platform = Platform(Settings(home=folder / "home"))
    platform.create_home("bench")
    for number in range(days * DELIVERIES):
        day, hour = divmod(number, DELIVERIES)
        clock.at = FIRST + timedelta(days=day, hours=hour)
        write_delivery(folder / "in", ids, rows // (days * DELIVERIES), number)
        for batch in platform.landing.copy_in("logins", "default", [folder / "in"]):
            platform.intake.seal_batch(batch.id, CONTRACT)
            platform.intake.mask_batch(batch.id, CONTRACT)
            platform.intake.finish_batch(batch.id)
    clock.at = FIRST + timedelta(days=days)
    unsorted = folder / "unsorted"
    shutil.copytree(platform.tables.path("default", masked_table(CONTRACT).key), unsorted)
    add_other_sources(platform, folder, ids[1])
    platform.maintenance.keep_up(CONTRACT, clock.at.date())
    return platform, unsorted


def add_other_sources(platform: Platform, folder: Path, person: str) -> None:
    """Give a person a device, captures of it, and a request that was decided and landed."""
    owned_from = datetime.fromtimestamp(HOUR_START_S, UTC)
    platform.devices("default").own("bench-phone", person, owned_from)
    write_iot(folder / "phone.pcap", PACKETS, 3)
    for batch in platform.landing.copy_in("captures", "default", [folder / "phone.pcap"], "bench-phone"):
        platform.captures.seal_batch(batch.id)
        platform.captures.mask_batch(batch.id)
        platform.captures.finish_batch(batch.id)
    platform.validations.intake.submit("default", {**REQUEST, "username": person}, "username", None)
    platform.validations.intake.relay()
    workers = [platform.validations.worker(service, lambda _: None) for service in LISTENERS]
    while sum(worker.work() for worker in workers):
        pass
    for batch in platform.landing.open_batches("validations"):
        platform.intake.seal_batch(batch.id, VALIDATIONS)
        platform.intake.mask_batch(batch.id, VALIDATIONS)
        platform.intake.finish_batch(batch.id)


@contextmanager
def timed(taken: dict[str, float], name: str) -> Iterator[None]:
    """Measure wall time and CPU time of a block."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    taken[name], taken[f"{name} cpu"] = time.perf_counter() - wall, time.process_time() - cpu


def race_table(platform: Platform, unsorted: Path, person: str, folder: Path) -> dict[str, Any]:
    """Take a person out of the masked table, ours in order, the peer's in order of arrival."""
    spec, subject = masked_table(CONTRACT), platform.data_subjects("default").find(person)
    taken: dict[str, float] = {}
    matches = matches_of(way_to(spec), [subject], {})
    removal = None
    with timed(taken, "ours"):
        removal = RowRemoval(platform.tables, "default").remove(spec, matches, "bench", lambda _: None)
        platform.tables.forget_past("default", spec.key)
    assert removal is not None
    peer = DeltaTable(str(unsorted))
    with timed(taken, "peer"):
        outcome = peer.delete(f"user_id_token = '{subject.tokens[0]}'")
        peer.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert outcome["num_deleted_rows"] == removal.rows
    logs = "".join(path.read_text() for path in (unsorted / "_delta_log").glob("*.json"))
    assert subject.heads[0] in logs, "the peer's log was expected to hold the token"
    return {
        **taken,
        "rows": removal.rows,
        "files written again": len(removal.removed),
        "files": platform.tables.info("default", spec.key).files,
        "peer files written again": outcome["num_removed_files"],
    }


def erase(platform: Platform, person: str, folder: Path) -> dict[str, Any]:
    """Erase a person wholly, check everything that is promised, and give the times of the steps."""
    finder, spec = platform.data_subjects("default"), raw_table(CONTRACT)
    subject = finder.find(person)
    backup = Path(shutil.copytree(platform.tables.path("default", spec.key), folder / "backup"))
    before = {info.key: info for info in platform.tables.listing("default")}
    resources.now = lambda: datetime.now(UTC)
    erasing = Platform(platform.settings)
    requests = erasing.erasure_requests("default")
    taken: dict[str, float] = {}
    with timed(taken, "erasure"):
        request = erasing.erasing("default").complete(requests.add([subject], ["digest"], "bench", "bench"))
    steps = {str(name): datetime.fromisoformat(at) for name, at in request.progress["at"].items()}
    names = list(steps)
    seconds = {after: (steps[after] - steps[first]).total_seconds() for first, after in pairwise(names)}
    assert seconds["key_destroyed"] <= 1
    assert request.progress["scan"]["hits"] == 0
    removed = {one["table"]: one for one in request.progress["tables"]}
    assert not EXPECTED - removed.keys()
    after = {info.key: info for info in erasing.tables.listing("default")}
    for key, one in removed.items():
        assert before[key].rows - after[key].rows == one["rows"] > 0
    check_proof(erasing, folder, str(request.certificate))
    check_backup(erasing, backup, subject.ref)
    again = {key: (len(one["removed"]), before[key].files) for key, one in removed.items()}
    return {**taken, "steps": seconds, "files written again, of": again}


def check_proof(platform: Platform, folder: Path, certificate: str) -> None:
    """Hold the certificate against a copy, whole, then with one byte changed in it, then in a file."""
    copy = Home(Path(shutil.copytree(platform.home.root, folder / "copy")))
    path = copy.root / certificate
    assert verify_certificate(copy, path).problems == []
    for target in (path, next(copy.lake.rglob("*.parquet"))):
        content = target.read_bytes()
        at = len(content) // 2
        target.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not verify_certificate(copy, path).ok
        target.write_bytes(content)
    shutil.rmtree(copy.root)


def check_backup(platform: Platform, backup: Path, ref: bytes) -> None:
    """Whatever a copy of the raw table from before holds of the person: nothing opens it any more."""
    rows = pl.scan_delta(str(backup)).filter(pl.col("subject_ref") == ref).collect()
    assert rows.height > 0
    keys: Callable[[bytes], bytes] = platform.subject_keys("default").key
    try:
        keys(ref)
    except ErasedSubjectError:
        return
    raise AssertionError("the key is still there")


def report(subjects: int, rows: int, days: int) -> dict[str, Any]:
    """Make the lake, measure, and put the figures together."""
    ids = people(subjects)
    with tempfile.TemporaryDirectory(prefix="lockhouse-bench-") as name:
        folder = Path(name)
        platform, unsorted = make_lake(folder, ids, rows, days)
        raced = race_table(platform, unsorted, ids[0], folder)
        whole = erase(platform, ids[1], folder)
    ratios = {
        "erase from a table vs DELETE and VACUUM": round(raced["peer"] / raced["ours"], 2),
        "erase from a table vs DELETE and VACUUM (CPU)": round(raced["peer cpu"] / raced["ours cpu"], 2),
        "key destroyed within a second vs allowed": round(1 / max(whole["steps"]["key_destroyed"], 0.001), 1),
    }
    return {
        "ratios": ratios,
        "subjects": subjects,
        "rows": rows,
        "days": days,
        "one table": raced,
        "whole": whole,
        "checked": True,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--subjects", type=int, default=20_000, help="people")
    parser.add_argument("--rows", type=int, default=200_000, help="logins")
    parser.add_argument("--days", type=int, default=5, help="days on which they logged in")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    found = report(options.subjects, options.rows, options.days)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.rows:,} logins of {options.subjects:,} people; one table, seconds: {found['one table']}")
    print(f"whole erasure: {found['whole']}")
    for ratio, value in found["ratios"].items():
        print(f"{ratio:48}{value:>8.1f} x")


if __name__ == "__main__":
    main()
