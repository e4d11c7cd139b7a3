"""Networks by name, and weights files: friendly, damaged, hostile."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nsrlib import create_model, evaluation, list_models, load_weights, models, training
from nsrlib.images import imresize
from nsrlib.models import BUILDERS, PUBLISHED, optimise
from nsrlib.models.bsrn import FusedBSRN
from nsrlib.models.weights import read_state_dict

SMALL = {
    "addersr_edsr": {"num_feats": 8, "num_blocks": 2},
    "addersr_vdsr": {"num_feats": 8, "num_layers": 4},
    "bicubic": {},
    "bsrn": {"num_feats": 16, "num_blocks": 1},
    "bsrn_s": {"num_feats": 16, "num_blocks": 1},
    "edsr": {"num_feats": 8, "num_blocks": 2},
    "edsr_baseline": {"num_feats": 8, "num_blocks": 2},
    "imdn": {"num_feats": 16, "num_blocks": 1},
    "nsr": {"num_feats": 8, "num_blocks": 2, "cardinals": 4},
    "rfdn": {"num_feats": 16, "num_blocks": 1},
    "vdsr": {"num_feats": 8, "num_layers": 4},
    "wdsr": {"num_feats": 8, "num_blocks": 2},
}
SR_NETWORKS = sorted(SMALL)


def small(name: str = "bsrn", scale: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, scale, **SMALL[name])


# --- by name ----------------------------------------------------------------------------------------------------------


def test_the_networks_of_bsrn_are_listed():
    assert set(SR_NETWORKS) <= set(list_models())
    assert list_models() == sorted(BUILDERS)


@pytest.mark.parametrize("name", SR_NETWORKS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(15, 15), (17, 22)], ids=str)
def test_every_network_upscales_a_batch_by_its_scale(name, scale, size):
    model = small(name, scale).eval()  # batch normalisation would mix the batch in training
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    y = model(x)
    assert y.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert y.dtype == x.dtype
    assert model.scale == scale
    assert model.halo >= 3
    assert model.min_size in (1, 15)
    atol = 1e-5 * max(1.0, float(y.detach().abs().max()))  # adder networks are far from [0, 1] before training
    for k in range(2):  # pictures of a batch do not see each other
        torch.testing.assert_close(model(x[k : k + 1])[0], y[k], rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", ["bsrn", "bsrn_s", "rfdn"])
def test_networks_with_esa_name_their_least_size(name):
    model = small(name)
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs at least 15x15 pixels, got 14x20"):
        model(torch.zeros(1, 3, 14, 20))


def test_bicubic_is_imresize_in_double():
    x = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    y = create_model("bicubic", 3)(x)
    torch.testing.assert_close(y, imresize(x.double(), 3).float(), rtol=0, atol=0)
    assert y.dtype == torch.float32


@pytest.mark.parametrize("name", SR_NETWORKS)
def test_optimise_keeps_the_function_and_leaves_the_model_alone(name):
    model = small(name, 3).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(1, 3, 18, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fast = optimise(model)
    expected = copy.deepcopy(model).eval()(x).detach()
    torch.testing.assert_close(fast(x), expected, rtol=0, atol=1e-11)
    assert isinstance(fast, FusedBSRN) == (name == "bsrn")
    assert fast is not model
    assert not fast.training
    assert not any(p.requires_grad for p in fast.parameters())
    assert model.training != (name == "bicubic")
    assert all(p.requires_grad for p in model.parameters())
    assert all(v.is_contiguous() and torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("bsnr",), {}, r"unknown model 'bsnr' \(did you mean 'bsrn'\?\); known: .*bicubic, bsrn, bsrn_s"),
        (("vdsr2000x",), {}, "unknown model 'vdsr2000x'"),
        (("bsrn", 5), {}, "scale of bsrn must be one of 2, 3, 4, got 5"),
        (("bsrn", "2"), {}, "scale of bsrn must be one of 2, 3, 4, got '2'"),
        (("bicubic", 5), {}, "scale of bicubic must be one of 1, 2, 3, 4, 8, got 5"),
        (("bsrn",), {"num_feat": 48}, "bsrn takes no keyword 'num_feat'; accepted: num_feats, num_blocks, conv, esa"),
        (("bicubic",), {"sharp": 1}, "bicubic takes no keyword 'sharp'; accepted: none"),
        (("bsrn",), {"num_feats": 14}, "num_feats must be even and at least 16 .* got 14"),
        (("bsrn",), {"num_feats": 33}, "num_feats must be even and at least 16 .* got 33"),
        (("bsrn",), {"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        (("bsrn",), {"conv": "bsconv"}, "conv must be one of standard, dsconv, bsconv_s, bsconv_u, got 'bsconv'"),
        (("bsrn",), {"act": "swish"}, "activation must be one of gelu, .* got 'swish'"),
        (("imdn", 2, "published"), {}, "no published weights for imdn x2; there are: bsrn x2, bsrn x3, bsrn x4"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_created_is_refused_with_what_can(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        create_model(*args, **kwargs)


def test_a_scale_that_is_a_whole_float_is_that_scale():
    assert create_model("bsrn", 2.0, num_feats=16, num_blocks=1).scale == 2


def test_weights_trained_here_are_asked_for_by_true(tmp_path, monkeypatch):
    monkeypatch.setattr("nsrlib.models.WEIGHTS_DIR", tmp_path)
    with pytest.raises(
        ValueError, match=r"no weights trained here for bsrn x2 \(there are: none yet\); try 'published'"
    ):
        create_model("bsrn", 2, pretrained=True)
    model = small(seed=3)
    save_file(model.state_dict(), tmp_path / "bsrn_x2.safetensors")
    again = create_model("bsrn", 2, pretrained=True, **SMALL["bsrn"])
    assert not again.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    with pytest.raises(ValueError, match=r"bsrn x3 \(there are: bsrn_x2\)"):
        create_model("bsrn", 3, pretrained=True)


@pytest.mark.parametrize("path", sorted(models.WEIGHTS_DIR.glob("*.safetensors")), ids=lambda p: p.stem)
def test_weights_in_the_repository_say_how_they_were_made(path):
    about, beside = models.read_metadata(path), json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 1_000_000
    assert {"model", "scale", "config", "recipe", "data", "seed", "commit", "torch"} <= about.keys()
    assert json.loads(about["recipe"]) == beside["training"]["recipe"]
    model = create_model(about["model"], int(about["scale"]), pretrained=True)
    assert sum(p.numel() for p in model.parameters()) == beside["parameters"]


@pytest.mark.parametrize("path", sorted(models.WEIGHTS_DIR.glob("*.safetensors")), ids=lambda p: p.stem)
def test_weights_in_the_repository_reach_what_is_written_beside_them(path, benchmark):
    beside = json.loads(path.with_suffix(".json").read_text())
    images = benchmark("set5", beside["scale"])
    model = create_model(beside["model"], beside["scale"], pretrained=True)
    measured, kept = evaluation.evaluate(model, images, device="cpu"), beside["measured"]["set5"]
    # written with four and six decimals; processors move the PSNR of such a network by some 1e-4 dB
    assert measured["psnr"].mean() == pytest.approx(kept["psnr"], abs=1e-3)
    assert measured["ssim"].mean() == pytest.approx(kept["ssim"], abs=1e-5)
    assert kept["psnr"] > kept["bicubic_psnr"] + {2: 2, 3: 1.5, 4: 1.5}[beside["scale"]]


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
        ValueError, match=r"evil\.pth refused: it holds pickled objects other than tensors, which can run"
    ):
        load_weights(small(), path)
    assert not (tmp_path / "owned").exists()
    pickle.loads(path.read_bytes()) if wrap == "pickle" else torch.load(path, weights_only=False)  # a real trap
    assert (tmp_path / "owned").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth refused"):
        read_state_dict(tmp_path / "module.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_called_damaged(tmp_path, zipped, share):
    path = tmp_path / "cut.pth"
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"cut\.pth is damaged or not a PyTorch checkpoint$"):
        read_state_dict(path)


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_are_called_damaged_not_dangerous(tmp_path, seed):
    (tmp_path / "noise.pth").write_bytes(random.Random(seed).randbytes(500))
    with pytest.raises(ValueError, match=r"noise\.pth is damaged or not a PyTorch checkpoint"):
        read_state_dict(tmp_path / "noise.pth")


@pytest.mark.parametrize(
    "text",
    ["<!DOCTYPE html><html>404</html>", "404: Not Found", "version https://git-lfs.github.com/spec/v1\n", "hello"],
)
def test_a_page_saved_as_weights_is_called_damaged(tmp_path, text):
    (tmp_path / "page.pth").write_text(text)
    with pytest.raises(ValueError, match=r"page\.pth is damaged or not a PyTorch checkpoint"):
        read_state_dict(tmp_path / "page.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes_load_or_are_called_damaged_but_nothing_else(tmp_path, zipped):
    path = tmp_path / "flipped.pth"
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
    sound, dice = path.read_bytes(), random.Random(0)
    damaged = 0
    for _ in range(60):
        content = bytearray(sound)
        for _ in range(3):
            content[dice.randrange(3000)] = dice.randrange(256)
        path.write_bytes(content)
        try:
            read_state_dict(path)
        except ValueError as error:
            assert str(error).startswith("flipped.pth ")  # noqa: PT017
            damaged += 1
    assert damaged > 5


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"params": {}}], ids=str)
def test_a_checkpoint_without_tensors_by_name_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth holds no state dict \(tensors by name\)"):
        read_state_dict(tmp_path / "odd.pth")


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:4], lambda b: b"\xff" * 16 + b[16:], lambda b: b""])
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


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path):
    torch.save(small("rfdn").state_dict(), tmp_path / "rfdn.pth")
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    message = (
        r"rfdn\.pth does not fit BSRN: \d+ missing \(first B1\.c1_r\.dw\.bias\); "
        r"\d+ unexpected \(first B1\.c1_r\.bias\)"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path / "rfdn.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_another_scale_are_refused_with_both_shapes(tmp_path):
    torch.save(small(scale=4).state_dict(), tmp_path / "x4.pth")
    model = small(scale=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    message = (
        r"x4\.pth does not fit BSRN: 2 of another shape "
        r"\(upsampler\.upsampleOneStep\.0\.bias: file \(48,\), model \(12,\)\)"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path / "x4.pth")
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
    torch.save(small("imdn").state_dict(), tmp_path / "imdn.pth")
    with pytest.raises(ValueError, match=r"imdn\.pth does not fit BSRN: .* missing .* unexpected"):
        load_weights(small(), tmp_path / "imdn.pth", strict=False)


def test_weights_trained_here_bring_the_size_they_were_trained_with(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS_DIR", tmp_path)
    small_one = small("rfdn", 2, seed=3)
    training.save_weights(small_one, tmp_path / "rfdn_x2.safetensors", {"config": json.dumps(SMALL["rfdn"]), "seed": 3})
    again = create_model("rfdn", 2, pretrained=True)
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(small_one.parameters(), again.parameters(), strict=True))
    assert models.read_metadata(tmp_path / "rfdn_x2.safetensors")["seed"] == "3"
    with pytest.raises(ValueError, match="does not fit RFDN"):
        create_model("rfdn", 2, pretrained=True, num_feats=24)


def test_a_path_is_accepted_as_pretrained(tmp_path):
    torch.save(small(seed=5).state_dict(), tmp_path / "mine.pth")
    model = create_model("bsrn", 2, pretrained=tmp_path / "mine.pth", **SMALL["bsrn"])
    assert not model.training
    assert create_model("bsrn", 2, **SMALL["bsrn"]).training


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "scale"), sorted(PUBLISHED), ids=lambda v: str(v))
def test_published_weights_load_with_every_name_and_shape_matching(published, name, scale):
    model = published(name, scale)
    assert not model.training
    assert model.scale == scale
