# ruff: noqa: S608 - queries of our own, against a home made for the test
"""Tables and SQL by command line: what can be read, and a sandbox that holds."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from command_line import DONE, WRONG_USAGE, Call, sql
from homes import copy_home

# --- Tables and SQL


def test_tables_lists_each_with_its_personal_columns(call: Call, made_home: Any):
    tables = {one["table"]: one for one in call("tables", "--json", home=made_home.home).json["tables"]}
    keys = {"table", "zone", "rows", "version", "files", "bytes", "pii_columns"}
    assert all(keys <= set(one) for one in tables.values())
    assert set(tables) >= {"raw.logins", "quarantine.logins", "masked.logins", "curated.daily_logins"}
    assert "ip_token" in tables["masked.logins"]["pii_columns"]
    assert tables["curated.user_sessions"]["pii_columns"] == ["user_id_token"]
    shown = call("tables", home=made_home.home)
    assert "masked.logins" in shown.out
    assert "99" in shown.out


def test_tables_of_an_empty_home_say_what_is_next(call: Call, home: Path):
    call("init", home=home)
    called = call("tables", home=home)
    assert called.code == DONE
    assert "No table yet" in called.err
    assert call("tables", "--json", home=home).json == {"tables": []}


READING = [
    "select count(*) as n from masked.logins",
    "from curated.daily_logins limit 1",
    "with a as (select 1 as n) select * from a",
    "describe masked.logins",
    "show all tables",
    "summarize masked.logins",
    "explain select * from masked.logins",
    "explain analyze select count(*) from masked.logins",
    "values (1)",
    "select ip_net24, count(*) from masked.logins group by all",
]


@pytest.mark.parametrize("query", READING)
def test_reading_queries_run_in_every_format(call: Call, made_home: Any, query: str):
    for form in ("table", "json", "csv"):
        called = call("sql", query, "--format", form, home=made_home.home)
        assert called.code == DONE, called.err
        assert called.out.strip()


def test_json_gives_one_object_as_everywhere_and_a_format_gives_the_rows_alone(call: Call, made_home: Any):
    query = "select device_type, count(*) as n from masked.logins group by all order by all"
    rows = json.loads(call("sql", query, "--format", "json", home=made_home.home).out)
    assert len(rows) > 1
    assert call("sql", query, "--json", home=made_home.home).json == {"rows": rows}


def test_a_format_and_one_object_exclude_each_other(call: Call, made_home: Any):
    called = call("sql", "select 1", "--format", "csv", "--json", home=made_home.home)
    assert called.code == WRONG_USAGE
    assert "--json and --format exclude each other" in called.err
    assert not called.out


def test_what_json_has_no_form_for_is_written_so_that_it_can_be_read(call: Call, made_home: Any):
    query = (
        "select 'nan'::double as number, [timestamptz '2026-11-21 07:00:00+00'] as moments, "
        "1::hugeint as large, 'a'::blob as bytes"
    )
    (row,) = call("sql", query, "--json", home=made_home.home).json["rows"]
    assert row == {"number": None, "moments": ["2026-11-21T07:00:00+00:00"], "large": 1, "bytes": "61"}
    assert "nan" in call("sql", query, home=made_home.home).out


@pytest.fixture(scope="module")
def lake(made_home: Any) -> Path:
    return made_home.home / "lake" / "default"


ESCAPES = [
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/hostname')",
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_json_auto('{home}/settings.toml')",
    "select * from read_text('{home}/keys/passphrase')",
    "select * from read_text('{home}/keys/keyring.json')",
    "select * from glob('/etc/*')",
    "select * from glob('{home}/**')",
    "select * from glob('{lake}/masked/logins/**')",
    "select * from read_parquet('{lake}/raw/logins/**/*.parquet')",
    "select * from read_parquet('{lake}/quarantine/logins/**/*.parquet')",
    "select * from read_parquet('{lake}/masked/logins/**/*.parquet')",
    "select * from parquet_metadata('/etc/passwd')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from delta_scan('{lake}/raw/logins')",
    "select * from sqlite_scan('{home}/lockhouse.db', 'audit')",
    "select * from raw.logins",
    "select * from quarantine.logins",
    "select getenv('HOME')",
    "select * from query('select * from read_text(''/etc/passwd'')')",
    "select * from read_text('https://example.com/')",
    "copy masked.logins to '/tmp/out.parquet'",
    "copy (select 1) to '{home}/out.csv'",
    "explain analyze copy (select 1) to '{home}/out.csv'",
    "explain copy (select 1) to '{home}/out.csv'",
    "EXPLAIN  ANALYZE\n create table t as select 1",
    "explain analyze insert into masked.logins select * from masked.logins",
    "/**/ explain analyze copy (select 1) to '{home}/out.csv'",
    "explain (analyze) copy (select 1) to '{home}/out.csv'",
    "explain (format json) copy (select 1) to '{home}/out.csv'",
    "attach '{home}/lockhouse.db'",
    "attach '{home}/lockhouse.db' as app (type sqlite)",
    "detach memory",
    "install httpfs",
    "load httpfs",
    "load sqlite",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "reset allowed_paths",
    "set allowed_paths = ['/etc/passwd']",
    "set global python_enable_replacements = true",
    "pragma enable_profiling",
    "pragma database_list = 1",
    "select 1; select 2",
    "select 1; copy (select 1) to '/tmp/x'",
    "create table mine as select 1",
    "create view v as select 1",
    "create macro f(a) as a",
    "drop view masked.logins",
    "delete from masked.logins",
    "insert into masked.logins select * from masked.logins",
    "update masked.logins set tenant = 'x'",
    "export database '/tmp/x'",
    "import database '/tmp/x'",
    "checkpoint",
    "vacuum",
    "prepare p as select 1",
    "begin",
    "use masked",
    "create secret (type s3)",
    "call pragma_version()",
    "",
    ";",
    "-- nothing",
]


@pytest.mark.parametrize("query", ESCAPES)
def test_the_sandbox_holds(call: Call, made_home: Any, lake: Path, query: str):
    before = {path for path in made_home.home.rglob("*") if path.suffix in (".parquet", ".csv")}
    called = call("sql", query.format(home=made_home.home, lake=lake), "--format", "json", home=made_home.home)
    if query == "":
        assert called.out == ""
    else:
        assert called.code == WRONG_USAGE, called
    assert "Traceback" not in called.err
    assert "root:" not in called.out + called.err
    assert {path for path in made_home.home.rglob("*") if path.suffix in (".parquet", ".csv")} == before


def test_a_query_cannot_write_over_the_tables_own_files(call: Call, copied_home: Any):
    (file,) = (copied_home.home / "lake" / "default" / "masked" / "logins").rglob("part-*.parquet")
    before = file.read_bytes()
    copy = f"copy (select 1 as a) to '{file}' (format parquet, use_tmp_file false)"
    for query in (f"explain analyze {copy}", f"explain\tanalyze {copy}", f"explain (analyze) {copy}", copy):
        assert call("sql", query, home=copied_home.home).code == WRONG_USAGE
    assert file.read_bytes() == before


def test_a_query_cannot_name_variables_of_this_process(
    call: Call, made_home: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stores.sql.held_in_memory", pl.DataFrame({"secret": ["alice"]}), raising=False)
    called = call("sql", "select * from held_in_memory", home=made_home.home)
    assert called.code == WRONG_USAGE
    assert "alice" not in called.out + called.err


def test_other_tenants_cannot_be_reached(call: Call, made_home: Any, tmp_path: Path, lake: Path):
    home = copy_home(made_home.home, tmp_path / "copy")
    call("tenant", "add", "acme", home=home)
    for query in ("select * from masked.logins", f"from read_parquet('{lake}/masked/logins/**/*.parquet')"):
        assert call("sql", query, "--tenant", "acme", home=home).code == WRONG_USAGE


def test_queries_from_standard_input_go_on_after_a_wrong_one(call: Call, made_home: Any):
    lines = "select 41 + 1 as n\nnonsense\nselect 43 as n\n"
    called = call("sql", "--format", "csv", home=made_home.home, stdin=lines)
    assert called.code == DONE
    assert called.out.split() == ["n", "42", "n", "43"]
    assert "lockhouse: the query does not run" in called.err
    nobodys = call("sql", "--tenant", "nobody", home=made_home.home, stdin="select 1\n")
    assert "no tenant nobody: `lockhouse tenant list` shows them" in nobodys.err


def test_what_was_asked_is_audited_as_a_digest(call: Call, copied_home: Any):
    value = copied_home.values[0]
    sql(call, copied_home.home, f"select count(*) from masked.logins where user_id_token = '{value}'")
    entries = call("audit", "list", "--json", home=copied_home.home).json["entries"]
    assert [one["outcome"] for one in entries if one["action"] == "tables:sql:run"] == ["allowed", "done"]
    assert value not in json.dumps(entries)
    assert call("leaks", "scan", value, home=copied_home.home).code == DONE
