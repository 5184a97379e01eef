"""Cells of a query's answer, as JSON knows them."""

from __future__ import annotations

from decimal import Decimal


def plain_number(value: Decimal) -> int | str:
    """Give a decimal as a whole number where it is one, else as text, which keeps every digit.

    DuckDB adds whole numbers up to such decimals, and nobody expects the sum of counts to be a text.

    >>> plain_number(Decimal("10075")), plain_number(Decimal("1.50")), plain_number(Decimal("nan"))
    (10075, '1.50', 'NaN')
    """
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else str(value)
