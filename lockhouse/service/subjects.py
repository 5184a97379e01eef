"""Requests of data subjects: what is held of them, everything as a package, and that it is gone for good.

Identifiers travel in bodies, never in addresses: those end up in the logs of whatever stands in front.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from lockhouse.privacy_operations import (
    ask_access,
    ask_erasure,
    find_subject,
    list_access,
    list_erasures,
    list_subject_domains,
    opened_package,
    preview_erasure,
    read_access,
    read_certificate,
    read_erasure,
)
from lockhouse.service.bodies import NOT_BLANK
from lockhouse.service.callers import Identified
from lockhouse.service.problems import describe_problems
from lockhouse.service.repeats import Key, ask_once, located
from lockhouse.service.streaming import AuditedStream
from stores.access_packages import AccessRequest, PackageState
from transforms.ranges import attachment

router = APIRouter(
    prefix="/v1/subjects",
    tags=["subjects"],
    responses=describe_problems(400, 401, 403, 404, 409, 422, 429, 503),
)
ZIP = "application/zip"
_EXAMPLE = "5082b1ae-6523-4e3b-a1d8-9750b4407ee8"

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NOT_BLANK)]
Domain = Annotated[
    str | None,
    Field(
        description="What it is of, where it could be several: that of a person who is known, or a UUID, "
        "needs none.",
        json_schema_extra={"anyOf": [{"enum": list_subject_domains()}, {"type": "null"}]},
    ),
]
Reason = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=NOT_BLANK, description="Kept in the audit trail, readable."),
]
RequestId = Annotated[str, Path(max_length=64, description="The request's id.")]


class Named(BaseModel):
    """A data subject: a person's id, or that of a device of nobody."""

    model_config = ConfigDict(extra="forbid")
    id: Identifier = Field(examples=[_EXAMPLE])
    domain: Domain = None


class Holding(BaseModel):
    """What a table or copy holds of somebody."""

    table: str = Field(examples=["masked.logins"])
    rows: int
    files: int
    bytes: int
    way: str = Field(description="How it is found.")


class Found(BaseModel):
    """What is held of a data subject, and where; nothing of its content."""

    domain: str
    known: bool
    erased: bool = Field(description="Whether all of their keys are destroyed.")
    devices: int
    tables: list[Holding]


class AccessAsked(Named):
    """Whose data are wanted, and why."""

    reason: Reason = "access request"


class AccessState(BaseModel):
    """How far an access request is."""

    request: str
    self: str = Field(description="Where to ask again.")
    state: PackageState
    requested_at: str
    deadline: str
    package: str | None = Field(description="Where the package is, once it is ready.")
    bytes: int
    files: int
    expires_at: str | None
    problem: str | None


class AccessStates(BaseModel):
    """Access requests, the latest first."""

    requests: list[AccessState]


class ErasureAsked(BaseModel):
    """Who is to be erased, and why. There is no way back."""

    model_config = ConfigDict(extra="forbid")
    ids: list[Identifier] = Field(min_length=1, max_length=1000, examples=[[_EXAMPLE]])
    domain: Domain = None
    reason: Reason = "erasure request"
    dry_run: bool = Field(False, description="Only tell what would go.")


class ErasureState(BaseModel):
    """How far an erasure is."""

    request: str | None
    self: str | None = Field(None, description="Where to ask again.")
    state: str = Field(
        description="dry_run, requested, key_destroyed, located, rows_deleted, scanned or certified",
        examples=["certified"],
    )
    requested_at: str | None = None
    deadline: str | None = None
    steps: dict[str, str] = Field({}, description="When each state was reached.")
    tables: list[Holding] | dict[str, int] = Field(description="What would go; or what went, by table.")
    copies: dict[str, int] = {}
    certificate: str | None = Field(None, description="Where the certificate is, once it is issued.")
    problem: str | None = None


class ErasureStates(BaseModel):
    """Erasure requests, the latest first."""

    requests: list[ErasureState]


@router.post("/find", summary="What is held of somebody, and where", response_model=Found)
def post_find(caller: Identified, named: Named) -> dict[str, Any]:
    """Count the rows of each table and copy that are about a data subject."""
    return find_subject(caller, named.id, named.domain)


@router.post(
    "/access",
    summary="Ask for everything about somebody",
    status_code=202,
    response_model=AccessState,
)
def post_access(request: Request, caller: Identified, asked: AccessAsked, key: Key = None) -> JSONResponse:
    """Ask for the package (GDPR, article 15): it is made, sealed, and can be fetched for seven days."""

    def ask() -> dict[str, Any]:
        return describe_access(ask_access(caller, asked.id, asked.domain, asked.reason))

    return ask_once(request, caller, key, b"access/" + asked.model_dump_json().encode(), ask)


@router.get("/access", summary="Access requests", response_model=AccessStates)
def get_accesses(caller: Identified) -> dict[str, Any]:
    """Give the access requests of the tenant, without whom they are about."""
    return {"requests": [describe_access(one) for one in reversed(list_access(caller))]}


@router.get("/access/{request_id}", summary="How far an access request is", response_model=AccessState)
def get_access(caller: Identified, request_id: RequestId) -> dict[str, Any]:
    """Say whether the package is ready, and until when."""
    return describe_access(read_access(caller, request_id))


@router.get(
    "/access/{request_id}/package",
    summary="Download a package",
    response_class=Response,
    responses={
        200: {"description": "A ZIP file", "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}}
    },
)
def get_package(caller: Identified, request_id: RequestId) -> Response:
    """Stream the package, opened as it leaves. That it was disclosed is in the trail before its first byte."""
    with ExitStack() as stack:
        found, parts = stack.enter_context(opened_package(caller, request_id))
        headers = {
            "Content-Length": str(found.size_bytes),
            "Content-Disposition": attachment(f"access-{found.id}.zip"),
        }
        return AuditedStream(parts, 200, headers, ZIP, caller, stack.pop_all())


@router.post(
    "/erasures",
    summary="Erase somebody for good",
    status_code=202,
    response_model=ErasureState,
    responses={200: {"description": "What would go (dry run)", "model": ErasureState}},
)
def post_erasure(request: Request, caller: Identified, asked: ErasureAsked, key: Key = None) -> JSONResponse:
    """Ask for an erasure (GDPR, article 17): keys, rows, copies and old versions go; a certificate proves it.

    The same people again, while a request about them is open, give that one.
    """
    if asked.dry_run:
        preview = preview_erasure(caller, asked.ids, asked.domain)
        return located(200, {**preview, "self": None})

    def ask() -> dict[str, Any]:
        return describe_erasure(ask_erasure(caller, asked.ids, asked.domain, asked.reason))

    return ask_once(request, caller, key, b"erasures/" + asked.model_dump_json().encode(), ask)


@router.get("/erasures", summary="Erasure requests", response_model=ErasureStates)
def get_erasures(caller: Identified) -> dict[str, Any]:
    """Give the erasure requests of the tenant, without whom they are about."""
    found = list_erasures(caller, [], None, resume=False)
    return {"requests": [describe_erasure(one) for one in reversed(found)]}


@router.get("/erasures/{request_id}", summary="How far an erasure is", response_model=ErasureState)
def get_erasure(caller: Identified, request_id: RequestId) -> dict[str, Any]:
    """Give its state, when each state was reached, and its deadline."""
    return describe_erasure(read_erasure(caller, request_id))


@router.get(
    "/erasures/{request_id}/certificate",
    summary="Download the certificate of an erasure",
    response_class=Response,
    responses={200: {"description": "The signed certificate", "content": {"application/json": {}}}},
)
def get_certificate(caller: Identified, request_id: RequestId) -> Response:
    """Give the certificate, byte for byte as it was signed, for `lockhouse subject verify`."""
    content = read_certificate(caller, request_id)
    headers = {"Content-Disposition": attachment(f"erasure-{request_id}.json")}
    return Response(content, media_type="application/json", headers=headers)


def describe_access(one: AccessRequest) -> dict[str, Any]:
    """Give an access request as programs see it."""
    place = f"/v1/subjects/access/{one.id}"
    return {
        "request": one.id,
        "self": place,
        "state": str(one.state),
        "requested_at": one.requested_at,
        "deadline": one.deadline,
        "package": f"{place}/package" if one.state is PackageState.READY else None,
        "bytes": one.size_bytes,
        "files": one.files,
        "expires_at": one.expires_at,
        "problem": one.problem,
    }


def describe_erasure(shown: dict[str, Any]) -> dict[str, Any]:
    """Give an erasure as programs see it: addresses in place of paths."""
    place = f"/v1/subjects/erasures/{shown['request']}"
    named = ("request", "state", "requested_at", "deadline", "steps", "tables", "copies", "problem")
    return {
        **{name: shown[name] for name in named},
        "self": place,
        "certificate": f"{place}/certificate" if shown["certificate"] else None,
    }
