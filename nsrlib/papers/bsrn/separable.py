"""Are dense filters separable, and what a network loses whose filters are made so; and the way back."""

from __future__ import annotations

import copy

import pandas as pd
from torch import nn

from nsrlib.claims import untrained
from nsrlib.layers import BSConvU, factorise, merge_bsconv
from nsrlib.studies import StudyResult

KINDS = {"bsconv_u": "BSConv: one kernel a filter", "dsconv": "DSConv: one kernel an input"}


def kept_energy(model: nn.Module) -> pd.DataFrame:
    """Of RFDN's 3x3 convolutions: the share of a kernel's energy that its best separable approximation keeps.

    Columns layer, kind, kept; a row for each filter (BSConv) or input channel (DSConv), attention left out.
    """
    rows = []
    for name, layer in model.named_modules():
        is_dense = isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        if is_dense and name.split(".")[-1].startswith("c") and "esa" not in name:
            for kind, label in KINDS.items():
                shares = factorise(layer.weight, kind)[1]
                rows += [{"layer": name, "kind": label, "kept": float(share)} for share in shares]
    return pd.DataFrame(rows)


def separated(model: nn.Module, kind: str) -> nn.Module:
    """A copy of RFDN whose refinement convolutions are replaced by their nearest separable kernels."""
    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if name.endswith("_r") and isinstance(layer, nn.Conv2d):
            layer.weight.data = factorise(layer.weight, kind)[0]
    return model


def kept_gain(study: StudyResult, floor: float, dense: str = "standard") -> pd.DataFrame:
    """What training in each form keeps of the dense network's gain over bicubic upscaling, Set5.

    Args:
        study: runs of the dense network and of separable ones; seeds are compared one by one.
        floor: PSNR of bicubic upscaling in dB.

    Returns:
        Columns share (mean over the seeds; 1: all of the gain), low and high (of the seeds), seeds; by variant. A form
        without runs, or that did not train (:func:`nsrlib.claims.untrained`), has no row; none where the dense one has.

    Example:
        >>> rows = [{"variant": v, "seed": 0, "set": "set5", "psnr": p} for v, p in (("standard", 30), ("DSConv", 29))]
        >>> kept_gain(StudyResult.of_rows("an example", rows), 28).to_dict("index")
        {'DSConv': {'share': 0.5, 'low': 0.5, 'high': 0.5, 'seeds': 1}}
    """
    lost = untrained(study)
    runs = study.table[~study.table["variant"].isin(lost)]
    gain = runs.pivot_table(index="seed", columns="variant", values="psnr_set5") - floor
    order = [name for name in study.variants if name in gain and name != dense]
    shares = gain[order].div(gain[dense], axis=0) if dense in gain else gain[[]]
    found = shares.agg(["mean", "min", "max", "count"]).T
    found.columns = pd.Index(["share", "low", "high", "seeds"])
    return found[found["seeds"] > 0].astype({"seeds": int}).rename_axis("variant")


def merged(model: nn.Module) -> nn.Module:
    """A copy in which every BSConv is the dense convolution that it equals.

    Example:
        >>> import torch
        >>> block, x = nn.Sequential(BSConvU(2, 3)), torch.rand(1, 2, 5, 6)
        >>> torch.allclose(merged(block)(x), block(x), atol=1e-6)
        True
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, BSConvU):
                setattr(module, name, merge_bsconv(child))
    return model
