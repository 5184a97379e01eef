"""Captures by command line: taken in, counted, given back, refused; and kept exports through Dagster."""

import json
import os
import stat
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from command_line import DONE, QUARANTINED, REFUSED, WRONG_USAGE, Call, sql
from orchestration import definitions
from orchestration.definitions import defs
from orchestration.jobs import EXPORT_CAPTURE, INGEST_CAPTURES
from orchestration.resources import Platform
from orchestration.sensors import capture_requests
from stores.kept_exports import EXPIRES_AFTER
from stores.settings import load_settings
from transforms.access import Role
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.errors import ErasedSubjectError, UsageError

START = int(datetime(2026, 11, 21, 7, tzinfo=UTC).timestamp())
SECRET = b"my password is swordfish"


def make_capture(count: int) -> bytes:
    """A capture with a packet each ten seconds; the payload is readable."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)]
    for number in range(count):
        udp = struct.pack(">HHHH", 40_000, 5683, 8 + len(SECRET), 0) + SECRET
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, b"\xc6\x33\x64\xd5", b"\n\0\0\2"
        )
        frame = bytes.fromhex("02005e1000ff 02005e1000fe 0800") + ip + udp
        parts.append(struct.pack("<IIII", START + 10 * number, 0, len(frame), len(frame)) + frame)
    return b"".join(parts)


@pytest.fixture(scope="module")
def home(call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a device's hour in it, taken in through the whole job."""
    folder = tmp_path_factory.mktemp("captures")
    (folder / "hour.pcap").write_bytes(make_capture(360))
    called = call(
        "ingest", "captures", folder / "hour.pcap", "--device", "phone-3", "--json", home=folder / "home"
    )
    assert called.code == DONE, called.err
    assert called.json["accepted"] == called.json["tables"]["masked.packets"] == 360
    assert all(called.json["checks"].values())
    assert called.json["tables"]["curated.device_hours"] == 1
    return folder / "home"


def get(call: Call, home: Path, *more: object, since: object = START, until: object = START + 3600) -> Any:
    return call("capture", "get", "--device", "phone-3", "--from", since, "--to", until, *more, home=home)


def test_an_hour_is_given_back_with_its_manifest(call: Call, home: Path, tmp_path: Path):
    called = get(call, home, "-o", tmp_path / "out.pcap", "--json")
    assert called.code == DONE, called.err
    assert (tmp_path / "out.pcap").read_bytes() == make_capture(360)
    assert stat.S_IMODE((tmp_path / "out.pcap").stat().st_mode) == 0o600
    manifest = json.loads(Path(called.json["manifest"]).read_text())
    assert manifest["result"]["packets"] == called.json["packets"] == 360
    assert manifest["result"]["sha256"] == called.json["sha256"]
    assert manifest["query"]["device"] == "phone-3"
    assert (manifest["damaged"], manifest["minutes_without_packets"]) == ([], [])
    assert len(manifest["sources"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pcap", "out.pcap.manifest.json"]


def test_info_counts_by_the_minute_and_writes_nothing(call: Call, home: Path, tmp_path: Path):
    called = get(call, home, "--info", "--json", since="2026-11-21T07:00:30Z", until="2026-11-21T07:03:00Z")
    assert called.json["packets_per_minute"] == {
        "2026-11-21T07:00Z": 3,
        "2026-11-21T07:01Z": 6,
        "2026-11-21T07:02Z": 6,
    }
    assert called.json["packets"] == 15
    assert called.json["first"] == "2026-11-21T07:00:30.000000000Z"


@pytest.mark.parametrize("scheme", ["ipcrypt-pfx", "cryptopan"])
def test_an_anonymised_export_holds_neither_payload_nor_address(
    call: Call, home: Path, tmp_path: Path, scheme: str
):
    assert get(call, home, "--anonymise", "--scheme", scheme, "-o", tmp_path / "out.pcap").code == DONE
    assert scheme in (tmp_path / "out.pcap.manifest.json").read_text()
    content = (tmp_path / "out.pcap").read_bytes()
    packets = [part for part in read_capture(content) if isinstance(part, Packets)]
    assert sum(map(len, packets)) == 360
    assert int(packets[0].headers["original"][0]) == 42 + len(SECRET)
    for secret in (SECRET, b"\xc6\x33\x64\xd5", bytes.fromhex("02005e1000ff"), bytes.fromhex("02005e1000fe")):
        assert secret not in content


@pytest.mark.parametrize(
    ("since", "until", "told"),
    [
        (START, START + 3601, "at most one hour"),
        (START, START, "ends before it begins"),
        ("yesterday", START, "a time is"),
        ("9" * 30, START, "no such time"),
    ],
)
def test_wrong_windows_are_refused(call: Call, home: Path, since: object, until: object, told: str):
    called = get(call, home, "--info", since=since, until=until)
    assert called.code == WRONG_USAGE
    assert told in called.err


def test_both_want_standard_output(call: Call, home: Path):
    assert get(call, home, "-o", "-", "--json").code == WRONG_USAGE


def test_an_unknown_device_is_told_and_audited(call: Call, home: Path):
    called = call("capture", "get", "--device", "nobody", "--from", 1, "--to", 2, "--info", home=home)
    assert called.code == WRONG_USAGE
    assert "no such device" in called.err
    trail = call("audit", "list", "--json", home=home).json["entries"]
    counted = [one for one in trail if one["action"] == "captures:packets:summarised"]
    assert counted[-1]["outcome"] == "failed"
    assert "nobody" not in json.dumps(trail)


def test_who_may_not_read_payload_gets_packets_without(
    call: Call, home: Path, tmp_path: Path, monkeypatch: Any
):
    Platform(load_settings(home)).access.assign("ana", Role.ANALYST)
    monkeypatch.setattr("stores.settings.local_user", lambda: "ana")
    refused = get(call, home, "-o", tmp_path / "out.pcap")
    assert refused.code == REFUSED
    assert "--anonymise" in refused.err
    assert not any(tmp_path.iterdir())
    assert get(call, home, "-o", tmp_path / "out.pcap", "--anonymise").code == DONE


def test_an_export_is_audited_before_and_after(call: Call, home: Path, tmp_path: Path):
    get(call, home, "-o", tmp_path / "out.pcap")
    trail = call("audit", "list", "--json", home=home).json["entries"]
    before, last = [one for one in trail if one["action"] == "captures:packets:exported"][-2:]
    assert (before["outcome"], last["outcome"]) == ("allowed", "done")
    assert json.loads(last["parameters"])["packets"] == 360
    assert "phone-3" not in last["parameters"]
    assert call("audit", "verify", "--json", home=home).json["ok"]


def test_bad_files_end_in_quarantine_with_the_exit_code_for_it(call: Call, home: Path, tmp_path: Path):
    (tmp_path / "bad.pcap").write_bytes(b"no capture")
    called = call("ingest", "captures", tmp_path / "bad.pcap", "--device", "phone-4", "--json", home=home)
    assert (called.code, called.json["quarantined"]) == (QUARANTINED, 1)
    entry = call("quarantine", "list", "--source", "captures", "--json", home=home).json["entries"][0]
    assert entry["reason"] == "neither pcap nor pcapng"
    shown = call("quarantine", "show", entry["id"], "--json", home=home)
    assert shown.json["content"] == "no capture"
    retried = call("quarantine", "retry", entry["id"], "--source", "captures", home=home)
    assert retried.code == WRONG_USAGE


def test_logins_have_no_device(call: Call, home: Path, tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    assert call("ingest", "logins", tmp_path / "a.json", "--device", "x", home=home).code == WRONG_USAGE


def test_devices_are_listed_with_their_owners(call: Call, home: Path):
    added = call(
        "device", "add", "tablet-1", "--owner", "someone", "--mac", "02-00-5E-10-00-AA", "--json", home=home
    )
    assert added.code == DONE, added.err
    listed = {one["device"]: one for one in call("device", "list", "--json", home=home).json["devices"]}
    assert listed["tablet-1"]["ref"] == added.json["ref"]
    assert listed["tablet-1"]["ownerships"] == 2
    assert call("device", "add", "tablet-1", "--mac", "nonsense", home=home).code == WRONG_USAGE
    database = (home / "lockhouse.db").read_bytes()
    for secret in (b"tablet-1", b"someone", b"02:00:5e:10:00:aa"):
        assert secret not in database


def test_people_read_tables_and_what_comes_next(call: Call, home: Path, tmp_path: Path):
    def read(*words: object) -> str:
        called = call(*words, home=home)
        assert called.code == DONE, called.err
        return " ".join((called.out + called.err).split())

    window = ("--device", "phone-3", "--from", START, "--to", START + 3600)
    size = len(make_capture(360))
    told = read("capture", "get", *window, "--info")
    assert f"360 packets, {size:,} bytes as a file" in told
    assert told.endswith("2026-11-21T07:00:00.000000000Z to 2026-11-21T07:59:50.000000000Z")
    assert "minute packets 2026-11-21T07:00Z 6 2026-11-21T07:01Z 6" in told
    told = read("capture", "get", *window, "-o", tmp_path / "hour.pcap")
    assert told.startswith(f"Wrote 360 packets, {size:,} bytes, to {tmp_path}/hour.pcap Manifest: ")
    assert read("device", "add", "scale-1").endswith("ingest captures FILE --device scale-1")
    assert read("device", "list").startswith("device ref owners")


def test_a_partition_of_packets_is_made_again(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
):
    """In a home of its own: another test destroys a key, and leaves the rest of an erasure undone."""
    home, file = tmp_path / "home", tmp_path / "hour.pcap"
    file.write_bytes(make_capture(360))
    assert call("ingest", "captures", file, "--device", "phone-3", home=home).code == DONE
    query = "select * exclude (batch_id) from masked.packets order by all"
    before = sql(call, home, query)
    arrival = "select distinct strftime(received_hour, '%Y-%m-%d-%H:00') as key from masked.packets"
    (arrived,) = sql(call, home, arrival)
    monkeypatch.setenv("LOCKHOUSE_HOME", str(home))
    run = defs.resolve_job_def(INGEST_CAPTURES.name).execute_in_process(
        instance=instance, partition_key=arrived["key"], asset_selection=[dg.AssetKey(["masked", "packets"])]
    )
    (made,) = run.asset_materializations_for_node("masked_packets")
    assert made.metadata["rows written"].value == 360
    assert all(one.passed for one in run.get_asset_check_evaluations())
    assert sql(call, home, query) == before


def test_packets_are_masked_in_sql(call: Call, home: Path):
    rows = call(
        "sql", "select distinct protocol, dst_port from masked.packets", "--format", "json", home=home
    ).json
    assert rows == [{"protocol": 17, "dst_port": 5683}]
    token = call("token", "198.51.100.213", "--domain", "ip", "--json", home=home).json["token"]
    device = call("token", "phone-3", "--domain", "device", "--json", home=home).json["token"]
    of = f"src_ip_token = '{token}' and device_token = '{device}'"
    count = call(
        "sql",
        f"select count(*) as n from masked.packets where {of}",  # noqa: S608
        "--format",
        "json",
        home=home,
    ).json
    assert count == [{"n": 360}]


def test_nothing_of_a_packet_is_readable_in_the_home(call: Call, home: Path):
    values = [SECRET.decode(), "198.51.100.213", "02:00:5e:10:00:fe", "phone-3"]
    scanned = call("leaks", "scan", *values, "--json", home=home)
    assert scanned.json["hits"] == []


@pytest.fixture
def instance(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LOCKHOUSE_HOME", str(home))
    definitions.platform.cache_clear()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance
    definitions.platform.cache_clear()


def test_a_requested_capture_is_kept_sealed_and_opened_for_who_may(
    call: Call, home: Path, tmp_path: Path, instance: dg.DagsterInstance
):
    request = call(
        "capture", "keep", "--device", "phone-3", "--hour", "2026-11-21T07", "--json", home=home
    ).json
    platform = definitions.platform()
    result = capture_requests(dg.build_sensor_context(instance=instance), outbox=platform.outbox)
    (asked,) = [one for one in result.run_requests if one.run_key == request["request"]]
    for one in result.dynamic_partitions_requests:
        instance.add_dynamic_partitions(one.partitions_def_name, one.partition_keys)
    run = defs.resolve_job_def(EXPORT_CAPTURE.name).execute_in_process(
        instance=instance, partition_key=asked.partition_key, run_config=asked.run_config
    )
    (made,) = run.asset_materializations_for_node("captures__pcap")
    assert made.metadata["packets"].value == 360
    assert "07:00" in made.metadata["packets per minute"].value
    assert isinstance(
        capture_requests(dg.build_sensor_context(instance=instance), outbox=platform.outbox), dg.SkipReason
    )
    assert "phone-3  2026-11-21T07" in call("capture", "kept", home=home).out
    kept = call("capture", "kept", "--json", home=home).json["exports"]
    assert ("phone-3", "2026-11-21T07") in [(one["device"], one["hour"]) for one in kept]
    opened = call(
        "capture",
        "open",
        "--device",
        "phone-3",
        "--hour",
        "2026-11-21T07",
        "-o",
        tmp_path / "o.pcap",
        "--json",
        home=home,
    )
    assert (tmp_path / "o.pcap").read_bytes() == make_capture(360)
    digest = platform.kept_exports("default").digest(bytes.fromhex(opened.json["sha256"]))
    assert made.metadata["digest"].value == digest
    ref = platform.devices("default").ref("phone-3")
    sealed = home / "exports" / "default" / ref / "2026-11-21T07.sealed"
    assert SECRET not in sealed.read_bytes()
    os.utime(sealed, (0, 0))
    exports = platform.kept_exports("default")
    assert ref not in [one[0] for one in exports.listing()]
    with pytest.raises(UsageError, match="no such kept export"):
        list(exports.open(ref, "2026-11-21T07"))
    assert exports.expire() == 1
    assert not sealed.exists()
    assert EXPIRES_AFTER.days == 7


def test_erasing_the_owner_takes_the_kept_copy_along(call: Call, home: Path, instance: dg.DagsterInstance):
    platform = definitions.platform()
    devices = platform.devices("default")
    device = devices.register("phone-5")
    folder = home.parent
    (folder / "more.pcap").write_bytes(make_capture(3))
    assert call("ingest", "captures", folder / "more.pcap", "--device", "phone-5", home=home).code == DONE
    exports = platform.kept_exports("default")
    assert exports.keep(device.ref, "2026-11-21T07").packets == 3
    assert b"".join(exports.open(device.ref, "2026-11-21T07")) == make_capture(3)
    platform.captures.sealer("default").subjects.erase([devices.subject("phone-5", 0)])
    with pytest.raises(ErasedSubjectError):
        list(exports.open(device.ref, "2026-11-21T07"))
