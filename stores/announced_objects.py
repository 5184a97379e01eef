"""Objects that a bucket announced: fetched into landing as files, each once.

    landing/<source>/<tenant>/.object-<sent>-<id>.part   being fetched
    landing/<source>/<tenant>/object-<sent>-<id>         whole; the intake tells by content what it is

An object is written down when it has landed, and its message is confirmed after that. Whoever is killed
in between fetches it again, and the intake knows the file by its digest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uuid_utils

from stores.aws import open_object, reduced
from stores.database import OBJECTS, Database
from stores.home import sync
from transforms.notifications import AnnouncedObject, Fault, read_notification
from transforms.pii.identities import announced_digest

_BLOCK_BYTES = 4 << 20
# SQS keeps a message for 14 days at most, and a dead letter as long again.
_REMEMBERED = timedelta(days=60)


@dataclass(frozen=True)
class ObjectLimits:
    """Which buckets are read, and how large an object may be."""

    buckets: tuple[str, ...]
    size_bytes: int


class AnnouncedObjects:
    """Fetches what the messages of one queue announce, for a source and tenant."""

    def __init__(
        self,
        folder: Path,
        scope: tuple[str, str],
        key: Callable[[], bytes],
        database: Callable[[], Database],
        connect: Callable[[], Any],
        limits: ObjectLimits,
        clock: Callable[[], datetime],
    ) -> None:
        """Remember where files land, and whose they are (source, tenant); nothing is connected yet."""
        self._folder, self._limits, self._clock = folder, limits, clock
        self._source, self._tenant = scope
        self._key, self._database, self._connect = key, database, connect

    def land(self, body: str, sent_at: float, keep: Callable[[], object]) -> Fault | None:
        """Fetch every object of a message that did not land before; give what is wrong with the message.

        `keep` is called while a large object comes in, so that the message stays ours.

        Raises: QueueError where the bucket does not answer or refuses: the message shall come again.
        """
        try:
            announced = read_notification(body)
        except ValueError:
            return Fault.UNREADABLE
        if any(one.bucket not in self._limits.buckets for one in announced):
            # Before anything is fetched: whoever may write to the queue must not choose what we read.
            return Fault.OTHER_BUCKET
        faults = [self._land_one(one, sent_at, keep) for one in announced]
        return next((fault for fault in faults if fault is not None), None)

    def _land_one(self, one: AnnouncedObject, sent_at: float, keep: Callable[[], object]) -> Fault | None:
        digest = announced_digest(self._key(), one.parts).hex()
        if self._is_known(digest):
            return None
        name = f"object-{max(int(sent_at * 1000), 0)}-{uuid_utils.uuid7()}"
        part = self._folder / f".{name}.part"
        try:
            fault = self._fetch(one, part, keep)
            if fault is None:
                part.rename(self._folder / name)
                sync(self._folder)
                self._write_down(digest)
        finally:
            part.unlink(missing_ok=True)
        return fault

    def _fetch(self, one: AnnouncedObject, part: Path, keep: Callable[[], object]) -> Fault | None:
        with reduced("give its object"):
            answer = open_object(self._client, one.bucket, one.key, one.version)
            if answer is None:
                return Fault.GONE
            if answer["ContentLength"] > self._limits.size_bytes:
                answer["Body"].close()
                return Fault.TOO_LARGE
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                kept = time.monotonic()
                for block in answer["Body"].iter_chunks(_BLOCK_BYTES):
                    file.write(block)
                    if time.monotonic() - kept > 1:
                        keep()
                        kept = time.monotonic()
                file.flush()
                os.fsync(file.fileno())
        return None

    def forget_old(self) -> None:
        """Forget objects whose messages no queue keeps any more, dead letters included."""
        before = (self._clock() - _REMEMBERED).isoformat(timespec="seconds")
        mine = sa.and_(OBJECTS.c.tenant == self._tenant, OBJECTS.c.source == self._source)
        with self._database().begin() as connection:
            connection.execute(sa.delete(OBJECTS).where(mine, OBJECTS.c.landed_at < before))

    def _is_known(self, digest: str) -> bool:
        query = sa.select(OBJECTS.c.digest).where(
            OBJECTS.c.tenant == self._tenant, OBJECTS.c.source == self._source, OBJECTS.c.digest == digest
        )
        return bool(self._database().rows(query))

    def _write_down(self, digest: str) -> None:
        landed_at = self._clock().isoformat(timespec="seconds")
        row = {"tenant": self._tenant, "source": self._source, "digest": digest, "landed_at": landed_at}
        with self._database().begin() as connection:
            connection.execute(OBJECTS.insert().values(**row))

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - boto3's clients have no types
        return self._connect()
