"""Files of weights: read without running code from them, loaded only if they fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nsrlib import data
from nsrlib.data.download import sha256_of
from nsrlib.files import ROOT

WEIGHTS_DIR = ROOT / "data" / "weights"
"""Small weights trained with this library, ``<model>_x<scale>.safetensors``."""


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a ``.safetensors`` file says about itself: paper, recipe, data, seed, ...

    Example:
        >>> read_metadata(WEIGHTS_DIR / "bsrn_x2.safetensors")["seed"]
        '0'
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or ``.pth`` file by name, on the CPU, without running any code from the file.

    ``.pth`` files may nest the tensors under ``params_ema``, ``params``, ``state_dict`` or ``model``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, not a checkpoint, or a pickle that would run code (refused).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such weights file: {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path.name} is not a valid safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # arbitrary bytes make the unpickler raise nearly anything
        why = "is damaged or not a PyTorch checkpoint"
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in str(error) or "Trying to" in str(error)):
            why = "refused: it holds pickled objects other than tensors, which can run code"
        raise ValueError(f"{path.name} {why}") from error
    for key in ("params_ema", "params", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path.name} holds no state dict (tensors by name)")
    return dict(content)


def load_weights(model: nn.Module, path: str | os.PathLike, strict: bool = True) -> nn.Module:
    """Load a ``.pth`` or ``.safetensors`` file into ``model`` and return it. Untrusted files are safe to load.

    Args:
        strict: every name and shape must match; otherwise only those that do are taken.

    Raises:
        ValueError: names or shapes differ (with ``strict``), or nothing matches: the model is unchanged.

    Example:
        >>> load_weights(nn.Conv2d(3, 3, 1), WEIGHTS_DIR / "bsrn_x2.safetensors")
        Traceback (most recent call last):
        ValueError: bsrn_x2.safetensors does not fit Conv2d: 2 missing (first bias); ... unexpected (first ...)
    """
    given, wanted = read_state_dict(path), model.state_dict()
    missing = sorted(wanted.keys() - given.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape)
    usable = {k: v for k, v in given.items() if k in wanted and k not in misshapen}
    if (strict and (missing or unexpected or misshapen)) or not usable:
        parts = [f"{len(missing)} missing (first {missing[0]})"] if missing else []
        parts += [f"{len(unexpected)} unexpected (first {unexpected[0]})"] if unexpected else []
        for k in misshapen[:1]:
            shapes = f"file {tuple(given[k].shape)}, model {tuple(wanted[k].shape)}"
            parts.append(f"{len(misshapen)} of another shape ({k}: {shapes})")
        raise ValueError(f"{Path(path).name} does not fit {type(model).__name__}: {'; '.join(parts)}")
    model.load_state_dict(usable, strict=strict)
    note_weights(path)
    return model


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
