"""The lake's store: written once, replaced exactly, silent about people in its logs, cleaned up safely."""

import json
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from stores.contracts import load_contract, load_contracts
from stores.tables import Commit, Tables
from transforms.capture.tables import CAPTURE_BLOCKS
from transforms.errors import TableError
from transforms.tables import TableSpec, masked_table, raw_table, table_specs
from waiting import LONGEST_S

CONTRACT = load_contract("logins")
MASKED, RAW = masked_table(CONTRACT), raw_table(CONTRACT)
SPECS = [spec for contract in load_contracts().values() for spec in table_specs(contract)]
DAY = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
SECRET = "AQsecret-token-that-no-log-may-hold"  # noqa: S105 - no secret


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "lake", tmp_path / "locks")


def commit(name: str, **marks: str) -> Commit:
    return Commit(f"logins/{name}", int(time.time() * 1000), marks)


def rows(spec: TableSpec, count: int, *, at: datetime = DAY, batch: str = "b1", first: int = 0) -> pl.DataFrame:
    """Rows that fit a table; every personal column holds the same secret."""
    made = pl.DataFrame(spec.schema.empty_table())
    columns: dict[str, Any] = {}
    for one in spec.columns:
        dtype = made.schema[one.name]
        if one.name in ("event_id", "entry_id"):
            value: Any = pl.Series([f"{batch}-{first + number:06d}" for number in range(count)])
            columns[one.name] = value
            continue
        value = {
            "received_at": at,
            "received_date": at.date(),
            "received_hour": at.replace(minute=0),
            "occurred_at": at,
            "event_hour": at.replace(minute=0),
            "batch_id": batch,
        }.get(one.name, _value(dtype, one.pii))
        columns[one.name] = pl.repeat(value, count, dtype=dtype, eager=True)
    return pl.DataFrame(columns)


def _value(dtype: pl.DataType, pii: str | None) -> Any:
    if dtype == pl.String:
        return SECRET if pii else "plain"
    if dtype == pl.Binary:
        return SECRET.encode()
    return False if dtype == pl.Boolean else 1


def read(tables: Tables, spec: TableSpec = MASKED) -> pl.DataFrame:
    with tables.reading("default", spec.key) as table:
        return table.collect()


def log_of(tables: Tables, spec: TableSpec = MASKED) -> list[dict[str, Any]]:
    folder = tables.path("default", spec.key) / "_delta_log"
    return [
        json.loads(line) for file in sorted(folder.glob("*.json")) for line in file.read_text().splitlines()
    ]


def data_files(tables: Tables, spec: TableSpec = MASKED) -> set[Path]:
    files = tables.path("default", spec.key).rglob("*.parquet")
    return {file for file in files if "_delta_log" not in file.parts}


# --- Appending


def test_a_commit_is_appended_once(tables: Tables):
    first = tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    again = tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    assert (first.is_new, again.is_new) == (True, False)
    assert again.version == first.version
    assert read(tables).height == 3


def test_batches_may_come_in_any_order(tables: Tables):
    for name in ("5", "4", "5", "6", "4"):
        tables.append("default", MASKED, rows(MASKED, 2, batch=name), commit(name))
    assert sorted(read(tables)["batch_id"].unique()) == ["4", "5", "6"]
    assert read(tables).height == 6


def test_a_commit_is_known_after_a_checkpoint(tmp_path: Path):
    tables = Tables(tmp_path / "lake", tmp_path / "locks", rollup_commits=2)
    for number in range(5):
        tables.append("default", MASKED, rows(MASKED, 2, batch=str(number)), commit(str(number)))
    assert list((tables.path("default", MASKED.key) / "_delta_log").glob("*.checkpoint.parquet"))
    for number in range(5):
        assert not tables.append("default", MASKED, rows(MASKED, 2), commit(str(number))).is_new
    assert read(tables).height == 10


def test_small_files_are_rolled_up(tmp_path: Path):
    tables = Tables(tmp_path / "lake", tmp_path / "locks", rollup_commits=4)
    for number in range(9):
        tables.append("default", MASKED, rows(MASKED, 2, batch=str(number)), commit(str(number)))
    assert tables.info("default", MASKED.key).files < 6
    assert read(tables).height == 18


def test_the_log_stays_short_and_knows_what_was_committed_long_ago(tmp_path: Path):
    place = tmp_path / "lake", tmp_path / "locks"
    tables, other = Tables(*place, rollup_commits=4), Tables(*place, rollup_commits=4)
    other.append("default", MASKED, rows(MASKED, 2, batch="other"), commit("other"))
    with other.reading_files("default", MASKED.key) as files:
        assert files["num_records"].sum() == 2
    for number in range(40):
        tables.append("default", MASKED, rows(MASKED, 2, batch=str(number)), commit(str(number)))
    log = tables.path("default", MASKED.key) / "_delta_log"
    assert len(list(log.glob("*.json"))) <= 4 + 4 + 1
    assert len(tables._written) == 1
    # Whoever kept the table opened meanwhile, and whoever opens it now, sees and writes all of it.
    with other.reading_files("default", MASKED.key) as files:
        assert files["num_records"].sum() == 82
    for one in (tables, other, Tables(*place)):
        for name in ("other", "0", "39"):
            assert not one.append("default", MASKED, rows(MASKED, 2, batch=name), commit(name)).is_new
        assert read(one).height == 82
    assert other.append("default", MASKED, rows(MASKED, 2, batch="last"), commit("last")).is_new
    assert read(tables).height == read(other).height == 84


def test_writers_at_once_lose_nothing(tables: Tables):
    failures: list[Exception] = []

    def write(name: int) -> None:
        try:
            for number in range(3):
                one = commit(f"{name}/{number}")
                tables.append("default", MASKED, rows(MASKED, 2, batch=f"{name}-{number}"), one)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read(tables).height == 24
    assert read(tables)["event_id"].n_unique() == 24


@pytest.mark.parametrize(
    "spoiled",
    [
        {"occurred_at": pl.lit(SECRET)},
        {"user_id_token": pl.lit(None, pl.String)},
        {"clock_skewed": pl.lit(SECRET)},
    ],
    ids=["text as a time", "null where none may be", "text as a boolean"],
)
def test_rows_that_do_not_fit_are_refused_without_showing_them(tables: Tables, spoiled: dict[str, pl.Expr]):
    with pytest.raises(TableError, match=r"do not fit masked\.logins") as raised:
        tables.append("default", MASKED, rows(MASKED, 2).with_columns(**spoiled), commit("a"))
    assert SECRET not in str(raised.value)
    assert not tables.exists("default", MASKED.key) or read(tables).is_empty()


def test_a_missing_column_is_refused(tables: Tables):
    with pytest.raises(TableError):
        tables.append("default", MASKED, rows(MASKED, 2).drop("ip_token"), commit("a"))


def test_a_table_whose_making_was_interrupted_is_made(tables: Tables):
    """A kill between the folder of the log and its first commit leaves an empty folder."""
    (tables.path("default", MASKED.key) / "_delta_log").mkdir(parents=True)
    assert tables.listing("default") == []
    assert not tables.exists("default", MASKED.key)
    assert tables.append("default", MASKED, rows(MASKED, 3), commit("a")).is_new
    assert read(tables).height == 3


# --- Replacing and deleting


def test_a_window_is_replaced_and_nothing_else(tables: Tables):
    later = DAY + timedelta(days=1)
    tables.append("default", MASKED, rows(MASKED, 3, batch="old"), commit("a"))
    tables.append("default", MASKED, rows(MASKED, 2, at=later, batch="kept"), commit("b"))
    done = tables.replace(
        "default", MASKED, rows(MASKED, 5, batch="new"), f"received_date = '{DAY:%Y-%m-%d}'", commit("c")
    )
    assert done.rows == 5
    found = read(tables)
    assert found.group_by("batch_id").len().sort("batch_id").rows() == [("kept", 2), ("new", 5)]


def test_a_window_can_become_empty(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    predicate = f"received_date = '{DAY:%Y-%m-%d}'"
    tables.replace("default", MASKED, rows(MASKED, 0), predicate, commit("c"))
    assert read(tables).is_empty()


def test_rows_outside_of_the_window_are_refused(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    with pytest.raises(TableError, match=r"masked\.logins was not written") as raised:
        tables.replace("default", MASKED, rows(MASKED, 5), "received_date = '2020-01-01'", commit("c"))
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__
    assert read(tables).height == 3


def test_rows_are_deleted_by_id_and_no_id_reaches_the_log(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 5), commit("a"))
    ids = pl.Series(["b1-000001", "b1-000003", "b1-000003", "unknown"])
    assert tables.delete_rows("default", MASKED, ids, "event_id", commit("d")) == 2
    assert sorted(read(tables)["event_id"]) == ["b1-000000", "b1-000002", "b1-000004"]
    assert "b1-00000" not in json.dumps(log_of(tables))


# --- What the log says


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_no_statistics_of_a_personal_column_reach_the_log(tables: Tables, spec: TableSpec):
    tables.append("default", spec, rows(spec, 50), commit("a", batch="b1"))
    log = log_of(tables, spec)
    added = [action["add"] for action in log if "add" in action]
    assert added
    for action in added:
        stats = json.loads(action["stats"])
        named = {*stats.get("minValues", {}), *stats.get("maxValues", {}), *stats.get("nullCount", {})}
        assert named <= set(spec.statistics)
        assert not named & set(spec.personal)
        assert stats["numRecords"] == 50
    assert SECRET not in json.dumps(log)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_a_checkpoint_holds_no_personal_statistics_either(tmp_path: Path, spec: TableSpec):
    tables = Tables(tmp_path / "lake", tmp_path / "locks", rollup_commits=1)
    tables.append("default", spec, rows(spec, 20), commit("a"))
    checkpoints = list((tables.path("default", spec.key) / "_delta_log").glob("*.checkpoint.parquet"))
    assert checkpoints
    for file in checkpoints:
        assert SECRET not in str(pq.read_table(file).to_pylist())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_personal_columns_are_declared_out_of_statistics_and_partitions(spec: TableSpec):
    personal = {one.name for one in spec.columns if one.pii is not None}
    assert set(spec.personal) == personal
    assert not personal & set(spec.statistics)
    assert not personal & set(spec.partition_by)
    assert not any(name.endswith("_token") for name in (*spec.statistics, *spec.partition_by))


def test_a_commit_says_which_batch_wrote_it(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 1), commit("a", batch="b1", chunk="0"))
    latest = tables.history("default", MASKED.key, 1)[0]
    assert (latest["batch"], latest["chunk"]) == ("b1", "0")


def test_no_feature_is_used_that_older_readers_lack(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 1), commit("a"))
    protocol = DeltaTable(str(tables.path("default", MASKED.key))).protocol()
    assert protocol.min_reader_version == 1
    assert protocol.min_writer_version == 2


# --- Files


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_no_view_type_reaches_a_file(tables: Tables, spec: TableSpec):
    tables.append("default", spec, rows(spec, 3), commit("a"))
    files = data_files(tables, spec)
    assert files
    for file in files:
        assert "view" not in str(pq.ParquetFile(file).schema_arrow)
    assert "view" not in str(spec.schema)


def test_dictionaries_stay_where_rows_are_many():
    """Of a few rows at a time they would be written out again for each few."""
    fields = [pa.field(one.name, one.type) for one in CAPTURE_BLOCKS.columns]
    empty = pa.schema(fields).empty_table()
    repeated = empty["batch_id"].dictionary_encode()
    at = empty.schema.names.index("batch_id")
    given = empty.set_column(at, "batch_id", repeated)
    assert CAPTURE_BLOCKS.conform(given).schema == CAPTURE_BLOCKS.schema
    many = replace(CAPTURE_BLOCKS, row_group_rows=None)
    assert pa.types.is_dictionary(many.conform(given).schema.field("batch_id").type)


def test_only_declared_columns_have_statistics_of_values_in_files(tables: Tables):
    """Footers may bound a repeated column; ciphertext and ids of single rows have none."""
    tables.append("default", RAW, rows(RAW, 50), commit("a"))
    for file in data_files(tables, RAW):
        group = pq.ParquetFile(file).metadata.row_group(0)
        for at in range(group.num_columns):
            column = group.column(at)
            if column.path_in_schema in RAW.unique:
                assert column.statistics is None or not column.statistics.has_min_max


def test_a_table_describes_itself(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 7), commit("a"))
    info = tables.info("default", MASKED.key)
    assert (info.tenant, info.key, info.rows, info.files) == ("default", "masked.logins", 7, 1)
    assert info.size_bytes == sum(file.stat().st_size for file in data_files(tables))
    assert [one.key for one in tables.listing("default")] == ["masked.logins"]
    assert tables.tenants() == ["default"]
    assert tables.schema("default", MASKED.key).names == [one.name for one in MASKED.columns]


def test_an_absent_table_is_named(tables: Tables):
    with pytest.raises(TableError, match=r"no table masked\.logins yet"), tables.reading("x", MASKED.key):
        pass
    with pytest.raises(TableError, match=r"no table masked\.logins yet"):
        tables.info("x", MASKED.key)


def test_tenants_have_roots_of_their_own(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 1), commit("a"))
    tables.append("acme", MASKED, rows(MASKED, 2), commit("a"))
    assert (tables.info("default", MASKED.key).rows, tables.info("acme", MASKED.key).rows) == (1, 2)


# --- Vacuum and readers


def test_a_vacuum_removes_old_versions_and_orphans(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    orphan = next(iter(data_files(tables))).with_name("part-00000-orphan-of-a-crash.zstd.parquet")
    orphan.write_bytes(b"left by a killed writer")
    predicate = f"received_date = '{DAY:%Y-%m-%d}'"
    tables.replace("default", MASKED, rows(MASKED, 5), predicate, commit("b"))
    live = {Path(name.removeprefix("file://")) for name in tables.files("default", MASKED.key)}
    assert len(data_files(tables)) == 3
    assert tables.vacuum("default", MASKED.key, retention_hours=0) >= 1
    assert data_files(tables) == live
    assert read(tables).height == 5


def test_a_vacuum_keeps_what_is_young(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    tables.replace("default", MASKED, rows(MASKED, 5), f"received_date = '{DAY:%Y-%m-%d}'", commit("b"))
    tables.vacuum("default", MASKED.key)
    assert len(data_files(tables)) == 2


def test_a_vacuum_waits_for_readers(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    with tables.reading("default", MASKED.key) as pinned:
        tables.replace("default", MASKED, rows(MASKED, 5), f"received_date = '{DAY:%Y-%m-%d}'", commit("b"))
        vacuum = threading.Thread(target=tables.vacuum, args=("default", MASKED.key, 0))
        vacuum.start()
        vacuum.join(0.3)
        assert vacuum.is_alive()
        # The version that was opened is still whole.
        assert pinned.collect().height == 3
    vacuum.join(LONGEST_S)
    assert not vacuum.is_alive()
    assert len(data_files(tables)) == 1


def test_a_reader_does_not_hold_up_writers_nor_see_them(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 3), commit("a"))
    with tables.reading("default", MASKED.key) as pinned:
        tables.append("default", MASKED, rows(MASKED, 3, batch="b2"), commit("b"))
        assert pinned.collect().height == 3
    assert read(tables).height == 6


def test_a_writer_of_a_whole_zone_holds_up_its_tables_alone(tables: Tables):
    tables.append("default", RAW, rows(RAW, 1), commit("a"))
    with tables.writing_zone("default", "masked"):
        write = threading.Thread(target=tables.append, args=("default", MASKED, rows(MASKED, 1), commit("a")))
        write.start()
        tables.append("default", RAW, rows(RAW, 1), commit("b"))
        write.join(0.2)
        assert write.is_alive()
    write.join(LONGEST_S)
    assert read(tables).height == 1


def test_dates_partition_the_files(tables: Tables):
    tables.append("default", MASKED, rows(MASKED, 1), commit("a"))
    (file,) = data_files(tables)
    assert f"received_date={date(2026, 11, 21)}" in str(file)


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_list_of_files_is_never_older_than_the_last_commit(tables: Tables, is_settled: bool):
    """Whether the log was changed just now, when times cannot be trusted, or long ago."""
    log = tables.path("default", MASKED.key) / "_delta_log"
    for number in range(1, 5):
        tables.append("default", MASKED, rows(MASKED, 3, batch=f"b{number}"), commit(f"b{number}"))
        if is_settled:
            os.utime(log, ns=(number, number))
        for _ in range(3):
            with tables.reading_files("default", MASKED.key) as files:
                assert files["num_records"].sum() == 3 * number
