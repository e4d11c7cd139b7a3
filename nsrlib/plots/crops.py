"""Crops chosen by a rule, not by eye: where one network gains most on another, where as much as usual, where least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from nsrlib.claims.floors import title as title_of
from nsrlib.data import ImageSet
from nsrlib.evaluation import upscale
from nsrlib.images import to_tensor, to_uint8
from nsrlib.metrics import Protocol, planes, psnr
from nsrlib.plots.style import HEAD, RED

Crop = tuple[int, int, int, int]
"""top, left, height, width"""
RULES = ("largest gain", "median", "largest loss")
"""What :func:`gallery` shows, of all tiles of a set in the order of their gain."""


def largest_gains(
    better: np.ndarray, worse: np.ndarray, truth: np.ndarray, size: tuple[int, int] = (48, 64), number: int = 1
) -> list[Crop]:
    """Where one ``uint8`` ``(H, W, 3)`` picture is closer to the truth than another, chosen by code, not by eye.

    Returns:
        Up to ``number`` crops ``(top, left, height, width)`` that do not overlap, largest gain in squared error first.
    """
    h, w = size
    _fits(size, truth)
    t = truth.astype(np.float64)
    gain = (np.square(worse - t) - np.square(better - t)).sum(2)
    table = np.pad(gain.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    score = table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
    crops: list[Crop] = []
    while len(crops) < number and np.isfinite(score).any():
        top, left = (int(v) for v in np.unravel_index(np.nanargmax(score), score.shape))
        crops.append((top, left, h, w))
        score[max(top - h + 1, 0) : top + h, max(left - w + 1, 0) : left + w] = np.nan
    return crops


def _fits(size: tuple[int, int], truth: np.ndarray) -> None:
    h, w = size
    if truth.shape[0] < h or truth.shape[1] < w:
        raise ValueError(f"crop of {h}x{w} does not fit in a picture of {truth.shape[0]}x{truth.shape[1]}")


def enlarged(images: ImageSet, models: Mapping[str, nn.Module]) -> dict[str, list[np.ndarray]]:
    """What each network makes of each image, once: label -> ``uint8`` ``(H, W, 3)`` in the order of ``images``.

    Raises:
        ValueError: ``images`` were loaded without a scale, or at another.

    Example:
        >>> from nsrlib import create_model, data
        >>> pictures = enlarged(data.load("embedded", 4, limit=1), {"bicubic": create_model("bicubic", 4)})
        >>> pictures["bicubic"][0].shape
        (300, 448, 3)
    """
    shown: dict[str, list[np.ndarray]] = {label: [] for label in models}
    if other := [label for label, model in models.items() if model.scale != (images.scale or model.scale)]:
        raise ValueError(
            f"{other[0]} upscales by {models[other[0]].scale}, but {images.name} was loaded at {images.scale}"
        )
    for pair in images:
        if pair.lr is None:
            raise ValueError(f"{images.name} must be loaded with a scale")
        x = to_tensor(pair.lr)
        for label, model in models.items():
            shown[label].append(to_uint8(upscale(model, x), output=True))
    return shown


def gains(
    images: ImageSet,
    better: Sequence[np.ndarray],
    worse: Sequence[np.ndarray],
    protocol: Protocol,
    size: tuple[int, int] = (48, 64),
) -> pd.DataFrame:
    """How much closer to the truth one network is than another, tile by tile over a whole set.

    The tiles do not overlap. They lie in the middle of each image; less than a tile is left over at the edges.

    Args:
        better, worse: an output for each image, ``uint8`` ``(H, W, 3)``.
        protocol: what is compared; its crop does not matter.
        size: of a tile, ``(height, width)`` in pixels.

    Returns:
        A row a tile: number (of the image), image, top, left, gain (mean squared error of ``worse`` less that of
        ``better``, in squared grey levels), largest first.

    Raises:
        ValueError: an image is smaller than a tile.
    """
    h, w = size
    whole, rows = replace(protocol, crop=0), []
    for number, (pair, a, b) in enumerate(zip(images, better, worse, strict=True)):
        _fits(size, pair.hr)
        truth = planes(pair.hr, whole)
        gain = ((planes(b, whole) - truth).square() - (planes(a, whole) - truth).square()).mean((0, 1))
        top, left = gain.shape[0] % h // 2, gain.shape[1] % w // 2
        grid = gain[top : top + gain.shape[0] // h * h, left : left + gain.shape[1] // w * w]
        means = grid.reshape(grid.shape[0] // h, h, grid.shape[1] // w, w).mean((1, 3))
        rows += [
            (number, pair.name, top + h * i, left + w * j, float(value))
            for (i, j), value in np.ndenumerate(means.numpy())
        ]
    table = pd.DataFrame(rows, columns=["number", "image", "top", "left", "gain"])
    return table.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def by_rule(tiles: pd.DataFrame, rules: Sequence[str] = RULES) -> pd.DataFrame:
    """The tile of each rule, with the column rule; where nothing is lost, the largest loss is the smallest gain.

    Args:
        tiles: of :func:`gains`.
        rules: of :data:`RULES`.

    Raises:
        ValueError: no such rule, or none.
    """
    if isinstance(rules, str) or not rules or (set(rules) - set(RULES)):
        raise ValueError(f"rules must be a list of {', '.join(RULES)}, got {rules!r}")
    places = dict(zip(RULES, (0, len(tiles) // 2, len(tiles) - 1), strict=True))
    chosen = tiles.iloc[[places[rule] for rule in rules]].assign(rule=list(rules))
    chosen.loc[(chosen["rule"] == RULES[-1]) & (chosen["gain"] > 0), "rule"] = "smallest gain"
    return chosen


def gallery(
    images: ImageSet,
    models: Mapping[str, nn.Module | Sequence[np.ndarray]],
    protocol: Protocol,
    *,
    rules: Sequence[str] = RULES,
    size: tuple[int, int] = (48, 64),
) -> Figure:
    """Crops of every method, and under each its error, where the last gains on the one before it as ``rules`` say.

    The set is cut into tiles, see :func:`gains`. A row shows the tile of the largest gain, of the median gain or of the
    largest loss, with the PSNR of the crop and of the whole picture. The maps are absolute errors of what ``protocol``
    compares (of luma; the mean over channels), all on one scale.

    Args:
        images: loaded at the models' scale.
        models: label -> network, or its pictures from :func:`enlarged`.
        rules: of :data:`RULES`.
        size: of a crop, ``(height, width)``.

    Raises:
        ValueError: fewer than two models, no scale, no such rule, or an image smaller than a crop.
    """
    if len(models) < 2:
        raise ValueError(f"models must be two or more to compare, got {list(models)}")
    networks = {label: model for label, model in models.items() if isinstance(model, nn.Module)}
    shown: dict[str, Sequence[np.ndarray]] = {k: m for k, m in models.items() if not isinstance(m, nn.Module)}
    shown |= enlarged(images, networks)
    before, after = list(models)[-2:]
    tiles = gains(images, shown[after], shown[before], protocol, size)
    chosen = by_rule(tiles, rules).to_dict("records")
    whole = replace(protocol, crop=0)
    crops = []
    for tile in chosen:
        place = np.s_[tile["top"] : tile["top"] + size[0], tile["left"] : tile["left"] + size[1]]
        crops.append({label: np.ascontiguousarray(shown[label][tile["number"]][place]) for label in models})
        tile["truth"] = np.ascontiguousarray(images[tile["number"]].hr[place])
    errors = [
        {k: (planes(crop, whole) - planes(tile["truth"], whole)).abs().mean((0, 1)).numpy() for k, crop in row.items()}
        for tile, row in zip(chosen, crops, strict=True)
    ]
    limit = max(1.0, np.ceil(np.quantile(np.stack([e for row in errors for e in row.values()]), 0.995)))
    fig, axes = _frame(len(chosen), len(models), size)
    for row, (tile, crop, error) in enumerate(zip(chosen, crops, errors, strict=True)):
        upper, lower = axes[2 * row : 2 * row + 2]
        picture = images[tile["number"]].hr
        _whole(upper[0], picture, (tile["top"], tile["left"], *size), f"{tile['rule'].capitalize()}:\n{tile['image']}")
        upper[1].imshow(tile["truth"], cmap="gray")
        upper[1].set_title("HR\nPSNR of the crop,\nof the whole", **_SMALL)
        terms = [f"{label} {np.square(error[label]).mean():.1f}" for label in (before, after)]
        lower[1].text(1, 0.5, "\n".join(["squared error", *terms]), fontsize=8, ha="right", va="center")
        for label, above, below in zip(models, upper[2:], lower[2:], strict=True):
            above.imshow(crop[label], cmap="gray")
            scores = psnr(crop[label], tile["truth"], whole), psnr(shown[label][tile["number"]], picture, protocol)
            above.set_title("\n".join([label, *(f"{score:.2f} dB" for score in scores)]), **_SMALL)
            drawn = below.imshow(error[label], cmap=_ERRORS, vmin=0, vmax=limit)
    what = {"y": "luma", "rgb": "RGB", "gray": "gray"}[protocol.space]
    label = f"absolute error of {what} (grey levels)"
    fig.colorbar(
        drawn, ax=fig.axes, location="bottom", panchor=False, shrink=0.35, aspect=40, extend="max", label=label
    )
    share = 100 * (tiles["gain"] > 0).mean()
    at = f"{title_of(images.name)} x{images.scale}"
    head = f"{after} is closer to the truth than {before} on {share:.0f} % of {len(tiles):,} tiles of {at}"
    fig.suptitle(head, **HEAD)
    return fig


_ERRORS = mpl.colormaps["magma"].resampled(16)  # few colours: noise in all shades would fill a notebook
_SMALL = {"fontweight": "normal", "fontsize": 8}


def _frame(rows: int, methods: int, size: tuple[int, int]) -> tuple[Figure, np.ndarray]:
    """Axes of two lines a row: the whole picture beside both, HR and the methods, under these their errors."""
    widths = [1.1] + [1.0] * (methods + 1)
    width = min(8.2, 1.5 * sum(widths))
    height = rows * (2 * width / sum(widths) * size[0] / size[1] + 0.7) + 0.9
    fig, axes = plt.subplots(2 * rows, len(widths), figsize=(width, height), width_ratios=widths, squeeze=False)
    for upper, lower in zip(axes[::2, 0], axes[1::2, 0], strict=True):
        both = upper.get_subplotspec()
        upper.set_subplotspec(axes[0, 0].get_gridspec()[both.rowspan.start : both.rowspan.start + 2, 0])
        lower.remove()
    for ax in fig.axes:
        ax.set_axis_off()
    return fig, axes


def _whole(ax: plt.Axes, picture: np.ndarray, crop: Crop, title: str) -> None:
    top, left, h, w = crop
    ax.imshow(picture, cmap="gray")
    for ink, width in (("white", 3.0), (RED, 1.4)):
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), w, h, fill=False, edgecolor=ink, linewidth=width))
    ax.set_anchor("N")
    ax.set_title(title, fontsize=9)
