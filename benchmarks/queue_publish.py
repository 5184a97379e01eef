"""What it costs to publish masked logins to PostgreSQL, and the whole way from a queue to its rows.

Peers, on the same database and the same queue: an INSERT for each row with a commit for each; ADBC's
bare ingest into a table with the same indexes; and for the whole way, on the embedded queue and on
SQS (our server), a script of the usual shape: receive ten, encrypt each value (AES-SIV), INSERT
each, delete each. Our receiver is a process beside the lake's, as under `lockhouse up`. Wall time, in
turns; every figure is of a result that was checked.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from queue_input import make_bodies, make_platform, running_postgres, running_sqs, show

from orchestration.resources import Platform
from stores.aws import sqs_client
from stores.contracts import load_contract
from stores.queue import Message, Queue
from stores.settings import load_settings
from stores.user_logins import UserLogins, standing_of
from transforms.user_logins import COLUMNS, describe_columns, served_rows

CONTRACT = load_contract("logins")
NAMES = ", ".join(one.name for one in COLUMNS)
MARKS = ", ".join(["%s"] * len(COLUMNS))
INSERT = f"insert into {{}} ({NAMES}) values ({MARKS}) on conflict do nothing"  # noqa: S608
# The slow peers get fewer rows; what is compared is rows a second.
SLOW_SHARE = 20
WARMING = 100


def timed(action: Callable[[], object]) -> float:
    """Measure wall time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def masked_rows(count: int, folder: Path) -> pl.DataFrame:
    """Mask made-up logins as the intake does; give them as they are served."""
    platform = make_platform(folder)
    file = folder / "logins.ndjson"
    file.write_text("\n".join(make_bodies(count)) + "\n")
    for batch in platform.landing.copy_in("logins", "default", [file]):
        platform.intake.seal_batch(batch.id, CONTRACT)
        platform.intake.mask_batch(batch.id, CONTRACT)
    with platform.tables.reading("default", "masked.logins") as table:
        return served_rows(table.collect())


def empty(url: str) -> None:
    """Take every row out, and bring what is pending to disk before something is timed."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate user_logins")
        connection.execute("checkpoint")


def insert_each(url: str, rows: pl.DataFrame) -> None:
    """Insert row by row, each committed."""
    with psycopg.connect(url, autocommit=True) as connection:
        for row in rows.iter_rows():
            connection.execute(INSERT.format("user_logins"), row)


def ingest_by_adbc(url: str, rows: pl.DataFrame) -> None:
    """Ingest as ADBC does it."""
    with adbc.connect(url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("adbc_logins", rows.to_arrow(compat_level=pl.CompatLevel.oldest()), mode="append")
        connection.commit()


def measure_publish(url: str, rows: pl.DataFrame, rounds: int) -> dict[str, Any]:
    """Publish, insert and ingest in turns."""
    served = UserLogins(url, describe_columns(CONTRACT))
    served.publish("default", rows.head(1))
    with psycopg.connect(url, autocommit=True) as connection:
        # ADBC brings text for the id; all else is as in our table, its indexes too.
        connection.execute("create table adbc_logins (like user_logins including all)")
        connection.execute("alter table adbc_logins alter event_id type text")
    few = rows.head(max(200, rows.height // SLOW_SHARE))
    times: dict[str, list[float]] = {"ours": [], "row by row": [], "adbc": []}
    for _ in range(rounds):
        empty(url)
        times["ours"].append(timed(lambda: served.publish("default", rows)) / rows.height)
        far = datetime(2100, 1, 1, tzinfo=UTC)
        assert served.standing("default", datetime(2000, 1, 1, tzinfo=UTC), far) == standing_of(rows)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("truncate adbc_logins")
        times["adbc"].append(timed(lambda: ingest_by_adbc(url, rows)) / rows.height)
        empty(url)
        times["row by row"].append(timed(lambda: insert_each(url, few)) / few.height)
    best = {name: statistics.median(found) for name, found in times.items()}
    return {
        "ratios": {
            "publish vs row-by-row insert": round(best["row by row"] / best["ours"], 1),
            "publish vs adbc bare ingest": round(best["adbc"] / best["ours"], 2),
        },
        "rows a second": {name: round(1 / seconds) for name, seconds in best.items()},
    }


class PlainClient:
    """What a script uses: boto3's client as it comes."""

    def __init__(self, client: Any, url: str) -> None:  # noqa: ANN401 - boto3's clients have no types
        """Remember the queue's address."""
        self._client, self._url = client, url

    def receive(self, count: int, wait_s: int) -> list[tuple[str, str, str]]:
        """Give the ids, texts and receipts of what comes."""
        answer = self._client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=count, WaitTimeSeconds=wait_s
        )
        return [(one["MessageId"], one["Body"], one["ReceiptHandle"]) for one in answer.get("Messages", [])]

    def delete(self, receipt: str) -> None:
        """Confirm one message."""
        entry = {"Id": "0", "ReceiptHandle": receipt}
        self._client.delete_message_batch(QueueUrl=self._url, Entries=[entry])


class PlainQueue:
    """The embedded queue for a script; it has no client but ours."""

    def __init__(self, queue: Queue) -> None:
        """Remember the queue."""
        self._queue = queue
        self._met: dict[str, Message] = {}

    def receive(self, count: int, wait_s: int) -> list[tuple[str, str, str]]:
        """Give the ids, texts and receipts of what comes."""
        self._met = {one.receipt: one for one in self._queue.receive(count, wait_s)}
        return [(one.id, one.body, receipt) for receipt, one in self._met.items()]

    def delete(self, receipt: str) -> None:
        """Confirm one message."""
        self._queue.delete([self._met[receipt]])


def run_script(queue: PlainClient | PlainQueue, url: str, count: int) -> None:
    """Do what such scripts do: receive ten, encrypt each value, INSERT each, delete each."""
    siv, done = AESSIV(bytes(64)), 0
    with psycopg.connect(url, autocommit=True) as connection:
        while done < count:
            for number, body, receipt in queue.receive(10, 1):
                login = json.loads(body)
                masked = {
                    name: base64.urlsafe_b64encode(siv.encrypt(login[name].encode(), None)).decode()
                    for name in ("user_id", "ip", "device_id")
                }
                parts = [int(part) for part in login["app_version"].split(".")]
                now = datetime.now(UTC)
                row = (number, "default", masked["user_id"], login["device_type"], masked["ip"])
                row += (masked["device_id"], login["locale"], login["app_version"], *parts, now, now)
                connection.execute(INSERT.format("script_logins"), row)
                queue.delete(receipt)
                done += 1


def receive_beside(home: Path, orders: Connection) -> None:
    """Take messages into segments, so many in all as each order says, in a process as `lockhouse up` has it."""
    platform = Platform(load_settings(home))
    receiver = platform.receivers("logins", "default", print)[0]
    while total := orders.recv():
        receiver.run(lambda: receiver.received.messages >= total)


def take_segments(platform: Platform) -> None:
    """Seal, mask, commit to Delta and publish the segments that are there, as one run does."""
    folder = platform.landing.drop_folder("logins", "default")
    batches = [one.id for one in platform.landing.claim("logins", "default", sorted(folder.glob("queue-*")))]
    for batch in batches:
        platform.intake.seal_batch(batch, CONTRACT)
        platform.intake.mask_batch(batch, CONTRACT)
    if batches:
        platform.publishing.publish_batches(batches)
    for batch in batches:
        platform.intake.finish_batch(batch)


def take_until(platform: Platform, url: str, count: int) -> None:
    """Take segments as they come, until so many rows are served."""
    while count_rows(url, "user_logins") < count:
        take_segments(platform)
        time.sleep(0.02)


def plain_queue(platform: Platform, queue: Queue) -> PlainClient | PlainQueue:
    """Give the queue as a script would reach it."""
    address = platform.settings.queue_url
    return PlainQueue(queue) if address is None else PlainClient(sqs_client(platform.settings), address)


def count_rows(url: str, table: str) -> int:
    """Count the rows of a table."""
    with psycopg.connect(url) as connection:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])  # type: ignore[index]  # noqa: S608


@contextmanager
def running_receiver(platform: Platform) -> Iterator[Connection]:
    """Run the receiver's process; it takes orders, and rests between them."""
    processes = multiprocessing.get_context("spawn")
    orders, its_end = processes.Pipe()
    receiver = processes.Process(target=receive_beside, args=(platform.home.root, its_end))
    receiver.start()
    try:
        yield orders
    finally:
        orders.send(0)
        receiver.join()


def measure_whole_way(
    kind: str, url: str, folder: Path, count: int, rounds: int, **settings: str
) -> dict[str, Any]:
    """Bring messages from a queue to rows, in turns: ours, and fewer by the script into its own table."""
    folder.mkdir()
    platform = make_platform(folder, postgres_url=url, **settings)
    queue, few = platform.queue("logins", "default"), max(200, count // SLOW_SHARE)
    platform.publishing.equalise_tenant("default")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table if exists script_logins")
        connection.execute("create table script_logins (like user_logins including all)")
    times: dict[str, list[float]] = {"ours": [], "script": []}
    with running_receiver(platform) as orders:
        # Keys are opened, tables made and libraries imported once in the life of a process.
        total = before = count_rows(url, "user_logins")
        for turn, size in enumerate([WARMING, *[count] * rounds]):
            queue.send(make_bodies(few, seed=2 * turn))
            script = timed(lambda: run_script(plain_queue(platform, queue), url, few)) / few
            assert count_rows(url, "script_logins") == few * (turn + 1)
            total += size
            queue.send(make_bodies(size, seed=2 * turn + 1))
            orders.send(total - before)
            ours = timed(lambda: take_until(platform, url, total)) / size  # noqa: B023 - it is called at once
            assert count_rows(url, "user_logins") == total
            times["script"].append(script)
            times["ours"].append(ours)
    best = {name: statistics.median(found[1:]) for name, found in times.items()}
    return {
        "ratios": {f"whole way ({kind}) vs usual script": round(best["script"] / best["ours"], 1)},
        f"messages a second ({kind})": {
            name: [round(1 / seconds) for seconds in found[1:]] for name, found in times.items()
        },
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with running_postgres() as url, running_sqs() as address, tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "masked").mkdir()
        rows = masked_rows(chosen.rows, root / "masked")
        found = [
            measure_publish(url, rows, chosen.rounds),
            measure_whole_way("embedded queue", url, root / "embedded", chosen.messages, chosen.rounds),
            measure_whole_way(
                "SQS",
                url,
                root / "sqs",
                chosen.messages,
                chosen.rounds,
                queue_url=f"{address}/1/logins",
                aws_endpoint_url=address,
            ),
        ]
    ratios = {name: value for one in found for name, value in one.pop("ratios").items()}
    more = {name: value for one in found for name, value in one.items()}
    show({"ratios": ratios, "checked": True, "rows": chosen.rows, **more}, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
