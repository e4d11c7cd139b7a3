"""Pruning: statistics of a layer, what each criterion finds, refitting, and tuning alike."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_drn import batches, by_norm, duals_of, half_of, net, patches, windows_and_outputs

from nsrlib.models.drn import DRN, full_widths, uniform_widths
from nsrlib.papers.drn.criteria import CRITERIA, LayerStatistics, layer_statistics, select_channels
from nsrlib.papers.drn.pruning import LayerPruning, fine_tune, masked, prune, shrink
from nsrlib.papers.drn.search import ClosedLoop
from nsrlib.training import Recipe

# --- statistics of a layer --------------------------------------------------------------------------------------------


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


def test_thinet_always_removes_the_channel_that_leaves_the_removed_sum_smallest():
    model, removed = net(), []
    s = layer_statistics(model, model, model.slots[1], batches())
    among, _ = s.contributions()
    for left in range(15, 2, -1):
        rest = [k for k in range(16) if k not in removed]
        size = {k: float(among[[*removed, k]][:, [*removed, k]].sum()) for k in rest}
        removed.append(min(size, key=size.__getitem__))
        assert select_channels(s, left, "thinet") == [k for k in rest if k != removed[-1]]


def test_scores_are_gradients_of_reconstruction_and_dual_regression():
    model, sample = net(), batches(2)
    duals, slot = duals_of(model), net().slots[1]
    student = copy.deepcopy(model)
    loop = ClosedLoop(student, duals).requires_grad_(False)
    s = layer_statistics(student, model, slot, sample, positions=10**6)
    layer = LayerPruning(loop, slot, s, sample, 0.7)
    layer.set(*s.solve([0, 3, 5]))
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
    result = prune(model, widths, sample, "l1", progress=False)
    assert result.model.widths == widths
    assert {name: len(k) for name, k in result.kept.items()} == dict(zip(full_widths(4, 4, 1), widths, strict=True))
    x, plain = sample[0].input, shrink(model, result.kept)
    torch.testing.assert_close(plain(x), masked(model, result.kept)(x), rtol=0, atol=1e-6)
    assert [p.shape for p in result.model.parameters()] == [p.shape for p in plain.parameters()]
    assert result.kept == {k: sorted(v) for k, v in by_norm(model, widths).items()}


def test_refitting_makes_up_for_much_of_what_is_removed():
    model, sample = net(), batches()
    widths = uniform_widths(model.widths, 0.3)
    slot, width = model.slots[0], widths[0]
    s = layer_statistics(model, model, slot, sample)
    chosen = select_channels(s, width, "l1")
    left = torch.zeros_like(s.weight)
    left[:, chosen] = s.weight[:, chosen]
    assert s.error(*s.solve(chosen)) < 0.5 * s.error(left, s.bias)


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


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_students_and_the_unpruned_network_are_tuned_alike_and_copied():
    model = net(f=4, dtype=torch.float32)
    duals = duals_of(model)
    student = shrink(model, half_of(model))
    recipe = Recipe(iterations=2, batch=2, patch=12)
    states = [copy.deepcopy(m.state_dict()) for m in (model, student, duals)]
    tuned = [fine_tune(m, patches(), recipe, duals=duals, progress=False) for m in (model, student)]
    for m, state in zip((model, student, duals), states, strict=True):
        assert all(torch.equal(m.state_dict()[k], v) for k, v in state.items())
    assert tuned[1].model.widths == student.widths
    assert {"primal", "dual"} <= set(tuned[0].history.columns)
    assert all(not torch.equal(t.model.head.weight, model.head.weight) for t in tuned)
    assert "dual" not in fine_tune(student, patches(), recipe, lambda_=0, progress=False).history.columns
