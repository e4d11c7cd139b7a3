"""Train a network on a user's images as its paper does: ``nsr train``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nsrlib.claims import PROFILES
from nsrlib.papers.table import training_of
from nsrlib.studies import set_up

if TYPE_CHECKING:
    from nsrlib.training import TrainingResult


def _middle(level: Any) -> Any:
    """Of a range of noise or of qualities; a single level is its own."""
    low, high = level if isinstance(level, Sequence) else (level, level)
    return (low + high) // 2 if isinstance(low, int) and isinstance(high, int) else (low + high) / 2


def train(
    model: str,
    scale: int,
    data: Sequence[str] | None = None,
    *,
    noise: float | tuple[float, float] | None = None,
    jpeg: int | tuple[int, int] | None = None,
    profile: str = "cpu",
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    validate: str | None = "embedded_val",
    out: str | os.PathLike,
    skip_broken: bool = False,
    resume: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> tuple[TrainingResult, str]:
    """Train a network on a user's images, with a log, curves and a weights file in ``out``: ``nsr train``.

    Args:
        model, scale, config: for :func:`nsrlib.create_model`.
        data: training sets or folders; None: T91, or the embedded photographs where it cannot be had.
        noise, jpeg: what a network of scale 1 learns to undo, see :class:`~nsrlib.data.Patches`; on gray unless it
            takes colour. Validation has the middle of a range.
        profile: ``quick`` 200 steps, ``cpu`` 10,000, ``gpu`` 200,000 in bfloat16, ``paper`` the published recipe.
        recipe: fields that differ from the profile's.
        validate: a set or folder whose PSNR on luma is followed; None: none.
        out: the run's folder. resume: go on where a run in it was interrupted.
        skip_broken: leave out images that cannot be read or are smaller than a patch; the count is said.

    Returns:
        The result, and a sentence about it (empty in all processes but the first of a distributed run).
    """
    from nsrlib import data as sets
    from nsrlib import evaluation
    from nsrlib.data.patches import Patches
    from nsrlib.models import create_model
    from nsrlib.training import fit, seeded

    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    sizes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 200, "batch": 8, "patch": 24},
        "cpu": {"iterations": 10_000, "batch": 16, "patch": 32, "channels_last": True},
        "gpu": {"iterations": 200_000, "batch": 32, "patch": 48, "channels_last": True, "precision": "bfloat16"},
        "paper": {},
    }
    own = training_of(model)
    shorter = {} if profile == "paper" else own.shorter
    full = own.recipe.replace(**sizes[profile], **shorter).replace(**dict(recipe or {}))
    with seeded(full.seed):
        network = create_model(model, scale, **dict(config or {}))
    keywords, _ = set_up(own.setup, network, full)
    task = {name: _middle(level) for name, level in (("noise", noise), ("jpeg", jpeg)) if level is not None}
    if scale == 1 and not task:
        raise ValueError("scale 1 leaves nothing to learn: give noise or jpeg to undo")
    gray = evaluation.takes_gray(network) if task else None
    try:
        images = sets.training_set(data or ["t91"], scale, gray=gray, on_error="skip" if skip_broken else "raise")
    except sets.DataUnavailable:
        if data:
            raise
        images = sets.training_set("embedded_train", scale, gray=gray)
    small: Literal["skip", "raise"] = "skip" if skip_broken else "raise"
    patches = Patches(images, full.patch, noise=noise, jpeg=jpeg, too_small=small, **own.patches)
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        left_out = f", {len(patches.skipped)} left out" if patches.skipped else ""
        say(f"{model} x{scale}: {sum(p.numel() for p in network.parameters()):,} parameters; {patches}{left_out}")
        say(f"recipe: {full}")
    held_out = None if validate is None else sets.load(validate, scale, gray=gray)

    def check(net: Any) -> dict[str, float]:
        assert held_out is not None
        return {"psnr": float(evaluation.evaluate(net, held_out, fast=False, **task)["psnr"].mean())}

    about = {"model": model, "scale": scale, "config": json.dumps(dict(config or {}))}
    result = fit(
        network,
        patches,
        full,
        validate=check if held_out else None,
        validate_every=max(1, full.iterations // 20) if held_out else 0,
        out=out,
        resume=resume,
        device=device,
        description=f"{model} x{scale}",
        metadata=about,
        **keywords,
    )
    if not first:
        return result, ""
    from nsrlib import plots

    plots.save(plots.history(result.history, f"{model} x{scale}"), "curves", Path(out))
    last = result.history.iloc[-1]
    quality = f", {last['psnr']:.2f} dB on {validate}" if "psnr" in last and last["psnr"] == last["psnr"] else ""
    return result, f"{result.steps:,} steps in {result.seconds:.0f} s, loss {last['loss']:.4g}{quality}; see {out}"
