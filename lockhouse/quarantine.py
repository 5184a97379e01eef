"""`quarantine`: what was not accepted, why, and what to do with it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table


@click.group("quarantine", short_help="What was not accepted, and what to do with it.")
def quarantine_command() -> None:
    """List what was not accepted, look into it, take it again, or drop it."""


@quarantine_command.command("list")
@click.option("--source", help="Only entries of this source.")
@tenant_option
@json_option
@click.pass_obj
def quarantine_list(home: Path | None, source: str | None, tenant: str, as_json: bool) -> None:
    """List the entries with their reasons; content stays sealed."""
    from lockhouse.operations import quarantine_entries

    entries = quarantine_entries(caller_of(home, tenant), source)
    if as_json:
        show_json({"entries": [asdict(entry) for entry in entries]})
        return
    rows = [
        [one.id, one.source, one.received_at[:19], one.record_number, one.size_bytes, one.reason]
        for one in entries
    ]
    show_table(["id", "source", "received", "record", "bytes", "reason"], rows, right=["record", "bytes"])
    note(f"Next: {program()} quarantine show ID" if entries else "Nothing is in quarantine.")


@quarantine_command.command("show")
@click.argument("entry_id")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the bytes to this file."
)
@tenant_option
@json_option
@click.pass_obj
def quarantine_show(home: Path | None, entry_id: str, output: Path | None, tenant: str, as_json: bool) -> None:
    """Open one entry: its file's name and its bytes. Needs the right to reveal; audited first."""
    from lockhouse.operations import quarantine_content

    name, content = quarantine_content(caller_of(home, tenant), entry_id)
    if output is not None:
        output.touch(mode=0o600)
        output.write_bytes(content)
        note(f"Wrote {len(content):,} bytes in clear to {output}: guard that file.")
    if as_json:
        text = content.decode(errors="backslashreplace")
        show_json(
            {"id": entry_id, "file_name": name, "size_bytes": len(content), "content": None if output else text}
        )
    elif output is None:
        note(f"from {name}, {len(content):,} bytes:")
        click.echo(content)


@quarantine_command.command("retry")
@click.argument("entry_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every entry of the source.")
@click.option("--source", default="logins", show_default=True, help="The source that the entries belong to.")
@tenant_option
@json_option
@click.pass_obj
def quarantine_retry(
    home: Path | None, entry_ids: tuple[str, ...], everything: bool, source: str, tenant: str, as_json: bool
) -> None:
    """Take entries again, after the contract or the producer was mended; what fits now leaves quarantine."""
    from lockhouse.retry import retry_entries

    if bool(entry_ids) == everything:
        raise click.UsageError("give ENTRY_IDS or --all")
    result = retry_entries(caller_of(home, tenant), source, None if everything else list(entry_ids))
    if as_json:
        show_json(result)
    else:
        note(
            f"{result['retried']} taken again: {result['accepted']} accepted, {result['quarantined']} still not"
        )


@quarantine_command.command("drop")
@click.argument("entry_ids", nargs=-1, required=True)
@tenant_option
@json_option
@click.pass_obj
def quarantine_drop(home: Path | None, entry_ids: tuple[str, ...], tenant: str, as_json: bool) -> None:
    """Delete entries for good."""
    from lockhouse.operations import drop_quarantine

    dropped = drop_quarantine(caller_of(home, tenant), entry_ids)
    if as_json:
        show_json({"dropped": dropped})
    else:
        note(f"Dropped {dropped} row(s)")
