"""A contract: what a source's records hold, which of it is personal, and what is made of it.

A contract is an Open Data Contract Standard v3 document with a few properties of ours
(docs/reference/contracts.md). Compiled here, it drives parsing, masking, table schemas and
statistics, dbt sources, catalog metadata and synthetic data. Pure: text in, `Contract` out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from transforms.pii.categories import CATEGORIES
from transforms.pii.contract_documents import (
    FIELD_NAME,
    Custom,
    Lines,
    Options,
    Pii,
    Retention,
    Step,
    custom_properties,
    read_document,
)

LOGICAL_TYPES = ("string", "integer", "number", "boolean", "timestamp")
FORMATS = ("uuid", "ip", "mac", "email", "account", "phone", "date")
PLAIN_STRATEGIES = ("keep", "drop", "redact", "token", "vault", "hash", "seal")
TRUNCATIONS = ("net24", "net48", "domain")
GENERALISATIONS = ("year", "month", "bucket10", "bucket100")
DERIVATIONS = ("version",)
# What a coarse form is made of, as types and formats: of anything else it might be the value itself.
COARSE_OF: dict[str, tuple[str, ...]] = {
    "net24": ("ip",),
    "net48": ("ip",),
    "domain": ("email",),
    "year": ("date", "timestamp"),
    "month": ("date", "timestamp"),
    "bucket10": ("integer", "number"),
    "bucket100": ("integer", "number"),
}
SUBJECT_TYPES = ("string", "integer")
# Whose rows go after the days that a contract names.
RETAINED_ZONES = ("raw", "masked", "quarantine", "requests")
PUBLIC_CLASSES = ("public", "internal")
UNKNOWN_FATES = ("seal", "reject")
# Who brings records: producers, or a service of the platform, so that no producer can.
ORIGINS = ("producer", "platform")
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
# Columns that every table of a source has; a field of the same name would shadow one.
RESERVED = (
    *("event_id", "tenant", "received_at", "received_date", "received_hour", "event_hour", "taken_at"),
    *("batch_id", "chunk", "clock_skewed", "subject_ref", "unknown_count", "unknown_sealed"),
)
# Where `eventTime` goes: only a field that is that time may have the name.
EVENT_TIME = "occurred_at"
VERSION_PARTS = ("major", "minor", "patch")


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

    @property
    def columns(self) -> list[str]:
        """The masked columns that are made of it."""
        made = [one.column(self.name) for one in self.outputs if one.strategy != "drop"]
        is_split = self.derive == "version" and self.name in made
        return [*made, *(f"{self.name}_{part}" for part in VERSION_PARTS if is_split)]

    @property
    def kind(self) -> str:
        """What its values are: the format of a text, else the logical type."""
        return self.format or self.logical_type


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


def compile_contract(file: str, text: str) -> Contract:
    """Compile a contract's YAML text.

    Raises: ContractError with file, line, what was met and what is allowed, for malformed YAML, a
    document that is no ODCS v3 contract, an unclassified field, an unknown type, strategy or
    category, a readable text column without a pattern, and a contract without a data subject.
    """
    lines = Lines(file, text)
    document = read_document(lines, text)
    table = document["schema"][0]
    fields = tuple(_fields(lines, table.get("properties") or []))
    options = custom_properties(lines, table, "schema", 0)
    _check_subject(lines, fields, options)
    event_time = _referred(lines, fields, options, "eventTime", "timestamp")
    _check_columns(lines, fields, event_time)
    return Contract(
        source=document["id"],
        version=document["version"],
        title=document.get("name") or document["id"],
        description=(document.get("description") or {}).get("purpose") or "",
        owner=_owner(lines, document),
        fields=fields,
        unknown_fields=_chosen(lines, options, "unknownFields", UNKNOWN_FATES),
        event_time=event_time,
        event_id=_referred(lines, fields, options, "eventId", "string"),
        retention_days=dict(_retention(lines, document)),
        origin=_chosen(lines, options, "origin", ORIGINS),
    )


def _owner(lines: Lines, document: Mapping[str, Any]) -> str:
    team = document.get("team") or {}
    if not isinstance(team, Mapping):
        # Version 3.0 of the standard has a list of people there.
        raise lines.refuse("a team that is a list", "`name` and `description` of a team", "team")
    return team.get("name") or "unowned"


def _chosen(lines: Lines, options: Mapping[str, Custom], name: str, allowed: tuple[str, ...]) -> str:
    """Give one of the allowed values, the first where none is named."""
    return _one_of(lines, options[name].value, allowed, *options[name].path) if name in options else allowed[0]


def _one_of(lines: Lines, met: object, allowed: tuple[str, ...], *path: Step) -> str:
    if met not in allowed:
        raise lines.refuse(f"`{met}`", ", ".join(allowed), *path)
    return str(met)


def _fields(lines: Lines, properties: list[dict[str, Any]]) -> Iterator[Field]:
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


def _field(lines: Lines, declared: dict[str, Any], path: tuple[Step, ...]) -> Field:
    custom = custom_properties(lines, declared, *path)
    pii, place = _pii(lines, custom, path)
    options_path = (*path, "logicalTypeOptions")
    options = lines.shaped(declared.get("logicalTypeOptions") or {}, Options, *options_path)
    compiled = Field(
        name=declared["name"],
        logical_type=_one_of(lines, declared.get("logicalType"), LOGICAL_TYPES, *path, "logicalType"),
        description=_described(lines, declared, path),
        required=bool(declared.get("required")),
        classification=_classified(lines, declared, pii, path),
        outputs=tuple(_outputs(lines, pii, place)),
        format=options.format and _one_of(lines, options.format, FORMATS, *options_path),
        pattern=_pattern(lines, options.pattern, options_path),
        max_length=options.max_length,
        category=_category(lines, pii, place),
        domain=(pii.domain or pii.category) if pii else None,
        is_subject=pii is not None and pii.subject,
        derive=_chosen(lines, custom, "derive", DERIVATIONS) if "derive" in custom else None,
        synthetic=custom["synthetic"].value if "synthetic" in custom else None,
        examples=tuple(declared.get("examples") or ()),
    )
    _check_readable(lines, compiled, path)
    _check_kind(lines, compiled, declared.get("logicalTypeOptions") or {}, path)
    if len(set(compiled.columns)) < len(compiled.columns):
        raise lines.refuse(f"two outputs of `{compiled.name}` in one column", "token or vault, not both", *path)
    return compiled


def _pii(
    lines: Lines, custom: Mapping[str, Custom], path: tuple[Step, ...]
) -> tuple[Pii | None, tuple[Step, ...]]:
    """Give what a field says of a person, None where it says nothing, and the place of it."""
    told = custom.get("pii", Custom(None, path))
    return (lines.shaped(told.value, Pii, *told.path) if told.value else None), told.path


def _described(lines: Lines, declared: Mapping[str, Any], path: tuple[Step, ...]) -> str:
    if not declared.get("description"):
        raise lines.refuse(f"field `{declared['name']}` without a description", "one sentence", *path)
    return str(declared["description"])


def _classified(lines: Lines, declared: Mapping[str, Any], pii: Pii | None, path: tuple[Step, ...]) -> str:
    met = declared.get("classification")
    if pii is None and met not in PUBLIC_CLASSES:
        allowed = "a `pii` property, or classification " + " or ".join(PUBLIC_CLASSES)
        raise lines.refuse(f"unclassified field `{declared['name']}`", allowed, *path)
    return str(met or "restricted")


def _category(lines: Lines, pii: Pii | None, place: tuple[Step, ...]) -> str | None:
    if pii is None:
        return None
    if pii.category not in CATEGORIES:
        allowed = "a category of fideslang, such as user.device.ip_address"
        raise lines.refuse(f"category `{pii.category}`", allowed, *place, "category")
    return pii.category


def _pattern(lines: Lines, pattern: str | None, path: tuple[Step, ...]) -> str | None:
    if pattern is None:
        return None
    try:
        # By what checks the records: it knows no looking ahead, and no references back. By itself first:
        # what closes a group that it did not open would hold for less than the whole text.
        pl.Series([""]).str.contains(pattern)
        takes(pattern, "")
    except pl.exceptions.ComputeError:
        allowed = "a regular expression of Rust's `regex`"
        raise lines.refuse("pattern that does not compile", allowed, *path, "pattern") from None
    return pattern


def takes(pattern: str, text: str) -> bool:
    """Whether the whole of a text matches a field's pattern."""
    return bool(pl.Series([text]).str.contains(whole_pattern(pattern))[0])


def whole_pattern(pattern: str) -> str:
    """Give what matches the whole of a text where the pattern may match a part."""
    return f"^(?:{pattern})$"


def _outputs(lines: Lines, pii: Pii | None, place: tuple[Step, ...]) -> Iterator[Output]:
    """Give the columns that are made of a field: `strategy: token`, or `outputs: [token, ...]`."""
    if pii is None:
        yield Output("keep")
        return
    for entry in (*pii.outputs,) or (pii.strategy,):
        yield _output(lines, entry, place)


def _output(lines: Lines, entry: object, place: tuple[Step, ...]) -> Output:
    details = {"truncate": TRUNCATIONS, "generalise": GENERALISATIONS}
    if isinstance(entry, dict) and len(entry) == 1:
        ((strategy, detail),) = entry.items()
        if strategy in details:
            return Output(strategy, _one_of(lines, detail, details[strategy], *place))
    if isinstance(entry, str) and entry in PLAIN_STRATEGIES:
        return Output(entry)
    allowed = ", ".join(PLAIN_STRATEGIES) + ", {truncate: ...}, {generalise: ...}"
    raise lines.refuse(f"strategy `{entry}`", allowed, *place)


def _check_readable(lines: Lines, declared: Field, path: tuple[Step, ...]) -> None:
    """Refuse a kept text column that could hold anything: that is how PII slips through."""
    kept = any(output.strategy == "keep" for output in declared.outputs)
    if kept and declared.logical_type == "string" and declared.pattern is None:
        allowed = "a logicalTypeOptions.pattern that values must match, or another strategy"
        raise lines.refuse(f"readable text field `{declared.name}` without a pattern", allowed, *path)
    if kept and not declared.is_personal and declared.pattern is not None:
        taken = [kind for kind, sample in PERSONAL_SAMPLES.items() if takes(declared.pattern, sample)]
        if taken:
            place = (*path, "logicalTypeOptions", "pattern")
            raise lines.refuse(
                f"pattern that takes {' and '.join(taken)}", "one that takes no personal value", *place
            )


def _check_kind(lines: Lines, declared: Field, options: Mapping[str, Any], path: tuple[Step, ...]) -> None:
    """Refuse what does not go with the values of a field: a network of a name would be the name."""
    if declared.logical_type != "string":
        if meant := sorted({"format", "pattern", "maxLength"} & set(options)):
            place = (*path, "logicalTypeOptions")
            raise lines.refuse(f"{meant[0]} of a {declared.logical_type}", "only of a string", *place)
        if declared.derive:
            raise lines.refuse(f"a {declared.derive} of a {declared.logical_type}", "only of a string", *path)
    for output in declared.outputs:
        wanted = COARSE_OF.get(str(output.detail), (declared.kind,))
        if declared.kind not in wanted:
            place, allowed = (*path, "customProperties"), f"only of {' or '.join(wanted)}"
            raise lines.refuse(f"`{output.detail}` of `{declared.name}` ({declared.kind})", allowed, *place)


def _check_subject(lines: Lines, fields: tuple[Field, ...], options: Mapping[str, Custom]) -> None:
    subjects = [declared.name for declared in fields if declared.is_subject]
    allowed = "one required field with `subject: true`, named by subjectKey as well"
    if len(subjects) != 1 or options.get("subjectKey", Custom(None, ())).value != subjects[0]:
        place = ("schema", 0, "customProperties")
        raise lines.refuse(f"data subject {subjects or 'missing'}", allowed, *place)
    subject = next(declared for declared in fields if declared.is_subject)
    if not subject.required:
        raise lines.refuse(f"data subject `{subject.name}` that is not required", allowed, "schema", 0)
    if subject.logical_type not in SUBJECT_TYPES:
        met = f"data subject `{subject.name}` of type {subject.logical_type}"
        raise lines.refuse(met, " or ".join(SUBJECT_TYPES), "schema", 0)


def _check_columns(lines: Lines, fields: tuple[Field, ...], event_time: str | None) -> None:
    """Refuse two fields of which one column would be made, or one of those that every table has."""
    taken = dict.fromkeys((*RESERVED, EVENT_TIME), "every table")
    for at, declared in enumerate(fields):
        if declared.name == event_time:
            continue
        for name in declared.columns:
            if name in taken:
                met = f"`{declared.name}`, of which the column `{name}` of {taken[name]} would be made"
                raise lines.refuse(met, "a column once", "schema", 0, "properties", at, "name")
            taken[name] = f"`{declared.name}`"


def _referred(
    lines: Lines, fields: tuple[Field, ...], options: Mapping[str, Custom], option: str, wanted: str
) -> str | None:
    """Give the name of a field that an option of the schema object names: it will be readable."""
    named = options.get(option, Custom(None, ()))
    if named.value is None:
        return None
    fitting = [one.name for one in fields if one.logical_type == wanted and not one.is_personal]
    if named.value not in fitting:
        allowed = f"the name of a declared {wanted} field that is not personal"
        raise lines.refuse(f"{option} `{named.value}`", allowed, *named.path)
    return str(named.value)


def _retention(lines: Lines, document: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Give how many days each table's rows are kept; one passed over would leave them the usual days."""
    tables = [f"{zone}.{document['id']}" for zone in RETAINED_ZONES]
    for at, entry in enumerate(document.get("slaProperties") or []):
        if entry.get("property") != "retention":
            continue
        place = ("slaProperties", at)
        kept = lines.shaped(entry, Retention, *place)
        _one_of(lines, kept.unit, ("d",), *place, "unit")
        yield _one_of(lines, kept.element, tuple(tables), *place, "element"), kept.value
