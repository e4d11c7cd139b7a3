"""Separable convolutions, ESA and activations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nsrlib.layers import (
    CONV_KINDS,
    ESA,
    BSConvS,
    BSConvU,
    DSConv,
    activation,
    check_input,
    conv_layer,
    factorise,
    merge_bsconv,
    merged_kernel,
)

F64_ROUNDING = 1e-12  # sums of at most 9 * 48 products of size one


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(kind: str, *args: int, **kwargs: int) -> nn.Module:
    torch.manual_seed(0)
    return conv_layer(kind, *args, **kwargs).double()


@pytest.mark.parametrize("kind", CONV_KINDS)
@pytest.mark.parametrize(
    ("c_in", "c_out", "kernel", "stride", "padding"),
    [(12, 16, 3, 1, 1), (7, 5, 3, 2, 0), (5, 12, 3, 2, 1), (16, 16, 5, 1, 2), (1, 3, 3, 1, 0), (3, 1, 1, 1, 0)],
)
@pytest.mark.parametrize("size", [(9, 9), (15, 8), (5, 31)], ids=str)
def test_a_separable_layer_computes_with_its_merged_kernel(kind, c_in, c_out, kernel, stride, padding, size):
    layer = layer_of(kind, c_in, c_out, kernel, stride=stride, padding=padding)
    x = rand(2, c_in, *size)
    dense = merged_kernel(layer)
    assert dense.shape == (c_out, c_in, kernel, kernel)
    y = F.conv2d(x, dense, stride=stride, padding=padding)
    if kind == "dsconv":  # its bias sits before the pointwise part
        y += (layer.pw.weight[:, :, 0, 0] @ layer.dw.bias)[None, :, None, None]
    else:
        y += (layer.bias if kind == "standard" else layer.dw.bias)[None, :, None, None]
    torch.testing.assert_close(layer(x), y, rtol=0, atol=F64_ROUNDING)


@pytest.mark.parametrize("build", [BSConvU, BSConvS])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (2, 1)])
def test_merge_bsconv_gives_an_ordinary_convolution_with_the_same_values(build, stride, padding):
    torch.manual_seed(0)
    layer = build(12, 10, 3, stride, padding).double()
    conv = merge_bsconv(layer)
    assert type(conv) is nn.Conv2d
    x = rand(2, 12, 13, 11)
    torch.testing.assert_close(conv(x), layer(x), rtol=0, atol=F64_ROUNDING)
    before = merged_kernel(layer).clone()
    conv.weight.data.zero_()
    torch.testing.assert_close(merged_kernel(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("standard", 9 * 24 * 40),
        ("dsconv", 9 * 24 + 24 * 40),
        ("bsconv_u", 24 * 40 + 9 * 40),
        ("bsconv_s", 6 * (24 + 40) + 9 * 40),
    ],
)
def test_parameters_are_those_of_the_decomposition_table(kind, weights):
    layer = conv_layer(kind, 24, 40)
    bias = 24 if kind == "dsconv" else 40  # one bias, on the depthwise part
    assert sum(p.numel() for p in layer.parameters()) == weights + bias
    assert [name for name, _ in layer.named_parameters() if "bias" in name] == [
        "bias" if kind == "standard" else "dw.bias"
    ]


@given(st.integers(1, 100))
def test_the_rank_of_bsconv_s_is_a_quarter_but_at_least_four_and_at_most_the_input(c_in):
    expected = min(c_in, max(4, math.ceil(0.25 * c_in)))
    layer = BSConvS(c_in, 5)
    assert layer.pw1.out_channels == layer.pw2.in_channels == expected


def test_bsconv_u_has_one_blueprint_a_filter_and_dsconv_one_an_input_channel():
    u, d = (merged_kernel(layer_of(kind, 6, 5)).detach() for kind in ("bsconv_u", "dsconv"))
    for filter_slices in u:
        assert torch.linalg.matrix_rank(filter_slices.flatten(1)) == 1
    for channel_slices in d.transpose(0, 1):
        assert torch.linalg.matrix_rank(channel_slices.flatten(1)) == 1
    assert torch.linalg.matrix_rank(u[:, 0].flatten(1)) > 1


def test_an_unknown_layer_has_no_dense_kernel():
    with pytest.raises(TypeError, match="no dense kernel for Conv2d"):
        merged_kernel(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(TypeError, match="no dense kernel for GELU"):
        merged_kernel(nn.GELU())


def test_an_unknown_kind_of_convolution_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="conv must be one of standard, dsconv, bsconv_s, bsconv_u, got 'bsconv'"):
        conv_layer("bsconv", 3, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gelu", 0.5 * (1 + math.erf(-1 / math.sqrt(2))) * -1),
        ("relu", 0.0),
        ("leaky_relu", -0.05),
        ("hswish", -1 * (3 - 1) / 6),
    ],
)
def test_activations_have_their_known_value_at_minus_one(name, value):
    y = activation(name)(torch.tensor([-1.0, 7.0], dtype=torch.float64))
    assert y[0].item() == pytest.approx(value, abs=1e-15)
    assert y[1].item() == pytest.approx(7.0, abs=1e-10)
    assert activation(name) is not activation(name)


def test_an_unknown_activation_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="activation must be one of gelu, relu, leaky_relu, hswish, got 'swish'"):
        activation("swish")


def esa_restated(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """ESA with BSConv-U from its table of layers: names, strides and paddings spelt out."""

    def pointwise(v, name):
        return torch.einsum("oi,nihw->nohw", p[f"{name}.weight"][:, :, 0, 0], v) + p[f"{name}.bias"][:, None, None]

    def blueprint(v, name, stride, padding):
        v = torch.einsum("oi,nihw->nohw", p[f"{name}.pw.weight"][:, :, 0, 0], v)
        depth = p[f"{name}.dw.weight"]
        return F.conv2d(v, depth, p[f"{name}.dw.bias"], stride, padding, groups=len(depth))

    def gelu(v):
        return 0.5 * v * (1 + torch.erf(v / math.sqrt(2)))

    a = pointwise(x, "conv1")
    b = F.max_pool2d(blueprint(a, "conv2", 2, 0), 7, 3)
    b = gelu(blueprint(b, "conv_max", 1, 1))
    b = gelu(blueprint(b, "conv3", 1, 1))
    b = blueprint(b, "conv3_", 1, 1)
    # bilinear, corners not aligned: output pixel i looks at (i + 0.5) * small / large - 0.5, clamped
    for axis in (2, 3):
        small, large = b.shape[axis], x.shape[axis]
        place = ((torch.arange(large, dtype=torch.float64) + 0.5) * small / large - 0.5).clamp(min=0)
        low = place.floor().long()
        high = (low + 1).clamp(max=small - 1)
        share = (place - low).view([-1 if k == axis else 1 for k in range(4)])
        b = b.index_select(axis, low) * (1 - share) + b.index_select(axis, high) * share
    mask = pointwise(b + pointwise(a, "conv_f"), "conv4")
    return x / (1 + torch.exp(-mask))


@pytest.mark.parametrize("size", [(15, 15), (16, 23), (47, 32), (61, 15)], ids=str)
def test_esa_equals_its_table_of_layers(size):
    torch.manual_seed(0)
    esa = ESA(12, 5, "bsconv_u", "gelu").double()
    x = rand(2, 12, *size)
    y = esa_restated({k: v.detach() for k, v in esa.named_parameters()}, x)
    torch.testing.assert_close(esa(x).detach(), y, rtol=0, atol=F64_ROUNDING)


@pytest.mark.parametrize("kind", CONV_KINDS)
def test_esa_of_every_kind_takes_15_pixels_and_keeps_the_shape(kind):
    esa = ESA(16, 4, kind, "relu", strided="standard")
    assert type(esa.conv2) is nn.Conv2d
    assert isinstance(esa.conv3, {"standard": nn.Conv2d, "dsconv": DSConv}.get(kind, (BSConvU, BSConvS)))
    assert esa(torch.zeros(1, 16, 15, 15)).shape == (1, 16, 15, 15)
    with pytest.raises(RuntimeError):
        esa(torch.zeros(1, 16, 14, 14))


@pytest.mark.parametrize("kind", ["bsconv_u", "dsconv"])
def test_factorise_finds_a_separable_kernel_again(kind):
    dense = merged_kernel(layer_of(kind, 6, 5)).detach()
    nearest, kept = factorise(dense, kind)
    torch.testing.assert_close(nearest, dense, rtol=0, atol=F64_ROUNDING)
    torch.testing.assert_close(kept, torch.ones(5 if kind == "bsconv_u" else 6, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["bsconv_u", "dsconv"])
def test_factorise_keeps_the_share_of_energy_it_says(kind):
    dense = rand(7, 6, 3, 3)
    nearest, kept = factorise(dense, kind)
    axes = (1, 2, 3) if kind == "bsconv_u" else (0, 2, 3)
    residue = (dense - nearest).square().sum(axes) / dense.square().sum(axes)
    torch.testing.assert_close(1 - residue, kept, rtol=0, atol=F64_ROUNDING)
    grouped = nearest if kind == "bsconv_u" else nearest.transpose(0, 1)
    assert all(torch.linalg.matrix_rank(slices.flatten(1)) == 1 for slices in grouped)
    with pytest.raises(ValueError, match="kind must be 'bsconv_u' or 'dsconv', got 'bsconv_s'"):
        factorise(dense, "bsconv_s")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 20, 20), ValueError, r"net takes \(N, 3, H, W\), got \(3, 20, 20\)"),
        (torch.zeros(1, 1, 20, 20), ValueError, r"net takes \(N, 3, H, W\), got \(1, 1, 20, 20\)"),
        (torch.zeros(1, 3, 20, 20, dtype=torch.uint8), TypeError, r"float values in \[0, 1\], got torch.uint8"),
        (torch.zeros(1, 3, 20, 14), ValueError, "net needs at least 15x15 pixels, got 20x14"),
    ],
    ids=["no batch", "gray", "levels", "small"],
)
def test_wrong_input_is_refused_in_the_name_of_the_network(x, error, message):
    with pytest.raises(error, match=message):
        check_input(x, "net", 3, 15)
