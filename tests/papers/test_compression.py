"""Compression: costs and counts, surgery, the relaxed search, what each pruning criterion finds."""

from __future__ import annotations

import copy
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nsrlib import data
from nsrlib.complexity import count
from nsrlib.data.patches import Batch, Patches
from nsrlib.evaluation import latency
from nsrlib.models.drn import DRN, dual_networks, dual_regression_loss, full_widths, pyramid, uniform_widths
from nsrlib.papers.drn.compression import (
    CRITERIA,
    ClosedLoop,
    LayerStatistics,
    Relaxed,
    _Layer,
    architecture_gradient,
    calibration,
    candidate_widths,
    channel_costs,
    complexity_table,
    discretise,
    fine_tune,
    keep_channels,
    layer_statistics,
    masked,
    prune,
    search_widths,
    select_channels,
    shrink,
    soft_channel_mask,
    widths_at_cost,
)
from nsrlib.training import Recipe


def net(
    scale: int = 2, f: int = 8, blocks: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64, **config
) -> DRN:
    torch.manual_seed(seed)
    return DRN(scale, f, blocks, **config).to(dtype)


def duals_of(model: DRN, seed: int = 1) -> nn.ModuleList:
    torch.manual_seed(seed)
    return dual_networks(model.scale, model.num_feats).to(next(model.parameters()).dtype)


@lru_cache
def patches(scale: int = 2, patch: int = 12) -> Patches:
    return Patches(data.load("embedded", scale)[:2], patch)


def batches(n: int = 2, scale: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Batch]:
    return [Batch(*(t.to(dtype) for t in b)) for b in calibration(patches(scale), n, 4, seed)]


def half_of(model: DRN, seed: int = 0) -> dict[str, list[int]]:
    dice = np.random.default_rng(seed)
    pairs = zip(model.slots, model.widths, strict=True)
    return {s.name: sorted(dice.permutation(w)[: max(1, w // 2)].tolist()) for s, w in pairs}


# --- cost -------------------------------------------------------------------------------------------------------------


def test_every_matched_count_of_the_papers_is_reproduced():
    table = complexity_table().set_index(["scale", "model"])
    expected = {  # parameters and multiply-adds at 96x96 and for 1280x720, from the specification
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
    assert set(table.index) == set(expected)
    for key, (params, small, large) in expected.items():
        row = table.loc[key]
        assert row["params"] == params, key
        for column, printed in (("multi_adds_96", small), ("multi_adds_720p", large)):
            if printed is not None:
                digits = Decimal(printed)
                assert Decimal(str(row[column])).quantize(digits, ROUND_HALF_UP) == digits, (key, column)
    printed = {(4, 30): 72.3, (4, 50): 53.1, (4, 70): 32.8, (8, 30): 124.1, (8, 50): 94.5, (8, 70): 53.6}
    for (scale, percent), value in printed.items():  # the pruned rows of the paper follow thop's rule
        assert round(table.loc[(scale, f"DRN-S{percent}"), "thop_96"], 1) == value


@given(st.data())
@settings(max_examples=10)
def test_cost_is_linear_in_the_widths(drawn):
    with torch.device("meta"):
        model = DRN(4, 4, 2)
        costs, fixed = channel_costs(model, (12, 20))
        widths = [drawn.draw(st.integers(1, w)) for w in model.widths]
        assert count(DRN(4, 4, 2, widths), (12, 20)).multi_adds == fixed + costs @ np.array(widths)


@pytest.mark.parametrize("kind", ["uniform", "random"])
@pytest.mark.parametrize("share", [0.3, 0.65, 0.95])
def test_control_widths_cost_the_budget_to_within_one_channel(kind, share):
    with torch.device("meta"):
        model = DRN(4, 8, 3)
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
    table = latency({"full": full, "half": half}, [(32, 32)], repeats=7, threads=1, device="cpu")
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


# --- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.3, (20, 24, 32, 36, 40, 44)), (0.5, (16, 20, 20, 24, 28, 32)), (0.7, (8, 12, 12, 16, 16, 20))],
)
def test_candidates_are_those_of_the_authors(ratio, expected):
    assert candidate_widths(64, ratio) == expected
    assert set(candidate_widths(8, ratio)) == {4}


@given(st.integers(1, 200), st.floats(0.01, 0.99))
def test_candidates_rise_and_fit(channels, ratio):
    found = candidate_widths(channels, ratio)
    assert list(found) == sorted(found)
    assert min(4, channels) <= found[0]
    assert found[-1] <= channels
    assert all(w % 4 == 0 or w == channels for w in found)
    assert found[-1] <= max((1 - ratio) * channels + 2, 4)


@pytest.mark.parametrize("ratio", [0, 1, -0.3, 1.5, float("nan")])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio is the share of channels to remove, between 0 and 1, got"):
        candidate_widths(64, ratio)


@given(st.integers(0, 2**31), st.sampled_from([0.3, 0.5, 0.7]))
def test_the_mask_falls_from_one_to_zero(seed, ratio):
    candidates = candidate_widths(64, ratio)
    alpha = 3 * torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = soft_channel_mask(alpha, candidates, 64)
    assert (mask.diff() <= 0).all()
    torch.testing.assert_close(mask[: candidates[0]], torch.ones(candidates[0], dtype=torch.float64))
    assert (mask[candidates[-1] :] == 0).all()
    expected = (alpha.softmax(0) * torch.tensor(candidates)).sum()
    torch.testing.assert_close(mask.sum(), expected)  # the expected width


def by_norm(model: DRN, widths: list[int]) -> dict[str, list[int]]:
    kept = {}
    for slot, w in zip(model.slots, widths, strict=True):
        norms = model.get_parameter(f"{slot.consumer}.weight").abs().sum((0, 2, 3))
        kept[slot.name] = norms.argsort(descending=True)[:w].tolist()
    return kept


def test_a_certain_choice_is_the_network_with_these_widths():
    model = net()
    duals = duals_of(model)
    (batch,) = batches(1)
    candidates = [(2, 4), (6, 9), (5, 12)]
    relaxed = Relaxed(ClosedLoop(model, duals), candidates)
    alpha = torch.tensor([[0, 900.0], [900.0, 0], [0, 900.0]]).double()
    small = shrink(model, by_norm(model, [4, 6, 12]))
    expected = ClosedLoop(small, duals)(batch)
    torch.testing.assert_close(relaxed.loss(relaxed.weights(), alpha, batch), expected)
    outputs = small(batch.input, all_levels=True)
    primal, dual = dual_regression_loss(outputs, pyramid(batch), duals)
    torch.testing.assert_close(expected, 255 * (primal + 0.1 * dual))


@pytest.mark.parametrize("second_order", [False, True])
def test_the_gradient_of_the_bilevel_objective_is_that_of_finite_differences(second_order):
    model = net(f=4)
    train, validation = batches(2)
    relaxed = Relaxed(ClosedLoop(model, duals_of(model)), [(2, 4), (3, 6), (2, 8)])
    lr = 0.01  # large enough that the second order is a good part of the whole
    torch.manual_seed(0)
    alpha = torch.randn(3, 2, dtype=torch.float64)

    def virtual(at: Tensor) -> dict[str, Tensor]:
        weights = {n: p.detach().requires_grad_() for n, p in relaxed.weights().items()}
        gradients = torch.autograd.grad(relaxed.loss(weights, at, train), list(weights.values()))
        return {n: (w - lr * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}

    fixed = virtual(alpha)

    def objective(at: Tensor) -> float:
        return float(relaxed.loss(virtual(at) if second_order else fixed, at, validation))

    gradient, loss = architecture_gradient(relaxed, alpha, train, validation, lr, second_order)
    assert float(loss) == pytest.approx(objective(alpha))
    step = 1e-6
    for i in range(3):
        delta = torch.zeros_like(alpha)
        delta[i, 0] = step
        slope = (objective(alpha + delta) - objective(alpha - delta)) / (2 * step)
        assert float(gradient[i, 0]) == pytest.approx(slope, rel=1e-3, abs=1e-6)
    other, _ = architecture_gradient(relaxed, alpha, train, validation, lr, not second_order)
    assert (gradient - other).abs().max() > 1e-3 * gradient.abs().max()


def search(**options):
    model = net(f=8, dtype=torch.float32)
    duals = duals_of(model)
    before = copy.deepcopy((model.state_dict(), duals.state_dict()))
    result = search_widths(
        model, duals, patches(), patches(), 0.3, **{"steps": 3, "batch": 2, "alpha_lr": 0.1, **options}, progress=False
    )
    for state, kept in zip((model.state_dict(), duals.state_dict()), before, strict=True):
        assert all(torch.equal(state[k], v) for k, v in kept.items())
    return result


def test_the_search_repeats_itself_and_leaves_its_arguments_alone():
    one, two = search(), search()
    assert one.widths == two.widths
    assert np.array_equal(one.probabilities, two.probabilities)
    assert all(w in candidate_widths(c, 0.3) for w, c in zip(one.widths, (8, 16, 16), strict=True))
    assert one.probabilities.shape == one.candidates.shape == (3, 6)
    assert list(one.history["step"]) == [1, 2, 3]
    assert one.multi_adds == count(DRN(2, 8, 1, one.widths), (96, 96)).multi_adds
    assert np.isfinite(one.history.to_numpy()).all()
    assert not np.array_equal(search(second_order=True, virtual_lr=1e-3).probabilities, one.probabilities)


def test_a_budget_makes_the_search_pay_for_width():
    model = net(f=8)
    costs, fixed = channel_costs(model)
    wide = [tuple(range(2, c + 1, 2))[-4:] for c in model.widths]
    budget = fixed + int(0.7 * (costs @ np.array(model.widths)))
    free = search(candidates=wide, steps=8)
    paid = search(candidates=wide, steps=8, cost_weight=1e5, budget=budget)
    assert paid.multi_adds <= budget
    assert paid.history["expected_multi_adds"].iloc[-1] < free.history["expected_multi_adds"].iloc[-1]


def test_the_likeliest_width_adds_up_equal_candidates_and_gives_way_to_a_budget():
    p = np.array([[0.35, 0.3, 0.35], [0.2, 0.1, 0.7]])
    candidates, costs = [(4, 8, 8), (4, 8, 12)], np.array([1, 10])
    assert discretise(p, candidates, costs, 0) == [8, 12]
    # 0.62 nats for 4 units, against 1.95 for 40 or 1.25 for 80: the last is cheapest per unit
    assert discretise(p, candidates, costs, 0, 127) == [8, 4]
    assert discretise(p, candidates, costs, 0, 45) == [4, 4]
    with pytest.raises(ValueError, match="the smallest candidates cost more than budget=43"):
        discretise(p, candidates, costs, 0, 43)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": [(1, 2)]}, "candidates must be 3 lists of one length, one for each layer"),
        ({"candidates": [(1, 2), (3, 4), (5,)]}, "3 lists of one length"),
        ({"candidates": [(1, 2), (3, 17), (5, 6)]}, r"candidates of up0\.rcab0 must be from 1 to 16, got \(3, 17\)"),
        ({"budget": 1e9}, r"cost_weight and budget go together, got 0\.0 and 1000000000\.0"),
        ({"cost_weight": 1.0}, r"go together, got 1\.0 and None"),
        ({"cost_weight": 1.0, "budget": 5}, "the smallest candidates cost [0-9,]+ multiply-adds, more than budget=5"),
    ],
)
def test_a_search_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_pruned_network_is_not_searched():
    with pytest.raises(ValueError, match="model must be unpruned"):
        search_widths(net(widths=[4, 8, 8]), duals_of(net()), patches(), patches(), 0.3)


# --- statistics of a layer --------------------------------------------------------------------------------------------


def windows_and_outputs(model: DRN, slot, sample: list[Batch]) -> tuple[Tensor, Tensor]:
    """Every window and output of the slot's consumer, straight from a hook."""
    conv, rows = model.get_submodule(slot.consumer), []
    handle = conv.register_forward_hook(lambda m, args, out: rows.append((args[0], out)))
    with torch.no_grad():
        for batch in sample:
            model(batch.input)
    handle.remove()
    unfolded = [F.unfold(x, conv.kernel_size, padding=conv.padding).transpose(1, 2).flatten(0, 1) for x, _ in rows]
    return torch.cat(unfolded), torch.cat([y.flatten(2).transpose(1, 2).flatten(0, 1) for _, y in rows])


@pytest.mark.parametrize("index", [0, 1, 2], ids=["down, no bias", "rcab", "shuffle, 1x1"])
def test_statistics_are_those_of_all_windows(index):
    model, sample = net(), batches()
    slot = model.slots[index]
    conv = model.get_submodule(slot.consumer)
    s = layer_statistics(model, model, slot, sample, positions=10**6)
    x, y = windows_and_outputs(model, slot, sample)
    taps = conv.weight[0, 0].numel()
    assert s.samples == len(x)
    # a fit with some channels is the least-squares fit
    chosen = [1, 4, 5]
    columns = torch.cat([torch.arange(taps) + taps * k for k in chosen])
    a = x[:, columns] if conv.bias is None else torch.cat([x[:, columns], x.new_ones(len(x), 1)], 1)
    best = torch.linalg.lstsq(a, y).solution
    weight, bias = s.solve(chosen)
    ours = x @ weight.flatten(1).T + (0 if bias is None else bias)
    torch.testing.assert_close(ours, a @ best, rtol=0, atol=1e-6 * float(y.abs().max()))
    assert (weight[:, [0, 2, 3]] == 0).all()
    assert (bias is None) == (conv.bias is None)
    # the error and its gradient
    w = torch.randn_like(weight).requires_grad_()
    loss = F.mse_loss(x @ w.flatten(1).T + (0 if bias is None else bias), y)
    loss.backward()
    gradient, _ = s.unpack(s.gradient(w.detach(), bias))
    torch.testing.assert_close(gradient, w.grad, rtol=1e-8, atol=1e-8 * float(w.grad.abs().max()))
    relative = (loss.detach() * y.numel() / y.square().sum()).sqrt()
    assert s.error(w.detach(), bias) == pytest.approx(float(relative))
    # contributions
    z = torch.einsum("nct,oct->con", x.view(len(x), -1, taps), conv.weight.detach().flatten(2))
    b = torch.zeros(y.shape[1], dtype=torch.float64) if conv.bias is None else conv.bias.detach()
    among, target = s.contributions()
    torch.testing.assert_close(among, torch.einsum("ion,jon->ij", z, z))
    torch.testing.assert_close(target, torch.einsum("ion,no->i", z, y - b))


def test_positions_are_sampled():
    model, sample = net(), batches(2)
    assert layer_statistics(model, model, model.slots[1], sample, positions=5).samples == 2 * 4 * 5


def test_inputs_that_are_always_zero_get_no_kernel_and_do_no_harm():
    for seed in range(5):  # whether rounding reaches the dead inputs depends on the matrix
        torch.manual_seed(seed)
        x = torch.cat([torch.randn(200, 72, dtype=torch.float64), torch.ones(200, 1, dtype=torch.float64)], 1)
        x[:, [3, 17, 18, 40]] = 0
        x[:, 50:60] = x[:, :10]  # redundant, so that the matrix is singular elsewhere too
        y = torch.randn(200, 4, dtype=torch.float64)
        s = LayerStatistics(x.T @ x, x.T @ y, float(y.square().sum()), 200, torch.zeros(4, 8, 9), torch.zeros(4))
        weight, bias = s.solve(range(8))
        live = (x != 0).any(0)
        best = torch.zeros(73, 4, dtype=torch.float64)
        best[live] = torch.linalg.pinv(x[:, live]) @ y
        assert (weight.flatten(1)[:, ~live[:-1]] == 0).all()
        assert (x @ s.pack(weight, bias) - x @ best).abs().max() < 1e-10


# --- criteria ---------------------------------------------------------------------------------------------------------


def planted(index: int) -> tuple[DRN, list[int]]:
    """A layer whose second half repeats channels of the first and is read with kernels a thousand times smaller."""
    model = net(seed=3)
    slot = model.slots[index]
    producer, consumer = model.get_submodule(slot.producer), model.get_submodule(slot.consumer)
    c = consumer.in_channels
    with torch.no_grad():
        producer.weight[c // 2 * slot.group :] = producer.weight[: c // 2 * slot.group]
        if producer.bias is not None:
            producer.bias[c // 2 * slot.group :] = producer.bias[: c // 2 * slot.group]
        consumer.weight[:, c // 2 :] *= 1e-3
    return model, [c // 2 if i == index else w for i, w in enumerate(model.widths)]


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("index", [0, 1, 2], ids=["down", "rcab", "shuffle"])
def test_every_criterion_but_random_sees_through_planted_redundancy(criterion, index):
    model, widths = planted(index)
    result = prune(model, widths, batches(), criterion, duals=duals_of(model), progress=False)
    fresh = torch.rand(2, 3, 11, 9, dtype=torch.float64)  # not what it was fitted on
    with torch.no_grad():
        gap = float((result.model(fresh) - model(fresh)).abs().max())
    assert result.model.widths == widths
    (row,) = result.layers.to_dict("records")
    assert (row["layer"], row["after"]) == (model.slots[index].name, widths[index])
    if criterion == "random":
        assert gap > 1e-4
    else:
        assert gap < 1e-5
        assert row["error"] < 1e-5


@pytest.mark.parametrize("criterion", ["cp", "thinet", "l1"])
def test_channels_read_with_zero_kernels_are_removed(criterion):
    model = net()
    consumer = model.get_submodule(model.slots[1].consumer)
    gone = [1, 2, 7, 12]
    with torch.no_grad():
        consumer.weight[:, gone] = 0
    s = layer_statistics(model, model, model.slots[1], batches())
    assert select_channels(s, 12, criterion) == [k for k in range(16) if k not in gone]


@pytest.mark.parametrize("criterion", ["cp", "thinet"])
def test_a_bias_does_not_change_what_is_selected(criterion):
    def chosen(bias: float) -> list[int]:
        model = net()
        with torch.no_grad():
            model.get_submodule(model.slots[1].consumer).bias.fill_(bias)
        return select_channels(layer_statistics(model, model, model.slots[1], batches()), 7, criterion)

    assert chosen(0.0) == chosen(1e4)


def test_cp_selects_what_the_lasso_selects():
    from sklearn.linear_model import Lasso

    model, sample = net(), batches(1)
    slot = model.slots[1]
    conv = model.get_submodule(slot.consumer)
    x, y = windows_and_outputs(model, slot, sample)
    z = torch.einsum("nct,oct->noc", x.view(len(x), -1, 9), conv.weight.detach().flatten(2)).flatten(0, 1).numpy()
    target = (y - conv.bias.detach()).flatten().numpy()
    s = layer_statistics(model, model, slot, sample, positions=10**6)
    checked = 0
    for t in np.abs(z.T @ target).max() / len(z) * np.geomspace(0.5, 0.001, 12):
        beta = Lasso(t, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(z, target).coef_
        active = np.flatnonzero(beta).tolist()
        if 0 < len(active) < 16:
            checked += select_channels(s, len(active), "cp") == active
    assert checked >= 4


def test_thinet_takes_the_best_first_step():
    model = net()
    s = layer_statistics(model, model, model.slots[1], batches())
    among, _ = s.contributions()
    (gone,) = set(range(16)) - set(select_channels(s, 15, "thinet"))
    assert gone == int(among.diagonal().argmin())


def test_scores_are_gradients_of_reconstruction_and_dual_regression():
    model, sample = net(), batches(2)
    duals, slot = duals_of(model), net().slots[1]
    student = copy.deepcopy(model)
    loop = ClosedLoop(student, duals).requires_grad_(False)
    s = layer_statistics(student, model, slot, sample, positions=10**6)
    layer = _Layer(loop, model, slot, s, sample, 0.7, "least_squares", 0.0)
    layer.fit([0, 3, 5])
    conv = student.get_submodule(slot.consumer)
    conv.weight.requires_grad_(True)
    x, y = windows_and_outputs(model, slot, sample)
    mse = F.mse_loss(x @ conv.weight.flatten(1).T + conv.bias, y)
    total = mse + 0.7 * sum(loop(b) for b in sample) / 2
    gradient = torch.autograd.grad(total, conv.weight)[0]
    whole = s.unpack(layer.gradient())[0]
    torch.testing.assert_close(whole, gradient.flatten(2))
    # at the minimum over kept kernels of the error and what is linear in the rest, these have no gradient left
    left, found = layer.scores([0, 3, 5]), whole.norm(dim=2).sum(0)
    assert left[[0, 3, 5]].max() < 1e-9 * found.max()
    assert left[[1, 2, 4]].min() > 1e-3 * found.max()


def test_what_is_kept_is_numbered_as_in_the_unpruned_network():
    model, sample = net(4, 4, 1), batches(1, 4)
    widths = uniform_widths(model.widths, 0.5)
    result = prune(model, widths, sample, "l1", refit="none", progress=False)
    assert result.model.widths == widths
    assert {name: len(k) for name, k in result.kept.items()} == dict(zip(full_widths(4, 4, 1), widths, strict=True))
    x = sample[0].input
    torch.testing.assert_close(result.model(x), shrink(model, result.kept)(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(result.model(x), masked(model, result.kept)(x), rtol=0, atol=1e-6)
    assert result.kept == {k: sorted(v) for k, v in by_norm(model, widths).items()}


def test_refitting_makes_up_for_much_of_what_is_removed():
    model, sample = net(), batches()
    widths = uniform_widths(model.widths, 0.3)
    errors = {
        refit: prune(model, widths, sample, "l1", refit=refit, progress=False).layers["error"].mean()
        for refit in ("none", "least_squares")
    }
    assert errors["least_squares"] < 0.5 * errors["none"]


@pytest.mark.parametrize("criterion", ["drc", "l1"])
def test_descent_lowers_the_loss_and_touches_kept_channels_alone(criterion):
    model, sample = net(), batches(2)
    duals = duals_of(model)
    slot = model.slots[1]
    student = copy.deepcopy(model)
    loop = ClosedLoop(student, copy.deepcopy(duals)).requires_grad_(False)
    s = layer_statistics(student, model, slot, sample)
    layer = _Layer(loop, model, slot, s, sample, 1.0, "sgd", 1e-7)
    if criterion == "drc":
        chosen = layer.grow(4, 2)
    else:
        chosen = [0, 2, 5, 6]
        layer.fit(chosen)
    weight, _ = layer.current()
    gone = [k for k in range(16) if k not in chosen]
    assert (weight[:, gone] == 0).all()
    assert not torch.equal(weight[:, chosen], s.weight[:, chosen])
    assert not any(p.requires_grad for p in loop.parameters())


def test_pruning_leaves_its_arguments_alone_and_repeats_itself():
    model = net()
    duals = duals_of(model)
    before = copy.deepcopy(model.state_dict())
    runs = [prune(model, [4, 8, 8], batches(1), "drc", duals=duals, per_step=4, progress=False) for _ in range(2)]
    assert runs[0].kept == runs[1].kept
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert model.training
    assert all(p.requires_grad for m in (model, duals, runs[0].model) for p in m.parameters())


def test_gamma_decides_what_drc_sees():
    model, sample = net(), batches()
    duals = duals_of(model)

    def kept(criterion: str, **options):
        return prune(model, [4, 8, 8], sample, criterion, duals=duals, progress=False, **options).kept

    reconstruction = kept("drc", gamma=0)
    assert kept("dcp", gamma=0) == reconstruction
    assert kept("drc", gamma=1e6) != reconstruction
    assert kept("drc", lambda_=0) == kept("dcp")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([4, 8, 8], "best"), {}, "criterion must be one of drc, dcp, cp, thinet, l1, random, got 'best'"),
        (([4, 8, 8], "l1"), {"refit": "exact"}, "refit must be 'least_squares', 'sgd' or 'none', got 'exact'"),
        (([4, 8, 8], "drc"), {"gamma": -1}, "gamma must be 0 or more, got -1"),
        (([4, 8, 8], "drc"), {}, "criterion 'drc' needs duals"),
        (([4, 8, 8], "dcp"), {"per_step": 0}, "per_step must be at least 1, got 0"),
        (([4, 8], "l1"), {}, r"widths must be 3 numbers, one for each of down0, up0\.rcab0, up0\.shuffle; got 2"),
        (([4, 8, 17], "l1"), {}, r"width of up0\.shuffle must be a whole number from 1 to 16, got 17"),
    ],
)
def test_a_pruning_that_cannot_be_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        prune(net(), arguments[0], batches(1), arguments[1], progress=False, **options)


def test_pruning_needs_something_to_look_at():
    with pytest.raises(ValueError, match="batches is empty"):
        prune(net(), [4, 8, 8], [], "l1")


def test_an_unknown_criterion_is_refused_for_a_layer_too():
    s = layer_statistics(net(), net(), net().slots[1], batches(1))
    with pytest.raises(ValueError, match=r"criterion must be one of .* got 'best'"):
        select_channels(s, 3, "best")


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_students_and_the_unpruned_network_are_tuned_alike_and_copied():
    model = net(f=4, dtype=torch.float32)
    duals = duals_of(model)
    student = shrink(model, half_of(model))
    recipe = Recipe(iterations=2, batch=2, patch=12)
    states = [copy.deepcopy(m.state_dict()) for m in (model, student, duals)]
    tuned = [fine_tune(m, patches(), recipe, duals=duals, teacher=model, progress=False) for m in (model, student)]
    for m, state in zip((model, student, duals), states, strict=True):
        assert all(torch.equal(m.state_dict()[k], v) for k, v in state.items())
    assert tuned[1].model.widths == student.widths
    assert {"primal", "dual", "distillation"} <= set(tuned[0].history.columns)
    assert all(not torch.equal(t.model.head.weight, model.head.weight) for t in tuned)
    assert "dual" not in fine_tune(student, patches(), recipe, lambda_=0, progress=False).history.columns


def test_keep_channels_works_in_place():
    model = net()
    keep_channels(model, model.slots[2], [15, 3])
    assert model.widths == [8, 16, 2]
