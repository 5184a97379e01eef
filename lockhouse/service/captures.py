"""Packets of a device: summaries, and downloads that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from lockhouse.capture_operations import Opened, Window, opened_capture, reads_payload, summarise_capture
from lockhouse.service.callers import Identified
from lockhouse.service.problems import NEEDED, describe_problems, make_problem
from lockhouse.service.streaming import AuditedStream
from transforms.capture.exports import MEDIA_TYPES, Format
from transforms.errors import UsageError
from transforms.ranges import UNSATISFIABLE, attachment, matches_tag, parse_range

router = APIRouter(
    prefix="/v1/devices", tags=["captures"], responses=describe_problems(400, 401, 403, 404, 422, 429)
)
_EXAMPLES = {"from": "2026-11-21T07:00:00Z", "to": "2026-11-21T08:00:00Z"}

Device = Annotated[str, Path(max_length=128, description="The device's id.", examples=["router-7"])]
_TIME = {
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "pattern": "^[0-9]{1,10}$"}],
    # One of the names that others call it by may stand in its place, and those are not described.
    NEEDED: True,
}


def _moment(alias: str, description: str) -> Any:  # noqa: ANN401 - FastAPI's parameters have no one type
    return Query(alias=alias, description=description, examples=[_EXAMPLES[alias]], json_schema_extra=_TIME)


From = Annotated[str | None, _moment("from", "RFC 3339 or epoch seconds.")]
To = Annotated[str | None, _moment("to", "Where it ends, itself left out; at most an hour later.")]
# What Arkime and Stenographer call the same.
StartTime = Annotated[str | None, Query(alias="startTime", include_in_schema=False)]
StopTime = Annotated[str | None, Query(alias="stopTime", include_in_schema=False)]
After = Annotated[str | None, Query(include_in_schema=False)]
Before = Annotated[str | None, Query(include_in_schema=False)]
Anonymise = Annotated[
    bool | None,
    Query(description="Addresses encrypted, no payload. Without it: where the caller may not read payload."),
]
FORMAT = Query(description="The file's format.")


def read_time(text: str | None, name: str) -> datetime:
    """Read a time of a query.

    Raises: UsageError, which does not repeat the text.
    """
    try:
        if text and text.replace(".", "", 1).isdigit() and text.isascii():
            return datetime.fromtimestamp(float(text), UTC)
        moment = datetime.fromisoformat(text or "")
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"`{name}` is a time in RFC 3339, such as 2026-11-21T07:00:00Z, or epoch seconds"
        ) from None
    if moment.tzinfo is None:
        raise UsageError(f"`{name}` needs a time zone, such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"`{name}` is out of range") from None


class Summary(BaseModel):
    """What a window holds, by the minute."""

    packets: int
    bytes: int = Field(description="The size of the file that a download in pcapng would be.")
    first: str | None
    last: str | None
    packets_per_minute: dict[str, int] = Field(examples=[{"2026-11-21T07:00Z": 17}])
    bytes_per_minute: dict[str, int] = Field(examples=[{"2026-11-21T07:00Z": 9120}])


@router.get(
    "/{device}/packets-per-minute",
    summary="How many packets and bytes there are, minute by minute",
    response_model=Summary,
)
def summarise(
    caller: Identified,
    device: Device,
    since: From = None,
    until: To = None,
    start_time: StartTime = None,
    stop_time: StopTime = None,
    after: After = None,
    before: Before = None,
) -> dict[str, Any]:
    """Count the packets of a device by the minute, at most an hour; nothing of them leaves."""
    begins, ends = since or start_time or after, until or stop_time or before
    window = Window(device, read_time(begins, "from"), read_time(ends, "to"), "pcapng")
    found = summarise_capture(caller, window, with_bytes=True)
    return {name: found[name] for name in Summary.model_fields}


_FILE = {
    "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()}
}


@router.api_route(
    "/{device}/capture",
    methods=["GET"],
    summary="Download the packets of a device, at most an hour",
    response_class=Response,
    responses={
        200: {"description": "The capture file", **_FILE},
        206: {"description": "A range of it", **_FILE},
        304: {"description": "It has not changed"},
        **describe_problems(416),
    },
)
@router.head(
    "/{device}/capture", summary="What a download would be, without its packets", response_class=Response
)
def download(
    request: Request,
    caller: Identified,
    device: Device,
    since: From = None,
    until: To = None,
    format: Annotated[Format, FORMAT] = "pcap",
    anonymise: Anonymise = None,
    start_time: StartTime = None,
    stop_time: StopTime = None,
    after: After = None,
    before: Before = None,
    asked_range: Annotated[str | None, Header(alias="range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream the packets of a device: exact length, ranges, and an entity tag that changes with them.

    Packets leave as they were captured for whoever may read payload, anonymised for whoever may not.
    """
    begins, ends = (
        read_time(since or start_time or after, "from"),
        read_time(until or stop_time or before, "to"),
    )
    hidden = not reads_payload(caller, device) if anonymise is None else anonymise
    window = Window(device, begins, ends, format, hidden)
    with ExitStack() as stack:
        opened = stack.enter_context(opened_capture(caller, window))
        headers = _headers(opened, window)
        if matches_tag(if_none_match, headers["ETag"]):
            caller.results["bytes"] = 0
            return Response(status_code=304, headers={"ETag": headers["ETag"]})
        span = parse_range(asked_range if if_range in (None, headers["ETag"]) else None, opened.size_bytes)
        if span is UNSATISFIABLE:
            caller.results["bytes"] = 0
            named = {"Content-Range": f"bytes */{opened.size_bytes}"}
            return make_problem(request.state.request_id, 416, f"the file has {opened.size_bytes} bytes", named)
        first, end = span if isinstance(span, tuple) else (0, opened.size_bytes)
        if isinstance(span, tuple):
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{opened.size_bytes}"
        headers["Content-Length"] = str(end - first)
        if request.method == "HEAD":
            caller.results["bytes"] = 0
            return Response(status_code=206 if span else 200, headers=headers, media_type=MEDIA_TYPES[format])
        parts = cut_parts(opened.stream(), first, end)
        return AuditedStream(parts, 206 if span else 200, headers, MEDIA_TYPES[format], caller, stack.pop_all())


def _headers(opened: Opened, window: Window) -> dict[str, str]:
    name = f"{window.device}-{window.since:%Y%m%dT%H%M%SZ}.{window.format}"
    return {
        "ETag": f'"{opened.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment(name),
        "Cache-Control": "private, no-cache",
        "Lockhouse-Packets": str(opened.plan.packets),
        "Lockhouse-Anonymised": str(window.anonymise).lower(),
    }


def cut_parts(parts: Iterator[memoryview], first: int, end: int) -> Iterator[memoryview]:
    """Give bytes [first, end) of a stream of parts."""
    at = 0
    for part in parts:
        size = len(part)
        if at + size > first and at < end:
            yield part[max(0, first - at) : end - at]
        at += size
        if at >= end:
            return
