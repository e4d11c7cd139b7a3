"""What the runs of a study will take, from a few steps of each."""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nsrlib.studies.results import StudyResult
from nsrlib.studies.study import Run, Study, task_of

FEW = 4, 20
"""Steps of the two short runs of which :func:`cost` takes the difference."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one training step, and of all that is not a step: images, validation, the final scores."""

    step: float
    rest: float

    def of(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        return self.step * steps + self.rest


def cost(study: Study, variant: str) -> Cost | None:
    """Time two short runs of a variant on one thread, data at hand; None for a task without a recipe."""
    import torch

    settings = study.settings(variant)
    if "recipe" not in settings:
        return None
    task, seconds = task_of(study.task), []
    # one picture is scored where steps are timed: scoring all of them would drown a few steps
    few = {"limit": 1} if "limit" in inspect.signature(task).parameters else {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for steps, changes in ((1, {}), (FEW[0], few), (FEW[1], few)):
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                task(seed=0, out=f"{scratch}/run", **_shortened(settings, steps) | changes)
            seconds.append(time.monotonic() - begun)
    finally:
        torch.set_num_threads(threads)
    step = max(1e-6, (seconds[2] - seconds[1]) / (FEW[1] - FEW[0]))
    return Cost(step, max(0.0, seconds[0] - step) * (1 + settings.get("points", 0) / 3))


def _shortened(settings: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """With so many steps, of every stage as far as there are several, and one validation."""
    whole = settings["recipe"]["iterations"]
    short = {**settings, "recipe": {**settings["recipe"], "iterations": steps}}
    if "points" in settings:
        short["points"] = 1
    if "tune" in settings:
        share = settings["tune"]["iterations"] / whole
        short["tune"] = {**settings["tune"], "iterations": max(1, round(steps * share))}
    return short


def estimate(study: Study, run: Run, costs: Mapping[str, Cost | None], stored: StudyResult | None = None) -> float:
    """Seconds that a run will take: as others of its variant took, else from ``costs``; 0 where nothing is known."""
    steps = study.steps(run.variant, run.share)
    if stored is not None:
        same = stored.rows[(stored.rows["variant"] == run.variant) & (stored.rows["steps"] == steps)]
        if len(same):
            return float(same["seconds"].median())
    known = costs.get(run.variant)
    return known.of(steps) if known and steps else 0.0
