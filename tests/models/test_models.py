"""Networks by name; files of weights have tests of their own."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nsrlib import create_model, evaluation, list_models, models
from nsrlib.images import imresize
from nsrlib.models import BUILDERS, PUBLISHED, optimise
from nsrlib.models.bsrn import FusedBSRN

SMALL = {
    "addersr_edsr": {"num_feats": 8, "num_blocks": 2},
    "addersr_vdsr": {"num_feats": 8, "num_layers": 4},
    "bicubic": {},
    "bsrn": {"num_feats": 16, "num_blocks": 1},
    "bsrn_s": {"num_feats": 16, "num_blocks": 1},
    "edsr": {"num_feats": 8, "num_blocks": 2},
    "edsr_baseline": {"num_feats": 8, "num_blocks": 2},
    "imdn": {"num_feats": 16, "num_blocks": 1},
    "imdn_ntire22": {"num_feats": 16, "num_blocks": 1},
    "nsr": {"num_feats": 8, "num_blocks": 2, "cardinals": 4},
    "rfdn": {"num_feats": 16, "num_blocks": 1},
    "srcnn": {"num_feats": 6, "num_mid": 4},
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
        (("rfdn", 2, "published"), {}, "no published weights for rfdn x2; there are: bsrn x2, bsrn x3, bsrn x4"),
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


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "scale"), sorted(PUBLISHED), ids=lambda v: str(v))
def test_published_weights_load_with_every_name_and_shape_matching(published, name, scale):
    model = published(name, scale)
    assert not model.training
    assert model.scale == scale
