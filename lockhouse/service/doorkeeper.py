"""Around every request: an id, an entry in the trail, bounds, headers that protect, counts."""

from __future__ import annotations

import time

import uuid_utils
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lockhouse.operations import Caller, take_no_time
from lockhouse.service.problems import make_problem, report
from orchestration.resources import DEFAULT_TENANT, Platform
from transforms.audit import Action, Outcome

# What can be asked without being known, and says nothing of anybody: it is not in the trail.
OPEN_PATHS = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/static/",
    "/.well-known/",
    "/v1/openapi.json",
    "/favicon.ico",
)
NOBODY = "anonymous"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


class Meter:
    """Counts for operators, by route and status; no path as it was sent, since ids stand in it."""

    def __init__(self) -> None:
        """Make the counters in a registry of their own."""
        self.registry = CollectorRegistry()
        labels = ["route", "method", "status"]
        self.requests = Counter(
            "lockhouse_http_requests", "Requests that were answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "lockhouse_http_request_seconds",
            "Time until an answer had left.",
            ["route"],
            registry=self.registry,
        )


class Doorkeeper:
    """The outermost layer. Whatever a route does, its request is in the trail before its answer leaves."""

    def __init__(self, app: ASGIApp, platform: Platform, meter: Meter, is_secure: bool) -> None:
        """Take what is inside."""
        self._app, self._platform, self._meter = app, platform, meter
        strict = ((b"strict-transport-security", b"max-age=31536000"),) if is_secure else ()
        self._headers = (*HEADERS, *strict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid_utils.uuid7())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        span = self._platform.spans.begin(_traceparent(scope)) if self._platform.spans else None
        state["step"] = span.step if span else take_no_time
        begun, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not scope["path"].startswith(OPEN_PATHS):
                    await run_in_threadpool(self._record, scope, status)
                message["headers"] = self._protected(message["headers"], request_id, scope["path"])
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:
            report(error)
            if status == 0:
                await make_problem(request_id, 500)(scope, receive, send_on)
        finally:
            route, method = _route(scope), _method(scope)
            self._meter.requests.labels(route, method, str(status)).inc()
            self._meter.seconds.labels(route).observe(time.perf_counter() - begun)
            if span is not None:
                caller: Caller | None = state.get("caller")
                span.end(method, route, status, request_id, caller.tenant if caller else None)

    def _record(self, scope: Scope, status: int) -> None:
        """Write down a request that no operation wrote down: who, which route, how it was answered."""
        caller: Caller | None = scope["state"].get("caller")
        if caller is not None and caller.entries:
            return
        outcome = (
            Outcome.DONE if status < 400 else Outcome.REFUSED if status in (401, 403, 429) else Outcome.FAILED
        )
        marks: dict[str, str | int] = {"route": _route(scope), "method": _method(scope), "status": status}
        if caller is not None:
            caller.record(Action.REQUEST_ANSWERED, outcome, **marks)
            return
        marks["request"] = scope["state"]["request_id"]
        self._platform.audit.record(DEFAULT_TENANT, NOBODY, Action.REQUEST_ANSWERED, outcome, **marks)

    def _protected(
        self, headers: list[tuple[bytes, bytes]], request_id: str, path: str
    ) -> list[tuple[bytes, bytes]]:
        named = {name.lower() for name, _ in headers}
        added = [*self._headers, (b"x-request-id", request_id.encode())]
        if not path.startswith("/static/"):
            added.append((b"cache-control", b"no-store"))
        return [*headers, *((name, value) for name, value in added if name not in named)]


def _method(scope: Scope) -> str:
    """Give the method where it is one of HTTP's: any other word is the sender's own, and may be a value."""
    return scope["method"] if scope["method"] in _METHODS else "_OTHER"


def _traceparent(scope: Scope) -> str | None:
    """Give the trace that a caller says its request belongs to."""
    found = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
    return found.decode("latin-1") if found is not None else None


def _route(scope: Scope) -> str:
    """Give a route's template, never the path: devices and names stand in that."""
    return getattr(scope.get("route"), "path", "none")
