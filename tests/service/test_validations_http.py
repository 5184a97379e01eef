"""Validations over HTTP: the whole way, idempotency, 410 after a deletion, and answers that echo nothing."""

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.idempotency import KEPT_FOR
from stores.leaks import default_exclusions, scan
from stores.validations.request_journal import KEYS_KEPT_FOR
from transforms.pii.siv import encrypt_column
from transforms.pii.synthetic import canary_values, is_telling
from transforms.validations.matrix import SUBSCRIPTIONS
from validation_requests import DETAILS

# As people write a number.
SPOKEN = {**DETAILS, "phone_number": "+1 (202) 555-0123"}
UNKNOWN = "01a1fec0-df13-775c-9309-0840fda3ec81"


@pytest.fixture(scope="module")
def asked(house: Any) -> Iterator[TestClient]:
    with house.client() as made:
        yield made


@pytest.fixture
def headers(house: Any) -> dict[str, str]:
    return dict(house.issue("d-operator"))


def request_of() -> dict[str, str]:
    """A request of somebody who was never met before."""
    return {"username": f"person-{uuid.uuid4().hex[:12]}", **SPOKEN}


def work(house: Any) -> None:
    validations = house.platform.validations
    workers = [validations.worker(service, pytest.fail) for service in SUBSCRIPTIONS]
    while sum(worker.work() for worker in workers):
        pass


def submit(asked: TestClient, headers: dict[str, str], body: object, **more: str) -> Any:
    return asked.post("/v1/validations", json=body, headers={**headers, **more})


def test_the_whole_way_from_a_request_to_a_masked_row(asked: TestClient, house: Any, headers: dict[str, str]):
    body = request_of()
    answer = submit(asked, headers, body)
    assert answer.status_code == 202, answer.text
    path = f"/v1/validations/{answer.json()['validation']}"
    pending = asked.get(path, headers=headers).json()
    assert (pending["status"], pending["decision"]) == ("pending", None)
    assert asked.get(f"{path}/pii", headers=headers).status_code == 409
    work(house)
    status = asked.get(path, headers=headers).json()
    assert (status["status"], status["decision"], status["reasons"]) == ("fulfilled", "accepted", [])
    opened = asked.get(f"{path}/pii", headers=headers)
    assert opened.json()["record"] == {**body, "phone_number": "+12025550123"}
    assert opened.headers["cache-control"] == "no-store"

    platform: Platform = house.platform
    contract = load_contract("validations")
    for batch in platform.landing.open_batches("validations"):
        platform.intake.seal_batch(batch.id, contract)
        platform.intake.mask_batch(batch.id, contract)
        platform.intake.finish_batch(batch.id)
    import polars as pl

    token = encrypt_column(pl.Series([body["username"]]), platform.keys("default").token_key("user"))[0]
    with platform.tables.reading("default", "masked.validations") as table:
        (row,) = table.filter(pl.col("username_token") == token).collect().iter_rows(named=True)
    assert (row["decision"], row["date_of_birth_year"], row["address_country"]) == ("accepted", "1980", "DE")
    assert row["validation_id"] == answer.json()["validation"]


def test_a_change_is_decided_again_and_a_deletion_is_for_good(
    asked: TestClient, house: Any, headers: dict[str, str]
):
    body = request_of()
    path = f"/v1/validations/{submit(asked, headers, body).json()['validation']}"
    changed = asked.patch(path, json={"phone_number": "+10000000000", "address_city": None}, headers=headers)
    assert changed.status_code == 202, changed.text
    work(house)
    status = asked.get(path, headers=headers).json()
    assert status["reasons"] == ["phone_number.invalid", "address.incomplete"]
    record = asked.get(f"{path}/pii", headers=headers).json()["record"]
    assert record["phone_number"] == "+10000000000" and "address_city" not in record
    deleted = asked.delete(path, headers=headers)
    assert (deleted.status_code, deleted.json()["status"]) == (202, "deleted")
    for method, more in (("GET", ""), ("GET", "/pii"), ("DELETE", "")):
        gone = asked.request(method, path + more, headers=headers)
        assert gone.status_code == 410
        assert gone.headers["content-type"] == "application/problem+json"
        assert deleted.json()["deleted"] in gone.json()["detail"]
    assert asked.patch(path, json={"full_name": "X Y"}, headers=headers).status_code == 410
    work(house)
    assert asked.get(path, headers=headers).status_code == 410


def test_a_key_makes_a_request_the_same_and_another_body_is_refused(
    asked: TestClient, house: Any, headers: dict[str, str]
):
    body, key = request_of(), {"Idempotency-Key": f"k-{uuid.uuid4()}"}
    first = submit(asked, headers, body, **key)
    spelt = {**body, "phone_number": "+12025550123", "username": body["username"].upper()}
    assert submit(asked, headers, spelt, **key).json() == first.json()
    assert submit(asked, headers, request_of(), **key).status_code == 422
    assert submit(asked, house.issue("a-client"), body, **key).json() != first.json()
    path = f"/v1/validations/{first.json()['validation']}"
    change = {"full_name": "Another Name"}
    keyed = {**headers, "Idempotency-Key": f"k-{uuid.uuid4()}"}
    made = [asked.patch(path, json=change, headers=keyed).json() for _ in range(2)]
    assert made[0] == made[1]


def test_each_tenant_has_its_own(asked: TestClient, house: Any, headers: dict[str, str]):
    path = f"/v1/validations/{submit(asked, headers, request_of()).json()['validation']}"
    other = house.issue("a-operator")
    for method, more in (("GET", ""), ("GET", "/pii"), ("DELETE", "")):
        assert asked.request(method, path + more, headers=other).status_code == 404
    assert asked.patch(path, json={"full_name": "X Y"}, headers=other).status_code == 404


def test_an_erased_person_is_refused_and_nothing_of_them_is_said(
    asked: TestClient, house: Any, headers: dict[str, str]
):
    body = request_of()
    path = f"/v1/validations/{submit(asked, headers, body).json()['validation']}"
    work(house)
    platform: Platform = house.platform
    subject = platform.data_subjects("default").find(body["username"], "user")
    request = platform.erasure_requests("default").add([subject], ["digest"], "tester", "a test")
    platform.erasing("default").complete(request)
    assert asked.get(path, headers=headers).status_code == 410
    refused = submit(asked, headers, {**body, "full_name": "Another Name"})
    assert refused.status_code == 409
    assert not any(value in refused.text for value in body.values())


def wrong_bodies() -> list[tuple[str, bytes]]:
    body = request_of()
    canary = "Canary-Value"
    return [
        ("nothing", b""),
        ("no json", canary.encode()),
        ("a list", json.dumps([canary]).encode()),
        ("cut", json.dumps({**body, "full_name": canary}).encode()[:-9]),
        ("no text", b'{"username": "\xff\xfe' + canary.encode() + b'"}'),
        ("absent", json.dumps({"username": canary}).encode()),
        ("null", json.dumps({**body, "full_name": None, "address_city": canary}).encode()),
        ("unknown field", json.dumps({**body, canary: canary}).encode()),
        ("a number", json.dumps({**body, "address_city": canary, "full_name": 7}).encode()),
        ("no date", json.dumps({**body, "date_of_birth": canary}).encode()),
        ("no phone", json.dumps({**body, "phone_number": canary}).encode()),
        ("no country", json.dumps({**body, "address_country": canary}).encode()),
        ("empty", json.dumps({**body, "username": "   ", "full_name": canary}).encode()),
        ("long", json.dumps({**body, "full_name": canary * 100}).encode()),
        ("deep", b'{"username":' + b"[" * 5000 + canary.encode()),
    ]


@pytest.mark.parametrize(("name", "content"), wrong_bodies(), ids=[name for name, _ in wrong_bodies()])
def test_what_is_wrong_is_refused_and_never_echoed(
    name: str, content: bytes, asked: TestClient, house: Any, headers: dict[str, str]
):
    before = len(house.entries())
    answer = asked.post("/v1/validations", content=content, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Canary" not in answer.text
    written = house.entries()[before:]
    assert [one.outcome for one in written] == ["allowed", "failed"]
    assert "Canary" not in "".join(one.parameters for one in written)


def test_a_change_cannot_take_away_what_is_needed_or_whom_it_is_about(
    asked: TestClient, headers: dict[str, str]
):
    path = f"/v1/validations/{submit(asked, headers, request_of()).json()['validation']}"
    for body in (
        {"full_name": None},
        {"username": "somebody.else"},
        {"username": None},
        {"decision": "accepted"},
    ):
        answer = asked.patch(path, json=body, headers=headers)
        assert answer.status_code == 422, body
        assert "somebody" not in answer.text
    assert asked.patch(path, json={}, headers=headers).status_code == 422


def test_ids_that_are_none_are_not_found_and_not_written_down(
    asked: TestClient, house: Any, headers: dict[str, str]
):
    before = len(house.entries())
    for name in ("jo.bloggs", UNKNOWN, UNKNOWN.upper(), "x" * 60):
        answer = asked.get(f"/v1/validations/{name}", headers=headers)
        assert answer.status_code == 404
        assert name not in answer.text
    trail = "".join(one.parameters for one in house.entries()[before:])
    assert "jo.bloggs" not in trail and "xxx" not in trail


def test_too_large_a_body_is_refused_before_it_is_read(asked: TestClient, headers: dict[str, str]):
    assert asked.post("/v1/validations", content=b"x" * (65 << 10), headers=headers).status_code == 413


@pytest.mark.parametrize("path", ["/v1/events/validations", "/v1/files/validations/a.jsonl"])
def test_nobody_sends_decided_records_past_the_validator(path: str, asked: TestClient, headers: dict[str, str]):
    method = "PUT" if "files" in path else "POST"
    record = {**request_of(), "decision": "accepted", "validation_id": UNKNOWN, "revision": UNKNOWN}
    answer = asked.request(method, path, content=json.dumps(record), headers=headers)
    assert answer.status_code == 404


def test_a_disclosure_is_in_the_trail_before_and_after(asked: TestClient, house: Any, headers: dict[str, str]):
    path = f"/v1/validations/{submit(asked, headers, request_of()).json()['validation']}"
    work(house)
    before = len(house.entries())
    assert asked.get(f"{path}/pii", headers={**headers, "X-Purpose": "case 7"}).status_code == 200
    allowed, done = house.entries()[before:]
    assert [allowed.outcome, done.outcome] == ["allowed", "done"]
    assert {allowed.action, done.action} == {"validations:data:disclosed"}
    assert json.loads(done.parameters)["purpose"] == "case 7"
    headers = {**headers, "X-Reason": "letter 18"}
    assert asked.get(f"{path}/pii", headers=headers).status_code == 200
    told = json.loads(house.entries()[-2].parameters)
    assert (told["purpose"], told["reason"]) == ("subject-request", "letter 18")
    assert asked.get(f"{path}/pii", headers={**headers, "X-Reason": "\x7f"}).status_code == 422


def test_nothing_that_was_sent_by_any_route_can_be_read_in_the_home(
    asked: TestClient, house: Any, headers: dict[str, str]
):
    contract = load_contract("validations")
    telling = [one.name for one in contract.fields if one.is_personal and is_telling(one)]
    canaries = canary_values(contract, 11, len(telling) * 3)
    sets = [dict(zip(telling, canaries[len(telling) * at :], strict=False)) for at in range(3)]
    first, second, third = sets
    body = {**SPOKEN, **first, "document_type": "passport"}
    key = {"Idempotency-Key": second["username"]}
    answers = [submit(asked, headers, body, **key)]
    path = f"/v1/validations/{answers[0].json()['validation']}"
    work(house)
    changed = {name: value for name, value in second.items() if name != "username"}
    answers += [
        asked.patch(path, json=changed, headers=headers),
        asked.patch(path, json={"username": third["username"]}, headers=headers),
        asked.patch(path, json={**third, "date_of_birth": third["full_name"]}, headers=headers),
        submit(asked, headers, {**body, **third}, **key),
        submit(asked, headers, {**body, third["full_name"]: third["phone_number"]}),
        *(asked.get(f"/v1/validations/{value}", headers=headers) for value in third.values()),
        *(asked.get(f"/v1/validations?q={value}", headers=headers) for value in third.values()),
        asked.delete(path, headers=headers),
    ]
    work(house)
    assert [value for value in canaries for answer in answers if value in answer.text] == []
    report = scan(house.platform.home.root, canaries, exclude=default_exclusions(house.platform.home))
    assert ([(one.file, one.place) for one in report.hits], report.unreadable) == ([], [])


def test_a_key_is_kept_for_as_long_as_its_one_declaration_says(asked: TestClient):
    document = asked.get("/v1/openapi.json").json()
    operations = [one for path in document["paths"].values() for one in path.values()]
    every = [one for each in operations for one in each.get("parameters", [])]
    told = [one["description"] for one in every if one["name"] == "Idempotency-Key"]
    assert (len(told), set(told)) == (6, {"The same key again gives the first answer, for a day at least."})
    assert min(KEPT_FOR, KEYS_KEPT_FOR) == timedelta(days=1)
