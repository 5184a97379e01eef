"""Requests that may come twice: with a key, the second one gets the first one's answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse

from lockhouse.operations import Caller
from stores.idempotency import Answer

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[A-Za-z0-9._:-]{1,128}$",
        description="The same key again gives the first answer, for a day at least.",
    ),
]


def answer_once(
    caller: Caller, key: str | None, request: bytes, act: Callable[[], tuple[int, dict[str, Any]]]
) -> JSONResponse:
    """Do something once for a key; the request is known by a keyed digest of it.

    Raises: UsageError where the key came with another request; NotYetError while the first one runs.
    """
    if key is None:
        return located(*act())
    store, who = caller.platform.idempotency, (caller.known_tenant(), caller.principal, key)
    done = store.begin(*who, caller.digest(request.decode("latin-1")))
    if done is not None:
        return located(done.status, json.loads(done.body))
    try:
        status, body = act()
    except BaseException:
        store.abandon(*who)
        raise
    store.finish(*who, Answer(status, json.dumps(body)))
    return located(status, body)


def ask_once(
    request: Request, caller: Caller, key: str | None, asked: bytes, act: Callable[[], dict[str, Any]]
) -> JSONResponse:
    """Write down a request of a data subject, once for a key, and have it done by a process of its own."""
    answer = answer_once(caller, key, asked, lambda: (202, act()))
    request.app.state.errands.wake()
    return answer


def located(status: int, body: dict[str, Any]) -> JSONResponse:
    """Give an answer that says in `Location` where to look for what becomes of it."""
    places = {"job": "/v1/jobs/", "upload": "/v1/uploads/", "self": ""}
    named = next((name for name in places if body.get(name)), None)
    headers = {"Location": f"{places[named]}{body[named]}"} if named else {}
    return JSONResponse(body, status, headers=headers)
