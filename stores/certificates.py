"""Certificates of erasures and off-boardings: issued into the home and chained into the audit trail."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stores.audit import AuditTrail
from stores.data_subjects import DEVICE_DOMAIN, Subject, refs_of
from stores.erasure_requests import Erasure
from stores.home import Home, written_whole
from stores.keyring import KeyProvider
from stores.row_removal import mark_file
from stores.tables import Tables
from transforms.audit import Action, Outcome
from transforms.pii.ciphers import signing_public_key
from transforms.privacy.certificates import (
    ERASURE,
    digest_certificate,
    take_fingerprints,
    write_certificate,
)

PUBLIC_KEY = "public-key.hex"
_REMAINING = (
    "Tokens in copies of files that were made before stay pseudonyms until the epoch's root is destroyed: "
    "until the horizon, whoever holds such a copy and the keyring can open or guess-test them.",
    "A copy of the key table that was made before can open what was sealed for the subject in copies of "
    "files that were made before; such copies are not in this home.",
    "Entries of the audit trail and of the deliveries hold keyed digests, and stay.",
)


class CertificateFile:
    """Writes the certificates of one tenant: each once, signed, known to the trail."""

    def __init__(self, tenant: str, home: Home, audit: AuditTrail, provider: KeyProvider) -> None:
        """Remember the stores; nothing is read yet."""
        self._tenant, self._home, self._audit, self._provider = tenant, home, audit, provider

    def issue(self, request: str, principal: str, body: Callable[[], Mapping[str, Any]], form: str) -> Path:
        """Write a request's certificate where there is none yet, and enter it in the trail; give its path."""
        path = self._home.certificates / self._tenant / f"{request}.json"
        if not path.exists():
            chained = {**body(), "audit": self._head()}
            self._write(path, write_certificate(chained, self._provider.signing_key(), form))
        digest = digest_certificate(path.read_bytes())
        if not self._is_entered(request, digest):
            marks = {"request": request, "certificate": digest}
            self._audit.record(self._tenant, principal, Action.CERTIFICATE_ISSUED, Outcome.DONE, **marks)
        self._audit.checkpoint(self._tenant)
        return path

    def _head(self) -> dict[str, Any]:
        last = self._audit.entries(self._tenant, 1)
        return {"seq": last[-1].seq, "head": last[-1].hash} if last else {"seq": 0, "head": ""}

    def _is_entered(self, request_id: str, digest: str) -> bool:
        entries = self._audit.entries(self._tenant)
        return any(
            one.action == Action.CERTIFICATE_ISSUED
            and request_id in one.parameters
            and digest in one.parameters
            for one in entries
        )

    def _write(self, path: Path, content: bytes) -> None:
        """Write the certificate, and the public key beside the signed heads, each whole or not at all."""
        key = signing_public_key(self._provider.signing_key()).hex().encode() + b"\n"
        for target, text in ((self._home.checkpoints / PUBLIC_KEY, key), (path, content)):
            with written_whole(target) as file:
                file.write(text)


class Certificates:
    """The certificates of one tenant."""

    def __init__(
        self,
        tenant: str,
        home: Home,
        tables: Tables,
        audit: AuditTrail,
        provider: KeyProvider,
        clock: Callable[[], datetime],
        horizon: timedelta,
    ) -> None:
        """Remember the stores; nothing is read yet. `horizon` is how long an epoch may live on."""
        self._tenant, self._home, self._tables = tenant, home, tables
        self._audit, self._provider, self._clock, self._horizon = audit, provider, clock, horizon
        self._file = CertificateFile(tenant, home, audit, provider)

    def issue(self, request: Erasure, subjects: Sequence[Subject]) -> str:
        """Write the certificate of a request, once, enter it in the trail, and give its path in the home."""
        path = self._file.issue(
            request.id, request.requested_by, lambda: self._body(request, subjects), ERASURE
        )
        return str(path.relative_to(self._home.root))

    def _body(self, request: Erasure, subjects: Sequence[Subject]) -> dict[str, Any]:
        # A device's token names the device, which others may have had: only a person's are looked for.
        tokens = [token for one in subjects if one.domain != DEVICE_DOMAIN for token in one.tokens]
        refs = refs_of(subjects)
        issued_at = self._clock()
        return {
            "request": request.id,
            "tenant": self._tenant,
            "subjects": request.subjects,
            "requested_by": request.requested_by,
            "requested_at": request.requested_at,
            "deadline": request.deadline,
            "steps": request.progress["at"],
            "issued_at": issued_at.isoformat(timespec="seconds"),
            "keys": request.progress["keys"],
            "tables": request.progress.get("tables", []),
            "marts": request.progress.get("marts", {}),
            "copies": request.progress.get("copies", {}),
            "scan": request.progress["scan"],
            "files": list(self._files()),
            "versions": {info.key: info.version for info in self._tables.listing(self._tenant)},
            "fingerprints": take_fingerprints(secrets.token_hex(16), tokens, refs).as_record(),
            "epochs": list(self._provider.epochs(self._tenant)),
            "horizon": (issued_at + self._horizon).isoformat(timespec="seconds"),
            "remaining": list(_REMAINING),
        }

    def _files(self) -> Iterator[Mapping[str, Any]]:
        """Give the digest of each file of the tenant's tables, held against a vacuum while it is read."""
        root = self._home.root
        for info in self._tables.listing(self._tenant):
            with self._tables.held(self._tenant, info.key):
                folder = self._tables.path(self._tenant, info.key)
                for path in sorted(one for one in folder.rglob("*") if one.is_file()):
                    one = mark_file(root, path)
                    yield {"file": one.name, "bytes": one.size_bytes, "sha256": one.sha256, "table": info.key}
        for path in sorted((self._home.exports / self._tenant).rglob("*.sealed")):
            one = mark_file(root, path)
            yield {"file": one.name, "bytes": one.size_bytes, "sha256": one.sha256, "table": None}
