"""Parameters, multiply-adds, activations, energy: counted layer by layer, under a rule that is always named.

Tools disagree about biases, poolings and Linear layers, so that three rules are offered, see :data:`RULES`. An adder
layer has no multiplications: a tap is a subtraction and an addition (``abs`` drops a sign bit and is free), and no rule
counts it among the multiply-adds. :func:`energy` turns both into millijoules as AdderSR does, :func:`energy_breakdown`
adds what that leaves out.

A layer says itself what only it does, by any of: ``taps``, pairs of additions for each output element (adder layers);
``copies``, a factor on the multiply-adds of a convolution; ``extra_operations(x, y)``, after a call from x to y, origin
(:data:`EXTRAS`) -> (multiplications, additions) that the papers' rule leaves out; ``within_extras``, layers inside it
whose work is part of those.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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

    A multiply-add of convolutions and Linear layers is one multiplication and one addition; a tap of an adder layer is
    two additions. ``traffic`` is what convolutions, Linear and adder layers read and write when each runs on its own:
    inputs, outputs and weights once. What lies between two of them is taken as fused into the first.
    """

    params: int
    multiplications: int
    additions: int
    activations: int  # output elements of convolutions, Linear and adder layers ("challenge": of convolutions alone)
    convs: int  # calls of them
    multi_adds: int  # the single number that papers print, under the rule
    rule: str  # of RULES
    input_size: tuple[int, int]  # (H, W), low resolution
    layers: tuple[dict[str, Any], ...]  # a call each: name, type, output shape, params, multi_adds, activations
    extras: dict[str, tuple[int, int]]  # multiplications and additions that papers leave out, by origin (EXTRAS)
    traffic: int  # elements

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

    Example:
        >>> print(count(nn.Conv2d(3, 8, 3, padding=1, bias=False), (10, 20)))
        216 parameters, 0.000 G multiply-adds (macs, input 20x10)
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    size = lr_size(int(getattr(model, "scale", 1))) if input_size is None else input_size
    if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
        raise ValueError(f"input_size must be two positive numbers (H, W), got {input_size}")
    size = (int(size[0]), int(size[1]))
    if not any(True for _ in model.parameters()) and any(True for _ in model.buffers()):
        raise ValueError(f"{type(model).__name__} is a fused form; count the network that it was made from")
    rows: list[dict[str, Any]] = []
    extras = {kind: [0, 0] for kind in EXTRAS}
    ghost = copy.deepcopy(model).to("meta").eval()
    within = {layer for m in ghost.modules() for layer in getattr(m, "within_extras", ())}
    for name, m in ghost.named_modules():
        if (isinstance(m, nn.Conv2d) or not any(True for _ in m.children())) and m not in within:
            m.register_forward_hook(partial(_record, rows, name))
        m.register_forward_hook(partial(_add_extras, extras))
    with torch.inference_mode():
        ghost(torch.empty(1, channels, *size, device="meta"))

    for r in rows:
        linear = isinstance(r["module"], nn.Linear)
        r["counted"] = r["type"] == "Conv2d" or (bool(linear or r["taps"]) and rule != "challenge")
    convs = [r for r in rows if r["counted"]]
    macs = sum(r["macs"] for r in rows)
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
            {key: r[key] for key in ("name", "type", "output", "params")}
            | {"multi_adds": _by_rule(r, rule), "activations": r["elements"] if r["counted"] else 0}
            for r in rows
        ),
        extras={kind: (n[0], n[1]) for kind, n in extras.items()},
        traffic=sum(math.prod(r["input"]) + r["elements"] + r["params"] for r in rows if r["macs"] or r["taps"]),
    )


def _record(rows: list[dict[str, Any]], name: str, module: nn.Module, args: Any, out: Tensor) -> None:
    """A hook, after its first two arguments."""
    per_element = 0
    if isinstance(module, nn.Conv2d):
        taps_of_filter = module.in_channels // module.groups * math.prod(module.kernel_size)
        per_element = taps_of_filter * getattr(module, "copies", 1)
    elif isinstance(module, nn.Linear):
        per_element = module.in_features
    rows.append(
        {
            "name": name,
            "type": "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__,
            "module": module,
            "input": tuple(args[0].shape),
            "output": tuple(out.shape),
            "elements": out.numel(),
            "params": sum(p.numel() for p in module.parameters(recurse=False)),
            "macs": out.numel() * per_element,
            "taps": out.numel() * getattr(module, "taps", 0),
        }
    )


def _by_rule(row: dict[str, Any], rule: str) -> int:
    module, n = row["module"], row["elements"]
    if rule == "thop":
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return row["input"][1] * (math.prod(row["input"][2:]) + 1)
        if isinstance(module, nn.LeakyReLU):
            return n
        return row["macs"] + (n if isinstance(module, nn.Conv2d) and module.bias is not None else 0)
    if rule == "challenge":
        if isinstance(module, (nn.ReLU, nn.LeakyReLU)):
            return n
        if isinstance(module, nn.Linear):
            return row["output"][0] * row["output"][2] ** 2
    return row["macs"]


def _add_extras(extras: dict[str, list[int]], module: nn.Module, args: Any, out: Tensor) -> None:
    """A hook, after its first argument."""
    if not isinstance(out, Tensor):  # a network that also returns its intermediate images
        return
    found: dict[str, tuple[int, int]] = {}
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        found["bias"] = 0, out.numel()
    elif isinstance(module, nn.BatchNorm2d):
        found["batch normalisation"] = out.numel(), out.numel()
    if hasattr(module, "extra_operations"):
        found |= module.extra_operations(args[0], out)  # type: ignore[operator]
    for kind, (multiplications, additions) in found.items():
        extras[kind][0] += multiplications
        extras[kind][1] += additions


PICOJOULES = {"float32": {"add": 0.9, "multiply": 3.7}, "int8": {"add": 0.03, "multiply": 0.2}}
"""Energy of one operation at 45 nm (Horowitz, ISSCC 2014), as the AdderNet group uses it (arXiv 2112.07326)."""

INT32_ADD = 0.1  # picojoules (the same table): what adding up hundreds of int8 terms really takes
DRAM_BYTE = 160.0  # picojoules: 1.3 nJ for 64 bits, the lower end of the same table (recalled)

EXTRAS = ("bias", "batch normalisation", "self-shortcut", "residuals", "power activation", "gates")
"""What the papers' rule does not count, and :func:`energy_breakdown` does, where there is one."""

PIXELS_720P = (960, 960)
"""A square with exactly the pixels of 1280x720 that 2, 3 and 4 divide: no fractions of pixels at x3."""


def energy(complexity: Complexity, dtype: str = "float32") -> float:
    """Millijoules of additions and multiplications, the papers' rule: no memory, no normalisation, no activations.

    Example:
        >>> layer = count(nn.Conv2d(3, 64, 3, padding=1), (1000, 1000))
        >>> round(energy(layer), 3)  # 1.728 G multiply-adds of 4.6 pJ
        7.949
    """
    return _millijoules(complexity.multiplications, complexity.additions, dtype)


def _millijoules(multiplications: float, additions: float, dtype: str) -> float:
    if dtype not in PICOJOULES:
        raise ValueError(f"dtype must be one of {', '.join(PICOJOULES)}, got {dtype!r}")
    return (multiplications * PICOJOULES[dtype]["multiply"] + additions * PICOJOULES[dtype]["add"]) * 1e-9


def energy_breakdown(complexity: Complexity, dtype: str = "float32") -> dict[str, float]:
    """Millijoules by origin: ``arithmetic`` (:func:`energy`), then what it leaves out.

    :data:`EXTRAS`; in int8 also ``wide sums``, the difference between adding up in int32 and the rule's int8 additions;
    and ``memory``, :attr:`Complexity.traffic` from and to DRAM, 4 bytes or 1 an element, each layer on its own.
    Normalising cannot be folded into an adder, as into a convolution, because ``|x - w|`` does not scale with ``w``.
    """
    parts = {"arithmetic": energy(complexity, dtype)}
    for kind, (multiplications, additions) in complexity.extras.items():
        free = kind == "power activation" and dtype == "int8"
        parts[kind] = 0.0 if free else _millijoules(multiplications, additions, dtype)
    # one sum a multiply-add, one a tap of two additions
    sums = complexity.multiplications + (complexity.additions - complexity.multiplications) // 2
    parts["wide sums"] = sums * (INT32_ADD - PICOJOULES[dtype]["add"]) * 1e-9 if dtype == "int8" else 0.0
    parts["memory"] = complexity.traffic * DRAM_BYTE * (1 if dtype == "int8" else 4) * 1e-9
    return parts
