"""Students of one network, for DRN's studies of compression: pruned and tuned alike, or left as they are."""

from __future__ import annotations

import functools
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

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
from nsrlib.studies import training_patches
from nsrlib.training import Hooks, Recipe, fit, seeded


@dataclass(frozen=True)
class Network:
    """The unpruned network of a study and its training.

    Attributes:
        model, scale, config, recipe, train: as of :func:`~nsrlib.studies.train_and_score`.
        lambda_: weight of the dual term, in training, search, pruning and tuning.
    """

    model: str
    scale: int
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    train: Sequence[str]
    lambda_: float = 0.1


@dataclass(frozen=True)
class Pruning:
    """How a student is made of it.

    Attributes:
        calibrate: batches that pruning looks at, and patches in each.
        widths: how many channels, a key of :data:`WIDTHS`.
        ratio: share of channels to remove.
        criterion, gamma: which channels, see :func:`~nsrlib.papers.drn.pruning.prune`.
        search: ``steps``, ``batch``, ``lr``, ``alpha_lr`` of :func:`~nsrlib.papers.drn.search.search_widths`;
            ``multiple`` of :func:`~nsrlib.papers.drn.search.candidate_widths`.
    """

    calibrate: tuple[int, int]
    widths: str = "uniform"
    ratio: float = 0.3
    criterion: str = "drc"
    gamma: float = 1.0
    search: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.widths not in WIDTHS:
            raise ValueError(f"widths must be one of {', '.join(WIDTHS)}, got {self.widths!r}")
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {self.criterion!r}")


@dataclass(frozen=True)
class Tuning:
    """What follows pruning.

    Attributes:
        tune: what the recipe of tuning has otherwise than the network's; patches differ from those of training.
        test: sets that are scored before and after.
    """

    tune: Mapping[str, Any]
    test: Sequence[str]


@dataclass(frozen=True)
class Widths:
    """Where a student's widths come from.

    Attributes:
        by: ``full``: nothing is pruned. ``uniform``: the same share of every layer. ``random``: shares drawn from the
            seed. ``search``: searched.
        at_cost: for at most the multiply-adds of the widths that the paper's search finds; a search then goes by
            expected multiply-adds, from a wider choice.
    """

    by: Literal["full", "uniform", "random", "search"]
    at_cost: bool = False


WIDTHS: dict[str, Widths] = {
    "full": Widths("full"),
    "uniform": Widths("uniform"),
    "searched": Widths("search"),
    "searched with cost": Widths("search", at_cost=True),
    "uniform at cost": Widths("uniform", at_cost=True),
    "random at cost": Widths("random", at_cost=True),
}
"""By the word that stands in a study's settings."""

WIDER = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
"""Shares of a layer that the search with a cost may choose."""


def from_settings(settings: Mapping[str, Any]) -> tuple[Network, Pruning, Tuning]:
    """A variant's settings, sorted into what they are about. TypeError: unknown or missing ones."""
    kinds = Network, Pruning, Tuning
    if unknown := set(settings) - {f.name for kind in kinds for f in fields(kind)}:
        raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
    found = [kind(**{f.name: settings[f.name] for f in fields(kind) if f.name in settings}) for kind in kinds]
    return cast(tuple[Network, Pruning, Tuning], tuple(found))


def student(network: Network, pruning: Pruning, tuning: Tuning, seed: int, out: str | None = None) -> dict[str, Any]:
    """Train a network, prune it, tune it and score it.

    The unpruned network, its dual networks and the searched widths are made by the first run of a seed that needs them,
    and kept beside ``out`` for the others.

    Returns:
        ``psnr_<set>`` and ``ssim_<set>``, ``psnr_<set>_untuned`` just after pruning, ``params``, ``multi_adds`` (of a
        96x96 input), ``error`` (mean relative reconstruction error of the pruned layers), ``seconds`` of pruning and
        tuning; ``curve``: a row for each layer, with its width before and after.
    """
    recipe = Recipe(**{**network.recipe, "seed": seed})
    patches = training_patches(tuple(network.train), network.scale, recipe.patch).to(evaluation.pick_device())
    parent, duals = unpruned(network, recipe, patches, out)
    begun = time.monotonic()
    model = parent
    full = zip(parent.slots, parent.widths, strict=True)
    rows: list[dict[str, Any]] = [{"layer": s.name, "before": w, "after": w, "error": 0.0} for s, w in full]
    if pruning.widths != "full":
        search = functools.partial(searched, network, pruning, parent, duals, recipe, out)
        chosen = choose_widths(WIDTHS[pruning.widths], parent, pruning.ratio, seed, search)
        batches = calibration(patches, *pruning.calibrate, seed)
        options: dict[str, Any] = {"gamma": pruning.gamma, "lambda_": network.lambda_, "seed": seed, "progress": False}
        pruned = prune(parent, chosen, batches, pruning.criterion, duals=duals, **options)
        model, rows = pruned.model, cast(Any, pruned.layers.to_dict("records"))
    seconds = time.monotonic() - begun
    tests = {name: data.load(name, network.scale) for name in tuning.test}
    scores: dict[str, Any] = {}
    for name, images in tests.items():
        scores[f"psnr_{name}_untuned"] = float(evaluation.evaluate(model, images)["psnr"].mean())
    # another stream of patches than the one of training
    last = recipe.replace(**{**tuning.tune, "seed": seed + 1_000})
    tuned = fine_tune(model, patches, last, duals=duals, lambda_=network.lambda_, out=out, progress=False)
    for name, images in tests.items():
        table = evaluation.evaluate(tuned.model, images)
        scores[f"psnr_{name}"], scores[f"ssim_{name}"] = float(table["psnr"].mean()), float(table["ssim"].mean())
    cost = count(model, (96, 96))
    return scores | {
        "params": cost.params,
        "multi_adds": cost.multi_adds,
        "error": sum(row["error"] for row in rows) / len(rows),
        "seconds": seconds + tuned.seconds,
        "curve": rows,
    }


def unpruned(network: Network, recipe: Recipe, patches: Patches, out: str | None = None) -> tuple[DRN, nn.ModuleList]:
    """The trained network and its dual networks: read where a run of the study has kept them, else trained and kept."""

    def fresh() -> DRN:
        with seeded(recipe.seed):
            return cast(DRN, create_model(network.model, network.scale, **network.config))

    def make() -> list[dict[str, Any]]:
        model = fresh()
        setup = training_setup(model, recipe, network.lambda_)
        result = fit(model, patches, recipe, hooks=Hooks(**setup), progress=False)
        return [result.model.state_dict(), setup["networks"]["dual"].state_dict()]

    # never the network that was just trained: its memory format may be another, which shows in the last digits
    states, parent = once(beside(out, f"unpruned-seed{recipe.seed}", asdict(network)), make), fresh()
    duals = dual_networks(network.scale, parent.num_feats)
    parent.load_state_dict(states[0])
    duals.load_state_dict(states[1])
    return parent.to(patches.device), duals.to(patches.device)


def choose_widths(
    widths: Widths, parent: DRN, ratio: float, seed: int, search: Callable[[float | None], list[int]]
) -> list[int]:
    """Widths of a student; ``search(budget)`` searches them, for a cost or, with None, as the paper does."""
    if widths.by == "full":
        return parent.widths
    if widths == Widths("uniform"):
        return uniform_widths(parent.widths, ratio)
    plain = search(None)
    if not widths.at_cost:
        return plain
    costs, fixed = channel_costs(parent)
    budget = fixed + sum(int(cost) * width for cost, width in zip(costs, plain, strict=True))
    return search(budget) if widths.by == "search" else widths_at_cost(parent, budget, widths.by, seed=seed)


def searched(
    network: Network, pruning: Pruning, parent: DRN, duals: nn.ModuleList, recipe: Recipe, out: str | None,
    budget: float | None,
) -> list[int]:  # fmt: skip
    """Search widths with every other image for the weights and the rest for alpha; those without a budget are kept.

    Without ``budget`` the candidates are the paper's, rounded to ``multiple``; with one they are :data:`WIDER`.
    """

    def make() -> list[int]:
        options = dict(pruning.search or {})
        multiple = options.pop("multiple")
        candidates = [candidate_widths(c, pruning.ratio, multiple) for c in parent.widths]
        if budget is not None:
            candidates = [tuple(max(1, round(share * c)) for share in WIDER) for c in parent.widths]
            options |= {"cost_weight": 100.0, "budget": budget}
        images = data.training_set(network.train, network.scale)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training has told already which images are too small
            even, odd = (Patches(images[k::2], recipe.patch, too_small="skip") for k in (0, 1))
        found = search_widths(
            parent, duals, even, odd, pruning.ratio,
            candidates=candidates, lambda_=network.lambda_, seed=recipe.seed, progress=False, **options,
        )  # fmt: skip
        return found.widths

    if budget is not None:
        return make()
    settings = asdict(network) | {"ratio": pruning.ratio, "search": pruning.search}
    return once(beside(out, f"searched-seed{recipe.seed}", settings), make)


def beside(out: str | None, name: str, settings: Mapping[str, Any]) -> Path | None:
    """File that the runs of a study share: its name changes with the settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return None if out is None else Path(out).parent / f"{name}-{digest}.pt"


def once(path: Path | None, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, tensors and numbers: made by the first process that asks, read by all others."""
    if path is None:
        return make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            made = make()
            with whole_file(path) as draft:
                torch.save(made, draft)
        return torch.load(path, map_location="cpu", weights_only=True)
