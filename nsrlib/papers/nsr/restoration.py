"""What restoration is measured against: the degraded input itself, non-local means, DnCNN as its authors left it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from nsrlib.images import Degradation
from nsrlib.models import create_model
from nsrlib.models.baselines import NonLocalMeans

if TYPE_CHECKING:
    import pandas as pd

    from nsrlib.studies import StudyResult

METHODS = ("input", "non-local means", "DnCNN")


def reference(method: str, task: Degradation) -> nn.Module:
    """A method of :data:`METHODS` for a task, as a module with ``scale = 1``; ValueError for one that is not for it.

    Raises:
        DataUnavailable: DnCNN's weights cannot be had.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "input":
        return create_model("bicubic", 1)
    if task.noise is None:
        raise ValueError(f"{method} removes noise; there is no reference but 'input' for {task}")
    if method == "non-local means":
        return NonLocalMeans(task.noise)
    if task.noise != 25:
        raise ValueError(f"DnCNN's released weights are for noise=25, got noise={task.noise:g}")
    return create_model("dncnn", 1, pretrained="published")


# --- beside the published numbers -------------------------------------------------------------------------------------

_SETS = {"set12": ("Set12", 12), "bsd68": ("BSD68", 68), "classic5": ("classic5", 5), "live1": ("LIVE1", 29)}
_ROWS = {"DnCNN": "table5/DnCNN", "input": "table6/JPEG"}


def rows_of(result: StudyResult | None) -> pd.DataFrame:
    """The study of references as a table: means over its seeds, and ``sd`` of a seed's mean PSNR.

    None, for a study that is not stored, gives no rows.
    """
    import pandas as pd

    found = []
    table = pd.DataFrame({"variant": []}) if result is None else result.table
    for method, runs in table.groupby("variant", sort=False):
        for column in (c for c in runs.columns if c.startswith("psnr ") and runs[c].notna().any()):
            _, name, task = column.split(" ", 2)
            ssim = runs[column.replace("psnr ", "ssim ", 1)]
            images = int(runs[column.replace("psnr ", "images ", 1)].iloc[0])
            found.append((method, name, task, runs[column].mean(), runs[column].std(ddof=1), ssim.mean(), images))
    return pd.DataFrame(found, columns=["method", "set", "task", "psnr", "sd", "ssim", "images"])


def cells(rows: pd.DataFrame) -> dict[str, float]:
    """Published cells of NSR's Tables 5 and 6 that the rows measure: id -> PSNR. Only whole sets count."""
    from nsrlib.claims import published

    known = set(published("nsr")["id"])
    measured = {}
    for row in rows.to_dict("records"):
        title, count = _SETS.get(row["set"], ("", 0))
        kind, level = row["task"].split()
        key = f"{_ROWS.get(row['method'])}/{title}/{'sigma' if kind == 'noise' else 'q'}{level}/psnr"
        if row["images"] == count and key in known:
            measured[key] = float(row["psnr"])
    return measured
