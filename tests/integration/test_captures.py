"""Captures through the lake: what is delivered comes out again, for its owner, once, and nothing else does."""

import gzip
import io
import struct
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from orchestration.resources import Platform
from stores.capture_exports import to_ns
from stores.ledger import Counts
from stores.sealing_room import SealingRoom
from stores.settings import load_settings
from transforms.capture.exports import Stored
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, PACKETS
from transforms.errors import DecryptionError, UsageError

HOUR = datetime(2026, 11, 21, 7, tzinfo=UTC)
HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
ALICE, BOB = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OTHER = bytes.fromhex("020000000009")


def frame(number: int, src: bytes = ALICE, dst: bytes = OTHER, size: int = 0) -> bytes:
    """A UDP packet in Ethernet and IPv4, told apart by its number."""
    payload = struct.pack(">I", number) + bytes(size or number % 200)
    udp = struct.pack(">HHHH", 40_000, 5683, 8 + len(payload), 0) + payload
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0, b"\n\0\0\1", b"\n\0\0\2"
    )
    return dst + src + b"\x08\x00" + ip + udp


def record(at: datetime, content: bytes) -> bytes:
    seconds, micros = divmod(to_ns(at) // 1000, 1_000_000)
    return struct.pack("<IIII", seconds, micros, len(content), len(content)) + content


def capture(times: list[datetime], **frames: bytes) -> bytes:
    """A classic capture with a packet at each time."""
    return HEADER + b"".join(record(at, frame(number, **frames)) for number, at in enumerate(times))


def every(seconds: float, count: int, start: datetime = HOUR) -> list[datetime]:
    return [start + timedelta(seconds=seconds * number) for number in range(count)]


@dataclass
class Stage:
    folder: Path
    platform: Platform

    def deliver(self, *contents: bytes, device: str = "dev-1") -> Counts:
        """Bring files of a device all the way."""
        paths = []
        for number, content in enumerate(contents):
            path = self.folder / f"{number}.pcap"
            path.write_bytes(content)
            paths.append(path)
        counts = Counts()
        for batch in self.platform.landing.copy_in("captures", "default", paths, device):
            counts += self.platform.captures.seal_batch(batch.id)
            self.platform.captures.mask_batch(batch.id)
            self.platform.captures.finish_batch(batch.id)
        return counts

    def export(
        self,
        since: datetime = HOUR,
        until: datetime = HOUR + timedelta(hours=1),
        device: str = "dev-1",
        wanted: str = "pcap",
    ) -> bytes:
        """Give an export's bytes; its size is what was said before."""
        exports = self.platform.capture_exports("default")
        found = self.platform.devices("default").find(device)
        with exports.planned(found, since, until, wanted) as plan:
            written = b"".join(exports.stream(plan))
            assert len(written) == plan.size_bytes
            assert plan.packets == sum(plan.summary.minutes.values())
            return written

    def rows(self, key: str) -> pl.DataFrame:
        with self.platform.tables.reading("default", key) as table:
            return table.collect()

    def totals(self) -> bool:
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        totals = self.platform.captures.totals(["default"], [], hour)
        assert totals.unreadable == []
        return totals.balances


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("me")
    return Stage(tmp_path, platform)


def packets_of(content: bytes) -> list[tuple[int, int, bytes]]:
    """Time, original length and bytes of each packet, in the file's order."""
    found = []
    for part in read_capture(content):
        if isinstance(part, Packets):
            bounds = zip(
                part.ts_ns.tolist(),
                part.headers["original"].tolist(),
                part.starts,
                part.starts[1:],
                strict=False,
            )
            found += [(ts, size, part.records[a + 16 : b].tobytes()) for ts, size, a, b in bounds]
    return found


def test_a_whole_hour_is_the_delivered_file_byte_for_byte(stage: Stage):
    content = capture(every(0.5, 7_000))
    assert stage.deliver(content) == Counts(rows=7_000, accepted=7_000)
    assert stage.export() == content
    assert stage.totals()


def test_compressed_files_are_the_same_captures(stage: Stage):
    content = capture(every(1, 50))
    stage.deliver(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    assert stage.export() == content


@pytest.mark.parametrize(
    ("first", "last"), [(0, 1), (10, 10.5), (59 * 60, 3600), (13.25, 1799.75), (3000, 3000.1)]
)
def test_a_window_holds_its_first_moment_and_not_its_last(stage: Stage, first: float, last: float):
    times = every(0.25, 14_400)
    stage.deliver(capture(times))
    since, until = HOUR + timedelta(seconds=first), HOUR + timedelta(seconds=last)
    wanted = [at for at in times if since <= at < until]
    found = packets_of(stage.export(since, until))
    assert [ts for ts, _, _ in found] == [to_ns(at) for at in wanted]
    assert {content for _, _, content in found} == {frame(times.index(at)) for at in wanted}


def test_many_blocks_of_many_deliveries_leave_merged_by_time(stage: Stage):
    """Three captures of one hour that overlap, larger than a block: an hour in order, nothing lost."""
    files = [
        HEADER + b"".join(record(at, frame(number * 3 + turn, size=900)) for number, at in enumerate(times))
        for turn, times in enumerate([every(1, 3_000), every(0.7, 4_000), every(0.3, 2_500)])
    ]
    stage.deliver(*files)
    found = packets_of(stage.export())
    expected = sorted((one for file in files for one in packets_of(file)), key=lambda one: one[0])
    assert [ts for ts, _, _ in found] == [ts for ts, _, _ in expected]
    assert sorted(found) == sorted(expected)
    assert stage.rows("raw.capture_blocks").height > 8


def test_unordered_packets_keep_the_order_of_their_file(stage: Stage):
    times = [HOUR + timedelta(seconds=one) for one in (5, 3, 9, 1, 9, 2, 3599, 0)]
    content = capture(times)
    stage.deliver(content)
    assert stage.export() == content
    inside = packets_of(stage.export(HOUR + timedelta(seconds=2), HOUR + timedelta(seconds=6)))
    assert [ts - to_ns(HOUR) for ts, _, _ in inside] == [5_000_000_000, 3_000_000_000, 2_000_000_000]


def test_packets_lie_in_the_hour_of_their_own_time(stage: Stage):
    """A clock that was set back to 1970, and files that cross hours."""
    old = datetime(1970, 1, 1, tzinfo=UTC)
    times = [*every(1, 3, old), *every(1200, 6), HOUR + timedelta(minutes=1)]
    stage.deliver(capture(times))
    assert set(stage.rows("raw.capture_blocks")["packet_hour"]) == {
        "1970-01-01T00",
        "2026-11-21T07",
        "2026-11-21T08",
    }
    assert len(packets_of(stage.export(old, old + timedelta(minutes=1)))) == 3
    assert len(packets_of(stage.export())) == 4


def test_pcapng_holds_the_same_packets_and_several_link_types(stage: Stage):
    ethernet, raw = (
        capture(every(1, 9)),
        HEADER[:20] + struct.pack("<I", 101) + record(HOUR, b"\x45" + bytes(30)),
    )
    stage.deliver(ethernet)
    assert sorted(packets_of(stage.export(wanted="pcapng"))) == sorted(packets_of(ethernet))
    stage.deliver(raw)
    with pytest.raises(UsageError, match="--format pcapng"):
        stage.export()
    assert sorted(packets_of(stage.export(wanted="pcapng"))) == sorted(packets_of(ethernet) + packets_of(raw))


def test_nanoseconds_stay_and_rule_where_both_units_meet(stage: Stage):
    nano = struct.pack("<I", 0xA1B23C4D) + HEADER[4:]
    seconds = to_ns(HOUR) // 1_000_000_000
    exact = nano + struct.pack("<IIII", seconds, 123_456_789, 4, 4) + b"nano"
    stage.deliver(exact)
    assert stage.export() == exact
    stage.deliver(capture([HOUR + timedelta(seconds=2)]))
    assert [ts % 10**9 for ts, _, _ in packets_of(stage.export())] == [123_456_789, 0]


def test_the_same_file_again_writes_nothing(stage: Stage):
    content = capture(every(1, 20))
    stage.deliver(content)
    before = [
        stage.platform.tables.info("default", spec.key) for spec in (CAPTURE_FILES, CAPTURE_BLOCKS, PACKETS)
    ]
    assert stage.deliver(content, content) == Counts(rows=40, duplicates=40)
    after = [
        stage.platform.tables.info("default", spec.key) for spec in (CAPTURE_FILES, CAPTURE_BLOCKS, PACKETS)
    ]
    assert after == before


def test_what_cannot_be_read_is_kept_byte_for_byte(stage: Stage):
    content = capture(every(1, 20))
    damaged = content[:-5]
    counts = stage.deliver(damaged, b"", b"no capture at all", HEADER)
    assert counts == Counts(rows=19 + 3, accepted=19, quarantined=3)
    files = stage.rows("raw.capture_files")
    assert files.sort("file")["status"].to_list() == ["partial", "rejected", "rejected", "complete"]
    from stores.quarantine import Quarantine
    from transforms.capture.tables import QUARANTINE

    sealer = stage.platform.captures.sealer("default")
    store = Quarantine("default", stage.platform.tables, sealer, QUARANTINE)
    kept = {entry.file: store.content(entry.id)[1] for entry in store.entries()}
    offset = files.filter(pl.col("file") == 0)["damage_offset"][0]
    assert damaged[:offset] + kept[0] == damaged
    assert (kept[1], kept[2]) == (b"", b"no capture at all")
    assert packets_of(stage.export()) == packets_of(content)[:19]


def test_packets_belong_to_who_had_the_device_then(stage: Stage):
    devices = stage.platform.devices("default")
    devices.register("dev-1")
    devices.own("dev-1", "alice", HOUR + timedelta(minutes=10))
    devices.own("dev-1", "bob", HOUR + timedelta(minutes=20))
    content = capture(every(60, 30))
    stage.deliver(content)
    blocks = stage.rows("raw.capture_blocks").sort("ts_min")
    assert blocks["packets"].to_list() == [10, 10, 10]
    assert blocks["subject_ref"].n_unique() == 3
    assert stage.export() == content
    stage.platform.captures.sealer("default").subjects.erase([devices.subject("dev-1", 1)])
    left = [(ts - to_ns(HOUR)) // 60_000_000_000 for ts, _, _ in packets_of(stage.export())]
    assert left == [*range(10), *range(20, 30)]
    # Late data of an erased owner are refused and counted.
    late = capture([one + timedelta(seconds=1) for one in every(60, 30)])
    assert stage.deliver(late) == Counts(rows=30, accepted=20, refused=10)


def test_a_capture_of_many_devices_is_split_by_address_and_time(stage: Stage):
    devices = stage.platform.devices("default")
    devices.add_address("alice-phone", "mac", ALICE.hex(":"), None, None)
    devices.add_address("bob-phone", "mac", BOB.hex(":"), None, HOUR + timedelta(seconds=10))
    devices.add_address("new-phone", "mac", BOB.hex(":"), HOUR + timedelta(seconds=10), None)
    pairs = [(ALICE, OTHER), (BOB, OTHER), (OTHER, ALICE), (ALICE, BOB), (OTHER, OTHER)]
    records = [record(at, frame(number, *pairs[number % 5])) for number, at in enumerate(every(1, 20))]
    assert stage.deliver(HEADER + b"".join(records), device="_shared") == Counts(rows=20, accepted=20)
    numbers = {
        device: [
            struct.unpack(">I", content[42:46])[0] for _, _, content in packets_of(stage.export(device=device))
        ]
        for device in ("alice-phone", "bob-phone", "new-phone", "unassigned")
    }
    assert numbers["alice-phone"] == [one for one in range(20) if one % 5 in (0, 2, 3)]
    assert numbers["bob-phone"] == [one for one in range(10) if one % 5 in (1, 3)]
    assert numbers["new-phone"] == [one for one in range(10, 20) if one % 5 in (1, 3)]
    assert numbers["unassigned"] == [4, 9, 14, 19]
    assert stage.totals()


@pytest.mark.parametrize("step", ["quarantine", "blocks", "files", "ledger", "packets"])
def test_a_crash_between_any_two_steps_changes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, step: str
):
    content = capture(every(1, 300))
    path = stage.folder / "crash.pcap"
    path.write_bytes(content[:-3])
    (batch,) = stage.platform.landing.copy_in("captures", "default", [path], "dev-1")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    tables = stage.platform.tables
    append = type(tables).append

    def dies_at(key: str):
        def appended(self, tenant, spec, rows, commit):
            done = append(self, tenant, spec, rows, commit)
            if spec.key == key:
                raise KeyboardInterrupt
            return done

        return appended

    keys = {"quarantine": "quarantine.captures", "blocks": "raw.capture_blocks", "files": "raw.capture_files"}
    with monkeypatch.context() as patch:
        if step in keys:
            patch.setattr("stores.tables.Tables.append", dies_at(keys[step]))
        elif step == "ledger":
            patch.setattr("stores.ledger.Ledger.add_chunk", die)
        else:
            patch.setattr("stores.tables.Tables.append", dies_at("masked.packets"))
        with pytest.raises(KeyboardInterrupt):
            stage.platform.captures.seal_batch(batch.id)
            stage.platform.captures.mask_batch(batch.id)
    again = Platform(load_settings(stage.platform.home.root))
    assert again.captures.seal_batch(batch.id) == Counts(rows=300, accepted=299, quarantined=1)
    assert again.captures.mask_batch(batch.id) == 299
    again.captures.finish_batch(batch.id)
    assert packets_of(stage.export()) == packets_of(content)[:299]
    assert stage.rows("masked.packets").height == 299
    assert stage.totals()


def test_small_chunks_make_the_same_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCKHOUSE_CHUNK_BYTES", str(1 << 16))
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("me")
    stage = Stage(tmp_path, platform)
    files = [
        HEADER
        + b"".join(record(at, frame(number, size=1200 + turn)) for number, at in enumerate(every(2, 700)))
        for turn in range(4)
    ]
    assert stage.deliver(*files) == Counts(rows=2_800, accepted=2_800)
    assert stage.rows("raw.capture_files")["chunk"].n_unique() > 1
    expected = sorted((one for file in files for one in packets_of(file)), key=lambda one: one[0])
    assert packets_of(stage.export()) == expected
    assert stage.totals()


def test_the_packet_table_is_made_again_from_the_blocks(stage: Stage):
    from stores.tables import Commit

    stage.deliver(capture(every(10, 300)), capture(every(13, 100)))
    order = ["block_id", "record_offset"]
    before = stage.rows("masked.packets").sort(order)
    hour = before["received_hour"][0]
    assert stage.platform.captures.remask("default", hour, Commit("again", 1, {})) == 400
    assert stage.rows("masked.packets").sort(order).equals(before)


def test_the_packet_table_says_what_headers_say_and_no_address(stage: Stage):
    stage.deliver(capture(every(1, 5)))
    rows = stage.rows("masked.packets")
    assert rows.select("protocol", "src_port", "dst_port", "ip_version").unique().rows() == [
        (17, 40_000, 5683, 4)
    ]
    keys = stage.platform.keys("default")
    from transforms.pii.siv import decrypt_column

    def opened(column: str, domain: str) -> list[str]:
        return decrypt_column(rows[column], keys.live_token_keys(domain)).unique().to_list()

    assert opened("src_ip_token", "ip") == ["10.0.0.1"]
    assert opened("dst_mac_token", "mac") == [OTHER.hex(":")]
    assert opened("device_token", "device") == ["dev-1"]
    assert opened("community_id_token", "flow")[0].startswith("1:")
    assert not set(rows["src_ip_prefix"]) & {"10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize("seconds", [0, -1, 3601, 86_400])
def test_windows_that_are_none_or_too_long_are_refused(stage: Stage, seconds: int):
    stage.deliver(capture(every(1, 5)))
    with pytest.raises(UsageError, match=r"window|hour"):
        stage.export(HOUR, HOUR + timedelta(seconds=seconds))


def test_a_device_without_packets_gives_an_empty_file(stage: Stage):
    stage.platform.devices("default").register("dev-1")
    assert stage.export() == HEADER
    stage.deliver(capture(every(1, 5)))
    assert stage.export(HOUR - timedelta(hours=1), HOUR) == HEADER


def test_an_export_holds_a_few_blocks_only(stage: Stage):
    """Streamed: no part is larger than a block and a record."""
    content = HEADER + b"".join(
        record(at, frame(number, size=1400)) for number, at in enumerate(every(0.4, 8_000))
    )
    stage.deliver(content)
    exports = stage.platform.capture_exports("default")
    device = stage.platform.devices("default").find("dev-1")
    with exports.planned(device, HOUR, HOUR + timedelta(hours=1), "pcap") as plan:
        sizes = [len(part) for part in exports.stream(plan)]
    assert max(sizes) <= (1 << 20) + 2_000
    assert sum(sizes) == len(content)
    assert io.BytesIO(stage.export()).read() == content


def test_whoever_stops_reading_an_export_leaves_no_thread_and_an_error_comes_through(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    """The next block is opened in a thread meanwhile."""
    monkeypatch.setattr("stores.capture_exports._AHEAD_FROM_BYTES", 0)
    stage.deliver(
        HEADER + b"".join(record(at, frame(number, size=1400)) for number, at in enumerate(every(0.4, 8_000)))
    )
    exports = stage.platform.capture_exports("default")
    device = stage.platform.devices("default").find("dev-1")
    with exports.planned(device, HOUR, HOUR + timedelta(hours=1), "pcap") as plan:
        parts = exports.stream(plan)
        assert len(next(parts)) == 24
        assert len(next(parts)) > 1_000
        assert [one for one in threading.enumerate() if one.name.startswith("export")]
        parts.close()
        assert [one for one in threading.enumerate() if one.name.startswith("export")] == []

        def read(block: Stored) -> memoryview:
            if block.number == 3:
                raise DecryptionError("the envelope")
            return plan.read(block)

        found = []
        with pytest.raises(DecryptionError):
            for part in exports.stream(replace(plan, read=read)):
                found.append(part)
        assert len(found) == 1 + 3


def test_long_flows_are_cut_off_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCKHOUSE_CAPTURE_FLOW_BYTES", "1000")
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("me")
    stage = Stage(tmp_path, platform)
    content = HEADER + b"".join(record(at, frame(number, size=200)) for number, at in enumerate(every(1, 50)))
    assert stage.deliver(content) == Counts(rows=50, accepted=50)
    sizes = [len(one) for _, _, one in packets_of(stage.export())]
    assert sizes == [246] * 5 + [42] * 45
    assert stage.rows("raw.capture_files")["bytes_cut"].to_list() == [45 * 204]
    assert stage.totals()


def test_batches_take_over_the_memory_of_those_before_them(stage: Stage, monkeypatch):
    rooms = []

    class Room(SealingRoom):
        def __init__(self) -> None:
            super().__init__()
            rooms.append(self)

    monkeypatch.setattr("stores.captures.SealingRoom", Room)
    contents = [capture(every(5, 40 * number, HOUR)) for number in (3, 2, 1)]
    stage.deliver(contents[0])
    stage.deliver(contents[1], device="dev-2")
    assert len(rooms) == 1
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("stores.tables.Tables.append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        stage.deliver(capture(every(7, 10)))
    stage.deliver(contents[2], device="dev-3")
    assert len(rooms) == 2, "what a failed batch left in its memory is used by nobody"
    for number, content in enumerate(contents[1:], 2):
        assert packets_of(stage.export(device=f"dev-{number}")) == packets_of(content)
