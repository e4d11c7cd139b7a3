"""Data sets of images: benchmarks, training sets, folders, and photographs that are always at hand.

Named sets consist of the pinned files of :mod:`nsrlib.data.download`; the *embedded* sets are photographs inside
scikit-image and scikit-learn. Images are ``uint8`` RGB ``(H, W, 3)``, or ``(H, W)`` where ``gray=True``. Conventions
and quirks are at :func:`load`.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np

from nsrlib.data import used
from nsrlib.data.catalogue import (
    COMPUTED_LR,
    FROM_SCIKIT_LEARN,
    LR_CONVENTIONS,
    LUMA_LR,
    SETS,
    ImageFiles,
    Role,
    check_scale,
    folder_files,
    hr_folder_of,
    key_of,
    locate,
    unread_in,
)
from nsrlib.data.download import DataUnavailable, unknown
from nsrlib.images import imresize, luma, modcrop
from nsrlib.pictures import SUFFIXES, Picture, read_picture

Name = str | os.PathLike[str]

_DUPLICATE_IN_T91 = "t65"  # byte-identical to t36
_BSDS_VAL_FAMILY = ("b100", "bsd68", "bsds_val")


class Pair(NamedTuple):
    """One image. The arrays are shared with the set that made them: do not write into them."""

    name: str
    # uint8, as many channels as hr; float64 (H, W) near [0, 1] where lr="luma"; None without a scale
    lr: np.ndarray | None
    hr: np.ndarray  # uint8 RGB (H, W, 3), sides multiples of the scale; (H, W) where the set is loaded as gray
    gray: bool = False  # one channel, in its file or in hr; MATLAB leaves such a luma at 0..255


@dataclass
class _Item:
    """An image that is not decoded yet."""

    files: ImageFiles
    scale: int
    convention: str
    gray: bool
    as_luma: bool = False
    embedded: bool = False

    @cached_property
    def pair(self) -> Pair:
        name, hr_file, lr_file = self.files
        hr, one_channel = self._read(hr_file)
        try:
            hr = modcrop(hr, self.scale)
        except ValueError as error:
            raise ValueError(f"{hr_file}: {error}") from None
        lr = None
        if lr_file is not None:
            lr, _ = self._read(lr_file)
            h, w = lr.shape[0] * self.scale, lr.shape[1] * self.scale
            # common copies crop HR to multiples of 12 before shrinking it
            if not (0 <= hr.shape[0] - h < 12 and 0 <= hr.shape[1] - w < 12):
                small, large = (f"{file} of {a.shape[0]}x{a.shape[1]}" for file, a in ((lr_file, lr), (hr_file, hr)))
                raise ValueError(f"{small} does not belong to {large} at scale {self.scale}")
            hr = hr[:h, :w]
            if not belong(hr, lr):
                told = f"{lr_file} does not look like {hr_file}: another picture, or turned or mirrored?"
                warnings.warn(told, stacklevel=2)
        elif self.scale > 1:
            levels = hr / 255 if self.convention == "luma" else hr
            lr = imresize(levels, 1 / self.scale, **COMPUTED_LR[self.convention])
        return Pair(name, lr, np.ascontiguousarray(hr), one_channel or self.gray)

    def _read(self, file: str) -> tuple[np.ndarray, bool]:
        """The picture, and whether it is stored with a single channel."""
        if self.embedded:
            img = _embedded_photograph(file)
            one_channel = img.ndim == 2
        else:
            picture = read_picture(file)
            _tell(file, picture)
            img, one_channel = picture.eight_bits, picture.gray
        if not self.gray:
            return (np.stack([img] * 3, axis=-1) if img.ndim == 2 else img), one_channel
        if one_channel:
            return (img if img.ndim == 2 else np.ascontiguousarray(img[..., 0])), True
        if self.as_luma:
            return luma(img, rounding="matlab").astype(np.uint8), False
        return _rgb2gray(img), False


_told: set[tuple[Path, str]] = set()  # folders and what was said of their files


def _tell(file: str, picture: Picture) -> None:
    """Warn of what was changed in reading a file, once for all files of its folder."""
    notes = list(picture.notes)
    notes += ["it was turned upright, as its EXIF orientation says"] * picture.turned
    notes += ["its transparency was left out"] * (picture.alpha is not None)
    notes += ["its 16 bits were rounded to 8"] * (picture.bits == 16)
    for note in notes:
        what = Path(file).parent, re.sub(r"\d+", "", note)  # other numbers are no other fact
        if what not in _told:
            _told.add(what)
            warnings.warn(f"{file}: {note} (said once for its folder)", stacklevel=2)


def belong(hr: np.ndarray, lr: np.ndarray) -> bool:
    """Whether two pictures, ``uint8`` ``(rH, rW[, 3])`` and ``(H, W[, 3])``, may show the same at two sizes.

    Their means over about 8x8 fields are compared, in which blur, noise, JPEG, a shift of some pixels, another
    brightness or contrast count for little. False for another picture, and for most that are turned, mirrored, negative
    or empty. A nearly plain picture may be any other.

    Example:
        >>> hr, lr = load("embedded", scale=4, limit=1)[0][2:0:-1]
        >>> belong(hr, lr), belong(hr, lr[::-1, ::-1])
        (True, False)
    """
    r = hr.shape[0] // lr.shape[0]
    step = max(1, min(lr.shape[:2]) // 64)  # of a large picture a field has pixels enough without most of them
    shrunk = np.zeros(lr[::step, ::step].shape, np.float32)
    for row, column in np.ndindex(r, r):
        shrunk += hr[row :: r * step, column :: r * step]
    a, b = _fields(lr[::step, ::step]), _fields(shrunk / r**2)
    alike = float((a * b).sum()) > 0.5 * float((a * a).sum() * (b * b).sum()) ** 0.5
    return alike or float(np.square(a - b).mean()) < 12**2


def _fields(img: np.ndarray) -> np.ndarray:
    """Means of some 8x8 fields of a picture, less the mean of them all."""
    side = max(1, min(img.shape[:2]) // 8)
    h, w = (n // side for n in img.shape[:2])
    means = img[: h * side, : w * side].reshape(h, side, w, -1).mean((1, 3), dtype=np.float32)
    return means - means.mean()


def _rgb2gray(rgb: np.ndarray) -> np.ndarray:
    """MATLAB's ``rgb2gray`` of ``uint8`` ``(H, W, 3)``, bit for bit: full range, rounded half up."""
    weights = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
    return np.floor(rgb @ weights + 0.5).astype(np.uint8)


def _embedded_photograph(name: str) -> np.ndarray:
    """A photograph from scikit-image or scikit-learn, ``uint8`` ``(H, W, 3)`` or ``(H, W)``. Needs no network."""
    if name in FROM_SCIKIT_LEARN:
        from sklearn.datasets import load_sample_image

        return np.array(load_sample_image(f"{name}.jpg"))
    from skimage import data

    return np.array(data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)())


@dataclass(eq=False, repr=False)
class ImageSet(Sequence[Pair]):
    """Images of one set at one scale, decoded when first asked for and then kept.

    A ``torch.utils.data.DataLoader`` takes it as it is: a batch is a :class:`Pair` of a list of names and ``uint8``
    tensors ``(N, H, W, 3)``. It needs a scale, and images of one size or ``batch_size=1``; ``batch_size=None`` gives
    each :class:`Pair` as it is. :class:`~nsrlib.data.Patches` are what networks are trained on.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> batch = next(iter(DataLoader(load("embedded", scale=4))))
        >>> batch.name, batch.lr.shape
        (('chelsea',), torch.Size([1, 75, 112, 3]))
    """

    name: str
    scale: int | None
    role: Role
    origin: str  # "NSRLIB_DATA", "cache", "download", "embedded" or "folder"; several are joined by "and"
    items: Sequence[_Item]
    skipped: Sequence[str] = ()  # names of files left out because they were broken (on_error="skip")
    lr: str = "unknown"  # how LR was made, see load

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSet: ...
    def __getitem__(self, index: int | slice) -> Pair | ImageSet:
        if isinstance(index, slice):  # shares the decoded images
            return replace(self, items=self.items[index])
        used.note("data", self._key, self._about)
        return self.items[index].pair

    @cached_property
    def _key(self) -> Hashable:
        """Tells this set from others."""
        return (self.name, self.scale, *((item.files, item.gray, item.as_luma) for item in self.items))

    def _about(self) -> tuple[str, str, Callable[[], str]]:
        """For :mod:`nsrlib.data.used`: name, origin, and a function that hashes without keeping these pictures."""
        title = f"{self.name} x{self.scale}" if self.scale else self.name
        title += " gray" if any(item.gray for item in self.items) else ""
        if (spec := SETS.get(self.name)) and spec.count != len(self):
            title += f", {len(self)} of {spec.count} images"
        again, hashed = replace(self, items=[replace(item) for item in self.items]), self._hashed
        return title, self.origin, lambda: hashed[0] if hashed else again.sha256

    @cached_property
    def _hashed(self) -> list[str]:
        """The hash, once it is known."""
        return []

    @property
    def names(self) -> list[str]:
        """Names of the images, without decoding them."""
        return [item.files.name for item in self.items]

    @cached_property
    def sha256(self) -> str:
        """Hash of the names, shapes and decoded HR pixels: the same for every origin and file format."""
        digest = hashlib.sha256()
        for pair in (item.pair for item in self.items):
            digest.update(f"{pair.name}{pair.hr.shape}".encode())
            digest.update(pair.hr.tobytes())
        self._hashed.append(digest.hexdigest())
        return self._hashed[0]

    def __repr__(self) -> str:
        scale = f" x{self.scale}" if self.scale else ""
        return f"ImageSet({self.name}{scale}, {len(self)} {self.role} images, origin {self.origin})"


def load(
    name: Name,
    scale: int | None = None,
    *,
    lr: str = "paper",
    gray: bool | None = None,
    download: bool = True,
    limit: int | None = None,
    include_contaminated: bool = False,
    on_error: Literal["raise", "skip"] = "raise",
) -> ImageSet:
    """Load a data set by name, or a folder of images by its path.

    HR is cropped (bottom and right) to a multiple of the scale. LR is made from it in one of these ways, between which
    the PSNR of bicubic upscaling differs by at most 0.003 dB:

    ================  ===================================================================================
    ``lr``            low-resolution image
    ================  ===================================================================================
    ``paper``         MATLAB's ``imresize`` in double precision, mirrored border, rounded once
    ``repeat``        old MATLAB on ``uint8``: border repeated, rounded between the passes; SelfExSR's files
    ``mirror``        newer MATLAB on ``uint8``: border mirrored, rounded between the passes; SwinIR's files
    ``files``         the set's own LR files (SelfExSR: x2, x3, x4; Urban100: x2, x4); one that does not look like
                      its HR image (:func:`belong`) is named by a warning when it is decoded
    ``files_mirror``  SwinIR's LR files of Set5 (x2, x3, x4, x8; its x8 is not rounded between the passes)
    ``luma``          planes, for networks that see no colour: HR is the Y of MATLAB's ``rgb2ycbcr``, LR made of it
                      over 255 as in ``paper``, ``float64``, neither rounded nor clipped
    ``luma_8bit``     the same, LR rounded once to ``uint8``
    ================  ===================================================================================

    Quirks that are taken care of: HR for x8 is the x4 file, cropped; all HR of Urban100 is its ``image_SRF_4``; the
    images of a SelfExSR set without a scale are those of x2, the least cropped.

    Args:
        name: see ``nsr data list``; case, ``-`` and ``_`` do not matter. Or a folder: SelfExSR's or BasicSR's layout
            and their kin (:func:`~nsrlib.data.catalogue.folder_files`), or images; they come as people count, img2
            before img10. Files that look like pictures and are in no format that is read are named by one warning.
        scale: 2, 3, 4 or 8; any whole number for embedded sets and folders. None or 1: no LR.
        lr: convention of the table above.
        gray: images as ``uint8`` ``(H, W)``, LR made from that. One channel stays as stored; colour becomes MATLAB's
            ``rgb2gray`` (0..255), for LIVE1 the Y of ``rgb2ycbcr`` (16..235) as the JPEG papers have it. Default: the
            set's own, :attr:`SetInfo.gray`. No matter where ``lr`` asks for planes of luma.
        download: whether the network may be used.
        limit: only the first so many images.
        include_contaminated: keep the two images of BSDS400 that are in Set5 and Set12, as published recipes do.
        on_error: for folders: ``skip`` decodes everything now and leaves out broken files with one warning.

    Raises:
        ValueError: an unknown name, scale, convention; a folder without images; later, when decoding, a broken file.
        DataUnavailable: the set is neither here nor to be downloaded.

    Example:
        >>> images = load("embedded", scale=4)
        >>> images
        ImageSet(embedded x4, 2 test images, origin embedded)
        >>> images[0].name, images[0].lr.shape, images[0].hr.shape
        ('chelsea', (75, 112, 3), (300, 448, 3))
    """
    if lr not in LR_CONVENTIONS:
        raise unknown("lr convention", str(lr), LR_CONVENTIONS)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit must be a positive whole number or None, got {limit!r}")
    if on_error not in ("raise", "skip"):
        raise unknown("on_error", str(on_error), ("raise", "skip"))
    if not str(name).strip():
        raise ValueError(f"name must be that of a data set or a folder, got {name!r}")
    key = key_of(name) if isinstance(name, str) else None
    if key is None:
        return _load_folder(name, scale, lr, bool(gray), limit, on_error)
    spec = SETS[key]
    ratio = check_scale(key, spec, scale, lr)
    if ratio == 1:
        lr = "paper"  # nothing to shrink, nothing to look for
    files, origin = locate(key, spec, ratio, lr, download, limit, include_contaminated)
    gray = spec.gray if gray is None else gray
    plane = lr in LUMA_LR
    items = [_Item(f, ratio, lr, gray or plane, spec.as_luma or plane, spec.kind == "embedded") for f in files]
    return ImageSet(key, scale, spec.role, origin, items, lr=lr)


def _load_folder(name: Name, scale: int | None, lr: str, gray: bool, limit: int | None, on_error: str) -> ImageSet:
    folder = Path(name).expanduser()
    if folder.is_file():
        raise ValueError(f"{name} is a file; give the folder that holds it")
    if not folder.is_dir():
        if isinstance(name, str) and not re.search(r"[/\\]", name):
            raise unknown("data set", name, [*SETS, "or the path of a folder with images"])
        raise ValueError(f"there is no folder {name}")
    ratio = check_scale(str(folder), None, scale, lr)
    if lr == "files_mirror":
        raise ValueError("lr='files_mirror' is for Set5; a folder's own LR files are lr='files'")
    files = folder_files(folder, ratio, lr if ratio > 1 else "paper", natural=True)
    unread = unread_in(hr_folder_of(folder, ratio)[0] or folder)
    left_out = f"{len(unread)} of its files are in formats that are not read, first {unread[0]}" if unread else ""
    if not files:
        read = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} has no images ({read}){'; ' if unread else ''}{left_out}")
    if unread:
        warnings.warn(f"{folder}: {left_out}", stacklevel=3)
    plane = lr in LUMA_LR and ratio > 1
    items = [_Item(file, ratio, lr, gray or plane, plane) for file in files]
    images = ImageSet(folder.resolve().name, scale, "test", "folder", items[:limit], lr=lr)
    if on_error == "raise":
        return images
    good: list[_Item] = []
    broken: dict[str, str] = {}  # file -> why
    for item in items:
        if len(good) == limit:
            break
        try:
            _ = item.pair
            good.append(item)
        except (ValueError, OSError) as error:
            broken[Path(item.files.hr).name] = str(error)
    if broken:
        first = next(iter(broken.values()))
        warnings.warn(f"{len(broken)} of {len(files)} images skipped, first: {first}", stacklevel=3)
        if not good:
            raise ValueError(f"{folder} has no image that can be read, first: {first}")
    return replace(images, items=good, skipped=tuple(broken))


def _listed(names: Name | Sequence[Name]) -> list[Name]:
    names = [names] if isinstance(names, str | os.PathLike) else list(names)
    if not names:
        raise ValueError("give at least one set")
    return names


def training_set(
    names: Name | Sequence[Name],
    scale: int | None = None,
    *,
    gray: bool | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> ImageSet:
    """Concatenate training sets (or folders), without images that are in a test set and without T91's duplicate.

    Published results trained on 291 or 400 images include them. Arguments as :func:`load`.

    Example:
        >>> training_set("embedded_gray_train", scale=2).names
        ['camera', 'brick', 'grass', 'gravel']
        >>> training_set("b100")
        Traceback (most recent call last):
        ValueError: do not train on b100: BSDS val, B100 and BSD68 are the same photographs; ...
    """
    names = _listed(names)
    for name in names:
        key = key_of(Path(name).name)  # a folder with the name of a test set is that test set
        if key in _BSDS_VAL_FAMILY:
            raise ValueError(
                f"do not train on {name}: BSDS val, B100 and BSD68 are the same photographs; "
                "'bsds400' has the train and test parts of BSDS500"
            )
        role = SETS[key].role if key else "train"
        if role != "train":
            allowed = ", ".join(k for k, spec in SETS.items() if spec.role == "train")
            raise ValueError(f"do not train on {name}: it is a {role} set; accepted: {allowed}, or a folder")
    sets = [load(name, scale, gray=gray, on_error=on_error) for name in names]
    items = [item for s in sets for item in s.items if (s.name, item.files.name) != ("t91", _DUPLICATE_IN_T91)]
    skipped = tuple(file for s in sets for file in s.skipped)
    name, origin = "+".join(s.name for s in sets), " and ".join(dict.fromkeys(s.origin for s in sets))
    return ImageSet(name, scale, "train", origin, items, skipped, sets[0].lr)


_ORIGIN_IN_WORDS = {
    "NSRLIB_DATA": "found in NSRLIB_DATA",
    "cache": "found in the cache",
    "download": "downloaded",
    "embedded": "embedded in scikit-image and scikit-learn",
    "folder": "from a folder",
}


def benchmark_or_embedded(
    names: Name | Sequence[Name], scale: int | None = None, *, limit: int | None = None
) -> tuple[list[ImageSet], str]:
    """The named sets that can be had, or the embedded one if none can, and a sentence that tells the reader which.

    Arguments as :func:`load`; the embedded images are gray if the first set named is. The sentence names no path.

    Example:
        >>> sets, sentence = benchmark_or_embedded(["embedded"], scale=4)
        >>> sentence
        'embedded: embedded in scikit-image and scikit-learn.'
    """
    names = _listed(names)
    sets: list[ImageSet] = []
    by_answer: dict[str, list[str]] = {}  # "found in NSRLIB_DATA" -> ["Set5", "Set14"]
    why = ""
    for name in names:
        key = key_of(name) if isinstance(name, str) else None
        title = SETS[key].title if key else Path(name).name
        try:
            sets.append(load(name, scale, limit=limit))
            answer = _ORIGIN_IN_WORDS.get(sets[-1].origin, f"from {sets[-1].origin}")
        except DataUnavailable as error:
            reasons = [(place, reason.split(":")[0]) for place, reason in error.looked.items()]
            brief = ", ".join(r if place == "download" else f"{place} {r}" for place, r in reasons)
            answer = f"not available ({brief})"
            why = why or brief
        by_answer.setdefault(answer, []).append(title)
    if sets:
        return sets, "; ".join(f"{_and(titles)}: {answer}" for answer, titles in by_answer.items()) + "."
    first = key_of(str(names[0]))
    embedded = load("embedded", scale, gray=first is not None and SETS[first].gray, limit=limit)
    count = "1 embedded image" if len(embedded) == 1 else f"{len(embedded)} embedded images"
    return [embedded], f"No benchmark data ({why}): running on {count}; cells that need the benchmark are skipped."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
