"""NSR's checks, grids and comparisons, against numbers counted or measured elsewhere."""

from __future__ import annotations

import pytest
import torch

from nsrlib import create_model
from nsrlib.images import to_tensor
from nsrlib.papers.nsr import checks


def test_every_check_holds():
    found = checks.checks()
    assert {check.id for check in found} == {f"C{i}" for i in range(1, 8)}
    assert all(check.holds for check in found), [str(check) for check in found if not check.holds]


def test_checks_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    checks.checks(seed=5)
    assert torch.equal(torch.rand(2), expected)


def test_one_group_gives_what_the_whole_product_does_for_a_kth_of_the_work():
    for k, chosen in ((2, 0), (4, 3)):
        example = checks.sliced_product(k=k, c=5, c_in=3, c_out=7, chosen=chosen)
        torch.testing.assert_close(example["y"], example["y_sliced"], rtol=0, atol=1e-14)
        assert (example["hidden"] != 0).nonzero().flatten().div(5, rounding_mode="floor").unique().tolist() == [chosen]
        assert example["full"] == k * example["sliced"] == k * 5 * 10


@pytest.mark.parametrize(
    ("temperature", "entropy", "largest", "gap"),
    [(1.0, 1.126, 0.511, 0.61), (0.5, 0.787, 0.677, 0.43), (0.2, 0.366, 0.853, 0.26), (0.1, 0.180, 0.925, 0.18)],
)
def test_the_gap_of_mixed_kernels_is_that_of_another_measurement(temperature, entropy, largest, gap):
    """Other random weights: 512 samples leave the entropy a standard error of some 0.02, the gap one of some 0.03."""
    row = checks.aggregation_gap([temperature]).iloc[0]
    assert row["entropy"] == pytest.approx(entropy, abs=0.06)
    assert row["largest"] == pytest.approx(largest, abs=0.03)
    assert row["gap"] == pytest.approx(gap, abs=0.06)


def test_the_gap_vanishes_for_one_hot_gates_alone():
    table = checks.aggregation_gap([0.05, 0.0])
    assert table["gap"].iloc[0] > 0.05
    assert table["gap"].iloc[1] < checks.ROUNDING


def test_grids_have_the_parameters_and_multiply_adds_of_the_specification():
    efficiency = checks.grid("efficiency").set_index("network")
    assert efficiency["parameters"].tolist() == [1_190_100, 1_241_300, 1_260_756, 1_193_460, 1_245_684, 1_283_572]
    assert [f"{g:.3f}" for g in efficiency["multi_adds"]] == ["2.730", "1.371", "0.692", "2.740", "1.381", "0.701"]
    assert checks.grid("cardinality")["multi_adds"].nunique() == 1
    assert (checks.grid("capacity")["overhead"] < 1).all()


def test_steps_across_lines_are_told_from_the_others():
    y = torch.zeros(1, 6, 8)
    y[:, :, 4:] += 2
    y[:, 3:] += 1
    steps = checks.seams(y, {"rows": [3], "columns": [4]})
    assert steps.loc["across borders", ["mean", "largest"]].tolist() == pytest.approx([(8 + 6 * 2) / 14, 2])
    assert steps.loc["elsewhere", ["mean", "largest"]].tolist() == [0, 0]
    missed = checks.seams(y, {"rows": [2], "columns": [4]})
    assert missed.loc["elsewhere", "largest"] == 1


def test_lines_are_where_cells_and_tiles_meet():
    assert checks.map_lines(64, 70, 32, 2) == {"rows": [64], "columns": [64, 128]}
    lines = checks.tile_lines(192, 192)
    assert lines["rows"] == lines["columns"]
    assert {12, 52, 44} <= set(lines["rows"])  # the centred grid: 200 - 176 = 24 pixels left, 12 on each side


def test_modes_agree_where_they_must_and_leave_the_model_alone():
    torch.manual_seed(0)
    model = create_model("nsr", 2, num_feats=8, num_blocks=1, cardinals=4, patch=24).eval()
    x = torch.rand(1, 3, 96, 104)
    table, outputs = checks.inference_modes(model, x, cells=(16, 128), repeats=1)
    assert table["mode"].tolist() == ["tiles", "whole", "map, cells of 16", "map, cells of 128"]
    assert torch.equal(outputs["map, cells of 128"], outputs["whole"])
    assert not torch.equal(outputs["map, cells of 16"], outputs["whole"])
    assert (model.inference, model.gating.cell, model.hard) == ("map", 32, False)
    torch.testing.assert_close(model(x), outputs["map, cells of 16"], rtol=0, atol=0.05)


def test_block_gates_are_those_of_every_blocks_first_layer(astronaut):
    model = create_model("nsr", 2, num_feats=8, num_blocks=3, cardinals=4).eval()
    found = checks.block_gates(model, to_tensor(astronaut)[..., :160, :128])
    assert list(found) == ["block 1", "block 2", "block 3"]
    assert {v.shape for v in found.values()} == {(4, 4, 5, 4)}
    with pytest.raises(ValueError, match=r"a picture of \(48, 48\) has one gate and no map; take a larger one"):
        checks.block_gates(model, torch.rand(1, 3, 48, 48))
