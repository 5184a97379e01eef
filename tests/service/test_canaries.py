# ruff: noqa: S608 - queries that somebody could send
"""A value that is sent through every endpoint: in no answer, log, span, count, entry or file."""

import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from lockhouse.service.application import make_application
from lockhouse.service.doorkeeper import OPEN_PATHS
from orchestration.resources import Platform
from stores.leaks import default_exclusions, scan
from stores.spans import Spans, open_spans
from transforms.errors import UsageError

WINDOW = "from=2026-11-21T07:00:00Z&to=2026-11-21T08:00:00Z"
# One that is like nothing of ours, and one that could be an id of ours.
CANARIES = ("canary-jane.roe@example.org", "5082b1ae-6523-4e3b-a1d8-9750b4407ee8")
PASSWORD = "correct horse battery"  # noqa: S105


def unfit(value: str) -> str:
    """Give a purpose that is refused: one that fits is the caller's own word, meant for the trail."""
    return f"{value}@"


def everywhere(value: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Requests with a value in every place where one fits."""
    quoted = value.replace("@", "%40")
    digest = "a" * 64
    return [
        ("GET", f"/v1/devices/{quoted}/capture?{WINDOW}", {}),
        ("GET", f"/v1/devices/{quoted}/packets-per-minute?{WINDOW}", {}),
        ("GET", f"/v1/devices/router-7/capture?from={quoted}&to={quoted}&format={quoted}", {}),
        ("GET", f"/v1/devices/{quoted}/readers", {}),
        ("POST", f"/v1/events/{quoted}", {"content": value.encode()}),
        ("POST", "/v1/sql", {"json": {"query": f"select '{value}' from nothing"}}),
        ("POST", "/v1/sql", {"json": {"query": f"select '{value}'::int"}}),
        ("POST", "/v1/sql", {"json": {"query": "select 1", value: value, "limit": value, "format": value}}),
        (
            "POST",
            "/v1/sql",
            {"content": b'{"query": "' + value.encode(), "headers": {"Content-Type": "application/json"}},
        ),
        ("POST", "/v1/reveal", {"json": {"table": value, "column": value, "where": value, "reason": "t"}}),
        (
            "POST",
            "/v1/reveal",
            {
                "json": {
                    "table": "masked.packets",
                    "column": "device_token",
                    "where": f"device_token = '{value}'",
                    "reason": "t",
                }
            },
        ),
        ("PUT", f"/v1/files/logins/{quoted}", {"content": b"{}"}),
        ("PUT", f"/v1/files/{quoted}/a?device={quoted}", {"content": b"{}"}),
        (
            "POST",
            "/v1/uploads",
            {
                "json": {
                    "source": value,
                    "device": value,
                    "sha256": digest,
                    "parts": [{"sha256": digest, "bytes": 1}],
                }
            },
        ),
        ("GET", f"/v1/uploads/{quoted}", {}),
        ("POST", f"/v1/uploads/{quoted}/complete", {}),
        ("GET", f"/v1/jobs/{quoted}", {}),
        ("GET", f"/v1/audit?before={quoted}", {}),
        ("GET", f"/v1/tables?after={quoted}&limit={quoted}", {}),
        ("GET", f"/{quoted}", {}),
        (
            "POST",
            "/oauth/token",
            {
                "data": {
                    "grant_type": "client_credentials",
                    "client_id": value,
                    "client_secret": value,
                    "scope": value,
                }
            },
        ),
        ("GET", "/v1/tables", {"headers": {"X-Purpose": unfit(value)}}),
        *of_people(value, quoted),
        ("POST", "/sign-in", {"data": {"name": value, "password": value, "tenant": value}}),
    ]


def of_people(value: str, quoted: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Requests about people; an identifier is a value that every one of them brings."""
    asked: list[tuple[str, str, dict[str, Any]]] = []
    for domain in ("user", "device", None, value):
        named = {"id": value, "domain": domain}
        several = {"ids": [value], "domain": domain}
        asked += [
            ("POST", "/v1/subjects/find", {"json": named}),
            ("POST", "/v1/subjects/access", {"json": named}),
            ("POST", "/v1/subjects/erasures", {"json": {**several, "dry_run": True}}),
            ("POST", "/v1/subjects/erasures", {"json": {**several, value: value, "dry_run": value}}),
        ]
    # Somebody of whom nothing is known is erased as well: a tombstone, and no word of whom.
    asked.append(("POST", "/v1/subjects/erasures", {"json": {"ids": [value], "domain": "device"}}))
    places = ("access/{}", "access/{}/package", "erasures/{}", "erasures/{}/certificate")
    asked += [("GET", f"/v1/subjects/{place.format(quoted)}", {}) for place in places]
    asked += [("POST", f"/v1/approvals/{quoted}/{word}", {}) for word in ("grant", "refuse")]
    asked += [("GET", f"/sign-in/callback?code={quoted}&state={quoted}&error={quoted}&iss={quoted}", {})]
    asked += [("POST", "/subjects", {"data": {"id": value, "domain": value, "act": "find", "csrf": value}})]
    return asked


def of_validations(value: str, quoted: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Requests about validations, and those that are left: parts, methods of nobody's, headers."""
    named = f"/v1/validations/{quoted}"
    told = {
        "X-Request-Id": value,
        "tracestate": f"a={quoted}",
        "baggage": f"who={quoted}",
        "traceparent": value,
    }
    return [
        ("POST", "/v1/validations", {"json": {"username": value, "full_name": value, value: value}}),
        ("GET", named, {}),
        ("GET", f"{named}/pii", {"headers": {"X-Purpose": unfit(value), "X-Reason": "ticket 17"}}),
        ("PATCH", named, {"json": {"phone_number": value}}),
        ("DELETE", named, {}),
        ("HEAD", f"/v1/devices/{quoted}/capture?{WINDOW}", {}),
        ("PUT", f"/v1/uploads/{quoted}/parts/0", {"content": value.encode()}),
        ("GET", f"/v1/audit/verification?{quoted}={quoted}", {}),
        ("GET", "/v1/approvals", {"headers": {"X-Purpose": "case 7", **told}}),
        ("GET", f"/v1/subjects/access?id={quoted}", {}),
        ("GET", f"/v1/subjects/erasures?id={quoted}", {}),
        ("GET", f"/sign-in/provider?login_hint={quoted}", {}),
        (
            "GET",
            f"/sign-in?name={quoted}",
            {"headers": {"User-Agent": value, "Referer": value, "Cookie": quoted}},
        ),
        (quoted.replace("%40", "-").upper(), "/v1/tables", {}),
    ]


def of_pages(value: str, quoted: str, csrf: str) -> list[tuple[str, str, dict[str, Any]]]:
    """What a person does who is signed in; their own words stand in their own form again, and nowhere else."""
    grant = {"principal": value, "role": "analyst", "group": value, "device": value, "until": value}
    return [
        ("GET", "/", {}),
        ("GET", f"/captures?device={quoted}&hour={quoted}", {}),
        ("GET", f"/captures?device={quoted}&hour=2026-11-21T07:00", {}),
        ("GET", f"/audit?every=true&{quoted}={quoted}", {}),
        ("GET", f"/access?device={quoted}", {}),
        ("POST", "/access", {"data": {"csrf": csrf, **grant}}),
        ("POST", "/access", {"data": {"csrf": csrf, "revoke": value}}),
        ("GET", f"/subjects?id={quoted}", {}),
        *(
            (
                "POST",
                "/subjects",
                {"data": {"csrf": csrf, "id": value, "act": act, "sure": "yes", "reason": "t"}},
            )
            for act in ("find", "access", "erase", value)
        ),
        ("GET", f"/ingest?{quoted}", {}),
        ("GET", f"/health?{quoted}", {}),
        ("POST", "/sign-out", {"data": {"csrf": csrf, value: value}}),
    ]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(house: Any, exporter: InMemorySpanExporter) -> Iterator[TestClient]:
    """Something to ask a service with that makes spans."""
    platform = Platform(house.platform.settings.model_copy(update={"service_requests_per_minute": 100_000}))
    platform.spans = Spans(exporter, is_batched=False)
    application = make_application(platform)
    yield TestClient(application, follow_redirects=False, raise_server_exceptions=False)


def ask_everything(client: TestClient, house: Any, canary: str) -> None:
    """Send the value to every endpoint, as a program and as a person."""
    quoted = canary.replace("@", "%40")
    for method, path, body in (*everywhere(canary), *of_validations(canary, quoted)):
        headers = {**house.issue("d-operator"), **body.get("headers", {})}
        answer = client.request(method, path, **{**body, "headers": headers})
        assert answer.status_code < 500 or path.startswith("/sign-in"), (method, path, answer.text)
        assert canary not in answer.text, path
        assert all(canary not in value for value in answer.headers.values()), path
    client.post("/sign-in", data={"name": "user-d-operator", "password": PASSWORD, "tenant": "default"})
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/health").text)
    assert csrf
    for method, path, body in of_pages(canary, quoted, csrf.group(1)):
        answer = client.request(method, path, **body)
        assert answer.status_code < 500, (method, path, answer.text)
        assert f"<b>{canary}" not in answer.text
    for path in (*OPEN_PATHS, "/.well-known/jwks.json", "/.well-known/oauth-authorization-server"):
        client.get(f"{path}?{quoted}")


def routes_of(client: TestClient) -> set[str]:
    """Give every route that there is, as spans are named."""
    routes = client.app.state.routes  # type: ignore[attr-defined]
    return {f"{method} {one.path}" for one in routes for method in one.methods}


@pytest.mark.parametrize("canary", CANARIES, ids=["address", "id"])
def test_a_value_that_is_sent_anywhere_is_echoed_and_kept_nowhere(
    traced: TestClient,
    exporter: InMemorySpanExporter,
    house: Any,
    caplog: pytest.LogCaptureFixture,
    canary: str,
):
    caplog.set_level(logging.DEBUG)
    ask_everything(traced, house, canary)
    quoted = canary.replace("@", "%40")
    shapes = [canary, quoted, canary.upper(), quoted.replace("%40", "-").upper()]
    spans = exporter.get_finished_spans()
    told = {
        "metrics": traced.get("/metrics").text,
        "log": "".join(
            one.getMessage()
            for one in caplog.records
            if one.name.startswith(("lockhouse", "uvicorn", "opentel"))
        ),
        "spans": "".join(one.to_json() for one in spans),
        "trail": "\n".join(
            one.action + one.parameters + one.principal
            for tenant in ("default", "acme")
            for one in house.entries(tenant)
        ),
    }
    lines = [(name, line) for name, text in told.items() for line in text.splitlines()]
    assert [(name, line) for name, line in lines if any(one in line for one in shapes)] == []
    # Every route that there is was asked, so nothing was left out above.
    asked = {one.name for one in spans}
    assert {one for one in routes_of(traced) - asked if not one.split()[1].startswith("/static")} == set()
    home = house.platform.home
    assert scan(home.root, [canary], exclude=default_exclusions(home)).hits == []


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_span_says_which_route_and_how_it_went_and_its_steps(
    traced: TestClient, exporter: InMemorySpanExporter, house: Any
):
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {**house.issue("d-analyst"), "traceparent": f"00-{trace_id}-{parent}-01"}
    answer = traced.get("/v1/tables", headers=headers)
    *steps, span = exporter.get_finished_spans()
    assert [one.name for one in steps] == ["authorise", "audit", "act", "audit"]
    assert attributes_of(span) == {
        "http.request.method": "GET",
        "http.route": "/v1/tables",
        "http.response.status_code": 200,
        "lockhouse.request.id": answer.headers["x-request-id"],
        "lockhouse.tenant": "default",
    }
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (trace_id, parent)
    assert {one.context.trace_id for one in steps} == {span.context.trace_id}
    assert {one.parent.span_id for one in steps if one.parent} == {span.context.span_id}
    assert dict(span.resource.attributes) == {"service.name": "lockhouse"}


def test_a_stream_and_a_refusal_have_their_spans_as_well(
    traced: TestClient, exporter: InMemorySpanExporter, house: Any
):
    path = f"/v1/devices/router-7/capture?{WINDOW}"
    assert traced.get(path, headers=house.issue("granted")).status_code == 200
    names = [one.name for one in exporter.get_finished_spans()]
    assert names.count("act") == 1
    assert names[-1] == "GET /v1/devices/{device}/capture"
    exporter.clear()
    assert traced.get(path, headers=house.issue("expired")).status_code == 403
    # Of an error there is only that it was one: what it says is the caller's to read.
    found = {one.name: one for one in exporter.get_finished_spans()}
    assert not found["authorise"].status.is_ok
    assert [one.events for one in found.values() if one.events] == []
    assert found["authorise"].status.description is None


@pytest.mark.parametrize("told", ["", "00-0-0-01", CANARIES[0], f"00-{'0' * 32}-{'0' * 16}-01", "ff" * 30])
def test_a_trace_that_is_none_is_left_out(
    traced: TestClient, exporter: InMemorySpanExporter, house: Any, told: str
):
    traced.get("/healthz", headers={"traceparent": told})
    [span] = exporter.get_finished_spans()
    assert span.parent is None
    assert span.context.trace_id != 0


def test_without_an_address_no_span_is_made(house: Any):
    assert house.platform.spans is None


def test_spans_reach_a_collector(house: Any):
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        with TestClient(house.application(service_spans_url=address)) as client:
            assert client.get("/healthz").status_code == 200
        collector.shutdown()
    [request] = [ExportTraceServiceRequest.FromString(one) for one in received]
    [span] = request.resource_spans[0].scope_spans[0].spans
    assert (span.name, len(span.attributes)) == ("GET /healthz", 4)


@pytest.mark.parametrize("address", ["", "127.0.0.1:4318", "file:///tmp/spans", "https://"])
def test_spans_go_to_a_collector_and_nowhere_else(address: str):
    with pytest.raises(UsageError, match="collector"):
        open_spans(address)


def test_an_unexpected_error_says_nothing_of_what_it_met(
    house: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: object) -> None:
        raise RuntimeError(f"failed for {CANARIES[0]}")

    monkeypatch.setattr("lockhouse.service.tables.list_tables", broken)
    with house.client() as client:
        answer = client.get("/v1/tables", headers=house.issue("d-analyst"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert CANARIES[0] not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text
