"""MATLAB's files: read as scipy reads them, kernels the right way round, damaged and hostile ones in one line."""

from __future__ import annotations

import itertools
import random
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from torch import Tensor, nn

from nsrlib import create_model, load_weights
from nsrlib.data import DataUnavailable, weights_path
from nsrlib.models.matlab import read_variables
from nsrlib.models.weights import describe, read_state_dict

DIM, SRCNN = {"num_feats": 5, "num_layers": 4}, {"num_feats": 5, "num_mid": 4}


def cells(arrays: list[np.ndarray]) -> np.ndarray:
    """A row of cells, as scipy writes them."""
    row = np.empty((1, len(arrays)), object)
    row[0, :] = arrays
    return row


def vdsr_file(path: Path, model: nn.Module, **options: bool) -> Path:
    """Weights as VDSR's authors keep them, (row, column, in, out); scipy drops no last axis, MATLAB does."""
    layers = [model.head, *(step[0] for step in model.body), model.tail]
    kernels = [layer.weight.detach().permute(2, 3, 1, 0).numpy() for layer in layers]
    kernels[-1] = kernels[-1][..., 0]
    biases = [layer.bias.detach()[:, None].numpy() for layer in layers]
    savemat(path, {"model": {"weight": cells(kernels), "bias": cells(biases)}}, **options)
    return path


def srcnn_file(path: Path, model: nn.Module, **options: bool) -> Path:
    """Weights as SRCNN's authors keep them: pixel by pixel, down the columns, which are written out here."""
    one, two, three = (layer.weight.detach().double().numpy() for layer in (model.conv1, model.conv2, model.conv3))
    nine, five = ([(row, column) for column in range(k) for row in range(k)] for k in (9, 5))
    arrays = {
        "weights_conv1": np.stack([one[:, 0, r, c] for r, c in nine]),
        "weights_conv2": np.stack([two[:, :, r, c].T for r, c in five], 1),
        "weights_conv3": np.stack([three[0, :, r, c] for r, c in five], 1),
    }
    arrays |= {f"biases_conv{k}": getattr(model, f"conv{k}").bias.detach().double().numpy()[:, None] for k in (1, 2, 3)}
    savemat(path, arrays, **options)
    return path


def sound(folder: Path, name: str, **options: bool) -> tuple[Path, nn.Module]:
    torch.manual_seed(1)
    model = create_model(name, 3, **(DIM if name == "vdsr" else SRCNN))
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # biases, too
    write = vdsr_file if name == "vdsr" else srcnn_file
    return write(folder / f"{name}.mat", model, **options), model


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vdsr", "srcnn"])
@pytest.mark.parametrize("do_compression", [True, False], ids=["packed", "plain"])
def test_a_network_comes_back_from_its_authors_layout(tmp_path, name, do_compression):
    path, source = sound(tmp_path, name, do_compression=do_compression)
    again = create_model(name, 3, path, **(DIM if name == "vdsr" else SRCNN))
    assert not again.training
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in again.state_dict().items())
    assert describe(path) == {}


@pytest.mark.parametrize(("row", "column"), [(0, 2), (2, 1)])
def test_a_kernel_of_vdsr_looks_where_its_row_and_column_say(tmp_path, row, column):
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[row, column] = 1
    centre = np.zeros((3, 3, 1, 1), np.float32)
    centre[1, 1] = 1
    zero = np.zeros((1, 1), np.float32)
    weights = {"weight": cells([kernel, centre, centre[..., 0]]), "bias": cells([zero] * 3)}
    savemat(tmp_path / "w.mat", {"model": weights})
    model = create_model("vdsr", 1, tmp_path / "w.mat", num_feats=1, num_layers=3)
    x = torch.rand(1, 1, 6, 7)
    seen = torch.zeros(6, 7)
    for h in range(1, 5):
        for w in range(1, 6):
            seen[h, w] = x[0, 0, h + row - 1, w + column - 1]
    torch.testing.assert_close((model(x) - x)[0, 0, 1:5, 1:6].detach(), seen[1:5, 1:6])


@pytest.mark.parametrize(("row", "column"), [(0, 3), (4, 1)])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_kernel_of_srcnn_counts_its_pixels_down_the_columns(tmp_path, layer, row, column):
    arrays = {f"biases_conv{k}": np.zeros((1, 1)) for k in (1, 2, 3)}
    for k, side in ((1, 9), (2, 5), (3, 5)):
        at = (row, column) if k == layer else (side // 2, side // 2)
        flat = np.zeros(side * side)
        flat[at[0] + side * at[1]] = 1
        arrays[f"weights_conv{k}"] = flat.reshape({1: (-1, 1), 2: (1, -1, 1), 3: (1, -1)}[k])
    savemat(tmp_path / "w.mat", arrays)
    model = create_model("srcnn", 1, tmp_path / "w.mat", num_feats=1, num_mid=1)
    x, half = torch.rand(1, 1, 12, 14), 4 if layer == 1 else 2
    seen = torch.stack([x[0, 0, h + row - half, 4 + column - half : 10 + column - half] for h in range(4, 8)])
    torch.testing.assert_close(model(x)[0, 0, 4:8, 4:10].detach(), seen)


@pytest.mark.parametrize("file", ["VDSR_Official.mat", "SRCNN_955_x2.mat", "SRCNN_955_x3.mat", "SRCNN_955_x4.mat"])
def test_the_authors_files_are_read_as_scipy_reads_them(file):
    try:
        path = weights_path(file, download=False)
    except DataUnavailable:
        pytest.skip(f"{file} not at hand: set NSRLIB_DATA")
    ours, theirs = read_variables(path), loadmat(path)
    if "model" in theirs:
        assert ours.keys() == {"model"}
        for field in ("weight", "bias"):
            pairs = zip(ours["model"][field], theirs["model"][0, 0][field][0], strict=True)
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)
        assert sum(t.numel() for t in read_state_dict(path).values()) == 665_921
    else:
        assert all(np.array_equal(ours[name], theirs[name]) and len(ours) == 6 for name in ours)
        assert sum(t.numel() for t in read_state_dict(path).values()) == 57_281


# --- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do_compression", [True, False])
def test_numbers_of_every_type_cells_and_structures_are_read_and_the_rest_is_passed_over(tmp_path, do_compression):
    from scipy.sparse import csc_matrix

    dice = np.random.default_rng(0)
    kinds = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
    arrays = {kind: (99 * dice.random((2, 3, 4))).astype(kind) for kind in kinds}
    nested = {"a": cells([arrays["f4"], np.arange(3.0)[None]]), "b": np.zeros((0, 3))}
    others = {"text": "words", "sparse": csc_matrix(np.eye(3)), "complex": np.ones((2, 2)) * 1j}
    path = tmp_path / "w.mat"
    savemat(path, arrays | others | {"nested": nested}, do_compression=do_compression)
    read = read_variables(path)
    for kind, array in arrays.items():
        assert read[kind].dtype == array.dtype
        assert np.array_equal(read[kind], array)
    assert [a.shape for a in read["nested"]["a"]] == [(2, 3, 4), (1, 3)]
    assert np.array_equal(read["nested"]["a"][0], arrays["f4"])
    assert read["nested"]["b"].shape == (0, 3)
    assert not set(others) & set(read)


HEADER = b"MATLAB 5.0 MAT-file, by hand".ljust(124) + b"\x00\x01IM"


def element(kind: int, raw: bytes) -> bytes:
    return struct.pack("<II", kind, len(raw)) + raw + bytes(-len(raw) % 8)


def array(form: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"x") -> bytes:
    start = element(6, struct.pack("<II", form, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, start + element(1, name) + b"".join(parts))


def packed(raw: bytes) -> bytes:
    squeezed = zlib.compress(raw)
    return struct.pack("<II", 15, len(squeezed)) + squeezed


def by_hand(path: Path, *elements: bytes) -> Path:
    path.write_bytes(HEADER + b"".join(elements))
    return path


def test_numbers_that_are_stored_in_a_smaller_type_are_of_their_own(tmp_path):
    short = struct.pack("<HH4B", 2, 4, 1, 2, 3, 4)  # type and length in four bytes, the numbers in the other four
    long = element(3, struct.pack("<6h", *range(-3, 3)))
    path = by_hand(tmp_path / "w.mat", array(6, (2, 2), short), packed(array(7, (3, 2), long, name=b"long name")))
    read = read_variables(path)
    assert (read["x"].dtype, read["x"].tolist()) == (np.float64, [[1, 3], [2, 4]])
    assert (read["long name"].dtype, read["long name"].tolist()) == (np.float32, [[-3, 0], [-2, 1], [-1, 2]])


# --- damaged, foreign, hostile ----------------------------------------------------------------------------------------


def deep(levels: int) -> bytes:
    inner = array(6, (1, 1), element(9, struct.pack("<d", 1)))
    for _ in range(levels):
        inner = array(1, (1, 1), inner)
    return inner


def srcnn_but(**other: np.ndarray):
    def write(path: Path) -> None:
        whole = loadmat(sound(path.parent, "srcnn")[0])
        savemat(path, {k: v for k, v in (whole | other).items() if k[0] != "_" and v is not None})

    return write


def vdsr_of(weight: object, bias: object):
    return lambda path: savemat(path, {"model": {"weight": weight, "bias": bias}})


TWO = cells([np.zeros((3, 3, 1, 1))] * 2)
THREE = cells([np.zeros((3, 3, 1, 1))] * 3)
BAD = {
    "only a header": ([], "is a MATLAB file of nothing; only VDSR's .* and SRCNN's .* are read"),
    "other variables": ([array(6, (1, 1), element(9, bytes(8)), name=b"net")], "is a MATLAB file of net; only VDSR's"),
    "cut header": (lambda p: p.write_bytes(HEADER[:60]), "is a damaged MATLAB file: its header"),
    "big-endian": (lambda p: p.write_bytes(HEADER[:124] + b"\x01\x00MI"), "another version or another order of bytes"),
    "cut": (lambda p: p.write_bytes(sound(p.parent, "vdsr")[0].read_bytes()[:-40]), "an element of .* where there are"),
    "cut within a tag": ([b"\x0e\0\0\0"], "it ends within an element"),
    "cut stream": ([struct.pack("<II", 15, 9) + zlib.compress(bytes(999))[:9]], "ends too early"),
    "no stream": ([element(15, b"no stream")], "what is compressed cannot be unpacked"),
    "no array": ([element(9, bytes(8))], "an element of type 9 where an array is due"),
    "stream in a stream": ([packed(packed(deep(0)))], "an element of type 15 where an array is due"),
    "more claimed": ([array(6, (9999, 9999), element(9, bytes(8)))], "x claims 99,980,001 numbers where 1 are stored"),
    "huge": ([array(6, (2**31 - 1,) * 8, element(9, bytes(8)))], "claims .* numbers where 1 are stored"),
    "below zero": ([array(6, (-1, -1), element(9, bytes(8)))], r"x has the shape \[-1, -1\]"),
    "many axes": ([array(6, (1,) * 99, element(9, bytes(8)))], "x has the shape"),
    "many cells": ([array(1, (2**31 - 1, 9), deep(0))], "x claims 19,327,352,823 arrays where 1 are stored"),
    "no names": ([array(2, (1, 1), element(5, bytes(4)), element(1, b"a"))], "the fields of x have no names"),
    "deep": ([deep(9)], "is refused: a MATLAB file of more than 4 levels"),
    "very deep": ([deep(3000)], "is refused: a MATLAB file of more than 4 levels"),
    "a bomb": ([packed(bytes(2**27))], "is refused: a MATLAB file that unpacks to more than 16,777,216 bytes"),
    "bombs": ([packed(array(6, (1, 2**20), element(9, bytes(2**23))))] * 3, "unpacks to more than 16,777,216 bytes"),
    "large": (lambda p: p.write_bytes(HEADER + bytes(2**24)), "is refused: a MATLAB file of 16,777,344 bytes, at most"),
    "texts for numbers": ([array(6, (1, 1), element(16, bytes(8)))], "numbers are stored as type 16"),
    "half a number": ([array(6, (1, 1), element(9, bytes(7)))], "is damaged or not a file of MATLAB's"),
    "no flags": ([element(14, element(9, b""))], "is damaged or not a file of MATLAB's"),
    "no pixels": (srcnn_but(weights_conv2=np.zeros((5, 24, 4))), r"weights_conv2 of SRCNN has the shape \(5, 24, 4\)"),
    "no axes": (srcnn_but(weights_conv3=np.zeros((1, 1, 25))), r"weights_conv3 of SRCNN has the shape \(1, 1, 25\)"),
    "no array of numbers": (srcnn_but(biases_conv1=cells([np.zeros(3)])), "biases_conv1 is no array of numbers"),
    "a layer less": (srcnn_but(biases_conv3=None), "is a MATLAB file of biases_conv1, biases_conv2, weights_conv1"),
    "two layers": (vdsr_of(TWO, TWO), "VDSR with 2 kernels and 2 biases"),
    "biases lack": (vdsr_of(THREE, TWO), "VDSR with 3 kernels and 2 biases"),
    "flat kernels": (vdsr_of(cells([np.zeros((3, 3))] * 3), THREE), r"VDSR's head have the shape \(3, 3\)"),
    "kernels are words": (vdsr_of(cells(["a", "b", "c"]), THREE), "head is no array of numbers"),
    "no cells": (vdsr_of(np.zeros(3), THREE), "is a MATLAB file of model; only"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_foreign_or_hostile_file_is_refused_in_one_line(tmp_path, what):
    make, message = BAD[what]
    path, began = tmp_path / "w.mat", time.monotonic()
    make(path) if callable(make) else by_hand(path, *make)
    with pytest.raises(ValueError, match=rf"^w\.mat .*{message}") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.monotonic() - began < 20


def test_a_file_of_another_network_is_a_misfit(tmp_path):
    path, _ = sound(tmp_path, "srcnn")
    with pytest.raises(ValueError, match=r"^srcnn\.mat does not fit VDSR: \d+ missing .*; 6 unexpected \(first conv1"):
        create_model("vdsr", 2, path, **DIM)
    path, _ = sound(tmp_path, "vdsr")
    with pytest.raises(ValueError, match=r"^vdsr\.mat does not fit VDSR: .* of another shape"):
        create_model("vdsr", 2, path, num_feats=6, num_layers=4)


def mutated(raw: bytes, dice: random.Random) -> bytes:
    """Bytes changed, cut off, doubled or taken out; most where the structure is. A stream is packed anew."""
    new = bytearray(raw)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(124, len(new)) if dice.random() < 0.4 else dice.randrange(124, min(len(new), 900))
        match dice.randrange(5):
            case 0 | 1:
                new[at] = dice.choice([dice.randrange(256), new[at] ^ 1 << dice.randrange(8), 0, 255])
            case 2:
                del new[at : at + dice.randrange(1, 64)]
            case 3:
                new[at:at] = new[at : at + dice.randrange(1, 64)]
            case 4:
                del new[at if dice.random() < 0.1 else len(new) :]
    return bytes(new) if dice.random() < 0.7 else bytes(new[:128]) + packed(bytes(new[128:]))


@pytest.mark.parametrize("rounds", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_load_whole_or_are_refused_in_one_line(tmp_path, rounds):
    originals = []
    for name, zipped in itertools.product(("vdsr", "srcnn"), (False, True)):
        path, model = sound(tmp_path, name, do_compression=zipped)
        originals.append((path.read_bytes(), model))
    dice, path, refusals = random.Random(rounds), tmp_path / "mutant.mat", 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(rounds):
        raw, model = dice.choice(originals)
        path.write_bytes(mutated(raw, dice))
        before = content(model)
        try:
            load_weights(model, path)
            assert all(t.isfinite().all() for t in model.state_dict().values())
            model.load_state_dict(before)
        except ValueError as error:
            refusals += 1
            assert "\n" not in str(error), error  # noqa: PT017
            assert str(error).startswith("mutant.mat"), error  # noqa: PT017
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert rounds / 3 < refusals < rounds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 100_000  # kB
