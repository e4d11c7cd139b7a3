"""AdderSR's ablation after its training: the rates of the adder weights, and the networks that are looked at."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
from torch import nn

from nsrlib import training
from nsrlib.models import WEIGHTS_DIR, create_model, load_weights, read_metadata
from nsrlib.papers.addersr.studies import studies
from nsrlib.statistics import run_means
from nsrlib.studies import StudyResult, training_patches

KEPT = {"BN x100": "bn", "BN, shortcut, power x100": "bn_shortcut_power"}
"""Variant -> file in ``data/weights/addersr``: of profile cpu, seed 0."""


def by_rate(result: StudyResult) -> pd.DataFrame:
    """The study's runs with the rate in a column of its own instead of in the variant's name; without CNN's."""
    return _with_rate(result.table)


def _with_rate(table: pd.DataFrame) -> pd.DataFrame:
    found = table["variant"].str.extract(r"^(?P<variant>.*) x(?P<rate>[0-9.]+)$")
    table = table.drop(columns="variant").join(found.astype({"rate": float}))
    return table.dropna(subset=["variant"])


def best_rates(result: StudyResult) -> pd.Series:
    """Each variant's best rate: that with the highest PSNR, mean over seeds and all test images, as its claims choose.

    Rates with most seeds come first.
    """
    runs = _with_rate(run_means(result.scores())).groupby(["variant", "rate"], sort=False)["value"]
    order = runs.agg(["count", "mean"]).sort_values(["count", "mean"], kind="stable").reset_index()
    rates = order.drop_duplicates("variant", keep="last").set_index("variant")["rate"]
    return rates.reindex(list(dict.fromkeys(runs.first().index.get_level_values("variant"))))


def at_best_rate(result: StudyResult) -> StudyResult:
    """Each variant's runs at its own best rate, see :func:`best_rates`, and those of variants without a rate."""
    best = best_rates(result)
    chosen = {f"{name} x{value:g}": str(name) for name, value in best.items()}
    chosen |= {v: v for v in result.settings if v.rpartition(" x")[0] not in best.index}
    found = result.only(chosen, f"{result.name}, each variant at its best rate")
    return replace(found, note=f"{result.note}, each variant at its own best rate")


def untrained(variant: str, profile: str, seed: int = 0) -> nn.Module:
    """A network of the ablation at its start. At profile ``quick`` that of ``cpu``, whose results are stored."""
    settings = studies("cpu" if profile == "quick" else profile)["ablation"].settings(variant)
    with training.seeded(seed):
        return create_model(settings["model"], 2, **settings["config"])


def network(variant: str, profile: str, seed: int = 0) -> tuple[nn.Module, str]:
    """A trained network of the ablation and a line on its training: kept at profile ``quick``, else trained now."""
    start = untrained(variant, profile, seed)
    if profile == "quick":
        path = WEIGHTS_DIR / "addersr" / f"{KEPT[variant]}.safetensors"
        about = read_metadata(path)
        return load_weights(start, path).eval(), f"trained on {about['data']}, seed {about['seed']}"
    settings = studies(profile)["ablation"].settings(variant)
    recipe = training.Recipe(**{**settings["recipe"], "seed": seed})
    options = json.dumps(settings["patches"], sort_keys=True)
    patches = training_patches(tuple(settings["train"]), 2, recipe.patch, options)
    result = training.fit(start, patches, recipe, progress=False)
    return result.model, f"trained on {' and '.join(settings['train'])}, seed {seed}"
