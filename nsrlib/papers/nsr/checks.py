"""NSR without training: checks C1 to C7, the gap that kernel aggregation leaves, its grids, what inference costs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.complexity import Complexity, count
from nsrlib.models import create_model, optimise
from nsrlib.models.nsr import NSR, Gating, MixedConv2d, by_tiles, entropy, gates, tile_grid
from nsrlib.papers.check import Check

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-12
"""Of float64 sums over some hundred terms of size 1."""

# --- Figure 1 ---------------------------------------------------------------------------------------------------------


def sliced_product(
    k: int = 4, c: int = 4, c_in: int = 6, c_out: int = 6, chosen: int = 1, seed: int = 0
) -> dict[str, Tensor | int]:
    """A two-layer network of which one hidden group of c nodes in k c is not zero (Eqs. 4 and 5), both ways.

    Returns:
        ``x``, ``W1`` ``(k c, c_in)``, ``hidden`` (after ReLU and selection), ``W2`` ``(c_out, k c)``; ``y``, the whole
        product, and ``y_sliced``, that of the chosen blocks, float64; ``full`` and ``sliced``, their multiply-adds.
    """
    g = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((k * c, c_in), (c_out, k * c)))
    x = torch.randn(c_in, generator=g, dtype=torch.float64)
    own = slice(chosen * c, (chosen + 1) * c)
    mask = torch.zeros(k * c, dtype=torch.float64)
    mask[own] = 1
    hidden = (w1 @ x).relu() * mask
    y_sliced = w2[:, own] @ (w1[own] @ x).relu()
    cost = c * (c_in + c_out)
    return {"x": x, "W1": w1, "hidden": hidden, "W2": w2, "y": w2 @ hidden, "y_sliced": y_sliced,
            "full": k * cost, "sliced": cost}  # fmt: skip


# --- C2: the gap of Eq. 9 ---------------------------------------------------------------------------------------------


def aggregation_gap(
    temperatures: Sequence[float] = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0),
    k: int = 4,
    channels: int = 64,
    samples: int = 512,
    seed: int = 0,
) -> pd.DataFrame:
    """How far one network of mixed kernels is from the mixture of k networks, for random weights and inputs.

    Columns temperature (of a softmax over normal logits; 0: one-hot), entropy (nats) and largest (means over samples),
    gap: the L2 norm of the difference over that of the mixture.
    """
    import pandas as pd

    g = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(k, channels, channels, generator=g, dtype=torch.float64) / channels**0.5 for _ in range(2))
    x = torch.randn(samples, channels, generator=g, dtype=torch.float64)
    z = torch.randn(samples, k, generator=g, dtype=torch.float64)
    branches = torch.einsum("koc,nkc->nko", w2, torch.einsum("kci,ni->nkc", w1, x).relu())
    rows = []
    for t in temperatures:
        gamma = (z / t).softmax(1) if t else F.one_hot(z.argmax(1), k).double()
        mixture = torch.einsum("nk,nko->no", gamma, branches)
        hidden = torch.einsum("nk,kci,ni->nc", gamma, w1, x).relu()
        one = torch.einsum("nk,koc,nc->no", gamma, w2, hidden)
        gap = float((one - mixture).norm() / mixture.norm())
        rows.append((t, float(entropy(gamma).mean()), float(gamma.amax(1).mean()), gap))
    return pd.DataFrame(rows, columns=["temperature", "entropy", "largest", "gap"])


# --- the grids --------------------------------------------------------------------------------------------------------

COUNTS: tuple[tuple[str, str, dict[str, Any], tuple[int, int, int]], ...] = (
    ("NSR small", "nsr", {}, (4_877_812, 4_887_637, 4_901_392)),
    ("the same trunk, dense", "nsr", {"variant": "dense"}, (1_193_460, 1_203_285, 1_217_040)),
    ("WDSR small", "wdsr", {}, (1_190_100, 1_195_605, 1_203_312)),
    ("NSR large", "nsr", {"num_feats": 128, "num_blocks": 32}, (38_361_140, 38_379_605, 38_405_456)),
    ("WDSR large", "wdsr", {"num_feats": 128, "num_blocks": 32}, (37_808_180, 37_826_645, 37_852_496)),
    (
        "EDSR L on this trunk", "wdsr", {"num_feats": 256, "num_blocks": 32, "width": 1.0},
        (37_817_524, 37_853_269, 37_903_312),
    ),
)  # fmt: skip
"""Label, network, size and parameters at x2, x3, x4: the authors' READMEs, or counted from their code."""

GRIDS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "cardinality": tuple((f"d={d}", {"cardinals": d}) for d in (1, 2, 4, 8, 16, 32, 64)),
    "efficiency": (
        ("dense, U=32, w=4", {"num_feats": 32, "width": 4.0, "variant": "dense"}),
        ("k=2, w=2", {"num_feats": 32, "width": 2.0, "groups": 2}),
        ("k=4, w=1", {"num_feats": 32, "width": 1.0, "groups": 4}),
        ("dense, U=64, w=1", {"variant": "dense"}),
        ("k=2, w=0.5", {"width": 0.5, "groups": 2}),
        ("k=4, w=0.25", {"width": 0.25, "groups": 4}),
    ),
    "capacity": tuple(
        (f"U={u}, k={k}", {"num_feats": u, "groups": k}) for u in (32, 64) for k in (1, 2, 4, 8, 16)
    ),
}  # fmt: skip
"""The networks of Figure 4 and of Tables 2 and 3 at x2, 16 blocks."""


def counted(name: str, scale: int, **config: Any) -> Complexity:
    """A network that is never filled with numbers, counted on 48x48 pixels."""
    with torch.device("meta"):
        model = create_model(name, scale, **config)
    return count(model, (48, 48), channels=config.get("channels", 3))


def grid(name: str) -> pd.DataFrame:
    """Sizes of a grid of :data:`GRIDS`: columns network, parameters, multi_adds (G, of a 48x48 patch), overhead (%).

    The overhead is what the gates and the mixing of kernels take, over the multiply-adds of the convolutions.
    """
    import pandas as pd

    rows = []
    for label, config in GRIDS[name]:
        found = counted("nsr", 2, **config)
        rows.append((label, found.params, found.multi_adds / 1e9, 100 * found.extras["gates"][0] / found.multi_adds))
    return pd.DataFrame(rows, columns=["network", "parameters", "multi_adds", "overhead"])


# --- the checks -------------------------------------------------------------------------------------------------------


def checks(seed: int = 0) -> list[Check]:
    """C1 to C7 of the specification, but for figures that another processor would round differently."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [_c1(), _c2(), _c3(), *_c4(), _c5(), _c6(), _c7()]


def _small(name: str, statement: str, error: Tensor) -> Check:
    below = float(error.abs().max()) < ROUNDING
    return Check(name, statement, "checked", below, {"error below": ROUNDING})


def _c1() -> Check:
    wrong = []
    for label, name, config, expected in COUNTS:
        with torch.device("meta"):
            found = tuple(sum(p.numel() for p in create_model(name, r, **config).parameters()) for r in (2, 3, 4))
        wrong += [label] if found != expected else []
    statement = "parameter counts equal the printed and counted ones to the unit"
    return Check("C1", statement, "checked", not wrong, {"networks": 3 * len(COUNTS), "wrong": len(wrong)})


def _c2() -> Check:
    table = aggregation_gap()
    falls = bool(table["gap"].is_monotonic_decreasing and table["gap"].iloc[-1] < ROUNDING)
    shown = zip(table["temperature"], table["gap"], strict=True)
    statement = "the gap of Eq. 9 falls with the temperature and vanishes for one-hot gates"
    return Check(
        "C2", statement, "checked", falls, {f"T={t:g}": f"{gap:.1f}" for t, gap in shown if t in (1.0, 0.5, 0.1)}
    )


def _layer(variant: str = "softmax", k: int = 4, d: int = 4) -> tuple[MixedConv2d, Tensor]:
    """A layer of eight channels whose gates decide, and an input, float64."""
    layer = MixedConv2d(8, 8, 1.0, Gating(variant), k, d).double()
    with torch.no_grad():
        layer.mlp[0].weight.mul_(20)  # type: ignore[operator]
        assert layer.bias is not None
        layer.bias.normal_()
    return layer, torch.rand(3, 8, 12, 10, dtype=torch.float64)


@torch.no_grad()
def _c3() -> Check:
    layer, x = _layer()
    y = layer(x)
    values = gates(layer)[""]
    assert layer.bias is not None
    weight, bias = layer.weight.unflatten(0, (4, 4, -1)), layer.bias.unflatten(0, (4, 4, -1))
    loop = torch.cat(
        [
            F.conv2d(x[n : n + 1], torch.einsum("kd,kdrixy->drixy", v, weight).flatten(0, 1),
                     torch.einsum("kd,kdr->dr", v, bias).flatten(), padding=1)
            for n, v in enumerate(values)
        ]
    )  # fmt: skip
    dense = F.conv2d(x, layer.weight, layer.bias, padding=1).unflatten(1, (4, 4, -1))
    mixed = (dense * values[..., None, None, None]).sum(1).flatten(1, 2)
    statement = "one grouped convolution = a loop over samples = k convolutions mixed by the gate"
    return _small("C3", statement, torch.stack([y - loop, y - mixed]))


@torch.no_grad()
def _c4() -> list[Check]:
    layer, x = _layer()
    y, values = layer(x), gates(layer)[""]
    other = copy.deepcopy(layer)
    order = [2, 0, 3, 1]
    for name, p in other.named_parameters():
        p.copy_(layer.get_parameter(name).unflatten(0, (4, -1))[order].flatten(0, 1))
    moved = other(x) - y
    one, x = _layer(k=1)
    plain = one(x) - F.conv2d(x, one.weight, one.bias, padding=1)
    return [
        _small("C4", "another order of the k kernels changes nothing", moved),
        _small("C4", "gates sum to 1 for every sample and cardinal group", values.sum(1) - 1),
        _small("C4", "k = 1 is a plain convolution", plain),
    ]


def _c5() -> Check:
    sizes = ((192, 192), (193, 200), (255, 339), (339, 510))
    worst, wrong, limit = 0.0, 0, 2e-7
    for h, w in sizes:
        x = torch.rand(1, 1, h, w, generator=torch.Generator().manual_seed(h))
        worst = max(worst, float((by_tiles(lambda tiles: tiles, x) - x).abs().max()))
        rows, columns = ((s + 8 - 48) // 32 + 1 for s in (h, w))
        wrong += len(tile_grid(h, w)) != rows * columns + 2 * rows + 2 * columns
    statement = "the official tiles merge to the picture they were cut from, as many as the formula says"
    return Check("C5", statement, "checked", worst <= limit and not wrong, {"sizes": len(sizes), "error below": limit})


@torch.no_grad()
def _c6() -> Check:
    se, x = _layer("se", 1, 8)
    two = MixedConv2d(8, 8, 1.0, Gating("softmax"), 2, 8).double()
    for name, p in two.named_parameters():
        own = se.get_parameter(name)
        p.copy_(torch.cat([own, torch.randn_like(own) if name == "weight_v" else torch.zeros_like(own)]))
    statement = "squeeze and excitation is NSR with d = c_out and two kernels, the second zero"
    return _small("C6", statement, two(x) - se(x))


def _c7() -> Check:
    formula = 9 * 3 * 64 + 16 * 2 * 9 * 64 * 64 + 9 * 64 * 12 + 25 * 9 * 4
    configs: tuple[dict[str, Any], ...] = ({"variant": "dense"}, {}, {"groups": 16})
    found = [counted("nsr", 2, **config) for config in configs]
    _, four, sixteen = overhead = [100 * n.extras["gates"][0] / n.multi_adds for n in found]
    holds = all(n.multi_adds == formula * 48 * 48 for n in found) and max(overhead) < 1
    statement = "multiply-adds of a patch follow the formula whatever k; the gates take less than 1 %"
    figures = {"G": f"{found[0].multi_adds / 1e9:.3f}", "gates, k = 4": f"{four:.2f} %", "k = 16": f"{sixteen:.2f} %"}
    return Check("C7", statement, "checked", holds, {**figures})


# --- ways to infer ----------------------------------------------------------------------------------------------------


def inference_modes(
    model: NSR, x: Tensor, cells: Sequence[int], repeats: int = 3
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Time the ways to choose gates on one picture, taken in turns so that a busy moment hits all.

    Args:
        x: ``(1, C, H, W)``.
        cells: sides of the map's cells to compare.

    Returns:
        Columns mode, seconds (best of ``repeats``), of tiles (seconds of the tiles over its own); every mode's output.
    """
    import pandas as pd

    modes: dict[str, dict[str, Any]] = {"tiles": {"inference": "tiles"}, "whole": {"inference": "whole"}}
    modes |= {f"map, cells of {cell}": {"inference": "map", "cell": cell} for cell in cells}
    fast = optimise(model)
    gating: Any = fast.gating
    before = vars(gating).copy()
    best, outputs = dict.fromkeys(modes, math.inf), {}
    with torch.inference_mode():
        for _ in range(repeats):
            for name, settings in modes.items():
                vars(gating).update(before | settings)
                start = time.perf_counter()
                outputs[name] = fast(x)
                best[name] = min(best[name], time.perf_counter() - start)
    table = pd.DataFrame({"mode": list(best), "seconds": list(best.values())})
    table["of tiles"] = best["tiles"] / table["seconds"]
    return table, outputs


def seams(y: Tensor, lines: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Steps from one pixel to the next across given lines and everywhere else.

    Args:
        y: a picture, or the difference of two, ``(..., H, W)``.
        lines: ``rows`` and ``columns``: first pixels after a border.

    Returns:
        Rows ``across borders`` and ``elsewhere``; columns mean and largest, in the unit of y.
    """
    import pandas as pd

    across, elsewhere = [], []
    for axis, name in ((-2, "rows"), (-1, "columns")):
        steps = y.diff(dim=axis).abs().movedim(axis, 0).flatten(1)
        at = torch.zeros(len(steps), dtype=torch.bool)
        at[[i - 1 for i in lines[name] if 0 < i <= len(steps)]] = True
        across.append(steps[at].flatten())
        elsewhere.append(steps[~at].flatten())
    groups = {"across borders": torch.cat(across), "elsewhere": torch.cat(elsewhere)}
    rows = {name: {"mean": float(v.mean()), "largest": float(v.max())} for name, v in groups.items()}
    return pd.DataFrame(rows).T


def map_lines(h: int, w: int, cell: int, scale: int = 1) -> dict[str, list[int]]:
    """Borders of the map's cells in an output of ``(h, w)`` input pixels."""
    step = cell * scale
    return {"rows": list(range(step, h * scale, step)), "columns": list(range(step, w * scale, step))}


def tile_lines(h: int, w: int, patch: int = 48, scale: int = 1) -> dict[str, list[int]]:
    """Where tiles of the official evaluation begin or end, in an output of ``(h, w)`` input pixels."""
    tops, lefts, _ = zip(*tile_grid(h, w, patch), strict=True)

    def lines(starts: Sequence[int], end: int) -> list[int]:
        sides = {side for start in starts for side in (start, start + patch - 8)}
        return sorted(scale * side for side in sides if 0 < side < end)

    return {"rows": lines(tops, h), "columns": lines(lefts, w)}


@torch.inference_mode()
def block_gates(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gates of the first layer of every block on a picture: ``block 1`` -> ``(k, d, GH, GW)``.

    A picture within one window has no map and is refused.
    """
    model(x)
    found = [v for name, v in gates(model).items() if name.endswith("body.0")]
    if found[0].ndim != 5:
        raise ValueError(f"a picture of {tuple(x.shape[2:])} has one gate and no map; take a larger one")
    return {f"block {i}": v[0] for i, v in enumerate(found, 1)}
