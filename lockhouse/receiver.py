"""The receiver by itself, as `lockhouse up` starts it."""

from __future__ import annotations

from pathlib import Path

import click

from lockhouse.output import note
from lockhouse.queue import stopping
from orchestration.resources import DEFAULT_TENANT, Platform
from stores.receiver import receiving
from stores.settings import load_settings
from transforms.errors import LockhouseError

SOURCE = "logins"


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="The home; LOCKHOUSE_HOME without it.")
def receive(home: Path | None) -> None:
    """Receive into landing until stopped. It is the platform's own process, like the sensors."""
    platform = Platform(load_settings(home))
    try:
        with stopping() as is_stopped, receiving(platform.home, SOURCE, DEFAULT_TENANT):
            done = platform.receiver(SOURCE, DEFAULT_TENANT, note).run(is_stopped)
            note(f"receiver: {done.messages:,} messages in {done.segments:,} segments")
    except LockhouseError as error:
        raise click.UsageError(str(error)) from None


if __name__ == "__main__":
    receive()
