# ruff: noqa: S608 - statements of our own, against a database made for the test
"""The audit trail: what is appended, what is signed, and every way in which tampering shows."""

import json
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from stores.audit import CHECKPOINT_EVERY, AuditTrail, Verdict
from stores.database import Database
from stores.keyring import LocalKeyring
from transforms.audit import GENESIS, Action, Entry, Outcome, canonical_json, entry_hash, first_bad
from transforms.errors import AuditError


class Trail(NamedTuple):
    """A trail with the files that somebody could tamper with."""

    store: AuditTrail
    database: Path
    heads: Path

    def sql(self, *statements: str) -> None:
        """Change the database behind the store's back."""
        with sqlite3.connect(self.database) as connection:
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'trigger'"
            ).fetchall():
                connection.execute(f"drop trigger {name}")
            for statement in statements:
                connection.execute(statement)

    def verify(self) -> Verdict:
        return self.store.verify("default")

    def fill(self, count: int, tenant: str = "default") -> None:
        for number in range(count):
            self.store.record(tenant, "alice", Action.SQL_RUN, Outcome.DONE, rows=number)


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    moments = iter(range(1_000_000))
    keyring = LocalKeyring.create(tmp_path / "keyring.json", b"a passphrase")
    database = Database.at(tmp_path / "app.db")
    database.migrate()
    start = datetime(2026, 11, 21, tzinfo=UTC)
    store = AuditTrail(database, keyring, tmp_path / "audit", lambda: start + timedelta(seconds=next(moments)))
    return Trail(store, tmp_path / "app.db", tmp_path / "audit" / "default.jsonl")


def test_a_fresh_trail_is_whole_and_empty(trail: Trail):
    assert trail.verify() == Verdict(True, 0, 0, None, None)
    assert trail.store.checkpoint("default") is None


def test_each_entry_bears_the_hash_of_the_one_before(trail: Trail):
    trail.fill(3)
    first, second, third = trail.store.entries("default")
    assert (first.seq, first.previous) == (1, GENESIS)
    assert (second.previous, third.previous) == (first.hash, second.hash)
    assert all(entry.hash == entry_hash(entry) for entry in (first, second, third))
    assert first.parameters == '{"rows":0}'
    assert trail.verify().ok


def test_tenants_have_chains_of_their_own(trail: Trail):
    trail.fill(2)
    trail.fill(3, "acme")
    assert sorted(trail.store.tenants()) == ["acme", "default"]
    assert [entry.seq for entry in trail.store.entries("acme")] == [1, 2, 3]
    trail.sql("update audit set principal = 'mallory' where tenant = 'acme' and seq = 2")
    assert trail.store.verify("acme").first_bad == 2
    assert trail.verify().ok


def test_the_latest_entries_come_oldest_first(trail: Trail):
    trail.fill(5)
    assert [entry.seq for entry in trail.store.entries("default", 2)] == [4, 5]


def test_a_head_is_signed_by_itself_after_some_entries(trail: Trail):
    trail.fill(CHECKPOINT_EVERY)
    verdict = trail.verify()
    assert (verdict.ok, verdict.checkpoints) == (True, 1)
    assert json.loads(trail.heads.read_text())["seq"] == CHECKPOINT_EVERY


def test_a_head_is_signed_once(trail: Trail):
    trail.fill(3)
    assert trail.store.checkpoint("default") is not None
    assert trail.store.checkpoint("default") is None
    assert len(trail.heads.read_text().splitlines()) == 1


def test_writers_at_once_make_one_chain(trail: Trail):
    def write() -> None:
        for _ in range(20):
            trail.store.record("default", "thread", Action.AUDIT_READ, Outcome.DONE)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = trail.verify()
    assert (verdict.ok, verdict.rows) == (True, 80)


COLUMNS = ("at", "principal", "action", "outcome", "parameters", "previous", "hash")


@pytest.mark.parametrize("column", COLUMNS)
def test_an_edit_of_any_column_is_found(trail: Trail, column: str):
    trail.fill(5)
    trail.sql(f"update audit set {column} = {column} || ' ' where seq = 3")
    verdict = trail.verify()
    assert (verdict.ok, verdict.first_bad) == (False, 3)
    assert "altered" in str(verdict.problem)


def test_an_entry_that_goes_to_another_tenant_is_missed(trail: Trail):
    trail.fill(5)
    trail.sql(
        "update audit set tenant = 'acme' where seq = 5", "update audit set tenant = 'acme' where seq = 2"
    )
    assert trail.verify().first_bad == 2
    assert not trail.store.verify("acme").ok


@pytest.mark.parametrize("seq", [1, 3, 4])
def test_a_deleted_entry_is_missed(trail: Trail, seq: int):
    trail.fill(5)
    trail.sql(f"delete from audit where seq = {seq}")
    assert trail.verify().first_bad == seq


def test_a_deleted_entry_is_missed_where_the_others_close_ranks(trail: Trail):
    trail.fill(5)
    trail.sql("delete from audit where seq = 2", "update audit set seq = seq - 1 where seq > 2")
    assert trail.verify().first_bad == 2


def test_entries_that_change_places_are_found(trail: Trail):
    trail.fill(5)
    trail.sql(
        "update audit set seq = 99 where seq = 2",
        "update audit set seq = 2 where seq = 4",
        "update audit set seq = 4 where seq = 99",
    )
    assert trail.verify().first_bad == 2


def test_an_inserted_entry_is_found(trail: Trail):
    trail.fill(3)
    trail.sql(
        "insert into audit select tenant, 4, at, principal, action, outcome, parameters, previous, hash"
        " from audit where seq = 3"
    )
    assert trail.verify().first_bad == 4


def test_a_tail_that_is_cut_after_a_signed_head_is_found(trail: Trail):
    trail.fill(5)
    trail.store.checkpoint("default")
    trail.sql("delete from audit where seq >= 4")
    verdict = trail.verify()
    assert (verdict.ok, verdict.first_bad) == (False, 5)
    assert "cut" in str(verdict.problem)


def test_a_cut_tail_is_found_where_the_head_in_the_database_went_with_it(trail: Trail):
    trail.fill(5)
    trail.store.checkpoint("default")
    trail.sql("delete from audit where seq >= 4", "delete from audit_checkpoints")
    assert trail.verify().first_bad == 5


def test_a_cut_tail_is_found_where_the_copy_of_the_head_went_with_it(trail: Trail):
    trail.fill(5)
    trail.store.checkpoint("default")
    trail.heads.unlink()
    trail.sql("delete from audit where seq >= 4")
    assert trail.verify().first_bad == 5


def test_a_whole_trail_that_is_gone_is_found(trail: Trail):
    trail.fill(5)
    trail.store.checkpoint("default")
    trail.sql("delete from audit")
    assert not trail.verify().ok


def test_a_chain_that_was_computed_anew_does_not_fit_its_signed_head(trail: Trail):
    trail.fill(5)
    trail.store.checkpoint("default")
    forged = forge(trail.store.entries("default"), 2, lambda entry: entry._replace_principal("mallory"))
    trail.sql("delete from audit", *(inserted(entry) for entry in forged))
    assert first_bad(forged) is None
    verdict = trail.verify()
    assert (verdict.ok, verdict.first_bad) == (False, 5)


@pytest.mark.parametrize("column", ["head", "at", "signature"])
def test_an_altered_head_bears_no_valid_signature(trail: Trail, column: str):
    trail.fill(3)
    trail.store.checkpoint("default")
    other = f"case substr({column}, 3, 1) when 'b' then 'c' else 'b' end"
    trail.sql(f"update audit_checkpoints set {column} = replace({column}, substr({column}, 3, 1), {other})")
    altered = sqlite3.connect(trail.database).execute(f"select {column} from audit_checkpoints").fetchone()[0]
    assert altered != json.loads(trail.heads.read_text())[column]
    assert not trail.verify().ok


def test_the_head_of_another_keyring_is_refused(trail: Trail, tmp_path: Path):
    trail.fill(3)
    other = LocalKeyring.create(tmp_path / "other.json", b"a passphrase")
    AuditTrail(Database.at(trail.database), other, tmp_path / "audit", lambda: datetime.now(UTC)).checkpoint(
        "default"
    )
    assert not trail.verify().ok


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "{}",
        "[]",
        '{"seq": "x", "tenant": "", "head": "", "at": "", "signature": ""}',
        '{"seq": 1}',
        '"text"',
        "{",
    ],
)
def test_damage_to_the_copied_heads_is_found(trail: Trail, line: str):
    trail.fill(3)
    trail.store.checkpoint("default")
    with trail.heads.open("a") as file:
        file.write(line + "\n")
    verdict = trail.verify()
    assert not verdict.ok
    assert "checkpoint" in str(verdict.problem)


def test_an_action_that_is_not_in_the_vocabulary_cannot_be_written():
    for action in Action:
        assert len(str(action).split(":")) == 3, action
    with pytest.raises(ValueError, match="not a valid Action"):
        Action("made:up:action")


def test_json_has_one_form():
    assert canonical_json({"b": "é", "a": 1, "c": None}) == '{"a":1,"b":"é","c":null}'


def test_an_error_of_the_trail_is_ours(trail: Trail):
    from transforms.audit import Checkpoint, verify_checkpoint

    with pytest.raises(AuditError, match="no signature"):
        verify_checkpoint(Checkpoint("default", 1, "ab", "now", "no hex"), {1: "ab"}, b"\0" * 32)


class _Forged(Entry):
    def _replace_principal(self, principal: str) -> Entry:
        return changed(self, principal=principal)


def changed(entry: Entry, **fields: str) -> Entry:
    return Entry(**{**entry.__dict__, **fields})


def forge(entries: list[Entry], seq: int, change: Callable[[_Forged], Entry]) -> list[Entry]:
    """Change one entry and compute every hash after it anew, as an attacker would."""
    made: list[Entry] = []
    for entry in entries:
        one = change(_Forged(**entry.__dict__)) if entry.seq == seq else entry
        one = changed(one, previous=made[-1].hash if made else GENESIS)
        made.append(changed(one, hash=entry_hash(one)))
    return made


def inserted(entry: Entry) -> str:
    values = ", ".join(str(one) if isinstance(one, int) else "'" + one + "'" for one in entry.__dict__.values())
    return f"insert into audit ({', '.join(entry.__dict__)}) values ({values})"
