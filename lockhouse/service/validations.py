"""Identity validations over HTTP: in, status, data for whoever may have them, change, deletion."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from lockhouse.service.bodies import NOT_BLANK, read_body
from lockhouse.service.callers import Identified
from lockhouse.service.problems import describe_problems
from lockhouse.service.repeats import Key
from lockhouse.validation_operations import (
    delete_validation,
    disclose_validation,
    read_status,
    submit_validation,
    update_validation,
)
from stores.contracts import load_contract
from stores.validations.analytics import SOURCE
from transforms.pii.contracts import Contract
from transforms.pii.contracts import Field as Declared

router = APIRouter(
    prefix="/v1/validations",
    tags=["validations"],
    responses=describe_problems(400, 401, 403, 404, 409, 410, 413, 422, 429, 503),
)
# Room for every field at its longest, several times over.
MOST_BYTES = 64 << 10
_EXAMPLE = {
    "username": "jo.bloggs",
    "full_name": "Jo Bloggs",
    "date_of_birth": "1980-02-29",
    "address_street": "1 High Street",
    "address_postal_code": "12345",
    "address_city": "Town",
    "address_country": "DE",
    "phone_number": "+12025550123",
    "document_type": "passport",
    "document_number": "L898902C36",
}

Validation = Annotated[
    str,
    Path(
        max_length=64, description="The validation's UUID.", examples=["01a1fec0-df13-775c-9309-0840fda3ec81"]
    ),
]
Reason = Annotated[
    str | None,
    Header(
        alias="X-Reason",
        pattern=r"^[ -~]{1,200}$",
        description="Why; kept in the audit trail, readable.",
        examples=["ticket 17"],
    ),
]


class Submitted(BaseModel):
    """It is accepted, and will be decided."""

    validation: str = Field(examples=["01a1fec0-df13-775c-9309-0840fda3ec81"])
    status: str = Field(examples=["pending"])


class Status(BaseModel):
    """How far a validation is. Reasons are codes: the field, and what is wrong with it."""

    validation: str
    status: str = Field(description="pending or fulfilled", examples=["fulfilled"])
    decision: str | None = Field(description="accepted or rejected; null while it is pending")
    reasons: list[str] = Field(examples=[["phone_number.invalid"]])
    created: str = Field(examples=["2026-11-21T07:00:00.000000+00:00"])
    updated: str


class Disclosed(BaseModel):
    """The personal data of a validation, in clear."""

    validation: str
    record: dict[str, str] = Field(examples=[_EXAMPLE])


class Changed(BaseModel):
    """The change is accepted; the validation is decided again."""

    validation: str
    status: str
    change: str


class Deleted(BaseModel):
    """What remains of a validation: its id, and when it was deleted."""

    validation: str
    status: str = Field(examples=["deleted"])
    deleted: str


# What the forms of the contract take, as JSON Schema says it.
_FORMS = {
    "account": {"pattern": NOT_BLANK},
    "date": {"format": "date"},
    "phone": {"pattern": r"^(\+|00)[1-9]([ ().\/-]*[0-9]){6,14}$"},
}


def _schema_of(declared: Declared, *, is_nullable: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": ["string", "null"] if is_nullable else "string",
        "minLength": 1,
        "maxLength": declared.max_length,
        "description": declared.description,
        **_FORMS.get(declared.format or "", {}),
    }
    return described | ({"pattern": declared.pattern} if declared.pattern else {})


def _describe_body(contract: Contract, example: dict[str, str], *, is_change: bool) -> dict[str, Any]:
    """Describe a body to OpenAPI from the contract; the operation reads it by the contract as well."""
    personal = [one for one in contract.fields if one.is_personal and not (is_change and one.is_subject)]
    schema = {
        "type": "object",
        "properties": {one.name: _schema_of(one, is_nullable=not one.required) for one in personal},
        "required": [] if is_change else [one.name for one in personal if one.required],
        "additionalProperties": False,
    }
    if is_change:
        schema["minProperties"] = 1
        del schema["required"]
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


_CONTRACT = load_contract(SOURCE)


@router.post(
    "",
    summary="Submit a request for validation",
    status_code=202,
    openapi_extra=_describe_body(_CONTRACT, _EXAMPLE, is_change=False),
    response_model=Submitted,
)
async def post_validation(request: Request, caller: Identified, key: Key = None) -> dict[str, Any]:
    """Accept a request: each field is sealed before anything is written. The UUID is how to ask for it."""
    content = await read_body(request, MOST_BYTES)
    return await run_in_threadpool(submit_validation, caller, content, key)


@router.get("/{validation}", summary="What became of a request", response_model=Status)
def get_validation(caller: Identified, validation: Validation) -> dict[str, Any]:
    """Say how far a validation is and what was decided; 410 where it was deleted."""
    return read_status(caller, validation)


@router.get("/{validation}/pii", summary="The personal data of a validation", response_model=Disclosed)
def get_pii(caller: Identified, validation: Validation, reason: Reason = None) -> dict[str, Any]:
    """Open the data. Who, what for (`X-Purpose`) and why are in the audit trail before a field is opened."""
    # A reason in the address would end up in the logs of whatever stands in front.
    return disclose_validation(caller, validation, reason or "", caller.marks.get("purpose"))


@router.patch(
    "/{validation}",
    summary="Change some fields",
    status_code=202,
    openapi_extra=_describe_body(_CONTRACT, {"phone_number": "+12025550123"}, is_change=True),
    response_model=Changed,
)
async def patch_validation(
    request: Request, caller: Identified, validation: Validation, key: Key = None
) -> dict[str, Any]:
    """Accept a change of the fields that the body names, null to take one away; only those are sealed anew."""
    content = await read_body(request, MOST_BYTES)
    return await run_in_threadpool(update_validation, caller, validation, content, key)


@router.delete("/{validation}", summary="Delete a validation", status_code=202, response_model=Deleted)
def remove_validation(caller: Identified, validation: Validation) -> dict[str, Any]:
    """Delete a validation in both stores and in the lake; asked for afterwards, it is gone (410)."""
    return delete_validation(caller, validation)
