"""nsrlib: five image-restoration papers, checked cell by cell.

The networks, the operators, the MATLAB-exact protocol, the data and the ledger of claims behind ``notebooks/``.
Everything loads when it is first used: ``import nsrlib`` costs next to nothing, and what needs no network (``nsr
report``, ``nsr sweep``) never waits for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsrlib.models import create_model, list_models, load_weights

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "load_weights"]

_SUBMODULES = (
    *("bench", "charts", "claims", "complexity", "compression", "data", "diagrams", "download", "evaluation"),
    *("experiments", "figures", "grids", "images", "layers", "metrics", "models", "ops", "patches", "plots"),
    *("provenance", "reports", "restoration", "runs", "sparsity", "studies", "sweep_pages", "sweeps", "theory"),
    *("training", "viewers"),
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"nsrlib.{name}")
    if name in __all__:
        return getattr(importlib.import_module("nsrlib.models"), name)
    raise AttributeError(f"module 'nsrlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
