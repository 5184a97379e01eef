"""Homes by command line: made, filled, shown by the demo, told well or unwell by the doctor."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import DONE, FAILED, QUARANTINED, UUID, WRONG_USAGE, Call, sql

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
