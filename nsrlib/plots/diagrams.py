"""The words of a block diagram: a frame, boxes, arrows, chains of both, joints and notes.

What a paper says with them lies in ``nsrlib.papers.<paper>.figures``. A residual block, for example::

    fig, ax = frame("A residual block")
    end = chain(ax, [("conv 3x3", "conv3"), ("ReLU", "other"), ("conv 3x3", "conv3")], start=1.4)
    plus(ax, end + 0.4, 0.2)
    line(ax, [0.4, 0.4, end + 0.4, end + 0.4], [0.2, 0.9, 0.9, 0.4])
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nsrlib.plots.style import EDGE

FILLS = {"conv1": "#dbe9f4", "conv3": "#fde8c4", "attention": "#d9efe6", "other": "#eeeeee"}
"""Colours of boxes: 1x1 convolutions and linear layers, 3x3 convolutions, attention and gates, the rest."""


def frame(title: str, height: float = 1.7, ylim: tuple[float, float] = (-0.6, 1.2)) -> tuple[Figure, Axes]:
    """An empty drawing of 11 by ``height`` inches, from -0.4 to 11.6 across and ``ylim`` upwards."""
    fig, ax = plt.subplots(figsize=(11, height))
    ax.set(xlim=(-0.4, 11.6), ylim=ylim)
    ax.set_title(title, loc="left")
    ax.set_axis_off()
    return fig, ax


def box(ax: Axes, x: float, y: float, text: str, fill: str, width: float = 1.24) -> None:
    """A box with its middle at (x, y); ``fill`` is a name in :data:`FILLS`."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.28), width, 0.56,
        boxstyle="round,pad=0,rounding_size=0.08", facecolor=FILLS[fill], edgecolor=EDGE,
    )  # fmt: skip
    ax.add_patch(patch)
    note(ax, x, y, text, va="center")


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = EDGE) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 0.9})


def line(ax: Axes, x: Sequence[float], y: Sequence[float], colour: str = EDGE) -> None:
    """A line through points: a way round, as that of a skip connection."""
    ax.plot(x, y, color=colour, linewidth=0.9)


def plus(ax: Axes, x: float, y: float) -> None:
    """Where two ways are added."""
    ax.text(x, y, "+", ha="center", va="center", fontsize=13)


def note(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    ha: str = "center",
    va: str = "bottom",
    size: float = 8,
    colour: str = "black",
) -> None:
    """A word beside a line, by default above it."""
    ax.text(x, y, text, ha=ha, va=va, fontsize=size, color=colour)


def chain(
    ax: Axes, steps: Sequence[tuple[str, str]], start: float, y: float = 0.2, gap: float = 1.9, width: float = 1.4
) -> float:
    """Boxes (text, fill) from left to right, ``gap`` between their middles, with arrows; returns where they end."""
    for k, (text, fill) in enumerate(steps):
        x = start + k * gap
        if k:
            arrow(ax, (x - gap + width / 2, y), (x - width / 2, y))
        box(ax, x, y, text, fill, width)
    return start + (len(steps) - 1) * gap + width / 2
