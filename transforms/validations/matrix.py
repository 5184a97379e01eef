"""Which service of the validations may do what: the one table that handles and tests are made from.

What does not stand here cannot be done: a service is given handles that have these methods and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from transforms.validations.events import EventType


class Service(StrEnum):
    """A part of the validations that shares nothing with the others but events and the contract."""

    INTAKE = "intake"
    DISCLOSURE = "disclosure"
    VALIDATOR = "validator"
    PII_STORE = "pii-store"
    ANALYTICS = "analytics"


class Asset(StrEnum):
    """What a service may be let at."""

    LOW = "low-security store"
    HIGH = "high-security store"
    KEYS = "keys"
    EVENTS = "events"


VERBS: Mapping[Asset, tuple[str, ...]] = {
    Asset.LOW: ("put", "update", "delete", "get"),
    Asset.HIGH: ("put", "update", "delete", "get"),
    Asset.KEYS: ("encrypt", "decrypt"),
    Asset.EVENTS: ("publish", "subscribe"),
}

MATRIX: Mapping[Service, Mapping[Asset, tuple[str, ...]]] = {
    Service.INTAKE: {Asset.KEYS: ("encrypt",), Asset.EVENTS: ("publish",)},
    Service.DISCLOSURE: {Asset.LOW: ("get",), Asset.HIGH: ("get",), Asset.KEYS: ("decrypt",)},
    Service.VALIDATOR: {
        Asset.LOW: ("put", "update", "delete"),
        Asset.KEYS: ("decrypt",),
        Asset.EVENTS: ("publish", "subscribe"),
    },
    Service.PII_STORE: {
        Asset.HIGH: ("put", "update", "delete"),
        Asset.EVENTS: ("publish", "subscribe"),
    },
    Service.ANALYTICS: {
        Asset.LOW: ("get",),
        Asset.HIGH: ("get",),
        Asset.KEYS: ("decrypt",),
        Asset.EVENTS: ("subscribe",),
    },
}

SUBSCRIPTIONS: Mapping[Service, frozenset[EventType]] = {
    Service.VALIDATOR: frozenset({EventType.VALIDATION_REQUEST, EventType.DELETION_REQUEST}),
    Service.PII_STORE: frozenset({EventType.VALIDATION_REQUEST, EventType.DELETION_REQUEST}),
    Service.ANALYTICS: frozenset(EventType),
}

PUBLICATIONS: Mapping[Service, frozenset[EventType]] = {
    Service.INTAKE: frozenset({EventType.VALIDATION_REQUEST, EventType.DELETION_REQUEST}),
    Service.VALIDATOR: frozenset({EventType.VALIDATION_RESULT}),
    Service.PII_STORE: frozenset({EventType.DATA_STORED, EventType.DATA_UPDATED, EventType.DATA_DELETED}),
}


def verbs_of(service: Service, asset: Asset) -> tuple[str, ...]:
    """Give what a service may do with an asset.

    >>> verbs_of(Service.PII_STORE, Asset.KEYS), verbs_of(Service.INTAKE, Asset.KEYS)
    ((), ('encrypt',))
    """
    return MATRIX[service].get(asset, ())


def subscribers_of(kind: EventType) -> tuple[Service, ...]:
    """Give the services that an event goes to.

    >>> subscribers_of(EventType.VALIDATION_RESULT)
    (<Service.ANALYTICS: 'analytics'>,)
    """
    return tuple(service for service, kinds in SUBSCRIPTIONS.items() if kind in kinds)
