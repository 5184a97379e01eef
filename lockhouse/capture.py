"""`capture` and `device`: packets of a device and hour, and which devices there are."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table, working


class Moment(click.ParamType[datetime]):
    """A time: RFC 3339, or seconds since 1970; UTC where it names no zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Read a time."""
        if isinstance(value, datetime):
            return value
        try:
            seconds = float(value)
        except ValueError:
            return self._read(value, param, ctx)
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, OSError, ValueError):
            self.fail("no such time", param, ctx)

    def _read(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("a time is 2026-11-21T07:00:00Z, or seconds since 1970", param, ctx)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


MOMENT = Moment()


@click.group("capture", short_help="Packets of a device, at most an hour at a time.")
def capture_command() -> None:
    """Packets of a device, at most an hour at a time."""


@capture_command.command("get")
@click.option("--device", required=True, help="The device's id.")
@click.option("--from", "since", required=True, type=MOMENT, help="The first moment (included).")
@click.option("--to", "until", required=True, type=MOMENT, help="The last moment (not included).")
@click.option("-o", "--output", help="The file to write; - for standard output.")
@click.option(
    "--format",
    "wanted",
    type=click.Choice(["pcap", "pcapng"]),
    default="pcap",
    show_default=True,
    help="pcapng where packets have several link types.",
)
@click.option("--anonymise", is_flag=True, help="Addresses encrypted, payload cut.")
@click.option(
    "--scheme",
    type=click.Choice(["ipcrypt-pfx", "cryptopan"]),
    default="ipcrypt-pfx",
    show_default=True,
    help="How --anonymise encrypts IP addresses; both keep prefixes.",
)
@click.option("--info", is_flag=True, help="Only count: packets by the minute, bytes, first and last.")
@tenant_option
@json_option
@click.pass_obj
def capture_get(
    home: Path | None,
    device: str,
    since: datetime,
    until: datetime,
    output: str | None,
    wanted: Literal["pcap", "pcapng"],
    anonymise: bool,
    scheme: Literal["ipcrypt-pfx", "cryptopan"],
    info: bool,
    tenant: str,
    as_json: bool,
) -> None:
    """Write the packets of a device in [from, to) into a capture file, with a manifest beside it.

    Who may not read payload adds --anonymise. The request is authorised and audited before the first byte.

    \b
    Examples:
      lockhouse capture get --device router-7 --from 2026-11-21T07:00Z --to 2026-11-21T08:00Z -o hour.pcap
      lockhouse capture get --device router-7 --from 2026-11-21T07:00Z --to 2026-11-21T07:05Z --info
      lockhouse capture get --device router-7 --from 1795244400 --to 1795244460 -o - | tcpdump -r -
    """
    from lockhouse.capture_operations import Window, export_capture, summarise_capture

    if output == "-" and as_json:
        raise click.UsageError("--json and -o - both want standard output: choose one")
    caller = caller_of(home, tenant)
    window = Window(device, since, until, wanted, anonymise, scheme)
    if info:
        result = summarise_capture(caller, window)
        show_json(result) if as_json else _show_summary(result)
        return
    if output == "-":
        export_capture(caller, window, sys.stdout.buffer)
        return
    path = Path(output or f"capture-{since:%Y%m%dT%H%M%SZ}.{wanted}")
    with working(f"Writing {path}", not as_json):
        result = export_capture(caller, window, path)
    if as_json:
        show_json(result)
        return
    note(f"Wrote {result['packets']:,} packets, {result['bytes']:,} bytes, to {path}")
    note(f"Manifest: {result['manifest']}")
    if not anonymise:
        note("The file is readable: guard it. The export is in the audit trail.")
    if not result["packets"]:
        note("There are none in that window: --info shows where there are some")


@capture_command.command("keep")
@click.option("--device", required=True, help="The device's id.")
@click.option("--hour", required=True, help="The UTC hour of the packets, as 2026-11-21T07.")
@tenant_option
@json_option
@click.pass_obj
def capture_keep(home: Path | None, device: str, hour: str, tenant: str, as_json: bool) -> None:
    """Ask for the capture file of a device and hour, to be kept sealed for seven days.

    Dagster makes it (asset captures/pcap, a partition for each device and hour) while `lockhouse up` runs.

    \b
    Example:
      lockhouse capture keep --device router-7 --hour 2026-11-21T07
    """
    from lockhouse.capture_operations import request_capture

    request = request_capture(caller_of(home, tenant), device, hour)
    if as_json:
        show_json({"request": request})
    else:
        note(f"Asked for, as request {request}")
        note(f"Next: {program()} capture kept")


@capture_command.command("kept")
@tenant_option
@json_option
@click.pass_obj
def capture_kept(home: Path | None, tenant: str, as_json: bool) -> None:
    """List the capture files that are kept sealed."""
    from lockhouse.capture_operations import list_kept

    found = list_kept(caller_of(home, tenant))
    if as_json:
        show_json({"exports": found})
        return
    show_table(
        ["device", "hour", "expires"], [[one["device"], one["hour"], one["expires_at"]] for one in found]
    )
    note(f"Next: {program()} capture open --device ID --hour HOUR -o FILE" if found else "Nothing is kept.")


@capture_command.command("open")
@click.option("--device", required=True, help="The device's id.")
@click.option("--hour", required=True, help="The UTC hour of the packets, as 2026-11-21T07.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@tenant_option
@json_option
@click.pass_obj
def capture_open(home: Path | None, device: str, hour: str, output: Path, tenant: str, as_json: bool) -> None:
    """Write a kept capture file in clear; authorised and audited first."""
    from lockhouse.capture_operations import open_kept

    written = open_kept(caller_of(home, tenant), device, hour, output)
    if as_json:
        show_json({**written, "output": str(output.absolute())})
    else:
        note(f"Wrote {written['bytes']:,} bytes in clear to {output}: guard that file.")


def _show_summary(result: dict[str, Any]) -> None:
    minutes = result["packets_per_minute"]
    note(f"{result['packets']:,} packets, {result['bytes']:,} bytes as a file")
    if minutes:
        note(f"{result['first']} to {result['last']}")
        show_table(["minute", "packets"], minutes.items(), right=["packets"])


@click.group("device", short_help="Devices, their owners and their addresses.")
def device_command() -> None:
    """Devices, their owners and their addresses, each with the time from which it holds."""


@device_command.command("add")
@click.argument("device")
@click.option("--owner", help="Who has it.")
@click.option("--mac", multiple=True, help="A hardware address of it; repeatable.")
@click.option("--ip", multiple=True, help="An IP address of it; repeatable.")
@click.option("--from", "since", type=MOMENT, help="From when on (default: owners from now, addresses always).")
@click.option("--to", "until", type=MOMENT, help="Until when its addresses are its own (default: no end).")
@tenant_option
@json_option
@click.pass_obj
def device_add(
    home: Path | None,
    device: str,
    owner: str | None,
    mac: tuple[str, ...],
    ip: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Register a device, say who has it from when on, and by which addresses it goes.

    Packets belong to who had the device at their time: each ownership has a key of its own.

    \b
    Examples:
      lockhouse device add router-7 --mac 02:00:5e:10:00:ff
      lockhouse device add phone-3 --owner 424cdd21-063a-43a7-b91b-7ca1a833afae --from 2026-11-01T00:00:00Z
    """
    from lockhouse import capture_operations as operations

    caller = caller_of(home, tenant)
    found = operations.add_device(caller, device)
    if owner:
        operations.own_device(caller, device, owner, since or datetime.now(UTC))
    for address in mac:
        operations.add_address(caller, device, "mac", address, since, until)
    for address in ip:
        operations.add_address(caller, device, "ip", address, since, until)
    if as_json:
        show_json({"device": device, "ref": found.ref})
    else:
        note(f"{device} is {found.ref} in tables and partitions")
        note(f"Next: {program()} ingest captures FILE --device {device}")


@device_command.command("list")
@tenant_option
@json_option
@click.pass_obj
def device_list(home: Path | None, tenant: str, as_json: bool) -> None:
    """List the devices of a tenant."""
    from lockhouse.capture_operations import list_devices

    found = list_devices(caller_of(home, tenant))
    if as_json:
        devices = [{"device": one.id, "ref": one.ref, "ownerships": len(one.ownerships)} for one in found]
        show_json({"devices": devices})
        return
    rows = [[one.id, one.ref, len(one.ownerships) - 1] for one in found]
    show_table(["device", "ref", "owners"], rows, right=["owners"])
