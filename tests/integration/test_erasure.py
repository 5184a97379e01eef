"""Erasure: everything of one subject goes, nothing of anybody else; late data are refused; proof holds."""

import json
import os
import random
import shutil
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.data_subjects import Subject, subject_domains
from stores.erasure_plan import erasure_plan, way_to
from stores.erasure_requests import Erasure, ErasureState
from stores.erasure_scan import SubjectMatcher
from stores.leaks import scan_with
from stores.settings import Settings
from stores.specs import every_table
from stores.tables import ZONES
from stores.verification import verify_certificate
from transforms.errors import DecryptionError, ErasedSubjectError, ErasureError, TableError, UsageError
from transforms.tables import TableSpec, column

CONTRACT = load_contract("logins")
PEOPLE = [f"5082b1ae-6523-4e3b-a1d8-9750b4407e{number:02x}" for number in range(8)]
GONE, OTHER = PEOPLE[0], PEOPLE[1]
HOUR = datetime(2026, 11, 21, 7, tzinfo=UTC)


def login(person: str, number: int, **more: object) -> dict[str, object]:
    return {
        "user_id": person,
        "ip": f"192.0.2.{number % 250 + 1}",
        "device_id": f"dev-{number % 5}",
        "device_type": "ios",
        "app_version": "1.2.3",
        **more,
    }


def packets(start: datetime, count: int) -> bytes:
    """A classic capture with a packet a second."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)]
    for number in range(count):
        udp = struct.pack(">HHHH", 40_000, 5683, 16, 0) + b"swordfsh"
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 36, number & 0xFFFF, 0, 64, 17, 0, b"\xc6\x33\x64\xd5", b"\n\0\0\2"
        )
        frame = bytes.fromhex("02005e1000ff 02005e1000fe 0800") + ip + udp
        parts.append(struct.pack("<IIII", int(start.timestamp()) + number, 0, len(frame), len(frame)) + frame)
    return b"".join(parts)


class Lake:
    """A home, and a source of deliveries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = Platform(Settings(home=folder / "home", rollup_commits=5))
        self.platform.create_home("tester")
        self.count = 0

    @property
    def home(self) -> Path:
        return self.platform.home.root

    def deliver(self, content: bytes, source: str = "logins", device: str | None = None) -> list[str]:
        self.count += 1
        name = self.folder / f"delivery-{self.count}"
        name.write_bytes(content)
        batches = self.platform.landing.copy_in(source, "default", [name], device)
        for batch in batches:
            self.seal(source, batch.id)
            self.mask(source, batch.id)
        return [batch.id for batch in batches]

    def seal(self, source: str, batch: str) -> None:
        if source == "captures":
            self.platform.captures.seal_batch(batch)
        else:
            self.platform.intake.seal_batch(batch, CONTRACT)

    def mask(self, source: str, batch: str) -> None:
        if source == "captures":
            self.platform.captures.mask_batch(batch)
            self.platform.captures.finish_batch(batch)
        else:
            self.platform.intake.mask_batch(batch, CONTRACT)
            self.platform.intake.finish_batch(batch)

    def log_in(self, *records: object) -> list[str]:
        return self.deliver("".join(json.dumps(one) + "\n" for one in records).encode())

    def rows(self, key: str) -> pl.DataFrame:
        with self.platform.tables.reading("default", key) as table:
            return table.collect()

    def find(self, value: str, domain: str | None = None) -> Subject:
        return self.platform.data_subjects("default").find(value, domain)

    def ask(self, *values: str) -> Erasure:
        subjects = [self.find(one) for one in values]
        marks = [f"digest of {one.ref.hex()[:4]}" for one in subjects]
        return self.platform.erasure_requests("default").add(subjects, marks, "tester", "a test")

    def erase(self, *values: str) -> Erasure:
        return self.platform.erasing("default").complete(self.ask(*values))

    def hits(self, subject: Subject) -> list[str]:
        exclude = [self.platform.home.landing, self.platform.home.keys]
        report = scan_with(self.home, SubjectMatcher([subject]), exclude=exclude)
        return [one.file for one in report.hits] + [one.file for one in report.unreadable]

    def certificate(self, request: Erasure) -> Path:
        return self.home / str(request.certificate)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def full(lake: Lake) -> Lake:
    """Logins of several people in several deliveries, and captures of a device that changed hands."""
    for part in range(3):
        lake.log_in(*(login(person, part * 10 + at) for at, person in enumerate(PEOPLE)))
    lake.log_in({"user_id": GONE, "oops": 1}, {"user_id": OTHER, "oops": 1}, login(GONE, 77, note="secret"))
    devices = lake.platform.devices("default")
    devices.own("phone-1", GONE, HOUR - timedelta(hours=1))
    devices.own("phone-1", OTHER, HOUR + timedelta(seconds=30))
    lake.deliver(packets(HOUR, 60), "captures", "phone-1")
    lake.deliver(packets(HOUR - timedelta(minutes=10), 20), "captures", "phone-1")
    lake.deliver(packets(HOUR, 40), "captures", "router-9")
    return lake


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


# --- What a copy can still do


def test_a_backup_without_keys_gives_nothing_back(full: Lake):
    subject = full.find(GONE)
    raw = full.rows("raw.logins").filter(pl.col("subject_ref") == subject.ref)
    blocks = full.rows("raw.capture_blocks").filter(pl.col("subject_ref") == subject.stretches[0].ref)
    assert (raw.height, blocks.height) == (4, 2)
    full.erase(GONE)
    keys = full.platform.subject_keys("default")
    assert keys.existing(list(subject.refs)) == {}
    other = full.find(OTHER)
    sealer = full.platform.intake.sealer("default")
    for envelope in [*raw["record"], *blocks["records"]]:
        with pytest.raises(DecryptionError):
            sealer.open_for_subjects("raw.logins", "record", [envelope], [keys.key(other.ref)], [bytes(16)])
    # No byte of the key is left where it lay, in the table's pages or its log.
    with pytest.raises(ErasedSubjectError):
        keys.key(subject.ref)


def test_the_key_is_destroyed_before_anything_else_and_within_a_second(full: Lake):
    steps = full.erase(GONE).progress["at"]
    began, destroyed = (datetime.fromisoformat(steps[name]) for name in ("requested", "key_destroyed"))
    assert timedelta() <= destroyed - began <= timedelta(seconds=1)
    assert list(steps) == [str(one) for one in ErasureState]


def test_a_finished_request_holds_nobody(full: Lake):
    request = full.erase(GONE)
    kept = full.platform.erasure_requests("default").find(request.id)
    assert kept.work is None
    assert full.hits(full.find(GONE)) == []


# --- The certificate


@pytest.fixture
def certified(full: Lake) -> tuple[Lake, Path]:
    return full, full.certificate(full.erase(GONE))


def copied(lake: Lake, certificate: Path, folder: Path) -> tuple[Any, Path]:
    from stores.home import Home

    home = Home(Path(shutil.copytree(lake.home, folder)))
    return home, home.root / certificate.relative_to(lake.home)


def test_the_certificate_holds_on_a_copy_without_keys(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    home, path = copied(lake, certificate, tmp_path / "copy")
    assert verify_certificate(home, path).keys == "2 tombstones"
    shutil.rmtree(home.keys)
    verdict = verify_certificate(home, path)
    assert (verdict.problems, verdict.keys) == ([], "not in this copy")
    assert verdict.files > 20


def test_any_changed_byte_of_the_certificate_is_found(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    content = certificate.read_bytes()
    dice = random.Random(3)  # noqa: S311 - places in a test
    for at in [0, len(content) - 1, *(dice.randrange(len(content)) for _ in range(20))]:
        changed = tmp_path / "changed.json"
        changed.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not verify_certificate(lake.platform.home, changed).ok, at
    for other in (content + b"\n", content.replace(b'"rows": 4', b'"rows": 5'), b"{}"):
        changed.write_bytes(other)
        assert not verify_certificate(lake.platform.home, changed).ok


def test_any_changed_file_of_the_tables_is_found(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    home, path = copied(lake, certificate, tmp_path / "copy")
    files = [
        one for one in sorted(home.lake.rglob("*")) if one.is_file() and one.suffix in (".parquet", ".json")
    ]
    assert len(files) > 15
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 4]) + content[-2:])
        assert not verify_certificate(home, path).ok, file
        file.write_bytes(content)
        assert len(content) == file.stat().st_size
    assert verify_certificate(home, path).ok
    next(home.lake.rglob("part-*.parquet")).unlink()
    assert not verify_certificate(home, path).ok


def test_a_pseudonym_that_comes_back_is_found(certified: tuple[Lake, Path]):
    lake, certificate = certified
    subject, home = lake.find(GONE), lake.platform.home
    stray = home.dbt / "stray"
    for content in (subject.tokens[0], f"x{subject.heads[0]}y", subject.ref.hex()):
        stray.write_text(content)
        verdict = verify_certificate(home, certificate)
        assert "stray" in verdict.problems[0]
    stray.unlink()
    frame = pl.DataFrame({"subject_ref": [subject.ref]})
    frame.write_parquet(home.lake / "default" / "raw" / "stray.parquet")
    assert any("stray.parquet" in one for one in verify_certificate(home, certificate).problems)


def test_a_changed_trail_another_key_and_another_home_are_found(certified: tuple[Lake, Path], tmp_path: Path):
    lake, certificate = certified
    home, path = copied(lake, certificate, tmp_path / "copy")
    assert not verify_certificate(home, path, "00" * 32).ok
    assert not verify_certificate(home, path, "no key").ok
    other = Lake(tmp_path / "other")
    other.log_in(login(OTHER, 1))
    other.erase(OTHER)
    assert not verify_certificate(other.platform.home, path).ok
    (home.checkpoints / "default.jsonl").unlink()
    assert not verify_certificate(home, path).ok
    os.remove(home.database)  # noqa: PTH107 - one call for one file
    assert any("trail" in one for one in verify_certificate(home, path).problems)


def test_the_certificate_still_holds_after_later_work(certified: tuple[Lake, Path]):
    lake, certificate = certified
    for at in range(7):
        lake.log_in(login(OTHER, at), login(PEOPLE[3], at))
    second = lake.erase(PEOPLE[3])
    for path in (certificate, lake.certificate(second)):
        assert verify_certificate(lake.platform.home, path).problems == []


def test_certificates_name_nobody(certified: tuple[Lake, Path]):
    lake, certificate = certified
    text = certificate.read_text()
    subject = lake.find(GONE)
    for secret in (GONE, subject.heads[0], subject.ref.hex(), "phone-1"):
        assert secret not in text
    body = json.loads(text)["body"]
    assert {one["table"] for one in body["tables"]} >= {"raw.logins", "masked.logins", "raw.capture_blocks"}
    assert body["scan"]["hits"] == 0
    assert datetime.fromisoformat(body["horizon"]) > datetime.fromisoformat(body["issued_at"])
    assert body["epochs"] == [1]


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
