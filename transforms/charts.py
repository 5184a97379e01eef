"""Small charts: in plain text for catalog pages and terminals, and laid out for a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_WIDTH = 32


@dataclass(frozen=True)
class Bar:
    """A bar of a plot, in units of its view box, from the top left."""

    label: str
    value: int
    x: float
    y: float
    width: float
    height: float


def plot_bars(counts: Mapping[str, int], width: float, height: float) -> list[Bar]:
    """Lay bars out side by side, the highest as high as the plot; what is not nothing can be seen.

    >>> [(bar.x, bar.y, bar.height) for bar in plot_bars({"07:00": 4, "07:01": 0, "07:02": 2}, 30, 8)]
    [(0.0, 0.0, 8.0), (10.0, 8.0, 0.0), (20.0, 4.0, 4.0)]
    """
    most, step = max(counts.values(), default=0) or 1, width / max(1, len(counts))
    bars = []
    for number, (label, value) in enumerate(counts.items()):
        tall = max(value * height / most, 1.0) if value else 0.0
        bars.append(Bar(label, value, number * step, height - tall, step * 0.8, tall))
    return bars


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
