"""The authors' result pictures of ppt3 at x3 (Fig. 8), taken apart and measured; any network's result beside them.

A file of theirs (kjw0612/rcn at e3777dc, ``paper/figs/figDRCN``) holds the whole result, without ``scale`` pixels of
border, with a red box in it; below, the content of the box, enlarged to the same width, in a red frame. Its colour is
the chroma of the ground truth. Their program puts the box where DRCN's structural similarity is best against the better
of SRCNN and A+ (branch eval at 79f2bab, ``findBestPos``): what it shows is the best case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nsrlib.data import load
from nsrlib.data.download import obtain, sources
from nsrlib.evaluation import low_resolution
from nsrlib.images import imresize, interpolated_luma, luma, modcrop, to_tensor, to_uint8
from nsrlib.metrics import SELFEXSR_Y, psnr
from nsrlib.models.drcn import LumaDRCN
from nsrlib.pictures import read_image

NAME, SCALE = "ppt3", 3
FILES = {"ground truth": "HR", "A+": "A+", "SRCNN": "SRCNN", "RFL": "RFL", "SelfEx": "SelfEx", "DRCN": "RCN"}
"""What a file shows -> the last part of its name."""

RED = (255, 0, 0)


@dataclass(frozen=True)
class Composite:
    """A file of the authors, taken apart.

    Attributes:
        whole: ``uint8`` ``(H, W, 3)``, with the red box. detail: the enlarged content of the box, without its frame.
        stroke: ``bool`` ``(H, W)``, where ``whole`` is covered by the box.
        box: (top, left, height, width) of what ``detail`` shows: the middle line of the stroke.
        frame: pixels that are missing from each side of ``detail``.
    """

    whole: np.ndarray
    detail: np.ndarray
    stroke: np.ndarray
    box: tuple[int, int, int, int]
    frame: int


def taken_apart(picture: np.ndarray) -> Composite:
    """The parts of a composite ``uint8`` ``(H + W, W, 3)``.

    Raises:
        ValueError: no square below the whole picture, or no red box and frame that are as wide on all sides.

    Example:
        >>> picture = np.zeros((50, 30, 3), np.uint8)
        >>> picture[4:14, 6:16] = picture[20:] = RED
        >>> picture[6:12, 8:14] = picture[23:47, 3:27] = 128
        >>> part = taken_apart(picture)
        >>> part.whole.shape, part.detail.shape, part.box
        ((20, 30, 3), (24, 24, 3), (5, 7, 8, 8))
    """
    height, width = picture.shape[:2]
    if height <= width:
        raise ValueError(f"picture must be higher than wide, a square below the whole, got {height}x{width}")
    above, below = picture[: height - width], picture[height - width :]
    stroke, (top, left, h, w), thick = _ring(above, "box")
    _, (*_, rows, columns), frame = _ring(below, "frame")
    if (rows, columns) != (width, width):
        raise ValueError(f"picture must have a red frame around its detail of {width}x{width}, got {rows}x{columns}")
    half = thick // 2
    box = (top + half, left + half, h - 2 * half, w - 2 * half)
    return Composite(above, below[frame:-frame, frame:-frame], stroke, box, frame)


def _ring(picture: np.ndarray, what: str) -> tuple[np.ndarray, tuple[int, int, int, int], int]:
    """Red pixels that make a rectangle's outline: where, its outer (top, left, height, width), its thickness."""
    red = (picture == RED).all(2)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    if rows.size:
        top, left, h, w = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
        outline = red[top : top + h, left : left + w].copy()
        thick = int(np.argmin(outline[:, w // 2]))
        outline[thick : h - thick, thick : w - thick] ^= True
        if 0 < thick < min(h, w) / 2 and outline.all():
            return red, (int(top), int(left), int(h), int(w)), thick
    raise ValueError(f"picture must have a red {what} that is as wide on all sides, got {rows.size} rows with red")


def authors_files(*, download: bool = True) -> dict[str, Composite]:
    """The six files by what they show (:data:`FILES`).

    Raises:
        DataUnavailable: a file is nowhere to be had.
    """
    table = sources()
    wanted = {label: table[f"DRCN_figures/{NAME}_for_figDRCN_{end}.png"] for label, end in FILES.items()}
    advice = "run 'nsr data fetch figures' where there is a network, or set NSRLIB_DATA to a folder that holds them"
    found = obtain([*wanted.values()], "the authors' pictures of Figure 8", advice, download=download)
    return {label: taken_apart(read_image(found[source.path].path)) for label, source in wanted.items()}


def quality(picture: np.ndarray, truth: np.ndarray, covered: np.ndarray | None = None) -> dict[str, float]:
    """PSNR in dB and SSIM of luma in whole levels, with peak 255, of what is not covered.

    Args:
        picture, truth: ``uint8`` ``(H, W, 3)``.
        covered: ``bool`` ``(H, W)``: pixels, and for SSIM windows of 11x11, to leave out.

    Example:
        >>> truth = np.full((20, 20, 3), 100, np.uint8)
        >>> round(quality(truth + np.uint8(7), truth)["psnr"], 2)  # 6 levels of luma
        32.57
    """
    from skimage.metrics import structural_similarity

    x, y = (luma(one, "matlab") for one in (picture, truth))
    covered = np.zeros(x.shape, bool) if covered is None else covered
    error = np.square(x - y)[~covered].mean()
    options: dict[str, Any] = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "full": True}
    similar = structural_similarity(x, y, use_sample_covariance=False, **options)[1][5:-5, 5:-5]
    windows = np.lib.stride_tricks.sliding_window_view(covered, (11, 11)).any((2, 3))
    with np.errstate(divide="ignore"):
        return {"psnr": float(10 * np.log10(255**2 / error)), "ssim": float(similar[~windows].mean())}


def measured(files: Mapping[str, Composite]) -> pd.DataFrame:
    """Every method's file against the one of the ground truth, a row a method.

    Returns:
        Columns psnr and ssim of the whole picture without the stroke; detail: PSNR of the enlarged detail, which is not
        to be compared with that of a whole picture.
    """
    truth = files["ground truth"]
    rows = {
        label: quality(one.whole, truth.whole, one.stroke)
        | {"detail": float(psnr(one.detail, truth.detail, SELFEXSR_Y()))}
        for label, one in files.items()
        if one is not truth
    }
    return pd.DataFrame(rows).T


def coloured(plane: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """A luma plane with the chroma of a picture, as MATLAB's ``rgb2ycbcr`` and ``ycbcr2rgb`` have it, ``uint8``.

    What is beyond luma's 16..235, as the overshoot beside white, is lost.

    Args:
        plane: ``uint8`` ``(H, W)``. rgb: ``uint8`` ``(H, W, 3)``.

    Example:
        >>> coloured(np.full((1, 1), 235, np.uint8), np.full((1, 1, 3), 40, np.uint8))
        array([[[255, 255, 255]]], dtype=uint8)
    """
    to_y = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    zero = np.array([16, 128, 128])
    ycc = np.floor(rgb @ to_y.T + zero + 0.5)
    ycc[..., 0] = plane
    levels = (ycc - zero) @ np.linalg.inv(to_y).T
    return np.floor(levels.clip(0, 255) + 0.5).astype(np.uint8)


def results(networks: Mapping[str, Any], *, download: bool = True) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What networks for luma make of ppt3, as the authors' files show it, and the ground truth.

    Each gets the bicubically upscaled luma, clamped to 16..235, and gives a plane; :func:`coloured` by the ground
    truth, without ``SCALE`` pixels of border.

    Args:
        networks: label -> one with ``refine``.

    Returns:
        label -> ``uint8`` ``(H, W, 3)``; the ground truth likewise.

    Raises:
        DataUnavailable: Set14 is nowhere to be had.
    """
    planes, photographs = (load("set14", SCALE, lr=lr, download=download) for lr in ("luma", "paper"))
    at = photographs.names.index(NAME)
    truth = photographs[at].hr
    plane = interpolated_luma(low_resolution(planes, planes[at]), SCALE)
    inner = np.s_[SCALE:-SCALE, SCALE:-SCALE]
    made = {}
    with torch.inference_mode():
        for label, network in networks.items():
            kind = next((p.dtype for p in network.parameters()), plane.dtype)
            answer = to_uint8(network.eval().refine(plane.to(kind)), output=True)
            made[label] = coloured(answer, truth)[inner]
    return made, truth[inner]


def enlarged(picture: np.ndarray, like: Composite) -> np.ndarray:
    """The content of the box as the lower part of a file shows it: resized bicubically, without its frame."""
    top, left, h, w = like.box
    side = like.whole.shape[1]
    detail = imresize(picture[top : top + h, left : left + w], size=(side, side))
    return detail[like.frame : -like.frame, like.frame : -like.frame]


def by_depth(model: LumaDRCN, photograph: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
    """What a network with an ensemble makes of a picture at a fraction of its size, recursion by recursion.

    Args:
        photograph: ``uint8`` ``(H, W, 3)``; cut to whole multiples of the model's scale.

    Returns:
        ``bicubic``, ``d = 1`` .. ``d = D`` and ``ensemble``, float ``(1, 3, H, W)``, not clipped; the original.

    Example:
        >>> from nsrlib import create_model
        >>> tiny, black = create_model("drcn", 3, features=2, recursions=2), np.zeros((16, 20, 3), np.uint8)
        >>> made, original = by_depth(tiny, black)
        >>> list(made), original.shape
        (['bicubic', 'd = 1', 'd = 2', 'ensemble'], (15, 18, 3))
    """
    original = modcrop(photograph, model.scale)
    x = to_tensor(imresize(original, 1 / model.scale))
    with torch.inference_mode():
        y, ys = model(x, every=True)
    single = {f"d = {d}": one for d, one in enumerate(ys, 1)}
    return {"bicubic": imresize(x, model.scale), **single, "ensemble": y}, original
