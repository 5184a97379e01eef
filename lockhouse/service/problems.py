"""What an error becomes at the door: problem details (RFC 9457) that never echo what was sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from transforms.errors import (
    BusyError,
    ConflictError,
    ErasedSubjectError,
    GoneError,
    LockhouseError,
    MissingError,
    NotYetError,
    QueryError,
    QuotaError,
    RefusedError,
    TooLargeError,
    UnknownCallerError,
    UnreadableError,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"
# The first class that fits decides.
_STATUS: tuple[tuple[type[LockhouseError], int], ...] = (
    (UnknownCallerError, 401),
    (RefusedError, 403),
    (GoneError, 410),
    (MissingError, 404),
    (ErasedSubjectError, 409),
    (ConflictError, 409),
    (NotYetError, 409),
    (TooLargeError, 413),
    (UsageError, 422),
    (UnreadableError, 422),
    (QuotaError, 429),
    (BusyError, 503),
)
# Marks a parameter as required in the document, though the code takes it as optional.
NEEDED = "x-required"
_log = logging.getLogger("lockhouse.service")


class Problem(BaseModel):
    """Problem details: what went wrong, without anything that was sent."""

    type: str = Field(examples=["urn:lockhouse:problem:403"])
    title: str = Field(examples=["Forbidden"])
    status: int = Field(examples=[403])
    detail: str | None = Field(None, examples=["the token lacks the scope tables:read"])
    instance: str | None = Field(None, examples=["urn:uuid:01a1fec0-df13-775c-9309-0840fda3ec81"])
    errors: list[dict[str, str]] | None = None


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may answer with, for the OpenAPI document."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def add_handlers(application: FastAPI) -> None:
    """Make every error a problem."""
    application.add_exception_handler(LockhouseError, _answer_ours)
    application.add_exception_handler(RequestValidationError, _answer_invalid)
    application.add_exception_handler(HTTPException, _answer_http)


def make_problem(
    request_id: str,
    status: int,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> JSONResponse:
    """Make a problem's response."""
    problem = Problem(
        type=f"urn:lockhouse:problem:{status}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}",
        errors=errors,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True), status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def status_of(error: LockhouseError) -> int:
    """Give the HTTP status of an error of ours."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def detail_of(error: LockhouseError) -> str:
    """Say what went wrong; what a database says of a query is left out, since it quotes the query."""
    if isinstance(error, QueryError) and "stopped after" not in str(error):
        return "the query does not run: it must be one reading statement over the tables of /v1/tables"
    return str(error)


def _answer_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LockhouseError)  # noqa: S101 - it is registered for nothing else
    headers: dict[str, str] = {}
    if isinstance(error, UnknownCallerError):
        headers["WWW-Authenticate"] = 'Bearer realm="lockhouse"'
    if isinstance(error, QuotaError):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, BusyError | NotYetError):
        headers["Retry-After"] = "1"
    status = status_of(error)
    if status == 500:
        report(error)
    return make_problem(request.state.request_id, status, None if status == 500 else detail_of(error), headers)


def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for nothing else
    errors = [{"place": "/".join(_place(one)), "problem": str(one["type"])} for one in error.errors()[:20]]
    return make_problem(request.state.request_id, 422, "the request is not of the described form", None, errors)


def _place(error: Mapping[str, Any]) -> list[str]:
    """Name the field; the name of one that is not ours was sent, and may be a value."""
    parts = [str(one) for one in error["loc"]]
    return parts[:-1] if error["type"] in ("extra_forbidden", "json_invalid") else parts


def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods_of(request)))
    return make_problem(request.state.request_id, error.status_code, None, headers)


def _methods_of(request: Request) -> set[str]:
    """Give every method of the address that was asked: each route tells of its own alone."""
    found: set[str] = set()
    for route in request.app.state.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= set(getattr(route, "methods", None) or ())
    return found


def report(error: BaseException) -> None:
    """Log an unexpected error as its kind and place: its text may quote a value."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    _log.error("unexpected: %s at %s", type(error).__name__, place)
