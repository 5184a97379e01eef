"""How people come in and go: with a password of this house, or through the provider of another one."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lockhouse.access_operations import follow_roles
from lockhouse.service.callers import COOKIE, SECURE_COOKIE, check_csrf, platform_of
from lockhouse.service.limits import Buckets
from lockhouse.service.pages import Form, Person, SignedIn, show_page
from orchestration.resources import DEFAULT_TENANT
from stores.users import SESSION_LASTS, Session
from transforms.access import Role
from transforms.audit import Action, Outcome
from transforms.errors import MissingError, RefusedError
from transforms.sign_in import LONGEST_SIGN_IN_S, Begun

router = APIRouter(include_in_schema=False)
_log = logging.getLogger("lockhouse.service")
_BEGUN = "lockhouse_sign_in"
_SECURE_BEGUN = f"__Host-{_BEGUN}"
_CALLBACK = "/sign-in/callback"
_WRONG = "The name or the password is wrong, or you have no access to this tenant."
_NOT_ADMITTED = "The sign-in did not work, or you have no access here. Begin again, or ask an operator."


@router.get("/sign-in")
def show_sign_in(request: Request) -> HTMLResponse:
    """Show the form."""
    return _shown(request, 200, [])


def _shown(request: Request, status: int, problems: list[str]) -> HTMLResponse:
    platform = platform_of(request)
    sign_ins = platform.sign_ins
    return show_page(
        request,
        "sign_in.html",
        status,
        tenant=DEFAULT_TENANT,
        problems=problems,
        label=sign_ins.provider.label if sign_ins else None,
        passwords=platform.settings.service_password_sign_in,
    )


@router.post("/sign-in")
def sign_in(request: Request, form: Form) -> Response:
    """Begin a session. Wrong is wrong: the page does not say what."""
    platform = platform_of(request)
    if not platform.settings.service_password_sign_in:
        raise RefusedError("nobody signs in with a password here")
    name, tenant = form.get("name", ""), form.get("tenant") or DEFAULT_TENANT
    _check_origin(request)
    _count_attempt(request, name)
    known = tenant in platform.access.tenants()
    try:
        kept, session = platform.users.sign_in(name, form.get("password", ""), tenant)
        if not known or not _belongs(platform.access, session):
            platform.users.sign_out(kept)
            raise RefusedError("the name or the password is wrong")
    except RefusedError:
        return _shown(request, 401, [_WRONG])
    Person(request, session).caller.record(Action.SIGNED_IN, Outcome.DONE)
    answer = RedirectResponse("/captures", 303)
    _keep_session(request, answer, kept)
    return answer


@router.get("/sign-in/provider")
def begin_sign_in(request: Request) -> Response:
    """Send the browser to the provider."""
    sign_ins = platform_of(request).sign_ins
    if sign_ins is None:
        raise MissingError("no provider signs people in here")
    _count_attempt(request, _BEGUN)
    try:
        address, begun = sign_ins.begin(_redirect(request))
    except RefusedError as error:
        _log.warning("sign-in could not begin: %s", error)
        return _shown(request, 503, ["The provider of the sign-in does not answer. Try again in a while."])
    answer = RedirectResponse(address, 303)
    secure = bool(request.app.state.is_secure)
    # The answer is a navigation that another site begins: a strict cookie would not come with it.
    answer.set_cookie(
        _SECURE_BEGUN if secure else _BEGUN,
        _packed(begun),
        max_age=LONGEST_SIGN_IN_S,
        httponly=True,
        samesite="lax",
        secure=secure,
    )
    return answer


@router.get(_CALLBACK)
def end_sign_in(request: Request) -> Response:
    """Take the provider's answer, once, and begin the session."""
    platform = platform_of(request)
    _count_attempt(request, _BEGUN)
    secure = bool(request.app.state.is_secure)
    try:
        if platform.sign_ins is None:
            raise RefusedError("no provider signs people in here")
        begun = _unpacked(request.cookies.get(_SECURE_BEGUN if secure else _BEGUN))
        person = platform.sign_ins.end(dict(request.query_params), begun, _redirect(request))
        if person.tenant not in platform.access.tenants():
            raise RefusedError("the tenant is not one of this house")
        kept, session = platform.users.admit(person.principal, person.tenant)
        caller = Person(request, session).caller
        if person.roles is not None:
            governed = frozenset(Role(one) for one in platform.sign_ins.provider.roles.values())
            follow_roles(caller, person.roles, governed)
        if not _belongs(platform.access, session):
            platform.users.sign_out(kept)
            raise RefusedError("the person has neither role nor grant")
    except RefusedError as error:
        # Our own words, with nothing of the answer in them.
        _log.warning("sign-in refused: %s", error)
        answer: Response = _shown(request, 401, [_NOT_ADMITTED])
    else:
        caller.record(Action.SIGNED_IN, Outcome.DONE, by=platform.sign_ins.provider.name)
        # A redirect would still be the other site's navigation, and the strict cookie would stay behind.
        answer = show_page(request, "signed_in.html", problems=[])
        _keep_session(request, answer, kept)
    answer.delete_cookie(_SECURE_BEGUN if secure else _BEGUN, secure=secure, httponly=True, samesite="lax")
    return answer


@router.post("/sign-out")
def sign_out(request: Request, person: SignedIn, form: Form) -> RedirectResponse:
    """End the session."""
    check_csrf(form.get("csrf", ""), person.session)
    kept = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE) or ""
    person.caller.record(Action.SIGNED_OUT, Outcome.DONE)
    person.caller.platform.users.sign_out(kept)
    answer = RedirectResponse("/sign-in", 303)
    for name in (COOKIE, SECURE_COOKIE):
        answer.delete_cookie(name, secure=name == SECURE_COOKIE, httponly=True, samesite="strict")
    return answer


def _keep_session(request: Request, answer: Response, kept: str) -> None:
    secure = bool(request.app.state.is_secure)
    answer.set_cookie(
        SECURE_COOKIE if secure else COOKIE,
        kept,
        max_age=int(SESSION_LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def _redirect(request: Request) -> str:
    base = platform_of(request).settings.service_url or str(request.base_url)
    return base.rstrip("/") + _CALLBACK


def _count_attempt(request: Request, name: str) -> None:
    buckets: Buckets = request.app.state.attempts
    buckets.take(f"{request.client.host if request.client else '?'}/{name}")


def _packed(begun: Begun) -> str:
    parts = [begun.state, begun.nonce, begun.verifier, begun.begun_at]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def _unpacked(kept: str | None) -> Begun:
    try:
        state, nonce, verifier, begun_at = json.loads(base64.urlsafe_b64decode(kept or ""))
        return Begun(str(state), str(nonce), str(verifier), int(begun_at))
    except (ValueError, TypeError):
        raise RefusedError("this browser has begun no sign-in") from None


def _belongs(access: Any, session: Session) -> bool:  # noqa: ANN401 - the store of access
    """Whether somebody has anything to look for in a tenant: a role, or a grant."""
    granted = access.grants.devices_of(session.principal, session.tenant)
    return bool(granted or access.roles(session.principal, session.tenant))


def _check_origin(request: Request) -> None:
    """Refuse a sign-in that another site sends: it would sign somebody in as somebody else."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RefusedError("sign in at our own page")
