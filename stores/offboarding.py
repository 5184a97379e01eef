"""Off-boarding: the end of a tenant, with proof.

Its root keys go first, so that no copy of its files anywhere can be read again, then everything that the
home holds of it, but the audit trail and its certificates. Each step can be done again: what was held is
written down before anything goes, and an off-boarding that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stores.audit import AuditTrail
from stores.certificates import CertificateFile
from stores.contracts import load_contracts
from stores.database import (
    AUDIT,
    AUDIT_CHECKPOINTS,
    BATCHES,
    CHUNKS,
    CLIENT_SECRETS,
    CLIENTS,
    METADATA,
    OUTBOX,
    TENANTS,
    Database,
)
from stores.erasure_scan import places_left_out
from stores.home import Home
from stores.kept_exports import KeptExports
from stores.keyring import KeyProvider
from stores.keys import TenantKeys
from stores.landing import Landing
from stores.leaks import scan_with
from stores.locks import exclusive
from stores.outbox import FORGET, Outbox
from stores.specs import domain_formats
from stores.subjects import SubjectKeys, key_files
from stores.tables import Tables
from transforms.errors import ErasureError, UsageError
from transforms.privacy.certificates import OFFBOARDING, TokenMatcher, token_head

# What outlives a tenant: who did what to its data, and that it is gone.
_KEPT_TABLES = {TENANTS.name, AUDIT.name, AUDIT_CHECKPOINTS.name}
_REMAINING = (
    "The audit trail stays: it holds keyed digests, whose key was destroyed, and counts.",
    "Copies of files that were made before stay where they are, without a key that opens them; "
    "a copy of the keyring that was made before, with its passphrase, opens them still.",
    "Messages that wait in a queue outside the home are its owner's to delete.",
)


@dataclass(frozen=True)
class ServedRows:
    """A database that serves rows of the tenant; `delete` gives how many went."""

    name: str
    delete: Callable[[], int]


@dataclass(frozen=True)
class OffboardingStores:
    """What an off-boarding works on, of one tenant."""

    tenant: str
    home: Home
    tables: Tables
    provider: KeyProvider
    database: Database
    landing: Landing
    outbox: Outbox
    exports: Callable[[], KeptExports]
    served: Sequence[ServedRows]
    audit: AuditTrail
    clock: Callable[[], datetime]


class Offboarding:
    """Ends one tenant."""

    def __init__(self, stores: OffboardingStores) -> None:
        """Remember the stores; nothing is opened yet."""
        self._stores = stores
        self._certificate = CertificateFile(stores.tenant, stores.home, stores.audit, stores.provider)

    def preview(self) -> list[dict[str, Any]]:
        """Tell what would go: rows, files and bytes of each table. Changes nothing."""
        listing = self._stores.tables.listing(self._stores.tenant)
        return [
            {"table": info.key, "rows": info.rows, "files": info.files, "bytes": info.size_bytes}
            for info in listing
        ]

    def complete(self, principal: str) -> tuple[Path, dict[str, Any]]:
        """End the tenant, or go on with its end; give the certificate's path and what was held.

        Raises: ErasureError where a token of the tenant is still found somewhere; then it is to be repeated.
        """
        stores = self._stores
        with exclusive(stores.home.tenant_lock(stores.tenant)):
            held = self._noted() or self._note(principal)
            stores.provider.destroy_tenant(stores.tenant)
            for path in self._places():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for one in stores.served:
                one.delete()
            self._delete_entries()
        self._scan(held)
        path = self._certificate.issue(
            f"offboarding-{stores.tenant}", principal, lambda: self._body(held), OFFBOARDING
        )
        return path, held

    def _noted(self) -> dict[str, Any] | None:
        """Give what was held, where the end has begun."""
        chosen = sa.select(TENANTS).where(TENANTS.c.name == self._stores.tenant)
        row = self._stores.database.rows(chosen)
        if not row:
            raise UsageError(f"no tenant {self._stores.tenant}", see="lockhouse tenant list")
        noted: dict[str, Any] | None = json.loads(row[0]["ending"]) if row[0]["ending"] else None
        return noted

    def _note(self, principal: str) -> dict[str, Any]:
        """Write down what is held; from here on the tenant is gone for everybody."""
        stores, keys = self._stores, TenantKeys(self._stores.tenant, self._stores.provider)
        subjects = SubjectKeys(stores.home.keys, keys)
        epochs, now = keys.epochs(), stores.clock().isoformat(timespec="seconds")
        for device, hour, _ in stores.exports().listing():
            stores.outbox.ask(FORGET, stores.tenant, {"device": device, "hour": hour})
        heads = [token_head(one) for domain in domain_formats() for one in keys.token_key_ids(domain, epochs)]
        held = {
            "ended_by": principal,
            "ended_at": now,
            "tables": self.preview(),
            "epochs": list(epochs),
            "subject_keys": subjects.count(),
            "heads": sorted(set(heads)),
        }
        with stores.database.begin() as connection:
            change = sa.update(TENANTS).where(TENANTS.c.name == stores.tenant)
            connection.execute(change.values(ended_at=now, ending=json.dumps(held)))
        return held

    def _places(self) -> Iterator[Path]:
        """Give every file and folder that is this tenant's alone."""
        home, tenant = self._stores.home, self._stores.tenant
        yield from key_files(home.keys, tenant)
        yield from (batch.folder for batch in self._stores.landing.open_batches() if batch.tenant == tenant)
        queues = [home.queue(source, tenant) for source in load_contracts()]
        named = [
            home.lake / tenant,
            home.exports / tenant,
            home.packages / tenant,
            home.parts / tenant,
            *home.landing.glob(f"*/{tenant}"),
        ]
        beside = [path for queue in queues for path in queue.parent.glob(f"{queue.name}*")]
        yield from (path for path in [*named, *beside] if path.exists())

    def _delete_entries(self) -> None:
        """Delete what the application database holds of the tenant."""
        tenant, database = self._stores.tenant, self._stores.database
        theirs = [one for one in METADATA.sorted_tables if "tenant" in one.c and one.name not in _KEPT_TABLES]
        batches = sa.select(BATCHES.c.id).where(BATCHES.c.tenant == tenant)
        programs = sa.select(CLIENTS.c.principal).where(CLIENTS.c.tenant == tenant)
        with database.begin() as connection:
            connection.execute(sa.delete(CHUNKS).where(CHUNKS.c.batch_id.in_(batches)))
            connection.execute(sa.delete(CLIENT_SECRETS).where(CLIENT_SECRETS.c.principal.in_(programs)))
            for table in reversed(theirs):
                rows = table.c.tenant == tenant
                # Dagster has yet to forget the partitions of exports; they name pseudonyms only.
                wanted = rows & (OUTBOX.c.kind != FORGET) if table is OUTBOX else rows
                connection.execute(sa.delete(table).where(wanted))
        database.settle()

    def _scan(self, held: dict[str, Any]) -> None:
        """Look for any token of the tenant in every file of the home."""
        home = self._stores.home
        places = places_left_out(home, self._stores.tenant)
        report = scan_with(home.root, TokenMatcher(held["heads"]), exclude=places)
        held["scan"] = {"files": report.files, "bytes": report.size_bytes}
        found = [one.file for one in report.hits] + [one.file for one in report.unreadable]
        if found:
            raise ErasureError(
                f"the tenant's keys are destroyed, but {len(found)} files hold a token of its or could not "
                f"be looked into, first {found[0]}: mend that, then `lockhouse tenant revoke` again"
            )

    def _body(self, held: dict[str, Any]) -> dict[str, Any]:
        return {
            "tenant": self._stores.tenant,
            **held,
            "served": [one.name for one in self._stores.served],
            "issued_at": self._stores.clock().isoformat(timespec="seconds"),
            "remaining": list(_REMAINING),
        }
