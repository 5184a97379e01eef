"""Thrift's compact protocol, so far as the metadata of Parquet files need it: values out, none in.

A value is its type's number and its bytes; a structure is a mapping from fields' numbers to values.

Source: the Thrift compact protocol encoding, sections "Base types", "Struct", "List".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = "tuple[int, bytes]"

_TRUE, _FALSE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 5, 6, 8, 9, 12
_SHORT_LIST = 15


def varint(number: int) -> bytes:
    """Write a number from 0 in groups of seven bits, the lowest first.

    >>> varint(300).hex()
    'ac02'
    """
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def zigzag(number: int) -> bytes:
    """Write a number of any sign: those near 0 are short.

    >>> zigzag(-1).hex(), zigzag(1).hex()
    ('01', '02')
    """
    return varint(number * 2 if number >= 0 else -number * 2 - 1)


def boolean(value: bool) -> Value:
    """Give a truth value as a field; it stands in the type."""
    return (_TRUE if value else _FALSE), b""


def int32(number: int) -> Value:
    """Give a number of 32 bits."""
    return _I32, zigzag(number)


def int64(number: int) -> Value:
    """Give a number of 64 bits."""
    return _I64, zigzag(number)


def binary(content: bytes) -> Value:
    """Give bytes, or a text's UTF-8."""
    return _BINARY, varint(len(content)) + content


def listing(values: Sequence[Value]) -> Value:
    """Give a list of values of one type; at least one."""
    kind = values[0][0]
    if len(values) < _SHORT_LIST:
        head = bytes([len(values) << 4 | kind])
    else:
        head = bytes([0xF0 | kind]) + varint(len(values))
    return _LIST, head + b"".join(content for _, content in values)


def structure(fields: Mapping[int, Value]) -> Value:
    """Give a structure; its fields' numbers rise, each by at most 15.

    >>> structure({1: int32(1), 3: boolean(True)})[1].hex()
    '15022100'
    """
    content, before = bytearray(), 0
    for number, (kind, octets) in fields.items():
        content += bytes([number - before << 4 | kind]) + octets
        before = number
    return _STRUCT, bytes(content) + b"\0"
