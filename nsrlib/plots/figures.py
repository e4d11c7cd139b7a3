"""Figures that any paper can use: bubbles, bars, maps, studies, learning curves, what explains a number.

Functions draw and return a matplotlib ``Figure``; end the notebook cell with a semicolon.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nsrlib import explain
from nsrlib.claims import untrained
from nsrlib.claims.floors import title as title_of
from nsrlib.plots.style import BLUE, EDGE, GRAY, GRID, HEAD, LINES, ORANGE, PALE, RED
from nsrlib.statistics import summary
from nsrlib.studies import StudyResult


def bubbles(
    points: pd.DataFrame,
    *,
    highlight: Sequence[str] = (),
    xlim: tuple[float, float],
    ylabel: str = "PSNR (dB)",
    title: str = "",
) -> Figure:
    """Quality against size; circles grow with the logarithm of the multiply-adds, which span decades.

    Args:
        points: columns label, x (thousands of parameters), y, multi_adds (G), ours (bool: measured here, drawn as a red
            ring), and place: where the label goes, "right", "left" or "below". Points beyond ``xlim`` are drawn at the
            edge.
        highlight: labels in colour.
    """
    fig, ax = plt.subplots(figsize=(7.4, 4.6))

    def area(g: float) -> float:
        return 30 + 90 * np.log10(max(g, 1.0)) ** 1.5

    places = {"right": ((8, 5), "left"), "left": ((-8, 5), "right"), "below": ((0, -16), "center")}
    p: Any
    for p in points.itertuples():
        beyond = p.x > xlim[1]
        x = xlim[1] * 0.975 if beyond else p.x
        colour = BLUE if p.label in highlight else PALE
        fill, ring, order = ("none", RED, 4) if p.ours else (colour, "white", 3)
        ax.scatter(x, p.y, s=area(p.multi_adds), facecolor=fill, edgecolor=ring, linewidth=1.4, zorder=order)
        offset, ha = places["left" if beyond else p.place]
        text = f"{p.label} ({p.x:.0f} K →)" if beyond else str(p.label)
        ink = RED if p.ours else "black" if p.label in highlight else EDGE
        ax.annotate(text, (x, p.y), xytext=offset, textcoords="offset points", ha=ha, fontsize=8, color=ink)
    for g in (10, 100, 1000):
        ax.scatter([], [], s=area(g), color=PALE, label=f"{g} G multiply-adds")
    ax.legend(loc="lower right", labelspacing=1.5, handletextpad=1.0, borderpad=1.0)
    ax.set(xlim=xlim, xlabel="parameters (K)", ylabel=ylabel, title=title)
    return fig


def bars(
    values: Mapping[str, float],
    *,
    unit: str = "",
    xlabel: str = "",
    title: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Horizontal bars from zero, the value written at the end of each."""
    fig, ax = plt.subplots(figsize=(6.6, 0.34 * len(values) + 0.7))
    labels, numbers = list(values), list(values.values())
    ax.barh(labels, numbers, color=[(colours or {}).get(label, BLUE) for label in labels], height=0.66)
    span = max(map(abs, numbers)) or 1
    for k, v in enumerate(numbers):
        sign, ha = (1, "left") if v >= 0 else (-1, "right")
        ax.text(v + 0.01 * span * sign, k, f"{v:.3g}{unit}", va="center", ha=ha)
    ax.invert_yaxis()
    ax.margins(x=0.22)
    ax.grid(axis="y", visible=False)
    ax.axvline(0, color=EDGE, linewidth=0.8)
    ax.set(title=title, xlabel=xlabel)
    return fig


def explained(table: pd.DataFrame, reported: float | None = None, tolerance: float = 0.05, number: int = 8) -> Figure:
    """What each single change of protocol does, and the combinations nearest to a number, see :mod:`nsrlib.explain`.

    Args:
        table: of :func:`nsrlib.explain.measured`.
        reported: dB, the vertical line; None: only the single changes.
        tolerance: dB, the band. number: combinations that are shown.
    """
    single = explain.alone(table)
    near = table.head(0) if reported is None else explain.near(table, reported, float("inf")).head(number)
    heights = [len(single)] + [len(near)] * (reported is not None)
    size = (8.6, 0.85 * len(heights) + 0.22 * sum(heights))
    fig, axes = plt.subplots(len(heights), 1, figsize=size, height_ratios=heights, squeeze=False)
    _single_changes(axes[0, 0], single, float(table["psnr"].iloc[0]))
    axes[0, 0].set_title(f"{title_of(table.attrs['dataset'])} x{table.attrs['scale']}: one choice changed")
    if reported is not None:
        ax = axes[1, 0]
        inside = near["off"].abs() <= tolerance
        ax.axvspan(reported - tolerance, reported + tolerance, color=PALE, alpha=0.45, lw=0, zorder=0)
        ax.axvline(reported, color=RED, lw=1)
        ax.scatter(near["psnr"], range(len(near)), color=[BLUE if one else GRAY for one in inside], zorder=3)
        ax.set_yticks(range(len(near)), [changes or "the default protocol" for changes in near["changes"]])
        ax.set_xlabel(f"PSNR (dB); band: within {tolerance:g} dB")
        ax.set_title(f"{reported:.2f} dB: the nearest of {len(table)} combinations")
        ax.margins(x=0.1)
    for ax in axes[:, 0]:
        ax.invert_yaxis()
        ax.tick_params(axis="y", labelsize=8)
        ax.grid(axis="y", visible=False)
    return fig


def _single_changes(ax: plt.Axes, single: pd.DataFrame, usual: float) -> None:
    moved = single["moved"]
    ax.barh(single["changes"], moved, color=[BLUE if value >= 0 else ORANGE for value in moved], height=0.66)
    for y, value in enumerate(moved):
        sign, ha = (1, "left") if value >= 0 else (-1, "right")
        place: dict[str, Any] = {"xytext": (3 * sign, 0), "textcoords": "offset points", "ha": ha, "va": "center"}
        ax.annotate(f"{value:+.3f}", (value, y), fontsize=8, **place)
    ax.axvline(0, color=EDGE, lw=0.8)
    ax.set_xscale("symlog", linthresh=0.01)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.3)
    ax.set_xlabel(f"difference to {usual:.2f} dB, logarithmic beyond 0.01 dB")


def study(
    result: StudyResult,
    metric: str,
    *,
    baseline: str,
    title: str = "",
    label: str = "PSNR (dB)",
    reference: tuple[str, float] | None = None,
    pool: Sequence[str] | None = None,
) -> Figure:
    """A trained study: every seed's value on the left, paired differences with their 95 % interval on the right.

    Nothing is judged: the intervals are not corrected for their number, and those of a pilot are gray. Variants below
    the floor of their task, see :func:`nsrlib.claims.untrained`, have no difference.

    Args:
        metric: a column of ``result.table``.
        reference: name and value of a line to compare with, bicubic for example.
        pool: as for :func:`nsrlib.statistics.contrast`; empty where variants scatter very differently.
    """
    table = summary(result.scores(metric=metric), baseline, pool=pool)
    names = list(table.index)
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 0.9 + 0.42 * len(names)), width_ratios=[1.1, 1], sharey=True)
    colour, kind = (GRAY, ", a pilot") if result.pilot else (BLUE, "")
    below = untrained(result)
    for y, name in enumerate(names):
        values = result.table.loc[result.table["variant"] == name, metric]
        ink = GRAY if name in below else BLUE
        left.plot(values, [y] * len(values), "o", color=ink, alpha=0.45, ms=5, mec="none")
        left.plot([table.loc[name, "mean"]] * 2, [y - 0.3, y + 0.3], color=ink, lw=2)
        if name == baseline or name in below or baseline in below:
            words = (
                "did not train" if name in below else "compared with" if name == baseline else "nothing to compare with"
            )
            right.text(0, y, words, ha="center", va="center", color=GRAY, fontsize=8, backgroundcolor="w")
            continue
        low, high = cast(float, table.loc[name, "low"]), cast(float, table.loc[name, "high"])
        right.plot([low, high], [y, y], color=colour, lw=2)
        right.plot([table.loc[name, "difference"]], [y], "o", color=colour)
    right.axvline(0, color="black", lw=0.8)
    if reference:
        left.axvline(reference[1], color=GRAY, ls="--", lw=1)
        left.text(reference[1], -0.4, f" {reference[0]}", color=GRAY, fontsize=8, va="center")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    left.set(xlabel=f"{label}, one dot a seed", title=title)
    right.set_xlabel(f"difference to {baseline}, 95 % interval{kind}")
    return fig


def learning_curves(curves: pd.DataFrame, metric: str = "psnr", *, title: str = "", label: str = "PSNR (dB)") -> Figure:
    """Mean over seeds of ``StudyResult.curves`` against the step, one line a variant, with the seeds' range."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    groups = curves.dropna(subset=[metric]).groupby("variant", sort=False)
    for colour, (name, rows) in zip(itertools.cycle(LINES), groups, strict=False):
        at = rows.groupby("step")[metric].agg(["mean", "min", "max"])
        ax.fill_between(at.index, at["min"], at["max"], color=colour, alpha=0.15, lw=0)
        ax.plot(at.index, at["mean"], color=colour, marker="o", ms=3, label=str(name))
    ax.set(xlabel="step", ylabel=label, title=title)
    ax.legend(loc="lower right")
    return fig


def sweep(
    table: pd.DataFrame,
    metric: str,
    by: str,
    *,
    references: Mapping[str, float] | None = None,
    title: str = "",
    label: str = "PSNR (dB)",
) -> Figure:
    """Variants that were each trained at several settings: every seed a dot, every mean a bar, settings by colour.

    Args:
        table: columns variant, seed, ``by`` (the setting) and ``metric``.
        references: name -> value, a vertical line each.
    """
    names, settings = list(dict.fromkeys(table["variant"])), sorted(table[by].unique())
    fig, ax = plt.subplots(figsize=(7.6, 0.9 + 0.5 * len(names)))
    step = 0.72 / len(settings)
    for k, (setting, colour) in enumerate(zip(settings, itertools.cycle(LINES), strict=False)):
        rows = table[table[by] == setting]
        height = np.array([names.index(v) for v in rows["variant"]]) + (k - (len(settings) - 1) / 2) * step
        ax.plot(rows[metric], height, "o", color=colour, alpha=0.5, ms=4.5, mec="none", label=f"{by} x{setting:g}")
        for name, values in rows.groupby("variant", sort=False)[metric]:
            y = names.index(str(name)) + (k - (len(settings) - 1) / 2) * step
            ax.plot([values.mean()] * 2, [y - step / 2, y + step / 2], color=colour, lw=2)
    for name, value in (references or {}).items():
        ax.axvline(value, color="black", lw=0.8, ls="--", zorder=0)
        ax.annotate(f" {name}", (value, 1), xycoords=("data", "axes fraction"), fontsize=8, va="bottom", ha="center")
    ax.set_yticks(range(len(names)), names)
    for y in range(1, len(names)):
        ax.axhline(y - 0.5, color=GRID, lw=0.6)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"{label}, one dot a seed")
    ax.set_title(title, pad=18 if references else None)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def maps(rows: Mapping[str, Mapping[str, np.ndarray]], title: str = "") -> Figure:
    """Rows of labelled gray ``(H, W)`` pictures, each on its own scale from darkest to brightest."""
    columns = max(len(pictures) for pictures in rows.values())
    h, w = next(iter(next(iter(rows.values())).values())).shape
    margin = 0.2 + 0.075 * max(map(len, rows))  # for the rows' labels
    side = min(2.2, (10 - margin) / columns)
    size = (side * columns + margin, (side * h / w + 0.25) * len(rows) + 0.3)
    fig, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, (label, picture) in zip(line, pictures.items(), strict=False):
            ax.imshow(picture, cmap="gray")
            ax.set_title(label, fontweight="normal", fontsize=8, loc="center")
        line[0].text(-0.06, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
    fig.suptitle(title, **HEAD)
    return fig


def history(rows: pd.DataFrame, title: str = "") -> Figure:
    """A training run: the loss (logarithmic) and, where it was validated, the PSNR."""
    validated = "psnr" in rows.columns
    fig, axes = plt.subplots(1, 2 if validated else 1, figsize=(8.6 if validated else 5, 2.8), squeeze=False)
    axes[0, 0].semilogy(rows["step"], rows["loss"], color=BLUE)
    axes[0, 0].set(xlabel="step", ylabel="loss", title=title)
    if validated:
        seen = rows.dropna(subset=["psnr"])
        axes[0, 1].plot(seen["step"], seen["psnr"], color=ORANGE, marker="o", ms=3)
        axes[0, 1].set(xlabel="step", ylabel="validation PSNR (dB)")
    return fig
