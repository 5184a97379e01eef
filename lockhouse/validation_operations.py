"""Operations on identity validations: every one authorises, then audits, then acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lockhouse.operations import Caller, Given, is_id
from orchestration.resources import Platform, now
from orchestration.validations import LISTENERS
from stores.contracts import load_contract
from stores.landing import Batch
from stores.ledger import Counts
from stores.locks import exclusive
from stores.quarantine import Quarantine
from stores.validations.analytics import SOURCE
from stores.validations.event_worker import run_workers
from stores.validations.request_files import RequestFiles
from stores.validations.request_journal import RequestMark
from transforms.access import Right
from transforms.audit import Action, canonical_json
from transforms.errors import BusyError, MissingError, UsageError
from transforms.pii.contracts import Contract
from transforms.tables import quarantine_table
from transforms.validations.matrix import Service
from transforms.validations.requests import read_change, read_request

PENDING = "pending"
DELETED = "deleted"


def submit_validation(caller: Caller, content: bytes, key: str | None = None) -> dict[str, Any]:
    """Accept a request; each field is sealed before anything of it is written. Gives its UUID.

    The same key again is the same request. Raises: UsageError, ConflictError; ErasedSubjectError.
    """
    with caller.permitted(Right.SUBMIT_VALIDATIONS, Action.VALIDATION_SUBMITTED):
        contract = _contract()
        fields = read_request(content, contract)
        mark = _mark(caller, key, f"submit/{canonical_json(fields)}")
        intake = caller.platform.validations.intake
        accepted = intake.submit(caller.tenant, fields, contract.subject.name, mark)
        caller.results.update(validation=accepted.validation, duplicate=int(not accepted.is_new))
        return {"validation": accepted.validation, "status": PENDING}


def read_status(caller: Caller, validation: str) -> dict[str, Any]:
    """Say how far a validation is, and what was decided. Raises: MissingError, GoneError."""
    with caller.permitted(Right.READ_VALIDATIONS, Action.VALIDATION_READ, validation=Given(validation)):
        found = caller.platform.validations.disclosure.find_status(caller.tenant, known_id(validation))
        return {
            "validation": found.validation,
            "status": found.status,
            "decision": found.decision,
            "reasons": list(found.reasons),
            "created": found.created,
            "updated": found.updated,
        }


def disclose_validation(
    caller: Caller, validation: str, reason: str = "", purpose: str | None = None
) -> dict[str, Any]:
    """Open the personal data of a validation; purpose and reason are audited first.

    Raises: MissingError, GoneError; NotYetError.
    """
    # Most who ask do so for the person, whose right it is (GDPR, article 15).
    marks = {"purpose": purpose or "subject-request"} | ({"reason": reason} if reason else {})
    with caller.permitted(
        Right.DISCLOSE_VALIDATIONS, Action.VALIDATION_DISCLOSED, validation=Given(validation), **marks
    ):
        opened = caller.platform.validations.disclosure.open_record(caller.tenant, known_id(validation))
        caller.results["fields"] = len(opened)
        return {"validation": known_id(validation), "record": opened}


def update_validation(
    caller: Caller, validation: str, content: bytes, key: str | None = None
) -> dict[str, Any]:
    """Accept a change of some fields; the validation is decided again.

    Raises: UsageError, ConflictError, MissingError, GoneError.
    """
    with caller.permitted(Right.CHANGE_VALIDATIONS, Action.VALIDATION_UPDATED, validation=Given(validation)):
        change = read_change(content, _contract())
        shown = canonical_json({**change.fields, **dict.fromkeys(change.removed)})
        mark = _mark(caller, key, f"update/{validation}/{shown}")
        intake, target = caller.platform.validations.intake, known_id(validation)
        made = intake.update(caller.tenant, target, change.fields, change.removed, mark)
        caller.results.update(change=made, fields=len(change.fields) + len(change.removed))
        return {"validation": target, "status": PENDING, "change": made}


def delete_validation(caller: Caller, validation: str) -> dict[str, Any]:
    """Delete a validation: what remains is its id and when. Raises: MissingError, GoneError."""
    with caller.permitted(Right.CHANGE_VALIDATIONS, Action.VALIDATION_DELETED, validation=Given(validation)):
        target = known_id(validation)
        deleted = caller.platform.validations.intake.delete(caller.tenant, target)
        return {"validation": target, "status": DELETED, "deleted": deleted}


def ingest_requests(caller: Caller, paths: Sequence[Path]) -> Counts:
    """Submit every request of some files, and of those that a killed process left."""
    with caller.permitted(Right.SUBMIT_VALIDATIONS, Action.VALIDATIONS_INGESTED, files=len(paths)):
        files = request_files(caller)
        caller.platform.landing.recover()
        return take_requests(caller, files, [*files.left(), *files.land(paths)])


def retry_requests(caller: Caller, name: str, content: bytes) -> Counts:
    """Submit requests that were in quarantine; whoever calls has authorised it."""
    files = request_files(caller)
    return take_requests(caller, files, files.land_content(name, content))


def take_requests(caller: Caller, files: RequestFiles, batches: Sequence[Batch]) -> Counts:
    """Submit what lies in landing; gives what became of it."""
    contract = _contract()
    counts = sum((files.take(one, contract, _milliseconds) for one in batches), Counts())
    caller.results.update(accepted=counts.accepted, quarantined=counts.quarantined, refused=counts.refused)
    return counts


def consume_events(
    caller: Caller,
    services: Sequence[Service],
    until_idle_s: float | None,
    is_stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> dict[str, dict[str, int]]:
    """Run services over their events until told to stop, or until nothing came for a while.

    Raises: BusyError where one of them runs already.
    """
    with caller.permitted(Right.OPERATE, Action.EVENTS_CONSUMED, services=",".join(services)):
        done = work_events(caller.platform, services, until_idle_s, is_stopped, tell)
        caller.results.update({name.replace("-", "_"): one["events"] for name, one in done.items()})
        return done


def redrive_events(caller: Caller, services: Sequence[Service]) -> int:
    """Put the dead letters of services back on their queues; give how many."""
    with caller.permitted(Right.OPERATE, Action.QUEUE_REDRIVEN, services=",".join(services)):
        moved = sum(caller.platform.validations.queue(one).redrive() for one in services)
        caller.results["messages"] = moved
        return moved


def work_events(
    platform: Platform,
    services: Sequence[Service],
    until_idle_s: float | None,
    is_stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> dict[str, dict[str, int]]:
    """Run services, each alone in this home; whoever calls has authorised it. Raises: BusyError."""
    with ExitStack() as stack:
        for service in services:
            lock = platform.home.locks / f"{service}.worker.lock"
            stack.enter_context(exclusive(lock, wait=False))
        workers = [platform.validations.worker(service, tell) for service in services]
        run_workers(workers, is_stopped, until_idle_s, platform.validations.intake.relay)
    return {
        str(one.service): {"events": one.handled.events, "failures": one.handled.failures} for one in workers
    }


def work_through(platform: Platform, tell: Callable[[str], None]) -> bool:
    """Run every service until nothing comes; give False where another process does so already."""
    try:
        work_events(platform, LISTENERS, 0, lambda: False, tell)
    except BusyError:
        return False
    return True


def known_id(validation: str) -> str:
    """Give the id of a validation back. Raises: MissingError for what is no UUID: there is none of it."""
    if not is_id(validation):
        raise MissingError("no such validation")
    return validation


def _contract() -> Contract:
    return load_contract(SOURCE)


def _mark(caller: Caller, key: str | None, body: str) -> RequestMark | None:
    if key is None:
        return None
    if not 1 <= len(key) <= 128:
        raise UsageError("an idempotency key has 1 to 128 characters")
    return RequestMark(caller.digest(f"key/{caller.principal}/{key}"), caller.digest(body))


def request_files(caller: Caller) -> RequestFiles:
    """Give who takes files of requests; whoever calls has authorised it."""
    platform, tenant = caller.platform, caller.known_tenant()
    sealer = platform.intake.sealer(tenant)
    quarantine = Quarantine(tenant, platform.tables, sealer, quarantine_table(_contract()))
    intake = platform.validations.intake
    return RequestFiles(
        platform.keys(tenant), platform.landing, platform.ledger, intake, quarantine, platform.home.locks
    )


def _milliseconds() -> int:
    return int(now().timestamp() * 1000)
