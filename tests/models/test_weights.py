"""Files of weights: what they say of themselves, sound ones of all makes, damaged and hostile ones.

The file is long because files are of many kinds, and one way to read them.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nsrlib import create_model, load_weights, models, training
from nsrlib.models.weights import describe, fill, read_state_dict

SIZE = {"num_feats": 16, "num_blocks": 1}


def small(scale: int = 2, seed: int = 0, name: str = "bsrn") -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, scale, **SIZE)


def content(model: nn.Module) -> dict[str, bytes]:
    """Every tensor, byte for byte."""
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def trained(path: Path, **about: object) -> nn.Module:
    """A network of which ``path`` holds the weights, as ``nsr train`` writes them, but for what it says ``about``."""
    model = small(seed=1)
    training.save_weights(model, path, {"model": "bsrn", "scale": 2, "config": json.dumps(SIZE)} | about)
    return model


def saved(path: Path, what: object, **options: object) -> Path:
    torch.save(what, path, **options)
    return path


def refused(path: Path, pattern: str) -> None:
    """One line that names the file, and a model that has not changed by a byte."""
    model = small(seed=7)
    before = content(model)
    with pytest.raises(ValueError, match=rf"^{re.escape(path.name)}:? .*{pattern}") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert content(model) == before


# --- what a file says of itself ---------------------------------------------------------------------------------------


def test_a_file_names_its_network_scale_and_options(tmp_path):
    trained(tmp_path / "w.safetensors")
    assert describe(tmp_path / "w.safetensors") == {"model": "bsrn", "scale": 2, "config": SIZE}
    assert describe(saved(tmp_path / "w.pth", small().state_dict())) == {}
    save_file(small().state_dict(), tmp_path / "silent.safetensors")
    assert describe(tmp_path / "silent.safetensors") == {}


@pytest.mark.parametrize(
    "asked",
    [{}, {"name": "bsrn"}, {"scale": 2}, {"num_feats": 16}, {"name": "bsrn", "scale": 2, **SIZE}, {"scale": 2.0}],
    ids=str,
)
def test_a_network_is_made_as_its_file_says_and_as_is_asked_where_that_agrees(tmp_path, asked):
    source = trained(tmp_path / "w.safetensors")
    model = create_model(pretrained=tmp_path / "w.safetensors", **asked)
    assert not model.training
    assert model.scale == 2
    assert content(model) == content(source)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"name": "bsrn", "scale": 4}, "scale=4"),
        ({"name": "rfdn"}, "model=rfdn"),
        ({"name": "bicubic"}, "model=bicubic"),
        ({"num_feats": 24}, "num_feats=24"),
        ({"name": "rfdn", "scale": 3, "num_blocks": 2}, "model=rfdn, scale=3, num_blocks=2"),
    ],
    ids=str,
)
def test_what_is_asked_for_against_the_word_of_the_file_is_refused(tmp_path, asked, what):
    trained(tmp_path / "w.safetensors")
    said = re.escape("w.safetensors: these are x2 weights of bsrn (num_feats=16, num_blocks=1), asked for was ")
    with pytest.raises(ValueError, match=f"^{said}{what}$"):
        create_model(pretrained=tmp_path / "w.safetensors", **asked)


def test_options_that_are_sequences_come_back_from_a_file(tmp_path):
    widths = (3, 6, 12, 12, 12, 12, 12, 12)
    size = {"num_feats": 6, "num_blocks": 2}
    source = create_model("drn_s", 4, widths=widths, **size)
    about = {"model": "drn_s", "scale": 4, "config": json.dumps(size | {"widths": widths})}
    training.save_weights(source, tmp_path / "w.safetensors", about)
    assert content(create_model(pretrained=tmp_path / "w.safetensors")) == content(source)
    assert content(create_model("drn_s", 4, tmp_path / "w.safetensors", widths=widths)) == content(source)


def test_options_of_which_the_file_is_silent_are_added(tmp_path):
    size = {"num_feats": 8, "num_blocks": 2, "cardinals": 4}
    about = {"model": "nsr", "scale": 2, "config": json.dumps(size)}
    training.save_weights(create_model("nsr", 2, **size), tmp_path / "w.safetensors", about)
    assert create_model(pretrained=tmp_path / "w.safetensors", inference="map").scale == 2


@pytest.mark.parametrize("path", sorted(models.WEIGHTS_DIR.rglob("*.safetensors")), ids=lambda p: p.stem)
def test_every_file_in_the_repository_is_enough_to_make_its_network(path):
    about = models.read_metadata(path)
    if "model" not in about:
        with pytest.raises(ValueError, match=f"^{path.name} does not say which network it is: name a model$"):
            create_model(pretrained=path)
        return
    if "steps" in about["config"] or path.parent.name == "addersr":
        assert describe(path)["model"] == "addersr_vdsr"
    model = create_model(pretrained=path)
    given = read_state_dict(path)
    assert content(model) == {name: given[name].numpy().tobytes() for name in model.state_dict()}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"scale": "two"}, "w.safetensors says scale='two', which is no scale of a network"),
        ({"scale": "9" * 5000}, "w.safetensors says scale='9{77}...', which is no scale"),
        ({"scale": 7}, "scale of bsrn must be one of 2, 3, 4, got 7"),
        ({"config": "num_feats=16"}, "w.safetensors says config='num_feats=16', which is no config of a network"),
        ({"config": "[16]"}, r"says config='\[16\]', which is no config"),
        ({"config": "[" * 100_000}, r"says config='\[+\.\.\.', which is no config"),
        ({"config": '{"sharpness": 2}'}, "bsrn takes no keyword 'sharpness'"),
        ({"config": '{"scale": 2}'}, "bsrn takes no keyword 'scale'"),
        ({"config": '{"num_feats": "many"}'}, "bsrn cannot be built with .*many"),
        ({"config": '{"num_feats": Infinity}'}, "options of a network are at most 1024, got .*inf"),
        ({"config": '{"num_blocks": 1000000000}'}, "options of a network are at most 1024, got .*1000000000"),
        ({"config": '{"num_feats": 1024, "num_blocks": 1024}'}, "far fewer weights than the network it names"),
        ({"model": "espcn\n" * 99}, r"unknown model 'espcn\\nespcn"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_a_file_that_says_nonsense_is_refused(tmp_path, about, message):
    trained(tmp_path / "w.safetensors", **about)
    with pytest.raises(ValueError, match=message) as caught:
        create_model(pretrained=tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_weights_that_say_nothing_but_fit_another_scale_are_called_so(tmp_path):
    path = saved(tmp_path / "w.pth", small(scale=2).state_dict())
    message = r"^w\.pth does not fit BSRN: 2 of another shape \(.*\); these look like x2 weights$"
    with pytest.raises(ValueError, match=message):
        create_model("bsrn", 4, path, **SIZE)
    with pytest.raises(ValueError, match=r"another shape \([^()]*\([^()]*\)[^()]*\([^()]*\)\)$"):
        create_model("bsrn", 4, path, num_feats=24, num_blocks=1)


def test_a_network_without_weights_takes_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such weights file: nowhere\.pth"):
        create_model("bicubic", 2, "nowhere.pth")
    path = saved(tmp_path / "w.pth", small().state_dict())
    with pytest.raises(ValueError, match=r"^bicubic has no weights to load: leave out .*w\.pth$"):
        create_model("bicubic", 2, path)
    assert create_model("bicubic", 2, "published").scale == 2


def test_without_a_name_and_a_file_there_is_no_network():
    with pytest.raises(ValueError, match=r"^say which network it is: name a model$"):
        create_model()


def test_making_a_network_from_a_file_draws_the_same_random_numbers_as_without(tmp_path):
    trained(tmp_path / "w.safetensors")
    torch.manual_seed(3)
    create_model("bsrn", 2, **SIZE)
    expected = torch.rand(4)
    torch.manual_seed(3)
    create_model("bsrn", pretrained=tmp_path / "w.safetensors")
    assert torch.equal(torch.rand(4), expected)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "params", "params_ema", "state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_found_under_the_usual_keys(tmp_path, key, zipped):
    source, target = small(seed=1), small(seed=2)
    content = source.state_dict() if key is None else {key: source.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert load_weights(target, tmp_path / "w.pth") is target
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


def test_averaged_weights_are_preferred(tmp_path):
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth")["a"].item() == 1


def test_safetensors_files_are_read(tmp_path):
    source, target = small(seed=1), small(seed=2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


class Hostile:
    """A pickle of this makes a folder when it is loaded carelessly."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Evaluated(Hostile):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({self.path!r})",)


@pytest.mark.parametrize("kind", [Hostile, Evaluated])
@pytest.mark.parametrize("wrap", ["zip", "old", "pickle"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, kind, wrap, nested):
    trap, path = kind(str(tmp_path / "owned")), tmp_path / "evil.pth"
    content = {"params": {"weight": torch.zeros(3), "extra": trap}} if nested and wrap != "pickle" else trap
    if wrap == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrap == "zip")
    with pytest.raises(
        ValueError,
        match=r"evil\.pth refused: it holds pickled objects other than tensors \((posix\.mkdir|\w+\.eval)\), which",
    ):
        load_weights(small(), path)
    assert not (tmp_path / "owned").exists()
    pickle.loads(path.read_bytes()) if wrap == "pickle" else torch.load(path, weights_only=False)  # a real trap
    assert (tmp_path / "owned").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    with pytest.raises(
        ValueError,
        match=r"module\.pth refused: .*\(torch\.nn\.modules\.conv\.Conv2d\).*save model\.state_dict\(\) on its own",
    ):
        read_state_dict(tmp_path / "module.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_called_damaged(tmp_path, zipped, share):
    path = tmp_path / "cut.pth"
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"cut\.pth is damaged"):
        read_state_dict(path)


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_are_called_damaged_not_dangerous(tmp_path, seed):
    (tmp_path / "noise.pth").write_bytes(random.Random(seed).randbytes(500))
    with pytest.raises(ValueError, match=r"noise\.pth is damaged or not a PyTorch checkpoint"):
        read_state_dict(tmp_path / "noise.pth")


@pytest.mark.parametrize("what", [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"params": {}}], ids=str)
def test_a_checkpoint_without_tensors_by_name_is_refused(tmp_path, what):
    torch.save(what, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth holds no state dict \(tensors by name\)"):
        read_state_dict(tmp_path / "odd.pth")


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:300], lambda b: b[:9] + b"x" + b[10:]])
def test_a_damaged_safetensors_file_is_refused(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_file(small().state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"w\.safetensors is not a valid safetensors file: "):
        read_state_dict(path)


def test_a_missing_file_and_a_folder_are_no_weights(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such weights file: "):
            read_state_dict(path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"name": "rfdn", "scale": 2},
            r"w\.pth does not fit BSRN: \d+ missing \(first B1\.c1_r\.dw\.bias\); "
            r"\d+ unexpected \(first B1\.c1_r\.bias\)",
        ),
        (
            {"scale": 4},
            r"w\.pth does not fit BSRN: 2 of another shape "
            r"\(upsampler\.upsampleOneStep\.0\.bias: file \(48,\), model \(12,\)\)",
        ),
    ],
    ids=["network", "scale"],
)
def test_weights_of_another_network_or_scale_are_refused_and_change_nothing(tmp_path, other, message):
    torch.save(small(**other).state_dict(), tmp_path / "w.pth")
    model = small(scale=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path / "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_without_strict_only_what_fits_is_taken(tmp_path):
    source, model = small(scale=4, seed=1), small(scale=2, seed=2)
    torch.save(source.state_dict() | {"surplus": torch.zeros(3)}, tmp_path / "x4.pth")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_weights(model, tmp_path / "x4.pth", strict=False)
    for key, value in model.state_dict().items():
        expected = before[key] if key.startswith("upsampler") else source.state_dict()[key]
        assert torch.equal(value, expected), key


def test_without_strict_a_file_of_which_nothing_fits_is_still_refused(tmp_path):
    torch.save(small(name="imdn").state_dict(), tmp_path / "imdn.pth")
    with pytest.raises(ValueError, match=r"imdn\.pth does not fit BSRN: .* missing .* unexpected"):
        load_weights(small(), tmp_path / "imdn.pth", strict=False)


def test_weights_trained_here_bring_the_size_they_were_trained_with(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS_DIR", tmp_path)
    small_one = small(2, 3, "rfdn")
    training.save_weights(small_one, tmp_path / "rfdn_x2.safetensors", {"config": json.dumps(SIZE), "seed": 3})
    again = create_model("rfdn", 2, pretrained=True)
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(small_one.parameters(), again.parameters(), strict=True))
    assert models.read_metadata(tmp_path / "rfdn_x2.safetensors")["seed"] == "3"
    with pytest.raises(
        ValueError, match=r"these are weights of a network \(num_feats=16, num_blocks=1\), asked for was num_feats=24"
    ):
        create_model("rfdn", 2, pretrained=True, num_feats=24)


def test_a_path_is_accepted_as_pretrained(tmp_path):
    torch.save(small(seed=5).state_dict(), tmp_path / "mine.pth")
    model = create_model("bsrn", 2, pretrained=tmp_path / "mine.pth", **SIZE)
    assert not model.training
    assert create_model("bsrn", 2, **SIZE).training


# --- sound checkpoints of other programs ------------------------------------------------------------------------------


PREFIXES = ["module.", "_orig_mod.", "net.", "generator.", "module._orig_mod.", "model.backbone."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_prefix_that_all_names_share_is_left_out(tmp_path, prefix, suffix):
    source, path = small(seed=1), tmp_path / f"w.{suffix}"
    renamed = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    (save_file if suffix == "safetensors" else torch.save)(renamed, path)
    assert content(load_weights(small(), path)) == content(source)
    assert content(create_model("bsrn", 2, path, **SIZE)) == content(source)
    assert set(read_state_dict(path)) == set(renamed)


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    names = list(small().state_dict())
    renamed = {f"module.{n}" if n == names[0] else n: t for n, t in small().state_dict().items()}
    refused(saved(tmp_path / "w.pth", renamed), r"1 missing \(first .*\); 1 unexpected \(first module\.")


def test_names_that_are_wanted_with_their_common_part_keep_it(tmp_path):
    outer = nn.ModuleDict({"net": nn.ModuleDict({"net": nn.Conv2d(1, 2, 3)})})
    path = saved(tmp_path / "w.pth", outer.state_dict())
    again = nn.ModuleDict({"net": nn.ModuleDict({"net": nn.Conv2d(1, 2, 3)})})
    assert content(load_weights(again, path)) == content(outer)


def test_an_averaged_model_is_read_without_its_count(tmp_path):
    source = small(seed=1)
    mean = torch.optim.swa_utils.AveragedModel(source)
    assert content(load_weights(small(), saved(tmp_path / "w.pth", mean.state_dict()))) == content(source)


KEYS = ["params_ema", "params", "state_dict", "model", "model_state_dict", "net_g", "ema", "generator", "whatever"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("nested", [None, "state_dict", "params"])
def test_tensors_are_found_wherever_a_checkpoint_keeps_them(tmp_path, key, nested):
    source = small(seed=1)
    tensors = source.state_dict() if nested is None else {nested: source.state_dict()}
    momentum = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.rand(3)}}, "param_groups": [{"lr": 0.1}]}
    path = saved(
        tmp_path / "w.pth", {key: tensors, "epoch": 3, "optimizer": momentum} if not nested else {key: tensors}
    )
    assert content(load_weights(small(), path)) == content(source)


def test_several_mappings_of_tensors_are_named(tmp_path):
    path = saved(tmp_path / "w.pth", {"first": small().state_dict(), "second": small().state_dict()})
    refused(path, r"holds 2 mappings of tensors \(first, second\): save the network's on its own")


BESIDE = {
    "an int": 3, "a float": 0.5, "a text": "x", "nothing": None, "a numpy float": np.float64(1.5),
    "a dtype": torch.half,
    "a numpy int": np.int64(7), "an array": np.arange(3.0), "a size": torch.Size([3]), "a list": [1, {"a": (2,)}],
    "a device": torch.device("cpu"), "a set": {1, 2}, "a whole number of 100 digits": 10**100, "bytes": b"abc",
}  # fmt: skip


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}], ids=str)
def test_what_stands_beside_the_tensors_is_passed_over(tmp_path, what, options):
    source = small(seed=1)
    for number, mixed in enumerate(
        [{**source.state_dict(), "x": BESIDE[what]}, {"params": source.state_dict(), "x": BESIDE[what]}]
    ):
        path = saved(tmp_path / f"{number}.pth", mixed, **options)
        assert content(load_weights(small(), path)) == content(source)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=str)
def test_tensors_of_all_kinds_are_read_as_pytorch_reads_them(tmp_path, options):
    torch.manual_seed(0)
    base = torch.rand(4, 6)
    what = {
        "base": base, "turned": base.T, "part": base[1:3, ::2], "one": torch.tensor(3.0), "none": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.rand(3)), "wide": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        **{str(t): (torch.rand(5) * 9).to(t) for t in (
            torch.half, torch.bfloat16, torch.double, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64,
            torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
        )},
    }  # fmt: skip
    if "_use_new_zipfile_serialization" in options:  # PyTorch itself cannot read these two back
        what = {name: t for name, t in what.items() if t.dtype not in (torch.float8_e4m3fn, torch.uint16)}
    path = saved(tmp_path / "w.pth", what, **options)
    read, expected = read_state_dict(path), torch.load(path, weights_only=False)
    for name, tensor in expected.items():
        got = read[name]
        assert (got.dtype, got.shape, got.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), name
        assert (
            torch.equal(got.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))
            if got.ndim
            else (got == tensor)
        ), name
    assert read["base"].untyped_storage().data_ptr() == read["turned"].untyped_storage().data_ptr()


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "w.pth", small(seed=1).state_dict())
    finally:
        torch.serialization.set_crc32_options(True)
    assert content(load_weights(small(), path)) == content(small(seed=1))


@pytest.mark.parametrize("name", ["w.PTH", "w.SafeTensors", "w.pth", "w", "w.bin"])
@pytest.mark.parametrize("kind", ["torch", "old", "safetensors"])
def test_the_first_bytes_say_what_a_file_is_not_its_suffix(tmp_path, name, kind):
    source, path = small(seed=1), tmp_path / name
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "torch")
    assert content(load_weights(small(), path)) == content(source)


def _script(path: Path) -> None:
    torch.jit.script(nn.Conv2d(3, 3, 1)).save(str(path))


def _zip_of_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


OTHERS = {
    "": (b"", "is empty: copy or download it again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a Git LFS pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "is a web page: download the file from its direct address"),
    "page": (b"<HTML><head>", "is a web page"),
    "text": (b"404: Not Found\n", "is a text, which begins '404: Not Found', and no weights"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.6.0:\x80", "is an ONNX model; only weights of PyTorch are read"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "is compressed with gzip: unpack it first"),
    "tar": (b"a" * 257 + b"ustar\x0000" + b"\x00" * 200, "is a tar archive: unpack it first"),
    "matlab": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "is an HDF5 file of MATLAB's; save it with -v7"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them"),
    "script": (_script, r"is a TorchScript archive, which holds code: .*torch\.jit\.load"),
    "npz": (_zip_of_arrays, r"is a zip archive \(of a\.npy\), but no checkpoint of PyTorch"),
    "noise": (b"\x00\x01\x02\x03" * 99, "is damaged or not a PyTorch checkpoint"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_another_kind_of_file_is_named_with_what_to_do(tmp_path, what, suffix):
    made, message = OTHERS[what]
    path = tmp_path / f"w.{suffix}"
    made(path) if callable(made) else path.write_bytes(made)
    refused(path, message)


# --- unsound ones -----------------------------------------------------------------------------------------------------


def changed(name: str, make) -> dict[str, object]:
    """The tensors of a small network, one of which, in the middle, is made into something else."""
    tensors = dict(small(seed=1).state_dict())
    tensors[name] = make(tensors[name])
    return tensors


PLACE = list(small().state_dict())[5]
UNSOUND = {
    "sparse": (lambda t: t.to_sparse(), "is a sparse tensor"),
    "meta": (lambda t: t.to("meta"), "is a meta tensor, which has no values"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is a quantised tensor"),
    "nested": (lambda t: torch.nested.nested_tensor([t, t]), "is a nested tensor"),
    "complex": (lambda t: t.to(torch.complex64), "holds values of type complex64 where the network has float32"),
    "int8": (lambda t: t.to(torch.int8), "holds values of type int8 where the network has float32"),
    "int64": (lambda t: t.to(torch.int64), "holds values of type int64 where the network has float32"),
    "bool": (lambda t: t > 0, "holds values of type bool where the network has float32"),
    "nan": (lambda t: torch.full_like(t, torch.nan), r"holds [\d,]+ of [\d,]+ values that are NaN or infinite"),
    "inf": (lambda t: t.index_fill(0, torch.tensor([0]), torch.inf), "values that are NaN or infinite"),
    "nan in half": (lambda t: torch.full_like(t, torch.nan, dtype=torch.half), "values that are NaN or infinite"),
    "too large for its place": (lambda t: t.double() + 1e300, "values that are NaN or infinite"),
    "expanded": (
        lambda t: t.flatten()[:1].expand(t.numel()).view(t.shape),
        r"claims a tensor of [\d,]+ elements where 1 ",
    ),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch on its own prototypes
@pytest.mark.parametrize("what", UNSOUND)
@pytest.mark.parametrize("zipped", [True, False])
def test_an_unsound_tensor_is_refused_before_the_first_copy(tmp_path, what, zipped):
    make, message = UNSOUND[what]
    tensors = changed(
        PLACE, lambda t: make(t.clone() if what != "expanded" else t.flatten()[:1].clone().expand(t.shape))
    )
    if what == "expanded":
        tensors[PLACE] = torch.zeros(1).expand(tensors[PLACE].shape)
    refused(saved(tmp_path / "w.pth", tensors, _use_new_zipfile_serialization=zipped), message)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double], ids=str)
def test_other_floating_point_types_are_sound(tmp_path, dtype):
    source = small(seed=1)
    path = saved(tmp_path / "w.pth", {k: v.to(dtype) for k, v in source.state_dict().items()})
    loaded = load_weights(small(), path).state_dict()
    assert all(torch.equal(v, source.state_dict()[k].to(dtype).float()) for k, v in loaded.items())


def test_the_whole_number_that_batch_normalisation_counts_is_sound(tmp_path):
    source = nn.BatchNorm2d(3)
    source(torch.rand(2, 3, 4, 4))
    again = load_weights(nn.BatchNorm2d(3), saved(tmp_path / "w.pth", source.state_dict()))
    assert int(again.num_batches_tracked) == 1


def test_keys_that_are_no_names_are_refused(tmp_path):
    refused(saved(tmp_path / "w.pth", {"a": torch.ones(1), ("b", 1): torch.ones(2)}), "one of its keys is a tuple")
    refused(saved(tmp_path / "v.pth", {0: torch.ones(1), 1: torch.ones(2)}), "one of its keys is a int")


def rewritten(path: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive again with entries that ``change`` returns for a name and its bytes."""
    with zipfile.ZipFile(path) as old:
        entries = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, raw in entries.items():
            new.writestr(name, raw)
    return path


def test_a_compressed_archive_is_refused_by_its_size(tmp_path):
    path = saved(tmp_path / "bomb.pth", {"w": torch.zeros(3_000_000)})
    rewritten(path, lambda name, raw: raw, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000
    refused(path, "refused: it unpacks to 12,0.. bytes".replace("..", r"\d\d,\d+"))


def test_storages_that_the_file_has_not_are_refused(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.zeros(1000)})
    refused(rewritten(path, lambda n, raw: raw[:8] if n.endswith("/0") else raw), "4,000 bytes has 8 bytes in the file")
    path = saved(tmp_path / "v.pth", {"w": torch.zeros(1000)}, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-4])
    refused(path, "a storage of 4,000 bytes does not fit into the file")


def test_a_damaged_byte_in_an_archive_is_found_by_its_checksum(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.ones(1000)})
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.float32(1).tobytes() * 9)] ^= 1
    path.write_bytes(raw)
    refused(path, "is damaged or not a PyTorch checkpoint")


def pickled(path: Path, code: bytes) -> Path:
    path.write_bytes(b"\x80\x02" + code)
    return path


PICKLES = {
    "tuples in tuples as a key": (b")" + b"2\x86" * 60 + b"}q\x00" + b"0" + b"}h\x00", None),
    "a long memo": (b"}r\xff\xff\xff\x7f.", None),
    "a long text": (b"}X\xff\xff\xff\x7fa", None),
    "lists in lists": (b"](" + b"](" * 50_000 + b"e" * 50_001 + b".", None),
    "no end": (b"}", None),
    "an extension": (b"\x82\x01.", None),
    "a list of itself": (b"]q\x00h\x00a.", None),
}


@pytest.mark.parametrize("what", PICKLES)
def test_a_pickle_that_is_only_made_to_hurt_is_refused_at_once(tmp_path, what):
    refused(pickled(tmp_path / "w.pth", PICKLES[what][0]), "(damaged|holds no state dict)")


def test_a_key_that_would_take_for_ever_to_hash_is_refused(tmp_path):
    deep = b"}" + b")" + b"2\x86" * 64 + b"N" + b"s."
    refused(pickled(tmp_path / "w.pth", deep), "holds no state dict")


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="no limit of memory")
def test_too_little_memory_is_called_so(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.zeros(100_000_000)})
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, limits[1]))
    try:
        with pytest.raises(MemoryError, match=r"^not enough memory to read w\.pth$"):
            read_state_dict(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_tensors_from_anywhere_are_filled_in_whole_or_not_at_all():
    model = small()
    before = content(model)
    with pytest.raises(ValueError, match=r"^here: .* holds values of type int64"):
        fill(model, changed(PLACE, lambda t: t.long()), "here")
    assert content(model) == before
    fill(model, small(seed=1).state_dict(), "here")
    assert content(model) == content(small(seed=1))


# --- mutations --------------------------------------------------------------------------------------------------------


def mutated(raw: bytes, other: bytes, dice: random.Random) -> bytes:
    """Bytes flipped, cut off, doubled, or taken from another file; most where the structure is."""
    new, kind = bytearray(raw), dice.randrange(5)
    places = [dice.randrange(len(raw)) if dice.random() < 0.5 else dice.randrange(1500) for _ in range(4)]
    if kind < 2:
        for at in places[: dice.randrange(1, 5)]:
            new[at % len(new)] = dice.randrange(256) if kind else new[at % len(new)] ^ (1 << dice.randrange(8))
    elif kind == 2:
        del new[places[0] % len(new) :]
    elif kind == 3:
        start, size = places[0] % len(other), dice.randrange(1, 64)
        new[places[1] % len(new) : places[1] % len(new) + size] = other[start : start + size]
    else:
        new[places[0] % len(new) : places[0] % len(new)] = new[places[1] % len(new) :][: dice.randrange(1, 64)]
    return bytes(new)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("rounds", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_load_whole_or_are_refused_in_one_line(tmp_path, rounds):
    tiny = nn.Sequential(OrderedDict(a=nn.Conv2d(1, 2, 3), b=nn.BatchNorm2d(2)))
    files = {
        "zip": saved(tmp_path / "zip.pth", {"params": tiny.state_dict(), "n": np.float64(1)}),
        "old": saved(tmp_path / "old.pth", tiny.state_dict(), _use_new_zipfile_serialization=False),
        "safe": tmp_path / "safe.safetensors",
    }
    training.save_weights(tiny, files["safe"], {"model": "bsrn", "scale": 2, "config": json.dumps(SIZE)})
    sound, dice, path = [file.read_bytes() for file in files.values()], random.Random(rounds), tmp_path / "mutant.pth"
    most, refusals = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(rounds):
        path.write_bytes(mutated(dice.choice(sound), dice.choice(sound), dice))
        before = content(tiny)
        try:
            load_weights(tiny, path)
            assert all(t.isfinite().all() for t in tiny.state_dict().values())
        except ValueError as error:
            refusals += 1
            assert "\n" not in str(error), error  # noqa: PT017
            assert str(error).startswith("mutant.pth"), error  # noqa: PT017
            assert content(tiny) == before
        try:
            describe(path)
        except ValueError as error:
            assert "\n" not in str(error), error  # noqa: PT017
    assert rounds / 3 < refusals < rounds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 100_000  # kB


@pytest.mark.parametrize("rounds", [30, pytest.param(600, marks=pytest.mark.slow)])
def test_networks_of_mutated_words_are_made_or_refused_in_one_line(tmp_path, rounds):
    trained(tmp_path / "w.safetensors")
    sound, dice, path = (tmp_path / "w.safetensors").read_bytes(), random.Random(rounds), tmp_path / "mutant.pth"
    start = sound.index(b"__metadata__")
    for _ in range(rounds):
        raw = bytearray(sound)
        for _ in range(dice.randrange(1, 4)):
            raw[start + dice.randrange(110)] = dice.choice(b'0123456789{}[]",:abms')
        path.write_bytes(raw)
        try:
            assert create_model(pretrained=path).scale in (1, 2, 3, 4, 8)
        except ValueError as error:
            assert "\n" not in str(error), error  # noqa: PT017
