"""The pages for people: made on the server, working without scripts. They call the same operations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from starlette.concurrency import run_in_threadpool

from lockhouse.access_operations import (
    add_grant,
    change_group,
    list_grants,
    list_roles,
    revoke_grant,
    who_reads,
)
from lockhouse.capture_operations import Window, readable_devices, reads_payload, summarise_capture
from lockhouse.ingest_operations import list_deliveries
from lockhouse.operations import Caller, quarantine_entries, read_audit_page, verify_audit
from lockhouse.service.bodies import read_body
from lockhouse.service.callers import check_csrf, platform_of, session_of
from lockhouse.service.captures import read_time
from lockhouse.service.health import check_readiness
from lockhouse.service.limits import Buckets
from lockhouse.service.problems import detail_of, status_of
from stores.users import Session
from transforms.access import Right, Role
from transforms.charts import plot_bars
from transforms.errors import LockhouseError, RefusedError, UsageError

router = APIRouter(include_in_schema=False)
_templates = Jinja2Templates(Path(__file__).parent / "templates")
_MOST_FORM_BYTES = 1 << 16
_PLOT = (600.0, 120.0)
_HOUR = timedelta(hours=1)
_SHOWN = 50
# Times of the trail are in UTC, all of them, and people need not be told with each.
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.0+)?\+00:00$")


class Person:
    """Who looks at a page: the session, and the caller that operations see."""

    def __init__(self, request: Request, session: Session) -> None:
        """Take the session of the request."""
        marks = {"request": str(request.state.request_id), "client": "browser"}
        self.session = session
        self.caller = Caller(
            platform_of(request), session.principal, session.tenant, marks=marks, step=request.state.step
        )
        request.state.caller = self.caller


def require_person(request: Request) -> Person:
    """Give who is signed in; anybody else is shown the way to sign in."""
    session = session_of(request)
    if session is None:
        raise HTTPException(303, headers={"Location": "/sign-in"})
    person = Person(request, session)
    buckets: Buckets = request.app.state.buckets
    buckets.take(f"{session.tenant}/{session.principal}")
    return person


SignedIn = Annotated[Person, Depends(require_person)]


async def read_form(request: Request) -> dict[str, str]:
    """Read a form as browsers send it."""
    body = await read_body(request, _MOST_FORM_BYTES)
    fields = parse_qs(body.decode("latin-1"), keep_blank_values=True)
    return {name: values[0].strip() for name, values in fields.items()}


Form = Annotated[dict[str, str], Depends(read_form)]


def show_page(request: Request, name: str, status: int = 200, **shown: object) -> HTMLResponse:
    """Show a page; what is shown is escaped."""
    session = session_of(request)
    every = {"session": session, "here": name.removesuffix(".html"), **shown}
    return _templates.TemplateResponse(request, name, every, status_code=status)


def try_operation(act: Callable[[], Any], problems: list[LockhouseError]) -> Any:  # noqa: ANN401 - whatever it gives
    """Do something for a page; what goes wrong is said on the page."""
    try:
        return act()
    except LockhouseError as error:
        problems.append(error)
        return None


def tell_problems(problems: list[LockhouseError]) -> tuple[int, list[str]]:
    """Give the status of a page, and what it says of what went wrong."""
    return (status_of(problems[0]) if problems else 200), [detail_of(one) for one in problems]


@router.get("/")
def show_start(_person: SignedIn) -> RedirectResponse:
    """Lead to the first page."""
    return RedirectResponse("/captures", 303)


@router.get("/captures")
def show_captures(request: Request, person: SignedIn, device: str = "", hour: str = "") -> HTMLResponse:
    """Choose a device and an hour; see what there is before anything is downloaded."""
    problems: list[LockhouseError] = []
    devices = try_operation(lambda: readable_devices(person.caller), problems) or []
    found = try_operation(lambda: _preview(person.caller, device, hour), problems) if device and hour else None
    status, said = tell_problems(problems)
    shown = {"devices": devices, "device": device, "hour": hour, "found": found}
    return show_page(request, "captures.html", status, problems=said, **shown)


def _preview(caller: Caller, device: str, hour: str) -> dict[str, Any]:
    begins = read_time(f"{hour[:16]}Z" if len(hour) <= 16 else hour, "hour")
    window = Window(device, begins, begins + _HOUR, "pcapng")
    summary = summarise_capture(caller, window, with_bytes=True)
    return {
        **summary,
        "since": f"{begins:%Y-%m-%dT%H:%M:%SZ}",
        "until": f"{begins + _HOUR:%Y-%m-%dT%H:%M:%SZ}",
        "plots": [
            _plot("Packets per minute", summary["packets_per_minute"], begins),
            _plot("Bytes per minute", summary["bytes_per_minute"], begins),
        ],
        "payload": reads_payload(caller, device),
    }


def _plot(title: str, counts: Mapping[str, int], begins: datetime) -> dict[str, Any]:
    """Lay out sixty minutes; those without packets are there, and empty."""
    minutes = [begins + timedelta(minutes=at) for at in range(60)]
    every = {f"{one:%H:%M}": counts.get(f"{one:%Y-%m-%dT%H:%MZ}", 0) for one in minutes}
    return {
        "title": title,
        "bars": plot_bars(every, *_PLOT),
        "most": max(every.values()),
        "total": sum(every.values()),
        "first": next(iter(every)),
        "last": list(every)[-1],
    }


@router.get("/audit")
def show_audit(
    request: Request, person: SignedIn, before: int | None = None, every: bool = False
) -> HTMLResponse:
    """Show one's own requests; to auditors all of them, and whether the trail is whole."""
    problems: list[LockhouseError] = []
    audits = has_right(person.caller, Right.READ_AUDIT)
    entries = try_operation(lambda: read_audit_page(person.caller, before, _SHOWN, not every), problems) or []
    verdict = try_operation(lambda: verify_audit(person.caller), problems) if every and audits else None
    status, said = tell_problems(problems)
    following = entries[-1].seq if len(entries) == _SHOWN else None
    marks = {one.seq: _marks_of(one.parameters) for one in entries}
    shown = {
        "entries": entries,
        "marks": marks,
        "next": following,
        "every": every,
        "audits": audits,
        "verdict": verdict,
    }
    return show_page(request, "audit.html", status, problems=said, **shown)


def has_right(caller: Caller, right: Right) -> bool:
    """Whether a page may offer something; what is asked for then is authorised once more."""
    try:
        caller.authorise(right)
    except RefusedError:
        return False
    return True


def _marks_of(parameters: str) -> list[tuple[str, str]]:
    """Give what an entry says beside who, what and when; the request's own id tells people nothing."""
    found = json.loads(parameters).items()
    told = [(name.replace("_", " "), str(value)) for name, value in found if name != "request" and value]
    return [(name, _TIME.sub(r"\1 \2", value)) for name, value in told]


@router.get("/access")
def show_access(request: Request, person: SignedIn, device: str = "") -> HTMLResponse:
    """Show roles and grants, and who can read a device."""
    return _shown_access(request, person, device, [])


@router.post("/access")
def change_access(request: Request, person: SignedIn, form: Form) -> Response:
    """Grant something, or end a grant."""
    check_csrf(form.get("csrf", ""), person.session)
    problems: list[LockhouseError] = []
    try_operation(lambda: _change_access(person.caller, form), problems)
    if problems:
        return _shown_access(request, person, "", problems)
    return RedirectResponse("/access", 303)


def _change_access(caller: Caller, form: Mapping[str, str]) -> None:
    if form.get("revoke"):
        revoke_grant(caller, form["revoke"])
        return
    if form.get("role") not in set(Role):
        raise UsageError("choose a role")
    until = read_time(f"{form.get('until', '')}Z", "until").astimezone(UTC)
    if form.get("device"):
        change_group(caller, form.get("group", ""), [form["device"]], [])
    add_grant(caller, form.get("principal", ""), Role(form["role"]), form.get("group", ""), None, until)


def _shown_access(
    request: Request, person: Person, device: str, problems: list[LockhouseError]
) -> HTMLResponse:
    caller = person.caller
    roles = try_operation(lambda: list_roles(caller), problems)
    operates = roles is not None
    grants = (try_operation(lambda: list_grants(caller), problems) or []) if operates else []
    readers = try_operation(lambda: who_reads(caller, device), problems) if device and operates else None
    status, said = tell_problems(problems)
    shown = {"roles": roles or [], "grants": grants, "readers": readers, "device": device, "operates": operates}
    choices = [str(role) for role in (Role.INVESTIGATOR, Role.ANALYST)]
    return show_page(request, "access.html", status, problems=said, choices=choices, **shown)


@router.get("/ingest")
def show_ingest(request: Request, person: SignedIn) -> HTMLResponse:
    """Show what came in lately, and what was not accepted and why."""
    problems: list[LockhouseError] = []
    deliveries = try_operation(lambda: list_deliveries(person.caller), problems)
    entries = (
        try_operation(lambda: quarantine_entries(person.caller), problems) if deliveries is not None else None
    )
    status, said = tell_problems(problems)
    shown = {"deliveries": deliveries, "entries": (entries or [])[-_SHOWN:][::-1], "count": len(entries or [])}
    return show_page(request, "ingest.html", status, problems=said, **shown)


@router.get("/health")
async def show_health(request: Request, person: SignedIn) -> HTMLResponse:
    """Show whether everything that requests need is there."""
    checks = await run_in_threadpool(check_readiness, person.caller.platform)
    return await run_in_threadpool(show_page, request, "health.html", checks=checks, problems=[])
