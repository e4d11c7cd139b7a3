"""BSRN, BSRN-S and the fused form: state dicts, the equations, exact rewrites."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import create_model
from nsrlib.bench.networks import latency
from nsrlib.layers import BSConvU, merge_bsconv
from nsrlib.models import optimise
from nsrlib.models.bsrn import BSRN, BSRNS, CCA, BSConvBias, FusedBSRN

F64 = 1e-10  # float64 through some hundred layers on values of size one
SIZES = [(15, 15), (16, 31), (47, 33)]


def random_bsrn(scale: int = 4, seed: int = 0, **config) -> BSRN:
    torch.manual_seed(seed)
    return BSRN(scale, **config).double().eval()


def random_bsrn_s(seed: int = 0, **config) -> BSRNS:
    torch.manual_seed(seed)
    return BSRNS(**config).double().eval()


def close(a: Tensor, b: Tensor, atol: float) -> None:
    torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=atol)


# --- names and shapes -------------------------------------------------------------------------------------------------


def bsrn_spec(scale: int, c: int = 64, n: int = 8) -> dict[str, tuple[int, ...]]:
    half, f, r = c // 2, c // 4, c // 16
    spec: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inner: int, k: int = 1) -> None:
        spec.update({f"{name}.weight": (out, inner, k, k), f"{name}.bias": (out,)})

    def blueprint(name: str, out: int, inner: int) -> None:
        spec.update({f"{name}.pw.weight": (out, inner, 1, 1), f"{name}.dw.weight": (out, 1, 3, 3)})
        spec[f"{name}.dw.bias"] = (out,)

    blueprint("fea_conv", c, 12)
    for k in range(1, n + 1):
        for i in (1, 2, 3):
            conv(f"B{k}.c{i}_d", half, c)
            blueprint(f"B{k}.c{i}_r", c, c)
        blueprint(f"B{k}.c4", half, c)
        conv(f"B{k}.c5", c, 2 * c)
        conv(f"B{k}.esa.conv1", f, c)
        conv(f"B{k}.esa.conv_f", f, f)
        for name in ("conv_max", "conv2", "conv3", "conv3_"):
            blueprint(f"B{k}.esa.{name}", f, f)
        conv(f"B{k}.esa.conv4", c, f)
        conv(f"B{k}.cca.conv_du.0", r, c)
        conv(f"B{k}.cca.conv_du.2", c, r)
    conv("c1", c, n * c)
    blueprint("c2", c, c)
    conv("upsampler.upsampleOneStep.0", 3 * scale**2, c, 3)
    return spec


def bsrn_s_spec(c: int = 48, n: int = 5, scale: int = 4) -> dict[str, tuple[int, ...]]:
    half, f = c // 2, c // 4
    spec: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, inner: int) -> None:
        spec.update({f"{name}.weight": (out, inner), f"{name}.bias": (out,)})

    def blueprint(name: str, out: int, inner: int) -> None:
        linear(f"{name}.pw", out, inner)
        spec.update({f"{name}.dw.weight": (out, 1, 3, 3), f"{name}.dw.bias": (out,)})

    blueprint("fea_conv", c, 12)
    for k in range(1, n + 1):
        spec[f"B{k}.cw"] = (1, c)
        for i in (1, 2, 3):
            linear(f"B{k}.c{i}_d", half, c)
            blueprint(f"B{k}.c{i}_r", c, c)
        blueprint(f"B{k}.c4", half, c)
        linear(f"B{k}.c5", c, 2 * c)
        linear(f"B{k}.esa.conv1", f, c)
        linear(f"B{k}.esa.conv_f", f, f)
        spec.update({f"B{k}.esa.conv2.weight": (f, f, 3, 3), f"B{k}.esa.conv2.bias": (f,)})
        for name in ("conv_max", "conv3", "conv3_"):
            blueprint(f"B{k}.esa.{name}", f, f)
        linear(f"B{k}.esa.conv4", c, f)
        linear(f"B{k}.conv_out", c, c)
    linear("c1", c, n * c)
    blueprint("c2", c, c)
    last = "upsampler.upsampleOneStep.0"
    return spec | {f"{last}.weight": (3 * scale**2, c, 3, 3), f"{last}.bias": (3 * scale**2,)}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_state_dict_of_bsrn_is_that_of_the_released_files(scale):
    assert shapes(BSRN(scale)) == bsrn_spec(scale)
    assert len(bsrn_spec(scale)) == 346


def test_state_dict_of_bsrn_s_is_that_of_the_released_file():
    assert shapes(BSRNS()) == bsrn_s_spec()
    assert len(bsrn_s_spec()) == 247


@pytest.mark.parametrize(("width", "depth"), [(48, 6), (72, 10), (16, 1), (50, 4)])
def test_other_widths_and_depths_follow_the_same_table(width, depth):
    assert shapes(BSRN(2, num_feats=width, num_blocks=depth)) == bsrn_spec(2, width, depth)
    assert shapes(BSRNS(3, num_feats=width, num_blocks=depth)) == bsrn_s_spec(width, depth, 3)


# --- the equations ----------------------------------------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def pointwise(p: dict[str, Tensor], name: str, x: Tensor, bias: bool = True) -> Tensor:
    y = torch.einsum("oi,nihw->nohw", p[f"{name}.weight"].flatten(1), x)
    return y + p[f"{name}.bias"][:, None, None] if bias else y


def blueprint(p: dict[str, Tensor], name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """A pointwise, then a depthwise convolution; the pointwise one has a bias in BSRN-S only."""
    x = pointwise(p, f"{name}.pw", x, bias=f"{name}.pw.bias" in p)
    weight = p[f"{name}.dw.weight"]
    return F.conv2d(x, weight, p[f"{name}.dw.bias"], stride, padding, groups=len(weight))


def restated(p: dict[str, Tensor], x: Tensor, depth: int, scale: int, small: bool) -> Tensor:
    """Equations 1 to 11, and BSRN-S's deviations from them."""
    shallow = f = blueprint(p, "fea_conv", torch.cat([x, x, x, x], 1))
    outputs = []
    for k in range(1, depth + 1):
        b, d, r = f"B{k}.", [], f
        for i in (1, 2, 3):
            d.append(gelu(pointwise(p, f"{b}c{i}_d", r)))
            r = gelu(blueprint(p, f"{b}c{i}_r", r) + r)
        d.append(gelu(blueprint(p, f"{b}c4", r)))
        y = pointwise(p, f"{b}c5", torch.cat(d, 1))
        a = pointwise(p, f"{b}esa.conv1", y)
        if small:
            g = F.conv2d(a, p[f"{b}esa.conv2.weight"], p[f"{b}esa.conv2.bias"], stride=2)
        else:
            g = blueprint(p, f"{b}esa.conv2", a, 2, 0)
        g = F.max_pool2d(g, 7, 3)
        g = gelu(blueprint(p, f"{b}esa.conv_max", g))
        g = gelu(blueprint(p, f"{b}esa.conv3", g))
        g = F.interpolate(blueprint(p, f"{b}esa.conv3_", g), y.shape[2:], mode="bilinear", align_corners=False)
        y = y * torch.sigmoid(pointwise(p, f"{b}esa.conv4", g + pointwise(p, f"{b}esa.conv_f", a)))
        if small:
            y = pointwise(p, f"{b}conv_out", y * p[f"{b}cw"][0, :, None, None])
        else:
            z = y.std((2, 3), correction=0, keepdim=True) + y.mean((2, 3), keepdim=True)
            z = pointwise(p, f"{b}cca.conv_du.0", z).relu()
            y = y * torch.sigmoid(pointwise(p, f"{b}cca.conv_du.2", z))
        f = y + f
        outputs.append(f)
    fused = blueprint(p, "c2", gelu(pointwise(p, "c1", torch.cat(outputs, 1))))
    last = "upsampler.upsampleOneStep.0"
    y = F.conv2d(fused + shallow, p[f"{last}.weight"], p[f"{last}.bias"], padding=1)
    n, _, h, w = y.shape  # the pixel shuffle, spelt out
    return y.view(n, 3, scale, scale, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, 3, h * scale, w * scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("width", "depth"), [(64, 2), (18, 3)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bsrn_computes_its_equations(natural, scale, width, depth, size):
    model, x = random_bsrn(scale, num_feats=width, num_blocks=depth), natural(*size, n=2)
    close(model(x), restated(dict(model.named_parameters()), x, depth, scale, False), F64)


@pytest.mark.parametrize(("width", "depth"), [(48, 2), (20, 3)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bsrn_s_computes_its_equations(natural, width, depth, size):
    model, x = random_bsrn_s(num_feats=width, num_blocks=depth), natural(*size, n=2)
    close(model(x), restated(dict(model.named_parameters()), x, depth, 4, True), F64)


def test_cca_of_a_constant_channel_has_a_finite_gradient():
    torch.manual_seed(0)
    cca, x = CCA(16).double(), torch.full((1, 16, 5, 5), 0.3, dtype=torch.float64, requires_grad=True)
    cca(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in cca.parameters())


@pytest.mark.parametrize("build", [random_bsrn, random_bsrn_s])
def test_the_gradient_reaches_every_parameter(natural, build):
    model = build(num_feats=64, num_blocks=2)
    model(natural(20, 17)).abs().mean().backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


@pytest.mark.parametrize("config", [{"esa": False}, {"cca": False}, {"conv": "standard"}, {"act": "relu"}], ids=str)
def test_ablations_change_only_what_they_name(config):
    full, ablated = random_bsrn(num_feats=16, num_blocks=1), random_bsrn(num_feats=16, num_blocks=1, **config)
    gone = set(full.state_dict()) - set(ablated.state_dict())
    if "act" in config:
        assert not gone
        kinds = {type(m) for m in ablated.modules()}
        assert nn.GELU not in kinds
    elif "conv" in config:
        assert not any(isinstance(m, BSConvU) for m in ablated.modules())
        assert ablated(torch.zeros(1, 3, 15, 15, dtype=torch.float64)).shape == (1, 3, 60, 60)
    else:
        assert gone
        assert all(f".{next(iter(config))}." in name for name in gone)


# --- exact rewrites ---------------------------------------------------------------------------------------------------


def merged(model: nn.Module) -> nn.Module:
    """A copy in which every BSConv-U is one dense convolution."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BSConvU):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, merge_bsconv(layer))
    return model


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bsrn_equals_itself_with_every_blueprint_merged_into_a_dense_kernel(natural, size):
    model, x = random_bsrn(num_blocks=3), natural(*size)
    dense = merged(model)
    assert not any(isinstance(layer, BSConvU) for layer in dense.modules())
    close(dense(x), model(x), F64)


class FirstThree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


def test_four_input_copies_equal_a_head_with_three_channels(natural):
    model, x = random_bsrn(num_blocks=2), natural(21, 26)
    thin = copy.deepcopy(model)
    head = BSConvU(3, 64).double()
    with torch.no_grad():
        head.pw.weight.copy_(sum(model.fea_conv.pw.weight[:, 3 * j : 3 * j + 3] for j in range(4)))
        head.dw.load_state_dict(model.fea_conv.dw.state_dict())
    thin.fea_conv = nn.Sequential(FirstThree(), head)
    close(thin(x), model(x), F64)


def test_the_channel_weights_of_bsrn_s_fold_into_the_layer_after_them(natural):
    model, x = random_bsrn_s(num_blocks=2), natural(19, 24)
    folded = copy.deepcopy(model)
    with torch.no_grad():
        for k in (1, 2):
            block = folded.get_submodule(f"B{k}")
            assert (block.cw != 1).all()
            block.conv_out.weight.mul_(block.cw)  # W diag(cw)
            block.cw.fill_(1)
    close(folded(x), model(x), F64)


def test_a_pointwise_bias_makes_the_merged_kernel_wrong_on_the_border_only():
    torch.manual_seed(0)
    layer = BSConvBias(7, 9).double()
    x = torch.rand(1, 7, 12, 10, dtype=torch.float64)
    kernel = layer.pw.weight[:, :, None, None] * layer.dw.weight
    bias = layer.dw.bias + layer.pw.bias * layer.dw.weight.sum((1, 2, 3))
    error = (F.conv2d(x, kernel, bias, padding=1) - layer(x)).abs().detach()
    assert error[..., 1:-1, 1:-1].max() < 1e-13
    error[..., 1:-1, 1:-1] = torch.inf
    assert error.min() > 1e-6


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bsrn_s_gives_the_same_through_linear_layers(natural, size):
    conv, linear = random_bsrn_s(), random_bsrn_s(as_linear=True)
    linear.load_state_dict(conv.state_dict())
    x = natural(*size, n=2)
    close(linear(x), conv(x), F64)


# --- the fused form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_fused_form_equals_bsrn_on_a_photograph(natural, scale, size):
    model, x = random_bsrn(scale), natural(*size, n=2)
    close(FusedBSRN(model)(x), model(x), F64)


@pytest.mark.parametrize(("width", "depth"), [(16, 1), (18, 3), (50, 4), (48, 6), (100, 1)])
def test_the_fused_form_takes_any_width_and_depth(natural, width, depth):
    model, x = random_bsrn(num_feats=width, num_blocks=depth), natural(17, 24)
    close(FusedBSRN(model)(x), model(x), F64)


@pytest.mark.parametrize(
    "relayout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ],
    ids=["channels last", "permuted", "columns first", "every second value", "reversed"],
)
@pytest.mark.parametrize("n", [1, 2])
def test_the_fused_form_takes_any_memory_layout(natural, relayout, n):
    model, x = random_bsrn(num_blocks=2), natural(17, 22, n=n)
    y = model(x)
    other = relayout(x)
    before = other.clone()
    close(FusedBSRN(model)(other), y, F64)
    assert torch.equal(other, before)


def test_the_fused_form_takes_a_picture_turned_into_a_tensor_by_permute(astronaut):
    model, hwc = random_bsrn(num_blocks=2).float(), astronaut[:33, :26].copy()
    x = torch.from_numpy(hwc).permute(2, 0, 1)[None].float() / 255
    same = torch.from_numpy(hwc.transpose(2, 0, 1).copy())[None].float() / 255
    assert x.stride() != same.stride()
    close(FusedBSRN(model)(x), model(same), 1e-5)
    u8 = torch.from_numpy(hwc).permute(2, 0, 1)[None]
    close(FusedBSRN(model)(u8 / 255), model(same), 1e-5)
    with pytest.raises(TypeError, match="BSRN takes float values"):
        FusedBSRN(model)(u8)


@pytest.mark.benchmark
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(64, 64), (45, 51)], ids=str)
def test_published_weights_fuse_to_float_rounding_on_a_photograph(published, natural, scale, size):
    model, x = published("bsrn", scale), natural(*size, n=2, dtype=torch.float32)
    with torch.no_grad():
        close(FusedBSRN(model)(x), model(x), 1e-5)


@pytest.mark.benchmark
def test_published_x2_weights_agree_on_noise_in_float64(published):
    # in float32 they do not: on noise the activations of this network reach thousands
    model = published("bsrn", 2).double()
    x = torch.rand(1, 3, 45, 51, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        y = model(x)
        assert y.abs().max() > 10
        close(FusedBSRN(model)(x), y, 1e-8)
        close(merged(model)(x), y, 1e-8)


@pytest.mark.benchmark
@pytest.mark.parametrize("scale", [2, 4])
def test_published_weights_pin_the_activation_and_the_standard_deviation(published, natural, scale):
    # PSNR cannot see the tanh form of GELU or the unbiased deviation: the restated equations can
    model, x = published("bsrn", scale).double(), natural(32, 27)
    with torch.no_grad():
        close(model(x), restated(dict(model.named_parameters()), x, 8, scale, False), 1e-9)


def test_the_fused_form_is_as_accurate_through_the_triton_kernel(natural, monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime import JITFunction
    from triton.runtime.interpreter import InterpretedFunction

    from nsrlib.ops import common
    from nsrlib.ops.bsconv2d import kernels as bsconv

    device = "cuda" if torch.cuda.is_available() else "cpu"
    launches = []
    launch = bsconv.fused_launch
    monkeypatch.setattr(bsconv, "fused_launch", lambda *args: launches.append(args) or launch(*args))
    if device == "cpu":
        for name, value in vars(bsconv).copy().items():
            if isinstance(value, JITFunction):
                monkeypatch.setattr(bsconv, name, InterpretedFunction(value.fn))
        monkeypatch.setattr(common, "KERNEL_DEVICES", ("cpu",))
    model, x = random_bsrn(num_feats=32, num_blocks=1), natural(16, 19, n=2)
    exact = FusedBSRN(model)(x)
    library, triton = (
        FusedBSRN(model, kernels).to(device, torch.float32)(x.to(device, torch.float32)).cpu().double()
        for kernels in ("auto", "triton")
    )
    assert len(launches) == 8  # c1_r to c3_r, c4, three of ESA, c2
    assert (triton - exact).abs().max() <= 2 * (library - exact).abs().max() + torch.finfo(torch.float32).eps


def test_kernels_of_the_fused_form_are_named():
    model = random_bsrn(num_feats=16, num_blocks=1)
    assert optimise(model, kernels="triton").kernels == "triton"
    assert optimise(model).kernels == "library"
    with pytest.raises(ValueError, match="kernels must be one of auto, library, triton, got 'cuda'"):
        FusedBSRN(model, "cuda")


def test_the_fused_form_has_no_gradient_and_does_not_share_weights(natural):
    model, x = random_bsrn(num_blocks=1), natural(15, 15)
    fused = FusedBSRN(model)
    y = fused(x.requires_grad_())
    assert not y.requires_grad
    assert not list(fused.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(fused(x), y)
    assert (fused.scale, fused.halo, fused.min_size) == (model.scale, model.halo, model.min_size)


def test_the_fused_form_gives_the_same_twice_and_on_other_sizes_between(natural):
    fused = FusedBSRN(random_bsrn(num_blocks=2))
    first = fused(natural(20, 25))
    fused(natural(33, 16, n=2))
    assert torch.equal(fused(natural(20, 25)), first)


@pytest.mark.parametrize(
    "config", [{"conv": "standard"}, {"esa": False}, {"cca": False}, {"act": "relu"}, {"conv": "bsconv_s"}], ids=str
)
def test_ablations_have_no_fused_form(config):
    model = BSRN(num_feats=16, num_blocks=1, **config)
    assert not FusedBSRN.accepts(model)
    with pytest.raises(ValueError, match="only BSRN with conv='bsconv_u', esa=True, cca=True and act='gelu'"):
        FusedBSRN(model)


def test_the_fused_form_names_its_least_size():
    fused = FusedBSRN(BSRN(num_feats=16, num_blocks=1))
    with pytest.raises(ValueError, match="BSRN needs at least 15x15 pixels, got 15x14"):
        fused(torch.zeros(1, 3, 15, 14))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_both_forms_give_the_same_on_a_gpu(natural):
    model, x = random_bsrn(num_blocks=3), natural(33, 40, n=2)
    y = model(x)
    close(copy.deepcopy(model).cuda()(x.cuda()).cpu(), y, F64)
    close(FusedBSRN(model).cuda()(x.cuda()).cpu(), y, F64)


def test_create_model_gives_these_classes():
    assert type(create_model("bsrn")) is BSRN
    assert type(create_model("bsrn_s")) is BSRNS


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("size", [(128, 128), (180, 320)], ids=str)
def test_the_fused_form_is_at_least_1_3_times_as_fast_on_a_cpu(size):
    plain = create_model("bsrn").eval()
    table = latency({"plain": plain, "fused": optimise(plain)}, [size], device="cpu", threads=1, repeats=4)
    seconds = table.set_index("model")["seconds"]
    assert seconds["plain"] > 1.3 * seconds["fused"]
