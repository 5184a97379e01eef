"""Intake, from files to raw and masked: nothing lost, nothing twice, nothing readable, at any moment."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml

from orchestration.resources import Platform
from stores.contracts import FOLDER, load_contract
from stores.intake import Intake
from stores.landing import Batch, Landing
from stores.ledger import Counts, Ledger, State
from stores.quarantine import Entry, Quarantine
from stores.settings import load_settings
from stores.subjects import SubjectKeys
from stores.tables import Commit, Tables
from transforms import records
from transforms.pii.contracts import Contract, compile_contract
from transforms.pii.identities import event_id_bytes, subject_ref
from transforms.pii.siv import decrypt_column
from transforms.tables import TableSpec, quarantine_table, raw_table

LOGINS = load_contract("logins")
TENANTS = count()
LANDED_AT = datetime(2026, 3, 4, 5, 6, 7, 891_234, tzinfo=UTC)


@dataclass
class Lake:
    """A tenant of its own in a home that tests share."""

    platform: Platform
    tenant: str
    folder: Path

    def land(self, *contents: bytes) -> Batch:
        paths = []
        for number, content in enumerate(contents):
            path = self.folder / f"file-{number}.json"
            path.write_bytes(content)
            paths.append(path)
        (batch,) = self.platform.landing.copy_in("logins", self.tenant, paths)
        return batch

    def finish(self, batch: Batch, contract: Contract = LOGINS) -> Counts:
        counts = self.platform.intake.seal_batch(batch.id, contract)
        masked = self.platform.intake.mask_batch(batch.id, contract)
        self.platform.intake.finish_batch(batch.id)
        assert counts.balances
        assert masked == counts.accepted
        return counts

    def take(self, *contents: bytes, contract: Contract = LOGINS) -> Counts:
        return self.finish(self.land(*contents), contract)

    def rows(self, key: str) -> pl.DataFrame:
        if not self.platform.tables.exists(self.tenant, key):
            return pl.DataFrame()
        with self.platform.tables.reading(self.tenant, key) as table:
            return table.collect()

    def opened(self) -> list[bytes]:
        """The exact bytes of every raw record, sorted."""
        return sorted(self._open("raw.logins", "record", self.rows("raw.logins")))

    def unknown(self) -> list[Any]:
        """The undeclared fields of masked rows that have some."""
        masked = self.rows("masked.logins").filter(pl.col("unknown_sealed").is_not_null())
        refs = self.rows("raw.logins").select("event_id", "subject_ref")
        joined = masked.join(refs, on="event_id")
        return [json.loads(one) for one in self._open("masked.logins", "unknown_sealed", joined)]

    def _open(self, table: str, column: str, rows: pl.DataFrame) -> list[bytes]:
        if rows.is_empty():
            return []
        sealer = self.platform.intake.sealer(self.tenant)
        keys = sealer.subjects.existing(rows["subject_ref"].unique().to_list())
        rows = rows.filter(pl.col("subject_ref").is_in(list(keys)))
        held = [keys[ref] for ref in rows["subject_ref"]]
        ids = event_id_bytes(rows["event_id"])
        return sealer.open_for_subjects(table, column, rows[column].to_list(), held, ids)

    def tokens(self, column: str, domain: str) -> list[str]:
        """What the tokens of a masked column stand for, sorted."""
        keys = self.platform.keys(self.tenant).live_token_keys(domain)
        return sorted(decrypt_column(self.rows("masked.logins")[column], keys).to_list())

    @property
    def quarantine(self) -> Quarantine:
        sealer = self.platform.intake.sealer(self.tenant)
        return Quarantine(self.tenant, self.platform.tables, sealer, quarantine_table(LOGINS))

    def refused(self) -> list[tuple[Entry, str, bytes]]:
        return [(entry, *self.quarantine.content(entry.id)) for entry in self.quarantine.entries()]

    def erase(self, user_id: str) -> None:
        keys = self.platform.keys(self.tenant)
        ref = subject_ref(keys.identity_key("subject"), "user", user_id)
        SubjectKeys(self.platform.home.keys, keys).erase([ref])


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("intake") / "home"
    Platform(load_settings(home)).create_home("tester")
    return home


@pytest.fixture
def lake(shared_home: Path, tmp_path: Path) -> Lake:
    platform = Platform(load_settings(shared_home))
    tenant = f"tenant-{next(TENANTS)}"
    platform.add_tenant(tenant, "tester")
    return Lake(platform, tenant, tmp_path)


def login(number: int, **changes: object) -> dict[str, object]:
    record = {
        "user_id": str(uuid.UUID(int=number % 7 + 1, version=4)),
        "app_version": "2.3.0",
        "device_type": "android",
        "ip": f"199.172.{number // 256}.{number % 256}",
        "locale": "RU" if number % 3 else None,
        "device_id": f"593-47-{number:04d}",
    }
    return {**record, **changes}


def each(logins: list[dict[str, object]]) -> list[bytes]:
    return [json.dumps(one).encode() for one in logins]


def lines(logins: list[dict[str, object]]) -> bytes:
    return b"".join(one + b"\n" for one in each(logins))


def message(name: str, record: dict[str, object]) -> dict[str, object]:
    return {"MessageId": name, "ReceiptHandle": "r", "Body": json.dumps(record)}


LOGIN_ROWS = [login(number) for number in range(40)]


# --- The way through


def test_raw_holds_the_exact_bytes_and_masked_the_tokens(lake: Lake):
    odd = b'{ "device_id":"d", "user_id" : "' + str(uuid.UUID(int=9, version=4)).encode()
    odd += b'","ip":"::FFFF:1.2.3.4","device_type":"ios","app_version":"1.2" }'
    counts = lake.take(lines(LOGIN_ROWS) + odd)
    assert counts == Counts(rows=41, accepted=41)
    assert lake.opened() == sorted([*each(LOGIN_ROWS), odd])
    assert lake.tokens("ip_token", "ip") == sorted([*(str(one["ip"]) for one in LOGIN_ROWS), "1.2.3.4"])
    raw, masked = lake.rows("raw.logins"), lake.rows("masked.logins")
    assert sorted(raw["event_id"]) == sorted(masked["event_id"])
    assert raw["event_id"].n_unique() == 41
    assert masked["user_id_token"].n_unique() == raw["subject_ref"].n_unique() == 8


def test_a_sample_with_one_wrong_message(lake: Lake, sample: list[dict[str, Any]]):
    counts = lake.take(gzip.compress(json.dumps(sample, indent=2).encode()))
    assert counts == Counts(rows=len(sample), accepted=len(sample) - 1, quarantined=1)
    ((entry, _, content),) = lake.refused()
    assert json.loads(content) == sample[entry.record_number]
    accepted = [one for one in sample if one != sample[entry.record_number]]
    assert sorted(map(str, map(json.loads, lake.opened()))) == sorted(map(str, accepted))


@pytest.fixture
def sample() -> list[dict[str, Any]]:
    """The real sample where it lies beside the repository; else as many records of its shape."""
    path = FOLDER.parent.parent / "shared" / "data" / "logins" / "sample_data.json.gz"
    if path.exists():
        found: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
        return found
    made: list[dict[str, Any]] = [login(number) for number in range(100)]
    made[12] = {"foo": "oops_wrong_msg_type", "bar": "123"}
    return made


@pytest.mark.parametrize(
    "wrap",
    [
        lines,
        lambda logins: lines(logins).replace(b"\n", b"\r\n"),
        lambda logins: json.dumps(logins).encode(),
        lambda logins: json.dumps(logins, indent=4).encode(),
        lambda logins: gzip.compress(lines(logins)),
        lambda logins: gzip.compress(lines(logins[:9])) + gzip.compress(lines(logins[9:])),
        lambda logins: pa.Codec("zstd").compress(lines(logins), asbytes=True),
    ],
    ids=["lines", "crlf", "array", "pretty array", "gzip", "gzip members", "zstd"],
)
def test_every_wrapping_gives_the_same_rows(lake: Lake, wrap: Callable[[list[dict[str, object]]], bytes]):
    assert lake.take(wrap(LOGIN_ROWS)) == Counts(rows=40, accepted=40)
    assert sorted(map(str, map(json.loads, lake.opened()))) == sorted(map(str, LOGIN_ROWS))
    assert lake.tokens("device_id_token", "device") == [one["device_id"] for one in LOGIN_ROWS]


def test_files_of_a_batch_share_one_commit(lake: Lake):
    lake.take(*(lines([one]) for one in LOGIN_ROWS))
    assert lake.platform.tables.info(lake.tenant, "raw.logins").files == 1
    assert lake.rows("raw.logins").height == 40


def test_readable_files_go_once_they_are_sealed_and_the_batch_once_it_is_done(lake: Lake):
    batch = lake.land(lines(LOGIN_ROWS))
    lake.platform.intake.seal_batch(batch.id, LOGINS)
    assert batch.files() == []
    assert lake.platform.ledger.state(batch.id) is State.SEALED
    lake.platform.intake.mask_batch(batch.id, LOGINS)
    assert lake.platform.ledger.state(batch.id) is State.MASKED
    lake.platform.intake.finish_batch(batch.id)
    assert lake.platform.ledger.state(batch.id) is State.DONE
    assert not batch.folder.exists()


def test_a_batch_that_is_done_may_be_asked_for_again(lake: Lake):
    batch = lake.land(lines(LOGIN_ROWS))
    counts = lake.finish(batch)
    versions = {one.key: one.version for one in lake.platform.tables.listing(lake.tenant)}
    assert lake.finish(batch) == counts
    assert {one.key: one.version for one in lake.platform.tables.listing(lake.tenant)} == versions


# --- Nothing twice


def test_the_same_file_again_brings_nothing(lake: Lake):
    lake.take(lines(LOGIN_ROWS))
    before = lake.rows("raw.logins"), lake.rows("masked.logins")
    assert lake.take(lines(LOGIN_ROWS)) == Counts(rows=40, duplicates=40)
    assert lake.rows("raw.logins").equals(before[0])
    assert lake.rows("masked.logins").equals(before[1])


def test_two_files_alike_in_one_batch_are_one(lake: Lake):
    other = lines([login(99)])
    assert lake.take(lines(LOGIN_ROWS), other, lines(LOGIN_ROWS)) == Counts(rows=81, accepted=41, duplicates=40)
    assert lake.opened() == sorted([*each(LOGIN_ROWS), *each([login(99)])])


def test_two_logins_alike_in_one_file_are_two(lake: Lake):
    assert lake.take(lines([login(1), login(1)])) == Counts(rows=2, accepted=2)


def test_a_damaged_file_again_is_a_duplicate_whole(lake: Lake):
    damaged = lines(LOGIN_ROWS) + b"{cut"
    assert lake.take(damaged) == Counts(rows=41, accepted=40, quarantined=1)
    assert lake.take(damaged) == Counts(rows=41, duplicates=41)
    assert len(lake.refused()) == 1


def test_messages_are_told_apart_by_their_names(lake: Lake):
    first = [message("a", login(1)), message("b", login(2)), message("a", login(3))]
    assert lake.take(lines(first)) == Counts(rows=3, accepted=2, duplicates=1)
    second = [message("b", login(2)), message("c", login(2))]
    assert lake.take(lines(second)) == Counts(rows=2, accepted=1, duplicates=1)
    assert lake.opened() == sorted(each([login(1), login(2), login(2)]))


def test_messages_of_two_files_of_a_batch_are_told_apart_too(lake: Lake):
    counts = lake.take(lines([message("a", login(1))]), json.dumps([message("a", login(1))]).encode())
    assert counts == Counts(rows=2, accepted=1, duplicates=1)


def named_contract(*, required: bool = True) -> Contract:
    document = yaml.safe_load((FOLDER / "logins.yaml").read_text())
    table = document["schema"][0]
    table["customProperties"].append({"property": "eventId", "value": "login_id"})
    table["properties"].append(
        {
            "name": "login_id",
            "logicalType": "string",
            "logicalTypeOptions": {
                "pattern": "^([0-9]{1,3}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$"
            },
            "required": required,
            "classification": "internal",
            "description": "The producer's own name of the sign-in.",
        }
    )
    return compile_contract("contracts/logins.yaml", yaml.safe_dump(document))


def test_a_declared_id_names_the_event_in_whatever_file(lake: Lake):
    contract = named_contract()
    ours = str(uuid.uuid4())
    first = [login(1, login_id=ours), login(2, login_id="2"), login(3, login_id="2")]
    assert lake.take(lines(first), contract=contract) == Counts(rows=3, accepted=2, duplicates=1)
    second = [login(4, login_id=ours.upper()), login(5, login_id="5")]
    assert lake.take(lines(second), contract=contract) == Counts(rows=2, accepted=1, duplicates=1)
    ids = lake.rows("raw.logins")["event_id"].to_list()
    assert ours in ids
    assert len(set(ids)) == 3


def test_an_event_without_its_declared_id_is_known_by_its_file_or_message(lake: Lake):
    contract = named_contract(required=False)
    first = [login(1, login_id="1"), login(2), login(3, login_id=None), login(4, login_id="1")]
    assert lake.take(lines(first), contract=contract) == Counts(rows=4, accepted=3, duplicates=1)
    assert lake.take(lines(first), contract=contract) == Counts(rows=4, duplicates=4)
    sent = [message("a", login(5)), message("a", login(6)), message("b", login(7, login_id="1"))]
    assert lake.take(lines(sent), contract=contract) == Counts(rows=3, accepted=1, duplicates=2)


def test_tenants_do_not_share_what_was_seen(lake: Lake):
    lake.take(lines([message("a", login(1))]))
    other = Lake(lake.platform, f"{lake.tenant}-b", lake.folder)
    lake.platform.add_tenant(other.tenant, "tester")
    assert other.take(lines([message("a", login(1))])) == Counts(rows=1, accepted=1)
    assert set(other.rows("raw.logins")["subject_ref"]).isdisjoint(lake.rows("raw.logins")["subject_ref"])


# --- Nothing lost


@pytest.mark.parametrize(
    ("content", "accepted", "kept"),
    [
        (b"", 0, [b""]),
        (b"<xml/>", 0, [b"<xml/>"]),
        (lines([login(1)]) + b"{cut", 1, [b"{cut"]),
        (lines([login(1), login(2, ip="nowhere"), login(3)]), 2, each([login(2, ip="nowhere")])),
        (b"[" + b", ".join(each([login(1), login(2)])), 1, [b" " + each([login(2)])[0]]),
        (b"[" + each([login(1)])[0] + b"] and more", 1, [b" and more"]),
        (lines([message("a", login(1)), login(2), message("b", login(3))]), 2, each([login(2)])),
    ],
    ids=["empty", "no json", "cut line", "bad value", "cut array", "text after", "no message"],
)
def test_what_is_not_accepted_is_kept_byte_for_byte(
    lake: Lake, content: bytes, accepted: int, kept: list[bytes]
):
    counts = lake.take(content)
    assert counts == Counts(rows=accepted + len(kept), accepted=accepted, quarantined=len(kept))
    found = lake.refused()
    assert [one for _, _, one in found] == kept
    assert {name for _, name, _ in found} == {"file-0.json"}
    for entry, _, one in found:
        assert content[entry.offset : entry.offset + len(one)] == one


@pytest.mark.parametrize(
    "damage",
    [
        lambda plain: gzip.compress(plain)[:-20],
        lambda plain: gzip.compress(plain) + b"rubbish",
        lambda plain: pa.Codec("zstd").compress(plain, asbytes=True)[:-3],
    ],
    ids=["cut gzip", "rubbish after gzip", "cut zstd"],
)
def test_a_damaged_container_is_kept_whole(lake: Lake, damage: Callable[[bytes], bytes]):
    content = damage(lines([login(number) for number in range(3000)]))
    counts = lake.take(content)
    assert counts.quarantined == 1
    ((entry, name, kept),) = lake.refused()
    assert (name, kept, entry.size_bytes) == ("file-0.json", content, len(content))
    assert set(lake.opened()) <= set(each([login(number) for number in range(3000)]))


def test_undeclared_fields_come_along_sealed(lake: Lake):
    more = {"referrer": "https://example.org/?token=1", "nested": {"a": [1, None]}}
    counts = lake.take(lines([login(1), login(2, **more), login(3)]))
    assert counts == Counts(rows=3, accepted=3, unknown=1)
    assert lake.unknown() == [more]
    assert each([login(2, **more)])[0] in lake.opened()
    assert sorted(lake.rows("masked.logins")["unknown_count"]) == [0, 0, 1]


def test_a_batch_of_nothing_acceptable_makes_no_masked_rows(lake: Lake):
    assert lake.take(b"{}\n{}\n") == Counts(rows=2, quarantined=2)
    assert lake.rows("raw.logins").is_empty()
    assert lake.rows("masked.logins").is_empty()


# --- Erased subjects


def test_what_comes_late_of_an_erased_subject_is_refused_and_counted(lake: Lake):
    lake.take(lines(LOGIN_ROWS))
    gone = str(LOGIN_ROWS[0]["user_id"])
    lake.erase(gone)
    late = [login(number, device_id="late") for number in range(14)]
    counts = lake.take(lines(late))
    assert counts == Counts(rows=14, accepted=12, refused=2)
    assert gone.encode() not in b"".join(lake.opened())
    assert lake.rows("masked.logins").height == 40 + 12


def test_a_batch_of_erased_subjects_only(lake: Lake):
    lake.erase(str(login(1)["user_id"]))
    assert lake.take(lines([login(1), login(8)])) == Counts(rows=2, refused=2)


def test_an_erasure_between_sealing_and_masking_is_heeded(lake: Lake):
    batch = lake.land(lines(LOGIN_ROWS))
    lake.platform.intake.seal_batch(batch.id, LOGINS)
    lake.erase(str(LOGIN_ROWS[0]["user_id"]))
    fresh = Lake(Platform(lake.platform.settings), lake.tenant, lake.folder)
    assert fresh.platform.intake.mask_batch(batch.id, LOGINS) == 34
    assert LOGIN_ROWS[0]["user_id"] not in fresh.tokens("user_id_token", "user")


# --- Crashes


class CrashError(Exception):
    """What a test raises in the middle of the work."""


STEPS: list[tuple[type, str, int]] = [
    (Ledger, "enter", 1),
    (Ledger, "deliver", 1),
    (Ledger, "deliver", 2),
    (Ledger, "count_deliveries", 1),
    (SubjectKeys, "keys_for", 1),
    (SubjectKeys, "keys_for", 2),
    (Quarantine, "add", 1),
    (Tables, "append", 1),
    (Tables, "append", 2),
    (Tables, "append", 3),
    (Ledger, "add_chunk", 1),
    (Ledger, "add_chunk", 2),
    (Ledger, "advance", 1),
    (Landing, "discard_files", 1),
    (Tables, "append", 4),
    (Tables, "append", 5),
    (Ledger, "advance", 2),
    (Ledger, "advance", 3),
    (Landing, "close", 1),
]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cut chunks of some hundred records."""
    monkeypatch.setattr(records, "BLOCK_BYTES", 1 << 15)
    monkeypatch.setenv("LOCKHOUSE_CHUNK_BYTES", str(1 << 16))
    yield


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name", "nth"), STEPS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_crash_at_any_step_changes_nothing(
    shared_home: Path, tmp_path: Path, owner: type, name: str, nth: int, after: bool
):
    lake = Lake(Platform(load_settings(shared_home)), f"tenant-{next(TENANTS)}", tmp_path)
    lake.platform.add_tenant(lake.tenant, "tester")
    good = [login(number) for number in range(900)]
    messages = [message(f"m-{number % 90}", login(number)) for number in range(100)]
    batch = lake.land(lines(good) + b"{cut\n", lines(messages))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), nth, after))
        with pytest.raises(CrashError):
            lake.finish(batch)
    again = Lake(Platform(load_settings(shared_home)), lake.tenant, tmp_path)
    counts = again.finish(batch)
    assert counts == Counts(rows=1001, accepted=990, quarantined=1, duplicates=10)
    assert again.opened() == sorted(each(good) + each([login(number) for number in range(90)]))
    assert [content for _, _, content in again.refused()] == [b"{cut"]
    raw, masked = again.rows("raw.logins"), again.rows("masked.logins")
    assert raw["event_id"].n_unique() == raw.height
    assert sorted(raw["event_id"]) == sorted(masked["event_id"])
    assert raw["chunk"].n_unique() > 1
    assert not batch.folder.exists()
    assert again.take(lines(good) + b"{cut\n") == Counts(rows=901, duplicates=901)


def failing(real: Callable[..., Any], nth: int, after: bool) -> Callable[..., Any]:
    """Do as the real one does until the nth call, which crashes before or after its work."""
    calls = count(1)

    def call(*arguments: Any, **named: Any) -> Any:
        last = next(calls) == nth
        if last and not after:
            raise CrashError
        done = real(*arguments, **named)
        if last:
            raise CrashError
        return done

    return call


def test_masking_from_raw_gives_the_rows_that_were_kept(lake: Lake):
    kept, opened = lake.land(lines(LOGIN_ROWS)), lake.land(lines([*LOGIN_ROWS, login(40)]))
    for batch in (kept, opened):
        lake.platform.intake.seal_batch(batch.id, LOGINS)
    lake.platform.intake.mask_batch(kept.id, LOGINS)
    fresh = Platform(lake.platform.settings)
    fresh.intake.mask_batch(opened.id, LOGINS)
    masked = lake.rows("masked.logins")
    same = [name for name in masked.columns if name.endswith("_token")]
    first, second = (masked.filter(pl.col("batch_id") == one.id).select(same) for one in (kept, opened))
    assert first.sort(same).equals(second.filter(pl.col(same[1]).is_in(first[same[1]])).sort(same))


# --- Masking again


def without_nonces(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in order, without what is sealed anew under another nonce."""
    return rows.drop("unknown_sealed").sort("event_id")


def test_masking_an_hour_again_gives_exactly_its_rows(lake: Lake):
    more = {"referrer": "r"}
    for shift, content in (
        (0, lines([*LOGIN_ROWS, login(50, **more), login(51, occurred_at="2020-01-01T00:00:00Z")])),
        (10, lines([login(60)])),
        (60, lines([login(70)])),
    ):
        moment = LANDED_AT + timedelta(minutes=shift)
        landing = Landing(lake.platform.home, 1 << 20, lambda moment=moment: moment)
        lake.platform.__dict__["landing"] = landing
        lake.platform.__dict__.pop("intake", None)
        lake.take(content)
    before, unknown = lake.rows("masked.logins"), lake.unknown()
    assert before["received_hour"].n_unique() == 2
    start = LANDED_AT.replace(minute=0, second=0, microsecond=0)
    intake: Intake = lake.platform.intake
    assert intake.remask(lake.tenant, LOGINS, start, Commit("again", 1, {})) == 43
    again = lake.rows("masked.logins")
    assert without_nonces(again).equals(without_nonces(before))
    assert lake.unknown() == unknown == [more]
    assert intake.remask(lake.tenant, LOGINS, start + timedelta(hours=5), Commit("none", 1, {})) == 0
    assert without_nonces(lake.rows("masked.logins")).equals(without_nonces(before))


def test_a_message_happened_when_it_was_received_unless_it_says_otherwise(lake: Lake):
    moment = LANDED_AT - timedelta(minutes=7)
    received = {"ReceivedAt": int(moment.timestamp() * 1000)}
    own = login(2, occurred_at="2026-03-01T00:00:00Z")
    messages = [message("a", login(1)) | received, message("b", own) | received, message("c", login(3))]
    landing = Landing(lake.platform.home, 1 << 20, lambda: LANDED_AT)
    lake.platform.__dict__["landing"] = landing
    lake.platform.__dict__.pop("intake", None)
    lake.take(lines(messages))
    lake.take(lines([login(4)]))
    before = lake.rows("masked.logins")
    found = sorted(before.select("occurred_at", "received_at").rows())
    told = moment.replace(microsecond=891_000)
    assert [one for one, _ in found] == [datetime(2026, 3, 1, tzinfo=UTC), told, LANDED_AT, LANDED_AT]
    assert {one for _, one in found} == {LANDED_AT}
    assert lake.rows("raw.logins")["taken_at"].null_count() == 2
    start = LANDED_AT.replace(minute=0, second=0, microsecond=0)
    lake.platform.intake.remask(lake.tenant, LOGINS, start, Commit("again", 1, {}))
    assert without_nonces(lake.rows("masked.logins")).equals(without_nonces(before))


def test_a_raw_table_of_an_earlier_release_is_masked_again_and_grows(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
):
    def without(contract: Contract) -> TableSpec:
        spec = raw_table(contract)
        return replace(spec, columns=tuple(one for one in spec.columns if one.name != "taken_at"))

    with monkeypatch.context() as patch:
        patch.setattr("stores.intake.raw_table", without)
        lake.take(lines(LOGIN_ROWS))
    assert "taken_at" not in lake.rows("raw.logins").columns
    before = lake.rows("masked.logins")
    arrived = before["received_hour"][0]
    assert lake.platform.intake.remask(lake.tenant, LOGINS, arrived, Commit("again", 1, {})) == 40
    assert without_nonces(lake.rows("masked.logins")).equals(without_nonces(before))
    lake.take(lines([message("a", login(1)) | {"ReceivedAt": 1000}]))
    assert lake.rows("raw.logins")["taken_at"].null_count() == 40


def test_masking_again_leaves_out_who_was_erased(lake: Lake):
    lake.take(lines(LOGIN_ROWS))
    lake.erase(str(LOGIN_ROWS[0]["user_id"]))
    start = lake.rows("masked.logins")["received_hour"][0]
    assert lake.platform.intake.remask(lake.tenant, LOGINS, start, Commit("again", 1, {})) == 34
    assert LOGIN_ROWS[0]["user_id"] not in lake.tokens("user_id_token", "user")
