"""Block diagrams of the networks, drawn in the look of :mod:`nsrlib.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

_FILL = {"conv1": "#dbe9f4", "conv3": "#fde8c4", "attention": "#d9efe6", "other": "#eeeeee"}


def block_diagram(kind: str) -> Figure:
    """A part of a network, drawn: ``bsrn`` (the whole), ``esdb`` (its block), ``rfdb`` (RFDN's), ``esa``, ``cca``;
    ``adder`` (AdderSR's unit); ``drcn`` (the whole); ``drn`` (DRN at x4 with its dual networks); ``nsr`` (its
    convolution)."""
    drawings = {"bsrn": _draw_bsrn, "esdb": _draw_block, "rfdb": _draw_block, "esa": _draw_esa, "cca": _draw_cca}
    drawings |= {"adder": _draw_adder, "drcn": _draw_drcn, "drn": _draw_drn, "nsr": _draw_nsr}
    if kind not in drawings:
        raise ValueError(f"kind must be one of {', '.join(drawings)}, got {kind!r}")
    titles = {
        "bsrn": "BSRN",
        "esdb": "ESDB, the block of BSRN",
        "rfdb": "RFDB, the block of RFDN",
        "esa": "ESA: where to look",
        "cca": "CCA: which channels to trust",
        "adder": "The adder unit, in the order its authors gave",
        "drcn": "DRCN",
        "drn": "DRN at x4: up, down, up again; the dual networks close the loop",
        "nsr": "NSR's convolution: the picture chooses the kernel",
    }
    fig, ax = plt.subplots(figsize=(11, 2.4 if kind in ("esdb", "rfdb") else 1.7))
    ax.set(xlim=(-0.4, 11.6), ylim=(-0.75, 1.75) if kind in ("esdb", "rfdb") else (-0.6, 1.2), title=titles[kind])
    ax.set_axis_off()
    drawings[kind](ax, kind)
    return fig


def _draw_chain(ax: Axes, steps: Sequence[tuple[str, str]], start: float, y: float, gap: float, width: float) -> float:
    """Boxes from left to right with arrows between them; returns where the last one ends."""
    x = start
    for k, (text, fill) in enumerate(steps):
        if k:
            _arrow(ax, (x - gap + width / 2, y), (x - width / 2, y))
        _box(ax, x, y, text, fill, width)
        x += gap
    return x - gap + width / 2


def _draw_bsrn(ax: Axes, kind: str) -> None:
    steps = [("4 copies", "other"), ("BSConv 3x3", "conv3"), ("ESDB 1", "attention"), ("...", "other")]
    steps += [("ESDB 8", "attention"), ("conv 1x1\nof all", "conv1"), ("GELU,\nBSConv 3x3", "conv3")]
    end = _draw_chain(ax, steps, 0.3, 0.2, 1.32, 1.0)
    ax.text(end + 0.35, 0.2, "+", ha="center", va="center", fontsize=13)
    _arrow(ax, (end + 0.02, 0.2), (end + 0.25, 0.2))
    _arrow(ax, (end + 0.47, 0.2), (end + 0.78, 0.2))
    _box(ax, end + 1.45, 0.2, "conv 3x3,\npixel shuffle", "conv3", 1.3)
    ax.plot([2.22, 2.22, end + 0.35, end + 0.35], [0.2, 0.9, 0.9, 0.4], color="#555555", linewidth=0.9)


def _draw_esa(ax: Axes, kind: str) -> None:
    steps = [("conv 1x1\nC to C/4", "conv1"), ("BSConv 3x3\nstride 2", "conv3"), ("max pool 7\nstride 3", "other")]
    steps += [("3 BSConv 3x3\nGELU between", "conv3"), ("bilinear\nto full size", "other")]
    end = _draw_chain(ax, steps, 0.7, 0.2, 1.62, 1.3)
    ax.text(end + 0.32, 0.2, "+", ha="center", va="center", fontsize=13)
    _arrow(ax, (end + 0.02, 0.2), (end + 0.22, 0.2))
    _arrow(ax, (end + 0.42, 0.2), (end + 0.62, 0.2))
    _box(ax, end + 1.22, 0.2, "conv 1x1\nC/4 to C", "conv1", 1.16)
    _arrow(ax, (end + 1.82, 0.2), (end + 2.04, 0.2))
    _box(ax, end + 2.6, 0.2, "sigmoid,\ntimes input", "attention", 1.1)
    ax.plot([1.42, 1.42, end + 0.32, end + 0.32], [0.2, 0.9, 0.9, 0.4], color="#555555", linewidth=0.9)
    ax.text(end / 2 + 0.8, 0.93, "conv 1x1", ha="center", va="bottom", fontsize=8)


def _draw_cca(ax: Axes, kind: str) -> None:
    steps = [("mean + std of\neach channel", "other"), ("conv 1x1\nC to C/16", "conv1"), ("ReLU", "other")]
    steps += [("conv 1x1\nC/16 to C", "conv1"), ("sigmoid,\ntimes input", "attention")]
    _draw_chain(ax, steps, 0.8, 0.2, 1.9, 1.4)


def _draw_adder(ax: Axes, kind: str) -> None:
    end = _draw_chain(ax, [("adder 3x3", "conv3"), ("batch\nnormalisation", "other")], 1.4, 0.2, 1.9, 1.4)
    ax.text(end + 0.42, 0.2, "+", ha="center", va="center", fontsize=13)
    for start, stop in ((0.1, 0.7), (end + 0.02, end + 0.3), (end + 0.54, end + 0.85)):
        _arrow(ax, (start, 0.2), (stop, 0.2))
    _draw_chain(ax, [("ReLU", "other"), ("sgn(y) |y|^alpha", "attention")], end + 1.55, 0.2, 1.9, 1.4)
    ax.plot([0.3, 0.3, end + 0.42, end + 0.42], [0.2, 0.9, 0.9, 0.4], color="#555555", linewidth=0.9)
    ax.text((end + 0.7) / 2, 0.93, "self-shortcut", ha="center", va="bottom", fontsize=8)


def _draw_drcn(ax: Axes, kind: str) -> None:
    end = _draw_chain(ax, [("upscaled\nimage x", "other"), ("embedding:\n2 conv 3x3", "conv1")], 0.5, 0.2, 1.75, 1.3)
    x = end + 1.5
    _arrow(ax, (end + 0.02, 0.2), (x - 0.85, 0.2))
    _box(ax, x, 0.2, "recursion:\nconv 3x3 W, ReLU", "conv3", 1.7)
    loop = {"arrowstyle": "->", "color": "#555555", "connectionstyle": "arc3,rad=0.55"}
    ax.annotate("", (x - 0.5, 0.5), (x + 0.5, 0.5), arrowprops=loop)
    ax.text(x, 0.86, "D times, the same W", ha="center", va="bottom", fontsize=8)
    _arrow(ax, (x + 0.85, 0.2), (x + 1.3, 0.2))
    ax.text(x + 1.07, 0.27, "$H_d$", ha="center", va="bottom", fontsize=8)
    _box(ax, x + 2.1, 0.2, "reconstruction:\n2 conv 3x3", "conv1", 1.6)
    _arrow(ax, (x + 2.9, 0.2), (x + 3.2, 0.2))
    ax.text(x + 3.3, 0.2, "+", ha="center", va="center", fontsize=13)
    _arrow(ax, (x + 3.4, 0.2), (x + 3.9, 0.2))
    ax.text(x + 3.62, 0.27, "$y_d$", ha="center", va="bottom", fontsize=8)
    _box(ax, x + 4.65, 0.2, "$\\sum_d w_d\\,y_d$", "attention", 1.4)
    ax.plot([0.5, 0.5, x + 3.3, x + 3.3], [-0.1, -0.42, -0.42, 0.02], color="#555555", linewidth=0.9)
    ax.text(x - 0.6, -0.4, "skip connection", ha="center", va="bottom", fontsize=8)


def recursion_designs(depth: int = 3) -> Figure:
    """Fig. 3 of DRCN: three ways to supervise a recursion; boxes with the same letters share their weights."""
    colours = {"E": "#eeeeee", "W": "#fde8c4", "R": "#dbe9f4"}
    titles = ("(a) DRCN: all shared", "(b) own reconstructions", "(c) nothing shared")
    fig, axes = plt.subplots(1, 3, figsize=(11, 2.6))

    def cell(ax: Axes, x: float, y: float, text: str) -> None:
        ax.text(
            x, y, text, ha="center", va="center", fontsize=8,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": colours[text[0]], "edgecolor": "#555555"},
        )  # fmt: skip

    def chain(ax: Axes, y: float, steps: Sequence[str], outputs: Mapping[int, str], start: str = "E") -> None:
        cell(ax, 0, y, start)
        for k, step in enumerate(steps, 1):
            _arrow(ax, (k - 0.78, y), (k - 0.3, y))
            cell(ax, k, y, step)
        for d, text in outputs.items():
            up = len(outputs) > 1
            at = (d, y + 0.8) if up else (d + 1, y)
            _arrow(ax, (d, y + 0.28) if up else (d + 0.25, y), (d, at[1] - 0.3) if up else (at[0] - 0.3, y))
            cell(ax, at[0], at[1], text)
            end = (d, at[1] + 0.62) if up else (at[0] + 0.75, y)
            _arrow(ax, (d, at[1] + 0.28) if up else (at[0] + 0.3, y), (d, end[1] - 0.14) if up else (end[0] - 0.2, y))
            ax.text(end[0], end[1], f"$y_{d}$", ha="center", va="center", fontsize=9)

    steps = range(1, depth + 1)
    chain(axes[0], 0, ["W"] * depth, dict.fromkeys(steps, "R"))
    chain(axes[1], 0, ["W"] * depth, {d: f"R{d}" for d in steps})
    for d in steps:
        chain(axes[2], (d - 1) * 0.72, [f"W{d}{k}" for k in range(1, d + 1)], {d: f"R{d}"}, f"E{d}")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(xlim=(-0.4, depth + 2.1), ylim=(-0.5, 1.8), title=title)
        ax.set_axis_off()
    return fig


def _draw_drn(ax: Axes, kind: str) -> None:
    steps = [("bicubic x4", "other"), ("conv 3x3", "conv3"), ("down: half", "conv3"), ("down: half", "conv3")]
    steps += [("B x RCAB,\nup x2", "attention"), ("B x RCAB,\nup x2", "attention"), ("conv 3x3\nto image", "conv3")]
    gap = 1.36
    end = _draw_chain(ax, steps, 0.3, 0.2, gap, 1.0)
    _arrow(ax, (end + 0.02, 0.2), (end + 0.42, 0.2))
    _box(ax, end + 0.97, 0.2, "D2, then D1:\nhalf each", "conv1", 1.1)
    _arrow(ax, (end + 1.54, 0.2), (end + 1.9, 0.2))
    ax.text(end + 1.95, 0.2, "the input\nagain?", ha="left", va="center", fontsize=8)
    # copies of the same size, joined behind each stage
    for start, stop, height in ((1, 5, 0.98), (2, 4, 0.72)):
        left, right = 0.3 + (start + 0.5) * gap, 0.3 + (stop + 0.5) * gap
        ax.plot([left, left, right], [0.2, height, height], color="#555555", linewidth=0.9)
        _arrow(ax, (right, height), (right, 0.24))
    ax.text(0.3 + 3.5 * gap, 1.0, "copies, concatenated", ha="center", va="bottom", fontsize=8)
    ax.text(
        0.3 + 3.5 * gap,
        -0.36,
        "an image is read from every size; 64 channels at B = 30 blocks in DRN-S",
        ha="center",
        va="center",
        fontsize=8,
    )


def _draw_nsr(ax: Axes, kind: str) -> None:
    steps = [
        ("mean over\nthe window", "other"),
        ("Linear\nC to k d", "conv1"),
        ("softmax over k,\nfor each of d", "attention"),
    ]
    steps += [("mix k kernels,\nd groups of filters", "attention"), ("conv 3x3", "conv3")]
    _draw_chain(ax, steps, 1.2, 0.2, 2.25, 1.7)
    ax.plot([0.05, 0.35], [0.2, 0.2], color="#555555", linewidth=0.9)
    ax.plot([0.15, 0.15, 10.2], [0.2, 0.9, 0.9], color="#555555", linewidth=0.9)
    _arrow(ax, (10.2, 0.9), (10.2, 0.5))
    _arrow(ax, (11.05, 0.2), (11.5, 0.2))
    ax.text(5.2, 0.93, "feature map (N, C, H, W)", ha="center", va="bottom", fontsize=8)


def _draw_block(ax: Axes, kind: str) -> None:
    """ESDB or RFDB."""
    esdb = kind == "esdb"
    refine, last = (
        ("BSConv 3x3\n+ input, GELU", "BSConv 3x3\nGELU") if esdb else ("conv 3x3\n+ input, LReLU", "conv 3x3\nLReLU")
    )
    steps = [(x, 1.0, refine, "conv3") for x in (1.2, 3.0, 4.8)] + [(6.6, 1.0, last, "conv3")]
    for x, y, text, fill in steps:
        _box(ax, x, y, text, fill)
    for x in (1.2, 3.0, 4.8):
        _box(ax, x, -0.1, "conv 1x1\n" + ("GELU" if esdb else "LReLU"), "conv1")
        _arrow(ax, (x - 0.95, 1.0), (x - 0.62, -0.1))
    for x in (0.0, 1.82, 3.62, 5.42):
        _arrow(ax, (x, 1.0), (x + 0.55, 1.0))
    _box(ax, 8.0, 0.45, "concat,\nconv 1x1", "conv1")
    _arrow(ax, (7.22, 1.0), (7.45, 0.62))
    for x in (1.2, 3.0, 4.8):
        ax.plot([x + 0.62, x + 0.68, x + 0.68], [-0.1, -0.1, -0.5], color="#555555", linewidth=0.9)
    ax.plot([1.88, 7.0], [-0.5, -0.5], color="#555555", linewidth=0.9)
    _arrow(ax, (7.0, -0.5), (7.5, 0.25))
    tail = [("ESA", 9.3), ("CCA", 10.4)] if esdb else [("ESA", 9.3)]
    for text, x in tail:
        _box(ax, x, 0.45, text, "attention", width=0.7)
        _arrow(ax, (x - 0.68, 0.45), (x - 0.36, 0.45))
    end = tail[-1][1]
    if esdb:
        ax.plot([0.0, 0.0, 11.1, 11.1], [1.0, 1.62, 1.62, 0.62], color="#555555", linewidth=0.9)
        _arrow(ax, (end + 0.36, 0.45), (11.0, 0.45))
        ax.text(11.1, 0.45, "+", ha="center", va="center", fontsize=13)
    else:
        _arrow(ax, (end + 0.36, 0.45), (end + 0.8, 0.45))
    ax.plot([-0.3, 0.0], [1.0, 1.0], color="#555555", linewidth=0.9)


def _box(ax: Axes, x: float, y: float, text: str, fill: str, width: float = 1.24) -> None:
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.28),
        width,
        0.56,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=_FILL[fill],
        edgecolor="#555555",
    )
    ax.add_patch(patch)
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555", "linewidth": 0.9})
