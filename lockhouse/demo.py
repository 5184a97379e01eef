"""`demo`: synthetic data from the contracts through everything, and a look at what came of it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockhouse.main import caller_of, json_option
from lockhouse.output import note, program, show_json, show_table, stopwatch, working

if TYPE_CHECKING:
    from lockhouse.operations import Caller
    from orchestration.resources import Platform
    from stores.landing import Batch
    from stores.ledger import Counts

SEED = 20261121
EVENTS = 20_000
REQUESTS = 140
PACKETS = 5_000
DEVICE = "router-1"
TENANT = "default"


@click.command("demo", short_help="Synthetic data through everything.")
@json_option
@click.pass_obj
def demo_command(home: Path | None, as_json: bool) -> None:
    """Send synthetic data through everything: sealed, masked, into the marts, checked, scanned.

    They are logins, packets and requests for validation, made from the contracts and a seed, bad records and
    canaries among them. A second demo changes nothing.
    """
    with stopwatch() as watch:
        result = run_demo(home, quiet=as_json)
    result["seconds"] = watch["seconds"]
    if as_json:
        show_json(result)
    else:
        _tell(result, home)


def run_demo(home: Path | None, *, quiet: bool) -> dict[str, Any]:
    """Do the demo; give what the tables hold, which checks passed, and what a scan for canaries found."""
    from lockhouse.operations import canaries, list_tables, scan_leaks
    from lockhouse.runs import materialise
    from lockhouse.setup import prepare_home

    prepare_home(home)
    caller = caller_of(home, TENANT)
    platform = caller.platform
    with working("Making synthetic logins, packets and requests", not quiet):
        platform.landing.recover()
        batches = [*platform.landing.open_batches("logins"), *_land(caller)]
        captures = [*platform.landing.open_batches("captures"), *_land_capture(caller)]
        requests = _submit(caller)
    with working("Logins: sealing, masking, building the marts, checking", not quiet):
        checks = materialise(platform, "logins", batches).checks
    with working("Captures: sealing, masking, building the marts, checking", not quiet):
        checks |= materialise(platform, "captures", captures).checks
    with working("Validations: sealing, masking, building the marts, checking", not quiet):
        validations = platform.landing.open_batches("validations")
        checks |= materialise(platform, "validations", validations).checks
    planted = canaries(caller)
    with working(f"Looking for {len(planted)} planted canaries in every file", not quiet):
        leaks = scan_leaks(caller, planted)
    counts = platform.ledger.counts([batch.id for batch in batches])
    packets = platform.ledger.counts([batch.id for batch in captures])
    return {
        "home": str(platform.home.root),
        "events": counts.rows,
        "accepted": counts.accepted,
        "quarantined": counts.quarantined,
        "duplicates": counts.duplicates,
        "unknown": counts.unknown,
        "packets": packets.rows,
        "packets_accepted": packets.accepted,
        "requests": requests.rows,
        "requests_accepted": requests.accepted,
        "captured_until": _demo_time(platform).isoformat(),
        "tables": {one["table"]: one["rows"] for one in list_tables(caller)},
        "checks": checks,
        "canaries": len(planted),
        "files_scanned": leaks.files,
        "leaks": len(leaks.hits),
    }


def _land(caller: Caller) -> list[Batch]:
    """Land the demo's files: JSON lines in gzip, queue messages, and one with bad records and canaries."""
    platform = caller.platform
    until = _demo_time(platform)
    files = {
        "logins.ndjson.gz": gzip.compress(_lines(until, SEED, EVENTS), 1, mtime=0),
        "messages.ndjson": _messages(until),
        # A file's name is personal data as well.
        f"{_canaries(caller)[0]} canaries.ndjson": _canary_lines(caller, until),
    }
    return [
        batch
        for name, content in files.items()
        for batch in platform.landing.land("logins", TENANT, name, content)
    ]


def _land_capture(caller: Caller) -> list[Batch]:
    """Land an hour of packets, with canaries in payloads and names, and the device's."""
    from transforms.capture.synthetic import synthetic_capture

    until = _demo_time(caller.platform)
    content = synthetic_capture(SEED, PACKETS, until, _canaries(caller))
    return caller.platform.landing.land("captures", TENANT, "hour.pcap", content, DEVICE)


def _submit(caller: Caller) -> Counts:
    """Submit a file of requests with canaries in them, and have them decided."""
    from lockhouse.validation_operations import request_files, take_requests, work_through
    from stores.canaries import canaries_of
    from stores.contracts import load_contract
    from transforms.pii.synthetic import as_json_lines, is_telling, synthetic_records
    from transforms.validations.requests import request_contract

    contract = request_contract(load_contract("validations"))
    telling = [one for one in contract.fields if is_telling(one)]
    values = iter(canaries_of(caller.platform.keys(TENANT), load_contract("validations")))
    made = synthetic_records(contract, SEED + 3, REQUESTS, _demo_time(caller.platform), events_a_subject=2)
    # Each value is planted in the field that it looks like one of.
    planted = ({**record, **{one.name: next(values) for one in telling}} for record in made)
    lines = as_json_lines(planted)
    files = request_files(caller)
    counts = take_requests(caller, files, [*files.left(), *files.land_content("requests.ndjson", lines)])
    work_through(caller.platform, note)
    return counts


def _demo_time(platform: Platform) -> datetime:
    """Give the time of the home's first demo: a second one makes the very same files."""
    from orchestration.resources import now

    path = platform.home.root / "demo-time"
    if not path.exists():
        path.write_text(now().isoformat(timespec="seconds"))
    return datetime.fromisoformat(path.read_text())


def _lines(until: datetime, seed: int, count: int) -> bytes:
    from stores.contracts import load_contract
    from transforms.pii.synthetic import as_json_lines, synthetic_records

    return as_json_lines(synthetic_records(load_contract("logins"), seed, count, until))


def _messages(until: datetime) -> bytes:
    """Wrap some events as a queue does, one of them delivered twice."""
    import uuid

    import msgspec

    bodies = _lines(until, SEED + 1, 200).decode().splitlines()
    wrapped = [
        msgspec.json.encode({"MessageId": str(uuid.UUID(int=SEED << 64 | number, version=4)), "Body": body})
        for number, body in enumerate(bodies)
    ]
    return b"\n".join([*wrapped, wrapped[0]]) + b"\n"


def _canaries(caller: Caller) -> list[str]:
    """Give the canaries that go with logins and packets; those of validations are in the requests."""
    from stores.canaries import canaries_of
    from stores.contracts import load_contract

    return canaries_of(caller.platform.keys(TENANT), load_contract("logins"))


def _canary_lines(caller: Caller, until: datetime) -> bytes:
    """Plant every canary: as personal values, in undeclared fields, and in records that will be refused."""
    import msgspec

    from stores.contracts import load_contract
    from transforms.pii.synthetic import synthetic_records

    values = iter(_canaries(caller))
    contract = load_contract("logins")
    personal = [one.name for one in contract.fields if one.is_personal]
    records = list(synthetic_records(contract, SEED + 2, 400, until))
    made = [_with_canaries(record, personal, values, number) for number, record in enumerate(records)]
    left = [msgspec.json.encode({"oops": value}) for value in values]
    broken = [line[: len(line) // 2] for line in left[:50]]
    return b"\n".join([*made, *left, *broken]) + b"\n"


def _with_canaries(record: dict[str, Any], personal: list[str], values: Iterator[str], number: int) -> bytes:
    import msgspec

    if number % 2 == 0:
        record = {**record, **dict(zip(personal, islice(values, len(personal)), strict=False))}
    elif number % 8 == 1:
        value = next(values, "none")
        record = {**record, value: value, "note": value}
    return msgspec.json.encode(record)


def _tell(result: dict[str, Any], home: Path | None) -> None:
    passed = sum(result["checks"].values())
    note(f"Lockhouse demo, in {result['seconds']} s. All state is in {result['home']}")
    if result["accepted"]:
        note(
            f"{result['events']:,} synthetic records came in: {result['accepted']:,} accepted, "
            f"{result['quarantined']:,} quarantined, {result['duplicates']:,} delivered twice"
        )
    else:
        note(f"All {result['events']:,} synthetic records had come before: nothing changed")
    if result["packets_accepted"]:
        note(f"{result['packets_accepted']:,} packets of {DEVICE} came in as a capture file")
    if result["requests_accepted"]:
        note(f"{result['requests_accepted']:,} requests for validation were submitted, and decided")
    show_table(["table", "rows"], result["tables"].items(), right=["rows"])
    note(
        f"Checks: {passed} of {len(result['checks'])} passed"
        if result["checks"]
        else "Checks: nothing new to check"
    )
    note(
        f"{result['canaries']:,} canaries were planted; {result['files_scanned']} files were decoded "
        f"outside landing and keys: {result['leaks']} readable"
    )
    prefix = f"{program()} --home {home}" if home else program()
    note("Next:")
    note(f'  {prefix} sql "select device_type, sum(logins) as logins from curated.daily_logins group by all"')  # noqa: S608
    until = datetime.fromisoformat(result["captured_until"])
    since = until - timedelta(minutes=5)
    note(f"  {prefix} capture get --device {DEVICE} --from {_stamp(since)} --to {_stamp(until)} --info")
    note(f"  {prefix} up")


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
