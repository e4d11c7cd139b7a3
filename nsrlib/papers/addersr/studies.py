"""AdderSR's ablation, its pairs of networks, and two ideas of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsrlib.papers.common import Variants, study
from nsrlib.studies import Study


def studies(profile: str = "cpu") -> dict[str, Study]:
    """AdderSR on luma: the ablation at x2, each variant at several learning rates of its adder weights; two ideas of
    our own; and pairs of an adder network and a CNN at x2, x3, x4.
    """
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 4, "batch": 2, "patch": 12, "lr": 2e-3},
        "cpu": {"iterations": 5_000, "batch": 16, "patch": 24, "lr": 2e-3},
        "gpu": {"iterations": 3_000, "batch": 16, "patch": 24, "lr": 1e-3},
        "paper": {"iterations": 300_000, "batch": 16, "patch": 41, "lr": 1e-3},
    }
    recipe = recipes[profile]
    channels, layers = {"quick": (4, 4), "cpu": (12, 7), "gpu": (32, 10), "paper": (64, 20)}[profile]
    rates = {"quick": (1, 30), "cpu": (1, 10, 100), "gpu": (1, 10, 30, 100), "paper": (1, 10, 30, 100)}[profile]
    common: dict[str, Any] = {
        "scale": 2,
        "config": {"num_feats": channels, "num_layers": layers},
        "patches": {"channels": "y"},
    }
    data = None
    if profile == "cpu":
        common["points"], data = 2, {"train": ["t91"], "test": ["set5", "set14"]}

    def at(rate: float) -> dict[str, Any]:
        return {"lr_scale": [["*adder*", float(rate)]]}

    def swept(variants: Variants, rates: Sequence[int]) -> dict[str, Mapping[str, Any]]:
        return {
            f"{name} x{rate}": {"model": "addersr_vdsr", **settings, "recipe": at(rate)}
            for name, settings in variants.items()
            for rate in rates
        }

    def ablate(name: str, what: str, variants: Variants, **more: Any) -> Study:
        trained = f"luma, {what}, VDSR with {channels} channels and {layers} layers"
        return study(f"addersr {name}", profile, trained, recipe, variants, common, data, **more)

    ablation: dict[str, dict[str, Any]] = {
        "no BN": {"config": {"steps": "shortcut relu power"}},
        "BN": {"config": {"steps": "bn relu"}},
        "BN, shortcut": {"config": {"steps": "bn shortcut relu"}},
        "BN, shortcut, power": {},
        "shortcut before BN": {"config": {"steps": "shortcut bn relu power"}},
        "power first": {"config": {"steps": "power bn shortcut relu"}},
        "sign gradient": {"config": {"gradient": "sign"}},
        "adaptive rate": {"setup": "nsrlib.papers.addersr.studies:adaptive_rate"},
    }
    beyond: dict[str, dict[str, Any]] = {
        "BN, shortcut, power": {},
        "difference": {"config": {"layer": "difference", "steps": "bn relu"}},
        # about as many additions as the unit of single adders
        "difference, fewer channels": {
            "config": {"layer": "difference", "steps": "bn relu", "num_feats": channels * 2 // 3}
        },
        "tau 1 to 4": {"setup": "nsrlib.models.addersr:annealed_tau"},
    }
    pairs: dict[str, dict[str, Any]] = {}
    for scale in (2,) if profile == "quick" else (2, 3, 4):
        pairs[f"CNN x{scale}"] = {"model": "vdsr", "scale": scale}
        pairs[f"adder x{scale}"] = {"model": "addersr_vdsr", "scale": scale, "recipe": at(rates[-1])}
    return {
        "ablation": ablate("ablation", "x2", {**swept(ablation, rates), "CNN": {"model": "vdsr"}}, seeds=8),
        "beyond": ablate("beyond", "x2", swept(beyond, rates if profile in ("gpu", "paper") else rates[-1:])),
        "pairs": ablate("pairs", f"adder rate x{rates[-1]}", pairs),
    }


def adaptive_rate(network: Any, recipe: Any) -> dict[str, Any]:
    """AdderNet's adaptive local learning rate as a hook of the training loop."""
    from nsrlib.models.addersr import adaptive_lr

    return {"before_step": adaptive_lr}
