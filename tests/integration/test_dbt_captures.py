"""The marts of captures on real Delta tables: values, windows, what is read, and the asset that builds them."""

import json
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from assets.batches import Batches
from assets.curated import curated_captures
from stores import dbt_runs
from stores.dbt_runs import DbtOutcome
from stores.delta_views import select_nothing
from stores.marts import Marts
from stores.tables import Commit, Tables
from transforms.capture.tables import PACKETS
from transforms.errors import TableError

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
ARRIVED = datetime(2026, 3, 2, 7, 20, tzinfo=UTC)
MARTS = ("device_hours", "flows", "top_talkers")
TCP, UDP, ICMP = 6, 17, 1
SYN, ACK = 2, 16


class Packet(NamedTuple):
    """The parts of a packet that these tests vary; addresses are numbers."""

    at: datetime
    src: int | None = 0
    dst: int | None = 1
    src_port: int | None = 50_000
    dst_port: int | None = 443
    size: int = 100
    protocol: int | None = TCP
    flags: int | None = ACK
    device: int = 0
    flow: str | None = "f"
    macs: tuple[int, int] | None = None


def token_of(kind: str, number: int | str | None) -> str | None:
    """Something of the length and alphabet of a token."""
    return None if number is None else f"AQ{kind}{number:0>4}".ljust(48, "x")


def row_of(packet: Packet, number: int, received_at: datetime, batch: str) -> dict[str, object]:
    """Fill in a whole row of the packet table."""
    hour, arrived = (one.replace(minute=0, second=0, microsecond=0) for one in (packet.at, received_at))
    src_mac, dst_mac = packet.macs or (None, None)
    return dict.fromkeys(PACKETS.schema.names) | {
        "block_id": f"{batch}-{number // 1000}",
        "record_offset": number % 1000 * 116,
        "tenant": "acme",
        "packet_hour": f"{hour:%Y-%m-%dT%H}",
        "received_at": received_at,
        "received_date": received_at.date(),
        "received_hour": arrived,
        "batch_id": batch,
        "chunk": 0,
        "device_token": token_of("d", packet.device),
        "occurred_at": packet.at,
        "event_hour": hour,
        "link_type": 1,
        "captured_bytes": min(packet.size, 96),
        "original_bytes": packet.size,
        "ip_version": None if packet.src is None else 4,
        "protocol": packet.protocol,
        "src_mac_token": token_of("m", src_mac),
        "dst_mac_token": token_of("m", dst_mac),
        "src_ip_token": token_of("i", packet.src),
        "dst_ip_token": token_of("i", packet.dst),
        "src_ip_prefix": None if packet.src is None else f"prefix {packet.src}",
        "dst_ip_prefix": None if packet.dst is None else f"prefix {packet.dst}",
        "src_port": packet.src_port,
        "dst_port": packet.dst_port,
        "tcp_flags": packet.flags,
        "community_id_token": token_of("c", packet.flow),
    }


def at(day: date, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}+00:00").astimezone(UTC)


class Stage:
    """A lake with packets in it, and its marts."""

    def __init__(self, folder: Path) -> None:
        self.lake = folder / "lake"
        self.tables = Tables(self.lake, folder / "locks")
        self.marts = Marts(self.tables, self.lake, folder / "target", {})

    def append(
        self, *packets: Packet, batch: str = "b1", received_at: datetime = ARRIVED, tenant: str = "acme"
    ) -> None:
        rows = [row_of(packet, number, received_at, batch) for number, packet in enumerate(packets)]
        table = pa.Table.from_pylist(rows, PACKETS.schema)
        self.tables.append(tenant, PACKETS, table, Commit(f"captures/{batch}/0", 1, {}))

    def build(self, *dates: date, tenant: str = "acme", subject: str = "captures") -> DbtOutcome:
        outcome = self.marts.rebuild(tenant, subject, dates, "run-7")
        assert outcome.succeeded, outcome
        return outcome

    def rows(self, mart: str, tenant: str = "acme") -> list[dict[str, Any]]:
        """All rows of a mart in a fixed order, read without DuckDB."""
        frame = pl.read_delta(str(self.lake / tenant / "curated" / mart))
        return frame.select(sorted(frame.columns)).sort(pl.all()).to_dicts()

    def all_rows(self) -> dict[str, list[dict[str, Any]]]:
        return {mart: self.rows(mart) for mart in MARTS}


def of_date(rows: dict[str, list[dict[str, Any]]], day: date) -> dict[str, list[dict[str, Any]]]:
    return {mart: [row for row in found if row["event_date"] == day] for mart, found in rows.items()}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def two_days(stage: Stage) -> Stage:
    """A TCP flow of four packets that crosses midnight, a question of DNS, and a packet that is not IP."""
    stage.append(
        Packet(at(FIRST, "23:59:58.000001"), 0, 1, flags=SYN, size=60),
        Packet(at(FIRST, "23:59:58.5"), 1, 0, 443, 50_000, flags=SYN | ACK, size=1500),
        Packet(at(FIRST, "23:59:59"), 0, 1, size=60),
        Packet(at(SECOND, "00:00:00"), 1, 0, 443, 50_000, size=1500),
        Packet(at(FIRST, "08:30:00"), 0, 2, 40_000, 53, protocol=UDP, flags=None, flow="q", size=70),
        Packet(at(FIRST, "08:00:00"), None, None, None, None, protocol=None, flags=None, flow=None, size=42),
    )
    return stage


# -- what the marts say -------------------------------------------------------------------------


def test_flows_have_both_ways_and_their_opener(two_days: Stage):
    two_days.build()
    question, flow = (row for row in two_days.rows("flows") if row["event_date"] == FIRST)
    if question["protocol"] == TCP:
        question, flow = flow, question
    assert flow == {
        "event_date": FIRST,
        "device_token": token_of("d", 0),
        "community_id_token": token_of("c", "f"),
        "protocol": TCP,
        "service": "https",
        "opener_ip_token": token_of("i", 0),
        "opener_ip_prefix": "prefix 0",
        "opener_port": 50_000,
        "responder_ip_token": token_of("i", 1),
        "responder_ip_prefix": "prefix 1",
        "responder_port": 443,
        "packets": 3,
        "packets_from_opener": 2,
        "packets_from_responder": 1,
        "original_bytes": 1620,
        "original_bytes_from_opener": 120,
        "original_bytes_from_responder": 1500,
        "captured_bytes": 60 + 96 + 60,
        "first_packet_at": at(FIRST, "23:59:58.000001"),
        "last_packet_at": at(FIRST, "23:59:59"),
        "duration_s": 0.999999,
        "tcp_flags": SYN | ACK,
    }
    assert (question["service"], question["tcp_flags"], question["packets_from_responder"]) == (
        "domain",
        None,
        0,
    )


def test_a_flow_that_crosses_midnight_has_a_row_on_each_date(two_days: Stage):
    two_days.build()
    (rest,) = of_date(two_days.all_rows(), SECOND)["flows"]
    # Its client is not seen first on the second date; the service is known by either port.
    assert (rest["opener_port"], rest["responder_port"], rest["service"]) == (443, 50_000, "https")
    assert (rest["packets"], rest["duration_s"]) == (1, 0.0)


def test_device_hours_count_whatever_went_by(two_days: Stage):
    two_days.build()
    rows = {row["event_hour"]: row for row in two_days.rows("device_hours")}
    assert sorted(rows) == [at(FIRST, "08:00:00"), at(FIRST, "23:00:00"), at(SECOND, "00:00:00")]
    assert rows[at(FIRST, "08:00:00")] == {
        "event_date": FIRST,
        "event_hour": at(FIRST, "08:00:00"),
        "device_token": token_of("d", 0),
        "packets": 2,
        "original_bytes": 112,
        "captured_bytes": 112,
        "peers": 1,
        "protocols": 1,
        "flows": 1,
        "first_packet_at": at(FIRST, "08:00:00"),
        "last_packet_at": at(FIRST, "08:30:00"),
    }


def test_top_talkers_rank_peers_by_bytes(two_days: Stage):
    two_days.build()
    ranked = [row for row in two_days.rows("top_talkers") if row["event_date"] == FIRST]
    found = {row["rank"]: (row["peer_ip_token"], row["peer_ip_prefix"], row["packets"]) for row in ranked}
    assert found == {1: (token_of("i", 1), "prefix 1", 3), 2: (token_of("i", 2), "prefix 2", 1)}
    shares = {row["rank"]: row["share_of_bytes"] for row in ranked}
    assert shares == {1: 1620 / 1732, 2: 70 / 1732}


def test_twenty_peers_are_ranked_and_equals_stay_in_order(stage: Stage):
    sizes = [100] * 15 + [200] * 10
    stage.append(*(Packet(at(FIRST, "08:00:00"), 0, 10 + n, size=size) for n, size in enumerate(sizes)))
    stage.build()
    ranked = sorted(stage.rows("top_talkers"), key=lambda row: row["rank"])
    assert [row["rank"] for row in ranked] == list(range(1, 21))
    assert [row["peer_ip_token"] for row in ranked] == [
        token_of("i", n) for n in (*range(25, 35), *range(10, 20))
    ]


def test_a_packet_between_two_devices_counts_for_both(stage: Stage):
    there, back = (0, 1, 50_000, 443), (1, 0, 443, 50_000)
    for device in (0, 1):
        stage.append(
            # Each of the two has one other peer, so that it is known for who it is.
            Packet(at(FIRST, "08:00:00"), *there, device=device),
            Packet(at(FIRST, "08:00:01"), *back, device=device),
            Packet(at(FIRST, "08:00:02"), device, 5 + device, device=device, flow="other"),
            batch=f"b{device}",
        )
    stage.build()
    peers = {(row["device_token"], row["peer_ip_token"]): row["packets"] for row in stage.rows("top_talkers")}
    assert peers == {
        (token_of("d", 0), token_of("i", 1)): 2,
        (token_of("d", 0), token_of("i", 5)): 1,
        (token_of("d", 1), token_of("i", 0)): 2,
        (token_of("d", 1), token_of("i", 6)): 1,
    }
    assert [
        row["packets"] for row in stage.rows("flows") if row["community_id_token"] == token_of("c", "f")
    ] == [2, 2]


def test_a_device_whose_address_changes_is_known_by_its_hardware(stage: Stage):
    out, back = (1, 9), (9, 1)
    stage.append(
        Packet(at(FIRST, "08:00:00"), 0, 7, macs=out),
        Packet(at(FIRST, "08:00:01"), 7, 0, macs=back),
        Packet(at(FIRST, "09:00:00"), 3, 8, macs=out),
        Packet(at(FIRST, "09:00:01"), 8, 3, macs=back),
        # So many packets of one peer that its address is the commonest of the day.
        *(Packet(at(FIRST, "09:30:00"), 8, 3, macs=back) for _ in range(5)),
        Packet(at(FIRST, "09:31:00"), 3, 6, macs=out),
    )
    stage.build()
    assert {row["peer_ip_token"] for row in stage.rows("top_talkers")} == {token_of("i", n) for n in (6, 7, 8)}
    assert sorted(row["peers"] for row in stage.rows("device_hours")) == [1, 2]


def test_marts_agree_with_polars_on_random_packets(stage: Stage):
    packets = random_packets(random.Random(7), 3000)  # noqa: S311 - no secret
    stage.append(*packets)
    stage.build()
    frame = pl.DataFrame(
        [row_of(one, n, ARRIVED, "b1") for n, one in enumerate(packets)], infer_schema_length=None
    )
    frame = frame.with_columns(pl.col("occurred_at").dt.date().alias("event_date"))
    met = pl.DataFrame(stage.rows("flows"))
    expected = expected_flows(frame)
    assert met.select(expected.columns).sort(pl.all()).equals(expected.sort(pl.all()))
    hours = frame.group_by("device_token", "event_hour").agg(
        packets=pl.len().cast(pl.Int64),
        flows=pl.col("community_id_token").drop_nulls().n_unique().cast(pl.Int64),
        protocols=pl.col("protocol").drop_nulls().n_unique().cast(pl.Int64),
        original_bytes=pl.col("original_bytes").sum(),
    )
    assert (
        pl.DataFrame(stage.rows("device_hours"))
        .select(hours.columns)
        .sort(pl.all())
        .equals(hours.sort(pl.all()))
    )


def random_packets(rng: random.Random, count: int) -> list[Packet]:
    """Packets of two devices and two days among few hosts and ports, in no order; some at one time."""
    packets = []
    for _ in range(count):
        one, two = rng.sample(range(5), 2)
        ports = rng.choice([(50_000, 443), (50_001, 443), (40_000, 53)])
        protocol = rng.choice([TCP, UDP])
        flow = f"{min(one, two)}-{max(one, two)}-{ports[0]}-{protocol}"
        # Either host may be the client; the lower one always is, so that a flow has one name.
        src_port, dst_port = ports if one < two else ports[::-1]
        moment = at(FIRST, "22:00:00") + timedelta(seconds=rng.randrange(4 * 3600))
        flags = rng.choice([SYN, ACK, SYN | ACK]) if protocol == TCP else None
        packet = Packet(moment, one, two, src_port, dst_port, rng.randrange(60, 1500), protocol, flags)
        packets.append(packet._replace(device=rng.randrange(2), flow=rng.choice([flow, flow, None])))
    return packets


def expected_flows(frame: pl.DataFrame) -> pl.DataFrame:
    """Work flows out packet by packet: the first of a flow tells its opener."""
    key = ["event_date", "device_token", "community_id_token"]
    ordered = frame.drop_nulls("community_id_token").sort("occurred_at", "block_id", "record_offset")
    opener = pl.col("src_ip_token").first()
    from_opener = pl.col("src_ip_token") == opener
    return ordered.group_by(key).agg(
        opener_ip_token=opener,
        responder_port=pl.col("dst_port").first().cast(pl.Int32),
        packets=pl.len().cast(pl.Int64),
        packets_from_opener=from_opener.sum().cast(pl.Int64),
        original_bytes_from_responder=pl.col("original_bytes").filter(~from_opener).sum(),
        first_packet_at=pl.col("occurred_at").min(),
        last_packet_at=pl.col("occurred_at").max(),
        tcp_flags=pl.col("tcp_flags").cast(pl.Int32).bitwise_or(),
    )


# -- replacing windows --------------------------------------------------------------------------


@pytest.mark.parametrize("dates", [(), (FIRST,), (FIRST, SECOND)])
def test_a_re_run_changes_nothing(two_days: Stage, dates: tuple[date, ...]):
    two_days.build()
    before = two_days.all_rows()
    two_days.build(*dates)
    assert two_days.all_rows() == before


def test_late_packets_replace_their_own_date_only(two_days: Stage):
    two_days.build()
    before = two_days.all_rows()
    two_days.append(Packet(at(FIRST, "08:40:00"), 0, 3, flow="late"), batch="b2")
    two_days.append(Packet(at(SECOND, "00:10:00"), 0, 3, flow="not yet"), batch="b3")
    two_days.build(FIRST)
    after = two_days.all_rows()
    assert of_date(after, SECOND) == of_date(before, SECOND)
    assert {mart: len(rows) for mart, rows in of_date(before, FIRST).items()} == {
        "device_hours": 2,
        "flows": 2,
        "top_talkers": 2,
    }
    assert {mart: len(rows) for mart, rows in of_date(after, FIRST).items()} == {
        "device_hours": 2,
        "flows": 3,
        "top_talkers": 3,
    }


def test_dates_far_apart_are_replaced_together(two_days: Stage):
    """A clock that was reset is no reason to read what lies between."""
    long_ago = date(1970, 1, 1)
    two_days.append(Packet(at(long_ago, "00:00:07")), batch="b2")
    two_days.build(long_ago, SECOND)
    assert {row["event_date"] for row in two_days.rows("device_hours")} == {long_ago, SECOND}


def test_a_window_without_packets_loses_its_rows(two_days: Stage):
    two_days.build()
    DeltaTable(two_days.tables.path("acme", PACKETS.key)).delete(f"packet_hour < '{SECOND}'")
    outcome = two_days.build(FIRST)
    assert [model.rows for model in outcome.models] == [0, 0, 0]
    assert {row["event_date"] for rows in two_days.all_rows().values() for row in rows} == {SECOND}


def test_hours_of_other_dates_are_not_read(two_days: Stage):
    files = [Path(file) for file in DeltaTable(two_days.tables.path("acme", PACKETS.key)).file_uris()]
    (other,) = (file for file in files if f"packet_hour={SECOND}" in str(file))
    end = pq.ParquetFile(other).metadata.serialized_size + 8
    content = other.read_bytes()
    # The footer stays, the pages go: only who reads rows of it meets the damage.
    other.write_bytes(content[:4] + bytes(len(content) - 4 - end) + content[-end:])
    two_days.build(FIRST)
    assert {row["event_date"] for row in two_days.rows("flows")} == {FIRST}
    assert not two_days.marts.rebuild("acme", "captures", [SECOND], "run-8").succeeded


# -- subjects and tenants -----------------------------------------------------------------------


def test_subjects_are_built_apart(two_days: Stage):
    assert sorted(model.name for model in two_days.build(FIRST).models) == [*MARTS]
    log = two_days.tables.path("acme", PACKETS.key) / "_delta_log" / f"{0:020}.json"
    log.write_text("{")
    # Marts of logins do not so much as open the packet table.
    built = two_days.build(FIRST, subject="logins")
    assert sorted(model.name for model in built.models) == ["daily_logins", "device_activity", "user_sessions"]
    assert not two_days.marts.rebuild("acme", "captures", [FIRST], "run-8").succeeded


def test_a_tenant_without_packets_builds_empty_marts(stage: Stage):
    outcome = stage.build(FIRST)
    assert {(model.name, model.rows) for model in outcome.models} == {(mart, 0) for mart in MARTS}
    stage.append(Packet(at(FIRST, "08:00:00")))
    stage.build(FIRST)
    assert {mart: len(rows) for mart, rows in stage.all_rows().items()} == dict.fromkeys(MARTS, 1)


def test_every_test_passes_and_names_its_mart(two_days: Stage):
    outcome = two_days.build()
    assert {test.model for test in outcome.tests} == {*MARTS}
    assert {test.name for test in outcome.tests} >= {
        f"{mart}_keep_totals" for mart in ("device_hours", "flows")
    }


# -- what lies on disk --------------------------------------------------------------------------


def test_statistics_in_the_log_hold_no_token_and_no_prefix(two_days: Stage):
    two_days.build()
    for mart in MARTS:
        log = "".join(
            path.read_text() for path in (two_days.lake / "acme" / "curated" / mart).glob("_delta_log/*.json")
        )
        assert "AQ" not in log and "prefix 0" not in log
        adds = [json.loads(line)["add"] for line in log.splitlines() if '"add"' in line]
        for add in adds:
            stats = json.loads(add["stats"])
            named = {*stats["minValues"], *stats["maxValues"], *stats["nullCount"]}
            assert "packets" in named
            assert not [name for name in named if name.endswith(("_token", "_prefix", "_port"))]


def test_the_packet_table_is_described_as_it_lies_on_disk():
    declared = dbt_runs.load_manifest().sources["source.lockhouse.masked.packets"].columns
    empty = duckdb.sql(select_nothing({name: column.data_type for name, column in declared.items()}))
    there = duckdb.from_arrow(PACKETS.schema.empty_table())
    assert dict(zip(empty.columns, empty.types, strict=True)) == dict(
        zip(there.columns, there.types, strict=True)
    )


def test_whatever_is_made_of_addresses_is_marked():
    models = [one for one in dbt_runs.load_manifest().nodes.values() if one.resource_type == "model"]
    for model in models:
        for column in model.columns.values():
            kind = {"_token": "token", "prefix": "pseudonym"}.get(column.name[-6:])
            assert kind is None or column.config.meta["pii"] == kind, (model.name, column.name)


# -- the asset ----------------------------------------------------------------------------------


def test_packet_dates_are_those_of_the_arrival(two_days: Stage):
    hour = ARRIVED.replace(minute=0)
    two_days.append(Packet(at(date(2026, 2, 1), "08:00:00")), batch="b2")
    two_days.append(
        Packet(at(date(2026, 1, 1), "08:00:00")), batch="b3", received_at=ARRIVED + timedelta(hours=1)
    )
    assert two_days.marts.packet_dates("acme", ["b1"], hour) == [FIRST, SECOND]
    assert two_days.marts.packet_dates("acme", ["b2", "none"], hour) == [date(2026, 2, 1)]
    assert two_days.marts.packet_dates("acme", [], hour) == [date(2026, 2, 1), FIRST, SECOND]
    assert two_days.marts.packet_dates("acme", ["b3"], hour) == []
    assert two_days.marts.packet_dates("bolt", ["b1"], hour) == []


class Recorder:
    """Stands in for the ledger and the intake: every batch is of one tenant, finished ones are noted."""

    def __init__(self) -> None:
        self.finished: list[str] = []

    def named(self, batches: list[str]) -> list[dict[str, Any]]:
        return [{"tenant": "acme", "id": batch} for batch in batches]

    def finish_batch(self, batch: str) -> None:
        self.finished.append(batch)


def materialise(stage: Stage, *batches: str) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """Run the asset for batches, or for their hour as it is."""
    recorder = Recorder()
    done = dg.materialize(
        [curated_captures],
        partition_key=f"{ARRIVED:%Y-%m-%d-%H:00}",
        run_config=dg.RunConfig(ops={"curated_captures": Batches(batches=[*batches])}),
        resources={
            "captures": recorder,
            "ledger": recorder,
            "tables": stage.tables,
            "marts": stage.marts,
        },
        raise_on_error=False,
    )
    return done, recorder.finished


def test_the_asset_rebuilds_the_dates_of_its_batches(two_days: Stage):
    two_days.append(Packet(at(date(2026, 2, 1), "08:00:00")), batch="b2")
    done, finished = materialise(two_days, "b1")
    assert done.success and finished == ["b1"]
    assert {row["event_date"] for rows in two_days.all_rows().values() for row in rows} == {FIRST, SECOND}
    rows = {
        event.asset_key.path[-1]: event.step_materialization_data.materialization.metadata["rows written"].value
        for event in done.get_asset_materialization_events()
        if event.asset_key is not None
    }
    assert rows == {mart: len(found) for mart, found in two_days.all_rows().items()}
    assert {check.check_name for check in done.get_asset_check_evaluations()} >= {"flows_keep_totals"}
    assert all(check.passed for check in done.get_asset_check_evaluations())


def test_without_batches_the_dates_of_the_hour_are_rebuilt(two_days: Stage):
    two_days.append(Packet(at(date(2026, 2, 1), "08:00:00")), batch="b2", tenant="bolt")
    done, finished = materialise(two_days)
    assert done.success and finished == []
    assert {row["event_date"] for row in two_days.rows("flows")} == {FIRST, SECOND}
    assert {row["event_date"] for row in two_days.rows("flows", "bolt")} == {date(2026, 2, 1)}


def test_a_batch_without_packets_rebuilds_nothing(two_days: Stage):
    two_days.build()
    done, finished = materialise(two_days, "nothing readable in it")
    assert done.success and finished == ["nothing readable in it"]
    assert {DeltaTable(two_days.tables.path("acme", f"curated.{mart}")).version() for mart in MARTS} == {0}


def test_a_batch_is_not_finished_where_a_mart_was_not_built(two_days: Stage, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> DbtOutcome:
        return DbtOutcome(succeeded=False, models=(), tests=(), message="no room")

    monkeypatch.setattr(two_days.marts, "rebuild", broken)
    monkeypatch.setattr("dagster.RetryPolicy.calculate_delay", lambda *_: 0)
    done, finished = materialise(two_days, "b1")
    assert not done.success and finished == []
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    assert TableError.__name__ in str(failure.step_failure_data.error)
