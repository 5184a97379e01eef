"""Taking quarantined records again, under the ids that they had."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lockhouse.operations import Caller, drop_quarantine
from lockhouse.runs import materialise
from lockhouse.validation_operations import retry_requests
from transforms.access import Right
from transforms.audit import Action
from transforms.tables import quarantine_table

if TYPE_CHECKING:
    from stores.quarantine import Entry, Quarantine


def retry_entries(caller: Caller, source: str, entry_ids: Sequence[str] | None) -> dict[str, Any]:
    """Land entries as queue messages that bear their old ids, run the source's job, drop the old entries.

    A crash in between is harmless: the ids are known by then. None stands for every entry. Only
    single records can be taken again; a damaged file has to be delivered anew.
    """
    from stores.contracts import load_contract
    from stores.quarantine import Quarantine

    contract = load_contract(source)
    wanted = len(entry_ids) if entry_ids is not None else 0
    with caller.permitted(Right.CHANGE_QUARANTINE, Action.QUARANTINE_RETRIED, source=source, entries=wanted):
        platform = caller.platform
        store = Quarantine(
            caller.tenant, platform.tables, platform.intake.sealer(caller.tenant), quarantine_table(contract)
        )
        chosen = [one for one in store.entries() if entry_ids is None or one.id in entry_ids]
        messages = {entry.id: message for entry in chosen if (message := _message(store, entry))}
        if not messages:
            return {"retried": 0, "accepted": 0, "quarantined": 0}
        name, content = f"retry-{uuid.uuid4()}", b"\n".join(messages.values())
        if contract.origin == "platform":
            counts = retry_requests(caller, name, content)
        else:
            batches = platform.landing.land(source, caller.tenant, name, content)
            materialise(platform, source, batches)
            counts = platform.ledger.counts([batch.id for batch in batches])
        caller.results.update(accepted=counts.accepted, quarantined=counts.quarantined)
    # What could not be taken again stays.
    drop_quarantine(caller, list(messages))
    return {"retried": len(messages), "accepted": counts.accepted, "quarantined": counts.quarantined}


def _message(store: Quarantine, entry: Entry) -> bytes | None:
    """Wrap a record as a queue would; None where it is no text, and so no record."""
    _, content = store.content(entry.id)
    try:
        return msgspec.json.encode({"MessageId": entry.id, "Body": content.decode()})
    except UnicodeDecodeError:
        return None
