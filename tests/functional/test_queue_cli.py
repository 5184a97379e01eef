"""From the queue to PostgreSQL through the command line: send, receive, ingest --staged, reveal, status."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from command_line import DONE, FAILED, QUARANTINED, REFUSED, WRONG_USAGE
from waiting import LONGEST_S, wait_for


def record(dice):
    return {
        "user_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        "app_version": f"{dice.randrange(4)}.{dice.randrange(10)}",
        "device_type": dice.choice(["android", "ios"]),
        "ip": f"198.51.100.{dice.randrange(1, 255)}",
        "locale": dice.choice(["DE", None]),
        "device_id": f"{dice.randrange(1000):03d}-{dice.randrange(100):02d}-{dice.randrange(10000):04d}",
    }


@pytest.fixture
def records():
    """Twelve records, one of them no login."""
    dice = random.Random(5)  # noqa: S311 - data for tests
    made = [record(dice) for _ in range(12)]
    made[7] = {"foo": "oops_wrong_msg_type", "bar": "123"}
    return made


@pytest.fixture
def file(tmp_path, records):
    path = tmp_path / "events.json"
    path.write_text(json.dumps(records))
    return path


def serve(home, url):
    """Set the address as people do: in the home's settings."""
    home.mkdir(exist_ok=True)
    (home / "settings.toml").write_text(f"postgres_url = {json.dumps(url)}\n")


def status(lockhouse, home):
    return lockhouse("queue", "status", "--json", home=home).json


def ask(address, query):
    with psycopg.connect(address) as connection:
        return connection.execute(query).fetchall()


def test_from_a_queue_to_rows_in_delta_and_postgresql(lockhouse, home, file, records, postgres):
    serve(home, postgres)
    assert lockhouse("send", "logins", file, "--json", home=home).json == {"messages": 12}
    assert status(lockhouse, home)["visible"] == 12
    received = lockhouse("receive", "--until-idle", 0.3, "--json", home=home).json
    assert (received["messages"], received["segments"]) == (12, 1)
    staged = status(lockhouse, home)
    assert (staged["visible"], staged["in_flight"], staged["dead"], staged["staged_files"]) == (0, 0, 0, 1)
    assert staged["staged_bytes"] > 1000
    taken = lockhouse("ingest", "logins", "--staged", "--json", home=home)
    assert taken.code == QUARANTINED, taken.err
    assert (taken.json["accepted"], taken.json["quarantined"], taken.json["tables"]["masked.logins"]) == (
        11,
        1,
        11,
    )
    assert taken.json["checks"]["served.user_logins: equal_to_delta"]
    after = status(lockhouse, home)
    assert (after["visible"], after["dead"], after["staged_bytes"]) == (0, 0, 0)
    assert after["lag_s"] > 0
    assert after["rows_per_minute"] > 0
    check_the_served_rows(lockhouse, home, records, postgres)
    check_a_second_delivery(lockhouse, home, postgres)
    check_that_rotated_tokens_follow(lockhouse, home, postgres)


def check_that_rotated_tokens_follow(lockhouse, home, postgres):
    before = dict(ask(postgres, "select event_id::text, user_id from user_logins"))
    assert lockhouse("keys", "rotate", home=home).code == DONE
    query = "select event_id, user_id_token from masked.logins"
    delta = lockhouse("sql", query, "--format", "json", home=home).json
    after = dict(ask(postgres, "select event_id::text, user_id from user_logins"))
    assert after == {one["event_id"]: one["user_id_token"] for one in delta}
    assert not set(after.values()) & set(before.values())


def check_the_served_rows(lockhouse, home, records, postgres):
    delta = lockhouse(
        "sql", "select event_id, ip_token, device_id_token from masked.logins", "--format", "json", home=home
    ).json
    query = "select event_id::text, masked_ip, masked_device_id from user_logins"
    served = ask(postgres, query)
    assert sorted(served) == sorted((one["event_id"], one["ip_token"], one["device_id_token"]) for one in delta)
    for domain, name, place in (("ip", "ip", 1), ("device", "device_id", 2)):
        tokens = [part for one in served for part in ("--token", one[place])]
        opened = lockhouse(
            "reveal", "--domain", domain, *tokens, "--reason", "ticket 17", "--json", home=home
        ).json["values"]
        assert sorted(opened) == sorted(one[name] for one in records if name in one)


def check_a_second_delivery(lockhouse, home, postgres):
    """The same messages in another segment: a queue delivers at least once."""
    folder = home / "landing" / "logins" / "default"
    names = ask(postgres, "select event_id::text from user_logins")
    body = json.dumps(record(random.Random(6)))  # noqa: S311 - data for tests
    lines = [json.dumps({"MessageId": name, "Body": body}) for (name,) in names]
    (folder / "again.ndjson").write_text("\n".join(lines) + "\n")
    taken = lockhouse("ingest", "logins", "--staged", "--json", home=home).json
    assert (taken["rows"], taken["accepted"], taken["duplicates"]) == (11, 0, 11)
    assert ask(postgres, "select count(*) from user_logins") == [(11,)]


def test_a_database_that_is_away_fails_the_run_and_the_next_one_catches_up(
    lockhouse, home, file, tmp_path, postgres, monkeypatch
):
    monkeypatch.setattr("assets.user_logins.RETRY", None)
    serve(home, "postgresql://nobody@127.0.0.1:1/none")
    failed = lockhouse("ingest", "logins", file, "--json", home=home)
    assert failed.code == FAILED
    assert "PostgreSQL cannot be reached" in failed.err
    assert lockhouse("sql", "select * from masked.logins", "--format", "json", home=home).json
    serve(home, postgres)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record(random.Random(9))))  # noqa: S311 - data for tests
    assert lockhouse("ingest", "logins", other, "--json", home=home).code in (DONE, QUARANTINED)
    assert ask(postgres, "select count(*) from user_logins") == [(12,)]


def test_a_message_that_is_refused_twice_is_kept_once_and_can_be_retried(lockhouse, home):
    folder = home / "landing" / "logins" / "default"
    lockhouse("init", home=home)
    folder.mkdir(parents=True)
    poison = json.dumps({"MessageId": str(uuid.uuid4()), "Body": "no JSON at all"})
    (folder / "one.ndjson").write_text(poison + "\n" + poison + "\n")
    called = lockhouse("ingest", "logins", "--staged", "--json", home=home)
    assert called.code == QUARANTINED, called.err
    first = called.json
    assert (first["quarantined"], first["duplicates"]) == (1, 1)
    (folder / "two.ndjson").write_text(poison + "\n\n")
    again = lockhouse("ingest", "logins", "--staged", "--json", home=home).json
    assert (again["quarantined"], again["duplicates"]) == (0, 1)
    # Nothing of the record has changed: it is refused again, and still there.
    retried = lockhouse("quarantine", "retry", "--all", "--json", home=home).json
    assert (retried["retried"], retried["quarantined"]) == (1, 1)
    entries = lockhouse("quarantine", "list", "--json", home=home).json["entries"]
    assert len(entries) == 1
    shown = lockhouse("quarantine", "show", entries[0]["id"], home=home)
    assert "no JSON at all" in shown.out


def test_made_up_messages_can_be_sent_at_a_rate(lockhouse, home):
    start = time.monotonic()
    assert (
        lockhouse("send", "logins", "--synthetic", 30, "--rate", 30, "--json", home=home).json["messages"] == 30
    )
    assert time.monotonic() - start >= 0.9
    assert status(lockhouse, home)["visible"] == 30


def test_dead_letters_are_put_back(lockhouse, home, file):
    lockhouse("send", "logins", file, home=home)
    (home / "settings.toml").write_text("queue_visibility_s = 2\nqueue_max_receives = 1\n")
    from orchestration.resources import Platform
    from stores.settings import load_settings

    queue = Platform(load_settings(home)).queue("logins", "default")
    assert len(queue.receive(100, 0)) == 12
    time.sleep(2.1)
    assert queue.receive(100, 0) == []
    queue.close()
    assert status(lockhouse, home)["dead"] == 12
    assert lockhouse("queue", "redrive", "--json", home=home).json == {"messages": 12}
    assert lockhouse("receive", "--until-idle", 0, "--json", home=home).json["messages"] == 12


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "logins"],
        ["send", "nothing", "--synthetic", "1"],
        ["send", "logins", "--rate", "5"],
        ["receive", "--source", "nothing", "--until-idle", "0"],
        ["queue", "status", "--source", "captures"],
        ["ingest", "logins"],
    ],
)
def test_wrong_usage_is_refused(lockhouse, home, arguments):
    assert lockhouse("init", home=home).code == DONE
    assert lockhouse(*arguments, home=home).code == WRONG_USAGE


def test_who_holds_no_role_is_refused(lockhouse, home, file, eve, monkeypatch):
    monkeypatch.undo()
    lockhouse("init", home=home)
    monkeypatch.setattr("stores.settings.local_user", lambda: "eve")
    for words in (
        ["send", "logins", file],
        ["receive", "--until-idle", 0],
        ["queue", "status"],
        ["queue", "redrive"],
    ):
        assert lockhouse(*words, home=home).code == REFUSED


def test_a_signal_stops_the_receiver_with_everything_in_a_segment(lockhouse, home, file):
    lockhouse("send", "logins", file, home=home)
    (home / "settings.toml").write_text("segment_seconds = 600\n")  # only the signal closes it
    command = [sys.executable, "-c", "from lockhouse.main import main; main()", "--home", str(home)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOCKHOUSE")}
    with subprocess.Popen([*command, "receive", "--json"], stdout=subprocess.PIPE, env=clean) as process:
        wait_for(lambda: status(lockhouse, home)["in_flight"] == 12)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0
    assert json.loads(said)["messages"] == 12
    assert status(lockhouse, home)["in_flight"] == 0
    assert len(list(Path(home / "landing" / "logins" / "default").glob("queue-*"))) == 1
