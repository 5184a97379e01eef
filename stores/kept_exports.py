"""Kept exports: the capture file of a device and hour, sealed, for some days.

    exports/<tenant>/<device ref>/<hour>.sealed      pieces: subject 16 | length 4 | envelope

Each piece is sealed under the key of who had the device at its time: erasing that person takes the
copy along. It is opened by an authorised, audited download only.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stores.capture_exports import LONGEST, CaptureExports, Plan
from stores.devices import Device, Devices
from stores.home import Home, sync
from stores.locks import shared
from stores.sealing import Sealer
from transforms.capture.exports import Whole, write_packets
from transforms.errors import UsageError
from transforms.pii.ciphers import keyed_digest

EXPIRES_AFTER = timedelta(days=7)
_SUBJECT_BYTES = 16
_PLACE = "captures.pcap"


@dataclass(frozen=True)
class Kept:
    """What was kept: the size and the keyed digest are of the readable file, the minutes since 1970."""

    packets: int
    size_bytes: int
    format: str
    digest: str
    minutes: dict[int, int]
    files: tuple[dict[str, Any], ...]
    expires_at: datetime


class KeptExports:
    """The kept exports of one tenant."""

    def __init__(
        self,
        tenant: str,
        home: Home,
        exports: CaptureExports,
        sealer: Sealer,
        devices: Devices,
        clock: Callable[[], datetime],
    ) -> None:
        """Remember the stores; nothing is read yet."""
        self._folder, self._lock = home.exports / tenant, home.tenant_lock(tenant)
        self._exports, self._sealer, self._devices, self._clock = exports, sealer, devices, clock

    def keep(self, device_ref: str, hour: str) -> Kept:
        """Make the sealed capture file of a device and hour, in place of an older one.

        Raises: UsageError where there is no such device, or no such hour.
        """
        device = self._device(device_ref)
        since = hour_start(hour)
        path = self._path(device_ref, hour)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(".part")
        # An erasure would otherwise look for copies while this one is not there yet.
        with shared(self._lock), self._planned(device, since) as plan, part.open("wb") as target:
            digest = hashlib.sha256()
            for number, (subject, content) in enumerate(self._pieces(device, plan)):
                digest.update(content)
                target.write(subject)
                target.write(self._sealed(_record_id(device_ref, hour, number), subject, content))
            target.flush()
            sync(part)
            part.replace(path)
            return Kept(
                plan.packets,
                plan.size_bytes,
                plan.layout.format,
                self.digest(digest.digest()),
                dict(sorted(plan.summary.minutes.items())),
                plan.files,
                self._clock() + EXPIRES_AFTER,
            )

    @contextmanager
    def _planned(self, device: Device, since: datetime) -> Iterator[Plan]:
        """Plan a pcap; a pcapng where a pcap cannot hold the packets."""
        with ExitStack() as stack:
            until = since + LONGEST
            try:
                plan = stack.enter_context(self._exports.planned(device, since, until, "pcap"))
            except UsageError:
                plan = stack.enter_context(self._exports.planned(device, since, until, "pcapng"))
            yield plan

    def open(self, device_ref: str, hour: str) -> Iterator[bytes]:
        """Give the pieces of a kept export, in clear.

        Raises: UsageError where it was not kept, or has expired; DecryptionError where a piece does not
        verify; ErasedSubjectError where an owner was erased.
        """
        path = self._path(device_ref, hour)
        if not path.exists() or self._is_expired(path):
            raise UsageError("no such kept export", see="lockhouse capture kept")
        with path.open("rb") as file:
            number = 0
            while subject := file.read(_SUBJECT_BYTES):
                envelope = file.read(int.from_bytes(file.read(4), "big"))
                key, record_id = self._sealer.subjects.key(subject), _record_id(device_ref, hour, number)
                yield from self._sealer.open_for_subjects(_PLACE, "pcap", [envelope], [key], [record_id])
                number += 1

    def digest(self, sha256: bytes) -> str:
        """Give the keyed digest of a file: who has no key cannot tell a file that he knows."""
        return keyed_digest(self._sealer.keys.identity_key("export"), sha256).hex()

    def listing(self) -> list[tuple[str, str, datetime]]:
        """Give what is kept: the device's pseudonym, the hour, and when it expires."""
        found = (path for path in sorted(self._folder.glob("*/*.sealed")) if not self._is_expired(path))
        return [(path.parent.name, path.stem, _written_at(path) + EXPIRES_AFTER) for path in found]

    def of_subjects(self, refs: Collection[bytes]) -> list[tuple[str, str, Path]]:
        """Give the kept exports in which a piece is somebody's: device, hour, file."""
        found = sorted(path for path in self._folder.glob("*/*") if not subjects_in(path).isdisjoint(refs))
        return [(path.parent.name, path.stem, path) for path in found]

    def expire(self) -> int:
        """Delete what has expired, and what a killed process left; give how many files."""
        gone = [path for path in self._folder.glob("*/*") if self._is_expired(path)]
        for path in gone:
            path.unlink()
        return len(gone)

    def _pieces(self, device: Device, plan: Plan) -> Iterator[tuple[bytes, memoryview | bytes]]:
        """Give the file's bytes with whose they are; what comes before the packets is the first owner's."""
        numbers = [one.number for one in device.ownerships]
        begins = [one.since_ns for one in device.ownerships]

        def subject_at(ns: int) -> bytes:
            return self._devices.subject(device.id, numbers[max(0, bisect_right(begins, ns) - 1)])

        yield subject_at(plan.since_ns), plan.layout.opening()
        for part in self._exports.merged(plan):
            first_ns = part.block.ts_min if isinstance(part, Whole) else int(part.ts_ns[0])
            yield subject_at(first_ns), write_packets(part, plan.layout)

    def _sealed(self, record_id: bytes, subject: bytes, content: memoryview | bytes) -> bytes:
        key = self._sealer.subjects.keys_for([subject])[subject]
        (envelope,) = self._sealer.seal_for_subjects(_PLACE, "pcap", [content], [key], [record_id])
        return len(envelope).to_bytes(4, "big") + envelope

    def _device(self, device_ref: str) -> Device:
        found = self._devices.listing([device_ref])
        if not found:
            raise UsageError("no such device", see="lockhouse device list")
        return found[0]

    def _path(self, device_ref: str, hour: str) -> Path:
        return self._folder / device_ref / f"{hour}.sealed"

    def _is_expired(self, path: Path) -> bool:
        return self._clock() >= _written_at(path) + EXPIRES_AFTER


def subjects_in(path: Path) -> set[bytes]:
    """Read whose pieces a file holds, passing over what is sealed."""
    found = set()
    with path.open("rb") as file:
        while subject := file.read(_SUBJECT_BYTES):
            found.add(subject)
            file.seek(int.from_bytes(file.read(4), "big"), os.SEEK_CUR)
    return found


def _written_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _record_id(device_ref: str, hour: str, number: int) -> bytes:
    """Bind a piece to its place in its file; the key is not secret, the envelope's is."""
    return keyed_digest(b"kept export", device_ref.encode(), hour.encode(), number.to_bytes(4, "big"))


def hour_start(hour: str) -> datetime:
    """Read a packet hour.

    Raises: UsageError where it is none.
    """
    try:
        return datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError("an hour is written as 2026-11-21T07") from None
