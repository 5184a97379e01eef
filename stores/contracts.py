"""The contracts of the deployment: every YAML file of the `contracts` folder, compiled."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from transforms.errors import UsageError
from transforms.pii.contracts import Contract, compile_contract

FOLDER = Path(__file__).resolve().parent.parent / "contracts"


def load_contract(source: str, folder: Path | None = None) -> Contract:
    """Compile one source's contract.

    Raises: UsageError where there is no such source; ContractError where its contract is bad.
    """
    if source not in sources(folder):
        raise UsageError(f"no source `{source}`; there are: {', '.join(sources(folder))}")
    return _compiled((folder or FOLDER) / f"{source}.yaml")


def load_contracts(folder: Path | None = None) -> dict[str, Contract]:
    """Compile every contract, by source."""
    return {source: load_contract(source, folder) for source in sources(folder)}


def sources(folder: Path | None = None) -> tuple[str, ...]:
    """Give the names of all sources, sorted."""
    return tuple(sorted(path.stem for path in (folder or FOLDER).glob("*.yaml")))


def produced(folder: Path | None = None) -> tuple[str, ...]:
    """Give the sources whose records come from producers; those of others the platform makes itself."""
    return tuple(one for one in sources(folder) if load_contract(one, folder).origin == "producer")


@cache
def _compiled(path: Path) -> Contract:
    return compile_contract(f"contracts/{path.name}", path.read_text())
