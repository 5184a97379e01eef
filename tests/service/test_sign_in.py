"""Single sign-on against a provider with real keys; and every answer of one that is not to be believed."""

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.testclient import TestClient

import oidc_provider
from stores.sign_ins import read_provider
from transforms.errors import UsageError
from waiting import LONGEST_S

CLIENT = oidc_provider.CLIENT


@pytest.fixture
def provider() -> Iterator[Any]:
    made = oidc_provider.OpenIdProvider()
    yield made
    made.stop()


@pytest.fixture
def described(provider: Any, tmp_path: Path) -> dict[str, Any]:
    secret = tmp_path / "secret"
    secret.write_text(oidc_provider.SECRET)
    secret.chmod(0o600)
    return {
        "name": "sso",
        "label": "Sign in with Acme",
        "issuer": provider.issuer,
        "client_id": CLIENT,
        "client_secret_file": str(secret),
        "tenant_claim": "org",
        "roles_claim": "groups",
        "roles": {"packet people": "investigator", "auditors": "auditor"},
    }


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch):
    """The provider answers from a thread of this process, which a busy machine may let wait."""
    for module in ("stores.sign_ins", "stores.tokens"):
        monkeypatch.setattr(f"{module}._TIMEOUT_S", LONGEST_S)


@pytest.fixture
def browser(house: Any, provider: Any, described: dict[str, Any], tmp_path: Path) -> Iterator[TestClient]:
    provider.person = {"sub": "u-17", "org": "acme", "groups": ["packet people", "others"]}
    file = tmp_path / "provider.json"
    file.write_text(json.dumps(described))
    with house.client(service_sign_in_file=file) as made:
        yield made


def sign_in(browser: TestClient, bend: Callable[[str], str] = lambda back: back) -> Any:
    """Go through the provider as a browser does; `bend` may change where it sends back to."""
    begun = browser.get("/sign-in/provider")
    assert begun.status_code == 303, begun.text
    address = begun.headers["location"]
    # The provider is asked in earnest, by its own address.
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    try:
        urllib.request.build_opener(Stay).open(address)
    except urllib.error.HTTPError as answer:
        back = answer.headers["Location"]
    place = urlsplit(bend(back))
    return browser.get(urlunsplit(("", "", place.path, place.query, "")))


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_a_person_of_another_house_signs_in(browser: TestClient, provider: Any, house: Any, alg: str):
    provider.alg = alg
    assert "Sign in with Acme" in browser.get("/sign-in").text
    answer = sign_in(browser)
    assert answer.status_code == 200, answer.text
    assert 'url=/captures"' in answer.text
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    page = browser.get("/captures?device=router-7&hour=2026-11-21T07:00").text
    assert "500 packets" in page
    assert "sso:u-17" in page
    assert house.platform.access.roles("sso:u-17", "acme") == ["investigator"]
    assert house.platform.access.roles("sso:u-17", "default") == []
    actions = [one.action for one in house.entries("acme", "sso:u-17")]
    assert "access:session:begun" in actions


def test_roles_follow_the_provider_and_others_stay(browser: TestClient, provider: Any, house: Any):
    from transforms.access import Role

    provider.person = {"sub": "u-18", "org": "acme", "groups": "auditors"}
    house.platform.access.assign("sso:u-18", Role.ANALYST, "acme")
    assert sign_in(browser).status_code == 200
    assert set(house.platform.access.roles("sso:u-18", "acme")) == {"auditor", "analyst"}
    provider.person["groups"] = []
    assert sign_in(browser).status_code == 200
    assert house.platform.access.roles("sso:u-18", "acme") == ["analyst"]
    assert sign_in(browser).status_code == 200
    house.platform.users.revoke("sso:u-18")
    assert sign_in(browser).status_code == 401


@pytest.mark.parametrize(
    "person",
    [
        {"sub": "u-19", "org": "acme", "groups": []},
        {"sub": "u-19", "org": "nowhere", "groups": ["auditors"]},
        {"sub": "u-19", "groups": ["auditors"]},
        {"sub": "u 19\n", "org": "acme", "groups": ["auditors"]},
        {"org": "acme", "groups": ["auditors"]},
    ],
    ids=["no role", "no such tenant", "no tenant", "no name", "nobody"],
)
def test_whoever_has_nothing_to_look_for_is_not_let_in(browser: TestClient, provider: Any, person: Any):
    provider.person = person
    assert sign_in(browser).status_code == 401
    assert browser.get("/captures").status_code == 303


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


CLAIMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "wrong nonce": lambda one: {**one, "nonce": "x"},
    "no nonce": lambda one: {name: value for name, value in one.items() if name != "nonce"},
    "wrong audience": lambda one: {**one, "aud": "another"},
    "no audience": lambda one: {name: value for name, value in one.items() if name != "aud"},
    "given to another": lambda one: {**one, "aud": [CLIENT, "another"], "azp": "another"},
    "among others, to nobody": lambda one: {**one, "aud": [CLIENT, "another"]},
    "wrong issuer": lambda one: {**one, "iss": "https://evil.example"},
    "expired": lambda one: {**one, "exp": one["iat"] - 60},
    "without an end": lambda one: {name: value for name, value in one.items() if name != "exp"},
    "an end that is none": lambda one: {**one, "exp": "tomorrow"},
    "old": lambda one: {**one, "iat": one["iat"] - 3600},
    "from the future": lambda one: {**one, "iat": one["iat"] + 3600, "exp": one["exp"] + 7200},
    "not yet": lambda one: {**one, "nbf": one["iat"] + 3600},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_token_that_says_something_else_opens_nothing(browser: TestClient, provider: Any, name: str):
    provider.bend = CLAIMS[name]
    assert sign_in(browser).status_code == 401
    assert browser.get("/captures").status_code == 303


def forgeries(provider: Any) -> dict[str, Callable[[dict[str, Any]], str]]:
    strange, rsa = RSAKey.generate_key(2048), provider.keys["RS256"]
    public = rsa.as_pem(private=False)
    head = {"alg": "RS256", "kid": "rsa"}
    return {
        "alg none": lambda claims: f"{encoded({'alg': 'none', 'kid': 'rsa'})}.{encoded(claims)}.",
        "another key": lambda claims: jwt.encode(head, claims, strange),
        "a key of its own": lambda claims: jwt.encode(
            {**head, "jwk": strange.as_dict(private=False)}, claims, strange
        ),
        "an unknown key": lambda claims: jwt.encode({**head, "kid": "other"}, claims, strange),
        "the public key as a secret": lambda claims: jwt.encode(
            {"alg": "HS256", "kid": "rsa"}, claims, OctKey.import_key(public), algorithms=["HS256"]
        ),
        "another algorithm": lambda claims: jwt.encode(
            {"alg": "PS256", "kid": "rsa"}, claims, rsa, algorithms=["PS256"]
        ),
        "no token": lambda claims: "x",
        "too long": lambda claims: "x" * 20_000,
    }


@pytest.mark.parametrize(
    "name",
    [
        "alg none",
        "another key",
        "a key of its own",
        "an unknown key",
        "the public key as a secret",
        "another algorithm",
        "no token",
        "too long",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_token_that_the_provider_did_not_sign_opens_nothing(browser: TestClient, provider: Any, name: str):
    provider.forge = forgeries(provider)[name]
    assert sign_in(browser).status_code == 401
    assert browser.get("/captures").status_code == 303


def replaced(name: str, value: str) -> Callable[[str], str]:
    def bend(back: str) -> str:
        place = urlsplit(back)
        query = {key: values[0] for key, values in parse_qs(place.query).items()}
        from urllib.parse import urlencode

        return urlunsplit(place._replace(query=urlencode({**query, name: value})))

    return bend


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "x"),
        ("state", ""),
        ("code", "x"),
        ("code", ""),
        ("iss", "https://evil.example"),
        ("error", "access_denied"),
    ],
)
def test_an_answer_to_another_question_opens_nothing(browser: TestClient, name: str, value: str):
    assert sign_in(browser, replaced(name, value)).status_code == 401


def test_an_answer_counts_once_and_for_the_browser_that_began(browser: TestClient, provider: Any, house: Any):
    seen: list[str] = []
    assert sign_in(browser, lambda back: seen.append(back) or back).status_code == 200
    assert provider.token_answers == [200]
    place = urlsplit(seen[0])
    again = f"{place.path}?{place.query}"
    assert browser.get(again).status_code == 401
    # Somebody else's browser is sent there: it would be signed in as the attacker.
    with TestClient(browser.app, follow_redirects=False) as other:
        assert other.get(again).status_code == 401
        other.get("/sign-in/provider")
        assert other.get(again).status_code == 401
    assert provider.token_answers == [200]


def test_a_code_without_its_verifier_is_worth_nothing(browser: TestClient, provider: Any):
    begun = browser.get("/sign-in/provider").headers["location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun).query).items()}
    assert asked["code_challenge_method"] == "S256"
    # The code of another sign-in, with this browser's own state.
    back = provider.signed_in({**asked, "code_challenge": "x" * 43})
    assert browser.get(urlsplit(back)._replace(scheme="", netloc="").geturl()).status_code == 401
    assert provider.token_answers == [400]


@pytest.mark.parametrize(
    "described_as",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": ""},
    ],
)
def test_a_provider_that_is_described_as_another_is_not_asked(
    browser: TestClient, provider: Any, described_as: dict[str, str]
):
    provider.described = described_as
    answer = browser.get("/sign-in/provider")
    assert answer.status_code == 503
    assert "does not answer" in answer.text


def test_nothing_of_an_answer_is_logged_or_kept(
    browser: TestClient, provider: Any, house: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    canary = "canary-jane.roe"
    provider.person = {
        "sub": f"{canary} x",
        "org": canary,
        "groups": [canary],
        "email": f"{canary}@example.org",
    }
    assert sign_in(browser).status_code == 401
    answer = sign_in(browser, replaced("error", canary))
    assert canary not in answer.text
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("lockhouse")]
    assert any("sign-in refused" in one for one in ours)
    assert not any(canary in one for one in ours)
    assert canary not in str(house.entries()) + str(house.entries("acme"))


def test_passwords_can_be_switched_off(house: Any, described: dict[str, Any], tmp_path: Path):
    file = tmp_path / "provider.json"
    file.write_text(json.dumps(described))
    with house.client(service_sign_in_file=file, service_password_sign_in=False) as browser:
        assert 'type="password"' not in browser.get("/sign-in").text
        data = {"name": "user-d-analyst", "password": "correct horse battery", "tenant": "default"}
        assert browser.post("/sign-in", data=data).status_code == 403
    with house.client() as browser:
        assert browser.get("/sign-in/provider").status_code == 404
        assert browser.get("/sign-in/callback?code=x&state=y").status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://sso.example"},
        {"name": "client"},
        {"name": "a:b"},
        {"roles": {"x": "king"}},
        {"roles_claim": None},
        {"algorithms": ["HS256"]},
        {"algorithms": []},
        {"surprise": 1},
    ],
)
def test_a_provider_that_cannot_be_trusted_is_refused(
    described: dict[str, Any], tmp_path: Path, change: dict[str, Any]
):
    file = tmp_path / "provider.json"
    file.write_text(json.dumps({**described, **change}))
    with pytest.raises(UsageError, match=r"provider\.json"):
        read_provider(file)
