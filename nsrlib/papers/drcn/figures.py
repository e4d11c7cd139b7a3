"""Figures of DRCN: the network, the designs of its recursion, single recursions, learned weights, width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from nsrlib.papers.drcn.analysis import macs
from nsrlib.plots.diagrams import FILLS, arrow, box, chain, frame, line, note, plus
from nsrlib.plots.style import BLUE, EDGE, GREEN, LINES, ORANGE
from nsrlib.studies import StudyResult

PRINTED: Any = {"ls": "--", "lw": 1.4, "marker": "o", "ms": 2.5}
"""How a curve of the paper is drawn."""


def network() -> Figure:
    """DRCN unfolded (Fig. 3a of the paper): ``W`` at every step, ``R`` on every state, plus the input, weighted sum.

    Example:
        >>> texts = [text.get_text() for text in network().axes[0].texts]
        >>> texts.count("W"), texts.count("R"), texts.count("+")
        (3, 3, 3)
    """
    fig, ax = frame("DRCN unfolded: one W and one R at every depth", height=4.2, ylim=(-0.95, 3.55))
    recon, skip, added, total = 1.0, 1.55, 1.95, 2.95  # heights; the chain of states is at 0
    states = {"0": 3.3, "1": 5.2, "2": 7.1, "D": 10.0}
    chain(ax, [("upscaled\nimage $x$", "other"), ("embedding:\n2 conv 3x3", "other")], 0.4, 0, gap=1.55, width=1.15)
    arrow(ax, (2.52, 0), (3.03, 0))
    line(ax, [0.4, 0.4, 9.55], [0.28, skip, skip], GREEN)
    note(ax, 0.5, skip + 0.06, "skip connection: the image is\nadded to every prediction", "left", colour=GREEN)
    box(
        ax,
        7.6,
        total,
        r"weighted sum   $\hat y = w_1 \hat y_1 + w_2 \hat y_2 + \dots + w_D \hat y_D$",
        "attention",
        5.7,
    )
    arrow(ax, (10.45, total), (11.1, total))
    note(ax, 11.3, total, r"$\hat y$", va="center", size=11)
    for name, x in states.items():
        _state(ax, x, f"$H_{name}$")
        if name == "0":
            continue
        arrow(ax, (x - 1.63, 0), (x - 1.27, 0))
        box(ax, x - 0.95, 0, "W", "conv3", 0.6)
        arrow(ax, (x - 0.63, 0), (x - 0.27, 0))
        arrow(ax, (x, 0.27), (x, recon - 0.29))
        box(ax, x, recon, "R", "conv1", 0.6)
        ax.plot([x, x], [skip - 0.07, skip + 0.07], color="white", lw=6)  # the ways cross here and do not meet
        arrow(ax, (x, recon + 0.29), (x, added - 0.14))
        line(ax, [x - 0.45, x - 0.45], [skip, added], GREEN)
        arrow(ax, (x - 0.46, added), (x - 0.11, added), GREEN)
        ax.plot(x, added, "o", ms=13, mfc="white", mec=EDGE, mew=0.9)
        plus(ax, x, added)
        arrow(ax, (x, added + 0.15), (x, total - 0.29))
        note(ax, x - 0.08, added + 0.42, rf"$\hat y_{name}$", "right", "center", size=10)
        note(ax, x + 0.08, added + 0.42, rf"$\times\, w_{name}$", "left", "center", size=10)
    for y in (0, recon, added + 0.42):
        note(ax, 8.05, y, "...", va="center", size=13)
    line(ax, [3.95, 3.95, 9.35, 9.35], [-0.42, -0.5, -0.5, -0.42])
    note(ax, 6.65, -0.8, "D times the same W: conv 3x3 and ReLU; at the start the identity")
    note(ax, 4.72, recon, "the same R:\n2 conv 3x3", "right", "center")
    return fig


def _state(ax: Axes, x: float, text: str) -> None:
    """Feature maps, one behind the other, at height 0."""
    for k in (2, 1, 0):
        at = (x - 0.22 + 0.05 * k, -0.24 + 0.05 * k)
        ax.add_patch(Rectangle(at, 0.42, 0.42, facecolor="white", edgecolor=BLUE, linewidth=0.9))
    note(ax, x - 0.01, -0.03, text, va="center", size=9)


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


def depth(runs: pd.DataFrame, printed: Mapping[int, float], bicubic: float) -> Figure:
    """Fig. 4: PSNR over the number of recursions, a curve a width and length of training, beside the paper's, dashed.

    A curve is the mean over the seeds, a dot one seed. Widths have colours; a shorter training is paler.

    Args:
        runs: :func:`nsrlib.papers.drcn.comparison.depth_runs`.
        printed: recursions -> PSNR of the paper.

    Example:
        >>> runs = pd.DataFrame({"F": 16, "steps": 1000, "D": [1, 6], "seed": 0, "psnr": [31.2, 31.4]})
        >>> axes = depth(runs, {1: 32.5, 16: 33.8}, 30.39).axes[0]
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['printed: F = 256', 'here: F = 16, 1,000 steps, 1 seed', 'bicubic']
    """
    fig, ax = plt.subplots(figsize=(7.4, 3.6))
    ax.plot(list(printed), list(printed.values()), **PRINTED, color="black", label="printed: F = 256")
    for (features, of_width), colour in zip(runs.groupby("F"), LINES, strict=False):
        for k, steps in enumerate(sorted(of_width["steps"].unique(), reverse=True)):
            some = of_width[of_width["steps"] == steps]
            mean, seeds, alpha = some.groupby("D")["psnr"].mean(), some["seed"].nunique(), 0.6**k
            label = f"here: F = {features}, {steps:,} steps, {seeds} seed{'s' if seeds > 1 else ''}"
            ax.plot(mean.index, mean, color=colour, alpha=alpha, marker="_", ms=12, mew=2, label=label)
            ax.plot(some["D"], some["psnr"], "o", color=colour, alpha=0.4 * alpha, ms=4, mec="none")
    ax.axhline(bicubic, color="black", lw=0.8, ls=":", label="bicubic")
    ax.set(xlabel="recursions D", ylabel="PSNR (dB)", title="Set5, x3: PSNR over the recursions", xticks=list(printed))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def recursions(
    panels: Mapping[str, StudyResult],
    printed: Mapping[str, Mapping[str, float]] | None = None,
    bicubic: Mapping[str, float] | None = None,
) -> Figure:
    """Fig. 5: PSNR over the recursion d, a panel a scale, the ensemble as a line; the paper's curves are dashed.

    Args:
        panels: title -> :func:`nsrlib.papers.drcn.studies.against_singles`. A line is the mean over the seeds, a band
            their range.
        printed: title -> PSNR of the paper, by recursion and ``ensemble``. A title that is not in ``panels`` has a
            panel, too, with the paper's curves alone.
        bicubic: title -> PSNR of bicubic upscaling.

    Example:
        >>> rows = [{"variant": name, "seed": 0, "psnr": 30.0} for name in ("1", "2", "ensemble", "equal weights")]
        >>> fig = recursions({"x3": StudyResult.of_rows("x3", rows)}, {"x2": {"1": 35.57, "ensemble": 37.6}})
        >>> [ax.get_title("left") for ax in fig.axes]
        ['x2', 'x3']
    """
    printed, bicubic = printed or {}, bicubic or {}
    titles = sorted({*panels, *printed})
    fig, axes = plt.subplots(1, len(titles), figsize=(3.5 * len(titles), 3.4), squeeze=False)
    for ax, title in zip(axes[0], titles, strict=True):
        if theirs := printed.get(title):
            singles = {int(name): value for name, value in theirs.items() if name.isdecimal()}
            ax.plot(list(singles), list(singles.values()), **PRINTED, color=BLUE, label="single recursion, printed")
            ax.axhline(theirs["ensemble"], color=ORANGE, ls="--", lw=1.4, label="ensemble, printed")
        if title in panels:
            result = panels[title]
            at = result.table.groupby("variant")["psnr"].agg(["mean", "min", "max"])
            single = at.loc[[name for name in result.settings if name.isdecimal()]]
            d = [int(name) for name in single.index]
            ax.fill_between(d, single["min"], single["max"], color=BLUE, alpha=0.2, lw=0)
            ax.plot(d, single["mean"], color=BLUE, marker="o", ms=3, label="single recursion, here")
            ax.axhspan(at.loc["ensemble", "min"], at.loc["ensemble", "max"], color=ORANGE, alpha=0.2, lw=0)
            ax.axhline(at.loc["ensemble", "mean"], color=ORANGE, label="ensemble, here")
        if title in bicubic:
            ax.axhline(bicubic[title], color="black", lw=0.8, ls=":", label="bicubic")
        ax.set_title(title, loc="left")
        ax.set(xlabel="recursion d", xticks=(1, 4, 8, 12, 16))
    axes[0, 0].set_ylabel("PSNR (dB)")
    known = {label: line for ax in axes[0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known))
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


def same_box(
    whole: np.ndarray,
    box: tuple[int, int, int, int],
    details: Mapping[str, np.ndarray],
    psnr: Mapping[str, float],
    title: str,
) -> Figure:
    """The whole picture with a box, and the box's content by every method, labelled with the PSNR of its whole.

    Args:
        whole: ``uint8`` ``(H, W, 3)``. box: (top, left, height, width).
        details: label -> the enlarged content of the box, in the order in which it is shown.
        psnr: label -> dB; the ground truth has none.
    """
    top, left, h, w = box
    ratios = [whole.shape[1] / whole.shape[0], *[1] * len(details)]
    fig, axes = plt.subplots(1, len(ratios), figsize=(11, 2.55), width_ratios=ratios)
    axes[0].imshow(whole)
    axes[0].add_patch(Rectangle((left - 0.5, top - 0.5), w, h, fill=False, edgecolor=BLUE, linewidth=1.4))
    axes[0].set_title(title)
    for ax, (label, detail) in zip(axes[1:], details.items(), strict=True):
        ax.imshow(detail)
        score = f"{psnr[label]:.2f} dB" if label in psnr else ""
        ax.set_title(f"{label}\n{score}", fontweight="normal", fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    return fig
