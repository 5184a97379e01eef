"""`init`: making a home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockhouse.main import json_option, platform_of
from lockhouse.output import note, program, show_json

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
