"""Statements of a paper that run: what was asserted, how it was examined, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class Check:
    """One of them.

    Attributes:
        statement: in words, true if ``holds``.
        how: ``checked`` (on samples, or for one network) or ``proved`` (for all, in exact arithmetic).
        figures: what was computed.
    """

    id: str
    statement: str
    how: Literal["checked", "proved"]
    holds: bool
    figures: dict[str, float | int | str] = field(default_factory=dict)

    def described(self) -> str:
        """The figures in words."""
        return ", ".join(f"{k} {_short(v)}" for k, v in self.figures.items())

    def __str__(self) -> str:
        figures = f" ({self.described()})" if self.figures else ""
        return f"{self.id} {self.how if self.holds else 'FAILS'}: {self.statement}{figures}"


def _short(value: float | int | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return "0" if value == 0 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def table(checks: Iterable[Check]) -> pd.DataFrame:
    """Columns id, statement, how, holds, figures (as text)."""
    rows = [(c.id, c.statement, c.how, c.holds, c.described()) for c in checks]
    return pd.DataFrame(rows, columns=["id", "statement", "how", "holds", "figures"])
