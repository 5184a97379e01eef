"""Requests of data subjects over HTTP: found, given everything, erased for good; and nobody sees whom."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lockhouse.errands import count_errands, run_errands
from lockhouse.service.application import make_application
from orchestration.resources import Platform
from stores.access_packages import AccessPackages, PackageState, Wanted
from stores.erasure_requests import ErasureState
from stores.leaks import default_exclusions, scan
from stores.settings import load_settings
from stores.verification import verify_certificate
from transforms.access import RIGHTS, Role
from transforms.errors import DecryptionError, MissingError, NotYetError
from waiting import wait_for

NOBODY = "5082b1ae-0000-4e3b-a1d8-9750b4407eff"


@dataclass
class Office:
    """A home with logins, a privacy officer's program, and somebody who asks."""

    platform: Platform
    client: TestClient
    headers: dict[str, str]
    person: str
    other: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return self.client.request(method, f"/v1/{path}", json=body, headers={**self.headers, **headers})

    def entries(self) -> list[Any]:
        return self.platform.audit.entries("default")


@pytest.fixture
def office(copied_home: Any) -> Iterator[Office]:
    platform = Platform(load_settings(copied_home.home))
    client, _ = platform.access.clients.add("office", "default", RIGHTS[Role.PRIVACY_OFFICER])
    headers = {"Authorization": f"Bearer {platform.tokens.issue(client, client.scopes)}"}
    people = list(dict.fromkeys(str(one["user_id"]) for one in copied_home.records if "user_id" in one))
    with TestClient(make_application(platform), raise_server_exceptions=False) as made:
        yield Office(platform, made, headers, people[0], people[1])


def test_somebody_is_found_by_a_body_and_nothing_is_said_of_them(office: Office):
    found = office.ask("POST", "subjects/find", {"id": office.person.upper()}).json()
    rows = {one["table"]: one["rows"] for one in found["tables"]}
    assert (found["known"], found["erased"], found["domain"]) == (True, False, "user")
    assert rows["raw.logins"] == rows["masked.logins"] > 0
    assert office.person not in json.dumps(found)
    nobody = office.ask("POST", "subjects/find", {"id": NOBODY}).json()
    assert (nobody["known"], nobody["tables"]) == (False, [])
    assert office.ask("POST", "subjects/find", {"id": office.person, "domain": "nothing"}).status_code == 422


def test_everything_about_somebody_comes_as_a_sealed_package_that_is_disclosed_once_asked_for(office: Office):
    body = {"id": office.person, "reason": "letter 17"}
    asked = office.ask("POST", "subjects/access", body, **{"Idempotency-Key": "a1"})
    assert asked.status_code == 202, asked.text
    place = asked.headers["location"].removeprefix("/v1/")
    assert office.ask("POST", "subjects/access", body, **{"Idempotency-Key": "a1"}).json() == asked.json()
    assert office.ask("POST", "subjects/access", body).json()["request"] == asked.json()["request"]
    again = office.ask("POST", "subjects/access", {"id": office.other}, **{"Idempotency-Key": "a1"})
    assert again.status_code == 422
    assert office.ask("GET", f"{place}/package").status_code == 409
    assert run_errands(office.platform) == 1
    state = office.ask("GET", place).json()
    assert (state["state"], state["problem"]) == ("ready", None)

    home = office.platform.home
    assert scan(home.root, [office.person], exclude=default_exclusions(home)).hits == []
    before = len(office.entries())
    answer = office.client.get(state["package"], headers=office.headers)
    assert answer.headers["content-type"] == "application/zip"
    assert len(answer.content) == state["bytes"] == int(answer.headers["content-length"])
    with zipfile.ZipFile(io.BytesIO(answer.content)) as package:
        assert package.testzip() is None
        names = package.namelist()
        told = json.loads(package.read("subject.json"))
        assert office.person in package.read("subject.html").decode()
    assert len(names) == state["files"]
    assert told["subject"] == {"domain": "user", "id": office.person}
    assert any(one["record"]["user_id"] == office.person for one in told["entries"]["logins"])
    allowed, done = office.entries()[before:]
    assert {allowed.action, done.action} == {"subjects:data:disclosed"}
    assert (allowed.outcome, done.outcome) == ("allowed", "done")
    assert json.loads(done.parameters)["bytes"] == state["bytes"]
    assert office.person not in str(office.entries())


def test_a_package_that_was_altered_or_cut_does_not_open(office: Office):
    place = office.ask("POST", "subjects/access", {"id": office.person}).headers["location"]
    run_errands(office.platform)
    packages = office.platform.access_packages("default")
    request = packages.listing()[-1]
    path = office.platform.home.packages / "default" / f"{request.id}.sealed"
    content = path.read_bytes()
    for damaged in (content[:-20], content[:40] + bytes([content[40] ^ 1]) + content[41:], b""):
        path.write_bytes(damaged)
        with pytest.raises(DecryptionError):
            list(packages.open(request.id))
    before = len(office.entries())
    office.client.get(f"{place}/package", headers=office.headers)
    assert office.entries()[before:][-1].outcome == "failed"


def test_a_package_expires_and_its_key_with_it(office: Office):
    moment = datetime.now(UTC)
    platform = office.platform
    packages = AccessPackages(
        "default", platform.home, platform.keys("default"), platform.database, lambda: moment
    )
    request = packages.add(Wanted(office.person, "user"), "d", "client:office", "r")
    with pytest.raises(NotYetError):
        packages.open(request.id)
    packages.make(request.id, [("a.txt", [b"x" * 3_000_000])])
    assert b"".join(packages.open(request.id)).startswith(b"PK")
    (platform.home.packages / "default" / "stray.sealed.part").write_bytes(b"x")
    assert packages.expire() == 0
    moment += timedelta(days=7)
    with pytest.raises(MissingError):
        packages.open(request.id)
    assert (packages.expire(), packages.expire()) == (1, 0)
    assert packages.find(request.id).state is PackageState.EXPIRED
    assert list((platform.home.packages / "default").iterdir()) == []


def test_an_erasure_over_http_takes_everything_and_proves_it(office: Office):
    office.ask("POST", "subjects/access", {"id": office.person})
    run_errands(office.platform)
    package = office.ask("GET", "subjects/access").json()["requests"][0]["package"]
    body: dict[str, Any] = {"ids": [office.person], "reason": "letter 18"}
    told = office.ask("POST", "subjects/erasures", {**body, "dry_run": True})
    assert (told.status_code, told.json()["state"]) == (200, "dry_run")
    going = {one["table"]: one["rows"] for one in told.json()["tables"]}
    assert going["access packages"] == 1
    asked = office.ask("POST", "subjects/erasures", body, **{"Idempotency-Key": "e1"})
    assert (asked.status_code, asked.json()["state"]) == (202, "requested")
    assert office.ask("POST", "subjects/erasures", body, **{"Idempotency-Key": "e1"}).json() == asked.json()
    place = asked.headers["location"].removeprefix("/v1/")
    assert office.ask("GET", f"{place}/certificate").status_code == 409
    assert count_errands(office.platform) == 1
    run_errands(office.platform)
    done = office.ask("GET", place).json()
    assert done["state"] == "certified"
    assert done["tables"]["masked.logins"] == going["masked.logins"]
    assert done["deadline"] > done["requested_at"]
    certificate = office.client.get(done["certificate"], headers=office.headers)
    path = office.platform.home.root.parent / "certificate.json"
    path.write_bytes(certificate.content)
    assert verify_certificate(office.platform.home, path, None).ok
    assert office.client.get(package, headers=office.headers).status_code == 410
    assert office.ask("POST", "subjects/find", {"id": office.person}).json()["erased"]
    assert office.person not in json.dumps(office.ask("GET", "subjects/erasures").json())
    assert office.person not in str(office.entries())


def test_what_cannot_be_done_is_told_and_stops_nobody_else(office: Office):
    packages = office.platform.access_packages("default")
    office.ask("POST", "subjects/access", {"id": office.person})
    gone = packages.add(Wanted(office.other, "user"), "digest", "client:nobody", "r")
    stray = office.platform.home.root / "note.txt"
    stray.write_text(f"{office.other} was here")
    erasure = office.ask("POST", "subjects/erasures", {"ids": [office.other]}).json()
    assert run_errands(office.platform) == 1
    refused = office.ask("GET", f"subjects/access/{gone.id}").json()
    assert refused["state"] == "failed"
    assert "holds no role" in refused["problem"]
    left = office.ask("GET", f"subjects/erasures/{erasure['request']}").json()
    assert (left["state"], left["certificate"]) == ("rows_deleted", None)
    assert "note.txt" in left["problem"]
    stray.unlink()
    run_errands(office.platform)
    left = office.ask("GET", f"subjects/erasures/{erasure['request']}").json()
    assert (left["state"], left["problem"]) == ("certified", None)


def test_two_processes_do_not_do_the_same_errand(office: Office):
    from lockhouse.errands import LOCK
    from stores.locks import exclusive

    office.ask("POST", "subjects/access", {"id": office.person})
    with exclusive(office.platform.home.locks / LOCK):
        assert run_errands(office.platform) == 0
    assert run_errands(office.platform) == 1


def test_the_service_does_errands_in_a_process_of_its_own(
    copied_home: Any, start_errands: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lockhouse.errands.Errands.wake", start_errands)
    platform = Platform(load_settings(copied_home.home))
    client, _ = platform.access.clients.add("office", "default", RIGHTS[Role.PRIVACY_OFFICER])
    person = next(str(one["user_id"]) for one in copied_home.records if "user_id" in one)
    subject = platform.data_subjects("default").find(person)
    requests = platform.erasure_requests("default")
    # A service that was killed has left it; the next one goes on.
    left = requests.add([subject], [platform.keys("default").query_digest(subject.id)], "client:office", "r")
    headers = {"Authorization": f"Bearer {platform.tokens.issue(client, client.scopes)}"}
    with TestClient(make_application(platform)) as service:
        wait_for(lambda: requests.find(left.id).state is ErasureState.CERTIFIED)
        shown = service.get(f"/v1/subjects/erasures/{left.id}", headers=headers).json()
    assert (shown["state"], shown["problem"]) == ("certified", None)


def test_a_second_person_decides_over_http(office: Office, tmp_path: Path):
    settings = office.platform.settings.model_copy(update={"reveal_approval": "default"})
    platform = Platform(settings)
    boss, _ = platform.access.clients.add("boss", "default", RIGHTS[Role.PRIVACY_OFFICER])
    theirs = {"Authorization": f"Bearer {platform.tokens.issue(boss, boss.scopes)}"}
    reveal = {"table": "masked.logins", "column": "ip_token", "where": "true", "reason": "ticket"}
    with TestClient(make_application(platform)) as service:
        assert service.post("/v1/reveal", json=reveal, headers=office.headers).status_code == 403
        [waiting] = service.get("/v1/approvals", headers=theirs).json()["approvals"]
        assert (waiting["state"], waiting["asked_by"]) == ("waiting", "client:office")
        grant = f"/v1/approvals/{waiting['request']}/grant"
        assert service.post(grant, headers=office.headers).status_code == 403
        assert service.post(grant, headers=theirs).json()["state"] == "granted"
        assert service.post(grant, headers=theirs).status_code == 409
        assert service.post("/v1/reveal", json=reveal, headers=office.headers).status_code == 200
        assert service.post("/v1/reveal", json=reveal, headers=office.headers).status_code == 403
        [new] = [
            one
            for one in service.get("/v1/approvals", headers=theirs).json()["approvals"]
            if one["state"] == "waiting"
        ]
        refuse = f"/v1/approvals/{new['request']}/refuse"
        assert service.post(refuse, headers=theirs).json()["state"] == "refused"
        states = [one["state"] for one in service.get("/v1/approvals", headers=theirs).json()["approvals"]]
    assert states == ["refused", "used"]


PASSWORD = "correct horse battery"  # noqa: S105


def csrf_of(page: str) -> str:
    return page.partition('name="csrf" value="')[2].partition('"')[0]


def test_a_privacy_officer_finds_gives_and_erases_on_the_page(office: Office):
    platform, browser = office.platform, office.client
    platform.users.add("petra", PASSWORD)
    platform.access.assign("petra", Role.PRIVACY_OFFICER, "default")
    browser.post("/sign-in", data={"name": "petra", "password": PASSWORD, "tenant": "default"})
    page = browser.get("/subjects").text
    assert "Nobody was erased yet" in page
    form = {"csrf": csrf_of(page), "id": office.person, "domain": ""}
    assert browser.post("/subjects", data={**form, "csrf": "x"}).status_code == 403
    unknown = browser.post("/subjects", data={**form, "id": NOBODY, "act": "find"})
    assert "Nothing is known" in unknown.text
    held = browser.post("/subjects", data={**form, "act": "find"})
    assert "masked.logins" in held.text
    assert "Erase them for good" in held.text
    asked = browser.post(
        "/subjects", data={**form, "act": "access", "reason": "letter"}, follow_redirects=False
    )
    assert (asked.status_code, asked.headers["location"]) == (303, "/subjects#requests")
    run_errands(platform)
    page = browser.get("/subjects").text
    place = page.partition('<a href="/v1/subjects/access/')[2].partition('"')[0]
    with zipfile.ZipFile(io.BytesIO(browser.get(f"/v1/subjects/access/{place}").content)) as package:
        assert office.person in package.read("subject.json").decode()
    erase = {**form, "act": "erase", "reason": "letter"}
    unsure = browser.post("/subjects", data=erase)
    assert unsure.status_code == 422
    assert "cannot be undone" in unsure.text
    assert browser.post("/subjects", data={**erase, "sure": "yes", "reason": " "}).status_code == 422
    assert browser.post("/subjects", data={**erase, "sure": "yes"}, follow_redirects=False).status_code == 303
    assert "on its way" in browser.get("/subjects").text
    run_errands(platform)
    page = browser.get("/subjects").text
    place = page.partition('<a href="/v1/subjects/erasures/')[2].partition('"')[0]
    assert browser.get(f"/v1/subjects/erasures/{place}").json()["body"]["subjects"]
    assert "They were erased" in browser.post("/subjects", data={**form, "act": "find"}).text
    assert office.person not in page + str(office.entries())


def test_the_page_offers_nothing_to_whoever_may_not(office: Office):
    office.platform.users.add("anna", PASSWORD)
    office.platform.access.assign("anna", Role.ANALYST, "default")
    browser = office.client
    browser.post("/sign-in", data={"name": "anna", "password": PASSWORD, "tenant": "default"})
    page = browser.get("/subjects")
    assert "Privacy officers" in page.text
    form = {"csrf": csrf_of(page.text), "id": office.person, "act": "erase", "sure": "yes", "reason": "r"}
    assert browser.post("/subjects", data=form).status_code == 403
    assert office.platform.erasure_requests("default").listing() == []


def test_a_table_that_is_not_there_yet_is_told_without_a_command(office: Office):
    """Whoever asks over HTTP has no command line."""
    reveal = {"table": "masked.validations", "column": "username_token", "reason": "ticket"}
    with TestClient(make_application(office.platform)) as service:
        answer = service.post("/v1/reveal", json=reveal, headers=office.headers)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "no such table"
