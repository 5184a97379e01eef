"""Every route, role and tenant, granted devices and others: as the matrix says, and in the trail."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from lockhouse.service.doorkeeper import OPEN_PATHS
from transforms.access import OF_DEVICES, RIGHTS, Right, Role

HOUR, NEXT_HOUR = "2026-11-21T07:00:00Z", "2026-11-21T08:00:00Z"
WINDOW = f"from={HOUR}&to={NEXT_HOUR}"
JOB = "01a1fec0-df13-775c-9309-0840fda3ec81"
DIGEST = "a" * 64

# Route -> how it is asked, which right it needs, and the status for whoever holds that right. `None` is a
# request that anybody who is known may make, about themselves.
ROUTES: dict[tuple[str, str], tuple[str, Right | None, dict[str, Any], int]] = {
    ("GET", "/v1/devices/{device}/packets-per-minute"): (
        f"/v1/devices/router-7/packets-per-minute?{WINDOW}",
        Right.READ_CAPTURES,
        {},
        200,
    ),
    ("GET", "/v1/devices/{device}/capture"): (
        f"/v1/devices/router-7/capture?{WINDOW}&anonymise=false",
        Right.READ_PAYLOAD,
        {},
        200,
    ),
    ("HEAD", "/v1/devices/{device}/capture"): (
        f"/v1/devices/router-7/capture?{WINDOW}&anonymise=true",
        Right.READ_CAPTURES,
        {},
        200,
    ),
    ("POST", "/v1/events/{source}"): (
        "/v1/events/logins",
        Right.INGEST,
        {"content": b'{"user_id": "u-1"}\n'},
        200,
    ),
    ("PUT", "/v1/files/{source}/{name}"): (
        "/v1/files/logins/a.jsonl",
        Right.INGEST,
        {"content": b'{"user_id": "u-2"}\n'},
        202,
    ),
    ("POST", "/v1/uploads"): (
        "/v1/uploads",
        Right.INGEST,
        {"json": {"source": "logins", "sha256": DIGEST, "parts": [{"sha256": DIGEST, "bytes": 1}]}},
        201,
    ),
    ("GET", "/v1/uploads/{upload}"): (f"/v1/uploads/{JOB}", Right.INGEST, {}, 404),
    ("PUT", "/v1/uploads/{upload}/parts/{number}"): (
        f"/v1/uploads/{JOB}/parts/0",
        Right.INGEST,
        {"content": b"x"},
        404,
    ),
    ("POST", "/v1/uploads/{upload}/complete"): (f"/v1/uploads/{JOB}/complete", Right.INGEST, {}, 404),
    ("GET", "/v1/jobs/{job}"): (f"/v1/jobs/{JOB}", Right.INGEST, {}, 404),
    ("POST", "/v1/validations"): (
        "/v1/validations",
        Right.SUBMIT_VALIDATIONS,
        {"json": {"username": "jo.bloggs"}},
        422,
    ),
    ("GET", "/v1/validations/{validation}"): (f"/v1/validations/{JOB}", Right.READ_VALIDATIONS, {}, 404),
    ("GET", "/v1/validations/{validation}/pii"): (
        f"/v1/validations/{JOB}/pii",
        Right.DISCLOSE_VALIDATIONS,
        {},
        404,
    ),
    ("PATCH", "/v1/validations/{validation}"): (
        f"/v1/validations/{JOB}",
        Right.CHANGE_VALIDATIONS,
        {"json": {"phone_number": "+12025550123"}},
        404,
    ),
    ("DELETE", "/v1/validations/{validation}"): (f"/v1/validations/{JOB}", Right.CHANGE_VALIDATIONS, {}, 404),
    ("GET", "/v1/tables"): ("/v1/tables", Right.READ_TABLES, {}, 200),
    ("POST", "/v1/sql"): (
        "/v1/sql",
        Right.READ_TABLES,
        {"json": {"query": "select count(*) as n from masked.packets"}},
        200,
    ),
    ("POST", "/v1/reveal"): (
        "/v1/reveal",
        Right.REVEAL,
        {"json": {"table": "masked.packets", "column": "device_token", "where": "false", "reason": "t"}},
        200,
    ),
    ("GET", "/v1/audit"): ("/v1/audit?limit=2", Right.READ_AUDIT, {}, 200),
    ("GET", "/v1/audit/verification"): ("/v1/audit/verification", Right.READ_AUDIT, {}, 200),
    ("POST", "/v1/subjects/find"): (
        "/v1/subjects/find",
        Right.ACCESS_SUBJECTS,
        {"json": {"id": "router-8", "domain": "device"}},
        200,
    ),
    ("POST", "/v1/subjects/access"): (
        "/v1/subjects/access",
        Right.ACCESS_SUBJECTS,
        {"json": {"id": "nobody-9", "domain": "device"}},
        404,
    ),
    ("GET", "/v1/subjects/access"): ("/v1/subjects/access", Right.ACCESS_SUBJECTS, {}, 200),
    ("GET", "/v1/subjects/access/{request_id}"): (
        f"/v1/subjects/access/{JOB}",
        Right.ACCESS_SUBJECTS,
        {},
        404,
    ),
    ("GET", "/v1/subjects/access/{request_id}/package"): (
        f"/v1/subjects/access/{JOB}/package",
        Right.ACCESS_SUBJECTS,
        {},
        404,
    ),
    ("POST", "/v1/subjects/erasures"): (
        "/v1/subjects/erasures",
        Right.ERASE_SUBJECTS,
        {"json": {"ids": ["nobody-9"], "domain": "device", "dry_run": True}},
        200,
    ),
    ("GET", "/v1/subjects/erasures"): ("/v1/subjects/erasures", Right.ERASE_SUBJECTS, {}, 200),
    ("GET", "/v1/subjects/erasures/{request_id}"): (
        f"/v1/subjects/erasures/{JOB}",
        Right.ERASE_SUBJECTS,
        {},
        404,
    ),
    ("GET", "/v1/subjects/erasures/{request_id}/certificate"): (
        f"/v1/subjects/erasures/{JOB}/certificate",
        Right.ERASE_SUBJECTS,
        {},
        404,
    ),
    ("GET", "/v1/approvals"): ("/v1/approvals", Right.APPROVE_REVEALS, {}, 200),
    ("POST", "/v1/approvals/{request_id}/grant"): (
        f"/v1/approvals/{JOB}/grant",
        Right.APPROVE_REVEALS,
        {},
        404,
    ),
    ("POST", "/v1/approvals/{request_id}/refuse"): (
        f"/v1/approvals/{JOB}/refuse",
        Right.APPROVE_REVEALS,
        {},
        404,
    ),
    ("GET", "/v1/devices/{device}/readers"): ("/v1/devices/router-7/readers", Right.OPERATE, {}, 200),
}
ROLES = [(tenant, role) for tenant in ("default", "acme") for role in Role]
NAMED = [pytest.param(key, id=" ".join(key)) for key in ROUTES]


@pytest.fixture(scope="module")
def asked(house: Any) -> Iterator[TestClient]:
    with house.client() as made:
        yield made


def ask(client: TestClient, key: tuple[str, str], headers: dict[str, str]) -> Any:
    path, _, body, _ = ROUTES[key]
    return client.request(key[0], path, headers=headers, **body)


def paths_of(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def test_no_route_is_left_out(asked: TestClient):
    described = paths_of(asked.get("/v1/openapi.json").json())
    open_ones = {key for key in described if key[1].startswith((*OPEN_PATHS, "/oauth/"))}
    assert described - open_ones == set(ROUTES)


@pytest.mark.parametrize("key", NAMED)
def test_each_role_may_what_the_matrix_says_and_every_request_is_in_the_trail(
    key: tuple[str, str], asked: TestClient, house: Any
):
    _, right, _, good = ROUTES[key]
    for tenant, role in ROLES:
        name = f"{tenant[:1]}-{role}"
        before = len(house.entries(tenant, f"client:{name}"))
        answer = ask(asked, key, house.issue(name))
        assert answer.status_code == (good if right in RIGHTS[role] else 403), (role, answer.text)
        written = house.entries(tenant, f"client:{name}")[before:]
        assert written, f"{role} asked, and the trail says nothing"
        marks = json.loads(written[-1].parameters)
        assert marks["request"] == answer.headers["x-request-id"]
        assert (written[-1].outcome == "refused") == (answer.status_code == 403)


@pytest.mark.parametrize("key", NAMED)
def test_whoever_is_nobody_is_asked_who_they_are_and_that_is_in_the_trail(
    key: tuple[str, str], asked: TestClient, house: Any
):
    before = len(house.entries(principal="anonymous"))
    for headers in (
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eDp5"},
        {"Cookie": "lockhouse_session=x"},
    ):
        answer = ask(asked, key, headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert len(house.entries(principal="anonymous")) == before + 4


@pytest.mark.parametrize("key", NAMED)
def test_a_role_is_worth_nothing_beyond_the_scopes_of_the_token(
    key: tuple[str, str], asked: TestClient, house: Any
):
    _, right, _, _ = ROUTES[key]
    client = house.platform.access.clients.find("client:d-operator")
    others = frozenset(Right) - {right}
    token = house.platform.tokens.issue(client, others)
    assert ask(asked, key, {"Authorization": f"Bearer {token}"}).status_code == 403


DEVICES = [
    # Who, device, as captured, anonymised.
    ("granted", "router-7", 200, 200),
    ("granted", "router-8", 403, 403),
    ("granted", "no-such", 403, 403),
    ("masked", "router-7", 403, 200),
    ("masked", "router-8", 403, 403),
    ("expired", "router-7", 403, 403),
    ("later", "router-7", 403, 403),
    ("scoped", "router-7", 403, 403),
    ("a-investigator", "router-7", 200, 200),
    ("d-investigator", "no-such", 404, 404),
]


@pytest.mark.parametrize(("name", "device", "captured", "anonymised"), DEVICES)
def test_packets_are_for_whoever_holds_a_grant_or_a_role_now(
    name: str, device: str, captured: int, anonymised: int, asked: TestClient, house: Any
):
    path = f"/v1/devices/{device}/capture?{WINDOW}"
    headers = house.issue(name)
    assert asked.get(f"{path}&anonymise=false", headers=headers).status_code == captured
    hidden = asked.get(f"{path}&anonymise=true", headers=headers)
    assert hidden.status_code == anonymised
    assert asked.get(path, headers=headers).status_code == anonymised
    if hidden.status_code == 200:
        tenant = "acme" if name.startswith("a-") else "default"
        assert hidden.content != house.files[f"{tenant}/{device}"]


def test_each_tenant_gets_its_own_packets(asked: TestClient, house: Any):
    path = f"/v1/devices/router-7/capture?{WINDOW}"
    for tenant in ("default", "acme"):
        answer = asked.get(path, headers=house.issue(f"{tenant[:1]}-investigator"))
        assert answer.content == house.files[f"{tenant}/router-7"]


def test_the_grant_that_allowed_it_stands_in_the_trail(asked: TestClient, house: Any):
    asked.get(
        f"/v1/devices/router-7/capture?{WINDOW}", headers={**house.issue("granted"), "X-Purpose": "case 17"}
    )
    allowed, done = house.entries(principal="client:granted")[-2:]
    begun, ended = json.loads(allowed.parameters), json.loads(done.parameters)
    assert (allowed.outcome, done.outcome) == ("allowed", "done")
    assert begun["role"].startswith("grant:")
    assert begun["purpose"] == ended["purpose"] == "case 17"
    assert (ended["packets"], ended["bytes"]) == (500, len(house.files["default/router-7"]))
    assert "router-7" not in allowed.parameters + done.parameters


def test_a_grant_that_is_ended_ends_at_once(asked: TestClient, house: Any):
    access = house.platform.access
    access.clients.add("short", "default", OF_DEVICES)
    now = datetime.now(UTC)
    grant = access.grants.add(
        "default", "client:short", Role.INVESTIGATOR, "case", now, now + timedelta(hours=1), "root"
    )
    headers, path = house.issue("short"), f"/v1/devices/router-7/capture?{WINDOW}"
    assert asked.get(path, headers=headers).status_code == 200
    access.grants.revoke("default", grant)
    assert asked.get(path, headers=headers).status_code == 403
    access.clients.revoke("short", "default")
    assert asked.get(path, headers=headers).status_code == 401


def test_the_trail_is_whole_after_all_of_that(house: Any):
    for tenant in ("default", "acme"):
        assert house.platform.audit.verify(tenant).ok
