"""The service at the door: a download against nginx, an upload's memory, what audit and authorisation cost.

Client and servers share the machine. nginx serves the very bytes that the service makes from sealed blocks.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from lockhouse.operations import Caller
from orchestration.resources import Platform
from stores.database import DEVICE_GROUPS
from stores.settings import load_settings
from transforms.access import OF_DEVICES, Right, Role
from transforms.audit import Action, Outcome
from transforms.capture.synthetic import synthetic_capture
from transforms.errors import RefusedError

HOUR, NEXT_HOUR = "2026-11-21T07:00:00Z", "2026-11-21T08:00:00Z"
PATH = f"/v1/devices/router-7/capture?from={HOUR}&to={NEXT_HOUR}"
PART = 16 << 20


def main() -> None:
    """Measure, check, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--packets", type=int, default=100_000, help="packets of the download")
    options.add_argument("--upload-mb", type=int, default=500, help="megabytes of the upload")
    options.add_argument("--devices", type=int, default=100_000, help="devices in the registry of groups")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), given.packets, given.upload_mb, given.devices)
    if given.json:
        print(json.dumps(result))
    else:
        for name, value in {**result.pop("ratios"), **result}.items():
            print(f"{name:48} {value}")


def measure(folder: Path, packets: int, upload_mb: int, devices: int) -> dict[str, Any]:
    """Make a home, serve it, and measure all of it."""
    platform = Platform(load_settings(folder / "home"))
    platform.create_home("root")
    content = synthetic_capture(1, packets, datetime.fromisoformat(NEXT_HOUR))
    for batch in platform.landing.land("captures", "default", "hour.pcap", content, "router-7"):
        platform.captures.seal_batch(batch.id)
        platform.captures.mask_batch(batch.id)
        platform.captures.finish_batch(batch.id)
    client, _ = platform.access.clients.add("bench", "default", OF_DEVICES | {Right.INGEST})
    platform.access.assign(client.principal, Role.INVESTIGATOR, "default")
    process, port = serve(folder / "home")
    try:
        headers = {"Authorization": f"Bearer {platform.tokens.issue(client, client.scopes)}"}
        figures = measure_download(port, headers, content, folder) | measure_request(platform, port, headers)
        figures |= measure_upload(process, port, headers, upload_mb)
    finally:
        process.terminate()
        process.wait(20)
    figures |= measure_authorisation(platform, devices)
    ratios = {
        "pcap download vs nginx": round(figures["download_mb_s"] / figures["nginx_mb_s"], 4)
        if figures.get("nginx_mb_s")
        else None,
        "audit's share of a request": round(figures["audit_us"] / figures["request_us"], 3),
        "authorisation vs 50 us": round(figures["authorise_us"] / 50, 3),
        "upload's memory vs 32 MiB": round(figures["upload_growth_mib"] / 32, 3),
    }
    return {"ratios": ratios, "checked": True, **figures}


def serve(home: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the service in a process of its own; gives the port that it says."""
    command = [sys.executable, "-m", "lockhouse.main", "--home", str(home), "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command
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


def best_of(act: Callable[[], object], times: int = 5) -> float:
    """Give the shortest of some durations, in seconds."""
    durations = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        durations.append(time.perf_counter() - begun)
    return min(durations)


def measure_download(port: int, headers: dict[str, str], content: bytes, folder: Path) -> dict[str, Any]:
    """Download what the service makes, and the same bytes from nginx where it is installed."""
    status, got = ask(port, PATH, headers)
    assert status == 200
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    ours = best_of(lambda: ask(port, PATH, headers))
    figures = {
        "download_mb": round(len(content) / 1e6, 1),
        "download_mb_s": round(len(content) / 1e6 / ours, 1),
    }
    if not shutil.which("nginx"):
        return {**figures, "nginx": "absent: apt-get install nginx-light"}
    (folder / "www").mkdir()
    (folder / "www" / "hour.pcap").write_bytes(content)
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off; user {getpass.getuser()}; pid {folder}/nginx.pid; "
        f"error_log {folder}/error.log; events {{}} http {{ "
        f"access_log off; sendfile on; server {{ listen 127.0.0.1:{port + 1}; root {folder}/www; }} }}"
    )
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(settings)])  # noqa: S603, S607 - the peer
    try:
        time.sleep(1)
        assert ask(port + 1, "/hour.pcap", {}) == (200, content)
        theirs = best_of(lambda: ask(port + 1, "/hour.pcap", {}))
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
    caller = Caller(platform, "bench", "default")
    for _ in range(200):
        begun = time.perf_counter()
        caller.record(Action.REQUEST_ANSWERED, Outcome.DONE, route="/v1/uploads/{upload}", status=404)
        entries.append(time.perf_counter() - begun)
    return {
        "request_us": round(statistics.median(requests) * 1e6),
        "audit_us": round(statistics.median(entries) * 1e6),
    }


def measure_upload(
    process: subprocess.Popen[str], port: int, headers: dict[str, str], megabytes: int
) -> dict[str, Any]:
    """Send a file by parts; gives how much the service's memory grew at most."""
    # One part of noise, sent as several different ones: its beginning is counted up.
    noise, count = bytearray(b"\x5a" * PART), -(-megabytes * 1_000_000 // PART)
    whole, parts = hashlib.sha256(), []
    sizes = [min(PART, megabytes * 1_000_000 - PART * at) for at in range(count)]
    for at, size in enumerate(sizes):
        noise[:8] = at.to_bytes(8, "big")
        whole.update(noise[:size])
        parts.append({"sha256": hashlib.sha256(noise[:size]).hexdigest(), "bytes": size})
    promised = json.dumps(
        {"source": "captures", "device": "router-7", "sha256": whole.hexdigest(), "parts": parts}
    )
    status, answer = ask(port, "/v1/uploads", {**headers, "Content-Type": "application/json"}, "POST", promised)
    assert status == 201, answer
    upload, watched = json.loads(answer)["upload"], psutil.Process(process.pid)
    before = most = watched.memory_info().rss
    begun = time.perf_counter()
    for at, size in enumerate(sizes):
        noise[:8] = at.to_bytes(8, "big")
        status, answer = ask(port, f"/v1/uploads/{upload}/parts/{at}", headers, "PUT", bytes(noise[:size]))
        assert status == 200, answer
        most = max(most, watched.memory_info().rss)
    status, answer = ask(port, f"/v1/uploads/{upload}/complete", headers, "POST")
    seconds = time.perf_counter() - begun
    assert status == 202, answer
    most = max(most, watched.memory_info().rss)
    return {
        "upload_mb_s": round(megabytes / seconds, 1),
        "upload_growth_mib": round((most - before) / (1 << 20), 1),
    }


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
