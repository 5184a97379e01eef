"""`leaks`: whether a value is readable anywhere in the home."""

from __future__ import annotations

from pathlib import Path

import click

from lockhouse.main import FAILED, caller_of, json_option, tenant_option
from lockhouse.output import note, show_json, show_table, stopwatch, working


@click.group("leaks", short_help="Look for personal data in clear.")
def leaks_command() -> None:
    """Look for personal data in clear."""


@leaks_command.command("scan")
@click.argument("values", nargs=-1)
@click.option(
    "--values-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with one value a line, so that none stands in your shell's history.",
)
@tenant_option
@json_option
@click.pass_obj
def leaks_scan(
    home: Path | None, values: tuple[str, ...], values_file: Path | None, tenant: str, as_json: bool
) -> int:
    """Decode every file of the home outside landing and keys, and look for values in clear.

    Without values, the canaries of the tenant are looked for: synthetic values that the demo plants.
    Exit code 1 where something was found.

    \b
    Examples:
      lockhouse leaks scan
      lockhouse leaks scan --values-file people.txt
    """
    from lockhouse.operations import canaries, scan_leaks

    caller = caller_of(home, tenant)
    wanted = [*values, *(values_file.read_text().splitlines() if values_file else [])]
    wanted = [value for value in wanted if value.strip()] or canaries(caller)
    with stopwatch() as watch, working(f"Looking for {len(wanted)} values", not as_json):
        report = scan_leaks(caller, wanted)
    hits = [{"file": hit.file, "place": hit.place} for hit in report.hits]
    unreadable = [str(one) for one in report.unreadable]
    if as_json:
        show_json(
            {"files": report.files, "values": len(wanted), "hits": hits, "unreadable": unreadable, **watch}
        )
    else:
        if hits:
            show_table(["file", "place"], [[one["file"], one["place"]] for one in hits])
        note(f"{report.files} files decoded in {watch['seconds']} s, {len(wanted)} values, {len(hits)} hits")
    return FAILED if hits or unreadable else 0
