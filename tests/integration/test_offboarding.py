"""Off-boarding: nothing of the tenant is left, or could be read from a copy; the others keep everything."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from homes import copy_home
from orchestration.resources import Platform
from stores.database import METADATA
from stores.keys import TenantKeys
from stores.outbox import FORGET
from stores.settings import load_settings
from stores.user_logins import UserLogins
from stores.verification import verify_certificate
from transforms.audit import Action
from transforms.capture.synthetic import synthetic_capture
from transforms.errors import ErasureError, KeyringError, UsageError
from transforms.user_logins import served_rows

LEFT = {"tenants", "audit", "audit_checkpoints", "outbox"}


@pytest.fixture(scope="module")
def shared_home(
    made_home: Any, lockhouse: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home of two tenants with the same logins; the second has captures, a program and a person too."""
    folder = tmp_path_factory.mktemp("offboarding")
    home = copy_home(made_home.home.with_name("pristine"), folder / "home")
    assert lockhouse("ingest", "logins", made_home.file, "--tenant", "acme", home=home).code in (0, 4)
    capture = folder / "one.pcap"
    capture.write_bytes(synthetic_capture(5, 40, datetime(2026, 11, 20, 8, tzinfo=UTC)))
    words = ("ingest", "captures", capture, "--tenant", "acme", "--device", "phone-1")
    assert lockhouse(*words, home=home).code == 0
    assert lockhouse("client", "add", "lab", "--scope", "events:write", "--tenant", "acme", home=home).code == 0
    assert lockhouse("role", "add", "sam", "analyst", "--tenant", "acme", home=home).code == 0
    return home


@pytest.fixture
def platform(shared_home: Path, tmp_path: Path) -> Platform:
    """A copy of that home, to be changed."""
    return Platform(load_settings(copy_home(shared_home, tmp_path / "home")))


@pytest.fixture
def exported(platform: Platform) -> Platform:
    """With a kept export of the tenant, a dropped file, and an upload on its way."""
    devices = platform.devices("acme")
    with platform.tables.reading("acme", "raw.capture_blocks") as table:
        hour = table.select("packet_hour").collect()["packet_hour"][0]
    platform.kept_exports("acme").keep(devices.ref("phone-1"), hour)
    dropped = platform.landing.drop_folder("logins", "acme") / "late.json"
    dropped.parent.mkdir(parents=True, exist_ok=True)
    dropped.write_text('{"user_id": "x"}\n')
    parts = platform.home.landing / ".uploads" / "acme" / "parts"
    parts.mkdir(parents=True)
    (parts / "00").write_bytes(b"part")
    return platform


def rows_of(platform: Platform, tenant: str) -> dict[str, int]:
    return {info.key: info.rows for info in platform.tables.listing(tenant)}


def entries_of(platform: Platform, tenant: str) -> set[str]:
    """The application tables that name a tenant."""
    found = set()
    for table in METADATA.sorted_tables:
        name = table.c.get("tenant", table.c.name if table.name == "tenants" else None)
        if name is not None and platform.database.rows(sa.select(table).where(name == tenant)):
            found.add(table.name)
    return found


def files_of(home: Path, tenant: str) -> list[str]:
    kept = {f"audit/{tenant}.jsonl", f"certificates/{tenant}/offboarding-{tenant}.json"}
    named = (path for path in home.rglob("*") if tenant in str(path.relative_to(home)) and path.is_file())
    names = {str(path.relative_to(home)) for path in named if not path.is_relative_to(home / "locks")}
    return sorted(names - kept)


def test_everything_of_the_tenant_goes(exported: Platform):
    home, others = exported.home.root, rows_of(exported, "default")
    assert entries_of(exported, "acme") >= {"clients", "devices", "batches", "deliveries", "role_assignments"}
    subjects = exported.subject_keys("acme").count()
    path, held = exported.offboarding("acme").complete("tester")
    assert held["subject_keys"] == subjects > 0
    assert {one["table"] for one in held["tables"]} >= {"raw.logins", "masked.packets", "curated.flows"}
    assert files_of(home, "acme") == []
    assert entries_of(exported, "acme") == LEFT
    assert not exported.database.rows(sa.text("select * from client_secrets"))
    assert [one.tenant for one in exported.outbox.waiting(FORGET)] == ["acme"]
    assert rows_of(exported, "default") == others
    assert verify_certificate(exported.home, path).problems == []


def test_copies_cannot_be_read_any_more(platform: Platform, tmp_path: Path):
    home = platform.home
    copy = Path(shutil.copytree(home.lake / "acme", tmp_path / "acme"))
    keys = [Path(shutil.copy2(one, tmp_path)) for one in home.keys.glob("acme.subjects.db*")]
    assert keys
    platform.offboarding("acme").complete("tester")
    shutil.copytree(copy, home.lake / "acme")
    for one in keys:
        shutil.copy2(one, home.keys)
    again = Platform(load_settings(home.root))
    with pytest.raises(KeyringError):
        TenantKeys("acme", again.provider).identity_key("subject")
    with pytest.raises(UsageError, match="no keys"):
        again.subject_keys("acme").keys_for([b"r" * 16])
    with pytest.raises(UsageError, match="no keys"):
        again.keys("acme").token_key("ip")
    problems = verify_certificate(home, home.certificates / "acme" / "offboarding-acme.json").problems
    assert {"lake/acme is there again", "keys/acme.subjects.db is there again"} <= set(problems)


def test_a_certificate_holds_only_as_it_was_written(platform: Platform):
    path, _ = platform.offboarding("acme").complete("tester")
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not verify_certificate(platform.home, path).ok, f"byte {at}"
    path.write_bytes(whole)
    assert verify_certificate(platform.home, path).ok


def test_a_token_left_anywhere_keeps_it_open(platform: Platform):
    with platform.tables.reading("acme", "masked.logins") as table:
        token = table.select("ip_token").collect()["ip_token"][0]
    left = platform.home.dbt / "left.json"
    left.write_text(json.dumps({"token": token}))
    with pytest.raises(ErasureError, match=r"left\.json"):
        platform.offboarding("acme").complete("tester")
    assert not (platform.home.certificates / "acme").exists()
    left.unlink()
    path, _ = platform.offboarding("acme").complete("tester")
    assert verify_certificate(platform.home, path).ok
    assert token[:28] not in path.read_text()


@pytest.mark.parametrize("step", ["keys", "places", "entries", "scan", "certificate"])
def test_an_interrupted_end_is_completed(exported: Platform, monkeypatch: pytest.MonkeyPatch, step: str):
    before = rows_of(exported, "acme")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            {
                "keys": "stores.keyring.LocalKeyring.destroy_tenant",
                "places": "stores.offboarding.shutil.rmtree",
                "entries": "stores.database.Database.settle",
                "scan": "stores.offboarding.scan_with",
                "certificate": "stores.certificates.write_certificate",
            }[step],
            stop,
        )
        with pytest.raises(KeyboardInterrupt):
            exported.offboarding("acme").complete("tester")
    again = Platform(load_settings(exported.home.root))
    assert "acme" not in again.access.tenants()
    path, held = again.offboarding("acme").complete("tester")
    assert {one["table"]: one["rows"] for one in held["tables"]} == before
    assert files_of(exported.home.root, "acme") == []
    assert verify_certificate(exported.home, path).ok
    issued = [one for one in again.audit.entries("acme") if one.action == Action.CERTIFICATE_ISSUED]
    assert len(issued) == 1


def test_the_name_is_not_given_again(platform: Platform):
    platform.offboarding("acme").complete("tester")
    with pytest.raises(UsageError, match="off-boarded"):
        platform.add_tenant("acme", "tester")
    assert platform.provider.epochs("acme") == ()


def test_files_that_come_later_stay_outside(platform: Platform):
    platform.offboarding("acme").complete("tester")
    late = platform.landing.drop_folder("logins", "acme")
    late.mkdir(parents=True)
    (late / "late.json").write_text("{}\n")
    assert "acme" not in platform.access.tenants()
    assert platform.tables.listing("acme") == []


def test_served_rows_go_with_it(platform: Platform, postgres: str):
    platform.settings = platform.settings.model_copy(update={"postgres_url": postgres})
    served = UserLogins(postgres, {})
    with platform.tables.reading("acme", "masked.logins") as table:
        rows = served_rows(table.collect())
    others = rows.with_columns(tenant=pl.lit("default"))
    assert served.publish("acme", rows) == served.publish("default", others) > 0
    platform.offboarding("acme").complete("tester")
    assert served.dates("acme") == []
    assert served.dates("default")


@pytest.mark.parametrize(
    "words", [["revoke", "default", "--yes"], ["revoke", "nobody", "--yes"], ["revoke", "acme"]]
)
def test_wrong_usage_ends_nobody(lockhouse: Callable[..., Any], platform: Platform, words: list[str]):
    called = lockhouse("tenant", *words, home=platform.home.root)
    assert called.code == 2
    assert platform.access.tenants() == ["acme", "default"]


def test_only_an_operator_ends_a_tenant(lockhouse: Callable[..., Any], platform: Platform, eve: str):
    assert lockhouse("tenant", "revoke", "acme", "--yes", home=platform.home.root).code == 3
    last = platform.audit.entries("acme", 1)[0]
    assert (last.principal, last.action, last.outcome) == (eve, Action.TENANT_ENDED, "refused")
    assert rows_of(platform, "acme")


def test_the_command_tells_and_repeats(lockhouse: Callable[..., Any], platform: Platform):
    home = platform.home.root
    told = lockhouse("tenant", "revoke", "acme", "--dry-run", home=home)
    assert "masked.logins" in told.out and "Nothing was changed" in told.err
    shown = lockhouse("tenant", "revoke", "acme", "--dry-run", "--json", home=home).json
    assert {one["table"]: one["rows"] for one in shown["tables"]} == rows_of(platform, "acme")
    first = lockhouse("tenant", "revoke", "acme", "--yes", "--json", home=home).json
    assert first == lockhouse("tenant", "revoke", "acme", "--yes", "--json", home=home).json
    assert lockhouse("subject", "verify", first["certificate"], home=home).code == 0
    listed = lockhouse("tenant", "list", "--json", home=home).json
    assert (listed["tenants"], list(listed["ended"])) == (["default"], ["acme"])
    assert lockhouse("tables", "--tenant", "acme", home=home).code == 2
    assert lockhouse("audit", "verify", "--tenant", "acme", "--json", home=home).json["ok"]
