"""Landing: where files arrive in clear, are claimed into batches, and vanish once sealed.

    landing/<source>/<tenant>/<file>            dropped by anybody
    landing/captures/<tenant>/<device>/<file>   where the source is one of devices
    landing/.batches/<batch>/{manifest.json, 0, 1, ...}   claimed; names live in the manifest only

A claim is one rename of a folder that was filled before; a crash leaves either the files where
they were or a `.part` folder that the next look completes (files moved) or removes (files copied).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Literal

import uuid_utils

from stores.home import TENANT, Home, sync
from stores.locks import exclusive
from transforms.errors import BusyError, UsageError

# Sources whose files belong to devices, with a folder for each; `_shared` holds files of many.
OF_DEVICES = frozenset({"captures"})
SHARED = "_shared"
MAX_BATCH_FILES = 1000
MAX_BATCH_BYTES = 256 << 20
# Files so large that deleting one takes longer than beginning a thread.
_LARGE_BYTES = 16 << 20


@dataclass(frozen=True)
class Batch:
    """Files that were claimed together.

    `names` are the files' own, and `devices` those of the folders that they lay in (none where the
    source is not of devices); both are kept under landing only.
    """

    id: str
    source: str
    tenant: str
    received_at: datetime
    origin: Literal["moved", "copied"]
    chunk_bytes: int
    names: tuple[str, ...]
    folder: Path
    devices: tuple[str, ...] = ()

    def files(self) -> list[tuple[int, Path, str]]:
        """Give the files that are there: number, path, original name."""
        numbered = ((number, self.folder / str(number), name) for number, name in enumerate(self.names))
        return [(number, path, name) for number, path, name in numbered if path.exists()]

    @property
    def size_bytes(self) -> int:
        """The size of the files as they arrived."""
        return sum(path.stat().st_size for _, path, _ in self.files())


class Landing:
    """The landing folder of a home."""

    def __init__(self, home: Home, chunk_bytes: int, clock: Callable[[], datetime]) -> None:
        """Remember the folder; a batch keeps the chunk size it was claimed with."""
        self._root, self._chunk_bytes, self._clock = home.landing, chunk_bytes, clock
        self._batches = home.landing / ".batches"
        self._lock = home.locks / "landing.lock"

    def drop_folder(self, source: str, tenant: str) -> Path:
        """Give the folder in which files of a source and tenant are dropped."""
        return self._root / source / tenant

    def settled(self, sources: Sequence[str], hold_s: float = 0) -> dict[tuple[str, str], list[Path]]:
        """Find dropped files that did not change since the last look, by source and tenant.

        Where something is new or growing, a second look is taken after `hold_s` seconds.
        """
        # A file for each caller's sources: two sensors look at different folders.
        kept = self._root / f".sizes-{'-'.join(sources)}.json"
        before = json.loads(kept.read_text()) if kept.exists() else {}
        found = self._sizes_of(sources)
        if hold_s and any(before.get(name) != size for name, size in found.items()):
            time.sleep(hold_s)
            before, found = found, self._sizes_of(sources)
        draft = kept.with_suffix(".new")
        draft.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.write_text(json.dumps(found))
        draft.replace(kept)
        quiet: dict[tuple[str, str], list[Path]] = {}
        for name, size in found.items():
            if before.get(name) == size:
                source, tenant, *_ = Path(name).parts
                quiet.setdefault((source, tenant), []).append(self._root / name)
        return quiet

    def _sizes_of(self, sources: Sequence[str]) -> dict[str, list[int]]:
        return {
            str(path.relative_to(self._root)): [path.stat().st_size, path.stat().st_mtime_ns]
            for source in sources
            for path in self._dropped(source)
        }

    def _dropped(self, source: str) -> Iterator[Path]:
        folder = self._root / source
        for path in sorted(folder.glob("*/*/*" if source in OF_DEVICES else "*/*")):
            tenant, *inside = path.relative_to(folder).parts
            hidden = any(part.startswith(".") for part in inside) or path.name.endswith(".part")
            linked = path.is_symlink() or path.parent.is_symlink()
            if path.is_file() and not linked and not hidden and TENANT.match(tenant):
                yield path

    def claim(self, source: str, tenant: str, paths: Sequence[Path]) -> list[Batch]:
        """Move dropped files into batches, none larger than the limits."""
        with exclusive(self._lock):
            there = [path for path in paths if path.exists()]
            return [
                self._fill(
                    source, tenant, "moved", _names(group), partial(_move_all, group), _devices(source, group)
                )
                for group in _grouped(there)
            ]

    def copy_in(
        self, source: str, tenant: str, paths: Sequence[Path], device: str | None = None
    ) -> list[Batch]:
        """Copy files from anywhere into batches; the originals stay.

        `device` is whose they are, where the source is one of devices.

        Raises: UsageError where a path is no readable file.
        """
        for path in paths:
            if not path.is_file():
                raise UsageError(f"{path} is no file")
        return [
            self._fill(
                source,
                tenant,
                "copied",
                _names(group),
                partial(_copy_all, group),
                (device,) * len(group) if device else (),
            )
            for group in _grouped(paths)
        ]

    def land(
        self, source: str, tenant: str, name: str, content: bytes, device: str | None = None
    ) -> list[Batch]:
        """Land content of our own making as a batch of one file."""

        def write(part: Path) -> None:
            (part / "0").write_bytes(content)

        return [self._fill(source, tenant, "copied", [name], write, (device,) if device else ())]

    def take_in(self, source: str, tenant: str, path: Path, name: str, device: str | None = None) -> Batch:
        """Move a file that is whole and synced into a batch of its own; it has landed with one rename."""
        with exclusive(self._lock):
            return self._fill(
                source,
                tenant,
                "moved",
                [name],
                partial(_move_all, [path]),
                (device,) if device else (),
            )

    def open_batches(self, source: str | None = None) -> list[Batch]:
        """Give the claimed batches, oldest first."""
        found = (self._read(folder) for folder in sorted(self._batches.glob("*")) if folder.suffix != ".part")
        return [batch for batch in found if batch is not None and source in (None, batch.source)]

    def batch(self, batch_id: str) -> Batch | None:
        """Give a claimed batch, None where it is done with."""
        return self._read(self._batches / batch_id)

    def recover(self) -> int:
        """Complete what a killed process was claiming; remove what it was copying. Gives how many."""
        with exclusive(self._lock):
            return sum(self._recovered(folder) for folder in self._batches.glob("*.part"))

    def discard_files(self, batch: Batch) -> None:
        """Delete a batch's readable files: they are sealed. The folder stays until the batch is done.

        Nobody can open them any more when this returns; large ones may still be giving their place back.
        """
        for _, path, _ in batch.files():
            if path.stat().st_size < _LARGE_BYTES:
                path.unlink()
            else:
                _unlink_large(path)

    def close(self, batch: Batch) -> None:
        """Forget a batch that has reached its tables."""
        # Under a name that `recover` looks for: who is killed on the way leaves a folder without a manifest.
        leaving = batch.folder.with_name(f"{batch.id}.part")
        with suppress(FileNotFoundError):
            batch.folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)

    def _fill(
        self,
        source: str,
        tenant: str,
        origin: Literal["moved", "copied"],
        names: Sequence[str],
        bring: Callable[[Path], object],
        devices: tuple[str, ...] = (),
    ) -> Batch:
        """Make a batch: the manifest first, then the files, then its final name in one rename."""
        received_at = self._clock()
        batch_id = str(uuid_utils.uuid7(nanoseconds=int(received_at.timestamp() * 1_000_000) * 1000))
        part = self._batches / f"{batch_id}.part"
        batch = Batch(
            batch_id, source, tenant, received_at, origin, self._chunk_bytes, tuple(names), part, devices
        )
        with ExitStack() as stack:
            # `recover` must not meet a folder that nobody holds yet; a claim has the lock already.
            with exclusive(self._lock) if origin == "copied" else nullcontext():
                part.mkdir(parents=True, mode=0o700)
                stack.enter_context(exclusive(part / ".filling"))
            _write_manifest(batch)
            bring(part)
            sync(part)
            return self._finish(batch)

    def _finish(self, batch: Batch) -> Batch:
        final = self._batches / batch.id
        batch.folder.rename(final)
        sync(self._batches)
        return replace(batch, folder=final)

    def _recovered(self, part: Path) -> int:
        try:
            with exclusive(part / ".filling", wait=False):
                batch = self._read(part)
                if batch is not None and batch.origin == "moved" and batch.files():
                    self._finish(batch)
                else:
                    shutil.rmtree(part, ignore_errors=True)
                return 1
        except BusyError:
            return 0

    def _read(self, folder: Path) -> Batch | None:
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        received_at = datetime.fromisoformat(manifest.pop("received_at"))
        names, devices = tuple(manifest.pop("names")), tuple(manifest.pop("devices"))
        return Batch(**manifest, received_at=received_at, names=names, devices=devices, folder=folder)


def _grouped(paths: Sequence[Path]) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for path in paths:
        if group and (len(group) == MAX_BATCH_FILES or size + path.stat().st_size > MAX_BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(path)
        size += path.stat().st_size
    if group:
        yield group


def _names(paths: Sequence[Path]) -> list[str]:
    return [path.name for path in paths]


def _devices(source: str, paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.parent.name for path in paths) if source in OF_DEVICES else ()


def _move_all(paths: Sequence[Path], folder: Path) -> None:
    for number, path in enumerate(paths):
        path.rename(folder / str(number))


def _copy_all(paths: Sequence[Path], folder: Path) -> None:
    for number, path in enumerate(paths):
        _copy(path, folder / str(number))


def _unlink_large(path: Path) -> None:
    """Delete a file whose place on disk is given back beside what comes next.

    That happens when the last one closes it, here or, should this process be killed, in the kernel. 300 MB
    take 60 ms, hardly any of them of the processor.
    """
    held = os.open(path, os.O_RDONLY)
    try:
        path.unlink()
    finally:
        Thread(target=os.close, args=(held,)).start()


def _write_manifest(batch: Batch) -> None:
    manifest = {name: value for name, value in asdict(batch).items() if name != "folder"}
    manifest["received_at"] = batch.received_at.isoformat()
    path = batch.folder / "manifest.json"
    path.write_text(json.dumps(manifest))
    sync(path)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 4 << 20)
        writer.flush()
        os.fsync(writer.fileno())
