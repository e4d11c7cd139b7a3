"""What only one paper draws: the parts of each network, its kernels, its gates, its recursions."""

from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from drawing import drawn, texts
from matplotlib.patches import FancyBboxPatch

from nsrlib import papers
from nsrlib.models.nsr import pool_cells
from nsrlib.papers.bsrn import figures as bsrn
from nsrlib.papers.drcn import figures as drcn
from nsrlib.papers.nsr import figures as nsr

pytestmark = pytest.mark.usefixtures("figure_style")
DIAGRAMS = [(paper.name, name) for paper in papers.every().values() for name in paper.diagrams]


# --- block diagrams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("paper", "name"), DIAGRAMS)
def test_the_boxes_of_a_diagram_are_seen_whole_and_apart(paper, name):
    fig = drawn(papers.get(paper).diagrams[name]())
    for ax in fig.axes:
        boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
        boxes += [text.get_bbox_patch() for text in ax.texts if text.get_bbox_patch()]
        places = [box.get_window_extent() for box in boxes]
        assert len(places) > 2
        assert all(fig.bbox.containsx(p.x0) and fig.bbox.containsx(p.x1) for p in places)
        assert all(fig.bbox.containsy(p.y0) and fig.bbox.containsy(p.y1) for p in places)
        assert not any(one.overlaps(other) for one, other in combinations(places, 2))


@pytest.mark.parametrize(
    ("paper", "name", "needed"),
    [
        ("nsr", "convolution", "softmax over k,\nfor each of d"),
        ("addersr", "unit", "self-shortcut"),
        ("bsrn", "network", "ESDB 8"),
        ("bsrn", "esa", "max pool 7\nstride 3"),
        ("bsrn", "cca", "ReLU"),
        ("drcn", "network", "skip connection: the image is\nadded to every prediction"),
        ("drn", "network", "copies, concatenated"),
    ],
)
def test_every_network_is_drawn_with_what_makes_it(paper, name, needed):
    assert needed in texts(papers.get(paper).diagrams[name]())


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [("esdb", ["BSConv 3x3\nGELU", "ESA", "CCA", "+"], []), ("rfdb", ["conv 3x3\nLReLU", "ESA"], ["CCA", "+"])],
)
def test_a_block_diagram_has_the_parts_of_its_block(kind, there, absent):
    fig = papers.get("bsrn").diagrams[kind]()
    assert len(fig.axes) == 1
    found = texts(fig)
    assert set(there) <= set(found)
    assert not set(absent) & set(found)
    assert sum("3x3" in t for t in found) == 4
    assert sum("1x1" in t for t in found) == 4  # three distillations and the condensation
    assert found[-1].startswith(kind.upper())


def test_designs_of_a_recursion_show_which_weights_are_shared():
    a, b, c = drcn.recursion_designs(3).axes
    boxes = [[t.get_text() for t in ax.texts if t.get_text()[:1] in ("E", "W", "R")] for ax in (a, b, c)]
    assert boxes[0] == ["E", "W", "W", "W", "R", "R", "R"]
    assert boxes[1] == ["E", "W", "W", "W", "R1", "R2", "R3"]
    assert len(set(boxes[2])) == len(boxes[2]) == 3 + 6 + 3


# --- kernels, gates, recursions ---------------------------------------------------------------------------------------


def test_kernel_rows_share_one_symmetric_colour_scale():
    rows = {"dense": np.linspace(-1, 1, 45).reshape(5, 3, 3), "few": np.full((2, 3, 3), 3.0)}
    fig = drawn(bsrn.kernel_rows(rows, "kernels"))
    assert len(fig.axes) == 10
    pictures = [image for ax in fig.axes for image in ax.images]
    assert len(pictures) == 7
    assert {image.get_clim() for image in pictures} == {(-3.0, 3.0)}
    assert texts(fig) == ["dense", "few"]
    assert fig.get_suptitle() == "kernels"


def test_a_gate_map_is_coloured_where_gates_decide_and_gray_where_they_do_not():
    gates = np.full((4, 2, 3), 0.25)
    gates[:, 0, 0] = 0, 1, 0, 0
    fig = drawn(nsr.gate_maps(np.zeros((20, 30, 3), np.uint8), {"block 1": gates}))
    shown = fig.axes[1].images[0].get_array()
    assert shown.shape == (2, 3, 3)
    assert np.allclose(shown[0, 0], mpl.colors.to_rgb(nsr.KERNELS[1]))
    assert np.ptp(shown[1, 2]) == pytest.approx(0)
    entropy = fig.axes[3].images[0].get_array()
    assert entropy[0, 0] == pytest.approx(0, abs=1e-9)
    assert entropy[1, 2] == pytest.approx(np.log(4))
    assert [t.get_text() for t in fig.axes[2].get_legend().get_texts()] == [f"kernel {i}" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("at", [(0, 0), (20, 17), (40, 60), (24, 63)])
@pytest.mark.parametrize("patch", [16, 100])
def test_the_marked_window_is_the_one_whose_mean_decides(at, patch):
    height, width, cell = 41, 64, 8
    picture = np.zeros((height, width, 3), np.uint8)
    gates = np.random.default_rng(0).random((2, 3, 6, 8))
    marked, fig = nsr.gates_at(picture, gates, at, cell, patch)
    rows, columns = np.nonzero(marked.any(2))
    inside = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    ramp = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
    means = pool_cells(ramp, cell, patch)
    assert float(ramp[0, 0][inside].mean()) == pytest.approx(float(means[0, 0, at[0] // cell, at[1] // cell]))
    bars = [bar.get_height() for group in drawn(fig).axes[0].containers for bar in group]
    assert bars == gates[:, :, at[0] // cell, at[1] // cell].ravel().tolist()
