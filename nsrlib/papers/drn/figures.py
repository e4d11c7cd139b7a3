"""Figures of DRN: the network and its closed loop, variants of a study, channels that criteria keep."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nsrlib.metrics import Protocol, psnr
from nsrlib.plots.diagrams import arrow, box, chain, frame, line, note
from nsrlib.plots.figures import study
from nsrlib.studies import StudyResult


def network() -> Figure:
    """DRN at x4 with its dual networks D1 and D2."""
    fig, ax = frame("DRN at x4: up, down, up again; the dual networks close the loop")
    steps = [("bicubic x4", "other"), ("conv 3x3", "conv3"), ("down: half", "conv3"), ("down: half", "conv3")]
    steps += [("B x RCAB,\nup x2", "attention"), ("B x RCAB,\nup x2", "attention"), ("conv 3x3\nto image", "conv3")]
    gap = 1.36
    end = chain(ax, steps, 0.3, gap=gap, width=1.0)
    arrow(ax, (end + 0.02, 0.2), (end + 0.42, 0.2))
    box(ax, end + 0.97, 0.2, "D2, then D1:\nhalf each", "conv1", 1.1)
    arrow(ax, (end + 1.54, 0.2), (end + 1.9, 0.2))
    note(ax, end + 1.95, 0.2, "the input\nagain?", ha="left", va="center")
    # copies of the same size, joined behind each stage
    for start, stop, height in ((1, 5, 0.98), (2, 4, 0.72)):
        left, right = 0.3 + (start + 0.5) * gap, 0.3 + (stop + 0.5) * gap
        line(ax, [left, left, right], [0.2, height, height])
        arrow(ax, (right, height), (right, 0.24))
    middle = 0.3 + 3.5 * gap
    note(ax, middle, 1.0, "copies, concatenated")
    note(ax, middle, -0.36, "an image is read from every size; 64 channels at B = 30 blocks in DRN-S", va="center")
    return fig


def variants(result: StudyResult, metric: str, names: Sequence[str], baseline: str, title: str, **more: Any) -> Figure:
    """Some variants of a study, in this order, as :func:`nsrlib.plots.study` draws them; ``more``: its arguments."""
    return study(result.only(names), metric, baseline=baseline, title=title, **more)


def overlap(chosen: Mapping[str, Collection[int]], width: int, layer: str) -> Figure:
    """Which of the ``width`` channels of a layer each criterion keeps, and the share that two have in common."""
    names = list(chosen)
    common = [[len(set(chosen[a]) & set(chosen[b])) / len(chosen[a]) for b in names] for a in names]
    fig, (kept, shares) = plt.subplots(1, 2, figsize=(9.2, 2.9), width_ratios=[1.7, 1])
    grid = [[k in chosen[name] for k in range(width)] for name in names]
    kept.imshow(grid, cmap="Blues", aspect="auto", vmin=0, vmax=1.4)
    kept.set_yticks(range(len(names)), names)
    kept.set(xlabel="channel", title=f"Kept channels of {layer}")
    shares.imshow(common, cmap="Blues", vmin=0, vmax=1.4)
    shares.set_xticks(range(len(names)), names, rotation=45)
    shares.set_yticks(range(len(names)), names)
    for a, row in enumerate(common):
        for b, share in enumerate(row):
            shares.text(b, a, f"{share:.2f}", ha="center", va="center", fontsize=7)
    shares.set_title("in common")
    for ax in (kept, shares):
        ax.grid(visible=False)
    return fig


def explored(
    rows: pd.DataFrame, pictures: Mapping[str, np.ndarray], truth: np.ndarray, bicubic: np.ndarray, protocol: Protocol
) -> Figure:
    """Networks pruned and not tuned: PSNR of a crop over the multiply-adds that are left, and some of the crops.

    Args:
        rows: criterion (``none``: not pruned), cost in per cent, psnr. pictures: label -> crop, three of them.
        truth, bicubic: the same crop. protocol: of the PSNR.
    """
    fig = plt.figure(figsize=(10, 3.4))
    ax, *others = fig.subplots(1, 1 + len(pictures), width_ratios=[1.7] + [1] * len(pictures))
    for kind in (k for k in dict.fromkeys(rows["criterion"]) if k != "none"):
        line = rows[rows["criterion"].isin([kind, "none"])]
        ax.plot(line["cost"], line["psnr"], "o-", label=kind)
    ax.axhline(psnr(bicubic, truth, protocol), color="black", ls="--", lw=0.8, label="bicubic")
    ax.set(xlabel="multiply-adds left (%)", ylabel="PSNR of the crop (dB)", title="Pruned, not tuned")
    ax.legend(fontsize=8)
    for one, (label, picture) in zip(others, pictures.items(), strict=True):
        one.imshow(picture)
        one.set_title(f"{label}\n{psnr(picture, truth, protocol):.2f} dB", fontweight="normal")
        one.set_axis_off()
    return fig
