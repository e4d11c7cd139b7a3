"""Students of one network, for DRN's studies of compression: pruned and tuned alike, or left as they are."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from nsrlib import data, evaluation
from nsrlib.complexity import count
from nsrlib.data.patches import Patches
from nsrlib.files import whole_file
from nsrlib.models import create_model
from nsrlib.models.drn import DRN, dual_networks, training_setup, uniform_widths
from nsrlib.papers.drn.costs import channel_costs, widths_at_cost
from nsrlib.papers.drn.criteria import CRITERIA, calibration
from nsrlib.papers.drn.pruning import fine_tune, prune
from nsrlib.papers.drn.search import candidate_widths, search_widths
from nsrlib.studies import scored, training_patches
from nsrlib.training import Hooks, Recipe, fit, seeded

WIDTHS = ("full", "uniform", "searched", "searched with cost", "uniform at cost", "random at cost")
"""Where a student's widths come from: nothing is pruned; the same share of every layer; the paper's search.

The last three cost at most the multiply-adds of what that search finds: searched by expected multiply-adds, from a
wider choice; uniform; with shares drawn from the seed.
"""

WIDER = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
"""Shares of a layer that the search with a cost may choose."""


@dataclass(frozen=True)
class Settings:
    """An unpruned network and what becomes of it: the settings of a variant.

    Attributes:
        model, scale, config, recipe, train: of the unpruned network, as of :func:`~nsrlib.studies.train_and_score`.
        test: sets that are scored before and after tuning.
        tune: what the recipe of tuning has otherwise than the network's; patches differ from those of training.
        calibrate: batches that pruning looks at, and patches in each.
        widths: how many channels, of :data:`WIDTHS`.
        ratio: share of channels to remove.
        criterion, gamma: which channels, see :func:`~nsrlib.papers.drn.pruning.prune`.
        search: ``steps``, ``batch``, ``lr``, ``alpha_lr`` of :func:`~nsrlib.papers.drn.search.search_widths`;
            ``multiple`` of :func:`~nsrlib.papers.drn.search.candidate_widths`.
        lambda_: weight of the dual term, in training, search, pruning and tuning.
    """

    model: str
    scale: int
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    train: Sequence[str]
    test: Sequence[str]
    tune: Mapping[str, Any]
    calibrate: tuple[int, int]
    widths: str = "uniform"
    ratio: float = 0.3
    criterion: str = "drc"
    gamma: float = 1.0
    search: Mapping[str, Any] | None = None
    lambda_: float = 0.1

    def __post_init__(self) -> None:
        for name, known in (("widths", WIDTHS), ("criterion", CRITERIA)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    def of_network(self) -> dict[str, Any]:
        """The settings that the unpruned network depends on."""
        names = ("model", "scale", "config", "recipe", "train", "lambda_")
        return {name: value for name, value in asdict(self).items() if name in names}


def student(settings: Settings, seed: int, out: str | None = None) -> dict[str, Any]:
    """Train a network, prune it, tune it and score it.

    The unpruned network, its dual networks and the searched widths are made by the first run of a seed that needs them,
    and kept beside ``out`` for the others.

    Returns:
        ``scores`` and ``data`` as of :func:`~nsrlib.studies.train_and_score`; ``psnr_<set>_untuned`` just after
        pruning, ``params``, ``multi_adds`` (of a 96x96 input), ``error`` (mean relative reconstruction error of the
        pruned layers), ``seconds`` of pruning and tuning; ``curve``: a row for each layer, its width before and after.
    """
    s = settings
    recipe = Recipe(**{**s.recipe, "seed": seed})
    patches = training_patches(tuple(s.train), s.scale, recipe.patch).to(evaluation.pick_device())
    parent, duals = unpruned(s, recipe, patches, out)
    begun = time.monotonic()
    model = parent
    full = zip(parent.slots, parent.widths, strict=True)
    rows: list[dict[str, Any]] = [{"layer": slot.name, "before": w, "after": w, "error": 0.0} for slot, w in full]
    if s.widths != "full":
        chosen = choose_widths(s, parent, seed, lambda budget: searched(s, parent, duals, recipe, out, budget))
        batches = calibration(patches, *s.calibrate, seed)
        options: dict[str, Any] = {"gamma": s.gamma, "lambda_": s.lambda_, "seed": seed, "progress": False}
        pruned = prune(parent, chosen, batches, s.criterion, duals=duals, **options)
        model, rows = pruned.model, cast(Any, pruned.layers.to_dict("records"))
    seconds = time.monotonic() - begun
    tests = {name: data.load(name, s.scale) for name in s.test}
    scores: dict[str, Any] = {}
    for name, images in tests.items():
        scores[f"psnr_{name}_untuned"] = float(evaluation.evaluate(model, images)["psnr"].mean())
    # another stream of patches than the one of training
    last = recipe.replace(**{**s.tune, "seed": seed + 1_000})
    tuned = fine_tune(model, patches, last, duals=duals, lambda_=s.lambda_, out=out, progress=False)
    cost = count(model, (96, 96))
    return scores | {
        "scores": scored(tuned.model, tests),
        "data": {"train": patches.sha256, **{name: images.sha256 for name, images in tests.items()}},
        "params": cost.params,
        "multi_adds": cost.multi_adds,
        "error": sum(row["error"] for row in rows) / len(rows),
        "seconds": seconds + tuned.seconds,
        "curve": rows,
    }


def unpruned(settings: Settings, recipe: Recipe, patches: Patches, out: str | None) -> tuple[DRN, nn.ModuleList]:
    """The trained network and its dual networks."""

    def fresh() -> DRN:
        with seeded(recipe.seed):
            return cast(DRN, create_model(settings.model, settings.scale, **settings.config))

    def make() -> list[dict[str, Any]]:
        model = fresh()
        setup = training_setup(model, recipe, settings.lambda_)
        result = fit(model, patches, recipe, hooks=Hooks(**setup), progress=False)
        return [result.model.state_dict(), setup["networks"]["dual"].state_dict()]

    # never the network that was just trained: its memory format may be another, which shows in the last digits
    states, parent = once(out, f"unpruned-seed{recipe.seed}", settings.of_network(), make), fresh()
    duals = dual_networks(settings.scale, parent.num_feats)
    parent.load_state_dict(states[0])
    duals.load_state_dict(states[1])
    return parent.to(patches.device), duals.to(patches.device)


def choose_widths(settings: Settings, parent: DRN, seed: int, search: Callable[[float | None], list[int]]) -> list[int]:
    """Widths of a student; ``search(budget)`` searches them, for a cost or, with None, as the paper does."""
    if settings.widths == "uniform":
        return uniform_widths(parent.widths, settings.ratio)
    plain = search(None)
    if settings.widths == "searched":
        return plain
    costs, fixed = channel_costs(parent)
    budget = fixed + int(costs @ np.array(plain))
    if settings.widths == "searched with cost":
        return search(budget)
    return widths_at_cost(parent, budget, "random" if settings.widths.startswith("random") else "uniform", seed=seed)


def searched(
    settings: Settings, parent: DRN, duals: nn.ModuleList, recipe: Recipe, out: str | None, budget: float | None
) -> list[int]:
    """Search widths with every other image for the weights and the rest for alpha; those without a budget are kept.

    Without ``budget`` the candidates are the paper's, rounded to ``multiple``; with one they are :data:`WIDER`.
    """

    def make() -> list[int]:
        options = dict(settings.search or {})
        multiple = options.pop("multiple")
        candidates = [candidate_widths(c, settings.ratio, multiple) for c in parent.widths]
        if budget is not None:
            candidates = [tuple(max(1, round(share * c)) for share in WIDER) for c in parent.widths]
        images = data.training_set(settings.train, settings.scale)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training has told already which images are too small
            even, odd = (Patches(images[k::2], recipe.patch, too_small="skip") for k in (0, 1))
        options |= {"lambda_": settings.lambda_, "budget": budget, "seed": recipe.seed}
        return search_widths(parent, duals, even, odd, candidates, **options)[0]

    if budget is not None:
        return make()
    asked = settings.of_network() | {"ratio": settings.ratio, "search": settings.search}
    return once(out, f"searched-seed{recipe.seed}", asked, make)


def once(out: str | None, name: str, settings: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What ``make`` returns, tensors and numbers: made by the first run that asks, read by all others from a file
    beside ``out`` whose name changes with the settings."""
    if out is None:
        return make()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    path = Path(out).parent / f"{name}-{digest}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            made = make()
            with whole_file(path) as draft:
                torch.save(made, draft)
        return torch.load(path, map_location="cpu", weights_only=True)
