"""Figures of AdderSR: its unit."""

from __future__ import annotations

from matplotlib.figure import Figure

from nsrlib.plots.diagrams import arrow, chain, frame, line, note, plus


def unit() -> Figure:
    """The adder unit: adder, batch normalisation, self-shortcut, ReLU and power activation."""
    fig, ax = frame("The adder unit, in the order its authors gave")
    end = chain(ax, [("adder 3x3", "conv3"), ("batch\nnormalisation", "other")], 1.4)
    plus(ax, end + 0.42, 0.2)
    for start, stop in ((0.1, 0.7), (end + 0.02, end + 0.3), (end + 0.54, end + 0.85)):
        arrow(ax, (start, 0.2), (stop, 0.2))
    chain(ax, [("ReLU", "other"), ("sgn(y) |y|^alpha", "attention")], end + 1.55)
    line(ax, [0.3, 0.3, end + 0.42, end + 0.42], [0.2, 0.9, 0.9, 0.4])
    note(ax, (end + 0.7) / 2, 0.93, "self-shortcut")
    return fig
