"""`send`, `receive` and `queue`: messages on a queue, into segments, and how it stands."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table, stopwatch

_SOURCE = "logins"
source_option = click.option("--source", default=_SOURCE, show_default=True, help="Whose queue.")


@click.command("send", short_help="Put messages on a queue.")
@click.argument("source")
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--synthetic", type=click.IntRange(1), metavar="N", help="Send N made-up records instead.")
@click.option(
    "--rate", type=click.FloatRange(0.1), help="Made-up records a second; as fast as can be without it."
)
@tenant_option
@json_option
@click.pass_obj
def send_command(
    home: Path | None,
    source: str,
    file: Path | None,
    synthetic: int | None,
    rate: float | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Put the records of FILE on the queue of SOURCE, a message each: lines, or the elements of an array.

    Nothing is checked here: what does not fit the contract comes to quarantine.

    \b
    Examples:
      lockhouse send logins events.json.gz
      lockhouse send logins --synthetic 1000 --rate 100
    """
    from lockhouse.queue_operations import send_records, send_synthetic
    from lockhouse.setup import prepare_home

    if (file is None) == (synthetic is None) or (rate is not None and synthetic is None):
        raise click.UsageError("give FILE, or --synthetic N (and --rate with it)")
    prepare_home(home)
    caller = caller_of(home, tenant)
    with stopping() as is_stopped:
        if file is not None:
            with file.open("rb") as stream:
                sent = send_records(caller, source, stream)
        else:
            sent = send_synthetic(caller, source, synthetic or 0, rate, is_stopped)
    if as_json:
        show_json({"messages": sent})
    else:
        note(f"{sent:,} message(s) sent")
        note(f"Next: {program()} receive --until-idle 2, or {program()} up")


@click.command("receive", short_help="Take messages from a queue into landing.")
@click.option("--until-idle", type=click.FloatRange(0), help="End when nothing came for so many seconds.")
@source_option
@tenant_option
@json_option
@click.pass_obj
def receive_command(
    home: Path | None, until_idle: float | None, source: str, tenant: str, as_json: bool
) -> None:
    """Take messages into segments in landing, until stopped (Ctrl-C or SIGTERM).

    A segment is closed after 1,000 messages or 5 seconds (settings segment_messages, segment_seconds),
    and only then are its messages deleted from the queue. `lockhouse up` does this all the time.

    \b
    Examples:
      lockhouse receive --until-idle 2
      lockhouse ingest logins --staged
    """
    from lockhouse.queue_operations import receive_messages
    from lockhouse.setup import prepare_home

    prepare_home(home)
    with stopwatch() as watch, stopping() as is_stopped:
        done = receive_messages(caller_of(home, tenant), source, until_idle, is_stopped, note)
    if as_json:
        show_json({**done, "seconds": watch["seconds"]})
    else:
        note(f"{done['messages']:,} message(s) in {done['segments']:,} segment(s)")
        note(f"Next: {program()} ingest {source} --staged, unless {program()} up takes them")


@click.group("queue", short_help="How the queue stands; dead letters.")
def queue_command() -> None:
    """Queues: how many messages wait, how much is staged, how long a message takes to its row."""


@queue_command.command("status")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until stopped.")
@source_option
@tenant_option
@json_option
@click.pass_obj
def queue_status(home: Path | None, watch: bool, source: str, tenant: str, as_json: bool) -> None:
    """Count messages, staged bytes, rows a minute, and the lag from sent to queryable (last ten minutes).

    \b
    Examples:
      lockhouse queue status
      lockhouse queue status --watch
    """
    from lockhouse.queue_operations import watch_queue

    with stopping() as is_stopped:
        for standing in watch_queue(caller_of(home, tenant), source):
            _show(standing, as_json)
            if not watch or _paused(2, is_stopped):
                break


@queue_command.command("redrive")
@source_option
@tenant_option
@json_option
@click.pass_obj
def queue_redrive(home: Path | None, source: str, tenant: str, as_json: bool) -> None:
    """Put the dead letters back on the queue, to be received again."""
    from lockhouse.queue_operations import redrive_queue

    moved = redrive_queue(caller_of(home, tenant), source)
    show_json({"messages": moved}) if as_json else note(f"{moved:,} dead letter(s) are on the queue again")


_SHOWN = {
    "visible": "messages that wait",
    "in_flight": "received, not confirmed",
    "dead": "dead letters",
    "oldest_s": "age of the oldest message, s",
    "staged_files": "staged files",
    "staged_bytes": "staged bytes",
    "staged_s": "age of the oldest staged file, s",
    "rows_per_minute": "rows a minute",
    "lag_s": "longest way from sent to queryable, s",
}


def _show(standing: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(standing)
    else:
        show_table(["queue", ""], [[text, standing[name]] for name, text in _SHOWN.items()], right=[""])


def _paused(seconds: float, is_stopped: Callable[[], bool]) -> bool:
    """Wait; give whether somebody stopped us meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_stopped():
        time.sleep(0.1)
    return is_stopped()


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Tell, while the block lasts, whether a signal asked to stop; what is under way is completed."""
    asked: list[int] = []

    def ask(signum: int, _frame: FrameType | None) -> None:
        asked.append(signum)

    previous = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
