"""Users, clients, roles and grants through the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.resources import Platform
from stores import users as users_module
from stores.settings import load_settings

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lockhouse: Call) -> Path:
    home: Path = tmp_path_factory.mktemp("access") / "home"
    assert lockhouse("init", home=home).code == 0
    assert lockhouse("tenant", "add", "acme", home=home).code == 0
    return home


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "PASSWORD_COSTS", {"memory_kib": 64, "passes": 1, "lanes": 1})


def test_a_user_is_added_shown_and_revoked(place: Path, lockhouse: Call):
    made = lockhouse("user", "add", "anna", "--json", home=place).json
    assert made["created"] and len(made["password"]) == 24
    assert not lockhouse("user", "add", "anna", "--json", home=place).json["created"]
    assert lockhouse("role", "add", "anna", "analyst", "--json", home=place).json["created"]
    shown = lockhouse("user", "show", "anna", "--json", home=place).json
    assert (shown["roles"], shown["disabled_at"], shown["grants"]) == (["analyst"], None, [])
    assert lockhouse("role", "revoke", "anna", "analyst", "--json", home=place).code == 0
    assert lockhouse("user", "revoke", "anna", "--json", home=place).json == {"revoked": "anna"}
    [listed] = [
        one for one in lockhouse("user", "list", "--json", home=place).json["users"] if one["user"] == "anna"
    ]
    assert listed["disabled_at"] is not None
    assert listed["roles"] == []


def test_a_password_comes_from_a_file_that_nobody_else_reads(place: Path, lockhouse: Call, tmp_path: Path):
    file = tmp_path / "password"
    file.write_text("correct horse battery\n")
    file.chmod(0o644)
    assert lockhouse("user", "add", "ivan", "--password-file", file, home=place).code == 1
    file.chmod(0o600)
    made = lockhouse("user", "add", "ivan", "--password-file", file, "--json", home=place)
    assert made.json["password"] is None
    assert "battery" not in made.out + made.err


def test_people_read_tables_and_what_comes_next(place: Path, lockhouse: Call):
    def read(*words: str) -> str:
        called = lockhouse(*words, home=place)
        assert called.code == 0, called.err
        return " ".join((called.out + called.err).split())

    assert "Added the user olga Password " in (added := read("user", "add", "olga"))
    assert "(shown once) Next: " in added and added.endswith("role add olga investigator")
    assert read("user", "add", "olga").startswith("Changed the user olga")
    assert read("role", "add", "olga", "auditor") == "olga is now auditor in default"
    assert read("role", "add", "olga", "auditor") == "olga was already auditor in default"
    assert "olga auditor " in read("role", "list") and "olga auditor " in read("user", "list")
    assert read("role", "show", "auditor").startswith("right ")
    read("client", "add", "probe", "--scope", "captures:read", "--scope", "tables:read")
    assert "probe captures:read tables:read 1" in read("client", "list")
    assert "scopes captures:read, tables:read created_at 20" in read("client", "show", "probe")
    read("device", "add", "gate-9")
    assert read("grant", "group", "case-9", "--add", "gate-9") == "device gate-9"
    until = "2126-12-01T00:00:00Z"
    granted = read("grant", "add", "olga", "investigator", "--group", "case-9", "--until", until)
    assert granted.endswith("; it ends by itself at 2126-12-01 00:00 UTC")
    grant = granted.removeprefix("Granted: ").partition(";")[0]
    for words in (("grant", "list"), ("grant", "show", grant), ("user", "show", "olga")):
        assert f"{grant} olga investigator case-9 " in read(*words)
    assert "olga: auditor in default" in read("user", "show", "olga")
    assert read("grant", "revoke", grant) == f"Revoked the grant {grant}"
    for kind in ("user", "grant", "client"):
        missed = lockhouse(kind, "show", "nothing", home=place)
        assert (missed.code, f"lockhouse {kind} list" in missed.err) == (2, True)


def test_a_client_shows_its_secret_once(place: Path, lockhouse: Call):
    made = lockhouse("client", "add", "lab", "--scope", "captures:read", "--json", home=place).json
    assert made["client_secret"].startswith("lhs_")
    second = lockhouse("client", "rotate", "lab", "--json", home=place).json["client_secret"]
    shown = lockhouse("client", "show", "lab", "--json", home=place)
    assert (shown.json["scopes"], len(shown.json["secrets"])) == (["captures:read"], 2)
    listed = lockhouse("client", "list", home=place)
    assert all(secret not in shown.out + listed.out for secret in (made["client_secret"], second))
    assert lockhouse("client", "show", "lab", "--tenant", "acme", home=place).code == 2
    assert lockhouse("client", "revoke", "lab", home=place).code == 0
    assert lockhouse("client", "show", "lab", "--json", home=place).json["revoked_at"]


def test_a_grant_begins_is_shown_and_ends(place: Path, lockhouse: Call):
    lockhouse("device", "add", "router-7", home=place)
    group = lockhouse("grant", "group", "case-17", "--add", "router-7", "--json", home=place)
    assert group.json == {"group": "case-17", "devices": ["router-7"]}
    given = ("iris", "investigator", "--group", "case-17", "--until", "2099-01-01T00:00:00Z")
    grant = lockhouse("grant", "add", *given, "--json", home=place).json["grant"]
    [listed] = lockhouse("grant", "list", "--device", "router-7", "--json", home=place).json["grants"]
    assert (listed["id"], listed["is_live"]) == (grant, True)
    assert lockhouse("grant", "list", "--tenant", "acme", "--json", home=place).json["grants"] == []
    assert lockhouse("grant", "revoke", grant, "--tenant", "acme", home=place).code == 2
    assert lockhouse("grant", "revoke", grant, home=place).code == 0
    assert not lockhouse("grant", "show", grant, "--json", home=place).json["is_live"]
    assert "router-7" not in lockhouse("audit", "list", "--json", home=place).out


def test_what_would_give_nothing_is_refused(place: Path, lockhouse: Call):
    until = ("--until", "2099-01-01T00:00:00Z")
    assert lockhouse("grant", "add", "iris", "auditor", "--group", "case-17", *until, home=place).code == 2
    assert lockhouse("grant", "add", "iris", "analyst", "--group", "empty", *until, home=place).code == 2
    assert lockhouse("grant", "group", "x", "--add", "no-such-device", home=place).code == 2
    assert lockhouse("role", "revoke", "nobody", "analyst", home=place).code == 2
    assert lockhouse("role", "show", "auditor", "--json", home=place).json["rights"] == ["audit:read"]


COMMANDS = [
    ("user", "add", "mallory"),
    ("user", "list"),
    ("user", "revoke", "iris"),
    ("client", "add", "mallory", "--scope", "admin"),
    ("client", "rotate", "lab"),
    ("client", "list"),
    ("role", "add", "eve", "operator"),
    ("role", "list"),
    ("grant", "list"),
    ("grant", "group", "case-17"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_whoever_holds_no_role_is_refused(place: Path, lockhouse: Call, eve: str, command: tuple[str, ...]):
    refused = lockhouse(*command, home=place)
    assert refused.code == 3
    assert eve in refused.err


def test_up_says_what_to_do_before_it_starts_anything(place: Path, lockhouse: Call, eve: str):
    refused = lockhouse("up", home=place)
    assert refused.code == 3
    assert f"lockhouse role add {eve} operator" in refused.err
    assert "Starting" not in refused.err
    assert not (place / "dagster" / "logs").exists()
    entry = Platform(load_settings(place)).audit.entries("default", 1)[0]
    assert (entry.principal, entry.action, entry.outcome) == (eve, "home:processes:started", "refused")


def test_an_operator_of_one_tenant_changes_nobody_elsewhere(
    place: Path, lockhouse: Call, monkeypatch: pytest.MonkeyPatch
):
    assert lockhouse("role", "add", "olga", "operator", "--tenant", "acme", home=place).code == 0
    monkeypatch.setattr("stores.settings.local_user", lambda: "olga")
    mine = ("--tenant", "acme")
    assert lockhouse("role", "add", "iris", "analyst", *mine, home=place).code == 0
    for command in (
        ("role", "add", "iris", "analyst", "--everywhere", *mine),
        ("user", "add", "root", *mine),
        ("user", "revoke", "ivan", *mine),
        ("role", "add", "iris", "analyst"),
    ):
        assert lockhouse(*command, home=place).code == 3, command


def test_a_tenant_says_when_its_devices_should_send(place: Path, lockhouse: Call):
    before = lockhouse("tenant", "policy", "acme", "--json", home=place).json
    assert before == {"tenant": "acme", "interval_seconds": 900, "wifi_only": False, "charging_only": False}
    set_to = lockhouse("tenant", "policy", "acme", "--interval", 3600, "--wifi-only", "--json", home=place).json
    assert (set_to["interval_seconds"], set_to["wifi_only"], set_to["charging_only"]) == (3600, True, False)
    assert lockhouse("tenant", "policy", "acme", "--charging-only", home=place).code == 0
    after = lockhouse("tenant", "policy", "acme", "--json", home=place).json
    assert after == {"tenant": "acme", "interval_seconds": 3600, "wifi_only": True, "charging_only": True}
    assert lockhouse("tenant", "policy", "default", "--json", home=place).json["interval_seconds"] == 900
    assert lockhouse("tenant", "policy", "acme", "--interval", 1, home=place).code == 2
    assert lockhouse("tenant", "policy", "nowhere", home=place).code == 2
