"""BSRN's ablations."""

from __future__ import annotations

from typing import Any

from nsrlib.papers.common import Variants, study
from nsrlib.studies import Study


def studies(profile: str = "cpu") -> dict[str, Study]:
    """BSRN's ablations at x4: convolution decompositions of RFDN, attention, activations, sizes against RFDN."""
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 20, "batch": 4, "patch": 16, "lr": 1e-3},
        "cpu": {"iterations": 10_000, "batch": 16, "patch": 24, "lr": 1e-3},
        "gpu": {"iterations": 3_000, "batch": 16, "patch": 48, "lr": 1e-3, "precision": "bfloat16"},
        "paper": {"iterations": 1_000_000, "batch": 64, "patch": 48, "lr": 1e-3},
    }
    recipe = recipes[profile]
    rfdn = {"quick": (8, 1), "cpu": (24, 4), "gpu": (64, 4), "paper": (50, 4)}[profile]
    small = {"quick": (16, 1), "cpu": (32, 2), "gpu": (64, 8), "paper": (64, 8)}[profile]
    first = max(rfdn[0], 16), rfdn[1]  # BSRN-1: RFDN's size, but CCA divides the channels by 16
    second = {"quick": (16, 2), "cpu": (32, 8), "gpu": (84, 10), "paper": (64, 10)}[profile]

    def network(model: str, size: tuple[int, int]) -> dict[str, Any]:
        return {"model": model, "config": {"num_feats": size[0], "num_blocks": size[1]}}

    def compare(name: str, model: str, size: tuple[int, int], variants: Variants, **more: Any) -> Study:
        trained = f"x4, {model.upper()} with {size[0]} channels and {size[1]} blocks"
        return study(f"bsrn {name}", profile, trained, recipe, variants, {"scale": 4, **network(model, size)}, **more)

    convs = {"standard": "standard", "DSConv": "dsconv", "BSConv-S": "bsconv_s", "BSConv-U": "bsconv_u"}
    acts = {"GELU": "gelu", "ReLU": "relu", "LeakyReLU": "leaky_relu", "h-swish": "hswish"}
    decompositions = {name: {"config": {"conv": conv}} for name, conv in convs.items()}
    attention: dict[str, dict[str, Any]] = {
        "ESA and CCA": {},
        "without CCA": {"config": {"cca": False}},
        "without ESA": {"config": {"esa": False}},
        "without both": {"config": {"esa": False, "cca": False}},
    }
    sizes = {"RFDN": network("rfdn", rfdn), "BSRN-1": network("bsrn", first), "BSRN-2": network("bsrn", second)}
    trained = (
        f"x4, RFDN and BSRN-1 with {first[0]} channels and {first[1]} blocks, BSRN-2 with {second[0]} and "
        f"{second[1]}, about RFDN's multiply-adds"
    )
    shorter = {1 / 3: 5, 1 / 10: 5}  # does the effect grow with the budget, or fade?
    activations = {name: {"config": {"act": act}} for name, act in acts.items()}
    return {
        "decompositions": compare("decompositions", "rfdn", rfdn, decompositions, seeds=8, budgets=shorter),
        "attention": compare("attention", "bsrn", small, attention),
        "activations": compare("activations", "bsrn", small, activations),
        "sizes": study("bsrn sizes", profile, trained, recipe, sizes, {"scale": 4}),
    }
