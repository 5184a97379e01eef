"""The application: routes, pages and what stands around them, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from lockhouse.errands import Errands, count_errands
from lockhouse.service import (
    approvals,
    captures,
    health,
    ingest,
    pages,
    sign_in,
    subject_pages,
    subjects,
    tables,
    tokens,
    trail,
    validations,
)
from lockhouse.service.doorkeeper import Doorkeeper, Meter
from lockhouse.service.limits import Buckets
from lockhouse.service.problems import NEEDED, Problem, add_handlers
from orchestration.resources import Platform

_HERE = Path(__file__).parent
_ABOUT = """
Login events, packet captures and identity validations: in, masked, queried, and given back to whoever may have
them. Every request is in the audit trail before its answer leaves.
"""
ROOMS = (
    health,
    tokens,
    captures,
    ingest,
    tables,
    subjects,
    approvals,
    validations,
    trail,
    sign_in,
    pages,
    subject_pages,
)
# What an entry that allows nothing may wait for the disk; one that allows something does not wait.
SYNC_AFTER_S = 0.2
# Guesses of a secret or password, from one address for one name.
ATTEMPTS_PER_MINUTE = 10


def make_application(platform: Platform, is_secure: bool = False) -> FastAPI:
    """Make the service over a platform; `is_secure` where browsers reach it over TLS."""
    application = FastAPI(
        title="Lockhouse",
        version="1",
        description=_ABOUT,
        openapi_url="/v1/openapi.json",
        # Both pages would fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=_go_on,
        # The framework's own spans and logs would hold paths and texts of errors.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    platform.audit.sync_later(SYNC_AFTER_S)
    meter = Meter()
    application.state.platform, application.state.meter = platform, meter
    application.state.is_secure = is_secure
    application.state.buckets = Buckets(platform.settings.service_requests_per_minute)
    application.state.attempts = Buckets(ATTEMPTS_PER_MINUTE)
    application.state.errands = Errands(platform)
    # The framework keeps what is included to itself; whoever asks in a wrong way is told the right ones.
    application.state.routes = [route for room in ROOMS for route in room.router.routes]
    for room in ROOMS:
        application.include_router(room.router)
    application.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    add_handlers(application)
    _amend_document(application)
    application.add_middleware(Doorkeeper, platform=platform, meter=meter, is_secure=is_secure)
    return application


@asynccontextmanager
async def _go_on(application: FastAPI) -> AsyncIterator[None]:
    """Go on with what a stopped service has left: requests of data subjects have a deadline."""
    if await run_in_threadpool(count_errands, application.state.platform):
        application.state.errands.wake()
    yield
    if application.state.platform.spans is not None:
        await run_in_threadpool(application.state.platform.spans.close)


def _amend_document(application: FastAPI) -> None:
    """Say in the OpenAPI document what the framework cannot know: the form of problems, what is needed."""
    made = application.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        # Ours takes the place of the framework's own, which would repeat what was sent.
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        operations = [one for path in document["paths"].values() for one in path.values()]
        for parameter in (named for one in operations for named in one.get("parameters", ())):
            if parameter["schema"].pop(NEEDED, False):
                parameter["required"] = True
        return document

    application.openapi = openapi  # type: ignore[method-assign]
