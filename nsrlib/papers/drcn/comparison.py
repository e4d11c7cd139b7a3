"""What DRCN is compared with: single recursions (Fig. 5), the columns of Table 1, and what the authors' code does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from nsrlib import claims, statistics
from nsrlib.claims import cells
from nsrlib.metrics import VDSR_Y
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
                about: dict[str, Any] = {
                    "F": runs["variant"].map(features),
                    "steps": steps,
                    "D": depth,
                    "psnr": runs[metric],
                }
                found.append(runs[["seed"]].assign(**about).dropna(subset="psnr"))
    return pd.concat([one for one in found[1:] if len(one)] or found)[found[0].columns].reset_index(drop=True)


def table1(model: str, clamp: bool = True, limit: int = 0) -> pd.DataFrame:
    """A network's row of Table 1 under :func:`~nsrlib.metrics.VDSR_Y`, or the same without its clamp.

    Set5 and Set14, and B100 and Urban100 where they are at hand: they are not downloaded.

    Returns:
        As :func:`nsrlib.claims.cells.measured`, of the scales 2, 3 and 4.
    """
    found = [
        cells.measured(
            [(model, model, scale)], sets, limit=limit, download=download, lr="luma",
            protocol=replace(VDSR_Y(scale), clamp=clamp),
        )
        for scale in (2, 3, 4) for sets, download in ((["set5", "set14"], True), (["b100", "urban100"], False))
    ]  # fmt: skip
    table = pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)
    table.attrs = {"missing": [what for one in found for what in one.attrs["missing"]]}
    return table


CHOICES = {
    "training setup, initial weights": ["identity, last layer x 0.001"],
    "Eq. 6, last layer": ["no ReLU in the reconstruction"],
    "loss": ["alpha from 0.94 with the learning rate", "alpha from 0.094 with the learning rate"],
}
"""Place of an erratum -> variants of the study ``code`` that do as the authors' code does there."""


def choices(code: StudyResult | None) -> pd.DataFrame:
    """Where the authors' code does other than the paper says, and what that changed in trainings here.

    Args:
        code: the study of that name; None: it is still to be trained.

    Returns:
        Columns place, paper, code, trained as (a variant), and gain: PSNR over the paper's choice on the study's sets
        with its interval, in words; no number where either is below its floor (:func:`nsrlib.claims.untrained`).
    """
    errata = claims.errata("drcn").set_index("place")
    untrained, rows = claims.untrained(code) if code is not None else {}, []
    for place, variants in CHOICES.items():
        for variant in variants:
            gain = "not trained yet"
            if below := [arm for arm in (variant, "paper") if arm in untrained]:
                gain = f"{below[0]} did not train, below its floor by {untrained[below[0]]}"
            elif code is not None and len(code.seeds) > 1:
                c = statistics.contrast(code.scores(["set5", "set14"]), variant, "paper")
                gain = f"{c.difference:+.2f} dB ({c.low:+.2f} to {c.high:+.2f}), {c.seeds} seeds"
            rows.append((place, *errata.loc[place, ["printed", "holds"]], variant, gain))
    return pd.DataFrame(rows, columns=["place", "paper", "code", "trained as", "gain"])
