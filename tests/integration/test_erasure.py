"""Erasure: everything of one subject goes, nothing of anybody else; late data are refused."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from erasure_lake import GONE, HOUR, OTHER, PEOPLE, Lake, login, packets
from orchestration.resources import Platform
from stores.data_subjects import subject_domains
from stores.erasure_plan import erasure_plan, way_to
from stores.erasure_requests import ErasureState
from stores.specs import every_table
from stores.tables import ZONES
from stores.verification import verify_certificate
from transforms.errors import ErasedSubjectError, ErasureError, TableError, UsageError
from transforms.tables import TableSpec, column

# --- The plan


def test_every_table_is_in_the_plan():
    assert set(erasure_plan()) == {spec.key for spec in every_table()}


def test_a_table_that_no_erasure_would_reach_is_an_error():
    lone = TableSpec(
        "masked", "lone", "", "", (column("who_token", pl.Series([""]).to_arrow().type, "A person."),)
    )
    with pytest.raises(TableError, match=r"masked\.lone"):
        way_to(lone)


def test_every_zone_with_subjects_is_listed_and_cleaned(full: Lake):
    """What lies in the lake, on disk, is what the erasure goes through."""
    there = {f"{path.parent.name}.{path.name}" for path in (full.home / "lake" / "default").glob("*/*")}
    there = {key for key in there if not key.startswith("seen.")}
    assert there == {info.key for info in full.platform.tables.listing("default")}
    assert {key.partition(".")[0] for key in there} <= set(ZONES)


def test_every_field_that_names_a_subject_gets_a_column_to_find_it_by():
    for spec in every_table():
        assert way_to(spec).column in {one.name for one in spec.columns}


# --- What goes, and what stays


def test_everything_of_a_person_goes_and_nothing_of_anybody_else(full: Lake):
    subject = full.find(GONE)
    others = {
        key: full.rows(key).filter(pl.col(column) != value).sort(order)
        for key, column, value, order in (
            ("raw.logins", "subject_ref", subject.ref, "event_id"),
            ("masked.logins", "user_id_token", subject.tokens[0], "event_id"),
        )
    }
    own_refs = list(subject.refs)
    blocks = full.rows("raw.capture_blocks").filter(~pl.col("subject_ref").is_in(own_refs)).sort("block_id")
    kept_packets = full.rows("masked.packets").filter(pl.col("block_id").is_in(blocks["block_id"].to_list()))
    assert full.hits(subject)
    request = full.erase(GONE)
    assert request.state is ErasureState.CERTIFIED
    assert full.hits(subject) == []
    for key, before in others.items():
        assert full.rows(key).sort("event_id").equals(before), key
    assert full.rows("raw.capture_blocks").sort("block_id").equals(blocks)
    order = ["block_id", "record_offset"]
    assert full.rows("masked.packets").sort(order).equals(kept_packets.sort(order))
    assert full.rows("quarantine.logins").height == 1
    assert kept_packets.height == 30 + 40
    # The next hour's remake, and the checks of what is left, still add up.
    assert full.platform.captures.totals(["default"], [], received_hour(full)).balances


def received_hour(lake: Lake) -> datetime:
    found: datetime = lake.rows("masked.packets")["received_hour"][0]
    return found


def test_a_file_that_held_packets_of_two_owners_stays_with_other_counts(full: Lake):
    before = {row["packets"]: row for row in full.rows("raw.capture_files").iter_rows(named=True)}
    full.erase(GONE)
    after = {row["packets"]: row for row in full.rows("raw.capture_files").iter_rows(named=True)}
    assert set(before) == {60, 20, 40}
    assert set(after) == {60, 40}
    assert (after[60]["packets_stored"], after[60]["packets_refused"]) == (30, 30)
    assert after[40] == before[40]


def test_a_device_of_nobody_is_a_subject_of_its_own(full: Lake):
    request = full.erase("router-9")
    assert request.state is ErasureState.CERTIFIED
    assert set(full.rows("raw.capture_files")["packets"]) == {60, 20}
    with pytest.raises(UsageError, match="no such device"):
        full.platform.devices("default").find("router-9")
    full.deliver(packets(HOUR, 7), "captures", "router-9")
    refused = full.rows("raw.capture_files").filter(pl.col("packets") == 7)
    assert refused.select("packets_stored", "packets_refused").row(0) == (0, 7)


def test_the_registry_keeps_when_and_forgets_who(full: Lake):
    full.erase(GONE)
    owners = [one.owner_token is None for one in full.platform.devices("default").find("phone-1").ownerships]
    assert owners == [True, True, False]
    full.deliver(packets(HOUR - timedelta(minutes=5), 9), "captures", "phone-1")
    late = full.rows("raw.capture_files").filter(pl.col("packets") == 9)
    assert late.select("packets_stored", "packets_refused").row(0) == (0, 9)


def test_late_and_replayed_data_are_refused_and_counted(full: Lake):
    request = full.erase(GONE)
    (batch,) = full.log_in(login(GONE, 500), login(OTHER, 501))
    counts = full.platform.ledger.counts([batch])
    assert (counts.accepted, counts.refused) == (1, 1)
    assert full.hits(full.find(GONE)) == []
    assert verify_certificate(full.platform.home, full.certificate(request)).ok


def test_several_people_go_in_one_pass(full: Lake):
    request = full.erase(GONE, OTHER, PEOPLE[2])
    assert len(request.subjects) == 3
    assert set(full.rows("masked.logins").group_by("user_id_token").len()["len"]) == {3}
    removed = [one for one in request.progress["tables"] if one["table"] == "masked.logins"]
    assert len(removed) == 1
    assert verify_certificate(full.platform.home, full.certificate(request)).ok


def test_a_preview_tells_and_changes_nothing(full: Lake):
    before = {info.key: info for info in full.platform.tables.listing("default")}
    told = {one["table"]: one for one in full.platform.erasing("default").preview([full.find(GONE)])}
    assert (told["raw.logins"]["rows"], told["masked.logins"]["rows"]) == (4, 4)
    assert told["quarantine.logins"]["rows"] == 1
    assert told["masked.packets"]["rows"] == 50
    assert told["raw.logins"]["bytes"] > 0
    assert told["device registry"]["rows"] == 1
    assert {info.key: info for info in full.platform.tables.listing("default")} == before
    full.erase(GONE)
    again = full.platform.erasing("default").preview([full.find(GONE)])
    assert sum(one["rows"] for one in again) == 0


def test_only_files_that_hold_the_subject_are_written_again(lake: Lake):
    for person in PEOPLE:
        lake.log_in(*(login(person, at) for at in range(5)))
    before = set(lake.platform.tables.files("default", "raw.logins"))
    request = lake.erase(GONE)
    (removal,) = [one for one in request.progress["tables"] if one["table"] == "raw.logins"]
    after = set(lake.platform.tables.files("default", "raw.logins"))
    assert (removal["rows"], len(removal["removed"])) == (5, len(before - after))
    # Five deliveries were rolled up into one file; the rest lie each in their own.
    assert len(before & after) == len(before) - 1


def test_no_old_version_stays(full: Lake):
    full.erase(GONE)
    for info in full.platform.tables.listing("default"):
        folder = full.platform.tables.path("default", info.key)
        live = {Path(one).name for one in full.platform.tables.files("default", info.key)}
        there = {path.name for path in folder.rglob("*.parquet") if path.parent.name != "_delta_log"}
        assert there == live, info.key
        versions = {int(path.name.partition(".")[0]) for path in (folder / "_delta_log").glob("0*")}
        assert versions == {info.version}, info.key


def test_whoever_kept_a_table_opened_writes_on_where_it_stands(full: Lake):
    """The log was cut short under a store that had the table opened: its next write must not fork it."""
    other = Platform(full.platform.settings)
    lake = Lake.__new__(Lake)
    lake.folder, lake.platform, lake.count = full.folder, other, 100
    lake.log_in(login(OTHER, 1))
    full.erase(GONE)
    before = full.rows("masked.logins").height
    lake.log_in(login(OTHER, 2), login(OTHER, 3))
    assert full.rows("masked.logins").height == before + 2
    assert full.platform.tables.info("default", "masked.logins").rows == before + 2


def test_an_erasure_between_sealing_and_masking_lets_nothing_through(lake: Lake):
    lake.log_in(login(OTHER, 1))
    file = lake.folder / "in"
    file.write_text("".join(json.dumps(login(one, 3)) + "\n" for one in (GONE, OTHER, GONE)))
    (batch,) = lake.platform.landing.copy_in("logins", "default", [file])
    lake.seal("logins", batch.id)
    lake.erase(GONE)
    lake.mask("logins", batch.id)
    counts = lake.platform.ledger.counts([batch.id])
    assert (counts.accepted, counts.refused, counts.balances) == (1, 2, True)
    assert lake.rows("masked.logins").filter(pl.col("batch_id") == batch.id).height == 1
    assert lake.hits(lake.find(GONE)) == []


def test_packets_that_were_prepared_before_an_erasure_are_made_again(lake: Lake):
    devices = lake.platform.devices("default")
    devices.own("phone-1", GONE, HOUR - timedelta(hours=1))
    lake.deliver(packets(HOUR, 5), "captures", "router-9")
    file = lake.folder / "in"
    file.write_bytes(packets(HOUR, 30))
    batches = [
        one
        for name in ("phone-1", "router-9")
        for one in lake.platform.landing.copy_in("captures", "default", [_copied(file, name)], name)
    ]
    for batch in batches:
        lake.seal("captures", batch.id)
    lake.erase(GONE)
    for batch in batches:
        lake.mask("captures", batch.id)
    # The second file's bytes are those of the first: a duplicate, whole.
    assert lake.rows("masked.packets").height == 5
    assert lake.hits(lake.find(GONE)) == []


def _copied(file: Path, name: str) -> Path:
    return Path(shutil.copy(file, file.with_name(name)))


# --- Identifiers


def test_identifiers_are_found_in_any_spelling_and_domain(full: Lake):
    assert full.find(GONE.upper()).id == GONE
    assert full.find("phone-1").domain == "device"
    assert full.find("5082b1ae-0000-4e3b-a1d8-9750b4407eff").domain == "user"
    assert [one.number for one in full.find(GONE).stretches] == [1]
    with pytest.raises(UsageError, match="no domain of data subjects"):
        full.find(GONE, "ip")
    # Any text is the name of an account, though not taken for one where it could be a device.
    assert full.find(" Jo.Bloggs ", "user").id == "jo.bloggs"
    with pytest.raises(UsageError, match="fits 2 domains"):
        full.find("jo.bloggs")
    with pytest.raises(UsageError, match="expected account"):
        full.find("  ", "user")
    assert set(subject_domains()) == {"user", "device"}


@pytest.mark.parametrize("device", ["1001", "cam1", "router"])
def test_an_identifier_that_stands_everywhere_by_chance_can_be_erased(lake: Lake, device: str):
    """Among counts, within other words, in our own files: none is of the subject or keeps the request open."""
    (lake.home / "dbt" / "router.sql").parent.mkdir(exist_ok=True)
    (lake.home / "dbt" / "router.sql").write_text("-- Through a gateway or a router.")
    lake.deliver(packets(HOUR, 30), "captures", device)
    lake.deliver(packets(HOUR, 1001), "captures", "router-9")
    lake.log_in(
        {"user_id": OTHER, "oops": f"21001 webcam1x {device}"}, {"user_id": OTHER, "oops": "21001 webcam1x"}
    )
    subject = lake.find(device, "device")
    requests = lake.platform.erasure_requests("default")
    request = lake.platform.erasing("default").complete(requests.add([subject], ["mark"], "tester", "a test"))
    assert request.state is ErasureState.CERTIFIED
    assert set(lake.rows("raw.capture_files")["packets"]) == {1001}
    assert lake.rows("quarantine.logins").height == 1


# --- Interrupted, repeated


def test_the_same_request_twice_is_one(full: Lake):
    first, second = full.ask(GONE), full.ask(GONE)
    assert first.id == second.id
    full.platform.erasing("default").complete(second)
    assert full.platform.erasure_requests("default").unfinished() == []


STEPS = [
    "stores.erasure_places.ErasurePlaces.find",
    "stores.row_removal.RowRemoval.remove",
    "stores.tables.Tables.exchange_files",
    "stores.tables.Tables.forget_past",
    "stores.erasure_scan.ErasureScan.run",
    "stores.certificates.Certificates.issue",
    "stores.erasure_requests.ErasureRequests.close",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_erasure_that_stops_at_a_step_is_completed(full: Lake, step: str, after: bool):
    request = full.ask(GONE)

    class StopError(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        module, _, name = step.rpartition(".")
        owner = _attribute(module)
        whole = getattr(owner, name)

        def stop(*arguments: Any, **named: Any) -> Any:
            if after:
                whole(*arguments, **named)
            raise StopError

        patch.setattr(owner, name, stop)
        with pytest.raises(StopError):
            full.platform.erasing("default").complete(request)
    with pytest.raises(ErasedSubjectError):
        full.platform.subject_keys("default").key(full.find(GONE).ref)
    again = Platform(full.platform.settings)
    done = again.erasing("default").resume()
    if done:
        assert [one.state for one in done] == [ErasureState.CERTIFIED]
    (kept,) = again.erasure_requests("default").listing()
    assert kept.state is ErasureState.CERTIFIED or step.endswith("close")
    totals = {one["table"]: one["rows"] for one in kept.progress["tables"]}
    assert (totals["raw.logins"], totals["masked.logins"], totals["masked.packets"]) == (4, 4, 50)
    assert full.hits(full.find(GONE)) == []
    verdict = verify_certificate(full.platform.home, full.certificate(kept))
    assert verdict.problems == []


def _attribute(path: str) -> Any:
    import importlib

    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_what_the_scan_still_finds_keeps_the_request_open(full: Lake):
    request = full.ask(GONE)
    stray = full.home / "dbt" / "stray.txt"
    stray.write_text(f"left behind: {GONE}")
    with pytest.raises(ErasureError, match=r"dbt/stray\.txt"):
        full.platform.erasing("default").complete(request)
    assert full.platform.erasure_requests("default").unfinished()[0].state is ErasureState.ROWS_DELETED
    stray.unlink()
    (done,) = full.platform.erasing("default").resume()
    assert done.progress["scan"]["hits"] == 0


# --- Beside a rotation of token keys


def test_an_erasure_finds_the_tokens_of_every_live_epoch(full: Lake):
    asked = full.ask(GONE)
    rotation = full.platform.rotation("default")
    rotation.begin()
    rotation.renew_keys()
    for key in rotation.table_keys():
        rotation.map_tokens(key)
    # One table is renewed, the others still hold the old tokens, and the map has both.
    rotation.renew_table("masked.logins")
    assert full.rows("vault.token_map").height > 0
    again = Platform(full.platform.settings)
    subject = again.data_subjects("default").find(GONE)
    assert len(subject.tokens) == 2
    assert [one.number for one in subject.stretches] == [1]
    request = again.erasing("default").complete(asked)
    assert {one["table"] for one in request.progress["tables"]} >= {"vault.token_map", "masked.logins"}
    assert full.hits(subject) == []
    body = json.loads(full.certificate(request).read_text())["body"]
    assert body["epochs"] == [1, 2]


# --- Copies beside the tables


def test_kept_exports_go_and_dagster_is_asked_to_forget_them(full: Lake):
    device = full.platform.devices("default").find("phone-1")
    other = full.platform.devices("default").find("router-9")
    exports = full.platform.kept_exports("default")
    hour = f"{HOUR:%Y-%m-%dT%H}"
    for one in (device, other):
        exports.keep(one.ref, hour)
    request = full.erase(GONE)
    assert [(ref, when) for ref, when, _ in exports.listing()] == [(other.ref, hour)]
    assert request.progress["copies"]["kept exports"] == 1
    (asked,) = full.platform.outbox.waiting("forget")
    assert dict(asked.parameters) == {"device": device.ref, "hour": hour}


def test_dagster_forgets_a_partition_and_its_runs():
    import dagster as dg

    from assets.partitions import DEVICES, PACKET_HOURS
    from orchestration.forgetting import forget_partition
    from orchestration.jobs import EXPORT_CAPTURE

    with dg.DagsterInstance.ephemeral() as instance:
        for definition, parts in ((DEVICES, ["aa", "bb"]), (PACKET_HOURS, ["2026-11-21T07", "2026-11-21T08"])):
            instance.add_dynamic_partitions(str(definition.name), parts)
        for key in ("aa|2026-11-21T07", "bb|2026-11-21T07"):
            instance.create_run_for_job(
                dg.job(name=EXPORT_CAPTURE.name)(lambda: None), tags={"dagster/partition": key}
            )
        assert forget_partition(instance, "aa", "2026-11-21T07") == 1
        assert instance.get_dynamic_partitions(str(DEVICES.name)) == ["bb"]
        # Another device's export still needs the hour.
        assert "2026-11-21T07" in instance.get_dynamic_partitions(str(PACKET_HOURS.name))
        assert instance.get_runs_count() == 1
        assert forget_partition(instance, "aa", "2026-11-21T07") == 0
