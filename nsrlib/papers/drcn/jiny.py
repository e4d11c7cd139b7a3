"""DRCN's checkpoint by jiny2001 (deeply-recursive-cnn-tf), read without TensorFlow and without running its code."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from nsrlib import data
from nsrlib.data.download import weights_path
from nsrlib.models import optimise
from nsrlib.models.drcn import LumaDRCN
from nsrlib.models.weights import fill, note_weights
from nsrlib.papers.drcn.studies import recursion_scores, scores_of

CHECKPOINT = "model_F96_D9_LR0.001000.ckpt"
FILES = (f"{CHECKPOINT}.index", f"{CHECKPOINT}.data-00000-of-00001")
"""The two files of the checkpoint in ``data/sources.csv``: x2, F = 96, D = 9."""


class Conditions(NamedTuple):
    """How the network is fed and scored, in words; ``lr`` of :func:`nsrlib.data.load`, empty for the README's chain."""

    input: str
    compared: str
    lr: str


CONDITIONS = {
    "A": Conditions("LR made of the rounded luma, rounded to 8 bit", "luma, rounded", "luma_8bit"),
    "B": Conditions("LR made of RGB, rounded to 8 bit", "luma of the rounded RGB, itself not rounded", "paper"),
    "C": Conditions("LR made of the rounded luma, not rounded", "luma, rounded", "luma"),
    "README": Conditions(
        "RGB shrunk and enlarged by Pillow, rounded to 8 bit both times, then luma with constants over 256",
        "that luma, cut to whole numbers", "",
    ),
}  # fmt: skip
"""The protocols under which the checkpoint is measured. B is that of :func:`nsrlib.evaluation.evaluate`. The numbers of
jiny2001's README belong to the last one alone."""

_LAYERS = {
    "embed0": ("W-1_conv/conv_W_1", "W-1_conv/conv_B"),
    "embed1": ("W0_conv/conv_W_1", "W0_conv/conv_B"),
    "recur.0": ("W_conv", "B"),
    "recon0.0": ("WD1_conv_1", "BD1"),
    "recon1.0": ("WD2_conv_1", "BD2"),
}


def scores(
    model: LumaDRCN, name: str, under: str = "B", *, limit: int | None = None, download: bool = True
) -> pd.DataFrame:
    """PSNR of the ensemble, of its plain mean and of every single recursion on a set, under one of :data:`CONDITIONS`.

    Args:
        name, limit, download: of :func:`nsrlib.data.load`.

    Returns:
        As :func:`~nsrlib.papers.drcn.studies.recursion_scores`; ``attrs["origin"]`` says where the images were found.

    Raises:
        KeyError: no such conditions. nsrlib.data.DataUnavailable: the set cannot be had.
    """
    how = CONDITIONS[under]
    images = data.load(name, model.scale, lr=how.lr or "paper", limit=limit, download=download)
    table = recursion_scores(model, images) if how.lr else _readme_scores(model, images)
    table.attrs["origin"] = images.origin
    return table


def in_short(found: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One line for each (set, conditions) of :func:`scores`: what is fed and compared, and four numbers in dB.

    Returns:
        Columns set, protocol, input, compared, ensemble, best single, d (which one that is), equal weights.
    """
    lines = []
    for (name, under), table in found.items():
        psnr = table["psnr"]
        single = psnr.drop(["ensemble", "equal weights"]).astype(float)
        words = {"set": name, "protocol": under, **CONDITIONS[under]._asdict()}
        best = {"best single": single.max(), "d": single.idxmax(), "equal weights": psnr["equal weights"]}
        lines.append(words | {"ensemble": psnr["ensemble"]} | best)
    columns = ["set", "protocol", "input", "compared", "ensemble", "best single", "d", "equal weights"]
    return pd.DataFrame(lines, columns=columns)


def _readme_scores(model: LumaDRCN, images: data.ImageSet) -> pd.DataFrame:
    """The chain of jiny2001's repository (1dff9ed): RGB at 8 bit is shrunk and enlarged, its luma is the input."""
    fast, r, rows = optimise(model), model.scale, []
    inner = np.s_[r:-r, r:-r]
    with torch.inference_mode():
        for pair in images:
            hr = pair.hr[..., 0] if pair.gray else pair.hr
            picture = Image.fromarray(hr)
            small = picture.resize((picture.width // r, picture.height // r), Image.Resampling.BICUBIC)
            x = _luma(np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC)))
            y, ys = fast(torch.from_numpy(x / 255)[None, None].float(), upscaled=True, every=True)
            true = np.trunc(_luma(hr))[inner]
            planes = [np.trunc(255 * p[0, 0].double().numpy())[inner] for p in (*ys, torch.stack(ys).mean(0), y)]
            rows.append([10 * math.log10(255**2 / np.square(plane - true).mean()) for plane in planes])
    return scores_of(model, rows)


def _luma(levels: np.ndarray) -> np.ndarray:
    """Its luma has the constants of BT.601 over 256 where MATLAB's has 255; one channel stays as it is."""
    if levels.ndim == 2:
        return levels.astype(np.float64)
    return levels @ np.array([65.481, 128.553, 24.966]) / 256 + 16 * 255 / 256


def load_model(path: str | os.PathLike | None = None, scale: int = 2) -> LumaDRCN:
    """The network of a checkpoint of jiny2001/deeply-recursive-cnn-tf, in evaluation mode; published for x2.

    That code works on luma 0..255 with a ReLU behind every layer, the last included, so that all biases divided by 255
    make the same network for [0, 1]. Its input luma has the constants over 256 where MATLAB's has 255.

    Args:
        path: as of :func:`read_checkpoint`; None: found or downloaded like all published weights.

    Raises:
        nsrlib.data.DataUnavailable: the checkpoint cannot be had.
        FileNotFoundError, ValueError: as :func:`read_checkpoint`; or other tensors than a DRCN's.
    """
    if path is None:
        path, _ = [weights_path(name) for name in FILES]
    wanted = {name for pair in _LAYERS.values() for name in pair} | {"LayerWeights"}
    tensors = read_checkpoint(path, wanted)
    name = Path(path).stem
    if missing := sorted(wanted - tensors.keys()):
        raise ValueError(f"{name} is no DRCN of jiny2001: it lacks {', '.join(missing)}")
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}
    f = shapes["W_conv"][-1] if shapes["W_conv"] else 0
    expected = {
        "W-1_conv/conv_W_1": (3, 3, 1, f), "W0_conv/conv_W_1": (3, 3, f, f), "W_conv": (3, 3, f, f),
        "WD1_conv_1": (3, 3, f, f), "WD2_conv_1": (3, 3, f + 1, 1), "W-1_conv/conv_B": (f,), "W0_conv/conv_B": (f,),
        "B": (f,), "BD1": (f,), "BD2": (1,),
    }  # fmt: skip
    wrong = [f"{key} {shapes[key]}, expected {shape}" for key, shape in expected.items() if shapes[key] != shape]
    wrong += [f"{key} has values that are not finite" for key, t in tensors.items() if not t.isfinite().all()]
    if wrong or len(shapes["LayerWeights"]) != 1:
        raise ValueError(f"{name} is no DRCN of jiny2001: {'; '.join(wrong) or 'LayerWeights is no vector'}")
    state = {"w": tensors["LayerWeights"]}
    for layer, (weight, bias) in _LAYERS.items():
        state[f"{layer}.weight"] = tensors[weight].permute(3, 2, 0, 1).contiguous()
        state[f"{layer}.bias"] = tensors[bias] / 255
    model = LumaDRCN(scale, f, state["w"].numel(), "concat", last_relu=True, normalize_weights=True)
    fill(model.net, state, name)
    for file in (Path(path), Path(path).with_suffix(".data-00000-of-00001")):
        note_weights(file)
    return model.eval()


def read_checkpoint(path: str | os.PathLike, names: Collection[str]) -> dict[str, Tensor]:
    """Float32 tensors of a TensorFlow checkpoint (V2, one data file), without TensorFlow and without running its code.

    Every length and offset is checked against the files, and every checksum that the format has is compared. Time and
    memory are bounded by the files: an index has at most 256 KiB, a data file 32 MiB, and no byte is read twice.

    Args:
        path: the ``.index`` file, beside the ``.data-00000-of-00001`` file.
        names: which, as far as they are there.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: truncated, damaged, too large, or something else.
    """
    files = [Path(path).with_suffix(end) for end in (".index", ".data-00000-of-00001")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no such checkpoint file: {file}")
    try:
        index, data = (_content(file, most) for file, most in zip(files, (_INDEX, _DATA), strict=True))
        wanted = {name.encode(): name for name in names}
        entries = {key: value for key, value in _table(index) if not key or key in wanted}
        header = _message(entries.pop(b"", b""))
        if header.get(1, [1]) != [1] or header.get(2, [0]) != [0]:
            raise _Damaged("it has several data files, or big-endian numbers")
        records = {wanted[key]: _message(value) for key, value in entries.items()}
        if sum(_size(record) for record in records.values()) > len(data):
            raise _Damaged("its tensors are together longer than the data file")
        return {name: _tensor(name, record, data) for name, record in records.items()}
    except _Damaged as error:
        raise ValueError(f"{files[0].stem} is damaged or no TensorFlow checkpoint: {error}") from None


_INDEX, _DATA = 2**18, 2**25
"""Most bytes of an index (that of jiny2001 has 1,255) and of a data file (3,011,564)."""
_RESTART = 16
"""Entries of a LevelDB block after which a key is written whole, so that all keys have at most 16 times its bytes."""


class _Damaged(Exception):
    pass


def _content(file: Path, most: int) -> bytes:
    if (size := file.stat().st_size) > most:
        raise _Damaged(f"{file.name} has {size} bytes, at most {most} are read")
    return file.read_bytes()


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(content) < 48 or content[-8:] != struct.pack("<Q", 0xDB4775248B80FB57):
        raise _Damaged("the index does not end as a table does")
    _, _, start, size = _varints(content[-48:-8], 4)  # where the blocks of filters and of blocks lie
    read = 0
    for _, value in _block(content, start, size):
        start, size = _varints(value, 2)
        read += size
        if read > len(content):
            raise _Damaged("the index has blocks that overlap")
        yield from _block(content, start, size)


def _varints(content: bytes, number: int) -> list[int]:
    found, at = [], 0
    for _ in range(number):
        value, at = _varint(content, at)
        found.append(value)
    return found


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = start + size
    if end + 5 > len(content) - 48 or size < 4:
        raise _Damaged(f"a block of {size} bytes at {start} lies outside the index")
    if content[end]:
        raise _Damaged("a block of the index is compressed")
    if masked_crc(content[start : end + 1]) != int.from_bytes(content[end + 1 : end + 5], "little"):
        raise _Damaged("a block of the index does not match its checksum")
    restarts = int.from_bytes(content[end - 4 : end], "little")
    block = content[start : max(start, end - 4 * (restarts + 1))]
    key, at, total = b"", 0, 0
    while at < len(block):
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > len(block):
            raise _Damaged("an entry of the index is longer than its block")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        total += len(key)
        if total > _RESTART * size:
            raise _Damaged("the keys of the index are too long for its size")
        yield key, block[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(10):
        if at >= len(content):
            break
        byte, at = content[at], at + 1
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at
    raise _Damaged("a number of the index has no end")


def _message(content: bytes) -> dict[int, list[Any]]:
    """Fields of a protocol buffer by number: whole numbers, or bytes."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            value, at = content[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(content[at : at + size], "little"), at + size
        else:
            raise _Damaged(f"a record has a field of unknown kind {kind}")
        if at > len(content):
            raise _Damaged("a record ends too early")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _size(record: dict[int, list[Any]]) -> int:
    size = record.get(5, [0])[-1]
    return size if isinstance(size, int) else 0


def _tensor(name: str, entry: dict[int, list[Any]], data: bytes) -> Tensor:
    if entry.get(1) != [1]:  # DT_FLOAT
        raise _Damaged(f"{name} is not float32")
    shape = []
    for part in entry.get(2, []):
        for dim in _fields_of(name, part).get(2, []):
            shape += _fields_of(name, dim).get(1, [0])
    if len(shape) > 8:
        raise _Damaged(f"{name} has {len(shape)} dimensions")
    offset, size, crc = (entry.get(k, [0])[-1] for k in (4, 5, 6))
    if not all(isinstance(v, int) for v in (offset, size, crc, *shape)) or entry.get(3, [0]) != [0]:
        raise _Damaged(f"the record of {name} makes no sense")
    if size != 4 * math.prod(shape) or not size:
        raise _Damaged(f"{name} has {size} bytes for the shape {tuple(shape)}")
    if offset + size > len(data):
        raise _Damaged(f"{name} ends at byte {offset + size} of a data file of {len(data)}")
    raw = data[offset : offset + size]
    if masked_crc(raw) != crc:
        raise _Damaged(f"{name} does not match its checksum")
    return torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shape).clone()


def _fields_of(name: str, content: Any) -> dict[int, list[Any]]:
    if not isinstance(content, bytes):
        raise _Damaged(f"the record of {name} makes no sense")
    return _message(content)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def masked_crc(content: bytes) -> int:
    """CRC-32C as LevelDB and TensorFlow store it: rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
