"""A contract: what a source's records hold, which of it is personal, and what is made of it.

A contract is an Open Data Contract Standard v3 document with a few properties of ours
(docs/reference/contracts.md). Compiled here, it drives parsing, masking, table schemas and
statistics, dbt sources, catalog metadata and synthetic data. Pure: text in, `Contract` out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from transforms.errors import ContractError
from transforms.pii.categories import CATEGORIES

LOGICAL_TYPES = ("string", "integer", "number", "boolean", "timestamp")
FORMATS = ("uuid", "ip", "mac", "email", "account", "phone", "date")
PLAIN_STRATEGIES = ("keep", "drop", "redact", "token", "vault", "hash", "seal")
TRUNCATIONS = ("net24", "net48", "domain")
GENERALISATIONS = ("year", "month", "bucket10", "bucket100")
DERIVATIONS = ("version",)
PUBLIC_CLASSES = ("public", "internal")
UNKNOWN_FATES = ("seal", "reject")
# Who brings records: producers, or a service of the platform, so that no producer can.
ORIGINS = ("producer", "platform")
FIELD_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
# A pattern of a readable column must take none of these: a producer will send one there some day.
PERSONAL_SAMPLES = {
    "an IPv4 address": "198.51.100.213",
    "an IPv6 address": "2001:db8::8a2e:370:7334",
    "a MAC address": "02:00:5e:10:00:ff",
    "an e-mail address": "jo.bloggs@example.org",
    "a phone number": "+4917012345678",
    "a national id": "593-47-5928",
    "a name": "Jo Bloggs",
}
# Columns that every masked table has; a field of the same name would shadow one.
RESERVED = ("event_id", "tenant", "received_at", "received_date", "received_hour", "event_hour", "taken_at")


@dataclass(frozen=True)
class Output:
    """One column that is made of a field: how, and with what detail (`net24`, `year`, ...)."""

    strategy: str
    detail: str | None = None

    def column(self, field: str) -> str:
        """Name the column in the masked table.

        >>> Output("token").column("ip"), Output("truncate", "net24").column("ip")
        ('ip_token', 'ip_net24')
        """
        suffixes = {"token": "token", "vault": "token", "hash": "hash", "seal": "sealed", "redact": "redacted"}
        suffix = suffixes.get(self.strategy, self.detail)
        return field if self.strategy == "keep" else f"{field}_{suffix}"


@dataclass(frozen=True)
class Field:
    """One declared field of a record."""

    name: str
    logical_type: str
    description: str
    required: bool
    classification: str
    outputs: tuple[Output, ...]
    format: str | None = None
    pattern: str | None = None
    max_length: int = 256
    category: str | None = None
    domain: str | None = None
    is_subject: bool = False
    derive: str | None = None
    synthetic: str | None = None
    examples: tuple[Any, ...] = ()

    @property
    def is_personal(self) -> bool:
        """Whether the field stands behind the PII line."""
        return self.category is not None


@dataclass(frozen=True)
class Contract:
    """A compiled contract."""

    source: str
    version: str
    title: str
    description: str
    owner: str
    fields: tuple[Field, ...]
    unknown_fields: str
    event_time: str | None
    event_id: str | None
    retention_days: Mapping[str, int] = field(hash=False)
    origin: str = "producer"

    @property
    def subject(self) -> Field:
        """The field that names the data subject."""
        return next(declared for declared in self.fields if declared.is_subject)

    @property
    def domains(self) -> tuple[str, ...]:
        """Every join domain of the contract, sorted."""
        return tuple(sorted({declared.domain for declared in self.fields if declared.domain}))

    def field(self, name: str) -> Field:
        """Find a declared field by its name; KeyError where there is none."""
        return {declared.name: declared for declared in self.fields}[name]


class _Lines:
    """Where in the YAML text each value stands, so that a refusal can name the line."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        try:
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            met = str(getattr(error, "problem", None) or "text that is not YAML")
            raise ContractError(file, mark.line + 1 if mark else None, met, "well-formed YAML") from error

    def line(self, *path: str | int) -> int | None:
        """Give the line of the value at a path; the nearest parent's where it is absent."""
        node = self.root
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            node = child
        return node.start_mark.line + 1 if node is not None else None

    def refuse(self, met: str, allowed: str, *path: str | int) -> ContractError:
        """Make the error for the value at a path."""
        return ContractError(self.file, self.line(*path), met, allowed)


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None


def compile_contract(file: str, text: str) -> Contract:
    """Compile a contract's YAML text.

    Raises: ContractError with file, line, what was met and what is allowed, for malformed YAML, a
    document that is no ODCS v3 contract, an unclassified field, an unknown type, strategy or
    category, a readable text column without a pattern, and a contract without a data subject.
    """
    lines = _Lines(file, text)
    document = _valid_document(lines, text)
    if len(document["schema"]) != 1:
        raise lines.refuse(f"{len(document['schema'])} schema objects", "exactly one", "schema")
    table = document["schema"][0]
    fields = tuple(_fields(lines, table.get("properties") or []))
    options = _custom(table)
    _check_subject(lines, fields, options)
    _check_references(lines, fields, options)
    return Contract(
        source=document["id"],
        version=document["version"],
        title=document.get("name") or document["id"],
        description=(document.get("description") or {}).get("purpose") or "",
        owner=(document.get("team") or {}).get("name") or "unowned",
        fields=fields,
        unknown_fields=_one_of(
            lines, options.get("unknownFields", "seal"), UNKNOWN_FATES, "schema", 0, "customProperties"
        ),
        event_time=options.get("eventTime"),
        event_id=options.get("eventId"),
        retention_days=_retention(document),
        origin=_one_of(lines, options.get("origin", ORIGINS[0]), ORIGINS, "schema", 0, "customProperties"),
    )


def _valid_document(lines: _Lines, text: str) -> dict[str, Any]:
    """Validate against the standard's own model, then check what compiling relies on."""
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
    if not document.get("schema"):
        raise lines.refuse("no schema", "one schema object with the record's fields")
    return document


def _custom(element: Mapping[str, Any]) -> dict[str, Any]:
    return {entry["property"]: entry.get("value") for entry in element.get("customProperties") or []}


def _one_of(lines: _Lines, met: object, allowed: tuple[str, ...], *path: str | int) -> str:
    if met not in allowed:
        raise lines.refuse(f"`{met}`", ", ".join(allowed), *path)
    return str(met)


def _fields(lines: _Lines, properties: list[dict[str, Any]]) -> Iterator[Field]:
    names: set[str] = set()
    for index, declared in enumerate(properties):
        path = ("schema", 0, "properties", index)
        name = str(declared.get("name"))
        if not FIELD_NAME.match(name):
            raise lines.refuse(f"field name `{name}`", f"names like {FIELD_NAME.pattern}", *path, "name")
        if name in names or name in RESERVED:
            raise lines.refuse(f"field name `{name}`", "a name used once and not reserved", *path, "name")
        names.add(name)
        yield _field(lines, declared, path)


def _field(lines: _Lines, declared: dict[str, Any], path: tuple[str | int, ...]) -> Field:
    custom = _custom(declared)
    pii = custom.get("pii") or {}
    options = declared.get("logicalTypeOptions") or {}
    compiled = Field(
        name=declared["name"],
        logical_type=_one_of(lines, declared.get("logicalType"), LOGICAL_TYPES, *path, "logicalType"),
        description=_described(lines, declared, path),
        required=bool(declared.get("required")),
        classification=_classified(lines, declared, pii, path),
        outputs=tuple(_outputs(lines, pii, path)),
        format=_one_of(lines, options["format"], FORMATS, *path, "logicalTypeOptions")
        if "format" in options
        else None,
        pattern=_pattern(lines, options.get("pattern"), path),
        max_length=int(options.get("maxLength", 256)),
        category=_category(lines, pii, path),
        domain=pii.get("domain") or pii.get("category"),
        is_subject=bool(pii.get("subject")),
        derive=_one_of(lines, custom["derive"], DERIVATIONS, *path) if "derive" in custom else None,
        synthetic=custom.get("synthetic"),
        examples=tuple(declared.get("examples") or ()),
    )
    _check_readable(lines, compiled, path)
    columns = [one.column(compiled.name) for one in compiled.outputs]
    if len(set(columns)) < len(columns):
        raise lines.refuse(f"two outputs of `{compiled.name}` in one column", "token or vault, not both", *path)
    return compiled


def _described(lines: _Lines, declared: Mapping[str, Any], path: tuple[str | int, ...]) -> str:
    if not declared.get("description"):
        raise lines.refuse(f"field `{declared['name']}` without a description", "one sentence", *path)
    return str(declared["description"])


def _classified(
    lines: _Lines, declared: Mapping[str, Any], pii: Mapping[str, Any], path: tuple[str | int, ...]
) -> str:
    met = declared.get("classification")
    if not pii and met not in PUBLIC_CLASSES:
        allowed = "a `pii` property, or classification " + " or ".join(PUBLIC_CLASSES)
        raise lines.refuse(f"unclassified field `{declared['name']}`", allowed, *path)
    return str(met or "restricted")


def _category(lines: _Lines, pii: Mapping[str, Any], path: tuple[str | int, ...]) -> str | None:
    if not pii:
        return None
    if pii.get("category") not in CATEGORIES:
        allowed = "a category of fideslang, such as user.device.ip_address"
        raise lines.refuse(f"category `{pii.get('category')}`", allowed, *path, "customProperties")
    return str(pii["category"])


def _pattern(lines: _Lines, pattern: str | None, path: tuple[str | int, ...]) -> str | None:
    if pattern is None:
        return None
    try:
        re.compile(pattern)
    except re.error as error:
        place = (*path, "logicalTypeOptions", "pattern")
        raise lines.refuse(f"pattern that does not compile ({error})", "a regex", *place) from error
    return pattern


def _outputs(lines: _Lines, pii: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Output]:
    """Give the columns that are made of a field: `strategy: token`, or `outputs: [token, ...]`."""
    if not pii:
        yield Output("keep")
        return
    declared = pii.get("outputs") or [pii.get("strategy")]
    for entry in declared:
        yield _output(lines, entry, (*path, "customProperties"))


def _output(lines: _Lines, entry: object, path: tuple[str | int, ...]) -> Output:
    details = {"truncate": TRUNCATIONS, "generalise": GENERALISATIONS}
    if isinstance(entry, dict) and len(entry) == 1:
        ((strategy, detail),) = entry.items()
        if strategy in details:
            return Output(strategy, _one_of(lines, detail, details[strategy], *path))
    if isinstance(entry, str) and entry in PLAIN_STRATEGIES:
        return Output(entry)
    allowed = ", ".join(PLAIN_STRATEGIES) + ", {truncate: ...}, {generalise: ...}"
    raise lines.refuse(f"strategy `{entry}`", allowed, *path)


def _check_readable(lines: _Lines, declared: Field, path: tuple[str | int, ...]) -> None:
    """Refuse a kept text column that could hold anything: that is how PII slips through."""
    kept = any(output.strategy == "keep" for output in declared.outputs)
    if kept and declared.logical_type == "string" and declared.pattern is None:
        allowed = "a logicalTypeOptions.pattern that values must match, or another strategy"
        raise lines.refuse(f"readable text field `{declared.name}` without a pattern", allowed, *path)
    if kept and not declared.is_personal and declared.pattern is not None:
        taken = [kind for kind, sample in PERSONAL_SAMPLES.items() if re.fullmatch(declared.pattern, sample)]
        if taken:
            place = (*path, "logicalTypeOptions", "pattern")
            raise lines.refuse(
                f"pattern that takes {' and '.join(taken)}", "one that takes no personal value", *place
            )


def _check_subject(lines: _Lines, fields: tuple[Field, ...], options: Mapping[str, Any]) -> None:
    subjects = [declared.name for declared in fields if declared.is_subject]
    allowed = "one required field with `subject: true`, named by subjectKey as well"
    if len(subjects) != 1 or options.get("subjectKey") != subjects[0]:
        place = ("schema", 0, "customProperties")
        raise lines.refuse(f"data subject {subjects or 'missing'}", allowed, *place)
    subject = next(declared for declared in fields if declared.is_subject)
    if not subject.required:
        raise lines.refuse(f"data subject `{subject.name}` that is not required", allowed, "schema", 0)


def _check_references(lines: _Lines, fields: tuple[Field, ...], options: Mapping[str, Any]) -> None:
    types = {declared.name: declared.logical_type for declared in fields}
    for option, wanted in (("eventTime", "timestamp"), ("eventId", "string")):
        name = options.get(option)
        if name is not None and types.get(name) != wanted:
            place = ("schema", 0, "customProperties")
            raise lines.refuse(f"{option} `{name}`", f"the name of a declared {wanted} field", *place)


def _retention(document: Mapping[str, Any]) -> dict[str, int]:
    return {
        str(entry["element"]): int(entry["value"])
        for entry in document.get("slaProperties") or []
        if entry.get("property") == "retention" and entry.get("unit") == "d"
    }
