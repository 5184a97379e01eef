"""`serve`: the HTTP service alone."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockhouse.main import platform_of
from lockhouse.output import note

if TYPE_CHECKING:
    from stores.settings import Settings

DEFAULT_PORT = 8800


@click.command("serve", short_help="Start the HTTP service: API and page.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="The port; 0 for any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.pass_obj
def serve_command(home: Path | None, port: int, host: str) -> None:
    """Start the HTTP service on this machine. Ctrl-C stops it.

    Elsewhere than on this machine it listens with a certificate of its own (service_certificate_file,
    service_key_file), or where service_behind_proxy says that a proxy ends TLS in front of it.

    \b
    Examples:
      lockhouse user add iris && lockhouse serve
      lockhouse serve --port 8443 --host 0.0.0.0
    """
    platform = platform_of(home)
    options = plan_serving(platform.settings, host)
    # What is missing is told before anything listens.
    platform.database.revision()
    platform.tokens.jwks()
    run_service(platform, host, port, options)


def plan_serving(settings: Settings, host: str) -> dict[str, Any]:
    """Give uvicorn's options for TLS and proxies.

    Raises: UsageError where it would listen elsewhere in clear.
    """
    from transforms.errors import UsageError

    certificate, key = settings.service_certificate_file, settings.service_key_file
    if bool(certificate) != bool(key):
        raise UsageError("TLS needs both service_certificate_file and service_key_file")
    if certificate and key:
        return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    if not is_loopback(host) and not settings.service_behind_proxy:
        raise UsageError(
            "passwords and packets would cross the network in clear: set service_certificate_file and "
            "service_key_file, or service_behind_proxy where a proxy ends TLS"
        )
    return {}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run_service(platform: Any, host: str, port: int, options: dict[str, Any]) -> None:  # noqa: ANN401 - the platform
    """Serve until a signal comes."""
    import uvicorn

    from lockhouse.service.application import make_application

    is_secure = bool(options) or bool(platform.settings.service_behind_proxy)
    config = uvicorn.Config(
        make_application(platform, is_secure),
        host=host,
        port=port,
        log_level="warning",
        # Paths hold ids of devices: what was asked stands in the trail, by pseudonyms.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        **options,
    )
    server = uvicorn.Server(config)
    sockets = [config.bind_socket()]
    bound = sockets[0].getsockname()[1]
    note(f"Service      {'https' if options else 'http'}://{'[' + host + ']' if ':' in host else host}:{bound}")
    note("Stop         Ctrl-C")
    server.run(sockets)
