"""What the trained ensembles of DRCN are compared with: their single recursions, at each scale (Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from nsrlib.papers.drcn.studies import against_singles
from nsrlib.studies import StudyResult

SCALES = {2: ("scales", "x2"), 3: ("depth", "D=16"), 4: ("scales", "x4")}
"""Scale -> the study that trained 16 recursions there, and its variant."""


def ensembles(trained: Mapping[str, StudyResult], metric: str = "psnr_set5") -> dict[int, StudyResult]:
    """Scale -> :func:`~nsrlib.papers.drcn.studies.against_singles`, where ``trained`` has runs of it."""
    return {s: against_singles(result, arm, metric) for s, (result, arm) in _found(trained).items()}


def learned_weights(trained: Mapping[str, StudyResult]) -> dict[int, pd.DataFrame]:
    """Scale -> the weights that the ensembles learned, divided by their sum: a row a seed, a column a recursion."""
    found = {}
    for scale, (result, variant) in _found(trained).items():
        table = result.table
        weights = table.loc[table["variant"] == variant, [f"w_{d}" for d in range(1, 17)]]
        found[scale] = weights.set_axis(range(1, 17), axis=1)
    return found


def _found(trained: Mapping[str, StudyResult]) -> dict[int, tuple[StudyResult, str]]:
    return {
        scale: (trained[name], variant)
        for scale, (name, variant) in SCALES.items()
        if name in trained and variant in set(trained[name].table["variant"])
    }


def printed_recursions(printed: pd.DataFrame) -> dict[int, dict[str, float]]:
    """Scale -> Fig. 5 as printed: PSNR of ``1 .. 16`` and of the ``ensemble``.

    Args:
        printed: the paper's numbers, see :func:`nsrlib.claims.published`.
    """
    found: dict[int, dict[str, float]] = {}
    for row in printed[printed["table"] == "fig5"].to_dict("records"):
        found.setdefault(int(row["scale"]), {})[row["row"].removeprefix("d=")] = float(row["value"])
    return found


def depth_runs(studies: Iterable[StudyResult], metric: str = "psnr_set5") -> pd.DataFrame:
    """Runs of studies of depth at all budgets, whose variants are named ``D=<recursions>`` (Fig. 4).

    Returns:
        Columns F, steps, D, seed, psnr: a row a run; runs without ``metric`` are left out.

    Example:
        >>> row = {"variant": "D=6", "seed": 0, "set": "set5", "steps": 1000, "psnr": 32.1}
        >>> settings = {"D=6": {"config": {"features": 16}}}
        >>> depth_runs([StudyResult.of_rows("depth", [row], settings=settings)]).values.tolist()
        [[16.0, 1000.0, 6.0, 0.0, 32.1]]
    """
    found = [pd.DataFrame(columns=["F", "steps", "D", "seed", "psnr"])]
    for result in studies:
        features = {name: one["config"]["features"] for name, one in result.settings.items()}
        for steps in result.budgets:
            runs = result.at(steps).table
            if metric in runs:
                depth = runs["variant"].str.removeprefix("D=").astype(int)
                about = {"F": runs["variant"].map(features), "steps": steps, "D": depth, "psnr": runs[metric]}
                found.append(runs[["seed"]].assign(**about).dropna(subset="psnr"))
    return pd.concat([one for one in found[1:] if len(one)] or found)[found[0].columns].reset_index(drop=True)
