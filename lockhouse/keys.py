"""`keys`: the epochs of a tenant's token keys; rotation, and the end of old ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table


@click.group("keys", short_help="Epochs of the token keys: rotate, retire.")
def keys_command() -> None:
    """Rotate the keys that tokens are made with.

    A rotation makes every token anew, in every table, so that joins go on working. The old keys are
    destroyed at the horizon; from then on no copy that somebody kept of a table can be opened.
    """


@keys_command.command("status")
@tenant_option
@json_option
@click.pass_obj
def keys_status(home: Path | None, tenant: str, as_json: bool) -> None:
    """List the epochs: which one makes tokens, which ones wait for their end."""
    from lockhouse.key_operations import list_epochs

    epochs = list_epochs(caller_of(home, tenant))
    if as_json:
        show_json({"epochs": [asdict(one) for one in epochs]})
        return
    rows = [
        [one.epoch, one.state, one.began_at, one.replaced_at, one.renewed_at, one.ends_at] for one in epochs
    ]
    show_table(["epoch", "state", "began", "replaced", "renewed", "ends"], rows, right=["epoch"])


@keys_command.command("rotate")
@click.option("--emergency", is_flag=True, help="Destroy the old keys at once, without a horizon.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@json_option
@click.pass_obj
def keys_rotate(home: Path | None, emergency: bool, yes: bool, tenant: str, as_json: bool) -> None:
    """Begin a new epoch and make every token anew; one that was cut short goes on.

    \b
    Examples:
      lockhouse keys rotate
      lockhouse keys rotate --emergency --yes
    """
    from lockhouse.key_operations import rotate_keys

    if emergency and not yes:
        click.confirm("Destroy the old token keys at once? Copies of tables become unreadable", abort=True)
    caller = caller_of(home, tenant)
    told = rotate_keys(caller, at_once=emergency, on_step=lambda step: note(f"Renewing {step} …"))
    if as_json:
        show_json(told)
        return
    show_table(["table", "rows renewed"], list(told["tables"].items()), right=["rows renewed"])
    note(f"Epoch {told['epoch']} makes tokens now")
    if not emergency:
        note(f"Next, when the horizon has come: {program()} keys retire")


@keys_command.command("retire")
@tenant_option
@json_option
@click.pass_obj
def keys_retire(home: Path | None, tenant: str, as_json: bool) -> None:
    """Destroy the keys of old epochs whose horizon has come; nothing happens before."""
    from lockhouse.key_operations import list_epochs, retire_keys

    caller = caller_of(home, tenant)
    destroyed = retire_keys(caller)
    if as_json:
        show_json({"destroyed": destroyed, "epochs": [asdict(one) for one in list_epochs(caller)]})
    elif destroyed:
        note(f"Destroyed: epoch {', '.join(map(str, destroyed))}")
    else:
        note(f"No epoch has come to its end: {program()} keys status")
