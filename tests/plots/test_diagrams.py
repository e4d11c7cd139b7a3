"""Block diagrams: the parts of each network, and what belongs to another is not there."""

from __future__ import annotations

import pytest
from drawing import drawn, texts

from nsrlib.plots import diagrams

pytestmark = pytest.mark.usefixtures("figure_style")


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [("esdb", ["BSConv 3x3\nGELU", "ESA", "CCA", "+"], []), ("rfdb", ["conv 3x3\nLReLU", "ESA"], ["CCA", "+"])],
)
def test_a_block_diagram_has_the_parts_of_its_block(kind, there, absent):
    fig = drawn(diagrams.block_diagram(kind))
    assert len(fig.axes) == 1
    found = texts(fig)
    assert set(there) <= set(found)
    assert not set(absent) & set(found)
    assert sum("3x3" in t for t in found) == 4
    assert sum("1x1" in t for t in found) == 4  # three distillations and the condensation
    assert found[-1].startswith(kind.upper())


def test_designs_of_a_recursion_show_which_weights_are_shared():
    a, b, c = drawn(diagrams.recursion_designs(3)).axes
    boxes = [[t.get_text() for t in ax.texts if t.get_text()[:1] in ("E", "W", "R")] for ax in (a, b, c)]
    assert boxes[0] == ["E", "W", "W", "W", "R", "R", "R"]
    assert boxes[1] == ["E", "W", "W", "W", "R1", "R2", "R3"]
    assert len(set(boxes[2])) == len(boxes[2]) == 3 + 6 + 3


def test_an_unknown_block_is_refused():
    with pytest.raises(
        ValueError, match="kind must be one of bsrn, esdb, rfdb, esa, cca, adder, drcn, drn, nsr, got 'imdb'"
    ):
        diagrams.block_diagram("imdb")


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("bsrn", "ESDB 8"),
        ("esa", "max pool 7\nstride 3"),
        ("cca", "ReLU"),
        ("adder", "self-shortcut"),
        ("drcn", "skip connection"),
        ("drn", "copies, concatenated"),
    ],
)
def test_the_other_parts_of_the_network_are_drawn_too(kind, needed):
    fig = drawn(diagrams.block_diagram(kind))
    assert needed in texts(fig)
