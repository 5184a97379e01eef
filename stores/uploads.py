"""Uploads that can be resumed: parts by their content, joined and landed with one rename.

    landing/.uploads/<tenant>/<upload>/manifest.json    what was promised, then the batch it became
    landing/.uploads/<tenant>/parts/<sha256>            a part that has arrived, whole and checked

Parts lie in clear, so under landing only. A part that the tenant holds already is not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import uuid_utils

from stores.home import Home, written_whole
from stores.kept_parts import KeptParts
from stores.landing import Landing
from stores.locks import exclusive
from transforms.errors import (
    ConflictError,
    DecryptionError,
    MissingError,
    QuotaError,
    TooLargeError,
    UsageError,
)
from transforms.streams import is_compressed, plain_blocks

LARGEST_PART = 16 << 20
MOST_PARTS = 1000
# Unfinished uploads are in clear: they may not lie about for long.
ABANDONED_AFTER_S = 24 * 3600
_DIGEST = re.compile("[0-9a-f]{64}")
_UPLOAD = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COPY_BYTES = 1 << 20


class Digest(Protocol):
    """What hashlib gives."""

    def update(self, content: bytes, /) -> None:
        """Take more bytes."""
        ...

    def hexdigest(self) -> str:
        """Give the digest of all bytes."""
        ...


@dataclass(frozen=True)
class Part:
    """A part as it is promised: the digest and the size of what is stored, not of what is sent."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Upload:
    """What was promised. `batch` is set once it has landed; the device's id is then gone from here."""

    id: str
    tenant: str
    principal: str
    source: str
    device: str | None
    sha256: str
    size_bytes: int
    parts: tuple[Part, ...]
    batch: str | None = None


class Uploads:
    """The uploads of one tenant."""

    def __init__(
        self,
        tenant: str,
        home: Home,
        landing: Landing,
        kept: KeptParts,
        limit_bytes: int,
        quota_bytes: int,
    ) -> None:
        """Remember the folder; nothing is made yet."""
        self._tenant, self._landing, self._kept = tenant, landing, kept
        self._root = home.landing / ".uploads" / tenant
        self._parts = self._root / "parts"
        self._lock = home.locks / tenant / "uploads.lock"
        self._limit, self._quota = limit_bytes, quota_bytes

    def begin(
        self, principal: str, source: str, device: str | None, sha256: str, parts: Sequence[Part]
    ) -> Upload:
        """Promise a file by its parts.

        Raises: TooLargeError beyond the limits; QuotaError where the tenant has too much unfinished.
        """
        size = sum(one.size_bytes for one in parts)
        if not parts or len(parts) > MOST_PARTS or any(one.size_bytes > LARGEST_PART for one in parts):
            raise TooLargeError(f"an upload has 1 to {MOST_PARTS} parts of at most {LARGEST_PART} bytes")
        if size > self._limit:
            raise TooLargeError(f"an upload has at most {self._limit} bytes")
        if not all(_DIGEST.fullmatch(one) for one in (sha256, *(part.sha256 for part in parts))):
            raise UsageError("a digest is SHA-256 in 64 lower-case hexadecimal digits")
        upload = Upload(
            str(uuid_utils.uuid7()), self._tenant, principal, source, device, sha256, size, tuple(parts)
        )
        with self._held():
            self.sweep()
            if sum(one.size_bytes for one in self._open()) + size > self._quota:
                raise QuotaError("too many bytes of unfinished uploads: finish one, or wait", 60)
            self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self._root / upload.id).mkdir(mode=0o700)
            self._write(upload)
        return upload

    def find(self, upload_id: str, principal: str) -> Upload:
        """Give an upload of this principal.

        Raises: MissingError where there is none.
        """
        path = self._root / upload_id / "manifest.json"
        if not _UPLOAD.fullmatch(upload_id) or not path.exists():
            raise MissingError("no such upload")
        found = _read(path)
        if found.principal != principal:
            raise MissingError("no such upload")
        return found

    def missing(self, upload: Upload) -> list[int]:
        """Give the numbers of the parts that have to be sent, from 0."""
        if upload.batch is not None:
            return []
        # A look into each folder, not one for each part: this is asked once a part, of hundreds of parts.
        with contextlib.suppress(FileNotFoundError):
            here = {one.name for one in self._parts.iterdir()}
            wanted = {one.sha256 for one in upload.parts} - here
            here |= self._kept.held(upload.principal, wanted)
            return [at for at, one in enumerate(upload.parts) if one.sha256 not in here]
        return list(range(len(upload.parts)))

    @contextmanager
    def receiving(self, upload: Upload, number: int) -> Iterator[BinaryIO]:
        """Give a file for a part's bytes as they are sent; plain, gzip or zstd. It counts once it is checked.

        Raises: MissingError where no such part was promised; ConflictError where it is another.
        """
        if not 0 <= number < len(upload.parts):
            raise MissingError("no such part was promised")
        part, draft = upload.parts[number], self._parts / f".{secrets.token_hex(8)}"
        try:
            with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:  # noqa: PTH123 - a mode
                yield file
                file.flush()
                self._settle(file, draft, part)
        finally:
            draft.unlink(missing_ok=True)

    def _settle(self, file: BinaryIO, draft: Path, part: Part) -> None:
        """Check a part and give it its name; what was compressed for the way is expanded, within bounds."""
        file.seek(0)
        if _digest_of(file) != part.sha256:
            file.seek(0)
            if not is_compressed(file.read(4)):
                raise ConflictError("the part is not the one that was promised")
            _expand(draft, file, part)
        os.fsync(file.fileno())
        draft.replace(self._parts / part.sha256)

    def complete(self, upload: Upload) -> str:
        """Join the parts, check the whole and land it; gives the batch. Done again, it changes nothing.

        Raises: ConflictError where parts are missing, or the whole is not what was promised.
        """
        with self._held():
            upload = _read(self._root / upload.id / "manifest.json")
            if upload.batch is not None:
                return upload.batch
            if self.missing(upload):
                raise ConflictError(f"{len(self.missing(upload))} part(s) are missing: send them first")
            whole = self._root / upload.id / "whole"
            self._join(upload, whole)
            batch = self._landing.take_in(
                upload.source, upload.tenant, whole, f"upload-{upload.id}", upload.device
            )
            self._keep_parts(upload)
            # From here on the device's id and the digests of its content are nobody's to read.
            self._write(replace(upload, batch=batch.id, device=None, sha256="", parts=()))
            self._drop_parts(upload)
            return batch.id

    def sweep(self) -> int:
        """Remove uploads that nobody went on with, and parts that no upload needs; give how many uploads."""
        gone = 0
        self._kept.expire()
        for folder in self._root.glob("*-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - (folder / "manifest.json").stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(folder)
                    gone += 1
        if gone:
            needed = {part.sha256 for one in self._open() for part in one.parts}
            for path in self._parts.glob("*"):
                if path.name not in needed:
                    path.unlink(missing_ok=True)
        return gone

    def _join(self, upload: Upload, whole: Path) -> None:
        digest = hashlib.sha256()
        with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:  # noqa: PTH123 - a mode
            for part in upload.parts:
                for block in self._blocks(upload, part):
                    digest.update(block)
                    target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != upload.sha256:
            whole.unlink()
            raise ConflictError("the parts are whole, but joined they are not the file that was promised")

    def _blocks(self, upload: Upload, part: Part) -> Iterator[bytes]:
        path = self._parts / part.sha256
        if not path.exists():
            try:
                yield from self._kept.open(upload.principal, part.sha256)
            except (DecryptionError, FileNotFoundError):
                self._kept.drop(upload.principal, part.sha256)
                raise ConflictError("a part that was kept is gone: send the missing ones") from None
            return
        with path.open("rb") as source:
            while block := source.read(_COPY_BYTES):
                yield block

    def _keep_parts(self, upload: Upload) -> None:
        """Seal the parts that were sent, and keep those on that were kept already."""
        for digest in {part.sha256 for part in upload.parts}:
            if (self._parts / digest).exists():
                self._kept.keep(upload.principal, digest, self._parts / digest)
            else:
                self._kept.renew(upload.principal, digest)

    def _drop_parts(self, upload: Upload) -> None:
        needed = {part.sha256 for one in self._open() for part in one.parts}
        for part in upload.parts:
            if part.sha256 not in needed:
                (self._parts / part.sha256).unlink(missing_ok=True)

    def _open(self) -> list[Upload]:
        found = [_read(path) for path in self._root.glob("*-*/manifest.json")]
        return [one for one in found if one.batch is None]

    def _write(self, upload: Upload) -> None:
        path = self._root / upload.id / "manifest.json"
        with written_whole(path) as file:
            file.write(json.dumps(asdict(upload)).encode())

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(self._lock):
            yield


def _read(path: Path) -> Upload:
    stored = json.loads(path.read_text())
    parts = tuple(Part(**one) for one in stored.pop("parts"))
    return Upload(**stored, parts=parts)


def _digest_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_COPY_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _expand(draft: Path, file: BinaryIO, part: Part) -> None:
    """Put the plain bytes of a compressed part in its place: no more than were promised."""
    digest, pieces = hashlib.sha256(), []
    # Opened once more, since the decoder closes what it has read.
    with draft.open("rb") as packed:
        for block in plain_blocks(packed, part.size_bytes):
            digest.update(block)
            pieces.append(block)
    if digest.hexdigest() != part.sha256:
        raise ConflictError("the part is not the one that was promised")
    file.seek(0)
    file.truncate()
    file.writelines(pieces)
    file.flush()
