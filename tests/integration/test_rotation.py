"""Rotation: after it every token is of the new epoch, opens to the same value, and joins as before."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.keyring import LocalKeyring, read_passphrase
from stores.keys import TenantKeys
from stores.rotation import Rotation
from stores.settings import load_settings
from stores.sql import SqlSandbox
from stores.subjects import SubjectKeys
from stores.tables import Commit
from transforms.capture.synthetic import synthetic_capture
from transforms.errors import BusyError, DecryptionError, KeyringError, UsageError
from transforms.pii.siv import decrypt_column
from transforms.tables import TOKEN_MAP

LOGINS = load_contract("logins")
PEOPLE = [str(uuid.UUID(int=(4 << 76) | (2 << 62) | at)) for at in range(1, 9)]


@dataclass
class Stage:
    """A home, what was sent to it, and its rotation."""

    platform: Platform
    folder: Path
    sent: list[tuple[str, str]]

    @property
    def rotation(self) -> Rotation:
        return self.platform.rotation("default")

    def send(self, count: int = 40, between: Callable[[], object] = lambda: None) -> None:
        """Logins of a few people from a few addresses, all the way to masked; `between` is before that."""
        number = len(self.sent)
        logins = [(PEOPLE[at % len(PEOPLE)], f"192.0.2.{at % 11}") for at in range(number, number + count)]
        path = self.folder / "logins.json"
        lines = [
            json.dumps(
                {
                    "user_id": user,
                    "ip": ip,
                    "app_version": "1.2",
                    "device_type": "ios",
                    "device_id": f"d-{user}",
                }
            )
            for user, ip in logins
        ]
        path.write_text("\n".join(lines))
        (batch,) = self.platform.landing.copy_in("logins", "default", [path])
        assert self.platform.intake.seal_batch(batch.id, LOGINS).accepted == count
        between()
        self.platform.intake.mask_batch(batch.id, LOGINS)
        self.platform.intake.finish_batch(batch.id)
        self.sent += logins

    def rows(self, key: str) -> pl.DataFrame:
        with self.platform.tables.reading("default", key) as table:
            return table.collect()

    def renew(self) -> dict[str, int]:
        rotation = self.rotation
        rotation.renew_keys()
        for key in rotation.table_keys():
            rotation.map_tokens(key)
        rotation.map_cells()
        rotation.renew_cells()
        return {key: rotation.renew_table(key).files for key in rotation.table_keys()}

    def rotate(self) -> None:
        self.rotation.begin()
        self.renew()
        self.rotation.finish()

    def opened(self) -> list[tuple[str, str]]:
        rows = self.rows("masked.logins")
        keys = self.platform.keys("default")
        users = decrypt_column(rows["user_id_token"], keys.live_token_keys("user")).to_list()
        ips = decrypt_column(rows["ip_token"], keys.live_token_keys("ip")).to_list()
        return sorted(zip(users, ips, strict=True))

    def check(self) -> None:
        """What is in the table is what was sent, and a question meets one token for one person."""
        assert self.opened() == sorted(self.sent)
        query = "select count(*) n, count(distinct left(user_id_token, 28)) people from masked.logins"
        (row,) = SqlSandbox(self.platform.tables, "default").run(query).to_pylist()
        assert row == {"n": len(self.sent), "people": len({user for user, _ in self.sent})}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("me")
    made = Stage(platform, tmp_path, [])
    made.send()
    return made


def key_ids(tokens: pl.Series) -> set[str]:
    return set(tokens.drop_nulls().str.slice(0, 6).to_list())


def test_every_token_is_made_anew_and_opens_to_the_same(stage: Stage):
    before = stage.rows("masked.logins")
    stage.rotate()
    after = stage.rows("masked.logins")
    for name in ("user_id_token", "ip_token", "device_id_token"):
        assert not key_ids(before[name]) & key_ids(after[name])
        assert before[name].n_unique() == after[name].n_unique()
    order = ["event_id"]
    names = [name for name in before.columns if not name.endswith("_token")]
    assert after.sort(order).select(names).equals(before.sort(order).select(names))
    stage.check()


def test_joins_go_on_while_tables_are_renewed(stage: Stage):
    stage.rotation.begin()
    stage.rotation.map_tokens("masked.logins")
    stage.check()
    stage.send()
    stage.check()
    joined = "select count(*) n from masked.logins a join masked.logins b using (ip_token)"
    (found,) = SqlSandbox(stage.platform.tables, "default").run(joined).to_pylist()
    stage.renew()
    stage.check()
    (again,) = SqlSandbox(stage.platform.tables, "default").run(joined).to_pylist()
    assert found == again


def test_one_that_was_cut_short_goes_on_with_the_same_epoch(stage: Stage):
    assert stage.rotation.begin() == stage.rotation.begin() == 2
    assert stage.renew()["masked.logins"] > 0
    assert stage.rotation.begin() == 2
    assert stage.renew()["masked.logins"] == 0
    stage.rotation.finish()
    assert [one.state for one in stage.rotation.epochs()] == ["ending", "current"]
    assert stage.rotation.begin() == 3


def test_what_came_in_between_is_not_forgotten(stage: Stage):
    old = stage.platform.keys("default").token_keys(LOGINS.domains)
    stage.rotation.begin()
    stage.renew()
    with pytest.MonkeyPatch.context() as patched:
        # A process that has not noticed the new epoch.
        patched.setattr(TenantKeys, "token_keys", lambda self, domains: old)
        stage.send()
    with pytest.raises(BusyError, match="rotate"):
        stage.rotation.finish()
    stage.renew()
    stage.rotation.finish()
    stage.check()


def test_the_old_root_goes_at_the_horizon_and_not_before(stage: Stage):
    stage.rotate()
    assert stage.rotation.retire() == []
    days = 31
    later = Rotation(
        "default",
        stage.platform.home,
        stage.platform.provider,
        stage.platform.tables,
        stage.platform.database,
        stage.platform.devices("default"),
        stage.platform.intake.vault("default"),
        30,
        lambda: datetime.fromtimestamp(datetime.now(UTC).timestamp() + days * 86_400, UTC),
    )
    assert later.retire() == [1]
    assert not stage.platform.tables.exists("default", TOKEN_MAP.key)
    with pytest.raises(KeyringError, match="destroyed"):
        stage.platform.provider.root("default", 1)
    stage.send()
    stage.check()


def test_a_copy_from_before_is_unreadable_once_the_root_is_gone(stage: Stage, tmp_path: Path):
    home = stage.platform.home
    shutil.copytree(home.lake, tmp_path / "copied")
    shutil.copy(home.keys / "default.subjects.db", tmp_path / "default.subjects.db")
    (file,) = (tmp_path / "copied" / "default" / "masked" / "logins").rglob("*.parquet")
    copied = pl.read_parquet(file, hive_partitioning=False)["ip_token"]
    keys = stage.platform.keys("default")
    assert len(decrypt_column(copied, keys.live_token_keys("ip"))) == 40
    stage.rotate()
    assert stage.rotation.retire(at_once=True) == [1]
    with pytest.raises(DecryptionError):
        decrypt_column(copied, keys.live_token_keys("ip"))
    refs = stage.rows("raw.logins")["subject_ref"].unique().to_list()
    with pytest.raises(DecryptionError):
        SubjectKeys(tmp_path, keys).existing(refs)
    assert len(SubjectKeys(home.keys, keys).existing(refs)) == len(refs)
    assert not [
        path for path in (home.lake / "default" / "masked").rglob("*.parquet") if path.name == file.name
    ]


def test_an_erased_subject_stays_erased(stage: Stage):
    subjects = stage.platform.intake.sealer("default").subjects
    refs = stage.rows("raw.logins")["subject_ref"].unique().to_list()
    subjects.erase(refs[:1])
    stage.rotate()
    stage.rotation.retire(at_once=True)
    assert set(subjects.existing(refs)) == set(refs[1:])


def test_what_was_sealed_before_is_masked_under_the_new_epoch(stage: Stage):
    old = key_ids(stage.rows("masked.logins")["ip_token"])
    stage.send(between=stage.rotation.begin)
    new = key_ids(stage.rows("masked.logins")["ip_token"]) - old
    stage.send()
    by_batch = stage.rows("masked.logins").partition_by("batch_id", maintain_order=True)
    assert sorted(key_ids(rows["ip_token"]) == new for rows in by_batch) == [False, True, True]
    stage.renew()
    stage.rotation.finish()
    stage.check()
    send_packets(stage, between=stage.rotation.begin)
    assert not key_ids(stage.rows("masked.packets")["src_ip_token"]) & (old | new)


def send_packets(stage: Stage, between: Callable[[], object] = lambda: None) -> None:
    path = stage.folder / "one.pcap"
    path.write_bytes(synthetic_capture(5, 300, datetime.now(UTC)))
    (batch,) = stage.platform.landing.copy_in("captures", "default", [path], "phone-1")
    stage.platform.captures.seal_batch(batch.id)
    between()
    stage.platform.captures.mask_batch(batch.id)
    stage.platform.captures.finish_batch(batch.id)


def test_devices_and_packets_go_along(stage: Stage):
    devices = stage.platform.devices("default")
    devices.register("phone-1")
    devices.own("phone-1", PEOPLE[0], datetime(2026, 1, 1, tzinfo=UTC))
    send_packets(stage)
    before, old = stage.rows("masked.packets"), devices.find("phone-1")
    stage.rotate()
    stage.rotation.retire(at_once=True)
    after, new = stage.rows("masked.packets"), devices.find("phone-1")
    assert (old.id, old.ref) == (new.id, new.ref)
    assert old.token != new.token
    assert old.ownerships[1].owner_token != new.ownerships[1].owner_token
    key = stage.platform.keys("default").live_token_keys("ip")
    assert len(decrypt_column(after["src_ip_token"], key)) == len(after) == 300
    for name in ("src_ip_prefix", "dst_ip_prefix"):
        assert before[name].n_unique() == after[name].n_unique()
        assert not set(before[name].drop_nulls()) & set(after[name].drop_nulls())
    # A packet of tomorrow has the same prefixes as one that was renewed.
    remade = stage.platform.captures
    hour = before["received_hour"][0]
    remade.remask("default", hour, Commit("again", 1, {}))
    again = stage.rows("masked.packets")
    order = ["block_id", "record_offset"]
    names = ["src_ip_token", "src_ip_prefix", "dst_ip_token", "dst_ip_prefix", "device_token"]
    assert again.sort(order).select(names).equals(after.sort(order).select(names))


def test_keys_that_another_process_rotated_are_noticed(stage: Stage):
    home = stage.platform.home
    other = LocalKeyring(home.keyring, read_passphrase(home.passphrase))
    assert other.epochs("default") == (1,)
    stage.rotation.begin()
    assert other.epochs("default") == (1, 2)


def test_a_tenant_without_keys_is_told(stage: Stage):
    platform = stage.platform
    with pytest.raises(UsageError, match="no keys"):
        platform.rotation("nobody").begin()


def test_dagster_goes_on_with_a_rotation_a_table_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    from orchestration import definitions

    monkeypatch.setattr(definitions, "platform", lambda: stage.platform)
    job = definitions.defs.resolve_job_def("renew_tokens")
    stage.rotation.begin()
    stage.rotation.renew_keys()
    for _ in range(2):
        assert job.execute_in_process(partition_key="masked.logins").success
        assert job.execute_in_process(partition_key="curated.flows").success
    stage.rotation.finish()
    stage.rotation.retire(at_once=True)
    stage.check()


STEPS: dict[str, Callable[[Stage], Any]] = {
    "send": lambda stage: stage.send(7),
    "begin": lambda stage: stage.rotation.begin(),
    "map": lambda stage: [stage.rotation.map_tokens(key) for key in stage.rotation.table_keys()],
    "renew": lambda stage: stage.renew(),
    "rotate": lambda stage: stage.rotate(),
    "retire": lambda stage: stage.rotation.retire(at_once=True),
}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=6))
def test_in_any_order_no_row_is_lost_and_every_token_opens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
):
    folder = tmp_path_factory.mktemp("orders")
    platform = Platform(load_settings(folder / "home"))
    platform.create_home("me")
    stage = Stage(platform, folder, [])
    stage.send(20)
    for step in steps:
        STEPS[step](stage)
        assert stage.opened() == sorted(stage.sent)
    stage.rotate()
    stage.rotation.retire(at_once=True)
    stage.check()
    assert len(platform.keys("default").epochs()) == 1
