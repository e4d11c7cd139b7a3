"""What a DRN costs, widths of a given cost, and the surgery that makes it smaller."""

from __future__ import annotations

import copy
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_drn import half_of, net

from nsrlib.bench.networks import latency
from nsrlib.complexity import count
from nsrlib.models.drn import DRN, full_widths, uniform_widths
from nsrlib.papers.drn.costs import channel_costs, complexity_table, widths_at_cost
from nsrlib.papers.drn.pruning import keep_channels, masked, shrink

# --- cost -------------------------------------------------------------------------------------------------------------


COUNTS = {  # parameters and multiply-adds at 96x96 and for 1280x720, from the specification
    (4, "DRN-S"): (4_804_065, "109.92", "687.0"),
    (4, "DRN-L"): (9_825_893, "224.76", "1404.8"),
    (8, "DRN-S"): (5_403_000, "197.94", "309.3"),
    (8, "DRN-L"): (10_004_018, "366.38", "572.5"),
    (4, "DRN-S30"): (3_116_637, "72.20", "451.2"),
    (4, "DRN-S50"): (2_267_417, "53.02", "331.4"),
    (4, "DRN-S70"): (1_427_545, "32.75", "204.7"),
    (8, "DRN-S30"): (3_490_832, "123.83", "193.5"),
    (8, "DRN-S50"): (2_548_420, "94.24", "147.3"),
    (8, "DRN-S70"): (1_572_288, "53.34", "83.3"),
    (4, "uniform 30%"): (3_391_525, "77.41", None),
    (4, "uniform 50%"): (2_423_777, "55.15", None),
    (4, "uniform 70%"): (1_531_169, "34.61", None),
    (8, "uniform 30%"): (3_823_762, "140.82", None),
    (8, "uniform 50%"): (2_726_264, "99.40", None),
    (8, "uniform 70%"): (1_722_596, "62.46", None),
}
THOP = {(4, 30): 72.3, (4, 50): 53.1, (4, 70): 32.8, (8, 30): 124.1, (8, 50): 94.5, (8, 70): 53.6}
"""G, as printed of the pruned networks: by thop's rule."""


@pytest.mark.parametrize("only", [["DRN-S70"], pytest.param([], marks=pytest.mark.slow)], ids=["a sample", "all"])
def test_every_matched_count_of_the_papers_is_reproduced(only):
    table = complexity_table(only).set_index(["scale", "model"])
    assert set(table.index) == {key for key in COUNTS if not only or key[1] in only}
    for key, row in table.iterrows():
        params, *printed = COUNTS[key]
        assert row["params"] == params, key
        for column, value in zip(("multi_adds_96", "multi_adds_720p"), printed, strict=True):
            if value is not None:
                digits = Decimal(value)
                assert Decimal(str(row[column])).quantize(digits, ROUND_HALF_UP) == digits, (key, column)
    for (scale, percent), value in THOP.items():
        if not only or f"DRN-S{percent}" in only:
            assert round(table.loc[(scale, f"DRN-S{percent}"), "thop_96"], 1) == value


@given(st.data())
@settings(max_examples=5)
def test_cost_is_linear_in_the_widths(drawn):
    model = DRN(4, 4, 1)
    costs, fixed = channel_costs(model, (12, 20))
    widths = [drawn.draw(st.integers(1, w)) for w in model.widths]
    assert count(DRN(4, 4, 1, widths), (12, 20)).multi_adds == fixed + costs @ np.array(widths)


@pytest.mark.parametrize("kind", ["uniform", "random"])
@pytest.mark.parametrize("share", [0.3, 0.65, 0.95])
def test_control_widths_cost_the_budget_to_within_one_channel(kind, share):
    model = DRN(4, 8, 1)
    costs, fixed = channel_costs(model)
    full = np.array(model.widths)
    budget = fixed + share * (costs @ full)
    widths = np.array(widths_at_cost(model, budget, kind, seed=2))
    assert (widths >= 1).all()
    assert (widths <= full).all()
    left = budget - fixed - costs @ widths
    assert 0 <= left < costs.max()
    assert widths_at_cost(model, budget, kind, seed=2) == widths.tolist()
    if kind == "uniform":
        assert np.ptp(widths / full) <= 2 / full.min()
    else:
        assert widths_at_cost(model, budget, kind, seed=3) != widths.tolist()


def test_a_budget_out_of_reach_is_refused():
    with pytest.raises(
        ValueError, match=r"budget must be between [\d,]+ \(one channel each\) and [\d,]+ multiply-adds, got 7"
    ):
        widths_at_cost(net(), 7, "uniform")
    with pytest.raises(ValueError, match="kind must be 'uniform' or 'random', got 'best'"):
        widths_at_cost(net(), sum(channel_costs(net())[0]) + channel_costs(net())[1], "best")


# --- surgery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-13)], ids=str)
def test_the_smaller_network_equals_the_masked_one(scale, dtype, atol):
    model = net(scale, 4, 2, dtype=dtype)
    kept, x = half_of(model), torch.rand(2, 3, 7, 5).to(dtype)
    small, mask = shrink(model, kept), masked(model, kept)
    assert small.widths == [len(k) for k in kept.values()]
    assert mask.widths == model.widths
    for ours, theirs in zip(small(x, all_levels=True), mask(x, all_levels=True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    assert (mask(x) - model(x)).abs().max() > 1e-3


def test_the_smaller_network_is_an_ordinary_one():
    model = net(4, 4, 2)
    small = shrink(model, half_of(model))
    fresh = net(4, 4, 2, seed=5, widths=small.widths)
    fresh.load_state_dict(small.state_dict(), strict=True)
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(fresh(x), small(x))
    assert count(copy.deepcopy(small).float()).params == sum(p.numel() for p in fresh.parameters())
    assert model.widths == list(full_widths(4, 4, 2).values())  # untouched
    small(x).sum().backward()
    assert small.get_parameter("up_blocks.0.0.body.0.weight").grad is not None


@pytest.mark.timing
def test_a_pruned_network_saves_at_least_four_fifths_of_its_multiply_adds_in_time():
    full = DRN(4, 16, 8).eval()
    half = DRN(4, 16, 8, uniform_widths(full.widths, 0.5)).eval()
    table = latency({"full": full, "half": half}, [(32, 32)], repeats=25, threads=1, device="cpu")
    seconds = table.set_index("model")["seconds"]
    adds = [count(model, (32, 32)).multi_adds for model in (full, half)]
    assert 1 - seconds["half"] / seconds["full"] >= 0.8 * (1 - adds[1] / adds[0])


def test_a_layer_that_is_not_named_stays():
    model = net()
    assert shrink(model, {"down0": [2, 0]}).widths == [2, 16, 16]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"up9": [0]}, r"no layer 'up9'; there are: down0, up0\.rcab0, up0\.shuffle"),
        ({"down0": []}, r"channels of down0 must be different numbers from 0 to 7, got \[\]"),
        ({"down0": [1, 1]}, r"must be different numbers from 0 to 7, got \[1, 1\]"),
        ({"down0": [8]}, r"from 0 to 7, got \[8\]"),
        ({"down0": [-1]}, r"from 0 to 7, got \[-1\]"),
    ],
)
def test_channels_that_do_not_exist_are_refused(kept, message):
    for cut in (shrink, masked) if "up9" not in kept else (shrink,):
        with pytest.raises(ValueError, match=message):
            cut(net(), kept)


def test_keep_channels_works_in_place():
    model = net()
    keep_channels(model, model.slots[2], [15, 3])
    assert model.widths == [8, 16, 2]
