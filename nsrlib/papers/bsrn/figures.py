"""Figures of BSRN: the network, its block beside RFDN's, both attentions, and kernels side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nsrlib.complexity import count
from nsrlib.models import create_model
from nsrlib.plots.diagrams import arrow, box, chain, frame, line, note, plus
from nsrlib.plots.figures import bubbles
from nsrlib.plots.style import BLUE, HEAD, ORANGE


def network() -> Figure:
    """BSRN as a whole."""
    fig, ax = frame("BSRN")
    steps = [("4 copies", "other"), ("BSConv 3x3", "conv3"), ("ESDB 1", "attention"), ("...", "other")]
    steps += [("ESDB 8", "attention"), ("conv 1x1\nof all", "conv1"), ("GELU,\nBSConv 3x3", "conv3")]
    end = chain(ax, steps, 0.3, gap=1.32, width=1.0)
    plus(ax, end + 0.35, 0.2)
    arrow(ax, (end + 0.02, 0.2), (end + 0.25, 0.2))
    arrow(ax, (end + 0.47, 0.2), (end + 0.78, 0.2))
    box(ax, end + 1.45, 0.2, "conv 3x3,\npixel shuffle", "conv3", 1.3)
    line(ax, [2.22, 2.22, end + 0.35, end + 0.35], [0.2, 0.9, 0.9, 0.4])
    return fig


def esdb() -> Figure:
    """ESDB, the block of BSRN."""
    return _block("ESDB, the block of BSRN", "BSConv 3x3", "GELU", ["ESA", "CCA"], shortcut=True)


def rfdb() -> Figure:
    """RFDB, the block of RFDN, that ESDB was made from."""
    return _block("RFDB, the block of RFDN", "conv 3x3", "LReLU", ["ESA"], shortcut=False)


def _block(title: str, conv: str, activation: str, attentions: list[str], shortcut: bool) -> Figure:
    fig, ax = frame(title, 2.4, (-0.75, 1.75))
    refinements = (1.2, 3.0, 4.8)
    for x in refinements:
        box(ax, x, 1.0, f"{conv}\n+ input, {activation}", "conv3")
    box(ax, 6.6, 1.0, f"{conv}\n{activation}", "conv3")
    for x in refinements:  # what is distilled
        box(ax, x, -0.1, f"conv 1x1\n{activation}", "conv1")
        arrow(ax, (x - 0.95, 1.0), (x - 0.62, -0.1))
    for x in (0.0, 1.82, 3.62, 5.42):
        arrow(ax, (x, 1.0), (x + 0.55, 1.0))
    box(ax, 8.0, 0.45, "concat,\nconv 1x1", "conv1")
    arrow(ax, (7.22, 1.0), (7.45, 0.62))
    for x in refinements:
        line(ax, [x + 0.62, x + 0.68, x + 0.68], [-0.1, -0.1, -0.5])
    line(ax, [1.88, 7.0], [-0.5, -0.5])
    arrow(ax, (7.0, -0.5), (7.5, 0.25))
    for k, text in enumerate(attentions):
        box(ax, 9.3 + 1.1 * k, 0.45, text, "attention", width=0.7)
        arrow(ax, (8.62 + 1.1 * k, 0.45), (8.94 + 1.1 * k, 0.45))
    end = 9.3 + 1.1 * (len(attentions) - 1)
    if shortcut:
        line(ax, [0.0, 0.0, 11.1, 11.1], [1.0, 1.62, 1.62, 0.62])
        plus(ax, 11.1, 0.45)
    arrow(ax, (end + 0.36, 0.45), (11.0 if shortcut else end + 0.8, 0.45))
    line(ax, [-0.3, 0.0], [1.0, 1.0])
    return fig


def esa() -> Figure:
    """Enhanced spatial attention."""
    fig, ax = frame("ESA: where to look")
    steps = [("conv 1x1\nC to C/4", "conv1"), ("BSConv 3x3\nstride 2", "conv3"), ("max pool 7\nstride 3", "other")]
    steps += [("3 BSConv 3x3\nGELU between", "conv3"), ("bilinear\nto full size", "other")]
    end = chain(ax, steps, 0.7, gap=1.62, width=1.3)
    plus(ax, end + 0.32, 0.2)
    arrow(ax, (end + 0.02, 0.2), (end + 0.22, 0.2))
    arrow(ax, (end + 0.42, 0.2), (end + 0.62, 0.2))
    box(ax, end + 1.22, 0.2, "conv 1x1\nC/4 to C", "conv1", 1.16)
    arrow(ax, (end + 1.82, 0.2), (end + 2.04, 0.2))
    box(ax, end + 2.6, 0.2, "sigmoid,\ntimes input", "attention", 1.1)
    line(ax, [1.42, 1.42, end + 0.32, end + 0.32], [0.2, 0.9, 0.9, 0.4])
    note(ax, end / 2 + 0.8, 0.93, "conv 1x1")
    return fig


def cca() -> Figure:
    """Contrast-aware channel attention."""
    fig, ax = frame("CCA: which channels to trust")
    steps = [("mean + std of\neach channel", "other"), ("conv 1x1\nC to C/16", "conv1"), ("ReLU", "other")]
    steps += [("conv 1x1\nC/16 to C", "conv1"), ("sigmoid,\ntimes input", "attention")]
    chain(ax, steps, 0.8)
    return fig


def kernel_rows(rows: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Rows of small kernels on one symmetric colour scale.

    Args:
        rows: label -> ``(number, K, K)``.

    Example:
        >>> fig = kernel_rows({"dense": np.ones((4, 3, 3)), "BSConv": np.zeros((4, 3, 3))})
        >>> len(fig.axes)
        8
    """
    columns = max(len(kernels) for kernels in rows.values())
    limit = max(float(np.abs(kernels).max()) for kernels in rows.values())
    fig, axes = plt.subplots(len(rows), columns, figsize=(0.62 * columns + 1.7, 0.72 * len(rows) + 0.4), squeeze=False)
    for cells, (label, kernels) in zip(axes, rows.items(), strict=True):
        for ax in cells:
            ax.set_axis_off()
        for ax, kernel in zip(cells, kernels, strict=False):
            ax.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit)
        cells[0].text(-0.35, 0.5, label, transform=cells[0].transAxes, ha="right", va="center")
    fig.suptitle(title, **HEAD)
    return fig


def kept_energy(kept: pd.DataFrame, title: str) -> Figure:
    """How separable dense kernels are: :func:`nsrlib.papers.bsrn.separable.kept_energy` as histograms."""
    fig, ax = plt.subplots(figsize=(7.2, 3))
    palette = [BLUE, ORANGE]
    sns.histplot(kept, x="kept", hue="kind", bins=40, element="step", stat="count", palette=palette, ax=ax)
    ax.set(xlim=(0, 1), xlabel="share of a kernel's energy kept by its best separable approximation")
    ax.set_ylabel("filters, inputs")
    ax.set_title(title)
    return fig


def quality_and_size(printed: pd.DataFrame, measured: Mapping[str, tuple[str, float]]) -> Figure:
    """Fig. 1: PSNR on Set5 over parameters, x4, as printed and, as rings, measured.

    A ring that lies on the circle of its own name has no label.

    Args:
        printed: the paper's numbers. measured: label -> name of the network, PSNR.
    """
    rows = printed.query("table == 'fig1'")
    plotted = rows.pivot_table(index="row", columns="metric", values="value", aggfunc="first").astype(float)
    table = printed.query("table == 'comparison' and scale == 4 and metric == 'multi_adds'")
    adds = table.set_index("row")["value"].astype(float)
    points: list[dict[str, Any]] = [
        {"label": row, "x": p["params"], "y": p["psnr"], "multi_adds": adds.get(row, p["multi_adds"]), "ours": False,
         "place": "below" if row == "LAPAR-A" else "right"}
        for row, p in plotted.iterrows()
    ]  # fmt: skip
    for label, (name, value) in measured.items():
        counted = count(create_model(name, 4), rule="thop")
        x = counted.params / 1e3
        shown, place = label, "left" if label in plotted.index or x > 800 else "below"
        if label in plotted.index:
            circle = plotted.loc[label]
            on_it = abs(x - circle["params"]) < 2 and abs(value - circle["psnr"]) < 0.02
            shown = "" if on_it else f"{label}, measured"
        size = {"x": x, "y": value, "multi_adds": counted.multi_adds / 1e9}
        points.append({"label": shown, **size, "ours": True, "place": place})
    return bubbles(
        pd.DataFrame(points),
        highlight=["BSRN", "BSRN-S"],
        xlim=(0, 1000),
        ylabel="PSNR on Set5, x4 (dB)",
        title="Parameters and quality",
    )
