"""What the trained ensembles of DRCN are compared with: their single recursions, at each scale (Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from nsrlib.papers.drcn.studies import against_singles
from nsrlib.studies import StudyResult

SCALES = {2: ("scales", "x2"), 3: ("depth", "D=16"), 4: ("scales", "x4")}
"""Scale -> the study that trained 16 recursions there, and its variant."""


def ensembles(trained: Mapping[str, StudyResult], metric: str = "psnr_set5") -> dict[int, StudyResult]:
    """Scale -> :func:`~nsrlib.papers.drcn.studies.against_singles`, where its study is among ``trained``."""
    return {s: against_singles(trained[name], arm, metric) for s, (name, arm) in SCALES.items() if name in trained}


def learned_weights(trained: Mapping[str, StudyResult]) -> dict[int, pd.DataFrame]:
    """Scale -> the weights that the ensembles learned, divided by their sum: a row a seed, a column a recursion."""
    found = {}
    for scale, (name, variant) in SCALES.items():
        if name in trained:
            table = trained[name].table
            weights = table.loc[table["variant"] == variant, [f"w_{d}" for d in range(1, 17)]]
            found[scale] = weights.set_axis(range(1, 17), axis=1)
    return found
