"""NSR's studies: constraints, cardinality, size against compute, really sparse inference, denoising, deblocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsrlib.papers.common import DATA, Variants, study
from nsrlib.papers.nsr.references import references
from nsrlib.studies import Study


def studies(profile: str = "cpu") -> dict[str, Study]:
    """NSR at x2: what constrains the hidden layer, cardinal groups, equal size, equal compute, one-hot gates; and its
    two networks for noise and for JPEG against their dense baseline and a DnCNN of about its size, on gray.
    """
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 4, "batch": 2, "patch": 24, "lr": 2e-3},
        "cpu": {"iterations": 10_000, "batch": 8, "patch": 24, "lr": 4e-3},
        "gpu": {"iterations": 3_000, "batch": 16, "patch": 48, "lr": 1e-3, "precision": "bfloat16"},
        "paper": {
            "iterations": 1_500_000, "batch": 16, "patch": 48, "lr": 1e-3,
            "schedule": "multistep", "milestones": [2 / 3, 5 / 6], "gamma": 0.2,
        },
    }  # fmt: skip
    recipe = recipes[profile]
    window = {"patch": recipe["patch"], "cell": recipe["patch"] // 3}
    data = DATA[profile]
    feats, blocks = {"quick": (16, 1), "cpu": (16, 4), "gpu": (32, 8), "paper": (64, 16)}[profile]
    common: dict[str, Any] = {
        "model": "nsr",
        "scale": 2,
        "setup": "nsrlib.papers.nsr.studies:hooks",
        "points": 2,
        "config": {"num_feats": feats, "num_blocks": blocks, **window},
    }

    def of(name: str, variants: Variants, seeds: int = 5) -> Study:
        trained = f"x2, {feats} channels, {blocks} blocks, k = 4 and d = 16 unless said"
        return study(f"nsr {name}", profile, trained, recipe, variants, common, data, seeds=seeds)

    def config(**settings: Any) -> dict[str, Any]:
        return {"config": settings}

    constraints = {
        "dense": config(variant="dense"),
        "softmax": config(),
        "uniform": config(temperature=1e6),  # what k kernels give without a choice among them
        "sigmoid": config(variant="sigmoid"),
        "hard": config(variant="hard"),
        "Gumbel": config(variant="gumbel"),
        "branches": config(variant="branches"),
        "SE": config(variant="se"),
    }
    cardinality = {f"d={d}": config(cardinals=d) for d in (1, 2, 4, 8, 16)} | {"SE": config(variant="se")}
    # about the parameters of the dense network, which is four times as wide inside its blocks
    efficiency = {
        "dense": config(variant="dense", width=4.0),
        "k=2": config(groups=2, width=2.0),
        "k=4": config(groups=4, width=1.0),
    }
    capacity = {f"k={k}": config(groups=k) for k in (1, 2, 4, 8, 16)}
    falling, hard = {"temperature": [1.0, 0.05]}, {"hard": True, "sets": data["test"]}
    sparse: dict[str, dict[str, Any]] = {
        "softmax": {"options": hard},
        "softmax, annealed": {"options": hard | falling},
        "branches": {**config(variant="branches"), "options": hard},
        "branches, annealed": {**config(variant="branches"), "options": hard | falling},
    }
    # 16 blocks of 32 channels in the paper
    small = 32 if profile == "paper" else feats
    size = {"num_feats": small, "num_blocks": blocks, "channels": 1}
    restoring: dict[str, Any] = {"scale": 1, "points": 2, "setup": common["setup"], "config": {}}
    if profile == "cpu":
        restoring["limit"] = 7  # Set12's images of 256x256
    layers, filters = {"quick": (3, 16), "cpu": (6, 32), "gpu": (14, 64), "paper": (17, 64)}[profile]
    restorers = {
        "DnCNN": {
            "model": "dncnn",
            "config": {"num_feats": filters, "num_layers": layers, "batch_norm": True},
            "recipe": {"lr": 1e-3},  # without weight norm
        },
        "baseline": {"model": "wdsr", "config": size | {"width": 2.0}},
        "sparse A": {"model": "nsr", "config": size | window | {"groups": 2, "width": 1.0}},
        "sparse B": {"model": "nsr", "config": size | window | {"groups": 2, "width": 2.0}},
    }

    def of_task(name: str, degradation: Mapping[str, Any], tests: Sequence[str]) -> Study:
        trained = f"gray, {small} channels, {blocks} blocks, k = 2 and d = 16, DnCNN with {layers} layers of {filters}"
        test = {"quick": ["embedded"], "cpu": tests[:1]}.get(profile, tests)
        if test == ["set12"]:
            trained += "; scored on the images of 256x256"
        settings = {**restoring, "degradation": degradation}
        return study(f"nsr {name}", profile, trained, recipe, restorers, settings, {**DATA[profile], "test": test})

    return {
        "constraints": of("constraints", constraints, 8),
        "cardinality": of("cardinality", cardinality),
        "efficiency": of("efficiency", efficiency),
        "capacity": of("capacity", capacity),
        "sparse inference": of("sparse inference", sparse),
        "denoising": of_task("denoising", {"noise": 25}, ["set12", "bsd68"]),
        "deblocking": of_task("deblocking", {"jpeg": 10}, ["classic5"]),
        "references": references(profile),
    }


def hooks(
    network: Any,
    recipe: Any,
    temperature: Sequence[float] | None = None,
    hard: bool = False,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Hooks of the training loop: gate usage in the log, and what makes gates one-hot. The ``setup`` of the studies.

    Args:
        temperature: first and last, see :func:`~nsrlib.models.nsr.annealed`.
        hard: measure the trained network on ``sets`` with hard selection too, and with one gate for a whole picture:
            ``psnr_<set>_hard``, ``psnr_<set>_whole`` and ``psnr_<set>_hard_whole``; and multiply-adds for each
            low-resolution pixel both ways, ``cost`` and ``cost_hard``, mixing and gates included.
    """
    from nsrlib.models.nsr import GateLog, annealed, gated_layers

    found: dict[str, Any] = {}
    if any(layer.k > 1 for layer in gated_layers(network).values()):
        log = GateLog()
        found |= {"before_step": log.before_step, "after_step": log.after_step}
    if temperature:
        found["before_forward"] = annealed(recipe, *temperature)
    if hard:
        found["measure"] = lambda net: _measured_hard(net, sets)
    return found


def _measured_hard(network: Any, sets: Sequence[str]) -> dict[str, float]:
    from nsrlib import evaluation

    scores = {"cost": cost(network)}
    for suffix, hard, inference in (("hard", True, "map"), ("whole", False, "whole"), ("hard_whole", True, "whole")):
        network.hard, network.inference = hard, inference
        if inference == "map":
            scores["cost_hard"] = cost(network)
        for name in sets:
            scores[f"psnr_{name}_{suffix}"] = float(evaluation.evaluate(network, name)["psnr"].mean())
    network.hard, network.inference = False, "map"
    return scores


def cost(network: Any, side: int = 240) -> float:
    """Multiply-adds for each input pixel of a picture of ``side`` pixels, gates and mixing included."""
    from nsrlib.complexity import count

    found = count(network, (side, side), channels=network.channels)
    return (found.multi_adds + found.extras["gates"][0]) / side**2
