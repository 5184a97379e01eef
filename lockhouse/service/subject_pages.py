"""The page Subjects: who is known, what is held of them, everything as a package, and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lockhouse.operations import Caller
from lockhouse.privacy_operations import (
    ask_access,
    ask_erasure,
    find_subject,
    list_access,
    list_erasures,
    list_subject_domains,
)
from lockhouse.service.callers import check_csrf
from lockhouse.service.pages import Form, Person, SignedIn, has_right, show_page, tell_problems, try_operation
from lockhouse.service.subjects import describe_access, describe_erasure
from transforms.access import Right
from transforms.errors import LockhouseError, UsageError

router = APIRouter(include_in_schema=False)
_SHOWN = 20


@router.get("/subjects")
def show_subjects(request: Request, person: SignedIn) -> HTMLResponse:
    """Show the form, and the requests that were made."""
    return _shown(request, person, {}, None, [])


@router.post("/subjects")
def answer_subjects(request: Request, person: SignedIn, form: Form) -> Response:
    """Find somebody, ask for their package, or erase them; the identifier stands in the form alone."""
    check_csrf(form.get("csrf", ""), person.session)
    problems: list[LockhouseError] = []
    wanted = form.get("act", "find")
    if wanted == "find":
        found = try_operation(lambda: find_subject(person.caller, *_named(form)), problems)
        return _shown(request, person, form, found, problems)
    try_operation(lambda: _act(person.caller, wanted, form), problems)
    if problems:
        found = try_operation(lambda: find_subject(person.caller, *_named(form)), [])
        return _shown(request, person, form, found, problems)
    request.app.state.errands.wake()
    return RedirectResponse("/subjects#requests", 303)


def _act(caller: Caller, wanted: str, form: Mapping[str, str]) -> None:
    (value, domain), reason = _named(form), form.get("reason", "")
    if wanted == "access":
        ask_access(caller, value, domain, reason)
    elif wanted == "erase" and form.get("sure") == "yes":
        ask_erasure(caller, [value], domain, reason)
    elif wanted == "erase":
        raise UsageError("say that you are sure: an erasure cannot be undone")
    else:
        raise UsageError("find somebody first, then choose what to do")


def _named(form: Mapping[str, str]) -> tuple[str, str | None]:
    value = form.get("id", "")
    if not 0 < len(value) <= 256:
        raise UsageError("give an identifier of up to 256 characters")
    return value, form.get("domain") or None


def _shown(
    request: Request,
    person: Person,
    form: Mapping[str, str],
    found: dict[str, Any] | None,
    problems: list[LockhouseError],
) -> HTMLResponse:
    caller = person.caller
    accesses, erases = has_right(caller, Right.ACCESS_SUBJECTS), has_right(caller, Right.ERASE_SUBJECTS)
    packages = try_operation(lambda: list_access(caller), problems) if accesses else None
    erasures = (
        try_operation(lambda: list_erasures(caller, [], None, resume=False), problems) if erases else None
    )
    status, problem_texts = tell_problems(problems)
    return show_page(
        request,
        "subjects.html",
        status,
        problems=problem_texts,
        accesses=accesses,
        erases=erases,
        domains=list_subject_domains(),
        asked={name: form.get(name, "") for name in ("id", "domain", "reason")},
        found=found,
        packages=[describe_access(one) for one in (packages or [])[::-1][:_SHOWN]],
        erasures=[describe_erasure(one) for one in (erasures or [])[::-1][:_SHOWN]],
    )
