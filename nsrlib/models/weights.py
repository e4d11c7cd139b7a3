"""Files of weights: read without running code from them, loaded only if they fit, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nsrlib import data
from nsrlib.data.download import sha256_of
from nsrlib.files import ROOT
from nsrlib.models import matlab
from nsrlib.models.checkpoints import Checkpoint, Claim, Unsound, Unusual, UnusualTensor, shown

WEIGHTS_DIR = ROOT / "data" / "weights"
"""Small weights trained with this library, ``<model>_x<scale>.safetensors``."""

CONTAINERS = (
    "params_ema", "ema", "params", "state_dict", "model_state_dict", "net_g", "generator", "model",
)  # fmt: skip
"""Where checkpoints keep a network beside other things; the first that is there, so averaged weights before others."""

_OTHERS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: run 'git lfs pull', or download it again",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"\xfd7zXZ": "is compressed with xz: unpack it first",
    b"7z\xbc\xaf": "is a 7-Zip archive: unpack it first",
    b"\x89HDF": "is an HDF5 file, as Keras writes them; only weights of PyTorch are read",
    b"MATLAB 7.3": "is an HDF5 file of MATLAB's; save it with -v7",
    b"GGUF": "is a GGUF file; only weights of PyTorch are read",
}


class Misfit(ValueError):
    """Names or shapes of the tensors are not the network's."""


def _kind(path: Path) -> str:
    """``safetensors``, ``torch`` or ``matlab``, by the first bytes. ValueError: something else, and what it is."""
    if not path.is_file():
        raise FileNotFoundError(f"no such weights file: {path}")
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:  # the longest header that is allowed
        return "safetensors"
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return "torch"
    if head.startswith(matlab.BEGIN):
        return "matlab"
    if not head:
        why = "is empty: copy or download it again"
    elif other := next((words for begin, words in _OTHERS.items() if head.startswith(begin)), ""):
        why = other
    elif text.startswith((b"<!doctype html", b"<html")):
        why = "is a web page: download the file from its direct address"
    elif head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b"\x3a"):
        why = "is an ONNX model; only weights of PyTorch are read"
    elif head[257:262] == b"ustar":
        why = "is a tar archive: unpack it first"
    elif all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        why = f"is a text, which begins {shown(head.decode().split(chr(10))[0])!r}, and no weights"
    else:
        why = "is damaged or not a PyTorch checkpoint"
    raise ValueError(f"{path.name} {why}")


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a ``.safetensors`` file says about itself: paper, recipe, data, seed, ...

    Raises:
        FileNotFoundError, ValueError: no such file; damaged, or no safetensors file.

    Example:
        >>> read_metadata(WEIGHTS_DIR / "bsrn_x2.safetensors")["seed"]
        '0'
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such weights file: {path}")
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{Path(path).name} is not a valid safetensors file: {shown(str(error))}") from error


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """Which network a file of weights belongs to, as far as it says so itself.

    Returns:
        ``model`` (a name), ``scale`` (a whole number), ``config`` (options of the network by name), as ``nsr train``
        writes them; empty for a file that is silent, as PyTorch's own are.

    Raises:
        FileNotFoundError, ValueError: no such file, no file of weights, or one whose words make no sense.

    Example:
        >>> describe(WEIGHTS_DIR / "bsrn_x2.safetensors")
        {'model': 'bsrn', 'scale': 2, 'config': {'num_feats': 24, 'num_blocks': 4}}
    """
    path = Path(path)
    if _kind(path) != "safetensors":
        return {}
    said, about = read_metadata(path), dict[str, Any]()
    readers: dict[str, tuple[Callable[[str], Any], type]] = {
        "model": (str, str), "scale": (int, int), "config": (json.loads, dict),
    }  # fmt: skip
    for name, (read, kind) in readers.items():
        if name in said:
            with suppress(ValueError, RecursionError):
                about[name] = read(said[name])
            if not isinstance(about.get(name), kind):
                raise ValueError(f"{path.name} says {name}={shown(said[name])!r}, which is no {name} of a network")
    return about


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors``, ``.pth`` or ``.mat`` file by name, on the CPU, without running code from the file.

    What kind of file it is, its first bytes say. PyTorch's files may keep the tensors in one of :data:`CONTAINERS`, or
    in the only mapping of tensors that they hold; numbers and texts beside the tensors are passed over. Of MATLAB's
    files those of VDSR's and SRCNN's authors are known (:func:`nsrlib.models.matlab.named`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, not a checkpoint (it says what it is), a pickle that would run code, or one that claims
            more than the file has (refused); tensors that are sparse, quantised, nested or without values.
        MemoryError: the tensors do not fit into memory.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        return _READERS[kind](path)
    except MemoryError:
        raise MemoryError(f"not enough memory to read {path.name}") from None
    except Unsound as error:
        raise ValueError(f"{path.name} {error}") from error
    except Exception as error:  # arbitrary bytes raise nearly anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        if "allocate memory" in str(error):
            raise MemoryError(f"not enough memory to read {path.name}") from None
        what = "a file of MATLAB's" if kind == "matlab" else "a PyTorch checkpoint"
        raise ValueError(f"{path.name} is damaged or not {what}") from error


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise Unsound(f"is not a valid safetensors file: {shown(str(error))}") from error


def _of_torch(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        checkpoint = Checkpoint(file)
        tensors = _network(checkpoint.content)
        for name, value in tensors.items():
            if not isinstance(name, str):
                kind = name.what if isinstance(name, Unusual) else type(name).__name__
                raise Unsound(f"holds no state dict (tensors by name): one of its keys is a {kind}")
            if isinstance(value, UnusualTensor):
                raise Unsound(f"is refused: {shown(name)} is {value.what}")
        return {str(name): checkpoint.tensor(claim) for name, claim in tensors.items()}


def _of_matlab(path: Path) -> dict[str, Tensor]:
    return matlab.named(matlab.read_variables(path))


_READERS = {"safetensors": _of_safetensors, "torch": _of_torch, "matlab": _of_matlab}


def _network(content: Any) -> dict[Any, Any]:
    """The mapping of tensors within a checkpoint, with what is no tensor left out."""
    for _ in range(8):
        if not isinstance(content, dict):
            break
        within = {key: value for key, value in content.items() if isinstance(value, dict) and _tensors_within(value)}
        chosen = next((within[key] for key in CONTAINERS if key in within), None)
        if chosen is None and not _tensors(content):
            near = {key: value for key, value in within.items() if _tensors(value)} or within
            if len(near) > 1:
                names = ", ".join(shown(str(key) if isinstance(key, int | float) else key) for key in near)
                raise Unsound(f"holds {len(near)} mappings of tensors ({names}): save the network's on its own")
            chosen = next(iter(near.values()), None)
        if chosen is None:
            break
        content = chosen
    if not isinstance(content, dict) or not _tensors(content):
        raise Unsound("holds no state dict (tensors by name)")
    return _tensors(content)


def _tensors(mapping: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in mapping.items() if isinstance(value, Claim | UnusualTensor)}


def _tensors_within(mapping: dict[Any, Any]) -> bool:
    """Whether there are tensors anywhere in it; each mapping is looked into once, as it may occur many times."""
    open_, seen = [mapping], {id(mapping)}
    while open_:
        for value in open_.pop().values():
            if isinstance(value, Claim | UnusualTensor):
                return True
            if isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                open_.append(value)
    return False


def load_weights(model: nn.Module, path: str | os.PathLike, strict: bool = True) -> nn.Module:
    """Load a ``.pth``, ``.safetensors`` or ``.mat`` file into ``model`` and return it. Untrusted files are safe.

    A prefix that all names of the file share (``module.``, ``_orig_mod.``, ``net.``, ...) is left out where they fit
    without it.

    Args:
        strict: every name and shape must match; otherwise only those that do are taken.

    Raises:
        FileNotFoundError, ValueError, MemoryError: as :func:`read_state_dict` and :func:`fill`; the model is unchanged.

    Example:
        >>> load_weights(nn.Conv2d(3, 3, 1), WEIGHTS_DIR / "bsrn_x2.safetensors")
        Traceback (most recent call last):
        nsrlib.models.weights.Misfit: bsrn_x2.safetensors does not fit Conv2d: 2 missing (first bias); ... (first ...)
    """
    fill(model, read_state_dict(path), Path(path).name, strict)
    note_weights(path)
    return model


def fill(model: nn.Module, given: Mapping[str, Tensor], source: str, strict: bool = True) -> None:
    """Copy tensors by name into ``model``, all or none: everything is checked before the first copy.

    Args:
        given: dense tensors of any floating-point type; numbers that count (BatchNorm's) may be whole.
        source: where they are from, for messages.
        strict: as in :func:`load_weights`.

    Raises:
        Misfit: names or shapes differ (with ``strict``), or nothing matches.
        ValueError: whole or complex numbers where the network has fractions; NaN or infinite values.
    """
    wanted = model.state_dict()
    usable = fitting(wanted, given, f"{source} does not fit {type(model).__name__}", strict)
    for name, value in usable.items():
        if why := _why_not(value, wanted[name]):
            raise ValueError(f"{source}: {shown(name)} holds {why}")
    model.load_state_dict(usable, strict=strict)


def fitting(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], complaint: str, strict: bool = True
) -> dict[str, Tensor]:
    """Those of ``given`` that have names and shapes of ``wanted``; a :class:`Misfit` begins with ``complaint``."""
    given = _without_prefix(wanted, given)
    missing = sorted(wanted.keys() - given.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape)
    usable = {k: v for k, v in given.items() if k in wanted and k not in misshapen}
    if (strict and (missing or unexpected or misshapen)) or not usable:
        parts = [f"{len(missing)} missing (first {missing[0]})"] if missing else []
        parts += [f"{len(unexpected)} unexpected (first {shown(unexpected[0])})"] if unexpected else []
        for k in misshapen[:1]:
            shapes = f"file {tuple(given[k].shape)}, model {tuple(wanted[k].shape)}"
            parts.append(f"{len(misshapen)} of another shape ({k}: {shapes})")
        raise Misfit(f"{complaint}: {'; '.join(parts)}")
    return usable


def _without_prefix(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``given`` without the part that all its names begin with, where more of them are wanted without it."""
    if "n_averaged" not in wanted:  # torch.optim.swa_utils.AveragedModel counts beside "module."
        given = {name: value for name, value in given.items() if name != "n_averaged"}
    first, last = min(given, default="")[:99], max(given, default="")  # what these two begin with, all do
    heads = [first[:at] for at in range(len(first) + 1) if first[at - 1 : at] in ("", ".") and last[:at] == first[:at]]
    best = max(heads, key=lambda head: sum(name[len(head) :] in wanted for name in given))
    return {name[len(best) :]: value for name, value in given.items()}


def _why_not(value: Tensor, place: Tensor) -> str:
    """Why a tensor cannot take a place of the same shape; empty if it can."""
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_complex() or (place.is_floating_point() and not value.is_floating_point()):
        return f"values of type {kind} where the network has {str(place.dtype).removeprefix('torch.')}"
    if value.is_floating_point():
        cast = value.to(place.dtype if place.is_floating_point() else value.float().dtype)
        if bad := int((~cast.isfinite()).sum()):
            return f"{bad:,} of {cast.numel():,} values that are NaN or infinite"
    return ""


def note_weights(path: str | os.PathLike) -> None:
    """Tell :mod:`nsrlib.data.used` that the weights of a file are used: where the file is from, and its hash."""
    path = Path(path)
    source, origin = data.sources().get(f"weights/{path.name}"), "a file"
    if path.resolve().is_relative_to(WEIGHTS_DIR.resolve()):
        origin = "trained with this library"
    elif source is not None and source.sha256 in ("", sha256_of(path)):
        owner, repository, commit = source.url.split("/")[3:6]
        origin = f"{owner}/{repository}@{commit[:7]}" + ("" if source.verified else ", unverified")
    digest = sha256_of(path)
    data.used.note("weights", (path.name, digest), lambda: (path.name, origin, lambda: digest))
