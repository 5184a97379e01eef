"""Who may do what: the one table of roles and rights that every door reads."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypeAlias, get_args

# What personal data may be opened for.
Purpose: TypeAlias = Literal["incident", "fraud", "legal", "support", "subject-request"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class Right(StrEnum):
    """Something that can be allowed. The names are the scopes of the HTTP service as well."""

    INGEST = "events:write"
    READ_TABLES = "tables:read"
    REVEAL = "pii:reveal"
    READ_QUARANTINE = "quarantine:read"
    CHANGE_QUARANTINE = "quarantine:write"
    READ_CAPTURES = "captures:read"  # packets without payload, addresses encrypted
    READ_PAYLOAD = "captures:payload"  # packets as they were captured
    MANAGE_DEVICES = "devices:write"
    ACCESS_SUBJECTS = "subjects:access"
    ERASE_SUBJECTS = "subjects:erase"
    APPROVE_REVEALS = "pii:approve"
    SUBMIT_VALIDATIONS = "validations:write"
    READ_VALIDATIONS = "validations:read"
    DISCLOSE_VALIDATIONS = "validations:pii"
    CHANGE_VALIDATIONS = "validations:change"
    READ_AUDIT = "audit:read"
    OPERATE = "admin"


# Rights that a grant can give over the devices of a group.
OF_DEVICES = frozenset({Right.READ_CAPTURES, Right.READ_PAYLOAD})


class Role(StrEnum):
    """What a principal is in a tenant."""

    OPERATOR = "operator"
    DATA_ENGINEER = "data-engineer"
    ANALYST = "analyst"
    INVESTIGATOR = "investigator"
    PRIVACY_OFFICER = "privacy-officer"
    AUDITOR = "auditor"
    CLIENT = "client"


RIGHTS: Mapping[str, frozenset[Right]] = {
    Role.OPERATOR: frozenset(Right),
    Role.DATA_ENGINEER: frozenset(
        {
            Right.INGEST,
            Right.READ_TABLES,
            Right.READ_QUARANTINE,
            Right.CHANGE_QUARANTINE,
            Right.MANAGE_DEVICES,
            Right.SUBMIT_VALIDATIONS,
            Right.READ_VALIDATIONS,
        }
    ),
    Role.ANALYST: frozenset({Right.READ_TABLES, Right.READ_CAPTURES}),
    Role.INVESTIGATOR: frozenset({Right.READ_TABLES, Right.READ_CAPTURES, Right.READ_PAYLOAD}),
    Role.PRIVACY_OFFICER: frozenset(
        {
            Right.READ_TABLES,
            Right.REVEAL,
            Right.APPROVE_REVEALS,
            Right.ACCESS_SUBJECTS,
            Right.ERASE_SUBJECTS,
            Right.READ_AUDIT,
            Right.READ_CAPTURES,
            Right.MANAGE_DEVICES,
            Right.READ_VALIDATIONS,
            Right.DISCLOSE_VALIDATIONS,
            Right.CHANGE_VALIDATIONS,
        }
    ),
    Role.AUDITOR: frozenset({Right.READ_AUDIT}),
    Role.CLIENT: frozenset({Right.INGEST, Right.SUBMIT_VALIDATIONS, Right.READ_VALIDATIONS}),
}


def allows(role: str, right: Right) -> bool:
    """Whether a role holds a right; an unknown role holds none.

    >>> allows("analyst", Right.READ_TABLES), allows("analyst", Right.REVEAL), allows("king", Right.REVEAL)
    (True, False, False)
    """
    return right in RIGHTS.get(role, ())
