"""The papers' numbers as printed, and when a measured one equals them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from importlib import metadata
from pathlib import Path
from typing import Literal

import pandas as pd

from nsrlib.files import ROOT

PROTOCOL = "protocol"
"""What others measured with our metrics: numbers of no paper."""
PROFILES = ("quick", "cpu", "gpu", "paper")

TOLERANCE = {"psnr": 0.01, "ssim": 0.0005}
"""Largest difference of a ``weights`` cell that counts as reproduced, by metric."""

How = Literal["exact", "weights", "trained"]


@dataclass(frozen=True)
class Numbers:
    """Where the numbers of one paper lie; ``root`` holds ``data/published/<name>.csv`` and ``data/results/<name>``."""

    name: str
    root: Path = ROOT

    @property
    def published(self) -> Path:
        return self.root / "data" / "published" / f"{self.name}.csv"

    @property
    def results(self) -> Path:
        return self.root / "data" / "results" / self.name


def known() -> dict[str, Numbers]:
    """The papers whose numbers are at hand: the repository's, and those of entry points in ``nsrlib.papers``."""
    stems = sorted(path.stem for path in (ROOT / "data" / "published").glob("*.csv"))
    table = {stem: Numbers(stem, ROOT) for stem in stems}
    for point in metadata.entry_points(group="nsrlib.papers"):
        with contextlib.suppress(Exception):  # nsrlib.papers.every says what is wrong with it
            table.setdefault(point.name, point.load())
    return {name: numbers for name, numbers in table.items() if numbers.published.is_file()}


def published(paper: str) -> pd.DataFrame:
    """The paper's numbers: id, table, row, column, scale, metric, value (as printed), unit, source.

    Raises:
        ValueError: no such paper; lists those there are.
    """
    table = pd.read_csv(numbers_of(paper).published, dtype=str, keep_default_na=False)
    table["scale"] = pd.to_numeric(table["scale"], errors="coerce").astype("Int64")
    return table


def numbers_of(paper: str) -> Numbers:
    table = known()
    if paper not in table:
        raise ValueError(f"no published numbers for {paper!r}; there are: {', '.join(table)}")
    return table[paper]


def decimals(printed: str) -> int:
    """Digits after the point."""
    return len(printed.partition(".")[2])


def as_printed(value: float, printed: str) -> str:
    """``value`` with as many decimals as ``printed``, rounded half up as papers do."""
    step = Decimal(1).scaleb(-decimals(printed))
    return str(Decimal(repr(float(value))).quantize(step, ROUND_HALF_UP) + 0)  # adding 0 makes -0.00 into 0.00


def judge(value: float, printed: str, metric: str, how: How) -> str:
    """``reproduced`` or ``differs``, by the rules of the module's table."""
    if how == "exact":
        same = Decimal(as_printed(value, printed)) == Decimal(printed)
    else:
        # a printed cell is itself rounded: 32.35 stands for anything up to 32.355
        tolerance = TOLERANCE.get(metric, 0.5 * 10.0 ** -decimals(printed))
        same = abs(value - float(printed)) <= tolerance + 1e-12
    return "reproduced" if same else "differs"
