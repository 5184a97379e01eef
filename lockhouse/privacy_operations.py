"""Operations on data subjects: every one authorises, then audits, then acts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lockhouse.operations import Caller
from orchestration.resources import now
from stores.data_subjects import Subject
from stores.erasure_requests import Erasure
from stores.subject_access import Packets
from transforms.access import Right
from transforms.audit import Action
from transforms.errors import UsageError
from transforms.privacy.certificates import sum_up
from transforms.privacy.pages import write_page


def answer_access(caller: Caller, value: str, domain: str | None, reason: str, folder: Path) -> dict[str, Any]:
    """Write everything about a data subject into a folder: JSON, a page, and a capture file for each hour.

    Raises: UsageError where the folder holds something already, or nothing is known of the subject.
    """
    if not reason.strip():
        raise UsageError("an access request needs a --reason; it is written into the audit trail")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the folder is not empty: give a new one, so that no answer is mixed with another")
    platform, finder = caller.platform, caller.platform.data_subjects(caller.known_tenant())
    (subject,), (digest,) = _subjects(caller, [value], domain)
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.SUBJECT_ACCESSED, subject=digest, reason=reason):
        if not finder.is_known(subject):
            raise UsageError("nothing is known under that identifier")
        access = platform.subject_access(caller.tenant)
        entries = access.gather(subject, caller.digest)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        captures = [_written_capture(folder, one) for one in access.packets(subject)]
        entries["captures"] = captures
        answer = {
            "subject": {"domain": subject.domain, "id": subject.id},
            "tenant": caller.tenant,
            "made_at": now().isoformat(timespec="seconds"),
            "sources": {name: len(rows) for name, rows in entries.items()},
            "entries": entries,
        }
        text = json.dumps(answer, ensure_ascii=False, indent=1, default=str)
        files = [_write(folder / "subject.json", [text.encode()])]
        files.append(_write(folder / "subject.html", [write_page(answer).encode()]))
        caller.results.update({"files": len(files) + len(captures)})
        caller.results.update({name.replace(" ", "_"): len(rows) for name, rows in entries.items()})
        names = [str(path) for path in files] + [str(folder / one["file"]) for one in captures]
        return {"directory": str(folder.absolute()), "files": names, "sources": answer["sources"]}


def _written_capture(folder: Path, part: Packets) -> dict[str, Any]:
    _write(folder / part.name, part.content)
    return {
        "file": part.name,
        "device": part.device,
        "from": part.since.isoformat(),
        "to": part.until.isoformat(),
        "packets": part.packets,
    }


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> Path:
    """Write a file for its owner only; one that is there is never written over."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for part in parts:
            file.write(part)
    return path


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
