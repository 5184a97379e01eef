"""Sign-in of people through another house's provider: what is asked, and what its answer must say.

Source: OpenID Connect Core 1.0 sections 3.1.2 and 3.1.3.7; RFC 7636 (PKCE); RFC 9207 (who answers).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from transforms.access import Role
from transforms.credentials import map_claims
from transforms.errors import RefusedError, UsageError
from transforms.pii.ciphers import sha256_hex

CLOCKS_DIFFER_S = 30
# Nobody needs longer to sign in somewhere else.
LONGEST_SIGN_IN_S = 600


@dataclass(frozen=True)
class Provider:
    """Who signs people in, and what its claims mean here.

    Claims give a tenant and roles where the file names those claims; `roles` maps what stands in them.
    """

    name: str
    issuer: str
    client_id: str
    label: str = "Single sign-on"
    client_secret_file: str | None = None
    scopes: str = "openid"
    tenant: str = "default"
    tenant_claim: str | None = None
    roles_claim: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    algorithms: tuple[str, ...] = ("RS256", "ES256")


@dataclass(frozen=True)
class Begun:
    """A sign-in that has begun: what the browser keeps meanwhile, and its answer has to fit."""

    state: str
    nonce: str
    verifier: str
    begun_at: int


@dataclass(frozen=True)
class Person:
    """Who signed in. `roles` are those that the provider gives, None where it gives none and takes none."""

    principal: str
    tenant: str
    roles: frozenset[Role] | None


def checked_provider(provider: Provider) -> Provider:
    """Give a provider back.

    Raises: UsageError where it is reached in clear, or gives a role that is none.
    """
    if not is_protected(provider.issuer):
        raise UsageError("an issuer is reached over https, or on this machine")
    if not provider.name.isalnum() or provider.name == "client":
        raise UsageError("the name of a provider is letters and digits, and not `client`")
    unknown = set(provider.roles.values()) - set(Role)
    if unknown or bool(provider.roles) != bool(provider.roles_claim):
        raise UsageError(f"`roles` maps what stands in `roles_claim` to: {', '.join(Role)}")
    return provider


def is_protected(address: str) -> bool:
    """Whether what is sent there is read by nobody on the way.

    >>> is_protected("https://sso.example"), is_protected("http://sso.example"), is_protected("http://127.0.0.1:1")
    (True, False, True)
    """
    place = urlsplit(address)
    return place.scheme == "https" or (place.scheme == "http" and place.hostname in ("127.0.0.1", "::1"))


def ask_address(provider: Provider, endpoint: str, redirect: str, begun: Begun) -> str:
    """Give the address that the browser is sent to."""
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect,
        "scope": provider.scopes,
        "state": begun.state,
        "nonce": begun.nonce,
        "code_challenge": make_challenge(begun.verifier),
        "code_challenge_method": "S256",
    }
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}"


def make_challenge(verifier: str) -> str:
    """Give the challenge of a verifier (S256).

    >>> make_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM'
    """
    digest = bytes.fromhex(sha256_hex(verifier.encode()))
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def check_answer(answer: Mapping[str, str], provider: Provider, begun: Begun, now_s: float) -> str:
    """Give the code of an answer.

    Raises: RefusedError where it is not the answer to what this browser began, or the provider refused.
    """
    if not hmac.compare_digest(answer.get("state", "").encode(), begun.state.encode()):
        raise RefusedError("the answer does not belong to a sign-in of this browser")
    if not begun.begun_at <= now_s <= begun.begun_at + LONGEST_SIGN_IN_S:
        raise RefusedError("the sign-in took too long")
    if "iss" in answer and answer["iss"] != provider.issuer:
        raise RefusedError("the answer comes from another issuer")
    if "error" in answer or not answer.get("code"):
        raise RefusedError("the provider did not sign anybody in")
    return answer["code"]


def check_claims(claims: Mapping[str, Any], provider: Provider, nonce: str, now_s: float) -> None:
    """Hold the claims of a verified ID token against what was asked for.

    Raises: RefusedError.
    """
    named = claims.get("aud")
    audience = named if isinstance(named, list) else [named]
    if claims.get("iss") != provider.issuer:
        raise RefusedError("the token is of another issuer")
    if provider.client_id not in audience:
        raise RefusedError("the token is for somebody else")
    if (len(audience) > 1 or "azp" in claims) and claims.get("azp") != provider.client_id:
        raise RefusedError("the token was given to somebody else")
    expires, issued = _number(claims.get("exp")), _number(claims.get("iat"))
    if expires + CLOCKS_DIFFER_S <= now_s or _number(claims.get("nbf", 0)) - CLOCKS_DIFFER_S > now_s:
        raise RefusedError("the token has expired, or does not count yet")
    if not now_s - LONGEST_SIGN_IN_S - CLOCKS_DIFFER_S <= issued <= now_s + CLOCKS_DIFFER_S:
        raise RefusedError("the token was not issued just now")
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise RefusedError("the token answers another sign-in")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError("the token lacks a time")
    return float(value)


def map_person(claims: Mapping[str, Any], provider: Provider) -> Person:
    """Read who signed in, in which tenant, and with which roles of the provider's giving.

    Raises: RefusedError where the claims name nobody, or no tenant.
    """
    principal = map_claims(provider.name, "plain", claims).principal
    tenant = provider.tenant if provider.tenant_claim is None else claims.get(provider.tenant_claim)
    if not isinstance(tenant, str):
        raise RefusedError("the token names no tenant")
    if provider.roles_claim is None:
        return Person(principal, tenant, None)
    stated = claims.get(provider.roles_claim, [])
    groups = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    roles = frozenset(
        Role(provider.roles[one]) for one in groups if isinstance(one, str) and one in provider.roles
    )
    return Person(principal, tenant, roles)
