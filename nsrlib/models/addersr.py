"""AdderSR (Song et al., CVPR 2021, arXiv 2009.08891): VDSR and EDSR built from adder layers, same shapes.

The unit is ``adder -> batch normalisation -> + input -> ReLU -> power activation``, the order that its authors gave in
huawei-noah/AdderNet issues 47, 52 and 67; Eq. 7 of the paper leaves the normalisation out. First and last layer stay
convolutions (issue 60). No code was ever released, so parameter names are ours; those of adder weights contain
``adder``, for learning rates of their own: Adam moves a weight by about the learning rate in a step, and adder weights
start at size 1, not 0.05.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import ops
from nsrlib.models.baselines import EDSRFrame, LumaResidual, ScaledResidual, conv3x3

Gradient = Literal["adder", "sign"]

STEPS = ("bn", "shortcut", "relu", "power")

LAYERS = ("adder", "difference", "conv")
ALPHA_RANGE = (0.1, 4.0)
MAX_SLOPE = 10.0


class _Power(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, alpha: Tensor) -> Tensor:
        a = alpha.clamp(*ALPHA_RANGE)
        p = y.sign() * y.abs().pow(a)
        ctx.save_for_backward(y, alpha, p)
        return p

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        y, alpha, p = ctx.saved_tensors
        a = alpha.clamp(*ALPHA_RANGE)
        # |y| = 0 counts as the least normal number: a power of it is 0, 1 or clamped, and 0 times its logarithm is 0
        log = y.abs().clamp_min(torch.finfo(y.dtype).tiny).log()
        dy = da = None
        if ctx.needs_input_grad[0]:
            dy = grad * (a * ((a - 1) * log).exp()).clamp_max(MAX_SLOPE)
        if ctx.needs_input_grad[1]:
            total = (grad * p * log).sum(dtype=torch.promote_types(y.dtype, torch.float32))
            # outside its range alpha acts as the nearest end, and only a step back inside is a gradient
            outwards = ((alpha > ALPHA_RANGE[1]) & (total < 0)) | ((alpha < ALPHA_RANGE[0]) & (total > 0))
            da = total.masked_fill(outwards, 0).to(alpha.dtype)
        return dy, da


def power_activation(y: Tensor, alpha: Tensor | float) -> Tensor:
    """``sgn(y) |y|**alpha`` (Eq. 11), with gradients that are finite everywhere.

    Plain autograd gives NaN at 0, of which a ReLU makes plenty. Here ``dP/dy`` is ``alpha |y|**(alpha - 1)``, at most
    :data:`MAX_SLOPE`; ``dP/dalpha = P log |y|`` is 0 at 0. Differentiable once.

    A tensor alpha outside :data:`ALPHA_RANGE` acts as the nearest end, a number there is refused.
    """
    if not isinstance(alpha, Tensor):
        alpha = torch.tensor(_check_alpha(alpha), device=y.device, dtype=torch.float64)
    if alpha.numel() != 1:
        raise ValueError(f"alpha must have one element (one scalar a layer), got shape {tuple(alpha.shape)}")
    return _Power.apply(y, alpha.reshape(()))


def _check_alpha(alpha: float) -> float:
    low, high = ALPHA_RANGE
    if not low <= alpha <= high:
        raise ValueError(f"alpha must be in [{low}, {high}], got {alpha}")
    return float(alpha)


POWER_OPERATIONS = 8
"""Multiply-adds of ``exp(alpha log y)`` in float32: two polynomials of degree 4. An assumption; in int8 the activation
is a table of 256 entries and is counted as free."""


class PowerActivation(nn.Module):
    """:func:`power_activation` with one learnable ``alpha`` (a scalar: no weight decay falls on it)."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(_check_alpha(alpha)))

    def forward(self, y: Tensor) -> Tensor:
        return power_activation(y, self.alpha)

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"power activation": (POWER_OPERATIONS * y.numel(),) * 2}


class Adder2d(nn.Module):
    """Adder layer ``-sum |x - w|``, weights from N(0, 1), no bias; see :func:`nsrlib.ops.adder2d`.

    ``tau`` (beyond the paper): the input gradient is ``HardTanh(tau (w - x))``: 1 is AdderNet's, infinity the sign.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1, gradient: Gradient = "adder"
    ) -> None:
        super().__init__()
        if gradient not in ("adder", "sign"):
            raise ValueError(f"gradient must be 'adder' or 'sign', got {gradient!r}")
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.stride, self.padding, self.gradient = stride, padding, gradient
        self.tau = 1.0

    @property
    def taps(self) -> int:
        """Pairs of additions for each output element; for :func:`nsrlib.complexity.count`."""
        return self.weight[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        adder = partial(ops.adder2d, stride=self.stride, padding=self.padding, gradient=self.gradient)
        if self.tau == 1 or not torch.is_grad_enabled():
            return adder(x, self.weight)
        # |tau x - tau w| / tau; the weight's own gradient stays sum G (x - w)
        return adder(self.tau * x, self.weight + (self.tau - 1) * self.weight.detach()) / self.tau


class DifferenceAdder2d(nn.Module):
    """Half the difference of two adder filters, ``(y+ - y-) / 2``. Beyond the paper.

    On bounded inputs it contains every filter with taps in {-1, 0, 1}, the identity among them
    (:func:`nsrlib.papers.addersr.theorems.difference_filters`), for twice the additions.
    """

    def __init__(self, c_in: int, c_out: int, gradient: Gradient = "adder") -> None:
        super().__init__()
        self.adder = Adder2d(c_in, 2 * c_out, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        plus, minus = self.adder(x).chunk(2, 1)
        return (plus - minus) / 2


def adder_layers(model: nn.Module) -> dict[str, Adder2d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Adder2d)}


def set_tau(model: nn.Module, tau: float) -> None:
    """Set the slope of the input gradient in every adder layer."""
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    for layer in adder_layers(model).values():
        layer.tau = float(tau)


def annealed_tau(network: nn.Module, recipe: Any, first: float = 1.0, last: float = 4.0) -> dict[str, Any]:
    """``tau`` from ``first`` to ``last`` in equal steps over the training; a ``setup`` of a study."""
    span = max(1, recipe.iterations - 1)
    set_tau(network, min(first, last))  # refuses what is not positive before training begins
    return {"before_forward": lambda model, step: set_tau(model, first + (last - first) * step / span)}


def adaptive_lr(model: nn.Module, step: int = 0, *, eta: float = 0.2) -> None:
    """AdderNet's adaptive local learning rate: ``g <- eta sqrt(K) g / ||g||`` for each adder layer of K weights.

    A ``before_step`` hook of :func:`nsrlib.training.fit`; it asks for SGD, because Adam undoes a layer's common factor.
    ``eta`` is 0.2 by the authors (issues 17 and 53).
    """
    if not eta > 0:
        raise ValueError(f"eta must be positive, got {eta}")
    for layer in adder_layers(model).values():
        g = layer.weight.grad
        if g is not None:
            g.mul_(eta * g.numel() ** 0.5 / g.norm().clamp_min(1e-12))


class AdderUnit(nn.Module):
    """One unit, ``(N, c_in, H, W)`` to ``(N, c_out, H, W)``. The options are the paper's ablations.

    Args:
        steps: what follows the adder, in order, out of ``bn shortcut relu power``, the paper's unit. ``power bn
            shortcut relu`` is the order of EAdderSR.
        layer: ``adder``; ``difference`` (:class:`DifferenceAdder2d`); ``conv``, the control.
        gradient: of the adder, ``adder`` (full precision and HardTanh) or ``sign`` (the derivative).
        alpha: of the power activation at the start.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        steps: str = "bn shortcut relu power",
        layer: str = "adder",
        gradient: Gradient = "adder",
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self.steps = tuple(steps.split())
        if not set(self.steps) <= set(STEPS) or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"steps must be some of {', '.join(STEPS)}, each at most once, got {steps!r}")
        if layer not in LAYERS:
            raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")
        if "shortcut" in self.steps and c_in != c_out:
            raise ValueError(f"a self-shortcut needs as many output as input channels, got {c_in} and {c_out}")
        # a convolution must not take the learning rate of the adder weights, which goes by the name
        self.adder: nn.Module | None = None
        self.conv: nn.Module | None = None
        if layer == "conv":
            self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        else:
            kind = Adder2d if layer == "adder" else DifferenceAdder2d
            self.adder = kind(c_in, c_out, gradient=gradient)
        self.bn = nn.BatchNorm2d(c_out) if "bn" in self.steps else None
        self.power = PowerActivation(alpha) if "power" in self.steps else None

    def forward(self, x: Tensor, note: Callable[[str, Tensor], object] = lambda step, y: None) -> Tensor:
        layer = "conv" if self.adder is None else "adder"
        y = getattr(self, layer)(x)
        note(layer, y)
        for step in self.steps:
            if step == "shortcut":
                y = y + x
            elif step == "relu":
                y = F.relu(y)
            else:
                y = getattr(self, step)(y)
            note(step, y)
        return y

    def trace(self, x: Tensor) -> dict[str, Tensor]:
        """What every step leaves: ``adder`` (or ``conv``), then the names of :attr:`steps`."""
        left: dict[str, Tensor] = {}
        self(x, left.__setitem__)
        return left

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"self-shortcut": (0, y.numel())} if "shortcut" in self.steps else {}


class AdderVDSR(LumaResidual):
    """VDSR whose middle layers are adder units: 667,091 parameters.

    ``steps``, ``layer``, ``gradient``, ``alpha``: of every :class:`AdderUnit`.
    """

    def __init__(
        self,
        scale: int = 4,
        num_feats: int = 64,
        num_layers: int = 20,
        steps: str = "bn shortcut relu power",
        layer: str = "adder",
        gradient: Gradient = "adder",
        alpha: float = 1.0,
    ) -> None:
        unit = (num_feats, num_feats, steps, layer, gradient, alpha)
        super().__init__(scale, num_feats, num_layers, lambda: AdderUnit(*unit))


class AdderEDSR(EDSRFrame):
    """EDSR whose blocks (variant A), or blocks and upsampler (variant B), are adder units.

    Which of the two the paper used was not found. Its energy ratio in the abstract is that of B, the one in arXiv's
    listing that of A.

    Args:
        num_feats, num_blocks, res_scale: 64, 16 and 1 give the adder twin of ``edsr_baseline``.
        variant: ``A`` or ``B``. B's upsampler is adder and normalisation only: from c to 4c or 9c channels there is no
            self-shortcut, and EDSR has no activation there.
        steps, layer, gradient, alpha: of every :class:`AdderUnit`.
    """

    def __init__(
        self,
        scale: int = 4,
        num_feats: int = 256,
        num_blocks: int = 32,
        res_scale: float = 0.1,
        variant: str = "A",
        steps: str = "bn shortcut relu power",
        layer: str = "adder",
        gradient: Gradient = "adder",
        alpha: float = 1.0,
    ) -> None:
        if variant not in ("A", "B"):
            raise ValueError(f"variant must be 'A' (upsampler of convolutions) or 'B' (of adders), got {variant!r}")
        c, options = num_feats, (layer, gradient, alpha)
        linear = " ".join(step for step in steps.split() if step != "relu")
        blocks = [
            ScaledResidual(res_scale, AdderUnit(c, c, steps, *options), AdderUnit(c, c, linear, *options))
            for _ in range(num_blocks)
        ]

        def upsampling(c_in: int, c_out: int) -> nn.Module:
            return conv3x3(c_in, c_out) if variant == "A" else AdderUnit(c_in, c_out, "bn", *options)

        # range 1, because adder weights start at size 1 and compare themselves with the features
        super().__init__(scale, c, [*blocks, AdderUnit(c, c, linear, *options)], 1.0, upsampling)


class Int8Adder2d(nn.Module):
    """An :class:`Adder2d` on int8 features and weights that share one grid; inference only.

    Args:
        low, high: range of its input, as calibrated; 0 (the padding) is always taken in.
        method: ``shared``: one symmetric scale for the larger of features and weights (Wang et al., arXiv 2101.10015).
            ``clamped``: scale and zero point are the features': a zero point that both share cancels in ``|x - w|``,
            and a weight beyond the features' range differs from its end by a constant, kept in a bias.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Adder2d, low: float, high: float, method: str = "clamped") -> None:
        super().__init__()
        w = layer.weight.detach()
        low, high = min(low, 0.0), max(high, 0.0)
        if method == "clamped":
            self.zero = (low + high) / 2
            self.scale = (high - low) / 254 or 1.0
            inside = w.clamp(low, high)
        else:
            self.zero = 0.0
            self.scale = max(-low, high, float(w.abs().max())) / 127 or 1.0
            inside = w
        self.stride, self.padding = layer.stride, layer.padding
        self.register_buffer("weight", self._grid(inside))
        self.register_buffer("bias", -(w - inside).abs().sum((1, 2, 3))[:, None, None])

    def _grid(self, x: Tensor) -> Tensor:
        return ((x - self.zero) / self.scale).round_().clamp_(-128, 127).to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        q = self._grid(F.pad(x, (self.padding,) * 4))
        return (ops.adder2d_int8(q, self.weight, self.stride, 0, scale=self.scale) + self.bias).to(x.dtype)


@torch.no_grad()
def to_int8(model: nn.Module, images: Iterable[Tensor], method: str = "clamped") -> nn.Module:
    """A copy of a trained network whose adder layers run in int8; everything else stays as it is.

    Args:
        images: inputs ``(N, C, H, W)`` to calibrate on (:func:`input_ranges`); values beyond saturate later.
        method: see :class:`Int8Adder2d`.
    """
    if method not in ("clamped", "shared"):
        raise ValueError(f"method must be 'clamped' or 'shared', got {method!r}")
    quantised = copy.deepcopy(model).eval()
    layers = adder_layers(quantised)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no adder layers to convert")
    ranges = input_ranges(quantised, images)
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(quantised.get_submodule(parent), child, Int8Adder2d(layer, *ranges[name], method))
    return quantised.requires_grad_(False)


@torch.no_grad()
def input_ranges(model: nn.Module, images: Iterable[Tensor]) -> dict[str, tuple[float, float]]:
    """Smallest and largest input of every adder layer over ``images``, by the layer's name. Evaluation mode."""
    layers, seen = adder_layers(model), dict[str, tuple[float, float]]()

    def note(name: str, x: Tensor) -> None:
        low, high = (float(v) for v in x.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"the input of {name} is not finite: {low} to {high}")
        before = seen.get(name, (low, high))
        seen[name] = min(low, before[0]), max(high, before[1])

    with ExitStack() as undo:
        undo.callback(model.train, model.training)
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
            undo.enter_context(hook)
        model.eval()
        for x in images:
            model(x)
    if missing := layers.keys() - seen.keys():
        first = min(missing)
        raise ValueError(f"images is empty, or never reaches {first}: calibration needs at least one (N, C, H, W)")
    return seen
