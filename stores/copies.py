"""Copies of a subject's data beside the tables: what keeps one joins the erasure plan here.

Each says how much it holds, and erases it; doing so twice changes nothing. A served copy (a database
for applications, a search index) is one more class of this shape, listed in `Platform.copies`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from stores.access_packages import AccessPackages
from stores.data_subjects import DEVICE_DOMAIN, Subject, refs_of
from stores.database import Database
from stores.devices import Devices
from stores.home import Home
from stores.kept_exports import KeptExports
from stores.kept_parts import KeptParts
from stores.outbox import FORGET, Outbox
from stores.seen import SeenEvents


class Copy(Protocol):
    """Something that holds a copy of subjects' data."""

    name: str

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Give how many entries of the subjects it holds; `places` are what the tables told."""
        ...

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Erase them for good; give how many went."""
        ...


class SeenCopy:
    """The index of named events: it holds the ids of the subjects' events."""

    name = "seen events"

    def __init__(self, home: Home, tenant: str, window_days: int) -> None:
        """Remember where the index lies."""
        self._home, self._tenant, self._window_days = home, tenant, window_days

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the events that the index may hold."""
        return sum(len(ids) for ids in places["events"].values())

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Forget the events, source by source."""
        return sum(
            SeenEvents(self._home.seen(self._tenant, source), self._window_days).forget_events(ids)
            for source, ids in places["events"].items()
        )


class ExportCopy:
    """Kept capture files, and what Dagster knows of them: it is asked to forget their partitions."""

    name = "kept exports"

    def __init__(self, tenant: str, exports: KeptExports, outbox: Outbox) -> None:
        """Remember the stores."""
        self._tenant, self._exports, self._outbox = tenant, exports, outbox

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the files in which a piece is a subject's."""
        return len(self._exports.of_subjects(set(refs_of(subjects))))

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Ask Dagster first, then delete: a repetition would find no file to ask for."""
        found = self._exports.of_subjects(set(refs_of(subjects)))
        for device, hour, path in found:
            self._outbox.ask(FORGET, self._tenant, {"device": device, "hour": hour})
            path.unlink()
        return len(found)


class PackageCopy:
    """Answers to access requests that were made and not expired: their keys go, then the files."""

    name = "access packages"

    def __init__(self, packages: AccessPackages, digest_of: Callable[[str], str]) -> None:
        """Remember the packages, and how a request names its subject."""
        self._packages, self._digest_of = packages, digest_of

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the subjects' requests of which something is kept."""
        return self._packages.count(self._digests(subjects))

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Forget whom the requests were about, and destroy the packages."""
        return self._packages.forget(self._digests(subjects))

    def _digests(self, subjects: Sequence[Subject]) -> set[str]:
        return {self._digest_of(one.id) for one in subjects}


class PartCopy:
    """Kept parts of uploads: nobody knows whose data they hold, so all of them go."""

    name = "upload parts"

    def __init__(self, parts: KeptParts) -> None:
        """Remember the parts."""
        self._parts = parts

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the parts."""
        return self._parts.count()

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Delete the parts; whoever sends that file again sends all of it."""
        return self._parts.clear()


class RegistryCopy:
    """The device registry: who had a device, and devices that were a subject of their own."""

    name = "device registry"

    def __init__(self, devices: Devices, database: Database) -> None:
        """Remember the registry."""
        self._devices, self._database = devices, database

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the ownerships that were the subjects'."""
        return sum(len(one.stretches) for one in subjects)

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Forget the owners; a device that never had one is forgotten itself."""
        for subject in subjects:
            for stretch in subject.stretches:
                alone = subject.domain == DEVICE_DOMAIN and stretch.until_ns is None
                if alone:
                    self._devices.forget(stretch.device_ref)
                else:
                    self._devices.disown(stretch.device_ref, [stretch.number])
        self._database.settle()
        return self.count(subjects, places)


class TokenCopy:
    """A served copy that is found by tokens: `delete` is given them, and gives how many rows went."""

    def __init__(
        self, name: str, count: Callable[[Sequence[str]], int], delete: Callable[[Sequence[str]], int]
    ) -> None:
        """Name the copy, and say how it counts and deletes."""
        self.name, self._count, self._delete = name, count, delete

    def count(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Count the rows of the subjects' tokens."""
        return self._count(_tokens(subjects))

    def erase(self, subjects: Sequence[Subject], places: Mapping[str, Any]) -> int:
        """Delete the rows of the subjects' tokens."""
        return self._delete(_tokens(subjects))


def _tokens(subjects: Sequence[Subject]) -> list[str]:
    return [token for one in subjects for token in (*one.tokens, *one.heads)]
