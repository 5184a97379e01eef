"""What an erasure finds before it deletes: blocks and files of captures, quarantined entries, dates.

Found once and written down, since much of it could not be found again after half of the rows are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from stores.contracts import load_contracts
from stores.data_subjects import Stretch, Subject
from stores.erasure_plan import matches_of, way_to
from stores.ledger import Ledger, State
from stores.quarantine import Quarantine
from stores.row_removal import Match, RowRemoval
from stores.sealing import Sealer
from stores.specs import quarantines
from stores.tables import Tables
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, PACKETS, QUARANTINE, SOURCE
from transforms.errors import UndecodedError
from transforms.pii.contracts import Contract
from transforms.pii.identities import event_id_bytes
from transforms.pii.leaks import MAX_CHARACTERS, MIN_CHARACTERS, LeakMatcher, decoded
from transforms.tables import masked_table, raw_table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Captured:
    """What of captures is the subjects': blocks, by file how many packets, entries of quarantine."""

    blocks: set[str] = field(default_factory=set)
    hours: set[str] = field(default_factory=set)
    packets: dict[str, int] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    edits: dict[str, dict[str, Any]] = field(default_factory=dict)
    deliveries: set[tuple[str, int]] = field(default_factory=set)


class ErasurePlaces:
    """Looks for subjects in the tables of one tenant."""

    def __init__(self, tenant: str, tables: Tables, sealer: Sealer, ledger: Ledger) -> None:
        """Remember the stores; nothing is read yet."""
        self._tenant, self._tables, self._sealer, self._ledger = tenant, tables, sealer, ledger
        self._removal = RowRemoval(tables, tenant)

    def find(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """Find what has to be known before rows go, by table; dates, events and chunks beside them."""
        captured = self._captured([one for subject in subjects for one in subject.stretches])
        places: dict[str, Any] = {
            CAPTURE_FILES.key: {"gone": sorted(captured.files), "edits": captured.edits},
            PACKETS.key: {"gone": sorted(captured.blocks), "hours": sorted(captured.hours)},
            "dates": {SOURCE: sorted({hour[:10] for hour in captured.hours})},
            "events": {},
            "chunks": [],
        }
        for source, contract in load_contracts().items():
            raw = self._raw_rows(contract, subjects)
            places["events"][source] = event_id_bytes(raw["event_id"]) if raw.height else []
            places["chunks"] += self._chunks_left(raw)
            places["dates"][source] = self._dates(contract, subjects)
        entries = self._attributed(subjects)
        entries.setdefault(SOURCE, set()).update(self._entries_of(captured.deliveries))
        for source, spec in quarantines().items():
            places[spec.key] = {"gone": sorted(entries.get(source, ()))}
        return places

    def _raw_rows(self, contract: Contract, subjects: Sequence[Subject]) -> pl.DataFrame:
        spec = raw_table(contract)
        names = ["event_id", "batch_id", "chunk"]
        return self._removal.rows(spec, matches_of(way_to(spec), subjects, {}), names)

    def _chunks_left(self, rows: pl.DataFrame) -> list[list[Any]]:
        """Give what remains accepted of chunks whose batch is still on its way: its checks count rows."""
        left = []
        for (batch, chunk), part in rows.group_by("batch_id", "chunk", maintain_order=True):
            accepted = self._ledger.accepted(str(batch), int(str(chunk)))
            is_open = self._ledger.state(str(batch)) is not State.DONE
            if is_open and accepted is not None:
                left.append([str(batch), int(str(chunk)), accepted - part.height])
        return left

    def _dates(self, contract: Contract, subjects: Sequence[Subject]) -> list[str]:
        """Give the dates of the events whose marts have to be made anew."""
        spec = masked_table(contract)
        rows = self._removal.rows(spec, matches_of(way_to(spec), subjects, {}), ["event_hour"])
        if rows.is_empty():
            return []
        return [one.isoformat() for one in rows["event_hour"].dt.date().unique().sort()]

    def _attributed(self, subjects: Sequence[Subject]) -> dict[str, set[str]]:
        """Open every quarantined entry and look for the identifiers, however they are spelt or packed."""
        values = [one.id for one in subjects if MIN_CHARACTERS <= len(one.id) <= MAX_CHARACTERS]
        found: dict[str, set[str]] = {}
        if not values:
            return found
        matcher = LeakMatcher(values, whole_words=True)
        for source, spec in quarantines().items():
            store = Quarantine(self._tenant, self._tables, self._sealer, spec)
            for entry, content in store.contents():
                if any(matcher.find(piece) for piece in _pieces(content)):
                    found.setdefault(source, set()).add(entry)
        return found

    def _entries_of(self, deliveries: set[tuple[str, int]]) -> set[str]:
        """Give what was quarantined of capture files that were the subjects'."""
        if not deliveries or not self._tables.exists(self._tenant, QUARANTINE.key):
            return set()
        with self._tables.reading(self._tenant, QUARANTINE.key) as table:
            rows = table.select("entry_id", "batch_id", "file").collect()
        return {entry for entry, batch, file in rows.iter_rows() if (batch, file) in deliveries}

    def _captured(self, stretches: Sequence[Stretch]) -> Captured:
        captured = Captured()
        if not stretches or not self._tables.exists(self._tenant, CAPTURE_BLOCKS.key):
            return captured
        refs = tuple(one.ref for one in stretches)
        names = ["block_id", "file_id", "packet_hour", "packets"]
        blocks = self._removal.rows(CAPTURE_BLOCKS, [Match("subject_ref", refs)], names)
        captured.blocks |= set(blocks["block_id"])
        captured.hours |= set(blocks["packet_hour"])
        for file_id, part in blocks.group_by("file_id"):
            captured.packets[str(file_id[0])] = int(part["packets"].sum())
        for stretch in stretches:
            self._add_orphans(captured, stretch)
        self._judge_files(captured, stretches)
        return captured

    def _add_orphans(self, captured: Captured, stretch: Stretch) -> None:
        """Add packets whose blocks are past their retention: they are told by device and time."""
        wanted = [Match("device_token", stretch.device_tokens)]
        rows = self._removal.rows(PACKETS, wanted, ["block_id", "occurred_at", "packet_hour"])
        if rows.is_empty():
            return
        since, until = _moment(stretch.since_ns), _moment(stretch.until_ns)
        spans = rows.group_by("block_id").agg(
            pl.col("occurred_at").min().alias("first"),
            pl.col("occurred_at").max().alias("last"),
            pl.col("packet_hour").unique(),
        )
        inside = spans.filter((pl.col("first") >= since) & (pl.col("last") < until))
        lone = inside.filter(~pl.col("block_id").is_in(list(captured.blocks)))
        stored = self._removal.rows(CAPTURE_BLOCKS, [Match("block_id", tuple(lone["block_id"]))], ["block_id"])
        others = set(stored["block_id"])
        for block_id, hours in lone.select("block_id", "packet_hour").iter_rows():
            if block_id not in others:
                captured.blocks.add(block_id)
                captured.hours |= set(hours)

    def _judge_files(self, captured: Captured, stretches: Sequence[Stretch]) -> None:
        """Tell of each delivered file whether it held nobody else's packets."""
        if not self._tables.exists(self._tenant, CAPTURE_FILES.key):
            return
        devices = {one.device_ref for one in stretches}
        wanted = pl.col("device_ref").is_in(devices) | pl.col("file_id").is_in(list(captured.packets))
        with self._tables.reading(self._tenant, CAPTURE_FILES.key) as table:
            files = table.filter(wanted).collect()
        stored = self._removal.rows(
            CAPTURE_BLOCKS, [Match("file_id", tuple(files["file_id"]))], ["file_id", "subject_ref"]
        )
        mine = {one.ref for one in stretches}
        shared = {file for file, ref in stored.iter_rows() if ref not in mine}
        for file in files.iter_rows(named=True):
            self._judge_file(captured, file, file["file_id"] in shared, stretches)

    def _judge_file(
        self, captured: Captured, file: Mapping[str, Any], is_shared: bool, stretches: Iterable[Stretch]
    ) -> None:
        count = captured.packets.get(file["file_id"], 0)
        ends_here = any(ends_in(file, one) for one in stretches)
        if ends_here:
            captured.deliveries.add((file["batch_id"], file["file"]))
        if not is_shared and (count or ends_here):
            captured.files.add(file["file_id"])
        elif count or ends_here:
            edit: dict[str, Any] = {
                "packets_stored": file["packets_stored"] - count,
                "packets_refused": file["packets_refused"] + count,
            }
            # What is no packet was sealed for who had the device at the end.
            captured.edits[file["file_id"]] = {**edit, **({"side_blocks": None} if ends_here else {})}


def ends_in(file: Mapping[str, Any], stretch: Stretch) -> bool:
    """Whether a file's last packet lies in a stretch; one without packets belongs to the first owner."""
    if file["device_ref"] != stretch.device_ref:
        return False
    if file["last_at"] is None:
        return stretch.number == 0
    last_at: datetime = file["last_at"]
    return _moment(stretch.since_ns) <= last_at < _moment(stretch.until_ns)


def _moment(ns: int | None) -> datetime:
    return datetime.max.replace(tzinfo=UTC) if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)


def _pieces(content: bytes) -> Iterable[bytes]:
    """Give content as it is, and whatever it holds that can be unpacked."""
    try:
        for _, piece in decoded(content, "entry"):
            yield piece
    except UndecodedError:
        return  # a damaged container was searched as far as it goes
