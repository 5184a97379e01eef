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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from lockhouse.main import FAILED, caller_of
from lockhouse.output import note
from lockhouse.serve import DEFAULT_PORT
from orchestration.instance import CODE_SOCKET

if TYPE_CHECKING:
    from orchestration.resources import Platform
    from stores.home import Home

_STARTED_WITHIN_S = 120
_STOPPED_WITHIN_S = 15


@click.command("up", short_help="Start the Dagster UI; take files as they land.")
@click.option("--port", default=3000, show_default=True, help="The Dagster UI's port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the UI listens; it knows no login.")
@click.option("--api-port", default=DEFAULT_PORT, show_default=True, help="The HTTP service's port.")
@click.option("--listen-pcap", metavar="[HOST:]PORT", help="Take captures that devices send live.")
@click.option("--feed-device", help="Whose live captures are that come without TLS, from this machine.")
@click.option("--feed-tenant", default="default", show_default=True, help="Whose device that is.")
@click.pass_obj
def up_command(
    home: Path | None,
    port: int,
    host: str,
    api_port: int,
    listen_pcap: str | None,
    feed_device: str | None,
    feed_tenant: str,
) -> int:
    """Start the Dagster UI, its daemon and the HTTP service; what lands is taken in. Ctrl-C stops all.

    \b
    Examples:
      lockhouse up &
      cp events.json .lockhouse/landing/logins/default/
      lockhouse device add gateway-1
      lockhouse up --listen-pcap 57012 --feed-device gateway-1
      tcpdump -U -w - | nc 127.0.0.1 57012
    """
    from lockhouse.operations import bring_up
    from lockhouse.setup import prepare_home
    from orchestration.instance import write_workspace

    if host not in ("127.0.0.1", "localhost", "::1"):
        raise click.UsageError("Dagster's UI has no login: it listens on this machine only")
    platform, _ = prepare_home(home)
    bring_up(caller_of(home, "default"))
    platform.landing.drop_folder("logins", "default").mkdir(parents=True, exist_ok=True)
    feed = _feed_command(platform, listen_pcap, feed_device, feed_tenant) if listen_pcap else {}
    with _alone(platform.home.locks / "up.lock") as lock:
        crew = Crew(platform.home, lock, f"http://{host}:{port}", f"http://{host}:{api_port}")
        commands = _commands(write_workspace(platform.home.dagster), host, port)
        beside = _receiver_command(platform.home) | _worker_command(platform.home)
        beside |= _service_command(platform.home, host, api_port)
        return crew.run(commands | beside | feed)


def _receiver_command(home: Home) -> dict[str, list[str]]:
    """Give the process that takes messages from the queue of logins, by name."""
    return {"receiver": [sys.executable, "-m", "lockhouse.receiver", "--home", str(home.root)]}


def _worker_command(home: Home) -> dict[str, list[str]]:
    """Give the process of the validations' services, by name."""
    return {"worker": [sys.executable, "-m", "lockhouse.main", "--home", str(home.root), "worker"]}


def _service_command(home: Home, host: str, port: int) -> dict[str, list[str]]:
    """Give the HTTP service's process, by name; on this machine only, as all of `up`."""
    serve = ["serve", "--host", host, "--port", str(port)]
    return {"service": [sys.executable, "-m", "lockhouse.main", "--home", str(home.root), *serve]}


def _feed_command(platform: Platform, address: str, device: str | None, tenant: str) -> dict[str, list[str]]:
    """Give the live feed's process, by name.

    Raises: UsageError where it would refuse to start: that is told here, not in a log.
    """
    from lockhouse.feed import plan_listening

    planned = plan_listening(platform.settings, address, device, tenant)
    devices = platform.devices(tenant)
    if device and not devices.listing([devices.ref(device)]):
        # Each of its connections would be refused, which a pipe from tcpdump shows nobody.
        raise click.UsageError("the device of --feed-device is not registered: `lockhouse device add` does so")
    named = ["--feed-device", device, "--feed-tenant", tenant] if device else []
    home = str(platform.home.root)
    command = [sys.executable, "-m", "lockhouse.feed", "--home", home, "--listen", planned.address]
    return {"feed": [*command, *named]}


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


def _commands(workspace: Path, host: str, port: int) -> dict[str, list[str]]:
    """Give the processes by name: the code server loads the definitions once, for both others."""
    python = [sys.executable, "-m"]
    quiet = ["--log-level", "warning"]
    code = ["orchestration.code_server", "-m", "orchestration.definitions", "--location-name", "lockhouse"]
    socket_path = str(workspace.with_name(CODE_SOCKET))
    return {
        "code": [*python, *code, "--socket", socket_path, *quiet],
        "ui": [*python, "dagster_webserver", "-w", str(workspace), "-h", host, "-p", str(port), *quiet],
        "daemon": [*python, "dagster._daemon", "run", "-w", str(workspace), *quiet],
    }


class Crew:
    """The processes of `up`: started in order, watched, stopped together."""

    def __init__(self, home: Home, lock: int, address: str, service: str) -> None:
        """Remember the home, the lock that every child inherits, the UI's address and the service's."""
        self._home, self._lock, self._address, self._service = home, lock, address, service
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self, commands: dict[str, list[str]]) -> int:
        """Start everything, say where it is, and stay until a signal comes or a process ends by itself."""
        previous = {one: signal.signal(one, self._stop_soon) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            note("Starting (10 to 20 seconds) …")
            self._start("code", commands["code"])
            if self._waited_for(self._code_answers):
                for name in commands.keys() - {"code"}:
                    self._start(name, commands[name])
            if self._waited_for(self._ui_answers):
                self._tell(commands)
            return self._watch()
        finally:
            self._stop()
            for one, handler in previous.items():
                signal.signal(one, handler)
            note("Stopped.")

    def _tell(self, commands: dict[str, list[str]]) -> None:
        note(f"Dagster UI   {self._address}")
        note(f"Service      {self._service}")
        note(f"Drop files   {self._home.landing}/logins/default/")
        if "feed" in commands:
            note(f"Live feed    {commands['feed'][commands['feed'].index('--listen') + 1]}")
        note(f"Logs         {self._logs()}/")
        note("Stop         Ctrl-C")

    def _logs(self) -> Path:
        return self._home.dagster / "logs"

    def _start(self, name: str, command: Sequence[str]) -> None:
        """Start a child in a group of its own: a Ctrl-C reaches us first, and we stop it."""
        self._logs().mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._logs() / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                start_new_session=True,
                pass_fds=(self._lock,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _stop_soon(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _waited_for(self, answers: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _STARTED_WITHIN_S
        while time.monotonic() < deadline and not self._stopping and not self._dead():
            with contextlib.suppress(OSError):
                if answers():
                    return True
            time.sleep(0.2)
        return False

    def _code_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._home.dagster / CODE_SOCKET))
        return True

    def _ui_answers(self) -> bool:
        urllib.request.urlopen(f"{self._address}/server_info", timeout=2).close()  # noqa: S310 - our own address
        return True

    def _watch(self) -> int:
        while not self._stopping:
            if name := self._dead():
                note(
                    f"The {name} process ended by itself; everything is stopped. See {self._logs()}/{name}.log"
                )
                return FAILED
            time.sleep(0.2)
        return 0

    def _dead(self) -> str | None:
        return next((name for name, child in self._children.items() if child.poll() is not None), None)

    def _stop(self) -> None:
        """Ask each group to end, the code server last; after a while make them."""
        for child in reversed(list(self._children.values())):
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + _STOPPED_WITHIN_S
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
        for child in self._children.values():
            _signal_group(child, signal.SIGKILL)


def _signal_group(child: subprocess.Popen[bytes], signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signum)
