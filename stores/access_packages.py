"""Packages: everything about a data subject in one ZIP file, sealed, until it is fetched or expires.

    packages/<tenant>/<request>.sealed      pieces: length 4 | envelope

Each package has a random key of its own, kept sealed with its request. Where the package expires, or its
subject is erased, the key goes first: no copy of the file opens after that.
"""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import sqlalchemy as sa
import uuid_utils

from stores.database import ACCESS_REQUESTS, Database
from stores.erasure_requests import DEADLINE
from stores.home import Home, written_whole
from stores.keys import TenantKeys
from transforms.errors import DecryptionError, GoneError, MissingError, NotYetError
from transforms.pii.ciphers import GCM_NONCE_BYTES
from transforms.pii.envelope import Place, open_sealed, seal

EXPIRES_AFTER = timedelta(days=7)
_PIECE_BYTES = 1 << 20
_KEY_BYTES = 32
_TABLE = "packages"


class PackageState(StrEnum):
    """How far an access request has come, or how it ended."""

    REQUESTED = "requested"
    READY = "ready"
    FAILED = "failed"
    EXPIRED = "expired"
    ERASED = "erased"


@dataclass(frozen=True)
class Wanted:
    """Whom a request is about, in clear: to be held in memory, and sealed when kept."""

    id: str
    domain: str


@dataclass(frozen=True)
class AccessRequest:
    """A request as it stands. `subject` is a keyed digest; `size_bytes` is the readable package's."""

    id: str
    tenant: str
    state: PackageState
    subject: str
    requested_by: str
    reason: str
    requested_at: str
    deadline: str
    pieces: int
    size_bytes: int
    files: int
    expires_at: str | None
    problem: str | None


class AccessPackages:
    """The access requests of one tenant, and their packages."""

    def __init__(
        self, tenant: str, home: Home, keys: TenantKeys, database: Database, clock: Callable[[], datetime]
    ) -> None:
        """Remember where they are kept; nothing is read yet."""
        self._tenant, self._folder, self._keys = tenant, home.packages / tenant, keys
        self._database, self._clock = database, clock

    def add(self, wanted: Wanted, digest: str, principal: str, reason: str) -> AccessRequest:
        """Enter a request; one of the same person about the same subject that waits is given instead."""
        for one in self.waiting():
            if (one.subject, one.requested_by) == (digest, principal):
                return one
        now, request_id = self._clock(), str(uuid_utils.uuid7())
        row = {
            "id": request_id,
            "tenant": self._tenant,
            "state": str(PackageState.REQUESTED),
            "subject": digest,
            "requested_by": principal,
            "reason": reason,
            "requested_at": now.isoformat(timespec="seconds"),
            "deadline": (now + DEADLINE).isoformat(timespec="seconds"),
            "changed_at": now.isoformat(timespec="seconds"),
            "work": self._sealed(request_id, "work", msgspec.msgpack.encode([wanted.id, wanted.domain])),
            **dict.fromkeys(("pieces", "size_bytes", "files"), 0),
        }
        with self._database.begin() as connection:
            connection.execute(ACCESS_REQUESTS.insert().values(**row))
        return self.find(request_id)

    def listing(self, digests: Collection[str] | None = None) -> list[AccessRequest]:
        """Give the requests, the oldest first; with digests those that are about one of them."""
        query = sa.select(ACCESS_REQUESTS).where(ACCESS_REQUESTS.c.tenant == self._tenant)
        found = [_read(row) for row in self._database.rows(query.order_by(ACCESS_REQUESTS.c.id))]
        return [one for one in found if digests is None or one.subject in digests]

    def waiting(self) -> list[AccessRequest]:
        """Give the requests whose package is still to be made."""
        return [one for one in self.listing() if one.state is PackageState.REQUESTED]

    def find(self, request_id: str) -> AccessRequest:
        """Give a request by its id.

        Raises: MissingError where there is none.
        """
        return _read(self._row(request_id))

    def wanted(self, request_id: str) -> Wanted:
        """Say whom a request that waits is about.

        Raises: DecryptionError where that is not known any more.
        """
        sealed = self._row(request_id)["work"]
        if sealed is None:
            raise DecryptionError("the request")
        return Wanted(*msgspec.msgpack.decode(self._opened(request_id, "work", sealed)))

    def make(self, request_id: str, files: Iterable[tuple[str, Iterable[bytes | memoryview]]]) -> AccessRequest:
        """Write the package of a request, in place of what a killed process left."""
        key = secrets.token_bytes(_KEY_BYTES)
        with written_whole(self._path(request_id)) as file:
            pieces = _SealedPieces(file, lambda at, plain: self._sealed_piece(request_id, key, at, plain))
            count = _write_archive(pieces, files)
            pieces.close()
        made = {"pieces": pieces.count, "size_bytes": pieces.size_bytes, "files": count, "work": None}
        ends = (self._clock() + EXPIRES_AFTER).isoformat(timespec="seconds")
        # The file counts from here on: before, nobody had its key.
        self._change(
            request_id, PackageState.READY, key=self._sealed(request_id, "key", key), expires_at=ends, **made
        )
        return self.find(request_id)

    def open(self, request_id: str) -> Iterator[memoryview]:
        """Give the bytes of a package, in clear, piece by piece.

        Raises: NotYetError where it is not ready; GoneError where it is gone; DecryptionError where a
        piece does not verify, or one is missing.
        """
        request, sealed = self.find(request_id), self._row(request_id)["key"]
        if request.state is PackageState.REQUESTED:
            raise NotYetError("the package is not made yet: ask again in a while")
        is_over = (
            request.expires_at is None or self._clock().isoformat(timespec="seconds") >= request.expires_at
        )
        if request.state is not PackageState.READY or sealed is None or is_over:
            raise GoneError("the package is gone: it has expired, or its subject was erased")
        file = self._path(request_id).open("rb")
        return self._pieces(file, request, self._opened(request_id, "key", sealed))

    def fail(self, request_id: str, problem: str) -> None:
        """Note that a package could not be made, and why."""
        self._change(request_id, PackageState.FAILED, problem=problem, work=None)

    def count(self, digests: Collection[str]) -> int:
        """Count the requests about subjects of which something is kept."""
        return len(self._kept(digests))

    def forget(self, digests: Collection[str]) -> int:
        """Destroy what is kept about subjects, packages that are still to be made too; give how many."""
        return self._end(self._kept(digests), PackageState.ERASED)

    def _kept(self, digests: Collection[str]) -> list[AccessRequest]:
        alive = (PackageState.REQUESTED, PackageState.READY)
        return [one for one in self.listing(digests) if one.state in alive]

    def expire(self) -> int:
        """Destroy the packages whose time is over, and what killed processes left; give how many."""
        now = self._clock().isoformat(timespec="seconds")
        over = [
            one for one in self.listing() if one.state is PackageState.READY and now >= (one.expires_at or "")
        ]
        known = {one.id for one in self.listing() if one.state in (PackageState.READY, PackageState.REQUESTED)}
        for path in self._folder.glob("*"):
            if path.name.partition(".")[0] not in known:
                path.unlink()
        return self._end(over, PackageState.EXPIRED)

    def _end(self, requests: Collection[AccessRequest], state: PackageState) -> int:
        for one in requests:
            self._change(one.id, state, work=None, key=None)
        if requests:
            # What was overwritten in the database must not stand in its log.
            self._database.settle()
        for one in requests:
            self._path(one.id).unlink(missing_ok=True)
            self._path(one.id).with_suffix(".part").unlink(missing_ok=True)
        return len(requests)

    def _pieces(self, file: BinaryIO, request: AccessRequest, key: bytes) -> Iterator[memoryview]:
        with file:
            for at in range(request.pieces):
                envelope = file.read(int.from_bytes(file.read(4), "big"))
                yield memoryview(open_sealed(envelope, key, self._piece_place(request.id, at)))

    def _sealed_piece(self, request_id: str, key: bytes, at: int, plain: bytes) -> bytes:
        nonce, place = secrets.token_bytes(GCM_NONCE_BYTES), self._piece_place(request_id, at)
        return seal(plain, key, self._keys.family_id(_TABLE), nonce, place)

    def _piece_place(self, request_id: str, at: int) -> bytes:
        return Place(self._tenant, _TABLE, "zip").of(f"{request_id}/{at}".encode())

    def _sealed(self, request_id: str, column: str, plain: bytes) -> bytes:
        place = Place(self._tenant, _TABLE, column).of(request_id.encode())
        key, nonce = self._keys.identity_key("package"), secrets.token_bytes(GCM_NONCE_BYTES)
        return seal(plain, key, self._keys.family_id(_TABLE), nonce, place)

    def _opened(self, request_id: str, column: str, sealed: bytes) -> bytes:
        place = Place(self._tenant, _TABLE, column).of(request_id.encode())
        return open_sealed(sealed, self._keys.identity_key("package"), place)

    def _change(self, request_id: str, state: PackageState, **values: object) -> None:
        now = self._clock().isoformat(timespec="seconds")
        with self._database.begin() as connection:
            change = sa.update(ACCESS_REQUESTS).where(self._is(request_id))
            connection.execute(change.values(state=str(state), changed_at=now, **values))

    def _row(self, request_id: str) -> dict[str, Any]:
        found = self._database.rows(sa.select(ACCESS_REQUESTS).where(self._is(request_id)))
        if not found:
            raise MissingError("no such access request")
        return found[0]

    def _is(self, request_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(ACCESS_REQUESTS.c.tenant == self._tenant, ACCESS_REQUESTS.c.id == request_id)

    def _path(self, request_id: str) -> Path:
        return self._folder / f"{request_id}.sealed"


class _SealedPieces:
    """What a ZIP file is written into: nothing of it reaches the disk before it is sealed."""

    def __init__(self, file: BinaryIO, seal_piece: Callable[[int, bytes], bytes]) -> None:
        self._file, self._seal, self._held = file, seal_piece, bytearray()
        self.count = self.size_bytes = 0

    def write(self, content: bytes | memoryview) -> int:
        self._held += content
        while len(self._held) >= _PIECE_BYTES:
            self._put(bytes(self._held[:_PIECE_BYTES]))
            del self._held[:_PIECE_BYTES]
        return len(content)

    def flush(self) -> None:
        """Do nothing: `close` writes the rest."""

    def close(self) -> None:
        """Write what is held."""
        if self._held:
            self._put(bytes(self._held))
            self._held.clear()

    def _put(self, plain: bytes) -> None:
        envelope = self._seal(self.count, plain)
        self._file.write(len(envelope).to_bytes(4, "big") + envelope)
        self.count += 1
        self.size_bytes += len(plain)


def _write_archive(target: _SealedPieces, files: Iterable[tuple[str, Iterable[bytes | memoryview]]]) -> int:
    """Write files into a ZIP file that is never sought in; give how many."""
    count = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, parts in files:
            described, count = zipfile.ZipInfo(name), count + 1
            described.compress_type, described.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            with archive.open(described, "w", force_zip64=True) as member:
                for part in parts:
                    member.write(part)
    return count


def _read(row: dict[str, Any]) -> AccessRequest:
    named = {name: row[name] for name in AccessRequest.__dataclass_fields__}
    return AccessRequest(**{**named, "state": PackageState(row["state"])})
