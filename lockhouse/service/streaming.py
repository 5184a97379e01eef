"""Answers that are streamed, and whose end is in the trail: whole, broken off, or failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import anyio
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lockhouse.operations import Caller


class AuditedStream(Response):
    """Sends parts as they are made. The entry before it is durable; the one that closes it has the bytes."""

    def __init__(
        self,
        parts: Iterator[memoryview],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        caller: Caller,
        stack: ExitStack,
    ) -> None:
        """Take the parts, and the open operation in `stack`, which is closed with the stream."""
        self.background, self.status_code, self.media_type = None, status, media_type
        self._parts, self._caller, self._stack = parts, caller, stack
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; whoever hangs up in between is noted with what they got."""
        sent = 0
        gone = anyio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        error: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                while (part := await run_sync(next, self._parts, None)) is not None:
                    if gone.is_set():
                        raise ClientDisconnect
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                    sent += len(part)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()
        except BaseException as met:
            error = met
        finally:
            self._caller.results["bytes"] = sent
            # A server that is being stopped still closes what it has begun.
            with anyio.CancelScope(shield=True):
                await run_sync(self._close, error)
        if error is not None and not _is_hang_up(error):
            raise error

    def _close(self, error: BaseException | None) -> None:
        try:
            if error is None:
                self._stack.close()
            else:
                self._stack.__exit__(type(error), error, error.__traceback__)
        except BaseException as met:
            if met is not error:
                raise


def _is_hang_up(error: BaseException) -> bool:
    """Whether the other side went away: nothing of ours is wrong then."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_hang_up(one) for one in error.exceptions)
    return isinstance(error, ClientDisconnect | ConnectionError)
