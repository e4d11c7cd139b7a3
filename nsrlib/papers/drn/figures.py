"""Figures of DRN: the network and the dual networks that close its loop."""

from __future__ import annotations

from matplotlib.figure import Figure

from nsrlib.plots.diagrams import arrow, box, chain, frame, line, note


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
    text = "an image is read from every size; 64 channels at B = 30 blocks in DRN-S"
    note(ax, middle, -0.36, text, va="center")
    return fig
