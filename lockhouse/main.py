"""The command `lockhouse`: the group, its global options, and what an error becomes at the door.

Each command lives in a module of its own that is imported when it is called: `--help` stays fast.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockhouse.output import note_error

if TYPE_CHECKING:
    from lockhouse.operations import Caller
    from orchestration.resources import Platform

# Exit codes, the same for every command.
DONE, FAILED, WRONG_USAGE, REFUSED, QUARANTINED = 0, 1, 2, 3, 4

# Command -> the module that holds it, in the order in which a newcomer needs them.
COMMANDS = {
    "init": "setup",
    "demo": "demo",
    "up": "up",
    "serve": "serve",
    "ingest": "ingest",
    "send": "queue",
    "receive": "queue",
    "queue": "queue",
    "validation": "validation",
    "worker": "worker",
    "tables": "tables",
    "sql": "tables",
    "capture": "capture",
    "device": "capture",
    "quarantine": "quarantine",
    "reveal": "reveal",
    "token": "reveal",
    "approval": "approval",
    "subject": "subject",
    "leaks": "leaks",
    "audit": "audit",
    "keys": "keys",
    "tenant": "tenant",
    "user": "access",
    "client": "access",
    "role": "access",
    "grant": "access",
    "doctor": "doctor",
}


class Door(click.Group):
    """Loads a command's module when it is called, and lists all of them for the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, in the order of need."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"lockhouse.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command where one is misspelt."""
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, 1) if args else []
        if args and args[0] not in COMMANDS and near:
            raise click.UsageError(f"no command `{args[0]}`; did you mean `{near[0]}`?", ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--home", type=click.Path(path_type=Path), help="The folder that holds all state (default: ./.lockhouse)."
)
@click.pass_context
def cli(ctx: click.Context, home: Path | None) -> None:
    """Lockhouse keeps the data that companies fear most: sealed, masked, queryable, and forgettable.

    \b
    First steps:
      lockhouse demo                       synthetic data through everything
      lockhouse sql "select count(*) from masked.logins"
      lockhouse up                         the Dagster UI, and files taken as they land
    """
    ctx.obj = home


def platform_of(home: Path | None) -> Platform:
    """Give the platform of a home and make this process work in it."""
    from orchestration.resources import Platform
    from stores.settings import adopt_environment, load_settings

    settings = load_settings(home)
    adopt_environment(settings)
    return Platform(settings)


def caller_of(home: Path | None, tenant: str) -> Caller:
    """Give the operating system's user as the caller in a tenant."""
    from lockhouse.operations import Caller
    from stores.settings import local_user

    return Caller(platform_of(home), local_user(), tenant)


tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose data.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def main() -> None:
    """Run the command line; turn our errors into one line and an exit code."""
    from transforms.errors import LockhouseError, RefusedError, UsageError

    try:
        code = cli.main(prog_name="lockhouse", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(WRONG_USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(FAILED)
    except RefusedError as error:
        _fail(error, REFUSED)
    except UsageError as error:
        _fail(error, WRONG_USAGE)
    except LockhouseError as error:
        from transforms.errors import DecryptionError, ErasedSubjectError

        _fail(error, REFUSED if isinstance(error, DecryptionError | ErasedSubjectError) else FAILED)
    except Exception as error:
        _fail(_reduced(error), FAILED)


def _fail(error: Exception | str, code: int) -> None:
    note_error(error)
    sys.exit(code)


def _reduced(error: Exception) -> str:
    """Say what went wrong in a library without its text, which may quote a value: its kind and place."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(__file__).parents[1])
    ours = [one for one in frames if one.filename.startswith(root) and "site-packages" not in one.filename]
    place = (ours or frames)[-1]
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return f"unexpected: {reason} (at {Path(place.filename).name}:{place.lineno})"


if __name__ == "__main__":
    main()
