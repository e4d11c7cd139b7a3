"""DRCN: designs, losses, collapsed and fast inference."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nsrlib import create_model, evaluation, metrics
from nsrlib.images import imresize, luma, to_tensor, to_uint8
from nsrlib.models import optimise
from nsrlib.models.drcn import (
    DRCN,
    SKIPS,
    FastDRCN,
    LumaDRCN,
    alpha_schedule,
    drcn_losses,
    training_setup,
)

DESIGNS = {"a": (True, True), "b": (True, False), "chain": (False, True), "c": (False, False)}
"""share_recursion, share_recon"""


def network(skip="add", design="a", seed=0, features=6, recursions=4, **config) -> DRCN:
    """Random weights, biases and ensemble, in float64."""
    torch.manual_seed(seed)
    recursion, recon = DESIGNS[design]
    config = {"share_recursion": recursion, "share_recon": recon, "recur_init": 1.0, **config}
    net = DRCN(1, features, recursions, skip, **config).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name == "w":
                p.copy_(torch.rand(len(p)) + 0.1)
            elif name.endswith("bias"):
                p.normal_(std=0.1)
    return net


def image(h: int = 13, w: int = 10, n: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize(("last_relu", "recon_relu"), [(False, True), (True, True), (False, False)])
def test_the_network_is_the_papers_equations(skip, last_relu, recon_relu):
    net, x = network(skip, last_relu=last_relu, recon_relu=recon_relu), image()
    p = dict(net.named_parameters())

    def conv(name: str, h: Tensor) -> Tensor:
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    h = conv("embed1", conv("embed0", x).clamp_min(0)).clamp_min(0)
    expected = []
    for _ in range(4):
        h = conv("recur.0", h).clamp_min(0)
        r = conv("recon0.0", h)
        r = r.clamp_min(0) if recon_relu else r
        y = conv("recon1.0", torch.cat([r, x], 1) if skip == "concat" else r)
        y = y.clamp_min(0) if last_relu else y
        expected.append(x + y if skip == "add" else y)
    y, ys = net(x)
    torch.testing.assert_close(ys, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(y, sum(w * e for w, e in zip(p["w"], expected, strict=True)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_that_shares_less_equals_one_that_shares_once_its_weights_are_equal(design):
    shared, net, x = network(seed=1), network(design=design, seed=2), image()
    source = dict(shared.named_parameters())
    with torch.no_grad():
        for name, p in net.named_parameters():
            parts = [part for part in name.split(".") if not part.isdigit() and part != "paths"]
            key = ".0.".join(parts) if parts[0] in ("recur", "recon0", "recon1") else ".".join(parts)
            p.copy_(source[key])
    torch.testing.assert_close(net(x), shared(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("design", DESIGNS)
def test_every_parameter_of_every_design_is_trained_by_the_losses(design):
    net, x = network(design=design), image()
    sum(drcn_losses(net, x, image(seed=1), 0.5).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_at_the_start_the_recursion_is_the_identity_and_all_predictions_agree():
    torch.manual_seed(0)
    net, x = DRCN(features=5, recursions=6).double(), image()
    h0, *rest = net.states(x)
    assert all(torch.equal(h, h0) for h in rest)
    y, ys = net(x)
    assert all(torch.equal(p, ys[0]) for p in ys)
    torch.testing.assert_close(y, ys[0], rtol=0, atol=1e-6)  # 1/6 in float32


def test_with_the_authors_start_the_output_is_the_input_but_for_a_thousandth():
    torch.manual_seed(0)
    net, x = DRCN(features=64, recursions=3, inner_init="identity", last_gain=1e-3).double(), image()
    features = F.relu(net.embed0(x))
    assert all(torch.equal(h, features) for h in net.states(x))
    assert torch.equal(net.recon0[0](features), features)
    y, _ = net(x)
    assert 0 < (y - x).abs().max() < 0.01


def test_the_form_without_the_inner_relu_is_collapsed_and_has_no_fast_form():
    net, x = network(recon_relu=False), image()
    torch.testing.assert_close(net.collapsed(x), net(x)[0], rtol=0, atol=1e-12)
    assert (net.collapsed(x) - network().collapsed(x)).abs().max() > 1e-3
    assert not FastDRCN.accepts(net)
    model = LumaDRCN(2, 6, 3, recon_relu=False).eval()
    torch.testing.assert_close(optimise(model)(x.float()), model(x.float()), rtol=0, atol=1e-6)


def test_the_other_layers_start_from_hes_normal_initialisation():
    torch.manual_seed(0)
    net = DRCN(features=64, recursions=2, recur_init=0.5, last_gain=0.1)
    for layer, gain in ((net.embed1, 1), (net.recur[0], 0.5), (net.recon0[0], 1), (net.recon1[0], 0.1)):
        assert layer.weight.std().item() == pytest.approx(gain * (2 / (9 * 64)) ** 0.5, rel=0.08)
        assert not layer.bias.any()


def test_weights_that_are_normalised_add_up_to_one():
    net = network(normalize_weights=True)
    assert net.weights.sum().item() == pytest.approx(1, abs=1e-14)
    assert network().weights.sum().item() != pytest.approx(1, abs=1e-3)
    assert not DRCN(features=2, recursions=2, learn_weights=False).w.requires_grad


def test_the_basic_model_has_one_prediction_and_no_weights():
    net, x = network(ensemble=False), image()
    y, ys = net(x)
    assert len(ys) == 1
    assert y is ys[0]
    assert not hasattr(net, "w")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"recursions": 0}, "recursions must be a whole number, 1 or more, got 0"),
        ({"recursions": 2.5}, "recursions must be a whole number, 1 or more, got 2.5"),
        ({"features": 0}, "features must be a whole number, 1 or more, got 0"),
        ({"skip": "sum"}, "skip must be one of add, concat, none, got 'sum'"),
        ({"inner_init": 1.0}, "inner_init must be one of he, identity, got 1.0"),
        ({"recur_init": "he"}, "recur_init must be 'identity' or a factor of He's initialisation, got 'he'"),
        ({"recur_init": -1.0}, "recur_init must be 'identity' or a factor of He's initialisation, got -1.0"),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        DRCN(**{"features": 2, **config})
    with pytest.raises(ValueError, match=message):
        create_model("drcn", 2, **{"features": 2, **config})


@pytest.mark.parametrize("call", [lambda n, x: n(x), lambda n, x: n.collapsed(x)])
def test_inputs_that_do_not_fit_are_refused(call):
    net = network()
    with pytest.raises(
        ValueError, match=r"DRCN takes luma \(N, 1, H, W\), got RGB \(1, 3, 9, 9\): give it .*luma\(x\)"
    ):
        call(net, torch.rand(1, 3, 9, 9))
    with pytest.raises(ValueError, match="DRCN needs at least 3x3 pixels, got 2x9"):
        call(net, torch.rand(1, 1, 2, 9))
    with pytest.raises(ValueError, match=r"DRCN takes \(N, 1, H, W\), got \(1, 2, 9, 9\)"):
        call(net, torch.rand(1, 2, 9, 9))
    with pytest.raises(TypeError, match=r"float values in \[0, 1\], got torch.uint8"):
        call(net, torch.zeros(1, 1, 9, 9, dtype=torch.uint8))


# --- low resolution, colour -------------------------------------------------------------------------------------------


def luma_network(scale: int = 2, **config) -> LumaDRCN:
    model = create_model("drcn", scale, features=6, recursions=4, **config)
    model.net = network()
    return model.double()


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_colour_pictures_get_the_networks_luma_and_bicubic_colours(scale, natural):
    model, x = luma_network(scale), natural(11, 14)
    y = model(x)
    up = imresize(x, scale) if scale > 1 else x
    plane = luma(up)[:, None] / 255
    assert y.shape == (1, 3, 11 * scale, 14 * scale)
    torch.testing.assert_close(luma(y)[:, None] / 255, model.net(plane)[0], rtol=0, atol=1e-12)
    difference = y - up
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 3, -1, -1), rtol=0, atol=1e-12)
    gray = image(9, 8)
    enlarged = imresize(gray, scale) if scale > 1 else gray
    torch.testing.assert_close(model(gray), model.net(enlarged)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(model(enlarged, upscaled=True), model(gray), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_single_predictions_come_with_the_ensemble(channels):
    model, x = luma_network(), torch.cat([image(seed=k) for k in range(channels)], 1)
    y, ys = model(x, every=True)
    assert [one.shape for one in ys] == [y.shape] * 4
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-13)


def test_the_network_is_evaluated_like_any_other():
    table = evaluation.evaluate(luma_network(3).float(), "embedded", limit=1)
    assert table["psnr"].between(1, 60).all()
    bicubic = create_model("drcn", 3, features=6, recursions=2, last_gain=0.0)
    ours, expected = (evaluation.evaluate(m, "embedded", 3, limit=1)["psnr"] for m in (bicubic, "bicubic"))
    assert ours.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_tiles_equal_the_whole(scale):
    model, x = luma_network(scale), image(70, 53)
    for net in (model, optimise(model)):
        whole = evaluation.upscale(net, x)
        for tile, blend in ((24, 0), (17, 3)):
            tiles = evaluation.upscale(net, x, tile=tile, blend=blend)
            torch.testing.assert_close(tiles.double(), whole.double(), rtol=0, atol=2e-6)  # tiles return in float32


# --- inference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("last_relu", [False, True])
@pytest.mark.parametrize("normalize_weights", [False, True])
@pytest.mark.parametrize("winograd", [False, True])
def test_fast_and_collapsed_forms_are_exact(skip, last_relu, normalize_weights, winograd):
    net = network(skip, last_relu=last_relu, normalize_weights=normalize_weights, recursions=3)
    fast = FastDRCN(net, winograd=winograd)
    for h, w, n in ((3, 3, 1), (12, 16, 1), (13, 18, 2), (21, 7, 1)):
        x = image(h, w, n)
        with torch.no_grad():
            y, ys = net(x)
        torch.testing.assert_close(net.collapsed(x).detach(), y, rtol=0, atol=1e-12)
        torch.testing.assert_close(fast(x), y, rtol=0, atol=1e-12)
        torch.testing.assert_close(fast(x, every=True), (y, ys), rtol=0, atol=1e-12)


@settings(max_examples=15)
@given(st.integers(3, 25), st.integers(3, 25), st.integers(1, 5), st.integers(0, 99))
def test_the_fast_form_is_exact_at_any_size_and_depth(h, w, recursions, seed):
    net, x = network(recursions=recursions, seed=seed, features=3), image(h, w, seed=seed)
    torch.testing.assert_close(FastDRCN(net, winograd=True)(x), net(x)[0].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("design", ["b", "chain", "c"])
def test_other_designs_are_collapsed_where_the_reconstruction_is_shared(design):
    net, x = network(design=design), image()
    torch.testing.assert_close(net.collapsed(x), net(x)[0], rtol=0, atol=1e-12)
    assert not FastDRCN.accepts(net)
    with pytest.raises(ValueError, match="FastDRCN takes a DRCN with an ensemble, a shared recursion and a shared"):
        FastDRCN(net)


def test_the_collapsed_form_has_the_same_gradients():
    net, x, target = network(), image(), image(seed=1)
    grads = []
    for y in (net(x)[0], net.collapsed(x)):
        net.zero_grad()
        (y - target).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-11)


def test_winograds_form_is_as_accurate_as_the_library_in_float32():
    exact, x = network(features=64, recursions=4, last_gain=0.1), image(37, 41)
    single = copy.deepcopy(exact).float()
    y = exact(x)[0]
    error = [(form(x.float()).double() - y).abs().max().item() for form in (single.collapsed, FastDRCN(single))]
    assert FastDRCN(single).winograd
    # its transforms have entries up to 8 and 5, so that it may lose a digit to sums of 576 products
    assert error[1] <= 10 * error[0] + 1e-6


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=["bfloat16", "float16"])
def test_half_precision_keeps_the_input_and_the_skip_in_full(dtype, bits):
    net, x = network(last_gain=0.1), image(17, 19)
    y = net(x)[0]
    fast = FastDRCN(net.float(), dtype)
    out = fast(x.float())
    assert out.dtype == torch.float32
    assert fast.recur.weight.dtype == dtype
    residual = (y - net.weights.sum() * x).abs().max().item()
    # four layers and three recursions of rounding, each at most half a unit, of the residual alone
    assert (out.double() - y).abs().max().item() < 16 * residual * 2**-bits
    assert (out.double() - y).abs().max().item() > 0


def test_compiled_calls_are_the_same_function(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda f: seen.append(f) or f)
    net, x = network(features=64), image()
    fast = FastDRCN(net, compile=True)
    assert len(seen) == 1
    assert not fast.winograd
    torch.testing.assert_close(fast(x), net(x)[0].detach(), rtol=0, atol=1e-12)


def test_optimise_takes_the_fast_form_and_leaves_the_model_alone():
    model, x = luma_network(), image()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast = optimise(model)
    assert isinstance(fast.net, FastDRCN)
    assert not fast.training
    assert not any(p.requires_grad for p in fast.parameters())
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=0, atol=1e-12)
    assert isinstance(model.net, DRCN)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    torch.testing.assert_close(optimise(fast)(x), fast(x), rtol=0, atol=0)
    torch.testing.assert_close(fast(x, every=True), model(x, every=True), rtol=0, atol=1e-12)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_losses_are_the_papers_sums():
    net, x, target = network(), image(n=3), image(n=3, seed=1)
    y, ys = net(x)
    terms = drcn_losses(net, x, target, 0.3)
    assert list(terms) == ["recursions", "ensemble"]
    l1 = sum(((target - p) ** 2).sum() for p in ys) / (2 * 4 * 3)
    l2 = ((target - y) ** 2).sum() / (2 * 3)
    torch.testing.assert_close(terms["recursions"], 0.3 * l1, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["ensemble"], 0.7 * l2, rtol=1e-12, atol=0)


def test_losses_take_low_resolution_upscaled_input_and_the_network_itself():
    model, x, target = luma_network(2), image(), image(26, 20, seed=1)
    up = imresize(x, 2)
    a, b, c = (drcn_losses(*args, target, 0.5) for args in ((model, x), (model, up), (model.net, up)))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    torch.testing.assert_close(b, c, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got "):
        drcn_losses(network(), image(), image(), alpha)
    with pytest.raises(ValueError, match=r"end must be in \[0, 1\], got "):
        alpha_schedule(0, 10, end=alpha)


def test_losses_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"target of \(1, 1, 9, 9\) does not fit the output of \(1, 1, 13, 10\)"):
        drcn_losses(network(), image(), image(9, 9), 0.5)


def test_alpha_falls_linearly_and_stays():
    assert [alpha_schedule(k, 8) for k in range(9)] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0, 0])
    assert alpha_schedule(0, 1, end=0.5) == 1
    assert alpha_schedule(99, 100, end=0.5) == 0.5
    assert {alpha_schedule(k, 10, start=0.5, end=0.5) for k in range(10)} == {0.5}
    with pytest.raises(ValueError, match=r"until must be a share of the iterations in \(0, 1\], got 0"):
        alpha_schedule(0, 10, until=0)
    with pytest.raises(ValueError, match="iterations must be a whole number, 1 or more, got 0"):
        alpha_schedule(0, 0)


def test_the_training_setup_follows_the_schedule_and_reports_the_weights():
    model = luma_network()
    batch = SimpleNamespace(input=image(), target=image(26, 20, seed=1))
    setup = training_setup(model, SimpleNamespace(iterations=8), end=0.5)
    for step in (0, 3, 8):
        expected = drcn_losses(model, batch.input, batch.target, alpha_schedule(step, 8, end=0.5))
        assert setup["losses"](model, batch, step) == expected
    weights = setup["measure"](model)
    assert list(weights) == ["w_1", "w_2", "w_3", "w_4"]
    assert sum(weights.values()) == pytest.approx(1)
    assert setup["measure"](LumaDRCN(2, 2, 3, ensemble=False)) == {}


def test_a_few_steps_lower_the_loss(natural):
    torch.manual_seed(0)
    model, target = LumaDRCN(2, 8, 3), luma(natural(24, 24, 4))[:, None].float() / 255
    x = imresize(imresize(target, 0.5), 2)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for step in range(25):
        loss = sum(drcn_losses(model, x, target, alpha_schedule(step, 25)).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_pictures_of_the_fast_form_are_the_same_to_a_tenth_of_a_grey_level(natural):
    torch.manual_seed(0)
    model = LumaDRCN(2, 48, 5, recur_init=0.9)
    x = natural(40, 33).float()
    a, b = model(x).detach(), optimise(model)(x)
    assert (255 * (a - b)).abs().max() < 1e-2
    assert metrics.psnr(to_uint8(a), to_uint8(b), metrics.MATLAB_Y()) > 70
    assert to_tensor(to_uint8(b)).shape == b.shape
