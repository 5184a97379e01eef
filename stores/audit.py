"""The audit trail as it is kept: appended in the application database, its heads signed elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from stores.database import AUDIT, AUDIT_CHECKPOINTS, Database
from stores.keyring import KeyProvider
from transforms.audit import (
    GENESIS,
    Action,
    Checkpoint,
    Entry,
    Outcome,
    canonical_json,
    entry_hash,
    first_bad,
    verify_checkpoint,
)
from transforms.errors import AuditError
from transforms.pii.ciphers import sign, signing_public_key

# A head is signed after this many entries, so that a cut tail is short; and whenever asked.
CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class Verdict:
    """What a verification found. `first_bad` is None where every entry and checkpoint holds."""

    ok: bool
    rows: int
    checkpoints: int
    first_bad: int | None
    problem: str | None


class AuditTrail:
    """A trail a tenant. An entry is durable when `record` returns."""

    def __init__(
        self, database: Database, provider: KeyProvider, checkpoints: Path, clock: Callable[[], datetime]
    ) -> None:
        """Remember where entries, and copies of signed heads, go."""
        self._database, self._provider = database, provider
        self._checkpoints, self._clock = checkpoints, clock
        self._sync_after_s: float | None = None
        self._waiting = threading.Lock()
        newest = sa.select(AUDIT.c.seq, AUDIT.c.hash).where(AUDIT.c.tenant == sa.bindparam("tenant"))
        self._newest = database.compile(newest.order_by(AUDIT.c.seq.desc()).limit(1))
        self._insert = database.compile(AUDIT.insert())

    def sync_later(self, after_s: float) -> None:
        """Let entries that allow nothing be synced together, so much later.

        An entry that allows something is synced, with all before it, before `record` returns: nothing is
        disclosed that the trail could forget. The others outlive a killed process, and may be lost with
        the power: how an act ended, and requests that came to nothing.
        """
        self._sync_after_s = after_s

    def record(
        self, tenant: str, principal: str, action: Action, outcome: Outcome, **parameters: str | int | None
    ) -> Entry:
        """Append an entry. `parameters` hold names, counts and pseudonyms; never a personal value."""
        is_synced = self._sync_after_s is None or outcome is Outcome.ALLOWED
        with self._database.begin(is_synced) as connection:
            head = self._head(connection, tenant)
            entry = _linked(
                Entry(
                    tenant,
                    head[0] + 1,
                    self._now(),
                    principal,
                    str(action),
                    str(outcome),
                    canonical_json(parameters),
                    head[1],
                    "",
                )
            )
            self._insert(connection, **vars(entry))
        if not is_synced:
            self._sync_soon()
        if entry.seq % CHECKPOINT_EVERY == 0:
            self.checkpoint(tenant)
        return entry

    def entries(self, tenant: str, limit: int | None = None) -> list[Entry]:
        """Give a tenant's entries, oldest first; with a limit the latest ones."""
        query = sa.select(AUDIT).where(AUDIT.c.tenant == tenant).order_by(AUDIT.c.seq.desc()).limit(limit)
        return [Entry(**row) for row in reversed(self._database.rows(query))]

    def page(self, tenant: str, before: int | None, limit: int, principal: str | None = None) -> list[Entry]:
        """Give a tenant's entries older than `before`, the latest first; those of one principal where named."""
        query = sa.select(AUDIT).where(AUDIT.c.tenant == tenant).order_by(AUDIT.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(AUDIT.c.seq < before)
        if principal is not None:
            query = query.where(AUDIT.c.principal == principal)
        return [Entry(**row) for row in self._database.rows(query)]

    def tenants(self) -> list[str]:
        """Give the tenants that have a trail."""
        return [row["tenant"] for row in self._database.rows(sa.select(AUDIT.c.tenant).distinct())]

    def checkpoint(self, tenant: str) -> Checkpoint | None:
        """Sign the head of a chain and keep it in the database and in a file beside it."""
        with self._database.begin() as connection:
            seq, head = self._head(connection, tenant)
            if seq == 0 or self._is_signed(connection, tenant, seq):
                return None
            unsigned = Checkpoint(tenant, seq, head, self._now(), "")
            signature = sign(self._provider.signing_key(), unsigned.message()).hex()
            signed = Checkpoint(tenant, seq, head, unsigned.at, signature)
            connection.execute(AUDIT_CHECKPOINTS.insert().values(**asdict(signed)))
        self._copy_out(signed)
        return signed

    def verify(self, tenant: str) -> Verdict:
        """Verify a tenant's chain and every signed head of it, from the database and from the files."""
        entries = self.entries(tenant)
        bad = first_bad(entries)
        heads = {entry.seq: entry.hash for entry in entries}
        try:
            signed = self._signed_heads(tenant)
        except AuditError as error:
            return Verdict(False, len(entries), 0, bad or len(entries) + 1, str(error))
        public_key = signing_public_key(self._provider.signing_key())
        for checkpoint in signed:
            try:
                verify_checkpoint(checkpoint, heads, public_key)
            except AuditError as error:
                place = min(bad or checkpoint.seq, checkpoint.seq)
                return Verdict(False, len(entries), len(signed), place, str(error))
        problem = None if bad is None else f"entry {bad} is missing, moved or altered"
        return Verdict(bad is None, len(entries), len(signed), bad, problem)

    def _now(self) -> str:
        return self._clock().isoformat(timespec="microseconds")

    def _head(self, connection: sa.Connection, tenant: str) -> tuple[int, str]:
        return next(iter(self._newest(connection, tenant=tenant)), (0, GENESIS))

    def _sync_soon(self) -> None:
        """Sync once for all entries that come until then."""
        if self._waiting.acquire(blocking=False):
            timer = threading.Timer(self._sync_after_s or 0, self._sync)
            timer.daemon = True
            timer.start()

    def _sync(self) -> None:
        # Released first: an entry that comes while the disk is busy asks for a sync of its own.
        self._waiting.release()
        self._database.sync()

    def _is_signed(self, connection: sa.Connection, tenant: str, seq: int) -> bool:
        query = sa.select(AUDIT_CHECKPOINTS.c.seq).where(
            AUDIT_CHECKPOINTS.c.tenant == tenant, AUDIT_CHECKPOINTS.c.seq == seq
        )
        return connection.execute(query).first() is not None

    def _copy_out(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._checkpoints / f"{checkpoint.tenant}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(checkpoint)) + "\n")

    def _signed_heads(self, tenant: str) -> list[Checkpoint]:
        query = sa.select(AUDIT_CHECKPOINTS).where(AUDIT_CHECKPOINTS.c.tenant == tenant)
        found = [Checkpoint(**row) for row in self._database.rows(query)]
        path = self._checkpoints / f"{tenant}.jsonl"
        if path.exists():
            found += [_loaded(line) for line in path.read_text(errors="replace").splitlines()]
        return sorted(set(found), key=lambda one: one.seq)


def _loaded(line: str) -> Checkpoint:
    try:
        loaded = Checkpoint(**json.loads(line))
    except (ValueError, TypeError):
        raise AuditError("a line of the checkpoint file is damaged") from None
    if not isinstance(loaded.seq, int):
        raise AuditError("a line of the checkpoint file is damaged")
    return loaded


def _linked(entry: Entry) -> Entry:
    return replace(entry, hash=entry_hash(entry))
