"""Check digits of identity documents."""

from __future__ import annotations

_WEIGHTS = (7, 3, 1)


def compute_check_digit(text: str) -> int:
    """Give the check digit of a field of a machine-readable zone: digits, capital letters and fillers.

    Source: ICAO Doc 9303 part 3, section 4.9; its own example is a number with the check digit 6.

    >>> compute_check_digit("L898902C3")
    6
    """
    weighed = (_value(one) * _WEIGHTS[at % 3] for at, one in enumerate(text))
    return sum(weighed) % 10


def is_number_sound(number: str) -> bool:
    """Whether a document number is sound: one of ten characters brings its check digit, shorter ones none.

    >>> is_number_sound("L898902C36"), is_number_sound("L898902C35"), is_number_sound("L898902C3")
    (True, False, True)
    """
    if len(number) != 10:
        return True
    return number[-1].isdigit() and int(number[-1]) == compute_check_digit(number[:-1])


def _value(character: str) -> int:
    """Give what a character counts: 0 to 9, A to Z from 10, a filler nothing."""
    return 0 if character == "<" else int(character, 36)
