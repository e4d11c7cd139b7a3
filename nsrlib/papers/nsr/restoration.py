"""What restoration is measured against: the degraded input itself, classical denoisers, DnCNN as its authors left it.

All are networks without training here: modules with ``scale = 1`` that :func:`nsrlib.evaluation.evaluate` takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nsrlib.data import DataUnavailable, ImageSet
from nsrlib.evaluation import evaluate
from nsrlib.images import Degradation
from nsrlib.layers import check_input
from nsrlib.models import create_model

if TYPE_CHECKING:
    import pandas as pd

    from nsrlib.studies import StudyResult

METHODS = ("input", "non-local means", "BM3D", "DnCNN")
"""What :func:`reference` offers; BM3D where the user has installed it."""

DNCNN_SIGMA = 25
"""The noise for which DnCNN's released file was trained."""


class _Classical(nn.Module):
    """A denoiser of one gray plane that is told the noise (0..255): ``(N, 1, H, W)`` to the same, on the CPU."""

    scale, channels, min_size, halo = 1, 1, 16, 16

    def __init__(self, noise: float) -> None:
        super().__init__()
        if not 0 < noise <= 255:
            raise ValueError(f"noise must be a standard deviation above 0 and up to 255, got {noise!r}")
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, type(self).__name__, self.channels, self.min_size)
        planes = [self.denoise(plane.double().cpu().numpy()) for plane in x[:, 0]]
        return torch.from_numpy(np.stack(planes)[:, None]).to(x)

    def denoise(self, plane: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class NonLocalMeans(_Classical):
    """Non-local means (Buades et al., CVPR 2005) of scikit-image, in the settings its documentation shows: patches of
    5x5 within 6 pixels, ``h = 0.8 sigma``, the fast form."""

    def denoise(self, plane: np.ndarray) -> np.ndarray:
        from skimage.restoration import denoise_nl_means

        sigma = self.noise / 255
        return denoise_nl_means(plane, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True)


class BM3D(_Classical):
    """BM3D (Dabov et al., TIP 2007) of its authors' package ``bm3d``, if the user has installed it: no dependency,
    because its binaries are free for non-commercial use only."""

    def __init__(self, noise: float) -> None:
        super().__init__(noise)
        try:
            import bm3d
        except ImportError:
            raise ImportError(
                "BM3D needs the package 'bm3d' of Tampere University, free for non-commercial use only and therefore "
                "not installed with nsrlib; if that is your use: pip install bm3d"
            ) from None
        self._bm3d = bm3d.bm3d

    def denoise(self, plane: np.ndarray) -> np.ndarray:
        return np.asarray(self._bm3d(plane, self.noise / 255)).reshape(plane.shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> BM3D:
        return type(self)(self.noise)


def reference(method: str, task: Degradation) -> nn.Module:
    """A method of :data:`METHODS` for a task; ValueError for one that is not for it.

    Raises:
        ImportError: BM3D is not installed. DataUnavailable: DnCNN's weights cannot be had.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "input":
        return create_model("bicubic", 1)
    if task.noise is None:
        raise ValueError(f"{method} removes noise; there is no reference but 'input' for {task}")
    if method != "DnCNN":
        return (BM3D if method == "BM3D" else NonLocalMeans)(task.noise)
    if task.noise != DNCNN_SIGMA:
        raise ValueError(f"DnCNN's released weights are for noise={DNCNN_SIGMA}, got noise={task.noise:g}")
    return create_model("dncnn", 1, pretrained="published")


def scores(
    tests: Sequence[tuple[str | ImageSet, Mapping[str, Any]]],
    methods: Sequence[str] = METHODS,
    *,
    limit: int | None = None,
    noise_seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """PSNR and SSIM of the references, as far as methods, weights and data are at hand and fit the task.

    Args:
        tests: (set, ``{"noise": 25}`` or ``{"jpeg": 10}``) pairs.
        methods: of :data:`METHODS`.
        limit, noise_seed: as in :func:`~nsrlib.evaluation.evaluate`.

    Returns:
        Columns method, set, task ("noise 25", "jpeg 10"), psnr, ssim, images, seconds (a mean), origin.
        ``attrs["missing"]`` says in words what could not be had; ``attrs["tables"]`` holds the table of each row.
    """
    import pandas as pd

    rows, tables = [], {}
    missing: dict[str, None] = {}
    for dataset, degradation in tests:
        task = Degradation(**degradation)
        name = dataset.name if isinstance(dataset, ImageSet) else str(dataset)
        for method in methods:
            if method != "input" and (task.noise is None or (method == "DnCNN" and task.noise != DNCNN_SIGMA)):
                continue
            try:
                model = reference(method, task)
            except (DataUnavailable, ImportError):
                missing["weights of DnCNN" if method == "DnCNN" else "the package bm3d"] = None
                continue
            try:
                table = evaluate(model, dataset, noise_seed=noise_seed, limit=limit, progress=progress, **degradation)
            except DataUnavailable:
                missing[name] = None
                continue
            key = name, task_name(task)
            tables[method, *key] = table
            means = table[["psnr", "ssim", "seconds"]].mean()
            row = dict(zip(("set", "task"), key, strict=True))
            rows.append({"method": method, **row, **means, "images": len(table), "origin": table.attrs["origin"]})
    result = pd.DataFrame(rows, columns=["method", "set", "task", "psnr", "ssim", "images", "seconds", "origin"])
    result.attrs = {"missing": list(missing), "tables": tables}
    return result


def task_name(task: Degradation) -> str:
    """``noise 25`` or ``jpeg 10``."""
    return f"noise {task.noise:g}" if task.jpeg is None else f"jpeg {task.jpeg}"


# --- beside the published numbers -------------------------------------------------------------------------------------

_SETS = {"set12": ("Set12", 12), "bsd68": ("BSD68", 68), "classic5": ("classic5", 5), "live1": ("LIVE1", 29)}
_ROWS = {"BM3D": ("table5", "BM3D"), "DnCNN": ("table5", "DnCNN"), "input": ("table6", "JPEG")}


def rows_of(result: StudyResult | None) -> pd.DataFrame:
    """The study of references as a table like :func:`scores`: means over its seeds, and ``sd`` of a seed's mean PSNR.

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
        table, label = _ROWS.get(row["method"], ("", ""))
        kind, level = row["task"].split()
        key = f"{table}/{label}/{title}/{'sigma' if kind == 'noise' else 'q'}{level}/psnr"
        if row["images"] == count and key in known:
            measured[key] = float(row["psnr"])
    return measured
