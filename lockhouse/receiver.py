"""The receiver by itself, as `lockhouse up` starts it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from lockhouse.output import note
from lockhouse.queue import stopping
from orchestration.resources import Platform
from stores.receiver import receive_from_all, receiving
from stores.settings import QueueSettings, load_settings
from transforms.errors import LockhouseError, UsageError


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="The home; LOCKHOUSE_HOME without it.")
def receive(home: Path | None) -> None:
    """Receive from every queue into landing until stopped. It is the platform's own, like the sensors."""
    platform = Platform(load_settings(home))
    try:
        with stopping() as is_stopped, ExitStack() as stack:
            queues = _of_registered(platform)
            for one in queues:
                stack.enter_context(receiving(platform.home, one.source, one.tenant, one.carries))
            receivers = [platform.receiver(one, note) for one in queues]
            done = receive_from_all(receivers, is_stopped)
            note(f"receiver: {done.messages:,} messages in {done.segments:,} segments")
    except LockhouseError as error:
        raise click.UsageError(str(error)) from None


def _of_registered(platform: Platform) -> list[QueueSettings]:
    """Give the queues of registered tenants: what lands of others has no keys, and would stay readable.

    Raises: UsageError where there is none.
    """
    tenants = set(platform.access.tenants())
    for one in platform.queues:
        if one.tenant not in tenants:
            note(f"receiver: the queue of {one.tenant} is left alone: no such tenant is registered")
    found = [one for one in platform.queues if one.tenant in tenants]
    if not found:
        raise UsageError("queues: none is of a registered tenant")
    return found


if __name__ == "__main__":
    receive()
