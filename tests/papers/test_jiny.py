"""DRCN's TensorFlow checkpoint: read without TensorFlow, refused where it is damaged, and the network that it holds."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import struct
import time
import tracemalloc

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from tf_files import block, crc32c, field, masked, tf_weights, varint, write_checkpoint, write_table
from torch import Tensor

from nsrlib.claims import published
from nsrlib.data.download import DataUnavailable, sources, weights_path
from nsrlib.models import optimise
from nsrlib.papers.drcn import jiny


@pytest.fixture
def checkpoint(tmp_path):
    tensors = tf_weights() | {"LayerWeights": torch.tensor([0.003, 0.001])}
    write_checkpoint(tmp_path / "m.ckpt", tensors)
    return tmp_path / "m.ckpt.index", tensors


@pytest.mark.parametrize(
    ("content", "crc"), [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
)
def test_checksums_are_crc_32c(content, crc):  # RFC 3720, B.4
    assert jiny.masked_crc(content) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert crc32c(content) == crc


def test_a_tensorflow_checkpoint_is_read_without_tensorflow(checkpoint):
    index, tensors = checkpoint
    found = jiny.read_checkpoint(index, tensors)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], t) and found[name].shape == t.shape for name, t in tensors.items())
    assert jiny.read_checkpoint(index, ["B"]).keys() == {"B"}


def test_the_checkpoints_network_computes_what_the_tensorflow_code_does(checkpoint):
    index, t = checkpoint
    model, x = (
        jiny.load_model(index).double(),
        255 * torch.rand(1, 1, 13, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    t = {name: v.double() for name, v in t.items()}

    def layer(h: Tensor, weight: str, bias: str) -> Tensor:
        return F.relu(F.conv2d(h, t[weight].permute(3, 2, 0, 1), t[bias], padding=1))

    h = layer(layer(x, "W-1_conv/conv_W_1", "W-1_conv/conv_B"), "W0_conv/conv_W_1", "W0_conv/conv_B")
    ys = []
    for _ in range(2):
        h = layer(h, "W_conv", "B")
        ys.append(layer(torch.cat([layer(h, "WD1_conv_1", "BD1"), x], 1), "WD2_conv_1", "BD2"))
    expected = sum(w * y for w, y in zip(t["LayerWeights"], ys, strict=True)) / t["LayerWeights"].sum()
    y, found = model.net(x / 255)
    assert not model.training
    assert model.scale == 2
    torch.testing.assert_close(255 * y, expected, rtol=1e-5, atol=1e-4)  # biases over 255 in float32
    torch.testing.assert_close(torch.stack(found) * 255, torch.stack(ys), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(optimise(model).net(x / 255), y.detach(), rtol=0, atol=1e-12)


def test_the_checkpoint_is_found_like_all_published_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path))
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match=r"\.ckpt\.index: 1 of 1 files missing, .*NSRLIB_OFFLINE is set"):
        jiny.load_model()
    (tmp_path / "weights").mkdir()
    write_checkpoint(tmp_path / "weights" / jiny.CHECKPOINT, tf_weights())
    with (
        pytest.warns(UserWarning, match=r"ckpt\.index has sha256 .*, expected e2fc06e0d376"),
        pytest.raises(DataUnavailable),
    ):
        jiny.load_model()
    pinned = {}
    for name in jiny.FILES:
        content, source = (tmp_path / "weights" / name).read_bytes(), sources()[f"weights/{name}"]
        digest = hashlib.sha256(content).hexdigest()
        pinned[source.path] = dataclasses.replace(source, bytes=len(content), sha256=digest)
    monkeypatch.setattr("nsrlib.data.download.sources", lambda: pinned)
    assert jiny.load_model().net.recursions == 2


def unharmed_or_refused(index, sound: dict[str, Tensor]) -> bool:
    """Whether the reader refused the files, in its own words."""
    try:
        found = jiny.read_checkpoint(index, sound)
    except ValueError as error:
        assert str(error).startswith("m.ckpt is damaged or no TensorFlow checkpoint: ")  # noqa: PT017
        return True
    assert found.keys() == sound.keys()
    assert all(torch.equal(found[name], t) for name, t in sound.items())
    return False


def test_every_truncation_is_refused(checkpoint):
    index, tensors = checkpoint
    for end, step in ((".index", 3), (".data-00000-of-00001", 48)):
        path = index.with_suffix(end)
        content = path.read_bytes()
        for size in {*range(0, len(content), step), len(content) - 1}:
            path.write_bytes(content[:size])
            assert unharmed_or_refused(index, tensors), (end, size)
        path.write_bytes(content)
    assert not unharmed_or_refused(index, tensors)


def test_flipped_bytes_are_refused_wherever_they_matter(checkpoint):
    index, tensors = checkpoint
    dice, refused = random.Random(0), 0
    for end in (".index", ".data-00000-of-00001"):
        path = index.with_suffix(end)
        content = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            damaged[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            refused += unharmed_or_refused(index, tensors)
        path.write_bytes(content)
    assert refused > 250  # the rest hit the filters or padding


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 10))])
def test_records_that_lie_are_refused_even_with_the_right_checksums(tmp_path, monkeypatch, seed):
    """Without checksums every flipped byte reaches the parser, which must still stay inside the files."""
    monkeypatch.setattr(jiny, "masked_crc", lambda content: 0)
    tensors, prefix = tf_weights(), tmp_path / "m.ckpt"
    monkeypatch.setattr("tf_files.masked", lambda content: bytes(4))
    write_checkpoint(prefix, tensors)
    path, dice = tmp_path / "m.ckpt.index", random.Random(seed)
    content = path.read_bytes()
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(dice.randrange(1, 4)):
            damaged[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            jiny.read_checkpoint(path, tensors)
        except ValueError as error:
            assert str(error).startswith("m.ckpt is damaged or no TensorFlow checkpoint: ")  # noqa: PT017
            refused += 1
    assert refused > 25


def growing_keys() -> list[tuple[bytes, bytes]]:
    """A block of 20,000 keys, each a byte longer than the last: 120 kB that say 200 MB."""
    entries = b"".join(varint(k) + varint(1) + varint(0) + b"a" for k in range(20_000))
    return [(b"b", entries + struct.pack("<II", 0, 1))]


@pytest.mark.parametrize(
    ("blocks", "times", "data", "message"),
    [
        (growing_keys(), 1, b"", "the keys of the index are too long for its size"),
        (
            [(b"b", block([(b"k%06d" % k, b"v" * 9) for k in range(4000)]))],
            200,
            b"",
            "the index has blocks that overlap",
        ),
        (
            [(b"b", bytes(2**18) + struct.pack("<I", 0))],
            1,
            b"",
            r"m\.ckpt\.index has \d+ bytes, at most 262144 are read",
        ),
        ([], 1, bytes(2**25 + 1), r"00001 has 33554433 bytes, at most 33554432 are read"),
    ],
    ids=["growing keys", "one block again and again", "large index", "large data"],
)
def test_an_index_that_says_far_more_than_it_holds_is_refused_at_once(tmp_path, blocks, times, data, message):
    write_table(tmp_path / "m.ckpt", blocks, data, times)
    started = time.process_time()
    with pytest.raises(ValueError, match=message):
        jiny.read_checkpoint(tmp_path / "m.ckpt.index", ["a"])
    assert time.process_time() - started < 1
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            jiny.read_checkpoint(tmp_path / "m.ckpt.index", ["a"])
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_tensors_that_share_their_bytes_or_have_too_many_dimensions_are_refused(tmp_path):
    raw = torch.ones(64).numpy().tobytes()

    def record(*shape: int) -> bytes:
        dims = b"".join(field(2, field(1, n)) for n in shape)
        return field(1, 1) + field(2, dims) + field(5, len(raw)) + varint(6 << 3 | 5) + masked(raw)

    write_table(tmp_path / "m.ckpt", [(b"z", block([(b"a", record(64)), (b"b", record(*[1] * 8, 64))]))], raw)
    assert jiny.read_checkpoint(tmp_path / "m.ckpt.index", ["a"])["a"].tolist() == [1] * 64
    with pytest.raises(ValueError, match="its tensors are together longer than the data file"):
        jiny.read_checkpoint(tmp_path / "m.ckpt.index", ["a", "b"])
    with pytest.raises(ValueError, match="b has 9 dimensions"):
        jiny.read_checkpoint(tmp_path / "m.ckpt.index", ["b"])


@pytest.mark.parametrize("content", [b"", b"hello", b"<!DOCTYPE html><html>404: Not Found</html>" * 9], ids=len)
def test_foreign_files_are_refused(checkpoint, content):
    index, _ = checkpoint
    index.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.ckpt is damaged or no TensorFlow checkpoint: the index does not end as"):
        jiny.load_model(index)


def test_a_missing_half_is_named(checkpoint):
    index, _ = checkpoint
    index.with_suffix(".data-00000-of-00001").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint file: .*m\.ckpt\.data-00000-of-00001"):
        jiny.load_model(index)


@pytest.mark.parametrize(
    ("change", "dtypes", "message"),
    [
        ({"B": None, "BD1": None}, {}, r"m\.ckpt is no DRCN of jiny2001: it lacks B, BD1"),
        ({"BD2": torch.zeros(2)}, {}, r"is no DRCN of jiny2001: BD2 \(2,\), expected \(1,\)"),
        ({"WD2_conv_1": torch.zeros(3, 3, 3, 1)}, {}, r"WD2_conv_1 \(3, 3, 3, 1\), expected \(3, 3, 4, 1\)"),
        ({"W_conv": torch.zeros(())}, {}, "is no DRCN of jiny2001: W-1_conv/conv_W_1"),
        ({"LayerWeights": torch.zeros(2, 2)}, {}, "LayerWeights is no vector"),
        ({"B": torch.tensor([0.0, torch.nan, 1.0])}, {}, "is no DRCN of jiny2001: B has values that are not finite"),
        ({}, {"B": 3}, "B is not float32"),
    ],
    ids=["missing", "bias", "other skip", "scalar", "weights", "not finite", "int32"],
)
def test_checkpoints_of_other_networks_are_refused(tmp_path, change, dtypes, message):
    tensors = {k: v for k, v in (tf_weights() | change).items() if v is not None}
    write_checkpoint(tmp_path / "m.ckpt", tensors, dtypes)
    with pytest.raises(ValueError, match=message):
        jiny.load_model(tmp_path / "m.ckpt.index")


@pytest.mark.parametrize("gray", [False, True])
def test_the_readmes_chain_shrinks_and_enlarges_rgb_at_eight_bits_and_cuts_its_luma(checkpoint, tmp_path, gray):
    model, picture = jiny.load_model(checkpoint[0]), skimage.data.chelsea()[100:141, 100:153]
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(picture[..., 0] if gray else picture).save(folder / "a.png")
    true = (picture[:40, :52, 0] if gray else picture[:40, :52]).copy()
    small = Image.fromarray(true).resize((26, 20), Image.Resampling.BICUBIC)
    seen = np.asarray(small.resize((52, 40), Image.Resampling.BICUBIC))

    def y(levels: np.ndarray) -> np.ndarray:
        if gray:
            return levels.astype(float)
        r, g, b = np.moveaxis(levels.astype(float), -1, 0)
        return (65.481 * r + 128.553 * g + 24.966 * b + 16 * 255) / 256

    with torch.no_grad():
        made, ones = model.net(torch.from_numpy(y(seen) / 255)[None, None].float())
    found = jiny.scores(model, str(folder), "README")["psnr"]
    for name, plane in (("ensemble", made), (1, ones[0]), (2, ones[1]), ("equal weights", (ones[0] + ones[1]) / 2)):
        error = (255 * plane[0, 0].double().numpy()).astype(int) - y(true).astype(int)
        assert found[name] == pytest.approx(10 * np.log10(255**2 / np.mean(error[2:-2, 2:-2] ** 2)), abs=0.01)


def test_every_protocol_is_one_line_with_the_best_single_recursion(checkpoint):
    model = jiny.load_model(checkpoint[0])
    found = {("embedded", under): jiny.scores(model, "embedded", under, limit=1) for under in jiny.CONDITIONS}
    table = jiny.in_short(found)
    assert table["protocol"].tolist() == ["A", "B", "C", "README"]
    for line, scores in zip(table.to_dict("records"), found.values(), strict=True):
        psnr = scores["psnr"]
        assert line["best single"] == max(psnr[1], psnr[2]) == psnr[line["d"]]
        assert (line["ensemble"], line["equal weights"]) == (psnr["ensemble"], psnr["equal weights"])
    assert table["ensemble"].nunique() == 4
    assert found["embedded", "A"].attrs["origin"] == "embedded"
    assert jiny.in_short({}).columns.tolist() == table.columns.tolist()


EXPECTED = {
    "A": (37.288, 36.474, 34.449, 35.430, 35.152, 34.775, 34.566, 34.198, 33.865, 33.398, 33.143),
    "B": (37.384, 36.552, 34.595, 35.512, 35.217, 34.835, 34.639, 34.265, 33.939, 33.497, 33.228),
    "C": (37.346, 36.517, 34.490, 35.455, 35.180, 34.793, 34.586, 34.227, 33.891, 33.433, 33.184),
}
"""PSNR of the published checkpoint on Set5: the ensemble, the plain mean, each recursion. A, C and the README's 37.307
come from a NumPy evaluation apart from this library, B from ``evaluate``, whose parts have tests of their own."""


@pytest.fixture
def published_port():
    try:
        index, _ = [weights_path(name, download=False) for name in jiny.FILES]
    except DataUnavailable:
        pytest.skip(f"{jiny.CHECKPOINT} not at hand: nsr data fetch weights, where there is a network")
    return jiny.load_model(index)


@pytest.mark.benchmark
@pytest.mark.parametrize("under", ["A", "README", *(pytest.param(name, marks=pytest.mark.slow) for name in ("B", "C"))])
def test_the_published_checkpoint_reaches_its_numbers_under_each_protocol(benchmark, published_port, under):
    benchmark("set5", 2)
    assert sum(p.numel() for p in published_port.parameters()) == 250_963
    psnr = jiny.scores(published_port, "set5", under, download=False)["psnr"]
    if under == "README":
        assert psnr["ensemble"] == pytest.approx(37.307, abs=1e-3)
        printed = published("drcn").set_index("id").loc["jiny/F96-D9/x2/Set5/psnr", "value"]
        assert f"{psnr['ensemble']:.2f}" == printed
    else:
        ours = [psnr["ensemble"], psnr["equal weights"], *(psnr[d] for d in range(1, 10))]
        assert ours == pytest.approx(EXPECTED[under], abs=1.5e-3)
