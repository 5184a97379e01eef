# ruff: noqa: S608 - queries of our own, against a home made for the test
"""Requests of data subjects by command line: access, erasure, proof; who may, and what is never said."""

import json
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from command_line import DONE, FAILED, REFUSED, WRONG_USAGE, Call
from homes import copy_home
from orchestration.resources import Platform
from stores.settings import load_settings
from transforms.access import Role
from transforms.pii.leaks import LeakMatcher

NOBODY = "5082b1ae-0000-4e3b-a1d8-9750b4407eff"


def person_of(made: Any) -> str:
    return next(str(one["user_id"]) for one in made.records if "user_id" in one)


def ask(call: Call, home: Path, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call("sql", query, "--format", "json", home=home).json
    return found


def test_an_erasure_from_preview_to_proof(call: Call, copied_home: Any, tmp_path: Path):
    home, person = copied_home.home, person_of(copied_home)
    before = ask(call, home, "select user_id_token, count(*) as n from masked.logins group by all")
    told = call("subject", "erase", "--id", person, "--dry-run", "--json", home=home).json
    rows = {one["table"]: one["rows"] for one in told["tables"]}
    assert rows["raw.logins"] == rows["masked.logins"] > 0
    assert rows["curated.user_sessions"] > 0
    assert (told["state"], told["certificate"]) == ("dry_run", None)

    token = call("token", person, "--domain", "user", "--json", home=home).json["token"]
    called = call("subject", "erase", "--id", person.upper(), "--yes", "--json", home=home)
    assert called.code == DONE, called.err
    result = called.json
    assert result["state"] == "certified"
    assert Path(result["certificate"]).is_absolute()
    assert result["tables"]["masked.logins"] == rows["masked.logins"]
    assert stat.S_IMODE(Path(result["certificate"]).stat().st_mode) == 0o600

    after = ask(call, home, "select user_id_token, count(*) as n from masked.logins group by all")
    assert sorted(map(str, after)) == sorted(str(one) for one in before if one["user_id_token"] != token)
    for table in ("masked.logins", "curated.user_sessions"):
        assert ask(call, home, f"select * from {table} where user_id_token = '{token}'") == []
    totals = (
        "select (select sum(logins)::int from curated.user_sessions) a, (select count(*) from masked.logins) b"
    )
    (counted,) = ask(call, home, totals)
    assert counted["a"] == counted["b"]
    assert call("leaks", "scan", person, "--json", home=home).json["hits"] == []
    assert call("audit", "verify", "--json", home=home).json["ok"]

    again = call("ingest", "logins", write_again(copied_home, tmp_path, person), "--json", home=home).json
    assert (again["accepted"], again["refused"]) == (0, 1)
    verdict = call("subject", "verify", result["certificate"], "--json", home=home)
    assert (verdict.code, verdict.json["problems"]) == (DONE, [])

    copy = copy_home(home, tmp_path / "a copy")
    shutil.rmtree(copy / "keys")
    place = copy / Path(result["certificate"]).relative_to(home)
    assert call("subject", "verify", place, "--json", home=copy).json["ok"]
    content = place.read_text()
    place.write_text(content.replace("certified", "certifieD", 1) if "certified" in content else content[:-2])
    assert call("subject", "verify", place, "--json", home=copy).code == FAILED

    shown = call("subject", "status", "--id", person, "--json", home=home).json["requests"]
    assert [one["request"] for one in shown] == [result["request"]]
    deadline = datetime.fromisoformat(shown[0]["deadline"]) - datetime.fromisoformat(shown[0]["requested_at"])
    assert deadline == timedelta(days=30)
    assert call("subject", "status", "--id", NOBODY, "--json", home=home).json["requests"] == []


def write_again(made: Any, folder: Path, person: str) -> Path:
    record = next(one for one in made.records if one.get("user_id") == person)
    path = folder / "again.json"
    path.write_text(json.dumps({**record, "locale": "DE"}))
    return path


def test_without_waiting_the_key_goes_at_once_and_status_does_the_rest(call: Call, copied_home: Any):
    home, person = copied_home.home, person_of(copied_home)
    called = call("subject", "erase", "--id", person, "--yes", "--no-wait", "--json", home=home)
    assert (called.json["state"], called.json["certificate"]) == ("key_destroyed", None)
    seen = call("subject", "status", "--no-wait", "--json", home=home).json["requests"]
    assert [one["state"] for one in seen] == ["key_destroyed"]
    done = call("subject", "status", "--json", home=home).json["requests"]
    assert [(one["request"], one["state"]) for one in done] == [(called.json["request"], "certified")]
    assert call("subject", "verify", done[0]["certificate"], home=home).code == DONE


def test_an_answer_to_an_access_request(call: Call, copied_home: Any, tmp_path: Path):
    home, person = copied_home.home, person_of(copied_home)
    folder = tmp_path / "answer"
    called = call(
        "subject", "access", "--id", person, "-o", folder, "--reason", "letter 5", "--json", home=home
    )
    assert called.code == DONE, called.err
    answer = json.loads((folder / "subject.json").read_text())
    wanted = [one for one in copied_home.records if one.get("user_id") == person]
    assert [one["record"] for one in answer["entries"]["logins"]] == wanted
    assert answer["subject"] == {"domain": "user", "id": person}
    assert answer["sources"]["logins"] == called.json["sources"]["logins"] == len(wanted)
    trail = answer["entries"]["audit trail"]
    assert any(one["action"] == "subjects:data:disclosed" and one["outcome"] == "allowed" for one in trail)
    page = (folder / "subject.html").read_text()
    assert str(wanted[0]["ip"]) in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = call("subject", "access", "--id", person, "-o", tmp_path / "second", home=home)
    assert "yours to guard" in text.err
    assert person not in text.out + text.err
    assert call("subject", "access", "--id", person, "-o", folder, home=home).code == WRONG_USAGE
    assert call("subject", "access", "--id", NOBODY, "-o", tmp_path / "none", home=home).code == WRONG_USAGE
    assert not (tmp_path / "none").exists()
    assert call("leaks", "scan", person, home=home).code == DONE


@pytest.mark.parametrize(
    "words",
    [
        ["erase", "--id", NOBODY, "--dry-run"],
        ["erase", "--id", NOBODY, "--yes"],
        ["access", "--id", NOBODY, "-o", "nowhere"],
        ["status"],
    ],
    ids=lambda words: " ".join(words[:1] + words[3:]),
)
def test_who_holds_no_right_is_refused_and_noted(
    call: Call, copied_home: Any, eve: str, words: list[str], tmp_path: Path
):
    called = call("subject", *words, home=copied_home.home)
    assert (called.code, called.out) == (REFUSED, "")
    last = Platform(load_settings(copied_home.home)).audit.entries("default", 1)[0]
    assert (last.principal, last.outcome) == (eve, "refused")
    assert NOBODY not in last.parameters
    assert not Path("nowhere").exists()


def test_rights_are_those_of_privacy_officers(call: Call, copied_home: Any, eve: str):
    platform = Platform(load_settings(copied_home.home))
    for role, code in ((Role.ANALYST, REFUSED), (Role.AUDITOR, REFUSED), (Role.PRIVACY_OFFICER, DONE)):
        platform.access.assign(eve, role, "default")
        assert call("subject", "erase", "--id", NOBODY, "--dry-run", home=copied_home.home).code == code


@pytest.mark.parametrize(
    "words",
    [
        ["erase", "--yes"],
        ["erase", "--id", NOBODY],
        ["erase", "--id", NOBODY, "--domain", "ip", "--yes"],
        ["erase", "--id", "   ", "--yes"],
        ["access", "--id", NOBODY],
        ["access", "--id", NOBODY, "-o", "x", "--reason", " "],
        ["verify", "/nowhere"],
    ],
    ids=" ".join,
)
def test_wrong_usage_changes_nothing(call: Call, made_home: Any, words: list[str]):
    called = call("subject", *words, home=made_home.home)
    assert called.code == WRONG_USAGE
    assert "Traceback" not in called.err
    assert call("subject", "status", "--json", home=made_home.home).json["requests"] == []


def test_somebody_unknown_gets_a_tombstone(call: Call, copied_home: Any, tmp_path: Path):
    result = call("subject", "erase", "--id", NOBODY, "--yes", "--json", home=copied_home.home).json
    assert (result["state"], result["tables"]) == ("certified", {})
    record = next(one for one in copied_home.records if "user_id" in one)
    (tmp_path / "late.json").write_text(json.dumps({**record, "user_id": NOBODY}))
    late = call("ingest", "logins", tmp_path / "late.json", "--json", home=copied_home.home).json
    assert (late["accepted"], late["refused"]) == (0, 1)


def test_a_page_shows_whatever_came_and_runs_nothing():
    from transforms.privacy.pages import write_page

    evil = '<script>alert(1)</script><img src=x onerror="y">&'
    answer = {
        "subject": {"id": evil, "domain": "user"},
        "tenant": "t",
        "made_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "sources": {evil: 1},
        "entries": {evil: [{evil: evil, "n": None}], "none": []},
    }
    page = write_page(answer)
    assert "<script" not in page and "<img" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert LeakMatcher(["onerror="]).find(page.encode()) == [0]
