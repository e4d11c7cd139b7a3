"""A whole network, BSRN at x4, in the forms that it can take and beside RFDN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsrlib.bench.operators import OURS, Case, Inputs, Operator, Way
from nsrlib.models import create_model, optimise


def _network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, 4).double().eval()  # fused in float64 too


def _bsrn_inputs(case: Case) -> Inputs:
    return {"x": torch.rand(case.shape, dtype=torch.float64)}


def _bsrn_exact(x: Tensor) -> Tensor:
    return _network("bsrn").to(x)(x)


def _bsrn_ways(case: Case, device: str) -> dict[str, Way]:
    bsrn, rfdn = _network("bsrn"), _network("rfdn")

    def way(network: nn.Module, **options: Any) -> Way:
        ready = network.to(device, case.dtype)
        return Way(lambda x: ready(x), **options)

    library, triton = (way(optimise(bsrn, device, kernels)) for kernels in ("library", "triton"))
    return {
        OURS: triton if device == "cuda" else library,
        **({"BSRN, fused, library convolutions": library} if device == "cuda" else {}),
        "BSRN, as published": way(bsrn),
        "RFDN, as published": way(rfdn, equal=False),
        "RFDN, channels last": way(optimise(rfdn, device), equal=False),
        "RFDN, channels last, torch.compile": way(optimise(rfdn, device), equal=False, compiled=True),
    }


BSRN_X4 = Operator(_bsrn_inputs, _bsrn_exact, _bsrn_ways, lambda case, device: None)
