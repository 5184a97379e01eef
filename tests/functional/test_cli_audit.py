"""The audit trail and the leak scan by command line: whole, tampered with, clean, planted."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from command_line import DONE, FAILED, Call

# --- Audit


def tamper(home: Path, *statements: str) -> None:
    """Change the audit trail as somebody with the file in hands could."""
    with sqlite3.connect(home / "lockhouse.db") as database:
        for table in ("audit", "audit_checkpoints"):
            for verb in ("update", "delete"):
                database.execute(f"drop trigger {table}_no_{verb}")
        for statement in statements:
            database.execute(statement)


def test_the_trail_of_a_made_home_is_whole(call: Call, copied_home: Any):
    called = call("audit", "verify", "--json", home=copied_home.home)
    assert called.code == DONE
    assert {"ok", "rows", "first_bad"} <= set(called.json)
    assert (called.json["ok"], called.json["first_bad"]) == (True, None)
    assert "is whole" in call("audit", "verify", home=copied_home.home).err
    assert "tenant:keys:created" in call("audit", "list", home=copied_home.home).out


TAMPERINGS = {
    "an edit": ["update audit set principal = 'nobody' where seq = 2"],
    "a deletion": ["delete from audit where seq = 2"],
    "another order": [
        "update audit set seq = 1000 where seq = 1",
        "update audit set seq = 1 where seq = 2",
        "update audit set seq = 2 where seq = 1000",
    ],
    "a cut tail": ["delete from audit where seq > 2"],
    "a cut tail with its head": ["delete from audit where seq > 2", "delete from audit_checkpoints"],
    "nothing left": ["delete from audit"],
    "a head altered": ["update audit_checkpoints set head = substr(head, 2) || substr(head, 1, 1)"],
}


@pytest.mark.parametrize("statements", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_tampering_is_found(call: Call, copied_home: Any, statements: list[str]):
    home = copied_home.home
    assert call("audit", "verify", home=home).code == DONE  # signs the head
    tamper(home, *statements)
    called = call("audit", "verify", "--json", home=home)
    assert called.code == FAILED
    assert called.json["ok"] is False
    assert called.json["first_bad"] is not None
    assert "NOT hold" in call("audit", "verify", home=home).err
    doctor = {one["name"]: one for one in call("doctor", "--json", home=home).json["checks"]}
    assert doctor["audit trail"]["ok"] is False


# --- Leaks


def test_a_scan_of_a_made_home_is_clean(call: Call, made_home: Any, tmp_path: Path):
    values = tmp_path / "values"
    values.write_text("\n".join(made_home.values) + "\n")
    called = call("leaks", "scan", "--values-file", values, "--json", home=made_home.home)
    assert called.code == DONE, called.out
    assert called.json["hits"] == []
    assert called.json["files"] > 20
    assert called.json["values"] == len(made_home.values)
    assert call("leaks", "scan", home=made_home.home).code == DONE


@pytest.mark.parametrize(
    "place", ["lake/default/masked/note.txt", "dagster/storage/x.log", "alice@example.com"]
)
def test_a_scan_finds_what_was_planted_and_does_not_show_it(call: Call, copied_home: Any, place: str):
    path = copied_home.home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mail to alice@example.com or so")
    called = call("leaks", "scan", "alice@example.com", "--json", home=copied_home.home)
    assert called.code == FAILED
    assert {"file", "place"} <= set(called.json["hits"][0])
    assert "alice@example.com" not in called.out
    shown = call("leaks", "scan", "alice@example.com", home=copied_home.home)
    assert "alice@example.com" not in shown.out + shown.err
