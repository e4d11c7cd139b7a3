"""AdderSR's energy: its networks against their convolutional twins, by the paper's rule and with all it leaves out."""

from __future__ import annotations

import functools
from typing import Any

import pandas as pd
import torch

from nsrlib.complexity import PICOJOULES, PIXELS_720P, Complexity, count, energy, energy_breakdown, lr_size
from nsrlib.models import create_model
from nsrlib.papers.check import Check

_BASELINE = {"num_feats": 64, "num_blocks": 16, "res_scale": 1.0}
_TWINS: tuple[tuple[str, str, str, int, dict[str, Any]], ...] = (
    ("VDSR", "", "vdsr", 1, {}),
    *(("EDSR", v, "edsr", s, {"variant": v}) for v in "BA" for s in (2, 3, 4)),
    *(("EDSR-baseline", v, "edsr_baseline", 2, {"variant": v, **_BASELINE}) for v in "BA"),
)
"""Label, variant, convolutional network, scale, settings of the adder twin."""


@functools.cache
def _pairs() -> list[tuple[dict[str, Any], Complexity, Complexity]]:
    """Convolutional network and adder twin, for one HR output of 1280x720 pixels."""
    found = []
    for model, variant, cnn, scale, options in _TWINS:
        luma = cnn == "vdsr"
        with torch.device("meta"):
            twins = create_model(cnn, scale), create_model("addersr_vdsr" if luma else "addersr_edsr", scale, **options)
        key = {"model": model, "scale": "any" if luma else f"x{scale}", "variant": variant}
        a, b = (count(m, lr_size(scale, PIXELS_720P), channels=1 if luma else 3) for m in twins)
        found.append((key, a, b))
    return found


def energy_table() -> pd.DataFrame:
    """AdderSR's energy comparison by the papers' rule, one 1280x720 output: VDSR (any scale: its input is upscaled) and
    EDSR with the upsampler of adders (variant B) or convolutions (A).

    Columns: model, scale, variant; ``cnn_ops`` (multiplications, and as many additions), ``ann_mul``, ``ann_add`` in G;
    ``cnn_float32``, ``ann_float32``, ``ratio_float32`` in mJ, and the same for int8.
    """
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


def checks() -> list[Check]:
    """The two printed ratios, 2.5 (abstract) and 2 (listing), each against every row of :func:`energy_table`.

    "About" is taken generously: a network agrees with the one of the two ratios that is nearer.
    """
    table = energy_table()
    ratios = table["ratio_float32"]
    found = []
    for printed, other in ((2.5, 2.0), (2.0, 2.5)):
        near = (ratios - printed).abs() < (ratios - other).abs()
        statement = f"every network needs about {printed:g} times less energy: nearer to {printed:g} than to {other:g}"
        figures: dict[str, float | int | str] = {
            "networks": len(ratios), "agree": int(near.sum()),
            "lowest": f"{ratios.min():.2f}", "highest": f"{ratios.max():.2f}",
        }  # fmt: skip
        found.append(Check(f"energy {printed:g}", statement, "checked", bool(near.all()), figures))
    return found


def honest_energy_table(dtype: str = "float32") -> pd.DataFrame:
    """The same pairs with everything in :func:`energy_breakdown`, in mJ; a convolutional and an adder row for each.

    Columns: model, scale, variant, network, the breakdown's parts, ``total``, and three ratios on the adder's row:
    ``ratio`` of the rule, ``ratio_all_arithmetic`` with the extras, ``ratio_with_memory`` of the totals.
    """
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
