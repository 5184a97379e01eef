"""What Dagster sees and keeps: the asset graph, the sensors, whole runs, and no value in its storage.

The graph is held against `tests/golden/asset_graph.json`. After a wanted change, write it anew and
review the difference: `RENEW_GOLDEN=1 .venv/bin/python -m pytest tests/integration/test_dagster.py -k graph`.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import create_run_for_test

from assets.batches import UnexpectedError, scrubbed
from assets.partitions import hour_key
from orchestration import definitions
from orchestration.definitions import defs
from orchestration.jobs import INGEST_LOGINS, batches_config
from orchestration.resources import Platform
from orchestration.sensors import landing_logins, run_failures
from stores.contracts import load_contract
from stores.landing import Batch
from stores.leaks import default_exclusions, scan
from stores.settings import load_settings
from transforms.errors import BusyError
from transforms.tables import masked_table

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "asset_graph.json"
CONTRACT = load_contract("logins")
ALICE = "alice@example.com"
MARTS = {"daily_logins", "device_activity", "user_sessions"}


# --- The graph


def graph_as_json() -> dict[str, Any]:
    """Everything of the graph that a reviewer should see change."""
    graph = defs.resolve_asset_graph()
    return {
        key.to_user_string(): {
            "deps": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "group": graph.get(key).group_name,
            "owners": sorted(graph.get(key).owners),
            "kinds": sorted(graph.get(key).kinds),
            "tags": {
                name: value for name, value in sorted(graph.get(key).tags.items()) if "dagster/kind" not in name
            },
            "checks": sorted(check.name for check in graph.get(key).check_keys),
            "blocking": sorted(
                check.name for check in graph.get(key).check_keys if graph.get_check_spec(check).blocking
            ),
            "partitions": str(graph.get(key).partitions_def or "none"),
            "materializable": graph.get(key).is_materializable,
        }
        for key in sorted(graph.get_all_asset_keys())
    }


def test_the_asset_graph_is_the_reviewed_one():
    met = graph_as_json()
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(met, indent=2) + "\n")
    assert met == json.loads(GOLDEN.read_text()), "wanted? then renew it, as this file's first lines say"


def test_every_asset_is_described_owned_grouped_and_tagged():
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert len(node.description or "") > 20, key
        assert "select" not in str(node.description).lower(), key
        assert node.owners, key
        assert node.group_name != "default", key
        assert {"layer", "pii"} <= set(node.tags), key
        assert node.tags["layer"] == key.path[0], key


def test_the_catalog_shows_the_columns_that_the_contract_makes():
    spec = masked_table(CONTRACT)
    shown = defs.resolve_asset_graph().get(dg.AssetKey(["masked", "logins"])).metadata["dagster/column_schema"]
    assert isinstance(shown, dg.TableSchema)
    assert [column.name for column in shown.columns] == [column.name for column in spec.columns]
    for column, declared in zip(shown.columns, spec.columns, strict=True):
        assert column.description == declared.description
        assert column.constraints.nullable == declared.nullable
        assert dict(column.tags or {}) == ({"pii": declared.pii} if declared.pii else {})
    tagged = {column.name: dict(column.tags)["pii"] for column in shown.columns if column.tags}
    assert tagged["ip_token"] == "token"  # noqa: S105 - the name of a tag
    assert tagged["ip_net24"] == "coarse"
    assert tagged["unknown_sealed"] == "sealed"
    assert "device_type" not in tagged


def test_each_mart_tags_the_tokens_that_it_keeps():
    graph = defs.resolve_asset_graph()
    for mart in MARTS:
        node = graph.get(dg.AssetKey(["curated", mart]))
        columns = node.metadata["dagster/column_schema"].columns
        tokens = {column.name for column in columns if column.name.endswith("_token")}
        assert tokens == {column.name for column in columns if column.tags}
        assert node.tags["pii"] == ("pseudonymous" if tokens else "none")


def test_lineage_of_columns_names_raw_ones_only():
    node = defs.resolve_asset_graph().get(dg.AssetKey(["masked", "logins"]))
    lineage = node.metadata["dagster/column_lineage"]
    raw = {
        column.name
        for column in defs.resolve_asset_graph()
        .get(dg.AssetKey(["raw", "logins"]))
        .metadata["dagster/column_schema"]
        .columns
    }
    assert {dep.column_name for deps in lineage.deps_by_column.values() for dep in deps} <= raw


def test_the_current_hour_is_a_partition():
    hours = defs.resolve_asset_graph().get(dg.AssetKey(["raw", "logins"])).partitions_def
    assert hours is not None
    assert hours.get_last_partition_key() == hour_key(datetime.now(UTC))


# --- Loading

_WATCH = """
import json, os, sys
root, wrote, read = sys.argv[1], [], []
ours = tuple(os.path.join(root, room) + os.sep for room in ("transforms", "stores", "assets", "orchestration"))
def watch(event, arguments):
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & writing:
        wrote.append(str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.remove", "socket.connect"):
        wrote.append(event)
original = os._Environ.__getitem__
def noting(self, name):
    if any(sys._getframe(back).f_code.co_filename.startswith(ours) for back in (1, 2)):
        read.append(name)
    return original(self, name)
os._Environ.__getitem__ = noting
sys.addaudithook(watch)
from orchestration.definitions import defs
found = [name for name in wrote if not name.startswith("/dev/")]
os._Environ.__getitem__ = original
import warnings
warnings.simplefilter("ignore")
import dagster as dg
from pathlib import Path
plain = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())
loaded = dg.load_from_defs_folder(path_within_project=Path(root) / "assets")
loaded = dg.Definitions.merge(loaded, dg.Definitions(resources=defs.resources))
folder = sorted(key.to_user_string() for key in loaded.resolve_asset_graph().get_all_asset_keys())
print(json.dumps({"wrote": found, "read": read, "plain": plain, "folder": folder}))
"""


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process does while it loads the definitions, in an empty folder without a home."""
    folder = tmp_path_factory.mktemp("nowhere")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LOCKHOUSE_", "DAGSTER_"))
    }
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "left": [path.name for path in folder.iterdir()]}


def test_loading_makes_no_file_and_opens_no_connection(loading: dict[str, Any]):
    assert loading["wrote"] == []
    assert ".lockhouse" not in loading["left"]


def test_loading_reads_nothing_of_the_environment(loading: dict[str, Any]):
    assert loading["read"] == []


def test_loading_as_dg_does_gives_the_same_assets(loading: dict[str, Any]):
    assert loading["folder"] == loading["plain"] == sorted(json.loads(GOLDEN.read_text()))


# --- A home to run in


@dataclass
class Stage:
    """A home, its platform, and an instance of Dagster."""

    home: Path
    platform: Platform
    instance: dg.DagsterInstance

    def run(self, batches: list[Batch], hour: str | None = None, **more: Any) -> dg.ExecuteInProcessResult:
        """Run the job for batches, or for an hour as it is."""
        config = batches_config("logins", [batch.id for batch in batches]) if batches else {}
        return defs.resolve_job_def(INGEST_LOGINS.name).execute_in_process(
            instance=self.instance,
            partition_key=hour or hour_key(batches[0].received_at),
            run_config={**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
            **more,
        )

    def land(self, content: str, name: str = "events.ndjson") -> list[Batch]:
        return self.platform.landing.land("logins", "default", name, content.encode())

    def masked(self) -> pl.DataFrame:
        with self.platform.tables.reading("default", "masked.logins") as rows:
            return rows.collect().sort("event_id")

    def drop(self, name: str, content: str = "{}\n", tenant: str = "default") -> Path:
        folder = self.platform.landing.drop_folder("logins", tenant)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(content)
        return path


@contextmanager
def staged(home: Path, storage: Path) -> Iterator[Stage]:
    """Make this process's platform that of a home."""
    platform = Platform(load_settings(home))
    storage.mkdir()
    with dg.DagsterInstance.local_temp(str(storage)) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "platform", lambda: platform)
        patch.setattr("dagster.RetryPolicy.calculate_delay", lambda *_: 0)
        yield Stage(home, platform, instance)


@pytest.fixture(scope="module")
def template(lockhouse: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("dagster") / "template"
    assert lockhouse("init", home=home).code == 0
    return home


@pytest.fixture
def stage(template: Path, tmp_path: Path) -> Iterator[Stage]:
    """An empty home of one's own."""
    home = Path(shutil.copytree(template, tmp_path / "home"))
    with staged(home, tmp_path / "instance") as made:
        yield made


def lines(count: int, **fields: object) -> str:
    """Logins as JSON lines."""
    records = [
        {
            "user_id": f"00000000-0000-4000-8000-{number:012d}",
            "ip": f"198.51.100.{number + 1}",
            "device_id": f"{number:03d}-45-6789",
            "device_type": "ios",
            "app_version": "1.2.3",
            "nickname": f"nick-of-{number:05d}",
            **fields,
        }
        for number in range(count)
    ]
    return "".join(json.dumps(record) + "\n" for record in records)


VALUES = [
    *(f"00000000-0000-4000-8000-{number:012d}" for number in range(20)),
    *(f"198.51.100.{number + 1}" for number in range(9, 20)),
    *(f"{number:03d}-45-6789" for number in range(20)),
    *(f"nick-of-{number:05d}" for number in range(20)),
    "events.ndjson",
    ALICE,
]


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
    home = Path(shutil.copytree(template, folder / "home"))
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


def test_a_readable_value_in_masked_rows_blocks_the_marts(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    import stores.intake

    original = stores.intake.mask_records

    def leaking(frame: pl.DataFrame, *more: Any) -> pl.DataFrame:
        return original(frame, *more).with_columns(device_type=pl.lit(ALICE))

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

    def forging(frame: pl.DataFrame, *more: Any) -> pl.DataFrame:
        return original(frame, *more).with_columns(ip_token=pl.lit(foreign))

    monkeypatch.setattr(stores.intake, "mask_records", forging)
    result = stage.run(stage.land(lines(2)))
    assert not result.success
    assert {one.check_name for one in result.get_asset_check_evaluations() if not one.passed} == {
        "no_readable_pii"
    }


def test_a_lost_row_blocks_the_marts(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    from stores.intake import Intake

    original = Intake._masked
    monkeypatch.setattr(Intake, "_masked", lambda *arguments: original(*arguments).head(2))
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
    with pytest.raises(UnexpectedError, match=r"^ValueError at test_dagster\.py:\d+$") as raised, scrubbed():
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


# --- The landing sensor


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


def test_what_lands_while_a_run_is_under_way_is_taken_by_the_next_one(stage: Stage):
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


def test_files_of_tenants_that_nobody_registered_wait(stage: Stage):
    """They have no keys: a run with them would fail, and with it everything else of that hour."""
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
