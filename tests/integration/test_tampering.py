# ruff: noqa: S608, S311 - statements and dice of the test's own
"""The trail in its database: what is changed behind its back is found, what waits for the disk is not lost.

300 changes by default; `AUDIT_TAMPERINGS=10000` makes as many as that.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestration.resources import Platform
from stores.database import Database
from stores.settings import load_settings
from transforms.audit import Action, Entry, Outcome, entry_hash
from waiting import LONGEST_S

ROUNDS = int(os.environ.get("AUDIT_TAMPERINGS", "300"))
TEXTS = ("at", "principal", "action", "outcome", "parameters", "previous", "hash")
Change = Callable[[sqlite3.Connection, list[Entry], random.Random], object]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = Platform(load_settings(tmp_path_factory.mktemp("tampering") / "home"))
    made.create_home("root")
    actions = list(Action)
    for at in range(60):
        made.audit.record("default", f"user-{at % 7}", actions[at % len(actions)], Outcome.DONE, rows=at)
    made.audit.checkpoint("default")
    return made


@pytest.fixture(scope="module")
def behind(platform: Platform) -> Iterator[sqlite3.Connection]:
    """The database as whoever has the file opens it."""
    connection = sqlite3.connect(platform.home.database, isolation_level=None)
    connection.execute("pragma synchronous = off")
    # What keeps honest programs from changing an entry is gone in a moment.
    for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        connection.execute(f"drop trigger {name}")
    yield connection
    connection.close()


def write(connection: sqlite3.Connection, entries: list[Entry]) -> None:
    connection.execute("delete from audit where tenant = 'default'")
    names = list(asdict(entries[0])) if entries else []
    rows = [tuple(asdict(one).values()) for one in entries]
    marks = ", ".join("?" * len(names))
    connection.executemany(f"insert into audit ({', '.join(names)}) values ({marks})", rows)


def edit_text(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    one, name = dice.choice(entries), dice.choice(TEXTS)
    text = str(getattr(one, name))
    at = dice.randrange(len(text) + 1)
    forms = [
        text[:at] + chr(dice.randrange(33, 1000)) + text[at:],
        text[:at] + text[at + 1 :],
        text.upper(),
        "",
    ]
    changed = dice.choice([form for form in forms if form != text])
    connection.execute(f"update audit set {name} = ? where tenant = 'default' and seq = ?", (changed, one.seq))


def edit_and_mend_the_hash(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    at = dice.randrange(len(entries))
    forged = replace(entries[at], principal=f"somebody-{dice.random()}")
    write(connection, [*entries[:at], replace(forged, hash=entry_hash(forged)), *entries[at + 1 :]])


def compute_anew(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    """Change an entry and every hash after it: only the signed head tells."""
    at, made = dice.randrange(len(entries)), list[Entry]()
    for number, one in enumerate(entries):
        forged = (
            replace(one, outcome="refused" if one.outcome != "refused" else "done") if number == at else one
        )
        forged = replace(forged, previous=made[-1].hash if made else one.previous)
        made.append(replace(forged, hash=entry_hash(forged)))
    write(connection, made)


def delete_some(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    gone = dice.sample(entries, dice.randrange(1, 5))
    connection.executemany(
        "delete from audit where seq = ? and tenant = 'default'", [(one.seq,) for one in gone]
    )


def delete_and_renumber(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    gone = dice.randrange(len(entries))
    kept = [one for at, one in enumerate(entries) if at != gone]
    write(connection, [replace(one, seq=seq) for seq, one in enumerate(kept, start=1)])


def cut_the_tail(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    """Cut the end off, with every signed head that the database has of it."""
    kept = dice.randrange(len(entries))
    connection.execute("delete from audit where tenant = 'default' and seq > ?", (kept,))
    connection.execute("delete from audit_checkpoints where tenant = 'default' and seq > ?", (kept,))


def exchange_two(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    one, other = dice.sample(range(len(entries)), 2)
    moved = list(entries)
    moved[one], moved[other] = replace(entries[other], seq=one + 1), replace(entries[one], seq=other + 1)
    write(connection, moved)


def shuffle_all(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    moved = list(entries)
    while moved == entries:
        dice.shuffle(moved)
    write(connection, [replace(one, seq=seq) for seq, one in enumerate(moved, start=1)])


def put_one_in(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    at = dice.randrange(len(entries))
    forged = replace(entries[at], principal="nobody")
    longer = [*entries[:at], replace(forged, hash=entry_hash(forged)), *entries[at:]]
    write(connection, [replace(one, seq=seq) for seq, one in enumerate(longer, start=1)])


def alter_a_signed_head(connection: sqlite3.Connection, entries: list[Entry], dice: random.Random) -> None:
    name = dice.choice(["head", "at", "signature"])
    connection.execute(
        f"update audit_checkpoints set {name} = ? where tenant = 'default'", (f"{dice.random()}",)
    )


CHANGES: list[Change] = [
    edit_text,
    edit_and_mend_the_hash,
    compute_anew,
    delete_some,
    delete_and_renumber,
    cut_the_tail,
    exchange_two,
    shuffle_all,
    put_one_in,
    alter_a_signed_head,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_is_done_behind_its_back_is_found(
    platform: Platform, behind: sqlite3.Connection, change: Change
):
    entries = platform.audit.entries("default")
    heads = behind.execute("select * from audit_checkpoints where tenant = 'default'").fetchall()
    missed = []
    for number in range(ROUNDS // len(CHANGES)):
        behind.execute("begin")
        change(behind, entries, random.Random(number))
        behind.execute("commit")
        verdict = platform.audit.verify("default")
        if verdict.ok or verdict.first_bad is None or verdict.problem is None:
            missed.append(number)
        behind.execute("begin")
        write(behind, entries)
        behind.execute("delete from audit_checkpoints where tenant = 'default'")
        behind.executemany(f"insert into audit_checkpoints values ({', '.join('?' * len(heads[0]))})", heads)
        behind.execute("commit")
    assert missed == []
    assert platform.audit.verify("default").ok


def test_a_signed_head_that_is_kept_elsewhere_and_altered_is_found(platform: Platform):
    path = Path(platform.home.checkpoints / "default.jsonl")
    lines = path.read_text()
    for name in ("seq", "head", "signature"):
        forged = {**json.loads(lines.splitlines()[-1]), name: 7 if name == "seq" else "00"}
        path.write_text(json.dumps(forged) + "\n")
        assert not platform.audit.verify("default").ok
    path.write_text(lines)
    assert platform.audit.verify("default").ok


RECORDING = """
import os, sys
from pathlib import Path
from orchestration.resources import Platform
from stores.settings import load_settings
from transforms.audit import Action, Outcome
platform = Platform(load_settings(Path(sys.argv[1])))
platform.audit.sync_later(3600)
for at in range(50):
    platform.audit.record("default", "hasty", Action.REQUEST_ANSWERED, Outcome.DONE, status=at)
os.kill(os.getpid(), 9)
"""


def test_entries_that_wait_for_the_disk_outlive_a_killed_process(tmp_path: Path):
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("root")
    ended = subprocess.run([sys.executable, "-c", RECORDING, platform.home.root], check=False)
    assert ended.returncode == -9
    found = [one for one in platform.audit.entries("default") if one.principal == "hasty"]
    assert [json.loads(one.parameters)["status"] for one in found] == list(range(50))
    assert platform.audit.verify("default").ok


def test_entries_are_synced_together_and_those_that_allow_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    platform = Platform(load_settings(tmp_path / "home"))
    platform.create_home("root")
    synced, begun = threading.Event(), []
    begin, sync = Database.begin, Database.sync

    def seen_begin(self: Database, is_synced: bool = True) -> Any:
        begun.append(is_synced)
        return begin(self, is_synced)

    def seen_sync(self: Database) -> None:
        sync(self)
        synced.set()

    monkeypatch.setattr(Database, "begin", seen_begin)
    monkeypatch.setattr(Database, "sync", seen_sync)
    platform.audit.sync_later(0.05)
    for outcome in (Outcome.ALLOWED, Outcome.DONE, Outcome.FAILED, Outcome.REFUSED):
        platform.audit.record("default", "root", Action.SQL_RUN, outcome)
    assert begun == [True, False, False, False]
    assert synced.wait(LONGEST_S)
    assert platform.audit.verify("default").ok
