"""The second person's word on a reveal, where the tenant's policy asks for one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from lockhouse.reveal_operations import decide_approval, list_approvals
from lockhouse.service.callers import Identified
from lockhouse.service.problems import describe_problems
from stores.approvals import GRANTED, REFUSED, Approval

router = APIRouter(
    prefix="/v1/approvals", tags=["approvals"], responses=describe_problems(400, 401, 403, 404, 409, 422, 429)
)
RequestId = Annotated[str, Path(max_length=64, description="The question's id.")]


class Question(BaseModel):
    """A reveal that somebody asked for."""

    request: str
    state: str = Field(description="waiting, granted, refused or used")
    asked_by: str
    asked_at: str
    described: dict[str, Any] = Field(description="What is asked for, and why; values are keyed digests.")
    decided_by: str | None
    decided_at: str | None


class Questions(BaseModel):
    """Questions, the latest first."""

    approvals: list[Question]


@router.get("", summary="Reveals that need a second person", response_model=Questions)
def get_approvals(caller: Identified) -> dict[str, Any]:
    """Give what was asked for, what was decided, and by whom."""
    return {"approvals": [describe_approval(one) for one in reversed(list_approvals(caller))]}


@router.post("/{request_id}/grant", summary="Let a reveal be made", response_model=Question)
def post_grant(caller: Identified, request_id: RequestId) -> dict[str, Any]:
    """Let whoever asked make that very reveal, once and within a day. Nobody grants their own."""
    return describe_approval(decide_approval(caller, request_id, GRANTED))


@router.post("/{request_id}/refuse", summary="Refuse a reveal", response_model=Question)
def post_refuse(caller: Identified, request_id: RequestId) -> dict[str, Any]:
    """Refuse it; whoever asked may ask again."""
    return describe_approval(decide_approval(caller, request_id, REFUSED))


def describe_approval(one: Approval) -> dict[str, Any]:
    """Give a question as programs see it."""
    return {
        "request": one.id,
        "state": "used" if one.used_at else one.decision or "waiting",
        "asked_by": one.asked_by,
        "asked_at": one.asked_at,
        "described": dict(one.described),
        "decided_by": one.decided_by,
        "decided_at": one.decided_at,
    }
