"""Upkeep: closed days ordered by subject, retention kept, debris removed, rows and statistics untouched."""

import datetime as dt
import json
import os
from pathlib import Path

import polars as pl
import pytest

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.erasure_requests import ErasureState
from stores.settings import load_settings
from stores.tables import Commit
from transforms.errors import DecryptionError
from transforms.tables import raw_table

CONTRACT = load_contract("logins")
SPEC = raw_table(CONTRACT)
TODAY = dt.date(2026, 11, 21)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("tester")
    for number in range(12):
        append(platform, TODAY - dt.timedelta(days=1), number)
    append(platform, TODAY - dt.timedelta(days=40), 99)
    append(platform, TODAY, 100)
    return platform


def append(platform: Platform, day: dt.date, number: int) -> None:
    moment = dt.datetime.combine(day, dt.time(12), dt.UTC)
    rows = pl.DataFrame(
        {
            "event_id": [f"{number}-{row}" for row in range(20)],
            "tenant": "default",
            "source": "logins",
            "received_at": moment,
            "received_date": day,
            "batch_id": str(number),
            "chunk": pl.Series([0] * 20, dtype=pl.Int32),
            "subject_ref": [bytes([(row * 37 + number) % 251] * 16) for row in range(20)],
            "record": [b"sealed"] * 20,
            "taken_at": pl.Series([None] * 20, dtype=pl.Datetime("us", "UTC")),
        }
    )
    platform.tables.append("default", SPEC, rows, Commit(f"logins/{number}/0", 1, {"batch": str(number)}))


def rows(platform: Platform) -> pl.DataFrame:
    with platform.tables.reading("default", SPEC.key) as table:
        return table.collect()


def test_upkeep_orders_closed_days_and_keeps_the_retention(platform: Platform):
    before = rows(platform).filter(pl.col("received_date") > TODAY - dt.timedelta(days=30))
    orphan = platform.tables.path("default", SPEC.key) / "orphan.parquet"
    orphan.write_bytes(b"left by a crashed write")
    old = dt.datetime.now(dt.UTC).timestamp() - 3 * 86400
    os.utime(orphan, (old, old))

    platform.intake.sealer("default").subjects.day_key(TODAY - dt.timedelta(days=40), create=True)
    (done,) = platform.maintenance.keep_up(CONTRACT, TODAY)

    assert done.partitions_ordered == 1
    assert done.rows_expired
    assert not orphan.exists()
    after = rows(platform)
    assert after.sort("event_id").equals(before.sort("event_id"))
    yesterday = after.filter(pl.col("received_date") == TODAY - dt.timedelta(days=1))
    assert yesterday["subject_ref"].is_sorted()
    with pytest.raises(DecryptionError):
        platform.intake.sealer("default").subjects.day_key(TODAY - dt.timedelta(days=40))


def test_no_subject_reaches_the_log(platform: Platform):
    platform.maintenance.keep_up(CONTRACT, TODAY)
    log = platform.tables.path("default", SPEC.key) / "_delta_log"
    for commit in log.glob("*.json"):
        for line in commit.read_text().splitlines():
            stats = json.loads(json.loads(line).get("add", {}).get("stats") or "{}")
            assert "subject_ref" not in stats.get("minValues", {})
            assert "record" not in stats.get("minValues", {})


def test_a_second_upkeep_finds_nothing_to_do(platform: Platform):
    platform.maintenance.keep_up(CONTRACT, TODAY)
    (done,) = platform.maintenance.keep_up(CONTRACT, TODAY)
    assert (done.partitions_ordered, done.rows_expired) == (0, False)


def test_the_nightly_job_completes_erasures_and_does_the_upkeep(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    from orchestration import definitions

    monkeypatch.setattr(definitions, "platform", lambda: platform)
    subject = platform.data_subjects("default").find("5082b1ae-6523-4e3b-a1d8-9750b4407e01")
    left_open = platform.erasure_requests("default").add([subject], ["d"], "tester", "r")
    assert definitions.defs.resolve_job_def("upkeep").execute_in_process().success
    assert platform.erasure_requests("default").find(left_open.id).state == ErasureState.CERTIFIED
