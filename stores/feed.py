"""What comes over the live feed: whose it is, and the files that it becomes in landing.

    landing/captures/<tenant>/<device>/live-<connection>-<number>.part   being written
    landing/captures/<tenant>/<device>/live-<connection>-<number>.pcap   whole, to be claimed

A file is a capture of its own. Who is killed leaves a `.part`, and the next one gives it its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stores.home import Home, sync
from stores.locks import exclusive
from transforms.capture.segments import LiveCapture
from transforms.errors import RefusedError

_SOURCE = "captures"


@dataclass(frozen=True)
class Peer:
    """Whose a connection is: a device of a tenant."""

    tenant: str
    device: str


@dataclass(frozen=True)
class SegmentLimits:
    """When a file is closed: once it has so many bytes, or has been open for so many seconds."""

    size_bytes: int
    seconds: float


def peer_of(certificate: Mapping[str, Any]) -> Peer:
    """Read whose a verified certificate is: the tenant is its subject's O, the device its CN.

    Raises: RefusedError where one of them is missing, or there are several.
    """
    names = [name for part in certificate.get("subject", ()) for name in part]
    tenants = [value for kind, value in names if kind == "organizationName"]
    devices = [value for kind, value in names if kind == "commonName"]
    if len(tenants) != 1 or len(devices) != 1:
        raise RefusedError("a certificate names one tenant (O) and one device (CN)")
    return Peer(tenants[0], devices[0])


class Segments:
    """The files of one connection, one after the other. Nothing is made before the first byte."""

    def __init__(
        self, home: Home, peer: Peer, connection: str, limits: SegmentLimits, monotonic: Callable[[], float]
    ) -> None:
        """Remember the place; `monotonic` tells seconds."""
        self._folder = home.landing / _SOURCE / peer.tenant / peer.device
        self._connection, self._limits, self._monotonic = connection, limits, monotonic
        self._file: BinaryIO | None = None
        self._part = self._folder
        self._opening, self._size, self._since = b"", 0, 0.0
        self.count = self.bytes = 0
        self.capture = LiveCapture()

    def take(self, content: bytes) -> None:
        """Take bytes that came: whole records are written, files closed where they are full."""
        for run in self.capture.take(content):
            # A file has one opening: behind a new interface or section, another one begins.
            if self._size >= self._limits.size_bytes or self._opening != self.capture.opening:
                self.close_file()
            self._write(run)
        self.close_old()

    def seconds_left(self) -> float | None:
        """Give how long the open file may stay so; None where none is open."""
        if self._file is None:
            return None
        return max(0.0, self._since + self._limits.seconds - self._monotonic())

    def close_old(self) -> None:
        """Close a file that is full or has been open for long enough."""
        if self._size >= self._limits.size_bytes or self.seconds_left() == 0:
            self.close_file()

    def finish(self) -> None:
        """Close what is open, with what came of a last record: the intake keeps that aside."""
        if rest := self.capture.rest:
            self._write(rest)
        elif self.capture.opening and not self.count:
            # A capture without packets is one all the same.
            self._write(b"")
        self.close_file()

    def close_file(self) -> None:
        """Bring the open file to disk and give it its name."""
        if self._file is None:
            return
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file = None
        _name_segment(self._part)
        sync(self._folder)
        self._size = 0

    def _write(self, content: bytes) -> None:
        if self._file is None:
            self._file = self._opened()
        self._file.write(content)
        self._size += len(content)
        self.bytes += len(content)

    def _opened(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._part = self._folder / f"live-{self._connection}-{self.count:06}.part"
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.count += 1
        self._opening, self._since = self.capture.opening, self._monotonic()
        self._size = len(self._opening)
        opened = os.fdopen(descriptor, "wb")
        opened.write(self._opening)
        return opened


@contextmanager
def feeding(home: Home) -> Iterator[int]:
    """Be the only feed of a home; gives how many files of a killed one got their names.

    Raises: BusyError where another one runs.
    """
    with exclusive(home.locks / "feed.lock", wait=False):
        left = list((home.landing / _SOURCE).glob("*/*/live-*.part"))
        for part in left:
            _name_segment(part)
        yield len(left)


def _name_segment(part: Path) -> None:
    part.rename(part.with_suffix(".pcap"))
