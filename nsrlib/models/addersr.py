"""AdderSR (Song et al., CVPR 2021, arXiv 2009.08891): VDSR and EDSR built from adder layers.

The unit is ``adder -> batch normalisation -> + input -> ReLU -> power activation``, the order that its authors gave in
huawei-noah/AdderNet issues 47, 52 and 67; Eq. 7 of the paper leaves the normalisation out. First and last layer stay
convolutions (issue 60). No code was ever released, so parameter names are ours; those of adder weights contain
``adder``, for learning rates of their own: with Adam a weight moves by about the learning rate in a step, and adder
weights start at size 1, not 0.05.

Shapes: as :class:`~nsrlib.models.baselines.VDSR` and :class:`~nsrlib.models.baselines.EDSR`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import ops
from nsrlib.models.baselines import EDSRFrame, LumaResidual, ScaledResidual, check_depth, conv3x3

Gradient = Literal["adder", "sign"]

STEPS = ("bn", "shortcut", "relu", "power")
"""What may follow the adder in a unit, in the paper's order."""

LAYERS = ("adder", "difference", "conv")
ALPHA_RANGE = (0.1, 4.0)
MAX_SLOPE = 10.0


# --- power activation -------------------------------------------------------------------------------------------------


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
    :data:`MAX_SLOPE` (for alpha < 1 it is infinite at 0); ``dP/dalpha = P log |y|`` is 0 at 0. Differentiable once.

    Args:
        alpha: a number, or a tensor with one element; a tensor outside :data:`ALPHA_RANGE` acts as the nearest end,
            a number there is refused.
    """
    if isinstance(alpha, Tensor):
        if alpha.numel() != 1:
            raise ValueError(f"alpha must have one element (one scalar a layer), got shape {tuple(alpha.shape)}")
        return _Power.apply(y, alpha.reshape(()))
    return _Power.apply(y, torch.tensor(_check_alpha(alpha), device=y.device, dtype=torch.float64))


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
        return {"power activation": (POWER_OPERATIONS * y.numel(), POWER_OPERATIONS * y.numel())}

    def extra_repr(self) -> str:
        return f"alpha={self.alpha.item():.3f}"


# --- adder layers -----------------------------------------------------------------------------------------------------


class Adder2d(nn.Module):
    """Adder layer ``-sum |x - w|``, weights from N(0, 1), no bias; see :func:`nsrlib.ops.adder2d`.

    Attributes:
        tau: the input gradient is ``HardTanh(tau (w - x))``: 1 is AdderNet's rule, infinity the sign. Beyond the paper;
            :func:`set_tau` anneals it.
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
        if self.tau == 1 or not torch.is_grad_enabled():
            return ops.adder2d(x, self.weight, self.stride, self.padding, gradient=self.gradient)
        # |tau x - tau w| / tau; the weight's own gradient stays sum G (x - w)
        weight = self.weight + (self.tau - 1) * self.weight.detach()
        return ops.adder2d(self.tau * x, weight, self.stride, self.padding, gradient=self.gradient) / self.tau

    def extra_repr(self) -> str:
        c_out, c_in, kernel, _ = self.weight.shape
        return f"{c_in}, {c_out}, kernel={kernel}, gradient={self.gradient}"


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
    """The adder layers of a network by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Adder2d)}


def set_tau(model: nn.Module, tau: float) -> None:
    """Set the slope of the input gradient (:class:`Adder2d`) in every adder layer."""
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    for layer in adder_layers(model).values():
        layer.tau = float(tau)


def annealed_tau(network: nn.Module, recipe: Any, first: float = 1.0, last: float = 4.0) -> dict[str, Any]:
    """``tau`` from ``first`` to ``last`` in equal steps over the training; a ``setup`` of a study. Beyond the paper."""
    span = max(1, recipe.iterations - 1)
    set_tau(network, min(first, last))  # refuses what is not positive before training begins
    return {"before_forward": lambda model, step: set_tau(model, first + (last - first) * step / span)}


def adaptive_lr(model: nn.Module, step: int = 0, *, eta: float = 0.2) -> None:
    """AdderNet's adaptive local learning rate: ``g <- eta sqrt(K) g / ||g||`` for each adder layer, in place.

    K counts the layer's weights, the norm is the whole layer's, at least 1e-12. A ``before_step`` hook of
    :func:`nsrlib.training.fit`; it asks for SGD, because Adam undoes a layer's common factor. ``eta`` is 0.2 by the
    authors (issues 17 and 53).
    """
    if not eta > 0:
        raise ValueError(f"eta must be positive, got {eta}")
    for layer in adder_layers(model).values():
        g = layer.weight.grad
        if g is not None:
            g.mul_(eta * g.numel() ** 0.5 / g.norm().clamp_min(1e-12))


# --- the unit ---------------------------------------------------------------------------------------------------------


class AdderUnit(nn.Module):
    """One unit, ``(N, c_in, H, W)`` to ``(N, c_out, H, W)``. The options are the paper's ablations.

    Args:
        steps: what follows the adder, in order, out of ``bn shortcut relu power``. The paper's unit has all four in
            this order; ``relu`` alone is AdderNet without normalisation; ``shortcut bn relu power`` adds the input too
            early; ``power bn shortcut relu`` is the order of EAdderSR.
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

    def forward(self, x: Tensor) -> Tensor:
        y = (self.adder or self.conv)(x)  # type: ignore[misc]
        for step in self.steps:
            y = self._step(step, y, x)
        return y

    def trace(self, x: Tensor) -> dict[str, Tensor]:
        """The same, with what every step leaves: ``adder`` (or ``conv``), then the names of :attr:`steps`."""
        name = "conv" if self.adder is None else "adder"
        y = getattr(self, name)(x)
        left = {name: y}
        for step in self.steps:
            left[step] = y = self._step(step, y, x)
        return left

    def extra_operations(self, x: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
        return {"self-shortcut": (0, y.numel())} if "shortcut" in self.steps else {}

    def _step(self, step: str, y: Tensor, x: Tensor) -> Tensor:
        if step == "shortcut":
            return y + x
        if step == "relu":
            return F.relu(y)
        return getattr(self, step)(y)

    def extra_repr(self) -> str:
        return " -> ".join(self.steps)


def _without(steps: str, step: str) -> str:
    return " ".join(s for s in steps.split() if s != step)


# --- the networks -----------------------------------------------------------------------------------------------------


class AdderVDSR(LumaResidual):
    """VDSR whose middle layers are adder units: 667,091 parameters.

    Args:
        scale: 1 for input that has been upscaled already; the weights do not depend on it.
        num_layers: layers in all, first and last convolution included.
        steps, layer, gradient, alpha: of every :class:`AdderUnit`.
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
        check_depth(num_layers)
        unit = (num_feats, num_feats, steps, layer, gradient, alpha)
        super().__init__(scale, num_feats, (AdderUnit(*unit) for _ in range(num_layers - 2)))


class AdderEDSR(EDSRFrame):
    """EDSR whose blocks (variant A), or blocks and upsampler (variant B), are adder units.

    Which of the two the paper used was not found. Its energy ratio in the abstract is that of B, the one in arXiv's
    listing that of A. Parameters of A at x2, x3, x4: 40,746,308, 43,696,708, 43,106,628.

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
        linear = _without(steps, "relu")
        blocks = [
            ScaledResidual(res_scale, AdderUnit(c, c, steps, *options), AdderUnit(c, c, linear, *options))
            for _ in range(num_blocks)
        ]

        def upsampling(c_in: int, c_out: int) -> nn.Module:
            return conv3x3(c_in, c_out) if variant == "A" else AdderUnit(c_in, c_out, "bn", *options)

        # range 1, because adder weights start at size 1 and compare themselves with the features
        super().__init__(scale, c, [*blocks, AdderUnit(c, c, linear, *options)], 1.0, upsampling)


# --- int8 inference ---------------------------------------------------------------------------------------------------


class Int8Adder2d(nn.Module):
    """An :class:`Adder2d` on int8 features and weights that share one grid; inference only.

    Args:
        low, high: range of its input, as calibrated; 0 (the padding) is always taken in.
        method: ``shared``: one symmetric scale for the larger of features and weights (Wang et al., arXiv 2101.10015).
            ``clamped``: scale and zero point are those of the features alone, which is exact twice over: a zero point
            that both share cancels in ``|x - w|``, and a weight beyond the features' range differs from the end of that
            range by a constant, kept in a bias.
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
        images: inputs ``(N, C, H, W)`` to calibrate on: the range of every adder layer's input is what they show, and
            values beyond it saturate later.
        method: see :class:`Int8Adder2d`.

    Raises:
        ValueError: no images, no adder layers, an unknown method, or features that are not finite.
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
    """Smallest and largest input of every adder layer over ``images``, by the layer's name. Evaluation mode.

    Raises:
        ValueError: no images, a layer that they never reach, or features that are not finite.
    """
    layers, seen = adder_layers(model), dict[str, tuple[float, float]]()

    def note(name: str, x: Tensor) -> None:
        low, high = (float(v) for v in x.aminmax())
        if not (low > -float("inf") and high < float("inf")):
            raise ValueError(f"the input of {name} is not finite: {low} to {high}")
        before = seen.get(name, (low, high))
        seen[name] = min(low, before[0]), max(high, before[1])

    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, layer in layers.items()
    ]
    training = model.training
    try:
        model.eval()
        for x in images:
            model(x)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if missing := layers.keys() - seen.keys():
        raise ValueError(
            f"images is empty, or never reaches {min(missing)}: calibration needs at least one (N, C, H, W)"
        )
    return seen
