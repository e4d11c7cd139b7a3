"""MATLAB's files of weights (``save -v6`` and ``-v7``), read as data: nothing in a file is made but numbers.

A file is a row of elements, each a type, a length and so many bytes ("MAT-File Format", level 5, The MathWorks). Arrays
of numbers lie in it as they are, in cells and in structures; whatever else it holds (texts, functions, objects, sparse
arrays) is passed over. Elements may be compressed.

Two networks are known by how their files are made, see :func:`named`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsrlib.models.checkpoints import Unsound, shown

BEGIN = b"MATLAB 5.0 MAT-file"
LARGEST = 2**24
"""Most bytes of a file, and of what its compressed elements unpack to together; VDSR's file has 2.5 million, 2.7
million unpacked."""

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
"""How numbers are stored: in a smaller type than the array's own where that loses nothing."""
_CELL, _STRUCT, _COMPLEX = 1, 2, 0x800
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_LEVELS = 4  # a structure of cells of arrays has three


def read_variables(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file by name.

    Each is an array, a list (cells, down the columns first), a dictionary (a structure, by its fields), or None for
    anything else.

    Raises:
        Unsound: damaged, larger than :data:`LARGEST`, or not written on a PC or a Mac, little end first.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise Unsound(f"is refused: a MATLAB file of {size:,} bytes, at most {LARGEST:,} are read")
    raw = memoryview(path.read_bytes())
    if raw[124:128] != b"\x00\x01IM":
        raise _damaged("its header names another version or another order of bytes")
    variables, left = dict[str, Any](), LARGEST
    for kind, content in _elements(raw[128:]):
        if kind == _COMPRESSED:
            content = _unpacked(content, left)
            left -= len(content)
            kind, content = next(_elements(content), (0, content))
        name, value = _array(kind, content, 1)
        variables[name] = value
    return variables


def _damaged(why: str) -> Unsound:
    return Unsound(f"is a damaged MATLAB file: {why}")


def _unpacked(content: memoryview, most: int) -> memoryview:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(content, most + 1)
    except zlib.error:
        raise _damaged("what is compressed cannot be unpacked") from None
    if len(unpacked) > most:
        raise Unsound(f"is refused: a MATLAB file that unpacks to more than {LARGEST:,} bytes")
    if not stream.eof:
        raise _damaged("what is compressed ends too early")
    return memoryview(unpacked)


def _elements(raw: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of one element after the other."""
    at = 0
    while at < len(raw):
        if at + 8 > len(raw):
            raise _damaged("it ends within an element")
        kind, size = struct.unpack_from("<II", raw, at)
        start, room = at + 8, len(raw) - at - 8
        if kind >> 16:  # up to four bytes, where else the length stands
            kind, size, start, room = kind & 0xFFFF, kind >> 16, at + 4, 4
        if size > room:
            raise _damaged(f"an element of {size:,} bytes where there are {room:,}")
        yield kind, raw[start : start + size]
        at = start + size
        at += -at % 8 if kind != _COMPRESSED else 0


def _array(kind: int, raw: memoryview, level: int) -> tuple[str, Any]:
    """Name and value of an array of any class."""
    if kind != _MATRIX:
        raise _damaged(f"an element of type {kind} where an array is due")
    if not raw:
        return "", None  # an empty cell or field
    parts = _elements(raw)
    flags = int(_numbers(next(parts))[0])
    form = flags & 0xFF
    if flags & _COMPLEX or form not in (_CELL, _STRUCT, *_NUMBERS):
        return "", None
    shape, name = _numbers(next(parts)).tolist(), bytes(next(parts)[1]).decode("ascii")
    if not 2 <= len(shape) <= 8 or min(shape) < 0:
        raise _damaged(f"{shown(name)} has the shape {shown(str(shape))}")
    count = math.prod(shape)
    if form in _NUMBERS:
        values = _numbers(next(parts, (2, raw[:0])))
        if len(values) != count:
            raise _damaged(f"{shown(name)} claims {count:,} numbers where {len(values):,} are stored")
        return name, values.astype(_NUMBERS[form]).reshape(shape, order="F")
    if level == _LEVELS:
        raise Unsound(f"is refused: a MATLAB file of more than {_LEVELS} levels")
    fields = [""]
    if form == _STRUCT:
        width, names = int(_numbers(next(parts))[0]), bytes(next(parts)[1]).decode("ascii")
        if not 0 < width <= len(names) <= 4096:
            raise _damaged(f"the fields of {shown(name)} have no names")
        fields = [names[at : at + width].rstrip("\0") for at in range(0, len(names), width)]
    within = [_array(*part, level + 1)[1] for part in parts]
    if len(within) != count * len(fields):
        raise _damaged(f"{shown(name)} claims {count * len(fields):,} arrays where {len(within):,} are stored")
    if form == _CELL:
        return name, within
    return name, dict(zip(fields, within, strict=True)) if count == 1 else None


def _numbers(element: tuple[int, memoryview]) -> np.ndarray:
    kind, raw = element
    if kind not in _STORED:
        raise _damaged(f"numbers are stored as type {kind}")
    return np.frombuffer(raw, _STORED[kind])


def named(variables: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a network by this library's names, ``(out, in, row, column)``, from the variables of its file.

    * VDSR (Kim et al., CVPR 2016), by its authors: a structure ``model`` with cells ``weight``, ``(row, column, in,
      out)`` without the last axis where it is 1, and ``bias``, a layer each.
    * SRCNN (Dong et al., TPAMI 2016), by its authors: ``weights_conv1`` ``(pixel, out)``, ``weights_conv2`` ``(in,
      pixel, out)``, ``weights_conv3`` ``(in, pixel)`` and ``biases_conv1`` to ``3``. Pixels of a kernel are counted
      down its columns, the first column first.

    Both correlate, as PyTorch does: no kernel is turned.

    Raises:
        Unsound: another network's file, or one whose arrays do not make kernels.
    """
    model = variables.get("model")
    if isinstance(model, dict) and isinstance(model.get("weight"), list) and isinstance(model.get("bias"), list):
        return _vdsr(model["weight"], model["bias"])
    if variables.keys() >= _SRCNN:
        return _srcnn(variables)
    found = ", ".join(sorted(shown(name) for name in variables if name)) or "nothing"
    raise Unsound(f"is a MATLAB file of {shown(found)}; only VDSR's (model) and SRCNN's (weights_conv1, ...) are read")


_SRCNN = {f"{what}_conv{k}" for what in ("weights", "biases") for k in (1, 2, 3)}


def _vdsr(weights: list[Any], biases: list[Any]) -> dict[str, Tensor]:
    if len(weights) != len(biases) or len(weights) < 3:
        raise Unsound(f"is damaged: VDSR with {len(weights)} kernels and {len(biases)} biases")
    layers = ["head", *(f"body.{k}.0" for k in range(len(weights) - 2)), "tail"]
    tensors = dict[str, Tensor]()
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        kernel = _numbers_of(layer, weight)
        if kernel.ndim not in (3, 4):
            raise Unsound(f"is damaged: the kernels of VDSR's {layer} have the shape {kernel.shape}")
        kernel = kernel.reshape(*kernel.shape[:3], -1)
        tensors[f"{layer}.weight"] = _tensor(kernel.transpose(3, 2, 0, 1))
        tensors[f"{layer}.bias"] = _tensor(_numbers_of(layer, bias).ravel())
    return tensors


def _srcnn(variables: dict[str, Any]) -> dict[str, Tensor]:
    tensors = dict[str, Tensor]()
    for k, axes in enumerate(("po", "ipo", "ip"), 1):  # pixel, channel in, channel out
        kernel = _numbers_of(f"weights_conv{k}", variables[f"weights_conv{k}"])
        pixels = kernel.shape[axes.index("p")] if kernel.ndim == len(axes) else 0
        side = math.isqrt(pixels)
        if not pixels or side**2 != pixels:
            raise Unsound(f"is damaged: weights_conv{k} of SRCNN has the shape {kernel.shape}")
        shape = {"i": 1, "p": 1, "o": 1} | dict(zip(axes, kernel.shape, strict=True))
        kernel = kernel.reshape(shape["i"], side, side, shape["o"], order="F")
        tensors[f"conv{k}.weight"] = _tensor(kernel.transpose(3, 0, 1, 2))
        tensors[f"conv{k}.bias"] = _tensor(_numbers_of(f"biases_conv{k}", variables[f"biases_conv{k}"]).ravel())
    return tensors


def _numbers_of(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise Unsound(f"is damaged: {name} is no array of numbers")
    return value


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
