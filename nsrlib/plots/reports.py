"""Figures of the reports: a one-page summary, and numbers over swept parameters.

Drawn on matplotlib's ``Figure`` without pyplot, so that neither a display nor a backend is needed.
"""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nsrlib.plots.style import BLUE, GRAY, HEAD, LINES, QUIET, RED, SKY, STYLE

# As on the page. What was not measured is pale.
VERDICT_COLOURS = {
    "reproduced": BLUE,
    "agrees with a rounded number": SKY,
    "agrees with memory": "#8fcdf0",
    "cut": "#b9dff5",
    "checked": "#a9b0bb",
    "differs": RED,
    "open": "#dfe2e6",
    "quoted": "#f0f1f3",
}
REPLICATES = ("seed", "seeds", "repeat", "replicate", "trial")
"""Parameters whose values are draws of the same thing: figures show their mean and range."""
_SHOWN_ROWS = 60
_SHOWN_LINES = 7


def summary(
    title: str,
    subtitle: str,
    groups: Sequence[tuple[str, Mapping[str, int]]],
    times: Sequence[tuple[str, float, str]],
    lines: Sequence[str],
) -> Figure:
    """A page of A4: the scoreboard as stacked bars, the times, and what it was measured with.

    Args:
        groups: (paper and table, or run; verdict -> count).
        times: (notebook or run, seconds, status); one that failed is marked.
        lines: small print at the foot.
    """
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(8.27, 11.69), layout=ConstrainedLayoutEngine(rect=(0.03, 0.02, 0.94, 0.92), h_pad=0.08))
        fig.text(0.05, 0.974, title, fontsize=15, fontweight="bold", va="center")
        fig.text(0.05, 0.955, subtitle, fontsize=9, color=QUIET, va="center")
        left_out = len(groups) - _SHOWN_ROWS
        groups, times = groups[:_SHOWN_ROWS], times[:_SHOWN_ROWS]
        heights = [max(3.0, len(groups)), max(3.0, 0.7 * len(times)), 0.9 * (len(lines) + 1)]
        heights[2] = max(heights[2], 45 - sum(heights[:2]))  # few bars do not become fat ones
        board, clocks, foot = fig.subplots(3, 1, height_ratios=heights)
        _draw_board(board, groups)
        if left_out > 0:
            board.set_xlabel(f"{left_out} more are in the report")
        _draw_times(clocks, times)
        foot.set_axis_off()
        text = "\n".join(textwrap.fill(line, 118, subsequent_indent="    ") for line in lines)
        foot.text(0, 1, text, fontsize=7.5, color="#3c434d", va="top", transform=foot.transAxes, linespacing=1.5)
        return fig


def _draw_board(ax: Axes, groups: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    """Shares of each group, so that a table of three cells is seen beside one of three hundred; the counts in words."""
    used = [v for v in VERDICT_COLOURS if any(counts.get(v) for _, counts in groups)]
    used += sorted({v for _, counts in groups for v in counts} - set(VERDICT_COLOURS))
    size = 7.5 if len(groups) <= 35 else 5.5
    left = np.zeros(len(groups))
    totals = np.array([max(1, sum(counts.values())) for _, counts in groups])
    for verdict in used:
        numbers = np.array([counts.get(verdict, 0) for _, counts in groups])
        share = numbers / totals
        colour = VERDICT_COLOURS.get(verdict, GRAY)
        drawn = ax.barh(range(len(groups)), share, left=left, height=0.78, color=colour, label=verdict, ec="w", lw=0.5)
        words = [str(n) if part > 0.045 else "" for n, part in zip(numbers, share, strict=True)]
        ink = "white" if verdict in ("reproduced", "differs") else "#1b1d21"
        ax.bar_label(drawn, words, label_type="center", fontsize=size, color=ink)
        left = left + share
    for y, total in enumerate(totals if groups else []):
        ax.text(1.01, y, str(total), va="center", fontsize=size, color=QUIET)
    ax.set_yticks(range(len(groups)), [name for name, _ in groups], fontsize=size)
    ax.set(xlim=(0, 1), ylim=(len(groups) - 0.4, -0.6))
    ax.set_title("Verdicts, as shares of the published numbers", pad=20 if len(used) <= 4 else 34)
    ax.set_xticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if used:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(used), 4), fontsize=7.5, handlelength=1)
    else:
        ax.text(0, 0.5, "No claims were recorded.", transform=ax.transAxes)


def _draw_times(ax: Axes, times: Sequence[tuple[str, float, str]]) -> None:
    size = 7.5 if len(times) <= 35 else 5.5
    seconds = [t for _, t, _ in times]
    colours = [SKY if status == "ok" else RED for _, _, status in times]
    drawn = ax.barh(range(len(times)), seconds, color=colours, height=0.7)
    words = [
        f"{value:.{0 if value >= 9.95 else 1}f} s" + ("" if status == "ok" else f", {status}")
        for _, value, status in times
    ]
    ax.bar_label(drawn, words, padding=2, fontsize=size)
    ax.set_yticks(range(len(times)), [name for name, _, _ in times], fontsize=size)
    ax.set(ylim=(len(times) - 0.4, -0.6), xlim=(0, 1.12 * max(seconds, default=1) or 1), title="Seconds")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=7)


def over(table: pd.DataFrame, swept: Mapping[str, Sequence[Any]]) -> list[tuple[str, Figure]]:
    """A figure for every number of a sweep's table that was measured in more than one run: (title, figure).

    One parameter gives lines, two give a heatmap for each number; of more, the two with most values are shown and the
    others are averaged over, as are replicates (:data:`REPLICATES`), whose range is drawn as a band.

    ``table`` is that of :func:`nsrlib.runs.sweep_pages.table`.
    """
    axes = [name for name in swept if name not in REPLICATES] or list(swept)
    axes = sorted(axes, key=lambda name: -len(swept[name]))[:2]
    averaged = [name for name in swept if name not in axes]
    measured = table[table["value"].notna()].sort_values("kind", kind="stable")  # claims, the seconds of runs, tables
    figures = []
    for (kind, name, metric), rows in measured.groupby(["kind", "table", "metric"], sort=False, dropna=False):
        if not axes or len(set(rows["run"])) < 2:
            continue
        title = metric if kind == "run" else f"{name}: {metric}"
        units = rows["unit"].dropna().unique()
        label = f"{metric} ({units[0]})" if len(units) == 1 and units[0] not in ("", "1", "s", metric) else str(metric)
        note = f"mean over {' and '.join(averaged)}" if averaged else ""
        draw = _lines if len(axes) == 1 else _heatmaps
        figures.append((str(title), draw(rows, [f"param_{a}" for a in axes], str(title), label, note)))
    return figures


def _series(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Numbers of one figure, those that vary most between the runs first: (what tells it from the others, rows)."""
    parts = ["row", "column", "scale"]
    if rows.groupby("run")["scale"].nunique().max() < 2:
        parts.remove("scale")  # a run has one scale, which is then a swept parameter
    differing = [part for part in parts if len(set(rows[part].astype(str))) > 1]
    found = []
    for _, one in rows.groupby(parts, sort=False, dropna=False):
        words = [_word(part, one[part].iloc[0]) for part in differing]
        spread = one["value"].max() - one["value"].min()
        found.append((spread / (abs(one["value"].mean()) or 1.0), " · ".join(filter(None, words)), one))
    found.sort(key=lambda item: -item[0])
    return [(label, one) for _, label, one in found if len(set(one["run"])) > 1]


def _word(part: str, value: Any) -> str:
    if value is None or value is pd.NA or value != value or value == "":  # NaN is not itself
        return ""
    return f"x{value:g}" if part == "scale" and isinstance(value, int | float) else str(value)


def _positions(values: pd.Series) -> tuple[list[Any], bool]:
    """Distinct values in the order of an axis, and whether the axis is one of numbers."""
    distinct = list(dict.fromkeys(values))
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
    return sorted(distinct) if numeric else distinct, numeric


def _lines(rows: pd.DataFrame, axes: Sequence[str], title: str, label: str, note: str) -> Figure:
    (axis,) = axes
    values, numeric = _positions(rows[axis])
    at = np.array(values if numeric else range(len(values)), dtype=float)
    series = _series(rows)
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(6.4, 3.6), layout="constrained")
        ax = fig.subplots()
        for (name, one), colour in zip(series[:_SHOWN_LINES], itertools.cycle(LINES), strict=False):
            by_value = one.groupby(axis, sort=False)["value"].agg(["mean", "min", "max"]).reindex(values)
            ax.fill_between(at, by_value["min"], by_value["max"], color=colour, alpha=0.15, lw=0)
            ax.plot(at, by_value["mean"], color=colour, marker="o", ms=4, label=name)
        if numeric and len(at) > 2 and min(at) > 0 and max(at) / min(at) >= 50:
            ax.set_xscale("log")
        ax.set_xticks(at, [_short(v) for v in values])
        ax.minorticks_off()
        ax.set(xlabel=axis.removeprefix("param_"), ylabel=label)
        hidden = len(series) - _SHOWN_LINES
        note = "; ".join(filter(None, [note, f"{hidden} more that vary less are in sweep.csv" if hidden > 0 else ""]))
        ax.set_title(title, pad=18 if note else 6)
        ax.annotate(note, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8, color=QUIET)
        if len(series) > 1:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return fig


def _heatmaps(rows: pd.DataFrame, axes: Sequence[str], title: str, label: str, note: str) -> Figure:
    """The first axis to the right, the second downwards; every field with its number."""
    series = _series(rows)
    shown = series[: _SHOWN_LINES - 1]
    across, down = (_positions(rows[axis])[0] for axis in axes)
    columns = min(3, len(shown))
    lines = -(-len(shown) // max(1, columns))
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.titleweight": "normal", "axes.titlesize": 9}):
        width = max(2.2, 0.62 * len(across) + 0.9)
        fig = Figure(
            figsize=(max(4.2, width * columns), max(1.5, 0.42 * len(down) + 1.0) * lines + 0.4), layout="constrained"
        )
        grid = fig.subplots(lines, columns, squeeze=False)
        for ax in grid.flat[len(shown) :]:
            ax.set_axis_off()
        for ax, (name, one) in zip(grid.flat, shown, strict=False):
            field = one.pivot_table(index=axes[1], columns=axes[0], values="value", aggfunc="mean", sort=False)
            field = field.reindex(index=down, columns=across)
            data = field.to_numpy(dtype=float)
            ax.imshow(np.ma.masked_invalid(data), cmap="cividis", aspect="auto")
            low, high = np.nanmin(data), np.nanmax(data)
            digits = _digits(low, high)
            for y, x in np.argwhere(np.isfinite(data)):
                bright = data[y, x] > low + 0.4 * (high - low)
                ax.text(x, y, f"{data[y, x]:.{digits}f}", ha="center", va="center", fontsize=8,
                        color="black" if bright and high > low else "white")  # fmt: skip
            ax.set_xticks(range(len(across)), [_short(v) for v in across])
            ax.set_yticks(range(len(down)), [_short(v) for v in down])
            ax.set(xlabel=axes[0].removeprefix("param_"), ylabel=axes[1].removeprefix("param_"), title=name)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        hidden = len(series) - len(shown)
        more = f"{hidden} more that vary less are in sweep.csv" if hidden > 0 else ""
        head = title.removesuffix(label.partition(" (")[0]) + label
        if note or more:
            head += f"; {'; '.join(filter(None, [note, more]))}"
        fig.suptitle(textwrap.fill(head, max(40, int(fig.get_figwidth() * 13))), **HEAD)
        return fig


def _digits(low: float, high: float) -> int:
    """Digits after the point with which the numbers of a heatmap are told apart, at most four figures wide."""
    largest = max(abs(low), abs(high), 1e-12)
    wanted = 2 - int(np.floor(np.log10(high - low))) if high > low else 2
    return int(np.clip(min(wanted, 4 - int(np.floor(np.log10(largest)))), 0, 4))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 16 else text[:15] + "…"
