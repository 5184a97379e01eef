"""The dbt layer on real Delta tables: values, windows, tenants, contracts, what the log may hold.

Every build runs in this process, on a lake in a temporary folder.
"""

import json
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from stores import dbt_delta, dbt_runs
from stores.dbt_delta import Window, replace_window
from stores.dbt_runs import DbtOutcome, build
from stores.delta_views import select_nothing
from stores.marts import marts_of
from transforms.errors import BusyError, TableError, UsageError

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
MARTS = ("daily_logins", "device_activity", "user_sessions")

SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        ("tenant", pa.string()),
        ("received_at", pa.timestamp("us", "UTC")),
        ("received_date", pa.date32()),
        ("received_hour", pa.timestamp("us", "UTC")),
        ("occurred_at", pa.timestamp("us", "UTC")),
        ("event_hour", pa.timestamp("us", "UTC")),
        ("clock_skewed", pa.bool_()),
        ("batch_id", pa.string()),
        ("chunk", pa.int32()),
        pa.field("user_id_token", pa.string(), nullable=False),
        ("ip_token", pa.string()),
        ("ip_net24", pa.string()),
        ("ip_net48", pa.string()),
        ("device_id_token", pa.string()),
        ("device_type", pa.string()),
        ("app_version", pa.string()),
        ("app_version_major", pa.int32()),
        ("app_version_minor", pa.int32()),
        ("app_version_patch", pa.int32()),
        ("locale", pa.string()),
        ("unknown_count", pa.int32()),
        ("unknown_sealed", pa.binary()),
    ]
)


def token_of(kind: str, number: int) -> str:
    """Something of the length and alphabet of a token."""
    return f"AQ{kind}{number:04d}".ljust(48, "x")


class Login(NamedTuple):
    """The parts of a login that these tests vary."""

    occurred_at: datetime
    user: int
    device: int | None = 1
    device_type: str | None = "ios"
    locale: str | None = "en_US"
    app_version: str = "1.0.0"
    received_at: datetime | None = None
    clock_skewed: bool = False
    network: str = "192.0.2.0/24"


def row_of(login: Login, number: int) -> dict[str, object]:
    """Fill in a whole masked row."""
    received = login.received_at or login.occurred_at + timedelta(seconds=5)
    return {
        "event_id": f"00000000-0000-7000-8000-{number:012d}",
        "tenant": "acme",
        "received_at": received,
        "received_date": received.date(),
        "received_hour": received.replace(minute=0, second=0, microsecond=0),
        "occurred_at": login.occurred_at,
        "event_hour": login.occurred_at.replace(minute=0, second=0, microsecond=0),
        "clock_skewed": login.clock_skewed,
        "batch_id": "batch-1",
        "chunk": 0,
        "user_id_token": token_of("u", login.user),
        "ip_token": token_of("i", login.user),
        "ip_net24": login.network,
        "ip_net48": None,
        "device_id_token": None if login.device is None else token_of("d", login.device),
        "device_type": login.device_type,
        "app_version": login.app_version,
        "app_version_major": 1,
        "app_version_minor": 0,
        "app_version_patch": None,
        "locale": login.locale,
        "unknown_count": 0,
        "unknown_sealed": None,
    }


def at(day: date, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}+00:00").astimezone(UTC)


def append_logins(lake: Path, logins: list[Login], tenant: str = "acme", first_number: int = 0) -> None:
    rows = [row_of(login, first_number + number) for number, login in enumerate(logins)]
    write_deltalake(
        lake / tenant / "masked" / "logins",
        pa.Table.from_pylist(rows, SCHEMA),
        mode="append",
        partition_by=["received_date", "clock_skewed"],
    )


def read_mart(lake: Path, mart: str, tenant: str = "acme") -> list[dict[str, object]]:
    """All rows of a mart in a fixed order, read without DuckDB."""
    frame = pl.read_delta(str(lake / tenant / "curated" / mart))
    return frame.select(sorted(frame.columns)).sort(pl.all()).to_dicts()


def read_marts(lake: Path, tenant: str = "acme") -> dict[str, list[dict[str, object]]]:
    return {mart: read_mart(lake, mart, tenant) for mart in MARTS}


def crowd(day: date, users: int, **login: object) -> list[Login]:
    """One login each of so many users, on devices of their own."""
    return [Login(at(day, "08:00:00"), user, device=user, **login) for user in range(users)]  # type: ignore[arg-type]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def run(lake: Path, tmp_path: Path):
    """Build the marts of logins for acme, all dates unless told, and expect it to work unless told."""

    def _run(*dates: date, tenant: str = "acme", works: bool = True, **more: object) -> DbtOutcome:
        selected = {"select": marts_of("logins"), **more}
        outcome = build(tenant, lake, dates, tmp_path / "target", "batch-7", **selected)
        assert outcome.succeeded == works, outcome
        return outcome

    return _run


@pytest.fixture
def two_days(lake: Path) -> Path:
    """Twelve users on the first date, eleven on the second, and some detail on the first."""
    detail = [
        Login(at(FIRST, "08:30:00"), 0, device=0, app_version="1.1.0"),
        Login(at(FIRST, "09:00:01"), 0, device=1, network="198.51.100.0/24"),
        Login(at(FIRST, "23:59:00"), 0, device=None),
        Login(at(SECOND, "00:01:00"), 0, device=None),
    ]
    append_logins(lake, crowd(FIRST, 12) + crowd(SECOND, 11) + detail)
    return lake


# -- what the marts say -------------------------------------------------------------------------


def test_daily_logins_count_logins_users_devices_and_networks(two_days, run):
    run()
    rows = [tuple(row.values()) for row in read_mart(two_days, "daily_logins")]
    # device_type, devices, event_date, locale, logins, networks, users
    assert rows == [
        ("ios", 11, SECOND, "en_US", 12, 1, 11),
        ("ios", 12, FIRST, "en_US", 15, 2, 12),
    ]


def test_device_activity_has_first_last_and_latest_version(two_days, run):
    run()
    rows = read_mart(two_days, "device_activity")
    assert len(rows) == 12 + 11
    [device] = [r for r in rows if r["device_id_token"] == token_of("d", 0) and r["event_date"] == FIRST]
    assert device == {
        "event_date": FIRST,
        "device_id_token": token_of("d", 0),
        "logins": 2,
        "users": 1,
        "networks": 1,
        "first_login_at": at(FIRST, "08:00:00"),
        "last_login_at": at(FIRST, "08:30:00"),
        "device_type": "ios",
        "app_version": "1.1.0",
    }


def test_user_sessions_end_after_a_pause_and_at_midnight(two_days, run):
    run()
    rows = [r for r in read_mart(two_days, "user_sessions") if r["user_id_token"] == token_of("u", 0)]
    spans = sorted((r["event_date"], r["session_number"], r["started_at"], r["logins"]) for r in rows)
    assert spans == [
        (FIRST, 1, at(FIRST, "08:00:00"), 2),
        (FIRST, 2, at(FIRST, "09:00:01"), 1),
        (FIRST, 3, at(FIRST, "23:59:00"), 1),
        (SECOND, 1, at(SECOND, "00:01:00"), 1),
        (SECOND, 2, at(SECOND, "08:00:00"), 1),
    ]


def test_no_group_under_the_threshold_is_published_and_totals_stay(lake, run):
    append_logins(
        lake,
        crowd(FIRST, 30)
        + crowd(FIRST, 9, locale="de_DE")
        + crowd(FIRST, 4, locale=None)
        + crowd(FIRST, 3, device_type="tv")
        + crowd(SECOND, 9),
    )
    outcome = run()
    rows = read_mart(lake, "daily_logins")
    # Nine and four users of ios overlap: the same nine people. They and the three join the thirty.
    assert {(r["event_date"], r["device_type"], r["locale"], r["logins"], r["users"]) for r in rows} == {
        (FIRST, "other", "other", 46, 30)
    }
    assert {test.status for test in outcome.tests} == {"pass"}


def test_settings_reach_the_models(two_days, run):
    append_logins(two_days, crowd(FIRST, 4, device_type="tv"), first_number=5000)
    run(settings={"k_threshold": 3, "session_gap_minutes": 2000})
    assert {row["device_type"] for row in read_mart(two_days, "daily_logins")} == {"ios", "tv"}
    assert {row["session_number"] for row in read_mart(two_days, "user_sessions")} == {1}


def test_a_setting_that_does_not_exist_is_refused(run):
    with pytest.raises(UsageError, match="k_treshold"):
        run(settings={"k_treshold": 3})


def test_every_test_names_its_model(two_days, run):
    assert {test.model for test in run().tests} == {*MARTS}


# -- replacing windows --------------------------------------------------------------------------


@pytest.mark.parametrize("dates", [(), (FIRST,), (FIRST, SECOND)])
def test_a_re_run_changes_nothing(two_days, run, dates):
    run()
    before = read_marts(two_days)
    run(*dates)
    assert read_marts(two_days) == before


def test_late_data_replaces_its_own_date_only(two_days, run, lake):
    run()
    before = read_marts(lake)
    late = [Login(at(FIRST, "10:00:00"), 40, device=40, received_at=at(SECOND, "09:00:00"))]
    append_logins(lake, late, first_number=1000)
    append_logins(lake, [Login(at(SECOND, "10:00:00"), 41)], first_number=2000)
    run(FIRST)
    after = read_marts(lake)
    for mart in MARTS:
        assert of_date(after[mart], SECOND) == of_date(before[mart], SECOND)
    assert of_date(after["daily_logins"], FIRST)[0]["users"] == 13
    assert len(of_date(after["device_activity"], FIRST)) == 13
    run(SECOND)
    assert of_date(read_mart(lake, "daily_logins"), SECOND)[0]["users"] == 12


def of_date(rows: list[dict[str, object]], day: date) -> list[dict[str, object]]:
    return [row for row in rows if row["event_date"] == day]


def test_a_window_without_rows_loses_its_old_ones(two_days, run):
    run()
    DeltaTable(two_days / "acme" / "masked" / "logins").delete(f"received_date = '{FIRST}'")
    outcome = run(FIRST)
    for mart in MARTS:
        assert of_date(read_mart(two_days, mart), FIRST) == []
        assert of_date(read_mart(two_days, mart), SECOND) != []
    assert [model.rows for model in outcome.models] == [0, 0, 0]


def test_every_date_at_once_equals_date_by_date(two_days, run):
    run(FIRST)
    assert {row["event_date"] for row in read_mart(two_days, "user_sessions")} == {FIRST}
    run(SECOND)
    by_date = read_marts(two_days)
    run()
    assert read_marts(two_days) == by_date


def test_a_skewed_clock_counts_on_the_date_it_gave(lake, run):
    long_ago = date(1970, 1, 1)
    skewed = {"received_at": at(SECOND, "08:00:00"), "clock_skewed": True}
    append_logins(lake, crowd(SECOND, 10) + crowd(long_ago, 10, **skewed))
    run(long_ago)
    assert [row["event_date"] for row in read_mart(lake, "daily_logins")] == [long_ago]


def test_the_ends_of_the_calendar_are_dates_like_others(lake, run):
    """A clock may be wrong by as much as a date can say; that must not stop the marts of everybody else."""
    ends = (date.min, SECOND, date.max)
    skewed = {"received_at": at(SECOND, "08:00:00"), "clock_skewed": True}
    append_logins(lake, crowd(SECOND, 10) + crowd(date.min, 10, **skewed) + crowd(date.max, 10, **skewed))
    run(*ends)
    assert sorted(row["event_date"] for row in read_mart(lake, "daily_logins")) == list(ends)
    run(date.max)
    assert sorted(row["event_date"] for row in read_mart(lake, "daily_logins")) == list(ends)


def test_dates_far_apart_do_not_open_the_files_between(lake, run):
    """Of files of other days no more than their schema is read: damaged rows there are not noticed."""
    days = [SECOND - timedelta(days=400), SECOND - timedelta(days=200), SECOND]
    for number, day in enumerate(days):
        append_logins(lake, crowd(day, 10), first_number=100 * number)
    (between,) = (lake / "acme").rglob(f"received_date={days[1]}/*/*.parquet")
    content = between.read_bytes()
    between.write_bytes(content[:4] + bytes(len(content) // 3) + content[4 + len(content) // 3 :])
    run(days[0], days[2])
    assert sorted(row["event_date"] for row in read_mart(lake, "daily_logins")) == [days[0], days[2]]


def test_an_input_that_is_missing_does_not_empty_a_mart(two_days, run, tmp_path):
    """A mart alone still reads through its staging view."""
    outcome = run(select="device_activity")
    assert [model.name for model in outcome.models] == ["device_activity"]
    assert len(read_mart(two_days, "device_activity")) == 23
    assert not (two_days / "acme" / "curated" / "daily_logins").exists()


def test_a_mart_of_other_columns_is_refused_in_a_window_and_rebuilt_as_a_whole(two_days, run, broken_project):
    run()
    marts = broken_project / "models" / "marts" / "logins"
    replace_in(marts / "device_activity.sql", "count(*) as logins,", "count(*) as logins, 1 as one,")
    column = "- {name: one, data_type: integer, description: One.}\n      - name: device_id_token"
    replace_in(marts / "device_activity.yml", "- name: device_id_token", column)
    outcome = run(FIRST, works=False)
    assert outcome.failed() == ["device_activity"]
    assert "rebuild without event_dates" in outcome.models[1].message
    run()
    assert {row["one"] for row in read_mart(two_days, "device_activity")} == {1}


def test_a_column_that_only_newer_files_have_is_null_in_older_ones(two_days, run, lake):
    table = lake / "acme" / "masked" / "logins"
    DeltaTable(table).delete()
    shutil.rmtree(table)
    rows = pa.Table.from_pylist([row_of(login, n) for n, login in enumerate(crowd(FIRST, 10))], SCHEMA)
    write_deltalake(table, rows.drop_columns(["locale"]), partition_by=["received_date", "clock_skewed"])
    run()
    assert [row["locale"] for row in read_mart(lake, "daily_logins")] == ["unknown"]


# -- tenants ------------------------------------------------------------------------------------


def test_tenants_stay_apart(two_days, run, lake):
    append_logins(lake, crowd(FIRST, 10, locale="fr_FR"), tenant="bolt")
    run()
    acme = read_marts(lake)
    run(tenant="bolt")
    assert [row["locale"] for row in read_mart(lake, "daily_logins", "bolt")] == ["fr_FR"]
    assert read_marts(lake) == acme


@pytest.mark.parametrize("tenant", ["007", "true", "it's"])
def test_a_tenant_may_have_a_name_that_yaml_would_convert(lake, run, tenant):
    append_logins(lake, crowd(FIRST, 10), tenant=tenant)
    run(tenant=tenant)
    assert len(read_mart(lake, "device_activity", tenant)) == 10


@pytest.mark.parametrize("tenant", ["../acme", "..", ""])
def test_a_tenant_that_is_no_folder_name_is_refused(lake, run, tenant):
    run(tenant=tenant, works=False)
    assert not lake.exists()


def test_a_tenant_without_data_builds_empty_marts(lake, run):
    outcome = run(FIRST)
    assert {(model.name, model.status, model.rows, model.version) for model in outcome.models} == {
        (mart, "success", 0, 0) for mart in MARTS
    }
    assert read_marts(lake) == {mart: [] for mart in MARTS}
    append_logins(lake, crowd(FIRST, 10))
    run(FIRST)
    assert len(read_mart(lake, "user_sessions")) == 10


def test_a_table_without_files_builds_too(lake, run):
    append_logins(lake, crowd(FIRST, 10))
    DeltaTable(lake / "acme" / "masked" / "logins").delete()
    assert [model.rows for model in run().models] == [0, 0, 0]


# -- what lies on disk --------------------------------------------------------------------------


def test_statistics_in_the_log_hold_no_text(two_days, run):
    run()
    for mart in MARTS:
        log = "".join(p.read_text() for p in (two_days / "acme" / "curated" / mart).glob("_delta_log/*.json"))
        assert "AQ" not in log, mart
        adds = [json.loads(line)["add"] for line in log.splitlines() if '"add"' in line]
        for add in adds:
            stats = json.loads(add["stats"])
            named = {*stats["minValues"], *stats["maxValues"], *stats["nullCount"]}
            assert named and not named & {"user_id_token", "device_id_token", "device_type", "app_version"}


def test_tables_are_plain_delta(two_days, run):
    outcome = run()
    for model in outcome.models:
        table = DeltaTable(two_days / "acme" / "curated" / model.name)
        protocol = table.protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
        assert table.metadata().partition_columns == ["event_date"]
        assert table.version() == model.version == 0
        [commit] = table.history()
        assert (commit["batch"], commit["model"]) == ("batch-7", model.name)


def test_files_hold_plain_arrow_strings_and_zstd(two_days, run):
    import pyarrow.parquet as pq

    run()
    for file in DeltaTable(two_days / "acme" / "curated" / "user_sessions").file_uris():
        parquet = pq.ParquetFile(file)
        assert parquet.schema_arrow.field("user_id_token").type in {pa.string(), pa.large_string()}
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"


def test_nothing_is_written_outside_lake_and_target(two_days, run, tmp_path, monkeypatch, capfd):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run()
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "lake", "target"}
    assert not (dbt_runs.PROJECT / "logs").exists()
    assert not [p for p in (tmp_path / "target").rglob("*") if p.is_file() and b"AQu0" in p.read_bytes()]
    assert capfd.readouterr() == ("", "")


# -- failures -----------------------------------------------------------------------------------


@pytest.fixture
def broken_project(tmp_path, monkeypatch):
    """A copy of the project to break; builds of this test use it."""
    copy = tmp_path / "project"
    shutil.copytree(dbt_runs.PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs"))
    monkeypatch.setattr(dbt_runs, "PROJECT", copy)
    monkeypatch.setattr(dbt_runs, "MANIFEST", copy / "target" / "manifest.json")
    return copy


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_broken_contract_stops_before_the_write(two_days, run, broken_project):
    mart = broken_project / "models" / "marts" / "logins" / "device_activity.sql"
    replace_in(mart, "count(*) as logins", "cast(count(*) as varchar) as logins")
    outcome = run(works=False)
    assert outcome.failed() == ["device_activity"]
    [model] = [model for model in outcome.models if model.name == "device_activity"]
    assert (model.status, model.rows, model.version) == ("error", None, None)
    assert "enforced contract" in model.message and "logins" in model.message
    assert not (two_days / "acme" / "curated" / "device_activity").exists()


def test_a_null_where_none_may_be_stops_before_the_write(two_days, run, broken_project):
    mart = broken_project / "models" / "marts" / "logins" / "device_activity.sql"
    replace_in(mart, "and device_id_token is not null", "")
    assert run(works=False).failed() == ["device_activity"]
    assert not (two_days / "acme" / "curated" / "device_activity").exists()


def test_a_group_under_the_threshold_fails_the_data_test(two_days, run, broken_project):
    mart = broken_project / "models" / "marts" / "logins" / "daily_logins.sql"
    replace_in(mart, "{% set k = var('k_threshold') | int %}", "{% set k = 1 %}")
    append_logins(two_days, [Login(at(SECOND, "08:00:00"), 99, locale="mt_MT")], first_number=5000)
    outcome = run(works=False)
    [test] = [test for test in outcome.tests if "reaches_k_threshold" in test.name]
    assert (test.status, test.failures, test.model) == ("fail", 1, "daily_logins")


def test_a_mart_that_loses_rows_fails_its_totals(two_days, run, broken_project):
    mart = broken_project / "models" / "marts" / "logins" / "daily_logins.sql"
    replace_in(mart, "from by_device\n    left join taken_in", "from by_device\n    inner join taken_in")
    [test] = [test for test in run(works=False).tests if "keep_totals" in test.name]
    assert (test.status, test.failures, test.model) == ("fail", 2, "daily_logins")


def test_a_project_that_does_not_parse_is_named(run, broken_project):
    (broken_project / "models" / "marts" / "logins" / "daily_logins.sql").write_text(
        "select {{ ref('nowhere') }}"
    )
    with pytest.raises(TableError, match="does not parse"):
        run()


def test_messages_hold_no_values():
    message = dbt_runs.scrub(f"Conversion Error: 'jane' is not 17, \"bob\" {token_of('u', 1)} in users")
    assert message == "Conversion Error: … is not …, … … in users"


def test_rows_outside_the_window_are_refused_without_being_shown(tmp_path):
    def rows(day: date) -> pa.RecordBatchReader:
        table = pa.table({"event_date": [day], "word": ["sesame"]})
        return table.to_reader()

    window = Window("event_date", [FIRST])
    assert replace_window(tmp_path / "zone" / "words", rows(FIRST), window, ["event_date"], {}) == 0
    with pytest.raises(TableError, match="zone/words") as caught:
        replace_window(tmp_path / "zone" / "words", rows(SECOND), window, ["event_date"], {})
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_writer_that_was_overtaken_is_told_to_try_again(tmp_path, monkeypatch):
    from deltalake.exceptions import CommitFailedError

    def overtaken(*_: object) -> int:
        raise CommitFailedError("added: sesame")

    monkeypatch.setattr(dbt_delta, "_commit", overtaken)
    with pytest.raises(BusyError, match="zone/words") as caught:
        replace_window(tmp_path / "zone" / "words", iter(()), Window("event_date", []), [], {})
    assert "sesame" not in str(caught.value) and caught.value.__context__ is None


# -- the project itself -------------------------------------------------------------------------


def test_unit_tests_of_the_project_pass(tmp_path):
    outcome = dbt_runs.run_unit_tests(tmp_path)
    assert outcome.succeeded, outcome.failed()
    manifest = dbt_runs.load_manifest()
    models = {node.name for node in manifest.nodes.values() if node.resource_type == "model"}
    assert {test.model for test in outcome.tests} == models


def test_marts_are_described_typed_and_tested():
    manifest = dbt_runs.load_manifest()
    models = [node for node in manifest.nodes.values() if node.resource_type == "model"]
    tested = {name for test in manifest.unit_tests.values() for name in test.depends_on.nodes}
    assert {model.unique_id for model in models} == tested
    for model in models:
        assert model.config.contract.enforced and model.description
        for column in model.columns.values():
            assert column.description and column.data_type, column.name
            assert ("token" in column.name) == (column.config.meta.get("pii") == "token")


def test_sources_are_described_as_they_lie_on_disk(lake):
    """The declared types are what a reader gets, so an absent table looks like a present one."""
    append_logins(lake, crowd(FIRST, 1))
    manifest = dbt_runs.load_manifest()
    declared = manifest.sources["source.lockhouse.masked.logins"].columns
    types = {name: column.data_type for name, column in declared.items()}
    empty = duckdb.sql(select_nothing(types))
    assert dict(zip(empty.columns, empty.types, strict=True)) == duckdb_types(SCHEMA)


def duckdb_types(schema: pa.Schema) -> dict[str, object]:
    rows = duckdb.from_arrow(schema.empty_table())
    return dict(zip(rows.columns, rows.types, strict=True))


def test_a_prebuilt_manifest_is_read_once_and_again_after_a_change(broken_project):
    first = dbt_runs.load_manifest()
    assert dbt_runs.load_manifest() is first
    replace_in(broken_project / "models" / "marts" / "logins" / "daily_logins.yml", "Logins a day.", "Logins.")
    assert dbt_runs.load_manifest() is not first


def test_dates_are_parsed_before_they_reach_sql():
    assert Window("event_date", [FIRST, SECOND]).predicate() == (
        "event_date IN (DATE '2026-03-01', DATE '2026-03-02')"
    )
    assert Window("event_date", []).predicate() is None
