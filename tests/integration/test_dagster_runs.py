"""Whole runs in Dagster: what they write and report, what blocks them, and no value in its storage."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from assets.batches import UnexpectedError, scrubbed
from assets.partitions import hour_key
from dagster_stage import ALICE, VALUES, Stage, lines, staged
from homes import copy_home
from orchestration.sensors import run_failures
from stores.contracts import load_contract
from stores.landing import Batch
from stores.leaks import default_exclusions, scan
from transforms.errors import BusyError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "asset_graph.json"
CONTRACT = load_contract("logins")
MARTS = {"daily_logins", "device_activity", "user_sessions"}


# --- Whole runs


@dataclass
class Ran:
    """A stage after one run of twenty records, one of them refused."""

    stage: Stage
    batch: Batch
    result: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def ran(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("ran")
    home = copy_home(template, folder / "home")
    with staged(home, folder / "instance") as stage:
        (batch,) = stage.land(lines(20) + '{"user_id": "' + ALICE + '"}\n')
        yield Ran(stage, batch, stage.run([batch]))


def test_a_run_brings_a_batch_into_every_table(ran: Ran):
    assert ran.result.success
    counts = ran.stage.platform.ledger.counts([ran.batch.id])
    assert (counts.rows, counts.accepted, counts.quarantined, counts.unknown) == (21, 20, 1, 20)
    tables = {info.key: info.rows for info in ran.stage.platform.tables.listing("default")}
    assert (tables["raw.logins"], tables["masked.logins"], tables["quarantine.logins"]) == (20, 20, 1)
    assert {f"curated.{mart}" for mart in MARTS} <= set(tables)
    assert ran.stage.platform.landing.open_batches() == []


def test_a_run_materialises_its_partition_of_every_asset_with_counts(ran: Ran):
    hour = hour_key(ran.batch.received_at)
    # Of this very run: other tests materialise other hours of the same home.
    events = ran.result.get_asset_materialization_events()
    materialised = [event.step_materialization_data.materialization for event in events]
    for key, node in json.loads(GOLDEN.read_text()).items():
        # Nothing is served: no PostgreSQL is set.
        if not node["materializable"] or node["group"] != "logins" or key.startswith("served/"):
            continue
        (made,) = (one for one in materialised if one.asset_key == dg.AssetKey(key.split("/")))
        assert made.partition == hour
        assert {"dagster/row_count", "rows written", "bytes"} <= set(made.metadata), key
    (masked,) = (one for one in materialised if one.asset_key == dg.AssetKey(["masked", "logins"]))
    assert masked.metadata["rows written"].value == 20
    assert "rows per hour" in masked.metadata


def test_a_run_reports_every_check_as_passed(ran: Ran):
    passed = {
        (one.asset_key.to_user_string(), one.check_name)
        for one in ran.result.get_asset_check_evaluations()
        if one.passed
    }
    declared = {
        (key, check)
        for key, node in json.loads(GOLDEN.read_text()).items()
        for check in node["checks"]
        if node["group"] == "logins" and not key.startswith("served/")
    }
    assert passed == declared


def test_nothing_readable_reaches_the_storage_of_dagster_or_the_home(ran: Ran):
    home = ran.stage.platform.home
    for root, excluded in ((home.root, default_exclusions(home)), (home.root.parent / "instance", [])):
        report = scan(root, VALUES, exclude=excluded)
        assert (report.hits, report.unreadable) == ([], [])
        assert report.files > 3


def test_a_run_again_for_the_same_batch_changes_nothing(ran: Ran):
    before = {
        info.key: info.version
        for info in ran.stage.platform.tables.listing("default")
        if info.zone != "curated"
    }
    assert ran.stage.run([ran.batch]).success
    after = {
        info.key: info.version
        for info in ran.stage.platform.tables.listing("default")
        if info.zone != "curated"
    }
    assert after == before


def test_a_masked_partition_is_made_again_exactly(ran: Ran):
    """Nonces of sealed cells are new each time; everything else is the same."""
    before = ran.stage.masked()
    hour = hour_key(ran.batch.received_at)
    result = ran.stage.run([], hour, asset_selection=[dg.AssetKey(["masked", "logins"])])
    assert result.success
    after = ran.stage.masked()
    assert after.drop("unknown_sealed").equals(before.drop("unknown_sealed"))
    assert after["unknown_sealed"].is_not_null().all()
    assert all(one.passed for one in result.get_asset_check_evaluations())


def test_an_hour_without_arrivals_can_be_made_as_well(ran: Ran):
    before = ran.stage.masked()
    other = hour_key(ran.batch.received_at - timedelta(hours=5))
    result = ran.stage.run([], other)
    assert result.success
    assert ran.stage.masked().drop("unknown_sealed").equals(before.drop("unknown_sealed"))


def test_a_raw_partition_is_verified_and_reported(ran: Ran):
    result = ran.stage.run(
        [],
        hour_key(ran.batch.received_at),
        asset_selection=[dg.AssetKey([zone, "logins"]) for zone in ("raw", "quarantine")],
    )
    assert result.success
    event = ran.stage.instance.get_latest_materialization_event(dg.AssetKey(["raw", "logins"]))
    assert event.asset_materialization.metadata["rows written"].value == 20


# --- What blocks


def built(stage: Stage, result: dg.ExecuteInProcessResult) -> set[str]:
    """The assets that a run materialised."""
    return {
        event.asset_key.to_user_string()
        for event in result.all_events
        if event.is_step_materialization and event.asset_key is not None
    }


def replaced(rows: pa.Table, name: str, value: str) -> pa.Table:
    """The rows with one value in all of a column."""
    return rows.set_column(rows.column_names.index(name), name, pa.repeat(value, rows.num_rows))


def test_a_readable_value_in_masked_rows_blocks_the_marts(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    import stores.intake

    original = stores.intake.mask_records

    def leaking(frame: pl.DataFrame, *more: Any) -> pa.Table:
        return replaced(original(frame, *more), "device_type", ALICE)

    monkeypatch.setattr(stores.intake, "mask_records", leaking)
    batches = stage.land(lines(3))
    result = stage.run(batches)
    assert not result.success
    verdicts = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert verdicts == {"no_readable_pii": False, "nothing_lost": True}
    assert "masked/logins" in built(stage, result)
    assert not any(key.startswith("curated/") for key in built(stage, result))
    assert not any(info.zone == "curated" for info in stage.platform.tables.listing("default"))
    assert [batch.id for batch in stage.platform.landing.open_batches()] == [batches[0].id]
    # The finding names the column and the kind; the value stays where it was found.
    assert scan(stage.home.parent / "instance", VALUES, exclude=[]).hits == []


def test_a_token_of_a_foreign_key_blocks_the_marts(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    import stores.intake

    original = stores.intake.mask_records
    foreign = "AQAAAAB" + "x" * 41

    def forging(frame: pl.DataFrame, *more: Any) -> pa.Table:
        return replaced(original(frame, *more), "ip_token", foreign)

    monkeypatch.setattr(stores.intake, "mask_records", forging)
    result = stage.run(stage.land(lines(2)))
    assert not result.success
    assert {one.check_name for one in result.get_asset_check_evaluations() if not one.passed} == {
        "no_readable_pii"
    }


def test_a_lost_row_blocks_the_marts(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    from stores.intake import Intake

    original = Intake._masked
    monkeypatch.setattr(Intake, "_masked", lambda *arguments: original(*arguments).slice(0, 2))
    result = stage.run(stage.land(lines(3)))
    assert not result.success
    assert {one.check_name for one in result.get_asset_check_evaluations() if not one.passed} == {
        "nothing_lost"
    }
    assert not any(key.startswith("curated/") for key in built(stage, result))


# --- Errors


PLACES = [
    "stores.tables.Tables.append",
    "stores.tables.Tables.reading",
    "stores.tables.Tables.listing",
    "stores.ledger.Ledger.counts",
    "stores.ledger.Ledger.add_chunk",
    "stores.intake.Intake.mask_batch",
    "stores.intake.Intake.sealer",
    "stores.marts.Marts.rebuild",
    "stores.landing.Landing.batch",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("chained", [False, True], ids=["plain", "chained"])
def test_the_text_of_an_error_does_not_reach_dagster(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, place: str, chained: bool
):
    def fail(*_: object, **__: object) -> None:
        try:
            raise ValueError(f"{ALICE} is no number")
        except ValueError as error:
            if chained:
                raise BusyError("our own words") from error
            raise

    batches = stage.land(lines(2))
    monkeypatch.setattr(place, fail)
    result = stage.run(batches)
    assert not result.success
    report = scan(stage.home.parent / "instance", VALUES, exclude=[])
    assert (report.hits, report.unreadable) == ([], [])


def test_an_error_is_told_by_its_kind_and_place():
    with (
        pytest.raises(UnexpectedError, match=r"^ValueError at test_dagster_runs\.py:\d+$") as raised,
        scrubbed(),
    ):
        raise ValueError(ALICE)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_a_failed_run_is_audited_without_its_error(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ValueError(ALICE)

    batches = stage.land(lines(2))
    with monkeypatch.context() as patch:
        patch.setattr("stores.intake.Intake.seal_batch", fail)
        result = stage.run(batches)
    (failure,) = [event for event in result.all_events if event.is_run_failure] or [None]
    run = stage.instance.get_run_by_id(result.run_id)
    assert run is not None
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failures",
        dagster_event=failure or stage.instance.all_logs(run.run_id)[-1].dagster_event,
        dagster_instance=stage.instance,
        dagster_run=run,
    ).for_run_failure()
    run_failures(context, audit=stage.platform.audit)
    last = stage.platform.audit.entries("default", 1)[0]
    assert (last.principal, last.action, last.outcome) == ("dagster", "dagster:run:failed", "failed")
    assert json.loads(last.parameters) == {"job": "ingest_logins", "run": run.run_id}
    assert stage.platform.audit.verify("default").ok
