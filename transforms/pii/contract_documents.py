"""The document of a contract: YAML that the standard allows, and where in it each value stands.

Shapes only: what the values mean, and what goes with what, is `contracts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

import msgspec
import yaml

from transforms.errors import ContractError

FIELD_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")

Step: TypeAlias = str | int
Shape = TypeVar("Shape", bound=msgspec.Struct)


class Pii(msgspec.Struct, forbid_unknown_fields=True):
    """What a field holds of a person, and what is made of it."""

    category: str
    domain: str | None = None
    subject: bool = False
    strategy: str | dict[str, str] | None = None
    outputs: list[str | dict[str, str]] = []


class Options(msgspec.Struct, rename="camel"):
    """What the values of a text are checked against; others of the standard's may stand beside."""

    format: str | None = None
    pattern: str | None = None
    max_length: Annotated[int, msgspec.Meta(ge=1)] = 256


class Retention(msgspec.Struct):
    """How long the rows of a table are kept."""

    element: str
    value: Annotated[int, msgspec.Meta(ge=1)]
    unit: str


class Custom(NamedTuple):
    """A property of ours, and the place where its value stands."""

    value: Any
    path: tuple[Step, ...]


class Lines:
    """Where in the YAML text each value stands, so that a refusal can name the line."""

    def __init__(self, file: str, text: str) -> None:
        """Read the text. Raises: ContractError where it is no YAML."""
        self.file = file
        try:
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            met = str(getattr(error, "problem", None) or "text that is not YAML")
            raise ContractError(file, mark.line + 1 if mark else None, met, "well-formed YAML") from error

    def line(self, *path: Step) -> int | None:
        """Give the line of the value at a path; the nearest parent's where it is absent."""
        node = self.root
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            node = child
        return node.start_mark.line + 1 if node is not None else None

    def refuse(self, met: str, allowed: str, *path: Step) -> ContractError:
        """Make the error for the value at a path."""
        return ContractError(self.file, self.line(*path), met, allowed)

    def shaped(self, value: object, shape: type[Shape], *path: Step) -> Shape:
        """Give a value the shape that it should have. Raises: ContractError where it has another."""
        try:
            return msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            told, _, inside = str(error).partition(" - at `$")
            steps = re.findall(r"[A-Za-z]\w*", inside)
            raise self.refuse(*_described(told, ".".join(steps), shape), *path, *steps) from None


# What msgspec calls the things of a document, as people say it.
_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def _described(told: str, place: str, shape: type[msgspec.Struct]) -> tuple[str, str]:
    """Say of msgspec's error what was met, and what is allowed."""
    keys = ", ".join(one.encode_name for one in msgspec.structs.fields(shape))
    where = f"`{place}`" if place else f"the {shape.__name__.lower()}"
    if unknown := re.search("unknown field `(.+)`", told):
        return f"key `{unknown[1]}` in {where}", keys
    if missing := re.search("missing required field `(.+)`", told):
        return f"no `{missing[1]}` in {where}", keys
    if other := re.fullmatch("Expected `(.+)`, got `(.+)`", told):
        wanted = " or ".join(_WORDS.get(one, one) for one in other[1].split(" | "))
        return f"{_WORDS.get(other[2], other[2])} as {where}", wanted
    if bound := re.fullmatch("Expected `(.+)` (.+)", told):
        return f"another number as {where}", f"{_WORDS.get(bound[1], bound[1])} {bound[2]}"
    return f"something else as {where}", keys


def _child(node: yaml.Node | None, step: Step) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None


def read_document(lines: Lines, text: str) -> dict[str, Any]:
    """Read a document and validate it against the standard's own model, then what compiling relies on.

    Raises: ContractError with the line.
    """
    from open_data_contract_standard.model import OpenDataContractStandard
    from pydantic import ValidationError

    document = yaml.safe_load(text)
    if not isinstance(document, dict):
        raise lines.refuse("something that is no mapping", "an ODCS v3 document")
    try:
        OpenDataContractStandard.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise lines.refuse(first["msg"], "what ODCS v3 allows there", *first["loc"]) from None
    for key, allowed in (("apiVersion", "v3.x"), ("kind", "DataContract"), ("version", "a version")):
        if not document.get(key):
            raise lines.refuse(f"no {key}", allowed)
    if not str(document["apiVersion"]).startswith("v3."):
        raise lines.refuse(f"apiVersion {document['apiVersion']}", "v3.x", "apiVersion")
    if not FIELD_NAME.match(str(document.get("id"))):
        raise lines.refuse("an id that is no name", f"a name like {FIELD_NAME.pattern}", "id")
    if len(document.get("schema") or []) != 1:
        met = f"{len(document.get('schema') or [])} schema objects"
        raise lines.refuse(met, "exactly one, with the record's fields", "schema")
    return document


def custom_properties(lines: Lines, element: Mapping[str, Any], *path: Step) -> dict[str, Custom]:
    """Give the custom properties of an element by their names. Raises: ContractError for one without a name."""
    found: dict[str, Custom] = {}
    for at, entry in enumerate(element.get("customProperties") or []):
        place = (*path, "customProperties", at)
        if not entry.get("property"):
            raise lines.refuse("a custom property without a name", "`property` and `value`", *place)
        found[entry["property"]] = Custom(entry.get("value"), (*place, "value"))
    return found
