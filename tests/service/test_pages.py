"""The pages, as a browser without scripts uses them."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

PASSWORD = "correct horse battery"  # noqa: S105
PAGES = ("/captures", "/subjects", "/audit", "/access", "/ingest", "/health")


@pytest.fixture
def browser(house: Any) -> Iterator[TestClient]:
    with house.client() as made:
        yield made


def sign_in(browser: TestClient, name: str, tenant: str = "default", password: str = PASSWORD) -> Any:
    return browser.post("/sign-in", data={"name": name, "password": password, "tenant": tenant})


def csrf_of(browser: TestClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', browser.get("/health").text)
    assert found
    return found.group(1)


def test_pages_are_for_whoever_is_signed_in(browser: TestClient, house: Any):
    for page in ("/", *PAGES):
        answer = browser.get(page)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert sign_in(browser, "user-d-investigator").status_code == 303
    cookie = browser.cookies["lockhouse_session"]
    for page in PAGES:
        assert browser.get(page).status_code in (200, 403)
    assert cookie not in str(house.entries())
    assert browser.post("/sign-out", data={"csrf": "wrong"}).status_code == 403
    assert browser.get("/health").status_code == 200
    assert browser.post("/sign-out", data={"csrf": csrf_of(browser)}).status_code == 303
    browser.cookies.set("lockhouse_session", cookie)
    assert browser.get("/health").status_code == 303


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(browser: TestClient, house: Any):
    kept = sign_in(browser, "user-d-analyst").headers["set-cookie"]
    assert "HttpOnly" in kept
    assert "samesite=strict" in kept.lower()
    from lockhouse.service.application import make_application

    with TestClient(make_application(house.platform, is_secure=True), "https://testserver") as secure:
        data = {"name": "user-d-analyst", "password": PASSWORD, "tenant": "default"}
        answer = secure.post("/sign-in", data=data, follow_redirects=False)
        assert answer.headers["set-cookie"].startswith("__Host-")
        assert "Secure" in answer.headers["set-cookie"]
        assert answer.headers["strict-transport-security"]
        assert secure.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("name", "tenant", "password"),
    [
        ("user-d-analyst", "default", "wrong password"),
        ("nobody", "default", PASSWORD),
        ("user-d-analyst", "acme", PASSWORD),
        ("user-d-analyst", "nowhere", PASSWORD),
        ("", "", ""),
    ],
)
def test_what_is_wrong_with_a_sign_in_is_not_told(browser: TestClient, name: str, tenant: str, password: str):
    answer = sign_in(browser, name, tenant, password)
    assert answer.status_code == 401
    assert "or you have no access" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_sign_in_from_another_site_is_refused(browser: TestClient):
    data = {"name": "user-d-analyst", "password": PASSWORD, "tenant": "default"}
    assert browser.post("/sign-in", data=data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_an_investigator_sees_what_there_is_and_downloads_it(browser: TestClient, house: Any):
    sign_in(browser, "user-d-investigator")
    page = browser.get("/captures?device=router-7&hour=2026-11-21T07:00").text
    assert "500 packets" in page
    assert page.count("<svg") == 2
    links = re.findall(r'href="(/v1/devices/[^"]+)"', page)
    contents = [browser.get(link.replace("&amp;", "&")).content for link in links]
    assert contents[0] == house.files["default/router-7"]
    assert contents[1] != contents[0]
    assert "captures:packets:exported" in browser.get("/audit").text


def test_an_analyst_is_offered_the_anonymised_file_alone(browser: TestClient):
    sign_in(browser, "user-d-analyst")
    page = browser.get("/captures?device=router-7&hour=2026-11-21T07:00").text
    assert "Download anonymised pcap" in page
    assert "Download pcap" not in page


def test_an_empty_hour_and_a_device_that_is_none_are_said(browser: TestClient):
    sign_in(browser, "user-d-investigator")
    assert "No packets of this device" in browser.get("/captures?device=router-7&hour=2026-11-21T03:00").text
    missing = browser.get("/captures?device=%3Cscript%3E&hour=2026-11-21T03:00")
    assert missing.status_code == 404
    assert "<script" not in missing.text
    assert browser.get("/captures?device=router-7&hour=nonsense").status_code == 422


def test_an_auditor_sees_all_requests_and_that_the_trail_is_whole(browser: TestClient):
    sign_in(browser, "user-d-auditor")
    assert "The trail is whole" in browser.get("/audit?every=true").text
    sign_in(browser, "user-d-analyst")
    assert browser.get("/audit?every=true").status_code == 403
    assert "All requests" not in browser.get("/audit").text


def test_an_operator_grants_and_ends_grants(browser: TestClient, house: Any):
    sign_in(browser, "user-d-operator")
    form = {
        "csrf": csrf_of(browser),
        "principal": "client:scoped",
        "role": "analyst",
        "group": "page-group",
        "device": "router-8",
        "until": "2099-01-01T00:00",
    }
    assert browser.post("/access", data=form).status_code == 303
    page = browser.get("/access?device=router-8").text
    assert "client:scoped" in page
    [grant] = [
        one for one in house.platform.access.grants.listing("default") if one["device_group"] == "page-group"
    ]
    assert browser.post("/access", data={"csrf": form["csrf"], "revoke": grant["id"]}).status_code == 303
    [ended] = [one for one in house.platform.access.grants.listing("default") if one["id"] == grant["id"]]
    assert not ended["is_live"]
    assert browser.post("/access", data={**form, "csrf": "x"}).status_code == 403
    assert browser.post("/access", data={**form, "role": "king"}).status_code == 422


def test_whoever_does_not_operate_changes_nothing(browser: TestClient, house: Any):
    sign_in(browser, "user-d-privacy-officer")
    form = {
        "csrf": csrf_of(browser),
        "principal": "user-d-privacy-officer",
        "role": "investigator",
        "group": "case",
        "until": "2099-01-01T00:00",
    }
    before = house.platform.access.grants.listing("default")
    assert browser.post("/access", data=form).status_code == 403
    assert house.platform.access.grants.listing("default") == before


def test_the_api_takes_a_session_and_changes_nothing_without_its_token(browser: TestClient):
    sign_in(browser, "user-d-analyst")
    assert browser.get("/v1/tables").status_code == 200
    query = {"query": "select 1 as one"}
    assert browser.post("/v1/sql", json=query).status_code == 403
    headers = {"X-CSRF-Token": csrf_of(browser)}
    assert browser.post("/v1/sql", json=query, headers=headers).json()["rows"] == [{"one": 1}]


def test_a_data_engineer_sees_what_came_in(browser: TestClient):
    sign_in(browser, "user-d-data-engineer")
    page = browser.get("/ingest")
    assert page.status_code == 200
    assert "captures" in page.text


def test_a_page_says_nothing_of_commands_that_its_reader_has_not(browser: TestClient):
    sign_in(browser, "user-d-operator")
    answer = browser.get("/captures?device=nothing&hour=2026-11-21T07:00")
    assert answer.status_code == 404
    assert "No such device" in answer.text
    assert "lockhouse device list" not in answer.text


def test_every_cell_of_a_wide_table_has_the_name_of_its_column_on_a_phone(browser: TestClient):
    sign_in(browser, "user-d-operator")
    met = 0
    for page in ("/audit", "/audit?every=true", "/access?device=router-7", "/ingest"):
        text = browser.get(page).text
        for shown in re.findall(r'<table class="cards.*?</table>', text, re.DOTALL):
            names = re.findall(r'<th scope="col"[^>]*>([^<]+)<', shown)
            row = re.search(r"<tbody>\s*<tr>(.*?)</tr>", shown, re.DOTALL)
            assert row, page
            labels = re.findall(r'data-label="([^"]+)"', row.group(1))
            assert labels == [one for one in names if one in labels]
            assert len(labels) >= len(names) - 1
            met += 1
    assert met >= 5
