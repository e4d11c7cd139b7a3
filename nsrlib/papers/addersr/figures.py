"""Figures of AdderSR: its unit, and where its energy goes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from nsrlib.plots.diagrams import arrow, chain, frame, line, note, plus
from nsrlib.plots.style import BLUE, GRAY, GREEN, ORANGE


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


PARTS = {"arithmetic": BLUE, "batch normalisation": GREEN, "power activation": ORANGE, "memory": GRAY}


def energy_parts(table: pd.DataFrame, cases: Sequence[tuple[str, str, str]]) -> Figure:
    """Where the energy of a network goes, in per cent of its twin of convolutions.

    Args:
        table: :func:`nsrlib.papers.addersr.energy.honest_energy_table`.
        cases: model, scale and variant, as there; two bars each.
    """
    fig, ax = plt.subplots(figsize=(7.6, 2.9))
    labels: list[str] = []
    for case in cases:
        chosen = table.set_index(["model", "scale", "variant"]).loc[[case]].set_index("network")
        whole = chosen["total"]["convolutions"]
        for network in chosen.index:
            left = 0.0
            for part, colour in PARTS.items():
                width = 100 * chosen[part][network] / whole
                ax.barh(len(labels), width, left=left, color=colour, label=part if not labels else None)
                left += width
            name = " ".join(word for word in case if word not in ("", "any"))
            labels.append(f"{name}, {network}")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="energy, % of the convolutional network's", title="With memory, the advantage shrinks")
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.22), fontsize=8)
    return fig
