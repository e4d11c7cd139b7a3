"""One picture, every choice of the protocol free: what each choice moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from nsrlib import data, evaluation
from nsrlib.images import to_tensor
from nsrlib.metrics import Protocol, psnr
from nsrlib.plots import bars

CHOICES: dict[str, Any] = {
    "lr": {"in double precision": "paper", "8 bit between passes": "mirror", "edges repeated": "repeat"},
    "space": {"luma": "y", "RGB": "rgb"},
    "luma_rounding": {"luma not rounded": "none", "to whole levels": "nearest"},
    "crop": (0, 8),
    "quantise": True,
}
"""Controls for :func:`nsrlib.plots.viewers.explore`."""

PAPER: dict[str, Any] = {"lr": "paper", "space": "y", "luma_rounding": "none", "crop": 2, "quantise": True}


def drawing(network: nn.Module, name: str) -> Callable[..., Figure]:
    """A function of the choices that draws how far they move the PSNR of the third picture of a set at x2."""

    @cache
    def answer(lr: str) -> tuple[Any, Any]:
        pair: Any = data.load(name, 2, lr=lr, limit=3)[-1]
        result: Any = evaluation.upscale(network, to_tensor(pair.lr))
        return result[0], pair

    def measured(lr: str, **choice: Any) -> float:
        result, pair = answer(lr)
        return float(psnr(result, to_tensor(pair.hr)[0], Protocol(**choice)))

    def draw(
        lr: str = "paper", space: str = "y", luma_rounding: str = "none", crop: int = 2, quantise: bool = True
    ) -> Figure:
        chosen: dict[str, Any] = {"lr": lr, "space": space, "luma_rounding": luma_rounding}
        chosen |= {"crop": crop, "quantise": quantise}
        base, together = measured(**PAPER), measured(**chosen)
        moved = {
            f"{choice.replace('_', ' ')} alone": 1000 * (measured(**PAPER | {choice: value}) - base)
            for choice, value in chosen.items()
            if value != PAPER[choice]
        }
        moved["all that was chosen"] = 1000 * (together - base)
        title = f"{answer(lr)[1].name}, x2: {base:.3f} dB in the paper's way, {together:.3f} dB in this one"
        return bars(moved, title=title, xlabel="thousandths of a dB")

    return draw
