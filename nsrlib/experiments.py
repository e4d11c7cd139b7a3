"""The trained studies of the five papers, at every profile: what is varied, how long it is trained, on what.

A notebook takes its studies from here and shows the stored results of the longest profile; ``nsr study PAPER`` runs
them outside of a notebook. Profiles change widths, iterations, seeds, data and how finely a rate is swept, not what is
compared.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsrlib.claims import PROFILES, RESULTS_DIR
from nsrlib.studies import Study, StudyResult, load_study

if TYPE_CHECKING:
    from nsrlib.training import TrainingResult

_DATA = {
    "quick": {"train": ["embedded_train"], "test": ["embedded"]},
    "cpu": {"train": ["t91", "bsds400"], "test": ["set5", "set14"]},
    "gpu": {"train": ["t91", "bsds400"], "test": ["set5", "set14"]},
    "paper": {"train": ["div2k"], "test": ["set5", "set14", "b100", "urban100"]},
}


def _training(profile: str, recipes: Mapping[str, Mapping[str, Any]], note: str) -> dict[str, Any]:
    """Settings that a paper's studies share, and the sentence that tells their scale."""
    recipe = {"channels_last": profile != "paper", **recipes[profile]}
    data = _DATA[profile]
    steps = f"{recipe['iterations']:,} steps of {recipe['batch']} patches of {recipe['patch']}x{recipe['patch']}"
    return {"common": {"recipe": recipe, **data}, "note": f"{note}, {steps} from {' and '.join(data['train'])}"}


def bsrn(profile: str = "cpu") -> dict[str, Study]:
    """BSRN's ablations at x4: convolution decompositions of RFDN, attention, activations, sizes against RFDN."""
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 20, "batch": 4, "patch": 16, "lr": 1e-3},
        "cpu": {"iterations": 1500, "batch": 16, "patch": 24, "lr": 1e-3},
        "gpu": {"iterations": 5000, "batch": 16, "patch": 48, "lr": 1e-3, "precision": "bfloat16"},
        "paper": {"iterations": 1_000_000, "batch": 64, "patch": 48, "lr": 1e-3},
    }
    rfdn = {"quick": (8, 1), "cpu": (24, 4), "gpu": (64, 4), "paper": (50, 4)}[profile]
    small = {"quick": (16, 1), "cpu": (32, 2), "gpu": (64, 8), "paper": (64, 8)}[profile]
    larger = {"quick": (16, 2), "cpu": (32, 8), "gpu": (84, 10), "paper": (64, 10)}[profile]
    shorter = {**recipes, "cpu": {**recipes["cpu"], "iterations": 600}}  # BSRN's steps take longer than RFDN's
    seeds = (0,) if profile == "quick" else (0, 1, 2)

    def size(of: tuple[int, int]) -> dict[str, int]:
        return {"num_feats": of[0], "num_blocks": of[1]}

    def study(name: str, variants: Mapping[str, Mapping[str, Any]], network: str, of: tuple[int, int]) -> Study:
        own = recipes if network == "rfdn" else shorter
        shared = _training(profile, own, f"x4, {network.upper()} with {of[0]} channels and {of[1]} blocks")
        return Study(
            f"bsrn {name}",
            variants,
            {"model": network, "scale": 4, "config": size(of), **shared["common"]},
            seeds,
            note=shared["note"],
        )

    convs = {"standard": "standard", "DSConv": "dsconv", "BSConv-S": "bsconv_s", "BSConv-U": "bsconv_u"}
    acts = {"GELU": "gelu", "ReLU": "relu", "LeakyReLU": "leaky_relu", "h-swish": "hswish"}
    sizes = Study(
        "bsrn sizes",
        {
            "RFDN": {"model": "rfdn", "config": size(rfdn)},
            "BSRN-1": {"model": "bsrn", "config": size((max(rfdn[0], 16), rfdn[1]))},
            "BSRN-2": {"model": "bsrn", "config": size(larger)},
        },
        {"scale": 4, **_training(profile, shorter, "")["common"]},
        seeds,
        note=_training(
            profile,
            shorter,
            f"x4, RFDN and BSRN-1 with {max(rfdn[0], 16)} channels and {rfdn[1]} blocks, BSRN-2 with {larger[0]} and "
            f"{larger[1]}, about RFDN's multiply-adds",
        )["note"],
    )
    return {
        "decompositions": study("decompositions", {k: {"config": {"conv": v}} for k, v in convs.items()}, "rfdn", rfdn),
        "attention": study(
            "attention",
            {
                "ESA and CCA": {},
                "without CCA": {"config": {"cca": False}},
                "without ESA": {"config": {"esa": False}},
                "without both": {"config": {"esa": False, "cca": False}},
            },
            "bsrn",
            small,
        ),
        "activations": study("activations", {k: {"config": {"act": v}} for k, v in acts.items()}, "bsrn", small),
        "sizes": sizes,
        # the same comparison with a quarter of the training: does the order depend on the budget?
        "decompositions short": _shorter(
            study("decompositions short", {k: {"config": {"conv": v}} for k, v in convs.items()}, "rfdn", rfdn), 4
        ),
    }


def addersr(profile: str = "cpu") -> dict[str, Study]:
    """AdderSR on luma: the ablation at x2, each variant at several learning rates of its adder weights; two ideas of
    our own; and pairs of an adder network and a CNN at x2, x3, x4.
    """
    recipes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 4, "batch": 2, "patch": 12, "lr": 2e-3},
        "cpu": {"iterations": 400, "batch": 4, "patch": 16, "lr": 2e-3},
        "gpu": {"iterations": 5000, "batch": 16, "patch": 24, "lr": 1e-3},
        "paper": {"iterations": 300_000, "batch": 16, "patch": 41, "lr": 1e-3},
    }
    channels, layers = {"quick": (4, 4), "cpu": (12, 7), "gpu": (32, 10), "paper": (64, 20)}[profile]
    rates = {"quick": (1, 30), "cpu": (1, 10, 100), "gpu": (1, 10, 30, 100), "paper": (1, 10, 30, 100)}[profile]
    seeds = (0,) if profile == "quick" else (0, 1, 2)
    luma = {"patches": {"channels": "y"}}
    shared = _training(profile, recipes, f"luma, x2, VDSR with {channels} channels and {layers} layers")
    common = {**shared["common"], **luma, "config": {"num_feats": channels, "num_layers": layers}, "scale": 2}
    if profile == "cpu":
        common |= {"train": ["t91"], "test": ["set5"], "points": 2}
    note = shared["note"].replace(" and bsds400", "") if profile == "cpu" else shared["note"]
    variants: dict[str, dict[str, Any]] = {
        "no BN": {"config": {"steps": "shortcut relu power"}},
        "BN": {"config": {"steps": "bn relu"}},
        "BN, shortcut": {"config": {"steps": "bn shortcut relu"}},
        "BN, shortcut, power": {},
        "shortcut before BN": {"config": {"steps": "shortcut bn relu power"}},
        "power first": {"config": {"steps": "power bn shortcut relu"}},
        "sign gradient": {"config": {"gradient": "sign"}},
        "adaptive rate": {"setup": "nsrlib.experiments:adaptive_rate"},
    }
    swept = {
        f"{name} x{rate}": {
            "model": "addersr_vdsr",
            **settings,
            "recipe": {"lr_scale": [["*adder*", float(rate)]]},
        }
        for name, settings in variants.items()
        for rate in rates
    }
    swept["CNN"] = {"model": "vdsr"}
    ours: dict[str, dict[str, Any]] = {
        "BN, shortcut, power": {},
        "difference": {"config": {"layer": "difference", "steps": "bn relu"}},
        # about as many additions as the unit of single adders
        "difference, fewer channels": {
            "config": {"layer": "difference", "steps": "bn relu", "num_feats": channels * 2 // 3}
        },
        "tau 1 to 4": {"setup": "nsrlib.models.addersr:annealed_tau"},
    }
    beyond = {
        f"{name} x{rate}": {**settings, "model": "addersr_vdsr", "recipe": {"lr_scale": [["*adder*", float(rate)]]}}
        for name, settings in ours.items()
        for rate in (rates if profile in ("gpu", "paper") else rates[-1:])
    }
    best = float(rates[-1])
    pairs = {
        f"{kind} x{scale}": {"model": model, "scale": scale, "recipe": extra}
        for scale in ((2,) if profile == "quick" else (2, 3, 4))
        for kind, model, extra in (
            ("CNN", "vdsr", {}),
            ("adder", "addersr_vdsr", {"lr_scale": [["*adder*", best]]}),
        )
    }
    return {
        "ablation": Study("addersr ablation", swept, common, seeds, note=note),
        "beyond": Study("addersr beyond", beyond, common, seeds, note=note),
        "pairs": Study("addersr pairs", pairs, common, seeds, note=note.replace("x2", f"adder rate x{best:g}", 1)),
    }


def adaptive_rate(network: Any, recipe: Any) -> dict[str, Any]:
    """AdderNet's adaptive local learning rate as a hook of the training loop."""
    from nsrlib.models.addersr import adaptive_lr

    return {"before_step": adaptive_lr}


def _shorter(study: Study, times: int) -> Study:
    import dataclasses

    recipe = {**study.common["recipe"]}
    before, after = recipe["iterations"], max(1, recipe["iterations"] // times)
    recipe["iterations"] = after
    note = study.note.replace(f"{before:,} steps", f"{after:,} steps")
    return dataclasses.replace(study, common={**study.common, "recipe": recipe}, note=note)


STUDIES: dict[str, Callable[[str], dict[str, Study]]] = {"addersr": addersr, "bsrn": bsrn}
"""Paper -> its studies for a profile."""


def studies(paper: str, profile: str = "cpu") -> dict[str, Study]:
    """All studies of a paper. ValueError for a paper or profile that has none; lists those there are."""
    if paper not in STUDIES:
        raise ValueError(f"no studies for {paper!r}; there are: {', '.join(STUDIES)}")
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    return STUDIES[paper](profile)


def stored_path(paper: str, study: str, profile: str) -> Path:
    """Where the results of a study are kept in the repository."""
    return RESULTS_DIR / paper / "studies" / f"{study.replace(' ', '-')}.{profile}.json"


def stored(paper: str, study: str) -> tuple[StudyResult, str] | None:
    """The stored results of the longest profile and its name, or None."""
    for profile in reversed(PROFILES):
        path = stored_path(paper, study, profile)
        if path.is_file():
            return load_study(path), profile
    return None


def results(
    paper: str, profile: str = "quick", out_dir: str | os.PathLike = "", *, only: Sequence[str] = (), jobs: int = 1
) -> dict[str, StudyResult]:
    """What a notebook shows: the stored studies at profile ``quick``, else the profile's own, trained now.

    Args:
        out_dir: where training keeps its runs, so that a repeated call goes on; empty: a temporary folder.
        only: names of studies; default: all.
        jobs: runs at once.

    Returns:
        Study -> results; at ``quick``, studies without stored results are absent.
    """
    table = {name: s for name, s in studies(paper, profile).items() if not only or name in only}
    if profile == "quick":
        kept = {name: stored(paper, name) for name in table}
        return {name: found[0] for name, found in kept.items() if found}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out_dir or scratch) / "studies" / paper
        return {name: s.run(folder / name.replace(" ", "-"), jobs=jobs) for name, s in table.items()}


def miniature(paper: str, study: str) -> StudyResult:
    """The quick profile of a study, trained here and now: seconds, and no evidence of anything but that it runs."""
    with tempfile.TemporaryDirectory() as scratch:
        return studies(paper, "quick")[study].run(scratch, progress=False)


def train(
    model: str,
    scale: int,
    data: Sequence[str] | None = None,
    *,
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
    from nsrlib.models import create_model
    from nsrlib.patches import Patches
    from nsrlib.training import PAPER_RECIPES, Recipe, fit, seeded

    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    sizes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 200, "batch": 8, "patch": 24},
        "cpu": {"iterations": 10_000, "batch": 16, "patch": 32, "channels_last": True},
        "gpu": {"iterations": 200_000, "batch": 32, "patch": 48, "channels_last": True, "precision": "bfloat16"},
        "paper": {},
    }
    base = PAPER_RECIPES.get(model) or next(
        (r for name, r in PAPER_RECIPES.items() if model.startswith(name)), Recipe()
    )
    full = base.replace(**sizes[profile]).replace(**dict(recipe or {}))
    with seeded(full.seed):
        network = create_model(model, scale, **dict(config or {}))
    try:
        images = sets.training_set(data or ["t91"], scale, on_error="skip" if skip_broken else "raise")
    except sets.DataUnavailable:
        if data:
            raise
        images = sets.training_set("embedded_train", scale)
    patches = Patches(images, full.patch, too_small="skip" if skip_broken else "raise")
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        left_out = f", {len(patches.skipped)} left out" if patches.skipped else ""
        say(f"{model} x{scale}: {sum(p.numel() for p in network.parameters()):,} parameters; {patches}{left_out}")
        say(f"recipe: {full}")
    held_out = None if validate is None else sets.load(validate, scale)

    def check(net: Any) -> dict[str, float]:
        assert held_out is not None
        return {"psnr": float(evaluation.evaluate(net, held_out, fast=False)["psnr"].mean())}

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
    )
    if not first:
        return result, ""
    from nsrlib import plots

    plots.save(plots.history(result.history, f"{model} x{scale}"), "curves", Path(out))
    last = result.history.iloc[-1]
    quality = f", {last['psnr']:.2f} dB on {validate}" if "psnr" in last and last["psnr"] == last["psnr"] else ""
    return result, f"{result.steps:,} steps in {result.seconds:.0f} s, loss {last['loss']:.4g}{quality}; see {out}"
