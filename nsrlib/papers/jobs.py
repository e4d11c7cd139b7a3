"""Train a network on a user's images as its paper does: ``nsr train``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nsrlib.claims import PROFILES
from nsrlib.papers.table import training_of
from nsrlib.studies import set_up, validation

if TYPE_CHECKING:
    from torch import nn

    from nsrlib.data import ImageSet, Patches
    from nsrlib.papers.record import Training
    from nsrlib.training import Recipe, TrainingResult

SIZES: dict[str, dict[str, Any]] = {
    "quick": {"iterations": 200, "batch": 8, "patch": 24},
    "cpu": {"iterations": 10_000, "batch": 16, "patch": 32, "channels_last": True},
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
    def own(self) -> Training:
        return training_of(self.model)

    @property
    def recipe(self) -> Recipe:
        """The paper's recipe at the profile's size, with the changes."""
        shorter = {} if self.profile == "paper" else self.own.shorter
        return self.own.recipe.replace(**SIZES[self.profile], **shorter).replace(**self.changes)

    @property
    def task(self) -> dict[str, Any]:
        """What is undone when the network is validated; empty: upscaling."""
        levels = {"noise": self.noise, "jpeg": self.jpeg}
        return {name: _middle(level) for name, level in levels.items() if level is not None}

    @property
    def metadata(self) -> dict[str, Any]:
        """What :func:`nsrlib.load_weights` and ``nsr evaluate`` need to know of the weights."""
        return {"model": self.model, "scale": self.scale, "config": json.dumps(dict(self.config))}

    def network(self) -> nn.Module:
        """With the first weights of the recipe's seed."""
        from nsrlib.models import create_model
        from nsrlib.training import seeded

        with seeded(self.recipe.seed):
            return create_model(self.model, self.scale, **self.config)

    def patches(self, gray: bool | None) -> Patches:
        from nsrlib.data import Patches

        return Patches(
            self._images(gray),
            self.recipe.patch,
            noise=self.noise,
            jpeg=self.jpeg,
            too_small="skip" if self.skip_broken else "raise",
            **self.own.patches,
        )

    def _images(self, gray: bool | None) -> ImageSet:
        from nsrlib.data import DataUnavailable, training_set

        broken: Literal["raise", "skip"] = "skip" if self.skip_broken else "raise"
        try:
            return training_set(self.data or ["t91"], self.scale, gray=gray, on_error=broken)
        except DataUnavailable:
            if self.data:
                raise
            return training_set("embedded_train", self.scale, gray=gray)


def _middle(level: Any) -> Any:
    """Of a range of noise or of qualities; a single level is its own."""
    low, high = level if isinstance(level, Sequence) else (level, level)
    return (low + high) // 2 if isinstance(low, int) and isinstance(high, int) else (low + high) / 2


def train(
    job: Job,
    out: str | os.PathLike,
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
    from nsrlib import data, evaluation
    from nsrlib.training import RunFolder, fit

    recipe, task, network = job.recipe, job.task, job.network()
    hooks, _ = set_up(job.own.setup, network, recipe)
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
    held_out = None if job.validate is None else data.load(job.validate, job.scale, gray=gray)
    result = fit(
        network,
        patches,
        recipe,
        hooks=hooks,
        validate=validation(held_out, task) if held_out else None,
        validate_every=max(1, recipe.iterations // 20) if held_out else 0,
        out=RunFolder(out, resume=resume, metadata=job.metadata),
        device=device,
        description=title,
    )
    return result, _told(result, title, job.validate, Path(out)) if first else ""


def _told(result: TrainingResult, title: str, validated: str | None, out: Path) -> str:
    """Draw the curves; returns the sentence at the end."""
    from nsrlib import plots

    plots.save(plots.history(result.history, title), "curves", out)
    last = result.history.iloc[-1]
    quality = f", {last['psnr']:.2f} dB on {validated}" if "psnr" in last and last["psnr"] == last["psnr"] else ""
    return f"{result.steps:,} steps in {result.seconds:.0f} s, loss {last['loss']:.4g}{quality}; see {out}"
