"""The rules that decide about a validation: pure, and the same today and when an event is replayed.

A reason is a code, and never says what was met.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import phonenumbers

from transforms.validations.documents import is_number_sound

# Older people than anybody was ever known to be.
_OLDEST_YEARS = 123
# What stands between the parts of a name, beside letters of any script and their marks.
_BETWEEN = frozenset(" '’ʼ.-,·")
# The kinds whose numbers ICAO Doc 9303 describes.
_TRAVEL_DOCUMENTS = ("passport", "identity_card", "residence_permit")
# Countries and territories in which addresses are complete without a postal code (Universal Postal Union).
_WITHOUT_POSTAL_CODES = frozenset(
    """AE AG AO AW BF BI BJ BO BS BW BZ CD CF CG CI CK CM DJ DM ER FJ GD GH GM GQ GY HK KI KM KN KP LY ML MO
    MR MW NR NU QA RW SB SC SL SR ST SY TD TF TG TK TL TO TV UG VU YE ZW""".split()
)


class Verdict(StrEnum):
    """What was decided."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Why a request was rejected: the field, and what is wrong with it."""

    NAME = "full_name.malformed"
    FUTURE = "date_of_birth.in_future"
    IMPLAUSIBLE = "date_of_birth.implausible"
    TOO_YOUNG = "date_of_birth.too_young"
    PHONE = "phone_number.invalid"
    COUNTRY = "address_country.unknown"
    ADDRESS = "address.incomplete"
    DOCUMENT = "document.incomplete"
    CHECK_DIGIT = "document_number.check_digit"


@dataclass(frozen=True)
class Decision:
    """A verdict with its reasons, in the order of the rules; none where it was accepted."""

    verdict: Verdict
    reasons: tuple[Reason, ...]


def decide_validation(fields: Mapping[str, str], on: date, minimum_age: int) -> Decision:
    """Decide about the fields of a request, in canonical form, as of a day.

    Units: `minimum_age` in whole years.
    """
    born = date.fromisoformat(fields["date_of_birth"])
    reasons = (*_met(fields), *_judge_birth(born, on, minimum_age))
    return Decision(Verdict.REJECTED if reasons else Verdict.ACCEPTED, reasons)


def compute_age(born: date, on: date) -> int:
    """Give a person's age in whole years; born on 29 February, they come of age on 1 March.

    >>> compute_age(date(2004, 2, 29), date(2022, 2, 28)), compute_age(date(2004, 2, 29), date(2022, 3, 1))
    (17, 18)
    """
    return on.year - born.year - ((on.month, on.day) < (born.month, born.day))


def _judge_birth(born: date, on: date, minimum_age: int) -> Iterator[Reason]:
    if born > on:
        yield Reason.FUTURE
    elif compute_age(born, on) > _OLDEST_YEARS:
        yield Reason.IMPLAUSIBLE
    elif compute_age(born, on) < minimum_age:
        yield Reason.TOO_YOUNG


def _met(fields: Mapping[str, str]) -> Iterator[Reason]:
    return (reason for reason, holds in _RULES.items() if not holds(fields))


def _has_name(fields: Mapping[str, str]) -> bool:
    """Whether the name has two letters at least, and nothing in it that no name has."""
    name = fields["full_name"]
    known = all(unicodedata.category(one)[0] in "LM" or one in _BETWEEN for one in name)
    return known and name[0].isalpha() and sum(one.isalpha() for one in name) >= 2


def _has_phone(fields: Mapping[str, str]) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(fields["phone_number"], None))
    except phonenumbers.NumberParseException:
        return False


def _has_country(fields: Mapping[str, str]) -> bool:
    return fields["address_country"] in phonenumbers.SUPPORTED_REGIONS


def _has_address(fields: Mapping[str, str]) -> bool:
    wanted = ["address_street", "address_city"]
    if fields["address_country"] not in _WITHOUT_POSTAL_CODES:
        wanted.append("address_postal_code")
    return all(fields.get(name, "").strip() for name in wanted)


def _has_whole_document(fields: Mapping[str, str]) -> bool:
    """Whether a document has both its kind and its number, or there is none."""
    return ("document_type" in fields) == ("document_number" in fields)


def _has_sound_number(fields: Mapping[str, str]) -> bool:
    number = fields.get("document_number")
    is_travel = fields.get("document_type") in _TRAVEL_DOCUMENTS
    return number is None or not is_travel or is_number_sound(number)


_RULES: Mapping[Reason, Callable[[Mapping[str, str]], bool]] = {
    Reason.NAME: _has_name,
    Reason.PHONE: _has_phone,
    Reason.COUNTRY: _has_country,
    Reason.ADDRESS: _has_address,
    Reason.DOCUMENT: _has_whole_document,
    Reason.CHECK_DIGIT: _has_sound_number,
}
