"""Requests made from the OpenAPI document, with every check that there is: the service does as it says."""

import json
import os
import uuid
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.config._checks import POSITIVE_DATA_ACCEPTANCE_EXPECTED_STATUSES
from schemathesis.engine import events, from_schema
from schemathesis.wfc.escalation import escalating_provider

from waiting import LONGEST_S

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "4"))
# Two operators of two tenants: what one of them makes, the other must not see.
PEERS = ("d-operator", "a-operator")
CAPTURES = ("/v1/devices/{device}/capture", "/v1/devices/{device}/packets-per-minute")
# What succeeds only after somebody or something else has acted: a secret, a person's data, a second person's
# question, a worker, a part whose digest was promised. Every one of them succeeds in the tests of its subject.
PREPARED = {
    "GET /v1/subjects/access/{request_id}",
    "GET /v1/subjects/access/{request_id}/package",
    "GET /v1/subjects/erasures/{request_id}/certificate",
    "GET /v1/validations/{validation}/pii",
    "POST /oauth/token",
    "POST /v1/approvals/{request_id}/grant",
    "POST /v1/approvals/{request_id}/refuse",
    "POST /v1/subjects/access",
    "POST /v1/uploads/{upload}/complete",
    "PUT /v1/uploads/{upload}/parts/{number}",
}


@schemathesis.serializer("application/x-ndjson")
def write_lines(_context: Any, value: Any) -> bytes:
    # Whatever is written as text is a text: of a value of another type, nothing is left to send.
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else b""


def configure(house: Any, folder: Path) -> SchemathesisConfig:
    """Every phase and every check, for two users."""
    users = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": house.issue(name)["Authorization"]}]}
        for name in PEERS
    ]
    document = folder / "users.json"
    document.write_text(json.dumps({"auth": users}))
    # What was deleted stays gone, whoever asks for it in the right form.
    accepted = [*POSITIVE_DATA_ACCEPTANCE_EXPECTED_STATUSES, "410"]
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "continue-on-failure": True,
            # How long data take to make, and answers to come, says how busy the machine is.
            "suppress-health-check": ["too_slow"],
            "request-timeout": LONGEST_S,
            "auth": {"wfc": {"path": str(document), "user": PEERS[0], "peers": list(PEERS)}},
            "checks": {"positive_data_acceptance": {"expected-statuses": accepted}},
            "generation": {"max-examples": EXAMPLES, "deterministic": True, "no-shrink": True},
        }
    )


def give_meaning(case: Any) -> None:
    """Put sense into requests of the right form where no schema can say what makes sense.

    An idempotency key belongs to one request; a window ends after it begins, and within an hour; a query is
    SQL; a column is one of its table; a device belongs to captures; an identifier that fits several domains
    names its own.
    """
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"k-{uuid.uuid4()}"
    path, body = case.operation.path, case.body if isinstance(case.body, dict) else {}
    if path in CAPTURES:
        case.query.update({"from": "2026-11-21T07:00:00Z", "to": window_end(case.query.get("to"))})
    elif path == "/v1/sql":
        body["query"] = "select 1 as one"
    elif path == "/v1/reveal":
        body |= {"table": "masked.packets", "column": "device_token", "where": "record_offset = 0"}
    elif path == "/v1/files/{source}/{name}" and case.path_parameters["source"] != "captures":
        case.query.pop("device", None)
    elif path == "/v1/uploads" and body["source"] != "captures":
        body["device"] = None
    elif path.startswith("/v1/subjects/") and case.method == "POST" and body.get("domain") is None:
        body["domain"] = "user"


def window_end(drawn: Any) -> str:
    """Give an end within the hour, another one for another drawn value."""
    begin = datetime.fromisoformat("2026-11-21T07:00:00+00:00")
    return (begin + timedelta(seconds=1 + len(str(drawn)) * 60 % 3600)).isoformat()


@schemathesis.hook("before_call")
def add_meaning(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make only what is to be accepted meaningful; what is to be refused stays as it was drawn."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        give_meaning(case)


def failures_of(event: events.ScenarioFinished) -> list[str]:
    """Tell each failure, with how to repeat it."""
    told = []
    for case_id, nodes in event.recorder.checks.items():
        met = event.recorder.interactions.get(case_id)
        answer = f"{met.response.status_code} {met.response.content[:300]!r}" if met and met.response else ""
        for node in nodes:
            if node.failure_info is not None:
                label = event.recorder.cases[case_id].value.operation.label
                found = node.failure_info
                told.append(
                    f"{event.phase} {label} {node.name}: {found.failure}\n{found.code_sample}\n{answer}"
                )
    return told


@pytest.mark.filterwarnings("ignore")
def test_every_operation_does_as_it_is_described(house: Any, tmp_path: Path):
    application = house.application()
    document = schemathesis.openapi.from_asgi(
        "/v1/openapi.json", application, config=configure(house, tmp_path)
    )
    failures: list[str] = []
    checked: Counter[str] = Counter()
    answered: dict[str, set[int]] = {one.ok().label: set() for one in document.get_all_operations()}
    for event in from_schema(document).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            error = event.value if isinstance(event, events.NonFatalError) else event.exception
            failures.append(f"{getattr(event, 'label', '')} {error!r}")
        elif isinstance(event, events.ScenarioFinished):
            failures += failures_of(event)
            for case_id, nodes in event.recorder.checks.items():
                checked.update(node.name for node in nodes)
                met = event.recorder.interactions.get(case_id)
                if met and met.response:
                    answered[event.recorder.cases[case_id].value.operation.label].add(met.response.status_code)
    assert failures == [], "\n\n".join(failures)
    load_all_checks()
    # Every check that is there ran, and one user asked for what the other one had made.
    assert set(checked) == {one.__name__ for one in CHECKS.get_all()}
    provider = escalating_provider(document)
    assert provider is not None
    assert {one[0] for one in provider._probed} >= {"read"}
    never = {label for label, statuses in answered.items() if not any(200 <= one < 300 for one in statuses)}
    assert never <= PREPARED, sorted(never)
