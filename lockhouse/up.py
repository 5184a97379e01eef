"""`up`: Dagster's UI and daemon on one home, started together and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import click

from lockhouse.main import FAILED
from lockhouse.output import note

_STARTED_WITHIN_S = 120
_STOPPED_WITHIN_S = 15


@click.command("up")
@click.option("--port", default=3000, show_default=True, help="The Dagster UI's port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the UI listens; it knows no login.")
@click.pass_obj
def up_command(home: Path | None, port: int, host: str) -> int:
    """Start the Dagster UI and the daemon; files that are dropped in landing are taken. Ctrl-C stops all.

    \b
    Example:
      lockhouse up &
      cp events.json .lockhouse/landing/logins/default/
    """
    from lockhouse.setup import prepare_home

    if host not in ("127.0.0.1", "localhost", "::1"):
        raise click.UsageError("Dagster's UI has no login: it listens on this machine only")
    platform, _ = prepare_home(home)
    platform.landing.drop_folder("logins", "default").mkdir(parents=True, exist_ok=True)
    with _alone(platform.home.locks / "up.lock") as lock:
        return _run(_commands(host, port), lock, f"http://{host}:{port}", platform.home.landing)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Hold the home's lock; children inherit it, so that even orphans of a killed `up` keep it.

    Raises: UsageError where another `up` runs: two daemons would start every run twice.
    """
    import fcntl

    from transforms.errors import UsageError

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError("this home is up already: stop that one first, or use another --home") from None
        yield file.fileno()


def _commands(host: str, port: int) -> dict[str, list[str]]:
    """Give the processes by name: one code server, that both others use, loads the definitions once."""
    code_port = str(_free_port())
    code = ["--grpc-host", "127.0.0.1", "--grpc-port", code_port]
    python = [sys.executable, "-m"]
    return {
        "code": [
            *python,
            "dagster",
            "code-server",
            "start",
            "-m",
            "orchestration.definitions",
            "--host",
            "127.0.0.1",
            "--port",
            code_port,
            "--location-name",
            "lockhouse",
            "--log-level",
            "warning",
        ],
        "ui": [
            *python,
            "dagster_webserver",
            *code,
            "--host",
            host,
            "--port",
            str(port),
            "--log-level",
            "warning",
        ],
        "daemon": [*python, "dagster._daemon", "run", *code, "--log-level", "warning"],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(
    commands: dict[str, Sequence[str]] | dict[str, list[str]], lock: int, address: str, landing: Path
) -> int:
    stopping: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        stopping.append(signum)

    previous = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        note("Starting …")
        for name, command in commands.items():
            children[name] = _start(command, lock)
        if _wait_until_ready(address, children, stopping):
            note(f"Dagster UI   {address}")
            note(f"Drop files   {landing}/logins/<tenant>/")
            note("Stop         Ctrl-C")
        return _watch(children, stopping)
    finally:
        _stop(children)
        for one, handler in previous.items():
            signal.signal(one, handler)
        note("Stopped.")


def _start(command: Sequence[str], lock: int) -> subprocess.Popen[bytes]:
    """Start a child in a group of its own: a Ctrl-C in the terminal reaches us first, and we stop it."""
    return subprocess.Popen(command, start_new_session=True, pass_fds=(lock,), stdin=subprocess.DEVNULL)  # noqa: S603


def _wait_until_ready(address: str, children: dict[str, subprocess.Popen[bytes]], stopping: list[int]) -> bool:
    deadline = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < deadline and not stopping and not _dead(children):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/server_info", timeout=2).close()  # noqa: S310 - our own address
            return True
        time.sleep(0.3)
    return False


def _watch(children: dict[str, subprocess.Popen[bytes]], stopping: list[int]) -> int:
    while not stopping:
        if name := _dead(children):
            note(f"The {name} process ended by itself: everything is stopped. `lockhouse doctor` may know why.")
            return FAILED
        time.sleep(0.2)
    return 0


def _dead(children: dict[str, subprocess.Popen[bytes]]) -> str | None:
    return next((name for name, child in children.items() if child.poll() is not None), None)


def _stop(children: dict[str, subprocess.Popen[bytes]]) -> None:
    """Ask each group to end, the code server last; after a while make them."""
    for child in reversed(list(children.values())):
        _signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + _STOPPED_WITHIN_S
    for child in children.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.1, deadline - time.monotonic()))
    for child in children.values():
        _signal_group(child, signal.SIGKILL)


def _signal_group(child: subprocess.Popen[bytes], signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signum)
