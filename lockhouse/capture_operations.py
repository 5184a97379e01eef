"""Operations on captures and devices: every one authorises, then audits, then acts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from lockhouse.operations import Caller
from orchestration.resources import now
from stores.capture_exports import CaptureExports, Change, Plan, check_window
from stores.devices import Device, Kind
from stores.home import written_whole
from stores.kept_exports import hour_start
from stores.outbox import EXPORT
from stores.sql import SqlSandbox
from transforms.access import Right
from transforms.audit import Action, Outcome
from transforms.capture.anonymise import AnonymiseKeys, Scheme, anonymise_packets
from transforms.capture.blocks import MINUTE_NS
from transforms.capture.exports import Format
from transforms.errors import RefusedError

# The part of a token that is equal for equal values.
JOIN_CHARACTERS = 28
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MANIFEST_SUFFIX = ".manifest.json"


@dataclass(frozen=True)
class Window:
    """What of a device is asked for: packets in [since, until), in which form."""

    device: str
    since: datetime
    until: datetime
    format: Format = "pcap"
    anonymise: bool = False
    scheme: Scheme = "ipcrypt-pfx"


def export_capture(caller: Caller, window: Window, output: Path | BinaryIO) -> dict[str, Any]:
    """Write packets of a device into a file, with a manifest beside it, or into an open stream.

    Raises: RefusedError for payload without the right to it; UsageError for a longer window, an unknown
    device, or packets that the format cannot hold.
    """
    with _planned(caller, window, Action.CAPTURE_EXPORTED) as (exports, plan):
        change = _anonymising(caller, window.scheme) if window.anonymise else None
        parts = exports.stream(plan, change)
        written = _write_file(output, parts) if isinstance(output, Path) else _write(output, parts)
        result = {**_summary(plan), **written, "manifest": None}
        if isinstance(output, Path):
            result["manifest"] = str(_write_manifest(output, caller, window, plan, result))
        caller.results.update(
            packets=plan.packets, bytes=written["bytes"], digest=caller.digest(written["sha256"])
        )
        return result


@dataclass(frozen=True)
class Opened:
    """An export that was granted and is in the trail, but of which nothing has left yet.

    `etag` changes with the packets, the window and the form; `stream` can be called more than once.
    """

    plan: Plan
    size_bytes: int
    etag: str
    stream: Callable[[], Iterator[memoryview]]


@contextmanager
def opened_capture(caller: Caller, window: Window) -> Iterator[Opened]:
    """Authorise, audit and plan an export for a door that streams it; what it sent closes the entry.

    Raises: as `export_capture`.
    """
    with _planned(caller, window, Action.CAPTURE_EXPORTED) as (exports, plan):
        change = _anonymising(caller, window.scheme) if window.anonymise else None
        # What anonymising takes away is known only once it is done: a pass that writes nowhere.
        size = sum(map(len, exports.stream(plan, change))) if change else plan.size_bytes
        blocks = [place.block_id for _, place in sorted(plan.places.items())]
        named = [*blocks, str(plan.since_ns), str(plan.until_ns), plan.layout.format, str(window.anonymise)]
        caller.results["packets"] = plan.packets
        yield Opened(plan, size, caller.digest("\n".join(named)), lambda: exports.stream(plan, change))


def reads_payload(caller: Caller, device: str) -> bool:
    """Whether the caller may have the payload of a device's packets; what is then done is authorised anew."""
    try:
        caller.authorise(Right.READ_PAYLOAD, caller.platform.devices(caller.known_tenant()).ref(device))
    except RefusedError:
        return False
    return True


def summarise_capture(caller: Caller, window: Window, with_bytes: bool = False) -> dict[str, Any]:
    """Count packets of a device by the minute, and their bytes where asked for; nothing leaves."""
    with _planned(caller, window, Action.CAPTURE_SUMMARISED) as (_, plan):
        caller.results.update(packets=plan.packets)
        sizes = {"bytes_per_minute": _bytes_per_minute(caller, window)} if with_bytes else {}
        counts = {_minute(at): count for at, count in sorted(plan.summary.minutes.items())}
        nothing = {"sha256": None, "manifest": None}
        return {**_summary(plan), "bytes": plan.size_bytes, **nothing, "packets_per_minute": counts, **sizes}


def _bytes_per_minute(caller: Caller, window: Window) -> dict[str, int]:
    """Add up captured bytes from the packet table, whose rows name the device by its token's first part."""
    sandbox = SqlSandbox(caller.platform.tables, caller.tenant)
    if "masked.packets" not in sandbox.names():
        return {}
    token = caller.platform.devices(caller.tenant).find(window.device).token[:JOIN_CHARACTERS]
    query = (
        "select strftime(occurred_at, '%Y-%m-%dT%H:%MZ') as minute, sum(captured_bytes)::bigint as size "  # noqa: S608
        f"from masked.packets where left(device_token, {JOIN_CHARACTERS}) = '{token}' "
        f"and packet_hour in ('{window.since:%Y-%m-%dT%H}', '{window.until:%Y-%m-%dT%H}') "
        f"and occurred_at >= timestamptz '{window.since.isoformat()}' "
        f"and occurred_at < timestamptz '{window.until.isoformat()}' group by 1 order by 1"
    )
    return {row["minute"]: row["size"] for row in sandbox.run(query).to_pylist()}


@contextmanager
def _planned(caller: Caller, window: Window, action: Action) -> Iterator[tuple[CaptureExports, Plan]]:
    """Authorise, audit and plan; the trail knows the device by its pseudonym."""
    check_window(window.since, window.until)
    devices = caller.platform.devices(caller.known_tenant())
    wants_payload = action is Action.CAPTURE_EXPORTED and not window.anonymise
    marks = {
        "device": devices.ref(window.device),
        "since": window.since.isoformat(),
        "until": window.until.isoformat(),
        "format": window.format,
        "anonymised": str(window.anonymise).lower(),
    }
    right = Right.READ_PAYLOAD if wants_payload else Right.READ_CAPTURES
    try:
        with caller.permitted(right, action, on_device=marks["device"], **marks):
            exports = caller.platform.capture_exports(caller.tenant)
            device = devices.find(window.device)
            with exports.planned(device, window.since, window.until, window.format) as plan:
                yield exports, plan
    except RefusedError as error:
        hint = "; packets without payload can be had with --anonymise" if wants_payload else ""
        raise RefusedError(f"{error}{hint}") from None


def request_capture(caller: Caller, device: str, hour: str) -> str:
    """Ask Dagster for the capture file of a device and hour, to be kept sealed; gives the request's id."""
    devices = caller.platform.devices(caller.known_tenant())
    start = hour_start(hour)
    marks = {"device": devices.ref(device), "hour": f"{start:%Y-%m-%dT%H}"}
    with caller.permitted(Right.READ_PAYLOAD, Action.CAPTURE_REQUESTED, **marks):
        devices.find(device)
        return caller.platform.outbox.ask(EXPORT, caller.tenant, marks)


def list_kept(caller: Caller) -> list[dict[str, str]]:
    """Give the kept capture files: device, hour, when they expire."""
    devices = caller.platform.devices(caller.known_tenant())
    with caller.permitted(Right.READ_PAYLOAD, Action.CAPTURES_LISTED):
        found = caller.platform.kept_exports(caller.tenant).listing()
        names = {one.ref: one.id for one in devices.listing([ref for ref, _, _ in found])}
        return [
            {"device": names[ref], "hour": hour, "expires_at": expires_at.isoformat(timespec="seconds")}
            for ref, hour, expires_at in found
        ]


def open_kept(caller: Caller, device: str, hour: str, output: Path) -> dict[str, Any]:
    """Write a kept capture file in clear."""
    devices = caller.platform.devices(caller.known_tenant())
    marks = {"device": devices.ref(device), "hour": f"{hour_start(hour):%Y-%m-%dT%H}"}
    with caller.permitted(Right.READ_PAYLOAD, Action.CAPTURE_OPENED, **marks):
        pieces = caller.platform.kept_exports(caller.tenant).open(marks["device"], marks["hour"])
        written = _write_file(output, pieces)
        caller.results.update(bytes=written["bytes"], digest=caller.digest(written["sha256"]))
        return written


def _anonymising(caller: Caller, scheme: Scheme) -> Change:
    """Give what anonymises packets, under keys of the tenant that never rotate: releases stay comparable."""
    keys = caller.platform.keys(caller.tenant)
    chosen = AnonymiseKeys(keys.identity_key("anonymise/ip"), keys.identity_key("anonymise/mac"))
    return lambda packets: anonymise_packets(packets, chosen, scheme=scheme)


def _write(target: BinaryIO, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for part in parts:
        target.write(part)
        digest.update(part)
        size += len(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write_file(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file that only its owner may read; it has its name once it is whole."""
    with written_whole(path) as target:
        return _write(target, parts)


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "packets": plan.packets,
        "first": _moment(plan.summary.first_ns),
        "last": _moment(plan.summary.last_ns),
    }


def _write_manifest(path: Path, caller: Caller, window: Window, plan: Plan, result: dict[str, Any]) -> Path:
    """Write beside an export what it is: query, counts, where the packets came from, what is missing."""
    manifest = {
        "query": {
            "tenant": caller.tenant,
            "device": window.device,
            "from": window.since.isoformat(),
            "to": window.until.isoformat(),
            "format": window.format,
        },
        "result": {name: result[name] for name in ("packets", "bytes", "sha256", "first", "last")},
        "policy": f"anonymised ({window.scheme}), payload cut" if window.anonymise else "as captured",
        "sources": [
            {"file_id": one["file_id"], "received_at": one["received_at"].isoformat(), "format": one["format"]}
            for one in plan.files
        ],
        "damaged": [
            {"file_id": one["file_id"], "reason": one["reason"], "offset": one["damage_offset"]}
            for one in plan.files
            if one["status"] != "complete"
        ],
        "minutes_without_packets": _gaps(plan),
        "exported_at": now().isoformat(),
        "exported_by": caller.principal,
    }
    beside = path.with_name(path.name + _MANIFEST_SUFFIX)
    beside.touch(mode=0o600)
    beside.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return beside


def _gaps(plan: Plan) -> list[str]:
    """Give the minutes of the window in which the device was silent, or nobody listened."""
    begin, end = plan.since_ns // MINUTE_NS, -(-plan.until_ns // MINUTE_NS)
    return [_minute(at) for at in range(begin, end) if not plan.summary.minutes[at]]


def _minute(at: int) -> str:
    return f"{_EPOCH + timedelta(minutes=at):%Y-%m-%dT%H:%MZ}"


def _moment(ns: int | None) -> str | None:
    """Write a time to the nanosecond."""
    if ns is None:
        return None
    return f"{_EPOCH + timedelta(seconds=ns // 1_000_000_000):%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"


def add_device(caller: Caller, device: str) -> Device:
    """Register a device."""
    devices = caller.platform.devices(caller.known_tenant())
    with caller.permitted(Right.MANAGE_DEVICES, Action.DEVICE_ADDED, device=devices.ref(device)):
        return devices.register(device)


def readable_devices(caller: Caller) -> list[str]:
    """Give the ids of the devices whose packets the caller can read now: all, or those of its grants."""
    devices, access = caller.platform.devices(caller.known_tenant()), caller.platform.access
    try:
        caller.authorise(Right.READ_CAPTURES)
        refs = None
    except RefusedError:
        refs = access.grants.devices_of(caller.principal, caller.tenant)
    found = [one.id for one in devices.listing(refs)]
    caller.record(Action.DEVICES_LISTED, Outcome.DONE, devices=len(found))
    return sorted(found)


def list_devices(caller: Caller) -> list[Device]:
    """Give the devices of a tenant, by their ids."""
    with caller.permitted(Right.MANAGE_DEVICES, Action.DEVICES_LISTED):
        found = caller.platform.devices(caller.tenant).listing()
        caller.results["devices"] = len(found)
        return found


def own_device(caller: Caller, device: str, owner: str, since: datetime) -> int:
    """Begin an ownership; gives its number."""
    devices = caller.platform.devices(caller.known_tenant())
    marks = {"device": devices.ref(device), "owner": caller.digest(owner), "since": since.isoformat()}
    with caller.permitted(Right.MANAGE_DEVICES, Action.DEVICE_OWNED, **marks):
        return devices.own(device, owner, since).number


def add_address(
    caller: Caller, device: str, kind: Kind, address: str, since: datetime | None, until: datetime | None
) -> None:
    """Note by which address a device goes, so that packets of shared captures are found to be its."""
    devices = caller.platform.devices(caller.known_tenant())
    marks = {"device": devices.ref(device), "kind": kind, "address": caller.digest(address)}
    with caller.permitted(Right.MANAGE_DEVICES, Action.DEVICE_ADDRESSED, **marks):
        devices.add_address(device, kind, address, since, until)
