"""Signed calls: the same signature as botocore's, whoever calls, whatever the body."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from transforms.call_signing import Credentials, Destination, sign_call

HEADERS = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ReceiveMessage"}
TEXTS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=40)
NAMED = st.sampled_from(["sqs.eu-central-1.amazonaws.com", "127.0.0.1:4566", "[::1]:9324"])


@given(body=st.binary(max_size=200), host=NAMED, region=TEXTS, key=TEXTS, secret=TEXTS, token=st.none() | TEXTS)
def test_the_signature_is_that_of_botocore(body, host, region, key, secret, token):
    request = AWSRequest("POST", f"http://{host}/", headers=HEADERS, data=body)
    SigV4Auth(ReadOnlyCredentials(key, secret, token), "sqs", region).add_auth(request)
    at = datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = sign_call(body, HEADERS, Destination(host, "sqs", region), Credentials(key, secret, token), at)
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours["x-amz-date"] == request.headers["X-Amz-Date"]
    assert ours.get("x-amz-security-token") == request.headers.get("X-Amz-Security-Token")


@pytest.mark.parametrize("changed", ["body", "headers", "who", "at"])
def test_whatever_is_signed_changes_the_signature(changed):
    given = {
        "body": (b"{}", b"{ }"),
        "headers": (HEADERS, {**HEADERS, "x-amz-target": "AmazonSQS.PurgeQueue"}),
        "who": (Credentials("a", "b", None), Credentials("a", "c", None)),
        "at": (datetime(2026, 11, 21, 7), datetime(2026, 11, 22, 7)),  # noqa: DTZ001 - UTC is meant
    }
    first = {name: one for name, (one, _) in given.items()}
    other = {**first, changed: given[changed][1]}
    to = Destination("h", "sqs", "r")
    assert sign_call(to=to, **first)["authorization"] != sign_call(to=to, **other)["authorization"]
