"""DRCN's notebook, whatever of its optional files is at hand: made-up pictures and weights stand for them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.display import display
from PIL import Image
from skimage.data import chelsea
from tf_files import tf_weights, write_checkpoint

from nsrlib.data.download import sources
from nsrlib.papers.drcn import jiny

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "drcn.ipynb"
PICTURES = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100}
SRCNN = {
    "weights_conv1": (81, 64), "weights_conv2": (64, 25, 32), "weights_conv3": (32, 25),
    "biases_conv1": (64, 1), "biases_conv2": (32, 1), "biases_conv3": (1, 1),
}  # fmt: skip


def write_pictures(folder: Path, name: str) -> None:
    """So many as the set has, in a layout that is found, of contents that nobody knows."""
    (folder / name / "HR").mkdir(parents=True)
    cat = chelsea()[:, 20:]
    for k in range(PICTURES[name]):
        Image.fromarray(cat[k : k + 24, k : k + 24]).save(folder / name / "HR" / f"{k:03d}.png", compress_level=1)


def write_weights(folder: Path, what: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    if what == "checkpoint":
        write_checkpoint(folder / jiny.CHECKPOINT, tf_weights())
        return list(jiny.FILES)
    savemat = pytest.importorskip("scipy.io").savemat
    dice = np.random.default_rng(0)
    names = [f"SRCNN_955_x{scale}.mat" for scale in (2, 3, 4)]
    for name in names:
        savemat(folder / name, {key: 0.01 * dice.standard_normal(shape) for key, shape in SRCNN.items()})
    return names


@pytest.fixture
def at_hand(tmp_path, monkeypatch, figure_style):
    """``at_hand("BSD100", "checkpoint", ...)``: these files, Set5 and Set14 are all that this machine has."""
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")

    def write(*names: str) -> None:
        pinned = dict(sources())
        for name in ("Set5", "Set14", *names):
            if name in PICTURES:
                write_pictures(tmp_path / "data", name)
                continue
            for file in write_weights(tmp_path / "data" / "weights", name):
                if source := pinned.get(f"weights/{file}"):  # these stand for the pinned ones
                    content = (tmp_path / "data" / source.path).read_bytes()
                    same = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                    pinned[source.path] = dataclasses.replace(source, **same)
        monkeypatch.setattr("nsrlib.data.download.sources", lambda: pinned)

    return write


def run(*headings: str) -> dict[str, Any]:
    """The parameters, the set-up and these sections, as a reader runs them; what they leave."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict[str, Any] = {"display": display, "metric": "psnr_set5", "duels": {}}
    wanted = False
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            wanted = text.startswith(headings) if text.startswith("## ") else wanted
        elif wanted:
            exec(compile(text, f"drcn.ipynb, {cell['id']}", "exec"), names)
    return names


@pytest.mark.parametrize(
    "there",
    [
        ("BSD100", "Urban100", "checkpoint", "SRCNN"),
        (),
        *(pytest.param((name,), marks=pytest.mark.slow) for name in ("BSD100", "Urban100", "checkpoint", "SRCNN")),
    ],
    ids=lambda there: ", ".join(there) or "nothing",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_combination_of_optional_files_fails_and_pictures_of_no_known_hash_contradict_nothing(
    at_hand, there, capsys
):
    at_hand(*there)
    names = run("## Parameters", "## 7. ", "## 9. ", "## 13. ")
    said, ledger = capsys.readouterr().out, names["session"].ledger
    assert ("Skipped: needs jiny2001's checkpoint." in said) == ("checkpoint" not in there)
    assert len(names["found"]) == (4 if "checkpoint" in there else 0)
    for column, folder in (("B100", "BSD100"), ("Urban100", "Urban100"), ("Set5", "Set5")):
        row = ledger.rows[f"table1/Bicubic/x2/{column}/psnr"]
        have = "only an unverified copy of {} is at hand" if folder in ("Set5", *there) else "{} is not at hand"
        assert (row["verdict"], row["reason"]) == ("open", have.format(column))
    assert ledger.finish() == "0 numbers measured, 0 differ, each with a reason"
