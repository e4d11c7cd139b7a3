"""Figures of NSR: its convolution, and what its gates choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nsrlib.models.nsr import window_starts
from nsrlib.plots.diagrams import arrow, chain, frame, line, note
from nsrlib.plots.style import BLUE, GRAY, GREEN, HEAD, ORANGE, PINK, RED, SKY, YELLOW

KERNELS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GRAY)
"""Colours of the kernels."""


def convolution() -> Figure:
    """A convolution whose kernels are mixed by what a window of its input shows (Fig. 3)."""
    fig, ax = frame("NSR's convolution: the picture chooses the kernel")
    steps = [("mean over\nthe window", "other"), ("Linear\nC to k d", "conv1")]
    steps += [("softmax over k,\nfor each of d", "attention"), ("mix k kernels,\nd groups of filters", "attention")]
    chain(ax, [*steps, ("conv 3x3", "conv3")], 1.2, gap=2.25, width=1.7)
    line(ax, [0.05, 0.35], [0.2, 0.2])
    line(ax, [0.15, 0.15, 10.2], [0.2, 0.9, 0.9])
    arrow(ax, (10.2, 0.9), (10.2, 0.5))
    arrow(ax, (11.05, 0.2), (11.5, 0.2))
    note(ax, 5.2, 0.93, "feature map (N, C, H, W)")
    return fig


def gate_maps(picture: np.ndarray, gates: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Which kernel each cell of a picture takes: a column for each block, its colours mixed by the gate; entropy below.

    Where gates decide, a cell has a kernel's own colour; where they do not, it is gray.

    Args:
        picture: ``uint8`` ``(H, W, 3)``.
        gates: label -> ``(k, GH, GW)`` of one cardinal group, k at most 8.
    """
    k = next(iter(gates.values())).shape[0]
    colours = np.array([mpl.colors.to_rgb(c) for c in KERNELS[:k]])
    columns = len(gates) + 1
    height = 10 / columns * 2 * picture.shape[0] / picture.shape[1] + 0.9
    fig, axes = plt.subplots(2, columns, figsize=(10, height))
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("picture", fontweight="normal")
    axes[1, 0].legend(
        handles=[Rectangle((0, 0), 1, 1, color=c) for c in colours], labels=[f"kernel {i + 1}" for i in range(k)],
        loc="center",
    )  # fmt: skip
    shown: Any = None
    for (above, below), (label, values) in zip(axes[:, 1:].T, gates.items(), strict=True):
        mixed = np.einsum("khw,kc->hwc", values, colours)
        gray = np.full(3, colours.mean(0).mean())
        share = ((values.max(0) - 1 / k) / (1 - 1 / k))[..., None]  # 0 for uniform gates, 1 for one-hot
        above.imshow((share * mixed + (1 - share) * gray).clip(0, 1))
        above.set_title(label, fontweight="normal")
        entropy = -(values * np.log(values.clip(1e-12))).sum(0)
        shown = below.imshow(entropy, cmap="viridis", vmin=0, vmax=np.log(k))
        below.set_title(f"entropy {entropy.mean():.2f}", fontweight="normal", fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    fig.colorbar(shown, ax=axes[1, 1:].tolist(), shrink=0.8, label=f"nats, at most {np.log(k):.2f}")
    fig.suptitle(title, **HEAD)
    return fig


def gates_at(
    picture: np.ndarray, gates: np.ndarray, at: tuple[int, int], cell: int, patch: int
) -> tuple[np.ndarray, Figure]:
    """The window that decides at a place of a picture, marked, and the gates of all cardinal groups there.

    Args:
        picture: ``uint8`` ``(H, W, 3)``. gates: ``(k, d, GH, GW)`` of one layer, k at most 8.
        at: row and column. cell: side of the map's cells, patch: of their windows.
    """
    (row, column), (height, width) = (p // cell for p in at), (min(patch, side) for side in picture.shape[:2])
    top = int(window_starts(picture.shape[0], cell, height)[row])
    left = int(window_starts(picture.shape[1], cell, width)[column])
    frame = np.zeros(picture.shape[:2], bool)
    frame[top : top + height, left : left + width] = True
    frame[top + 2 : top + height - 2, left + 2 : left + width - 2] = False
    marked = picture.copy()
    marked[frame] = (np.array(mpl.colors.to_rgb(RED)) * 255).astype(np.uint8)
    k, d = gates.shape[:2]
    fig, ax = plt.subplots(figsize=(5.2, 3.2))
    for i, colour in enumerate(KERNELS[:k]):
        places = np.arange(d) + 0.8 * ((i + 0.5) / k - 0.5)
        ax.bar(places, gates[i, :, row, column], 0.72 / k, color=colour, label=f"kernel {i + 1}")
    ax.axhline(1 / k, color="black", lw=0.8, ls=":")
    ax.set(ylim=(0, 1.15), xticks=range(d), xlabel="cardinal group", ylabel="gate", title=f"gates at {row}, {column}")
    ax.legend(ncols=4, fontsize=8, loc="upper center")
    return marked, fig


def sliced_product(example: Mapping[str, Any], chosen: slice) -> Figure:
    """Fig. 1: the factors of a two-layer network; pale is what a single group of hidden nodes does not need.

    Args:
        example: :func:`nsrlib.papers.nsr.checks.sliced_product`. chosen: the hidden nodes of the group.
    """
    everything = slice(None)
    used = {"W1": (chosen, everything), "hidden": (chosen,), "W2": (everything, chosen), "y": (everything,)}
    titles = ("$W_1$", "hidden", "$W_2$", "$y$")
    fig, axes = plt.subplots(1, 4, figsize=(9, 3.4), width_ratios=[6, 1.2, 16, 1.2])
    for ax, title, (name, part) in zip(axes, titles, used.items(), strict=True):
        values = example[name].numpy()
        alpha = np.full(values.shape, 0.15)
        alpha[part] = 1.0
        values, alpha = (a.reshape(len(a), -1) for a in (values, alpha))
        limit = float(np.abs(values).max())
        ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=alpha)
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(True)
        ax.grid(visible=False)
    fig.suptitle("One group of four is not zero: the pale blocks are never needed", fontsize=9)
    return fig


def cardinality(rows: pd.DataFrame, metric: str = "psnr_set5") -> Figure:
    """Fig. 4 in small: PSNR over the number of cardinal groups, against squeeze and excitation.

    Args:
        rows: of the study ``cardinality``: variants ``d=1``, ``d=2`` .. and ``SE``.
    """
    dots = rows[rows["variant"] != "SE"].assign(d=lambda t: t["variant"].str[2:].astype(int))
    fig, ax = plt.subplots(figsize=(7.4, 3.2))
    means = dots.groupby("d")[metric].mean()
    ax.plot(dots["d"], dots[metric], "o", color=BLUE, alpha=0.4, mec="none")
    ax.plot(means.index, means, "-", color=BLUE, lw=2, label="NSR, k = 4")
    se = rows.loc[rows["variant"] == "SE", metric]
    ax.axhline(se.mean(), color=ORANGE, lw=2, ls="--", label="SE, the same multiply-adds")
    ax.axhspan(se.min(), se.max(), color=ORANGE, alpha=0.15, lw=0)
    above: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "color": GRAY}
    for d, p in dots.groupby("d")["params"].first().items():
        ax.annotate(f"{p:,}", (d, dots[metric].max()), fontsize=8, **above)
    ax.set_xscale("log", base=2)
    ax.set(xticks=means.index, xticklabels=means.index, title="Cardinality, x2")
    ax.set(xlabel="cardinal groups d (above: parameters)", ylabel="PSNR on Set5 (dB), one dot a seed")
    ax.margins(y=0.2)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def gate_usage(curves: pd.DataFrame) -> Figure:
    """How gates were used during training: entropy, dead kernels, choices seen; dashed where a temperature fell.

    Args:
        curves: of studies: variant, step, gate_entropy, gate_dead, gate_patterns; seeds are averaged.
    """
    titles = {"gate_entropy": "entropy (nats)", "gate_dead": "dead kernels (share)"}
    titles |= {"gate_patterns": "choices seen, of $k^d$"}
    shown = curves.groupby(["variant", "step"], sort=False)[list(titles)].mean().reset_index()
    fig, axes = plt.subplots(1, 3, figsize=(10, 3))
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        for variant, rows in shown.groupby("variant", sort=False):
            style = "o--" if str(variant).endswith("annealed") else "o-"
            ax.plot(rows["step"], rows[column], style, ms=3, label=variant)
        ax.set(xlabel="step", title=title)
    axes[0].axhline(np.log(4), color="black", lw=0.8, ls=":")
    axes[2].set_yscale("log")
    axes[2].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return fig


def one_kernel(means: pd.DataFrame, metric: str = "psnr_set5") -> Figure:
    """What one kernel instead of the mixture costs in PSNR, and saves.

    Args:
        means: a row a variant: ``metric`` and ``cost`` (multiply-adds a pixel) as trained, and with ``_hard``.
    """
    fig, ax = plt.subplots(figsize=(7.4, 3.2))
    for (variant, row), colour in zip(means.iterrows(), (BLUE, SKY, ORANGE, RED), strict=True):
        trained, hard = (row["cost"], row[metric]), (row["cost_hard"], row[f"{metric}_hard"])
        ax.annotate("", hard, trained, arrowprops={"arrowstyle": "->", "color": colour})
        ax.plot(*trained, "o", color=colour, label=variant)
        ax.plot(*hard, "s", color=colour, mfc="white")
    ax.set(xlabel="multiply-adds a pixel, mixing and gates included", ylabel="PSNR on Set5 (dB)")
    ax.set_title("As trained (dots), with one kernel alone (squares)")
    ax.legend(fontsize=8)
    return fig
