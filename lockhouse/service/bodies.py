"""Bodies of requests: read in bounded steps, with a bound on what they expand to."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from transforms.errors import TooLargeError, UnreadableError, UsageError
from transforms.streams import plain_blocks

# Something must stand there that can be seen.
NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
# Fewer hops to a thread, and larger writes, than the few KiB in which a server gives a body.
_WRITTEN_BYTES = 1 << 20


async def read_body(request: Request, most_bytes: int) -> bytes:
    """Read a whole body.

    Raises: TooLargeError as soon as it is larger than `most_bytes`.
    """
    check_length(request, most_bytes)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most_bytes:
            raise _too_large(most_bytes)
        pieces.append(piece)
    return b"".join(pieces)


async def write_body(request: Request, target: BinaryIO, most_bytes: int) -> int:
    """Write a body into a file as it comes, in a thread, so that others are served meanwhile.

    Raises: TooLargeError as soon as it is larger than `most_bytes`.
    """
    check_length(request, most_bytes)
    held = bytearray()
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most_bytes:
            raise _too_large(most_bytes)
        held += piece
        if len(held) >= _WRITTEN_BYTES:
            await run_in_threadpool(target.write, bytes(held))
            held.clear()
    await run_in_threadpool(target.write, bytes(held))
    return size


def check_length(request: Request, most_bytes: int) -> None:
    """Refuse a body by what it says of itself, before it is sent.

    Raises: TooLargeError.
    """
    promised = request.headers.get("content-length", "0")
    if not promised.isdigit() or int(promised) > most_bytes:
        raise _too_large(most_bytes)


def check_expansion(content: bytes | Path, most_bytes: int) -> int:
    """Refuse what expands to more than it may, else give to how much; nothing of it is kept meanwhile.

    Raises: TooLargeError for a bomb; UsageError where the compression is damaged.
    """
    size = 0
    try:
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
            for block in plain_blocks(stream, most_bytes + 1):
                size += len(block)
    except UnreadableError:
        if size > most_bytes - (1 << 20):
            raise TooLargeError(f"the body expands to more than {most_bytes} bytes") from None
        raise UsageError("the body's compression is damaged") from None
    if size > most_bytes:
        raise TooLargeError(f"the body expands to more than {most_bytes} bytes")
    return size


def _too_large(most_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than {most_bytes} bytes")
