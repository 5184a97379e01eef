"""Reveals: role, purpose, limit, and a second person where the tenant asks for one; audited before a value."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

from lockhouse.operations import Caller, Given, known_domain
from stores.approvals import Approval
from stores.erasure_plan import token_columns
from stores.specs import domain_of, is_in_vault
from stores.sql import SqlSandbox
from transforms.access import PURPOSES, Right
from transforms.audit import Action
from transforms.errors import RefusedError, UsageError
from transforms.pii.siv import HEAD_CHARACTERS, decrypt_column


def reveal(
    caller: Caller, table: str, column: str, where: str, reason: str, purpose: str = "incident"
) -> list[str | None]:
    """Open the tokens of a column, for a purpose and a reason that are audited first.

    Raises: UsageError where the column holds no tokens, or `where` selects more rows than a reveal may
    open; RefusedError where a second person has to agree first.
    """
    domain, limit = domain_of(table, column), caller.platform.settings.reveal_row_limit
    sandbox = SqlSandbox(caller.platform.tables, caller.tenant)
    if table not in sandbox.names():
        raise UsageError("no such table", see="lockhouse tables")
    _check_words(reason, purpose)
    marks = {"table": table, "column": column, "where": caller.digest(where)}
    marks |= {"purpose": purpose, "reason": reason}
    approval = _approved(caller, marks)
    with caller.permitted(Right.REVEAL, Action.PII_REVEALED, **marks, approval=approval):
        subject = _subject_column(caller, table) if is_in_vault(table, column) else None
        asked = f"{column}, {subject}" if subject else column
        query = f"select {asked} from {table}" + (f" where {where}" if where else "")  # noqa: S608 - sandboxed
        found = pl.DataFrame(sandbox.run(query, limit + 1))
        if found.height > limit:
            raise UsageError(f"more than {limit} rows: narrow the condition")
        values = open_column(caller, domain, found[column], found[subject] if subject else None)
        caller.results["values"] = len(values)
        opened: list[str | None] = values.to_list()
        return opened


def reveal_tokens(
    caller: Caller, domain: str, tokens: Sequence[str], reason: str, purpose: str = "incident"
) -> list[str | None]:
    """Open tokens of a join domain that came from elsewhere, a served copy for one.

    Raises: DecryptionError where a token is not this tenant's; UsageError where there are too many.
    """
    _check_words(reason, purpose)
    limit = caller.platform.settings.reveal_row_limit
    if len(tokens) > limit:
        raise UsageError(f"more than {limit} tokens: give fewer")
    marks = {"domain": known_domain(domain), "tokens": caller.digest("\n".join(tokens))}
    marks |= {"purpose": purpose, "reason": reason}
    approval = _approved(caller, marks)
    with caller.permitted(Right.REVEAL, Action.PII_REVEALED, **marks, approval=approval):
        values = open_column(caller, domain, pl.Series("token", tokens, dtype=pl.String))
        caller.results["values"] = len(values)
        opened: list[str | None] = values.to_list()
        return opened


def open_column(caller: Caller, domain: str, tokens: pl.Series, subjects: pl.Series | None = None) -> pl.Series:
    """Open a column of tokens of a join domain: whole ones by the key, joinable parts through the vault.

    Shape: String in, as many Strings out; null stays null, and a cell of an erased subject is null.
    """
    column = tokens.cast(pl.String)
    whole = (column.str.len_chars() != HEAD_CHARACTERS).fill_null(True)
    keys = caller.platform.keys(caller.tenant).live_token_keys(domain)
    if whole.all():
        return decrypt_column(column, keys)
    heads = subjects.cast(pl.String).str.slice(0, HEAD_CHARACTERS) if subjects is not None else None
    kept = caller.platform.intake.vault(caller.tenant).open(domain, column.set(whole, None), heads)
    return decrypt_column(column.set(~whole, None), keys).fill_null(kept)


def list_approvals(caller: Caller) -> list[Approval]:
    """Give what was asked for and decided."""
    with caller.permitted(Right.APPROVE_REVEALS, Action.APPROVALS_LISTED):
        return caller.platform.approvals(caller.tenant).listing()


def decide_approval(caller: Caller, approval_id: str, decision: str) -> Approval:
    """Grant or refuse a reveal that somebody else asked for."""
    with caller.permitted(
        Right.APPROVE_REVEALS, Action.REVEAL_DECIDED, approval=Given(approval_id), decision=decision
    ):
        return caller.platform.approvals(caller.tenant).decide(approval_id, caller.principal, decision)


def _approved(caller: Caller, marks: dict[str, str]) -> str | None:
    """Use the approval of a reveal where the tenant's policy wants one; ask for it where there is none.

    Raises: RefusedError with what to do.
    """
    tenants = {one.strip() for one in caller.platform.settings.reveal_approval.split(",")}
    if not tenants & {caller.known_tenant(), "*"}:
        return None
    approvals = caller.platform.approvals(caller.tenant)
    question = caller.digest(json.dumps(marks, sort_keys=True))
    granted = approvals.take(caller.principal, question)
    if granted is not None:
        return granted.id
    with caller.permitted(Right.REVEAL, Action.REVEAL_ASKED, **marks):
        waiting = approvals.ask(caller.principal, question, marks)
        caller.results["approval"] = waiting.id
    raise RefusedError(
        f"tenant {caller.tenant} asks for a second person: request {waiting.id} waits for "
        f"`lockhouse approval grant {waiting.id}`; then give the same command again"
    )


def _subject_column(caller: Caller, table: str) -> str | None:
    """Give the column that names the subject in a table, None where none does."""
    names = caller.platform.tables.schema(caller.tenant, table).names
    people = [name for name, domain in token_columns().items() if domain != "device" and name in names]
    return people[0] if people else None


def _check_words(reason: str, purpose: str) -> None:
    if not reason.strip():
        raise UsageError("a reveal needs a --reason; it is written into the audit trail")
    if purpose not in PURPOSES:
        raise UsageError(f"no such purpose; there are: {', '.join(PURPOSES)}")
