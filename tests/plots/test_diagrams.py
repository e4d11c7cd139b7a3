"""The words of block diagrams."""

from __future__ import annotations

import matplotlib as mpl
import pytest
from drawing import drawn, texts
from matplotlib.patches import FancyBboxPatch

from nsrlib.plots import diagrams

pytestmark = pytest.mark.usefixtures("figure_style")


def test_a_chain_is_boxes_in_their_colours_with_arrows_from_one_to_the_next():
    fig, ax = diagrams.frame("A block", height=2)
    end = diagrams.chain(ax, [("conv", "conv3"), ("ReLU", "other"), ("gate", "attention")], 1.0, y=0.5, gap=2, width=1)
    assert end == 5.5
    assert [text for text in texts(drawn(fig)) if text] == ["conv", "ReLU", "gate", "A block"]
    boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    assert [(b.get_x(), b.get_x() + b.get_width()) for b in boxes] == [(0.5, 1.5), (2.5, 3.5), (4.5, 5.5)]
    fills = [diagrams.FILLS[name] for name in ("conv3", "other", "attention")]
    assert [mpl.colors.to_hex(b.get_facecolor()) for b in boxes] == fills
    arrows = [(one.xyann, one.xy) for one in ax.texts if not one.get_text()]
    assert arrows == [((1.5, 0.5), (2.5, 0.5)), ((3.5, 0.5), (4.5, 0.5))]
    assert tuple(fig.get_size_inches()) == (11, 2)


def test_joints_notes_and_lines_are_where_they_are_put():
    fig, ax = diagrams.frame("A block")
    diagrams.plus(ax, 3, 0.2)
    diagrams.note(ax, 2, 0.9, "skip")
    diagrams.line(ax, [1, 1, 3], [0.2, 0.9, 0.9])
    drawn(fig)
    assert [(text.get_text(), *text.get_position()) for text in ax.texts] == [("+", 3, 0.2), ("skip", 2, 0.9)]
    assert ax.lines[0].get_xydata().tolist() == [[1, 0.2], [1, 0.9], [3, 0.9]]
    assert not ax.axison


def test_a_box_needs_a_known_colour():
    with pytest.raises(KeyError, match="conv5"):
        diagrams.box(diagrams.frame("A block")[1], 1, 0.2, "conv 5x5", "conv5")
