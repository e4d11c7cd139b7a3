"""BSRN: the blueprint separable residual network, and the ablations of its convolutions and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nsrlib.papers.bsrn import studies
from nsrlib.papers.parameters import COMMON, some_of
from nsrlib.papers.record import Paper, Training, drawn_in
from nsrlib.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


def _networks(device: Any) -> dict[str, nn.Module]:
    from nsrlib.papers.bsrn.networks import contenders  # with torch, which the record itself does not need

    return contenders(device)


PAPER = Paper(
    "bsrn",
    title="Li et al., *Blueprint Separable Residual Network*, CVPRW 2022",
    needs="Set5, Set14, weights (8 MB)",
    studies=studies.studies,
    trainings={
        # XPixel's option files: DF2K, one cosine period, no warm-up, no EMA
        "bsrn": Training(Recipe(iterations=1_000_000, batch=64, patch=48, lr=1e-3, lr_min=1e-7)),
        "bsrn_s": Training(Recipe(iterations=1_500_000, batch=256, patch=64, lr=2e-3, lr_min=1e-7)),
    },
    diagrams=drawn_in("nsrlib.papers.bsrn.figures", "network", "esdb", "rfdb", "esa", "cca"),
    parameters={**COMMON, "scales": some_of((2, 3, 4))},
    networks=_networks,
)
