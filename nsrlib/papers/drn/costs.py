"""What a DRN costs, as a linear function of its widths, and widths of a given cost.

Source: Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning" (DRC, TPAMI 2024, arXiv
2207.07929), Sec. 4. Works on :class:`~nsrlib.models.drn.DRN`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from nsrlib.complexity import count, lr_size
from nsrlib.models import create_model
from nsrlib.models.drn import DRN, full_widths, searched_widths, uniform_widths

if TYPE_CHECKING:
    import pandas as pd

CONVENTION = "convolutions: one multiply-add per use of a weight and one per addition of a bias"


def channel_costs(model: DRN, input_size: tuple[int, int] = (96, 96)) -> tuple[np.ndarray, int]:
    """Multiply-adds (rule ``macs``) that one inner channel of each layer costs, and those that stay at width 0.

    The cost of a network is linear in its widths: ``fixed + costs @ widths``, exactly.
    """
    counted = count(copy.deepcopy(model).float(), input_size)
    by_name = {row["name"]: row["multi_adds"] for row in counted.layers}
    pairs = zip(model.slots, model.widths, strict=True)
    costs = np.array([(by_name[s.producer] + by_name[s.consumer]) // width for s, width in pairs])
    return costs, counted.multi_adds - int(costs @ np.array(model.widths))


def complexity_table(only: Collection[str] = ()) -> pd.DataFrame:
    """Parameters and multiply-adds of every DRN of the papers, in both conventions of the input's size.

    ``only``: names of networks, such as ``DRN-S30``; none: all.

    Columns: model, scale, params; ``multi_adds_96`` for a 96x96 input, which the DRN papers use at every scale without
    saying so, and ``multi_adds_720p`` for a 1280x720 output, in G, after :data:`CONVENTION`; ``thop_96``: by thop's
    rule, which adds global pooling and LeakyReLU and gives the printed digits of the pruned networks.
    """
    import pandas as pd

    rows = []
    for scale in (4, 8):
        full = list(full_widths(scale, 8 if scale == 8 else 16, 30).values())
        nets: dict[str, tuple[str, list[int] | None]] = {"DRN-S": ("drn_s", None), "DRN-L": ("drn_l", None)}
        nets |= {f"DRN-S{r:.0%}"[:-1]: ("drn_s", searched_widths(r, scale)) for r in (0.3, 0.5, 0.7)}
        nets |= {f"uniform {r:.0%}": ("drn_s", uniform_widths(full, r)) for r in (0.3, 0.5, 0.7)}
        for name, (base, widths) in nets.items():
            if only and name not in only:
                continue
            with torch.device("meta"):
                model = create_model(base, scale, widths=widths)
            counted = count(model, (96, 96), rule="thop")
            convs = [(r["multi_adds"], r["output"][2:] == (1, 1)) for r in counted.layers if r["type"] == "Conv2d"]
            # all but the attention's layers grow with the pixels
            once, h_w = sum(n for n, pooled in convs if pooled), lr_size(scale)
            small = sum(n for n, _ in convs)
            large = once + (small - once) * h_w[0] * h_w[1] / 96**2
            rows.append((name, scale, counted.params, small / 1e9, large / 1e9, counted.multi_adds / 1e9))
    return pd.DataFrame(rows, columns=["model", "scale", "params", "multi_adds_96", "multi_adds_720p", "thop_96"])


def widths_at_cost(model: DRN, budget: float, kind: Literal["uniform", "random"], seed: int = 0) -> list[int]:
    """Widths that cost ``budget`` multiply-adds, or less by no more than one channel: controls for a search.

    Args:
        model: the unpruned network. budget: in multiply-adds (rule ``macs``) at 96x96, as :func:`channel_costs`.
        kind: ``uniform``: the same share of every layer; ``random``: each layer's, from a quarter up, drawn first.

    Raises:
        ValueError: a budget that no widths meet.
    """
    costs, fixed = channel_costs(model)
    full = np.array(list(full_widths(model.scale, model.num_feats, model.num_blocks).values()))
    if not fixed + costs.sum() <= budget <= fixed + costs @ full:
        raise ValueError(
            f"budget must be between {fixed + costs.sum():,} (one channel each) and {fixed + costs @ full:,} "
            f"multiply-adds, got {budget:,.0f}"
        )
    if kind not in ("uniform", "random"):
        raise ValueError(f"kind must be 'uniform' or 'random', got {kind!r}")
    dice = np.random.default_rng(seed)
    share = np.ones(len(full)) if kind == "uniform" else dice.uniform(0.25, 1, len(full))
    # clipped shares of all layers, times a common factor found by bisection
    low, high = 0.0, 1 / share.min()
    for _ in range(60):
        middle = (low + high) / 2
        widths = np.clip(np.floor(full * share * middle), 1, full)
        low, high = (middle, high) if fixed + costs @ widths <= budget else (low, middle)
    widths = np.clip(np.floor(full * share * low), 1, full)
    for i in dice.permutation(len(full)):  # one channel more wherever one fits
        if widths[i] < full[i] and fixed + costs @ widths + costs[i] <= budget:
            widths[i] += 1
    return [int(w) for w in widths]
