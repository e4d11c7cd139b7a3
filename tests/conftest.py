"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from command import Done, photo
from PIL import Image

from nsrlib import create_model
from nsrlib.data import DataUnavailable, ImageSet, load, weights_path
from nsrlib.images import to_tensor
from nsrlib.models import PUBLISHED

try:
    from hypothesis import settings
except ModuleNotFoundError:  # as on a machine with a GPU and little else: all other tests run
    absent = MagicMock(__spec__=ModuleSpec("hypothesis", None))  # which torch.compile looks for
    absent.given = lambda *_, **__: pytest.mark.skip(reason="needs hypothesis")
    absent.settings = absent.example = lambda *_, **__: lambda test: test
    sys.modules |= {"hypothesis": absent, "hypothesis.strategies": absent.strategies}
else:
    # derandomize: the same examples on every run, as everywhere else in these tests
    settings.register_profile("nsrlib", deadline=None, derandomize=True, max_examples=30)
    settings.load_profile("nsrlib")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "hypothesis: draws its examples (marked so by hypothesis, where it is)")


@lru_cache
def _load(name: str, scale: int | None, lr: str) -> ImageSet:
    return load(name, scale, lr=lr, download=False)


@pytest.fixture
def benchmark():
    """``benchmark(name, scale, lr)``: a data set of this machine; the test is skipped where there is none."""

    def load_or_skip(name: str, scale: int | None = None, lr: str = "paper") -> ImageSet:
        try:
            return _load(name, scale, lr)
        except DataUnavailable:
            pytest.skip(f"{name} not at hand: set NSRLIB_DATA")

    return load_or_skip


@pytest.fixture
def published():
    """``published(name, scale)``: a network with its authors' weights; the test is skipped where there are none."""

    def load_or_skip(name: str, scale: int) -> torch.nn.Module:
        try:
            path = weights_path(PUBLISHED[name, scale], download=False)
        except DataUnavailable:
            pytest.skip(f"{PUBLISHED[name, scale]} not at hand: set NSRLIB_DATA")
        return create_model(name, scale, pretrained=path)

    return load_or_skip


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A photograph that comes with scikit-image, ``uint8`` ``(512, 512, 3)``."""
    from skimage import data

    return data.astronaut()


@pytest.fixture
def natural(astronaut):
    """``natural(h, w, n, dtype)``: ``n`` pieces of a photograph, ``(n, 3, h, w)`` in [0, 1]."""

    def cut(h: int, w: int, n: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        pieces = [astronaut[60 * k : 60 * k + h, 150 + 40 * k : 150 + 40 * k + w] for k in range(n)]
        return torch.cat([to_tensor(piece) for piece in pieces]).to(dtype)

    return cut


@pytest.fixture
def figure_style():
    """The style of the notebooks' figures, and no figure left."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    from nsrlib import plots

    with mpl.rc_context():
        plots.use_style()
        yield
        plt.close("all")


@pytest.fixture
def nsr(tmp_path, monkeypatch, capsys):
    """``nsr("evaluate", ...)``: the command in this process, in an empty folder, without data, cache and network."""
    from nsrlib import cli

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("NSRLIB_DATA", raising=False)
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    for name in ("HOME", "USER"):  # put back at the end, for the command may change them
        monkeypatch.setenv(name, os.environ.get(name, str(work)))

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["nsr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return Done(stop.value.code or 0, said.out, said.err)

    return run


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(photo(32, 40, 3)).save(folder / "a.png")
    Image.fromarray(photo(36, 32, 3, seed=1)).save(folder / "b.png")
    return folder
