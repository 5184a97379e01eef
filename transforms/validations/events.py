"""Events of the validations: versioned, without a readable personal value, alike however often they come.

An event is about a validation and one change of it. Both are UUIDs of version 7, so that a later change has
a greater id: whoever keeps the greatest that it has met ends up with the same, in whatever order events come.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from transforms.audit import canonical_json
from transforms.errors import EventError

VERSION = 1


class EventType(StrEnum):
    """What can have happened."""

    VALIDATION_REQUEST = "ValidationRequest"
    VALIDATION_RESULT = "ValidationResult"
    DELETION_REQUEST = "DeletionRequest"
    DATA_STORED = "DataStored"
    DATA_UPDATED = "DataUpdated"
    DATA_DELETED = "DataDeleted"


# Which events make up each part that a record of the lake needs, all of the same change.
COMPLETING: Mapping[str, frozenset[EventType]] = {
    "decision": frozenset({EventType.VALIDATION_RESULT}),
    "personal data": frozenset({EventType.DATA_STORED, EventType.DATA_UPDATED}),
}

_PAYLOADS: Mapping[EventType, frozenset[str]] = {
    EventType.VALIDATION_REQUEST: frozenset({"fields"}),
    EventType.VALIDATION_RESULT: frozenset({"decision"}),
}


@dataclass(frozen=True)
class Event:
    """Something that happened to a validation.

    `fields` are all of a request's, sealed; a change brings those that it left alone as they were before.
    """

    kind: EventType
    tenant: str
    validation: str
    change: str
    fields: Mapping[str, bytes] = field(default_factory=dict)
    decision: str | None = None


def is_complete(met: Collection[str]) -> bool:
    """Whether the events that were met of a change are all that a record of the lake needs.

    >>> is_complete({"ValidationResult"}), is_complete({"DataUpdated", "ValidationResult"})
    (False, True)
    """
    return all(any(kind in met for kind in kinds) for kinds in COMPLETING.values())


def encode_event(event: Event) -> str:
    """Write an event as a message."""
    payload: dict[str, Any] = {}
    if event.kind is EventType.VALIDATION_REQUEST:
        payload["fields"] = {name: base64.b64encode(one).decode() for name, one in event.fields.items()}
    if event.kind is EventType.VALIDATION_RESULT:
        payload["decision"] = event.decision
    named = {"tenant": event.tenant, "validation": event.validation, "change": event.change}
    return canonical_json({"event": str(event.kind), "version": VERSION, **named, "payload": payload})


def decode_event(message: str) -> Event:
    """Read a message.

    Raises: EventError where it is none of ours, or of another version.
    """
    try:
        read = msgspec.json.decode(message, type=dict[str, Any])
        kind, payload = EventType(read["event"]), dict(read["payload"])
        if read["version"] != VERSION or set(payload) != _PAYLOADS.get(kind, frozenset()):
            raise EventError("an event of another version, or with another payload than its kind has")
        fields = {name: base64.b64decode(one, validate=True) for name, one in payload.get("fields", {}).items()}
        ids = (str(uuid.UUID(read["validation"])), str(uuid.UUID(read["change"])))
        return Event(kind, str(read["tenant"]), *ids, fields, payload.get("decision"))
    except (msgspec.DecodeError, KeyError, ValueError, TypeError, AttributeError, binascii.Error):
        raise EventError("a message that is no event") from None


def moment_of(id_7: str) -> datetime:
    """Give the time in a UUID of version 7, UTC, to the millisecond (RFC 9562 section 5.7).

    >>> moment_of("01a1fec0-df13-775c-9309-0840fda3ec81").year
    2026
    """
    return datetime.fromtimestamp((uuid.UUID(id_7).int >> 80) / 1000, UTC)


def following(id_7: str) -> str:
    """Give the next greater UUID of version 7, for a clock that stands still or went back.

    >>> following("01a1fec0-df13-775c-9309-0840fda3ec81")
    '01a1fec0-df13-775c-9309-0840fda3ec82'
    """
    return str(uuid.UUID(int=uuid.UUID(id_7).int + 1))
