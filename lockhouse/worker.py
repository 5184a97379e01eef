"""`worker`: the services that listen to the events of validations, together or one by itself."""

from __future__ import annotations

from pathlib import Path

import click

from lockhouse.main import caller_of, json_option
from lockhouse.output import note, show_json, stopwatch
from lockhouse.queue import stopping
from transforms.validations.matrix import SUBSCRIPTIONS, Service

_NAMES = [str(one) for one in SUBSCRIPTIONS]


@click.command("worker", short_help="Run the services of the validations.")
@click.option("--service", type=click.Choice(_NAMES), help="Only this one; all of them without it.")
@click.option("--until-idle", type=click.FloatRange(0), help="End when nothing came for so many seconds.")
@click.option("--redrive", is_flag=True, help="Put dead letters back on the queues first.")
@json_option
@click.pass_obj
def worker_command(
    home: Path | None, service: str | None, until_idle: float | None, redrive: bool, as_json: bool
) -> None:
    """Run the services of the validations over their events, until stopped (Ctrl-C or SIGTERM).

    They may be killed at any time: what was not confirmed comes again. `lockhouse up` runs all of them.

    \b
    Examples:
      lockhouse worker --until-idle 1
      lockhouse worker --service validator
    """
    from lockhouse.setup import prepare_home
    from lockhouse.validation_operations import consume_events, redrive_events

    prepare_home(home)
    chosen = [Service(service)] if service else list(SUBSCRIPTIONS)
    with stopwatch() as watch, stopping() as is_stopped:
        if redrive:
            redrive_events(caller_of(home, "default"), chosen)
        done = consume_events(caller_of(home, "default"), chosen, until_idle, is_stopped, note)
    if as_json:
        show_json({"services": done, "seconds": watch["seconds"]})
    else:
        for name, one in done.items():
            note(f"{name}: {one['events']:,} event(s), {one['failures']:,} put off")
