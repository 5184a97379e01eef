"""Analytics: tables, queries, and the opening of tokens for a reason."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from lockhouse.operations import list_tables, run_sql
from lockhouse.reveal_operations import reveal
from lockhouse.service.bodies import NOT_BLANK
from lockhouse.service.callers import Identified
from lockhouse.service.problems import describe_problems
from transforms.access import Purpose
from transforms.cells import plain_cell

router = APIRouter(
    prefix="/v1", tags=["tables"], responses=describe_problems(400, 401, 403, 404, 413, 422, 429)
)
MOST_ROWS = 100_000
ARROW = "application/vnd.apache.arrow.stream"


class Table(BaseModel):
    """A Delta table of the tenant."""

    table: str = Field(examples=["masked.logins"])
    zone: str
    rows: int
    version: int
    files: int
    bytes: int
    pii_columns: list[str]


class Tables(BaseModel):
    """A page of tables, and where the next one begins."""

    tables: list[Table]
    next: str | None = None


class Statement(BaseModel):
    """A query."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(min_length=1, max_length=100_000, examples=["select count(*) from masked.logins"])
    format: Literal["json", "csv", "arrow"] = "json"
    limit: int = Field(1000, ge=1, le=MOST_ROWS)


class Rows(BaseModel):
    """What a query found."""

    columns: list[str]
    rows: list[dict[str, Any]]
    truncated: bool = Field(description="Whether there may be more rows than the limit let through.")


class Reveal(BaseModel):
    """Which tokens to open, and why."""

    model_config = ConfigDict(extra="forbid")
    table: str = Field(max_length=128, examples=["masked.logins"])
    column: str = Field(max_length=128, examples=["ip_token"])
    where: str = Field("", max_length=10_000, examples=["event_date = date '2026-11-21'"])
    reason: str = Field(min_length=1, max_length=200, pattern=NOT_BLANK, examples=["ticket 17"])
    purpose: Purpose = "incident"


class Revealed(BaseModel):
    """The values."""

    values: list[str | None]


@router.get("/tables", summary="The tables that can be read", response_model=Tables)
def get_tables(
    caller: Identified,
    after: Annotated[str | None, Query(max_length=128, description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """List the tenant's tables, a page at a time."""
    found = sorted(list_tables(caller), key=lambda one: str(one["table"]))
    rest = [one for one in found if after is None or one["table"] > after]
    page = rest[:limit]
    return {"tables": page, "next": page[-1]["table"] if len(rest) > limit else None}


@router.post(
    "/sql",
    summary="Run a query",
    responses={
        200: {
            "model": Rows,
            "description": "The rows, in the form that was asked for",
            "content": {"text/csv": {"schema": {"type": "string"}}, ARROW: {"schema": {"type": "string"}}},
        }
    },
    response_model=None,
)
def post_sql(caller: Identified, statement: Statement) -> Response:
    """Run one reading statement over masked and curated tables; rows and time are bounded."""
    timeout_s = caller.platform.settings.service_query_seconds
    rows = run_sql(caller, statement.query, statement.limit + 1, timeout_s)
    is_cut = rows.num_rows > statement.limit
    rows = rows.slice(0, statement.limit)
    headers = {"Lockhouse-Truncated": str(is_cut).lower()}
    if statement.format == "arrow":
        return Response(_arrow(rows), media_type=ARROW, headers=headers)
    if statement.format == "csv":
        return Response(_csv(rows), media_type="text/csv", headers=headers)
    found = {"columns": rows.column_names, "rows": plain_cell(rows.to_pylist()), "truncated": is_cut}
    return JSONResponse(found, headers=headers)


def _arrow(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def _csv(rows: pa.Table) -> bytes:
    """Write rows as CSV; lists and structures, which CSV cannot hold, as JSON."""
    import json

    sink = io.BytesIO()
    columns = [
        pa.array(
            [None if one is None else json.dumps(plain_cell(one)) for one in column.to_pylist()], pa.string()
        )
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type)
        else column
        for column in rows.columns
    ]
    pa_csv.write_csv(pa.table(dict(zip(rows.column_names, columns, strict=True))), sink)
    return sink.getvalue()


@router.post("/reveal", summary="Open tokens, for a reason", response_model=Revealed)
def post_reveal(caller: Identified, asked: Reveal) -> dict[str, Any]:
    """Open the tokens of a column. The reason is in the trail before the first value leaves."""
    return {"values": reveal(caller, asked.table, asked.column, asked.where, asked.reason, asked.purpose)}
