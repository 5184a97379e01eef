"""Whether the service lives, is ready, and how it does."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lockhouse.service.callers import platform_of
from lockhouse.service.problems import report
from orchestration.resources import Platform

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process answers")
def get_health() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Whether requests can be served",
    responses={503: {"description": "Something is missing", "content": {"application/json": {}}}},
)
def get_readiness(request: Request) -> JSONResponse:
    """Say whether database, keyring and landing are there; what is wrong stands in the log."""
    checks = check_readiness(platform_of(request))
    return JSONResponse({"ready": all(checks.values()), "checks": checks}, 200 if all(checks.values()) else 503)


def check_readiness(platform: Platform) -> dict[str, bool]:
    """Look whether each thing that requests need is there."""

    def is_there(look: object) -> bool:
        try:
            return bool(look()) if callable(look) else False
        except Exception as error:
            report(error)
            return False

    return {
        "database": is_there(lambda: platform.database.revision()),
        "keyring": is_there(lambda: platform.provider.signing_key()),
        "landing": is_there(platform.home.landing.is_dir),
        "lake": is_there(platform.home.lake.is_dir),
    }


@router.get("/metrics", summary="Counts for Prometheus", response_class=Response)
def get_metrics(request: Request) -> Response:
    """Give counts and times by route; no name, no id and no address is in them."""
    return Response(generate_latest(request.app.state.meter.registry), media_type=CONTENT_TYPE_LATEST)
