"""The search for channel numbers: candidates, soft masks, the bilevel gradient, budgets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_drn import batches, by_norm, duals_of, net, patches
from torch import Tensor

from nsrlib.models.drn import dual_regression_loss, pyramid
from nsrlib.papers.drn.costs import channel_costs
from nsrlib.papers.drn.pruning import shrink
from nsrlib.papers.drn.search import (
    ClosedLoop,
    Relaxed,
    architecture_gradient,
    candidate_widths,
    discretise,
    search_widths,
    soft_channel_mask,
)


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


def test_the_gradient_of_the_bilevel_objective_is_that_of_finite_differences():
    model = net(f=4)
    train, validation = batches(2)
    relaxed = Relaxed(ClosedLoop(model, duals_of(model)), [(2, 4), (3, 6), (2, 8)])
    lr = 0.01
    torch.manual_seed(0)
    alpha = torch.randn(3, 2, dtype=torch.float64)

    weights = {n: p.detach().requires_grad_() for n, p in relaxed.weights().items()}
    gradients = torch.autograd.grad(relaxed.loss(weights, alpha, train), list(weights.values()))
    fixed = {n: (w - lr * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}

    def objective(at: Tensor) -> float:
        return float(relaxed.loss(fixed, at, validation))

    gradient = architecture_gradient(relaxed, alpha, train, validation, lr)
    step = 1e-6
    for i in range(3):
        delta = torch.zeros_like(alpha)
        delta[i, 0] = step
        slope = (objective(alpha + delta) - objective(alpha - delta)) / (2 * step)
        assert float(gradient[i, 0]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


CANDIDATES = [candidate_widths(c, 0.3) for c in (8, 16, 16)]


def search(candidates=CANDIDATES, model=None, **options):
    model = model or net(f=8, dtype=torch.float32)
    duals = duals_of(model)
    before = copy.deepcopy((model.state_dict(), duals.state_dict()))
    options = {"steps": 3, "batch": 2, "alpha_lr": 0.1, **options}
    result = search_widths(model, duals, patches(), patches(), candidates, **options)
    for state, kept in zip((model.state_dict(), duals.state_dict()), before, strict=True):
        assert all(torch.equal(state[k], v) for k, v in kept.items())
    return result


def test_the_search_repeats_itself_and_leaves_its_arguments_alone():
    (one, p), (two, again) = search(), search()
    assert one == two
    assert np.array_equal(p, again)
    assert all(w in c for w, c in zip(one, CANDIDATES, strict=True))
    assert p.shape == (3, 6)
    assert p.sum(1) == pytest.approx([1, 1, 1])


def test_alpha_decays_where_the_loss_does_not_ask():
    model = net(f=8, dtype=torch.float32)
    with torch.no_grad():
        for slot in model.slots:  # no mask matters
            model.get_submodule(slot.consumer).weight.zero_()
    _, p = search(model=model, steps=1, lr=1e-30, alpha_lr=0.01)
    start = 1e-3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    gradient = 1e-3 * start
    expected = (start - 0.01 * gradient / (gradient.abs() + 1e-8)).softmax(1)  # Adam's first step
    torch.testing.assert_close(torch.tensor(p), expected, rtol=1e-6, atol=0)


def test_a_budget_makes_the_search_pay_for_width():
    model = net(f=8)
    costs, fixed = channel_costs(model)
    wide = [tuple(range(2, c + 1, 2))[-4:] for c in model.widths]
    budget = fixed + int(0.7 * (costs @ np.array(model.widths)))
    _, free = search(wide, steps=8)
    widths, paid = search(wide, steps=8, cost_weight=1e5, budget=budget)
    assert fixed + costs @ np.array(widths) <= budget
    unit = costs[:, None] * np.array(wide)
    assert (paid * unit).sum() < (free * unit).sum()


def test_a_budget_that_is_met_costs_nothing():
    costs, fixed = channel_costs(net(f=8))
    free, met = search(), search(cost_weight=1e5, budget=fixed + int(costs @ np.array([8, 16, 16])))
    assert np.array_equal(free[1], met[1])


def test_the_likeliest_width_adds_up_equal_candidates_and_gives_way_to_a_budget():
    p = np.array([[0.35, 0.3, 0.35], [0.2, 0.1, 0.7]])
    candidates, costs = [(4, 8, 8), (4, 8, 12)], np.array([1, 10])
    assert discretise(p, candidates, costs, 0, None) == [8, 12]
    # 0.62 nats for 4 units, against 1.95 for 40 or 1.25 for 80: the last is cheapest per unit
    assert discretise(p, candidates, costs, 0, 127) == [8, 4]
    assert discretise(p, candidates, costs, 0, 45) == [4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": [(1, 2)]}, "candidates must be 3 lists of one length, one for each layer"),
        ({"candidates": [(1, 2), (3, 4), (5,)]}, "3 lists of one length"),
        ({"candidates": [(1, 2), (3, 17), (5, 6)]}, r"candidates of up0\.rcab0 must be from 1 to 16, got \(3, 17\)"),
        ({"budget": 5}, "the smallest candidates cost [0-9,]+ multiply-adds, more than budget=5"),
    ],
)
def test_a_search_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_pruned_network_is_not_searched():
    with pytest.raises(ValueError, match="model must be unpruned"):
        search(model=net(widths=[4, 8, 8]))
