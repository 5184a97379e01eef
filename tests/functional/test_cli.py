# ruff: noqa: S608 - queries of our own, against a home made for the test
"""The command line: every command, its JSON, its exit codes, what it refuses, and what it never says."""

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import polars as pl
import pytest

DONE, FAILED, WRONG_USAGE, REFUSED, QUARANTINED = 0, 1, 2, 3, 4
UUID = "01a1fd48-46cc-7408-8d46-1806dd950c5d"

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call(lockhouse: Call) -> Call:
    """The command line in this process."""
    return lockhouse


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file of logins, in a folder of its own."""
    path = tmp_path / "in" / "events.json"
    path.parent.mkdir()
    path.write_text('{"user_id": "nobody"}\n')
    return path


def sql(call: Call, home: Path, query: str, **more: object) -> list[dict[str, Any]]:
    """Ask with SQL and give the rows."""
    options = [part for name, value in more.items() for part in (f"--{name}", value)]
    called = call("sql", query, "--format", "json", *options, home=home)
    assert called.code == DONE, called.err
    return called.json


# --- Help


def commands() -> list[tuple[str, ...]]:
    """Every command and subcommand, by its words."""
    from lockhouse.main import COMMANDS, cli

    context = click.Context(cli)
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, one) for one in command.commands]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself(call: Call, words: tuple[str, ...]):
    called = call(*words, "--help")
    assert called.code == DONE
    assert f"Usage: lockhouse {' '.join(words)}" in called.out
    assert called.out.split("\n\n")[1].strip().endswith(".")


@pytest.mark.parametrize("name", ["init", "up", "ingest", "sql", "reveal", "token", "leaks scan"])
def test_commands_that_people_type_show_examples(call: Call, name: str):
    shown = call(*name.split(), "--help").out
    assert "Example" in shown
    assert f"lockhouse {name.split()[0]}" in shown.split("Example", 1)[1]


def test_without_a_command_the_help_is_shown(call: Call):
    called = call()
    assert called.code == WRONG_USAGE
    assert "First steps:" in called.out
    assert "Traceback" not in called.err


def test_the_help_does_not_import_the_platform():
    code = (
        "import sys\nfrom lockhouse.main import main\nsys.argv = ['lockhouse', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'dagster', 'polars', 'deltalake', 'duckdb', 'sqlalchemy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- Wrong usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["ingst", "logins"],
        ["tables", "--no-such-option"],
        ["ingest"],
        ["ingest", "logins"],
        ["ingest", "logins", "/no/such/file"],
        ["reveal"],
        ["reveal", "--table", "masked.logins", "--column", "ip_token"],
        ["reveal", "--reason", "r"],
        ["reveal", "--token", "x", "--reason", "r"],
        ["reveal", "--token", "x", "--domain", "ip", "--table", "masked.logins", "--reason", "r"],
        ["reveal", "--token", "x", "--domain", "ip", "--reason", " "],
        ["reveal", "--table", "masked.logins", "--column", "ip_token", "--reason", " "],
        ["reveal", "--table", "masked.logins", "--column", "ip_net24", "--reason", "r"],
        ["reveal", "--table", "masked.nothing", "--column", "ip_token", "--reason", "r"],
        ["reveal", "--table", "curated.nothing", "--column", "ip_token", "--reason", "r"],
        ["reveal", "--table", "raw.logins", "--column", "record", "--reason", "r"],
        ["reveal", "--table", "masked.logins", "--column", "ip_token", "--where", "(", "--reason", "r"],
        ["token", "1.2.3.4"],
        ["token", "1.2.3.4", "--domain", "no-such-domain"],
        ["token", "no address", "--domain", "ip"],
        ["quarantine"],
        ["quarantine", "show", UUID],
        ["quarantine", "show", "no-id"],
        ["quarantine", "retry"],
        ["quarantine", "retry", "--all", UUID],
        ["quarantine", "retry", "--all", "--source", "nothing"],
        ["quarantine", "list", "--source", "nothing"],
        ["quarantine", "drop"],
        ["leaks", "scan", "--values-file", "/no/such/file"],
        ["leaks", "scan", "abc"],
        ["sql", "select", "--format", "xml"],
        ["sql", "this is no SQL"],
        ["tenant", "add", "Upper Case"],
        ["tenant", "add", "../elsewhere"],
        ["up", "--host", "0.0.0.0"],  # noqa: S104 - it must be refused
        *(
            [*words, "--tenant", tenant]
            for tenant in ("nobody", "../x", "")
            for words in (
                ["tables"],
                ["sql", "select 1"],
                ["audit", "list"],
                ["audit", "verify"],
                ["quarantine", "list"],
                ["leaks", "scan"],
                ["token", "1.2.3.4", "--domain", "ip"],
            )
        ),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_wrong_usage_is_told_in_a_line_or_two(call: Call, made_home: Any, arguments: list[str]):
    called = call(*arguments, home=made_home.home)
    assert called.code == WRONG_USAGE, called
    assert "Traceback" not in called.err
    assert (called.err + called.out).strip()
    assert len(called.err.splitlines()) <= 6


def test_a_misspelt_command_is_guessed(call: Call):
    assert "did you mean `ingest`?" in call("ingets").err


def test_an_unknown_source_names_those_that_there_are(call: Call, file: Path, home: Path):
    called = call("ingest", "no-such-source", file, home=home)
    assert called.code == WRONG_USAGE
    assert "there are: captures, logins" in called.err
    assert not home.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["tables"],
        ["sql", "select 1"],
        ["audit", "list"],
        ["audit", "verify"],
        ["quarantine", "list"],
        ["leaks", "scan"],
        ["tenant", "list"],
        ["tenant", "add", "acme"],
        ["token", "1.2.3.4", "--domain", "ip"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_without_a_home_a_command_says_how_to_make_one(call: Call, home: Path, arguments: list[str]):
    called = call(*arguments, home=home)
    assert called.code == WRONG_USAGE
    assert "lockhouse init" in called.err
    assert not home.exists()


# --- Making a home


def test_init_makes_a_home_for_its_owner_alone_and_repeats_change_nothing(call: Call, home: Path):
    first = call("init", "--json", home=home)
    assert (first.code, first.json) == (DONE, {"home": str(home), "created": True})
    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and ".db" not in path.name}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for path in (home / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.suffix == ".lock", path
    again = call("init", "--json", home=home)
    assert again.json["created"] is False
    assert {path: path.read_bytes() for path in files} == files
    entries = call("audit", "list", "--json", home=home).json["entries"]
    assert [one["action"] for one in entries[:2]] == ["access:role:assigned", "tenant:keys:created"]


def test_init_says_where_the_generated_passphrase_lies_and_not_what_it_is(call: Call, home: Path):
    called = call("init", home=home)
    assert str(home / "keys" / "passphrase") in called.err
    assert (home / "keys" / "passphrase").read_text().strip() not in called.err + called.out


def test_init_with_a_passphrase_file_generates_none_and_keeps_its_path_only(
    call: Call, home: Path, tmp_path: Path
):
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("words that open it\n")
    passphrase.chmod(0o600)
    assert call("init", "--passphrase-file", passphrase, home=home).code == DONE
    assert not (home / "keys" / "passphrase").exists()
    assert call("tables", home=home).code == DONE
    for path in home.rglob("*"):
        assert not path.is_file() or b"words that open it" not in path.read_bytes()
    passphrase.write_text("other words\n")
    called = call("tables", home=home)
    assert called.code == FAILED
    assert "does not open" in called.err
    assert "other words" not in called.err


def test_a_passphrase_file_that_others_can_read_is_refused(call: Call, home: Path, tmp_path: Path):
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("words that open it\n")
    passphrase.chmod(0o644)
    called = call("init", "--passphrase-file", passphrase, home=home)
    assert called.code == FAILED
    assert "chmod 600" in called.err


def test_a_passphrase_file_that_does_not_fit_leaves_the_home_as_it_is(call: Call, home: Path, tmp_path: Path):
    call("init", home=home)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong words\n")
    wrong.chmod(0o600)
    assert call("init", "--passphrase-file", wrong, home=home).code == FAILED
    assert call("tables", home=home).code == DONE


def test_the_home_comes_from_the_environment_where_no_option_names_it(
    call: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert call("init", "--json").json["home"] == str(tmp_path / ".lockhouse")
    code = "import sys; sys.argv = ['lockhouse', 'init', '--json']\nfrom lockhouse.main import main; main()"
    monkeypatch.setenv("LOCKHOUSE_HOME", str(home))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["home"] == str(home)


# --- Ingest


def test_the_sample_is_counted(made_home: Any):
    called = made_home.ingested
    assert called.code == QUARANTINED
    result = called.json
    assert {"files", "rows", "accepted", "quarantined", "duplicates", "tables"} <= set(result)
    assert (result["files"], result["rows"], result["accepted"], result["quarantined"]) == (1, 100, 99, 1)
    assert (result["duplicates"], result["refused"], result["resumed"]) == (0, 0, 0)
    assert result["tables"]["raw.logins"] == result["tables"]["masked.logins"] == 99
    assert result["tables"]["quarantine.logins"] == 1
    assert all(result["checks"].values())
    assert result["checks"]["masked.logins: no_readable_pii"]


def test_the_same_file_again_changes_nothing(call: Call, copied_home: Any):
    before = {one["table"]: one for one in call("tables", "--json", home=copied_home.home).json["tables"]}
    again = call("ingest", "logins", copied_home.file, "--json", home=copied_home.home)
    assert again.code == DONE
    result = again.json
    assert (result["rows"], result["accepted"], result["quarantined"], result["duplicates"]) == (100, 0, 0, 100)
    after = {one["table"]: one for one in call("tables", "--json", home=copied_home.home).json["tables"]}
    assert {name: one["rows"] for name, one in after.items()} == {
        name: one["rows"] for name, one in before.items()
    }
    for zone in ("raw.logins", "masked.logins", "quarantine.logins"):
        assert after[zone] == before[zone]


def test_the_original_stays_and_no_copy_of_it(made_home: Any):
    assert made_home.file.exists()
    assert [path for path in (made_home.home / "landing").rglob("*") if path.is_file()] == []


def test_folders_are_taken_without_hidden_files_for_a_new_tenant(call: Call, home: Path, tmp_path: Path):
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    line = {"user_id": UUID, "ip": "192.0.2.7", "device_id": "d", "device_type": "ios", "app_version": "1.0"}
    (folder / "a.ndjson").write_text(json.dumps(line) + "\n")
    (folder / "deep" / "b.ndjson").write_text(json.dumps({**line, "more": 1}) + "\n")
    (folder / ".hidden").write_text(json.dumps(line) + "\n")
    called = call("ingest", "logins", folder, "--tenant", "acme", home=home)
    assert called.code == DONE, called.err
    assert "2 file(s), 2 records" in called.err
    assert "1 records brought undeclared fields" in called.err
    assert called.out == ""
    assert call("tenant", "list", "--json", home=home).json == {"tenants": ["acme", "default"], "ended": {}}
    assert sql(call, home, "select count(*) as n from masked.logins", tenant="acme") == [{"n": 2}]
    # Two people are too few to be shown as a group: the mart is there, and empty.
    assert sql(call, home, "select logins from curated.daily_logins", tenant="acme") == []


def test_a_file_that_cannot_be_read_is_told_without_a_traceback(
    call: Call, home: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "alice@example.com.json")

    monkeypatch.setattr("stores.landing._copy", refuse)
    called = call("ingest", "logins", file, home=home)
    assert called.code == FAILED
    assert "Permission denied" in called.err
    assert "alice@example.com" not in called.err
    assert "Traceback" not in called.err


def test_a_run_that_fails_names_its_step_and_keeps_the_batch(
    call: Call, copied_home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from stores.intake import Intake

    def fail(*_: object) -> int:
        raise ValueError("alice@example.com")

    line = {"user_id": UUID, "ip": "192.0.2.7", "device_id": "d", "device_type": "ios", "app_version": "1.0"}
    path = tmp_path / "late.ndjson"
    path.write_text(json.dumps(line) + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(Intake, "mask_batch", fail)
        patch.setattr("dagster.RetryPolicy.calculate_delay", lambda *_: 0)
        called = call("ingest", "logins", path, home=copied_home.home)
    assert called.code == FAILED
    assert "failed in masked_logins: ValueError at " in called.err
    assert "alice" not in called.err + called.out
    done = call("ingest", "logins", copied_home.file, "--json", home=copied_home.home)
    assert done.json["resumed"] == 1
    assert done.json["tables"]["masked.logins"] == 100


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
    home = Path(shutil.copytree(made_home.home, tmp_path / "copy"))
    call("tenant", "add", "acme", home=home)
    for query in ("select * from masked.logins", f"from read_parquet('{lake}/masked/logins/**/*.parquet')"):
        assert call("sql", query, "--tenant", "acme", home=home).code == WRONG_USAGE


def test_queries_from_standard_input_go_on_after_a_wrong_one(call: Call, made_home: Any):
    lines = "select 41 + 1 as n\nnonsense\nselect 43 as n\n"
    called = call("sql", "--format", "csv", home=made_home.home, stdin=lines)
    assert called.code == DONE
    assert called.out.split() == ["n", "42", "n", "43"]
    assert "lockhouse: the query does not run" in called.err


def test_what_was_asked_is_audited_as_a_digest(call: Call, copied_home: Any):
    value = copied_home.values[0]
    sql(call, copied_home.home, f"select count(*) from masked.logins where user_id_token = '{value}'")
    entries = call("audit", "list", "--json", home=copied_home.home).json["entries"]
    assert [one["outcome"] for one in entries if one["action"] == "tables:sql:run"] == ["allowed", "done"]
    assert value not in json.dumps(entries)
    assert call("leaks", "scan", value, home=copied_home.home).code == DONE


# --- Tokens and back


def accepted(made: Any) -> list[dict[str, Any]]:
    """The sample's logins without the one that is none."""
    return [record for record in made.records if "user_id" in record]


def test_the_masked_table_holds_the_token_that_the_command_makes(call: Call, made_home: Any):
    record = accepted(made_home)[0]
    for domain, name in (("ip", "ip"), ("user", "user_id"), ("device", "device_id")):
        token = call("token", record[name], "--domain", domain, "--json", home=made_home.home).json["token"]
        rows = sql(
            call, made_home.home, f"select count(*) as n from masked.logins where {name}_token = '{token}'"
        )
        assert rows[0]["n"] >= 1
        opened = call(
            "reveal", "--token", token, "--domain", domain, "--reason", "t", "--json", home=made_home.home
        )
        assert opened.json == {"values": [record[name]]}


def test_a_reveal_gives_the_original_addresses(call: Call, made_home: Any):
    called = call(
        "reveal",
        "--table",
        "masked.logins",
        "--column",
        "ip_token",
        "--reason",
        "ticket 17",
        "--json",
        home=made_home.home,
    )
    assert called.code == DONE
    assert sorted(called.json["values"]) == sorted(record["ip"] for record in accepted(made_home))


def test_a_reveal_can_be_narrowed_and_is_audited_first(call: Call, copied_home: Any):
    record = accepted(copied_home)[3]
    token = call("token", record["ip"], "--domain", "ip", home=copied_home.home).out.strip()
    where = f"ip_token = '{token}'"
    called = call(
        "reveal",
        "--table",
        "masked.logins",
        "--column",
        "user_id_token",
        "--where",
        where,
        "--reason",
        "ticket 17",
        home=copied_home.home,
    )
    assert called.out.split() == [record["user_id"]]
    entries = call("audit", "list", "--json", home=copied_home.home).json["entries"]
    revealed = [one for one in entries if one["action"] == "pii:column:revealed"]
    assert [one["outcome"] for one in revealed] == ["allowed", "done"]
    assert json.loads(revealed[0]["parameters"])["reason"] == "ticket 17"
    assert token not in json.dumps(entries)


def test_a_mart_can_be_revealed_as_well(call: Call, made_home: Any):
    called = call(
        "reveal",
        "--table",
        "curated.user_sessions",
        "--column",
        "user_id_token",
        "--reason",
        "t",
        "--json",
        home=made_home.home,
    )
    assert set(called.json["values"]) == {record["user_id"] for record in accepted(made_home)}


def test_the_token_of_another_tenant_is_refused(call: Call, copied_home: Any):
    home = copied_home.home
    call("tenant", "add", "acme", home=home)
    mine = call("token", "192.0.2.7", "--domain", "ip", home=home).out.strip()
    theirs = call("token", "192.0.2.7", "--domain", "ip", "--tenant", "acme", home=home).out.strip()
    assert mine[:28] != theirs[:28]
    called = call("reveal", "--token", theirs, "--domain", "ip", "--reason", "t", home=home)
    assert (called.code, called.out) == (REFUSED, "")
    assert theirs not in called.err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token[:20] + ("A" if token[20] != "A" else "B") + token[21:],
        lambda token: token[::-1],
        lambda token: "",
        lambda token: "no token at all",
        lambda token: "é" * 40,
    ],
    ids=["cut", "changed", "reversed", "empty", "text", "no ASCII"],
)
def test_what_is_no_token_is_refused_and_not_repeated(call: Call, made_home: Any, spoil: Callable[[str], str]):
    token = call("token", "192.0.2.7", "--domain", "ip", home=made_home.home).out.strip()
    spoiled = spoil(token)
    called = call("reveal", "--token", spoiled, "--domain", "ip", "--reason", "t", home=made_home.home)
    assert (called.code, called.out) == (REFUSED, "")
    assert not spoiled or spoiled not in called.err


def test_the_token_of_another_domain_is_refused(call: Call, made_home: Any):
    token = call("token", "192.0.2.7", "--domain", "device", home=made_home.home).out.strip()
    assert (
        call("reveal", "--token", token, "--domain", "ip", "--reason", "t", home=made_home.home).code == REFUSED
    )


@pytest.mark.parametrize(
    "swapped", [["token", "ip", "--domain"], ["reveal", "--token", "x", "--reason", "t", "--domain"]]
)
def test_a_value_given_as_the_domain_does_not_stay_in_the_trail(
    call: Call, copied_home: Any, swapped: list[str]
):
    called = call(*swapped, "198.51.100.213", home=copied_home.home)
    assert called.code == WRONG_USAGE
    assert "198.51.100.213" not in called.err
    assert call("leaks", "scan", "198.51.100.213", home=copied_home.home).code == DONE


# --- A second principal


@pytest.mark.parametrize(
    "arguments",
    [
        ["tables"],
        ["sql", "select 1"],
        ["reveal", "--table", "masked.logins", "--column", "ip_token", "--reason", "t"],
        ["token", "192.0.2.7", "--domain", "ip"],
        ["quarantine", "list"],
        ["quarantine", "show", UUID],
        ["quarantine", "retry", "--all"],
        ["quarantine", "drop", UUID],
        ["audit", "list"],
        ["audit", "verify"],
        ["leaks", "scan"],
        ["tenant", "add", "mine"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
@pytest.mark.usefixtures("eve")
def test_somebody_without_a_role_is_refused(call: Call, made_home: Any, arguments: list[str]):
    called = call(*arguments, home=made_home.home)
    assert (called.code, called.out) == (REFUSED, ""), called.err
    assert "eve holds no role" in called.err


def test_a_refusal_is_audited(call: Call, copied_home: Any, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("stores.settings.local_user", lambda: "eve")
        call("token", "192.0.2.7", "--domain", "ip", home=copied_home.home)
    last = call("audit", "list", "--json", home=copied_home.home).json["entries"][-2]
    assert (last["principal"], last["action"], last["outcome"]) == ("eve", "pii:token:made", "refused")


def test_nobody_becomes_operator_of_a_home_that_is_there(
    call: Call, copied_home: Any, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr("stores.settings.local_user", lambda: "eve")
        assert call("init", home=copied_home.home).code == DONE
        assert call("ingest", "logins", copied_home.file, home=copied_home.home).code == REFUSED
        assert call("tables", home=copied_home.home).code == REFUSED
    assert call("tables", home=copied_home.home).code == DONE


def test_the_environment_does_not_say_who_somebody_is(monkeypatch: pytest.MonkeyPatch):
    from stores.settings import local_user

    before = local_user()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert local_user() == before


# --- Quarantine


def test_quarantine_lists_reasons_without_content(call: Call, made_home: Any):
    called = call("quarantine", "list", "--json", home=made_home.home)
    (entry,) = called.json["entries"]
    assert {"id", "source", "reason", "received_at"} <= set(entry)
    assert entry["reason"] == "column user_id: required, but absent"
    assert (entry["source"], entry["record_number"]) == ("logins", 12)
    assert "oops" not in called.out
    shown = call("quarantine", "list", "--source", "logins", home=made_home.home)
    assert entry["id"] in shown.out


def test_quarantine_shows_an_entry_byte_for_byte(call: Call, copied_home: Any, tmp_path: Path):
    home = copied_home.home
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    shown = call("quarantine", "show", entry, "--json", home=home).json
    assert json.loads(shown["content"]) == copied_home.records[12]
    assert shown["file_name"] == "sample_data.json.gz"
    assert len(shown["content"].encode()) == shown["size_bytes"]
    out = tmp_path / "entry"
    called = call("quarantine", "show", entry, "-o", out, home=home)
    assert "in clear" in called.err
    assert out.read_text() == shown["content"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "oops_wrong_msg_type" in call("quarantine", "show", entry, home=home).out


def mended(record: dict[str, Any]) -> bool:
    return "user_id" in record


def test_quarantine_retries_what_fits_now_under_the_same_id(
    call: Call, copied_home: Any, monkeypatch: pytest.MonkeyPatch
):
    """The contract is mended between: here, what it was held against was wrong."""
    import lockhouse.retry

    home = copied_home.home
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    record = {**accepted(copied_home)[0], "ip": "198.51.100.99"}
    original = lockhouse.retry._message

    def repaired(store: Any, one: Any) -> bytes | None:
        assert original(store, one) is not None
        return json.dumps({"MessageId": one.id, "Body": json.dumps(record)}).encode()

    monkeypatch.setattr(lockhouse.retry, "_message", repaired)
    called = call("quarantine", "retry", entry, "--json", home=home)
    assert called.json == {"retried": 1, "accepted": 1, "quarantined": 0}
    assert call("quarantine", "list", "--json", home=home).json == {"entries": []}
    assert sql(call, home, f"select count(*) as n from masked.logins where event_id = '{entry}'") == [{"n": 1}]


def test_quarantine_retries_what_still_does_not_fit(call: Call, copied_home: Any):
    home = copied_home.home
    called = call("quarantine", "retry", "--all", "--json", home=home)
    assert called.json == {"retried": 1, "accepted": 0, "quarantined": 1}
    (entry,) = call("quarantine", "list", "--json", home=home).json["entries"]
    shown = call("quarantine", "show", entry["id"], "--json", home=home).json
    assert json.loads(shown["content"]) == copied_home.records[12]


def test_what_cannot_be_retried_stays(call: Call, copied_home: Any, tmp_path: Path):
    home = copied_home.home
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(b"\x1f\x8b\x08\x00" + bytes(range(128, 255)))
    assert call("ingest", "logins", damaged, home=home).code == QUARANTINED
    assert call("quarantine", "retry", "--all", "--json", home=home).json["retried"] == 1
    entries = call("quarantine", "list", "--json", home=home).json["entries"]
    (kept,) = [one["id"] for one in entries if "gzip" in one["reason"]]
    out = tmp_path / "again.gz"
    call("quarantine", "show", kept, "-o", out, home=home)
    assert out.read_bytes() == damaged.read_bytes()


def test_a_file_whose_name_is_no_text_can_be_quarantined(call: Call, copied_home: Any, tmp_path: Path):
    home = copied_home.home
    path = Path(str(tmp_path)) / b"caf\xe9.json".decode(errors="surrogateescape")
    path.write_text('{"nothing": "right"}\n')
    called = call("ingest", "logins", path, "--json", home=home)
    assert called.code == QUARANTINED, called.err
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    assert call("quarantine", "show", entry, "--json", home=home).json["file_name"] == "caf\\xe9.json"


def test_quarantine_drops_entries_for_good(call: Call, copied_home: Any):
    home = copied_home.home
    entry = call("quarantine", "list", "--json", home=home).json["entries"][0]["id"]
    assert call("quarantine", "drop", UUID, "--json", home=home).json == {"dropped": 0}
    assert call("quarantine", "drop", entry, "--json", home=home).json == {"dropped": 1}
    assert call("quarantine", "list", "--json", home=home).json == {"entries": []}
    assert call("quarantine", "show", entry, home=home).code == WRONG_USAGE
    assert "Nothing is in quarantine" in call("quarantine", "list", home=home).err


# --- Audit


def tamper(home: Path, *statements: str) -> None:
    """Change the audit trail as somebody with the file in hands could."""
    with sqlite3.connect(home / "lockhouse.db") as database:
        for table in ("audit", "audit_checkpoints"):
            for verb in ("update", "delete"):
                database.execute(f"drop trigger {table}_no_{verb}")
        for statement in statements:
            database.execute(statement)


def test_the_trail_of_a_made_home_is_whole(call: Call, copied_home: Any):
    called = call("audit", "verify", "--json", home=copied_home.home)
    assert called.code == DONE
    assert {"ok", "rows", "first_bad"} <= set(called.json)
    assert (called.json["ok"], called.json["first_bad"]) == (True, None)
    assert "is whole" in call("audit", "verify", home=copied_home.home).err
    assert "tenant:keys:created" in call("audit", "list", home=copied_home.home).out


TAMPERINGS = {
    "an edit": ["update audit set principal = 'nobody' where seq = 2"],
    "a deletion": ["delete from audit where seq = 2"],
    "another order": [
        "update audit set seq = 1000 where seq = 1",
        "update audit set seq = 1 where seq = 2",
        "update audit set seq = 2 where seq = 1000",
    ],
    "a cut tail": ["delete from audit where seq > 2"],
    "a cut tail with its head": ["delete from audit where seq > 2", "delete from audit_checkpoints"],
    "nothing left": ["delete from audit"],
    "a head altered": ["update audit_checkpoints set head = replace(head, '0', '1')"],
}


@pytest.mark.parametrize("statements", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_tampering_is_found(call: Call, copied_home: Any, statements: list[str]):
    home = copied_home.home
    assert call("audit", "verify", home=home).code == DONE  # signs the head
    tamper(home, *statements)
    called = call("audit", "verify", "--json", home=home)
    assert called.code == FAILED
    assert called.json["ok"] is False
    assert called.json["first_bad"] is not None
    assert "NOT hold" in call("audit", "verify", home=home).err
    doctor = {one["name"]: one for one in call("doctor", "--json", home=home).json["checks"]}
    assert doctor["audit trail"]["ok"] is False


# --- Leaks


def test_a_scan_of_a_made_home_is_clean(call: Call, made_home: Any, tmp_path: Path):
    values = tmp_path / "values"
    values.write_text("\n".join(made_home.values) + "\n")
    called = call("leaks", "scan", "--values-file", values, "--json", home=made_home.home)
    assert called.code == DONE, called.out
    assert called.json["hits"] == []
    assert called.json["files"] > 20
    assert called.json["values"] == len(made_home.values)
    assert call("leaks", "scan", home=made_home.home).code == DONE


@pytest.mark.parametrize(
    "place", ["lake/default/masked/note.txt", "dagster/storage/x.log", "alice@example.com"]
)
def test_a_scan_finds_what_was_planted_and_does_not_show_it(call: Call, copied_home: Any, place: str):
    path = copied_home.home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mail to alice@example.com or so")
    called = call("leaks", "scan", "alice@example.com", "--json", home=copied_home.home)
    assert called.code == FAILED
    assert {"file", "place"} <= set(called.json["hits"][0])
    assert "alice@example.com" not in called.out
    shown = call("leaks", "scan", "alice@example.com", home=copied_home.home)
    assert "alice@example.com" not in shown.out + shown.err


# --- Tenants and the doctor


def test_tenants_are_added_once(call: Call, home: Path):
    call("init", home=home)
    assert call("tenant", "add", "acme", "--json", home=home).json == {"tenant": "acme", "created": True}
    assert call("tenant", "add", "acme", "--json", home=home).json == {"tenant": "acme", "created": False}
    assert call("tenant", "list", home=home).out.split()[-2:] == ["acme", "default"]


def checks_of(call: Call, home: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    called = call("doctor", "--json", home=home)
    assert "Traceback" not in called.err
    return called.code, {one["name"]: one for one in called.json["checks"]}


def test_the_doctor_finds_a_made_home_well(call: Call, made_home: Any):
    code, checks = checks_of(call, made_home.home)
    assert (code, [name for name, one in checks.items() if not one["ok"]]) == (DONE, [])
    assert "All is well" in call("doctor", home=made_home.home).err


@pytest.mark.parametrize("name", ["keyring.json", "passphrase"])
def test_the_doctor_names_keys_that_others_can_read(call: Call, copied_home: Any, name: str):
    (copied_home.home / "keys" / name).chmod(0o644)
    code, checks = checks_of(call, copied_home.home)
    assert (code, checks["keyring"]["ok"]) == (FAILED, False)
    assert f"{name} can be read by others (mode 644): `chmod 600` it first" == checks["keyring"]["found"]
    assert call("tables", home=copied_home.home).code == FAILED


def test_the_doctor_names_a_home_that_others_can_enter(call: Call, copied_home: Any):
    copied_home.home.chmod(0o755)
    code, checks = checks_of(call, copied_home.home)
    assert (code, checks["home"]["mend"]) == (FAILED, f"chmod 700 {copied_home.home}")


def test_the_doctor_names_an_absent_home(call: Call, home: Path):
    code, checks = checks_of(call, home)
    assert code == FAILED
    assert checks["home"] == {
        "name": "home",
        "ok": False,
        "found": f"{home} is absent",
        "mend": "lockhouse init",
    }
    assert not checks["keyring"]["ok"]
    assert not checks["database"]["ok"]
    assert checks["contracts"]["ok"]
    assert not home.exists()


def test_the_doctor_names_a_wrong_passphrase(call: Call, copied_home: Any):
    (copied_home.home / "keys" / "passphrase").write_text("something else")
    code, checks = checks_of(call, copied_home.home)
    assert (code, checks["keyring"]["ok"]) == (FAILED, False)
    assert "does not open with this passphrase" in checks["keyring"]["found"]
    assert "something else" not in json.dumps(checks)


def test_the_doctor_names_a_damaged_database(call: Call, copied_home: Any):
    for path in copied_home.home.glob("lockhouse.db*"):
        path.write_bytes(b"no database, but alice@example.com" * 200)
    code, checks = checks_of(call, copied_home.home)
    assert (code, checks["database"]["ok"]) == (FAILED, False)
    assert "alice" not in json.dumps(checks)
    assert call("tables", home=copied_home.home).code == FAILED


def test_the_doctor_counts_what_waits(call: Call, copied_home: Any):
    from orchestration.resources import Platform
    from stores.settings import load_settings

    Platform(load_settings(copied_home.home)).landing.land("logins", "default", "x", b"{}")
    _, checks = checks_of(call, copied_home.home)
    assert checks["batches"]["found"] == "1 on their way"


# --- Demo and up


def test_the_demo_sends_canaries_through_everything_and_a_second_changes_nothing(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lockhouse.demo.EVENTS", 400)
    first = call("demo", "--json", home=home)
    assert first.code == DONE, first.err
    result = first.json
    assert {"tables", "checks", "seconds"} <= set(result)
    assert (result["leaks"], result["duplicates"], result["canaries"]) == (0, 1, 2000)
    assert result["events"] == result["accepted"] + result["quarantined"] + result["duplicates"]
    assert all(result["checks"].values())
    second = call("demo", "--json", home=home).json
    assert second["tables"] == result["tables"]
    assert (second["accepted"], second["quarantined"]) == (0, 0)
    told = call("demo", home=home)
    assert "0 readable" in told.err
    assert "Next:" in told.err


def test_a_home_that_is_up_is_not_started_twice(call: Call, copied_home: Any):
    from stores.locks import exclusive

    with exclusive(copied_home.home / "locks" / "up.lock"):
        called = call("up", home=copied_home.home)
    assert called.code == WRONG_USAGE
    assert "is up already" in called.err


# --- What is never said


def test_an_error_of_a_library_is_told_by_its_kind_and_place(
    call: Call, made_home: Any, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise RuntimeError("alice@example.com could not be read")

    monkeypatch.setattr("stores.tables.Tables.listing", fail)
    called = call("tables", home=made_home.home)
    assert called.code == FAILED
    assert "unexpected: RuntimeError" in called.err
    assert "alice" not in called.err + called.out
    assert "Traceback" not in called.err


def test_no_secret_is_in_any_output(call: Call, made_home: Any):
    from orchestration.resources import Platform
    from stores.settings import load_settings

    provider = Platform(load_settings(made_home.home)).provider
    secrets = [
        (made_home.home / "keys" / "passphrase").read_text().strip(),
        provider.root("default", 0).hex(),
        provider.root("default", 1).hex(),
        provider.signing_key().hex(),
    ]
    said = ""
    for words in (
        ["doctor"],
        ["tables"],
        ["audit", "list"],
        ["init"],
        ["tenant", "list"],
        ["quarantine", "list"],
    ):
        for more in ([], ["--json"]):
            called = call(*words, *more, home=made_home.home)
            said += called.out + called.err
    assert not any(secret in said for secret in secrets)


@pytest.mark.parametrize(
    "words",
    [
        ["init"],
        ["ingest", "logins", "FILE"],
        ["tables"],
        ["quarantine", "list"],
        ["audit", "list"],
        ["audit", "verify"],
        ["tenant", "list"],
        ["doctor"],
        ["leaks", "scan"],
        ["token", "192.0.2.7", "--domain", "ip"],
    ],
    ids=" ".join,
)
def test_json_is_one_object_alone_on_standard_output(call: Call, copied_home: Any, words: list[str]):
    words = [str(copied_home.file) if word == "FILE" else word for word in words]
    called = call(*words, "--json", home=copied_home.home)
    assert called.code in (DONE, FAILED)
    assert isinstance(called.json, dict)
    assert len(called.out.splitlines()) == 1


def test_the_installed_command_ends_with_the_exit_code(made_home: Any):
    command = [sys.executable, "-m", "lockhouse.main"]
    program = Path(sys.executable).with_name("lockhouse")
    command = [str(program)] if program.exists() else command
    done = subprocess.run(
        [*command, "--home", str(made_home.home), "tables", "--tenant", "nobody"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == WRONG_USAGE
    assert done.stderr.startswith("lockhouse: no tenant nobody")


def test_keys_are_rotated_retired_and_told(call: Call, copied_home: Any):
    home, query = copied_home.home, "select event_id, ip_token from masked.logins order by 1"
    before = sql(call, home, query)
    rotated = call("keys", "rotate", "--json", home=home)
    assert rotated.code == DONE, rotated.err
    assert rotated.json["epoch"] == 2
    assert rotated.json["tables"]["masked.logins"] == len(before) == 99
    listed = call("keys", "status", "--json", home=home).json["epochs"]
    assert [one["state"] for one in listed] == ["ending", "current"]
    assert call("keys", "retire", "--json", home=home).json["destroyed"] == []
    assert call("keys", "rotate", "--emergency", "--yes", "--json", home=home).json["destroyed"] == [1, 2]
    after = sql(call, home, query)
    assert [one["event_id"] for one in after] == [one["event_id"] for one in before]
    assert not {one["ip_token"][:6] for one in after} & {one["ip_token"][:6] for one in before}
    asked = ("--domain", "ip", "--reason", "t", "--json")
    revealed = call("reveal", "--token", after[0]["ip_token"], *asked, home=home)
    assert revealed.json["values"][0] in copied_home.values
    assert call("reveal", "--token", before[0]["ip_token"], *asked, home=home).code == REFUSED
    trail = call("audit", "list", "--limit", "100", "--json", home=home).json["entries"]
    done = [one["action"] for one in trail if one["outcome"] == "done"]
    assert done.count("keys:epoch:renewed") == 2
    assert done.count("keys:epoch:destroyed") == 2


def test_an_emergency_is_asked_for_where_nobody_can_answer(call: Call, made_home: Any):
    assert call("keys", "rotate", "--emergency", home=made_home.home).code != 0
