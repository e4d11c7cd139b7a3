"""DRCN's depth study, its ensemble against single recursions, ablations, and recursion against width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from nsrlib.papers.common import DATA, Variants, study
from nsrlib.studies import Study, StudyResult

if TYPE_CHECKING:
    import pandas as pd

    from nsrlib.data import ImageSet
    from nsrlib.models.drcn import LumaDRCN

DEPTHS = (1, 6, 11, 16)
"""Recursions D of Fig. 4."""

PATCHES: dict[str, Any] = {"channels": "y", "upscaled": True}
"""What DRCN trains on: keywords of :class:`~nsrlib.data.patches.Patches`."""

SHORT: dict[str, Any] = {"optimiser": "adam", "lr": 1e-3, "schedule": "cosine", "weight_decay": 0.0, "clip_norm": 5.0}
"""Fields of a recipe for trainings that are shorter than the paper's, which waits for plateaus."""


def studies(profile: str = "cpu") -> dict[str, Study]:
    """DRCN on luma: PSNR over depth at x3, at two widths; 16 recursions at x2 and x4; what each idea of the paper adds,
    and what the authors' code does in its place; F against D.

    Every run measures each single recursion beside the ensemble, so that Fig. 5 comes from the runs of Fig. 4.
    """
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 30, "batch": 4, "patch": 16},
        "cpu": {"iterations": 10_000, "batch": 16, "patch": 41},
        "gpu": {"iterations": 6_000, "batch": 16, "patch": 41},
        "paper": {"iterations": 300_000, "batch": 64, "patch": 41},
    }
    recipe = {"lr": 1e-3, "clip_norm": 5.0, **recipes[profile]}
    few = recipe | {"iterations": 3_000} if profile == "cpu" else recipe  # many variants at a third of the steps
    features = {"quick": 4, "cpu": 16, "gpu": 64, "paper": 256}[profile]
    widths = {"quick": (4, 8, 16), "cpu": (8, 16, 32), "gpu": (32, 64, 128), "paper": (64, 128, 256)}[profile]
    data = DATA["quick"] if profile == "quick" else {"train": ["t91"], "test": ["set5", "set14"]}
    common: dict[str, Any] = {
        "model": "drcn",
        "scale": 3,
        "config": {"features": features, "recursions": 16},
        "patches": PATCHES,
        "setup": "nsrlib.papers.drcn.studies:training_setup",
        "options": {"test": data["test"][0]},
        "points": 1 if profile == "quick" else 2,
    }

    def compare(name: str, what: str, variants: Variants, steps: dict[str, Any] = recipe, **more: Any) -> Study:
        trained = f"luma, {what}, last layer started at a tenth"
        return study(f"drcn {name}", profile, trained, steps, variants, common, data, **more)

    last, plain = {"ensemble": False}, {"skip": "none", "recur_init": 1.0}
    sgd = {"optimiser": "sgd", "lr": 1e-2}
    ablations: dict[str, dict[str, Any]] = {
        "DRCN": {},
        "last only": {"config": last},
        "no skip": {"config": {"skip": "none"}},
        "no skip, He, SGD": {"config": plain, "recipe": sgd},
        "no skip, He, SGD, last only": {"config": plain | last, "recipe": sgd},
    }
    code: dict[str, dict[str, Any]] = {
        "paper": {},
        "identity, last layer x 0.001": {"config": {"inner_init": "identity", "last_gain": 1e-3}},
        "no ReLU in the reconstruction": {"config": {"recon_relu": False}},
        "alpha from 0.94 with the learning rate": {"options": common["options"] | {"alpha_of_lr": 16 / 17}},
        "alpha from 0.094 with the learning rate": {"options": common["options"] | {"alpha_of_lr": 1.6 / 17}},
    }
    width = {
        f"{name}, D={d}": {"config": {"features": f, "recursions": d}}
        for name, f in zip(("narrow", "middle", "wide"), widths, strict=True)
        for d in DEPTHS[:2]
    }
    by_scale = {f"x{scale}": {"scale": scale} for scale in (2, 4)}
    by_depth = {f"D={d}": {"config": {"recursions": d}} for d in DEPTHS}
    wide = {f"D={d}": {"config": {"recursions": d, "features": widths[2]}} for d in DEPTHS}
    f_of = ", ".join(map(str, widths))
    shorter = {3 / 10: 5, 1 / 10: 5}  # does the gain from depth grow with the training, or fade?
    return {
        "depth": compare("depth", f"x3, F = {features}", by_depth, seeds=8, budgets=shorter),
        "scales": compare("scales", f"F = {features}, D = 16", by_scale, seeds=8),
        "ablations": compare("ablations", f"x3, F = {features}, D = 16", ablations, few),
        "code": compare("code", f"x3, F = {features}, D = 16", code, few),
        "wide": compare("wide", f"x3, F = {widths[2]}", wide),
        "width": compare("width", f"x3, narrow, middle and wide: F = {f_of}", width, few),
    }


def training_setup(
    network: Any,
    recipe: Any,
    *,
    test: str = "set5",
    alpha_of_lr: float = 0.0,
    clip_step: float = 0.0,
    **schedule: Any,
) -> dict[str, Any]:
    """As :func:`nsrlib.models.drcn.training_setup`; ``measure`` scores every recursion too.

    Of a network with an ensemble it returns the PSNR of every single prediction (``psnr_1`` ...), of the best of them
    (``psnr_best``) and of their plain mean (``psnr_equal``), and the weights (``w_1`` ...).

    Args:
        test: the set to measure on. schedule: of :func:`~nsrlib.models.drcn.alpha_schedule`.
        alpha_of_lr: alpha at the start, which then follows the learning rate as in the authors' code. There it is
            ``10 lr D / (D + 1)``: 0.94 at D = 16 for their ``minimal`` network, 0.094 for the larger ones.
        clip_step: most that a step moves a weight before momentum, whatever the learning rate: the authors' code clips
            so, at 1e-5 for D = 16. 0: no clipping.
    """
    import torch

    from nsrlib import data
    from nsrlib.models import drcn
    from nsrlib.training.recipe import learning_rate

    def follows(step: int) -> float:
        return alpha_of_lr * learning_rate(recipe, step) / recipe.lr

    def clip(model: Any, step: int) -> None:
        torch.nn.utils.clip_grad_value_(model.parameters(), clip_step / learning_rate(recipe, step))

    extra = drcn.training_setup(network, recipe, alpha=follows if alpha_of_lr else None, **schedule)
    if clip_step:
        extra["before_step"] = clip
    weights = extra["measure"]

    def measure(trained: Any) -> dict[str, float]:
        if not trained.net.ensemble:
            return {}
        scores = recursion_scores(trained, data.load(test, trained.scale))["psnr"]
        single = scores.drop(["ensemble", "equal weights"])
        numbers = {f"psnr_{d}": float(value) for d, value in single.items()}
        numbers |= {"psnr_best": float(single.max()), "psnr_equal": float(scores["equal weights"])}
        return numbers | weights(trained)

    return extra | {"measure": measure}


def recursion_scores(model: LumaDRCN, images: ImageSet) -> pd.DataFrame:
    """PSNR of every single prediction, of their plain mean and of the ensemble, in one pass over each image.

    Planes of luma (``data.load(..., lr="luma")`` or ``"luma_8bit"``) are what the network sees, and are compared as
    rounded planes; RGB under the protocol of :func:`~nsrlib.evaluation.evaluate`. Either way the scores are its own.

    Args:
        model: with an ensemble. images: loaded at the model's scale.

    Returns:
        Columns psnr (mean over images, dB) and weight (divided by their sum; NaN for the two sums); index ``1 .. D``,
        ``equal weights``, ``ensemble``.

    Raises:
        ValueError: the basic model; images of another scale.
    """
    import torch

    from nsrlib.data.catalogue import LUMA_LR
    from nsrlib.evaluation import for_protocol, low_resolution
    from nsrlib.images import to_uint8
    from nsrlib.metrics import MATLAB_Y, SELFEXSR_Y, psnr
    from nsrlib.models import optimise

    if not model.net.ensemble:
        raise ValueError("recursion_scores takes a DRCN with an ensemble; the basic model has one prediction")
    if images.scale != model.scale:
        raise ValueError(f"the model upscales by {model.scale}, but {images.name} was loaded at scale {images.scale}")
    device = next(model.parameters()).device
    protocol = (SELFEXSR_Y if images.lr in LUMA_LR else MATLAB_Y)(model.scale)
    fast, rows = optimise(model), []
    with torch.inference_mode():
        for pair in images:
            y, ys = fast(low_resolution(images, pair).to(device, torch.float32), every=True)
            pictures = [to_uint8(p, output=True) for p in (*ys, torch.stack(ys).mean(0), y)]
            rows.append([float(psnr(*for_protocol(p, pair.hr, pair.gray, protocol), protocol)) for p in pictures])
    return scores_of(model, rows)


def scores_of(model: LumaDRCN, rows: Sequence[Sequence[float]]) -> pd.DataFrame:
    """:func:`recursion_scores`'s table, a row an image: PSNR of ``y_1 .. y_D``, their plain mean, the ensemble."""
    import numpy as np
    import pandas as pd

    from nsrlib.models.drcn import DRCN

    w = cast(DRCN, model.net).weights.detach().double().cpu()
    names = [*range(1, len(w) + 1), "equal weights", "ensemble"]
    weights = [*(w / w.sum()).tolist(), float("nan"), float("nan")]
    return pd.DataFrame({"psnr": np.mean(rows, 0), "weight": weights}, index=pd.Index(names, name="output"))


def against_singles(result: StudyResult, variant: str, metric: str = "psnr_set5") -> StudyResult:
    """One variant's ensembles and single recursions as a study of its own, as Fig. 5 shows them.

    Returns:
        Variants ``ensemble``, ``equal weights`` and ``1 .. D``; metric ``psnr``.

    Raises:
        ValueError: a variant or metric that the study lacks.
    """
    import pandas as pd

    table = result.table
    runs = table[table["variant"] == variant]
    if runs.empty or metric not in runs or "psnr_equal" not in runs:
        raise ValueError(f"study {result.name!r} has no {metric} of single recursions for {variant!r}")
    depth = result.settings[variant]["config"]["recursions"]
    columns = {"ensemble": metric, "equal weights": "psnr_equal"}
    columns |= {str(d): f"psnr_{d}" for d in range(1, depth + 1)}
    about = result.only([variant]).rows.drop_duplicates("seed").set_index("seed")[["steps", "commit", "device"]]
    outputs = [runs[["seed"]].assign(variant=name, psnr=runs[column]) for name, column in columns.items()]
    rows: list[Any] = pd.concat(outputs).join(about, on="seed").to_dict("records")
    settings = dict.fromkeys(columns, result.settings[variant])
    duel = StudyResult.of_rows(f"{result.name}, {variant}", rows, settings=settings, note=result.note)
    return replace(duel, profile=result.profile)
