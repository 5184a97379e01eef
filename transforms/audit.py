"""The audit trail's chain: each entry's hash covers the entry and the hash before it.

Entries hold pseudonyms and counts, never personal data: an erasure leaves the chain whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from transforms.errors import AuditError
from transforms.pii.ciphers import sha256_hex, verify_signature

GENESIS = "0" * 64


class Action(StrEnum):
    """What can be in the trail: `subject:object:action`, nothing else."""

    HOME_CREATED = "home:keyring:created"
    TENANT_ADDED = "tenant:keys:created"
    TENANTS_LISTED = "tenant:names:listed"
    TENANT_ENDED = "tenant:keys:destroyed"
    ROLE_ASSIGNED = "access:role:assigned"
    ROLE_WITHDRAWN = "access:role:withdrawn"
    ACCESS_LISTED = "access:registry:listed"
    USER_ADDED = "access:user:added"
    USER_REVOKED = "access:user:revoked"
    CLIENT_ADDED = "access:client:added"
    CLIENT_ROTATED = "access:client:rotated"
    CLIENT_REVOKED = "access:client:revoked"
    GRANT_ADDED = "access:grant:added"
    GRANT_REVOKED = "access:grant:revoked"
    GROUP_CHANGED = "access:group:changed"
    TOKEN_ISSUED = "access:token:issued"  # noqa: S105 - the name of an action
    SIGNED_IN = "access:session:begun"
    SIGNED_OUT = "access:session:ended"
    POLICY_SET = "tenant:policy:set"
    POLICY_READ = "tenant:policy:read"
    REQUEST_ANSWERED = "service:request:answered"
    EVENTS_POSTED = "ingest:events:posted"
    FILE_PUT = "ingest:file:put"
    UPLOAD_BEGUN = "ingest:upload:begun"
    UPLOAD_COMPLETED = "ingest:upload:completed"
    JOB_READ = "ingest:job:read"
    DELIVERIES_LISTED = "ingest:deliveries:listed"
    QUARANTINE_LISTED = "quarantine:table:listed"
    QUARANTINE_SHOWN = "quarantine:entry:shown"
    QUARANTINE_RETRIED = "quarantine:entry:retried"
    QUARANTINE_DROPPED = "quarantine:entry:dropped"
    TABLES_LISTED = "tables:catalog:listed"
    SQL_RUN = "tables:sql:run"
    PII_REVEALED = "pii:column:revealed"
    TOKEN_MADE = "pii:token:made"  # noqa: S105 - the name of an action
    CAPTURE_EXPORTED = "captures:packets:exported"
    CAPTURE_SUMMARISED = "captures:packets:summarised"
    CAPTURE_REQUESTED = "captures:export:requested"
    CAPTURES_LISTED = "captures:exports:listed"
    CAPTURE_OPENED = "captures:export:opened"
    FEED_OPENED = "captures:feed:opened"
    FEED_CLOSED = "captures:feed:closed"
    EPOCHS_LISTED = "keys:epochs:listed"
    EPOCH_BEGUN = "keys:epoch:begun"
    EPOCH_RENEWED = "keys:epoch:renewed"
    EPOCH_DESTROYED = "keys:epoch:destroyed"
    DEVICES_LISTED = "devices:registry:listed"
    DEVICE_ADDED = "devices:device:added"
    DEVICE_OWNED = "devices:ownership:begun"
    DEVICE_ADDRESSED = "devices:address:added"
    SUBJECT_FOUND = "subjects:data:found"
    PACKAGE_ASKED = "subjects:package:asked"
    PACKAGE_MADE = "subjects:package:made"
    PACKAGES_LISTED = "subjects:package:listed"
    SUBJECT_ACCESSED = "subjects:data:disclosed"
    SUBJECT_PREVIEWED = "subjects:erasure:previewed"
    SUBJECT_ERASED = "subjects:erasure:requested"
    ERASURE_RESUMED = "subjects:erasure:resumed"
    ERASURES_LISTED = "subjects:erasure:listed"
    CERTIFICATE_READ = "subjects:certificate:read"
    CERTIFICATE_ISSUED = "subjects:certificate:issued"
    REVEAL_ASKED = "pii:approval:asked"
    REVEAL_DECIDED = "pii:approval:decided"
    APPROVALS_LISTED = "pii:approval:listed"
    VALIDATION_SUBMITTED = "validations:request:submitted"
    VALIDATION_READ = "validations:status:read"
    VALIDATION_DISCLOSED = "validations:data:disclosed"
    VALIDATION_UPDATED = "validations:request:updated"
    VALIDATION_DELETED = "validations:request:deleted"
    VALIDATIONS_INGESTED = "validations:file:submitted"
    EVENTS_CONSUMED = "validations:events:consumed"
    QUEUE_SENT = "queue:messages:sent"
    QUEUE_RECEIVED = "queue:messages:received"
    QUEUE_COUNTED = "queue:messages:counted"
    QUEUE_REDRIVEN = "queue:letters:redriven"
    HOME_BROUGHT_UP = "home:processes:started"
    LEAKS_SCANNED = "home:leaks:scanned"
    RUN_FAILED = "dagster:run:failed"
    AUDIT_VERIFIED = "audit:trail:verified"
    AUDIT_READ = "audit:trail:read"
    AUDIT_EXPORTED = "audit:trail:exported"


class Outcome(StrEnum):
    """How an action went. A disclosure has two entries: `allowed` before, `done` or `failed` after."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """One entry of a tenant's chain."""

    tenant: str
    seq: int
    at: str
    principal: str
    action: str
    outcome: str
    parameters: str
    previous: str
    hash: str


@dataclass(frozen=True)
class Checkpoint:
    """A signed head of a chain: proof that the entries up to `seq` stood so at that time."""

    tenant: str
    seq: int
    head: str
    at: str
    signature: str

    def message(self) -> bytes:
        """Give the bytes that are signed."""
        return canonical_json(
            {"at": self.at, "head": self.head, "seq": self.seq, "tenant": self.tenant}
        ).encode()


def canonical_json(value: Mapping[str, Any]) -> str:
    """Write JSON one way only (RFC 8785, for the strings and whole numbers that we use).

    >>> canonical_json({"b": 1, "a": "é"})
    '{"a":"é","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def entry_hash(entry: Entry) -> str:
    """Give the hash that an entry must bear: SHA-256 over all its other fields."""
    fields = {
        "action": entry.action,
        "at": entry.at,
        "outcome": entry.outcome,
        "parameters": entry.parameters,
        "previous": entry.previous,
        "principal": entry.principal,
        "seq": entry.seq,
        "tenant": entry.tenant,
    }
    return sha256_hex(canonical_json(fields).encode())


def first_bad(entries: Iterable[Entry]) -> int | None:
    """Find the first entry that breaks the chain: its `seq`, None where all hold.

    The entries are one tenant's, in order. A changed, missing, doubled or moved entry is found;
    a cut tail is found by `verify_checkpoint`.
    """
    previous, expected = GENESIS, 1
    for entry in entries:
        whole = entry.seq == expected and entry.previous == previous
        if not whole or entry.hash != entry_hash(entry):
            return expected
        previous, expected = entry.hash, expected + 1
    return None


def verify_checkpoint(checkpoint: Checkpoint, heads: Mapping[int, str], public_key: bytes) -> None:
    """Verify that a chain still has the entry that a checkpoint vouches for.

    `heads` maps each `seq` to its hash. Raises: AuditError for a bad signature, a cut or altered chain.
    """
    try:
        signature = bytes.fromhex(checkpoint.signature)
    except ValueError as error:
        raise AuditError(f"checkpoint {checkpoint.seq} bears no signature") from error
    verify_signature(public_key, signature, checkpoint.message())
    if heads.get(checkpoint.seq) != checkpoint.head:
        raise AuditError(f"entry {checkpoint.seq} is not the one that was signed: the chain was cut or altered")
