"""The look of all figures: one palette, one style, figures as files, tables for a page.

Colours are Okabe and Ito's, told apart by colour-blind readers. Nothing here needs pyplot.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from cycler import cycler
from matplotlib.figure import Figure

from nsrlib.files import whole_file

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GRAY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#777777",
)  # fmt: skip
LINES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GRAY, YELLOW)
"""Colours in the order in which series take them; yellow, hard to see on white, is the last."""
PALE, EDGE, QUIET, GRID = "#b9b9b9", "#555555", "#5f6672", "#e3e3e3"
"""What stays behind the data: points that are not meant, outlines and axes, small print, lines of a grid."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "image.interpolation": "nearest",
    "axes.prop_cycle": cycler(color=LINES[:-1]),
    "svg.hashsalt": "nsrlib",  # the same ids in every file
}
"""matplotlib's settings: small, sharp on a web page, no frame where it says nothing."""
HEAD: dict[str, Any] = {"x": 0.01, "ha": "left", "fontweight": "bold", "fontsize": 10}
"""How a title above several axes is set, which the settings do not reach."""


def use_style() -> None:
    """Give all figures drawn from now on the look of :data:`STYLE`."""
    mpl.rcParams.update(STYLE)


def save(fig: Figure, name: str, out_dir: str | Path = "") -> None:
    """Keep a figure as ``<out_dir>/figures/<name>.png`` when there is an ``out_dir``."""
    if str(out_dir):
        write(fig, Path(out_dir) / "figures" / f"{name}.png")


def write(fig: Figure, *paths: Path) -> None:
    """Write a figure to files of the kinds that their names end in, whole or not at all, without a date."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = path.suffix[1:]
        dates = {"pdf": {"CreationDate": None, "Creator": None}, "svg": {"Date": None}}
        buffer = io.BytesIO()  # on a full disk matplotlib's PDF writer fails with an AttributeError
        fig.savefig(buffer, format=kind, dpi=STYLE["savefig.dpi"], metadata=dates.get(kind, {"Software": None}))
        with whole_file(path) as draft:
            draft.write_bytes(buffer.getvalue())


def style_numbers(table: pd.DataFrame, digits: Mapping[str, int] | int = 3) -> pd.DataFrame:
    """The table with its float columns as text, for display: ``digits`` decimals each."""
    shown = table.copy()
    for column in shown.select_dtypes("float"):
        d = digits if isinstance(digits, int) else digits.get(str(column), 3)
        shown[column] = ["" if pd.isna(v) else f"{v:,.{d}f}" for v in shown[column]]
    return shown


def left_aligned(table: pd.DataFrame) -> Any:
    """A table of sentences for a page: text from the left, lines wrapped, no index."""
    from IPython.display import HTML

    left: Any = [{"selector": "th, td", "props": "text-align: left; white-space: normal; vertical-align: top"}]
    styled = table.style.format(escape="html").hide(axis="index").set_table_styles(left).set_uuid("left")
    return HTML(styled.to_html())
