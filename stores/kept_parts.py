"""Kept parts: what a sender has uploaded lately, sealed, so that a file that changed little is sent little.

    parts/<tenant>/<keyed digest>.sealed      pieces: length 4 | envelope, under the key of the day

A part is known by a keyed digest of its sender and its content: nobody learns from an upload what others
have sent. Whose data a part holds is not known, so an erasure takes all of the tenant's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from stores.home import Home
from stores.sealing import Sealer
from transforms.errors import DecryptionError
from transforms.pii.ciphers import keyed_digest, keyed_digester

_PIECE_BYTES = 1 << 20
_TABLE = "uploads"
_RENEWED_FOR = timedelta(days=7)


class KeptParts:
    """The kept parts of one tenant. With no days to keep them, nothing is kept."""

    def __init__(self, home: Home, sealer: Sealer, days: int, clock: Callable[[], datetime]) -> None:
        """Remember where they lie; nothing is read yet."""
        self._folder, self._sealer = home.parts / sealer.keys.tenant, sealer
        self._lasts, self._clock = timedelta(days=days), clock

    def keep(self, principal: str, sha256: str, path: Path) -> None:
        """Seal a part that has come in, in place of an older one."""
        if not self._lasts:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest, day = self._digest(principal, sha256), self._clock().date()
        # The day that the key is of stands in front: the file's own time may be set by anybody who copies it.
        part = self._path(digest).with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:  # noqa: PTH123 - a mode
            target.write(day.isoformat().encode())
            for at, plain in enumerate(_blocks(path)):
                place = digest + at.to_bytes(4, "big")
                envelope = self._sealer.seal_for_day(_TABLE, "part", plain, day, place)
                target.write(len(envelope).to_bytes(4, "big") + envelope)
        part.replace(self._path(digest))

    def renew(self, principal: str, sha256: str) -> None:
        """Keep a part that was needed once more for as long again, up to a week after it was sealed."""
        path = self._path(self._digest(principal, sha256))
        now = self._clock()
        with suppress(FileNotFoundError), path.open("rb") as file:
            # Then it is sent, and sealed, anew: keys of days end with their retention.
            if now.date() - _sealed_on(file) < _RENEWED_FOR:
                os.utime(path, (now.timestamp(), now.timestamp()))

    def held(self, principal: str, digests: Collection[str]) -> set[str]:
        """Give those of a sender's parts that are kept."""
        if not self._lasts or not digests or not self._folder.is_dir():
            return set()
        there = {one.name for one in self._folder.iterdir()}
        name = keyed_digester(self._sealer.keys.identity_key("part"), principal.encode())
        paths = {one: self._folder / f"{name(bytes.fromhex(one)).hex()}.sealed" for one in digests}
        return {one for one, path in paths.items() if path.name in there and not self._is_over(path)}

    def open(self, principal: str, sha256: str) -> Iterator[bytes]:
        """Give a part's bytes, in clear, piece by piece.

        Raises: DecryptionError where a piece does not verify; a cut file is told by the whole's digest.
        """
        digest = self._digest(principal, sha256)
        with self._path(digest).open("rb") as file:
            day, at = _sealed_on(file), 0
            while size := file.read(4):
                place, envelope = digest + at.to_bytes(4, "big"), file.read(int.from_bytes(size, "big"))
                yield self._sealer.open_for_day(_TABLE, "part", envelope, day, place)
                at += 1

    def drop(self, principal: str, sha256: str) -> None:
        """Delete a part that does not open any more."""
        self._delete([self._path(self._digest(principal, sha256))])

    def count(self) -> int:
        """Count what is kept."""
        return len(list(self._folder.glob("*.sealed")))

    def expire(self) -> int:
        """Delete what is kept for too long, and what killed processes left; give how many."""
        return self._delete([path for path in self._folder.glob("*") if self._is_over(path)])

    def clear(self) -> int:
        """Delete all of it; give how many."""
        return self._delete(list(self._folder.glob("*")))

    def _delete(self, paths: list[Path]) -> int:
        for path in paths:
            with suppress(FileNotFoundError):
                path.unlink()
        return len(paths)

    def _digest(self, principal: str, sha256: str) -> bytes:
        return keyed_digest(self._sealer.keys.identity_key("part"), principal.encode(), bytes.fromhex(sha256))

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.sealed"

    def _is_over(self, path: Path) -> bool:
        with suppress(FileNotFoundError):
            written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            # A file that is being written is younger than any that is kept for days.
            return self._clock() >= written_at + max(self._lasts, timedelta(hours=1))
        return False


def _sealed_on(file: BinaryIO) -> date:
    """Read the day whose key sealed a part."""
    try:
        return date.fromisoformat(file.read(10).decode())
    except ValueError:
        raise DecryptionError("a kept part") from None


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_PIECE_BYTES):
            yield block
