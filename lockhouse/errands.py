"""Errands: what the service was asked for and takes long. A process of its own does them, and ends.

Every errand stands in the application database first, so nothing is lost with a process. The service starts
one of these where something waits; a second one finds the lock held, and ends at once.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestration.resources import Platform

LOCK = "errands.lock"


def count_errands(platform: Platform) -> int:
    """Count what waits in all tenants: packages to be made, and erasures that are not certified."""
    return sum(
        len(platform.access_packages(tenant).waiting()) + len(platform.erasure_requests(tenant).unfinished())
        for tenant in platform.access.tenants()
    )


def run_errands(platform: Platform) -> int:
    """Do what waits, each errand once; give how many were done.

    One that fails keeps its problem, for whoever asks, and stops no other.
    """
    from stores.locks import exclusive
    from transforms.errors import BusyError

    done, tried = 0, set[str]()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(platform.home.locks / LOCK, wait=False))
        except BusyError:
            return 0
        while True:
            before = len(tried)
            for tenant in platform.access.tenants():
                platform.access_packages(tenant).expire()
                done += _make_packages(platform, tenant, tried) + _complete_erasures(platform, tenant, tried)
            # What came in meanwhile is taken along: its own process has found the lock held.
            if len(tried) == before:
                break
    return done


def _make_packages(platform: Platform, tenant: str, tried: set[str]) -> int:
    from lockhouse.operations import Caller
    from lockhouse.privacy_operations import make_package

    done, packages = 0, platform.access_packages(tenant)
    for request in [one for one in packages.waiting() if one.id not in tried]:
        tried.add(request.id)
        caller = Caller(platform, request.requested_by, tenant, marks={"client": "errand"})
        try:
            make_package(caller, request)
            done += 1
        except Exception as error:
            packages.fail(request.id, _told(error))
    return done


def _complete_erasures(platform: Platform, tenant: str, tried: set[str]) -> int:
    done, requests = 0, platform.erasure_requests(tenant)
    for request in [one for one in requests.unfinished() if one.id not in tried]:
        tried.add(request.id)
        request.progress.pop("problem", None)
        try:
            platform.erasing(tenant).complete(request)
            done += 1
        except Exception as error:
            left = requests.find(request.id)
            left.progress["problem"] = _told(error)
            requests.save(left)
    return done


def _told(error: Exception) -> str:
    """Say what went wrong: our own errors in full, of any other the kind, since its text may quote a value."""
    from transforms.errors import LockhouseError

    return str(error) if isinstance(error, LockhouseError) else f"unexpected: {type(error).__name__}"


class Errands:
    """Starts the process that does errands, one at a time, from a thread that waits for it."""

    def __init__(self, platform: Platform) -> None:
        """Remember the home; nothing is started yet."""
        self._platform, self._lock = platform, threading.Lock()
        self._is_running = self._is_wanted = False

    def wake(self) -> None:
        """See to it that a process looks at what waits now, and return at once."""
        with self._lock:
            self._is_wanted = True
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._work, name="errands", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._is_wanted:
                    self._is_running = False
                    return
                self._is_wanted = False
            home = str(self._platform.home.root)
            command = [sys.executable, "-m", "lockhouse.errands", "--home", home]
            # In a session of its own it outlives the service: what has begun is better ended than repeated.
            # Where none can be started, what waits stands in the database, and the next one goes on.
            with contextlib.suppress(OSError):
                subprocess.run(  # noqa: S603 - our own command
                    command, stdin=subprocess.DEVNULL, start_new_session=True, check=False
                )


@click.command()
@click.option("--home", required=True, type=click.Path(path_type=Path))
def main(home: Path) -> None:
    """Do the errands of a home."""
    from lockhouse.main import platform_of

    run_errands(platform_of(home))


if __name__ == "__main__":
    main()
