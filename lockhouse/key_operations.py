"""Operations on keys: the epochs of a tenant's tokens, each authorised, audited, then done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from lockhouse.operations import Caller
from stores.rotation import Epoch, Renewed, Rotation
from transforms.access import Right
from transforms.audit import Action

# The masked table of each subject whose marts a rotation looks after.
_MARTS = {"logins": "masked.logins", "captures": "masked.packets", "validations": "masked.validations"}

Step = Callable[[str], None]


def list_epochs(caller: Caller) -> list[Epoch]:
    """Give the epochs of a tenant's token keys."""
    with caller.permitted(Right.OPERATE, Action.EPOCHS_LISTED):
        return caller.platform.rotation(caller.tenant).epochs()


def rotate_keys(caller: Caller, *, at_once: bool, on_step: Step) -> dict[str, Any]:
    """Begin a new epoch and make every token anew; the old root waits for its end, or goes at once.

    A rotation that was cut short goes on. Raises: BusyError where old tokens came in meanwhile.
    """
    rotation = caller.platform.rotation(caller.known_tenant())
    with caller.permitted(Right.OPERATE, Action.EPOCH_BEGUN, at_once=str(at_once)):
        epoch = rotation.begin()
        caller.results["epoch"] = epoch
    with caller.permitted(Right.OPERATE, Action.EPOCH_RENEWED, epoch=epoch):
        tables = _renew(caller, rotation, on_step)
        caller.results["files"] = sum(one.files for one in tables)
    destroyed = retire_keys(caller, at_once=True) if at_once else []
    return {
        "epoch": epoch,
        "tables": {one.table: one.rows for one in tables},
        "destroyed": destroyed,
        "epochs": [asdict(one) for one in rotation.epochs()],
    }


def retire_keys(caller: Caller, *, at_once: bool = False) -> list[int]:
    """Destroy the roots of replaced epochs whose time is over, or of all that are replaced."""
    with caller.permitted(Right.OPERATE, Action.EPOCH_DESTROYED, at_once=str(at_once)):
        destroyed = caller.platform.rotation(caller.tenant).retire(at_once=at_once)
        caller.results["epochs"] = ", ".join(map(str, destroyed)) or "none"
        return destroyed


def _renew(caller: Caller, rotation: Rotation, on_step: Step) -> list[Renewed]:
    on_step("subject keys and devices")
    rotation.renew_keys()
    keys = rotation.table_keys()
    # The whole map before the first table: a question in between meets one token for one value.
    for key in keys:
        on_step(f"map of {key}")
        rotation.map_tokens(key)
    on_step("vault")
    rotation.map_cells()
    rotation.renew_cells()
    renewed = []
    for key in keys:
        on_step(key)
        renewed.append(rotation.renew_table(key))
    _rebuild_marts(caller, rotation, on_step)
    if caller.platform.publishing.is_on:
        # Before the end: a database that is away must not be left with tokens of a destroyed root.
        on_step("user_logins in PostgreSQL")
        caller.platform.publishing.equalise_tenant(caller.tenant)
    rotation.finish()
    return renewed


def _rebuild_marts(caller: Caller, rotation: Rotation, on_step: Step) -> None:
    """Rebuild the dates that were built while a table held tokens of both epochs."""
    for subject, table in _MARTS.items():
        if caller.platform.tables.exists(caller.tenant, table) and (dates := rotation.dates_since(table)):
            on_step(f"marts of {subject}, {len(dates)} dates")
            mark = f"rotation/{datetime.now(UTC):%Y%m%dT%H%M%S}"
            caller.platform.marts.rebuild(caller.tenant, subject, dates, mark)
