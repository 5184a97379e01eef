"""Operations that bring data in: each authorises, audits, then lands. What becomes of it, a job says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from lockhouse.operations import Caller, Given
from stores.contracts import load_contract, produced
from stores.devices import checked_device
from stores.landing import OF_DEVICES, SHARED
from stores.ledger import State
from stores.upload_policies import UploadPolicy
from stores.uploads import Part, Upload, Uploads
from transforms.access import Right
from transforms.audit import Action
from transforms.errors import MissingError, UsageError
from transforms.verdicts import Verdict, judge_records

_JOB = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COUNTS = ("rows", "accepted", "quarantined", "duplicates", "refused")


def land_events(caller: Caller, source: str, content: bytes, most: int = 0) -> tuple[str, list[Verdict] | None]:
    """Land records of a contract; gives the job, and where there are no more than `most` what becomes of each.

    All records land, with one rename, whatever becomes of them: the verdicts foretell what the job will do.
    """
    if source not in produced():
        raise MissingError(f"no such source of events; there are: {', '.join(produced())}")
    with caller.permitted(Right.INGEST, Action.EVENTS_POSTED, source=source, bytes=len(content)):
        verdicts = judge_records(content, load_contract(source), most) if most else None
        [batch] = caller.platform.landing.land(source, caller.tenant, "events", content)
        caller.results["job"] = batch.id
        return batch.id, verdicts


@contextmanager
def landed_file(caller: Caller, source: str, name: str, device: str | None) -> Iterator[dict[str, Any]]:
    """Authorise and audit a file; the block gives its path under `path` and finds its job under `job`."""
    owner = _owner(source, device)
    with caller.permitted(Right.INGEST, Action.FILE_PUT, source=source):
        delivery: dict[str, Any] = {}
        yield delivery
        batch = caller.platform.landing.take_in(source, caller.tenant, delivery["path"], name, owner)
        delivery["job"] = caller.results["job"] = batch.id


def begin_upload(
    caller: Caller, source: str, device: str | None, sha256: str, parts: Sequence[Part]
) -> dict[str, Any]:
    """Promise a file by its parts; says which are missing, and when devices of the tenant should send."""
    owner = _owner(source, device)
    with caller.permitted(Right.INGEST, Action.UPLOAD_BEGUN, source=source, parts=len(parts)):
        uploads = _uploads(caller)
        upload = uploads.begin(caller.principal, source, owner, sha256, parts)
        caller.results["upload"] = upload.id
        return describe_upload(caller, uploads, upload)


def find_upload(caller: Caller, upload_id: str) -> tuple[Uploads, Upload]:
    """Give an upload of the caller; nothing is changed, and the request's own entry says who asked.

    Raises: RefusedError without the right to send; MissingError where it is not the caller's.
    """
    caller.authorise(Right.INGEST)
    uploads = _uploads(caller)
    return uploads, uploads.find(upload_id, caller.principal)


def complete_upload(caller: Caller, upload_id: str) -> str:
    """Join and land an upload; gives the job. Once more, the same job."""
    with caller.permitted(Right.INGEST, Action.UPLOAD_COMPLETED, upload=Given(upload_id)):
        uploads = _uploads(caller)
        job = uploads.complete(uploads.find(upload_id, caller.principal))
        caller.results["job"] = job
        return job


def describe_upload(caller: Caller, uploads: Uploads, upload: Upload) -> dict[str, Any]:
    """Say how far an upload is, with the tenant's policy for devices."""
    return {
        "upload": upload.id,
        "missing": uploads.missing(upload),
        "job": upload.batch,
        "policy": asdict(caller.platform.upload_policies.find(caller.tenant)),
    }


def read_upload_policy(caller: Caller) -> UploadPolicy:
    """Say when devices of the tenant should send."""
    with caller.permitted(Right.OPERATE, Action.POLICY_READ):
        return caller.platform.upload_policies.find(caller.tenant)


def change_upload_policy(
    caller: Caller, interval_seconds: int | None, wifi_only: bool | None, charging_only: bool | None
) -> UploadPolicy:
    """Set when devices of the tenant should send; what is None stays as it is."""
    with caller.permitted(Right.OPERATE, Action.POLICY_SET):
        policy = caller.platform.upload_policies.change(
            caller.tenant, interval_seconds, wifi_only, charging_only
        )
        caller.results.update({name: int(value) for name, value in asdict(policy).items()})
        return policy


def read_job(caller: Caller, job: str) -> dict[str, Any]:
    """Say what became of what was sent.

    Raises: MissingError where the tenant has no such job.
    """
    with caller.permitted(Right.INGEST, Action.JOB_READ, job=Given(job)):
        rows = [one for one in caller.platform.ledger.named([job]) if one["tenant"] == caller.tenant]
        if rows:
            return _job(rows[0])
        batch = caller.platform.landing.batch(job) if _JOB.fullmatch(job) else None
        if batch is None or batch.tenant != caller.tenant:
            raise MissingError("no such job")
        return {
            "job": batch.id,
            "source": batch.source,
            "state": str(State.LANDED),
            "done": False,
        } | dict.fromkeys(_COUNTS, 0)


def list_deliveries(caller: Caller, limit: int = 20) -> list[dict[str, Any]]:
    """Give what came in lately, and what became of it."""
    with caller.permitted(Right.READ_QUARANTINE, Action.DELIVERIES_LISTED):
        return [
            {**_job(one), "received_at": one["received_at"], "files": one["files"]}
            for one in caller.platform.ledger.batches(tenant=caller.tenant, limit=limit)
        ]


def _job(row: dict[str, Any]) -> dict[str, Any]:
    named = {"job": row["id"], "source": row["source"], "state": row["state"]}
    return {**named, "done": row["state"] == State.DONE, **{name: row[name] for name in _COUNTS}}


def _owner(source: str, device: str | None) -> str | None:
    """Give whose a file is: a device's where the source is one of devices, nobody's otherwise."""
    known = {*produced(), *OF_DEVICES}
    if source not in known:
        raise MissingError(f"no such source; there are: {', '.join(sorted(known))}")
    if source not in OF_DEVICES:
        if device is not None:
            raise UsageError("files of this source are of no device: leave `device` out")
        return None
    return checked_device(device) if device else SHARED


def _uploads(caller: Caller) -> Uploads:
    return caller.platform.uploads(caller.known_tenant())
