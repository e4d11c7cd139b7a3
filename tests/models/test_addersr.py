"""AdderSR: the unit against its description, gradients of the power activation, counts, local learning rate, int8."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nsrlib import create_model
from nsrlib.images import imresize, luma
from nsrlib.models.addersr import (
    ALPHA_RANGE,
    STEPS,
    Adder2d,
    AdderUnit,
    DifferenceAdder2d,
    Int8Adder2d,
    PowerActivation,
    adaptive_lr,
    adder_layers,
    annealed_tau,
    input_ranges,
    power_activation,
    set_tau,
    to_int8,
)
from nsrlib.models.baselines import LumaResidual
from nsrlib.ops.adder2d import adder2d_grads_ref, adder2d_ref
from nsrlib.training import Recipe

F64 = 1e-11


def rand(*size: int, seed: int = 0, low: float = -1, high: float = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*size, generator=g, dtype=torch.float64)


def close(a: Tensor, b: Tensor, atol: float = F64) -> None:
    torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=atol)


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(name: str = "addersr_vdsr", scale: int = 2, **config) -> nn.Module:
    torch.manual_seed(0)
    size = {"num_feats": 6, "num_layers": 5} if "vdsr" in name else {"num_feats": 6, "num_blocks": 2}
    return create_model(name, scale, **(size | config))


def with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in evaluation mode after its normalisations have seen ``x``."""
    model.train()
    with torch.no_grad():
        for _ in range(60):
            model(x)
    return model.eval()


# --- power activation -------------------------------------------------------------------------------------------------


@given(st.floats(*ALPHA_RANGE), st.floats(-50, 50))
def test_power_is_odd_and_is_what_equation_11_says(alpha, y):
    t = torch.tensor([y, -y], dtype=torch.float64)
    p = power_activation(t, alpha)
    assert p[0] == -p[1]
    assert float(p[0]) == pytest.approx(math.copysign(abs(y) ** alpha, y), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1, 2.5, 4])
def test_power_rises_and_keeps_zero(alpha):
    y = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert (power_activation(y, alpha).diff() > 0).all()
    assert power_activation(torch.zeros(3), alpha).eq(0).all()
    assert torch.equal(power_activation(y, 1), y)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_power_gradients_are_the_derivatives_away_from_zero(alpha):
    y = rand(60, low=-2, high=2)
    y = (y.sign() * y.abs().clamp_min(2e-2)).requires_grad_()
    a = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(power_activation, (y, a))


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_power_gradients_are_finite_everywhere_and_the_slope_is_bounded(alpha, dtype):
    y = torch.tensor([0.0, -0.0, 1e-38, -1e-30, 1e-6, 0.5, -3, 30], dtype=dtype, requires_grad=True)
    a = torch.tensor(alpha, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    power_activation(y, a).sum().backward()
    assert y.grad.isfinite().all()
    assert a.grad.isfinite()
    slope = alpha * y.detach().double().abs() ** (alpha - 1)
    allowed = 4 * alpha * torch.finfo(dtype).eps * 90  # the power of a rounded logarithm, whose size is at most 90
    torch.testing.assert_close(y.grad.double(), slope.clamp_max(10), rtol=allowed, atol=1e-30)


def test_plain_autograd_has_no_gradient_there():
    y = torch.zeros(1, requires_grad=True)
    (y.sign() * y.abs() ** 0.5).backward()
    assert y.grad.isnan()


def test_alpha_beyond_its_range_acts_as_the_end_and_can_only_come_back():
    y = torch.tensor([0.5, 2.0], dtype=torch.float64)
    for outside, end in ((9.0, 4.0), (-1.0, 0.1)):
        a = torch.tensor(outside, dtype=torch.float64, requires_grad=True)
        assert torch.equal(power_activation(y, a), power_activation(y, end))
        for g in (1.0, -1.0):
            (grad,) = torch.autograd.grad(power_activation(y, a), a, torch.tensor([0.0, g], dtype=torch.float64))
            back = g > 0 if outside > 4 else g < 0  # descent takes alpha against the gradient
            assert (grad != 0) == back


@pytest.mark.parametrize("alpha", [0.05, 4.1, 0, -1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha):
    for make in (PowerActivation, lambda a: power_activation(torch.ones(2), a), lambda a: small(alpha=a)):
        with pytest.raises(ValueError, match=rf"alpha must be in \[0\.1, 4\.0\], got {alpha}"):
            make(alpha)


def test_alpha_is_one_scalar():
    with pytest.raises(ValueError, match=r"alpha must have one element .* got shape \(3,\)"):
        power_activation(torch.ones(3), torch.ones(3))


# --- the unit ---------------------------------------------------------------------------------------------------------


def unit_restated(u: AdderUnit, x: Tensor, steps: str) -> Tensor:
    """The unit in training mode from its description."""
    w = u.adder.weight if u.adder else u.conv.weight
    y = adder2d_ref(x, w, padding=1) if u.adder else F.conv2d(x, w, padding=1)
    for step in steps.split():
        if step == "bn":
            mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
            y = (y - mean) / (var + u.bn.eps).sqrt() * u.bn.weight[:, None, None] + u.bn.bias[:, None, None]
        elif step == "shortcut":
            y = y + x
        elif step == "relu":
            y = y.clamp_min(0)
        else:
            y = y.sign() * y.abs() ** u.power.alpha.detach()
    return y


EVERY_ORDER = [
    " ".join(order) for n in range(5) for chosen in itertools.combinations(STEPS, n)
    for order in (itertools.permutations(chosen) if n > 2 else [chosen])
]  # fmt: skip


@pytest.mark.parametrize("layer", ["adder", "conv"])
def test_the_unit_does_its_steps_in_their_order(layer):
    x = rand(2, 3, 5, 7)
    for steps in EVERY_ORDER:
        u = AdderUnit(3, 3, steps, layer, alpha=1.3).double()
        if u.bn is not None:
            nn.init.normal_(u.bn.weight)
            nn.init.normal_(u.bn.bias)
        close(u(x), unit_restated(u, x, steps), 1e-9)
    assert len(EVERY_ORDER) == 1 + 4 + 6 + 4 * 6 + 24


@pytest.mark.parametrize("layer", ["adder", "difference", "conv"])
def test_the_trace_ends_with_the_output_and_names_every_step(layer):
    u = AdderUnit(3, 3, "bn shortcut relu power", layer, alpha=1.3).double()
    x = rand(2, 3, 5, 7)
    left = u.trace(x)
    assert list(left) == ["conv" if layer == "conv" else "adder", *u.steps]
    assert torch.equal(left["power"], u(x))
    close(left["shortcut"], left["bn"] + x)
    assert list(AdderUnit(3, 3, "").trace(x.float())) == ["adder"]


def test_the_papers_order_is_the_default():
    u = AdderUnit(4, 4)
    assert u.steps == ("bn", "shortcut", "relu", "power")
    x = rand(2, 4, 5, 5).float()
    torch.testing.assert_close(u(x), F.relu(x + u.bn(u.adder(x))))  # alpha starts at 1


def test_with_the_normalisation_at_zero_the_unit_is_relu_then_power():
    u = AdderUnit(3, 3, alpha=2.0).double()
    nn.init.zeros_(u.bn.weight)
    x = rand(1, 3, 6, 5)
    assert torch.equal(u(x), power_activation(x.relu(), 2.0))


@pytest.mark.parametrize("gradient", ["adder", "sign"])
def test_the_unit_uses_the_chosen_gradient(gradient):
    layer = Adder2d(3, 5, gradient=gradient).double()
    x = rand(2, 3, 6, 7).requires_grad_()
    y = layer(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(g)
    dx, dw = adder2d_grads_ref(g, x.detach(), layer.weight.detach(), padding=1, gradient=gradient)
    close(x.grad, dx)
    close(layer.weight.grad, dw)


def test_adder_gradients_are_not_the_derivative_and_sign_gradients_are():
    def passes(gradient: str) -> bool:
        layer = Adder2d(2, 2, gradient=gradient).double()
        inputs = (rand(1, 2, 4, 3).requires_grad_(), rand(2, 2, 3, 3, seed=1).requires_grad_())

        def f(x: Tensor, w: Tensor) -> Tensor:
            return torch.func.functional_call(layer, {"weight": w}, (x,))

        return torch.autograd.gradcheck(f, inputs, eps=1e-7, atol=1e-5, raise_exception=False)

    assert passes("sign")
    assert not passes("adder")


@pytest.mark.parametrize("tau", [0.5, 3.0])
def test_tau_sharpens_the_input_gradient_and_nothing_else(tau):
    layer = Adder2d(3, 4).double()
    x = rand(2, 3, 5, 6, low=-2, high=2)
    g = rand(2, 4, 5, 6, seed=2)
    outcome = []
    for t in (1.0, tau):
        set_tau(layer, t)
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(g)
        outcome.append((y, leaf.grad, layer.weight.grad.clone()))
    (y1, _, w1), (y2, dx, w2) = outcome
    close(y1, y2, 1e-10)
    close(w1, w2, 1e-10)
    columns = F.unfold(x, 3, padding=1)[:, None]
    t = (tau * (layer.weight.detach().flatten(1)[None, :, :, None] - columns)).clamp(-1, 1)
    close(dx, F.fold((t * g.flatten(2)[:, :, None]).sum(1), (5, 6), 3, padding=1), 1e-10)
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        set_tau(layer, 0)


def test_tau_is_annealed_from_first_to_last_over_the_training():
    model = small()
    hook = annealed_tau(model, Recipe(iterations=5), first=1.0, last=4.0)["before_forward"]
    seen = []
    for step in range(5):
        hook(model, step)
        seen.append({layer.tau for layer in adder_layers(model).values()})
    assert seen == [{1.0}, {1.75}, {2.5}, {3.25}, {4.0}]
    annealed_tau(model, Recipe(iterations=1))["before_forward"](model, 0)  # one step: no division by zero
    with pytest.raises(ValueError, match=r"tau must be positive, got 0"):
        annealed_tau(model, Recipe(iterations=5), first=0)


def test_the_difference_layer_is_half_of_two_adders():
    layer = DifferenceAdder2d(3, 4).double()
    x = rand(1, 3, 5, 5)
    plus, minus = layer.adder.weight[:4], layer.adder.weight[4:]
    close(layer(x), (adder2d_ref(x, plus, padding=1) - adder2d_ref(x, minus, padding=1)) / 2)
    assert isinstance(AdderUnit(3, 3, layer="difference").adder, DifferenceAdder2d)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((3, 5), "a self-shortcut needs as many output as input channels, got 3 and 5"),
        ((3, 3, "bn bn"), "steps must be some of bn, shortcut, relu, power, each at most once, got 'bn bn'"),
        ((3, 3, "bn gelu"), "steps must be some of bn, .* got 'bn gelu'"),
        ((3, 3, "bn", "sum"), "layer must be one of adder, difference, conv, got 'sum'"),
        ((3, 3, "bn", "adder", "true"), "gradient must be 'adder' or 'sign', got 'true'"),
    ],
)
def test_impossible_units_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        AdderUnit(*args)
    if args[0] == args[1]:
        with pytest.raises(ValueError, match=message):
            small(**dict(zip(("steps", "layer", "gradient"), args[2:], strict=False)))


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scale", "config", "count"),
    [
        ("vdsr", 2, {}, 665_921),
        ("addersr_vdsr", 2, {}, 667_091),
        ("edsr", 2, {}, 40_729_603),
        ("edsr", 3, {}, 43_680_003),
        ("edsr", 4, {}, 43_089_923),
        ("edsr_baseline", 2, {}, 1_369_859),
        ("edsr_baseline", 3, {}, 1_554_499),
        ("edsr_baseline", 4, {}, 1_517_571),
        ("addersr_edsr", 2, {}, 40_746_308),
        ("addersr_edsr", 3, {}, 43_696_708),
        ("addersr_edsr", 4, {}, 43_106_628),
        ("addersr_edsr", 2, {"num_feats": 64, "num_blocks": 16}, 1_372_004),
        ("addersr_edsr", 3, {"num_feats": 64, "num_blocks": 16}, 1_556_644),
        ("addersr_edsr", 4, {"num_feats": 64, "num_blocks": 16}, 1_519_716),
    ],
    ids=str,
)
def test_parameters_are_as_many_as_the_specification_counts(name, scale, config, count):
    with torch.device("meta"):
        assert params(create_model(name, scale, **config)) == count


def test_vdsr_has_18_units_and_edsr_65_adder_layers_without_bias():
    with torch.device("meta"):
        vdsr, edsr, b = (
            create_model(*args) for args in (("addersr_vdsr", 2), ("addersr_edsr", 4), ("addersr_edsr", 4))
        )
        b = create_model("addersr_edsr", 4, variant="B")
    assert len(adder_layers(vdsr)) == 18
    assert len(adder_layers(edsr)) == 65
    assert len(adder_layers(b)) == 67
    assert {tuple(layer.weight.shape) for layer in adder_layers(vdsr).values()} == {(64, 64, 3, 3)}
    convs = [name for name, m in edsr.named_modules() if isinstance(m, nn.Conv2d)]
    assert convs == ["head.0", "tail.0.0", "tail.0.2", "tail.1"]
    assert [name for name, m in b.named_modules() if isinstance(m, nn.Conv2d)] == ["head.0", "tail.1"]


def test_names_of_adder_weights_and_of_nothing_else_contain_adder():
    for name in ("addersr_vdsr", "addersr_edsr"):
        for layer in ("adder", "difference", "conv"):
            model = small(name, layer=layer)
            named = {n for n, _ in model.named_parameters() if "adder" in n}
            assert named == {f"{n}.weight" for n in adder_layers(model)}
            assert bool(named) == (layer != "conv")


def test_adder_weights_start_as_n_0_1_and_convolutions_as_he():
    torch.manual_seed(0)
    model = create_model("addersr_vdsr", 2, num_feats=32, num_layers=5)
    w = torch.cat([layer.weight.flatten() for layer in adder_layers(model).values()]).detach()
    assert abs(w.mean()) < 4 / len(w) ** 0.5
    assert abs(w.std() - 1) < 4 / (2 * len(w)) ** 0.5
    assert model.tail.weight.detach().std() == pytest.approx(0.1 * (2 / (9 * 32)) ** 0.5, rel=0.15)


@pytest.mark.parametrize("name", ["vdsr", "addersr_vdsr"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_vdsr_adds_detail_to_the_upscaled_luma(name, scale):
    model = small(name, scale).double().eval()
    x = rand(2, 3, 7, 5, low=0.2, high=0.8)
    up = imresize(x, scale) if scale > 1 else x
    y = model(x)
    plane = luma(up)[:, None] / 255
    close(luma(y)[:, None] / 255, plane + model.detail(plane), 1e-12)
    chroma = torch.tensor([[-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], dtype=torch.float64)
    close(torch.einsum("kc,nchw->nkhw", chroma, y), torch.einsum("kc,nchw->nkhw", chroma, up), 1e-12)
    gray = x[:, :1]
    gray_up = imresize(gray, scale) if scale > 1 else gray
    close(model(gray), gray_up + model.detail(gray_up), 1e-12)


def test_the_weights_of_vdsr_serve_every_scale():
    model = small(scale=1).eval()
    other = small(scale=3).eval()
    other.load_state_dict(model.state_dict())
    x = rand(1, 1, 5, 6).float()
    torch.testing.assert_close(other(x), model(imresize(x, 3)))


def edsr_restated(p: dict[str, Tensor], x: Tensor, blocks: int, res_scale: float, scale: int) -> Tensor:
    """EDSR from its description, under the released names, on 0..255."""

    def conv(name: str, t: Tensor) -> Tensor:
        return F.conv2d(t, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    mean = (255 * torch.tensor([0.4488, 0.4371, 0.4040])).double()[:, None, None]
    head = f = conv("head.0", x * 255 - mean)
    for k in range(blocks):
        f = f + res_scale * conv(f"body.{k}.body.2", conv(f"body.{k}.body.0", f).relu())
    f = conv(f"body.{blocks}", f) + head
    for k, r in enumerate({2: [2], 3: [3], 4: [2, 2]}[scale]):
        f = F.pixel_shuffle(conv(f"tail.0.{2 * k}", f), r)
    return (conv("tail.1", f) + mean) / 255


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsr_computes_what_its_description_says(scale):
    torch.manual_seed(0)
    model = create_model("edsr", scale, num_feats=8, num_blocks=3).double()
    x = rand(2, 3, 5, 7, low=0)
    close(model(x), edsr_restated(dict(model.named_parameters()), x, 3, 0.1, scale), 1e-12)
    assert create_model("edsr_baseline", scale, num_feats=4, num_blocks=1).body[0].res_scale == 1


def test_edsr_takes_the_names_of_the_released_files():
    names = set(create_model("edsr_baseline", 4).state_dict())
    spec = {"head.0", "body.16", "tail.0.0", "tail.0.2", "tail.1", "sub_mean", "add_mean"}
    spec |= {f"body.{k}.body.{i}" for k in range(16) for i in (0, 2)}
    assert names == {f"{layer}.{kind}" for layer in spec for kind in ("weight", "bias")}


def test_adder_edsr_is_edsr_with_units():
    model = small("addersr_edsr", 3).double().train()
    x = rand(2, 3, 6, 5, low=0)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double()[:, None, None]
    head = f = model.head[0](x - mean)
    for k in range(2):
        one, two = model.body[k].body
        assert (one.steps, two.steps) == (STEPS, ("bn", "shortcut", "power"))
        f = f + 0.1 * unit_restated(two, unit_restated(one, f, " ".join(one.steps)), " ".join(two.steps))
    end = model.body[2]
    assert end.steps == ("bn", "shortcut", "power")
    f = unit_restated(end, f, " ".join(end.steps)) + head
    y = model.tail[1](F.pixel_shuffle(model.tail[0][0](f), 3)) + mean
    close(model(x), y, 1e-9)


def test_variants_and_options_of_adder_edsr():
    b = small("addersr_edsr", 4, variant="B")
    assert [m.steps for m in b.tail[0] if isinstance(m, AdderUnit)] == [("bn",), ("bn",)]
    assert b(torch.rand(1, 3, 4, 5)).shape == (1, 3, 16, 20)
    with pytest.raises(ValueError, match=r"variant must be 'A' .* or 'B' .*, got 'C'"):
        small("addersr_edsr", variant="C")
    with pytest.raises(ValueError, match=r"num_layers must be at least 3 .*, got 2"):
        small(num_layers=2)
    with pytest.raises(ValueError, match=r"AdderVDSR takes \(N, 1, H, W\), got \(1, 2, 5, 5\)"):
        small()(torch.zeros(1, 2, 5, 5))


@pytest.mark.parametrize("name", ["addersr_vdsr", "addersr_edsr"])
@pytest.mark.parametrize("config", [{}, {"gradient": "sign"}, {"layer": "difference"}, {"layer": "conv"}], ids=str)
def test_every_parameter_gets_a_finite_gradient(name, config):
    model = small(name, **config)
    loss = (model(torch.rand(2, 3, 7, 6)) - 0.5).abs().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n.endswith(("alpha", "adder.weight")))


def test_the_same_seed_gives_the_same_training():
    def train() -> list[float]:
        model = small()
        optimiser = torch.optim.SGD(model.parameters(), 0.01)
        x, losses = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1)), []
        for step in range(4):
            loss = model(x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            adaptive_lr(model, step)
            optimiser.step()
            losses.append(loss.item())
        return losses

    assert train() == train()


def test_without_normalisation_every_relu_is_dead():
    model = small(steps="relu power").eval()
    x = torch.rand(1, 1, 8, 8)
    first = F.relu(model.head(imresize(x, 2)))
    assert first.max() > 0
    assert model.body[0](first).abs().max() == 0


# --- the local learning rate ------------------------------------------------------------------------------------------


def test_the_local_learning_rate_scales_adder_gradients_to_eta_sqrt_k():
    model = small()
    model(torch.rand(2, 1, 6, 5)).square().mean().backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    adaptive_lr(model, 7)
    for n, p in model.named_parameters():
        if n.removesuffix(".weight") in adder_layers(model):
            assert p.grad.norm().item() == pytest.approx(0.2 * math.sqrt(p.numel()), rel=1e-5)
            torch.testing.assert_close(p.grad / p.grad.norm(), before[n] / before[n].norm())
        else:
            assert torch.equal(p.grad, before[n])
    adaptive_lr(model, eta=0.5)
    assert all(
        layer.weight.grad.norm().item() == pytest.approx(0.5 * math.sqrt(layer.weight.numel()), rel=1e-5)
        for layer in adder_layers(model).values()
    )


def test_a_gradient_of_zero_stays_zero_and_a_missing_one_is_left():
    layer = Adder2d(2, 3)
    adaptive_lr(layer)
    assert layer.weight.grad is None
    layer.weight.grad = torch.zeros_like(layer.weight)
    adaptive_lr(layer)
    assert layer.weight.grad.eq(0).all()
    with pytest.raises(ValueError, match="eta must be positive, got 0"):
        adaptive_lr(layer, eta=0)


def test_adam_takes_the_same_first_step_with_and_without_it():
    steps = []
    for hook in (adaptive_lr, lambda model: None):
        model = small().double()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimiser = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-30)
        model(rand(1, 1, 6, 6, low=0)).square().mean().backward()
        hook(model)
        optimiser.step()
        steps.append({n: p.detach() - before[n] for n, p in model.named_parameters()})
    for n in steps[0]:
        close(steps[0][n], steps[1][n], 1e-12)


# --- int8 -------------------------------------------------------------------------------------------------------------


def test_a_weight_beyond_the_features_range_is_a_constant_and_costs_nothing():
    layer = Adder2d(3, 4).double()
    with torch.no_grad():  # features and weights on the grid, or far outside
        layer.weight.copy_(torch.randint(-200, 300, layer.weight.shape).double() / 100)
    x = torch.randint(0, 128, (2, 3, 6, 5)).double() / 100
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 1.27
    int8 = Int8Adder2d(layer, 0.0, 1.27)
    # one step is 1.27 / 254 = 0.005, so all values lie on the grid, and the zero point is 127 steps up
    close(int8(x), layer(x), 1e-4)  # scale and sums in float32
    assert int8.weight.dtype == torch.int8
    assert int8.bias.abs().max() > 1


@pytest.mark.parametrize("method", ["clamped", "shared"])
def test_int8_differs_by_no_more_than_its_rounding(method):
    layer = Adder2d(4, 5).double()
    x = rand(2, 4, 7, 6, low=-0.5, high=1.5)
    int8 = Int8Adder2d(layer, float(x.min()), float(x.max()), method)
    error = (int8(x) - layer(x)).abs().max()
    # each tap: half a step from the feature, half a step from the weight
    assert 0 < error <= layer.weight[0].numel() * int8.scale
    assert error < 6 * int8.scale * math.sqrt(layer.weight[0].numel() / 6)  # errors of both signs, uniform


def test_clamped_int8_has_the_finer_grid():
    layer = Adder2d(4, 4)
    steps = [Int8Adder2d(layer, 0.0, 1.0, method).scale for method in ("clamped", "shared")]
    assert steps[0] == 1 / 254
    assert steps[1] == pytest.approx(float(layer.weight.detach().abs().max()) / 127)


@pytest.mark.parametrize("name", ["addersr_vdsr", "addersr_edsr"])
def test_an_int8_network_is_close_to_its_float_one_and_leaves_it_alone(name, natural):
    x = natural(17, 14, 2).float()
    model = with_statistics(small(name), x)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(x)
    change = {}
    for method in ("clamped", "shared"):
        int8 = to_int8(model, [x[:1], x[1:]], method)
        assert not adder_layers(int8)
        assert not any(p.requires_grad for p in int8.parameters())
        change[method] = float((int8(x) - expected).detach().square().mean().sqrt())
    # of the output's own spread; the weights span -4 to 4 here, several times the features' range
    assert change["clamped"] < 0.05 * expected.std()
    assert change["clamped"] < change["shared"] / 3
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), expected)


def test_ranges_are_those_of_all_images():
    model = small().eval()
    images = [torch.rand(1, 1, 6, 6), torch.rand(2, 1, 5, 9)]
    both, one = input_ranges(model, images), input_ranges(model, images[:1])
    assert set(both) == set(adder_layers(model))
    assert all(both[n][0] <= one[n][0] <= one[n][1] <= both[n][1] for n in both)
    x = F.relu(model.head(imresize(images[0], 2))).detach()
    assert one["body.0.adder"] == pytest.approx((float(x.min()), float(x.max())))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_calibration_without_data_and_other_misuse_is_refused():
    model = small()
    with pytest.raises(ValueError, match=r"images is empty, .*body\.0\.adder: calibration needs at least one"):
        to_int8(model, [])
    with pytest.raises(ValueError, match="method must be 'clamped' or 'shared', got 'int4'"):
        to_int8(model, [torch.rand(1, 1, 5, 5)], "int4")
    with pytest.raises(ValueError, match="VDSR has no adder layers to convert"):
        to_int8(small("vdsr"), [torch.rand(1, 1, 5, 5)])
    with pytest.raises(ValueError, match=r"the input of body\.0\.adder is not finite: nan"):
        to_int8(model, [torch.full((1, 1, 5, 5), math.nan)])


def test_both_vdsrs_are_one_frame():
    assert isinstance(small("vdsr"), LumaResidual)
    assert isinstance(small(), LumaResidual)
