"""What people and programs prove themselves with: passwords, client secrets, scopes, token claims."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transforms.access import Right
from transforms.errors import RefusedError, UsageError
from transforms.pii.ciphers import sha256_hex, stretch_passphrase

# Found by scanners of source code, should one ever be committed somewhere.
SECRET_PREFIX = "lhs_"  # noqa: S105 - the beginning of every secret, not one
SHORTEST_PASSWORD = 12
# Argon2 takes longer texts as well, at a cost that whoever signs in would choose.
LONGEST_PASSWORD = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SUBJECT = re.compile(r"[A-Za-z0-9|@._:-]{1,128}")
_WRONG = "the name or the password is wrong"


@dataclass(frozen=True)
class Identity:
    """Who a verified token speaks for: the principal, the client that asks, and the scopes that it may use."""

    principal: str
    client: str
    scopes: frozenset[Right]


def checked_name(name: str) -> str:
    """Give the name of a user, client or device group back.

    Raises: UsageError where it could not stand in an audit entry.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"a name is lower-case letters, digits, dots and dashes ({_NAME.pattern})")
    return name


def hash_password(password: str, salt: bytes, costs: Mapping[str, int]) -> str:
    """Stretch a password into a text that tells how it was stretched.

    Raises: UsageError where it is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UsageError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return _stretched(password, salt, costs["memory_kib"], costs["passes"], costs["lanes"])


def verify_password(password: str, stored: str) -> None:
    """Hold a password against its hash.

    Raises: RefusedError where it is another.
    """
    _, memory_kib, passes, lanes, salt, _ = stored.split("$")
    tried = password[:LONGEST_PASSWORD]
    made = _stretched(tried, bytes.fromhex(salt), int(memory_kib), int(passes), int(lanes))
    if not hmac.compare_digest(made, stored) or tried != password:
        raise RefusedError(_WRONG)


def _stretched(password: str, salt: bytes, memory_kib: int, passes: int, lanes: int) -> str:
    key = stretch_passphrase(
        password.encode(errors="surrogatepass"), salt, memory_kib=memory_kib, passes=passes, lanes=lanes
    )
    return f"argon2id${memory_kib}${passes}${lanes}${salt.hex()}${key.hex()}"


def secret_digest(secret: str) -> str:
    """Give what is kept of a random secret: 256 random bits need no slow hash.

    >>> secret_digest("lhs_a") != secret_digest("lhs_b")
    True
    """
    return sha256_hex(secret.encode(errors="surrogatepass"))


def parse_scopes(text: str) -> frozenset[Right]:
    """Read scopes as OAuth writes them.

    Raises: UsageError where one is no right.

    >>> sorted(parse_scopes("tables:read events:write"))
    [<Right.INGEST: 'events:write'>, <Right.READ_TABLES: 'tables:read'>]
    """
    try:
        return frozenset(Right(one) for one in text.split())
    except ValueError:
        raise UsageError(f"an unknown scope; there are: {', '.join(sorted(Right))}") from None


def write_scopes(scopes: Iterable[Right]) -> str:
    """Write scopes as OAuth does, in one order."""
    return " ".join(sorted(scopes))


def narrow_scopes(asked: str, held: frozenset[Right]) -> frozenset[Right]:
    """Give the scopes of a token: those asked for, all held where none is; never more than held.

    Raises: RefusedError where more is asked for than is held.
    """
    if not asked.split():
        return held
    wanted = parse_scopes(asked)
    if wanted - held:
        raise RefusedError("a scope was asked for that the client does not hold")
    return wanted


def map_claims(issuer: str, shape: str, claims: Mapping[str, Any], resource: str = "") -> Identity:
    """Read a verified token of another issuer: each provider says it in claims of its own.

    Scopes that are none of ours are left out; a name in front (`lockhouse/tables:read`) is taken off where
    it is the resource server's. Raises: RefusedError where the token names nobody.

    Source: the access tokens of Auth0, Keycloak and Amazon Cognito, as their manuals show them.
    """
    found = _CLAIMED[shape](claims, resource)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise RefusedError("the token names no subject that we can write down")
    client = next((claims[name] for name in ("client_id", "azp") if isinstance(claims.get(name), str)), subject)
    known = {str(right): right for right in Right}
    bare = (one.removeprefix(f"{resource}/") if resource else one for one in found)
    scopes = frozenset(known[one] for one in bare if one in known)
    return Identity(f"{issuer}:{subject}", client, scopes)


def _plain_scopes(claims: Mapping[str, Any], _resource: str) -> list[str]:
    return _words(claims.get("scope"))


def _auth0_scopes(claims: Mapping[str, Any], _resource: str) -> list[str]:
    """With roles switched on, what is granted stands in `permissions`, and `scope` is only what was asked."""
    return _words(claims["permissions"]) if "permissions" in claims else _words(claims.get("scope"))


def _keycloak_scopes(claims: Mapping[str, Any], resource: str) -> list[str]:
    access = claims.get("resource_access")
    of_resource = access.get(resource) if isinstance(access, Mapping) else None
    roles = of_resource.get("roles") if isinstance(of_resource, Mapping) else None
    return [*_words(claims.get("scope")), *_words(roles)]


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


_CLAIMED = {
    "plain": _plain_scopes,
    "auth0": _auth0_scopes,
    "keycloak": _keycloak_scopes,
    "cognito": _plain_scopes,
}
SHAPES = tuple(_CLAIMED)
