"""Parameters, multiply-adds, activations, energy: counted layer by layer, under a rule that is always named.

Papers print numbers that cannot be compared, because tools disagree about biases, poolings and Linear layers. Three
rules are offered, see :data:`RULES`; the notebook shows which one reproduces which table.

Adder layers have no multiplications: a tap is a subtraction and an addition (``abs`` drops a sign bit and is free), and
none of the three rules counts it among the multiply-adds. :func:`energy` turns additions and multiplications into
millijoules as AdderSR does, :func:`energy_breakdown` adds what that leaves out.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nsrlib.models import create_model
from nsrlib.models.addersr import Adder2d, AdderUnit, PowerActivation
from nsrlib.models.baselines import EDSRFrame, LumaResidual, ScaledResidual, WideBlock, WideFrame
from nsrlib.models.nsr import MixedConv2d, gated_layers

if TYPE_CHECKING:
    import pandas as pd

RULES = {
    "macs": "multiply-adds of convolutions and Linear layers; nothing for biases, activations, pooling, resizing, adds "
    "(nor for the gates of NSR, which are among the extras)",
    "thop": "thop 0.0.31: macs, plus one per output element of a biased convolution, per element of LeakyReLU modules, "
    "and C(HW+1) for global average pooling. The rule behind the multiply-adds of BSRN and many of its peers.",
    "challenge": "NTIRE 2022 model_summary: macs of convolutions, plus one per element of ReLU and LeakyReLU modules; "
    "Linear as N*H*H, because its hook multiplies the wrong axes of a 4-D tensor; the activations and layers are "
    "those of Conv2d only",
}
"""What each counting rule counts."""


@dataclass(frozen=True)
class Complexity:
    """Result of :func:`count`.

    Attributes:
        params: every parameter.
        multiplications, additions: a multiply-add of convolutions and Linear layers is one of each, a tap of an adder
            layer is two additions.
        activations: output elements of convolutions, Linear and adder layers (``challenge``: of convolutions alone).
        convs: calls of convolutions (likewise).
        multi_adds: the single number that papers print, under ``rule``.
        rule: key of :data:`RULES`.
        input_size: ``(H, W)`` of the low-resolution input.
        layers: one dict per call: name, type, output shape, params, multi_adds, activations (0 where not counted).
        extras: multiplications and additions that the papers' rule leaves out, by origin (:data:`EXTRAS`).
        traffic: elements that convolutions, Linear and adder layers read and write when each runs on its own: inputs,
            outputs and weights once. What lies between two of them is taken as fused into the first.
    """

    params: int
    multiplications: int
    additions: int
    activations: int
    convs: int
    multi_adds: int
    rule: str
    input_size: tuple[int, int]
    layers: tuple[dict[str, Any], ...]
    extras: dict[str, tuple[int, int]]
    traffic: int

    def __str__(self) -> str:
        h, w = self.input_size
        return f"{self.params:,} parameters, {self.multi_adds / 1e9:.3f} G multiply-adds ({self.rule}, input {w}x{h})"


def lr_size(scale: int, hr_size: tuple[int, int] = (720, 1280)) -> tuple[int, int]:
    """Low-resolution ``(H, W)`` for a 1280x720 output: sides divided and cut (x3: 240x426, as the papers have it)."""
    return hr_size[0] // scale, hr_size[1] // scale


def count(
    model: nn.Module, input_size: tuple[int, int] | None = None, *, rule: str = "macs", channels: int = 3
) -> Complexity:
    """Count the cost of one forward pass. Runs on the meta device: no arithmetic, no memory, any size.

    Args:
        model: a network in its plain form, not that of :func:`nsrlib.models.optimise`; not modified.
        input_size: ``(H, W)`` of the network's input; default :func:`lr_size` of ``model.scale``, the papers' 1280x720.
        rule: one of :data:`RULES`.
        channels: of the input.

    Raises:
        ValueError: unknown rule, an input size that is not two positive numbers, or a fused network.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    size = lr_size(int(getattr(model, "scale", 1))) if input_size is None else (int(input_size[0]), int(input_size[1]))
    if min(size) < 1:
        raise ValueError(f"input_size must be two positive numbers (H, W), got {input_size}")
    if not any(True for _ in model.parameters()) and any(True for _ in model.buffers()):
        raise ValueError(f"{type(model).__name__} is a fused form; count the network that it was made from")
    rows: list[dict[str, Any]] = []
    extras = {kind: [0, 0] for kind in EXTRAS}
    ghost = copy.deepcopy(model).to("meta").eval()
    gating = {layer for mixed in gated_layers(ghost).values() for layer in mixed.mlp}
    handles = [
        m.register_forward_hook(_recorder(name, rows))
        for name, m in ghost.named_modules()
        if (isinstance(m, nn.Conv2d) or not any(True for _ in m.children())) and m not in gating
    ]
    handles += [m.register_forward_hook(_extra_recorder(extras)) for m in ghost.modules()]
    try:
        with torch.inference_mode():
            ghost(torch.empty(1, channels, *size, device="meta"))
    finally:
        for handle in handles:
            handle.remove()

    for r in rows:
        r["counted"] = r["type"] == "Conv2d" or (bool(r["linear"] or r["taps"]) and rule != "challenge")
    convs = [r for r in rows if r["counted"]]
    macs = sum(r["macs"] for r in rows)
    working = [r for r in rows if r["macs"] or r["taps"]]
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        multiplications=macs,
        additions=macs + 2 * sum(r["taps"] for r in rows),
        activations=sum(r["elements"] for r in convs),
        convs=len(convs),
        multi_adds=sum(_by_rule(r, rule) for r in rows),
        rule=rule,
        input_size=size,
        layers=tuple(
            {
                "name": r["name"],
                "type": r["type"],
                "output": r["output"],
                "params": r["params"],
                "multi_adds": _by_rule(r, rule),
                "activations": r["elements"] if r["counted"] else 0,
            }
            for r in rows
        ),
        extras={kind: (n[0], n[1]) for kind, n in extras.items()},
        traffic=sum(math.prod(r["input"]) + r["elements"] + r["params"] for r in working),
    )


def _recorder(name: str, rows: list[dict[str, Any]]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        conv, linear = isinstance(module, nn.Conv2d), isinstance(module, nn.Linear)
        per_element = taps = 0
        if isinstance(module, nn.Conv2d):
            taps_of_filter = module.in_channels // module.groups * math.prod(module.kernel_size)
            per_element = taps_of_filter * getattr(module, "copies", 1)
        elif isinstance(module, nn.Linear):
            per_element = module.in_features
        elif isinstance(module, Adder2d):
            taps = module.weight[0].numel()
        rows.append(
            {
                "name": name,
                "type": "Conv2d" if conv else type(module).__name__,
                "linear": linear,
                "module": module,
                "input": tuple(args[0].shape),
                "output": tuple(out.shape),
                "elements": out.numel(),
                "params": sum(p.numel() for p in module.parameters(recurse=False)),
                "macs": out.numel() * per_element,
                "taps": out.numel() * taps,
            }
        )

    return hook


def _by_rule(row: dict[str, Any], rule: str) -> int:
    module, n = row["module"], row["elements"]
    if rule == "thop":
        if isinstance(module, nn.AdaptiveAvgPool2d):
            _, c, h, w = row["input"]
            return c * (h * w + 1)
        if isinstance(module, nn.LeakyReLU):
            return n
        return row["macs"] + (n if isinstance(module, nn.Conv2d) and module.bias is not None else 0)
    if rule == "challenge":
        if isinstance(module, (nn.ReLU, nn.LeakyReLU)):
            return n
        if row["linear"]:
            return row["output"][0] * row["output"][2] ** 2
        return row["macs"]
    return row["macs"]


def _extra_recorder(extras: dict[str, list[int]]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        def note(kind: str, elements: int, multiplications: int, additions: int) -> None:
            extras[kind][0] += multiplications * elements
            extras[kind][1] += additions * elements

        if not isinstance(out, Tensor):  # a network that also returns its intermediate images
            return
        n = out.numel()
        if isinstance(module, MixedConv2d):
            multiply_adds, pooled = module.overhead(args[0])
            note("gates", 1, multiply_adds, multiply_adds + pooled)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            note("bias", n, 0, 1)
        elif isinstance(module, nn.BatchNorm2d):
            note("batch normalisation", n, 1, 1)
        elif isinstance(module, PowerActivation):
            note("power activation", n, POWER_OPERATIONS, POWER_OPERATIONS)
        elif isinstance(module, AdderUnit):
            note("self-shortcut", n, 0, int("shortcut" in module.steps))
        elif isinstance(module, ScaledResidual):
            note("residuals", n, int(module.res_scale != 1), 1)
        elif isinstance(module, LumaResidual | WideBlock | WideFrame):
            note("residuals", n, 0, 1)
        elif isinstance(module, EDSRFrame):  # the long skip
            note("residuals", n // (3 * module.scale**2) * module.num_feats, 0, 1)

    return hook


# --- energy -----------------------------------------------------------------------------------------------------------

PICOJOULES: dict[str, dict[str, float]] = {
    "float32": {"add": 0.9, "multiply": 3.7},
    "int8": {"add": 0.03, "multiply": 0.2},
}
"""Energy of one operation at 45 nm (Horowitz, ISSCC 2014), as the AdderNet group uses it (arXiv 2112.07326)."""

INT32_ADD = 0.1
"""Picojoules of an int32 addition (the same table): what adding up hundreds of int8 terms really takes."""

DRAM_BYTE = 160.0
"""Picojoules of a byte from DRAM: 1.3 nJ for 64 bits, the lower end of the same table (recalled)."""

EXTRAS = ("bias", "batch normalisation", "self-shortcut", "residuals", "power activation", "gates")
"""What the papers' rule does not count, and :func:`energy_breakdown` does, where there is one."""

POWER_OPERATIONS = 8
"""Multiply-adds of ``exp(alpha log y)`` in float32: two polynomials of degree 4. An assumption; in int8 the activation
is a table of 256 entries and is counted as free."""

PIXELS_720P = (960, 960)
"""A square with exactly the pixels of 1280x720 that 2, 3 and 4 divide: no fractions of pixels at x3."""


def energy(complexity: Complexity, dtype: str = "float32") -> float:
    """Millijoules of additions and multiplications, the papers' rule: no memory, no normalisation, no activations.

    Raises:
        ValueError: ``dtype`` is not a key of :data:`PICOJOULES`.
    """
    return _millijoules(complexity.multiplications, complexity.additions, _prices(dtype))


def _prices(dtype: str) -> dict[str, float]:
    if dtype not in PICOJOULES:
        raise ValueError(f"dtype must be one of {', '.join(PICOJOULES)}, got {dtype!r}")
    return PICOJOULES[dtype]


def _millijoules(multiplications: float, additions: float, prices: dict[str, float]) -> float:
    return (multiplications * prices["multiply"] + additions * prices["add"]) * 1e-9


def energy_breakdown(complexity: Complexity, dtype: str = "float32") -> dict[str, float]:
    """Millijoules by origin: ``arithmetic`` (:func:`energy`), then what it leaves out.

    :data:`EXTRAS`; in int8 also ``wide sums``, the difference between adding up in int32 and the rule's int8 additions;
    and ``memory``, :attr:`Complexity.traffic` from and to DRAM, 4 bytes or 1 an element, each layer on its own.
    Normalising cannot be folded into an adder, as into a convolution, because ``|x - w|`` does not scale with ``w``.
    """
    prices = _prices(dtype)
    parts = {"arithmetic": energy(complexity, dtype)}
    for kind, (multiplications, additions) in complexity.extras.items():
        free = kind == "power activation" and dtype == "int8"
        parts[kind] = 0.0 if free else _millijoules(multiplications, additions, prices)
    # one sum a multiply-add, one a tap of two additions
    sums = complexity.multiplications + (complexity.additions - complexity.multiplications) // 2
    parts["wide sums"] = sums * (INT32_ADD - prices["add"]) * 1e-9 if dtype == "int8" else 0.0
    parts["memory"] = complexity.traffic * DRAM_BYTE * (1 if dtype == "int8" else 4) * 1e-9
    return parts


_TWINS: tuple[tuple[str, str, str, int, dict[str, Any], dict[str, Any]], ...] = (
    ("VDSR", "", "vdsr", 1, {}, {}),
    *(("EDSR", v, "edsr", s, {}, {"variant": v}) for v in "BA" for s in (2, 3, 4)),
    *(
        (
            "EDSR-baseline",
            v,
            "edsr_baseline",
            2,
            {},
            {"variant": v, "num_feats": 64, "num_blocks": 16, "res_scale": 1.0},
        )
        for v in "BA"
    ),
)


@functools.cache
def _pairs() -> list[tuple[dict[str, Any], Complexity, Complexity]]:
    """Convolutional network and adder twin, for one HR output of 1280x720 pixels."""
    found = []
    for model, variant, cnn, scale, plain, options in _TWINS:
        adder = "addersr_vdsr" if cnn == "vdsr" else "addersr_edsr"
        channels = 1 if cnn == "vdsr" else 3
        with torch.device("meta"):
            twins = create_model(cnn, scale, **plain), create_model(adder, scale, **options)
        size = lr_size(scale, PIXELS_720P)
        key = {"model": model, "scale": "any" if cnn == "vdsr" else f"x{scale}", "variant": variant}
        a, b = (count(m, size, channels=channels) for m in twins)
        found.append((key, a, b))
    return found


def energy_table() -> pd.DataFrame:
    """AdderSR's energy comparison by the papers' rule, one 1280x720 output: VDSR (any scale: its input is upscaled) and
    EDSR with the upsampler of adders (variant B) or convolutions (A).

    Columns: model, scale, variant; ``cnn_ops`` (multiplications, and as many additions), ``ann_mul``, ``ann_add`` in G;
    ``cnn_float32``, ``ann_float32``, ``ratio_float32`` in mJ, and the same for int8.
    """
    import pandas as pd

    rows = []
    for key, cnn, ann in _pairs():
        row = key | {
            "cnn_ops": cnn.multiplications / 1e9,
            "ann_mul": ann.multiplications / 1e9,
            "ann_add": ann.additions / 1e9,
        }
        for dtype in PICOJOULES:
            a, b = energy(cnn, dtype), energy(ann, dtype)
            row |= {f"cnn_{dtype}": a, f"ann_{dtype}": b, f"ratio_{dtype}": a / b}
        rows.append(row)
    return pd.DataFrame(rows)


def honest_energy_table(dtype: str = "float32") -> pd.DataFrame:
    """The same pairs with everything in :func:`energy_breakdown`, in mJ; a convolutional and an adder row for each.

    Columns: model, scale, variant, network, the breakdown's parts, ``total``, and three ratios on the adder's row:
    ``ratio`` of the rule, ``ratio_all_arithmetic`` with the extras, ``ratio_with_memory`` of the totals.
    """
    import pandas as pd

    rows = []
    for key, cnn, ann in _pairs():
        a, b = energy_breakdown(cnn, dtype), energy_breakdown(ann, dtype)
        ta, tb = sum(a.values()), sum(b.values())
        ratios = {
            "ratio": a["arithmetic"] / b["arithmetic"],
            "ratio_all_arithmetic": (ta - a["memory"]) / (tb - b["memory"]),
            "ratio_with_memory": ta / tb,
        }
        rows.append(key | {"network": "convolutions"} | a | {"total": ta})
        rows.append(key | {"network": "adders"} | b | {"total": tb} | ratios)
    return pd.DataFrame(rows)
