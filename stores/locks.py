"""Locks between processes, kept by the kernel: a killed process leaves none behind.

`flock` knows shared and exclusive holders, which the lock libraries at hand do not offer without
a file that outlives its holder (ADR 0006).
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transforms.errors import BusyError


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock alone.

    Raises: BusyError where `wait` is off and somebody holds it.
    """
    with _held(path, fcntl.LOCK_EX, wait):
        yield


@contextmanager
def shared(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock together with other sharers.

    Raises: BusyError where `wait` is off and somebody holds it alone.
    """
    with _held(path, fcntl.LOCK_SH, wait):
        yield


@contextmanager
def _held(path: Path, kind: int, wait: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another process holds {path.name}: wait for it, or stop it") from error
        yield
