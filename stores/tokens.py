"""Access tokens: issued by this house for its own clients, and verified from every issuer that counts."""

from __future__ import annotations

import json
import secrets
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from stores.clients import Client, Clients
from stores.keyring import KeyProvider
from transforms.access import Right
from transforms.credentials import SHAPES, Identity, map_claims, parse_scopes, write_scopes
from transforms.errors import RefusedError, UsageError
from transforms.pii.ciphers import derive_p256_key

AUDIENCE = "lockhouse"
LASTS_S = 900
_TIMEOUT_S = 5
ALGORITHM = "ES256"
# Signatures of keys that only their issuer has; `none` and shared secrets are not among them.
ALGORITHMS = ("ES256", "ES384", "RS256", "PS256", "Ed25519")
# An unknown key is asked for no more often: forged key ids must not turn us against the issuer.
_KEYS_AGAIN_S = 60.0
_CLOCKS_DIFFER_S = 30
_LONGEST_TOKEN = 8192
_MOST_KEYS_BYTES = 1 << 18
_REFUSED = "the token does not count here"


@dataclass(frozen=True)
class Bearer:
    """Who a token speaks for, and in which tenant."""

    identity: Identity
    tenant: str


@dataclass
class Issuer:
    """Another issuer: where its keys are, how it says things, and which tenant its tokens are for."""

    name: str
    issuer: str
    jwks: str
    audience: str
    shape: str
    tenant: str
    resource: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    keys: dict[str, Any] = field(default_factory=dict)
    fetched_s: float = float("-inf")

    def key(self, key_id: str) -> Any:  # noqa: ANN401 - one of joserfc's keys
        """Give a key by its id; the issuer is asked again where it is unknown, not too often.

        Raises: RefusedError where the issuer has no such key, or cannot be reached.
        """
        if key_id not in self.keys and time.monotonic() - self.fetched_s >= _KEYS_AGAIN_S:
            self.fetched_s = time.monotonic()
            self.keys = _keys_by_id(_fetched(self.jwks))
        if key_id not in self.keys:
            raise RefusedError(_REFUSED)
        return self.keys[key_id]


class Tokens:
    """Issues and verifies. Nothing of a token is kept."""

    def __init__(
        self,
        provider: KeyProvider,
        clients: Clients,
        issuer: str,
        others: Mapping[str, Issuer],
        clock: Callable[[], datetime],
    ) -> None:
        """Derive the signing key; `others` are issuers by what their tokens call them."""
        self.issuer, self._clients, self._others, self._clock = issuer, clients, others, clock
        # Derived from the key that hangs on no tenant: a restart or a second process has the same.
        pair = derive_p256_key(provider.signing_key(), "access tokens", "1")
        self._keys = KeySet.import_key_set({"keys": [{**pair, "kid": "1", "use": "sig", "alg": ALGORITHM}]})

    def jwks(self) -> dict[str, Any]:
        """Give the public keys, as others fetch them (RFC 7517)."""
        return dict(self._keys.as_dict(private=False))

    def issue(self, client: Client, scopes: frozenset[Right]) -> str:
        """Sign an access token for a client (RFC 9068)."""
        issued_at = int(self._clock().timestamp())
        claims = {
            "iss": self.issuer,
            "sub": client.principal,
            "client_id": client.principal.removeprefix("client:"),
            "aud": AUDIENCE,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + LASTS_S,
            "jti": secrets.token_urlsafe(16),
            "scope": write_scopes(scopes),
            "tenant": client.tenant,
            "epoch": client.epoch,
        }
        return jwt.encode({"alg": ALGORITHM, "kid": "1", "typ": "at+jwt"}, claims, self._keys.keys[0])

    def verify(self, token: str) -> Bearer:
        """Give whom a token speaks for.

        Raises: RefusedError for whatever is wrong with it: one message, so that it is no oracle.
        """
        try:
            header, unverified = _peeked(token)
            if unverified.get("iss") == self.issuer:
                return self._own(token, header)
            return self._foreign(token, header, self._others[str(unverified.get("iss"))])
        except (JoseError, ValueError, KeyError, TypeError, RefusedError, UsageError):
            raise RefusedError(_REFUSED) from None

    def _own(self, token: str, header: Mapping[str, Any]) -> Bearer:
        if header.get("kid") != "1" or header.get("typ") != "at+jwt":
            raise RefusedError(_REFUSED)
        claims = jwt.decode(token, self._keys.keys[0], algorithms=[ALGORITHM]).claims
        self._check_claims(claims, self.issuer, AUDIENCE)
        client = self._clients.find(claims["sub"])
        if client is None or client.revoked_at is not None or client.epoch != claims["epoch"]:
            raise RefusedError(_REFUSED)
        # What was taken from the client since is taken from its tokens, too.
        scopes = parse_scopes(claims["scope"]) & client.scopes
        return Bearer(Identity(client.principal, claims["client_id"], scopes), client.tenant)

    def _foreign(self, token: str, header: Mapping[str, Any], other: Issuer) -> Bearer:
        key_id = header.get("kid")
        if not isinstance(key_id, str):
            raise RefusedError(_REFUSED)
        claims = jwt.decode(token, other.key(key_id), algorithms=list(other.algorithms)).claims
        # Amazon Cognito's access tokens name no audience; they are told from its other tokens by this.
        if other.shape == "cognito" and claims.get("token_use") == "access":
            claims = {"aud": claims.get("client_id"), **claims}
        self._check_claims(claims, other.issuer, other.audience)
        return Bearer(map_claims(other.name, other.shape, claims, other.resource), other.tenant)

    def _check_claims(self, claims: Mapping[str, Any], issuer: str, audience: str) -> None:
        now = self._clock().timestamp()
        named = claims.get("aud")
        if claims.get("iss") != issuer or audience not in (named if isinstance(named, list) else [named]):
            raise RefusedError(_REFUSED)
        if not float(claims["exp"]) + _CLOCKS_DIFFER_S > now >= float(claims.get("nbf", 0)) - _CLOCKS_DIFFER_S:
            raise RefusedError(_REFUSED)


def read_issuers(path: Path | None) -> dict[str, Issuer]:
    """Read the file of other issuers, by what their tokens call them.

    Raises: UsageError where the file is no list of issuers, or one is reached without TLS.
    """
    if path is None:
        return {}
    try:
        found = [
            Issuer(**{**one, "algorithms": tuple(one.get("algorithms", ("RS256", "ES256")))})
            for one in json.loads(path.read_text())
        ]
    except (OSError, ValueError, TypeError, AttributeError):
        raise UsageError(f"{path.name} is no list of issuers: the how-to guide shows one") from None
    for one in found:
        _check_issuer(path.name, one)
    return {one.issuer: one for one in found}


def _check_issuer(file: str, one: Issuer) -> None:
    if one.shape not in SHAPES:
        raise UsageError(f"{file}: the shape of an issuer is one of {', '.join(SHAPES)}")
    if set(one.algorithms) - set(ALGORITHMS):
        raise UsageError(f"{file}: the algorithms of an issuer are among {', '.join(ALGORITHMS)}")
    place = urlsplit(one.jwks)
    if place.scheme != "https" and not (place.scheme == "http" and place.hostname in ("127.0.0.1", "::1")):
        raise UsageError(f"{file}: an issuer's keys are fetched over https")


def _peeked(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read header and claims without believing them: only to choose whose keys to verify with."""
    from base64 import urlsafe_b64decode

    if len(token) > _LONGEST_TOKEN:
        raise RefusedError(_REFUSED)
    parts = [json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in token.split(".")[:2]]
    if len(parts) != 2 or not all(isinstance(part, dict) for part in parts):
        raise RefusedError(_REFUSED)
    return parts[0], parts[1]


def _fetched(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked when it was read
            found: dict[str, Any] = json.loads(answer.read(_MOST_KEYS_BYTES))
            return found
    except (OSError, ValueError):
        raise RefusedError(_REFUSED) from None


def _keys_by_id(found: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys for signatures; a shared secret among them is no key of an issuer."""
    usable = [one for one in found.get("keys", []) if one.get("kty") != "oct" and one.get("use") != "enc"]
    return {key.kid: key for key in KeySet.import_key_set({"keys": usable}).keys if key.kid} if usable else {}
