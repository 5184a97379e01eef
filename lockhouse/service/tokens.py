"""Where programs get their tokens: the embedded issuer (RFC 6749, RFC 8414, RFC 7517)."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from lockhouse.operations import Caller
from lockhouse.service.bodies import read_body
from lockhouse.service.callers import platform_of
from lockhouse.service.limits import Buckets
from lockhouse.service.problems import describe_problems
from stores.tokens import LASTS_S
from transforms.access import Right
from transforms.audit import Action, Outcome
from transforms.credentials import narrow_scopes, write_scopes
from transforms.errors import RefusedError, UsageError

router = APIRouter()
_MOST_BYTES = 8192
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["grant_type"],
                    "properties": {
                        "grant_type": {"type": "string", "enum": ["client_credentials"]},
                        "client_id": {"type": "string"},
                        "client_secret": {"type": "string"},
                        "scope": {"type": "string"},
                    },
                    "example": {"grant_type": "client_credentials", "scope": "events:write"},
                }
            }
        },
    }
}
_ERROR = {"content": {"application/json": {"schema": {"type": "object"}}}}


@router.post(
    "/oauth/token",
    tags=["tokens"],
    summary="Get a token with a client's secret",
    openapi_extra=_FORM,
    responses={
        400: {"description": "The request is no good", **_ERROR},
        401: {"description": "Client or secret is wrong", **_ERROR},
        **describe_problems(413, 429),
    },
)
async def issue_token(request: Request) -> JSONResponse:
    """Give an access token for a quarter of an hour; the secret comes as HTTP Basic or in the form."""
    body = await read_body(request, _MOST_BYTES)
    return await run_in_threadpool(_issued, request, body)


def _issued(request: Request, body: bytes) -> JSONResponse:
    form = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}
    name, secret = _credentials(request, form)
    host = request.client.host if request.client else "?"
    buckets: Buckets = request.app.state.attempts
    buckets.take(f"{host}/{name}")
    if form.get("grant_type") != "client_credentials":
        return _refused(400, "unsupported_grant_type")
    platform = platform_of(request)
    try:
        client = platform.access.clients.authenticate(name, secret)
    except RefusedError:
        return _refused(401, "invalid_client")
    marks = {"request": request.state.request_id}
    caller = Caller(platform, client.principal, client.tenant, marks=marks, step=request.state.step)
    request.state.caller = caller
    try:
        scopes = narrow_scopes(form.get("scope", ""), client.scopes)
    except (RefusedError, UsageError):
        caller.record(Action.TOKEN_ISSUED, Outcome.REFUSED)
        return _refused(400, "invalid_scope")
    caller.record(Action.TOKEN_ISSUED, Outcome.DONE, scopes=write_scopes(scopes))
    token = platform.tokens.issue(client, scopes)
    return JSONResponse(
        {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": LASTS_S,
            "scope": write_scopes(scopes),
        }
    )


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str]:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            return "", ""
        return name, secret
    return form.get("client_id", ""), form.get("client_secret", "")


def _refused(status: int, error: str) -> JSONResponse:
    headers = {"WWW-Authenticate": 'Basic realm="lockhouse"'} if status == 401 else {}
    return JSONResponse({"error": error}, status, headers=headers)


@router.get("/.well-known/jwks.json", tags=["tokens"], summary="The keys that tokens are verified with")
def list_keys(request: Request) -> dict[str, Any]:
    """Give the public keys."""
    return platform_of(request).tokens.jwks()


@router.get("/.well-known/oauth-authorization-server", tags=["tokens"], summary="What the issuer can")
def describe_issuer(request: Request) -> dict[str, Any]:
    """Describe the embedded issuer (RFC 8414)."""
    base = platform_of(request).settings.service_url or str(request.base_url).rstrip("/")
    return {
        "issuer": platform_of(request).tokens.issuer,
        "token_endpoint": f"{base}/oauth/token",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": sorted(Right),
        "response_types_supported": [],
    }
