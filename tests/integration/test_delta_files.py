"""Files that we write ourselves: other readers agree on every row, and statistics hide none of them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder

from stores import delta_files
from stores.delta_files import group_rows, write_parts
from stores.tables import Commit, Tables
from transforms.capture.tables import CAPTURE_BLOCKS
from transforms.coding import estimate_distinct
from transforms.tables import Column, TableSpec

TIME = pa.timestamp("us", tz="UTC")
SPEC = TableSpec(
    "masked",
    "things",
    "Things.",
    "tests",
    (
        Column("id", pa.large_string(), "Its name.", is_unique=True),
        Column("day", pa.date32(), "When it came."),
        Column("odd", pa.bool_(), "Whether it is odd."),
        Column("at", TIME, "When it happened.", in_statistics=True),
        Column("many", pa.int32(), "How many.", nullable=True, in_statistics=True),
        Column("token", pa.large_string(), "Who.", pii="token", nullable=True, in_statistics=True),
        Column("sealed", pa.large_binary(), "What.", pii="sealed", nullable=True, is_unique=True),
    ),
    ("day", "odd"),
)
BEGIN = datetime(2026, 3, 4, 23, 59, 59, 123_456, tzinfo=UTC)


def rows(count: int, first: int = 0) -> pl.DataFrame:
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "id": [f"id-{number}" for number in numbers],
            "day": [date(2026, 3, 4) + timedelta(days=number % 2) for number in numbers],
            "odd": [number % 3 == 0 for number in numbers],
            "at": [BEGIN + timedelta(microseconds=number) for number in numbers],
            "many": [number if number % 5 else None for number in numbers],
            "token": [f"secret-{number}" for number in numbers],
            "sealed": [bytes([number % 256]) for number in numbers],
        },
        schema_overrides={"many": pl.Int32, "at": pl.Datetime("us", "UTC")},
    )


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture(params=[False, True], ids=["by-pyarrow", "from-codes"], autouse=True)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever writes appends, readers see the same."""
    monkeypatch.setitem(globals(), "SPEC", replace(SPEC, is_coded=request.param))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "lake", tmp_path / "locks", rollup_commits=4)


def append(tables: Tables, name: str, frame: pl.DataFrame, spec: TableSpec | None = None) -> None:
    tables.append("acme", spec or SPEC, frame, Commit(name, now_ms(), {"batch": name}))


def folder(tables: Tables) -> Path:
    return tables.path("acme", SPEC.key)


def adds(tables: Tables) -> list[dict[str, Any]]:
    lines = [
        line
        for log in sorted(folder(tables).glob("_delta_log/*.json"))
        for line in log.read_text().splitlines()
    ]
    return [json.loads(line)["add"] for line in lines if line.startswith('{"add"')]


def test_every_reader_sees_the_same_rows(tables: Tables):
    append(tables, "a", rows(30))
    path = str(folder(tables))
    expected = rows(30).sort("id")
    assert pl.read_delta(path).select(expected.columns).sort("id").equals(expected)
    assert DeltaTable(path).to_pyarrow_table().num_rows == 30
    asked = "select * from things where many >= 3 or many is null order by id"
    by_delta = QueryBuilder().register("things", DeltaTable(path)).execute(asked).read_all()
    wanted = expected.filter((pl.col("many") >= 3) | pl.col("many").is_null())
    assert pl.DataFrame(pa.table(by_delta)).select(expected.columns).equals(wanted)
    with duckdb.connect() as database:
        files = database.read_parquet(DeltaTable(path).file_uris(), hive_partitioning=True)
        found = files.order("id").pl().select(expected.columns).with_columns(pl.col("odd") == "true")
    assert found.cast(expected.schema).equals(expected)


def test_a_file_lies_in_the_folder_of_its_partition(tables: Tables):
    append(tables, "a", rows(30))
    places = {str(Path(one["path"]).parent): one["partitionValues"] for one in adds(tables)}
    assert places == {
        f"day={day}/odd={odd}": {"day": day, "odd": odd}
        for day in ("2026-03-04", "2026-03-05")
        for odd in ("false", "true")
    }


def test_statistics_are_those_that_the_specification_allows(tables: Tables):
    append(tables, "a", rows(30))
    for one in adds(tables):
        stats = json.loads(one["stats"])
        assert set(stats["minValues"]) == set(stats["maxValues"]) == {"at", "many"}
        assert set(stats["nullCount"]) == {"at", "many"}
        metadata = pq.ParquetFile(folder(tables) / one["path"]).metadata.row_group(0)
        columns = [metadata.column(at) for at in range(metadata.num_columns)]
        shown = {column.path_in_schema for column in columns if column.is_stats_set}
        assert shown == {"at", "many"}
    assert b"secret" not in b"".join(log.read_bytes() for log in folder(tables).glob("_delta_log/*"))


def test_no_bound_hides_a_row(tables: Tables):
    append(tables, "a", rows(60))
    for number in range(60):
        at = BEGIN + timedelta(microseconds=number)
        found = pl.scan_delta(str(folder(tables))).filter(pl.col("at") == at).collect()
        assert found["id"].to_list() == [f"id-{number}"]
        table = DeltaTable(folder(tables)).to_pyarrow_table(filters=[("at", ">=", at)])
        assert table.num_rows == 60 - number


def test_a_column_of_nulls_has_no_bounds(tables: Tables):
    append(tables, "a", rows(1))
    (one,) = adds(tables)
    stats = json.loads(one["stats"])
    assert (stats["numRecords"], stats["nullCount"]) == (1, {"at": 0, "many": 1})
    assert set(stats["minValues"]) == {"at"}


def test_no_rows_make_no_file_and_are_known_all_the_same(tables: Tables):
    append(tables, "a", rows(0))
    assert adds(tables) == []
    assert not tables.append("acme", SPEC, rows(3), Commit("a", now_ms(), {})).is_new


def test_a_roll_up_merges_what_came_since_the_last_one(tables: Tables):
    for number in range(30):
        append(tables, str(number), rows(10, first=10 * number))
    read = pl.read_delta(str(folder(tables))).sort("id")
    assert read.equals(rows(300).select(read.columns).sort("id"))
    merged = [one["path"] for one in adds(tables) if "merged-" in one["path"]]
    present = DeltaTable(folder(tables)).file_uris()
    # What was merged once is never read again.
    assert all(any(uri.endswith(path) for uri in present) for path in merged)
    assert len(present) < 4 * 12


def test_a_roll_up_adds_no_rows_in_the_eyes_of_the_log(tables: Tables):
    for number in range(5):
        append(tables, str(number), rows(10, first=10 * number))
    assert {one["dataChange"] for one in adds(tables) if "merged-" in one["path"]} == {False}
    assert {one["dataChange"] for one in adds(tables) if "part-" in one["path"]} == {True}


def test_large_files_are_left_alone(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delta_files, "_SMALL_BYTES", 10)
    for number in range(9):
        append(tables, str(number), rows(10, first=10 * number))
    assert not [one for one in adds(tables) if "merged-" in one["path"]]


def test_no_more_is_merged_at_once_than_its_bound(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    append(tables, "a", rows(10))
    most = 2 * max(one["size"] for one in adds(tables)) + 100
    monkeypatch.setattr(delta_files, "_MERGED_BYTES", most)
    for number in range(1, 20):
        append(tables, str(number), rows(10, first=10 * number))
    read = pl.read_delta(str(folder(tables)))
    assert sorted(read["id"]) == sorted(rows(200)["id"])


def test_files_from_before_a_column_are_merged_with_those_that_have_it(tables: Tables):
    extra = Column("more", pa.large_string(), "More.", nullable=True, of_contract=True)
    grown = TableSpec(**{**vars(SPEC), "columns": (*SPEC.columns, extra)})
    append(tables, "a", rows(10))
    for number in range(1, 6):
        frame = rows(10, first=10 * number).with_columns(more=pl.lit("new"))
        append(tables, str(number), frame, grown)
    read = pl.read_delta(str(folder(tables))).sort("id")
    assert read.height == 60
    assert read["more"].null_count() == 10
    assert [one for one in adds(tables) if "merged-" in one["path"]]


def test_readers_of_an_older_version_keep_their_files(tables: Tables):
    for number in range(3):
        append(tables, str(number), rows(10, first=10 * number))
    with tables.reading("acme", SPEC.key) as table:
        for number in range(3, 9):
            append(tables, str(number), rows(10, first=10 * number))
        assert table.collect().height == 30


@pytest.mark.parametrize("distinct", [1, 2, 100, 2_000, 10_000, 50_000])
def test_distinct_values_are_estimated_from_some(distinct: int):
    met = len(set(np.random.default_rng(distinct).integers(0, distinct, 4_096).tolist()))
    assert estimate_distinct(met, 4_096) == pytest.approx(distinct, rel=0.3)


def test_a_column_of_which_nothing_repeats_may_be_distinct_in_all():
    assert estimate_distinct(4_096, 4_096) == float("inf")
    assert estimate_distinct(0, 0) == float("inf")


def test_what_repeats_in_the_whole_is_stored_once(tmp_path: Path):
    """Tokens of 10,000 devices hardly repeat among the first 4,096 rows, and ten times in the file."""
    devices = np.random.default_rng(1).integers(0, 10_000, 100_000).tolist()
    tokens = [f"AQECAwQ{device:040d}" for device in devices]
    rows = pa.table({"token": pa.array(tokens, pa.large_string())})
    path = tmp_path / write_parts(tmp_path, SPEC, [rows], {}, "part", adds_rows=True).path
    column = pq.read_metadata(path).row_group(0).column(0)
    assert column.has_dictionary_page
    assert pq.read_table(path)["token"].to_pylist() == tokens


@pytest.mark.parametrize(
    ("row_bytes", "expected"), [(1 << 20, 8), (300 << 10, 8), (200 << 10, 10), (2 << 10, 1024), (0, 2 << 20)]
)
def test_a_row_group_has_eight_large_rows_or_two_megabytes_of_small_ones(row_bytes: int, expected: int):
    assert group_rows(CAPTURE_BLOCKS, 1, row_bytes) == expected
    assert group_rows(SPEC, 1, row_bytes) is None
