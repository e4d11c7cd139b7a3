"""What data sets there are, in which files and layouts they lie, and where they are on this machine."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nsrlib.data.download import (
    DataUnavailable,
    Source,
    find,
    forget,
    local_roots,
    obtain,
    size_of,
    sources,
    unavailable,
    unknown,
    why_not_here,
)
from nsrlib.files import sha256_of
from nsrlib.pictures import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["test", "validation", "train"]

_SCALES = (2, 3, 4, 8)
_SELFEXSR_SCALES = (2, 3, 4)


@dataclass(frozen=True)
class SetInfo:
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


def _div2k(title: str, folder: str, role: Role, count: int, *other_folders: str) -> SetInfo:
    how = (
        "no public copy with known hashes; get it from https://data.vision.ee.ethz.ch/cvl/DIV2K and put the "
        f"{count} images into {folder}_HR in a folder of NSRLIB_DATA"
    )
    folders = (f"{folder}_HR", f"DIV2K/{folder}_HR", *other_folders)
    return SetInfo(title, folder, role, count, "user", other_folders=folders, how_to_get=how)


_SET5 = ("baby", "bird", "butterfly", "head", "woman")
_SET14 = (
    "baboon", "barbara", "bridge", "coastguard", "comic", "face", "flowers",
    "foreman", "lenna", "man", "monarch", "pepper", "ppt3", "zebra",
)  # fmt: skip

SETS: dict[str, SetInfo] = {
    "set5": SetInfo("Set5", "Set5", "test", 5, "selfexsr", names=_SET5),
    "set14": SetInfo("Set14", "Set14", "test", 14, "selfexsr", names=_SET14),
    "b100": SetInfo("B100", "BSD100", "test", 100, "selfexsr", other_folders=("B100", "BSDS100")),
    "urban100": SetInfo("Urban100", "Urban100", "test", 100, "selfexsr"),
    "set12": SetInfo("Set12", "Set12", "test", 12, gray=True),
    "bsd68": SetInfo("BSD68", "BSD68", "test", 68, gray=True),
    "classic5": SetInfo("classic5", "classic5", "test", 5, gray=True),
    "live1": SetInfo("LIVE1", "LIVE1", "test", 29, gray=True, as_luma=True),
    "kodak24": SetInfo("Kodak24", "Kodak24", "test", 24),
    "mcmaster": SetInfo("McMaster", "McMaster", "test", 18),
    "bsds_val": SetInfo("BSDS val", "BSDS_val", "test", 100),
    "manga109": SetInfo(
        "Manga109", "Manga109", "test", 109, "user",
        how_to_get="its licence forbids redistribution; ask for it at http://www.manga109.org and put the 109 images "
        "into Manga109/HR in a folder of NSRLIB_DATA",
    ),
    "div2k_val": _div2k("DIV2K val", "DIV2K_valid", "validation", 100, "DIV2K_val"),
    "div2k": _div2k("DIV2K", "DIV2K_train", "train", 800, "DIV2K"),
    "t91": SetInfo("T91", "T91", "train", 91),
    "bsds400": SetInfo("BSDS400", "BSDS400", "train", 400),
    "embedded": SetInfo("embedded", "", "test", 2, "embedded", names=("chelsea", "coffee")),
    "embedded_val": SetInfo("embedded validation", "", "validation", 1, "embedded", names=("flower",)),
    "embedded_train": SetInfo(
        "embedded training", "", "train", 4, "embedded", names=("astronaut", "motorcycle", "china", "rocket")
    ),
    "embedded_gray_train": SetInfo(
        "embedded gray training", "", "train", 4, "embedded", gray=True, names=("camera", "brick", "grass", "gravel")
    ),
}  # fmt: skip
"""Every set that can be loaded by name."""

_ALIASES = {"bsd100": "b100", "bsds100": "b100", "kodak": "kodak24"}

_TEST_IMAGES_IN_BSDS400 = {  # found by feature matching against all test sets
    "BSDS400/train/302003.jpg",  # Set5 woman
    "BSDS400/train/12003.jpg",  # Set12/04 is an exact crop
}
FROM_SCIKIT_LEARN = ("china", "flower")


LUMA_LR = ("luma", "luma_8bit")
"""Conventions whose pairs are planes of luma, see :func:`nsrlib.data.load`."""
LR_CONVENTIONS = ("paper", "repeat", "mirror", *LUMA_LR, "files", "files_mirror")
COMPUTED_LR: dict[str, dict[str, Any]] = {
    "paper": {"border": "mirror", "round_between": False},
    "repeat": {"border": "repeat", "round_between": True},
    "mirror": {"border": "mirror", "round_between": True},
    "luma": {"border": "mirror", "round_between": False},
    "luma_8bit": {"border": "mirror", "round_between": False},
}
UNREAD_SUFFIXES = {
    *(
        ".avif",
        ".heic",
        ".heif",
        ".jxl",
        ".exr",
        ".hdr",
        ".psd",
        ".psb",
        ".xcf",
        ".svg",
        ".eps",
        ".dds",
        ".dib",
        ".ico",
    ),
    *(".icns", ".qoi", ".pcx", ".sgi", ".pfm", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf"),
    *(".rw2", ".pef"),
} - SUFFIXES
"""Files that look like pictures to their owner and are not read: a folder that holds some says so."""

HR_FOLDERS = ("HR", "original", "GT", "GTmod12")
MORE_HR_FOLDERS = ("HR/x{s}", "HQ", "trainH", "high", "target")
"""Where HR images lie in a user's folder; the second ones only where none lie in the folder itself."""

LR_FOLDERS = (
    *("LR_bicubic/X{s}", "LRbicx{s}", "LR/x{s}", "LR_x{s}", "LRx{s}", "LQ/x{s}", "LR_unknown/X{s}", "LR_mild/X{s}"),
    *("LR_bicubic", "LR_mild", "LR", "LQ", "trainL", "low", "input"),
)
"""Where LR images lie beside them; the first folder counts that has one for every HR image. ``{s}``: the scale."""

LR_ENDS = ("x{s}", "", "_x{s}", "-x{s}", "x{s}m", "_LR", "_LRx{s}", "_LR_x{s}", "_LQ")
"""What the name of an LR image has after that of its HR image, which may end in one of these:"""
HR_ENDS = ("_HR", "_GT", "_HQ")


def key_of(name: str) -> str | None:
    """The catalogue's spelling of a set's name, or None."""
    spellings = {key.replace("_", ""): key for key in SETS} | _ALIASES
    return spellings.get(re.sub(r"[-_ ]", "", name).lower())


def check_scale(name: str, spec: SetInfo | None, scale: Any, lr: str) -> int:
    """The scale as a number (None becomes 1), checked against what the set offers (``spec`` None: a folder)."""
    whole = scale is None or (isinstance(scale, int | np.integer) and not isinstance(scale, bool))
    if spec is None or spec.kind == "embedded":
        if not whole or (scale is not None and scale < 1):
            raise ValueError(f"scale of {name} must be None or a whole number from 1 on, got {scale!r}")
    elif not whole or scale not in (None, 1, *_SCALES):
        raise ValueError(f"{name} has no scale {scale!r}; accepted: 2, 3, 4, 8, or None or 1 for images without LR")
    if scale in (None, 1):
        return 1
    if spec is not None and lr not in COMPUTED_LR:
        offered = _scales_of_lr_files(name, spec, lr)
        if scale not in offered:
            have = f"LR files only at {', '.join(f'x{s}' for s in offered)}" if offered else "no LR files"
            computed = ", ".join(map(repr, COMPUTED_LR))
            raise ValueError(f"{name} has {have} for lr={lr!r}; computed at any scale: {computed}")
    return int(scale)


def _scales_of_lr_files(key: str, spec: SetInfo, lr: str) -> tuple[int, ...]:
    if lr == "files_mirror":
        return _SCALES if key == "set5" else ()
    if key == "urban100":
        return (2, 4)
    # which ones a user has is seen when the folder is found
    return {"selfexsr": _SELFEXSR_SCALES, "user": _SCALES}.get(spec.kind, ())


class ImageFiles(NamedTuple):
    """Where an image lies: paths in the manifest or on this machine, or the name of an embedded photograph."""

    name: str
    hr: str
    lr: str | None = None


def locate(
    key: str, spec: SetInfo, scale: int, lr: str, download: bool, limit: int | None, include_contaminated: bool
) -> tuple[list[ImageFiles], str]:
    """The files of a named set on this machine, and their origin."""
    if spec.kind == "embedded":
        names = spec.names[:limit]
        if set(names) & set(FROM_SCIKIT_LEARN) and importlib.util.find_spec("sklearn") is None:
            needs = f"{key} needs a photograph that ships with scikit-learn, which is not installed"
            raise DataUnavailable(f"{needs}; run 'pip install scikit-learn'", looked={"embedded": "no scikit-learn"})
        return [ImageFiles(name, name) for name in names], "embedded"
    files = _pinned_files(spec, scale, lr)
    files = [file for file in files if include_contaminated or file.hr not in _TEST_IMAGES_IN_BSDS400][:limit]
    table = sources()
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
        found = obtain(wanted, key, f"run 'nsr data fetch {key}' {where}", download=download, notes=notes)
    located = [ImageFiles(f.name, str(found[f.hr].path), str(found[f.lr].path) if f.lr else None) for f in files]
    return located, " and ".join(dict.fromkeys(file.origin for file in found.values()))


def _selfexsr_scale(folder: str, scale: int) -> int:
    """Which ``image_SRF_*`` has the HR images for ``scale``."""
    if folder.lower() == "urban100":
        return 4  # image_SRF_2 holds half-size images
    return scale if scale in _SELFEXSR_SCALES else 4 if scale > 4 else 2


def _pinned_files(spec: SetInfo, scale: int, lr: str) -> list[ImageFiles]:
    """The files of a set in the table of sources, with the LR files that ``lr`` asks for."""
    table = sources()
    if spec.kind == "flat":
        return [ImageFiles(Path(path).stem, path) for path in table if path.startswith(f"{spec.folder}/")]
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
        files.append(ImageFiles(name, path, lr_path))
    return files


UNVERIFIED = "unverified copy"
"""Part of ``ImageSet.origin`` where a public set was found in a layout whose files have no known hash."""


def _find_copy(spec: SetInfo, scale: int, lr: str, notes: dict[str, str]) -> tuple[list[ImageFiles], str] | None:
    """A copy in a common layout and its origin. Nobody knows its hashes: trusted if the number of images is right.

    ``notes`` gets, place by place, why a copy was not taken.
    """
    for origin, root in local_roots():
        for name in (spec.folder, *spec.other_folders):
            if folder := _subfolder(root, name):
                # Files at pinned places with other hashes are damaged, or another set of the same name: not trusted
                own = spec.kind == "user"
                try:
                    files = folder_files(folder, scale, lr, selfexsr=own, flat=own or spec.kind == "selfexsr")
                except ValueError as error:
                    notes[origin] = f"incomplete: {error}"
                    continue
                if len(files) == spec.count:
                    return files, origin if own else f"{origin}, {UNVERIFIED}"
                if files:
                    notes[origin] = f"incomplete: {len(files)} of {spec.count} images in {folder}"
    return None


def _subfolder(folder: Path, relative: str) -> Path | None:
    """``folder / relative`` if it is a folder, in any mixture of capitals."""
    for part in Path(relative).parts:
        inside = folder.iterdir() if folder.is_dir() else ()
        match = [p for p in inside if p.name.lower() == part.lower() and p.is_dir()]
        if not match:
            return None
        folder = match[0]
    return folder


def names_in(text: str, what: str = "data set") -> list[str]:
    """Names that stand in one text, separated by commas. The longest run of parts that is a folder here stays one name.

    Raises:
        ValueError: there is no name; ``what`` says of what.

    Example:
        >>> names_in("set5, set14,")
        ['set5', 'set14']
    """
    parts, found = text.split(","), []
    while parts:
        lengths = range(len(parts), 1, -1)
        taken = next((n for n in lengths if Path(",".join(parts[:n]).strip()).expanduser().is_dir()), 1)
        found.append(",".join(parts[:taken]).strip())
        parts = parts[taken:]
    if not any(found):
        raise ValueError(f"{text!r} names no {what}; write one or more, separated by commas")
    return [name for name in found if name]


def in_order(path: Path) -> tuple[str, str]:
    """Sorts names as people count: ``img2`` before ``img10``."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(40), path.name), path.name


def _files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file())


def _images_in(folder: Path) -> list[Path]:
    return _files_in(folder, SUFFIXES)


def unread_in(folder: Path) -> list[str]:
    """Names of files in a folder that look like pictures and are in none of the formats that are read."""
    return [path.name for path in sorted(_files_in(folder, UNREAD_SUFFIXES), key=in_order)]


def _subfolders(folder: Path, names: Iterable[str], scale: int) -> list[Path]:
    """Those of the named subfolders that hold images, in the order of the names."""
    found = [_subfolder(folder, name.format(s=scale)) for name in names]
    return [f for f in found if f and _images_in(f)]


def hr_folder_of(folder: Path, scale: int, *, selfexsr: bool = True, flat: bool = True) -> tuple[Path | None, int]:
    """Where the HR images of a user's folder lie, None if nowhere; and the number of its ``image_SRF_*``, else 0."""
    srf = _selfexsr_scale(folder.name, scale)
    if scale == 1 and not _subfolder(folder, f"image_SRF_{srf}"):
        srf = 4
    if selfexsr and (found := _subfolder(folder, f"image_SRF_{srf}")):
        return found, srf
    names = (*HR_FOLDERS, *([""] if flat else []), *MORE_HR_FOLDERS)
    return next(iter(_subfolders(folder, names, scale)), None), 0


def folder_files(
    folder: Path, scale: int, lr: str, *, selfexsr: bool = True, flat: bool = True, natural: bool = False
) -> list[ImageFiles]:
    """Images of a user's folder: SelfExSR's layout, that of BasicSR and its kin, or just images; empty if none.

    HR images from the first of :data:`HR_FOLDERS`, the folder itself and :data:`MORE_HR_FOLDERS` that has some (images
    cropped to multiples of 12 only if there are no whole ones); LR images from :data:`LR_FOLDERS`, there or beside a
    folder of HR images that was given itself, with the ends of :data:`LR_ENDS`. An image bears its file's name without
    suffix, and with it where two would have one name. ``natural``: in the order of :func:`in_order`, not of characters.

    Raises:
        ValueError: ``lr="files"``, and an image has no LR file, or several that might be it.
    """
    hr_folder, srf = hr_folder_of(folder, scale, selfexsr=selfexsr, flat=flat)
    images = _images_in(hr_folder) if hr_folder else []
    images = sorted(images, key=in_order) if natural else images
    if srf:
        images = [p for p in images if p.stem.endswith("_HR")]
        ends = [f"_SRF_{scale}_{'HR' if scale < srf else 'LR'}"]
        lr_folders = [f for f in [_subfolder(folder, f"image_SRF_{scale}")] if f]
    else:
        ends = [end.format(s=scale) for end in LR_ENDS]
        lr_folders = _lr_folders(folder, scale)
    stems = [p.stem.removesuffix(f"_SRF_{srf}_HR") for p in images]
    sharing = Counter(stems)
    names = [s if sharing[s] == 1 else p.name for s, p in zip(stems, images, strict=True)]
    if lr != "files":
        return [ImageFiles(name, str(p)) for name, p in zip(names, images, strict=True)]
    without = list(names)
    for lr_folder in lr_folders:
        files = _lr_files(stems, images, _images_in(lr_folder), ends)
        missing = [name for name, file in zip(names, files, strict=True) if file is None]
        if not missing:
            return [ImageFiles(n, str(p), str(f)) for n, p, f in zip(names, images, files, strict=True)]
        without = min(without, missing, key=len)
    if without:
        where = f"in {', '.join(f.name for f in lr_folders)}" if lr_folders else f"and no folder such as LRbicx{scale}"
        raise ValueError(
            f"{folder} has no LR file at x{scale} for {len(without)} of {len(images)} images, first {without[0]}, "
            f"{where}; computed LR: lr={', '.join(map(repr, COMPUTED_LR))}"
        )
    return []


def _lr_folders(folder: Path, scale: int) -> list[Path]:
    """Folders that may hold the LR images, in the order in which they are tried."""
    beside = folder.name.removesuffix("_HR")  # DIV2K_valid_LR_bicubic/X2 beside DIV2K_valid_HR
    found = _subfolders(folder.parent, (f"{beside}_{name}" for name in LR_FOLDERS), scale)
    found += _subfolders(folder, LR_FOLDERS, scale)
    if folder.name.lower() in {name.lower() for name in (*HR_FOLDERS, *MORE_HR_FOLDERS)}:
        found += _subfolders(folder.parent, LR_FOLDERS, scale)  # of trainH or HR itself
    return found


def _lr_files(
    stems: Sequence[str], images: Sequence[Path], files: Sequence[Path], ends: Sequence[str]
) -> list[Path | None]:
    """The LR file of each HR image, None where there is none.

    All images are looked for with the end that most of them have, then with the others. Of several files of one name
    that counts which has the suffix of the HR image; so it is where several HR images share the name.
    """
    found: dict[str, dict[str, list[Path]]] = {end: {} for end in ends}  # end -> name of the HR image -> LR files
    for end, file in itertools.product(ends, files):
        if file.stem.lower().endswith(end.lower()):
            found[end].setdefault(file.stem[: len(file.stem) - len(end)], []).append(file)
    keys = [[stem, *(stem[: -len(e)] for e in HR_ENDS if stem.lower().endswith(e.lower()))] for stem in stems]
    order = sorted(ends, key=lambda end: -sum(any(key in found[end] for key in some) for some in keys))
    sharing, taken = Counter(stems), set()
    result: list[Path | None] = []
    for image, stem, some in zip(images, stems, keys, strict=True):
        fitting = (_same_kind(image, found[end].get(key, []), sharing[stem]) for end in order for key in some)
        result.append(next((f for f in fitting if f and f not in taken), None))
        taken.add(result[-1])
    return result


def _same_kind(image: Path, files: Sequence[Path], sharing: int) -> Path | None:
    """Which of ``files`` belongs to an image whose name ``sharing`` images have."""
    if len(files) == 1 and sharing == 1:
        return files[0]
    same = [f for f in files if f.suffix.lower() == image.suffix.lower()]
    if len(same) != 1 and files:
        listed = ", ".join(f.name for f in files)
        raise ValueError(f"which LR file belongs to {image}: {listed}? Give it the suffix {image.suffix}")
    return same[0] if same else None


GROUPS = {"weights": "published weights", "figures": "pictures of results that authors published"}
"""Pinned files that are no data set."""


def _set_or_group(name: str) -> str:
    key = name.lower() if name.lower() in GROUPS else key_of(name)
    if key is None:
        raise unknown("data set", name, [*SETS, *GROUPS])
    return key


def _sources_of(key: str, scale: int | None = None) -> list[Source]:
    """Pinned files of a set or of one of :data:`GROUPS`; of a set all scales or one."""
    table = sources()
    if key == "figures":
        return [s for s in table.values() if s.role == "reference"]
    if key == "weights":
        return [s for path, s in table.items() if path.startswith("weights/") and "DnCNN_mat" not in path]
    spec = SETS[key]
    if spec.kind in ("embedded", "user"):
        return []
    if scale is not None and spec.kind == "selfexsr":
        files = _pinned_files(spec, scale, "files" if scale in _SELFEXSR_SCALES else "paper")
        paths = {path for file in files for path in (file.hr, file.lr) if path in table}
        return [table[path] for path in table if path in paths or path.startswith(f"{spec.folder}_LR_mirror/X{scale}/")]
    return [s for path, s in table.items() if path.split("/")[0] in (spec.folder, f"{spec.folder}_LR_mirror")]


def fetch_set(name: str, scale: int | None = None) -> dict[str, Path]:
    """Bring all files of a set, or those of one scale, to this machine; or of one of :data:`GROUPS`, as ``weights``.

    Returns path as in ``data/sources.csv`` -> file. DataUnavailable: some could not be had, or are not offered.
    """
    key = _set_or_group(name)
    if key in SETS:
        spec = SETS[key]
        check_scale(key, spec, scale, "paper")
        if spec.kind == "user":
            raise DataUnavailable(f"{key}: {spec.how_to_get}", looked={"download": "not offered"})
        scale = None if scale == 1 else scale
    forget()
    wanted = _sources_of(key, scale)
    found = obtain(wanted, key, "run the same command again; what has arrived is kept")
    return {source.path: found[source.path].path for source in wanted}


def list_sets() -> pd.DataFrame:
    """Every set: name, role, images, scales, megabytes, licence, and where it is.

    ``where`` is ``NSRLIB_DATA``, ``cache`` or both (sizes are checked, contents are not), ``embedded``, ``download``
    (some files are not here yet) or, for sets that only the user can get, ``user``.

    Example:
        >>> list_sets().set_index("name").loc["embedded", ["role", "where"]].tolist()
        ['test', 'embedded']
    """
    import pandas as pd

    rows = []
    for key, spec in [*SETS.items(), *((group, None) for group in GROUPS)]:
        files = _sources_of(key)
        role, images = (spec.role, spec.count) if spec else (key, 0)
        scales = "" if spec is None else "any" if spec.kind == "embedded" else "2, 3, 4, 8"
        megabytes = round(sum(source.bytes for source in files) / 1e6, 1)
        rows.append((key, role, images, scales, megabytes, _licence(spec, files), _whereabouts(spec, files)))
    return pd.DataFrame(rows, columns=["name", "role", "images", "scales", "megabytes", "licence", "where"])


def _whereabouts(spec: SetInfo | None, files: list[Source]) -> str:
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


def _licence(spec: SetInfo | None, files: list[Source]) -> str:
    if spec and spec.kind == "embedded":
        others = "; china, flower: CC BY 2.0; motorcycle: Middlebury, none stated"
        return "public domain or CC0" + (others if set(spec.names) & set(FROM_SCIKIT_LEARN) else "")
    terms = dict.fromkeys(file.licence for file in files)
    return "; ".join(terms) or "ask its makers; redistribution not allowed or not settled"


def verify(name: str | None = None) -> pd.DataFrame:
    """Hash every pinned file of a set (None: of all sets and groups) that is on this machine.

    ``status`` is ``ok``, ``damaged``, ``missing``, or ``unverified``: here, but no hash is known. A file that lies in
    several places has a row for each.
    """
    import pandas as pd

    keys = [*SETS, *GROUPS] if name is None else [_set_or_group(name)]
    roots, rows = local_roots(), []
    for key in keys:
        for source in _sources_of(key):
            places = [(origin, root / source.path) for origin, root in roots if os.path.isfile(root / source.path)]
            rows += [(key, source.path, origin, _status(path, source)) for origin, path in places]
            if not places:
                rows.append((key, source.path, "", "missing"))
    return pd.DataFrame(rows, columns=["set", "path", "where", "status"])


def _status(path: Path, source: Source) -> str:
    try:
        same = sha256_of(path) == source.sha256
    except OSError:
        return "damaged"
    return "unverified" if not source.verified else "ok" if same else "damaged"
