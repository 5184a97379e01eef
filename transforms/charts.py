"""Small charts in plain text, for catalog pages and terminals."""

from __future__ import annotations

from collections.abc import Mapping

_WIDTH = 32


def bar_chart(counts: Mapping[str, int], most_bars: int = 24) -> str:
    """Draw one bar a line as a Markdown code block; of many bars the last ones.

    >>> print(bar_chart({"07:00": 4, "08:00": 2}))
    ```
    07:00  ████████████████████████████████ 4
    08:00  ████████████████ 2
    ```
    """
    shown = list(counts.items())[-most_bars:]
    most = max((count for _, count in shown), default=1) or 1
    lines = [f"{label}  {'█' * max(count * _WIDTH // most, count > 0)} {count:,}" for label, count in shown]
    return "\n".join(["```", *lines, "```"])
