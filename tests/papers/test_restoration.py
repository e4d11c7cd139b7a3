"""Denoising and deblocking: degradations that repeat themselves, patches, scores, references, and the commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from nsrlib import claims, cli, create_model, studies
from nsrlib.data import Pair, load
from nsrlib.data.patches import Patches
from nsrlib.evaluation import Setting, evaluate, takes_gray
from nsrlib.images import Degradation, imresize, jpeg, to_uint8
from nsrlib.metrics import GRAY, RGB, psnr, ssim
from nsrlib.papers import Job
from nsrlib.papers.nsr import restoration
from nsrlib.papers.nsr.references import measure
from nsrlib.studies import StudyResult


def photo(*shape: int, seed: int = 0) -> np.ndarray:
    """A smooth picture ``uint8``."""
    coarse = np.random.default_rng(seed).random((6, 7, *shape[2:]))
    return np.round(imresize(coarse, size=shape[:2]).clip(0, 1) * 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two colour pictures and a gray one."""
    place = tmp_path / "pictures"
    place.mkdir()
    for k, shape in enumerate([(40, 44, 3), (37, 50, 3), (48, 36)]):
        Image.fromarray(photo(*shape, seed=k)).save(place / f"p{k}.png")
    return place


def small_dncnn(**config) -> nn.Module:
    torch.manual_seed(0)
    return create_model("dncnn", **{"num_feats": 8, "num_layers": 3, **config}).eval()


# --- degradations -----------------------------------------------------------------------------------------------------


def test_noise_follows_from_name_level_and_seed():
    img = photo(50, 60)
    task = Degradation(noise=25)
    noisy = task.apply(img, "01")
    np.testing.assert_array_equal(noisy, task.apply(img, "01"))
    residuals = {"first": noisy - img / 255}
    residuals["name"] = task.apply(img, "02") - img / 255
    residuals["seed"] = Degradation(noise=25, seed=1).apply(img, "01") - img / 255
    residuals["level"] = (Degradation(noise=50).apply(img, "01") - img / 255) / 2
    for residual in residuals.values():  # five standard errors of a standard deviation
        assert abs(residual.std() * 255 / 25 - 1) < 5 / (2 * residual.size) ** 0.5
    together = np.corrcoef([r.ravel() for r in residuals.values()])
    assert np.abs(together - np.eye(4)).max() < 5 / img.size**0.5
    assert noisy.min() < 0 or noisy.max() > 1  # not clipped


def test_the_noise_of_an_image_stays_what_it_is():  # stored numbers hang on it
    noise = Degradation(noise=25).apply(np.zeros((1, 2), np.uint8), "01") * 255
    np.testing.assert_allclose(noise, [[26.66354451207693, 33.306771174153745]], rtol=1e-12)


def test_jpeg_is_the_encoders():
    img = photo(40, 30)
    np.testing.assert_array_equal(Degradation(jpeg=10).apply(img, "any"), jpeg(img, 10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise": 25}, "Gaussian noise of sigma 25, not clipped, from each image's name and seed 0"),
        ({"noise": 12.5, "seed": 3}, "Gaussian noise of sigma 12.5, not clipped, from each image's name and seed 3"),
        ({"jpeg": 10}, "JPEG of quality 10 (Pillow)"),
    ],
    ids=str,
)
def test_a_degradation_says_what_it_does(arguments, words):
    assert str(Degradation(**arguments)) == words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of noise and jpeg, got noise=None and jpeg=None"),
        ({"noise": 25, "jpeg": 10}, "give one of noise and jpeg, got noise=25 and jpeg=10"),
        ({"noise": -1}, "noise must be a standard deviation between 0 and 255, got -1"),
        ({"noise": 256}, "noise must be a standard deviation between 0 and 255, got 256"),
        ({"noise": float("nan")}, "noise must be a standard deviation between 0 and 255, got nan"),
        ({"noise": True}, "noise must be a standard deviation between 0 and 255, got True"),
        ({"noise": "25"}, "noise must be a standard deviation between 0 and 255, got '25'"),
        ({"jpeg": 0}, "jpeg must be a whole quality from 1 to 100, got 0"),
        ({"jpeg": 101}, "jpeg must be a whole quality from 1 to 100, got 101"),
        ({"jpeg": 10.0}, "jpeg must be a whole quality from 1 to 100, got 10.0"),
        ({"jpeg": True}, "jpeg must be a whole quality from 1 to 100, got True"),
    ],
    ids=str,
)
def test_impossible_degradations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Degradation(**arguments)


# --- patches ----------------------------------------------------------------------------------------------------------


def test_patches_lie_on_the_image_that_was_compressed_as_a_whole():
    clean = photo(24, 33, seed=4)
    compressed = jpeg(clean, 10)
    batch = Patches([Pair("a", None, clean)], 11, jpeg=10, augment=False).batch(40, 0)
    places = {clean[i : i + 11, j : j + 11].tobytes(): (i, j) for i in range(14) for j in range(23)}
    assert len(places) == 14 * 23
    for x, y in zip(batch.input, batch.target, strict=True):
        i, j = places[to_uint8(y[None]).tobytes()]
        np.testing.assert_array_equal(to_uint8(x[None]), compressed[i : i + 11, j : j + 11])


def test_every_image_has_its_own_quality_of_a_range_by_its_name():
    clean = photo(16, 16)
    by_name = {}
    for k in range(40):
        x = to_uint8(Patches([Pair(str(k), None, clean)], 16, jpeg=(20, 23), augment=False).batch(1, 0).input)
        by_name[k] = [q for q in range(1, 101) if np.array_equal(x, jpeg(clean, q))]
    found = {q for qualities in by_name.values() for q in qualities}
    assert all(by_name.values())
    assert {20, 23} <= found
    again = to_uint8(Patches([Pair("7", None, clean)], 16, jpeg=(20, 23), augment=False).batch(1, 9).input)
    assert any(np.array_equal(again, jpeg(clean, q)) for q in by_name[7])


def test_the_hash_tells_qualities_apart():
    pairs = [Pair("a", None, photo(9, 9))]
    hashes = {
        Patches(pairs, 4, **kwargs).sha256 for kwargs in ({"jpeg": 10}, {"jpeg": 11}, {"jpeg": (10, 11)}, {"noise": 10})
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("pair", "arguments", "message"),
    [
        (Pair("a", None, photo(9, 9)), {"jpeg": 0}, "jpeg must be a whole quality from 1 to 100, got 0"),
        (Pair("a", None, photo(9, 9)), {"jpeg": (40, 10)}, r"from 1 to 100, or a rising range, got \(40, 10\)"),
        (Pair("a", None, photo(9, 9)), {"jpeg": (10, 101)}, "jpeg must be a whole quality from 1 to 100, got 101"),
        (Pair("a", None, photo(9, 9)), {"jpeg": 10, "noise": 25}, "give one of noise and jpeg, got noise=25 and"),
        (Pair("a", None, photo(9, 9)), {}, "load the set at a scale, or give noise or jpeg"),
        (
            Pair("a", photo(4, 4), photo(8, 8)), {"jpeg": 10},
            "jpeg is for sets without a scale, but a has a low-resolution image",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_patches_are_refused(pair, arguments, message):
    with pytest.raises(ValueError, match=message):
        Patches([pair], 4, **arguments)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degradation", [{"noise": 25}, {"jpeg": 10}], ids=str)
def test_evaluate_measures_gray_without_crop(folder, degradation):
    model = small_dncnn()
    table = evaluate(model, folder, device="cpu", fast=False, **degradation)
    task = Degradation(**degradation)
    assert table.attrs["setting"] == Setting(**degradation, fast=False).signature
    assert table.attrs["protocol"] == GRAY().signature
    for row, pair in zip(table.itertuples(), load(folder, gray=True), strict=True):
        degraded = task.apply(pair.hr, pair.name)
        x = torch.from_numpy(degraded).float()[None, None] / (255 if degraded.dtype == np.uint8 else 1)
        restored = to_uint8(model(x))
        assert row.psnr == pytest.approx(psnr(restored, pair.hr, GRAY()), abs=1e-9)
        assert row.ssim == pytest.approx(ssim(restored, pair.hr, GRAY()), abs=1e-9)


def test_the_noise_of_a_table_is_another_with_another_seed(folder):
    first, again, other = (evaluate("bicubic", folder, noise=25, noise_seed=s)["psnr"].tolist() for s in (0, 0, 1))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_networks_that_take_colour_are_measured_in_colour(folder):
    colour = load(folder, limit=2)
    table = evaluate(small_dncnn(channels=3), colour, noise=25)
    assert table.attrs["protocol"] == RGB().signature
    by_name = evaluate(small_dncnn(channels=3), folder, noise=25, limit=2)
    assert table["psnr"].tolist() == by_name["psnr"].tolist()


def test_tasks_that_do_not_fit_are_refused(folder):
    gray, colour, upscaler = small_dncnn(), small_dncnn(channels=3), create_model("bicubic", 2)
    with pytest.raises(ValueError, match=r"noise=25 is for networks that keep the size \(scale 1\), .* upscales by 2"):
        evaluate(upscaler, folder, noise=25)
    with pytest.raises(ValueError, match=r"jpeg=10 is for networks that keep the size"):
        evaluate("bicubic", folder, 2, jpeg=10)
    with pytest.raises(ValueError, match="give one of noise and jpeg, got noise=25 and jpeg=10"):
        evaluate(gray, folder, noise=25, jpeg=10)
    with pytest.raises(ValueError, match="jpeg must be a whole quality from 1 to 100, got 0"):
        evaluate(gray, folder, jpeg=0)
    with pytest.raises(ValueError, match="loaded in colour, but the model takes gray: load it with gray=True"):
        evaluate(gray, load(folder), noise=25)
    with pytest.raises(ValueError, match="loaded in gray, but the model takes colour: load it with gray=False"):
        evaluate(colour, load(folder, gray=True), noise=25)
    with pytest.raises(ValueError, match=r"no low-resolution images at scale 1: .* or give noise or jpeg"):
        evaluate(gray, load(folder, gray=True))
    with pytest.raises(ValueError, match=r"the model upscales by 1, but .* was loaded at scale 2"):
        evaluate(gray, load(folder, 2, gray=True), noise=25)


# --- DnCNN ------------------------------------------------------------------------------------------------------------


def test_dncnn_has_the_size_and_the_names_of_the_released_file():
    model = create_model("dncnn")
    assert model.scale == 1
    assert sum(p.numel() for p in model.parameters()) == 64 * 10 + 15 * 64 * (64 * 9 + 1) + 64 * 9 + 1 == 555_137
    assert list(model.state_dict()) == [f"model.{2 * k}.{part}" for k in range(17) for part in ("weight", "bias")]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_dncnn_takes_off_what_it_predicts(batch_norm, channels):
    model = small_dncnn(batch_norm=batch_norm, channels=channels, num_layers=5)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 3 * batch_norm
    x = torch.rand(2, channels, 9, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), x - model.model(x))
    nn.init.zeros_(model.model[-1].weight)
    assert torch.equal(model(x), x)


def test_dncnn_sees_exactly_its_halo():
    model = small_dncnn(num_layers=4).double()
    x = torch.rand(1, 1, 21, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = x.clone().requires_grad_()
    model(moved)[0, 0, 10, 10].backward()
    seen = moved.grad[0, 0].nonzero()
    assert (seen - 10).abs().max() == model.halo == 4


def test_impossible_dncnns_and_inputs_are_refused():
    with pytest.raises(ValueError, match="num_layers must be at least 3"):
        create_model("dncnn", num_layers=2)
    with pytest.raises(ValueError, match="scale of dncnn must be one of 1, got 2"):
        create_model("dncnn", 2)
    with pytest.raises(ValueError, match=r"DnCNN takes \(N, 1, H, W\), got \(1, 3, 8, 8\)"):
        small_dncnn()(torch.rand(1, 3, 8, 8))


@pytest.mark.benchmark
def test_the_released_dncnn_removes_the_noise_of_a_picture(published, benchmark):
    table = evaluate(published("dncnn", 1), benchmark("set12")[:1], noise=25, device="cpu")
    assert table["psnr"].mean() == pytest.approx(30.143, abs=0.001)


@pytest.mark.slow
@pytest.mark.benchmark
def test_the_released_dncnn_removes_the_noise_of_the_small_pictures_of_set12(published, benchmark):
    table = evaluate(published("dncnn", 1), benchmark("set12")[:7], noise=25, device="cpu")
    assert table["psnr"].mean() == pytest.approx(30.345, abs=0.015)  # another noise moves it by 0.006


@pytest.mark.benchmark
@pytest.mark.parametrize(("quality", "printed"), [(10, "27.82"), (20, "30.12"), (30, "31.48"), (40, "32.43")], ids=str)
def test_jpeg_itself_reaches_the_published_numbers_of_classic5(benchmark, quality, printed):
    images = benchmark("classic5")
    assert f"{evaluate('bicubic', images, jpeg=quality)['psnr'].mean():.2f}" == printed
    assert claims.published("nsr").set_index("id")["value"][f"table6/JPEG/classic5/q{quality}/psnr"] == printed


# --- references -------------------------------------------------------------------------------------------------------


def test_non_local_means_removes_noise(folder):
    before, after = (
        measure(method=method, tests=[(str(folder), {"noise": 25})], seed=0) for method in ("input", "non-local means")
    )
    assert after[f"psnr {folder} noise 25"] > before[f"psnr {folder} noise 25"] + 3
    assert after[f"images {folder} noise 25"] == 3


def test_sets_and_weights_that_are_not_at_hand_are_left_out(folder, monkeypatch):
    monkeypatch.setenv("NSRLIB_DATA", "")
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    monkeypatch.setenv("NSRLIB_CACHE", str(folder / "cache"))
    tests = [("set12", {"noise": 25}), (str(folder), {"noise": 25})]
    found = measure(method="input", tests=tests, seed=0, limit=1)
    assert list(found) == [f"{metric} {folder} noise 25" for metric in ("psnr", "ssim", "seconds", "images")]
    assert measure(method="DnCNN", tests=tests, seed=0, limit=1) == {}


@pytest.mark.parametrize(
    ("method", "task", "message"),
    [
        ("WNNM", {"noise": 25}, "method must be one of input, non-local means, DnCNN, got 'WNNM'"),
        ("DnCNN", {"jpeg": 10}, "DnCNN removes noise; there is no reference but 'input' for JPEG"),
        ("DnCNN", {"noise": 15}, "DnCNN's released weights are for noise=25, got noise=15"),
        ("non-local means", {"noise": 0}, "noise must be a standard deviation above 0 and up to 255"),
    ],
)  # fmt: skip
def test_references_that_cannot_be_had_are_refused(method, task, message):
    with pytest.raises(ValueError, match=message):
        restoration.reference(method, Degradation(**task))


def test_only_whole_sets_stand_beside_published_cells():
    def row(method, name, task, images, value):
        return {"method": method, "set": name, "task": task, "psnr": value, "images": images}

    rows = pd.DataFrame(
        [
            row("DnCNN", "set12", "noise 25", 12, 30.0),
            row("DnCNN", "bsd68", "noise 25", 67, 29.0),
            row("input", "set12", "noise 25", 12, 20.0),
            row("input", "classic5", "jpeg 10", 5, 27.0),
            row("input", "classic5", "jpeg 15", 5, 28.0),
            row("DnCNN", "bsd68", "noise 50", 68, 25.0),
            row("non-local means", "set12", "noise 25", 12, 28.0),
        ]
    )
    assert restoration.cells(rows) == {
        "table5/DnCNN/Set12/sigma25/psnr": 30.0,
        "table6/JPEG/classic5/q10/psnr": 27.0,
        "table5/DnCNN/BSD68/sigma50/psnr": 25.0,
    }


def test_a_study_of_references_becomes_rows():
    def run(variant, seed, **metrics):
        return {"variant": variant, "seed": seed, **metrics}

    def noisy(value):
        return {"psnr set12 noise 25": value, "ssim set12 noise 25": 0.5, "images set12 noise 25": 12}

    jpeg10 = {"psnr classic5 jpeg 10": 27.0, "ssim classic5 jpeg 10": 0.75, "images classic5 jpeg 10": 5}
    runs = [run("input", s, **noisy(20.0), **jpeg10) for s in (0, 1)] + [
        run("DnCNN", s, **noisy(30.0 + s)) for s in (0, 1)
    ]
    rows = restoration.rows_of(StudyResult.of_rows("references", runs))
    assert rows[["method", "set", "task", "psnr", "ssim", "images"]].to_numpy().tolist() == [
        ["input", "set12", "noise 25", 20.0, 0.5, 12],
        ["input", "classic5", "jpeg 10", 27.0, 0.75, 5],
        ["DnCNN", "set12", "noise 25", 30.5, 0.5, 12],
    ]
    assert rows["sd"].tolist() == pytest.approx([0, 0, 0.5**0.5])
    assert list(restoration.rows_of(None).columns) == list(rows.columns)
    assert restoration.cells(restoration.rows_of(None)) == {}


def test_measuring_a_reference_gives_a_number_for_every_test(folder):
    tests = [(str(folder), {"noise": 15}), (str(folder), {"jpeg": 40})]
    found, other = (measure(method="input", tests=tests, seed=seed, limit=1) for seed in (0, 1))
    assert {name.split()[0] for name in found} == {"psnr", "ssim", "seconds", "images"}
    assert len(found) == 2 * 4
    noise, compressed = (next(k for k in found if k.startswith("psnr") and task in k) for task in ("noise", "jpeg"))
    assert found[noise] != other[noise]
    assert found[compressed] == other[compressed]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degradation", [{"noise": 25}, {"jpeg": 10}], ids=str)
def test_the_usual_task_of_studies_restores(degradation, tmp_path):
    settings = {
        "model": "dncnn", "scale": 1, "config": {"num_feats": 4, "num_layers": 3}, "train": ["embedded_train"],
        "test": ["embedded"], "recipe": {"iterations": 2, "batch": 2, "patch": 16}, "points": 1, "limit": 1,
        "degradation": degradation,
    }  # fmt: skip
    first, again = (studies.train_and_score(seed=0, out=str(tmp_path / str(k)), **settings) for k in range(2))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert first["curve"][-1]["psnr"] == pytest.approx(first["scores"][0]["psnr"], abs=1e-3)
    with pytest.raises(ValueError, match="is for sets without a scale"):
        studies.train_and_score(seed=0, **settings | {"scale": 2, "model": "vdsr", "config": {}})


def test_a_colour_network_learns_from_colour():
    assert takes_gray(small_dncnn(channels=3)) is None
    assert takes_gray(small_dncnn()) is True
    assert takes_gray(create_model("vdsr", 1, num_feats=4, num_layers=3)) is True


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["nsr", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return stop.value.code or 0, said.out, said.err


def test_nsr_evaluate_restores(folder, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "evaluate", "published", "--model", "bicubic", "--on", folder, "--jpeg", 10)
    assert code == 0
    psnr_db = evaluate("bicubic", folder, jpeg=10)["psnr"].mean()
    assert out.startswith("bicubic, JPEG of quality 10 (Pillow); gray plane; crop 0 px")
    assert f": {psnr_db:.3f} dB" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", 25, "--jpeg", 10], r"give one of noise and jpeg, got noise=25\.0 and jpeg=10"),
        (["--jpeg", 0], "jpeg must be a whole quality from 1 to 100, got 0"),
        (["--noise", 25, "--scale", 2], r"noise=25\.0 is for networks that keep the size"),
    ],
    ids=str,
)
def test_nsr_evaluate_says_what_does_not_fit(folder, monkeypatch, capsys, options, message):
    code, _, err = run(monkeypatch, capsys, "evaluate", "published", "--model", "bicubic", "--on", folder, *options)
    assert code == 1
    assert re.fullmatch(rf"nsr: .*{message}.*\n", err), err


TINY = ["--profile", "quick", "-r", "iterations=2", "-r", "batch=2", "-r", "patch=16", "-c", "num_feats=4"]


def test_nsr_train_restores(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ("train", "dncnn", "--data", folder, *TINY, "-c", "num_layers=3", "--validate", folder)
    code, out, err = run(monkeypatch, capsys, *common, "--noise", "0,55")
    assert code == 0, err
    assert "dB on" in out
    weights = tmp_path / "runs" / "train-dncnn-x1-noise0,55" / "weights.safetensors"
    assert weights.is_file()
    code, out, err = run(monkeypatch, capsys, *common, "--jpeg", "10,40", "--out", "blocks")
    assert code == 0, err
    assert (tmp_path / "blocks" / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "loud"], "--noise takes a number or a range such as 10,40, got 'loud'"),
        (["--jpeg", "10,20,30"], "--jpeg takes a number or a range such as 10,40, got '10,20,30'"),
        (["--jpeg", "200"], "jpeg must be a whole quality from 1 to 100, got 200"),
        (["--noise", "25", "--jpeg", "10"], r"give one of noise and jpeg, got noise=25\.0 and jpeg=10"),
        (["--scale", "1"], "scale 1 leaves nothing to learn: give noise or jpeg to undo"),
        (["--noise", "25", "--scale", "2"], "scale of dncnn must be one of 1, got 2"),
    ],
    ids=str,
)
def test_nsr_train_says_what_does_not_fit(folder, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(
        monkeypatch, capsys, "train", "dncnn", "--data", folder, *TINY, "-c", "num_layers=3", "--validate", "", *options
    )
    assert code == 1
    assert re.fullmatch(rf"nsr: .*{message}.*\n", err), err
    assert not list(tmp_path.glob("runs/*/weights.safetensors"))


@pytest.mark.parametrize(("level", "middle"), [(25, 25), ((10, 40), 25), ((10, 41), 25), ((0.0, 55.0), 27.5)], ids=str)
def test_validation_has_the_middle_of_a_range(level, middle):
    assert Job("dncnn", 1, noise=level).task == {"noise": middle}
