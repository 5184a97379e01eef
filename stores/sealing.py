"""Sealing and opening with a tenant's keys: under a subject's where one is known, else under the day's."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from stores.keyring import KeyProvider
from stores.keys import TenantKeys
from stores.sealing_room import SealingRoom
from stores.subjects import SubjectKeys
from transforms.pii.ciphers import GCM_NONCE_BYTES
from transforms.pii.envelope import (
    Octets,
    Place,
    open_many,
    open_sealed,
    seal,
    seal_column,
    seal_many,
)
from transforms.pii.large_values import largest_sealed_bytes, open_large, seal_large

_SUBJECTS = "subjects"
_QUARANTINE = "quarantine"


class Sealer:
    """Seals for one tenant."""

    def __init__(self, keys: TenantKeys, subjects: SubjectKeys) -> None:
        """Remember the tenant's keys."""
        self.keys, self.subjects = keys, subjects

    @classmethod
    def of(cls, tenant: str, provider: KeyProvider, folder: Path) -> Sealer:
        """Give a tenant's sealer; `folder` holds the tables of subject keys."""
        keys = TenantKeys(tenant, provider)
        return cls(keys, SubjectKeys(folder, keys))

    def seal_for_subjects(
        self,
        table: str,
        column: str,
        values: Sequence[bytes | memoryview],
        subject_keys: Sequence[bytes],
        record_ids: Sequence[bytes],
    ) -> list[bytes]:
        """Seal a column, each value under its own subject's key. Record ids have 16 bytes each."""
        return seal_many(values, subject_keys, *self._parts(table, column, record_ids))

    def seal_large_for_subjects(
        self,
        table: str,
        column: str,
        values: Sequence[bytes | memoryview],
        subject_keys: Sequence[bytes],
        record_ids: Sequence[bytes],
        room: SealingRoom,
    ) -> list[memoryview]:
        """Seal as `seal_for_subjects` does, for values of some size, into `room`."""
        offered = room.offer(largest_sealed_bytes(values))
        sealed = seal_large(values, subject_keys, *self._parts(table, column, record_ids), offered)
        room.keep(sum(map(len, sealed)))
        return sealed

    def seal_column_for_subjects(
        self,
        table: str,
        column: str,
        values: Iterable[bytes | memoryview],
        subject_keys: Sequence[bytes],
        runs: Sequence[int],
        record_ids: Octets,
    ) -> pa.ChunkedArray[Any]:
        """Seal as `seal_for_subjects` does, into an Arrow column.

        Each subject's key seals a run of so many values. Record ids are a row of 16 bytes each.
        """
        nonces = secrets.token_bytes(GCM_NONCE_BYTES * len(record_ids))
        place, key_id = Place(self.keys.tenant, table, column), self.keys.family_id(_SUBJECTS)
        return seal_column(values, subject_keys, runs, key_id, nonces, place, record_ids)

    def _parts(self, table: str, column: str, record_ids: Sequence[bytes]) -> tuple[bytes, bytes, list[bytes]]:
        """Give the key id, a nonce for each value, and each one's place."""
        nonces = secrets.token_bytes(GCM_NONCE_BYTES * len(record_ids))
        places = Place(self.keys.tenant, table, column).of_each(record_ids)
        return self.keys.family_id(_SUBJECTS), nonces, places

    def open_for_subjects(
        self,
        table: str,
        column: str,
        envelopes: Sequence[bytes | memoryview],
        subject_keys: Sequence[bytes],
        record_ids: Sequence[bytes],
    ) -> list[bytes]:
        """Open what `seal_for_subjects` sealed.

        Raises: DecryptionError where one value does not verify.
        """
        places = Place(self.keys.tenant, table, column).of_each(record_ids)
        return open_many(envelopes, subject_keys, places)

    def open_large_for_subject(
        self, table: str, column: str, envelope: memoryview, key: bytes, record_id: bytes, room: memoryview
    ) -> memoryview:
        """Open one value of some size; `room` is used for a moment, and as large as the envelope.

        Raises: DecryptionError where it does not verify.
        """
        place = Place(self.keys.tenant, table, column).of(record_id)
        return open_large(envelope, key, place, room)

    def seal_for_day(self, table: str, column: str, value: bytes, day: date, record_id: bytes) -> bytes:
        """Seal what belongs to no known subject under the key of its day."""
        key = self.subjects.day_key(day, create=True)
        place = Place(self.keys.tenant, table, column).of(record_id)
        return seal(value, key, self.keys.family_id(_QUARANTINE), secrets.token_bytes(GCM_NONCE_BYTES), place)

    def open_for_day(self, table: str, column: str, envelope: bytes, day: date, record_id: bytes) -> bytes:
        """Open what `seal_for_day` sealed.

        Raises: DecryptionError where it does not verify, or the day's key is gone.
        """
        place = Place(self.keys.tenant, table, column).of(record_id)
        return open_sealed(envelope, self.subjects.day_key(day), place)
