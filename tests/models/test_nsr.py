"""NSR and WDSR: every variant's gradients, what gates do on a picture, the official tiles, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nsrlib import create_model, evaluation
from nsrlib.layers import WeightNormConv2d
from nsrlib.models import load_weights, nsr, optimise
from nsrlib.models.nsr import Gating, MixedConv2d, by_tiles, gate_usage, gated_layers, gates, pool_cells, tile_grid
from nsrlib.training import Recipe

SMALL = {"num_feats": 8, "num_blocks": 2, "cardinals": 4}
ROUNDING = 1e-12  # of float64 sums over some hundred terms of size 1


def small(seed: int = 0, scale: int = 2, **config) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("nsr", scale, **{**SMALL, **config}).double()


def picture(h: int, w: int, n: int = 1, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def choosy(model: nn.Module, factor: float = 40) -> nn.Module:
    """The same network with gates far from uniform, which those of fresh weights are."""
    with torch.no_grad():
        for layer in gated_layers(model).values():
            layer.mlp[0].weight.mul_(factor)
    return model


# --- the official state dict ------------------------------------------------------------------------------------------


def test_parameters_are_named_as_in_the_released_files(tmp_path):
    model = create_model("nsr", 2)
    conv = ("bias", "weight_g", "weight_v")
    names = {f"body.{n}.{p}" for n in (0, 17) for p in conv} | {f"skip.0.{p}" for p in conv}
    mixed = (*conv, "mlp.0.weight", "mlp.0.bias")
    names |= {f"body.{n}.body.{i}.{p}" for n in range(1, 17) for i in (0, 2) for p in mixed}
    state = model.state_dict()
    assert set(state) == names
    shapes = {"weight_v": (256, 64, 3, 3), "weight_g": (256, 1, 1, 1), "bias": (256,), "mlp.0.weight": (64, 64)}
    assert all(state[f"body.3.body.2.{p}"].shape == shape for p, shape in shapes.items())
    torch.save({"params": state}, tmp_path / "official.pth")
    torch.manual_seed(1)
    load_weights(create_model("nsr", 2), tmp_path / "official.pth", strict=True)


def official_layer(x: Tensor, layer: MixedConv2d) -> Tensor:
    """The released layer, written anew: PyTorch's own weight norm, a loop over samples."""
    kernel = torch._weight_norm(layer.weight_v, layer.weight_g, 0).view(layer.k, layer.d, -1, *layer.weight_v.shape[1:])
    bias = layer.bias.view(layer.k, layer.d, -1)
    results = []
    for sample in x:
        gamma = layer.mlp(sample.mean((1, 2))).view(layer.k, layer.d).softmax(0)
        mixed = (gamma[:, :, None, None, None, None] * kernel).sum(0).flatten(0, 1)
        results.append(F.conv2d(sample[None], mixed, (gamma[..., None] * bias).sum(0).flatten(), padding=1))
    return torch.cat(results)


def test_a_layer_computes_what_the_official_one_does():
    layer = next(iter(gated_layers(choosy(small())).values()))
    with torch.no_grad():
        layer.bias.normal_()
    x = picture(9, 7, n=3, channels=8)
    torch.testing.assert_close(layer(x), official_layer(x, layer), rtol=0, atol=ROUNDING)


def test_weight_norm_folds_into_the_weights_without_a_change(tmp_path):
    model = choosy(small()).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, WeightNormConv2d):
                layer.weight_g.mul_(torch.rand_like(layer.weight_g) + 0.5)
    x = picture(40, 33)
    expected = model(x)
    folded = copy.deepcopy(model).fold()
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=ROUNDING)
    assert not any("weight_g" in name or "weight_v" in name for name in folded.state_dict())
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(optimise(model)(x), expected, rtol=0, atol=1e-11)
    assert "body.0.weight_g" in model.state_dict()


def test_gains_start_as_the_authors_set_them():
    model = create_model("nsr", 2, num_feats=16, num_blocks=4)
    state = model.state_dict()
    for name, gain in (("body.0", 1), ("body.2.body.0", 2), ("body.2.body.2", 0.5), ("body.5", 1), ("skip.0", 1)):
        assert torch.equal(state[f"{name}.weight_g"].unique(), torch.tensor([float(gain)]))
        assert not state[f"{name}.bias"].any()


def test_the_callers_picture_is_left_alone():
    x = picture(20, 20)
    before = x.clone()
    small()(x)
    assert torch.equal(x, before)


# --- C3 to C6: laws ---------------------------------------------------------------------------------------------------


def permuted(layer: MixedConv2d, order: list[int]) -> MixedConv2d:
    """The same layer with its k kernels, and with them the rows of its Linear layer, in another order."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for target, source in zip(
            (other.weight_v, other.weight_g, other.bias, other.mlp[0].weight, other.mlp[0].bias),
            (layer.weight_v, layer.weight_g, layer.bias, layer.mlp[0].weight, layer.mlp[0].bias),
            strict=True,
        ):
            target.copy_(source.unflatten(0, (layer.k, -1))[order].flatten(0, 1))
    return other


@given(
    order=st.permutations(range(4)),
    variant=st.sampled_from(["softmax", "sigmoid", "hard"]),
    d=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 99),
    mapped=st.booleans(),
)
@settings(max_examples=25)
def test_the_order_of_the_kernels_is_nothing_but_a_name(order, variant, d, seed, mapped):
    torch.manual_seed(seed)
    gating = Gating(variant, patch=12, cell=8)
    layer = MixedConv2d(6, 8, 1.0, gating, 4, d).double().train(not mapped)
    with torch.no_grad():
        layer.mlp[0].weight.mul_(20)
        layer.bias.normal_()
    x = picture(20, 13, n=2, channels=6, seed=seed)
    torch.testing.assert_close(permuted(layer, list(order))(x), layer(x), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("variant", ["softmax", "hard", "gumbel", "branches"])
def test_one_kernel_is_a_plain_convolution(variant):
    model, plain = small(variant=variant, groups=1, cardinals=4), small(seed=1, variant="dense")
    plain.load_state_dict({name: v for name, v in model.state_dict().items() if "mlp" not in name})
    x = picture(30, 21)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_gates_sum_to_one_for_every_sample_and_cardinal_group(temperature):
    model = choosy(small(temperature=temperature))
    model(picture(20, 17, n=3))
    for values in gates(model).values():
        assert values.shape == (3, 4, 4)
        torch.testing.assert_close(values.sum(1), torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-15)


def test_temperature_makes_gates_one_hot_and_soft_equal_to_hard():
    model = choosy(small()).eval()
    x = picture(80, 60)
    model.hard = True
    expected = model(x)
    model.hard = False
    gaps = []
    for temperature in (1.0, 0.1, 0.01, 1e-6):
        model.temperature = temperature
        gaps.append((model(x) - expected).abs().max().item())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1e-3
    assert gaps[-1] < ROUNDING


def test_squeeze_and_excitation_is_two_kernels_of_which_one_is_zero():
    se = choosy(small(variant="se"))
    double = small(seed=1, groups=2, cardinals=8)
    state = double.state_dict()
    for name, value in se.state_dict().items():
        rest = torch.zeros_like(value)
        if name.endswith("weight_v"):
            rest = torch.randn_like(value)  # of any direction, times a gain of zero
        doubled = state[name].shape != value.shape
        state[name] = torch.cat([value, rest]) if doubled else value
    double.load_state_dict(state)
    x = picture(30, 21, n=2)
    torch.testing.assert_close(double(x), se(x), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("cardinals", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (48, 35)], ids=str)
def test_one_hot_gates_make_branches_mixed_kernels_and_hard_selection_the_same(cardinals, size):
    branches = choosy(small(variant="branches", cardinals=cardinals)).eval()
    paired = small(seed=1, paired=True, cardinals=cardinals).eval()
    paired.load_state_dict(branches.state_dict())
    x = picture(*size)
    apart = (branches(x) - paired(x)).abs().max()
    assert apart > 1e-3  # Eq. 9 is an approximation
    for model in (branches, paired):
        model.temperature = 1e-6
    results = [branches(x), paired(x)]
    for model in (branches, paired):
        model.hard = True
    results += [branches(x), paired(x)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=ROUNDING)


def test_branches_are_the_sum_of_gated_two_layer_units():
    """Item 2.6 by definition, one cardinal group."""
    model = choosy(small(variant="branches", cardinals=1)).train()
    block = model.body[1]
    first, _, last = block.body
    with torch.no_grad():
        last.bias.normal_()
    x = picture(9, 8, n=2, channels=8)
    gamma = first.mlp(x.mean((2, 3))).softmax(1)
    expected = x.clone()
    for i in range(4):
        hidden = F.conv2d(x, first.weight.chunk(4)[i], first.bias.chunk(4)[i], padding=1).relu()
        branch = F.conv2d(hidden, last.weight.chunk(4)[i], last.bias.chunk(4)[i], padding=1)
        expected += gamma[:, i, None, None, None] * branch
    torch.testing.assert_close(block(x), expected, rtol=0, atol=ROUNDING)


# --- gradients --------------------------------------------------------------------------------------------------------

TRAINABLE = [("softmax", False), ("softmax", True), ("sigmoid", False), ("hard", False), ("hard", True)]
TRAINABLE += [("gumbel", False), ("branches", True), ("se", False), ("dense", False)]


@pytest.mark.parametrize(("variant", "paired"), TRAINABLE)
def test_every_parameter_of_every_variant_is_trained(variant, paired):
    model = small(variant=variant, paired=paired).train()
    torch.manual_seed(0)
    model(picture(24, 24, n=4)).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("variant", "paired"), [t for t in TRAINABLE if t[0] not in ("hard", "gumbel")])
def test_gradients_are_those_of_finite_differences(variant, paired):
    torch.manual_seed(0)
    model = create_model("nsr", 1, num_feats=4, num_blocks=1, groups=2, cardinals=2, variant=variant, paired=paired)
    model = choosy(model.double(), 5).train()
    x = picture(6, 5, n=2)
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in model.named_parameters()), strict=True)

    def run(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


def test_the_straight_through_gradient_is_that_of_a_soft_gate_of_zeros_and_ones():
    hard = choosy(small(variant="hard", num_blocks=1)).train()
    layer = next(iter(gated_layers(hard).values()))
    x = picture(9, 8, n=2, channels=8)
    grad = picture(9, 8, n=2, channels=8, seed=1)
    layer(x).backward(grad)
    z = layer.mlp(x.mean((2, 3))).unflatten(1, (4, 4)).detach().requires_grad_()
    p = z.softmax(1)
    one_hot = F.one_hot(p.argmax(1), 4).movedim(-1, 1) + p - p.detach()
    outputs = F.conv2d(x, layer.weight.detach(), layer.bias.detach(), padding=1).unflatten(1, (4, 4, -1))
    ((outputs * one_hot[..., None, None, None]).sum(1).flatten(1, 2) * grad).sum().backward()
    torch.testing.assert_close(layer.mlp[0].bias.grad, z.grad.sum(0).flatten(), rtol=0, atol=ROUNDING)


def test_gumbel_noise_is_for_training_alone():
    model = choosy(small(variant="gumbel"), 1)
    x = picture(24, 24)
    choices = []
    for seed in range(8):
        torch.manual_seed(seed)
        choices.append(model.train()(x))
    assert len({float(y.sum()) for y in choices}) > 1
    assert torch.equal(model.eval()(x), model(x))


def test_gumbel_noise_chooses_a_kernel_as_often_as_its_softmax_says():
    p, n = torch.tensor([0.7, 0.2, 0.1]), 20_000
    mlp = nn.Linear(1, 3)
    with torch.no_grad():
        mlp.weight.zero_()
        mlp.bias.copy_(p.log())
        torch.manual_seed(0)
        gates = Gating("gumbel")(torch.zeros(n, 1, 1, 1), mlp, 3, training=True).values  # (n, 3, 1)
    often = gates.argmax(1).flatten().bincount(minlength=3) / n
    assert ((often - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all(), often  # four standard deviations


# --- gates on a picture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["softmax", "sigmoid", "hard", "branches", "se"])
@pytest.mark.parametrize("size", [(48, 48), (31, 45), (5, 1)], ids=str)
def test_the_gate_map_of_a_picture_within_one_window_is_the_gate_of_the_whole(variant, size):
    model = choosy(small(variant=variant)).eval()
    x = picture(*size)
    mapped = model(x)
    model.inference = "whole"
    assert torch.equal(model(x), mapped)
    assert next(iter(gates(model).values())).ndim == 3


def test_one_cell_for_the_picture_is_the_gate_of_the_whole():
    model = choosy(small(cell=64, patch=48)).eval()
    x = picture(60, 64)
    mapped = model(x)
    model.inference = "whole"
    assert torch.equal(model(x), mapped)


def test_a_map_of_equal_cells_gives_what_the_whole_does():
    """A constant picture without borders: far inside, every window sees the same."""
    layer = next(iter(gated_layers(choosy(small(cell=16))).values())).eval()
    x = picture(1, 1, channels=8).expand(1, 8, 96, 80).contiguous()
    mapped = layer(x)
    assert layer.gates.shape == (1, 4, 4, 6, 5)
    layer.gating.inference = "whole"
    torch.testing.assert_close(layer(x), mapped, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("cell", [1, 8, 16])
def test_a_cell_is_convolved_with_the_kernel_of_its_own_window(cell):
    layer = next(iter(gated_layers(choosy(small(patch=3 * cell, cell=cell))).values())).eval()
    x = picture(4 * cell + 3, 5 * cell, channels=8)
    y = layer(x)
    i, j = 1, 2  # a cell inside; its window reaches one cell further on each side
    window = x[..., (i - 1) * cell : (i + 2) * cell, (j - 1) * cell : (j + 2) * cell]
    gamma = layer.mlp(window.mean((2, 3))).unflatten(1, (4, 4)).softmax(1)
    mixed = torch.einsum("kd,kdrcxy->drcxy", gamma[0], layer.weight.unflatten(0, (4, 4, -1))).flatten(0, 1)
    expected = F.conv2d(x, mixed, padding=1)
    inside = (..., slice(i * cell, (i + 1) * cell), slice(j * cell, (j + 1) * cell))
    torch.testing.assert_close(y[inside], expected[inside], rtol=0, atol=ROUNDING)


@given(h=st.integers(1, 40), w=st.integers(1, 40), cell=st.integers(1, 12), window=st.integers(1, 40))
def test_windows_are_means_round_the_middle_of_their_cells_and_inside_the_picture(h, w, cell, window):
    x = picture(h, w, channels=2, seed=h * 41 + w)
    found = pool_cells(x, cell, window)
    rows, columns = math.ceil(h / cell), math.ceil(w / cell)
    assert found.shape == (1, 2, rows, columns)

    def own(i: int, side: int) -> slice:
        size = min(window, side)
        first = min(max(math.floor(i * cell + cell / 2 - size / 2), 0), side - size)
        return slice(first, first + size)

    for i in range(rows):
        for j in range(columns):
            expected = x[..., own(i, h), own(j, w)].mean((2, 3))
            torch.testing.assert_close(found[..., i, j], expected, rtol=0, atol=1e-13)


def test_tiles_of_upscale_keep_the_cells_of_the_whole_picture():
    model = choosy(small(num_blocks=1, patch=24, cell=8)).eval()
    x = picture(120, 90)
    whole = evaluation.upscale(model, x)
    tiled = evaluation.upscale(model, x, tile=48)
    # windows reach as far as the halo, but what a window reaches was computed from windows in turn
    assert (tiled - whole).abs().max() < 0.02 * (whole.max() - whole.min())
    assert model.tile_step == 8


def test_the_gate_map_works_on_less_than_half_the_pixels_of_the_official_tiles():
    model, seen = small(num_blocks=1).eval(), dict.fromkeys(("map", "tiles"), 0)

    def count(_, inputs, __):
        seen[model.inference] += inputs[0].numel()

    for layer in gated_layers(model).values():
        layer.register_forward_hook(count)
    x = picture(256, 256)
    for model.inference in seen:
        assert model(x).shape == (1, 3, 512, 512)
    assert seen["tiles"] / seen["map"] == pytest.approx(77 * 48**2 / 256**2)  # 7 x 7 tiles and 28 along the borders


# --- C5: the official tiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(192, 192), (193, 200), (255, 339), (339, 510), (201, 223)], ids=str)
def test_tiles_merge_to_the_picture_they_were_cut_from(size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    merged = by_tiles(lambda tiles: tiles, x)
    # weights of at most 8 overlapping tiles: a few roundings of values up to 1
    assert (merged - x).abs().max() <= 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("size", "tiles", "overlap"), [((192, 192), 45, 2.81), ((678, 1020), 722, 2.41), ((193, 200), 52, 3.10)], ids=str
)
def test_tiles_are_as_many_as_the_official_ones(size, tiles, overlap):
    grid = tile_grid(*size)
    h, w = ((s + 8 - 48) // 32 + 1 for s in size)
    assert len(grid) == h * w + 2 * h + 2 * w
    assert len(grid) == tiles
    assert round(tiles * 48 * 48 / (size[0] * size[1]), 2) == overlap


@given(h=st.integers(40, 400), w=st.integers(40, 400), patch=st.sampled_from([24, 32, 48]))
def test_every_pixel_is_covered_by_a_tile_inside_the_picture(h, w, patch):
    covered = torch.zeros(h, w)
    for top, left, weight in tile_grid(h, w, patch):
        assert 0 <= top <= h + 8 - patch
        assert 0 <= left <= w + 8 - patch
        covered[top : top + patch - 8, left : left + patch - 8] += weight
    assert covered.min() > 0


def test_tiles_have_their_own_gates_and_borders():
    model = choosy(small(num_blocks=1, inference="tiles")).eval()
    x = picture(193, 200)
    y = model(x)
    grid = tile_grid(193, 200)
    top, left, _ = grid[2 * 6 + 2]  # in the middle
    padded = F.pad(x - 0.5, (4, 4, 4, 4), mode="reflect")
    tile = model.body(padded[..., top : top + 48, left : left + 48])[..., 4:-4, 4:-4]
    covered = torch.zeros(193, 200)
    for i, j, _ in grid:
        covered[i : i + 40, j : j + 40] += 1
    alone = covered[top : top + 40, left : left + 40] == 1
    assert alone.sum() == 24 * 24
    merged = F.pixel_unshuffle(y - 0.5, 2) - model.skip(x - 0.5)
    inside = merged[..., top : top + 40, left : left + 40]
    torch.testing.assert_close(inside[..., alone], tile[..., alone], rtol=0, atol=ROUNDING)


def test_small_pictures_and_training_are_not_tiled():
    model = choosy(small(inference="tiles", patch=24)).eval()
    x = picture(95, 130)
    tiled = model(x)
    model.inference = "whole"
    assert torch.equal(model(x), tiled)
    x = picture(96, 130)
    whole = model(x)
    trained = model.train()(x)
    model.inference = "tiles"
    assert torch.equal(model(x), trained)
    assert torch.equal(whole, trained)
    assert not torch.equal(model.eval()(x), whole)


# --- usage ------------------------------------------------------------------------------------------------------------


def test_usage_of_known_gates():
    uniform = torch.full((5, 4, 2), 0.25)
    one_hot = torch.zeros(6, 4, 2)
    for n in range(6):
        one_hot[n, n % 3, 0] = 1  # kernel 3 of the first cardinal group is dead
        one_hot[n, 1, 1] = 1  # of the second, all but kernel 1
    table = gate_usage({"a": uniform, "b": one_hot}).set_index("layer")
    assert table.loc["a", "entropy"] == pytest.approx(math.log(4), abs=1e-6)
    assert table.loc["a", ["largest", "dead", "patterns"]].tolist() == [0.25, 0, 1]
    assert table.loc["b", ["entropy", "largest", "dead", "never"]].tolist() == [0, 1, 0.5, 0.5]
    assert table.loc["b", ["patterns", "possible", "cells"]].tolist() == [3, 16, 6]


def test_usage_of_a_map_is_that_of_its_cells():
    values = torch.rand(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    cells = values.permute(0, 3, 4, 1, 2).reshape(-1, 3, 4)
    mapped, flat = gate_usage({"a": values}), gate_usage({"a": cells})
    assert mapped.equals(flat)


def test_gate_usage_is_logged_between_the_rows_of_a_training():
    model = small(groups=2).float().train()
    log = nsr.GateLog()
    seen = []
    for step in range(3):
        model(picture(24, 24, n=4, seed=step).float())
        log.before_step(model, step)
        seen.append({name: values.clone() for name, values in gates(model).items()})
    row = log.after_step(model, 3)
    layers = list(gated_layers(model))
    table = gate_usage({name: torch.cat([s[name] for s in seen]) for name in layers})
    assert row["gate_patterns"] == table["patterns"].mean()
    assert row["gate_entropy_4"] == table["entropy"].iloc[3]
    model(picture(24, 24, seed=9).float())
    log.before_step(model, 3)
    assert log.after_step(model, 4)["gate_patterns"] == 1  # what was told is forgotten


def test_annealing_falls_by_a_constant_factor_and_then_stays():
    model = small()
    hook = nsr.annealed(Recipe(iterations=100), 1.0, 0.01, until=0.5)
    found = []
    for step in range(0, 100, 10):
        hook(model, step)
        found.append(model.temperature)
    assert found[:6] == pytest.approx([10 ** (-0.4 * i) for i in range(6)])
    assert found[5:] == pytest.approx([0.01] * 5)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_feats": 24, "cardinals": 16}, "cardinals=16 does not divide the 24 filters of a layer"),
        ({"width": 0.25, "num_feats": 32, "cardinals": 16}, "cardinals=16 does not divide the 8 filters"),
        ({"groups": 0}, "groups must be a whole number, 1 or more, got 0"),
        ({"groups": -2}, "groups must be a whole number, 1 or more, got -2"),
        ({"groups": 1.5}, "groups must be a whole number, 1 or more, got 1.5"),
        ({"cardinals": 0}, "cardinals must be a whole number, 1 or more, got 0"),
        ({"variant": "condconv"}, "variant must be one of softmax, sigmoid, hard, .* got 'condconv'"),
        ({"inference": "patches"}, "inference must be one of map, tiles, whole, got 'patches'"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"cell": 0}, "cell must be a whole number, 1 or more, got 0"),
        ({"channels": 4}, "channels must be 1 or 3, got 4"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"width": 0.01}, "width must leave at least one of num_feats=64 channels, got 0.01"),
        ({"variant": "se", "paired": True}, "paired=True needs kernels to choose from, which variant='se' has not"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_networks_that_cannot_be_are_refused_by_name_and_value(config, message):
    with pytest.raises(ValueError, match=message):
        create_model("nsr", 2, **config)


@pytest.mark.parametrize("name", ["nsr", "wdsr"])
def test_a_gray_picture_is_no_colour_picture(name):
    config = {"num_feats": 8, "num_blocks": 1} | ({"cardinals": 4} if name == "nsr" else {})
    with pytest.raises(ValueError, match=rf"{name.upper()} takes \(N, 3, H, W\), got \(1, 1, 20, 20\)"):
        create_model(name, 2, **config)(torch.zeros(1, 1, 20, 20))
    with pytest.raises(ValueError, match=rf"{name.upper()} takes \(N, 1, H, W\), got \(1, 3, 20, 20\)"):
        create_model(name, 1, channels=1, **config)(torch.zeros(1, 3, 20, 20))


def test_gates_that_do_not_match_the_tiles_are_refused():
    layer = next(iter(gated_layers(small()).values()))
    x = picture(40, 40, channels=8)
    wrong = nsr.Gate(torch.full((1, 4, 4, 2, 2), 0.25, dtype=torch.float64), 16)
    with pytest.raises(ValueError, match=r"gate must have \(3, 3\) tiles of \(16, 16\) for a result of \(40, 40\)"):
        layer(x, wrong)


def test_hard_selection_needs_gates_that_sum_to_one():
    for variant in ("sigmoid", "se", "dense"):
        with pytest.raises(ValueError, match=f"hard selection needs gates that sum to 1, .*variant='{variant}'"):
            small(variant=variant).hard = True
    model = small()
    with pytest.raises(ValueError, match="inference must be one of map, tiles, whole, got 'hard'"):
        model.inference = "hard"


def test_gates_are_asked_of_networks_that_have_them():
    with pytest.raises(ValueError, match="NSR has no gates, or has seen no picture yet"):
        gates(small())
    with pytest.raises(ValueError, match="WDSR has no gates"):
        gates(create_model("wdsr", 2, num_feats=8, num_blocks=1))
    with pytest.raises(ValueError, match="tiles of 48 pixels do not fit into 38x60"):
        tile_grid(30, 52)
