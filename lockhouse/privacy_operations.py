"""Operations on data subjects: every one authorises, then audits, then acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lockhouse.operations import Caller
from stores.data_subjects import Subject
from stores.erasure_requests import Erasure
from transforms.access import Right
from transforms.audit import Action
from transforms.errors import UsageError
from transforms.privacy.certificates import sum_up


def preview_erasure(caller: Caller, ids: Sequence[str], domain: str | None) -> dict[str, Any]:
    """Tell what an erasure would take; nothing is changed."""
    subjects, digests = _subjects(caller, ids, domain)
    with caller.permitted(Right.ERASE_SUBJECTS, Action.SUBJECT_PREVIEWED, subjects=",".join(digests)):
        tables = caller.platform.erasing(caller.tenant).preview(subjects)
        caller.results["rows"] = sum(one["rows"] for one in tables)
        return {"request": None, "state": "dry_run", "certificate": None, "tables": tables}


def request_erasure(
    caller: Caller, ids: Sequence[str], domain: str | None, reason: str, *, wait: bool
) -> dict[str, Any]:
    """Destroy the subjects' keys at once, then, where it is waited for, everything else; give the request.

    Requests that were left open are completed first. Raises: ErasureError where something is left.
    """
    subjects, digests = _subjects(caller, ids, domain)
    platform, tenant = caller.platform, caller.known_tenant()
    marks = {"subjects": ",".join(digests), "reason": reason}
    with caller.permitted(Right.ERASE_SUBJECTS, Action.SUBJECT_ERASED, **marks):
        requests, erasing = platform.erasure_requests(tenant), platform.erasing(tenant)
        request = requests.add(subjects, digests, caller.principal, reason)
        caller.results["request"] = request.id
        erasing.destroy_key(request)
        if wait:
            erasing.resume()
            request = requests.find(request.id)
        caller.results["state"] = str(request.state)
        return _shown(caller, request)


def list_erasures(
    caller: Caller, ids: Sequence[str], domain: str | None, *, resume: bool
) -> list[dict[str, Any]]:
    """Give the requests, those that are open completed first where that is asked for."""
    platform, tenant = caller.platform, caller.known_tenant()
    requests = platform.erasure_requests(tenant)
    left = requests.unfinished() if resume else []
    if left:
        with caller.permitted(Right.ERASE_SUBJECTS, Action.ERASURE_RESUMED, requests=len(left)):
            platform.erasing(tenant).resume()
    digests = _subjects(caller, ids, domain)[1] if ids else None
    with caller.permitted(Right.ERASE_SUBJECTS, Action.ERASURES_LISTED):
        found = requests.listing(digests)
        caller.results["requests"] = len(found)
        return [_shown(caller, one) for one in found]


def _subjects(caller: Caller, ids: Sequence[str], domain: str | None) -> tuple[list[Subject], list[str]]:
    """Find the subjects, each once, with the keyed digests under which the trail knows them."""
    if not ids:
        raise UsageError("no identifier: give --id")
    finder = caller.platform.data_subjects(caller.known_tenant())
    found = {one.ref: one for one in (finder.find(value, domain) for value in ids)}
    subjects = list(found.values())
    return subjects, [caller.digest(one.id) for one in subjects]


def _shown(caller: Caller, request: Erasure) -> dict[str, Any]:
    """Give a request as people and programs see it."""
    path = caller.platform.home.root / request.certificate if request.certificate else None
    return {
        "request": request.id,
        "state": str(request.state),
        "certificate": str(path) if path else None,
        "tables": sum_up(request.progress.get("tables", [])),
        "copies": request.progress.get("copies", {}),
        "requested_at": request.requested_at,
        "deadline": request.deadline,
        "steps": request.progress.get("at", {}),
        "subjects": request.subjects,
    }
