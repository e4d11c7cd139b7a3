"""What tests of figures share: they are drawn without a display, and read."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure


def drawn(fig: Figure) -> Figure:
    """The same figure after drawing it, which finds what is only wrong when drawn."""
    fig.canvas.draw()
    return fig


def texts(fig: Figure) -> list[str]:
    """Every text inside the axes of a figure, titles included."""
    return [text for ax in fig.axes for text in [*(t.get_text() for t in ax.texts), ax.get_title("left")] if text]
