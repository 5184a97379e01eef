"""What HTTP says of parts and versions of an answer: ranges, entity tags, file names."""

from __future__ import annotations

import re
from urllib.parse import quote

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


class _Unsatisfiable:
    """A range that begins behind the end."""


UNSATISFIABLE = _Unsatisfiable()


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | _Unsatisfiable | None:
    """Read a range of bytes as [first, end); None where all is asked for, or several ranges are.

    Source: RFC 9110 section 14; what is not understood is ignored, and all is sent.

    >>> parse_range("bytes=2-4", 10), parse_range("bytes=-3", 10), parse_range("bytes=8-", 10)
    ((2, 5), (7, 10), (8, 10))
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found.group(1) == found.group(2) == "":
        return None
    first, last = found.groups()
    if not first:
        length = int(last)
        return (max(0, size_bytes - length), size_bytes) if length and size_bytes else UNSATISFIABLE
    if last and int(last) < int(first):
        return None
    if int(first) >= size_bytes:
        return UNSATISFIABLE
    return int(first), min(int(last) + 1 if last else size_bytes, size_bytes)


def matches_tag(header: str | None, tag: str) -> bool:
    """Whether a list of entity tags names one, as `If-None-Match` compares them.

    >>> matches_tag('W/"a", "b"', '"b"'), matches_tag("*", '"b"'), matches_tag(None, '"b"')
    (True, True, False)
    """
    if header is None:
        return False
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in named or tag in named


def attachment(name: str) -> str:
    r"""Write a Content-Disposition for a file to be kept, whatever is in its name (RFC 6266).

    >>> attachment('a"b\r\nSet-Cookie: x.pcap')
    'attachment; filename="a_b_Set-Cookie_x.pcap"; filename*=UTF-8\'\'a%22b%0D%0ASet-Cookie%3A%20x.pcap'
    """
    return f"attachment; filename=\"{_SAFE.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"
