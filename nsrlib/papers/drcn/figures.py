"""Figures of DRCN: the network, the three designs of its recursion, single recursions against the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def recursions(panels: Mapping[str, StudyResult], references: Mapping[str, float] | None = None) -> Figure:
    """Every single recursion of DRCN against the ensemble: means over seeds, with the seeds' range.

    Args:
        panels: title -> :func:`nsrlib.papers.drcn.studies.against_singles`.
        references: title -> PSNR of bicubic upscaling, where it shall be shown.
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
        if references and title in references:
            ax.axhline(references[title], color=GRAY, ls=":", label="bicubic")
        ax.set(title=title, xlabel="recursion d")
    axes[0, 0].set_ylabel("PSNR (dB)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
