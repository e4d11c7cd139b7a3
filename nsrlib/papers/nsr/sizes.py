"""Sizes of networks that NSR compares: the ratios that its tables print, and what its studies trained here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nsrlib.complexity import Complexity
from nsrlib.papers.nsr.checks import counted
from nsrlib.papers.nsr.studies import studies
from nsrlib.studies import StudyResult

if TYPE_CHECKING:
    import pandas as pd


def restorers() -> dict[str, Complexity]:
    """The paper's networks for gray pictures, counted on 48x48 pixels."""
    study = studies("paper")["denoising"]
    found = {label: study.settings(label) for label in ("baseline", "sparse A", "sparse B")}
    return {label: counted(settings["model"], 1, **settings["config"]) for label, settings in found.items()}


def ratios(grids: Mapping[str, pd.DataFrame], restorers: Mapping[str, Complexity]) -> dict[str, float]:
    """The ratios of Tables 2, 3 and 5 by the ids of their published cells, from
    :func:`~nsrlib.papers.nsr.checks.grid` by name and :func:`restorers`."""
    efficiency, capacity = (grids[name].set_index("network") for name in ("efficiency", "capacity"))
    work, parameters = efficiency["multi_adds"], capacity["parameters"]
    baseline, a, b = restorers["baseline"], restorers["sparse A"], restorers["sparse B"]
    return {
        "table2/dense-over-sparse/multi_adds_ratio": float(work["dense, U=32, w=4"] / work["k=2, w=2"]),
        "table3/k=16-over-k=1/params_ratio": float(parameters["U=64, k=16"] / parameters["U=64, k=1"]),
        "table5/sparse-A-over-baseline/params_ratio": a.params / baseline.params,
        "table5/baseline-over-sparse-A/multi_adds_ratio": baseline.multi_adds / a.multi_adds,
        "table5/sparse-B-over-baseline/params_ratio": b.params / baseline.params,
        "table5/baseline-over-sparse-B/multi_adds_ratio": baseline.multi_adds / b.multi_adds,
    }


def trained(result: StudyResult, metric: str = "psnr_set5") -> pd.DataFrame:
    """Exact sizes of a study's networks beside their scores: columns network, parameters, multi_adds (G, of a 48x48
    patch), mean and sd of ``metric`` over seeds.
    """
    import pandas as pd

    rows = []
    for variant, settings in result.settings.items():
        found = counted(settings["model"], settings["scale"], **settings["config"])
        scores = result.table.loc[result.table["variant"] == variant, metric]
        sizes = {"network": variant, "parameters": found.params, "multi_adds": found.multi_adds / 1e9}
        rows.append(sizes | {"mean": scores.mean(), "sd": scores.std()})
    return pd.DataFrame(rows)
