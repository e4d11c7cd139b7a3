"""Figures of NSR: its convolution, and what its gates choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
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

    Example:
        >>> fig = gate_maps(np.zeros((16, 16, 3), np.uint8), {"block 1": np.full((4, 2, 2), 0.25)})
        >>> [text.get_text() for text in fig.axes[2].get_legend().get_texts()]
        ['kernel 1', 'kernel 2', 'kernel 3', 'kernel 4']
    """
    k = next(iter(gates.values())).shape[0]
    colours = np.array([mpl.colors.to_rgb(c) for c in KERNELS[:k]])
    fig, axes = plt.subplots(
        2, len(gates) + 1, figsize=(10, 10 / (len(gates) + 1) * 2 * picture.shape[0] / picture.shape[1] + 0.9)
    )
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("picture", fontweight="normal")
    axes[1, 0].legend(
        handles=[Rectangle((0, 0), 1, 1, color=c) for c in colours], labels=[f"kernel {i + 1}" for i in range(k)],
        loc="center",
    )  # fmt: skip
    shown: Any = None
    for (above, below), (label, values) in zip(axes[:, 1:].T, gates.items(), strict=True):
        uniform = colours.mean(0)
        mixed = np.einsum("khw,kc->hwc", values, colours)
        gray = np.full(3, uniform.mean())
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

    Example:
        >>> marked, fig = gates_at(np.zeros((16, 16, 3), np.uint8), np.full((4, 2, 2, 2), 0.25), (9, 9), 8, 8)
        >>> int(marked.any(axis=2).nonzero()[0].min()), fig.axes[0].get_xlabel()
        (8, 'cardinal group')
    """
    (row, column), (height, width) = (p // cell for p in at), (min(patch, side) for side in picture.shape[:2])
    top = int(window_starts(picture.shape[0], cell, height)[row])
    left = int(window_starts(picture.shape[1], cell, width)[column])
    marked = picture.copy()
    bottom, right = top + height, left + width
    for edge in (
        np.s_[top : top + 2, left:right],
        np.s_[bottom - 2 : bottom, left:right],
        np.s_[top:bottom, left : left + 2],
        np.s_[top:bottom, right - 2 : right],
    ):
        marked[edge] = (np.array(mpl.colors.to_rgb(RED)) * 255).astype(np.uint8)
    k, d = gates.shape[:2]
    fig, ax = plt.subplots(figsize=(5.2, 3.2))
    for i, colour in enumerate(KERNELS[:k]):
        ax.bar(
            np.arange(d) + 0.8 * ((i + 0.5) / k - 0.5),
            gates[i, :, row, column],
            0.72 / k,
            color=colour,
            label=f"kernel {i + 1}",
        )
    ax.axhline(1 / k, color="black", lw=0.8, ls=":")
    ax.set(ylim=(0, 1.15), xticks=range(d), xlabel="cardinal group", ylabel="gate", title=f"gates at {row}, {column}")
    ax.legend(ncols=4, fontsize=8, loc="upper center")
    return marked, fig
