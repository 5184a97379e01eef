# ruff: noqa: S608 - queries of our own, against a home made for the test
"""Validations by command line: the whole way to the marts, who may, what is never said, and kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import DONE, FAILED, QUARANTINED, REFUSED, WRONG_USAGE, Call
from homes import copy_home
from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.leaks import default_exclusions, scan
from stores.settings import load_settings
from transforms.pii.leaks import LeakMatcher
from transforms.pii.synthetic import canary_values
from validation_requests import DETAILS

ROUNDS = int(os.environ.get("VALIDATION_KILL_ROUNDS", "3"))


def request_of(number: int, **changed: object) -> dict[str, object]:
    return {"username": f"person-{number}@example.org", **DETAILS, **changed}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def ask(call: Call, home: Path, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call("sql", query, "--format", "json", home=home).json
    return found


@pytest.fixture(scope="module")
def made(call: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A home that took a file of requests: good ones, rejected ones, one that is no request."""
    folder = tmp_path_factory.mktemp("validations")
    home = folder / "home"
    assert call("init", home=home).code == DONE
    (home / "settings.toml").write_text("k_threshold = 2\n")
    requests = [request_of(number) for number in range(4)]
    requests[1] = request_of(
        1, phone_number="+10000000000", document_type="passport", document_number="L898902C35"
    )
    requests[2] = request_of(2, date_of_birth="2015-01-01", address_country="FR", phone_number="+10000000000")
    file = write(folder / "requests.ndjson", *requests, request_of(9, date_of_birth="2015-02-30"))
    called = call("ingest", "validations", file, "--json", home=home)
    assert called.code == QUARANTINED, called.err
    return home, file, called.json


@pytest.fixture
def copied(made: tuple[Path, Path, Any], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of that home, to be changed, and the file."""
    return copy_home(made[0], tmp_path / "copy"), made[1]


def test_a_file_of_requests_is_decided_masked_and_in_the_marts(call: Call, made: tuple[Path, Path, Any]):
    home, _, result = made
    counts = {
        name: result[name] for name in ("files", "rows", "accepted", "quarantined", "duplicates", "decided")
    }
    assert counts == {"files": 1, "rows": 5, "accepted": 4, "quarantined": 1, "duplicates": 0, "decided": 4}
    assert all(result["checks"].values())
    assert {name.partition(":")[0] for name in result["checks"]} >= {"masked.validations"}
    rows = ask(call, home, "select * from masked.validations")
    token = {
        number: call("token", f"Person-{number}@example.org", "--domain", "user", "--json", home=home).json[
            "token"
        ]
        for number in range(4)
    }
    found = {row["username_token"]: row for row in rows}
    assert set(found) == set(token.values())
    first, second, third = (found[token[number]] for number in range(3))
    assert (first["decision"], first["reasons"], first["date_of_birth_year"]) == ("accepted", None, "1980")
    assert first["address_country"] == "DE"
    assert second["reasons"] == "phone_number.invalid,document_number.check_digit"
    assert third["reasons"] == "phone_number.invalid,date_of_birth.too_young"
    assert second["full_name_hash"] == first["full_name_hash"] and len(first["full_name_hash"]) == 28
    phone = call("token", "+1 202 555 0123", "--domain", "phone", "--json", home=home).json["token"]
    assert first["phone_number_token"] == phone
    assert (second["document_type"], first["document_type"]) == ("passport", None)
    outcomes = ask(call, home, "select * from curated.validation_outcomes")
    assert {row["validation_id"] for row in outcomes} == {row["validation_id"] for row in rows}
    assert all(row["milliseconds_to_decision"] >= 0 for row in outcomes)
    # By date, and the four may have been decided on both sides of midnight.
    summed = "address_country, sum(validations)::int as validations, sum(accepted)::int as accepted"
    (rates,) = ask(call, home, f"select {summed} from curated.validation_rates group by 1")
    assert (rates["address_country"], rates["validations"], rates["accepted"]) == ("other", 4, 2)
    summed = "reason, sum(rejections)::int as rejections"
    reasons = ask(call, home, f"select {summed} from curated.validation_reasons group by 1")
    assert reasons == [{"reason": "phone_number.invalid", "rejections": 2}]


def test_the_same_file_changes_nothing_and_a_bad_request_is_in_quarantine(
    call: Call, copied: tuple[Path, Path]
):
    home, file = copied
    again = call("ingest", "validations", file, "--json", home=home)
    assert again.code == DONE
    assert (again.json["rows"], again.json["duplicates"], again.json["decided"]) == (5, 5, 0)
    (entry,) = call("quarantine", "list", "--json", home=home).json["entries"]
    assert entry["source"] == "validations"
    assert entry["reason"].startswith("column date_of_birth: expected a date")
    retried = call("quarantine", "retry", "--all", "--source", "validations", "--json", home=home)
    assert (retried.json["retried"], retried.json["quarantined"]) == (1, 1)
    assert len(call("quarantine", "list", "--json", home=home).json["entries"]) == 1


def test_one_validation_from_submission_to_deletion(call: Call, copied: tuple[Path, Path], tmp_path: Path):
    home, _ = copied
    file = write(tmp_path / "request.json", request_of(20))
    submitted = call("validation", "submit", file, "--key", "order-1", "--json", home=home)
    assert submitted.code == DONE, submitted.err
    validation = submitted.json["validation"]
    assert submitted.json == {"validation": validation, "status": "pending"}
    again = call("validation", "submit", file, "--key", "order-1", "--json", home=home).json
    assert again == submitted.json
    other = write(tmp_path / "other.json", request_of(21))
    assert call("validation", "submit", other, "--key", "order-1", home=home).code == WRONG_USAGE
    assert call("validation", "pii", validation, home=home).code == FAILED
    worked = call("worker", "--until-idle", "0", "--json", home=home)
    assert worked.json["services"]["validator"]["events"] >= 1
    status = call("validation", "status", validation, "--json", home=home).json
    assert (status["status"], status["decision"], status["reasons"]) == ("fulfilled", "accepted", [])
    opened = call("validation", "pii", validation, "--json", home=home).json["record"]
    assert opened == request_of(20)
    why = ("--reason", "letter 18", "--purpose", "legal")
    assert call("validation", "pii", validation, *why, "--json", home=home).json["record"] == opened
    entries = call("audit", "list", "--limit", "40", "--json", home=home).json["entries"]
    marks = [json.loads(one["parameters"]) for one in entries if one["action"] == "validations:data:disclosed"]
    told = {(one["outcome"], one["action"]) for one in entries if one["action"].startswith("validations:data")}
    assert {outcome for outcome, _ in told} >= {"allowed", "done"}
    assert {(one["purpose"], one.get("reason")) for one in marks} >= {
        ("subject-request", None),
        ("legal", "letter 18"),
    }

    change = write(tmp_path / "change.json", {"phone_number": "+10000000000", "address_city": None})
    updated = call("validation", "update", validation, change, "--json", home=home)
    assert (updated.code, updated.json["status"]) == (DONE, "pending")
    call("ingest", "validations", "--staged", home=home)
    status = call("validation", "status", validation, "--json", home=home).json
    assert status["reasons"] == ["phone_number.invalid", "address.incomplete"]
    query = f"select decision from masked.validations where validation_id = '{validation}' order by occurred_at"
    assert [row["decision"] for row in ask(call, home, query)] == ["accepted", "rejected"]

    before = ask(call, home, "select count(*) as n from masked.validations")[0]["n"]
    assert call("validation", "delete", validation, home=home).code == WRONG_USAGE
    deleted = call("validation", "delete", validation, "--yes", "--json", home=home)
    assert (deleted.json["status"], deleted.json["validation"]) == ("deleted", validation)
    for words in (["status", validation], ["pii", validation], ["delete", validation, "--yes"]):
        gone = call("validation", *words, home=home)
        assert (gone.code, deleted.json["deleted"] in gone.err) == (WRONG_USAGE, True)
    call("ingest", "validations", "--staged", home=home)
    assert ask(call, home, query) == []
    assert ask(call, home, "select count(*) as n from masked.validations")[0]["n"] == before - 2
    mart = f"select * from curated.validation_outcomes where validation_id = '{validation}'"
    assert ask(call, home, mart) == []
    platform = Platform(load_settings(home))
    with platform.tables.reading("default", "raw.validations") as table:
        assert table.collect().height == before - 2
    assert call("audit", "verify", "--json", home=home).json["ok"]


def test_a_person_may_see_their_validations_and_have_them_erased(
    call: Call, copied: tuple[Path, Path], tmp_path: Path
):
    home, _ = copied
    person = "person-3@example.org"
    folder = tmp_path / "answer"
    called = call("subject", "access", "--id", person, "--domain", "user", "-o", folder, "--json", home=home)
    assert called.code == DONE, called.err
    entries = json.loads((folder / "subject.json").read_text())["entries"]
    (mine,) = entries["validation requests"]
    assert mine["record"] == request_of(3)
    assert [one["record"]["username"] for one in entries["validations"]] == [person]
    erased = call("subject", "erase", "--id", person, "--domain", "user", "--yes", "--json", home=home)
    assert erased.code == DONE, erased.err
    assert (erased.json["state"], erased.json["copies"]["validations"]) == ("certified", 1)
    assert erased.json["tables"]["masked.validations"] == 1
    assert call("subject", "verify", erased.json["certificate"], home=home).code == DONE
    assert call("validation", "status", mine["validation"], home=home).code == WRONG_USAGE
    file = write(tmp_path / "late.json", request_of(3, full_name="Another Name"))
    late = call("validation", "submit", file, home=home)
    assert late.code == REFUSED
    assert person not in late.err
    counted = call("ingest", "validations", file, "--json", home=home).json
    assert (counted["rows"], counted["refused"], counted["accepted"]) == (1, 1, 0)


@pytest.mark.parametrize(
    "words",
    [
        ["submit"],
        ["status", "01a1fec0-df13-775c-9309-0840fda3ec81"],
        ["pii", "01a1fec0-df13-775c-9309-0840fda3ec81"],
        ["update", "01a1fec0-df13-775c-9309-0840fda3ec81"],
        ["delete", "01a1fec0-df13-775c-9309-0840fda3ec81", "--yes"],
    ],
)
def test_who_holds_no_right_is_refused(
    words: list[str], call: Call, made: tuple[Path, Path, Any], eve: str, tmp_path: Path
):
    home, _, _ = made
    more = [str(write(tmp_path / "r.json", request_of(1)))] if words[0] in ("submit", "update") else []
    called = call("validation", *words[:2], *more, *words[2:], home=home)
    assert called.code == REFUSED, called.err
    assert call("worker", "--until-idle", "0", home=home).code == REFUSED


def test_what_is_wrong_is_told_by_column_and_never_by_value(
    call: Call, made: tuple[Path, Path, Any], tmp_path: Path
):
    home, _, _ = made
    wrong: list[tuple[object, str]] = [
        ({**DETAILS}, "column username: required"),
        (request_of(1, username=7), "column username: expected str, met int"),
        (request_of(1, nickname="Canary-Nick"), "1 undeclared field"),
        (request_of(1, phone_number="call me"), "column phone_number: expected a phone number"),
        (request_of(1, address_country="Germany"), "column address_country"),
        (["Canary-List"], "expected a JSON object"),
    ]
    for record, told in wrong:
        called = call("validation", "submit", write(tmp_path / "w.json", record), home=home)
        assert (called.code, told in called.err) == (WRONG_USAGE, True), called.err
        assert "Canary" not in called.err and "call me" not in called.err
    assert call("validation", "status", "person-1@example.org", home=home).code == WRONG_USAGE
    trail = call("audit", "list", "--limit", "200", "--json", home=home).out
    assert "person-1" not in trail


def test_no_canary_of_any_field_can_be_read_after_every_command_and_error(
    call: Call, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    home = tmp_path / "home"
    assert call("init", home=home).code == DONE
    contract = load_contract("validations")
    telling = [one.name for one in contract.fields if one.is_personal and one.name not in KEPT]
    canaries = canary_values(contract, 7, len(telling) * 12)
    sets = [dict(zip(telling, canaries[at:], strict=False)) for at in range(0, len(canaries), len(telling))]
    said: list[str] = []

    def say(*words: object) -> Any:
        called = call(*words, home=home)
        said.append(called.out + called.err if words[:2] != ("validation", "pii") else called.err)
        return called

    requests = [{**DETAILS, **one, "document_type": "passport"} for one in sets]
    file = tmp_path_factory.mktemp("in") / f"{canaries[0]}.ndjson"
    broken = json.dumps(requests[1])[:150]
    bad = [{**requests[2], "phone_number": sets[2]["full_name"]}, {**requests[3], sets[3]["full_name"]: 1}]
    file.write_text("\n".join([*map(json.dumps, [*requests[4:8], *bad]), broken]))
    say("ingest", "validations", file)
    one = write(tmp_path / "one.json", requests[8])
    validation = say("validation", "submit", one, "--key", sets[8]["username"], "--json").json["validation"]
    say("validation", "submit", write(tmp_path / "two.json", requests[9]), "--key", sets[8]["username"])
    say("validation", "submit", write(tmp_path / "bad.json", bad[0]))
    say("worker", "--until-idle", "0")
    for word in ("status", "pii"):
        say("validation", word, validation)
        say("validation", word, sets[10]["username"])
    say("validation", "update", validation, write(tmp_path / "u.json", {"full_name": sets[10]["full_name"]}))
    say("validation", "update", validation, write(tmp_path / "v.json", {"username": sets[10]["username"]}))
    say("ingest", "validations", "--staged")
    say("validation", "submit", write(tmp_path / "three.json", requests[11]))
    say("send", "validations", one)
    say("tables")
    say("audit", "list", "--limit", "500")
    matcher = LeakMatcher(canaries)
    assert [canaries[at] for text in said for at in matcher.find(text.encode())] == []
    platform = Platform(load_settings(home))
    report = scan(home, canaries, exclude=default_exclusions(platform.home))
    assert ([(one.file, one.place) for one in report.hits], report.unreadable) == ([], [])
    # What is on its way is in landing for as long as it takes, and nothing is left behind there.
    assert [path for path in platform.home.landing.rglob("*") if path.is_file() and path.name.isdigit()] == []


KEPT = ("address_country", "document_type", "date_of_birth")


def test_workers_that_are_killed_lose_nothing_and_do_nothing_twice(call: Call, tmp_path: Path):
    home, dice = tmp_path / "home", random.Random(5)  # noqa: S311 - moments for a test
    assert call("init", home=home).code == DONE
    (home / "settings.toml").write_text("queue_visibility_s = 2\nqueue_max_receives = 50\n")
    platform = Platform(load_settings(home))
    intake = platform.validations.intake
    ids = [
        intake.submit("default", {**DETAILS, "username": f"p{number}"}, "username").validation
        for number in range(40)
    ]
    for validation in ids[:10]:
        intake.update("default", validation, {"phone_number": "+10000000000"}, [])
    for validation in ids[30:]:
        intake.delete("default", validation)
    command = [sys.executable, "-m", "lockhouse.main", "--home", str(home), "worker"]
    for _ in range(ROUNDS):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(1.0, 2.2))
        running.send_signal(signal.SIGKILL)
        running.wait()
    worked = call("worker", "--until-idle", "3", "--json", home=home)
    assert worked.code == DONE, worked.err
    assert {one["failures"] for one in worked.json["services"].values()} == {0}
    taken = call("ingest", "validations", "--staged", "--json", home=home)
    assert taken.code == DONE, taken.err
    rows = ask(call, home, "select validation_id, event_id, decision from masked.validations")
    assert len({row["event_id"] for row in rows}) == len(rows)
    last = {row["validation_id"]: row["decision"] for row in sorted(rows, key=lambda one: one["event_id"])}
    wanted = dict.fromkeys(ids[:10], "rejected") | dict.fromkeys(ids[10:30], "accepted")
    assert last == wanted
    fresh = Platform(load_settings(home)).validations
    assert {one: fresh.disclosure.find_status("default", one).decision for one in wanted} == wanted
    assert all(fresh.high.get("default", one) is None for one in ids[30:])
