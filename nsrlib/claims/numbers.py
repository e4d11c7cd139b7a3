"""The papers' numbers as printed, and when a measured one equals them."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from importlib import metadata
from pathlib import Path
from typing import Literal

import pandas as pd

from nsrlib.files import ROOT

PROTOCOL = "protocol"
"""What others measured with our metrics: numbers of no paper."""
PROFILES = ("quick", "cpu", "gpu", "paper")

CLAIMS = "claims"
"""What papers claim, beside their numbers: the table of :mod:`nsrlib.claims.registered`."""

TOLERANCE = {"psnr": 0.01}
"""Largest difference at which a ``weights`` cell agrees; of other metrics it is half a unit of the last digit."""

How = Literal["exact", "data", "weights"]
HOW: tuple[How, ...] = ("exact", "data", "weights")

AGREE = ("agrees with a rounded number", "agrees with memory", "cut")
"""Verdicts on numbers that agree with ours, but are weaker evidence than *reproduced*, see :func:`judge`."""

VERDICTS = {
    "reproduced": ("✓", "within the tolerance that its kind of evidence allows"),
    "agrees with a rounded number": ("≈", "printed with fewer than three digits"),
    "agrees with memory": ("(✓)", "memory is the only source of the printed number"),
    "cut": ("↓", "the printed number is ours, cut instead of rounded"),
    "checked": ("☑", "the paper has it from others, and we measure the same"),
    "differs": ("✗", "the measurement contradicts the paper"),
    "open": ("○", "not measured, with the reason given"),
    "quoted": ("❞", "the paper has it from others"),
}
"""Verdict -> its mark on pages, and what it means; in the order in which pages count them."""


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
    table = {stem: Numbers(stem, ROOT) for stem in stems if stem != CLAIMS}
    for point in metadata.entry_points(group="nsrlib.papers"):
        with contextlib.suppress(Exception):  # nsrlib.papers.every says what is wrong with it
            table.setdefault(point.name, point.load())
    return {name: numbers for name, numbers in table.items() if numbers.published.is_file()}


def published(paper: str) -> pd.DataFrame:
    """The paper's numbers: id, table, row, column, scale, metric, value (as printed), unit, source, own, needs.

    ``own`` is False for numbers that the paper has from others. ``needs`` says what measuring takes, in general: empty
    (nothing but arithmetic), ``data``, ``weights FILE``, ``training``, ``hardware``, ``network`` (that nobody built
    here) or ``not released``. A file without these two columns holds own numbers that need nothing.

    Raises:
        ValueError: no such paper; lists those there are.

    Example:
        >>> print(*published("bsrn").set_index("id").loc["comparison/BSRN/x4/Set5/psnr", ["value", "own", "needs"]])
        32.35 True weights net_g_BSRN_x4.pth
    """
    table = pd.read_csv(numbers_of(paper).published, dtype=str, keep_default_na=False)
    table["scale"] = pd.to_numeric(table["scale"], errors="coerce").astype("Int64")
    table["own"] = table["own"] != "no" if "own" in table else True
    return table if "needs" in table else table.assign(needs="")


def errata(paper: str) -> pd.DataFrame:
    """What is wrong in a paper, in its code or in what is quoted about it: place, printed, holds, evidence, check.

    ``check`` says what was done: *computed*, *read* in the file that is named, or *reported* by somebody else.

    Raises:
        ValueError: no such paper; lists those there are.

    Example:
        >>> errata("drcn").query("place == 'Eq. 6, last layer'")["printed"].tolist()
        ['ReLU on the output']
    """
    columns = ["paper", "place", "printed", "holds", "evidence", "check"]
    path = numbers_of(paper).root / "data" / "errata.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame(columns=columns)
    return table[table["paper"] == paper].drop(columns="paper").reset_index(drop=True)


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


def to_the_digit(value: float, printed: str) -> bool:
    """Whether ``value`` rounds to exactly what is printed."""
    return math.isfinite(value) and Decimal(as_printed(value, printed)) == Decimal(printed)


def is_cut(value: float, printed: str) -> bool:
    """Whether ``printed`` is ``value`` cut after its digits, where rounding gives another number.

    Example:
        >>> is_cut(0.89476, "0.894"), is_cut(0.89433, "0.894")
        (True, False)
    """
    if not math.isfinite(value) or to_the_digit(value, printed):
        return False
    step = Decimal(1).scaleb(-decimals(printed))
    return Decimal(repr(float(value))).quantize(step, ROUND_DOWN) == Decimal(printed)


def significant(printed: str) -> int:
    """Digits from the first that is not zero.

    Example:
        >>> [significant(text) for text in ("32.35", "0.156", "4.8", "-9", "73.0")]
        [4, 3, 2, 1, 3]
    """
    return max(1, len(printed.lstrip("-").replace(".", "").lstrip("0")))


def recalled(source: str) -> bool:
    """Whether memory is the only source of a number."""
    return source.startswith("recalled")


def judge(value: float, printed: str, metric: str, how: How, *, own: bool = True, source: str = "") -> str:
    """The verdict on a measured number; the first line that applies:

    ================================  =================================================================================
    ``open``                          the value is not finite
    ``differs``                       it does not agree
    ``checked``                       it agrees, and the paper has the number from others (``own=False``)
    ``cut``                           the printed number is ours, cut instead of rounded
    ``agrees with memory``            it agrees, and memory is the only source of the printed number
    ``agrees with a rounded number``  it agrees with a number printed with fewer than three significant digits
    ``reproduced``                    it agrees
    ================================  =================================================================================

    ``exact`` and ``data`` agree if every printed digit is equal, ``weights`` within :data:`TOLERANCE`, or half a unit
    of the last printed digit.

    Example:
        >>> judge(32.351, "32.35", "psnr", "weights"), judge(352.4, "352", "params", "exact", source="recalled")
        ('reproduced', 'agrees with memory')
    """
    if not math.isfinite(value):
        return "open"
    if how in ("exact", "data"):
        same = to_the_digit(value, printed)
    else:
        tolerance = TOLERANCE.get(metric, 0.5 * 10.0 ** -decimals(printed))
        same = abs(value - float(printed)) <= tolerance + 1e-12
    if not same and not is_cut(value, printed):
        return "differs"
    if not own:
        return "checked"
    if not same:
        return "cut"
    if recalled(source):
        return "agrees with memory"
    return "reproduced" if significant(printed) >= 3 else "agrees with a rounded number"
