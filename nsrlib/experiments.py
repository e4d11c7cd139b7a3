"""The trained studies of the five papers, at every profile: what is varied, how long it is trained, on what.

A notebook takes its studies from here and shows the stored results of the longest profile; ``nsr study PAPER`` runs
them outside of a notebook. Profiles change widths, iterations, seeds and data, never the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nsrlib.claims import PROFILES, RESULTS_DIR
from nsrlib.studies import Study, StudyResult, load_study

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
    recipes = {
        "quick": {"iterations": 20, "batch": 4, "patch": 16, "lr": 1e-3},
        "cpu": {"iterations": 1500, "batch": 16, "patch": 24, "lr": 1e-3},
        "gpu": {"iterations": 5000, "batch": 16, "patch": 48, "lr": 1e-3, "precision": "bfloat16"},
        "paper": {"iterations": 1_000_000, "batch": 64, "patch": 48, "lr": 1e-3},
    }
    rfdn = {"quick": (8, 1), "cpu": (24, 4), "gpu": (64, 4), "paper": (50, 4)}[profile]
    small = {"quick": (16, 1), "cpu": (32, 3), "gpu": (64, 8), "paper": (64, 8)}[profile]
    larger = {"quick": (16, 2), "cpu": (32, 8), "gpu": (84, 10), "paper": (64, 10)}[profile]
    seeds = (0,) if profile == "quick" else (0, 1, 2)

    def size(of: tuple[int, int]) -> dict[str, int]:
        return {"num_feats": of[0], "num_blocks": of[1]}

    def study(name: str, variants: Mapping[str, Mapping[str, Any]], network: str, of: tuple[int, int]) -> Study:
        shared = _training(profile, recipes, f"x4, {network} with {of[0]} channels and {of[1]} blocks")
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
        {"scale": 4, **_training(profile, recipes, "")["common"]},
        seeds,
        note=_training(
            profile,
            recipes,
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


def _shorter(study: Study, times: int) -> Study:
    import dataclasses

    recipe = {**study.common["recipe"]}
    before, after = recipe["iterations"], max(1, recipe["iterations"] // times)
    recipe["iterations"] = after
    note = study.note.replace(f"{before:,} steps", f"{after:,} steps")
    return dataclasses.replace(study, common={**study.common, "recipe": recipe}, note=note)


STUDIES: dict[str, Callable[[str], dict[str, Study]]] = {"bsrn": bsrn}
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
