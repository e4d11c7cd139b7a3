"""DRN's ablations: dual regression, and compression by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nsrlib.files import whole_file
from nsrlib.papers.common import DATA, study
from nsrlib.studies import Study, training_patches

if TYPE_CHECKING:
    from torch import nn

    from nsrlib.data import ImageSet
    from nsrlib.data.patches import Patches
    from nsrlib.models.drn import DRN
    from nsrlib.training import Recipe

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
        "cpu": {"iterations": 600, "batch": 8, "patch": 16, "lr": 6e-3},
        "gpu": {"iterations": 20_000, "batch": 16, "patch": 48, "lr": 5e-4},
        "paper": {"iterations": 1_000_000, "batch": 32, "patch": 96, "lr": 1e-4},
    }
    recipe = recipes[profile]
    f, blocks = {"quick": (2, 1), "cpu": (4, 2), "gpu": (16, 4), "paper": (16, 30)}[profile]
    data: Mapping[str, Sequence[str]] = DATA[profile] | ({"test": ["set5"]} if profile == "cpu" else {})
    common: dict[str, Any] = {"model": "drn_s", "scale": 4, "config": {"num_feats": f, "num_blocks": blocks}}
    network = f"x4, DRN-S with {f} channels and {blocks} blocks a stage"

    def regression(lambda_: float, dual_hr: bool = False) -> dict[str, Any]:
        options = {"lambda_": lambda_, "dual_hr": dual_hr, "on": data["test"][0]}
        return {"setup": "nsrlib.papers.drn.studies:closed_loop", "options": options}

    dual = {f"lambda {value:g}": regression(value) for value in LAMBDAS} | {"dual on HR": regression(0.1, True)}

    steps = {"quick": 2, "cpu": 200, "gpu": 5_000, "paper": 1_000_000}[profile]
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
        trained = f"{pruned}{what}; their parent: {network}"
        task = "nsrlib.papers.drn.studies:compress"
        return study(f"drn {name}", profile, trained, recipe, variants, common_of_students, data, task)

    return {
        "dual": study(
            "drn dual", profile, network, recipe, dual, common | ({"points": 2} if profile == "cpu" else {}), data
        ),
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
        y = evaluation.upscale(model, x).clamp(0, 1)  # type: ignore[union-attr]
        found.append(float(-10 * (imresize(y, 1 / model.scale) - x).square().mean().log10()))
    return sum(found) / len(found)


# --- compression ------------------------------------------------------------------------------------------------------


def compress(
    *,
    model: str,
    scale: int,
    config: Mapping[str, Any],
    recipe: Mapping[str, Any],
    tune: Mapping[str, Any],
    train: Sequence[str],
    test: Sequence[str],
    seed: int,
    calibrate: tuple[int, int],
    widths: str = "uniform",
    ratio: float = 0.3,
    criterion: str = "drc",
    gamma: float = 1.0,
    lambda_: float = 0.1,
    search: Mapping[str, Any] | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Train a network, prune it, tune it: the task of the studies of compression.

    The unpruned network, its dual networks and the searched widths are made by the first run of a seed that needs them,
    and kept in the folder of ``out`` for the others.

    Args:
        model, scale, config, recipe, train, test: as of :func:`~nsrlib.studies.train_and_score`.
        tune: what the recipe of tuning has otherwise than ``recipe``; patches differ from those of training.
        calibrate: batches that pruning looks at, and patches in each.
        widths: ``full``: nothing is pruned. ``uniform``: ``ratio`` is taken off every layer. ``searched``: as the paper
            does. ``searched with cost``: by expected multiply-adds, from a wider choice, for at most the cost of
            ``searched``. ``uniform at cost``, ``random at cost``: for that cost too; the seed draws.
        ratio, criterion, gamma, lambda_: for :func:`~nsrlib.papers.drn.compression.prune`.
        search: ``steps``, ``batch``, ``lr``, ``alpha_lr`` of :func:`~nsrlib.papers.drn.compression.search_widths`;
            ``multiple`` of :func:`~nsrlib.papers.drn.compression.candidate_widths`.
        out: the run's own folder.

    Returns:
        ``psnr_<set>`` and ``ssim_<set>``, ``psnr_<set>_untuned`` just after pruning, ``params``, ``multi_adds`` (of a
        96x96 input), ``error`` (mean relative reconstruction error of the pruned layers), ``seconds`` of pruning and
        tuning; ``curve``: a row for each layer, with its width before and after.

    Raises:
        ValueError: unknown widths, or as :func:`~nsrlib.papers.drn.compression.prune`.
    """
    import time

    from nsrlib import data, evaluation
    from nsrlib.complexity import count
    from nsrlib.models.drn import full_widths
    from nsrlib.papers.drn import compression
    from nsrlib.training import Recipe

    if widths not in (known := ("full", "uniform", "searched", "searched with cost", *_AT_COST)):
        raise ValueError(f"widths must be one of {', '.join(known)}, got {widths!r}")
    full = Recipe(**{**recipe, "seed": seed})
    made: dict[str, Any] = {"model": model, "scale": scale, "config": config, "lambda_": lambda_}
    patches = training_patches(tuple(train), scale, full.patch).to(evaluation.pick_device())
    trained = made | {"recipe": recipe, "train": train}
    parent, duals = unpruned(_beside(out, f"unpruned-seed{seed}", trained), full, patches, **made)
    begun = time.monotonic()

    def searched(budget: float | None) -> list[int]:
        def make() -> list[int]:
            images = data.training_set(train, scale)
            return search_halves(parent, duals, images, full, ratio, lambda_, budget, **dict(search or {}))

        settings = trained | {"ratio": ratio, "search": search}
        return make() if budget else _once(_beside(out, f"searched-seed{seed}", settings), make)

    names = list(full_widths(parent.scale, parent.num_feats, parent.num_blocks))
    student = parent
    rows: Any = [{"layer": n, "before": w, "after": w, "error": 0.0} for n, w in zip(names, parent.widths, strict=True)]
    if widths != "full":
        pruned = compression.prune(
            parent,
            choose_widths(widths, parent, ratio, seed, searched),
            compression.calibration(patches, calibrate[0], calibrate[1], seed),
            criterion,
            duals=duals,
            gamma=gamma,
            lambda_=lambda_,
            seed=seed,
            progress=False,
        )
        student, rows = pruned.model, pruned.layers.to_dict("records")
    pruning = time.monotonic() - begun
    tests = {name: data.load(name, scale) for name in test}
    scores: dict[str, Any] = {}
    for name, images in tests.items():
        scores[f"psnr_{name}_untuned"] = float(evaluation.evaluate(student, images)["psnr"].mean())
    # another stream of patches than the one of training
    recipe_of_tuning = full.replace(**{**tune, "seed": seed + 1_000})
    tuned = compression.fine_tune(
        student, patches, recipe_of_tuning, duals=duals, lambda_=lambda_, out=out, progress=False
    )
    for name, images in tests.items():
        table = evaluation.evaluate(tuned.model, images)
        scores[f"psnr_{name}"], scores[f"ssim_{name}"] = float(table["psnr"].mean()), float(table["ssim"].mean())
    cost = count(student, (96, 96))
    return scores | {
        "params": cost.params,
        "multi_adds": cost.multi_adds,
        "error": sum(row["error"] for row in rows) / len(rows),
        "seconds": pruning + tuned.seconds,
        "curve": rows,
    }


_AT_COST: dict[str, Literal["uniform", "random"]] = {"uniform at cost": "uniform", "random at cost": "random"}
WIDER = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
"""Shares of a layer that the search with a cost may choose."""


def unpruned(
    path: Path | None,
    recipe: Recipe,
    patches: Patches,
    *,
    model: str,
    scale: int,
    config: Mapping[str, Any],
    lambda_: float,
) -> tuple[DRN, nn.ModuleList]:
    """A trained network and its dual networks, read from ``path`` if they are there, else trained and kept."""
    from nsrlib.models import create_model
    from nsrlib.models.drn import dual_networks, training_setup
    from nsrlib.training import fit, seeded

    def network() -> DRN:
        with seeded(recipe.seed):
            return create_model(model, scale, **config)  # type: ignore[return-value]

    def make() -> list[dict[str, Any]]:
        fresh = network()
        setup = training_setup(fresh, recipe, lambda_)
        result = fit(fresh, patches, recipe, **setup, progress=False)
        return [result.model.state_dict(), setup["networks"]["dual"].state_dict()]

    # never the network that was just trained: its memory format may be another, which shows in the last digits
    states, parent = _once(path, make), network()
    duals = dual_networks(scale, parent.num_feats)
    parent.load_state_dict(states[0])
    duals.load_state_dict(states[1])
    return parent.to(patches.device), duals.to(patches.device)


def choose_widths(
    kind: str, parent: DRN, ratio: float, seed: int, searched: Callable[[float | None], list[int]]
) -> list[int]:
    """Widths of a student, see :func:`compress`; ``searched(budget)`` searches them, for a cost or without."""
    from nsrlib.models.drn import uniform_widths
    from nsrlib.papers.drn.compression import channel_costs, widths_at_cost

    if kind == "uniform":
        return uniform_widths(parent.widths, ratio)
    plain = searched(None)
    costs, fixed = channel_costs(parent)
    budget = fixed + sum(int(cost) * width for cost, width in zip(costs, plain, strict=True))
    if kind in _AT_COST:
        return widths_at_cost(parent, budget, _AT_COST[kind], seed=seed)
    return searched(budget) if kind == "searched with cost" else plain


def search_halves(
    parent: DRN,
    duals: nn.ModuleList,
    images: ImageSet,
    recipe: Recipe,
    ratio: float,
    lambda_: float,
    budget: float | None,
    *,
    multiple: int,
    **options: Any,
) -> list[int]:
    """Search widths with every other image for the weights and the rest for alpha.

    Without ``budget`` the candidates are the paper's, rounded to ``multiple``; with one they are :data:`WIDER`.
    """
    import warnings

    from nsrlib.data.patches import Patches
    from nsrlib.papers.drn.compression import candidate_widths, search_widths

    candidates = [candidate_widths(c, ratio, multiple) for c in parent.widths]
    if budget is not None:
        candidates = [tuple(max(1, round(share * c)) for share in WIDER) for c in parent.widths]
        options |= {"cost_weight": 100.0, "budget": budget}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training has told already which images are too small
        even, odd = (Patches(images[k::2], recipe.patch, too_small="skip") for k in (0, 1))
    found = search_widths(
        parent,
        duals,
        even,
        odd,
        ratio,
        candidates=candidates,
        lambda_=lambda_,
        seed=recipe.seed,
        progress=False,
        **options,
    )
    return found.widths


def _beside(out: str | None, name: str, settings: Mapping[str, Any]) -> Path | None:
    """File that the runs of a study share: its name changes with the settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return None if out is None else Path(out).parent / f"{name}-{digest}.pt"


def _once(path: Path | None, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, tensors and numbers: made by the first process that asks, read by all others."""
    import torch
    from filelock import FileLock

    if path is None:
        return make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            made = make()
            with whole_file(path) as draft:
                torch.save(made, draft)
        return torch.load(path, map_location="cpu", weights_only=True)
