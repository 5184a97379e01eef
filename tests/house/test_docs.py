"""Documents that cannot rot: everything has its page, links lead somewhere, examples are real."""

import ast
import os
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from lockhouse.main import COMMANDS, cli
from lockhouse.reference import PAGES, RIGHT_MEANINGS, read_errors, tree_of
from lockhouse.reference_tables import read_marts
from stores.contracts import load_contracts
from stores.settings import Settings
from stores.specs import every_table
from transforms.access import Right, Role
from transforms.audit import Action
from transforms.pii.categories import CATEGORIES

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "GLOSSARY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
]


def pages():
    """Every Markdown document of the project."""
    return sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])


def shown(path):
    return str(path.relative_to(TOP))


def reference(name):
    return (TOP / "docs" / "reference" / name).read_text()


# -- everything has its page --------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_generated_files_are_what_the_code_makes(name):
    assert (TOP / name).read_text() == PAGES[name](), "run `make docs`, and commit what it writes"


def every_command():
    """Each command with its path, groups included."""
    root = click.Context(cli, info_name="lockhouse", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(root, name)
        yield f"lockhouse {name}", command
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                yield f"lockhouse {name} {inner.name}", inner


@pytest.mark.parametrize(("path", "command"), [pytest.param(*one, id=one[0]) for one in every_command()])
def test_every_command_is_described(path, command):
    text = reference("commands.md")
    assert re.search(rf"^#+ `{path}`$", text, re.MULTILINE)
    assert command.help, "a command needs a docstring: it is the help"
    part = re.split(rf"^#+ `{path}`$", text, flags=re.MULTILINE)[1]
    part = re.split(r"^#+ `", part, flags=re.MULTILINE)[0]
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert [opt for one in options for opt in one.opts if opt not in part] == []
    assert [one.name for one in options if not one.help] == [], "an option needs a help text"


def test_every_setting_is_described():
    text = reference("settings.md")
    assert [name for name in Settings.model_fields if f"`LOCKHOUSE_{name.upper()}`" not in text] == []
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_table_and_column_is_described():
    text = reference("tables.md")
    parts = dict(re.findall(r"^## `(.+?)`$(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    described = {spec.key: spec.columns for spec in every_table()}
    described |= {f"curated.{mart.name}": mart.columns for mart in read_marts()}
    assert set(parts) == set(described)
    assert [
        f"{key}.{column.name}"
        for key, columns in described.items()
        for column in columns
        if f"| `{column.name}` |" not in parts[key] or not column.description
    ] == []


def test_every_error_right_and_action_is_described():
    errors, rights, actions = (reference(name) for name in ("errors.md", "rights.md", "audit-actions.md"))
    known = read_errors()
    tree = [known[name] for name in tree_of(known, "LockhouseError")]
    assert [one.name for one in tree if f"| `{one.name}` |" not in errors or not one.meaning] == []
    assert [right for right in Right if f"| `{right}` |" not in rights or not RIGHT_MEANINGS.get(right)] == []
    assert [role for role in Role if f" {role} |" not in rights] == []
    assert [action for action in Action if f"| `{action}` |" not in actions] == []


def test_every_word_of_a_contract_is_described():
    text = reference("contracts.md")
    assert [name for name in CATEGORIES if f"- `{name}`\n" not in text] == []
    assert [source for source in load_contracts() if f"### `{source}`" not in text] == []


# -- links and examples -------------------------------------------------------------------------


def test_the_documents_are_there():
    assert [name for name in DOCUMENTS if not (TOP / name).is_file()] == []


def prose(text):
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", pages(), ids=shown)
def test_links_lead_somewhere(path):
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def blocks(text, *languages):
    """The fenced blocks in one of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


@pytest.mark.parametrize("path", pages(), ids=shown)
def test_python_examples_parse(path):
    for block in blocks(path.read_text(), "python"):
        ast.parse(block)


def commands_in(text):
    """What a document tells to type: lines of its shell blocks, and code that begins with our name."""
    lines = [line for block in blocks(text, "sh", "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(lockhouse (?!->)[^`\n]+)`", prose(text))
    for line in lines:
        yield from re.findall(r"\$\((lockhouse [^)]+)\)", line)
        for part in split_at_operators(line):
            words = [word for word in part if not re.fullmatch(r"[A-Z_]+=\S*", word)]
            if words and words[0].rpartition("/")[2] == "lockhouse":
                yield shlex.join(words)


def split_at_operators(line):
    """Split a line of a shell at pipes, redirections and the like."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def given(values):
    """What was typed, out of what click's parser fills in."""
    return [value for value in values.values() if isinstance(value, str | tuple | list | bool) and value]


def check_command(words):
    """Raise unless the words are a real command with real options, its required ones among them."""
    command, context = cli, click.Context(cli, info_name="lockhouse", **cli.context_settings)
    while True:
        values, words, _ = command.make_parser(context).parse_args(list(words))
        if "help" in values or not isinstance(command, click.Group) or not words:
            break
        inner = command.get_command(context, words[0])
        if inner is None:
            raise click.UsageError(f"no command {words[0]}")
        context = click.Context(inner, context, info_name=words[0])
        command, words = inner, words[1:]
    if words:
        raise click.UsageError(f"left over: {words}")
    # The bare name of a command is a mention of it, and needs nothing more.
    for one in command.params if given(values) and "help" not in values else ():
        value = values.get(one.name)
        if one.required and not isinstance(value, str | tuple | list):
            raise click.UsageError(f"missing: {one.name}")
        if isinstance(one.type, click.Choice) and isinstance(value, str):
            one.type.convert(value, one, context)


@pytest.mark.parametrize("path", pages(), ids=shown)
def test_commands_are_real(path):
    wrong = []
    for line in commands_in(path.read_text()):
        try:
            check_command(shlex.split(line)[1:])
        except click.ClickException as error:
            wrong.append(f"{line}: {error.format_message()}")
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    ["lockhouse nonsense", "lockhouse tables --colour red", "lockhouse ingest --colour", "lockhouse token x"],
)
def test_a_command_that_is_not_real_is_found(line):
    [command] = commands_in(f"Type `{line}`.")
    with pytest.raises(click.ClickException):
        check_command(shlex.split(command)[1:])


def make_targets():
    return set(re.findall(r"^([a-z-]+):.*##", (TOP / "Makefile").read_text(), re.MULTILINE))


def test_the_two_commands_of_the_readme_are_make_targets():
    text = (TOP / "README.md").read_text()
    typed = {
        word for block in blocks(text, "sh") for word in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    }
    assert {"demo", "test"} <= typed


@pytest.mark.parametrize("path", pages(), ids=shown)
def test_make_targets_are_real(path):
    text = path.read_text()
    typed = set(re.findall(r"`make ([a-z-]+)", prose(text)))
    typed |= {
        word for block in blocks(text, "sh") for word in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    }
    assert typed <= make_targets()


# -- nothing of a developer's machine -----------------------------------------------------------

# In pieces, so that this file does not find itself.
HOSTS = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "debian" + ".org/debian", "/si" + "mple/"]


def test_no_registry_and_no_place_of_a_machine_is_named(tracked):
    places = {str(TOP), os.path.expanduser("~")} - {"/"}  # noqa: PTH111 - the text itself
    place = re.compile("|".join(rf"(?<![\w./-]){re.escape(one)}(?![\w-])" for one in sorted(places)))
    users = re.compile(r"(?<![\w./<-])/(home|Users)/[a-z]\w*/")
    met = []
    for name in tracked:
        text = (TOP / name).read_text(errors="replace")
        found = [host for host in HOSTS if host in text]
        found += place.findall(text) + [one[0] for one in users.finditer(text)]
        met += [f"{name}: {one}" for one in found]
    assert met == []


def test_the_lock_names_versions_and_hashes_and_no_index():
    text = (TOP / "requirements.lock").read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)
    requirements = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(requirements) > 100
    assert [one.split("\n")[0] for one in requirements if "==" not in one or "--hash=sha256:" not in one] == []


def test_the_lock_covers_every_dependency():
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *(one for g in project["dependency-groups"].values() for one in g),
    ]
    locked = set(re.findall(r"^([a-z0-9-]+)==", (TOP / "requirements.lock").read_text(), re.MULTILINE))
    names = {re.match(r"[A-Za-z0-9_-]+", one)[0].lower().replace("_", "-") for one in wanted}
    assert names - locked == set()
