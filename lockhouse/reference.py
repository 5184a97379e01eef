"""The generated pages under `docs/reference`, and dbt's sources: written from the code, or checked.

`python -m lockhouse.reference` writes what is stale; with `--check` it names it and ends with 1. Nothing
here depends on a home, a clock or a terminal: the same code gives the same pages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from lockhouse.main import COMMANDS, FAILED, cli
from lockhouse.reference_tables import contracts_page, sources_yaml, tables_page
from lockhouse.reference_text import (
    AUDIT_INTRODUCTION,
    ERRORS_INTRODUCTION,
    EXIT_CODES,
    RIGHTS_INTRODUCTION,
    SETTINGS_INTRODUCTION,
    code,
    codes,
    page,
    table,
    yes,
)
from stores.settings import Settings
from transforms.access import RIGHTS, Right, Role
from transforms.audit import Action, Outcome

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("transforms", "stores", "assets", "orchestration", "lockhouse")


# -- commands.md -------------------------------------------------------------------------------


def commands_page() -> str:
    """Describe every command with its options, as click knows them."""
    context = click.Context(cli, info_name="lockhouse", **cli.context_settings)
    parts = [_help(cli.help), "## Options of every command", _options(cli, context), EXIT_CODES]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is not None:
            parts += _command_parts(command, click.Context(command, context, info_name=name))
    return page("Commands", "the command line itself", *parts)


def _command_parts(command: click.Command, context: click.Context) -> Iterator[str]:
    level = "#" * (context.command_path.count(" ") + 1)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"{level} `{context.command_path}`"
    yield f"```console\n{context.command_path} {pieces}\n```"
    yield _help(command.help)
    yield _options(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _command_parts(inner, click.Context(inner, context, info_name=name))


def _help(text: str | None) -> str:
    """Turn click's help into Markdown: what click keeps as it stands (after a backspace) are examples."""
    parts = []
    for paragraph in (text or "").split("\n\n"):
        lines = paragraph.strip().splitlines()
        if lines and lines[0].strip() == "\b":
            # What follows a command in another column is a remark.
            shown = "\n".join(re.sub(" {3,}", "  # ", line.strip()) for line in lines[2:])
            parts.append(f"{lines[1].strip()}\n\n```sh\n{shown}\n```")
        else:
            parts.append(" ".join(line.strip() for line in lines))
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> str:
    """List options; arguments stand in the usage line, and `--help` with the options of every command."""
    records = [
        one.get_help_record(context)
        for one in command.get_params(context)
        if isinstance(one, click.Option) and (one.name != "help" or context.parent is None)
    ]
    rows = [(code(record[0]), " ".join(record[1].split())) for record in records if record]
    return table(["option", "meaning"], rows) if rows else ""


# -- settings.md -------------------------------------------------------------------------------


def settings_page() -> str:
    """Describe every setting."""
    rows = [
        (code(name), code(f"LOCKHOUSE_{name.upper()}"), code(_default(field.default)), field.description)
        for name, field in Settings.model_fields.items()
    ]
    return page(
        "Settings",
        "`stores/settings.py`",
        SETTINGS_INTRODUCTION,
        table(["setting", "environment variable", "default", "meaning"], rows),
    )


def _default(value: object) -> object:
    return "" if value is None else value


# -- rights.md ---------------------------------------------------------------------------------


def rights_page() -> str:
    """Show which role holds which right."""
    roles = list(Role)
    rows = [
        (code(right), RIGHT_MEANINGS.get(right, ""), *(yes(right in RIGHTS[role]) for role in roles))
        for right in Right
    ]
    header = ["right", "allows", *(str(role) for role in roles)]
    return page("Rights", "`transforms/access.py`", RIGHTS_INTRODUCTION, table(header, rows))


RIGHT_MEANINGS: dict[Right, str] = {
    Right.INGEST: "take files and messages into the lake; put messages on a queue and count them",
    Right.READ_TABLES: "list tables; run SQL over masked and curated tables",
    Right.REVEAL: "open tokens, make tokens of values, look into a quarantine entry",
    Right.READ_QUARANTINE: "list quarantine entries without their content",
    Right.CHANGE_QUARANTINE: "take quarantine entries again, or drop them",
    Right.READ_CAPTURES: "count packets, and export them anonymised: without payload, addresses encrypted",
    Right.READ_PAYLOAD: "export packets as they were captured",
    Right.MANAGE_DEVICES: "register devices, their owners and addresses, and list them",
    Right.ACCESS_SUBJECTS: "hand out everything about a data subject",
    Right.ERASE_SUBJECTS: "erase data subjects, and see the requests",
    Right.APPROVE_REVEALS: "decide on reveals that need a second person",
    Right.SUBMIT_VALIDATIONS: "submit requests for validation",
    Right.READ_VALIDATIONS: "see how far a validation is and what was decided",
    Right.DISCLOSE_VALIDATIONS: "open the personal data of a validation",
    Right.CHANGE_VALIDATIONS: "change and delete validations",
    Right.READ_AUDIT: "read and verify the audit trail",
    Right.OPERATE: "add tenants, users, clients, roles and grants; scan the home for leaks; "
    "run the services of the validations; "
    "put dead letters back on a queue",
}


# -- audit-actions.md --------------------------------------------------------------------------


def audit_page() -> str:
    """List what can be in the audit trail."""
    rows = [(code(action), *str(action).split(":")) for action in Action]
    text = AUDIT_INTRODUCTION.format(outcomes=codes(Outcome))
    return page(
        "Audit actions", "`transforms/audit.py`", text, table(["action", "subject", "object", "done"], rows)
    )


# -- errors.md ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ErrorClass:
    """An error class, as its source has it."""

    name: str
    bases: tuple[str, ...]
    module: str
    meaning: str


def read_errors(root: Path = ROOT) -> dict[str, ErrorClass]:
    """Read every class of an error, by name, from the rooms' sources; nothing is imported."""
    files = (path for room in ROOMS for path in sorted((root / room).rglob("*.py")))
    found = (one for path in files for one in _error_classes(path, root))
    return {one.name: one for one in found}


def _error_classes(path: Path, root: Path) -> Iterator[ErrorClass]:
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
            bases = tuple(ast.unparse(base) for base in node.bases)
            yield ErrorClass(node.name, bases, module, " ".join((ast.get_docstring(node) or "").split()))


def errors_page() -> str:
    """Draw the tree of errors, with what each tells a queue or a retry policy."""
    errors = read_errors()
    rows = [
        (code(name), code(_parent(errors[name])), kind_of(errors, name), code(errors[name].module), text)
        for name in tree_of(errors, "LockhouseError")
        for text in [errors[name].meaning]
    ]
    header = ["error", "is a", "kind", "module", "meaning"]
    return page("Errors", "the rooms' sources", ERRORS_INTRODUCTION, table(header, rows))


def tree_of(errors: dict[str, ErrorClass], name: str) -> Iterator[str]:
    """Give an error and those below it, in the order of the tree."""
    yield name
    for child in errors.values():
        if name in child.bases:
            yield from tree_of(errors, child.name)


def kind_of(errors: dict[str, ErrorClass], name: str) -> str:
    """Give `Retryable`, `Final`, or nothing, by the class itself or one above it."""
    known = errors.get(name)
    if known is None:
        return ""
    own = [base for base in known.bases if base in ("Retryable", "Final")]
    return own[0] if own else next(filter(None, (kind_of(errors, base) for base in known.bases)), "")


def _parent(error: ErrorClass) -> str:
    return error.bases[0] if error.bases else ""


# -- writing and checking ----------------------------------------------------------------------


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/commands.md": commands_page,
    "docs/reference/settings.md": settings_page,
    "docs/reference/tables.md": tables_page,
    "docs/reference/contracts.md": contracts_page,
    "docs/reference/rights.md": rights_page,
    "docs/reference/audit-actions.md": audit_page,
    "docs/reference/errors.md": errors_page,
    "dbt_project/models/staging/_sources.yml": sources_yaml,
}


def stale_files(root: Path = ROOT) -> dict[str, str]:
    """Give the files that are not what the code makes now, with what they should hold."""
    made = {name: make() for name, make in PAGES.items()}
    return {name: text for name, text in made.items() if not _holds(root / name, text)}


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def write_files(root: Path = ROOT) -> list[str]:
    """Write the stale files, and leave the others untouched; give the names of those written."""
    stale = stale_files(root)
    for name, text in stale.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return list(stale)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; name what is stale and end with 1.")
@click.pass_context
def reference_command(context: click.Context, check: bool) -> None:
    """Write the generated reference pages and dbt's sources."""
    names = list(stale_files()) if check else write_files()
    for name in names:
        click.echo(f"{'stale' if check else 'wrote'}: {name}")
    if check and names:
        click.echo("Run `make docs` and commit what it writes.", err=True)
        context.exit(FAILED)
    if not names:
        click.echo("reference: up to date")


if __name__ == "__main__":
    reference_command()
