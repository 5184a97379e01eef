"""The home: one folder with all state, and where in it each thing lies."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from transforms.errors import UsageError

# So much is read at a time: few calls, and what was read is near the processor when it is hashed.
_READ_BYTES = 256 << 10
TENANT = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")


@dataclass(frozen=True)
class Home:
    """Paths of a home. Readable personal data may lie under `landing` only."""

    root: Path

    @property
    def landing(self) -> Path:
        """Files as they arrive, and batches on their way: the only readable place."""
        return self.root / "landing"

    @property
    def lake(self) -> Path:
        """Delta tables: `<tenant>/<zone>/<table>`."""
        return self.root / "lake"

    @property
    def keys(self) -> Path:
        """The keyring and the tenants' subject keys."""
        return self.root / "keys"

    @property
    def keyring(self) -> Path:
        """The file of the root keys."""
        return self.keys / "keyring.json"

    @property
    def passphrase(self) -> Path:
        """The generated passphrase of an unattended home."""
        return self.keys / "passphrase"

    @property
    def database(self) -> Path:
        """The embedded application database."""
        return self.root / "lockhouse.db"

    @property
    def validations(self) -> Path:
        """The two stores of the validations, and the queues of their events: sealed, all of it."""
        return self.root / "validations"

    @property
    def checkpoints(self) -> Path:
        """Signed heads of the audit chains."""
        return self.root / "audit"

    @property
    def exports(self) -> Path:
        """Sealed capture files that were asked for, kept for some days."""
        return self.root / "exports"

    @property
    def parts(self) -> Path:
        """Sealed parts of late uploads, so that a file that changed little is sent little."""
        return self.root / "parts"

    @property
    def packages(self) -> Path:
        """Sealed answers to access requests, kept for some days."""
        return self.root / "packages"

    @property
    def certificates(self) -> Path:
        """Certificates of erasures: `<tenant>/<request>.json`."""
        return self.root / "certificates"

    @property
    def dagster(self) -> Path:
        """Dagster's own storage."""
        return self.root / "dagster"

    @property
    def dbt(self) -> Path:
        """What dbt writes while it runs."""
        return self.root / "dbt"

    @property
    def tmp(self) -> Path:
        """Temporary files of our own and of the libraries."""
        return self.root / "tmp"

    @property
    def locks(self) -> Path:
        """Files that exist only to be locked."""
        return self.root / "locks"

    def tenant_lock(self, tenant: str) -> Path:
        """Give the lock that a batch shares and an erasure holds alone."""
        return self.locks / tenant / "tenant.lock"

    def seen(self, tenant: str, source: str) -> Path:
        """Give the folder of a source's seen-event index: a file a day."""
        return self.lake / tenant / "seen" / source

    def queue(self, source: str, tenant: str) -> Path:
        """Give the file of an embedded queue; its messages are readable, so it lies below landing."""
        return self.landing / ".queues" / f"{source}-{tenant}.db"

    def make(self) -> None:
        """Create the folders, for their owner only."""
        folders = (self.landing, self.lake, self.keys, self.checkpoints, self.dagster, self.dbt, self.tmp)
        for folder in (self.root, *folders, self.validations, self.locks):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def checked_tenant(tenant: str) -> str:
    """Give the tenant's name back.

    Raises: UsageError where it is no name that may stand in a path and in an audit entry.
    """
    if not TENANT.match(tenant):
        raise UsageError(f"a tenant's name is lower-case letters, digits and dashes ({TENANT.pattern})")
    return tenant


def sha256_of(path: Path) -> bytes:
    """Give the SHA-256 of a file, for whoever checks it with a tool of their own."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def blake3_of(path: Path) -> bytes:
    """Give the BLAKE3 digest of a file, 32 bytes, in well under half of the time of SHA-256.

    On one thread: who has more cores takes in more files at once.
    """
    # Not by a map of the file: whoever cuts it short meanwhile would end the process.
    hasher, buffer = blake3(max_threads=1), memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.digest()


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, for its owner only, that takes its name once it is whole and on disk.

    What a killed process left of an earlier try makes room; where the block fails, nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
