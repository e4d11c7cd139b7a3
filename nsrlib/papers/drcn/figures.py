"""Figures of DRCN: the network, the designs of its recursion, single recursions, learned weights, width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nsrlib.papers.drcn.analysis import macs
from nsrlib.plots.diagrams import FILLS, arrow, box, chain, frame, line, note, plus
from nsrlib.plots.style import BLUE, EDGE, GRAY, GREEN, ORANGE
from nsrlib.studies import StudyResult


def network() -> Figure:
    """DRCN as a whole (Fig. 3a of the paper), the recursion as a loop."""
    fig, ax = frame("DRCN")
    end = chain(ax, [("upscaled\nimage x", "other"), ("embedding:\n2 conv 3x3", "conv1")], 0.5, gap=1.75, width=1.3)
    x = end + 1.5
    arrow(ax, (end + 0.02, 0.2), (x - 0.85, 0.2))
    box(ax, x, 0.2, "recursion:\nconv 3x3 W, ReLU", "conv3", 1.7)
    loop = {"arrowstyle": "->", "color": EDGE, "connectionstyle": "arc3,rad=0.55"}
    ax.annotate("", (x - 0.5, 0.5), (x + 0.5, 0.5), arrowprops=loop)
    note(ax, x, 0.86, "D times, the same W")
    arrow(ax, (x + 0.85, 0.2), (x + 1.3, 0.2))
    note(ax, x + 1.07, 0.27, "$H_d$")
    box(ax, x + 2.1, 0.2, "reconstruction:\n2 conv 3x3", "conv1", 1.6)
    arrow(ax, (x + 2.9, 0.2), (x + 3.2, 0.2))
    plus(ax, x + 3.3, 0.2)
    arrow(ax, (x + 3.4, 0.2), (x + 3.9, 0.2))
    note(ax, x + 3.62, 0.27, "$y_d$")
    box(ax, x + 4.65, 0.2, "$\\sum_d w_d\\,y_d$", "attention", 1.4)
    line(ax, [0.5, 0.5, x + 3.3, x + 3.3], [-0.1, -0.42, -0.42, 0.02])
    note(ax, x - 0.6, -0.4, "skip connection")
    return fig


def recursion_designs(depth: int = 3) -> Figure:
    """Fig. 3: three ways to supervise a recursion; boxes with the same letters share their weights.

    Example:
        >>> [ax.get_title("left") for ax in recursion_designs().axes]
        ['(a) DRCN: all shared', '(b) own reconstructions', '(c) nothing shared']
    """
    fig, axes = plt.subplots(1, 3, figsize=(11, 2.6))
    steps = range(1, depth + 1)
    _draw_recursion(axes[0], 0, ["W"] * depth, dict.fromkeys(steps, "R"))
    _draw_recursion(axes[1], 0, ["W"] * depth, {d: f"R{d}" for d in steps})
    for d in steps:
        _draw_recursion(axes[2], (d - 1) * 0.72, [f"W{d}{k}" for k in range(1, d + 1)], {d: f"R{d}"}, f"E{d}")
    for ax, title in zip(axes, ("(a) DRCN: all shared", "(b) own reconstructions", "(c) nothing shared"), strict=True):
        ax.set(xlim=(-0.4, depth + 2.1), ylim=(-0.5, 1.8))
        ax.set_title(title, loc="left")
        ax.set_axis_off()
    return fig


def _draw_recursion(ax: Axes, y: float, steps: Sequence[str], outputs: Mapping[int, str], start: str = "E") -> None:
    """Embedding, recursions and reconstructions at a height: outputs go upwards, a single one to the right."""

    def cell(x: float, y: float, text: str) -> None:
        fill = FILLS[{"E": "other", "W": "conv3", "R": "conv1"}[text[0]]]
        frame = {"boxstyle": "round,pad=0.35", "facecolor": fill, "edgecolor": EDGE}
        ax.text(x, y, text, ha="center", va="center", fontsize=8, bbox=frame)

    cell(0, y, start)
    for k, step in enumerate(steps, 1):
        arrow(ax, (k - 0.78, y), (k - 0.3, y))
        cell(k, y, step)
    for d, text in outputs.items():
        up = len(outputs) > 1
        at = (d, y + 0.8) if up else (d + 1, y)
        arrow(ax, (d, y + 0.28) if up else (d + 0.25, y), (d, at[1] - 0.3) if up else (at[0] - 0.3, y))
        cell(at[0], at[1], text)
        end = (d, at[1] + 0.62) if up else (at[0] + 0.75, y)
        arrow(ax, (d, at[1] + 0.28) if up else (at[0] + 0.3, y), (d, end[1] - 0.14) if up else (end[0] - 0.2, y))
        ax.text(end[0], end[1], f"$y_{d}$", ha="center", va="center", fontsize=9)


def depth(result: StudyResult, metric: str, printed: Mapping[int, float], bicubic: float) -> Figure:
    """Fig. 4: PSNR over the number of recursions, ours beside the paper's, and bicubic upscaling.

    Args:
        result: the study ``depth``; its variants are named ``D=<recursions>``. metric: a column of its table.
        printed: recursions -> PSNR of the paper.
    """
    runs = result.table.assign(D=result.table["variant"].str.removeprefix("D=").astype(int))
    mean = runs.groupby("D")[metric].mean()
    features = next(iter(result.settings.values()))["config"]["features"]
    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    ax.plot(list(printed), list(printed.values()), "D--", color=GRAY, ms=5, label="printed, F = 256")
    ax.plot(runs["D"], runs[metric], "o", color=BLUE, alpha=0.45, ms=5, mec="none")
    ax.plot(mean.index, mean, color=BLUE, marker="_", ms=14, mew=2, label=f"here, F = {features}, one dot a seed")
    ax.axhline(bicubic, color="black", lw=0.8, ls=":", label="bicubic")
    ax.set(xlabel="recursions D", ylabel="PSNR (dB)", title="Set5, x3: PSNR over the recursions", xticks=list(printed))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def recursions(panels: Mapping[str, StudyResult], printed: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
    """Every single recursion of DRCN against the ensemble: means over seeds, with the seeds' range.

    Args:
        panels: title -> :func:`nsrlib.papers.drcn.studies.against_singles`.
        printed: title -> PSNR of the paper, by recursion and ``ensemble``; drawn in gray.

    Example:
        >>> names = ("1", "2", "ensemble", "equal weights")
        >>> rows = [{"variant": name, "seed": 0, "psnr": 30.0} for name in names]
        >>> fig = recursions({"x3": StudyResult.of_rows("x3", rows)})
        >>> fig.axes[0].get_xlabel()
        'recursion d'
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(3.5 * len(panels), 3), squeeze=False)
    for ax, (title, result) in zip(axes[0], panels.items(), strict=True):
        at = result.table.groupby("variant")["psnr"].agg(["mean", "min", "max"])
        single = at.loc[[name for name in result.settings if name.isdecimal()]]
        d = [int(name) for name in single.index]
        ax.fill_between(d, single["min"], single["max"], color=BLUE, alpha=0.15, lw=0)
        ax.plot(d, single["mean"], color=BLUE, marker="o", ms=3, label="single recursion")
        for name, colour, style in (("ensemble", ORANGE, "-"), ("equal weights", GREEN, "--")):
            ax.axhspan(at.loc[name, "min"], at.loc[name, "max"], color=colour, alpha=0.15, lw=0)
            ax.axhline(at.loc[name, "mean"], color=colour, ls=style, label=name)
        if theirs := (printed or {}).get(title):
            singles = {int(name): value for name, value in theirs.items() if name.isdecimal()}
            ax.plot(list(singles), list(singles.values()), "D", color=GRAY, ms=3, label="single recursion, printed")
            ax.axhline(theirs["ensemble"], color=GRAY, ls="-.", label="ensemble, printed")
        ax.set(title=title, xlabel="recursion d")
    axes[0, 0].set_ylabel("PSNR (dB)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def ensemble_weights(weights: Mapping[int, pd.DataFrame]) -> Figure:
    """What the ensembles learned: mean over seeds and the seeds' range.

    Args:
        weights: :func:`nsrlib.papers.drcn.comparison.learned_weights`.
    """
    fig, ax = plt.subplots(figsize=(7, 2.8))
    for scale, w in weights.items():
        ax.plot(w.columns, w.mean(), marker="o", ms=3, label=f"x{scale}")
        ax.fill_between(w.columns, w.min(), w.max(), alpha=0.15, lw=0)
    ax.axhline(1 / 16, color="black", lw=0.8, ls="--", label="equal, as at the start")
    ax.set(
        xlabel="recursion d",
        ylabel="weight / sum of weights",
        title="What the ensemble learned: mean and range of the seeds",
    )
    ax.set_ylim(0, None)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def recursions_or_width(result: StudyResult, metric: str) -> Figure:
    """PSNR over multiply-adds for networks of D recursions and F features: mean over seeds and the seeds' range.

    Args:
        result: the study ``width``; its variants are named ``<width>, D=<recursions>``.
    """
    rows = result.table.assign(D=result.table["variant"].str.extract(r"D=(\d+)$", expand=False))
    rows["F"] = rows["variant"].map({v: s["config"]["features"] for v, s in result.settings.items()})
    rows["G"] = [macs(int(d), f, collapsed=True) / 1e9 for d, f in zip(rows["D"], rows["F"], strict=True)]
    fig, ax = plt.subplots(figsize=(6.4, 3))
    for d, some in rows.groupby("D"):
        mean = some.groupby("F").agg({metric: ["mean", "min", "max"], "G": "first"})
        g, v = mean["G", "first"], mean[metric]
        ax.fill_between(g, v["min"], v["max"], alpha=0.15, lw=0)
        ax.semilogx(g, v["mean"], marker="o", label=f"D = {d}")
        for f in mean.index:
            at = (g[f], v.loc[f, "mean"])
            ax.annotate(f"F = {f}", at, xytext=(4, -11), textcoords="offset points", fontsize=8)
    ax.set(xlabel="multiply-adds for 1280x720 (G)", ylabel="PSNR (dB)", title="Set5 x3: recursions against features")
    ax.legend()
    return fig


def predictions(pictures: Sequence[np.ndarray], apart: Sequence[Tensor], scores: pd.DataFrame, title: str) -> Figure:
    """Single predictions of one crop, up to five of them, above their differences from the ensemble on one scale.

    Args:
        pictures: ``y_1 .. y_D``, ``uint8``.
        apart: ``y_d`` minus the ensemble in grey levels, ``(H, W)`` each.
        scores: :func:`nsrlib.papers.drcn.studies.recursion_scores`, of a whole set.
    """
    limit = max(float(difference.abs().max()) for difference in apart)
    chosen = [d for d in (1, 3, 5, 7, 9) if d <= len(pictures)]
    fig, axes = plt.subplots(2, len(chosen), figsize=(10, 4.5), squeeze=False)
    for (upper, lower), d in zip(axes.T, chosen, strict=True):
        upper.imshow(pictures[d - 1])
        quality, weight = scores["psnr"][d], scores["weight"][d]
        upper.set_title(f"d = {d}: {quality:.2f} dB\nweight {weight:.3f}", fontweight="normal", fontsize=9)
        bar = lower.imshow(apart[d - 1], cmap="RdBu_r", vmin=-limit, vmax=limit)
    for ax in axes.flat:
        ax.set_axis_off()
    fig.colorbar(bar, ax=axes[1], shrink=0.8, label="grey levels")
    fig.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10)
    return fig
