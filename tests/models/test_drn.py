"""DRN: the authors' tensors and counts, the forward pass in plain functions, dual regression and what it can see."""

from __future__ import annotations

import copy
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from nsrlib import create_model, data
from nsrlib.data.patches import Batch, Patches
from nsrlib.evaluation import evaluate
from nsrlib.images import imresize, to_tensor
from nsrlib.models import optimise
from nsrlib.models.drn import (
    DRN,
    MEAN,
    RELEASED,
    brought_back,
    drn_losses,
    dual_networks,
    dual_regression_loss,
    full_widths,
    invisible,
    load_dual_weights,
    pyramid,
    released,
    searched_widths,
    training_setup,
    uniform_widths,
    visibility,
)
from nsrlib.training import Hooks, Recipe, fit

F64 = 1e-10


def small(scale: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64, **config) -> DRN:
    torch.manual_seed(seed)
    return DRN(scale, **{"num_feats": 4, "num_blocks": 1, **config}).to(dtype)


def duals_of(model: DRN, seed: int = 1) -> nn.ModuleList:
    torch.manual_seed(seed)
    return dual_networks(model.scale, model.num_feats).to(next(model.parameters()).dtype)


def batch_of(hr: Tensor, scale: int) -> Batch:
    return Batch(imresize(hr, 1 / scale), hr)


# --- names, shapes, counts --------------------------------------------------------------------------------------------


def tensors_of(scale: int, f: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the authors' files, from the specification's list."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inner: int, k: int = 3, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, inner, k, k)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    stages = {2: [2 * f], 4: [4 * f, 4 * f], 8: [8 * f, 8 * f, 4 * f]}[scale]
    conv("sub_mean", 3, 3, 1)
    conv("add_mean", 3, 3, 1)
    conv("head", f, 3)
    for p in range(len(stages)):
        conv(f"down.{p}.dual_module.0.0", 2**p * f, 2**p * f, bias=False)
        conv(f"down.{p}.dual_module.1", 2 ** (p + 1) * f, 2**p * f, bias=False)
    conv("tail.0", 3, scale * f)
    for s, c in enumerate(stages):
        for b in range(blocks):
            start = f"up_blocks.{s}.{b}.body"
            conv(f"{start}.0", c, c)
            conv(f"{start}.2", c, c)
            conv(f"{start}.3.conv_du.0", c // 16, c, 1)
            conv(f"{start}.3.conv_du.2", c, c // 16, 1)
        conv(f"up_blocks.{s}.{blocks}.0", 4 * c, c)
        out = scale * f // 2 ** (s + 1)
        conv(f"up_blocks.{s}.{blocks + 1}", out, c, 1)
        conv(f"tail.{s + 1}", 3, 2 * out)
    return shapes


@pytest.mark.parametrize(
    ("name", "scale", "f", "blocks", "tensors", "params"),
    [
        ("drn_s", 2, 16, 30, 256, 606_378),
        ("drn_s", 4, 16, 30, 504, 4_804_065),
        ("drn_l", 4, 20, 40, 664, 9_825_893),
        ("drn_s", 8, 8, 30, 752, 5_403_000),
        ("drn_l", 8, 10, 36, 896, 10_004_018),
    ],
)
def test_tensors_have_the_names_and_shapes_of_the_released_files(name, scale, f, blocks, tensors, params):
    with torch.device("meta"):
        model = create_model(name, scale)
    found = {key: tuple(t.shape) for key, t in model.state_dict().items()}
    assert found == tensors_of(scale, f, blocks)
    assert len(found) == tensors
    assert sum(p.numel() for p in model.parameters()) == params  # the mean shifts are trained and counted


@pytest.mark.parametrize(
    ("f", "blocks", "params"), [(4, 2, 40_905), (8, 2, 160_465), (8, 5, 272_413), (16, 4, 933_393)]
)
def test_small_networks_have_the_parameters_of_the_specification(f, blocks, params):
    with torch.device("meta"):
        assert sum(p.numel() for p in DRN(4, f, blocks).parameters()) == params


@pytest.mark.parametrize(("scale", "f", "params"), [(4, 16, 864), (4, 20, 1080), (8, 8, 432), (8, 10, 540)])
def test_a_dual_network_has_54_parameters_per_channel(scale, f, params):
    duals = dual_networks(scale, f)
    assert [sum(p.numel() for p in d.parameters()) for d in duals] == [params] * len(duals)
    assert list(duals[0].state_dict()) == ["dual_module.0.0.weight", "dual_module.1.weight"]
    assert 2 ** len(duals) == scale


def test_channel_attention_never_has_fewer_than_one_hidden_channel():
    assert small(2).up_blocks[0][0].body[3].conv_du[0].out_channels == 1


@pytest.mark.parametrize(
    ("scale", "ratio", "downs", "means"),
    [
        (4, 0.3, [12, 20], [40.3, 42.3]),
        (4, 0.5, [4, 8], [28.7, 31.3]),
        (4, 0.7, [4, 8], [18.0, 19.1]),
        (8, 0.3, [4, 12, 20], [41.2, 41.6, 18.8]),
        (8, 0.5, [4, 8, 16], [29.7, 30.0, 15.3]),
        (8, 0.7, [4, 8, 16], [18.5, 18.5, 7.5]),
    ],
)
def test_searched_widths_have_the_means_of_the_released_configurations(scale, ratio, downs, means):
    widths = searched_widths(ratio, scale)
    levels = len(downs)
    assert widths[:levels] == downs
    stages = np.array(widths[levels:]).reshape(levels, 31)
    nearest = min(
        max(abs(part.mean(1) - means)) for part in (stages, stages[:, :30])
    )  # the specification does not say whether the 1x1 entry counts
    assert nearest < 0.051
    assert create_model("drn_s", scale, widths=widths).widths == widths


def test_uniform_widths_round_up():
    full = list(full_widths(4, 16, 30).values())
    assert (len(full), full[:3], full[-1]) == (64, [16, 32, 64], 64)
    assert uniform_widths(full, 0.3)[:3] == [12, 23, 45]
    assert uniform_widths([10], 0.3) == [7]  # 10 * (1 - 0.3) is a little above 7 in floating point


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DRN(3), "scale must be 2, 4 or 8, got 3"),
        (lambda: DRN(4, 0), "num_feats must be at least 1, got 0"),
        (lambda: DRN(4, 4, 0), "num_blocks must be at least 1, got 0"),
        (
            lambda: DRN(4, 4, 1, [1] * 5),
            r"widths must be 6 numbers, one for each of down0, down1, \.\.\., up1\.shuffle; got 5",
        ),
        (lambda: DRN(2, 4, 1, [4, 9, 8]), r"width of up0\.rcab0 must be a whole number from 1 to 8, got 9"),
        (lambda: DRN(2, 4, 1, [0, 8, 8]), "width of down0 must be a whole number from 1 to 4, got 0"),
        (lambda: DRN(2, 4, 1, [4, 8, 7.5]), r"width of up0\.shuffle must be .* got 7\.5"),
        (lambda: create_model("drn_s", 3), "scale of drn_s must be one of 2, 4, 8, got 3"),
        (lambda: searched_widths(0.4, 4), r"no searched widths for ratio=0\.4 at x4; there are: 0\.3 at x4"),
        (lambda: uniform_widths([4], 1.0), r"ratio is the share of channels to remove, between 0 and 1, got 1\.0"),
        (lambda: uniform_widths([4], 0), "between 0 and 1, got 0"),
        (lambda: small()(torch.zeros(1, 1, 4, 4)), r"DRN takes \(N, 3, H, W\), got \(1, 1, 4, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- the forward pass -------------------------------------------------------------------------------------------------


def reference(model: DRN, x: Tensor) -> list[Tensor]:
    """The forward pass from the state dict alone."""
    w = model.state_dict()
    levels, blocks = model.scale.bit_length() - 1, model.num_blocks

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        return F.conv2d(x, kernel, w.get(f"{name}.bias"), stride, kernel.shape[-1] // 2)

    h = F.interpolate(255 * x, scale_factor=model.scale, mode="bicubic", align_corners=False)
    h = conv("head", conv("sub_mean", h))
    copies = []
    for p in range(levels):
        copies.append(h)
        h = conv(f"down.{p}.dual_module.1", F.leaky_relu(conv(f"down.{p}.dual_module.0.0", h, 2), 0.2))
    images = [conv("add_mean", conv("tail.0", h))]
    for s in range(levels):
        for b in range(blocks):
            name = f"up_blocks.{s}.{b}.body"
            r = conv(f"{name}.2", F.relu(conv(f"{name}.0", h)))
            gate = conv(f"{name}.3.conv_du.2", F.relu(conv(f"{name}.3.conv_du.0", r.mean((2, 3), keepdim=True))))
            h = h + r * torch.sigmoid(gate)
        h = conv(f"up_blocks.{s}.{blocks + 1}", F.pixel_shuffle(conv(f"up_blocks.{s}.{blocks}.0", h), 2))
        h = torch.cat((h, copies[levels - 1 - s]), 1)
        images.append(conv("add_mean", conv(f"tail.{s + 1}", h)))
    return [image / 255 for image in images]


@pytest.mark.parametrize(
    ("scale", "size", "config"),
    [
        (2, (1, 1), {}),
        (2, (7, 5), {"num_blocks": 2, "widths": [3, 5, 8, 1]}),
        (4, (5, 8), {"num_feats": 5}),
        (8, (3, 2), {}),
    ],
)
def test_the_network_is_the_authors_formula(scale, size, config):
    model = small(scale, **config)
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    images, expected = model(x, all_levels=True), reference(model, x)
    assert [tuple(i.shape) for i in images] == [
        (2, 3, 2**k * size[0], 2**k * size[1]) for k in range(len(model.down) + 1)
    ]
    for ours, theirs in zip(images, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=F64)
    assert torch.equal(model(x), images[-1])


def test_every_parameter_gets_a_gradient():
    model = small(num_feats=8)  # with one hidden channel, a dead ReLU can silence the attention
    sum(image.square().sum() for image in model(torch.rand(2, 3, 6, 5).double(), all_levels=True)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in silent if "conv_du" not in name] == []


def test_it_evaluates_like_any_other_network():
    model = create_model("drn_s", 4, num_feats=4, num_blocks=1).eval()
    table = evaluate(model, data.load("embedded", 4)[:1], tile=48)
    assert np.isfinite(table["psnr"]).all()
    assert model.halo >= 3 + 3


def test_its_fast_form_computes_the_same():
    model = small(num_feats=8).eval()
    x = torch.rand(1, 3, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(optimise(model)(x), model(x).detach(), rtol=0, atol=F64)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_loss_is_the_sum_over_levels(scale, natural):
    model, batch = small(scale), batch_of(natural(16, 24, 2), scale)
    duals, outputs, targets = duals_of(model), model(batch.input, all_levels=True), pyramid(batch)
    primal, dual = dual_regression_loss(outputs, targets, duals)
    levels = range(len(outputs))
    torch.testing.assert_close(primal, sum((outputs[k] - targets[k]).abs().mean() for k in levels))
    back = [(duals[k - 1](outputs[k]) - targets[k - 1]).abs().mean() for k in levels[1:]]
    torch.testing.assert_close(dual, sum(back))
    assert dual_regression_loss(outputs, targets)[1] == 0


def test_the_dual_loss_trains_the_network_and_the_dual_networks(natural):
    model, batch = small(), batch_of(natural(16, 16), 4)
    duals = duals_of(model)
    dual_regression_loss(model(batch.input, all_levels=True), pyramid(batch), duals)[1].backward()
    assert model.head.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in duals.parameters())
    assert model.tail[0].weight.grad is None  # the smallest image is not brought back


def test_targets_are_the_papers_files_but_for_rounding_and_the_border():
    hr = data.load("embedded", 4)[0].hr
    file = to_tensor(imresize(hr, 1 / 2))  # uint8, as the authors' folder of x2
    patch = to_tensor(hr)[..., 40:136, 80:176]
    targets = pyramid(Batch(imresize(patch, 1 / 4), patch))
    edge = 4  # 2r pixels of HR
    difference = (targets[1] - file[..., 20:68, 40:88]).abs()
    assert difference[..., edge:-edge, edge:-edge].max() <= 0.5 / 255 + 1e-6
    assert difference.max() > 0.5 / 255  # at the patch's edge
    assert torch.equal(targets[2], patch)


@pytest.mark.parametrize(
    ("hr", "lr", "message"),
    [
        ((12, 12), (4, 4), "the target must be 2, 4 or 8 times the input's size, got 12x12 for 4x4"),
        ((8, 12), (4, 4), "got 8x12 for 4x4"),
        ((4, 4), (4, 4), "got 4x4 for 4x4"),
    ],
)
def test_patches_whose_sizes_do_not_match_are_refused(hr, lr, message):
    with pytest.raises(ValueError, match=message):
        pyramid(Batch(torch.zeros(1, 3, *lr), torch.zeros(1, 3, *hr)))


def test_a_pyramid_that_does_not_match_is_refused_by_level():
    images = [torch.zeros(1, 3, 4 * 2**k, 4 * 2**k) for k in range(3)]
    with pytest.raises(
        ValueError, match=r"level 1 of the pyramid is \(1, 3, 9, 8\), but the output there \(1, 3, 8, 8\)"
    ):
        dual_regression_loss(images, [images[0], torch.zeros(1, 3, 9, 8), images[2]])
    with pytest.raises(ValueError, match="3 outputs need as many targets and 2 dual networks or none, got 2 and 0"):
        dual_regression_loss(images, images[:2])
    with pytest.raises(ValueError, match="got 3 and 1"):
        dual_regression_loss(images, images, [nn.Identity()])
    with pytest.raises(ValueError, match=r"dual network 1 returns \(1, 3, 8, 8\), but level 0 is \(1, 3, 4, 4\)"):
        dual_regression_loss(images, images, [nn.Identity()] * 2)


def test_losses_weigh_the_dual_term(natural):
    model, batch = small(), batch_of(natural(16, 16), 4)
    duals = duals_of(model)
    primal, dual = dual_regression_loss(model(batch.input, all_levels=True), pyramid(batch), duals)
    terms = drn_losses(0.3)(model, batch, 0, dual=duals)
    assert (terms["primal"], terms["dual"]) == (primal, 0.3 * dual)
    assert drn_losses(0)(model, batch, 0).keys() == {"primal"}


def test_dual_on_hr_brings_the_target_down_and_up_again(natural):
    model, batch = small(), batch_of(natural(16, 16), 4)
    duals = duals_of(model)
    terms = drn_losses(0.5, dual_hr=True)(model, batch, 0, dual=duals)
    there_and_back = model(duals[0](duals[1](batch.target)))
    torch.testing.assert_close(terms["dual HR"], 0.5 * (there_and_back - batch.target).abs().mean())


def test_unpaired_images_count_by_their_share_and_their_target_is_never_seen(natural):
    pairs = [
        data.Pair(
            "a", (255 * np.random.default_rng(0).random((9, 9, 3))).astype(np.uint8), np.zeros((36, 36, 3), np.uint8)
        )
    ]
    unpaired = Patches(pairs, 4)
    unpaired._targets.flat.fill_(-1)
    model = small(dtype=torch.float32)
    duals, batch = duals_of(model), batch_of(natural(16, 16, 3).float(), 4)
    primal, dual = dual_regression_loss(model(batch.input, all_levels=True), pyramid(batch), duals)
    losses = drn_losses(0.2, unpaired=unpaired, unpaired_share=0.4)  # 2 to 3
    torch.manual_seed(5)
    terms = losses(model, batch, 0, dual=duals)
    torch.manual_seed(5)
    x = unpaired.batch(2, int(torch.randint(2**62, ()))).input
    alone = (brought_back(duals, model(x)) - x).abs().mean()
    torch.testing.assert_close(terms["primal"], 0.6 * primal)
    torch.testing.assert_close(terms["dual"], 0.2 * (0.6 * dual + 0.4 * alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_": -0.1}, r"lambda_ must be 0 or more, got -0\.1"),
        ({"lambda_": float("nan")}, "lambda_ must be 0 or more, got nan"),
        ({"unpaired_share": 1.0}, r"unpaired_share must be between 0 and 1, got 1\.0"),
        ({"lambda_": 0, "dual_hr": True}, "dual_hr and unpaired are dual terms: they need lambda_ above 0"),
    ],
)
def test_losses_refuse_what_means_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        drn_losses(**options)


def test_a_dual_term_without_dual_networks_is_refused(natural):
    with pytest.raises(ValueError, match=r"lambda_ above 0 needs networks=\{\"dual\": dual_networks"):
        drn_losses()(small(), batch_of(natural(16, 16), 4), 0)


def test_fit_trains_both_and_repeats_itself():
    patches = Patches(data.load("embedded", 4)[:1], 8)
    recipe = Recipe(iterations=2, batch=2, patch=8, lr=1e-3)

    def trained(lambda_: float):
        model = small(dtype=torch.float32)
        setup = training_setup(model, recipe, lambda_)
        before = copy.deepcopy(setup["networks"].get("dual"))
        fit(model, patches, recipe, hooks=Hooks(**setup), progress=False)
        return model, before, setup["networks"].get("dual")

    model, before, after = trained(0.1)
    again, before_too, _ = trained(0.1)
    without, _, none = trained(0.0)
    assert none is None
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), before_too.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), without.parameters(), strict=True))


def test_one_adam_for_all_dual_networks_is_one_for_each(natural):
    model, batch = small(), batch_of(natural(16, 16), 4)
    one, each = duals_of(model), duals_of(model)
    optimisers = [torch.optim.Adam(one.parameters(), 1e-2)], [torch.optim.Adam(d.parameters(), 1e-2) for d in each]
    for duals, group in zip((one, each), optimisers, strict=True):
        for _ in range(3):
            duals.zero_grad()
            dual_regression_loss(model(batch.input, all_levels=True), pyramid(batch), duals)[1].backward()
            for optimiser in group:
                optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), each.parameters(), strict=True))


def test_dual_weights_are_read_from_safetensors(tmp_path):
    source, target = duals_of(small(), 2), duals_of(small(), 3)
    save_file(source.state_dict(), tmp_path / "dual.safetensors")
    load_dual_weights(target, tmp_path / "dual.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"dual\.safetensors does not fit ModuleList"):
        load_dual_weights(dual_networks(4, 5), tmp_path / "dual.safetensors")


def test_released_networks_are_found_by_their_file_names(tmp_path, monkeypatch):
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    assert all(released(*which) is None for which in RELEASED)
    source = create_model("drn_s", 4, widths=searched_widths(0.7, 4))
    for folder in ("mine", "cache"):
        torch.save(source.state_dict(), tmp_path / folder / "weights" / "DRNS_4x_Prune_70.pt")
        found = released("DRN-S70", 4)
        assert not found.training
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in found.state_dict().items())
        (tmp_path / folder / "weights" / "DRNS_4x_Prune_70.pt").rename(
            tmp_path / folder / "weights" / "DRNS_4x_Prune_50.pt"
        )
    with pytest.raises(ValueError, match=r"DRNS_4x_Prune_50\.pt does not fit DRNS: .* of another shape"):
        released("DRN-S50", 4)
    with pytest.raises(ValueError, match="DRN-M x4 was not released; there are: DRN-S x4, DRN-S x8, DRN-L x4"):
        released("DRN-M", 4)


# --- what the dual loss can see ---------------------------------------------------------------------------------------


def exact(scale: int):
    """The degradation itself in place of a dual network."""
    return lambda image: imresize(image, 1 / scale)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_dual_loss_of_hr_is_zero_for_exact_bicubic_and_so_is_that_of_what_it_cannot_see(scale, natural):
    hr = natural(32, 32)
    lr = imresize(hr, 1 / scale)
    hidden = invisible(torch.rand(1, 3, 32, 32, dtype=torch.float64), scale)
    assert (exact(scale)(hr) - lr).abs().mean() == 0
    assert hidden.abs().mean() > 0.1
    assert (exact(scale)(hr + hidden) - lr).abs().mean() < 1e-14
    assert (exact(scale)(hr + hr.roll(1, 3)) - lr).abs().mean() > 0.1


def test_in_the_papers_pyramid_bicubic_is_exact_at_the_last_level_alone(natural):
    hr = natural(32, 32)
    targets = pyramid(batch_of(hr, 4))
    halves = [imresize(image, 1 / 2) for image in targets[1:]]
    assert (halves[1] - targets[1]).abs().max() == 0
    # half of half is not a quarter: cubic kernels do not compose, though on a smooth picture nearly
    assert 1e-5 < (halves[0] - targets[0]).abs().mean() < 1e-3
    steps = [imresize(imresize(hr, 1 / 2), 1 / 2), imresize(hr, 1 / 2), hr]
    assert dual_regression_loss(steps, steps, [exact(2)] * 2) == (0, 0)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [16, 32, 40])
def test_bicubic_fixes_one_direction_in_r_squared(scale, size):
    seen = visibility(scale, size)
    assert (seen.pixels, seen.rank, seen.share) == (size**2, (size // scale) ** 2, scale**-2)
    assert 0.05 < seen.smallest <= seen.largest < 4


@given(st.sampled_from([2, 4]), st.integers(0, 2**31))
def test_the_invisible_part_is_a_projection(scale, seed):
    z = torch.rand(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    hidden = invisible(z, scale)
    torch.testing.assert_close(invisible(hidden, scale), hidden, rtol=0, atol=1e-12)
    assert abs(float((hidden * (z - hidden)).sum())) < 1e-12
    assert imresize(hidden, 1 / scale).abs().max() < 1e-13


def test_visibility_refuses_sizes_that_the_scale_does_not_divide():
    with pytest.raises(ValueError, match="size must be a multiple of the scale, got 30 at x4"):
        visibility(4, 30)
    with pytest.raises(ValueError, match="image must be square, got 8x12"):
        invisible(torch.zeros(8, 12), 4)


def test_the_mean_colour_is_that_of_div2k():
    model = small()
    torch.testing.assert_close(model.add_mean.bias.detach(), 255 * torch.tensor(MEAN).double(), rtol=1e-7, atol=0)
    assert torch.equal(model.sub_mean.bias, -model.add_mean.bias)


# --- the published numbers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    path = Path(__file__).resolve().parents[2] / "data" / "published" / "drn.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, strict=True)}


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("table1/DRN-S/x4/Urban100/psnr", "26.84", "dB"),
        ("table1/DAT-DR/x4/Manga109/ssim", "0.930", "1"),
        ("table1/IMDN/x4/model/multi_adds", "6.6", "G"),
        ("table2/IMDN/x4/model/multi_adds", "40.9", "G"),
        ("table2/DRN-S-with-CP/x4/model/params", "3473", "K"),
        ("table2/SwinIR-light-with-SRP/x4/Set5/psnr", "30.31", "dB"),
        ("table2/DRRN/x4/model/multi_adds", "6796.9", "G"),
        ("table3/DCLS-DRC/x4/DIV2KRK/psnr", "29.01", "dB"),
        ("models/DRN-S70/x8/model/multi_adds", "53.6", "G"),
        ("models/DRN-S50/x4/Set5/psnr", "32.50", "dB"),
        ("x8/DRN-L/x8/Set14/psnr", "25.28", "dB"),
        ("dual/DRN-S-without/x4/Set5/psnr", "32.53", "dB"),
        ("lambda/DRN-S-1/x4/Set5/psnr", "32.51", "dB"),
    ],
)
def test_published_cells_are_those_of_the_specification(rows, name, value, unit):
    assert (rows[name]["value"], rows[name]["unit"]) == (value, unit)


def test_published_tables_are_complete(rows):
    counts = Counter(row["table"] for row in rows.values())
    assert counts["models"] == 2 * 5 * 4
    assert counts["dual"] == 4 * 5
    assert counts["x8"] == 12 * 11 - 2
    swept = [row for row in rows.values() if row["table"] == "lambda" and row["metric"] == "psnr"]
    assert [row["source"] for row in swept] == ["recalled, less surely"] * 5
