"""Break glass: purpose, limit, and a second person where the tenant's policy asks for one."""

from pathlib import Path
from typing import Any

import pytest

from command_line import DONE, REFUSED, WRONG_USAGE, Call
from orchestration.resources import Platform
from stores.settings import load_settings, write_setting
from transforms.access import Role

ASK = ["reveal", "--table", "masked.logins", "--column", "ip_token", "--reason", "ticket 17", "--json"]
ONE = ["--where", "event_id = (select min(event_id) from masked.logins)"]


@pytest.fixture
def strict(copied_home: Any) -> Path:
    """A home whose tenants ask for a second person, with a privacy officer called olga."""
    home: Path = copied_home.home
    write_setting(home, "reveal_approval", "acme, default")
    Platform(load_settings(home)).access.assign("olga", Role.PRIVACY_OFFICER)
    return home


def as_olga(call: Call, *words: object, home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stores.settings.local_user", lambda: "olga")
        return call(*words, home=home)


def trail(home: Path) -> list[tuple[str, str]]:
    return [(one.action, one.outcome) for one in Platform(load_settings(home)).audit.entries("default")]


def test_a_reveal_waits_for_a_second_person_and_is_made_once(call: Call, strict: Path):
    first = call(*ASK, *ONE, home=strict)
    assert (first.code, first.out) == (REFUSED, "")
    assert "approval grant" in first.err
    (waiting,) = as_olga(call, "approval", "list", "--json", home=strict).json["approvals"]
    assert (waiting["decision"], waiting["described"]["column"]) == (None, "ip_token")
    own = call("approval", "grant", waiting["id"], home=strict)
    assert (own.code, "second person" in own.err) == (REFUSED, True)
    assert call(*ASK, *ONE, home=strict).code == REFUSED
    granted = as_olga(call, "approval", "grant", waiting["id"], "--json", home=strict)
    assert (granted.code, granted.json["decided_by"]) == (DONE, "olga")
    # Another question is not what was granted.
    assert call(*ASK, "--where", "true limit 1", home=strict).code == REFUSED
    assert as_olga(call, *ASK, *ONE, home=strict).code == REFUSED
    made = call(*ASK, *ONE, home=strict)
    assert made.code == DONE, made.err
    assert len(made.json["values"]) == 1
    assert call(*ASK, *ONE, home=strict).code == REFUSED
    events = trail(strict)
    assert events.index(("pii:approval:decided", "done")) < events.index(("pii:column:revealed", "allowed"))
    assert events.count(("pii:column:revealed", "allowed")) == 1


def test_what_is_refused_stays_refused(call: Call, strict: Path):
    call(*ASK, *ONE, home=strict)
    (waiting,) = as_olga(call, "approval", "list", "--json", home=strict).json["approvals"]
    assert as_olga(call, "approval", "refuse", waiting["id"], home=strict).code == DONE
    assert as_olga(call, "approval", "grant", waiting["id"], home=strict).code == WRONG_USAGE
    assert call(*ASK, *ONE, home=strict).code == REFUSED
    assert as_olga(call, "approval", "grant", "no such", home=strict).code == WRONG_USAGE
    assert "waiting" in as_olga(call, "approval", "list", home=strict).out


def test_who_may_not_decide_is_refused(call: Call, strict: Path, eve: str):
    assert call("approval", "list", home=strict).code == REFUSED
    assert call(*ASK, *ONE, home=strict).code == REFUSED
    assert trail(strict)[-1] == ("pii:approval:asked", "refused")


def test_a_reveal_has_a_limit_and_a_purpose(call: Call, copied_home: Any):
    home = copied_home.home
    write_setting(home, "reveal_row_limit", "5")
    assert call(*ASK, home=home).code == WRONG_USAGE
    assert call(*ASK, *ONE, "--purpose", "curiosity", home=home).code == WRONG_USAGE
    assert call(*ASK, *ONE, "--purpose", "legal", home=home).code == DONE
    last = Platform(load_settings(home)).audit.entries("default", 1)[0]
    assert '"purpose":"legal"' in last.parameters
