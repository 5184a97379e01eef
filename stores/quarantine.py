"""Quarantine: everything that was not accepted, byte for byte, sealed, with its reason and place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import polars as pl

from stores.landing import Batch
from stores.sealing import Sealer
from stores.tables import Commit, Tables
from transforms.chunks import Fault
from transforms.errors import DecryptionError, UsageError
from transforms.pii.identities import numbered_event_ids, uuid_bytes
from transforms.tables import TableSpec

# Long content lies in several rows, so that no row has to be held whole with its neighbours.
PART_BYTES = 16 << 20


@dataclass(frozen=True)
class Entry:
    """One quarantined thing, without its content."""

    id: str
    source: str
    reason: str
    received_at: str
    batch_id: str
    file: int
    record_number: int
    offset: int
    size_bytes: int


class Quarantine:
    """The quarantine table of one tenant's source."""

    def __init__(self, tenant: str, tables: Tables, sealer: Sealer, spec: TableSpec) -> None:
        """Remember the table, of which there is one for each source; nothing is read yet."""
        self._tenant, self._tables, self._sealer, self._spec = tenant, tables, sealer, spec

    def add(
        self, batch: Batch, faults: Sequence[Fault], deliveries: Mapping[int, bytes], commit: Commit
    ) -> None:
        """Keep what a chunk could not accept; once, whatever happens between."""
        rows = [row for fault in faults for row in self._rows(batch, fault, deliveries[fault.file])]
        if rows:
            schema = {one.name: None for one in self._spec.columns}
            frame = pl.DataFrame(rows, schema_overrides={"content": pl.Binary, "file_name": pl.Binary})
            shared = {"batch_id": batch.id, "chunk": int(commit.marks["chunk"]), "tenant": batch.tenant}
            arrival = {"received_at": batch.received_at, "received_date": batch.received_at.date()}
            whole = frame.with_columns(
                **{name: pl.lit(value) for name, value in {**shared, **arrival}.items()},
                source=pl.lit(batch.source),
            )
            self._tables.append(self._tenant, self._spec, whole.select(list(schema)), commit)

    def entries(self, limit: int | None = None) -> list[Entry]:
        """Give the entries, the latest first."""
        if not self._tables.exists(self._tenant, self._spec.key):
            return []
        with self._tables.reading(self._tenant, self._spec.key) as table:
            found = (
                table.group_by("entry_id")
                .agg(
                    pl.col("source", "reason", "received_at", "batch_id", "file", "record_number").first(),
                    pl.col("offset").min(),
                    pl.col("size_bytes").sum(),
                )
                .sort("received_at", "file", "record_number", descending=[True, False, False])
                .head(limit or 1_000_000)
                .collect()
            )
        return [Entry(**_shown(row)) for row in found.iter_rows(named=True)]

    def content(self, entry_id: str) -> tuple[str, bytes]:
        """Open an entry: the original name of its file, and its bytes.

        Raises: UsageError where there is no such entry; DecryptionError where its day's key is gone.
        """
        rows = self._entry_rows(entry_id)
        record_id = uuid_bytes(entry_id)
        day = rows["received_date"][0]
        name = self._sealer.open_for_day(self._spec.key, "file_name", rows["file_name"][0], day, record_id)
        parts = [
            self._sealer.open_for_day(self._spec.key, f"content/{part}", content, day, record_id)
            for part, content in zip(rows["part"], rows["content"], strict=True)
        ]
        # A file's name is bytes of any kind; what is no text is shown escaped.
        return name.decode(errors="backslashreplace"), b"".join(parts)

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Give every entry that can still be opened: its id, its file's name and its bytes, joined."""
        if not self._tables.exists(self._tenant, self._spec.key):
            return
        with self._tables.reading(self._tenant, self._spec.key) as table:
            days = table.select(pl.col("received_date").unique()).collect()["received_date"].sort().to_list()
            for day in days:
                rows = table.filter(pl.col("received_date") == day).sort("entry_id", "part").collect()
                for _, parts in rows.group_by("entry_id", maintain_order=True):
                    # The key of a day whose retention is over is gone: nobody can read it any more.
                    with suppress(DecryptionError):
                        yield parts["entry_id"][0], self._opened(parts)

    def _opened(self, parts: pl.DataFrame) -> bytes:
        record_id, day = uuid_bytes(parts["entry_id"][0]), parts["received_date"][0]
        name = self._sealer.open_for_day(self._spec.key, "file_name", parts["file_name"][0], day, record_id)
        pieces = [
            self._sealer.open_for_day(self._spec.key, f"content/{part}", content, day, record_id)
            for part, content in zip(parts["part"], parts["content"], strict=True)
        ]
        return name + b"\n" + b"".join(pieces)

    def drop(self, entry_ids: Sequence[str], commit: Commit) -> int:
        """Delete entries for good; gives how many rows went."""
        if not self._tables.exists(self._tenant, self._spec.key):
            return 0
        ids = pl.Series(entry_ids, dtype=pl.String)
        return self._tables.delete_rows(self._tenant, self._spec, ids, "entry_id", commit)

    def _entry_rows(self, entry_id: str) -> pl.DataFrame:
        if self._tables.exists(self._tenant, self._spec.key):
            with self._tables.reading(self._tenant, self._spec.key) as table:
                rows = table.filter(pl.col("entry_id") == entry_id).sort("part").collect()
            if not rows.is_empty():
                return rows
        raise UsageError("no such quarantine entry", see="lockhouse quarantine list")

    def _rows(self, batch: Batch, fault: Fault, delivery: bytes) -> Iterator[dict[str, Any]]:
        key = self._sealer.keys.identity_key("event")
        record_id = numbered_event_ids(key, delivery, [fault.record]).tobytes()
        entry_id, day = str(UUID(bytes=record_id)), batch.received_at.date()
        content = _content(batch, fault)
        name = os.fsencode(batch.names[fault.file])
        for part, at in enumerate(range(0, max(len(content), 1), PART_BYTES)):
            piece = content[at : at + PART_BYTES]
            sealed = self._sealer.seal_for_day(self._spec.key, f"content/{part}", piece, day, record_id)
            yield {
                "entry_id": entry_id,
                "file": fault.file,
                "record_number": fault.record,
                "offset": fault.offset + at,
                "part": part,
                "size_bytes": len(piece),
                "reason": fault.reason,
                "content": sealed,
                "file_name": self._sealer.seal_for_day(self._spec.key, "file_name", name, day, record_id),
            }


def _content(batch: Batch, fault: Fault) -> bytes:
    """Give what has to be kept: the bytes themselves, or the whole file where its container is damaged."""
    if fault.content is not None:
        return fault.content
    return (batch.folder / str(fault.file)).read_bytes()


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    entry_id = row.pop("entry_id")
    return {**row, "id": entry_id, "received_at": row["received_at"].isoformat()}
