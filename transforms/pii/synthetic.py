"""Synthetic records, made from a contract and a seed: nobody's data, in the shape of everybody's.

Canaries are synthetic values too: planted in real paths, they must never be read again anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from transforms.pii.contracts import Contract, Field


def synthetic_records(
    contract: Contract, seed: int, count: int, until: datetime, days: int = 3, events_a_subject: int = 20
) -> Iterator[dict[str, Any]]:
    """Make records of a contract: the same seed gives the same records.

    A subject keeps most of its values from event to event, as people keep their devices; event times
    lie in the `days` before `until`, busier by day than by night.
    """
    dice = random.Random(seed)  # noqa: S311 - data for show, not for secrets
    people = [_record(contract, dice) for _ in range(max(1, count // events_a_subject))]
    for _ in range(count):
        record = dict(dice.choice(people))
        for declared in contract.fields:
            if declared.name == contract.event_time:
                record[declared.name] = _moment(dice, until, days).isoformat()
            elif not declared.is_subject and dice.random() < _CHANGE:
                record[declared.name] = synthetic_value(declared, dice)
        yield {name: value for name, value in record.items() if value is not None}


# How often a person's value differs from their usual one.
_CHANGE = 0.08


def as_json_lines(records: Iterator[Mapping[str, Any]]) -> bytes:
    """Write records as JSON lines."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


def _record(contract: Contract, dice: random.Random) -> dict[str, Any]:
    return {declared.name: synthetic_value(declared, dice) for declared in contract.fields}


def _moment(dice: random.Random, until: datetime, days: int) -> datetime:
    back = timedelta(seconds=dice.uniform(0, days * 86400))
    moment = until - back
    # Nights are quiet: most of their events move twelve hours, to the day before.
    if moment.hour < 6 and dice.random() < 0.8:
        moment -= timedelta(hours=12)
    return moment.replace(microsecond=dice.randrange(1000) * 1000)


def synthetic_value(declared: Field, dice: random.Random) -> Any:  # noqa: ANN401 - any JSON scalar
    """Make one value of a field; absent now and then where it may be."""
    if not declared.required and dice.random() < 0.1:
        return None
    if declared.examples:
        return dice.choice(declared.examples)
    if declared.synthetic:
        return from_pattern(declared.synthetic, dice)
    return _MAKERS.get(declared.format or declared.logical_type, _text)(dice)


def canary_values(contract: Contract, seed: int, count: int) -> list[str]:
    """Make values that look like each personal text field of a contract in turn, all different."""
    dice = random.Random(seed)  # noqa: S311 - to be recognised, not to be kept secret
    personal = [one for one in contract.fields if one.is_personal and is_telling(one)]
    values: dict[str, None] = {}
    while len(values) < count:
        declared = personal[len(values) % len(personal)]
        # A field that may be absent has a canary all the same.
        values[str(synthetic_value(replace(declared, required=True), dice))] = None
    return list(values)


def is_telling(declared: Field) -> bool:
    """Whether a value says by itself whose it is: a country is kept readable, a date comes up by chance."""
    kept = any(output.strategy == "keep" for output in declared.outputs)
    return declared.logical_type == "string" and declared.format != "date" and not kept


def _ip(dice: random.Random) -> str:
    if dice.random() < 0.1:
        return "2001:db8:" + ":".join(f"{dice.randrange(1, 65536):x}" for _ in range(6))
    return ".".join(str(dice.randrange(1, 255)) for _ in range(4))


def _uuid(dice: random.Random) -> str:
    digits = f"{dice.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _mac(dice: random.Random) -> str:
    return ":".join(f"{dice.randrange(256):02x}" for _ in range(6))


def _email(dice: random.Random) -> str:
    return f"{_word(dice)}.{_word(dice)}@{_word(dice)}.example"


def _text(dice: random.Random) -> str:
    return f"{_word(dice)} {_word(dice)}"


def _word(dice: random.Random) -> str:
    return "".join(dice.choice("bdfgklmnprstvz") + dice.choice("aeiou") for _ in range(dice.randint(2, 4)))


def _account(dice: random.Random) -> str:
    return f"{_word(dice)}.{_word(dice)}{dice.randrange(1000)}"


def _phone(dice: random.Random) -> str:
    """Make a number of those that North America keeps for fiction: 555-0100 to 555-0199."""
    return f"+1{dice.choice(_AREAS)}55501{dice.randrange(100):02d}"


# Area codes that are in use, so that the numbers are well formed.
_AREAS = (201, 202, 203, 205, 206, 207, 208, 209, 210, 212, 213, 214, 215, 216, 217, 218, 219, 224, 225, 228)


def _date(dice: random.Random) -> str:
    return f"{dice.randrange(1935, 2007)}-{dice.randrange(1, 13):02d}-{dice.randrange(1, 29):02d}"


_MAKERS: dict[str, Callable[[random.Random], Any]] = {
    "ip": _ip,
    "uuid": _uuid,
    "mac": _mac,
    "email": _email,
    "account": _account,
    "phone": _phone,
    "date": _date,
    "timestamp": lambda dice: f"2026-11-{dice.randrange(1, 21):02d}T12:00:00+00:00",
    "integer": lambda dice: dice.randrange(1_000_000),
    "number": lambda dice: round(dice.uniform(0, 1000), 3),
    "boolean": lambda dice: dice.random() < 0.5,
}


def from_pattern(pattern: str, dice: random.Random) -> str:
    r"""Make a text of a small regular expression: literals, `\d`, `{n}`, and optional groups.

    >>> from_pattern(r"\d{3}-\d{2}", random.Random(1))
    '291-41'
    """
    made, at = "", 0
    while at < len(pattern):
        if pattern[at] == "(":
            end = pattern.index(")", at)
            if dice.random() < 0.7:
                made += from_pattern(pattern[at + 1 : end], dice)
            at = end + 2
            continue
        escaped = pattern[at] == "\\"
        symbol = pattern[at : at + 2] if escaped else pattern[at]
        at += len(symbol)
        times = 1
        if pattern[at : at + 1] == "{":
            end = pattern.index("}", at)
            times, at = int(pattern[at + 1 : end]), end + 1
        made += "".join(str(dice.randrange(10)) if symbol == r"\d" else symbol[-1] for _ in range(times))
    return made
