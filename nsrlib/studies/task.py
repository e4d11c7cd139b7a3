"""The task of most studies: train one network and score it, image by image."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nsrlib.training.recipe import Hooks

if TYPE_CHECKING:
    from nsrlib.data import ImageSet
    from nsrlib.data.patches import Patches

Measure = Callable[[Any], Mapping[str, float]]
"""``measure(network) -> {metric: number}``, of a trained network."""


def set_up(setup: str, network: Any, recipe: Any, **options: Any) -> tuple[Hooks, Measure | None]:
    """What a training asks for beside a recipe: hooks of :func:`~nsrlib.training.fit`, and a measure.

    Args:
        setup: ``module:function``, called as ``function(network, recipe, **options)``; empty: nothing. It returns
            the fields of :class:`~nsrlib.training.Hooks` as a dict, and may add a ``measure``.
    """
    if not setup:
        return Hooks(), None
    module, _, function = setup.partition(":")
    fields = dict(getattr(importlib.import_module(module), function)(network, recipe, **options))
    measure = fields.pop("measure", None)
    return Hooks(**fields), measure


def validation(images: ImageSet, task: Mapping[str, Any]) -> Measure:
    """A ``validate`` of :func:`~nsrlib.training.fit`: ``psnr``, the mean over ``images`` after ``task`` (noise or JPEG
    to undo; empty: upscaling)."""
    from nsrlib.evaluation import evaluate

    return lambda network: {"psnr": float(evaluate(network, images, fast=False, **task)["psnr"].mean())}


def scored(network: Any, tests: Mapping[str, ImageSet], task: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """A row for each test image: set, image, psnr (dB) and ssim under the task's usual protocol."""
    from nsrlib.evaluation import evaluate

    return [
        {"set": name, "image": row["image"], "psnr": round(float(row["psnr"]), 6), "ssim": round(float(row["ssim"]), 7)}
        for name, images in tests.items()
        for row in evaluate(network, images, **dict(task or {})).to_dict("records")
    ]


def train_and_score(
    *,
    model: str,
    scale: int,
    recipe: Mapping[str, Any],
    seed: int,
    config: Mapping[str, Any] | None = None,
    train: Sequence[str] = ("t91",),
    test: Sequence[str] = ("set5",),
    patches: Mapping[str, Any] | None = None,
    degradation: Mapping[str, Any] | None = None,
    limit: int | None = None,
    setup: str = "",
    options: Mapping[str, Any] | None = None,
    points: int = 8,
    out: str | None = None,
) -> dict[str, Any]:
    """Train one network and score it: the task of most studies, whose settings are these keywords.

    Args:
        recipe: fields of :class:`~nsrlib.training.Recipe`; ``seed`` is set to the run's.
        patches: keywords of :class:`~nsrlib.data.patches.Patches`.
        degradation: ``{"noise": 25}`` or ``{"jpeg": 10}``: the network, of scale 1, learns to undo that and is scored
            on it, on gray unless it takes colour.
        setup, options: for :func:`set_up`, whose measure adds its numbers to the results.
        test: sets on which PSNR and SSIM are measured under the task's usual protocol, with LR made the papers' way.
        points: validations on the first test set along the way, for the learning curve.

    Returns:
        ``scores`` as of :func:`scored`, ``params``, ``loss``, ``seconds`` of training, ``curve``, and ``data``: the
        SHA-256 of the training images (``train``) and of each test set.
    """
    from nsrlib import data, evaluation
    from nsrlib.models import create_model
    from nsrlib.training import Recipe, RunFolder, fit, seeded

    full = Recipe(**{**recipe, "seed": seed})
    with seeded(seed):
        network = create_model(model, scale, **dict(config or {}))
    task = dict(degradation or {})
    gray = evaluation.takes_gray(network) if task else None
    tests = {name: data.load(name, scale, gray=gray, limit=limit) for name in test}
    hooks, measure = set_up(setup, network, full, **dict(options or {}))
    options_of_patches = json.dumps({**task, **(patches or {})}, sort_keys=True)
    every = max(1, full.iterations // points)
    about = {"model": model, "scale": scale, "config": json.dumps(dict(config or {}))}
    cut = training_patches(tuple(train), scale, full.patch, options_of_patches, gray)
    result = fit(
        network,
        cut,
        full,
        hooks=hooks,
        validate=validation(next(iter(tests.values())), task),
        validate_every=every,
        log_every=every,
        out=RunFolder(out, metadata=about) if out else None,
        progress=False,
    )
    return {
        "scores": scored(result.model, tests, task),
        **(measure(result.model) if measure else {}),
        "params": sum(p.numel() for p in network.parameters()),
        "loss": float(result.history["loss"].iloc[-1]),
        "seconds": round(result.seconds, 1),
        "curve": result.history.drop(columns=["lr", "seconds"]).to_dict("records"),
        "data": {"train": cut.sha256, **{name: images.sha256 for name, images in tests.items()}},
    }


@functools.lru_cache(maxsize=2)
def training_patches(
    names: tuple[str, ...], scale: int | None, patch: int, options: str = "{}", gray: bool | None = None
) -> Patches:
    """Patches of training sets, decoded once per process; ``options``: keywords of ``Patches`` as JSON."""
    from nsrlib import data
    from nsrlib.data.patches import Patches

    images = data.training_set(names, scale, gray=gray)
    return Patches(images, patch, **{"too_small": "skip", **json.loads(options)})
