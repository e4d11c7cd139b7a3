"""Parameters, multiply-adds, activations: counted layer by layer, under a rule that is always named.

Papers print numbers that cannot be compared, because tools disagree about biases, poolings and Linear layers. Three
rules are offered, see :data:`RULES`; the notebook shows which one reproduces which table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

RULES = {
    "macs": "multiply-adds of convolutions and Linear layers; nothing for biases, activations, pooling, resizing, adds",
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
        multiplications, additions: of convolutions and Linear layers, as pairs (a multiply-add is one of each).
        activations: output elements of convolutions, Linear layers included unless the rule is ``challenge``.
        convs: calls of convolutions (likewise).
        multi_adds: the single number that papers print, under ``rule``.
        rule: key of :data:`RULES`.
        input_size: ``(H, W)`` of the low-resolution input.
        layers: one dict per call: name, type, output shape, params, multi_adds, activations (0 where not counted).
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
    ghost = copy.deepcopy(model).to("meta").eval()
    handles = [
        m.register_forward_hook(_recorder(name, rows))
        for name, m in ghost.named_modules()
        if not any(True for _ in m.children())
    ]
    try:
        with torch.inference_mode():
            ghost(torch.empty(1, channels, *size, device="meta"))
    finally:
        for handle in handles:
            handle.remove()

    convs = [r for r in rows if r["type"] == "Conv2d" or (r["linear"] and rule != "challenge")]
    macs = sum(r["macs"] for r in rows)
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        multiplications=macs,
        additions=macs,
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
                "activations": r["elements"] if any(r is c for c in convs) else 0,
            }
            for r in rows
        ),
    )


def _recorder(name: str, rows: list[dict[str, Any]]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        conv, linear = isinstance(module, nn.Conv2d), isinstance(module, nn.Linear)
        per_element = 0
        if isinstance(module, nn.Conv2d):
            per_element = module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            per_element = module.in_features
        rows.append(
            {
                "name": name,
                "type": "Conv2d" if conv else type(module).__name__,
                "linear": linear,
                "module": module,
                "input": tuple(args[0].shape),
                "output": tuple(out.shape),
                "elements": out.numel(),
                "params": sum(p.numel() for p in module.parameters()),
                "macs": out.numel() * per_element,
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
