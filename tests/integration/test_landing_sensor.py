"""The landing sensor: what it takes and when, the runs that it asks for, and what its cursor keeps."""

import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from assets.batches import UnexpectedError
from dagster_stage import Stage, lines
from orchestration.definitions import defs
from orchestration.jobs import INGEST_LOGINS, batches_config
from orchestration.sensors import landing_logins
from stores.contracts import load_contract

CONTRACT = load_contract("logins")
ALICE = "alice@example.com"


@pytest.fixture(autouse=True)
def _one_look_a_tick(monkeypatch: pytest.MonkeyPatch):
    """Each tick looks once, so that a test can write between two looks (the second: test_landing.py)."""
    monkeypatch.setattr("orchestration.sensors.TICK_S", 0)


def tick(stage: Stage, cursor: str | None = None) -> dg.SensorResult:
    """One evaluation of the sensor."""
    context = dg.build_sensor_context(instance=stage.instance, cursor=cursor)
    result = landing_logins(
        context, landing=stage.platform.landing, access=stage.platform.access, ledger=stage.platform.ledger
    )
    assert isinstance(result, dg.SensorResult)
    return result


def requested(result: dg.SensorResult) -> list[list[str]]:
    """The batches of each run that was asked for."""
    return [
        request.run_config["ops"]["sealed_logins"]["config"]["batches"] for request in result.run_requests or []
    ]


def earlier(cursor: str, back: timedelta) -> str:
    """A cursor as if its ticks had been some time ago."""
    asked = json.loads(cursor)
    moved = {
        batch: [(datetime.fromisoformat(at) - back).isoformat() for at in times]
        for batch, times in asked.items()
    }
    return json.dumps(moved)


def within_one_hour(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all batches be of one hour, also where the test begins at the end of one."""
    monkeypatch.setattr(stage.platform.landing, "_clock", lambda: datetime(2026, 11, 21, 10, 30, tzinfo=UTC))


def test_a_file_is_taken_when_its_size_held_for_one_tick(stage: Stage):
    path = stage.drop("events.json", "{")
    assert requested(tick(stage)) == []
    path.write_text('{"more": 1}')
    assert requested(tick(stage)) == []
    assert path.exists()
    assert len(requested(tick(stage))) == 1
    assert not path.exists()


def begun(stage: Stage, *batches: str) -> dg.DagsterRun:
    """A run of the source that has not ended."""
    run = dg.DagsterRun(
        "ingest_logins",
        run_id=str(uuid.uuid4()),
        run_config=batches_config("logins", list(batches)),
        status=dg.DagsterRunStatus.STARTED,
    )
    return stage.instance.add_run(run)


def test_what_lands_while_a_run_is_under_way_is_taken_by_the_next_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    within_one_hour(stage, monkeypatch)
    [batch] = stage.land(lines(2))
    begun(stage, batch.id)
    stage.drop("one.json")
    tick(stage)
    assert requested(tick(stage)) == []
    stage.drop("two.json")
    tick(stage)
    assert requested(tick(stage)) == []
    stage.platform.intake.seal_batch(batch.id, CONTRACT)
    assert requested(tick(stage)) == []
    stage.platform.intake.mask_batch(batch.id, CONTRACT)
    # The marts of the first are still made.
    [taken] = requested(tick(stage))
    assert len(taken) == 2
    begun(stage, *taken)
    for one in taken:
        stage.platform.intake.seal_batch(one, CONTRACT)
        stage.platform.intake.mask_batch(one, CONTRACT)
    stage.drop("three.json")
    tick(stage)
    # Two are enough.
    assert requested(tick(stage)) == []


def test_a_run_that_hangs_is_waited_for_no_longer_than_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    begun(stage, *(one.id for one in stage.land(lines(2))))
    stage.drop("one.json")
    tick(stage)
    assert requested(tick(stage)) == []
    monkeypatch.setattr("orchestration.sensors._WAITED_FOR", timedelta(0))
    assert len(requested(tick(stage))) == 1


def test_a_file_that_is_written_again_with_the_same_size_is_waited_for(stage: Stage):
    path = stage.drop("events.json", "{1}")
    tick(stage)
    path.write_text("{2}")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000))
    assert requested(tick(stage)) == []
    assert len(requested(tick(stage))) == 1


@pytest.mark.parametrize("name", ["events.json.part", ".events.json", ".part", "..x"])
def test_partial_and_hidden_files_are_left_alone(stage: Stage, name: str):
    path = stage.drop(name)
    for _ in range(3):
        assert requested(tick(stage)) == []
    assert path.exists()
    path.rename(path.with_name("done.json"))
    tick(stage)
    assert len(requested(tick(stage))) == 1


def test_links_folders_and_files_beside_the_tenants_are_left_alone(stage: Stage, tmp_path: Path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    folder = stage.drop("x.json").parent
    (folder / "x.json").unlink()
    (folder / "link.json").symlink_to(outside)
    (folder / "deep").mkdir()
    (folder / "deep" / "events.json").write_text("{}")
    (folder.parent / "events.json").write_text("{}")
    for _ in range(3):
        assert requested(tick(stage)) == []
    assert outside.exists()


def test_files_of_tenants_that_nobody_registered_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """They have no keys: a run with them would fail, and with it everything else of that hour."""
    within_one_hour(stage, monkeypatch)
    waiting = stage.drop("events.json", tenant="unknown")
    stage.drop("events.json")
    tick(stage)
    assert len(requested(tick(stage))) == 1
    assert waiting.exists()
    stage.platform.add_tenant("unknown", "somebody")
    assert len(requested(tick(stage))) == 1
    assert not waiting.exists()


def test_one_run_is_asked_for_all_batches_of_an_hour(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    now = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
    moments = iter([now, now + timedelta(minutes=20), now + timedelta(hours=1)])
    monkeypatch.setattr(stage.platform.landing, "_clock", lambda: next(moments))
    for number in range(3):
        stage.land(lines(1), f"{number}.ndjson")
    result = tick(stage)
    assert [len(ids) for ids in requested(result)] == [2, 1]
    keys = [request.partition_key for request in result.run_requests or []]
    assert keys == ["2026-11-21-10:00", "2026-11-21-11:00"]
    for request in result.run_requests or []:
        assert request.run_key is None
        assert dg.validate_run_config(defs.resolve_job_def(INGEST_LOGINS.name), request.run_config)


def test_a_thousand_files_are_one_run(stage: Stage):
    for number in range(300):
        stage.drop(f"{number}.json")
    tick(stage)
    assert [len(ids) for ids in requested(tick(stage))] == [1]


def test_no_file_name_leaves_landing(stage: Stage):
    stage.drop(f"{ALICE}.json")
    first = tick(stage)
    second = tick(stage, first.cursor)
    told = json.dumps(
        [first.cursor, second.cursor, [request.run_config for request in second.run_requests or []]]
    )
    assert ALICE not in told
    assert "alice" not in told
    (ids,) = requested(second)
    assert set(json.loads(second.cursor or "{}")) == set(ids)


@pytest.mark.parametrize("step", ["recover", "settled", "claim", "open_batches"])
def test_an_error_with_a_file_name_stays_out_of_the_ticks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, step: str
):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", f"{ALICE}.json")

    stage.drop(f"{ALICE}.json")
    tick(stage)
    monkeypatch.setattr(stage.platform.landing, step, fail)
    with pytest.raises(UnexpectedError) as raised:
        tick(stage)
    assert ALICE not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_batch_is_not_asked_for_while_its_run_goes_on(stage: Stage):
    (batch,) = stage.land(lines(1))
    first = tick(stage)
    assert requested(first) == [[batch.id]]
    late = earlier(str(first.cursor), timedelta(days=1))
    for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED):
        run = create_run_for_test(
            stage.instance,
            job_name=INGEST_LOGINS.name,
            status=status,
            run_config=batches_config("logins", [batch.id]),
        )
        assert requested(tick(stage, late)) == []
        stage.instance.delete_run(run.run_id)
    create_run_for_test(
        stage.instance,
        job_name=INGEST_LOGINS.name,
        status=dg.DagsterRunStatus.FAILURE,
        run_config=batches_config("logins", [batch.id]),
    )
    assert requested(tick(stage, late)) == [[batch.id]]


def test_a_failed_batch_is_asked_for_again_after_its_patience_each_time_later(stage: Stage):
    (batch,) = stage.land(lines(1))
    cursor = str(tick(stage).cursor)
    for patience in (1, 5, 20, 60, 60, 60):
        minutes = timedelta(minutes=patience)
        assert requested(tick(stage, earlier(cursor, minutes - timedelta(seconds=20)))) == []
        again = tick(stage, earlier(cursor, minutes))
        assert requested(again) == [[batch.id]]
        cursor = str(again.cursor)


def test_the_cursor_forgets_what_is_done_and_does_not_grow(stage: Stage):
    (batch,) = stage.land(lines(1))
    cursor = str(tick(stage).cursor)
    for _ in range(30):
        cursor = str(tick(stage, earlier(cursor, timedelta(hours=2))).cursor)
    assert list(json.loads(cursor)) == [batch.id]
    assert len(json.loads(cursor)[batch.id]) == 4
    stage.platform.landing.close(batch)
    assert json.loads(str(tick(stage, cursor).cursor)) == {}


def test_what_a_killed_sensor_was_claiming_is_completed(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    stage.drop("events.json")
    tick(stage)
    with monkeypatch.context() as patch:
        patch.setattr("stores.landing.Landing._finish", die)
        with pytest.raises(KeyboardInterrupt):
            tick(stage)
    assert stage.platform.landing.open_batches() == []
    assert len(requested(tick(stage))) == 1


def test_the_sensor_of_the_definitions_asks_for_runs_that_can_start(stage: Stage):
    """As the daemon does it: through the definitions, with the platform's own resources."""
    stage.land(lines(1))
    repository = defs.get_repository_def()
    resources = repository.get_top_level_resources()
    with dg.build_sensor_context(
        instance=stage.instance, repository_def=repository, resources=resources
    ) as context:
        outcome = repository.get_sensor_def("landing_logins").evaluate_tick(context)
    assert len(outcome.run_requests or []) == 1
