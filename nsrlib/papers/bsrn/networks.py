"""The networks whose speed BSRN's notebook compares."""

from __future__ import annotations

import torch
from torch import nn

from nsrlib.models import create_model, optimise


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
