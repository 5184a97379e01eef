"""Requests made from the OpenAPI document: every answer is described there, none is an error of ours."""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ensure_resource_availability,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
    allow_header_conformance,
    ignored_auth,
    use_after_free,
    ensure_resource_availability,
]
# What they take has a meaning that no schema can say: windows of time, queries, columns that hold tokens,
# identifiers of a domain, what people state of themselves. Everything else that fits has to be taken.
MEANT = (
    "/v1/devices/{device}/",
    "/v1/sql",
    "/v1/reveal",
    "/v1/subjects/",
    "/v1/events/",
    "/v1/files/",
    "/v1/uploads",
    "/v1/validations",
)
# Whatever is sent there lands: what is wrong with it is told of each record, and kept in quarantine.
TAKEN = ("/v1/events/", "/v1/files/")
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "6"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=str)
def test_every_operation_answers_as_it_is_described(house: Any, mode: Any):
    document = schemathesis.openapi.from_asgi("/v1/openapi.json", house.application())
    headers, met = house.issue("d-operator"), 0
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            derandomize=True,
            database=None,
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            place, checks = case.operation.path, list(CHECKS)
            if not any(part in place for part in MEANT):
                checks.append(positive_data_acceptance)
            if any(part in place for part in TAKEN):
                checks.remove(negative_data_rejection)
            case.call_and_validate(headers=headers, checks=checks)

        try:
            ask()
        except Unsatisfiable:
            # An operation without any parameter cannot be asked wrongly.
            continue
        met += 1
    assert met >= 12
