"""What attackers try, each refused."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.testclient import TestClient

from lockhouse.serve import plan_serving
from lockhouse.service.application import ATTEMPTS_PER_MINUTE
from lockhouse.service.limits import Buckets
from stores.settings import Settings
from transforms.errors import QuotaError, UsageError

WINDOW = "from=2026-11-21T07:00:00Z&to=2026-11-21T08:00:00Z"


@pytest.fixture(scope="module")
def asked(house: Any) -> Iterator[TestClient]:
    with house.client() as made:
        yield made


# -- tokens -------------------------------------------------------------------------------------


def test_a_token_is_given_for_a_secret_and_for_no_more_than_the_client_holds(asked: TestClient, house: Any):
    token = house.token(asked, "scoped")
    assert asked.get("/v1/tables", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    secret = house.secrets["scoped"]
    form = {"grant_type": "client_credentials", "client_id": "scoped", "client_secret": secret}
    assert asked.post("/oauth/token", data=form).json()["scope"] == "tables:read"
    wider = asked.post("/oauth/token", data={**form, "scope": "tables:read admin"})
    assert (wider.status_code, wider.json()) == (400, {"error": "invalid_scope"})
    assert asked.post("/oauth/token", data={**form, "scope": "nonsense"}).status_code == 400
    assert asked.post("/oauth/token", data={**form, "grant_type": "password"}).status_code == 400


def test_guesses_are_slowed_down(house: Any):
    with house.client() as client:
        client.app.state.attempts = Buckets(ATTEMPTS_PER_MINUTE, lambda: 0.0)  # however long a guess takes
        form = {"grant_type": "client_credentials", "client_id": "guessed", "client_secret": "x"}
        codes = [client.post("/oauth/token", data=form).status_code for _ in range(12)]
        assert set(codes[:10]) == {401}
        last = client.post("/oauth/token", data=form)
    assert (last.status_code, codes[-1]) == (429, 429)
    assert int(last.headers["retry-after"]) >= 1


@pytest.mark.parametrize("header", ["Basic !!!", "Basic eA==", "Basic", "Bearer x"])
def test_broken_credentials_are_wrong_credentials(asked: TestClient, header: str):
    form = {"grant_type": "client_credentials"}
    answer = asked.post("/oauth/token", data=form, headers={"Authorization": header})
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forgeries(house: Any) -> dict[str, str]:
    """Tokens of an operator that were never issued."""
    good = house.issue("d-operator")["Authorization"].removeprefix("Bearer ")
    head, claims, signature = good.split(".")
    plain = json.loads(base64.urlsafe_b64decode(claims + "=="))
    strange = ECKey.generate_key("P-256")
    signed = {"alg": "ES256", "kid": "1", "typ": "at+jwt"}
    return {
        "alg none": f"{encoded({**signed, 'alg': 'none'})}.{claims}.",
        "another tenant": f"{head}.{encoded({**plain, 'tenant': 'acme'})}.{signature}",
        "another subject": f"{head}.{encoded({**plain, 'sub': 'client:a-operator'})}.{signature}",
        "another issuer": jwt.encode(signed, {**plain, "iss": "https://evil.example"}, strange),
        "another key": jwt.encode(signed, plain, strange),
        "key id of a file": jwt.encode({**signed, "kid": "/dev/null"}, plain, strange),
        "key of its own": jwt.encode({**signed, "jwk": strange.as_dict(private=False)}, plain, strange),
        "keys from elsewhere": jwt.encode({**signed, "jku": "http://127.0.0.1:1/jwks"}, plain, strange),
    }


@pytest.mark.parametrize(
    "name",
    [
        "alg none",
        "another tenant",
        "another subject",
        "another issuer",
        "another key",
        "key id of a file",
        "key of its own",
        "keys from elsewhere",
    ],
)
def test_a_forged_token_opens_nothing(asked: TestClient, house: Any, name: str):
    headers = {"Authorization": f"Bearer {forgeries(house)[name]}"}
    assert asked.get("/v1/tables", headers=headers).status_code == 401


# -- the door -----------------------------------------------------------------------------------


def test_every_answer_protects_the_browser_and_names_its_request(asked: TestClient):
    for path in ("/healthz", "/sign-in", "/v1/tables", "/nothing", "/static/lockhouse.css", "/static/nothing"):
        headers = asked.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert len(headers["x-request-id"]) == 36


@pytest.mark.parametrize(
    "path", ["/static/../application.py", "/static/%2e%2e/application.py", "/static//etc/passwd"]
)
def test_nothing_but_static_files_is_static(asked: TestClient, path: str):
    assert asked.get(path).status_code == 404


def test_whoever_asks_too_much_is_asked_to_wait(house: Any):
    with house.client(service_requests_per_minute=3) as client:
        client.app.state.buckets = Buckets(3, lambda: 0.0)  # however long a request takes
        headers = house.issue("d-analyst")
        codes = [client.get("/v1/tables", headers=headers).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        assert client.get("/v1/tables", headers=house.issue("a-analyst")).status_code == 200


def test_a_bucket_fills_again_and_forgets_who_was_quiet():
    moments = [0.0]
    bucket = Buckets(60, lambda: moments[0])
    for _ in range(60):
        bucket.take("a")
    with pytest.raises(QuotaError) as met:
        bucket.take("a")
    moments[0] += met.value.retry_after_s
    bucket.take("a")
    with pytest.raises(QuotaError):
        bucket.take("a")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "lockhouse.example"])  # noqa: S104
def test_it_does_not_listen_elsewhere_in_clear(host: str, tmp_path: Any):
    with pytest.raises(UsageError, match="in clear"):
        plan_serving(Settings(home=tmp_path), host)
    assert plan_serving(Settings(home=tmp_path, service_behind_proxy=True), host) == {}
    both = Settings(home=tmp_path, service_certificate_file=tmp_path / "c", service_key_file=tmp_path / "k")
    assert set(plan_serving(both, host)) == {"ssl_certfile", "ssl_keyfile"}
    with pytest.raises(UsageError, match="both"):
        plan_serving(Settings(home=tmp_path, service_key_file=tmp_path / "k"), "127.0.0.1")


def test_health_and_counts_name_nobody(asked: TestClient, house: Any):
    asked.get(f"/v1/devices/router-7/capture?{WINDOW}", headers=house.issue("granted"))
    assert asked.get("/healthz").json() == {"status": "ok"}
    assert asked.get("/readyz").json()["ready"]
    text = asked.get("/metrics").text
    assert 'route="/v1/devices/{device}/capture"' in text
    assert "router-7" not in text
    assert "granted" not in text


def test_what_is_missing_is_told_by_readiness(house: Any, monkeypatch: pytest.MonkeyPatch):
    from stores.database import Database

    with house.client() as client:
        monkeypatch.setattr(Database, "revision", lambda self: None)
        answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["database"]) == (503, False)


def test_a_wrong_method_is_told_every_right_one(asked: TestClient):
    for path, allowed in (
        ("/v1/subjects/access", "GET, POST"),
        ("/v1/devices/router-7/capture", "GET, HEAD"),
        ("/v1/validations/01a1fec0-df13-775c-9309-0840fda3ec81", "DELETE, GET, PATCH"),
    ):
        answer = asked.request("OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


# -- SQL ----------------------------------------------------------------------------------------


def test_rows_come_as_json_csv_and_arrow_and_no_more_than_asked_for(asked: TestClient, house: Any):
    import pyarrow as pa

    headers = house.issue("d-analyst")
    query = (
        "select record_offset, [1, 2] as pair, 'nan'::double as odd, 7::hugeint as whole, 1.50 as part "
        "from masked.packets order by 1"
    )
    for form in ("json", "csv", "arrow"):
        body = {"query": query, "format": form, "limit": 3}
        answer = asked.post("/v1/sql", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["lockhouse-truncated"] == "true"
        if form == "json":
            assert len(answer.json()["rows"]) == 3
            first = answer.json()["rows"][0]
            assert (first["odd"], first["whole"], first["part"]) == (None, 7, "1.50")
        elif form == "csv":
            assert len(answer.text.splitlines()) == 4
        else:
            assert pa.ipc.open_stream(answer.content).read_all().num_rows == 3


ATTACKS = [
    "copy (select 1) to '/tmp/x'",
    "select * from read_csv('/etc/passwd')",
    "attach '/tmp/x.db'",
    "select 1; select 2",
    "create table t (a int)",
    "set enable_external_access = true",
    "select * from raw.capture_blocks",
    "select * from read_parquet('/etc/*')",
    "install httpfs",
    "call pragma_version()",
    "explain analyze copy (select 1) to '/tmp/x'",
    "select getenv('HOME')",
]


@pytest.mark.parametrize("query", ATTACKS)
def test_sql_reads_tables_and_nothing_else(asked: TestClient, house: Any, query: str):
    answer = asked.post("/v1/sql", json={"query": query}, headers=house.issue("d-operator"))
    assert answer.status_code == 422


def test_a_query_that_takes_too_long_is_stopped(house: Any):
    slow = "select count(*) from range(100000000) a, range(100000) b"
    with house.client(service_query_seconds=0.3) as client:
        answer = client.post("/v1/sql", json={"query": slow}, headers=house.issue("d-analyst"))
    assert answer.status_code == 422
    assert "stopped after 0.3 seconds" in answer.json()["detail"]
