"""Single sign-on: another house's provider is found, asked, and its ID token verified (OpenID Connect)."""

from __future__ import annotations

import base64
import json
import secrets
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from joserfc import jwt
from joserfc.errors import JoseError

from stores.keyring import read_passphrase
from stores.tokens import ALGORITHMS, Issuer
from transforms.errors import RefusedError, UsageError
from transforms.sign_in import (
    Begun,
    Person,
    Provider,
    ask_address,
    check_answer,
    check_claims,
    checked_provider,
    is_protected,
    map_person,
)

_DISCOVERY = "/.well-known/openid-configuration"
_MOST_BYTES = 1 << 18
_TIMEOUT_S = 5
# What a provider says of itself may change, its keys have their own way to be asked for again.
_DISCOVERED_AGAIN_S = 3600.0
_BASIC = "client_secret_basic"
_LONGEST_TOKEN = 16 << 10


class SignIns:
    """Sign-ins through one provider. Nothing is fetched before somebody signs in."""

    def __init__(self, provider: Provider, clock: Callable[[], datetime]) -> None:
        """Remember the provider."""
        self.provider, self._clock = provider, clock
        self._found: tuple[float, dict[str, Any], Issuer] | None = None

    def begin(self, redirect: str) -> tuple[str, Begun]:
        """Give the address that the browser is sent to, and what it keeps meanwhile.

        Raises: RefusedError where the provider does not answer as one.
        """
        described, _ = self._discovered()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        begun = Begun(state, nonce, verifier, int(self._clock().timestamp()))
        return ask_address(self.provider, described["authorization_endpoint"], redirect, begun), begun

    def end(self, answer: Mapping[str, str], begun: Begun, redirect: str) -> Person:
        """Give who signed in.

        Raises: RefusedError for whatever does not fit; its text is for the log, with nothing of the answer.
        """
        now_s = self._clock().timestamp()
        code = check_answer(answer, self.provider, begun, now_s)
        described, issuer = self._discovered()
        token = self._exchanged(described, code, begun, redirect).get("id_token")
        claims = self._verified(token, issuer)
        check_claims(claims, self.provider, begun.nonce, now_s)
        return map_person(claims, self.provider)

    def _discovered(self) -> tuple[dict[str, Any], Issuer]:
        if self._found is not None and time.monotonic() - self._found[0] < _DISCOVERED_AGAIN_S:
            return self._found[1], self._found[2]
        described = _fetched(urllib.request.Request(self.provider.issuer.rstrip("/") + _DISCOVERY))  # noqa: S310
        if described.get("issuer") != self.provider.issuer:
            raise RefusedError("what is found there is another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not is_protected(str(described.get(name, ""))):
                raise RefusedError(f"the provider's {name} is not reached over https")
        issuer = Issuer(self.provider.name, self.provider.issuer, described["jwks_uri"], "", "plain", "")
        self._found = time.monotonic(), described, issuer
        return described, issuer

    def _exchanged(
        self, described: Mapping[str, Any], code: str, begun: Begun, redirect: str
    ) -> dict[str, Any]:
        """Give the code back for tokens; only who began it knows the verifier."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "client_id": self.provider.client_id,
            "code_verifier": begun.verifier,
        }
        headers = {"Accept": "application/json"}
        if self.provider.client_secret_file is not None:
            secret = read_passphrase(Path(self.provider.client_secret_file)).decode()
            if _BASIC in described.get("token_endpoint_auth_methods_supported", [_BASIC]):
                pair = f"{quote(self.provider.client_id, safe='')}:{quote(secret, safe='')}"
                headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            else:
                form["client_secret"] = secret
        body = urlencode(form).encode()
        return _fetched(urllib.request.Request(described["token_endpoint"], body, headers))  # noqa: S310 - checked

    def _verified(self, token: object, issuer: Issuer) -> dict[str, Any]:
        if not isinstance(token, str) or len(token) > _LONGEST_TOKEN:
            raise RefusedError("the provider gave no ID token")
        try:
            head = token.partition(".")[0]
            header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
            key = issuer.key(str(header.get("kid")))
            return dict(jwt.decode(token, key, algorithms=list(self.provider.algorithms)).claims)
        except (JoseError, ValueError, TypeError, AttributeError):
            raise RefusedError("the ID token is not signed by the provider") from None


def read_provider(path: Path | None) -> Provider | None:
    """Read the file of the provider that signs people in; None where there is none.

    Raises: UsageError where the file describes no provider that can be trusted.
    """
    if path is None:
        return None
    try:
        found = json.loads(path.read_text())
        provider = Provider(**{**found, "algorithms": tuple(found.get("algorithms", ("RS256", "ES256")))})
    except (OSError, ValueError, TypeError, AttributeError):
        raise UsageError(f"{path.name} describes no provider: the how-to guide shows one") from None
    if not provider.algorithms or set(provider.algorithms) - set(ALGORITHMS):
        raise UsageError(f"{path.name}: the algorithms of a provider are among {', '.join(ALGORITHMS)}")
    try:
        return checked_provider(provider)
    except UsageError as error:
        raise UsageError(f"{path.name}: {error}") from None


def _fetched(request: urllib.request.Request) -> dict[str, Any]:
    try:
        with _opener.open(request, timeout=_TIMEOUT_S) as answer:
            found = json.loads(answer.read(_MOST_BYTES))
    except (OSError, ValueError):
        raise RefusedError("the provider does not answer as one") from None
    if not isinstance(found, dict):
        raise RefusedError("the provider does not answer as one")
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A provider answers where it said it would: a code or secret is sent nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - whatever the library gives
        return None


_opener = urllib.request.build_opener(_NoRedirect)
