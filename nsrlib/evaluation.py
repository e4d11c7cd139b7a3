"""Run a network on pictures: whole or in tiles, on a data set under a protocol, or on a user's own file."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nsrlib import signatures
from nsrlib.data import ImageSet, Pair, load
from nsrlib.data.catalogue import LUMA_LR
from nsrlib.files import one_line
from nsrlib.images import (
    Degradation,
    degraded,
    imresize,
    interpolated_luma,
    luma,
    pixels_sha256,
    to_tensor,
    to_uint8,
)
from nsrlib.metrics import GRAY, MATLAB_Y, RGB, Protocol, psnr, ssim
from nsrlib.models import create_model, optimise
from nsrlib.pictures import Picture, check_target, quantised, read_picture, without_hidden_colours, write_picture

if TYPE_CHECKING:
    import pandas as pd

WHOLE_LIMIT = {"cpu": 400 * 400, "cuda": 1500 * 1500}
"""Most low-resolution pixels that :func:`upscale` gives to a network at once when ``tile="auto"``."""

Tile = int | Literal["auto"] | None


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``auto``: CUDA if there is one, else a Mac's GPU (``mps``), else the CPU; or any name of PyTorch's.

    A Mac's GPU has no float64: ``bicubic`` runs on the CPU, and where a network or a training asks for float64, or for
    an operator that PyTorch lacks there, ``device="cpu"`` is the way. Pictures are always cut into tiles.

    Raises:
        ValueError: the device is not there, or computes nothing (``meta``).

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    why = ""
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type != "meta":
            return chosen
    except (RuntimeError, AssertionError) as error:  # only those of CUDA are short, and tell about the driver
        why = one_line(str(error).splitlines()[0], 120) + "; " if "cuda" in str(device) else ""
    there = ["auto", "cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    raise ValueError(f"device {str(device)!r} cannot be used: {why}there are {', '.join(there)}")


@torch.inference_mode()
def upscale(model: nn.Module, x: Tensor, *, tile: Tile = None, blend: int = 8, progress: bool = False) -> Tensor:
    """Apply a super-resolution network to a picture of any size, in tiles if it is large.

    A tile sees ``model.halo`` pixels of context on each side and is cross-faded with its neighbours over ``2 * blend``
    more. For a network without global statistics the result equals the whole picture's to rounding; one that looks at
    the whole picture differs a little, unless it has a ``tile_runner`` (:class:`~nsrlib.models.bsrn.FusedBSRN` does).

    Args:
        model: has ``scale``, ``halo`` and ``min_size``.
        x: ``(1, C, H, W)`` in [0, 1] on the model's device. A picture smaller than ``min_size`` is mirrored up to it.
        tile: side of the tiles' own part, in low-resolution pixels; None: whole; ``auto``: whole up to
            :data:`WHOLE_LIMIT`, else 192.

    Returns:
        ``(1, C, rH, rW)``, not clipped.

    Example:
        >>> model, x = create_model("bicubic", 2), torch.rand(1, 3, 50, 60)
        >>> whole, tiled = upscale(model, x), upscale(model, x, tile=20)
        >>> whole.shape, bool((whole - tiled).abs().max() < 1e-5)
        (torch.Size([1, 3, 100, 120]), True)
    """
    parts = [band for _, band in upscaled_bands(model, x, tile=tile, blend=blend, progress=progress)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1))[None].to(x.device)


class Levels:
    """``uint8`` or ``uint16`` levels ``(H, W, 1 or 3)`` that look like a network's input, float ``(1, C, H, W)``.

    Only the parts that are asked for, by ``[..., rows, columns]``, are made. Gray fills all channels.
    """

    dtype, ndim = torch.float32, 4

    def __init__(self, levels: np.ndarray, channels: int, device: torch.device) -> None:
        self.levels, self.device = levels, device
        self.shape = (1, channels, *levels.shape[:2])

    def __getitem__(self, index: tuple) -> Tensor:
        part = self.levels[index[-2:]]
        part = part.astype(np.float32) / np.iinfo(part.dtype).max
        x = torch.from_numpy(np.repeat(part, self.shape[1] // part.shape[2], 2))
        return x.permute(2, 0, 1)[None].to(self.device)


def upscaled_bands(
    model: nn.Module, x: Tensor | Levels, *, tile: Tile = None, blend: int = 8, progress: bool = False
) -> Iterator[tuple[int, Tensor]]:
    """As :func:`upscale`, in the memory of one row of tiles: (first row, finished ``(C, rows, rW)``), top to bottom."""
    if x.ndim != 4 or x.shape[0] != 1:
        raise ValueError(f"x must be one picture (1, C, H, W), got {tuple(x.shape)}")
    if tile == "auto":
        tile = 192 if x.shape[2] * x.shape[3] > WHOLE_LIMIT.get(x.device.type, 0) else None
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise ValueError(f"tile must be a positive whole number, 'auto' or None, got {tile!r}")
    if not isinstance(blend, int) or blend < 0:
        raise ValueError(f"blend must be a whole number of pixels, 0 or more, got {blend!r}")
    if tile is None or tile >= max(x.shape[2:]):
        yield 0, _padded(model, x[..., :, :])[0]
    else:
        yield from _tiled(model, x, tile, blend, progress)


def _padded(model: nn.Module, x: Tensor) -> Tensor:
    """Run the network, mirroring pictures that are smaller than it can take."""
    h, w = x.shape[-2:]
    need = int(getattr(model, "min_size", 1))
    r = int(model.scale)  # type: ignore[arg-type]
    while min(x.shape[-2:]) < need:
        grow = [min(need - s, s) if s < need else 0 for s in x.shape[-2:]]  # a mirror shows at most the picture
        x = torch.cat([x, x.flip(2)[:, :, : grow[0]]], 2)
        x = torch.cat([x, x.flip(3)[..., : grow[1]]], 3)
    y = model(x)
    if not y.is_floating_point():
        raise ValueError(f"the network gives {y.dtype}, not floating-point values; are the weights sound?")
    return y[..., : h * r, : w * r]


def _tiled(model: nn.Module, x: Tensor | Levels, tile: int, blend: int, progress: bool) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, finished rows on the CPU), one band for each row of tiles."""
    from tqdm.auto import tqdm

    r = int(model.scale)  # type: ignore[arg-type]
    # at least min_size - 1, so that no tile of a large enough picture is too small for the network
    halo = max(int(getattr(model, "halo", 32)), int(getattr(model, "min_size", 1)) - 1)
    step = int(getattr(model, "tile_step", 1))
    _, c, h, w = x.shape
    rows, cols = _spans(h, tile, blend), _spans(w, tile, blend)

    def box(top: int, bottom: int, left: int, right: int) -> tuple[int, int, int, int]:
        top, left = (max(side - halo, 0) // step * step for side in (top, left))
        return top, min(bottom + halo, h), left, min(right + halo, w)

    bar = tqdm(total=len(rows) * len(cols), desc="tiles", unit="tile", disable=not progress)
    if hasattr(model, "tile_runner") and min(h, w) >= int(model.min_size):  # type: ignore[arg-type]
        boxes = [box(*row, *col) for row in rows for col in cols]
        bar.set_description("looking at the whole picture")
        run = model.tile_runner(x, boxes, tick=bar.refresh)  # type: ignore[operator]
        bar.set_description("tiles")
    else:

        def run(b: tuple[int, int, int, int]) -> Tensor:
            return _padded(model, x[..., b[0] : b[1], b[2] : b[3]])

    kept: Tensor | None = None  # rows that the next band still fades into
    for top, bottom in rows:
        band = torch.zeros(c, (bottom - top) * r, w * r)
        for left, right in cols:
            b = box(top, bottom, left, right)
            out = run(b)[0].float().cpu()
            out = out[:, (top - b[0]) * r : (bottom - b[0]) * r, (left - b[2]) * r : (right - b[2]) * r]
            band[..., left * r : right * r] += out * _ramp(left, right, w, blend, r)
            bar.update()
        band *= _ramp(top, bottom, h, blend, r)[:, None]
        if kept is not None:
            band[:, : kept.shape[1]] += kept
        done = band.shape[1] - (0 if bottom == h else 2 * blend * r)
        kept = band[:, done:].clone()
        yield top * r, band[:, :done]
    bar.close()


def _spans(side: int, tile: int, blend: int) -> list[tuple[int, int]]:
    """Equal parts of about ``tile`` pixels, each widened by ``blend`` towards its neighbours."""
    tile = max(tile, 4 * blend)  # so that only neighbours fade into each other
    n = max(1, round(side / tile))
    edges = [side * k // n for k in range(n + 1)]
    return [
        (a - (blend if k else 0), b + (blend if k < n - 1 else 0)) for k, (a, b) in enumerate(itertools.pairwise(edges))
    ]


def _ramp(start: int, stop: int, side: int, blend: int, r: int) -> Tensor:
    """Weights of one span's output pixels; those of neighbours add up to 1 where they overlap."""
    weight = torch.ones((stop - start) * r)
    fade = (torch.arange(2 * blend * r) + 0.5) / (2 * blend * r)
    if start > 0:
        weight[: len(fade)] = fade
    if stop < side:
        weight[len(weight) - len(fade) :] = fade.flip(0)
    return weight


def upscale_file(
    model: nn.Module,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    tile: Tile = "auto",
    device: str | torch.device = "auto",
    progress: bool = True,
    force: bool = False,
) -> Picture:
    """Upscale an image file of any size. Gray, 16 bits, alpha (bicubic) and metadata are kept; it is turned upright.

    Colours under full transparency have no effect. The suffix of ``target`` chooses the format; ``tile``, as in
    :func:`upscale`, bounds the memory.

    Returns:
        What was read; ``notes`` has what could not be kept of it, too.

    Raises:
        FileExistsError: ``target`` exists and ``force`` is False.
        ValueError: ``target`` is ``source``, or its format cannot hold the picture; the network gives NaN, or takes
            gray only and the picture has colour. Nothing is written then.
        ValueError, OSError: as :func:`nsrlib.pictures.read_picture` and ``write_picture``.

    Example:
        >>> _ = write_picture("small.png", np.zeros((10, 12, 3), np.uint8))
        >>> read = upscale_file(create_model("bicubic", 2), "small.png", "large.png", progress=False)
        >>> read_picture("large.png").levels.shape
        (20, 24, 3)
    """
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise ValueError(f"{target} is the source itself; give the result another name")
    check_target(target, replace=force)
    picture = read_picture(source, most_pixels=None)
    r = int(model.scale)  # type: ignore[arg-type]
    h, w = picture.levels.shape[:2]
    check_target(target, alpha=picture.alpha is not None, bits=picture.bits, size=(h * r, w * r), replace=force)
    channels = getattr(model, "channels", None) or 3
    if channels == 1 and not picture.gray:
        raise ValueError(f"the network takes gray pictures, and {source} has colour")
    levels, alpha, chosen = picture.levels, picture.alpha, pick_device(device)
    if alpha is not None:
        levels = without_hidden_colours(levels, alpha)
        alpha = _upscaled_levels(create_model("bicubic", r), alpha[..., None], 1, "auto", torch.device("cpu"))[..., 0]
    result = _upscaled_levels(optimise(model, chosen), levels, channels, tile, chosen, progress)
    return replace(picture, notes=picture.notes + write_picture(target, result, alpha=alpha, like=picture))


@torch.inference_mode()
def _upscaled_levels(
    model: nn.Module, levels: np.ndarray, channels: int, tile: Tile, device: torch.device, progress: bool = False
) -> np.ndarray:
    """Levels ``(H, W, C)`` -> ``(rH, rW, C)`` of the same type, quantised band by band."""
    r, bits = int(model.scale), 8 * levels.itemsize  # type: ignore[arg-type]
    h, w, c = levels.shape
    result = np.empty((h * r, w * r, c), levels.dtype)
    for row, band in upscaled_bands(model, Levels(levels, channels, device), tile=tile, progress=progress):
        band = band.mean(0, keepdim=True) if c == 1 else band
        result[row : row + band.shape[1]] = quantised(band.permute(1, 2, 0).cpu().numpy(), bits)
    return result


@dataclass(frozen=True)
class Setting:
    """What a network was given and how it was run: what moves a number and is not in its :class:`Protocol`.

    The fields are those of :func:`evaluate`.

    Example:
        >>> Setting(scale=4).signature, Setting(noise=25).signature
        ('v1:scale=4', 'v1:noise=25')
        >>> Setting.parse("v1:scale=2,lr=mirror")
        Setting(scale=2, lr='mirror', noise=None, jpeg=None, noise_seed=0, tile=None, fast=True)
    """

    scale: int = 1
    lr: str = "paper"
    noise: float | None = None
    jpeg: int | None = None
    noise_seed: int = 0
    tile: Tile = None
    fast: bool = True

    @property
    def signature(self) -> str:
        """Every field that differs from its default, see :mod:`nsrlib.signatures`."""
        return f"{signatures.VERSION}:{','.join(signatures.written(self))}"

    @property
    def restores(self) -> bool:
        """Whether noise or JPEG is undone; otherwise a picture is made larger."""
        return self.noise is not None or self.jpeg is not None

    @classmethod
    def parse(cls, text: str) -> Setting:
        """The setting of a signature. ValueError for another version, an unknown field or a value that does not fit."""
        return cls(**signatures.read(cls, signatures.parts(text)))


def evaluate(
    model: nn.Module | str,
    dataset: str | os.PathLike | ImageSet,
    scale: int | None = None,
    protocol: Protocol | None = None,
    device: str | torch.device = "auto",
    *,
    lr: str | None = None,
    noise: float | None = None,
    jpeg: int | None = None,
    noise_seed: int = 0,
    limit: int | None = None,
    tile: Tile = None,
    fast: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """PSNR and SSIM of a network on every image of a data set: upscaling, or with ``noise`` or ``jpeg`` restoration.

    Args:
        model: a network, or a name whose published weights are taken (``"bsrn"``; ``"dncnn"``; ``"bicubic"``).
        dataset: name or folder (:func:`nsrlib.data.load`), or an :class:`~nsrlib.data.ImageSet` at its scale.
        scale: default: the model's.
        protocol: default :func:`~nsrlib.metrics.MATLAB_Y` with ``scale`` pixels cropped; for restoration
            :func:`~nsrlib.metrics.GRAY`, or ``RGB`` on colour, without crop.
        device: as :func:`pick_device`.
        lr: how LR is made, see :func:`nsrlib.data.load`; default: as the protocol says, :attr:`Protocol.lr
            <nsrlib.metrics.Protocol.lr>`. Ignored for an ``ImageSet`` and for restoration.
        noise, jpeg, noise_seed: what the network (scale 1) has to undo, see :class:`~nsrlib.images.Degradation`. A
            named set is loaded as gray unless the network takes colour.
        limit: only the first so many images.
        tile: None, as the papers do: whole images.
        fast: use :func:`nsrlib.models.optimise`; the same numbers to 1e-5 of a grey level.

    Returns:
        Columns image, psnr (dB), ssim, seconds, pixels_sha256 (of the network's picture at 8 bit, whole and in the
        channels that it came in: :func:`~nsrlib.images.pixels_sha256`). ``attrs`` holds what the numbers depend on:
        dataset, origin, sha256 (of its images), scale, model, device, and the signatures of the protocol and of the
        :class:`Setting`.

    Example:
        >>> table = evaluate("bicubic", "embedded", scale=4, limit=1, device="cpu")
        >>> table[["image", "psnr", "ssim"]].round(2).to_dict("records")
        [{'image': 'chelsea', 'psnr': 31.48, 'ssim': 0.81}]
    """
    import pandas as pd
    from tqdm.auto import tqdm

    task = None if noise is None and jpeg is None else Degradation(noise, jpeg, noise_seed)
    if isinstance(model, str):
        known = scale or (dataset.scale if isinstance(dataset, ImageSet) else None)
        model = create_model(model, 1 if task and known is None else known, pretrained="published")
    r = int(model.scale)  # type: ignore[arg-type]
    if scale is not None and scale != r:
        raise ValueError(f"scale={scale}, but the model upscales by {r}")
    if task and r != 1:
        what = f"noise={noise}" if jpeg is None else f"jpeg={jpeg}"
        raise ValueError(f"{what} is for networks that keep the size (scale 1), but the model upscales by {r}")
    channels = getattr(model, "channels", None)  # None: takes gray and colour
    images = dataset
    if not isinstance(images, ImageSet):
        how = lr or (protocol.lr if protocol and not task else "paper")
        images = load(images, r, lr=how, limit=limit, gray=takes_gray(model) if task else None)
    if (images.scale or 1) != r:
        raise ValueError(f"the model upscales by {r}, but {images.name} was loaded at scale {images.scale}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be a positive whole number or None, got {limit}")
    images = images[:limit] if limit else images
    protocol = protocol or (MATLAB_Y(crop=r) if task is None else GRAY() if images[0].hr.ndim == 2 else RGB())
    chosen = pick_device(device)
    name = type(model).__name__
    if protocol.clamp and not (hasattr(model, "refine") and images.lr == "luma"):
        wanted = f"a network for luma and images with lr='luma', got {name} and {images.name} with lr={images.lr!r}"
        raise ValueError(f"a protocol with clamp=True takes {wanted}")
    # a copy, so that a network in training keeps its mode and device
    model = optimise(model, chosen) if fast else copy.deepcopy(model).eval().to(chosen)
    kind = next((p.dtype for p in model.parameters()), torch.float64 if images.lr == "luma" else torch.float32)
    model = _Refinement(model) if protocol.clamp else model
    rows = []
    for pair in tqdm(images, desc=f"{name} x{r} {images.name}", unit="image", disable=not progress):
        x = _input(images, pair, task, channels, chosen)
        x = (interpolated_luma(x, r) if protocol.clamp else x).to(chosen, kind)
        start = time.perf_counter()
        sr = to_uint8(upscale(model, x, tile=tile), output=True)  # waits for the device
        seconds = time.perf_counter() - start
        a, b = for_protocol(sr, pair.hr, pair.gray, protocol)
        rows.append((pair.name, psnr(a, b, protocol), ssim(a, b, protocol), seconds, pixels_sha256(sr)))
    seed = 0 if noise is None else noise_seed
    setting = Setting(r, "paper" if task else images.lr, noise, jpeg, seed, tile, fast)
    table = pd.DataFrame(rows, columns=["image", "psnr", "ssim", "seconds", "pixels_sha256"])
    table.attrs = {
        "dataset": images.name,
        "origin": images.origin,
        "sha256": images.sha256,
        "scale": r,
        "protocol": protocol.signature,
        "setting": setting.signature,
        "model": name,
        "device": str(chosen),
    }
    return table


class _Refinement(nn.Module):
    """The part of a network for luma behind its bicubic upscaling, as a network that keeps the size."""

    scale = 1

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.halo, self.min_size = model, model.halo * model.scale, model.min_size

    def forward(self, x: Tensor) -> Tensor:
        return self.model.refine(x)


def takes_gray(network: Any) -> bool | None:
    """How to load sets for a network that restores: as gray (True), or as they are (None) if it takes colour."""
    return True if getattr(network, "channels", 1) == 1 else None


def _input(
    images: ImageSet, pair: Pair, task: Degradation | None, channels: int | None, device: torch.device
) -> Tensor:
    """What the network gets: LR in three channels or as a plane of luma, or the degraded picture."""
    if task:
        have = 1 if pair.hr.ndim == 2 else 3
        if channels not in (None, have):
            words = {1: "gray", 3: "colour"}
            loaded = f"{images.name} was loaded in {words[have]}, but the model takes {words[channels]}"
            raise ValueError(f"{loaded}: load it with gray={channels == 1}")
        return degraded(pair.hr, task, pair.name, device)
    return low_resolution(images, pair, device)


def low_resolution(images: ImageSet, pair: Pair, device: str | torch.device = "cpu") -> Tensor:
    """A pair's LR as a network gets it: ``(1, 3, H, W)``, gray files too, or ``(1, 1, H, W)`` where LR is luma.

    Float32 in [0, 1]; float64, not clipped and on the CPU for a set that was loaded with ``lr="luma"``.

    Raises:
        ValueError: the set was loaded without LR images.

    Example:
        >>> images = load("embedded", 4, lr="luma", limit=1)
        >>> low_resolution(images, images[0]).dtype
        torch.float64
    """
    if pair.lr is None:
        missing = f"{images.name} has no low-resolution images at scale {images.scale or 1}"
        raise ValueError(f"{missing}: take a network that upscales by 2 or more, or give noise or jpeg")
    if images.lr == "luma":
        return torch.from_numpy(pair.lr)[None, None]
    x = to_tensor(pair.lr, device)
    return x if x.shape[1] == 3 or images.lr in LUMA_LR else x.expand(-1, 3, -1, -1)


def for_protocol(sr: np.ndarray, hr: np.ndarray, gray: bool, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Reduce three equal channels to one where the protocol wants gray files left alone."""
    if hr.ndim == 2:
        return (sr if sr.ndim == 2 else sr[..., 0]), hr
    if gray and protocol.space == "y" and protocol.gray_as_is:
        return np.ascontiguousarray(sr[..., 0]), np.ascontiguousarray(hr[..., 0])
    return sr, hr


def protocol_sensitivity(images: ImageSet, first: int | None = None) -> pd.DataFrame:
    """What innocent choices do to one row of a paper: bicubic PSNR and SSIM of one set under seven conventions.

    Border crop is the scale in all of them; gray files are left at 0..255; the border is mirrored. ``first``: only so
    many conventions; the second, :func:`~nsrlib.metrics.VDSR_Y`, gives what papers print.

    Example:
        >>> protocol_sensitivity(load("embedded", 4, limit=1), first=1)["psnr"].round(2).tolist()
        [31.47]
    """
    import pandas as pd

    r = images.scale
    if not r or r < 2:
        raise ValueError(f"{images.name} must be loaded with a scale of 2 or more, got {r}")

    def y_of(img: np.ndarray, rounding: Any) -> np.ndarray:
        return (luma(img, rounding) if img.ndim == 3 else img.astype(np.float64)) / 255

    def down_up(_: np.ndarray, y: np.ndarray) -> np.ndarray:
        return imresize(imresize(y, 1 / r), r)

    def rounded(_: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.clip(np.floor(down_up(_, y) * 255 + 0.5), 0, 255) / 255

    def clamped(_: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.floor(interpolated_luma(imresize(y, 1 / r), r) * 255 + 0.5) / 255

    def luma_of_lr(hr: np.ndarray, _: np.ndarray) -> np.ndarray:
        return imresize(y_of(imresize(hr, 1 / r), "none"), r)

    plane = Protocol(space="gray", crop=r, quantise=False)
    rgb = Protocol(crop=r, gray_as_is=True)
    # how HR becomes the luma that is compared (None: it stays RGB), and how the result is made from HR or from that
    conventions: list[tuple[str, str | None, Callable, Protocol]] = [
        ("luma of HR rounded, resized in double, result rounded", "nearest", rounded, plane),
        ("the same, clamped to 16..235 before (protocol 'vdsr')", "nearest", clamped, plane),
        ("the first, result not rounded", "nearest", down_up, plane),
        ("RGB at 8 bit, luma not rounded", None, down_up, rgb),
        ("RGB at 8 bit, luma rounded", None, down_up, replace(rgb, luma_rounding="nearest")),
        ("RGB LR at 8 bit, its luma upscaled, not rounded", "none", luma_of_lr, plane),
        ("nothing rounded", "none", down_up, plane),
    ]
    originals = [pair.hr[..., 0] if pair.gray and pair.hr.ndim == 3 else pair.hr for pair in images]
    rows = []
    for label, rounding, make, protocol in conventions[:first]:
        both = [(hr, y_of(hr, rounding) if rounding else hr) for hr in originals]
        pairs = [(make(hr, y), y) for hr, y in both]
        rows.append((label, *(float(np.mean([measure(x, y, protocol) for x, y in pairs])) for measure in (psnr, ssim))))
    return pd.DataFrame(rows, columns=["convention", "psnr", "ssim"])


def default_output(source: str | os.PathLike, scale: int) -> Path:
    """``photo.jpg`` -> ``photo_x4.png`` beside it."""
    path = Path(source)
    return path.with_name(f"{path.stem}_x{scale}.png")
