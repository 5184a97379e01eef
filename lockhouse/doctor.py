"""`doctor`: what is wrong with a home, and how to mend it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockhouse.main import FAILED, json_option, platform_of
from lockhouse.output import note, show_json, show_table
from transforms.errors import LockhouseError

if TYPE_CHECKING:
    from orchestration.resources import Platform

_LEAST_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `mend` says what to do where it is not well."""

    name: str
    ok: bool
    found: str
    mend: str = ""


@click.command("doctor", short_help="What is wrong here, and how to mend it.")
@json_option
@click.pass_obj
def doctor_command(home: Path | None, as_json: bool) -> int:
    """Look at the home: folders, keys, database, contracts, marts, batches, audit trail, disk.

    Exit code 1 where something is not well.
    """
    checks = list(examine(platform_of(home)))
    if as_json:
        show_json({"checks": [asdict(check) for check in checks]})
    else:
        show_table(
            ["", "what", "found", "to do"],
            [["ok" if one.ok else "!!", one.name, one.found, one.mend] for one in checks],
        )
        note("All is well." if all(one.ok for one in checks) else "Something is not well: see “to do”.")
    return 0 if all(check.ok for check in checks) else FAILED


def examine(platform: Platform) -> Iterator[Check]:
    """Look at everything; one thing that fails does not keep the others from being looked at."""
    looks: dict[str, Callable[[Platform], Check]] = {
        "home": _home,
        "keyring": _keyring,
        "database": _database,
        "contracts": _contracts,
        "marts": _marts,
        "batches": _batches,
        "audit trail": _audit,
        "disk": _disk,
    }
    for name, look in looks.items():
        try:
            yield look(platform)
        except LockhouseError as error:
            yield Check(name, False, str(error), "see the message")
        except Exception as error:  # a library's own; its text may hold a value
            yield Check(name, False, f"cannot be looked at ({type(error).__name__})", "mend what stands above")


def _home(platform: Platform) -> Check:
    root = platform.home.root
    if not root.is_dir():
        return Check("home", False, f"{root} is absent", "lockhouse init")
    mode = root.stat().st_mode & 0o777
    return Check(
        "home", mode & 0o077 == 0, f"{root}, mode {mode:03o}", f"chmod 700 {root}" if mode & 0o077 else ""
    )


def _keyring(platform: Platform) -> Check:
    platform.provider.signing_key()
    return Check("keyring", True, "opens, and nobody else can read it")


def _database(platform: Platform) -> Check:
    kind = "SQLite in the home" if platform.database.is_embedded else "PostgreSQL answers"
    return Check("database", True, f"{kind}, schema {platform.database.revision()}")


def _contracts(platform: Platform) -> Check:
    from stores.contracts import load_contracts

    return Check(
        "contracts", True, ", ".join(f"{name} {one.version}" for name, one in load_contracts().items())
    )


def _marts(platform: Platform) -> Check:
    from stores.dbt_runs import MANIFEST

    there = MANIFEST.exists()
    return Check(
        "marts",
        there,
        "dbt's manifest is built" if there else "dbt's manifest is absent",
        "" if there else "make setup",
    )


def _batches(platform: Platform) -> Check:
    waiting = len(platform.landing.open_batches())
    mend = "they are taken by `lockhouse up`, or with the next `lockhouse ingest`" if waiting else ""
    return Check("batches", True, f"{waiting} on their way", mend)


def _audit(platform: Platform) -> Check:
    verdicts = {tenant: platform.audit.verify(tenant) for tenant in platform.audit.tenants()}
    broken = [tenant for tenant, verdict in verdicts.items() if not verdict.ok]
    rows = sum(verdict.rows for verdict in verdicts.values())
    found = f"broken: {', '.join(broken)}" if broken else f"{rows} entries of {len(verdicts)} tenants hold"
    return Check("audit trail", not broken, found, "lockhouse audit verify --tenant …" if broken else "")


def _disk(platform: Platform) -> Check:
    root = platform.home.root
    free = shutil.disk_usage(next(one for one in (root, *root.parents) if one.exists())).free
    return Check(
        "disk",
        free > _LEAST_FREE_BYTES,
        f"{free / 2**30:.1f} GiB free",
        "" if free > _LEAST_FREE_BYTES else "make room",
    )
