"""Statements of a paper that run: what was asserted, how it was examined, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Check:
    """A statement and what became of it.

    Attributes:
        id: of the statement, a letter and a number.
        statement: in words, true if ``holds``.
        how: ``checked`` (on samples, or for one network) or ``proved`` (for all, in exact arithmetic).
        holds: whether it came out.
        figures: what was computed.
    """

    id: str
    statement: str
    how: Literal["checked", "proved"]
    holds: bool
    figures: dict[str, float | int | str] = field(default_factory=dict)

    def __str__(self) -> str:
        figures = ", ".join(f"{k} {_short(v)}" for k, v in self.figures.items())
        return f"{self.id} {self.how if self.holds else 'FAILS'}: {self.statement}" + (
            f" ({figures})" if figures else ""
        )


def _short(value: float | int | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return "0" if value == 0 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def table(checks: Iterable[Check]) -> pd.DataFrame:
    """Columns id, statement, how, holds, figures (as text)."""
    import pandas as pd

    rows = [
        {
            "id": c.id,
            "statement": c.statement,
            "how": c.how,
            "holds": c.holds,
            "figures": ", ".join(f"{k} {_short(v)}" for k, v in c.figures.items()),
        }
        for c in checks
    ]
    return pd.DataFrame(rows, columns=["id", "statement", "how", "holds", "figures"])
