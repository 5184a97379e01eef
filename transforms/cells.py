"""Cells of a query's answer, as JSON knows them."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any


def plain_cell(value: Any) -> Any:  # noqa: ANN401 - whatever a cell holds
    r"""Give a value as JSON knows it; numbers that JSON has not become null, the rest becomes text.

    >>> plain_cell([b"\x01", datetime(2026, 11, 21, 7), float("nan"), {"sum": Decimal("10075")}, (1, 2)])
    ['01', '2026-11-21T07:00:00', None, {'sum': 10075}, [1, 2]]
    """
    if isinstance(value, dict):
        return {str(name): plain_cell(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_cell(one) for one in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Decimal):
        return _plain_number(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if value is None or isinstance(value, str | int | bool):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def _plain_number(value: Decimal) -> int | str:
    """Give a decimal as a whole number where it is one, else as text, which keeps every digit.

    DuckDB adds whole numbers up to such decimals, and nobody expects the sum of counts to be a text.

    >>> _plain_number(Decimal("10075")), _plain_number(Decimal("1.50")), _plain_number(Decimal("nan"))
    (10075, '1.50', 'NaN')
    """
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else str(value)
