"""IMDN, RFDN, SRCNN and bicubic: state dicts from the specification, and the functions they compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nsrlib import create_model
from nsrlib.complexity import count
from nsrlib.images import imresize, luma
from nsrlib.models.baselines import SRCNN
from nsrlib.models.distillation import IMDN, RFDN, ChallengeIMDN


def with_bias(spec: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Add the bias of each convolution."""
    both = {}
    for name, shape in spec.items():
        both[f"{name}.weight"] = shape
        both[f"{name}.bias"] = shape[:1]
    return both


def rfdn_spec(c: int = 50, n: int = 4, scale: int = 4) -> dict[str, tuple[int, ...]]:
    half, f = c // 2, c // 4
    spec: dict[str, tuple[int, ...]] = {"fea_conv": (c, 3, 3, 3)}
    for k in range(1, n + 1):
        spec |= {f"B{k}.c{i}_d": (half, c, 1, 1) for i in (1, 2, 3)}
        spec |= {f"B{k}.c{i}_r": (c, c, 3, 3) for i in (1, 2, 3)}
        spec |= {f"B{k}.c4": (half, c, 3, 3), f"B{k}.c5": (c, 4 * half, 1, 1)}
        spec |= {f"B{k}.esa.conv1": (f, c, 1, 1), f"B{k}.esa.conv_f": (f, f, 1, 1), f"B{k}.esa.conv4": (c, f, 1, 1)}
        spec |= {f"B{k}.esa.{name}": (f, f, 3, 3) for name in ("conv_max", "conv2", "conv3", "conv3_")}
    spec |= {"c.0": (c, n * c, 1, 1), "LR_conv": (c, c, 3, 3), "upsampler.0": (3 * scale**2, c, 3, 3)}
    return with_bias(spec)


def imdn_spec(c: int = 64, n: int = 6, scale: int = 4) -> dict[str, tuple[int, ...]]:
    keep, rest = c // 4, c - c // 4
    spec: dict[str, tuple[int, ...]] = {"fea_conv": (c, 3, 3, 3)}
    for k in range(1, n + 1):
        block = f"IMDB{k}"
        spec |= {f"{block}.c1": (c, c, 3, 3), f"{block}.c2": (c, rest, 3, 3), f"{block}.c3": (c, rest, 3, 3)}
        spec |= {f"{block}.c4": (keep, rest, 3, 3), f"{block}.c5": (c, c, 1, 1)}
        spec |= {f"{block}.cca.conv_du.0": (c // 16, c, 1, 1), f"{block}.cca.conv_du.2": (c, c // 16, 1, 1)}
    spec |= {"c.0": (c, n * c, 1, 1), "LR_conv": (c, c, 3, 3), "upsampler.0": (3 * scale**2, c, 3, 3)}
    return with_bias(spec)


def challenge_spec(c: int = 64, n: int = 8, scale: int = 4) -> dict[str, tuple[int, ...]]:
    keep, rest = c // 4, c - c // 4
    spec: dict[str, tuple[int, ...]] = {"model.0": (c, 3, 3, 3)}
    for k in range(n):
        block = f"model.1.sub.{k}"
        spec |= {f"{block}.conv1.0": (c, c, 3, 3), f"{block}.conv2.0": (c, rest, 3, 3)}
        spec |= {f"{block}.conv3.0": (c, rest, 3, 3), f"{block}.conv4": (keep, rest, 3, 3)}
        spec |= {f"{block}.conv1x1": (c, c, 1, 1)}
    spec |= {f"model.1.sub.{n}": (c, c, 3, 3), "model.2": (3 * scale**2, c, 3, 3)}
    return with_bias(spec)


@pytest.mark.parametrize(
    ("build", "spec", "count"), [(RFDN, rfdn_spec, 128), (IMDN, imdn_spec, 92), (ChallengeIMDN, challenge_spec, 86)]
)
def test_state_dict_is_that_of_the_released_file(build, spec, count):
    ours = {k: tuple(v.shape) for k, v in build(4).state_dict().items()}
    assert ours == spec()
    assert len(ours) == count


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.05 * x)


def apply(p: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1, padding: int = 1) -> torch.Tensor:
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p[f"{name}.bias"], stride, padding if weight.shape[-1] > 1 else 0)


def rfdn_restated(p: dict[str, torch.Tensor], x: torch.Tensor, n: int, scale: int) -> torch.Tensor:
    """RFDN from its description; works on 0..255 inside."""
    head = f = apply(p, "fea_conv", x * 255)
    outputs = []
    for k in range(1, n + 1):
        b = f"B{k}."
        d, r = [], f
        for i in (1, 2, 3):
            d.append(leaky(apply(p, f"{b}c{i}_d", r)))
            r = leaky(apply(p, f"{b}c{i}_r", r) + r)
        d.append(leaky(apply(p, f"{b}c4", r)))
        y = apply(p, f"{b}c5", torch.cat(d, 1))
        a = apply(p, f"{b}esa.conv1", y)
        g = F.max_pool2d(apply(p, f"{b}esa.conv2", a, 2, 0), 7, 3)
        g = apply(p, f"{b}esa.conv_max", g).relu()
        g = apply(p, f"{b}esa.conv3", g).relu()
        g = F.interpolate(apply(p, f"{b}esa.conv3_", g), y.shape[2:], mode="bilinear")
        f = y * apply(p, f"{b}esa.conv4", g + apply(p, f"{b}esa.conv_f", a)).sigmoid()  # no skip over the block
        outputs.append(f)
    body = apply(p, "LR_conv", leaky(apply(p, "c.0", torch.cat(outputs, 1))))
    return F.pixel_shuffle(apply(p, "upsampler.0", body + head), scale) / 255


def quarters(p: dict[str, torch.Tensor], names: list[str], y: torch.Tensor) -> torch.Tensor:
    """Of each layer but the last a quarter of the channels, whose rest the next one gets; and all of the last."""
    kept, quarter = [], y.shape[1] // 4
    for name in names[:-1]:
        y = leaky(apply(p, name, y))
        kept.append(y[:, :quarter])
        y = y[:, quarter:]
    return torch.cat([*kept, apply(p, names[-1], y)], 1)


def imdn_restated(p: dict[str, torch.Tensor], x: torch.Tensor, n: int, scale: int) -> torch.Tensor:
    head = f = apply(p, "fea_conv", x)
    outputs = []
    for k in range(1, n + 1):
        b = f"IMDB{k}."
        y = quarters(p, [f"{b}c1", f"{b}c2", f"{b}c3", f"{b}c4"], f)
        contrast = (y.flatten(2).std(2, unbiased=False) + y.mean((2, 3)))[..., None, None]
        gate = apply(p, f"{b}cca.conv_du.2", apply(p, f"{b}cca.conv_du.0", contrast).relu()).sigmoid()
        f = f + apply(p, f"{b}c5", gate * y)
        outputs.append(f)
    body = apply(p, "LR_conv", leaky(apply(p, "c.0", torch.cat(outputs, 1))))
    return F.pixel_shuffle(apply(p, "upsampler.0", body + head), scale)


def challenge_restated(p: dict[str, torch.Tensor], x: torch.Tensor, n: int, scale: int) -> torch.Tensor:
    head = f = apply(p, "model.0", x)
    for k in range(n):
        b = f"model.1.sub.{k}."
        kept = quarters(p, [f"{b}conv1.0", f"{b}conv2.0", f"{b}conv3.0", f"{b}conv4"], f)
        f = f + apply(p, f"{b}conv1x1", kept)
    return F.pixel_shuffle(apply(p, "model.2", head + apply(p, f"model.1.sub.{n}", f)), scale)


@pytest.mark.parametrize(
    ("build", "restated"), [(RFDN, rfdn_restated), (IMDN, imdn_restated), (ChallengeIMDN, challenge_restated)]
)
@pytest.mark.parametrize(("scale", "width", "depth"), [(4, 50, 2), (2, 20, 3), (3, 16, 1)])
@pytest.mark.parametrize("size", [(15, 15), (23, 34)], ids=str)
def test_the_network_computes_what_its_description_says(natural, build, restated, scale, width, depth, size):
    torch.manual_seed(0)
    width -= width % 4  # IMDN keeps a quarter
    width = max(width, 16)  # and its attention has a sixteenth
    model = build(scale, num_feats=width, num_blocks=depth).double()
    x = natural(*size, n=2)
    y = restated({k: v.detach() for k, v in model.named_parameters()}, x, depth, scale)
    torch.testing.assert_close(model(x).detach(), y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("conv", ["dsconv", "bsconv_s", "bsconv_u"])
def test_decompositions_of_rfdn_replace_every_3x3_but_the_upsamplers(conv):
    model = RFDN(4, conv=conv)
    dense = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and m.groups == 1]
    assert [name for name in dense if model.get_submodule(name).kernel_size == (3, 3)] == ["upsampler.0"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_bicubic_keeps_the_dtype_and_takes_any_channels_and_size(dtype):
    model = create_model("bicubic", 4)
    assert model(torch.zeros(2, 5, 1, 3, dtype=dtype)).shape == (2, 5, 4, 12)
    assert model(torch.zeros(2, 5, 1, 3, dtype=dtype)).dtype == dtype
    assert not list(model.parameters())


def srcnn_restated(p: dict[str, torch.Tensor], plane: torch.Tensor) -> torch.Tensor:
    """SRCNN from its description; pixels beyond the border are those nearest to it."""
    y = plane
    for k in (1, 2, 3):
        weight = p[f"conv{k}.weight"]
        half = weight.shape[-1] // 2
        rows, columns = (torch.arange(-half, n + half).clamp(0, n - 1) for n in y.shape[2:])
        y = F.conv2d(y[:, :, rows][..., columns], weight, p[f"conv{k}.bias"])
        y = y.relu() if k < 3 else y
    return y


def test_srcnn_has_three_layers_and_57281_parameters():
    shapes = {name: tuple(tensor.shape) for name, tensor in SRCNN().state_dict().items()}
    assert shapes == with_bias({"conv1": (64, 1, 9, 9), "conv2": (32, 64, 5, 5), "conv3": (1, 32, 5, 5)})
    assert sum(p.numel() for p in SRCNN().parameters()) == 57_281
    assert count(SRCNN(1), (10, 20), channels=1).multi_adds == (57_281 - 97) * 200  # without 97 biases


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 2), (7, 5), (13, 11)], ids=str)
def test_srcnn_computes_what_its_description_says(natural, scale, size):
    torch.manual_seed(0)
    model = SRCNN(scale, num_feats=6, num_mid=4).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    plane = natural(*size, n=2)[:, :1]
    up = imresize(plane, scale) if scale > 1 else plane
    torch.testing.assert_close(model(plane).detach(), srcnn_restated(parameters, up), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.refine(up).detach(), srcnn_restated(parameters, up), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 3])
def test_srcnn_draws_the_luma_of_a_colour_picture_and_leaves_its_colours_bicubic(natural, scale):
    torch.manual_seed(0)
    model, x = SRCNN(scale, num_feats=6, num_mid=4).double(), natural(9, 8, n=2)
    up = imresize(x, scale) if scale > 1 else x
    y = model(x).detach()
    plane = luma(up)[:, None] / 255
    torch.testing.assert_close(luma(y)[:, None] / 255, model.refine(plane).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(y - y[:, :1], up - up[:, :1], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"SRCNN takes \(N, 1, H, W\), got \(1, 2, 5, 5\)"):
        model(torch.zeros(1, 2, 5, 5))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_srcnn_sees_no_further_than_its_halo(natural, scale):
    torch.manual_seed(0)
    model, x = SRCNN(scale, num_feats=6, num_mid=4).double().eval(), natural(24, 40)
    other = x.clone()
    other[..., 20 + model.halo :] = 0.5
    same = (model(x) - model(other)).abs()[..., : 20 * scale]
    assert same.max() < 1e-12
