"""DRCN: designs, losses, collapsed and fast inference, a TensorFlow checkpoint, gradients before training."""

from __future__ import annotations

import copy
import random
import struct
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nsrlib import complexity, create_model, evaluation, metrics
from nsrlib.data.download import DataUnavailable, weights_path
from nsrlib.images import imresize, luma, to_tensor, to_uint8
from nsrlib.models import optimise
from nsrlib.models.drcn import (
    DRCN,
    JINY_CHECKPOINT,
    JINY_ENSEMBLE,
    JINY_FILES,
    JINY_RECURSIONS,
    SKIPS,
    FastDRCN,
    LumaDRCN,
    _masked_crc,
    alpha_schedule,
    drcn_losses,
    jiny_model,
    load_jiny_checkpoint,
    loss_terms,
    read_tf_checkpoint,
    training_setup,
)
from nsrlib.papers.drcn import analysis

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


def size_of(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("design", "recursions", "params"),
    [
        ("a", 1, 1_775_105), ("a", 6, 1_775_105), ("a", 16, 1_775_105), ("b", 6, 4_737_030), ("b", 16, 10_660_880),
        ("chain", 6, 4_725_505), ("chain", 16, 10_626_305), ("c", 6, 19_501_830), ("c", 16, 99_211_280),
    ],
)  # fmt: skip
def test_the_designs_of_figure_3_have_the_papers_parameters(design, recursions, params):
    recursion, recon = DESIGNS[design]
    with torch.device("meta"):
        net = DRCN(recursions=recursions, share_recursion=recursion, share_recon=recon)
    assert size_of(net) == params + recursions
    assert analysis.parameters(recursions, design=design) == params


def test_multiply_adds_are_those_that_papers_quote():
    net, calls = network(features=5, recursions=3), []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, _, y: calls.append(y.numel() * m.weight[0].numel()))
    net(image(6, 7))
    assert sum(calls) == analysis.macs(3, 5, (6, 7))
    assert analysis.macs(16, size=(1, 1)) == 19_503_360
    assert f"{analysis.macs(16) / 1e9:.1f}" == "17974.3"
    assert f"{analysis.macs(1) / 1e9:.1f}" == "1635.0"


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_collapsed_network_is_counted_with_one_last_layer(scale):
    model = LumaDRCN(scale, 6, 4)
    size = (24 // scale, 36 // scale)
    assert complexity.count(model, size).multi_adds == analysis.macs(4, 6, (24, 36), collapsed=True)


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("last_relu", [False, True])
def test_the_network_is_the_papers_equations(skip, last_relu):
    net, x = network(skip, last_relu=last_relu), image()
    p = dict(net.named_parameters())

    def conv(name: str, h: Tensor) -> Tensor:
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    h = conv("embed1", conv("embed0", x).clamp_min(0)).clamp_min(0)
    expected = []
    for _ in range(4):
        h = conv("recur.0", h).clamp_min(0)
        r = conv("recon0.0", h).clamp_min(0)
        y = conv("recon1.0", torch.cat([r, x], 1) if skip == "concat" else r)
        y = y.clamp_min(0) if last_relu else y
        expected.append(x + y if skip == "add" else y)
    y, ys = net(x)
    torch.testing.assert_close(ys, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(y, sum(w * e for w, e in zip(p["w"], expected, strict=True)), rtol=0, atol=1e-13)
    for d in range(1, 5):
        torch.testing.assert_close(net.single(x, d), expected[d - 1], rtol=0, atol=0)


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
    torch.testing.assert_close(net.single(x, 4), y, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"recursions": 0}, "recursions must be a whole number, 1 or more, got 0"),
        ({"recursions": 2.5}, "recursions must be a whole number, 1 or more, got 2.5"),
        ({"features": 0}, "features must be a whole number, 1 or more, got 0"),
        ({"skip": "sum"}, "skip must be one of add, concat, none, got 'sum'"),
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


@pytest.mark.parametrize("call", [lambda n, x: n(x), lambda n, x: n.collapsed(x), lambda n, x: n.single(x, 1)])
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


@pytest.mark.parametrize("d", [0, 5])
def test_a_recursion_that_is_not_there_is_refused(d):
    with pytest.raises(ValueError, match=f"d must be one of the 4 recursions that have a prediction, got {d}"):
        network().single(image(), d)
    with pytest.raises(ValueError, match=rf"d must be None or 1\.\.4, got {d}"):
        LumaDRCN(2, 2, 4).only(d)


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
def test_single_recursions_are_views_that_share_weights(channels):
    model, x = luma_network(), torch.cat([image(seed=k) for k in range(channels)], 1)
    y, ys = model(x, every=True)
    for d in range(1, 5):
        view = model.only(d)
        torch.testing.assert_close(view(x), ys[d - 1], rtol=0, atol=0)
        torch.testing.assert_close(optimise(view)(x), ys[d - 1].detach(), rtol=0, atol=1e-13)
        assert view.net is model.net
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
        y = net(x)[0]
        torch.testing.assert_close(net.collapsed(x), y, rtol=0, atol=1e-12)
        torch.testing.assert_close(fast(x), y.detach(), rtol=0, atol=1e-12)


@settings(max_examples=15)
@given(st.integers(3, 25), st.integers(3, 25), st.integers(1, 5), st.integers(0, 99))
def test_the_fast_form_is_exact_at_any_size_and_depth(h, w, recursions, seed):
    net, x = network(recursions=recursions, seed=seed, features=3), image(h, w, seed=seed)
    torch.testing.assert_close(FastDRCN(net, winograd=True)(x), net(x)[0].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("design", ["b", "chain", "c"])
def test_other_designs_are_collapsed_where_the_reconstruction_is_shared(design):
    net, x = network(design=design), image()
    assert net.collapses == (design == "chain")
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
    exact, x = network(features=48, recursions=4, last_gain=0.1), image(37, 41)
    single = copy.deepcopy(exact).float()
    y = exact(x)[0]
    error = [(form(x.float()).double() - y).abs().max().item() for form in (single.collapsed, FastDRCN(single))]
    assert FastDRCN(single).winograd
    # its transforms have entries up to 8 and 5, so that it may lose a digit to sums of 432 products
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
    net, x = network(features=48), image()
    fast = FastDRCN(net, compile=True)
    assert seen == [fast._library]
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
    with pytest.raises(ValueError, match="the fast form has no single predictions"):
        fast.only(1)
    with pytest.raises(ValueError, match="the fast form has no single predictions"):
        fast(x, every=True)


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
    mean = drcn_losses(net, x, target, 0.3, reduction="mean")
    torch.testing.assert_close(mean["ensemble"] * 13 * 10, terms["ensemble"], rtol=1e-12, atol=0)


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
    with pytest.raises(ValueError, match="reduction must be 'sum' or 'mean', got 'max'"):
        drcn_losses(network(), image(), image(), 0.5, reduction="max")


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
    setup = training_setup(model, SimpleNamespace(iterations=8), end=0.5, reduction="mean")
    for step in (0, 3, 8):
        expected = drcn_losses(model, batch.input, batch.target, alpha_schedule(step, 8, end=0.5), reduction="mean")
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


# --- the TensorFlow checkpoint ----------------------------------------------------------------------------------------


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    """A LevelDB block with prefixes left out, but for every fourth entry."""
    out, restarts, before = bytearray(), [], b""
    for k, (key, value) in enumerate(entries):
        shared = 0
        if k % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return bytes(out) + struct.pack(f"<{len(restarts)}II", *restarts, len(restarts))


def write_checkpoint(prefix, tensors: dict[str, Tensor], dtypes=None, blocks: int = 2) -> None:
    data, entries = bytearray(), [(b"", field(1, 1) + field(3, field(1, 1)))]
    for name, tensor in sorted(tensors.items()):
        raw = tensor.contiguous().numpy().tobytes()
        shape = b"".join(field(2, field(1, s)) for s in tensor.shape)
        record = field(1, (dtypes or {}).get(name, 1)) + field(2, shape)
        record += (field(4, len(data)) if data else b"") + field(5, len(raw))
        entries.append((name.encode(), record + varint(6 << 3 | 5) + masked(raw)))
        data += raw
    index, handles = bytearray(), []

    def put(content: bytes) -> bytes:
        handle = varint(len(index)) + varint(len(content))
        index.extend(content + b"\0" + masked(content + b"\0"))
        return handle

    for k in range(blocks):
        part = entries[k * len(entries) // blocks : (k + 1) * len(entries) // blocks]
        handles.append((part[-1][0] + b"\xff", put(block(part))))
    meta, top = put(block([])), put(block(handles))
    index.extend((meta + top).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def tf_weights(features: int = 3, recursions: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    f = features
    shapes = {
        "W-1_conv/conv_W_1": (3, 3, 1, f), "W-1_conv/conv_B": (f,), "W0_conv/conv_W_1": (3, 3, f, f),
        "W0_conv/conv_B": (f,), "W_conv": (3, 3, f, f), "B": (f,), "WD1_conv_1": (3, 3, f, f), "BD1": (f,),
        "WD2_conv_1": (3, 3, f + 1, 1), "BD2": (1,), "LayerWeights": (recursions,), "beta1_power": (),
        "W_conv/Adam": (3, 3, f, f),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=g) * 0.3 for name, shape in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path):
    tensors = tf_weights() | {"LayerWeights": torch.tensor([0.003, 0.001])}
    write_checkpoint(tmp_path / "m.ckpt", tensors)
    return tmp_path / "m.ckpt", tensors


@pytest.mark.parametrize(
    ("content", "crc"), [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
)
def test_checksums_are_crc_32c(content, crc):  # RFC 3720, B.4
    assert _masked_crc(content) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert crc32c(content) == crc


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_a_tensorflow_checkpoint_is_read_without_tensorflow(checkpoint, end):
    prefix, tensors = checkpoint
    found = read_tf_checkpoint(f"{prefix}{end}")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], t) and found[name].shape == t.shape for name, t in tensors.items())
    assert read_tf_checkpoint(prefix, ["B"]).keys() == {"B"}


def test_the_checkpoints_network_computes_what_the_tensorflow_code_does(checkpoint):
    prefix, t = checkpoint
    model, x = jiny_model(prefix).double(), 255 * image()
    t = {name: v.double() for name, v in t.items()}

    def layer(h: Tensor, weight: str, bias: str) -> Tensor:
        return F.relu(F.conv2d(h, t[weight].permute(3, 2, 0, 1), t[bias], padding=1))

    h = layer(layer(x, "W-1_conv/conv_W_1", "W-1_conv/conv_B"), "W0_conv/conv_W_1", "W0_conv/conv_B")
    ys = []
    for _ in range(2):
        h = layer(h, "W_conv", "B")
        ys.append(layer(torch.cat([layer(h, "WD1_conv_1", "BD1"), x], 1), "WD2_conv_1", "BD2"))
    expected = sum(w * y for w, y in zip(t["LayerWeights"], ys, strict=True)) / t["LayerWeights"].sum()
    y, found = model.net(x / 255)
    assert not model.training
    assert model.scale == 2
    torch.testing.assert_close(255 * y, expected, rtol=1e-5, atol=1e-4)  # biases over 255 in float32
    torch.testing.assert_close(torch.stack(found) * 255, torch.stack(ys), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(optimise(model).net(x / 255), y.detach(), rtol=0, atol=1e-12)


def test_the_checkpoint_is_found_like_all_published_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path))
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match=r"\.ckpt\.index: 1 of 1 files missing, .*NSRLIB_OFFLINE is set"):
        jiny_model()
    (tmp_path / "weights").mkdir()
    write_checkpoint(tmp_path / "weights" / JINY_CHECKPOINT, tf_weights())
    assert jiny_model().net.recursions == 2
    (tmp_path / "weights" / JINY_FILES[1]).write_bytes(b"other bytes")
    with pytest.raises(ValueError, match="is damaged or no TensorFlow checkpoint"):
        jiny_model()


def unharmed_or_refused(prefix, sound: dict[str, Tensor]) -> bool:
    """Whether the reader refused the files, in its own words."""
    try:
        found = read_tf_checkpoint(prefix)
    except ValueError as error:
        assert str(error).startswith("m.ckpt is damaged or no TensorFlow checkpoint: ")  # noqa: PT017
        return True
    assert found.keys() == sound.keys()
    assert all(torch.equal(found[name], t) for name, t in sound.items())
    return False


def test_every_truncation_is_refused(checkpoint):
    prefix, tensors = checkpoint
    for end, step in ((".index", 3), (".data-00000-of-00001", 48)):
        path = prefix.with_name(prefix.name + end)
        content = path.read_bytes()
        for size in {*range(0, len(content), step), len(content) - 1}:
            path.write_bytes(content[:size])
            assert unharmed_or_refused(prefix, tensors), (end, size)
        path.write_bytes(content)
    assert not unharmed_or_refused(prefix, tensors)


def test_flipped_bytes_are_refused_wherever_they_matter(checkpoint):
    prefix, tensors = checkpoint
    dice, refused = random.Random(0), 0
    for end in (".index", ".data-00000-of-00001"):
        path = prefix.with_name(prefix.name + end)
        content = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            damaged[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            refused += unharmed_or_refused(prefix, tensors)
        path.write_bytes(content)
    assert refused > 250  # the rest hit the filters or padding


@pytest.mark.parametrize("seed", range(3))
def test_records_that_lie_are_refused_even_with_the_right_checksums(tmp_path, monkeypatch, seed):
    """Without checksums every flipped byte reaches the parser, which must still stay inside the files."""
    monkeypatch.setattr("nsrlib.models.drcn._masked_crc", lambda content: 0)
    tensors, prefix = tf_weights(), tmp_path / "m.ckpt"
    monkeypatch.setitem(globals(), "masked", lambda content: bytes(4))
    write_checkpoint(prefix, tensors)
    path, dice = tmp_path / "m.ckpt.index", random.Random(seed)
    content = path.read_bytes()
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(dice.randrange(1, 4)):
            damaged[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tf_checkpoint(prefix)
        except ValueError as error:
            assert str(error).startswith("m.ckpt is damaged or no TensorFlow checkpoint: ")  # noqa: PT017
            refused += 1
    assert refused > 25


@pytest.mark.parametrize("content", [b"", b"hello", b"<!DOCTYPE html><html>404: Not Found</html>" * 9], ids=len)
def test_foreign_files_are_refused(checkpoint, content):
    prefix, _ = checkpoint
    prefix.with_name("m.ckpt.index").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.ckpt is damaged or no TensorFlow checkpoint: the index does not end as"):
        load_jiny_checkpoint(prefix)


def test_a_missing_half_is_named(checkpoint):
    prefix, _ = checkpoint
    prefix.with_name("m.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint file: .*m\.ckpt\.data-00000-of-00001"):
        load_jiny_checkpoint(prefix)


@pytest.mark.parametrize(
    ("change", "dtypes", "message"),
    [
        ({"B": None, "BD1": None}, {}, r"m\.ckpt is no DRCN of jiny2001: it lacks B, BD1"),
        ({"BD2": torch.zeros(2)}, {}, r"is no DRCN of jiny2001: BD2 \(2,\), expected \(1,\)"),
        ({"WD2_conv_1": torch.zeros(3, 3, 3, 1)}, {}, r"WD2_conv_1 \(3, 3, 3, 1\), expected \(3, 3, 4, 1\)"),
        ({"W_conv": torch.zeros(())}, {}, "is no DRCN of jiny2001: W-1_conv/conv_W_1"),
        ({"LayerWeights": torch.zeros(2, 2)}, {}, "LayerWeights is no vector"),
        ({}, {"B": 3}, "B is not float32"),
    ],
    ids=["missing", "bias", "other skip", "scalar", "weights", "int32"],
)
def test_checkpoints_of_other_networks_are_refused(tmp_path, change, dtypes, message):
    tensors = {k: v for k, v in (tf_weights() | change).items() if v is not None}
    write_checkpoint(tmp_path / "m.ckpt", tensors, dtypes)
    with pytest.raises(ValueError, match=message):
        load_jiny_checkpoint(tmp_path / "m.ckpt")


@pytest.mark.benchmark
def test_the_published_checkpoint_reaches_37_29_db_on_set5(benchmark):
    try:
        prefix, _ = [weights_path(name, download=False) for name in JINY_FILES]
    except DataUnavailable:
        pytest.skip(f"{JINY_CHECKPOINT} not at hand: nsr data fetch weights, where there is a network")
    model, images = jiny_model(prefix), benchmark("set5", 2)
    assert size_of(model) == 250_963
    assert evaluation.evaluate(model, images)["psnr"].mean() == pytest.approx(JINY_ENSEMBLE, abs=0.02)
    single = [evaluation.evaluate(model.only(d), images)["psnr"].mean() for d in range(1, 10)]
    assert single == pytest.approx(JINY_RECURSIONS, abs=0.05)


# --- before training --------------------------------------------------------------------------------------------------


def test_the_receptive_field_is_41_and_21_is_that_of_six_recursions():
    table = analysis.receptive_fields().set_index("depth")
    assert table["measured"].to_dict() == {1: 11, 6: 21, 9: 27, 11: 31, 16: 41, 20: 49}
    assert (table["measured"] == table["law"]).all()
    assert (table["at_start"] == 9).all()
    assert table["layers"].to_dict() == {1: 5, 6: 10, 9: 13, 11: 15, 16: 20, 20: 24}
    assert DRCN(features=2).halo == (41 - 1) // 2


def test_parameters_grow_as_constant_line_and_square():
    table = analysis.parameter_laws(range(1, 11), features=8)
    assert (table["params"] == table["law"]).all()
    for (growth, _), rows in table.groupby(["growth", "design"]):
        order = {"constant": 0, "linear": 1, "quadratic": 2}[growth]
        params = rows.sort_values("depth")["params"]
        for _ in range(order):
            params = params.diff().iloc[1:]
            assert (params > 0).all()
        assert (params == params.iloc[0]).all()
    assert analysis.parameters(16, design="c") == 99_211_280
    with pytest.raises(ValueError, match="design must be one of a, b, chain, c, got 'd'"):
        analysis.parameters(16, design="d")


def pair(n: int = 2, side: int = 15) -> tuple[Tensor, Tensor]:
    target = F.avg_pool2d(image(side + 4, side + 4, n), 5, 1)
    return F.avg_pool2d(F.pad(target, (1, 1, 1, 1), "replicate"), 3, 1), target


def test_gradients_at_the_identity_obey_the_papers_counting():
    table = analysis.gradient_identities(*pair(), features=8)
    assert len(table) == 16 * 3
    assert table["error"].max() < 1e-6
    assert (table["factor"] / table["law"] - 1).abs().max() < 1e-6
    assert (table["along"] - 1).abs().max() < 1e-6
    last = table[table["depth"] == 16].set_index("loss")["law"]
    assert last.to_dict() == {"last": 16.0, "recursions": 8.5, "ensemble": 8.5}


def test_the_table_of_propagation_is_that_of_single_profiles():
    x, target = pair()
    table = analysis.gradient_propagation(x, target, (1, 2, 5), ("identity", 0.8), features=5)
    assert len(table) == 2 * 3 * 3
    for row in table.itertuples():
        init = row.init if row.init == "identity" else float(row.init)
        net = analysis._network(5, row.depth, init, 0)
        profile = analysis.grad_profile(net, (x, target), row.loss)
        norms = [profile["weight"].norm().item(), profile["states"][0], profile["states"][-1]]
        assert [row.weight, row.first, row.last] == pytest.approx(norms, rel=1e-10)


def test_recursive_supervision_keeps_gradients_that_vanish_or_explode_without():
    depths = (1, 8, 16)
    table = analysis.gradient_propagation(*pair(), depths, (0.5, 1.6), features=16, dtype=torch.float32)
    weight: pd.Series = table.set_index(["init", "loss", "depth"])["weight"].sort_index()
    for init in ("0.5", "1.6"):
        spans = {}
        for loss in ("last", "recursions"):
            assert weight[init, loss, 1] == pytest.approx(weight[init, "last", 1], rel=1e-5)
            spans[loss] = weight[init, loss].max() / weight[init, loss].min()
        assert spans["last"] > 10 * spans["recursions"] if init == "0.5" else spans["last"] > spans["recursions"]
    assert weight["0.5", "last", 16] < 1e-3 * weight["0.5", "last", 1]
    assert weight["1.6", "last", 16] > 1e2 * weight["1.6", "last", 1]
    ratio = table[table["loss"] == "last"].set_index(["init", "depth"])["ratio"]
    assert (ratio["0.5", 16] / ratio["0.5", 8]) ** (1 / 8) < 0.9 < 1.1 < (ratio["1.6", 16] / ratio["1.6", 8]) ** (1 / 8)


def test_profiles_refuse_what_they_cannot_profile():
    with pytest.raises(ValueError, match="loss must be one of last, recursions, ensemble, got 'l1'"):
        analysis.grad_profile(network(), pair(), "l1")
    with pytest.raises(ValueError, match="grad_profile takes a DRCN with an ensemble and a shared recursion"):
        analysis.grad_profile(network(design="chain"), pair())


def test_equally_weighted_ensembles_have_at_most_the_loss_of_their_recursions():  # Jensen's inequality
    net, (x, target) = network(), pair()
    ys = net.predictions(x)
    terms = loss_terms(torch.stack(ys).mean(0), ys, target)
    assert terms["ensemble"] < terms["recursions"]


def test_fusing_cannot_gain_where_arithmetic_is_the_bound():
    wide = analysis.fused_recursion_bound(256, tile=32, fused=2)
    assert wide["weight_bytes"] == 1_179_648
    assert not wide["weights_fit"]
    assert wide["library_arithmetic"] > wide["library_traffic"]
    assert wide["recompute"] == pytest.approx((32**2 + 34**2) / (2 * 32**2))
    assert wide["gain"] == pytest.approx(1 / wide["recompute"])
    one = analysis.fused_recursion_bound(96, tile=10**6, fused=1)
    assert one["gain"] == pytest.approx(1, rel=1e-4)
    assert analysis.fused_recursion_bound(32, tile=32, fused=4)["gain"] > 1
    with pytest.raises(ValueError, match="fused must be a whole number, 1 or more, got 0"):
        analysis.fused_recursion_bound(fused=0)


def test_pictures_of_the_fast_form_are_the_same_to_a_tenth_of_a_grey_level(natural):
    torch.manual_seed(0)
    model = LumaDRCN(2, 48, 5, recur_init=0.9)
    x = natural(40, 33).float()
    a, b = model(x).detach(), optimise(model)(x)
    assert (255 * (a - b)).abs().max() < 1e-2
    assert metrics.psnr(to_uint8(a), to_uint8(b), metrics.MATLAB_Y()) > 70
    assert to_tensor(to_uint8(b)).shape == b.shape
