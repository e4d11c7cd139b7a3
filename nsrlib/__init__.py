"""nsrlib: five image-restoration papers, checked cell by cell.

The networks, the operators, the MATLAB-exact protocol, the data and the ledger of claims behind ``notebooks/``.
Submodules load when they are first used; ``import nsrlib`` costs little more than ``import torch``.
"""

from __future__ import annotations

import importlib
from typing import Any

from nsrlib.models import create_model, list_models, load_weights

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "load_weights"]

_SUBMODULES = (
    *("bench", "charts", "claims", "complexity", "data", "download", "evaluation", "grids", "images", "layers"),
    *("metrics", "models", "ops", "patches", "plots", "provenance", "reports", "runs", "studies", "sweep_pages"),
    *("sweeps", "training"),
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"nsrlib.{name}")
    raise AttributeError(f"module 'nsrlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
