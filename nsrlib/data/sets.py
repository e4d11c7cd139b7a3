"""Data sets of images: benchmarks, training sets, folders, and photographs that are always at hand.

Named sets consist of the pinned files of :mod:`nsrlib.data.download`, looked for in ``NSRLIB_DATA``, in the per-user
cache and at their public addresses. The *embedded* sets, photographs inside scikit-image and scikit-learn, need none
of it.

Images are ``uint8`` RGB ``(H, W, 3)``, or ``(H, W)`` where ``gray=True``. Conventions and quirks are at :func:`load`.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from nsrlib.data.download import (
    DataUnavailable,
    DownloadPolicy,
    Source,
    cache_dir,
    fetch,
    find,
    forget_unreachable_hosts,
    local_roots,
    obtain,
    sha256_of,
    size_of,
    sources,
    unavailable,
    unknown,
    weights_path,
    why_not_here,
)
from nsrlib.images import imresize, luma, modcrop, read_image

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LR_CONVENTIONS",
    "DataUnavailable",
    "DownloadPolicy",
    "ImageSet",
    "Pair",
    "Source",
    "benchmark_or_embedded",
    "cache_dir",
    "fetch",
    "fetch_set",
    "list_sets",
    "load",
    "sources",
    "training_set",
    "verify",
    "weights_path",
]

Role = Literal["test", "validation", "train"]
Name = str | os.PathLike[str]

_SCALES = (2, 3, 4, 8)
_SELFEXSR_SCALES = (2, 3, 4)


@dataclass(frozen=True)
class _Set:
    """What nsrlib knows about a set before it sees any file."""

    title: str  # as papers write it
    folder: str  # in a data root
    role: Role
    count: int
    kind: Literal["selfexsr", "flat", "user", "embedded"] = "flat"  # layout, or "user": not pinned, in any layout
    gray: bool = False  # the default of load(gray=...)
    as_luma: bool = False  # gray means studio-range Y (MATLAB's rgb2ycbcr), not rgb2gray
    names: tuple[str, ...] = ()  # of the images; for embedded sets, how to load them too
    other_folders: tuple[str, ...] = ()  # what users call the folder
    how_to_get: str = ""  # what to do for a set that must not be redistributed


_SET5 = ("baby", "bird", "butterfly", "head", "woman")
_SET14 = (
    "baboon", "barbara", "bridge", "coastguard", "comic", "face", "flowers",
    "foreman", "lenna", "man", "monarch", "pepper", "ppt3", "zebra",
)  # fmt: skip

_CATALOGUE = {
    "set5": _Set("Set5", "Set5", "test", 5, "selfexsr", names=_SET5),
    "set14": _Set("Set14", "Set14", "test", 14, "selfexsr", names=_SET14),
    "b100": _Set("B100", "BSD100", "test", 100, "selfexsr", other_folders=("B100", "BSDS100")),
    "urban100": _Set("Urban100", "Urban100", "test", 100, "selfexsr"),
    "set12": _Set("Set12", "Set12", "test", 12, gray=True),
    "bsd68": _Set("BSD68", "BSD68", "test", 68, gray=True),
    "classic5": _Set("classic5", "classic5", "test", 5, gray=True),
    "live1": _Set("LIVE1", "LIVE1", "test", 29, gray=True, as_luma=True),
    "kodak24": _Set("Kodak24", "Kodak24", "test", 24),
    "mcmaster": _Set("McMaster", "McMaster", "test", 18),
    "bsds_val": _Set("BSDS val", "BSDS_val", "test", 100),
    "manga109": _Set(
        "Manga109", "Manga109", "test", 109, "user",
        how_to_get="its licence forbids redistribution; ask for it at http://www.manga109.org and put the 109 images "
        "into Manga109/HR in a folder of NSRLIB_DATA",
    ),
    "div2k_val": _Set(
        "DIV2K val", "DIV2K_valid", "validation", 100, "user",
        other_folders=("DIV2K_valid_HR", "DIV2K/DIV2K_valid_HR", "DIV2K_val"),
        how_to_get="no public copy with known hashes; get it from https://data.vision.ee.ethz.ch/cvl/DIV2K and put the "
        "100 images into DIV2K_valid_HR in a folder of NSRLIB_DATA",
    ),
    "div2k": _Set(
        "DIV2K", "DIV2K_train", "train", 800, "user",
        other_folders=("DIV2K_train_HR", "DIV2K/DIV2K_train_HR", "DIV2K"),
        how_to_get="no public copy with known hashes; get it from https://data.vision.ee.ethz.ch/cvl/DIV2K and put the "
        "800 images into DIV2K_train_HR in a folder of NSRLIB_DATA",
    ),
    "t91": _Set("T91", "T91", "train", 91),
    "bsds400": _Set("BSDS400", "BSDS400", "train", 400),
    "embedded": _Set("embedded", "", "test", 2, "embedded", names=("chelsea", "coffee")),
    "embedded_val": _Set("embedded validation", "", "validation", 1, "embedded", names=("flower",)),
    "embedded_train": _Set(
        "embedded training", "", "train", 4, "embedded", names=("astronaut", "motorcycle", "china", "rocket")
    ),
    "embedded_gray_train": _Set(
        "embedded gray training", "", "train", 4, "embedded", gray=True, names=("camera", "brick", "grass", "gravel")
    ),
}  # fmt: skip
_ALIASES = {"bsd100": "b100", "bsds100": "b100", "kodak": "kodak24"}

_TEST_IMAGES_IN_BSDS400 = {  # found by feature matching against all test sets
    "BSDS400/train/302003.jpg",  # Set5 woman
    "BSDS400/train/12003.jpg",  # Set12/04 is an exact crop
}
_DUPLICATE_IN_T91 = "t65"  # byte-identical to t36
_BSDS_VAL_FAMILY = ("b100", "bsd68", "bsds_val")
_FROM_SCIKIT_LEARN = ("china", "flower")


def _key(name: str) -> str | None:
    """The catalogue's spelling of a set's name, or None."""
    plain = re.sub(r"[-_ ]", "", name).lower()
    return ({key.replace("_", ""): key for key in _CATALOGUE} | _ALIASES).get(plain)


LR_CONVENTIONS = ("paper", "repeat", "mirror", "files", "files_mirror")
_IMRESIZE: dict[str, dict[str, Any]] = {
    "paper": {"border": "mirror", "round_between": False},
    "repeat": {"border": "repeat", "round_between": True},
    "mirror": {"border": "mirror", "round_between": True},
}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm"}


@dataclass(frozen=True, eq=False)
class Pair:
    """One image. The arrays are shared with the set that made them: do not write into them.

    Attributes:
        name: ``butterfly``, ``img_001``, ...
        lr: ``uint8`` low-resolution input, as many channels as ``hr``; None without a scale.
        hr: ``uint8`` RGB ``(H, W, 3)``, sides multiples of the scale; ``(H, W)`` where the set is loaded as gray.
        gray: the picture has one channel, in its file or in ``hr``. MATLAB leaves such a luma at 0..255.
    """

    name: str
    lr: np.ndarray | None
    hr: np.ndarray
    gray: bool = False


class _Files(NamedTuple):
    """Where an image lies: paths in the manifest or on this machine, or the name of an embedded photograph."""

    name: str
    hr: str
    lr: str | None = None


@dataclass
class _Item:
    """An image that is not decoded yet."""

    files: _Files
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
                raise ValueError(
                    f"{lr_file} of {lr.shape[0]}x{lr.shape[1]} does not belong to {hr_file} of "
                    f"{hr.shape[0]}x{hr.shape[1]} at scale {self.scale}"
                )
            hr = hr[:h, :w]
        elif self.scale > 1:
            lr = imresize(hr, 1 / self.scale, **_IMRESIZE[self.convention])
        return Pair(name, lr, np.ascontiguousarray(hr), one_channel or self.gray)

    def _read(self, file: str) -> tuple[np.ndarray, bool]:
        """The picture, and whether it is stored with a single channel."""
        if self.embedded:
            img = _embedded_photograph(file)
            one_channel = img.ndim == 2
        else:
            from PIL import Image

            img = read_image(file)
            with Image.open(file) as header:
                one_channel = header.mode in ("1", "L") or header.mode.startswith("I")
        if not self.gray:
            return (np.stack([img] * 3, axis=-1) if img.ndim == 2 else img), one_channel
        if one_channel:
            return (img if img.ndim == 2 else np.ascontiguousarray(img[..., 0])), True
        if self.as_luma:
            return luma(img, rounding="matlab").astype(np.uint8), False
        return _rgb2gray(img), False


def _rgb2gray(rgb: np.ndarray) -> np.ndarray:
    """MATLAB's ``rgb2gray`` of ``uint8`` ``(H, W, 3)``, bit for bit: full range, rounded half up."""
    weights = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
    return np.floor(rgb @ weights + 0.5).astype(np.uint8)


def _embedded_photograph(name: str) -> np.ndarray:
    """A photograph from scikit-image or scikit-learn, ``uint8`` ``(H, W, 3)`` or ``(H, W)``. Needs no network."""
    if name in _FROM_SCIKIT_LEARN:
        from sklearn.datasets import load_sample_image

        return np.array(load_sample_image(f"{name}.jpg"))
    from skimage import data

    return np.array(data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)())


class ImageSet(Sequence[Pair]):
    """Images of one set at one scale, decoded when first asked for and then kept.

    Attributes:
        name, scale, role: as asked for; role is ``test``, ``validation`` or ``train``.
        origin: ``NSRLIB_DATA``, ``cache``, ``download``, ``embedded`` or ``folder``; several are joined by "and".
        skipped: names of files left out because they were broken (``on_error="skip"``).
    """

    def __init__(
        self,
        name: str,
        scale: int | None,
        role: Role,
        origin: str,
        items: Sequence[_Item],
        skipped: Sequence[str] = (),
    ):
        self.name, self.scale, self.role, self.origin = name, scale, role, origin
        self.skipped = tuple(skipped)
        self._items = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSet: ...
    def __getitem__(self, index: int | slice) -> Pair | ImageSet:
        if isinstance(index, slice):  # shares the decoded images
            return ImageSet(self.name, self.scale, self.role, self.origin, self._items[index], self.skipped)
        return self._items[index].pair

    @property
    def names(self) -> list[str]:
        """Names of the images, without decoding them."""
        return [item.files.name for item in self._items]

    @cached_property
    def sha256(self) -> str:
        """Hash of the names, shapes and decoded HR pixels: the same for every origin and file format."""
        digest = hashlib.sha256()
        for pair in self:
            digest.update(f"{pair.name}{pair.hr.shape}".encode())
            digest.update(pair.hr.tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        scale = f" x{self.scale}" if self.scale else ""
        return f"ImageSet({self.name}{scale}, {len(self)} {self.role} images, origin {self.origin})"


def _selfexsr_scale(folder: str, scale: int) -> int:
    """Which ``image_SRF_*`` has the HR images for ``scale``."""
    if folder.lower() == "urban100":
        return 4  # image_SRF_2 holds half-size images
    return scale if scale in _SELFEXSR_SCALES else 4 if scale > 4 else 2


def _pinned_files(spec: _Set, scale: int, lr: str) -> list[_Files]:
    """The files of a set in the table of sources, with the LR files that ``lr`` asks for."""
    table = sources()
    if spec.kind == "flat":
        return [_Files(Path(path).stem, path) for path in table if path.startswith(f"{spec.folder}/")]
    srf = _selfexsr_scale(spec.folder, scale)
    files = []
    for path in table:
        if not (path.startswith(f"{spec.folder}/image_SRF_{srf}/") and path.endswith("_HR.png")):
            continue
        number = Path(path).name.split("_SRF_")[0]  # img_001
        bsds_id = re.search(r"BSDS id (\d+)", table[path].note)
        name = spec.names[int(number[4:]) - 1] if spec.names else bsds_id[1] if bsds_id else number
        lr_path = None
        if lr == "files_mirror":
            lr_path = f"Set5_LR_mirror/X{scale}/{name}x{scale}.png"
        elif lr == "files":
            # Urban100: the half-size "HR" of image_SRF_2 is the x2 LR
            lr_path = f"{spec.folder}/image_SRF_{scale}/{number}_SRF_{scale}_{'HR' if scale < srf else 'LR'}.png"
        files.append(_Files(name, path, lr_path))
    return files


def _subfolder(folder: Path, relative: str) -> Path | None:
    """``folder / relative`` if it is a folder, in any mixture of capitals."""
    for part in Path(relative).parts:
        if not folder.is_dir():
            return None
        match = [p for p in folder.iterdir() if p.name.lower() == part.lower() and p.is_dir()]
        if not match:
            return None
        folder = match[0]
    return folder


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES and p.name[0] != "." and p.is_file()
    )


def _folder_files(folder: Path, scale: int, lr: str, *, selfexsr: bool = True, flat: bool = True) -> list[_Files]:
    """Images of a user's folder: SelfExSR's layout, that of BasicSR, or just images. Empty if there are none.

    HR from ``image_SRF_<scale>``, ``HR``, ``original``, ``GT``, ``GTmod12`` or the folder itself, in this order (images
    cropped to multiples of 12 only if there are no whole ones); LR from ``LRbicx<scale>`` or ``LR_bicubic/X<scale>``.
    """
    srf = _selfexsr_scale(folder.name, scale)
    if scale == 1 and not _subfolder(folder, f"image_SRF_{srf}"):
        srf = 4
    if selfexsr and (hr_folder := _subfolder(folder, f"image_SRF_{srf}")):
        lr_end = f"_SRF_{scale}_{'HR' if scale < srf else 'LR'}"
        lr_folder = _subfolder(folder, f"image_SRF_{scale}")
        pairs = [(p.stem.removesuffix(f"_SRF_{srf}_HR"), p) for p in _images_in(hr_folder) if p.stem.endswith("_HR")]
        lr_of = {p.stem.removesuffix(lr_end): p for p in _images_in(lr_folder)} if lr_folder else {}
    else:
        subfolders = ("HR", "original", "GT", "GTmod12")
        candidates = [_subfolder(folder, name) for name in subfolders] + ([folder] if flat else [])
        hr_folder = next((c for c in candidates if c and _images_in(c)), None)
        pairs = [(p.stem, p) for p in _images_in(hr_folder)] if hr_folder else []
        lr_folders = [_subfolder(folder, name) for name in (f"LRbicx{scale}", f"LR_bicubic/X{scale}")]
        lr_folders.append(_subfolder(folder.parent, f"{folder.name.removesuffix('_HR')}_LR_bicubic/X{scale}"))
        lr_of = {p.stem.removesuffix(f"x{scale}"): p for f in lr_folders if f for p in _images_in(f)}
    if lr == "files" and (without := [name for name, _ in pairs if name not in lr_of]):
        raise ValueError(
            f"{folder} has no LR file at x{scale} for {len(without)} of {len(pairs)} images, first {without[0]}; "
            f"computed LR: lr={', '.join(map(repr, _IMRESIZE))}"
        )
    return [_Files(name, str(p), str(lr_of[name]) if lr == "files" else None) for name, p in pairs]


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
    ``files``         the set's own LR files (SelfExSR: x2, x3, x4; Urban100: x2, x4)
    ``files_mirror``  SwinIR's LR files of Set5 (x2, x3, x4, x8; its x8 is not rounded between the passes)
    ================  ===================================================================================

    Quirks that are taken care of: HR for x8 is the x4 file, cropped; all HR of Urban100 is its ``image_SRF_4``; the
    images of a SelfExSR set without a scale are those of x2, the least cropped.

    Args:
        name: see ``nsr data list``; case, ``-`` and ``_`` do not matter. Or a folder: SelfExSR's or BasicSR's layout,
            or images in order of their names (hidden and other files are ignored).
        scale: 2, 3, 4 or 8; any whole number for embedded sets and folders. None or 1: no LR.
        lr: convention of the table above.
        gray: images as ``uint8`` ``(H, W)``, LR made from that. One channel stays as stored; colour becomes MATLAB's
            ``rgb2gray`` (0..255), for LIVE1 the Y of ``rgb2ycbcr`` (16..235) as the JPEG papers have it. Default: True
            for Set12, BSD68, classic5, LIVE1 and ``embedded_gray_train``, False for all others.
        download: whether the network may be used.
        limit: only the first so many images.
        include_contaminated: keep the two images of BSDS400 that are in Set5 and Set12, as published recipes do.
        on_error: for folders: ``skip`` decodes everything now and leaves out broken files with one warning.

    Raises:
        ValueError: unknown name, scale, convention; a folder without images; later, when decoding, a broken file.
        DataUnavailable: the set is neither here nor to be downloaded.
    """
    _check_arguments(lr, limit, on_error)
    key = _key(name) if isinstance(name, str) else None
    if key is None:
        return _load_folder(_existing_folder(name), scale, lr, bool(gray), limit, on_error)
    spec = _CATALOGUE[key]
    ratio = _check_scale(key, spec, scale, lr)
    if ratio == 1:
        lr = "paper"  # nothing to shrink, nothing to look for
    files, origin = _locate(key, spec, ratio, lr, download, limit, include_contaminated)
    gray = spec.gray if gray is None else gray
    items = [_Item(f, ratio, lr, gray, spec.as_luma, spec.kind == "embedded") for f in files]
    return ImageSet(key, scale, spec.role, origin, items)


def _check_arguments(lr: str, limit: int | None, on_error: str) -> None:
    if lr not in LR_CONVENTIONS:
        raise unknown("lr convention", str(lr), LR_CONVENTIONS)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit must be a positive whole number or None, got {limit!r}")
    if on_error not in ("raise", "skip"):
        raise unknown("on_error", str(on_error), ("raise", "skip"))


def _existing_folder(name: Name) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ValueError(f"{name} is a file; give the folder that holds it")
    if isinstance(name, str) and not re.search(r"[/\\]", name):
        raise unknown("data set", name, [*_CATALOGUE, "or the path of a folder with images"])
    raise ValueError(f"there is no folder {name}")


def _check_scale(name: str, spec: _Set | None, scale: Any, lr: str) -> int:
    """The scale as a number (None becomes 1), checked against what the set offers (``spec`` None: a folder)."""
    whole = scale is None or (isinstance(scale, int | np.integer) and not isinstance(scale, bool))
    if spec is None or spec.kind == "embedded":
        if not whole or (scale is not None and scale < 1):
            raise ValueError(f"scale of {name} must be None or a whole number from 1 on, got {scale!r}")
    elif not whole or scale not in (None, 1, *_SCALES):
        raise ValueError(f"{name} has no scale {scale!r}; accepted: 2, 3, 4, 8, or None or 1 for images without LR")
    if scale in (None, 1):
        return 1
    if spec is not None and lr not in _IMRESIZE:
        offered = _scales_of_lr_files(name, spec, lr)
        if scale not in offered:
            have = f"LR files only at {', '.join(f'x{s}' for s in offered)}" if offered else "no LR files"
            computed = ", ".join(map(repr, _IMRESIZE))
            raise ValueError(f"{name} has {have} for lr={lr!r}; computed at any scale: {computed}")
    return int(scale)


def _scales_of_lr_files(key: str, spec: _Set, lr: str) -> tuple[int, ...]:
    if lr == "files_mirror":
        return _SCALES if key == "set5" else ()
    if key == "urban100":
        return (2, 4)
    # which ones a user has is seen when the folder is found
    return {"selfexsr": _SELFEXSR_SCALES, "user": _SCALES}.get(spec.kind, ())


def _locate(
    key: str, spec: _Set, scale: int, lr: str, download: bool, limit: int | None, include_contaminated: bool
) -> tuple[list[_Files], str]:
    """The files of a named set on this machine, and their origin."""
    if spec.kind == "embedded":
        names = spec.names[:limit]
        if any(name in _FROM_SCIKIT_LEARN for name in names):
            _require_scikit_learn(key)
        return [_Files(name, name) for name in names], "embedded"
    files = _pinned_files(spec, scale, lr)
    if not include_contaminated:
        files = [file for file in files if file.hr not in _TEST_IMAGES_IN_BSDS400]
    files, table = files[:limit], sources()
    wanted = [table[path] for file in files for path in (file.hr, file.lr) if path]
    found = find(wanted)
    if spec.kind == "user" or len(found) < len(wanted):
        notes: dict[str, str] = {}
        if lr != "files_mirror" and (copy := _find_copy(spec, scale, lr, notes)):
            copied, origin = copy
            return copied[:limit], origin
        if spec.kind == "user":
            what = f"{key}: no folder {spec.folder}/ with {spec.count} images"
            looked = why_not_here([]) | notes | {"download": "not offered"}
            raise unavailable(what, [f"{spec.folder}/"], looked, spec.how_to_get)
        where = f"where there is a network, or set NSRLIB_DATA to a folder that holds {spec.folder}/"
        advice = f"run 'nsr data fetch {key}' {where}"
        found = obtain(wanted, key, advice, download=download, notes=notes)
    located = [_Files(f.name, str(found[f.hr].path), str(found[f.lr].path) if f.lr else None) for f in files]
    return located, _join_origins(file.origin for file in found.values())


UNVERIFIED = "unverified copy"
"""Part of ``ImageSet.origin`` where a public set was found in a layout whose files have no known hash."""


def _find_copy(spec: _Set, scale: int, lr: str, notes: dict[str, str]) -> tuple[list[_Files], str] | None:
    """A copy in a common layout and its origin. Nobody knows its hashes: trusted if the number of images is right.

    ``notes`` gets, place by place, why a copy was not taken.
    """
    for origin, root in local_roots():
        for name in (spec.folder, *spec.other_folders):
            if folder := _subfolder(root, name):
                # Files at pinned places with other hashes are damaged, or another set of the same name: not trusted
                own = spec.kind == "user"
                try:
                    files = _folder_files(folder, scale, lr, selfexsr=own, flat=own or spec.kind == "selfexsr")
                except ValueError as error:
                    notes[origin] = f"incomplete: {error}"
                    continue
                if len(files) == spec.count:
                    return files, origin if own else f"{origin}, {UNVERIFIED}"
                if files:
                    notes[origin] = f"incomplete: {len(files)} of {spec.count} images in {folder}"
    return None


def _require_scikit_learn(key: str) -> None:
    from importlib.util import find_spec

    if find_spec("sklearn") is None:
        raise DataUnavailable(
            f"{key} needs a photograph that ships with scikit-learn, which is not installed; "
            "run 'pip install scikit-learn'",
            looked={"embedded": "no scikit-learn"},
        )


def _join_origins(origins: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(origins))


def _load_folder(folder: Path, scale: int | None, lr: str, gray: bool, limit: int | None, on_error: str) -> ImageSet:
    ratio = _check_scale(str(folder), None, scale, lr)
    if lr == "files_mirror":
        raise ValueError("lr='files_mirror' is for Set5; a folder's own LR files are lr='files'")
    files = _folder_files(folder, ratio, lr if ratio > 1 else "paper")
    if not files:
        raise ValueError(f"{folder} has no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    items = [_Item(file, ratio, lr, gray) for file in files]
    if on_error == "raise":
        return ImageSet(folder.resolve().name, scale, "test", "folder", items[:limit])
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
    return ImageSet(folder.resolve().name, scale, "test", "folder", good, tuple(broken))


def training_set(
    names: Name | Sequence[Name],
    scale: int | None = None,
    *,
    lr: str = "paper",
    gray: bool | None = None,
    download: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
) -> ImageSet:
    """Concatenate training sets (or folders), without images that are in a test set and without T91's duplicate.

    Left out: BSDS400 ``302003`` (Set5 woman) and ``12003`` (Set12/04), and T91 ``t65`` (= ``t36``). Published results
    trained on 291 or 400 images include them. Arguments as :func:`load`.

    Raises:
        ValueError: a test or validation set, BSDS val and its parts B100 and BSD68 above all.
        DataUnavailable: as :func:`load`.
    """
    names = [names] if isinstance(names, str | os.PathLike) else list(names)
    if not names:
        raise ValueError("give at least one training set")
    for name in names:
        key = _key(Path(name).name)  # a folder with the name of a test set is that test set
        if key in _BSDS_VAL_FAMILY:
            raise ValueError(
                f"do not train on {name}: BSDS val, B100 and BSD68 are the same photographs; "
                "'bsds400' has the train and test parts of BSDS500"
            )
        role = _CATALOGUE[key].role if key else "train"
        if role != "train":
            allowed = ", ".join(k for k, spec in _CATALOGUE.items() if spec.role == "train")
            raise ValueError(f"do not train on {name}: it is a {role} set; accepted: {allowed}, or a folder")
    sets = [load(name, scale, lr=lr, gray=gray, download=download, on_error=on_error) for name in names]
    items = [item for s in sets for item in s._items if (s.name, item.files.name) != ("t91", _DUPLICATE_IN_T91)]
    skipped = [file for s in sets for file in s.skipped]
    name, origin = "+".join(s.name for s in sets), _join_origins(s.origin for s in sets)
    return ImageSet(name, scale, "train", origin, items, skipped)


_ORIGIN_IN_WORDS = {
    "NSRLIB_DATA": "found in NSRLIB_DATA",
    "cache": "found in the cache",
    "download": "downloaded",
    "embedded": "embedded in scikit-image and scikit-learn",
    "folder": "from a folder",
}


def benchmark_or_embedded(
    names: Name | Sequence[Name],
    scale: int | None = None,
    *,
    lr: str = "paper",
    gray: bool | None = None,
    download: bool = True,
    limit: int | None = None,
) -> tuple[list[ImageSet], str]:
    """The named sets that can be had, or the embedded one if none can, and a sentence that tells the reader which.

    Arguments as :func:`load`; the embedded images are gray if the first set named is. The sentence names no path.

    Raises:
        ValueError: as :func:`load`; only missing data is forgiven.
    """
    names = [names] if isinstance(names, str | os.PathLike) else list(names)
    if not names:
        raise ValueError("give at least one set")
    sets: list[ImageSet] = []
    by_answer: dict[str, list[str]] = {}  # "found in NSRLIB_DATA" -> ["Set5", "Set14"]
    why = ""
    for name in names:
        key = _key(name) if isinstance(name, str) else None
        title = _CATALOGUE[key].title if key else Path(name).name
        try:
            sets.append(load(name, scale, lr=lr, gray=gray, download=download, limit=limit))
            answer = _ORIGIN_IN_WORDS.get(sets[-1].origin, f"from {sets[-1].origin}")
        except DataUnavailable as error:
            reasons = [(place, reason.split(":")[0]) for place, reason in error.looked.items()]
            brief = ", ".join(r if place == "download" else f"{place} {r}" for place, r in reasons)
            answer = f"not available ({brief})"
            why = why or brief
        by_answer.setdefault(answer, []).append(title)
    if sets:
        return sets, "; ".join(f"{_and(titles)}: {answer}" for answer, titles in by_answer.items()) + "."
    if gray is None:
        first = _key(str(names[0]))
        gray = first is not None and _CATALOGUE[first].gray
    lr = lr if lr in _IMRESIZE else "paper"
    embedded = load("embedded", scale, lr=lr, gray=gray, limit=limit)
    count = "1 embedded image" if len(embedded) == 1 else f"{len(embedded)} embedded images"
    return [embedded], f"No benchmark data ({why}): running on {count}; cells that need the benchmark are skipped."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _sources_of(key: str, scale: int | None = None) -> list[Source]:
    """Pinned files of a set (or of all ``weights``), of every scale or of one."""
    table = sources()
    if key == "weights":
        return [s for path, s in table.items() if path.startswith("weights/") and "DnCNN_mat" not in path]
    spec = _CATALOGUE[key]
    if spec.kind in ("embedded", "user"):
        return []
    if scale is not None and spec.kind == "selfexsr":
        files = _pinned_files(spec, scale, "files" if scale in _SELFEXSR_SCALES else "paper")
        paths = {path for file in files for path in (file.hr, file.lr) if path in table}
        return [table[path] for path in table if path in paths or path.startswith(f"{spec.folder}_LR_mirror/X{scale}/")]
    return [s for path, s in table.items() if path.split("/")[0] in (spec.folder, f"{spec.folder}_LR_mirror")]


def _set_or_weights(name: str) -> str:
    key = "weights" if name.lower() == "weights" else _key(name)
    if key is None:
        raise unknown("data set", name, [*_CATALOGUE, "weights"])
    return key


def fetch_set(name: str, scale: int | None = None, *, progress: bool = True) -> dict[str, Path]:
    """Bring all files of a set, or those of one scale, to this machine. ``weights`` means all published weights.

    Returns:
        path as in ``data/sources.csv`` -> file. Empty for an embedded set, which is always at hand.

    Raises:
        ValueError: unknown name or scale.
        DataUnavailable: files that could not be had, or a set whose licence forbids redistribution.
    """
    key = _set_or_weights(name)
    if key != "weights":
        spec = _CATALOGUE[key]
        _check_scale(key, spec, scale, "paper")
        if spec.kind == "user":
            raise DataUnavailable(f"{key}: {spec.how_to_get}", looked={"download": "not offered"})
        scale = None if scale == 1 else scale
    forget_unreachable_hosts()
    wanted = _sources_of(key, scale)
    advice = "run the same command again; what has arrived is kept"
    found = obtain(wanted, key, advice, progress=progress)
    return {source.path: found[source.path].path for source in wanted}


def list_sets() -> pd.DataFrame:
    """Every set: name, role, images, scales, megabytes, licence, and where it is.

    ``where`` is ``NSRLIB_DATA``, ``cache`` or both (sizes are checked, contents are not), ``embedded``, ``download``
    (some files are not here yet) or, for sets that only the user can get, ``user``.
    """
    import pandas as pd

    rows = []
    for key, spec in [*_CATALOGUE.items(), ("weights", None)]:
        files = _sources_of(key)
        rows.append(
            {
                "name": key,
                "role": spec.role if spec else "weights",
                "images": spec.count if spec else 0,
                "scales": "" if spec is None else "any" if spec.kind == "embedded" else "2, 3, 4, 8",
                "megabytes": round(sum(source.bytes for source in files) / 1e6, 1),
                "licence": _licence(spec, files),
                "where": _whereabouts(spec, files),
            }
        )
    return pd.DataFrame(rows)


def _whereabouts(spec: _Set | None, files: list[Source]) -> str:
    if spec and spec.kind == "embedded":
        return "embedded"
    roots = local_roots()
    origins = [
        {origin for origin, root in roots if (size := size_of(root / s.path)) and size == (s.bytes or size)}
        for s in files
    ]
    if origins and all(origins):
        everywhere = set.intersection(*origins)
        return next((place for place in ("NSRLIB_DATA", "cache") if place in everywhere), "NSRLIB_DATA and cache")
    if spec and (copy := _find_copy(spec, 1, "paper", {})):
        return copy[1]
    return "user" if spec and spec.kind == "user" else "download"


def _licence(spec: _Set | None, files: list[Source]) -> str:
    if spec and spec.kind == "embedded":
        if any(name in _FROM_SCIKIT_LEARN for name in spec.names):
            return "public domain or CC0; china, flower: CC BY 2.0; motorcycle: Middlebury, none stated"
        return "public domain or CC0"
    return files[0].licence if files else "ask its makers; redistribution not allowed or not settled"


def verify(name: str | None = None) -> pd.DataFrame:
    """Hash every pinned file of a set (None: of all sets and weights) that is on this machine.

    Returns:
        columns ``set``, ``path``, ``where`` and ``status``: ``ok``, ``damaged``, ``missing``, or ``unverified``: here,
        but no hash is known. A file that lies in several places has a row for each.
    """
    import pandas as pd

    keys = [_set_or_weights(name)] if name else [*_CATALOGUE, "weights"]
    roots, rows = local_roots(), []
    for key in keys:
        for source in _sources_of(key):
            places = [(origin, root / source.path) for origin, root in roots if os.path.isfile(root / source.path)]
            for origin, path in places:
                try:
                    same = sha256_of(path, again=True) == source.sha256
                    status = "unverified" if not source.verified else "ok" if same else "damaged"
                except OSError:
                    status = "damaged"
                rows.append((key, source.path, origin, status))
            if not places:
                rows.append((key, source.path, "", "missing"))
    return pd.DataFrame(rows, columns=["set", "path", "where", "status"])
