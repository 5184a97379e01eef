"""Who is asking: a program with a token, or a person with a session."""

from __future__ import annotations

import hmac
import re
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import OAuthFlowClientCredentials, OAuthFlows
from fastapi.security import OAuth2

from lockhouse.operations import Caller
from lockhouse.service.limits import Buckets
from orchestration.resources import Platform
from stores.users import Session
from transforms.access import Right
from transforms.errors import RefusedError, UnknownCallerError, UsageError

COOKIE = "lockhouse_session"
# Behind TLS a browser takes the cookie from this very host and over TLS alone.
SECURE_COOKIE = f"__Host-{COOKIE}"
_PURPOSE = re.compile(r"[A-Za-z0-9 #._/-]{1,64}")
_SAFE_METHODS = ("GET", "HEAD")

_flow = OAuthFlowClientCredentials(tokenUrl="/oauth/token", scopes={str(right): "" for right in Right})
_scheme = OAuth2(
    flows=OAuthFlows(clientCredentials=_flow), auto_error=False, description="Client credentials (RFC 6749)."
)


def platform_of(request: Request) -> Platform:
    """Give the platform that the service works on."""
    platform: Platform = request.app.state.platform
    return platform


def session_of(request: Request) -> Session | None:
    """Give the session of the browser that asks, None where there is none."""
    kept = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
    return platform_of(request).users.session(kept) if kept else None


def identify(request: Request, _bearer: Annotated[str | None, Depends(_scheme)]) -> Caller:
    """Give the caller.

    Raises: UnknownCallerError where no proof counts; RefusedError where a browser's request was not begun
    at our own page; QuotaError where the caller asks too much.
    """
    caller = _named(request)
    request.state.caller = caller
    buckets: Buckets = request.app.state.buckets
    buckets.take(f"{caller.tenant}/{caller.principal}")
    return caller


def _named(request: Request) -> Caller:
    platform, marks = platform_of(request), _marks(request)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        try:
            bearer = platform.tokens.verify(token)
        except RefusedError as error:
            raise UnknownCallerError(str(error)) from None
        who = bearer.identity
        return Caller(
            platform,
            who.principal,
            bearer.tenant,
            scopes=who.scopes,
            marks={**marks, "client": who.client[:64]},
            step=request.state.step,
        )
    session = session_of(request)
    if session is None:
        raise UnknownCallerError("a token or a session is needed")
    if request.method not in _SAFE_METHODS:
        check_csrf(request.headers.get("x-csrf-token", ""), session)
    marks["client"] = "browser"
    return Caller(platform, session.principal, session.tenant, marks=marks, step=request.state.step)


def check_csrf(given: str, session: Session) -> None:
    """Refuse what was sent from another site in the name of who is signed in here.

    Raises: RefusedError.
    """
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise RefusedError("the form does not come from this session: reload the page")


def _marks(request: Request) -> dict[str, str]:
    """Give what goes into every entry of the trail: the request's id, and the purpose where one is named."""
    marks = {"request": str(request.state.request_id)}
    purpose = request.headers.get("x-purpose")
    if purpose is not None:
        if not _PURPOSE.fullmatch(purpose):
            raise UsageError("X-Purpose has up to 64 letters, digits, spaces and #._/-")
        marks["purpose"] = purpose
    return marks


Identified = Annotated[Caller, Depends(identify)]
