# ruff: noqa: S608 - queries of our own, against a home made for the test
"""Tokens by command line: made, revealed, refused, rotated; and a principal who holds no role."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from command_line import DONE, REFUSED, UUID, WRONG_USAGE, Call, accepted, sql

# --- Tokens and back


def test_the_masked_table_holds_the_token_that_the_command_makes(call: Call, made_home: Any):
    record = accepted(made_home)[0]
    for domain, name in (("ip", "ip"), ("user", "user_id"), ("device", "device_id")):
        token = call("token", record[name], "--domain", domain, "--json", home=made_home.home).json["token"]
        rows = sql(
            call, made_home.home, f"select count(*) as n from masked.logins where {name}_token = '{token}'"
        )
        assert rows[0]["n"] >= 1
        opened = call(
            "reveal", "--token", token, "--domain", domain, "--reason", "t", "--json", home=made_home.home
        )
        assert opened.json == {"values": [record[name]]}


def reveal(call: Call, made: Any, table: str, column: str, *more: str) -> Any:
    """Open a column of a table, for a reason."""
    words = ("--table", table, "--column", column, "--reason", "ticket 17", *more)
    return call("reveal", *words, home=made.home)


def test_a_reveal_gives_the_original_addresses(call: Call, made_home: Any):
    called = reveal(call, made_home, "masked.logins", "ip_token", "--json")
    assert called.code == DONE
    assert sorted(called.json["values"]) == sorted(record["ip"] for record in accepted(made_home))


def test_a_reveal_can_be_narrowed_and_is_audited_first(call: Call, copied_home: Any):
    record = accepted(copied_home)[3]
    token = call("token", record["ip"], "--domain", "ip", home=copied_home.home).out.strip()
    where = f"ip_token = '{token}'"
    called = reveal(call, copied_home, "masked.logins", "user_id_token", "--where", where)
    assert called.out.split() == [record["user_id"]]
    entries = call("audit", "list", "--json", home=copied_home.home).json["entries"]
    revealed = [one for one in entries if one["action"] == "pii:column:revealed"]
    assert [one["outcome"] for one in revealed] == ["allowed", "done"]
    assert json.loads(revealed[0]["parameters"])["reason"] == "ticket 17"
    assert token not in json.dumps(entries)


def test_a_mart_can_be_revealed_as_well(call: Call, made_home: Any):
    called = reveal(call, made_home, "curated.user_sessions", "user_id_token", "--json")
    assert set(called.json["values"]) == {record["user_id"] for record in accepted(made_home)}


def test_the_token_of_another_tenant_is_refused(call: Call, copied_home: Any):
    home = copied_home.home
    call("tenant", "add", "acme", home=home)
    mine = call("token", "192.0.2.7", "--domain", "ip", home=home).out.strip()
    theirs = call("token", "192.0.2.7", "--domain", "ip", "--tenant", "acme", home=home).out.strip()
    assert mine[:28] != theirs[:28]
    called = call("reveal", "--token", theirs, "--domain", "ip", "--reason", "t", home=home)
    assert (called.code, called.out) == (REFUSED, "")
    assert theirs not in called.err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token[:20] + ("A" if token[20] != "A" else "B") + token[21:],
        lambda token: token[::-1],
        lambda token: "",
        lambda token: "no token at all",
        lambda token: "é" * 40,
    ],
    ids=["cut", "changed", "reversed", "empty", "text", "no ASCII"],
)
def test_what_is_no_token_is_refused_and_not_repeated(call: Call, made_home: Any, spoil: Callable[[str], str]):
    token = call("token", "192.0.2.7", "--domain", "ip", home=made_home.home).out.strip()
    spoiled = spoil(token)
    called = call("reveal", "--token", spoiled, "--domain", "ip", "--reason", "t", home=made_home.home)
    assert (called.code, called.out) == (REFUSED, "")
    assert not spoiled or spoiled not in called.err


def test_the_token_of_another_domain_is_refused(call: Call, made_home: Any):
    token = call("token", "192.0.2.7", "--domain", "device", home=made_home.home).out.strip()
    assert (
        call("reveal", "--token", token, "--domain", "ip", "--reason", "t", home=made_home.home).code == REFUSED
    )


@pytest.mark.parametrize(
    "swapped", [["token", "ip", "--domain"], ["reveal", "--token", "x", "--reason", "t", "--domain"]]
)
def test_a_value_given_as_the_domain_does_not_stay_in_the_trail(
    call: Call, copied_home: Any, swapped: list[str]
):
    called = call(*swapped, "198.51.100.213", home=copied_home.home)
    assert called.code == WRONG_USAGE
    assert "198.51.100.213" not in called.err
    assert call("leaks", "scan", "198.51.100.213", home=copied_home.home).code == DONE


# --- A second principal


@pytest.mark.parametrize(
    "arguments",
    [
        ["tables"],
        ["sql", "select 1"],
        ["reveal", "--table", "masked.logins", "--column", "ip_token", "--reason", "t"],
        ["token", "192.0.2.7", "--domain", "ip"],
        ["quarantine", "list"],
        ["quarantine", "show", UUID],
        ["quarantine", "retry", "--all"],
        ["quarantine", "drop", UUID],
        ["audit", "list"],
        ["audit", "verify"],
        ["leaks", "scan"],
        ["tenant", "add", "mine"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
@pytest.mark.usefixtures("eve")
def test_somebody_without_a_role_is_refused(call: Call, made_home: Any, arguments: list[str]):
    called = call(*arguments, home=made_home.home)
    assert (called.code, called.out) == (REFUSED, ""), called.err
    assert "eve holds no role" in called.err


def test_a_refusal_is_audited(call: Call, copied_home: Any, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("stores.settings.local_user", lambda: "eve")
        call("token", "192.0.2.7", "--domain", "ip", home=copied_home.home)
    last = call("audit", "list", "--json", home=copied_home.home).json["entries"][-2]
    assert (last["principal"], last["action"], last["outcome"]) == ("eve", "pii:token:made", "refused")


def test_nobody_becomes_operator_of_a_home_that_is_there(
    call: Call, copied_home: Any, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr("stores.settings.local_user", lambda: "eve")
        assert call("init", home=copied_home.home).code == DONE
        assert call("ingest", "logins", copied_home.file, home=copied_home.home).code == REFUSED
        assert call("tables", home=copied_home.home).code == REFUSED
    assert call("tables", home=copied_home.home).code == DONE


def test_the_environment_does_not_say_who_somebody_is(monkeypatch: pytest.MonkeyPatch):
    from stores.settings import local_user

    before = local_user()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert local_user() == before


def test_keys_are_rotated_retired_and_told(call: Call, copied_home: Any):
    home, query = copied_home.home, "select event_id, ip_token from masked.logins order by 1"
    before = sql(call, home, query)
    rotated = call("keys", "rotate", "--json", home=home)
    assert rotated.code == DONE, rotated.err
    assert rotated.json["epoch"] == 2
    assert rotated.json["tables"]["masked.logins"] == len(before) == 99
    listed = call("keys", "status", "--json", home=home).json["epochs"]
    assert [one["state"] for one in listed] == ["ending", "current"]
    assert call("keys", "retire", "--json", home=home).json["destroyed"] == []
    assert call("keys", "rotate", "--emergency", "--yes", "--json", home=home).json["destroyed"] == [1, 2]
    after = sql(call, home, query)
    assert [one["event_id"] for one in after] == [one["event_id"] for one in before]
    assert not {one["ip_token"][:6] for one in after} & {one["ip_token"][:6] for one in before}
    asked = ("--domain", "ip", "--reason", "t", "--json")
    revealed = call("reveal", "--token", after[0]["ip_token"], *asked, home=home)
    assert revealed.json["values"][0] in copied_home.values
    assert call("reveal", "--token", before[0]["ip_token"], *asked, home=home).code == REFUSED
    trail = call("audit", "list", "--limit", "100", "--json", home=home).json["entries"]
    done = [one["action"] for one in trail if one["outcome"] == "done"]
    assert done.count("keys:epoch:renewed") == 2
    assert done.count("keys:epoch:destroyed") == 2


def test_an_emergency_is_asked_for_where_nobody_can_answer(call: Call, made_home: Any):
    assert call("keys", "rotate", "--emergency", home=made_home.home).code != 0
