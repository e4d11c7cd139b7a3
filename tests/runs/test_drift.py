"""``make nbval`` notices a figure that no longer shows what is stored."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from nsrlib import plots
from nsrlib.runs import drift

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbval")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
FIGURE = "import matplotlib.pyplot as plt\nplt.figure(figsize=(4, 2))\nplt.plot([0, 1, 2], [0, {}, 2]);"
VARIES = ["figure:varies"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A notebook executed as ``make notebooks`` does: the same figure in four cells, then a text."""
    folder = tmp_path_factory.mktemp("stored")
    shutil.copy(FOLDER / "conftest.py", folder)
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(FIGURE.format(1)) for _ in range(4)]
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    path = folder / "figures.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return path


def nbval(stored: Path, folder: Path, change) -> subprocess.CompletedProcess[str]:
    """nbval of a copy in which ``change(cells)`` has changed something, but no output."""
    shutil.copy(stored.parent / "conftest.py", folder)
    notebook = nbformat.read(stored, 4)
    change(notebook.cells)
    nbformat.write(notebook, folder / "figures.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-rw", "-p", "no:cacheprovider", "--nbval-lax"]
    command += ["--nbval-current-env", "-c", os.devnull, "--rootdir", str(folder), "figures.ipynb"]
    environment = os.environ | {"NSR_ARTEFACTS": str(folder / "artefacts")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_changed_curve_fails_unless_the_cell_may_vary(stored, tmp_path):
    def change(cells):
        cells[1].source = cells[2].source = FIGURE.format(1.5)
        cells[2].metadata["tags"] = VARIES
        cells[3].source = "1"

    done = nbval(stored, tmp_path, change)
    assert done.returncode == 1, done.stdout
    assert re.search(r"2 failed, 3 passed", done.stdout)
    (pixels,) = re.findall(r"Figure 1 has changed in (\d+) pixels, allowed are 25", done.stdout)
    assert int(pixels) > 100
    assert "0 figures instead of the 1 that are stored" in done.stdout
    assert "make notebooks stores the outputs anew" in done.stdout
    kept = sorted(re.sub(r"-[0-9a-f]{6,}-", "-", p.name) for p in (tmp_path / "artefacts" / "figures").iterdir())
    assert kept == ["figures-1-changed.png", "figures-1-now.png", "figures-1-stored.png"]


class Cell:
    """What nbval gives to the hooks of ``notebooks/conftest.py``."""

    def __init__(self, path: Path, stored: bytes, now: bytes, tags: Sequence[str] = ()) -> None:
        self.path, self.cell_num = path, 0
        self.cell, self.test_outputs = nbformat.from_dict({"metadata": {"tags": list(tags)}}), [output(now)]
        self.cell["outputs"] = [output(stored)]

    def raise_cell_error(self, message: str) -> None:
        raise AssertionError(message)


def output(content: bytes) -> dict:
    return {"output_type": "display_data", "data": {"image/png": base64.b64encode(content).decode()}}


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def hooks(monkeypatch, tmp_path):
    """``notebooks/conftest.py``, and what its wrapper does after a cell was run."""
    spec = importlib.util.spec_from_file_location("hooks", FOLDER / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("NSR_ARTEFACTS", str(tmp_path / "artefacts"))

    def after(item) -> None:
        wrapper = module.pytest_runtest_call(item)
        next(wrapper)
        with pytest.raises(StopIteration):
            wrapper.send(None)

    module.after = after
    return module


@pytest.fixture
def notebook(tmp_path) -> Path:
    """A notebook with a verdict cell that needs Set5."""
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": ["needs:set5"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    return tmp_path / "n.ipynb"


def test_a_figure_is_compared_when_the_data_are_here(hooks, notebook, monkeypatch, tmp_path):
    monkeypatch.setattr(hooks, "is_here", lambda name: True)
    before, after = png(curve()), png(curve(bend=0.03))
    hooks.after(Cell(notebook, before, before))
    hooks.after(Cell(notebook, before, after, ["figure:varies"]))
    with pytest.raises(AssertionError, match=r"Figure 1 has changed in \d+ pixels, allowed are 25.*make notebooks"):
        hooks.after(Cell(notebook, before, after))
    assert len(list((tmp_path / "artefacts" / "figures").glob("n-*.png"))) == 3


def test_without_the_data_no_figure_is_compared_and_a_warning_says_so(hooks, notebook, monkeypatch):
    monkeypatch.setattr(hooks, "is_here", lambda name: False)
    with pytest.warns(UserWarning, match=r"figures of n\.ipynb are not compared: set5 not at hand"):
        hooks.after(Cell(notebook, png(curve()), png(curve(bend=0.03))))


def test_cells_that_may_vary_draw_a_figure():
    for path in FOLDER.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if "figure:varies" in cell["metadata"].get("tags", []):
                assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), cell["source"]


# --- what is a change -------------------------------------------------------------------------------------------------


def rendered(fig) -> np.ndarray:
    fig.canvas.draw()
    picture = np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()
    plt.close(fig)
    return picture


def curve(bend: float = 0.0, title: str = "PSNR 32.35 dB", colour: str = plots.BLUE) -> np.ndarray:
    plots.use_style()
    x = np.linspace(0, 1, 200)
    fig, ax = plt.subplots(figsize=(6, 3))
    ax.plot(x, x**2 + bend * np.exp(-(((x - 0.5) / 0.1) ** 2)), color=colour)
    ax.bar([0.2, 0.4], [0.3, 0.2 + bend], width=0.05, color=plots.ORANGE)
    ax.set(title=title, xlabel="step", ylim=(0, 1))
    return rendered(fig)


def test_the_same_figure_has_not_changed():
    assert not drift.changed_pixels(curve(), curve()).any()


@pytest.mark.parametrize(
    "other",
    [
        {"bend": 0.03},
        {"bend": -0.03},
        {"title": "SSIM 0.9 (luma)"},
        {"title": ""},
        {"colour": plots.GREEN},
    ],
    ids=str,
)
def test_a_changed_curve_bar_word_or_colour_is_seen(other):
    assert drift.changed_pixels(curve(), curve(**other)).sum() > 25


def test_noise_and_a_shift_of_a_pixel_are_not_changes():
    figure = curve()
    noise = np.random.default_rng(0).integers(-40, 41, figure.shape)
    noisy = np.clip(figure.astype(int) + noise, 0, 255).astype(np.uint8)
    assert not drift.changed_pixels(figure, noisy).any()
    assert not drift.changed_pixels(figure, np.roll(figure, (1, -1), (0, 1))).any()
    assert not drift.changed_pixels(figure, curve(bend=1e-4)).any()


def test_figures_of_two_sizes_are_continued_in_white():
    figure = curve()
    assert not drift.changed_pixels(figure, np.pad(figure, ((0, 3), (0, 7), (0, 0)), constant_values=255)).any()
    dark = np.pad(figure, ((0, 9), (0, 0), (0, 0)), constant_values=0)
    assert drift.changed_pixels(figure, dark).sum() >= 7 * figure.shape[1]
