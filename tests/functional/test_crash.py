"""Kill -9 at any moment, and several ingests at once: no row lost, none doubled, nothing left readable.

A driver process imports everything once and forks a child for each ingest; children do what a run
does without dbt. The driver has used no thread pool before it forks, as polars and deltalake demand.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROUNDS = 25
SEED = 20261121
BAD = 9
ROWS = 420
# Small, so that a batch has several chunks.
CHUNK_BYTES = 1 << 16


# --- The driver: this file as a program


def ingest(home: Path, source: str, paths: list[Path]) -> None:
    """Do what `lockhouse ingest` does, up to the masked tables."""
    from orchestration.resources import Platform
    from stores.settings import load_settings

    platform = Platform(load_settings(home))
    (ingest_captures if source == "captures" else ingest_logins)(platform, paths)


def ingest_captures(platform: Any, paths: list[Path]) -> None:
    platform.landing.recover()
    left = platform.landing.open_batches("captures")
    batches = [*left, *platform.landing.copy_in("captures", "default", paths, "dev-1")]
    for step in (platform.captures.seal_batch, platform.captures.mask_batch, platform.captures.finish_batch):
        for batch in batches:
            step(batch.id)


def ingest_logins(platform: Any, paths: list[Path]) -> None:
    from stores.contracts import load_contract

    contract = load_contract("logins")
    platform.landing.recover()
    left = platform.landing.open_batches("logins")
    batches = [*left, *platform.landing.copy_in("logins", "default", paths)]
    for batch in batches:
        platform.intake.seal_batch(batch.id, contract)
    for batch in batches:
        platform.intake.mask_batch(batch.id, contract)
    for batch in batches:
        platform.intake.finish_batch(batch.id)


def serve() -> None:
    """Take jobs from standard input, a JSON line each, and answer with how their children ended."""
    import deltalake  # noqa: F401 - what a run imports late is imported here once
    import pyarrow.dataset  # noqa: F401

    import stores.dbt_delta
    import stores.intake
    import stores.leaks  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        start = time.monotonic()
        home, source = Path(job["home"]), job["source"]
        children = [forked(home, source, [Path(path) for path in paths]) for paths in job["children"]]
        if job["kill_after"] is not None:
            time.sleep(job["kill_after"])
            for child in children:
                os.kill(child, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps({"codes": codes, "seconds": time.monotonic() - start}), flush=True)  # noqa: T201


def forked(home: Path, source: str, paths: list[Path]) -> int:
    """Fork a child that ingests and ends."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ingest(home, source, paths)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    serve()
    sys.exit()


# --- The tests

import polars as pl  # noqa: E402
import pytest  # noqa: E402

from homes import copy_home  # noqa: E402
from orchestration.resources import Platform  # noqa: E402
from stores.contracts import load_contract  # noqa: E402
from stores.home import Home  # noqa: E402
from stores.leaks import default_exclusions, scan  # noqa: E402
from stores.ledger import State  # noqa: E402
from stores.quarantine import Quarantine  # noqa: E402
from stores.settings import load_settings  # noqa: E402
from stores.specs import quarantine_spec  # noqa: E402
from transforms.capture.synthetic import synthetic_capture  # noqa: E402
from transforms.capture.tables import DOMAIN_FORMATS  # noqa: E402
from waiting import LONGEST_S  # noqa: E402

START = datetime(2026, 11, 20, 7, tzinfo=UTC)
# What depends on when a batch arrived, and on nonces.
CHANGING = ("received_at", "received_date", "received_hour", "batch_id", "chunk", "unknown_sealed")


class Driver:
    """Talks to the driver process."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        command = [sys.executable, str(Path(__file__).resolve())]
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )

    def run(
        self, home: Path, *children: list[Path], kill_after: float | None = None, source: str = "logins"
    ) -> tuple[list[int], float]:
        """Run children at once; kill them after a while where one is given."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        paths = [[str(path) for path in one] for one in children]
        job = {"home": str(home), "source": source, "children": paths}
        self.process.stdin.write(json.dumps({**job, "kill_after": kill_after}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.errors.read_text()
        ended = json.loads(answer)
        assert all(code in (0, -signal.SIGKILL) for code in ended["codes"]), self.errors.read_text()
        return ended["codes"], ended["seconds"]

    def close(self) -> None:
        """End the driver."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait(LONGEST_S)


@dataclass(frozen=True)
class Stage:
    """What every round begins with, and what it has to end with."""

    driver: Driver
    template: Path
    files: list[Path]
    values: list[str]
    expected: pl.DataFrame
    entries: set[tuple[str, str, int]]
    median_s: float

    def fresh(self, folder: Path) -> Path:
        """A home of its own, with the same keys."""
        return copy_home(self.template, folder / "home")


def write_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Logins as JSON lines, as an array in gzip with records that do not fit, and as messages."""
    dice = random.Random(SEED)  # noqa: S311 - data for tests
    from uuid import UUID

    def record() -> dict[str, Any]:
        return {
            "user_id": str(UUID(int=dice.getrandbits(128), version=4)),
            "ip": ".".join(str(dice.randrange(1, 255)) for _ in range(4)),
            "device_id": f"{dice.randrange(10**3):03d}-{dice.randrange(100):02d}-{dice.randrange(10**4):04d}",
            "device_type": "ios",
            "app_version": "1.2.3",
            "occurred_at": f"2026-11-20T{dice.randrange(24):02d}:00:00Z",
        }

    records = [record() for _ in range(ROWS)]
    for one in records[::50]:
        one["nickname"] = f"nick-{one['device_id']}-name"
    bad = [{**record(), "ip": f"no-address-{number:04d}"} for number in range(BAD)]
    lines = folder / "lines.ndjson"
    lines.write_text("".join(json.dumps(one) + "\n" for one in records[:250]))
    array = folder / "array.json.gz"
    array.write_bytes(gzip.compress(json.dumps([*records[250:380], *bad]).encode(), mtime=0))
    messages = folder / "messages.ndjson"
    bodies = [
        {"MessageId": f"message {number}", "Body": json.dumps(one)} for number, one in enumerate(records[380:])
    ]
    messages.write_text("".join(json.dumps(one) + "\n" for one in bodies))
    values = [one[name] for one in [*records, *bad] for name in ("user_id", "ip", "device_id")]
    names = ["lines.ndjson", "array.json.gz", "messages.ndjson"]
    return [lines, array, messages], list(dict.fromkeys([*values, *names]))


def tables_of(home: Path) -> Platform:
    return Platform(load_settings(home))


def table(home: Path, key: str) -> pl.DataFrame:
    with tables_of(home).tables.reading("default", key) as rows:
        return rows.collect().sort("event_id" if "event_id" in rows.collect_schema() else "entry_id")


def quarantined(home: Path) -> list[Any]:
    platform = tables_of(home)
    store = Quarantine("default", platform.tables, platform.intake.sealer("default"), quarantine_spec("logins"))
    return store.entries()


def entry_keys(home: Path) -> set[tuple[str, str, int]]:
    return {(entry.id, entry.reason, entry.record_number) for entry in quarantined(home)}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("driver") / "errors")
    yield made
    made.close()


@pytest.fixture(scope="module")
def stage(driver: Driver, lockhouse: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """An empty home, the files, and what an undisturbed ingest makes of them."""
    folder = tmp_path_factory.mktemp("stage")
    template = folder / "template"
    assert lockhouse("init", home=template).code == 0
    (template / "settings.toml").write_text(f"chunk_bytes = {CHUNK_BYTES}\n")
    # Keys get their ids with their first use: all homes have to have the same.
    tables_of(template).keys("default").token_keys(load_contract("logins").domains)
    (folder / "files").mkdir()
    files, values = write_files(folder / "files")
    times = []
    for number in range(3):
        calm = copy_home(template, folder / f"calm-{number}")
        times.append(driver.run(calm, files)[1])
    masked = table(calm, "masked.logins").drop(CHANGING)
    assert masked.height == ROWS
    return Stage(driver, template, files, values, masked, entry_keys(calm), statistics.median(times))


def check_complete(stage: Stage, home: Path) -> None:
    """Everything is there once, the books balance, and nothing is readable."""
    masked, raw = table(home, "masked.logins"), table(home, "raw.logins")
    assert masked.drop(CHANGING).equals(stage.expected)
    assert raw["event_id"].to_list() == masked["event_id"].to_list()
    assert raw["event_id"].n_unique() == raw.height == ROWS
    entries = quarantined(home)
    assert len(entries) == BAD
    assert entry_keys(home) == stage.entries
    platform = tables_of(home)
    batches = platform.ledger.batches()
    counts = platform.ledger.counts([batch["id"] for batch in batches])
    assert (counts.accepted, counts.quarantined, counts.balances) == (ROWS, BAD, True)
    assert {batch["state"] for batch in batches} == {State.DONE}
    assert all(
        batch["rows"] == batch["accepted"] + batch["quarantined"] + batch["duplicates"] for batch in batches
    )
    assert [path for path in platform.home.landing.rglob("*") if path.is_file()] == []
    assert platform.landing.open_batches() == []
    # A killed writer may leave half a file that no version names: the upkeep removes it.
    check_not_readable(stage, home)
    for key in ("raw.logins", "quarantine.logins", "masked.logins"):
        platform.tables.vacuum("default", key, 0)
    report = scan(home, stage.values, exclude=[platform.home.keys])
    assert (report.hits, report.unreadable) == ([], [])
    assert table(home, "masked.logins").drop(CHANGING).equals(stage.expected)


def check_not_readable(stage: Stage, home: Path) -> None:
    """Whatever state a kill left, nothing is readable outside of landing; only orphans may be damaged."""
    report = scan(home, stage.values, exclude=default_exclusions(Home(home)))
    assert report.hits == []
    tables = tables_of(home).tables
    keys = [info.key for info in tables.listing("default")]
    live = {name.removeprefix("file://") for key in keys for name in tables.files("default", key)}
    damaged = {str(home / one.file) for one in report.unreadable}
    assert all(name.endswith(".parquet") or ".parquet#" in name for name in damaged)
    assert not damaged & live


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_kill_at_any_moment_loses_and_doubles_nothing(stage: Stage, tmp_path: Path, number: int):
    dice = random.Random(SEED + number)  # noqa: S311 - moments of a test
    home = stage.fresh(tmp_path)
    for _ in range(10):
        moment = dice.uniform(0, stage.median_s)
        (code,), _ = stage.driver.run(home, stage.files, kill_after=moment)
        check_not_readable(stage, home)
        if code == 0 or dice.random() < 0.5:
            break
    (code,), _ = stage.driver.run(home, stage.files)
    assert code == 0
    check_complete(stage, home)


def test_the_same_files_at_once_are_taken_once(stage: Stage, tmp_path: Path):
    home = stage.fresh(tmp_path)
    codes, _ = stage.driver.run(home, stage.files, stage.files, stage.files[::-1])
    assert codes == [0, 0, 0]
    check_complete(stage, home)
    counts = tables_of(home).ledger.counts([one["id"] for one in tables_of(home).ledger.batches()])
    assert counts.duplicates == 2 * (ROWS + BAD)


def test_different_files_at_once_are_all_taken(stage: Stage, tmp_path: Path):
    home = stage.fresh(tmp_path)
    codes, _ = stage.driver.run(home, *([file] for file in stage.files))
    assert codes == [0, 0, 0]
    check_complete(stage, home)


def test_ingests_at_once_that_are_killed_leave_what_another_completes(stage: Stage, tmp_path: Path):
    home = stage.fresh(tmp_path)
    for part in (0.3, 0.6, 0.9):
        stage.driver.run(home, stage.files[:2], stage.files[1:], kill_after=part * stage.median_s)
        check_not_readable(stage, home)
    stage.driver.run(home, stage.files)
    check_complete(stage, home)


def test_a_recovery_leaves_alone_what_another_process_is_just_beginning(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The moment between making a batch's folder and holding it."""
    home = stage.fresh(tmp_path)
    landing, original, others = tables_of(home).landing, fcntl.flock, []

    def flock(file: Any, kind: int) -> None:
        if file.name.endswith(".filling") and not others and not kind & fcntl.LOCK_NB:
            others.append(threading.Thread(target=tables_of(home).landing.recover))
            others[0].start()
            others[0].join(0.3)
        original(file, kind)

    monkeypatch.setattr("stores.locks.fcntl.flock", flock)
    (batch,) = landing.copy_in("logins", "default", stage.files)
    others[0].join(LONGEST_S)
    assert [path.read_bytes() for _, path, _ in batch.files()] == [path.read_bytes() for path in stage.files]
    assert [one.id for one in landing.open_batches()] == [batch.id]


def test_two_real_commands_at_once_on_overlapping_files(stage: Stage, tmp_path: Path):
    home = stage.fresh(tmp_path)
    program = str(Path(sys.executable).with_name("lockhouse"))
    commands = [
        [program, "--home", str(home), "ingest", "logins", *map(str, files), "--json"]
        for files in (stage.files[:2], stage.files[1:])
    ]
    running = [
        subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in commands
    ]
    told = [process.communicate(timeout=LONGEST_S) for process in running]
    assert [process.returncode in (0, 4) for process in running] == [True, True], told
    results = [json.loads(out) for out, _ in told]
    assert sum(one["accepted"] for one in results) == ROWS
    assert sum(one["quarantined"] for one in results) == BAD
    assert all(all(one["checks"].values()) for one in results)
    check_complete(stage, home)


# --- Captures


PACKETS = 3_000


@dataclass(frozen=True)
class Captures:
    """Capture files with a damaged one among them, and what an undisturbed ingest gives back."""

    driver: Driver
    template: Path
    files: list[Path]
    expected: bytes
    median_s: float


def exported(home: Path) -> bytes:
    """All packets of the device's hour."""
    platform = tables_of(home)
    exports, device = platform.capture_exports("default"), platform.devices("default").find("dev-1")
    with exports.planned(device, START, START + timedelta(hours=1), "pcap") as plan:
        return b"".join(exports.stream(plan))


@pytest.fixture(scope="module")
def captures(
    driver: Driver, lockhouse: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Captures:
    folder = tmp_path_factory.mktemp("captures")
    template = folder / "template"
    assert lockhouse("init", home=template).code == 0
    (template / "settings.toml").write_text(f"chunk_bytes = {CHUNK_BYTES}\n")
    tables_of(template).keys("default").token_keys(tuple(DOMAIN_FORMATS))
    files = []
    for number, seed in enumerate((1, 2, 3)):
        content = synthetic_capture(seed, PACKETS // 3, START + timedelta(hours=1))
        files.append(folder / f"{number}.pcap")
        files[-1].write_bytes(content if number else content + b"torn off")
    times = []
    for number in range(3):
        calm = copy_home(template, folder / f"calm-{number}")
        times.append(driver.run(calm, files, source="captures")[1])
    return Captures(driver, template, files, exported(calm), statistics.median(times))


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_kill_at_any_moment_loses_and_doubles_no_packet(captures: Captures, tmp_path: Path, number: int):
    dice = random.Random(SEED + number)  # noqa: S311 - moments of a test
    home = copy_home(captures.template, tmp_path / "home")
    for _ in range(10):
        moment = dice.uniform(0, captures.median_s)
        (code,), _ = captures.driver.run(home, captures.files, kill_after=moment, source="captures")
        if code == 0 or dice.random() < 0.5:
            break
    (code,), _ = captures.driver.run(home, captures.files, source="captures")
    assert code == 0
    platform = tables_of(home)
    assert exported(home) == captures.expected
    sums = {key: platform.tables.info("default", key).rows for key in ("masked.packets", "raw.capture_files")}
    assert sums == {"masked.packets": PACKETS, "raw.capture_files": 3}
    counts = platform.ledger.counts([one["id"] for one in platform.ledger.batches()])
    assert (counts.accepted, counts.quarantined, counts.balances) == (PACKETS, 1, True)
    assert platform.tables.info("default", "quarantine.captures").rows == 1
    hour = platform.ledger.batches()[0]["received_at"]
    arrived = datetime.fromisoformat(hour).replace(minute=0, second=0, microsecond=0)
    assert platform.captures.totals(["default"], [], arrived).balances
    assert [path for path in platform.home.landing.rglob("*") if path.is_file()] == []
