"""The answer to an access request as a page: one file, readable without a network or a program."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-top: 1px solid #ccd; padding-top: 1rem }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #dde }
td { overflow-wrap: anywhere } caption { text-align: left; color: #556 }
@media (prefers-color-scheme: dark) { body { background: #14171c; color: #e6e8eb } }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Access request</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
_INTRODUCTION = (
    "This is everything that is kept about you under this identifier, from every source, in clear. "
    "It was opened for this answer; whoever holds this file holds your data."
)


def write_page(answer: Mapping[str, Any]) -> str:
    """Write an access request's answer as HTML; every value is escaped, nothing is loaded.

    Shape: `answer` as the JSON beside it: `subject`, `made_at`, `sources` and lists by their names.
    """
    counts = [{"source": name, "entries": count} for name, count in answer["sources"].items()]
    parts = [
        f"<h1>Data about {escape(str(answer['subject']['id']))}</h1>",
        f"<p>{_INTRODUCTION}</p>",
        f"<p>Made at {escape(str(answer['made_at']))}, in tenant {escape(str(answer['tenant']))}.</p>",
        _table("What there is", counts),
    ]
    for title, rows in answer["entries"].items():
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append(_table(f"{len(rows)} entries", rows) if rows else "<p>Nothing.</p>")
    body = "\n".join(parts)
    return _PAGE.format(style=_STYLE, body=body)


def _table(caption: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = "\n".join(f"<tr>{_cells(row, columns)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption>\n<tr>{head}</tr>\n{lines}\n</table>"


def _cells(row: Mapping[str, Any], columns: Iterable[str]) -> str:
    return "".join(f"<td>{escape(_shown(row.get(name)))}</td>" for name in columns)


def _shown(value: object) -> str:
    """Write a value as text.

    >>> _shown(None), _shown({"a": 1}), _shown("x")
    ('', '{"a": 1}', 'x')
    """
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
