"""`approval`: the second person's word on a reveal, where the tenant's policy asks for one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, show_json, show_table

if TYPE_CHECKING:
    from stores.approvals import Approval


@click.group("approval", short_help="Decide on reveals that need a second person.")
def approval_command() -> None:
    """Decide on reveals that need a second person (setting `reveal_approval`)."""


@approval_command.command("list")
@tenant_option
@json_option
@click.pass_obj
def approval_list(home: Path | None, tenant: str, as_json: bool) -> None:
    """List what was asked for, what was decided, and by whom."""
    from lockhouse.reveal_operations import list_approvals

    found = list_approvals(caller_of(home, tenant))
    if as_json:
        show_json({"approvals": [asdict(one) for one in found]})
        return
    rows = [
        [
            one.id,
            one.asked_by,
            one.asked_at,
            one.described.get("column"),
            one.described.get("reason"),
            _state(one),
        ]
        for one in found
    ]
    show_table(["request", "who", "asked at", "column", "reason", "state"], rows)


@approval_command.command("grant")
@click.argument("request")
@tenant_option
@json_option
@click.pass_obj
def approval_grant(home: Path | None, request: str, tenant: str, as_json: bool) -> None:
    """Let a reveal be made, once and within a day, by whoever asked. Nobody grants their own."""
    _decide(home, request, tenant, as_json, "granted")


@approval_command.command("refuse")
@click.argument("request")
@tenant_option
@json_option
@click.pass_obj
def approval_refuse(home: Path | None, request: str, tenant: str, as_json: bool) -> None:
    """Refuse a reveal."""
    _decide(home, request, tenant, as_json, "refused")


def _decide(home: Path | None, request: str, tenant: str, as_json: bool, decision: str) -> None:
    from lockhouse.reveal_operations import decide_approval

    made = decide_approval(caller_of(home, tenant), request, decision)
    show_json(asdict(made)) if as_json else note(f"{decision}: {made.asked_by} is told by the next attempt")


def _state(one: Approval) -> str:
    return "used" if one.used_at else one.decision or "waiting"
