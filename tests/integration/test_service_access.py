"""Clients, users, grants and tokens against a real database, a real keyring, a real issuer's keys."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from stores import users as users_module
from stores.access import Access
from stores.database import Database
from stores.keyring import LocalKeyring
from stores.tokens import Issuer, Tokens, read_issuers
from stores.users import Users
from transforms.access import OF_DEVICES, RIGHTS, Right, Role
from transforms.errors import RefusedError, UsageError

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"  # noqa: S105


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database.at(tmp_path / "app.db")
    made.migrate()
    return made


@pytest.fixture
def access(database: Database, clock: Clock) -> Access:
    return Access(database, clock)


@pytest.fixture
def users(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Users:
    monkeypatch.setattr(users_module, "PASSWORD_COSTS", {"memory_kib": 64, "passes": 1, "lanes": 1})
    return Users(database, clock)


# -- clients ------------------------------------------------------------------------------------


def test_a_client_is_known_by_its_secret_alone(access: Access):
    client, secret = access.clients.add("gateway", "acme", frozenset({Right.INGEST}))
    assert access.clients.authenticate("gateway", secret) == client
    for name, tried in (("gateway", secret + "x"), ("gateway", ""), ("other", secret), ("", secret)):
        with pytest.raises(RefusedError, match="wrong"):
            access.clients.authenticate(name, tried)


def test_two_secrets_live_and_the_third_drops_the_oldest(access: Access, clock: Clock):
    _, first = access.clients.add("gateway", "acme", frozenset({Right.INGEST}))
    clock.now += timedelta(days=1)
    second = access.clients.rotate("gateway", "acme")
    access.clients.authenticate("gateway", first)
    access.clients.authenticate("gateway", second)
    clock.now += timedelta(days=1)
    third = access.clients.rotate("gateway", "acme")
    access.clients.authenticate("gateway", second)
    access.clients.authenticate("gateway", third)
    with pytest.raises(RefusedError):
        access.clients.authenticate("gateway", first)


def test_no_secret_is_in_the_database(access: Access, tmp_path: Path):
    _, secret = access.clients.add("gateway", "acme", frozenset({Right.INGEST}))
    for path in tmp_path.glob("app.db*"):
        assert secret.encode() not in path.read_bytes()


def test_a_client_of_another_tenant_cannot_be_rotated_or_revoked(access: Access):
    access.clients.add("gateway", "acme", frozenset({Right.INGEST}))
    for change in (access.clients.rotate, access.clients.revoke, access.clients.named):
        with pytest.raises(UsageError, match="no such client"):
            change("gateway", "other")
    with pytest.raises(UsageError, match="registered already"):
        access.clients.add("gateway", "other", frozenset())


def test_scopes_allow_in_the_clients_tenant_and_never_a_device(access: Access):
    every = frozenset(Right)
    access.clients.add("all", "acme", every)
    for right in Right:
        if right in OF_DEVICES:
            with pytest.raises(RefusedError):
                access.authorise("client:all", right, "acme", "d" * 32)
        else:
            assert access.authorise("client:all", right, "acme") == "scope"
        with pytest.raises(RefusedError):
            access.authorise("client:all", right, "other", "d" * 32)
    access.clients.revoke("all", "acme")
    for right in Right:
        with pytest.raises(RefusedError):
            access.authorise("client:all", right, "acme")


# -- grants -------------------------------------------------------------------------------------


def granted(access: Access, role: Role, tenant: str = "acme") -> str:
    access.grants.change_group(tenant, "case", ["d1", "d2"], [])
    return access.grants.add(tenant, "iris", role, "case", START, START + timedelta(hours=1), "root")


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("right", list(Right))
def test_a_grant_gives_the_rights_over_devices_of_its_role_and_no_others(
    access: Access, role: Role, right: Right
):
    grant = granted(access, role)
    if right in RIGHTS[role] and right in OF_DEVICES:
        assert access.authorise("iris", right, "acme", "d1") == f"grant:{grant}"
    else:
        with pytest.raises(RefusedError):
            access.authorise("iris", right, "acme", "d1")


def test_a_grant_counts_for_its_devices_its_tenant_its_principal_and_its_time(access: Access, clock: Clock):
    grant = granted(access, Role.INVESTIGATOR)
    asked: list[tuple[str, str, str | None]] = [
        ("iris", "acme", "d3"),
        ("iris", "other", "d1"),
        ("ivan", "acme", "d1"),
        ("iris", "acme", None),
    ]
    for principal, tenant, device in asked:
        with pytest.raises(RefusedError):
            access.authorise(principal, Right.READ_PAYLOAD, tenant, device)
    for moved, counts in ((-1, False), (0, True), (3599, True), (3600, False)):
        clock.now = START + timedelta(seconds=moved)
        if counts:
            assert access.authorise("iris", Right.READ_PAYLOAD, "acme", "d2") == f"grant:{grant}"
        else:
            with pytest.raises(RefusedError):
                access.authorise("iris", Right.READ_PAYLOAD, "acme", "d2")


def test_of_a_devices_many_groups_the_one_that_is_granted_counts(access: Access):
    for group in ("alone", "case", "others"):
        access.grants.change_group("acme", group, ["d1"], [])
    access.grants.add("acme", "ivan", Role.INVESTIGATOR, "alone", START, START + timedelta(hours=1), "root")
    access.grants.add("acme", "iris", Role.ANALYST, "others", START, START + timedelta(hours=1), "root")
    grant = granted(access, Role.INVESTIGATOR)
    assert access.authorise("iris", Right.READ_PAYLOAD, "acme", "d1") == f"grant:{grant}"
    assert access.roles("iris", "acme") == []


def test_a_revoked_grant_and_a_device_taken_out_count_no_more(access: Access):
    grant = granted(access, Role.INVESTIGATOR)
    access.grants.change_group("acme", "case", [], ["d2"])
    with pytest.raises(RefusedError):
        access.authorise("iris", Right.READ_PAYLOAD, "acme", "d2")
    with pytest.raises(UsageError, match="no such grant"):
        access.grants.revoke("other", grant)
    access.grants.revoke("acme", grant)
    with pytest.raises(RefusedError):
        access.authorise("iris", Right.READ_PAYLOAD, "acme", "d1")
    assert [one["is_live"] for one in access.grants.listing("acme")] == [False]


def test_a_grant_of_nothing_or_of_no_time_is_refused(access: Access):
    with pytest.raises(UsageError, match="no device"):
        access.grants.add("acme", "iris", Role.ANALYST, "empty", START, START + timedelta(1), "root")
    with pytest.raises(UsageError, match="before it begins"):
        access.grants.add("acme", "iris", Role.ANALYST, "empty", START, START, "root")


def test_the_last_operator_stays(access: Access):
    access.assign("root", Role.OPERATOR)
    with pytest.raises(UsageError, match="last operator"):
        access.unassign("root", Role.OPERATOR, "*")
    access.assign("eve", Role.OPERATOR)
    access.unassign("root", Role.OPERATOR, "*")
    assert access.roles("root", "acme") == []


# -- users and sessions -------------------------------------------------------------------------


def test_a_session_lasts_until_it_ends_is_ended_or_the_person_is_shut_out(users: Users, clock: Clock):
    assert users.add("iris", PASSWORD)
    kept, session = users.sign_in("iris", PASSWORD, "acme")
    assert users.session(kept) == session
    assert users.session(kept + "x") is None
    clock.now += timedelta(hours=9)
    assert users.session(kept) is None
    second, _ = users.sign_in("iris", PASSWORD, "acme")
    users.sign_out(second)
    assert users.session(second) is None
    third, _ = users.sign_in("iris", PASSWORD, "acme")
    users.revoke("iris")
    assert users.session(third) is None
    with pytest.raises(RefusedError):
        users.sign_in("iris", PASSWORD, "acme")


def test_a_new_password_ends_the_sessions_of_the_old_one(users: Users):
    users.add("iris", PASSWORD)
    kept, _ = users.sign_in("iris", PASSWORD, "acme")
    assert not users.add("iris", PASSWORD + "!")
    assert users.session(kept) is None
    with pytest.raises(RefusedError):
        users.sign_in("iris", PASSWORD, "acme")
    users.sign_in("iris", PASSWORD + "!", "acme")


def test_what_is_wrong_is_not_told(users: Users):
    users.add("iris", PASSWORD)
    said = set()
    for name, password in (("iris", "wrong"), ("nobody", PASSWORD), ("", "")):
        with pytest.raises(RefusedError) as met:
            users.sign_in(name, password, "acme")
        said.add(str(met.value))
    assert len(said) == 1


# -- tokens -------------------------------------------------------------------------------------


@pytest.fixture
def keyring(tmp_path: Path) -> LocalKeyring:
    return LocalKeyring.create(tmp_path / "keyring.json", b"a passphrase")


@pytest.fixture
def tokens(keyring: LocalKeyring, access: Access, clock: Clock) -> Tokens:
    return Tokens(keyring, access.clients, "https://lockhouse.example", {}, clock)


def test_a_token_speaks_for_its_client_until_it_ends(tokens: Tokens, access: Access, clock: Clock):
    client, _ = access.clients.add("lab", "acme", frozenset({Right.READ_TABLES, Right.INGEST}))
    token = tokens.issue(client, frozenset({Right.READ_TABLES}))
    bearer = tokens.verify(token)
    assert (bearer.identity.principal, bearer.tenant) == ("client:lab", "acme")
    assert bearer.identity.scopes == {Right.READ_TABLES}
    clock.now += timedelta(hours=1)
    with pytest.raises(RefusedError):
        tokens.verify(token)


def test_a_client_that_is_cut_off_is_out_at_once(tokens: Tokens, access: Access):
    client, _ = access.clients.add("lab", "acme", frozenset({Right.READ_TABLES}))
    token = tokens.issue(client, client.scopes)
    access.clients.revoke("lab", "acme")
    with pytest.raises(RefusedError):
        tokens.verify(token)


def test_a_restart_goes_on_with_the_same_keys(
    tokens: Tokens, keyring: LocalKeyring, access: Access, clock: Clock
):
    client, _ = access.clients.add("lab", "acme", frozenset({Right.READ_TABLES}))
    again = Tokens(keyring, access.clients, tokens.issuer, {}, clock)
    assert again.verify(tokens.issue(client, client.scopes)).tenant == "acme"
    [published] = tokens.jwks()["keys"]
    assert "d" not in published
    jwt.decode(tokens.issue(client, client.scopes), ECKey.import_key(published), algorithms=["ES256"])


def claims_of(tokens: Tokens, client_epoch: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "iss": tokens.issuer,
        "sub": "client:lab",
        "client_id": "lab",
        "aud": "lockhouse",
        "exp": int(START.timestamp()) + 600,
        "scope": "tables:read",
        "tenant": "acme",
        "epoch": client_epoch,
    } | changed


def forge(name: str, tokens: Tokens, keyring: LocalKeyring) -> str:
    """Make a token that must not count."""
    ours = tokens._keys.keys[0]
    strange = ECKey.generate_key("P-256")
    header = {"alg": "ES256", "kid": "1", "typ": "at+jwt"}
    claims = claims_of(tokens)
    unsigned = jwt.encode(
        {"alg": "none", "kid": "1", "typ": "at+jwt"}, claims, OctKey.import_key("k" * 32), algorithms=["none"]
    )
    public = json.dumps(tokens.jwks()["keys"][0])
    made: dict[str, Callable[[], str]] = {
        "another key": lambda: jwt.encode(header, claims, strange),
        "no signature": lambda: unsigned,
        "signature cut off": lambda: jwt.encode(header, claims, ours).rpartition(".")[0] + ".",
        "public key as a shared secret": lambda: jwt.encode(
            header | {"alg": "HS256"}, claims, OctKey.import_key(public), algorithms=["HS256"]
        ),
        "another issuer": lambda: jwt.encode(header, claims_of(tokens, iss="https://evil.example"), ours),
        "another audience": lambda: jwt.encode(header, claims_of(tokens, aud="elsewhere"), ours),
        "no end": lambda: jwt.encode(header, {k: v for k, v in claims.items() if k != "exp"}, ours),
        "key id of a file": lambda: jwt.encode(header | {"kid": "../../dev/null"}, claims, ours),
        "key id of a query": lambda: jwt.encode(header | {"kid": "1' or '1'='1"}, claims, ours),
        "key of its own": lambda: jwt.encode(header | {"jwk": strange.as_dict(private=False)}, claims, strange),
        "another kind": lambda: jwt.encode(header | {"typ": "JWT"}, claims, ours),
        "not begun": lambda: jwt.encode(header, claims_of(tokens, nbf=int(START.timestamp()) + 300), ours),
        "another epoch": lambda: jwt.encode(header, claims_of(tokens, client_epoch=2), ours),
        "unknown client": lambda: jwt.encode(header, claims_of(tokens, sub="client:ghost"), ours),
        "nonsense": lambda: "a.b.c",
        "too long": lambda: "x" * 100_000,
        "empty": lambda: "",
    }
    return made[name]()


FORGERIES = [
    "another key",
    "no signature",
    "signature cut off",
    "public key as a shared secret",
    "another issuer",
    "another audience",
    "no end",
    "key id of a file",
    "key id of a query",
    "key of its own",
    "another kind",
    "not begun",
    "another epoch",
    "unknown client",
    "nonsense",
    "too long",
    "empty",
]


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_a_forged_token_does_not_count(name: str, tokens: Tokens, keyring: LocalKeyring, access: Access):
    access.clients.add("lab", "acme", frozenset({Right.READ_TABLES}))
    token = forge(name, tokens, keyring)
    with pytest.raises(RefusedError, match="does not count"):
        tokens.verify(token)


class Served(HTTPServer):
    """An issuer's keys on a real port."""

    keys: dict[str, Any]
    asked = 0


@pytest.fixture
def issuer_keys() -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1
            body = json.dumps(server.keys).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = Served(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("shape", ["plain", "auth0", "keycloak", "cognito"])
def test_tokens_of_another_issuer_are_verified_with_its_keys(
    shape: str, issuer_keys: Served, keyring: LocalKeyring, access: Access, clock: Clock
):
    pair = RSAKey.generate_key(2048, {"kid": "k1"})
    issuer_keys.keys = KeySet([pair]).as_dict(private=False)
    address = f"http://127.0.0.1:{issuer_keys.server_port}/jwks"
    other = Issuer("sso", "https://sso.example", address, "lockhouse", shape, "acme", "lockhouse")
    tokens = Tokens(keyring, access.clients, "https://lockhouse.example", {other.issuer: other}, clock)
    said: dict[str, dict[str, Any]] = {
        "plain": {"scope": "tables:read"},
        "auth0": {"permissions": ["tables:read"]},
        "keycloak": {"resource_access": {"lockhouse": {"roles": ["tables:read"]}}},
        "cognito": {"token_use": "access", "client_id": "lockhouse", "scope": "lockhouse/tables:read"},
    }
    claims = {"iss": other.issuer, "sub": "7", "exp": int(START.timestamp()) + 60, **said[shape]}
    if shape != "cognito":
        claims["aud"] = ["lockhouse"]
    good = jwt.encode({"alg": "RS256", "kid": "k1"}, claims, pair)
    bearer = tokens.verify(good)
    assert (bearer.identity.principal, bearer.tenant) == ("sso:7", "acme")
    assert bearer.identity.scopes == {Right.READ_TABLES}
    for header in ({"alg": "RS256", "kid": "k2"}, {"alg": "RS256"}, {"alg": "PS256", "kid": "k1"}):
        with pytest.raises(RefusedError):
            tokens.verify(jwt.encode(header, claims, pair, algorithms=["RS256", "PS256"]))
    assert issuer_keys.asked == 1, "an unknown key was asked for again at once"


def test_issuers_without_tls_of_unknown_shape_or_weak_algorithms_are_refused(tmp_path: Path):
    path = tmp_path / "issuers.json"
    sound = {
        "name": "sso",
        "issuer": "https://sso.example",
        "jwks": "https://sso.example/jwks",
        "audience": "lockhouse",
        "shape": "plain",
        "tenant": "acme",
    }
    path.write_text(json.dumps([sound]))
    assert list(read_issuers(path)) == ["https://sso.example"]
    for wrong in (
        {"jwks": "http://sso.example/jwks"},
        {"shape": "other"},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"jwks": "file:///etc/passwd"},
        {"extra": 1},
    ):
        path.write_text(json.dumps([{**sound, **wrong}]))
        with pytest.raises(UsageError, match="issuers"):
            read_issuers(path)
