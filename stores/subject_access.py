"""Access: everything about a data subject, in clear and in memory, from every source that there is."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from stores.audit import AuditTrail
from stores.capture_exports import LONGEST, CaptureExports
from stores.contracts import load_contracts
from stores.data_subjects import Stretch, Subject
from stores.devices import Devices
from stores.erasure_places import ErasurePlaces, ends_in
from stores.erasure_plan import matches_of, way_to
from stores.kept_exports import hour_start
from stores.quarantine import Quarantine
from stores.row_removal import Match, RowRemoval
from stores.sealing import Sealer
from stores.specs import quarantines
from stores.tables import Tables
from stores.vault import Vault
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES
from transforms.errors import UsageError
from transforms.pii.contracts import Contract
from transforms.pii.identities import event_id_bytes, uuid_bytes
from transforms.pii.siv import HEAD_CHARACTERS, decrypt_column
from transforms.tables import masked_table, raw_table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Packets:
    """The packets of a device and hour that were the subject's: a name for the file, and its bytes."""

    name: str
    device: str
    since: datetime
    until: datetime
    packets: int
    content: Iterator[memoryview]


class SubjectAccess:
    """Gathers what one tenant has about a subject."""

    def __init__(
        self,
        tenant: str,
        tables: Tables,
        sealer: Sealer,
        places: ErasurePlaces,
        exports: CaptureExports,
        devices: Devices,
        audit: AuditTrail,
        vault: Vault,
        requests_of: Callable[[Subject], list[dict[str, Any]]],
    ) -> None:
        """Remember the stores; `requests_of` gives a subject's validation requests."""
        self._requests_of = requests_of
        self._tenant, self._tables, self._sealer, self._places = tenant, tables, sealer, places
        self._exports, self._devices, self._audit = exports, devices, audit
        self._vault, self._removal = vault, RowRemoval(tables, tenant)

    def gather(self, subject: Subject, digest_of: Callable[[str], str]) -> dict[str, list[dict[str, Any]]]:
        """Give the entries by source: records, quarantine, devices, the audit trail.

        `digest_of` gives the keyed digest under which the trail knows an identifier.
        """
        entries: dict[str, list[dict[str, Any]]] = {}
        for source, contract in load_contracts().items():
            opened = self._records(contract, subject)
            entries[source] = opened + self._masked_only(contract, subject, {one["event_id"] for one in opened})
        entries["vault"] = [
            {**row, "received_at": row["received_at"].isoformat()}
            for row in self._vault.of_subject(subject.ref).iter_rows(named=True)
        ]
        entries["validation requests"] = self._requests_of(subject)
        entries["quarantine"] = list(self._quarantined(subject))
        entries["devices"] = [_described(one) for one in subject.stretches]
        entries["beside packets"] = list(self._beside_packets(subject))
        entries["audit trail"] = list(self._audited(subject, digest_of))
        return entries

    def packets(self, subject: Subject) -> Iterator[Packets]:
        """Give the packets of the subject's devices, a capture file for each device, stretch and hour."""
        for stretch in subject.stretches:
            blocks = self._removal.rows(CAPTURE_BLOCKS, [Match("subject_ref", (stretch.ref,))], ["packet_hour"])
            for hour in sorted(set(blocks["packet_hour"])):
                yield from self._packets_of(stretch, hour)

    def _packets_of(self, stretch: Stretch, hour: str) -> Iterator[Packets]:
        try:
            since = hour_start(hour)
        except UsageError:
            return  # an hour beyond the calendar: no window can name it
        until = since + LONGEST
        if stretch.number:
            since = max(since, _moment(stretch.since_ns))
        if stretch.until_ns is not None:
            until = min(until, _moment(stretch.until_ns))
        device = self._devices.find(stretch.device)
        with ExitStack() as stack:
            try:
                plan = stack.enter_context(self._exports.planned(device, since, until, "pcap"))
            except UsageError:
                plan = stack.enter_context(self._exports.planned(device, since, until, "pcapng"))
            name = f"{stretch.device_ref[:12]}-{stretch.number}-{hour}.{plan.layout.format}"
            yield Packets(name, stretch.device, since, until, plan.packets, self._exports.stream(plan))

    def _beside_packets(self, subject: Subject) -> Iterator[dict[str, Any]]:
        """Open what pcapng files have beside packets; of secrets of decryption, only that they are there."""
        if not subject.stretches or not self._tables.exists(self._tenant, CAPTURE_FILES.key):
            return
        names = ["file_id", "device_ref", "first_at", "last_at", "side_blocks"]
        wanted = pl.col("device_ref").is_in({one.device_ref for one in subject.stretches})
        with self._tables.reading(self._tenant, CAPTURE_FILES.key) as table:
            files = table.filter(wanted & pl.col("side_blocks").is_not_null()).select(names).collect()
        keys = self._sealer.subjects.existing([one.ref for one in subject.stretches])
        for file in files.sort("first_at", "file_id").iter_rows(named=True):
            for stretch in subject.stretches:
                if stretch.ref in keys and ends_in(file, stretch):
                    yield from self._opened_sides(file, keys[stretch.ref])

    def _opened_sides(self, file: Mapping[str, Any], key: bytes) -> Iterator[dict[str, Any]]:
        record_id = uuid_bytes(file["file_id"])
        (content,) = self._sealer.open_for_subjects(
            CAPTURE_FILES.key, "side_blocks", [file["side_blocks"]], [key], [record_id]
        )
        for offset, kind, block in msgspec.msgpack.decode(content):
            text = None if kind == "secrets" else b64encode(block).decode()
            yield {
                "file": file["file_id"],
                "kind": kind,
                "offset": offset,
                "bytes": len(block),
                "content": text,
            }

    def _records(self, contract: Contract, subject: Subject) -> list[dict[str, Any]]:
        """Open the raw records, byte for byte as they came."""
        spec = raw_table(contract)
        names = ["event_id", "received_at", "subject_ref", "record"]
        rows = self._removal.rows(spec, matches_of(way_to(spec), [subject], {}), names)
        keys = self._sealer.subjects.existing(list(set(rows["subject_ref"])))
        rows = rows.filter(pl.col("subject_ref").is_in(list(keys))) if rows.height else rows
        if rows.is_empty():
            return []
        opened = self._sealer.open_for_subjects(
            spec.key,
            "record",
            rows["record"].to_list(),
            [keys[ref] for ref in rows["subject_ref"]],
            event_id_bytes(rows["event_id"]),
        )
        found = zip(rows["event_id"], rows["received_at"], opened, strict=True)
        return [
            {
                "event_id": event,
                "received_at": at.isoformat(),
                "kept_in": spec.key,
                "record": _readable(content),
            }
            for event, at, content in sorted(found, key=lambda one: (one[1], one[0]))
        ]

    def _masked_only(self, contract: Contract, subject: Subject, known: set[str]) -> list[dict[str, Any]]:
        """Open the tokens of rows whose raw record is past its retention."""
        spec = masked_table(contract)
        if not self._tables.exists(self._tenant, spec.key):
            return []
        (match,) = matches_of(way_to(spec), [subject], {})
        with self._tables.reading(self._tenant, spec.key) as table:
            rows = table.filter(pl.col(match.column).is_in(list(match.values))).collect()
        rows = rows.filter(~pl.col("event_id").is_in(list(known)))
        for one in spec.columns:
            if one.domain is not None and one.name in rows.columns:
                rows = rows.with_columns(self._opened(rows[one.name], one.domain))
        sealed = [one.name for one in spec.columns if one.pii == "sealed"]
        return [
            {
                **_placed(row["event_id"], row["received_at"], spec.key),
                "record": {name: value for name, value in row.items() if name not in sealed},
            }
            for row in rows.iter_rows(named=True)
        ]

    def _opened(self, tokens: pl.Series, domain: str) -> pl.Series:
        """Open what can be opened; a token that is only its joinable part stays as it is."""
        whole = tokens.str.len_chars() > HEAD_CHARACTERS
        opened = decrypt_column(tokens.set(~whole, None), self._sealer.keys.live_token_keys(domain))
        return opened.fill_null(tokens).alias(tokens.name)

    def _quarantined(self, subject: Subject) -> Iterator[dict[str, Any]]:
        places = self._places.find([subject])
        for source, spec in quarantines().items():
            wanted = set(places[spec.key]["gone"])
            store = Quarantine(self._tenant, self._tables, self._sealer, spec)
            described = {one.id: one for one in store.entries()} if wanted else {}
            for entry, content in store.contents() if wanted else ():
                if entry in wanted:
                    name, _, body = content.partition(b"\n")
                    yield {
                        "entry": entry,
                        "source": source,
                        "received_at": described[entry].received_at,
                        "reason": described[entry].reason,
                        "file_name": name.decode(errors="backslashreplace"),
                        "content": _readable(body),
                    }

    def _audited(self, subject: Subject, digest_of: Callable[[str], str]) -> Iterator[dict[str, Any]]:
        """Give the trail's entries that are about the subject: it knows them by digests and pseudonyms."""
        names = [digest_of(subject.id), *(one.device_ref for one in subject.stretches)]
        for one in self._audit.entries(self._tenant):
            if any(name in one.parameters for name in names):
                yield {
                    "entry": one.seq,
                    "at": one.at,
                    "who": one.principal,
                    "action": one.action,
                    "outcome": one.outcome,
                    "parameters": msgspec.json.decode(one.parameters),
                }


def _placed(event_id: str, received_at: datetime, table: str) -> dict[str, str]:
    return {"event_id": event_id, "received_at": received_at.isoformat(), "kept_in": table}


def _described(stretch: Stretch) -> dict[str, Any]:
    return {
        "device": stretch.device,
        "from": _moment(stretch.since_ns).isoformat() if stretch.number else None,
        "to": _moment(stretch.until_ns).isoformat() if stretch.until_ns is not None else None,
    }


def _readable(content: bytes) -> object:
    """Give JSON as it is meant; anything else as text, bytes of no text escaped."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content.decode(errors="backslashreplace")


def _moment(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)
