"""`init` and `tenant`: making a home, and the tenants in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockhouse.main import caller_of, json_option, platform_of
from lockhouse.output import note, program, show_json, show_table

if TYPE_CHECKING:
    from orchestration.resources import Platform


@click.command("init", short_help="Make the home: keys, databases, you as operator.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The file that opens the keyring; without it one is generated in the home.",
)
@json_option
@click.pass_obj
def init_command(home: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Make the home: keyring, databases, the first tenant, you as its operator. Repeats change nothing.

    \b
    Examples:
      lockhouse init
      lockhouse --home /srv/lockhouse init --passphrase-file /run/secrets/lockhouse
    """
    platform, created = prepare_home(home, passphrase_file)
    if as_json:
        show_json({"home": str(platform.home.root), "created": created})
        return
    note(f"{'Made' if created else 'Found'} the home {platform.home.root}")
    if created and platform.settings.passphrase_file is None:
        note(f"The keyring opens with the generated passphrase in {platform.home.passphrase}")
        note("Keep a copy elsewhere: without it, nothing sealed can ever be opened.")
    note(f"Next: {program()} demo")


def prepare_home(home: Path | None, passphrase_file: Path | None = None) -> tuple[Platform, bool]:
    """Make the home if there is none, with settings and Dagster's own; give it and whether it is new."""
    from orchestration.instance import write_instance
    from stores.home import Home
    from stores.keyring import LocalKeyring, read_passphrase
    from stores.settings import local_user, write_setting

    if passphrase_file is not None:
        root = load_home(home)
        passphrase = read_passphrase(passphrase_file)
        if Home(root).keyring.exists():
            # A file that does not open the keyring must not become the home's setting.
            LocalKeyring(Home(root).keyring, passphrase)
        write_setting(root, "passphrase_file", str(passphrase_file.absolute()))
    platform = platform_of(home)
    created = platform.create_home(local_user())
    write_instance(platform.home.dagster)
    return platform, created


def load_home(home: Path | None) -> Path:
    """Give the home's folder, by option, environment or default."""
    from stores.settings import load_settings

    return load_settings(home).home


@click.group("tenant", short_help="Add and list tenants.")
def tenant_command() -> None:
    """Tenants: each has keys, tables and an audit trail of its own."""


@tenant_command.command("add")
@click.argument("name")
@json_option
@click.pass_obj
def tenant_add(home: Path | None, name: str, as_json: bool) -> None:
    """Register a tenant and make its keys."""
    from lockhouse.operations import add_tenant

    created = add_tenant(caller_of(home, "default"), name)
    if as_json:
        show_json({"tenant": name, "created": created})
    else:
        note(f"{'Added' if created else 'Found'} the tenant {name}")
        note(f"Next: {program()} ingest logins FILE --tenant {name}")


@tenant_command.command("list")
@json_option
@click.pass_obj
def tenant_list(home: Path | None, as_json: bool) -> None:
    """List the tenants."""
    from lockhouse.operations import list_tenants

    names = list_tenants(caller_of(home, "default"))
    if as_json:
        show_json({"tenants": names})
    else:
        show_table(["tenant"], [[name] for name in names])


@tenant_command.command("policy")
@click.argument("name")
@click.option("--interval", type=int, help="How often devices should send, in seconds.")
@click.option("--wifi-only/--any-network", default=None, help="Whether they should wait for Wi-Fi.")
@click.option("--charging-only/--any-power", default=None, help="Whether they should wait for a charger.")
@json_option
@click.pass_obj
def tenant_policy(
    home: Path | None,
    name: str,
    interval: int | None,
    wifi_only: bool | None,
    charging_only: bool | None,
    as_json: bool,
) -> None:
    """Show when devices of the tenant NAME should send files, or set it; each upload's answer tells them.

    \b
    Example:
      lockhouse tenant policy default --interval 3600 --wifi-only
    """
    from dataclasses import asdict

    from lockhouse.ingest_operations import change_upload_policy, read_upload_policy

    caller, asked = caller_of(home, name), (interval, wifi_only, charging_only)
    is_change = any(one is not None for one in asked)
    policy = change_upload_policy(caller, *asked) if is_change else read_upload_policy(caller)
    if as_json:
        show_json({"tenant": name, **asdict(policy)})
    else:
        show_table(["devices should", "is"], [[key, value] for key, value in asdict(policy).items()])
