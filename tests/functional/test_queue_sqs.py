"""The sample's hundred messages, the whole way: SQS, segments, Delta, PostgreSQL; when each was received."""

import gzip
import json
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from amazon import serving_amazon
from stores.aws import sqs_client
from stores.settings import load_settings

QUARANTINED = 4


@pytest.fixture
def queue(home, postgres, monkeypatch):
    """A queue of moto's SQS with dead letters, set in a home together with PostgreSQL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    home.mkdir()
    file = home / "settings.toml"
    with serving_amazon() as address:
        file.write_text(f'aws_endpoint_url = "{address}"\npostgres_url = "{postgres}"\n')
        client = sqs_client(load_settings(home))
        dead = client.create_queue(QueueName="logins-dead")["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
        url = client.create_queue(QueueName="logins", Attributes={"RedrivePolicy": policy})["QueueUrl"]
        with file.open("a") as settings:
            settings.write(f'queue_url = "{url}"\n')
        yield url


def test_a_hundred_messages_of_which_one_is_no_login(lockhouse, home, queue, tmp_path, postgres, sample_logins):
    records = sample_logins
    file = tmp_path / "sample.json.gz"
    file.write_bytes(gzip.compress(json.dumps(records).encode()))
    assert lockhouse("send", "logins", file, "--json", home=home).json == {"messages": 100}
    before = datetime.now(UTC)
    received = lockhouse("receive", "--until-idle", 0, "--json", home=home).json
    after = datetime.now(UTC)
    # At least once: a standard queue may give a message twice, and does where several threads ask.
    twice = received["messages"] - 100
    assert (twice >= 0, received["unconfirmed"]) == (True, 0)
    time.sleep(0.1)  # so that the claim is told apart from the receipt
    taken = lockhouse("ingest", "logins", "--staged", "--json", home=home)
    assert taken.code == QUARANTINED, taken.err
    counted = [taken.json[name] for name in ("rows", "accepted", "quarantined", "duplicates")]
    assert counted == [100 + twice, 99, 1, twice]
    check_the_rows(lockhouse, home, records, postgres, (before, after))
    status = lockhouse("queue", "status", "--json", home=home).json
    assert (status["visible"], status["in_flight"], status["dead"], status["staged_bytes"]) == (0, 0, 0, 0)
    entries = lockhouse("quarantine", "list", "--json", home=home).json["entries"]
    shown = lockhouse("quarantine", "show", entries[0]["id"], home=home)
    assert "oops_wrong_msg_type" in shown.out


def check_the_rows(lockhouse, home, records, postgres, received):
    query = "select event_id, ip_token, occurred_at, received_at from masked.logins"
    delta = lockhouse("sql", query, "--format", "json", home=home).json
    with psycopg.connect(postgres) as connection:
        served = connection.execute(
            "select event_id::text, masked_ip, create_date, received_at from user_logins"
        ).fetchall()
    assert len(delta) == len(served) == 99
    assert {one["event_id"]: one["ip_token"] for one in delta} == {one[0]: one[1] for one in served}
    before, after = received
    # Milliseconds are carried; none of the records tells a time of its own.
    assert all(before - timedelta(milliseconds=1) <= one[2] <= after < one[3] for one in served)
    opened = [part for one in served for part in ("--token", one[1])]
    called = lockhouse("reveal", "--domain", "ip", *opened, "--reason", "ticket 17", "--json", home=home).json[
        "values"
    ]
    assert sorted(called) == sorted(one["ip"] for one in records if "ip" in one)
