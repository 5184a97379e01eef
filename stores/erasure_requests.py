"""Requests to erase data subjects: their states and deadlines, and what is still to do.

Whom a request is about is sealed under a key of the tenant's identity, and goes when the certificate
is written: of a request that is done, only keyed digests remain.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa
import uuid_utils

from stores.data_subjects import Subject, subject_of, subject_record
from stores.database import ERASURES, Database
from stores.keys import TenantKeys
from transforms.errors import UsageError
from transforms.pii.ciphers import GCM_NONCE_BYTES
from transforms.pii.envelope import Place, open_sealed, seal

# GDPR, article 12 (3): without undue delay, and within one month.
DEADLINE = timedelta(days=30)
_PLACE = ("erasures", "work")


class ErasureState(StrEnum):
    """How far an erasure has come; each state says what is done, for good."""

    REQUESTED = "requested"
    KEY_DESTROYED = "key_destroyed"
    LOCATED = "located"
    ROWS_DELETED = "rows_deleted"
    SCANNED = "scanned"
    CERTIFIED = "certified"


ORDER = tuple(ErasureState)


@dataclass
class Work:
    """What a request is about, in clear: to be held in memory, and sealed when kept.

    `places` are what was found before anything was deleted, by table or copy.
    """

    subjects: list[Subject]
    places: dict[str, Any] = field(default_factory=dict)


@dataclass
class Erasure:
    """A request as it stands. `subjects` are keyed digests; `progress` holds names of files and counts."""

    id: str
    tenant: str
    state: ErasureState
    subjects: list[str]
    requested_by: str
    reason: str
    requested_at: str
    deadline: str
    progress: dict[str, Any]
    certificate: str | None
    work: Work | None

    def has_come_to(self, state: ErasureState) -> bool:
        """Whether a state was reached."""
        return ORDER.index(self.state) >= ORDER.index(state)


class ErasureRequests:
    """The erasure requests of one tenant."""

    def __init__(
        self, tenant: str, keys: TenantKeys, database: Database, clock: Callable[[], datetime]
    ) -> None:
        """Remember where they are kept; nothing is read yet."""
        self._tenant, self._keys, self._database, self._clock = tenant, keys, database, clock

    def add(self, subjects: Sequence[Subject], digests: Sequence[str], principal: str, reason: str) -> Erasure:
        """Enter a request; the one that is open for the same subjects is given instead."""
        for one in self.unfinished():
            if set(digests) <= set(one.subjects):
                return one
        now = self._clock()
        request = Erasure(
            str(uuid_utils.uuid7()),
            self._tenant,
            ErasureState.REQUESTED,
            list(digests),
            principal,
            reason,
            now.isoformat(timespec="seconds"),
            (now + DEADLINE).isoformat(timespec="seconds"),
            {"at": {ErasureState.REQUESTED: now.isoformat(timespec="milliseconds")}},
            None,
            Work(list(subjects)),
        )
        with self._database.begin() as connection:
            connection.execute(ERASURES.insert().values(**self._row(request)))
        return request

    def save(self, request: Erasure, state: ErasureState | None = None) -> None:
        """Keep a request as it stands, with the time at which it came to a new state."""
        if state is not None and state is not request.state:
            request.state = state
            request.progress.setdefault("at", {})[state] = self._clock().isoformat(timespec="milliseconds")
        with self._database.begin() as connection:
            change = sa.update(ERASURES).where(ERASURES.c.id == request.id)
            connection.execute(change.values(**self._row(request)))

    def close(self, request: Erasure) -> None:
        """Note that a request is certified, and forget whom it is about."""
        request.work = None
        self.save(request, ErasureState.CERTIFIED)
        self._database.settle()

    def listing(self, digests: Sequence[str] | None = None) -> list[Erasure]:
        """Give the requests, the oldest first; with digests those that are about one of them."""
        query = sa.select(ERASURES).where(ERASURES.c.tenant == self._tenant).order_by(ERASURES.c.id)
        found = [self._read(row) for row in self._database.rows(query)]
        return [one for one in found if digests is None or set(digests) & set(one.subjects)]

    def unfinished(self) -> list[Erasure]:
        """Give the requests that are not certified yet."""
        return [one for one in self.listing() if one.state is not ErasureState.CERTIFIED]

    def find(self, request_id: str) -> Erasure:
        """Give a request by its id.

        Raises: UsageError where there is none.
        """
        found = [one for one in self.listing() if one.id == request_id]
        if not found:
            raise UsageError("no such request", see="lockhouse subject status")
        return found[0]

    def _row(self, request: Erasure) -> dict[str, Any]:
        return {
            "id": request.id,
            "tenant": request.tenant,
            "state": str(request.state),
            "subjects": json.dumps(request.subjects),
            "requested_by": request.requested_by,
            "reason": request.reason,
            "requested_at": request.requested_at,
            "deadline": request.deadline,
            "changed_at": self._clock().isoformat(timespec="seconds"),
            "progress": json.dumps(request.progress),
            "certificate": request.certificate,
            "work": None if request.work is None else self._sealed(request.id, request.work),
        }

    def _read(self, row: dict[str, Any]) -> Erasure:
        return Erasure(
            row["id"],
            row["tenant"],
            ErasureState(row["state"]),
            json.loads(row["subjects"]),
            row["requested_by"],
            row["reason"],
            row["requested_at"],
            row["deadline"],
            json.loads(row["progress"]),
            row["certificate"],
            None if row["work"] is None else self._opened(row["id"], row["work"]),
        )

    def _sealed(self, request_id: str, work: Work) -> bytes:
        plain = {"subjects": [subject_record(one) for one in work.subjects], "places": work.places}
        key, place = self._keys.identity_key("erasure"), Place(self._tenant, *_PLACE).of(request_id.encode())
        nonce = secrets.token_bytes(GCM_NONCE_BYTES)
        return seal(msgspec.msgpack.encode(plain), key, self._keys.family_id("erasures"), nonce, place)

    def _opened(self, request_id: str, sealed: bytes) -> Work:
        key, place = self._keys.identity_key("erasure"), Place(self._tenant, *_PLACE).of(request_id.encode())
        plain = msgspec.msgpack.decode(open_sealed(sealed, key, place))
        return Work([subject_of(one) for one in plain["subjects"]], plain["places"])
