"""Training patches, cut on the device where the network trains.

All images of a set stay decoded in one flat buffer. A batch is drawn as a few integers per patch (where, and which of
the eight flips and rotations) and fetched by a single gather: no worker, no decoding between two steps. The batch of a
step is a pure function of (seed, step): a resumed run, and every process of a distributed one, draws the same patches.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nsrlib.data.sets import ImageSet, Pair
from nsrlib.images import check_quality, imresize, luma, name_seed
from nsrlib.images import jpeg as compress


class Batch(NamedTuple):
    """What one step sees: ``input`` ``(N, C, P, P)`` and ``target`` ``(N, C, rP, rP)``, float32 in [0, 1]."""

    input: Tensor
    target: Tensor


def stream_seed(seed: int, step: int, stream: int = 0) -> int:
    """A 63-bit seed for one use (``stream``) of one step, well mixed, the same on every machine."""
    return int(np.random.SeedSequence((seed, stream, step)).generate_state(1, np.uint64)[0] >> 1)


class Patches:
    """Random patches of a training set.

    Every position of every image is equally likely, so large images are seen more often.

    Args:
        images: from :func:`nsrlib.data.training_set` or :func:`~nsrlib.data.load`, or pairs.
        patch: side P of the *input* patch, in pixels of the low-resolution image.
        channels: ``rgb`` (gray sets stay gray), or ``y``: luma of BT.601, 16..235, rounded as MATLAB does; LR is made
            from the luma then.
        upscaled: the input is LR after bicubic upscaling to the target's size, in float32, not rounded (VDSR, DRCN); P
            counts pixels of that.
        noise: for sets without scale: standard deviation of Gaussian noise on the 0..255 scale that is added to the
            target, anew in every batch and not clipped; or a range ``(low, high)`` from which each patch draws its own.
        jpeg: for sets without scale: the input is the target after JPEG of this quality, made once from every whole
            image; or a range ``(low, high)`` from which each image has its own, which follows from its name.
        augment: the eight flips and rotations.
        too_small: images smaller than a patch are an error (``raise``) or left out with one warning (``skip``).
        device: where the images live and the batches are made.

    Attributes:
        scale: r, the target's side over the input's.
        positions: how many different patches there are, flips and rotations not counted.
        skipped: names of images left out.
        sha256: of the target images and of what is done to them, but not of ``patch``.
        fingerprint: of that and of the input images too, which may have been made in several ways.

    Example:
        >>> from nsrlib.data import load
        >>> patches = Patches(load("embedded", scale=2), patch=16)
        >>> x, y = patches.batch(8, stream_seed(seed=0, step=0))
        >>> x.shape, y.shape
        (torch.Size([8, 3, 16, 16]), torch.Size([8, 3, 32, 32]))
    """

    def __init__(
        self,
        images: ImageSet | Sequence[Pair],
        patch: int,
        *,
        channels: Literal["rgb", "y"] = "rgb",
        upscaled: bool = False,
        noise: float | tuple[float, float] | None = None,
        jpeg: int | tuple[int, int] | None = None,
        augment: bool = True,
        too_small: Literal["raise", "skip"] = "raise",
        device: str | torch.device = "cpu",
    ) -> None:
        if not isinstance(patch, int) or isinstance(patch, bool) or patch < 1:
            raise ValueError(f"patch must be a positive whole number of pixels, got {patch!r}")
        if channels not in ("rgb", "y"):
            raise ValueError(f"channels must be 'rgb' or 'y', got {channels!r}")
        if too_small not in ("raise", "skip"):
            raise ValueError(f"too_small must be 'raise' or 'skip', got {too_small!r}")
        if noise is not None and jpeg is not None:
            raise ValueError(f"give one of noise and jpeg, got noise={noise!r} and jpeg={jpeg!r}")
        self.noise, self.jpeg = _noise_range(noise), _quality_range(jpeg)
        self.patch, self.augment = patch, augment
        self.name = getattr(images, "name", "images")
        self.origin = getattr(images, "origin", "memory")
        inputs, targets, names = [], [], []
        inputs_digest = hashlib.sha256()
        compressed = f" jpeg {self.jpeg}" if self.jpeg else ""
        digest = hashlib.sha256(f"{channels} {upscaled} {self.noise} {augment}{compressed}".encode())
        ratio = None
        small: list[str] = []
        for pair in images:
            x, y = _arrays(pair, channels, upscaled, self.noise, self.jpeg)
            r = y.shape[0] // x.shape[0]
            if ratio not in (None, r):
                raise ValueError(f"images must have one scale, got x{ratio} and, in {pair.name}, x{r}")
            ratio = r
            if min(x.shape[:2]) < patch:
                small.append(f"{pair.name} ({x.shape[1]}x{x.shape[0]})")
                continue
            inputs.append(x)
            targets.append(y)
            names.append(pair.name)
            digest.update(f"{pair.name}{y.shape}".encode())
            digest.update(y.tobytes())
            inputs_digest.update(x.tobytes())
        if small and (too_small == "raise" or not names):
            raise ValueError(
                f"patch={patch} is larger than {len(small)} of {len(small) + len(names)} images, first {small[0]}; "
                "take a smaller patch, or too_small='skip'"
            )
        if not names:
            raise ValueError("images is empty: there is nothing to cut patches from")
        if small:
            text = f"{len(small)} images smaller than patch={patch} are left out, first {small[0]}"
            warnings.warn(text, stacklevel=2)
        self.skipped = tuple(small) + tuple(getattr(images, "skipped", ()))
        self.names = tuple(names)
        self.scale = int(ratio or 1)
        self.channels = inputs[0].shape[2]
        self.sha256 = digest.hexdigest()
        self.fingerprint = f"{self.sha256}/{inputs_digest.hexdigest()}"
        self.device = torch.device(device)
        self._inputs, self._targets = (_Store(arrays, self.device) for arrays in (inputs, targets))
        free = torch.tensor([(x.shape[0] - patch + 1, x.shape[1] - patch + 1) for x in inputs])
        self._ends = free.prod(1).cumsum(0)
        self._free_columns = free[:, 1]
        self.positions = int(self._ends[-1])
        turns = 8 if augment else 1
        self._input_grids = _turned_grids(patch, turns).to(self.device)
        self._target_grids = _turned_grids(patch * self.scale, turns).to(self.device)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        kind = f"{self.positions:,} of {self.patch}x{self.patch}"
        return f"Patches({self.name} x{self.scale}, {len(self)} images, {kind})"

    def to(self, device: str | torch.device) -> Patches:
        """The same patches with the images on ``device``; self if they are there already."""
        target = torch.device(device)
        if target == self.device:
            return self
        moved = copy.copy(self)
        moved.device = target
        moved._inputs, moved._targets = self._inputs.to(target), self._targets.to(target)
        moved._input_grids, moved._target_grids = self._input_grids.to(target), self._target_grids.to(target)
        return moved

    def batch(self, size: int, seed: int, shard: slice = slice(None)) -> Batch:
        """Draw ``size`` patches, the same ones for the same ``seed`` on every device; its noise is a GPU's or a CPU's.

        ``shard``: which of them are wanted here; those of a distributed run's processes make up the whole batch.
        """
        if size < 1:
            raise ValueError(f"size must be a positive number of patches, got {size}")
        generator = torch.Generator().manual_seed(seed)
        spot = torch.randint(self.positions, (size,), generator=generator)
        turn = torch.randint(self._input_grids.shape[1], (size,), generator=generator)[shard]
        spot = spot[shard]
        image = torch.searchsorted(self._ends, spot, right=True)
        local = spot - torch.cat([self._ends.new_zeros(1), self._ends])[image]
        row, column = local // self._free_columns[image], local % self._free_columns[image]
        # one small transfer for all four numbers
        turn, image, row, column = torch.stack([turn, image, row, column]).to(self.device, non_blocking=True)
        r = self.scale
        y = self._targets.gather(image, row * r, column * r, turn, self._target_grids)
        if self.noise is None:
            return Batch(self._inputs.gather(image, row, column, turn, self._input_grids), y)
        return Batch(self._noisy(y, size, seed, shard), y)

    def _noisy(self, y: Tensor, size: int, seed: int, shard: slice) -> Tensor:
        assert self.noise is not None
        low, high = self.noise
        generator = torch.Generator(self.device).manual_seed(stream_seed(seed, 0, 1))
        # noise of the whole batch, of which a shard keeps its part: shards then equal the whole
        noise = torch.randn((size, *y.shape[1:]), generator=generator, device=self.device)[shard]
        sigma = torch.rand((size, 1, 1, 1), generator=generator, device=self.device)[shard] * (high - low) + low
        return y + noise * (sigma / 255)


class _Store:
    """Images of ``uint8`` or ``float32`` in one flat buffer."""

    def __init__(self, arrays: Sequence[np.ndarray], device: torch.device) -> None:
        sizes = [a.shape[0] * a.shape[1] for a in arrays]
        kind = torch.int32 if sum(sizes) < 2**31 else torch.int64  # half the traffic of an index
        self.width = torch.tensor([a.shape[1] for a in arrays], dtype=kind, device=device)
        self.start = torch.tensor(np.cumsum([0, *sizes[:-1]]), dtype=kind, device=device)
        c = arrays[0].shape[2]
        if any(a.shape[2] != c for a in arrays):
            raise ValueError("images must all be gray or all be coloured")
        if arrays[0].dtype == np.uint8 and c == 3:
            # a pixel is one word, so that a gather moves one number and not three
            words = np.zeros((sum(sizes), 4), np.uint8)
            for part, a in zip(np.split(words, np.cumsum(sizes[:-1])), arrays, strict=True):
                part[:, :3] = a.reshape(-1, 3)
            self.flat = torch.from_numpy(words).view(torch.int32).flatten().to(device)
        else:
            self.flat = torch.from_numpy(np.concatenate([a.reshape(-1, c) for a in arrays]).squeeze(1)).to(device)

    def to(self, device: torch.device) -> _Store:
        moved = copy.copy(self)
        moved.width, moved.start, moved.flat = (t.to(device) for t in (self.width, self.start, self.flat))
        return moved

    def gather(self, image: Tensor, row: Tensor, column: Tensor, turn: Tensor, grids: Tensor) -> Tensor:
        """``(N,)`` images, corners and orientations -> ``(N, C, P, P)`` float32 in [0, 1]; see `_turned_grids`."""
        width = self.width[image]
        corner = self.start[image] + (row * width + column).to(width.dtype)
        index = grids[0][turn].to(width.dtype).mul_(width[:, None, None])
        index += grids[1][turn]
        index += corner[:, None, None]
        pixels = self.flat.index_select(0, index.view(-1)).view(index.shape)  # (N, P, P)
        if pixels.dtype == torch.int32:
            pixels = pixels.view(torch.uint8).view(*index.shape, 4)[..., :3].permute(0, 3, 1, 2)
        else:
            pixels = pixels[:, None]
        if pixels.dtype == torch.uint8:
            return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return pixels


def _turned_grids(side: int, turns: int) -> Tensor:
    """Rows and columns of a patch's pixels in its ``turns`` orientations, ``(2, turns, side, side)`` int32."""
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).to(torch.int32)
    if turns == 1:
        return grid[:, None]
    rotations = [torch.rot90(grid, k, (1, 2)) for k in range(4)]
    return torch.stack([*rotations, *(g.flip(2) for g in rotations)], 1)


def _arrays(
    pair: Pair, channels: str, upscaled: bool, noise: tuple[float, float] | None, quality: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Input (without its noise) and target of one image as ``(H, W, C)``."""
    hr, lr = pair.hr, pair.lr
    if (noise or quality) and lr is not None:
        what = "noise" if noise else "jpeg"
        raise ValueError(f"{what} is for sets without a scale, but {pair.name} has a low-resolution image")
    r = 1 if lr is None else hr.shape[0] // lr.shape[0]
    if lr is not None and hr.shape[:2] != (lr.shape[0] * r, lr.shape[1] * r):
        sides = "x".join(map(str, hr.shape[:2])), "x".join(map(str, lr.shape[:2]))
        raise ValueError(f"{pair.name} of {sides[0]} is no whole multiple of its low-resolution image of {sides[1]}")
    if channels == "y" and hr.ndim == 3:
        hr = luma(hr, rounding="matlab").astype(np.uint8)
        lr = None if lr is None else imresize(hr, 1 / r)
    if lr is not None and upscaled:
        lr = np.asarray(imresize(lr.astype(np.float64) / 255, r), np.float32)
    elif lr is None:
        if not (noise or quality):
            raise ValueError(f"{pair.name} has no low-resolution image: load the set at a scale, or give noise or jpeg")
        lr = hr
        if quality:
            low, high = quality
            lr = compress(hr, low + name_seed(pair.name) % (high - low + 1))
    if lr.shape[2:] == (3,) and lr.dtype != np.uint8:
        raise ValueError("upscaled=True is for one channel: take channels='y' or a gray set")
    return np.ascontiguousarray(np.atleast_3d(lr)), np.ascontiguousarray(np.atleast_3d(hr))


def _quality_range(jpeg: Any) -> tuple[int, int] | None:
    if jpeg is None:
        return None
    low, high = jpeg if isinstance(jpeg, Iterable) else (jpeg, jpeg)
    check_quality(low)
    check_quality(high)
    if low > high:
        raise ValueError(f"jpeg must be a quality from 1 to 100, or a rising range, got {jpeg!r}")
    return int(low), int(high)


def _noise_range(noise: Any) -> tuple[float, float] | None:
    if noise is None:
        return None
    low, high = noise if isinstance(noise, Iterable) else (noise, noise)
    if not 0 <= low <= high <= 255:
        raise ValueError(f"noise must be a standard deviation between 0 and 255, or a rising range, got {noise!r}")
    return float(low), float(high)
