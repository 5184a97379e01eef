"""Upkeep of captures: what stays and what goes, hours in order, and exports that never notice."""

import os
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from orchestration.resources import Platform
from stores.capture_upkeep import CaptureLimits, CaptureUpkeep
from stores.maintenance import Upkeep
from stores.settings import load_settings
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, PACKETS, QUARANTINE

HOUR = datetime(2026, 11, 21, 7, tzinfo=UTC)
HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
LIMITS = CaptureLimits(30, 365, None)
TIMES_AND_SIZES = [(0.5, 40), (1, 900), (7, 60)]


@dataclass
class Clock:
    """A clock that stands until it is set."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


def capture(start: datetime, count: int = 20, seconds: float = 1, size: int = 60) -> bytes:
    """A capture of Ethernet frames that hold their number."""
    records = []
    for number in range(count):
        whole, part = divmod(round((start.timestamp() + seconds * number) * 1_000_000), 1_000_000)
        content = bytes(12) + b"\x88\xb5" + struct.pack(">I", number) + bytes(size)
        records.append(struct.pack("<IIII", whole, part, len(content), len(content)) + content)
    return HEADER + b"".join(records)


@dataclass
class Stage:
    folder: Path
    platform: Platform
    clock: Clock

    def deliver(self, content: bytes, device: str = "dev-1") -> None:
        path = self.folder / "one.pcap"
        path.write_bytes(content)
        for batch in self.platform.landing.copy_in("captures", "default", [path], device):
            self.platform.captures.seal_batch(batch.id)
            self.platform.captures.mask_batch(batch.id)
            self.platform.captures.finish_batch(batch.id)

    def export(self, device: str, since: datetime = HOUR) -> bytes:
        exports = self.platform.capture_exports("default")
        found = self.platform.devices("default").find(device)
        with exports.planned(found, since, since + timedelta(hours=1), "pcap") as plan:
            return b"".join(exports.stream(plan))

    def rows(self, key: str) -> pl.DataFrame:
        with self.platform.tables.reading("default", key) as table:
            return table.collect()

    def hours(self, key: str = CAPTURE_BLOCKS.key) -> list[str]:
        return sorted(set(self.rows(key)["packet_hour"]))

    def upkeep(self, limits: CaptureLimits = LIMITS) -> CaptureUpkeep:
        platform = self.platform
        return CaptureUpkeep(platform.home, platform.tables, platform.kept_exports, limits, self.clock)

    def keep_up(self, limits: CaptureLimits = LIMITS) -> dict[str, Upkeep]:
        return {one.table.partition("/")[2]: one for one in self.upkeep(limits).keep_up()}

    def files(self) -> list[Path]:
        return [Path(name) for name in self.platform.tables.files("default", CAPTURE_BLOCKS.key)]

    def sizes(self) -> dict[str, int]:
        """The size of each packet hour in the table of blocks."""
        found: dict[str, int] = {}
        for path in self.files():
            hour = path.parent.name.partition("=")[2]
            found[hour] = found.get(hour, 0) + path.stat().st_size
        return found


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    clock = Clock(HOUR + timedelta(hours=1))
    monkeypatch.setattr("orchestration.resources.now", clock)
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("me")
    return Stage(tmp_path, platform, clock)


def crowd(stage: Stage) -> None:
    """An hour in nine files: three devices, whose packets overlap in time."""
    for turn, (seconds, size) in enumerate(TIMES_AND_SIZES):
        for device in (3, 1, 2):
            # A file that was delivered before, for another device, would be a duplicate.
            start = HOUR + timedelta(minutes=20 - 7 * turn, milliseconds=device)
            stage.deliver(capture(start, 300, seconds, size), f"dev-{device}")


def test_packets_go_with_their_hour_and_their_rows_later(stage: Stage):
    for days in (0, 20, 29):
        stage.deliver(capture(HOUR - timedelta(days=days)))
    assert len(stage.hours()) == 3
    stage.clock.now = HOUR + timedelta(days=10)
    done = stage.keep_up()
    assert stage.hours() == ["2026-11-01T07", "2026-11-21T07"]
    assert done["raw.capture_blocks"].rows_expired
    assert len(stage.hours(PACKETS.key)) == 3
    assert stage.export("dev-1") == capture(HOUR)
    stage.clock.now = HOUR + timedelta(days=356)
    stage.keep_up()
    assert stage.rows(CAPTURE_BLOCKS.key).is_empty()
    assert stage.hours(PACKETS.key) == ["2026-11-21T07"]


@pytest.mark.parametrize("wrong", [timedelta(days=-18_000), timedelta(days=-31), timedelta(days=3_000)])
def test_packets_of_a_wrong_clock_are_as_old_as_their_arrival(stage: Stage, wrong: timedelta):
    stage.deliver(capture(HOUR + wrong))
    for days, left in ((0, 1), (30, 1), (31, 0)):
        stage.clock.now = HOUR + timedelta(days=days, hours=2)
        stage.keep_up()
        assert stage.rows(CAPTURE_BLOCKS.key).height == left
        assert stage.rows(PACKETS.key).height == 20


def test_a_file_with_rows_of_several_ages_loses_the_old_ones_only(stage: Stage):
    """Roll-ups and ordering put arrivals of several days into one file."""
    old = datetime(1970, 1, 1, tzinfo=UTC)
    for number in range(5):
        stage.deliver(capture(old + timedelta(seconds=number), 10 + number), f"dev-{number}")
        stage.clock.now += timedelta(days=1)
    done = stage.keep_up()
    assert done["raw.capture_blocks"].partitions_ordered == 1
    (path,) = stage.files()
    assert path.name.startswith("ordered-")
    kept = stage.rows(CAPTURE_BLOCKS.key).filter(pl.col("packets") >= 12)
    stage.clock.now = HOUR + timedelta(days=32)
    assert stage.keep_up()["raw.capture_blocks"].rows_expired
    assert stage.rows(CAPTURE_BLOCKS.key).sort("block_id").equals(kept.sort("block_id"))
    assert stage.export("dev-4", old) == capture(old + timedelta(seconds=4), 14)
    assert not stage.keep_up()["raw.capture_blocks"].rows_expired


def test_late_packets_of_an_hour_do_not_take_the_others_along(stage: Stage):
    """The hour arrived in time once, and again when it was 31 days old: that copy has its own month."""
    stage.deliver(capture(HOUR, 10), "dev-1")
    for number in range(5):
        stage.clock.now = HOUR + timedelta(days=30, hours=3 + number)
        stage.deliver(capture(HOUR, 20 + number), "dev-2")
    stage.keep_up(replace(LIMITS, capture_days=100))
    assert len(stage.files()) == 1
    stage.clock.now = HOUR + timedelta(days=32)
    stage.keep_up()
    assert stage.rows(CAPTURE_BLOCKS.key)["packets"].sort().to_list() == [20, 21, 22, 23, 24]
    stage.clock.now = HOUR + timedelta(days=62)
    stage.keep_up()
    assert stage.rows(CAPTURE_BLOCKS.key).is_empty()


def test_files_quarantine_and_day_keys_have_their_days(stage: Stage):
    from stores.contracts import load_contract
    from transforms.errors import DecryptionError

    stage.deliver(b"no capture at all")
    arrived = stage.clock.now
    stage.clock.now = arrived + timedelta(days=30)
    stage.keep_up()
    assert (stage.rows(CAPTURE_FILES.key).height, stage.rows(QUARANTINE.key).height) == (1, 1)
    subjects = stage.platform.captures.sealer("default").subjects
    short = replace(load_contract("logins"), retention_days={"quarantine.logins": 5})
    stage.platform.maintenance.keep_up(short, stage.clock.now.date())
    assert subjects.day_key(arrived.date())
    stage.clock.now += timedelta(days=1)
    done = stage.keep_up()
    assert done["quarantine.captures"].rows_expired
    assert (stage.rows(CAPTURE_FILES.key).height, stage.rows(QUARANTINE.key).height) == (0, 0)
    stage.platform.maintenance.keep_up(short, stage.clock.now.date())
    with pytest.raises(DecryptionError):
        stage.platform.captures.sealer("default").subjects.day_key(arrived.date())


def test_the_ring_takes_the_oldest_hours_whole(stage: Stage):
    for hours in (1, 3, 2):
        stage.deliver(capture(HOUR - timedelta(hours=hours), 200))
        stage.deliver(capture(HOUR - timedelta(hours=hours), 100), "dev-2")
    stage.clock.now += timedelta(hours=3)
    stage.deliver(capture(HOUR))
    sizes = stage.sizes()
    whole = sum(sizes.values())
    assert not stage.keep_up(replace(LIMITS, limit_bytes=whole))["raw.capture_blocks"].rows_expired
    before = {*stage.platform.tables.path("default", CAPTURE_BLOCKS.key).glob("packet_hour=*/*")}
    done = stage.keep_up(replace(LIMITS, limit_bytes=whole - sizes["2026-11-21T04"] - 1))
    assert stage.hours() == ["2026-11-21T06", "2026-11-21T07"]
    assert stage.sizes() == {hour: sizes[hour] for hour in stage.hours()}
    assert done["raw.capture_blocks"].rows_expired
    # The room is free at once, not when yesterday's versions go.
    after = {*stage.platform.tables.path("default", CAPTURE_BLOCKS.key).glob("packet_hour=*/*")}
    assert after == {*stage.files()} < before
    assert stage.export("dev-2", HOUR - timedelta(hours=1)) == capture(HOUR - timedelta(hours=1), 100)


def test_the_ring_never_takes_what_just_arrived(stage: Stage):
    stage.deliver(capture(HOUR - timedelta(hours=5)))
    stage.clock.now += timedelta(hours=3)
    stage.deliver(capture(HOUR))
    stage.deliver(capture(datetime(1970, 1, 1, tzinfo=UTC)))
    tight = replace(LIMITS, limit_bytes=1)
    stage.keep_up(tight)
    assert stage.hours() == ["1970-01-01T00", "2026-11-21T07"]
    stage.clock.now += timedelta(hours=2, minutes=1)
    stage.keep_up(tight)
    assert stage.rows(CAPTURE_BLOCKS.key).is_empty()


def test_a_clock_in_1970_is_not_the_oldest_hour_of_the_ring(stage: Stage):
    stage.deliver(capture(HOUR - timedelta(hours=5)))
    stage.clock.now += timedelta(hours=1)
    stage.deliver(capture(datetime(1970, 1, 1, tzinfo=UTC)))
    stage.clock.now += timedelta(hours=3)
    stage.keep_up(replace(LIMITS, limit_bytes=sum(stage.sizes().values()) - 1))
    assert stage.hours() == ["1970-01-01T00"]


@pytest.mark.parametrize(("least_bytes", "sizes"), [(2 << 20, [9]), (1, [8, 1])])
def test_a_closed_hour_is_put_in_order_and_exports_stay(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, least_bytes: int, sizes: list[int]
):
    monkeypatch.setattr("stores.delta_files._LEAST_GROUP_BYTES", least_bytes)
    crowd(stage)
    devices = ("dev-1", "dev-2", "dev-3")
    before = {device: stage.export(device) for device in devices}
    rows = stage.rows(CAPTURE_BLOCKS.key)
    assert len(stage.files()) == 9
    assert stage.keep_up()["raw.capture_blocks"].partitions_ordered == 0
    stage.clock.now = HOUR + timedelta(hours=3)
    assert stage.keep_up()["raw.capture_blocks"].partitions_ordered == 1
    (path,) = stage.files()
    ordered = stage.rows(CAPTURE_BLOCKS.key)
    assert ordered.select("device_ref", "ts_min").equals(ordered.select("device_ref", "ts_min").sort("*"))
    assert ordered.sort("block_id").equals(rows.sort("block_id"))
    assert {device: stage.export(device) for device in devices} == before
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(at) for at in range(file.num_row_groups)]
        assert [group.num_rows for group in groups] == sizes
        records = file.metadata.schema.names.index("records")
        assert not groups[0].column(records).is_stats_set
        assert "RLE_DICTIONARY" not in groups[0].column(records).encodings


def test_a_second_upkeep_changes_nothing(stage: Stage):
    crowd(stage)
    stage.clock.now = HOUR + timedelta(hours=3)
    stage.keep_up()
    version = stage.platform.tables.info("default", CAPTURE_BLOCKS.key)
    assert all(
        (one.partitions_ordered, one.rows_expired, one.files_removed) == (0, False, 0)
        for one in stage.keep_up().values()
    )
    assert stage.platform.tables.info("default", CAPTURE_BLOCKS.key) == version


def test_late_files_are_taken_into_the_order(stage: Stage):
    crowd(stage)
    stage.clock.now = HOUR + timedelta(hours=3)
    stage.keep_up()
    for number in range(5):
        stage.deliver(capture(HOUR + timedelta(minutes=number), 10))
    assert len(stage.files()) == 6
    before = stage.export("dev-1")
    stage.keep_up()
    assert len(stage.files()) == 1
    assert stage.export("dev-1") == before


def test_a_large_hour_becomes_several_files_with_whole_row_groups(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    crowd(stage)
    # As if rows were large, eight of them a row group.
    monkeypatch.setattr("stores.delta_files._LEAST_GROUP_BYTES", 1)
    monkeypatch.setattr("stores.capture_ordering.ORDERED_BYTES", sum(stage.sizes().values()) // 2)
    # Less than a row group is held: every row is read anew.
    monkeypatch.setattr("stores.capture_ordering._HELD_BYTES", 1)
    for number in range(8):
        stage.deliver(capture(HOUR + timedelta(minutes=number), 10), f"dev-{number}")
    rows = stage.rows(CAPTURE_BLOCKS.key)
    stage.clock.now = HOUR + timedelta(hours=3)
    stage.keep_up()
    assert sorted(pq.read_metadata(path).num_rows for path in stage.files()) == [1, 8, 8]
    assert stage.rows(CAPTURE_BLOCKS.key).sort("block_id").equals(rows.sort("block_id"))


@pytest.mark.parametrize("place", ["write_parts", "exchange_files"])
def test_killed_while_ordering_the_table_stays_whole(stage: Stage, monkeypatch: pytest.MonkeyPatch, place: str):
    crowd(stage)
    stage.clock.now = HOUR + timedelta(hours=3)
    rows, before = stage.rows(CAPTURE_BLOCKS.key), stage.files()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner = {"write_parts": "stores.capture_ordering", "exchange_files": "stores.tables.Tables"}[place]
        patch.setattr(f"{owner}.{place}", die)
        with pytest.raises(KeyboardInterrupt):
            stage.keep_up()
    assert stage.files() == before
    assert stage.rows(CAPTURE_BLOCKS.key).equals(rows)
    again = Stage(stage.folder, Platform(load_settings(stage.platform.home.root)), stage.clock)
    again.keep_up()
    assert len(again.files()) == 1
    assert again.rows(CAPTURE_BLOCKS.key).sort("block_id").equals(rows.sort("block_id"))


def test_an_export_that_is_under_way_ends_well(stage: Stage):
    """Files that left the table stay on disk for who reads an older version of it."""
    crowd(stage)
    exports = stage.platform.capture_exports("default")
    device = stage.platform.devices("default").find("dev-1")
    before = stage.export("dev-1")
    stage.clock.now = HOUR + timedelta(hours=3)
    with exports.planned(device, HOUR, HOUR + timedelta(hours=1), "pcap") as plan:
        assert stage.upkeep()._order_hours("default") == 1
        assert b"".join(exports.stream(plan)) == before


def test_expired_exports_are_deleted(stage: Stage):
    stage.deliver(capture(HOUR))
    device = stage.platform.devices("default").find("dev-1")
    stage.platform.kept_exports("default").keep(device.ref, "2026-11-21T07")
    (path,) = stage.platform.home.exports.rglob("*.sealed")
    os.utime(path, (HOUR.timestamp(), HOUR.timestamp()))
    assert stage.keep_up()["exports"].files_removed == 0
    stage.clock.now = HOUR + timedelta(days=7, minutes=1)
    assert stage.keep_up()["exports"].files_removed == 1
    assert not path.exists()


def test_a_home_without_captures_has_nothing_to_do(stage: Stage):
    assert stage.keep_up() == {}
