"""Claims as pictures: those of a paper, how effects change with the length of training, and the seven verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from nsrlib.plots.style import BLUE, EDGE, GRAY, GREEN, GRID, HEAD, ORANGE, PALE, PINK, QUIET, RED
from nsrlib.statistics import COLUMNS, contrast, verdict

_LOOKS = {
    "holds": (BLUE, "o"),
    "reversed": (RED, "X"),
    "equivalent": (GREEN, "s"),
    "smaller than published": (ORANGE, "v"),
    "identical": (PINK, "P"),
}
"""Colour and mark by verdict; all others are gray dots."""
_WIDTH = 44


def claims(judged: pd.DataFrame, title: str = "") -> Figure:
    """The claims about training, a row each: the effect with its 95 % interval, beside the published one.

    The gray band holds the differences that do not matter, the diamond is the published effect. Where nothing was
    concluded the row says why.

    Args:
        judged: of :func:`nsrlib.claims.judge_claims`.

    Raises:
        ValueError: no claim about training among them.
    """
    rows = judged[judged["kind"].isin(["study", "trend"])].to_dict("records")
    if not rows:
        raise ValueError("there is no claim about training to draw")
    labels = [textwrap.fill(str(row["statement"]).rstrip(".").replace(" %", "\u00a0%"), _WIDTH) for row in rows]
    says = [textwrap.fill(_says(row), _WIDTH) for row in rows]
    heights = [max(text.count("\n"), word.count("\n")) + 1.9 for text, word in zip(labels, says, strict=True)]
    middles = [sum(heights[:k]) + height / 2 for k, height in enumerate(heights)]
    fig, ax = plt.subplots(figsize=(10, 1.0 + 0.145 * sum(heights)))
    for row, y, height, word in zip(rows, middles, heights, says, strict=True):
        _draw(ax, row, y, 0.36 * height)
        ax.annotate(word, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=_ink(row))
    for k in range(1, len(rows)):
        ax.axhline(sum(heights[:k]), color=GRID, lw=0.6, zorder=0)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(middles, labels, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(sum(heights), 0)
    ax.margins(x=0.08)
    ax.grid(axis="y", visible=False)
    unit = next((row["unit"] for row in rows if row["unit"]), "")
    ax.set_xlabel(f"difference in {unit}, 95 % interval" if unit else "difference, 95 % interval")
    ax.set_title(title or "Claims about training", pad=24)
    marks = [
        Line2D([], [], marker="D", mfc="white", mec="black", ms=6, ls="", label="published"),
        Line2D([], [], marker="o", color=EDGE, ms=6, lw=2, label="measured here"),
        Patch(color=PALE, alpha=0.45, lw=0, label="does not matter"),
    ]
    ax.legend(handles=marks, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, borderpad=0.2)
    return fig


def budgets(table: pd.DataFrame, title: str = "") -> Figure:
    """How effects change with the length of training: a panel a claim, a training of its own a point.

    The line at 0 says *no difference*, the gray band holds those that do not matter, the dashed line is the published
    effect. Where an arm misses its floor there is no point.

    Args:
        table: of :func:`nsrlib.claims.by_budget`.

    Raises:
        ValueError: nothing to draw.
    """
    rows = table.dropna(subset="ours")
    if rows.empty:
        raise ValueError("there is no difference to draw: the table has none whose arms reach their floor")
    panels, steps = list(rows.groupby("id", sort=False)), sorted(rows["steps"].unique())
    columns = min(5, len(panels))
    lines = -(-len(panels) // columns)
    size = (2.1 * columns + 0.8, 2.3 * lines + 0.4)
    fig, axes = plt.subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, (_, points) in zip(axes.flat, panels, strict=False):
        first = points.iloc[0]
        ax.axhspan(-first["margin"], first["margin"], color=PALE, alpha=0.45, lw=0, zorder=0)
        ax.axhline(0, color="black", lw=0.8)
        if first["effect"] == first["effect"]:
            ax.axhline(first["effect"], color="black", lw=1, ls="--")
        error = [points["ours"] - points["low"], points["high"] - points["ours"]]
        ax.errorbar(points["steps"], points["ours"], error, fmt="o-", color=BLUE, ms=5, lw=1, elinewidth=2)
        ax.set(xscale="log", xlim=(steps[0] / 1.5, steps[-1] * 1.5))
        ax.set_xticks(steps, [f"{n:,}" for n in steps])
        ax.minorticks_off()
        ax.tick_params(axis="x", labelsize=8)
        seeds = " to ".join(str(n) for n in sorted({points["seeds"].min(), points["seeds"].max()}))
        label = textwrap.fill(str(first["label"]), 26)
        ax.set_title(f"{label}\n{seeds} seeds", loc="left", fontsize=8, fontweight="normal")
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel(f"difference ({rows['unit'].iloc[0]})")
    fig.supxlabel("steps of a training of its own, 95 % interval", fontsize=9)
    fig.suptitle(title or "How effects change with the length of training", **HEAD)
    return fig


def _says(row: Mapping[Any, Any]) -> str:
    """The verdict and what it rests on, in the margin."""
    if pd.isna(row["ours"]) or row["verdict"] == "identical":
        return f"{row['verdict']}: {row['reason']}"
    words = [f"{int(row['seeds'])} seed{'s' if row['seeds'] != 1 else ''}"]
    if row["verdict"] == "undecided":
        words += [] if pd.isna(row["detectable"]) else [f"{row['detectable']:.2f} {row['unit']} would have been found"]
    else:
        words += [] if pd.isna(row["ratio"]) else [f"{row['ratio']:.2f} of the published effect"]
        words += ["exploratory"] if row["registered"] == "exploratory" else []
    return f"{row['verdict']}: {', '.join(words)}"


def _ink(row: Mapping[Any, Any]) -> str:
    return "black" if row["verdict"] in _LOOKS else QUIET


def _draw(ax: Any, row: Mapping[Any, Any], y: float, half: float) -> None:
    margin, effect, ours = row["margin"], row["effect"], row["ours"]
    low, high = (effect if effect == effect else 0) - margin if row["direction"] == "no less" else -margin, margin
    high = 0.0 if row["direction"] == "no less" else high
    ax.add_patch(Rectangle((low, y - half), high - low, 2 * half, color=PALE, alpha=0.45, lw=0, zorder=1))
    ax.plot([low, high], [y, y], alpha=0)  # which patches do not do: into the limits of the axis
    colour, mark = _LOOKS.get(row["verdict"], (GRAY, "o"))
    if ours == ours:
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2, solid_capstyle="butt", zorder=3)
        ax.plot([ours], [y], mark, color=colour, ms=7, mec="white", mew=0.6, zorder=4)
    if effect == effect:
        ax.plot([effect], [y], "D", mfc="white", mec="black", ms=6, zorder=5)


def verdicts() -> Figure:
    """The seven verdicts of :mod:`nsrlib.statistics` on made-up studies.

    The 95 % interval is thin, the 90 % interval thick, the margin a band, the published effect a diamond. The words are
    those of :func:`~nsrlib.statistics.verdict`.
    """
    table = _seven_verdicts()
    fig, ax = plt.subplots(figsize=(7.6, 1.1 + 0.36 * len(table)))
    row: Any
    for y, row in enumerate(table.itertuples()):
        ax.fill_betweenx([y - 0.5, y + 0.5], -row.margin, row.margin, color=PALE, alpha=0.45, lw=0, zorder=0)
        colour, mark = _LOOKS.get(row.verdict, (GRAY, "o"))
        if row.verdict != "did not train":
            ax.plot([row.low, row.high], [y, y], color=colour, lw=1.4)
            ax.plot([row.low90, row.high90], [y, y], color=colour, lw=4, solid_capstyle="butt")
            ax.plot(row.difference, y, mark, color=colour, ms=7, mec="white", mew=0.6)
        ax.plot(row.effect, y, "D", mfc="white", mec="black", ms=6, zorder=3)
        place = ("axes fraction", "data")
        ax.annotate(row.verdict, (1.02, y), xycoords=place, va="center", color=colour, weight="bold")
    ax.axvline(0, color="black", lw=0.8)
    ax.fill_between([], [], color=PALE, alpha=0.45, lw=0, label="margin")
    ax.plot([], [], "D", mfc="white", mec="black", ms=6, label="published effect")
    ax.plot([], [], color=GRAY, lw=4, solid_capstyle="butt", label="90 % interval")
    ax.plot([], [], color=GRAY, lw=1.4, label="95 % interval")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, columnspacing=1.2, handlelength=1.4)
    ax.set_yticks(range(len(table)), table["label"])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("difference (dB); above 0: as claimed")
    return fig


def _seven_verdicts() -> pd.DataFrame:
    """Studies of two variants whose verdicts are all different: true differences and scatter are made up."""
    margin, effect = 0.05, 0.1
    rest = np.array([-1.3, -0.9, -0.5, -0.2, 0.2, 0.5, 0.9, 1.3])
    examples = {
        "a floor is missed": (0.21, 0.10), "no difference at all": (0.0, 0.0), "above 0": (0.08, 0.05),
        "below 0": (-0.08, 0.05), "inside of the margin": (0.005, 0.04), "below the published effect": (0.025, 0.07),
        "anything is possible": (0.06, 0.14),
    }  # fmt: skip
    rows = []
    for label, (difference, sd) in examples.items():
        values = {"a": 30 + difference + sd * rest, "b": np.full(len(rest), 30.0)}
        runs = [(v, s, "set5", "mean", x) for v, xs in values.items() for s, x in enumerate(xs)]
        c = contrast(pd.DataFrame(runs, columns=list(COLUMNS)), "a", "b")
        says = verdict(c, effect=effect, margin=margin, floor_missed=label == "a floor is missed")
        bounds = {"low": c.low, "high": c.high, "low90": c.low90, "high90": c.high90}
        rows.append(
            {"label": label, "difference": c.difference, **bounds, "margin": margin, "effect": effect, "verdict": says}
        )
    return pd.DataFrame(rows)
