"""The networks that BSRN's notebook compares: by speed, and by what is left out of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nsrlib.layers import CONV_KINDS
from nsrlib.models import create_model, optimise

VARIANTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "BSRN": ("bsrn", 4, {}),
    "BSRN without ESA": ("bsrn", 4, {"esa": False}),
    "BSRN without CCA": ("bsrn", 4, {"cca": False}),
    "BSRN without both": ("bsrn", 4, {"esa": False, "cca": False}),
    "BSRN, standard convolutions": ("bsrn", 4, {"conv": "standard"}),
    "BSRN, DSConv": ("bsrn", 4, {"conv": "dsconv"}),
    "BSRN, BSConv-S": ("bsrn", 4, {"conv": "bsconv_s"}),
    **{f"RFDN (50, 4), {conv}": ("rfdn", 4, {"conv": conv}) for conv in CONV_KINDS},
    **{f"RFDN (48, 6), {conv}": ("rfdn", 4, {"conv": conv, "num_feats": 48, "num_blocks": 6}) for conv in CONV_KINDS},
    "BSRN-1? (50, 4)": ("bsrn", 4, {"num_feats": 50, "num_blocks": 4}),
    "BSRN-1? (48, 6)": ("bsrn", 4, {"num_feats": 48, "num_blocks": 6}),
    "BSRN-2? (64, 10)": ("bsrn", 4, {"num_blocks": 10}),
    "BSRN-2? (72, 8)": ("bsrn", 4, {"num_feats": 72}),
    "BSRN-2? (100, 4)": ("bsrn", 4, {"num_feats": 100, "num_blocks": 4}),
    "BSRN-2? (84, 6)": ("bsrn", 4, {"num_feats": 84, "num_blocks": 6}),
}
"""Label -> network, scale and settings of the ablation tables; a question mark: the paper does not give the size."""


def contenders(device: str | torch.device = "cpu") -> dict[str, nn.Module]:
    """BSRN and its rivals at x4 with random weights, plain and in their fastest form; RFDN is the others' measure.

    Example:
        >>> list(contenders())[:2]
        ['RFDN', 'RFDN, optimised here']
    """
    bsrn, rfdn = create_model("bsrn").eval(), create_model("rfdn").eval()
    small = {"BSRN-S, Linear": True, "BSRN-S, 1x1 convolutions": False}
    return {
        "RFDN": rfdn,
        "RFDN, optimised here": optimise(rfdn, device),
        "BSRN, as published": bsrn,
        "BSRN, fused here": optimise(bsrn, device),
        "IMDN": create_model("imdn").eval(),
        **{label: create_model("bsrn_s", as_linear=linear).eval() for label, linear in small.items()},
    }
