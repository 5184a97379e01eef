"""Data in: events, small files, and large ones by parts that can be resumed."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.concurrency import run_in_threadpool

from lockhouse.ingest_operations import (
    begin_upload,
    complete_upload,
    describe_upload,
    find_upload,
    land_events,
    landed_file,
    read_job,
)
from lockhouse.operations import Caller
from lockhouse.service.bodies import check_expansion, read_body, write_body
from lockhouse.service.callers import Identified
from lockhouse.service.problems import describe_problems
from lockhouse.service.repeats import Key, answer_once, located
from stores.contracts import produced
from stores.home import sync
from stores.landing import OF_DEVICES
from stores.uploads import LARGEST_PART, MOST_PARTS, Part
from transforms.errors import UsageError
from transforms.verdicts import QUARANTINED

router = APIRouter(
    prefix="/v1", tags=["ingest"], responses=describe_problems(400, 401, 403, 404, 409, 413, 422, 429, 503)
)
MOST_EVENT_BYTES = 8 << 20
MOST_PLAIN_BYTES = 64 << 20
# Held against their contract while the sender waits: some milliseconds.
MOST_JUDGED, MOST_JUDGED_BYTES = 1000, 256 << 10
MOST_FILE_BYTES = 64 << 20
MOST_FILE_PLAIN_BYTES = 1 << 30

# For the document: what is none of them is refused with all their names.
_EVENT_SOURCES: dict[str, JsonValue] = {"enum": [*sorted(produced())]}
_FILE_SOURCES: dict[str, JsonValue] = {"enum": [*sorted({*produced(), *OF_DEVICES})]}
Source = Annotated[
    str,
    Path(description="What the events are.", examples=["logins"], json_schema_extra=_EVENT_SOURCES),
]
FileSource = Annotated[
    str,
    Path(description="What is in the file.", examples=["captures"], json_schema_extra=_FILE_SOURCES),
]
# A device's id names its folder in landing; the operation says so, in words of its own.
_DEVICE: dict[str, JsonValue] = {"pattern": "^([^._/][^/]*)?$"}
DeviceName = Annotated[
    str | None,
    Query(
        max_length=128,
        description="Whose captures they are, without it by address; of captures alone.",
        json_schema_extra=_DEVICE,
    ),
]
Number = Annotated[int, Path(ge=0, lt=MOST_PARTS, description="The part's number, from 0.")]


class Job(BaseModel):
    """What became of what was sent."""

    job: str = Field(examples=["01a1fec0-df13-775c-9309-0840fda3ec81"])
    source: str
    state: str = Field(description="landed, sealed, masked or done")
    done: bool
    rows: int
    accepted: int
    quarantined: int
    duplicates: int
    refused: int


class Accepted(BaseModel):
    """It has landed; the job says what becomes of it."""

    job: str


class JudgedRecord(BaseModel):
    """What becomes of one record."""

    index: int = Field(description="Its place in the body, from 0.")
    result: Literal["accepted", "quarantined"]
    reason: str | None = Field(examples=["column ip: required, but absent"])


class Judged(Accepted):
    """It has landed, and this becomes of each record."""

    accepted: int
    quarantined: int
    records: list[JudgedRecord]


class PromisedPart(BaseModel):
    """A part of a file, as it is when plain."""

    model_config = ConfigDict(extra="forbid")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", examples=["0" * 64])
    bytes: int = Field(ge=1, le=LARGEST_PART)


class PromisedFile(BaseModel):
    """A file that will be sent by parts."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(max_length=64, examples=["captures"], json_schema_extra=_FILE_SOURCES)
    device: str | None = Field(None, max_length=128, examples=["router-7"], json_schema_extra=_DEVICE)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", examples=["0" * 64], description="Of the whole file.")
    parts: list[PromisedPart] = Field(min_length=1, max_length=MOST_PARTS)


class Policy(BaseModel):
    """When devices of the tenant should send."""

    interval_seconds: int
    wifi_only: bool
    charging_only: bool


class UploadState(BaseModel):
    """How far an upload is."""

    upload: str
    missing: list[int] = Field(description="Numbers of the parts that have to be sent.")
    job: str | None
    policy: Policy


_EVENTS = {
    "requestBody": {
        "required": True,
        "description": "A JSON array, or one JSON object a line; plain, gzip or zstd.",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "minLength": 1, "pattern": "[^ \\t\\n\\r\\v\\f]"},
                "example": '{"user_id": "u-1", "ip": "192.0.2.7", "device_type": "ios"}\n',
            },
            # Anything is taken: what is no event is told of each record, and kept in quarantine.
            "application/json": {
                "schema": {"description": "An array of events; an event alone is one, too."},
                "example": [{"user_id": "u-1", "ip": "192.0.2.7", "device_type": "ios"}],
            },
        },
    }
}
_BYTES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}}
        },
    }
}
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"description": "It has landed", "model": Accepted}}


@router.post(
    "/events/{source}",
    summary="Send events",
    status_code=202,
    openapi_extra=_EVENTS,
    responses={
        **_ACCEPTED,
        200: {"description": "It has landed; each was checked", "model": Judged},
    },
    response_model=Accepted,
)
async def post_events(request: Request, caller: Identified, source: Source, key: Key = None) -> JSONResponse:
    """Land records of a source, all of them or none; what fits no contract goes to quarantine.

    Up to 1,000 records in 256 KiB, the answer says what becomes of each (200); for more, only the job does
    (202). Whether a record came before, or is of somebody who was erased, only the job says.
    """
    content = await read_body(request, MOST_EVENT_BYTES)
    return await run_in_threadpool(_landed_once, caller, source, content, key)


def _landed_once(caller: Caller, source: str, content: bytes, key: str | None) -> JSONResponse:
    if not content.strip():
        raise UsageError("the body is empty: send a JSON array, or one JSON object a line")
    size = check_expansion(content, MOST_PLAIN_BYTES)
    most = MOST_JUDGED if size <= MOST_JUDGED_BYTES else 0

    def land() -> tuple[int, dict[str, Any]]:
        job, verdicts = land_events(caller, source, content, most)
        if verdicts is None:
            return 202, {"job": job}
        quarantined = sum(one.result == QUARANTINED for one in verdicts)
        counted = {"accepted": len(verdicts) - quarantined, "quarantined": quarantined}
        return 200, {"job": job, **counted, "records": [asdict(one) for one in verdicts]}

    return answer_once(caller, key, b"events/" + source.encode() + b"/" + content, land)


@router.put(
    "/files/{source}/{name}",
    summary="Send a small file",
    status_code=202,
    openapi_extra=_BYTES,
    responses=_ACCEPTED,
    response_model=Accepted,
)
async def put_file(
    request: Request,
    caller: Identified,
    source: FileSource,
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._ -]{0,127}$", examples=["router.pcap"])],
    device: DeviceName = None,
) -> JSONResponse:
    """Land a file of at most 64 MiB as it stands. The same bytes once more change nothing."""
    folder = caller.platform.home.landing / ".uploads"
    draft = folder / f".{secrets.token_hex(8)}"
    with ExitStack() as stack:
        stack.callback(draft.unlink, missing_ok=True)
        delivery = await run_in_threadpool(stack.enter_context, landed_file(caller, source, name, device))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        delivery["path"] = draft
        with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:  # noqa: PTH123 - a mode
            if not await write_body(request, file, MOST_FILE_BYTES):
                raise UsageError("the body is empty: send the file's bytes")
        await run_in_threadpool(check_expansion, draft, MOST_FILE_PLAIN_BYTES)
        await run_in_threadpool(sync, draft)
        await run_in_threadpool(stack.close)
    return located(202, {"job": delivery["job"]})


@router.post(
    "/uploads",
    summary="Promise a large file by its parts",
    status_code=201,
    response_model=UploadState,
)
def post_upload(caller: Identified, promised: PromisedFile, key: Key = None) -> JSONResponse:
    """Begin an upload of up to 500 MB. Parts that the tenant holds already need not be sent again."""
    parts = [Part(one.sha256, one.bytes) for one in promised.parts]

    def begin() -> tuple[int, dict[str, Any]]:
        return 201, begin_upload(caller, promised.source, promised.device, promised.sha256, parts)

    return answer_once(caller, key, b"uploads/" + promised.model_dump_json().encode(), begin)


@router.get("/uploads/{upload}", summary="How far an upload is", response_model=UploadState)
def get_upload(caller: Identified, upload: str) -> dict[str, Any]:
    """Say which parts are missing: what was broken off goes on there."""
    uploads, found = find_upload(caller, upload)
    return describe_upload(caller, uploads, found)


@router.put(
    "/uploads/{upload}/parts/{number}",
    summary="Send a part",
    openapi_extra=_BYTES,
    response_model=UploadState,
)
async def put_part(request: Request, caller: Identified, upload: str, number: Number) -> dict[str, Any]:
    """Take a part, plain, gzip or zstd; it counts once its bytes are those that were promised."""
    uploads, found = await run_in_threadpool(find_upload, caller, upload)
    with ExitStack() as stack:
        file = await run_in_threadpool(stack.enter_context, uploads.receiving(found, number))
        # Compression may add a little to what does not compress.
        await write_body(request, file, found.parts[number].size_bytes + (1 << 16))
        await run_in_threadpool(stack.close)
    return await run_in_threadpool(describe_upload, caller, uploads, found)


@router.post(
    "/uploads/{upload}/complete",
    summary="Land an upload",
    status_code=202,
    responses=_ACCEPTED,
    response_model=Accepted,
)
def post_complete(caller: Identified, upload: str) -> JSONResponse:
    """Join the parts and land the file with one rename; asked again, the answer is the same."""
    return located(202, {"job": complete_upload(caller, upload)})


@router.get("/jobs/{job}", summary="What became of what was sent", response_model=Job)
def get_job(caller: Identified, job: str) -> dict[str, Any]:
    """Give a job's state and counts."""
    return read_job(caller, job)
