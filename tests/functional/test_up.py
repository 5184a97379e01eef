"""`lockhouse up` with its real processes: a dropped file becomes rows, one home is up once, all of it stops."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from orchestration.resources import Platform
from stores.settings import load_settings
from transforms.capture.synthetic import synthetic_capture
from waiting import LONGEST_S, wait_for

RECORD = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "ip": "199.172.111.135",
    "device_id": "593-47-5928",
    "device_type": "android",
    "app_version": "2.3.0",
    "locale": None,
}
REQUEST = {
    "username": "jo.bloggs",
    "full_name": "Jo Bloggs",
    "date_of_birth": "1980-02-29",
    "address_street": "1 High Street",
    "address_city": "Kowloon",
    "address_country": "HK",
    "phone_number": "+85221234567",
}


def free_port() -> int:
    """A port that nobody has, and that the system gives nobody who asks for any one."""
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    dice = random.SystemRandom()
    while True:
        port = dice.randrange(least // 2, least)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def command(home: Path, port: int) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from lockhouse.main import main; main()",
        "--home",
        str(home),
        "up",
        "--port",
        str(port),
        # Any free one: several homes are up at once in the tests.
        "--api-port",
        "0",
    ]


def rows(home: Path, key: str = "masked.logins") -> int:
    tables = Platform(load_settings(home)).tables
    return tables.info("default", key).rows if tables.exists("default", key) else 0


def start(home: Path, port: int, feed: int, said: Path) -> subprocess.Popen[bytes]:
    live = ["--listen-pcap", str(feed), "--feed-device", "gate-1"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOCKHOUSE", "DAGSTER"))}
    with said.open("wb") as output:
        return subprocess.Popen([*command(home, port), *live], stderr=output, stdout=output, env=clean)


def test_a_live_feed_of_a_device_that_nobody_registered_does_not_start(lockhouse: Any, tmp_path: Path):
    home = tmp_path / "home"
    called = lockhouse("up", "--listen-pcap", "57012", "--feed-device", "gate-1", home=home)
    assert called.code == 2
    assert "is not registered: `lockhouse device add`" in called.err


def test_from_start_to_stop(lockhouse: Any, tmp_path: Path):
    home, said, port, feed = tmp_path / "home", tmp_path / "said.txt", free_port(), free_port()
    assert lockhouse("init", home=home).code == 0
    assert lockhouse("device", "add", "gate-1", home=home).code == 0
    process = start(home, port, feed, said)
    try:
        wait_for(lambda: "Ctrl-C" in said.read_text() or process.poll() is not None)
        check_addresses(said, port)
        check_that_a_dropped_file_is_taken(home)
        check_that_a_live_capture_is_taken(home, feed)
        check_that_a_request_is_decided_taken_and_forgotten(home)
        check_that_a_home_is_up_only_once(home)
        check_that_everything_stops(process, said)
    finally:
        process.kill()
        process.wait()


def check_addresses(said: Path, port: int) -> None:
    assert f"http://127.0.0.1:{port}" in said.read_text()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=60) as answer:
        assert "dagster_webserver_version" in json.load(answer)


def check_that_a_dropped_file_is_taken(home: Path) -> None:
    drop = home / "landing" / "logins" / "default" / "events.json"
    drop.write_text(json.dumps(RECORD) + "\n")
    wait_for(lambda: rows(home) == 1)
    wait_for(lambda: not drop.exists() and not list((home / "landing" / ".batches").glob("*")))


def check_that_a_live_capture_is_taken(home: Path, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(synthetic_capture(1, 50, datetime(2026, 11, 21, 8, tzinfo=UTC)))
    wait_for(lambda: rows(home, "masked.packets") == 50)
    wait_for(lambda: rows(home, "curated.device_hours") > 0)
    tables = Platform(load_settings(home)).tables
    with tables.reading("default", "raw.capture_files") as table:
        (file,) = table.collect().iter_rows(named=True)
    assert (file["status"], file["packets"]) == ("complete", 50)


def check_that_a_request_is_decided_taken_and_forgotten(home: Path) -> None:
    """Worker, sensor and runs do it by themselves."""
    platform = Platform(load_settings(home))
    validation = platform.validations.intake.submit("default", REQUEST, "username").validation
    find = platform.validations.disclosure.find_status
    wait_for(lambda: find("default", validation).decision == "accepted")
    wait_for(lambda: rows(home, "masked.validations") == 1)
    wait_for(lambda: rows(home, "curated.validation_outcomes") == 1)
    wait_for(lambda: not list((home / "landing" / ".batches").glob("*")))
    platform.validations.intake.delete("default", validation)
    wait_for(lambda: rows(home, "masked.validations") == 0)
    wait_for(lambda: rows(home, "curated.validation_outcomes") == 0)
    wait_for(lambda: platform.outbox.waiting("forget-validation") == [])


def check_that_a_home_is_up_only_once(home: Path) -> None:
    second = subprocess.run(command(home, free_port()), capture_output=True, timeout=LONGEST_S)
    assert second.returncode == 2
    assert b"is up already" in second.stderr


def check_that_everything_stops(process: subprocess.Popen[bytes], said: Path) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONGEST_S) == 0
    assert said.read_text().rstrip().endswith("Stopped.")
    _, alive = psutil.wait_procs(children, timeout=LONGEST_S)
    assert alive == []
