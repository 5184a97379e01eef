"""Operations on data subjects: every one authorises, then audits, then acts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lockhouse.operations import Caller, Given
from orchestration.resources import now
from stores.access_packages import AccessRequest, Wanted
from stores.copies import PartCopy
from stores.data_subjects import Subject, subject_domains
from stores.erasure_requests import Erasure
from stores.locks import shared
from stores.subject_access import Packets
from transforms.access import Right
from transforms.audit import Action
from transforms.errors import MissingError, NotYetError, UsageError
from transforms.privacy.certificates import sum_up
from transforms.privacy.pages import write_page


def list_subject_domains() -> list[str]:
    """Give what an identifier of a data subject can be of."""
    return sorted(subject_domains())


def find_subject(caller: Caller, value: str, domain: str | None) -> dict[str, Any]:
    """Tell what is held of a data subject and where: rows of each table and copy, nothing of their content."""
    (subject,), (digest,) = _subjects(caller, [value], domain)
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.SUBJECT_FOUND, subject=digest):
        platform = caller.platform
        states = platform.subject_keys(caller.tenant).states(subject.refs)
        every = platform.erasing(caller.tenant).preview([subject])
        # Parts of uploads are everybody's and nobody's: that some are kept says nothing of this person.
        held = [one for one in every if one["rows"] and one["table"] != PartCopy.name]
        caller.results["rows"] = sum(one["rows"] for one in held)
        return {
            "domain": subject.domain,
            "known": platform.data_subjects(caller.tenant).is_known(subject),
            "erased": bool(states) and set(states.values()) == {"erased"},
            "devices": len(subject.stretches),
            "tables": held,
        }


def answer_access(caller: Caller, value: str, domain: str | None, reason: str, folder: Path) -> dict[str, Any]:
    """Write everything about a data subject into a folder: JSON, a page, and a capture file for each hour.

    Raises: UsageError where the folder holds something already, or nothing is known of the subject.
    """
    checked_reason(reason)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the folder is not empty: give a new one, so that no answer is mixed with another")
    finder = caller.platform.data_subjects(caller.known_tenant())
    (subject,), (digest,) = _subjects(caller, [value], domain)
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.SUBJECT_ACCESSED, subject=digest, reason=reason):
        if not finder.is_known(subject):
            raise UsageError("nothing is known under that identifier")
        sources: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = [str(_write(folder / name, parts)) for name, parts in _answer_files(caller, subject, sources)]
        caller.results.update({"files": len(names), **_counted(sources)})
        return {"directory": str(folder.absolute()), "files": names, "sources": sources}


def _answer_files(
    caller: Caller, subject: Subject, sources: dict[str, int]
) -> Iterator[tuple[str, Iterable[bytes | memoryview]]]:
    """Give the files of an answer, each to be taken before the next; how many entries fills `sources`."""
    access = caller.platform.subject_access(caller.tenant)
    entries, captures = access.gather(subject, caller.digest), []
    for part in access.packets(subject):
        yield part.name, part.content
        captures.append(_described_capture(part))
    entries["captures"] = captures
    sources.update({name: len(rows) for name, rows in entries.items()})
    answer = {
        "subject": {"domain": subject.domain, "id": subject.id},
        "tenant": caller.tenant,
        "made_at": now().isoformat(timespec="seconds"),
        "sources": sources,
        "entries": entries,
    }
    yield "subject.json", [json.dumps(answer, ensure_ascii=False, indent=1, default=str).encode()]
    yield "subject.html", [write_page(answer).encode()]


def _described_capture(part: Packets) -> dict[str, Any]:
    return {
        "file": part.name,
        "device": part.device,
        "from": part.since.isoformat(),
        "to": part.until.isoformat(),
        "packets": part.packets,
    }


def _counted(sources: Mapping[str, int]) -> dict[str, int]:
    """Give the counts as they stand in the trail."""
    return {name.replace(" ", "_"): count for name, count in sources.items()}


def checked_reason(reason: str) -> str:
    """Give a reason back.

    Raises: UsageError where there is none.
    """
    if not reason.strip():
        raise UsageError("a request about a person needs a reason; it is written into the audit trail")
    return reason


def ask_access(caller: Caller, value: str, domain: str | None, reason: str) -> AccessRequest:
    """Ask for the package of everything about a data subject; it is made by an errand, and kept sealed.

    Raises: MissingError where nothing is known of the subject.
    """
    (subject,), (digest,) = _subjects(caller, [value], domain)
    marks = {"subject": digest, "reason": checked_reason(reason)}
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.PACKAGE_ASKED, **marks):
        if not caller.platform.data_subjects(caller.tenant).is_known(subject):
            raise MissingError("nothing is known under that identifier")
        wanted = Wanted(subject.id, subject.domain)
        asked = caller.platform.access_packages(caller.tenant).add(wanted, digest, caller.principal, reason)
        caller.results["package"] = asked.id
        return asked


def make_package(caller: Caller, request: AccessRequest) -> AccessRequest:
    """Make the package of a request, for whoever asked: their right is looked at again."""
    platform, marks = caller.platform, {"package": request.id, "subject": request.subject}
    packages = platform.access_packages(caller.known_tenant())
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.PACKAGE_MADE, **marks):
        # An erasure would otherwise look for packages while this one is not there yet.
        with shared(platform.home.tenant_lock(caller.tenant)):
            wanted, sources = packages.wanted(request.id), dict[str, int]()
            subject = platform.data_subjects(caller.tenant).find(wanted.id, wanted.domain)
            made = packages.make(request.id, _answer_files(caller, subject, sources))
        caller.results.update({"files": made.files, "bytes": made.size_bytes, **_counted(sources)})
        return made


def read_access(caller: Caller, request_id: str) -> AccessRequest:
    """Say how far an access request is."""
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.PACKAGES_LISTED, package=Given(request_id)):
        return caller.platform.access_packages(caller.tenant).find(request_id)


def list_access(caller: Caller) -> list[AccessRequest]:
    """Give the access requests of the tenant, the oldest first."""
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.PACKAGES_LISTED):
        return caller.platform.access_packages(caller.tenant).listing()


@contextmanager
def opened_package(caller: Caller, request_id: str) -> Iterator[tuple[AccessRequest, Iterator[memoryview]]]:
    """Give a package and its bytes; that it is disclosed is in the trail before the first of them."""
    packages = caller.platform.access_packages(caller.known_tenant())
    with caller.permitted(Right.ACCESS_SUBJECTS, Action.SUBJECT_ACCESSED, package=Given(request_id)):
        found = packages.find(request_id)
        caller.results["subject"] = found.subject
        yield found, packages.open(request_id)


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
        caller.results["erasure"] = request.id
        erasing.destroy_key(request)
        if wait:
            erasing.resume()
            request = requests.find(request.id)
        caller.results["state"] = str(request.state)
        return _shown(caller, request)


def ask_erasure(caller: Caller, ids: Sequence[str], domain: str | None, reason: str) -> dict[str, Any]:
    """Enter an erasure request; an errand destroys the keys, then everything else, and certifies it."""
    subjects, digests = _subjects(caller, ids, domain)
    marks = {"subjects": ",".join(digests), "reason": checked_reason(reason)}
    with caller.permitted(Right.ERASE_SUBJECTS, Action.SUBJECT_ERASED, **marks):
        requests = caller.platform.erasure_requests(caller.tenant)
        request = requests.add(subjects, digests, caller.principal, reason)
        caller.results.update({"erasure": request.id, "state": str(request.state)})
        return _shown(caller, request)


def read_erasure(caller: Caller, request_id: str) -> dict[str, Any]:
    """Say how far an erasure is."""
    with caller.permitted(Right.ERASE_SUBJECTS, Action.ERASURES_LISTED, erasure=Given(request_id)):
        return _shown(caller, _erasure(caller, request_id))


def read_certificate(caller: Caller, request_id: str) -> bytes:
    """Give the certificate of an erasure, as it was signed.

    Raises: MissingError where there is no such request; NotYetError where it is not certified yet.
    """
    with caller.permitted(Right.ERASE_SUBJECTS, Action.CERTIFICATE_READ, erasure=Given(request_id)):
        request = _erasure(caller, request_id)
        if request.certificate is None:
            raise NotYetError("there is no certificate yet: the erasure is still on its way")
        return (caller.platform.home.root / request.certificate).read_bytes()


def _erasure(caller: Caller, request_id: str) -> Erasure:
    for one in caller.platform.erasure_requests(caller.tenant).listing():
        if one.id == request_id:
            return one
    raise MissingError("no such erasure request")


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
        "problem": request.progress.get("problem"),
        "subjects": request.subjects,
    }
