# ruff: noqa: S608 - statements of our own, against a database made for the test
"""`user_logins` in a real PostgreSQL: published once, kept equal to Delta, erased, caught up."""

import json
import random
import shutil
import uuid
from datetime import UTC, datetime, timedelta

import polars as pl
import psycopg
import pytest

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.settings import Settings, load_settings
from stores.user_logins import UserLogins, read_served_address, standing_of
from transforms.errors import ServedError, UsageError
from transforms.tables import masked_table
from transforms.user_logins import COLUMNS, describe_columns, no_rows

HOUR = datetime(2026, 11, 21, 7, tzinfo=UTC)
CONTRACT = load_contract("logins")
# What a clock may say at most (transforms/parsing.py).
ENDS = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))


def rows(count, seed=1, tenant="default"):
    dice = random.Random(seed)  # noqa: S311 - data for tests
    return pl.DataFrame(
        [
            {
                "event_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
                "tenant": tenant,
                "user_id": f"A{dice.randrange(5):040d}",
                "device_type": dice.choice(["ios", "android", 'we"b,', "", "\\N", "\\.", "a\nb"]),
                "masked_ip": "Aip",
                "masked_device_id": "Adevice",
                "locale": dice.choice([None, "DE", ""]),
                "app_version": "1.2",
                "app_major": 1,
                "app_minor": 2,
                "app_patch": None,
                "create_date": dice.choice(
                    [*ENDS, *[HOUR + timedelta(microseconds=dice.randrange(10**10))] * 9]
                ),
                "received_at": HOUR + timedelta(seconds=dice.randrange(3600)),
            }
            for _ in range(count)
        ],
        schema=no_rows().schema,
    )


@pytest.fixture
def served(postgres):
    return UserLogins(postgres, describe_columns(CONTRACT))


def ask(address, query, *values):
    with psycopg.connect(address) as connection:
        return connection.execute(query, values).fetchall()


def whole(served, tenant="default"):
    return served.standing(tenant, HOUR - timedelta(days=30), HOUR + timedelta(days=30))


def test_rows_come_out_as_they_went_in(served, postgres):
    made = rows(200)
    assert served.publish("default", made) == 200
    names = [one.name for one in COLUMNS]
    met = ask(postgres, f"select {', '.join(names)} from user_logins order by event_id")
    wanted = made.sort("event_id").rows()
    assert [(str(one[0]), *one[1:]) for one in met] == wanted
    assert whole(served) == standing_of(made)


def test_publishing_again_changes_nothing_and_a_changed_row_is_changed(served, postgres):
    made = rows(50)
    served.publish("default", made.head(30))
    before = ask(postgres, "select event_id, xmin::text from user_logins order by 1")
    served.publish("default", made)
    served.publish("default", made)
    after = dict(ask(postgres, "select event_id, xmin::text from user_logins"))
    assert all(after[event] == written for event, written in before)
    changed = made.with_columns(user_id=pl.lit("Anew"))
    served.publish("default", changed)
    assert whole(served) == standing_of(changed)


def test_the_digest_sees_every_column(served):
    made = rows(3)
    served.publish("default", made)
    for one in COLUMNS:
        if one.name in ("tenant", "event_id", "received_at"):
            continue
        other = {"integer": pl.lit(77, pl.Int32), "timestamptz": pl.lit(HOUR)}.get(one.type, pl.lit("other"))
        assert standing_of(made.with_columns(other.cast(made[one.name].dtype).alias(one.name))) != whole(served)


def test_two_tenants_may_have_the_same_event_and_see_nothing_of_each_other(served):
    mine, theirs = rows(20), rows(20, tenant="acme")
    served.publish("default", mine)
    served.publish("acme", theirs)
    assert whole(served) == standing_of(mine)
    assert whole(served, "acme") == standing_of(theirs)
    served.make_equal("acme", HOUR, HOUR + timedelta(hours=1), theirs.head(0))
    assert (whole(served).rows, whole(served, "acme").rows) == (20, 0)


def test_a_window_is_made_equal_and_nothing_outside_of_it_changes(served):
    made = rows(100)
    served.publish("default", made)
    since, until = HOUR, HOUR + timedelta(minutes=30)
    inside = (pl.col("received_at") >= since) & (pl.col("received_at") < until)
    new = rows(5, seed=2).with_columns(received_at=pl.lit(since).cast(pl.Datetime("us", "UTC")))
    wanted = pl.concat([made.filter(inside).head(3).with_columns(user_id=pl.lit("Anew")), new])
    gone = served.make_equal("default", since, until, wanted)
    assert gone == made.filter(inside).height - 3
    assert whole(served) == standing_of(pl.concat([made.filter(~inside), wanted]))


def test_people_are_deleted_by_their_tokens(served, postgres):
    made = rows(60)
    served.publish("default", made)
    served.publish("acme", rows(60, tenant="acme"))
    tokens = made["user_id"].unique().sort().to_list()[:2]
    gone = served.delete_tokens("default", tokens)
    assert gone == made.filter(pl.col("user_id").is_in(tokens)).height
    assert whole(served) == standing_of(made.filter(~pl.col("user_id").is_in(tokens)))
    assert whole(served, "acme").rows == 60
    assert served.delete_tokens("default", tokens) == 0


def test_the_table_is_described_and_indexed(served, postgres):
    served.publish("default", rows(1))
    query = "select attname, col_description(attrelid, attnum) from pg_attribute"
    where = " where attrelid = 'user_logins'::regclass and attnum > 0"
    comments = dict(ask(postgres, query + where))
    assert comments == describe_columns(CONTRACT)
    assert "token" in comments["user_id"]
    indexes = [
        one for (one,) in ask(postgres, "select indexdef from pg_indexes where tablename = 'user_logins'")
    ]
    assert any("UNIQUE" in one and "(event_id, tenant)" in one for one in indexes)
    assert any("UNIQUE" not in one and "(user_id, create_date)" in one for one in indexes)


def test_two_logins_of_a_person_in_one_moment_are_two_rows(served):
    made = rows(2).with_columns(
        user_id=pl.lit("Asame"), create_date=pl.lit(HOUR).cast(pl.Datetime("us", "UTC"))
    )
    served.publish("default", made)
    assert whole(served).rows == 2


def test_two_processes_may_make_the_table_at_once(postgres):
    from concurrent.futures import ThreadPoolExecutor

    made = [rows(20, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda part: UserLogins(postgres, describe_columns(CONTRACT)).publish("default", part), made
            )
        )
    assert whole(UserLogins(postgres, {})) == standing_of(pl.concat(made))


def test_every_served_column_comes_from_a_masked_one():
    masked = {one.name: one for one in masked_table(CONTRACT).columns}
    assert {one.source for one in COLUMNS} <= set(masked)
    assert {one.name for one in COLUMNS if masked[one.source].pii == "token"} == {
        "user_id",
        "masked_ip",
        "masked_device_id",
    }


# --- The address


def test_a_database_that_cannot_be_reached_is_named_without_its_address():
    served = UserLogins("postgresql://alice:secret@127.0.0.1:1/none", {})
    with pytest.raises(ServedError, match="cannot be reached") as raised:
        served.publish("default", rows(1))
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_refused_row_is_named_without_its_values(served):
    bad = rows(1).with_columns(event_id=pl.lit("alice@example.com"))
    with pytest.raises(ServedError) as raised:
        served.publish("default", bad)
    assert "alice" not in str(raised.value)


def test_the_address_comes_from_a_setting_or_a_file(tmp_path):
    assert read_served_address(Settings(home=tmp_path)) is None
    url = "postgresql+psycopg://u@h/d"
    assert read_served_address(Settings(home=tmp_path, postgres_url=url)) == "postgresql://u@h/d"
    file = tmp_path / "address"
    with pytest.raises(UsageError, match="postgres_url_file"):
        read_served_address(Settings(home=tmp_path, postgres_url_file=file))
    file.write_text("postgres://u:p@h/d\n")
    assert read_served_address(Settings(home=tmp_path, postgres_url_file=file)) == "postgresql://u:p@h/d"
    with pytest.raises(UsageError, match="no address of PostgreSQL"):
        read_served_address(Settings(home=tmp_path, postgres_url="mysql://u@h/d"))


# --- With the lake


@pytest.fixture
def lake(copied_home, postgres, monkeypatch):
    """A home with the sample, masked before anything was served."""
    monkeypatch.setenv("LOCKHOUSE_POSTGRES_URL", postgres)
    return Platform(load_settings(copied_home.home))


def test_what_was_masked_before_is_published_with_the_next_batch(lake):
    done = lake.publishing.publish_batches([])
    assert (done.rows, done.batches, done.late) == (99, 1, 1)
    assert lake.publishing.publish_batches([]).batches == 0
    [batch] = lake.ledger.batches(source="logins")
    [compared] = lake.publishing.compare_batches([batch["id"]])
    assert compared.is_equal
    assert compared.lake.rows == 99


def test_an_hour_follows_the_lake(lake, postgres):
    lake.publishing.publish_batches([])
    [batch] = lake.ledger.batches(source="logins")
    start = datetime.fromisoformat(batch["received_at"]).replace(minute=0, second=0, microsecond=0)
    shutil.rmtree(lake.tables.path("default", "masked.logins"))
    [compared] = lake.publishing.compare_hour(start)
    assert not compared.is_equal
    assert lake.publishing.equalise_hour(start) == 0
    [compared] = lake.publishing.compare_hour(start)
    assert compared.is_equal
    assert ask(postgres, "select count(*) from user_logins") == [(0,)]


def test_every_day_of_a_tenant_follows_the_lake(lake, postgres):
    lake.publishing.publish_batches([])
    with psycopg.connect(postgres) as connection:
        connection.execute(
            "update user_logins set user_id = 'Aold', received_at = received_at - interval '3 days'"
        )
        connection.execute("delete from user_logins where device_type = 'ios'")
    assert lake.publishing.equalise_tenant("default") == 99
    [batch] = lake.ledger.batches(source="logins")
    [compared] = lake.publishing.compare_batches([batch["id"]])
    assert compared.is_equal
    assert ask(postgres, "select count(*) from user_logins") == [(99,)]


def test_without_an_address_nothing_is_served(copied_home):
    publishing = Platform(load_settings(copied_home.home)).publishing
    assert not publishing.is_on
    with pytest.raises(UsageError, match="postgres_url"):
        publishing.publish_batches([])


def test_no_value_of_a_person_is_served(lake, postgres, copied_home):
    lake.publishing.publish_batches([])
    text = json.dumps(ask(postgres, "select to_jsonb(u) from user_logins u"))
    assert not [value for value in copied_home.values if value in text]
