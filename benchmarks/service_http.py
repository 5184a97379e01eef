"""The service at the door: a download against nginx, four uploads at once, what audit and authorisation cost.

Client and servers share the machine. nginx serves the very bytes that the service makes from sealed blocks.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from lockhouse.operations import Caller
from lockhouse.service.application import SYNC_AFTER_S
from orchestration.resources import Platform
from stores.database import DEVICE_GROUPS
from stores.settings import load_settings
from stores.uploads import MOST_PARTS
from transforms.access import OF_DEVICES, Right, Role
from transforms.audit import Action, Outcome
from transforms.capture.synthetic import synthetic_capture
from transforms.errors import RefusedError

HOUR, NEXT_HOUR = "2026-11-21T07:00:00Z", "2026-11-21T08:00:00Z"
PATH = f"/v1/devices/router-7/capture?from={HOUR}&to={NEXT_HOUR}"
PART, UPLOADS = 16 << 20, 4


def main() -> None:
    """Measure, check, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--packets", type=int, default=100_000, help="packets of the download")
    options.add_argument("--upload-mb", type=int, default=500, help="megabytes of each of four uploads")
    options.add_argument("--daily-mb", type=int, default=500, help="megabytes of the file that is sent daily")
    options.add_argument("--seconds", type=int, default=10, help="for how long 64 clients ask")
    options.add_argument("--devices", type=int, default=100_000, help="devices in the registry of groups")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), given)
    if given.json:
        print(json.dumps(result))
    else:
        for name, value in {**result.pop("ratios"), **result}.items():
            print(f"{name:48} {value}")


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Make a home, serve it, and measure all of it."""
    platform = Platform(load_settings(folder / "home"))
    platform.create_home("root")
    content = synthetic_capture(1, given.packets, datetime.fromisoformat(NEXT_HOUR))
    for batch in platform.landing.land("captures", "default", "hour.pcap", content, "router-7"):
        platform.captures.seal_batch(batch.id)
        platform.captures.mask_batch(batch.id)
        platform.captures.finish_batch(batch.id)
    client, _ = platform.access.clients.add("bench", "default", OF_DEVICES | {Right.INGEST})
    platform.access.assign(client.principal, Role.INVESTIGATOR, "default")
    process, port = serve(folder / "home")
    try:
        headers = {"Authorization": f"Bearer {platform.tokens.issue(client, client.scopes)}"}
        figures = measure_download(process, port, headers, content, folder)
        figures |= measure_request(platform, port, headers)
        figures |= measure_uploads(process, port, headers, given.upload_mb)
        figures |= measure_daily(port, headers, given.daily_mb)
        figures |= measure_clients(port, headers, given.seconds)
        begun = send_half(port, headers)
        # As a machine does whose power fails, but for the disk.
        process.kill()
        process.wait(20)
        process, port = serve(folder / "home")
        figures |= measure_resumed(port, headers, begun)
    finally:
        process.terminate()
        process.wait(20)
    figures |= measure_authorisation(platform, given.devices)
    ratios = {
        "pcap download vs nginx": round(figures["download_mb_s"] / figures["nginx_mb_s"], 4)
        if figures.get("nginx_mb_s")
        else None,
        "audit's share of a request": round(figures["audit_us"] / figures["request_us"], 3),
        "authorisation vs 50 us": round(figures["authorise_us"] / 50, 3),
        "upload's memory vs 32 MiB": round(figures["upload_growth_mib"] / 32, 3),
        "sent of a daily file that changed by 5 %": figures["daily_sent_share"],
        "parts sent again after a kill": figures["parts_sent_again"],
        "errors of 64 clients": figures["errors"],
    }
    return {"ratios": ratios, "checked": True, **figures}


def serve(home: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the service in a process of its own; gives the port that it says."""
    command = [sys.executable, "-m", "lockhouse.main", "--home", str(home), "serve", "--port", "0"]
    # Of one caller that is many clients, no request shall be asked to wait.
    unbounded = {**os.environ, "LOCKHOUSE_SERVICE_REQUESTS_PER_MINUTE": "100000000"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=unbounded)  # noqa: S603 - ours
    assert process.stderr is not None
    port = int(process.stderr.readline().rsplit(":", 1)[1])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if ask(port, "/healthz", {})[0] == 200:
                return process, port
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the service did not start")


def ask(
    port: int, path: str, headers: dict[str, str], method: str = "GET", body: bytes | str | None = None
) -> tuple[int, bytes]:
    """Send one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def free_port() -> int:
    """Give a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def best_of(act: Callable[[], object], times: int = 5) -> float:
    """Give the shortest of some durations, in seconds."""
    durations = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        durations.append(time.perf_counter() - begun)
    return min(durations)


def measure_download(
    process: subprocess.Popen[str], port: int, headers: dict[str, str], content: bytes, folder: Path
) -> dict[str, Any]:
    """Download what the service makes, and the same bytes from nginx where it is installed."""
    status, got = ask(port, PATH, headers)
    assert status == 200
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    watched = psutil.Process(process.pid)
    before = watched.cpu_times()
    ours = best_of(lambda: ask(port, PATH, headers))
    after = watched.cpu_times()
    spent_s = (after.user + after.system - before.user - before.system) / 5
    figures = {
        "download_mb": round(len(content) / 1e6, 1),
        "download_mb_s": round(len(content) / 1e6 / ours, 1),
        # On a machine that others share, what a core of it does says more than the clock.
        "download_mb_per_cpu_s": round(len(content) / 1e6 / spent_s, 1),
    }
    if not shutil.which("nginx"):
        return {**figures, "nginx": "absent: apt-get install nginx-light"}
    (folder / "www").mkdir()
    (folder / "www" / "hour.pcap").write_bytes(content)
    settings, free = folder / "nginx.conf", free_port()
    settings.write_text(
        f"daemon off; user {getpass.getuser()}; pid {folder}/nginx.pid; "
        f"error_log {folder}/error.log; events {{}} http {{ "
        f"access_log off; sendfile on; server {{ listen 127.0.0.1:{free}; root {folder}/www; }} }}"
    )
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(settings)])  # noqa: S603, S607 - the peer
    try:
        time.sleep(1)
        assert ask(free, "/hour.pcap", {}) == (200, content)
        theirs = best_of(lambda: ask(free, "/hour.pcap", {}))
    finally:
        process.terminate()
        process.wait(20)
    return {**figures, "nginx_mb_s": round(len(content) / 1e6 / theirs, 1)}


def measure_request(platform: Platform, port: int, headers: dict[str, str]) -> dict[str, Any]:
    """Measure a request's median, and that of the one entry that a plain request writes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    requests, entries = [], []
    path = "/v1/uploads/01a1fec0-df13-775c-9309-0840fda3ec81"
    for _ in range(200):
        begun = time.perf_counter()
        connection.request("GET", path, headers=headers)
        connection.getresponse().read()
        requests.append(time.perf_counter() - begun)
    connection.close()
    caller, allowing = Caller(platform, "bench", "default"), []
    # As the service has it: what allows nothing is synced together.
    platform.audit.sync_later(SYNC_AFTER_S)
    for outcome, times in ((Outcome.DONE, entries), (Outcome.ALLOWED, allowing)):
        for _ in range(200):
            begun = time.perf_counter()
            caller.record(Action.REQUEST_ANSWERED, outcome, route="/v1/uploads/{upload}", status=404)
            times.append(time.perf_counter() - begun)
    return {
        "request_us": round(statistics.median(requests) * 1e6),
        "audit_us": round(statistics.median(entries) * 1e6),
        "audit_of_a_disclosure_us": round(statistics.median(allowing) * 1e6),
    }


def measure_uploads(
    process: subprocess.Popen[str], port: int, headers: dict[str, str], megabytes: int
) -> dict[str, Any]:
    """Send four files at once by parts; gives how much the service's memory grew at most."""
    watched, over = psutil.Process(process.pid), threading.Event()
    before = most = watched.memory_info().rss
    with ThreadPoolExecutor(UPLOADS) as pool:
        begun = time.perf_counter()
        sent = [pool.submit(send_upload, port, headers, megabytes, number) for number in range(UPLOADS)]
        while not all(one.done() for one in sent):
            most = max(most, watched.memory_info().rss)
            over.wait(0.02)
        seconds = time.perf_counter() - begun
        for one in sent:
            one.result()
    return {
        "uploads_at_once": UPLOADS,
        "upload_mb_s": round(UPLOADS * megabytes / seconds, 1),
        "upload_growth_mib": round((most - before) / (1 << 20), 1),
    }


def send_upload(port: int, headers: dict[str, str], megabytes: int, number: int) -> None:
    """Send a file of noise by parts, each of which is another one, and complete it."""
    noise = bytearray(random.Random(number).randbytes(1 << 20) * (PART >> 20))  # noqa: S311 - content
    whole, parts, size = hashlib.sha256(), [], megabytes * 1_000_000
    sizes = [min(PART, size - at) for at in range(0, size, PART)]
    for at, size in enumerate(sizes):
        noise[:8] = at.to_bytes(8, "big")
        whole.update(noise[:size])
        parts.append({"sha256": hashlib.sha256(noise[:size]).hexdigest(), "bytes": size})
    promised = json.dumps(
        {"source": "captures", "device": "router-7", "sha256": whole.hexdigest(), "parts": parts}
    )
    status, answer = ask(port, "/v1/uploads", {**headers, "Content-Type": "application/json"}, "POST", promised)
    assert status == 201, answer
    upload = json.loads(answer)["upload"]
    for at, size in enumerate(sizes):
        noise[:8] = at.to_bytes(8, "big")
        status, answer = ask(port, f"/v1/uploads/{upload}/parts/{at}", headers, "PUT", bytes(noise[:size]))
        assert status == 200, answer
    status, answer = ask(port, f"/v1/uploads/{upload}/complete", headers, "POST")
    assert status == 202, answer


def promise(port: int, headers: dict[str, str], content: bytes, size: int) -> dict[str, Any]:
    """Promise a file by its parts; gives the answer."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    body = {
        "source": "captures",
        "device": "router-7",
        "sha256": hashlib.sha256(content).hexdigest(),
        "parts": [{"sha256": hashlib.sha256(one).hexdigest(), "bytes": len(one)} for one in parts],
    }
    named = {**headers, "Content-Type": "application/json"}
    status, answer = ask(port, "/v1/uploads", named, "POST", json.dumps(body))
    assert status == 201, answer
    found: dict[str, Any] = json.loads(answer)
    return found


def measure_daily(port: int, headers: dict[str, str], megabytes: int) -> dict[str, Any]:
    """Send a file, change 5 % of it in twenty places, and send it again; gives which share was sent."""
    dice = random.Random(5)  # noqa: S311 - content for a benchmark
    content = bytearray(b"".join(dice.randbytes(1_000_000) for _ in range(megabytes)))
    # As small as parts may be: the less around a change is sent with it.
    size = max(1 << 16, -(-len(content) // MOST_PARTS))
    sent = [0, 0]
    for day in range(2):
        if day:
            run = len(content) // 400
            for at in range(20):
                begin = at * len(content) // 20 + dice.randrange(run)
                content[begin : begin + run] = dice.randbytes(run)
        begun = promise(port, headers, bytes(content), size)
        for at in begun["missing"]:
            part = bytes(content[at * size : (at + 1) * size])
            sent[day] += len(part)
            status, answer = ask(port, f"/v1/uploads/{begun['upload']}/parts/{at}", headers, "PUT", part)
            assert status == 200, answer
        status, answer = ask(port, f"/v1/uploads/{begun['upload']}/complete", headers, "POST")
        assert status == 202, answer
    assert sent[0] == len(content)
    return {"daily_sent_share": round(sent[1] / len(content), 4)}


def measure_clients(port: int, headers: dict[str, str], seconds: int) -> dict[str, Any]:
    """Let 64 clients ask at once: a capture's head, an upload that is none, and events to land."""
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + seconds

    def go(number: int) -> None:
        at = number
        while time.monotonic() < deadline:
            at += 1
            try:
                if at % 3 == 0:
                    status, _ = ask(port, PATH, headers, "HEAD")
                elif at % 3 == 1:
                    path = "/v1/uploads/01a1fec0-df13-775c-9309-0840fda3ec81"
                    status, _ = ask(port, path, headers)
                else:
                    event = json.dumps({"user_id": f"u-{number}-{at}", "ip": "192.0.2.7"}) + "\n"
                    status, _ = ask(port, "/v1/events/logins", headers, "POST", event)
            except OSError:
                status = 0
            statuses[status] += 1

    threads = [threading.Thread(target=go, args=(number,)) for number in range(64)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    errors = sum(count for status, count in statuses.items() if status not in (200, 404))
    return {"requests_per_s": round(sum(statuses.values()) / seconds, 1), "errors": errors}


def send_half(port: int, headers: dict[str, str]) -> tuple[str, bytes, int]:
    """Send the first half of an upload's parts, and some of the next one."""
    content = random.Random(6).randbytes(16 << 20)  # noqa: S311 - content for a benchmark
    begun = promise(port, headers, content, 1 << 20)
    for at in range(8):
        part = content[at << 20 : (at + 1) << 20]
        assert ask(port, f"/v1/uploads/{begun['upload']}/parts/{at}", headers, "PUT", part)[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("PUT", f"/v1/uploads/{begun['upload']}/parts/8")
    for name, value in {**headers, "Content-Length": str(1 << 20)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(content[8 << 20 : (8 << 20) + 500_000])
    time.sleep(0.2)
    return begun["upload"], content, 8


def measure_resumed(port: int, headers: dict[str, str], begun: tuple[str, bytes, int]) -> dict[str, Any]:
    """Go on with it; gives how many parts that had been sent are sent again."""
    upload, content, done = begun
    status, answer = ask(port, f"/v1/uploads/{upload}", headers)
    assert status == 200, answer
    missing = json.loads(answer)["missing"]
    for at in missing:
        part = content[at << 20 : (at + 1) << 20]
        assert ask(port, f"/v1/uploads/{upload}/parts/{at}", headers, "PUT", part)[0] == 200
    assert ask(port, f"/v1/uploads/{upload}/complete", headers, "POST")[0] == 202
    # The one that was on its way counts as sent.
    return {"parts_sent_again": len([at for at in missing if at <= done])}


def measure_authorisation(platform: Platform, devices: int) -> dict[str, Any]:
    """Authorise a grant's holder among many devices: one that is covered, and one that is not."""
    refs = [f"{at:032x}" for at in range(devices)]
    rows = [
        {"tenant": "default", "name": f"group-{at % 1000}", "device_ref": ref} for at, ref in enumerate(refs)
    ]
    with platform.database.begin() as connection:
        connection.execute(DEVICE_GROUPS.insert(), rows)
    now, access = datetime.now(UTC), platform.access
    for at in range(10):
        access.grants.add(
            "default", "iris", Role.INVESTIGATOR, f"group-{at}", now, now + timedelta(hours=1), "root"
        )
    durations = []
    for at in range(2000):
        begun = time.perf_counter()
        found = access.authorise("iris", Right.READ_PAYLOAD, "default", refs[at % 10])
        durations.append(time.perf_counter() - begun)
        assert found.startswith("grant:")
    try:
        access.authorise("iris", Right.READ_PAYLOAD, "default", refs[11])
        raise SystemExit("a device that was not granted was allowed")
    except RefusedError:
        pass
    return {"authorise_us": round(statistics.median(durations) * 1e6, 1), "devices": devices}


if __name__ == "__main__":
    main()
