"""Train a network on a user's images as its paper does: ``nsr train``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nsrlib import data, evaluation, plots
from nsrlib.claims import PROFILES
from nsrlib.data import Patches
from nsrlib.models import create_model
from nsrlib.papers.table import training_of
from nsrlib.studies import set_up, validation
from nsrlib.training import Recipe, RunFolder, TrainingResult, fit, seeded

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"iterations": 200, "batch": 8, "patch": 24},
    "cpu": {"iterations": 10_000, "batch": 16, "patch": 32, "channels_last": None},
    "gpu": {"iterations": 200_000, "batch": 32, "patch": 48, "channels_last": True, "precision": "bfloat16"},
    "paper": {},
}
"""What a profile changes in the published recipe."""


@dataclass(frozen=True)
class Job:
    """What is trained, and on what.

    Attributes:
        model, scale, config: for :func:`nsrlib.create_model`.
        data: training sets or folders; empty: T91, or the embedded photographs where it cannot be had.
        noise, jpeg: what a network of scale 1 learns to undo, see :class:`~nsrlib.data.Patches`; on gray unless it
            takes colour. Validation has the middle of a range.
        profile: ``quick`` 200 steps, ``cpu`` 10,000, ``gpu`` 200,000 in bfloat16, ``paper`` the published recipe.
        changes: fields of the recipe that differ from the profile's.
        validate: a set or folder whose PSNR on luma is followed; None: none.
        skip_broken: leave out images that cannot be read or are smaller than a patch; the count is said.

    Raises:
        ValueError: an unknown profile, or a field that a recipe has not; nothing to learn.
    """

    model: str
    scale: int
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[str] = ()
    noise: float | tuple[float, float] | None = None
    jpeg: int | tuple[int, int] | None = None
    profile: str = "cpu"
    changes: Mapping[str, Any] = field(default_factory=dict)
    validate: str | None = "embedded_val"
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {self.profile!r}")

    @property
    def recipe(self) -> Recipe:
        """The paper's recipe at the profile's size, with the changes."""
        own = training_of(self.model)
        shorter = {} if self.profile == "paper" else own.shorter
        return own.recipe.replace(**SIZES[self.profile], **shorter).replace(**self.changes)

    @property
    def task(self) -> dict[str, Any]:
        """What is undone when the network is validated; empty: upscaling."""
        levels = {"noise": self.noise, "jpeg": self.jpeg}
        return {name: _middle(level) for name, level in levels.items() if level is not None}

    def patches(self, gray: bool | None) -> Patches:
        """What the network is trained on."""
        broken: Literal["raise", "skip"] = "skip" if self.skip_broken else "raise"
        try:
            images = data.training_set(self.data or ["t91"], self.scale, gray=gray, on_error=broken)
        except data.DataUnavailable:
            if self.data:
                raise
            images = data.training_set("embedded_train", self.scale, gray=gray)
        options: dict[str, Any] = {"noise": self.noise, "jpeg": self.jpeg, **training_of(self.model).patches}
        return Patches(images, self.recipe.patch, too_small=broken, **options)


def _middle(level: Any) -> Any:
    """Of a range of noise or of qualities; a single level is its own."""
    low, high = level if isinstance(level, Sequence) else (level, level)
    return (low + high) // 2 if isinstance(low, int) and isinstance(high, int) else (low + high) / 2


def train(
    job: Job,
    out: str | os.PathLike[str],
    *,
    resume: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> tuple[TrainingResult, str]:
    """Train a network on a user's images, with a log, curves and a weights file in ``out``.

    Args:
        resume: go on where a run in ``out`` was interrupted.
        say: told, once, what is trained and how.

    Returns:
        The result, and a sentence about it (empty in all processes but the first of a distributed run).
    """
    recipe, task = job.recipe, job.task
    with seeded(recipe.seed):
        network = create_model(job.model, job.scale, **job.config)
    hooks, _ = set_up(training_of(job.model).setup, network, recipe)
    if job.scale == 1 and not task:
        raise ValueError("scale 1 leaves nothing to learn: give noise or jpeg to undo")
    gray = evaluation.takes_gray(network) if task else None
    patches = job.patches(gray)
    first = int(os.environ.get("RANK", "0")) == 0
    title = f"{job.model} x{job.scale}"
    if first:
        left_out = f", {len(patches.skipped)} left out" if patches.skipped else ""
        say(f"{title}: {sum(p.numel() for p in network.parameters()):,} parameters; {patches}{left_out}")
        say(f"recipe: {recipe}")
    metadata = {"model": job.model, "scale": job.scale, "config": json.dumps(dict(job.config))}
    held_out = None if job.validate is None else data.load(job.validate, job.scale, gray=gray)
    result = fit(
        network,
        patches,
        recipe,
        hooks=hooks,
        validate=validation(held_out, task) if held_out else None,
        validate_every=max(1, recipe.iterations // 20) if held_out else 0,
        out=RunFolder(out, resume=resume, metadata=metadata),
        device=device,
        description=title,
    )
    if not first:
        return result, ""
    plots.save(plots.history(result.history, title), "curves", os.fspath(out))
    last = result.history.iloc[-1]
    quality = f", {last['psnr']:.2f} dB on {job.validate}" if "psnr" in last and last["psnr"] == last["psnr"] else ""
    steps = f"{result.steps:,} steps in {result.seconds:.0f} s"
    steps += f", {result.chosen.partition(':')[0]}" if result.chosen else ""
    return result, f"{steps}, loss {last['loss']:.4g}{quality}; see {out}"
