"""Messages from a queue that misbehaves, while receiver, run and PostgreSQL are killed: every row once.

A driver process imports everything once and forks a child for each receiver and run, as in
`test_crash.py`. QUEUE_CRASH_MESSAGES and QUEUE_CRASH_KILLS make it as long as wanted.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

MESSAGES = int(os.environ.get("QUEUE_CRASH_MESSAGES", "3000"))
KILLS = int(os.environ.get("QUEUE_CRASH_KILLS", "6"))
SEED = 20261121
POISON = 0.01
FAULTS = {
    "duplicate": 0.02,
    "reorder": 0.5,
    "expire": 0.005,
    "throttle": 0.005,
    "fail": 0.005,
    "refuse": 0.005,
    # Delivered once more after it was deleted: the surest duplicate.
    "haunt": 0.05,
}
VISIBILITY_S = 4


# --- The driver: this file as a program


def receive(home: Path, stop: list[int], idle_s: float | None) -> None:
    """Do what `lockhouse receive` does."""
    from orchestration.resources import Platform
    from stores.receiver import receiving
    from stores.settings import load_settings

    platform = Platform(load_settings(home))
    with receiving(platform.home, "logins", "default"):
        platform.receivers("logins", "default", lambda _said: None)[0].run(lambda: bool(stop), idle_s)


def run(home: Path, stop: list[int], idle_s: float | None) -> None:
    """Do what the sensor and its runs do, up to PostgreSQL."""
    from orchestration.resources import Platform
    from stores.settings import load_settings
    from transforms.errors import ServedError

    platform = Platform(load_settings(home))
    busy = time.monotonic()
    while not stop and (idle_s is None or time.monotonic() - busy < idle_s):
        landing = platform.landing
        landing.recover()
        landing.claim("logins", "default", sorted((home / "landing/logins/default").glob("queue-*.ndjson")))
        try:
            if take(platform, [batch.id for batch in landing.open_batches("logins")]):
                busy = time.monotonic()
        except ServedError:
            busy = time.monotonic()
        time.sleep(0.05)


def take(platform: Any, batches: list[str]) -> bool:
    from stores.contracts import load_contract

    contract = load_contract("logins")
    for batch in batches:
        platform.intake.seal_batch(batch, contract)
    for batch in batches:
        platform.intake.mask_batch(batch, contract)
    late = platform.publishing.publish_batches(batches).batches
    for batch in batches:
        platform.intake.finish_batch(batch)
    return bool(batches or late)


WORK = {"receive": receive, "run": run}


def forked(work: str, home: Path, idle_s: float | None) -> int:
    # A signal waits until the child knows what to do with it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return child
    code, stop = 1, []
    try:
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        WORK[work](home, stop, idle_s)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def serve() -> None:
    """Take jobs from standard input: start children, wait, kill one, let the others end."""
    import boto3  # noqa: F401 - what a child imports late is imported here once
    import deltalake  # noqa: F401
    import psycopg  # noqa: F401

    import stores.intake  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        home = Path(job["home"])
        children = {work: forked(work, home, job["idle_s"]) for work in job["work"]}
        if job["idle_s"] is None:
            time.sleep(job["seconds"])
            if job["kill"] in children:
                os.kill(children[job["kill"]], signal.SIGKILL)
            for work, child in children.items():
                if work != job["kill"]:
                    os.kill(child, signal.SIGTERM)
        ended = {work: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for work, child in children.items()}
        print(json.dumps(ended), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    serve()
    sys.exit()


# --- The test

import psycopg  # noqa: E402
import pytest  # noqa: E402

import sqs_server  # noqa: E402
from orchestration.resources import Platform  # noqa: E402
from postgres import start_postgres  # noqa: E402
from stores.leaks import default_exclusions, scan  # noqa: E402
from stores.quarantine import Quarantine  # noqa: E402
from stores.settings import load_settings  # noqa: E402
from stores.specs import quarantine_spec  # noqa: E402
from waiting import LONGEST_S  # noqa: E402


class Driver:
    """Talks to the driver process."""

    def __init__(self, home: Path, errors: Path) -> None:
        self.home, self.errors = home, errors
        command = [sys.executable, str(Path(__file__).resolve())]
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )

    def start(self, *work: str, seconds: float = 0, kill: str = "", idle_s: float | None = None) -> None:
        assert self.process.stdin is not None
        job = {"home": str(self.home), "work": work, "seconds": seconds, "kill": kill, "idle_s": idle_s}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def ended(self, killed: str = "") -> None:
        """Wait for the job; whoever was not killed must have ended well."""
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        assert answer, self.errors.read_text()
        for work, code in json.loads(answer).items():
            allowed = (0, -signal.SIGKILL) if work == killed else (0,)
            assert code in allowed, f"{work}: {self.errors.read_text()}"

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(LONGEST_S)


class Postgres:
    """A PostgreSQL that can be killed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self.start()

    def start(self) -> None:
        self.server = start_postgres(self.folder, cleanup_mode=None)
        self.url = self.server.get_uri()

    def kill(self) -> None:
        """Kill the server and all that it started, as a loss of power would, and start it again."""
        self.end()
        self.start()

    def end(self) -> None:
        import psutil

        process = self.server.get_postmaster_info().process
        # The first to go is who would start the others again.
        family = [process, *process.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, LONGEST_S)


def message(dice: random.Random, number: int) -> str:
    if dice.random() < POISON:
        return f'{{"poison": "carol-{number}@example.com", "user_id": 7}}'
    login = {
        "user_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        "ip": f"198.51.{dice.randrange(256)}.{dice.randrange(256)}",
        "device_id": f"dev-{dice.getrandbits(64):016x}",
        "device_type": "ios",
        "app_version": "1.2.3",
    }
    return json.dumps(login)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    postgres, home = Postgres(), tmp_path / "home"
    with sqs_server.sqs_server(faults=FAULTS, max_receives=10**6, seed=SEED + 1) as address:
        home.mkdir()
        settings = {
            "queue_url": f"{address}/1/logins",
            "aws_endpoint_url": address,
            "postgres_url": postgres.url,
            "queue_visibility_s": VISIBILITY_S,
            "segment_messages": 200,
            "segment_seconds": 0.3,
            "chunk_bytes": 1 << 16,
        }
        (home / "settings.toml").write_text(
            "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        )
        platform = Platform(load_settings(home))
        platform.create_home("tester")
        driver = Driver(home, tmp_path / "errors.txt")
        yield platform, postgres, driver
        driver.close()
    postgres.end()
    shutil.rmtree(postgres.folder)


def test_every_message_is_a_row_once_whatever_is_killed(stage):
    platform, postgres, driver = stage
    dice = random.Random(SEED)  # noqa: S311 - chances for a test
    bodies = [message(dice, number) for number in range(MESSAGES)]
    queue = platform.queue("logins", "default")
    names = queue.send(bodies)
    targets = ["receive", "run", "postgres"]
    for number in range(KILLS):
        target, seconds = targets[number % 3], dice.uniform(0.1, 1.5)
        driver.start("receive", "run", seconds=seconds, kill=target)
        if target == "postgres":
            time.sleep(seconds * dice.random())
            postgres.kill()
        driver.ended(target)
    finish(platform, driver, queue)
    check(platform, postgres, dict(zip(names, bodies, strict=True)))


def finish(platform: Platform, driver: Driver, queue: Any) -> None:
    """Let everything come that is still on its way."""
    until = time.monotonic() + 600 + MESSAGES / 100
    while True:
        driver.start("receive", "run", idle_s=2)
        driver.ended()
        depth = queue.depth()
        if (depth.visible, depth.in_flight) == (0, 0) and not platform.landing.open_batches():
            return
        assert time.monotonic() < until, depth


def check(platform: Platform, postgres: Postgres, sent: dict[str, str]) -> None:
    counts = platform.ledger.counts([row["id"] for row in platform.ledger.batches(limit=1_000_000)])
    assert counts.rows == len(sent) + counts.duplicates
    assert counts.duplicates > len(sent) * FAULTS["haunt"] / 2
    poison = {body for body in sent.values() if "poison" in body}
    good = {name for name, body in sent.items() if body not in poison}
    with platform.tables.reading("default", "masked.logins") as table:
        rows = table.select("event_id").collect()["event_id"].to_list()
    assert len(rows) == len(set(rows)) == len(good)
    assert set(rows) == good
    with psycopg.connect(postgres.url) as connection:
        served = [str(name) for (name,) in connection.execute("select event_id from user_logins")]
    assert len(served) == len(good)
    assert set(served) == good
    hours = {row["received_at"][:13] for row in platform.ledger.batches(source="logins", limit=100_000)}
    from datetime import datetime

    for hour in hours:
        assert all(
            one.is_equal
            for one in platform.publishing.compare_hour(datetime.fromisoformat(f"{hour}:00:00+00:00"))
        )
    sealer = platform.intake.sealer("default")
    store = Quarantine("default", platform.tables, sealer, quarantine_spec("logins"))
    kept = [store.content(entry.id)[1].decode() for entry in store.entries()]
    assert sorted(kept) == sorted(poison)
    check_that_nothing_is_readable(platform, list(sent.values()))


def check_that_nothing_is_readable(platform: Platform, bodies: list[str]) -> None:
    values = []
    for body in [*bodies[::97], *(one for one in bodies if "poison" in one)]:
        record = json.loads(body)
        values += [
            record[name] for name in ("user_id", "device_id", "poison") if isinstance(record.get(name), str)
        ]
    landing = platform.home.landing
    staged = b"".join(path.read_bytes() for path in landing.rglob("*") if path.is_file())
    assert not [value for value in values if value.encode() in staged]
    assert list((landing / "logins" / "default").iterdir()) == []
    assert scan(platform.home.root, values, exclude=default_exclusions(platform.home)).hits == []
