"""``nsr evaluate`` and ``nsr upscale`` with files of weights: what the file says, what the command says, and both."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nsrlib import cli, create_model, training

SIZE = {"num_feats": 16, "num_blocks": 1}


@pytest.fixture
def nsr(tmp_path, monkeypatch, capsys):
    """``nsr("evaluate", ...)``: exit status, output and errors, in a folder with two pictures, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSRLIB_DATA", raising=False)
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    dice = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        Image.fromarray(dice.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{name}.png")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nsr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def weights(tmp_path) -> Path:
    """A file that says what it is: BSRN x2 of small size."""
    about = {"model": "bsrn", "scale": 2, "config": json.dumps(SIZE)}
    torch.manual_seed(0)
    training.save_weights(create_model("bsrn", 2, **SIZE), tmp_path / "w.safetensors", about)
    return tmp_path / "w.safetensors"


@pytest.fixture
def silent(tmp_path, weights) -> Path:
    """The same tensors in a file that says nothing."""
    torch.save(create_model(pretrained=weights).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def options(size: dict[str, int]) -> list[str]:
    return [word for name, value in size.items() for word in ("-c", f"{name}={value}")]


def test_evaluate_takes_network_scale_and_options_from_the_file(nsr, weights, silent):
    code, said, err = nsr("evaluate", weights, "--on", "pictures")
    assert (code, err) == (0, "")
    assert said.startswith("bsrn x2; ")
    told = nsr("evaluate", silent, "--on", "pictures", "--model", "bsrn", "-s", 2, *options(SIZE))
    same = nsr("evaluate", weights, "--on", "pictures", "--model", "bsrn", "--scale", 2, *options(SIZE))
    numbers = [re.findall(r"([\d.]+) dB, SSIM ([\d.]+)", text) for text in (said, told[1], same[1])]
    assert numbers[0] == numbers[1] == numbers[2] != []


def test_upscale_takes_network_scale_and_options_from_the_file(nsr, weights, silent):
    code, said, err = nsr("upscale", "pictures/a.png", "--weights", weights)
    assert (code, err) == (0, "")
    assert "a.png 44x40 -> pictures/a_x2.png 88x80" in said
    code, _, err = nsr(
        "upscale", "pictures/a.png", "told.png", "--weights", silent, "--model", "bsrn", "-s", 2, *options(SIZE)
    )
    assert (code, err) == (0, "")
    assert Path("told.png").read_bytes() == Path("pictures/a_x2.png").read_bytes()


SAID = r"w\.safetensors: these are x2 weights of bsrn \(num_feats=16, num_blocks=1\), asked for was "


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate w.safetensors --scale 4", f"{SAID}scale=4"),
        ("evaluate w.safetensors --model rfdn", f"{SAID}model=rfdn"),
        ("evaluate w.safetensors -c num_feats=24", f"{SAID}num_feats=24"),
        ("upscale pictures/a.png new.png --weights w.safetensors --scale 3", f"{SAID}scale=3"),
        ("upscale pictures/a.png new.png --weights w.safetensors --model bicubic", f"{SAID}model=bicubic"),
        ("evaluate w.safetensors --noise 25", "noise=25.0 is for networks that keep the size"),
        ("evaluate w.pth", r"w\.pth does not say which network it is: name a model"),
        (
            "evaluate w.pth --model bsrn -c num_feats=16 -c num_blocks=1",
            r"does not fit BSRN: .*these look like x2 weights",
        ),
        (
            "upscale pictures/a.png new.png --weights w.pth -c num_feats=16 -c num_blocks=1",
            "these look like x2 weights",
        ),
        ("evaluate w.pth --model bicubic", r"bicubic has no weights to load: leave out w\.pth"),
        ("evaluate nowhere.pth --model bicubic", r"no such weights file: nowhere\.pth"),
        ("upscale pictures/a.png new.png --weights nowhere.pth --model bicubic", r"no such weights file: nowhere\.pth"),
        ("evaluate published --model bicubic -c sharp=1", "bicubic takes no keyword 'sharp'; accepted: none"),
        ("evaluate w.safetensors -c scale=2", "-c takes options of the network; scale has a place of its own"),
        ("train bsrn -c scale=2", "-c takes options of the network; scale has a place of its own"),
        ("evaluate trained --model bsrn --scale 2 -c num_feats=16", "these are x2 weights of bsrn .*num_feats=16"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_no_picture(nsr, silent, words, message):
    on = ["--on", "pictures"] if words.startswith("evaluate") else []
    code, _, err = nsr(*words.split(), *on)
    assert code == 1
    assert re.fullmatch(rf"nsr: .*{message}.*\n", err), err
    assert not Path("new.png").exists()


@pytest.mark.parametrize("what", ["nan", "int8"])
def test_a_broken_network_makes_no_picture(nsr, silent, what):
    tensors = torch.load(silent)
    name = list(tensors)[-1]
    tensors[name] = torch.full_like(tensors[name], torch.nan) if what == "nan" else tensors[name].to(torch.int8)
    torch.save(tensors, "broken.pth")
    code, said, err = nsr(
        "upscale", "pictures/a.png", "new.png", "--weights", "broken.pth", "--model", "bsrn", "-s", 2, *options(SIZE)
    )
    assert (code, said) == (1, "")
    assert re.fullmatch(rf"nsr: broken\.pth: {re.escape(name)} holds .*\n", err), err
    assert not Path("new.png").exists()


def test_evaluate_without_a_network_is_wrong_usage(nsr):
    code, _, err = nsr("evaluate", "published")
    assert code == 2
    assert "--model: 'published' weights are of which network? See 'nsr models'." in err


def test_a_denoiser_for_gray_that_was_trained_is_evaluated_as_it_is(nsr):
    small = options({"num_feats": 8, "num_blocks": 1, "cardinals": 4, "channels": 1})
    steps = ["-r", "iterations=2", "-r", "batch=2", "-r", "patch=16", "--validate"]
    done = nsr(
        "train", "nsr", "--noise", 25, *small, *steps, "", "--data", "pictures", "--out", "run", "--device", "cpu"
    )
    assert done[0] == 0, done
    code, said, err = nsr("evaluate", "run/weights.safetensors", "--on", "pictures", "--noise", 25)
    assert (code, err) == (0, "")
    assert said.startswith("nsr, Gaussian noise of sigma 25")
    assert " dB, SSIM " in said
