"""DRN's ablations: dual regression, and compression by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nsrlib.papers.common import DATA, study
from nsrlib.studies import Study

if TYPE_CHECKING:
    from nsrlib.models.drn import DRN

LAMBDAS = (0, 0.001, 0.01, 0.1, 1, 10)
GAMMAS = (0, 0.1, 10)
"""Beside the paper's 1, which every other student has."""
RATIOS = (0.3, 0.5)


def studies(profile: str = "cpu") -> dict[str, Study]:
    """Dual regression by its weight, and of HR too; what pruning keeps, by criterion and gamma; how many channels.

    All students of the second and third study are pruned from one network for each seed and tuned alike, and so is the
    unpruned network itself.
    """
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 4, "batch": 2, "patch": 8, "lr": 6e-3},
        "cpu": {"iterations": 3_000, "batch": 8, "patch": 24, "lr": 1e-3},
        "gpu": {"iterations": 3_000, "batch": 16, "patch": 48, "lr": 1e-3},
        "paper": {"iterations": 1_000_000, "batch": 32, "patch": 96, "lr": 1e-4},
    }
    recipe = recipes[profile]
    f, blocks = {"quick": (2, 1), "cpu": (16, 2), "gpu": (16, 4), "paper": (16, 30)}[profile]
    data: Mapping[str, Sequence[str]] = DATA[profile]
    common: dict[str, Any] = {"model": "drn_s", "scale": 4, "config": {"num_feats": f, "num_blocks": blocks}}
    network = f"x4, DRN-S with {f} channels and {blocks} blocks a stage"

    def regression(lambda_: float, dual_hr: bool = False) -> dict[str, Any]:
        options = {"lambda_": lambda_, "dual_hr": dual_hr, "on": data["test"][0]}
        return {"setup": "nsrlib.papers.drn.studies:closed_loop", "options": options}

    dual = {f"lambda {value:g}": regression(value) for value in LAMBDAS} | {"dual on HR": regression(0.1, True)}

    steps = {"quick": 2, "cpu": 1_000, "gpu": 1_000, "paper": 1_000_000}[profile]
    common_of_students: dict[str, Any] = common | {
        "tune": {"iterations": steps, "lr": recipe["lr"] / 3 if profile != "paper" else recipe["lr"]},
        "calibrate": {"quick": [1, 2], "cpu": [2, 8], "gpu": [10, 16], "paper": [10, 16]}[profile],
    }
    pruned = f"students tuned for {steps:,} steps after pruning"
    criteria: dict[str, dict[str, Any]] = {"unpruned": {"widths": "full"}}
    for ratio in RATIOS:
        for criterion in ("drc", "dcp", "cp", "thinet", "l1", "random"):
            criteria[f"{criterion} {100 * ratio:g}"] = {"ratio": ratio, "criterion": criterion}
    criteria["drc 30, gamma 0"] = {"ratio": RATIOS[0], "gamma": 0}
    criteria |= {f"drc 50, gamma {value:g}": {"ratio": RATIOS[1], "gamma": value} for value in GAMMAS}

    search = {
        "steps": {"quick": 2, "cpu": 120, "gpu": 1_000, "paper": 2_500}[profile],
        "batch": {"quick": 2, "cpu": 8, "gpu": 16, "paper": 16}[profile],
        # shorter searches need larger steps to decide anything
        "alpha_lr": {"quick": 3e-4, "cpu": 2e-2, "gpu": 3e-3, "paper": 3e-4}[profile],
        "lr": 1e-4 if profile == "paper" else recipe["lr"] / 10,
        "multiple": 4 if profile == "paper" else 1,
    }
    kinds = ("uniform", "searched", "searched with cost", "uniform at cost", "random at cost")
    numbers: dict[str, dict[str, Any]] = {"unpruned": {"widths": "full"}}
    numbers |= {kind: {"widths": kind, "ratio": RATIOS[0], "search": search} for kind in kinds}

    def of_students(name: str, variants: Mapping[str, Mapping[str, Any]], what: str) -> Study:
        trained, task = f"{pruned}{what}; their parent: {network}", "nsrlib.papers.drn.studies:compress"
        return study(f"drn {name}", profile, trained, recipe, variants, common_of_students, data, task)

    few_points = {"points": 2} if profile == "cpu" else {}
    return {
        "dual": study("drn dual", profile, network, recipe, dual, common | few_points, data, seeds=8),
        "pruning": of_students("pruning", criteria, ""),
        "widths": of_students("widths", numbers, f", widths searched for {search['steps']:,} steps"),
    }


# --- dual regression --------------------------------------------------------------------------------------------------


def closed_loop(network: DRN, recipe: Any, lambda_: float, dual_hr: bool, on: str) -> dict[str, Any]:
    """Dual regression, and how far its loop closes: ``psnr_lr``, the PSNR (all colours) on the set ``on`` between the
    low-resolution image and MATLAB's bicubic reduction of the result."""
    from nsrlib.models.drn import training_setup

    def measure(model: DRN) -> dict[str, float]:
        return {"psnr_lr": loop_psnr(model, on)}

    return {**training_setup(network, recipe, lambda_, dual_hr), "measure": measure}


def loop_psnr(model: DRN, name: str) -> float:
    """Mean PSNR in dB between the images of a set and the bicubic reductions of what ``model`` makes of them."""
    from nsrlib import data, evaluation
    from nsrlib.images import imresize, to_tensor

    model.eval()
    found = []
    for pair in data.load(name, model.scale):
        x = to_tensor(pair.lr, next(model.parameters()).device)  # type: ignore[arg-type]
        y = evaluation.upscale(model, x).clamp(0, 1)
        found.append(float(-10 * (imresize(y, 1 / model.scale) - x).square().mean().log10()))
    return sum(found) / len(found)


# --- compression ------------------------------------------------------------------------------------------------------


def compress(*, seed: int, out: str | None = None, **settings: Any) -> dict[str, Any]:
    """:func:`~nsrlib.papers.drn.students.student` of these settings: the task of the studies of compression."""
    from nsrlib.papers.drn import students

    return students.student(students.Settings(**settings), seed, out)
