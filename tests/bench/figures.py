"""What a benchmark reports."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Figure = dict[str, Any]
"""{"value", "unit", "spread", ...}: `spread` is (largest - smallest round) / median, 0.25 is a quarter.

If there is "failed", which says what is wrong with the run, `value` is None."""

UNSTEADY = 0.25


def figure(rounds: Sequence[float], unit: str, **more: Any) -> Figure:
    """The median of the rounds. A spread over a quarter is said in the figure itself: it is then no figure to quote."""
    middle = statistics.median(rounds)
    spread = (max(rounds) - min(rounds)) / middle if middle else 0.0
    told: Figure = {"value": round(middle, 4), "unit": unit, "spread": round(spread, 3), "rounds": len(rounds), **more}
    if spread > UNSTEADY:
        told["unsteady"] = f"the rounds differ by {spread:.0%}; run it on a quieter machine"
    return told


def failed(told: Figure, *problems: str) -> Figure:
    """The figure of a run that proves nothing: without a value, which so reaches no goal."""
    return told | {"value": None, "failed": "; ".join(problems), "measured": told["value"]}


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def middle(values: Iterable[float], digits: int = 3) -> float:
    """The median, as it stands beside a figure."""
    return round(statistics.median(values), digits)
