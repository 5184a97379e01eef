"""The audit trail, and who can read a device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from lockhouse.access_operations import who_reads
from lockhouse.operations import read_audit_page, verify_audit
from lockhouse.service.callers import Identified
from lockhouse.service.problems import describe_problems

router = APIRouter(prefix="/v1", tags=["audit"], responses=describe_problems(400, 401, 403, 404, 422, 429))


class AuditEntry(BaseModel):
    """An entry of the trail; its hash covers it and the hash before it."""

    tenant: str
    seq: int
    at: str
    principal: str
    action: str = Field(examples=["captures:packets:exported"])
    outcome: str
    parameters: str = Field(description="Names, counts and pseudonyms, as JSON.")
    previous: str
    hash: str


class AuditPage(BaseModel):
    """Entries, the latest first; `next` is the `before` of the next page."""

    entries: list[AuditEntry]
    next: int | None


class Verdict(BaseModel):
    """Whether the trail holds."""

    ok: bool
    rows: int
    checkpoints: int
    first_bad: int | None
    problem: str | None


class Reader(BaseModel):
    """Somebody who can read a device's packets now, and why."""

    principal: str
    role: str
    by: str = Field(examples=["role", "grant:01a1fec0-df13-775c-9309-0840fda3ec81"])
    until: str | None
    payload: bool


class Readers(BaseModel):
    """Everybody who can."""

    readers: list[Reader]


@router.get("/audit", summary="Who did what", response_model=AuditPage)
def get_audit(
    caller: Identified,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="Only older entries.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    own: Annotated[bool, Query(description="Only the caller's own, which need no right.")] = False,
) -> dict[str, Any]:
    """Give a page of the trail. One's own requests are everybody's to see; all of them, an auditor's."""
    entries = read_audit_page(caller, before, limit, own)
    following = entries[-1].seq if len(entries) == limit and entries[-1].seq > 1 else None
    return {"entries": [asdict(one) for one in entries], "next": following}


@router.get("/audit/verification", summary="Whether the trail is whole", response_model=Verdict)
def get_verification(caller: Identified) -> dict[str, Any]:
    """Verify every entry and every signed head."""
    return asdict(verify_audit(caller))


@router.get("/devices/{device}/readers", summary="Who can read a device now", response_model=Readers)
def get_readers(caller: Identified, device: Annotated[str, Path(max_length=128)]) -> dict[str, Any]:
    """Say who can read a device's packets now, by role or by grant."""
    return {"readers": who_reads(caller, device)}
