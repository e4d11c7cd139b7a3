"""What a network must reach before its study says anything: the PSNR of a method that learns nothing.

Looked up before it is computed, so that a verdict is the same with and without the test images: bicubic in the
published protocol, the others in ``data/results/floors.csv``, which :func:`measured` made.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from nsrlib.claims.numbers import PROTOCOL, published
from nsrlib.data.catalogue import SETS
from nsrlib.files import ROOT
from nsrlib.studies import StudyResult

FILE = ROOT / "data" / "results" / "floors.csv"
COLUMNS = ("base", "set", "scale", "noise", "jpeg", "limit", "psnr")
"""Of the file: 0 stands for none, ``limit`` 0 for all images of the set."""


def title(name: str) -> str:
    """A test set as papers write it; what the catalogue does not know stays as it is."""
    return SETS[name].title if name in SETS else name


def psnr_of(base: str, name: str, settings: Mapping[str, Any]) -> float | None:
    """PSNR in dB, mean over the images, of what learns nothing; None where neither a number nor the images are at hand.

    Args:
        base: ``bicubic``, ``non-local means`` or ``JPEG`` (the degraded picture itself).
        name: the test set.
        settings: of the study's variant: ``scale``, ``degradation``, ``limit``.

    Raises:
        ValueError: another base, or one that does not fit the task.

    Example:
        >>> psnr_of("bicubic", "set5", {"scale": 4})
        28.42
    """
    task = dict(settings.get("degradation") or {})
    needed = {"bicubic": set(), "non-local means": {"noise"}, "JPEG": {"jpeg"}}
    if base not in needed:
        raise ValueError(f"a floor is one of {', '.join(needed)}, got {base!r}")
    if set(task) != needed[base]:
        raise ValueError(f"the floor {base} is not for the task {task or 'upscaling'}")
    key = (base, name, int(settings.get("scale", 1)), task.get("noise", 0), task.get("jpeg", 0))
    limit = int(settings.get("limit") or 0)
    if name in SETS and limit >= SETS[name].count:
        limit = 0
    if base == "bicubic" and not limit:
        printed = _bicubic().get((title(name), key[2]))
        if printed is not None:
            return printed
    stored = _stored().get((*key, limit))
    return measured(*key, limit) if stored is None else stored


def untrained(result: StudyResult) -> dict[str, str]:
    """Variants of a study below the floor of their task, and by how much: no difference of theirs says anything.

    Upscaling must reach bicubic + 0.5 dB, denoising non-local means, deblocking the JPEG + 0.2 dB, on each test set.

    Example:
        >>> rows = [{"variant": v, "seed": 0, "set": "set5", "psnr": p} for v, p in (("a", 28), ("b", 31))]
        >>> settings = {"a": {"scale": 4}, "b": {"scale": 4}}
        >>> untrained(StudyResult.of_rows("an example", rows, settings=settings))
        {'a': '0.9 dB on Set5'}
    """
    scores = result.scores(sets=None)
    found: dict[str, list[str]] = {}
    means = scores.groupby(["variant", "set"], sort=False)["value"].mean()
    for variant, name, level in means.reset_index().itertuples(index=False):
        settings = result.settings.get(variant, {})
        task = settings.get("degradation") or {}
        if name not in SETS or (not task and settings.get("scale", 1) == 1):
            continue
        base, above = ("non-local means", 0.0) if "noise" in task else ("JPEG", 0.2) if task else ("bicubic", 0.5)
        floor = psnr_of(base, name, settings)
        if floor is not None and level < floor + above:
            found.setdefault(variant, []).append(f"{floor + above - level:.1f} dB on {title(name)}")
    return {variant: " and ".join(words) for variant, words in found.items()}


@functools.cache
def _bicubic() -> dict[tuple[str, int], float]:
    """PSNR as papers print it, by set and scale."""
    rows = published(PROTOCOL).query("row == 'bicubic' and metric == 'psnr'")
    keys = zip(rows["column"], rows["scale"].astype(int), strict=True)
    return dict(zip(keys, rows["value"].astype(float), strict=True))


@functools.cache
def _stored() -> dict[tuple[Any, ...], float]:
    if not FILE.is_file():
        return {}
    table = pd.read_csv(FILE)
    return {tuple(row[:-1]): float(row[-1]) for row in table[list(COLUMNS)].itertuples(index=False)}


@functools.cache
def measured(base: str, name: str, scale: int, noise: float, jpeg: int, limit: int) -> float | None:
    """A line of the file, computed now; None without the images. Arguments as :data:`COLUMNS`."""
    from nsrlib.data import DataUnavailable
    from nsrlib.evaluation import evaluate
    from nsrlib.models import create_model
    from nsrlib.models.baselines import NonLocalMeans

    task = {k: v for k, v in (("noise", noise), ("jpeg", jpeg)) if v}
    network = NonLocalMeans(noise) if base == "non-local means" else create_model("bicubic", scale)
    try:
        table = evaluate(network, name, limit=limit or None, device="cpu", progress=False, **task)  # type: ignore[arg-type]
    except DataUnavailable:
        return None
    return float(table["psnr"].mean())
