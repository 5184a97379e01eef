"""How long a message takes from sent to its row in PostgreSQL, under `lockhouse up` with its real processes.

Messages are sent at an even rate; each row's own way is measured: the database notes when a row came, and
the message tells when it was sent. Every message has to arrive once, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from queue_input import make_bodies, make_platform, running_postgres, running_sqs, show

from orchestration.resources import Platform
from stores.publishing import Publishing
from stores.settings import local_user
from transforms.access import Role
from transforms.pii.identities import named_event_ids, uuid_texts

_WITHIN_S = 300


def prepare_served(publishing: Publishing, address: str) -> None:
    """Have the served table made, and let it note when each row came."""
    publishing.equalise_tenant("default")
    with psycopg.connect(address) as connection:
        connection.execute(
            "create table arrivals"
            " (event_id uuid primary key, at timestamptz not null default clock_timestamp())"
        )
        # A deferred trigger runs at the commit, which is when others see the rows.
        connection.execute(
            "create function note_arrival() returns trigger language plpgsql as "
            "$$ begin insert into arrivals (event_id) values (new.event_id); return null; end $$"
        )
        connection.execute(
            "create constraint trigger noted after insert on user_logins deferrable initially deferred "
            "for each row execute function note_arrival()"
        )


@contextmanager
def running_up(home: Path) -> Iterator[None]:
    """Run `lockhouse up`; everything is started when the block begins, and stopped when it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", "from lockhouse.main import main; main()", "--home", str(home)]
    said = home.parent / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, "up", "--port", port, "--api-port", "0"],
            stdout=output,
            stderr=output,
            env=dict(os.environ),
        )
    try:
        until = time.monotonic() + _WITHIN_S
        while "Ctrl-C" not in said.read_text():
            assert process.poll() is None and time.monotonic() < until, said.read_text()
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def send_evenly(platform: Platform, rate: float, seconds: float) -> dict[str, float]:
    """Send messages, a tenth of a second's worth at once; give when each was sent, by its id."""
    queue, sent = platform.queue("logins", "default"), {}
    bodies = make_bodies(int(rate * seconds))
    size = max(1, int(rate / 10))
    start = time.monotonic()
    for number in range(0, len(bodies), size):
        group = bodies[number : number + size]
        sent |= dict.fromkeys(queue.send(group), time.time())
        time.sleep(max(0.0, start + (number + size) / rate - time.monotonic()))
    return sent


def wait_for_rows(address: str, count: int) -> dict[str, float]:
    """Wait until so many rows came; give when each did."""
    until = time.monotonic() + _WITHIN_S
    with psycopg.connect(address, autocommit=True) as connection:
        while True:
            found = connection.execute("select event_id::text, extract(epoch from at) from arrivals").fetchall()
            if len(found) >= count:
                return {name: float(at) for name, at in found}
            assert time.monotonic() < until, f"{len(found)} of {count} rows came"
            time.sleep(1)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="Messages a second.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--embedded", action="store_true", help="The embedded queue in place of SQS.")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with running_sqs() as address, running_postgres() as served, tempfile.TemporaryDirectory() as folder:
        sqs = {} if chosen.embedded else {"queue_url": f"{address}/1/logins", "aws_endpoint_url": address}
        platform = make_platform(Path(folder), postgres_url=served, **sqs)
        prepare_served(platform.publishing, served)
        # Whoever runs `up` runs its worker as well, which asks for a role.
        platform.access.assign(local_user(), Role.OPERATOR)
        with running_up(platform.home.root):
            # The first run of a day makes the tables; it is not what is measured.
            platform.queue("logins", "default").send(make_bodies(1, seed=99))
            wait_for_rows(served, 1)
            sent = send_evenly(platform, chosen.rate, chosen.seconds)
            came = wait_for_rows(served, len(sent) + 1)
        key = platform.keys("default").identity_key("event")
        names = uuid_texts(named_event_ids(key, list(sent))).to_pylist()
        ways = sorted(came[name] - at for name, at in zip(names, sent.values(), strict=True))
    assert len(came) == len(sent) + 1
    show(
        {
            "ratios": {"30 s vs p95": round(30 / ways[int(len(ways) * 0.95)], 2)},
            "checked": True,
            "messages": len(ways),
            "messages a second": chosen.rate,
            "p50 s": round(ways[len(ways) // 2], 1),
            "p95 s": round(ways[int(len(ways) * 0.95)], 1),
            "max s": round(ways[-1], 1),
            "load of the machine": round(os.getloadavg()[0], 1),
        },
        chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
