"""Measured cells: kept once, read where their key fits, measured again and compared."""

from __future__ import annotations

import re
import subprocess
from dataclasses import astuple, replace
from pathlib import Path

import pandas as pd
import pytest

from nsrlib import cli, evaluation, files, list_models
from nsrlib.claims import cells, measured, verify
from nsrlib.claims.cells import Cell
from nsrlib.evaluation import Setting
from nsrlib.metrics import RGB, Protocol
from nsrlib.models import BUILDERS, PUBLISHED

STORED = cells.stored()
EMBEDDED = Cell("bicubic", 4, "none", "embedded", "v1:y,crop=4", "v1:scale=4")
BICUBIC = [("Bicubic", "bicubic", 4)]


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """An empty file of cells, and neither data nor a network but what ships with packages."""
    monkeypatch.setattr(cells, "FILE", tmp_path / "data" / "cells.csv")
    monkeypatch.delenv("NSRLIB_DATA", raising=False)
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    return cells.FILE


@pytest.fixture
def one(file) -> pd.DataFrame:
    """A stored cell: bicubic x4 on the embedded photographs."""
    cells.store(cells.rows_of(EMBEDDED, EMBEDDED.measure("cpu")))
    return cells.stored()


def change(**columns: object) -> None:
    """Other contents of columns in the stored file."""
    cells.stored().assign(**columns).to_csv(cells.FILE, index=False)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_rows_are_kept_whole_and_come_back(one):
    table = evaluation.evaluate("bicubic", "embedded", 4, device="cpu")
    assert one.columns.tolist() == cells.COLUMNS
    assert [tuple(row) for row in one[cells.NAME].to_numpy()] == [astuple(EMBEDDED)] * 2
    for name in ("image", "pixels_sha256"):
        assert one[name].tolist() == table[name].tolist()
    assert one["psnr"].tolist() == pytest.approx(table["psnr"].tolist(), abs=1e-6)
    assert one["ssim"].tolist() == pytest.approx(table["ssim"].tolist(), abs=1e-8)
    assert set(one["data_sha256"]) == {table.attrs["sha256"]}
    assert set(one["weights_sha256"]) == {"none"}
    assert set(one["torch"]) == {files.versions()["torch"]}


def test_a_cell_is_kept_once_and_the_file_does_not_depend_on_the_order(file):
    small = replace(EMBEDDED, scale=2, protocol="v1:y,crop=2", setting="v1:scale=2")
    two, four = (cells.rows_of(cell, cell.measure("cpu")) for cell in (small, EMBEDDED))
    cells.store(four)
    cells.store(two)
    once = file.read_bytes()
    cells.store(pd.concat([four, two, four]))
    assert file.read_bytes() == once
    assert cells.stored()["scale"].tolist() == [2, 2, 4, 4]
    cells.store(four.assign(psnr=1.25))
    assert cells.stored()["psnr"].tolist()[2:] == [1.25, 1.25]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_without_a_file_nothing_is_stored(file):
    assert cells.stored().empty
    with pytest.raises(ValueError, match="no stored cell of the model 'bsrn'; there are: none at all"):
        list(verify("bsrn"))


# --- the key ----------------------------------------------------------------------------------------------------------


def test_comments_docstrings_and_layout_are_no_code(tmp_path):
    def of(text: str) -> str:
        (path := tmp_path / "x.py").write_text(text)
        path.touch()
        return cells.syntax_sha256([path])

    code = 'def f(x, y=2):\n    """Add."""\n    return x + y  # why\n'
    same = of(code)
    assert of("# a word\n" + code.replace("Add.", "Sum.").replace("(x, y=2)", "(\n    x,\n    y=2,\n)")) == same
    for old, new in (
        ("x + y", "y + x"),
        ("=2", "=3"),
        ("(x, y", "(y, x"),
        ("return", "'text' +"),
        ('"""Add."""', "x = 0"),
    ):
        assert of(code.replace(old, new)) != same, new


@pytest.mark.parametrize("name", list_models())
def test_the_code_of_every_network_has_a_hash(name):
    scale = BUILDERS[name][1][-1]
    assert re.fullmatch("[0-9a-f]{64}", Cell(name, scale, "published", "set5", "v1:y", "v1:scale=4").code_sha256)


def test_the_hash_of_the_code_tells_networks_of_different_files_apart():
    names = ("bicubic", "vdsr", "rfdn", "imdn", "bsrn", "bsrn_s", "drcn")
    hashes = {name: replace(EMBEDDED, model=name).code_sha256 for name in names}
    files = [("bicubic", "vdsr"), ("rfdn", "imdn"), ("bsrn", "bsrn_s"), ("drcn",)]
    assert [len({hashes[name] for name in file}) for file in files] == [1] * 4
    assert len(set(hashes.values())) == 4


@pytest.mark.parametrize(("name", "scale"), PUBLISHED)
def test_the_hash_of_published_weights_needs_no_file(file, name, scale):
    assert re.fullmatch("[0-9a-f]{64}", replace(EMBEDDED, model=name, scale=scale, weights="published").weights_sha256)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_stored_cell_is_read_and_not_measured(one):
    change(psnr=12.5)
    table = measured(BICUBIC, ["embedded"])
    row = {"model": "Bicubic", "scale": 4, "set": "embedded", "psnr": 12.5, "images": 2, "origin": "stored"}
    row |= {"protocol": "v1:y,crop=4", "setting": "v1:scale=4"}
    assert row.items() <= table.to_dict("records")[0].items()
    assert table.attrs["note"] == "1 stored."
    kept = table.attrs["tables"]["Bicubic", 4, "embedded"]
    assert kept["image"].tolist() == ["chelsea", "coffee"]
    assert kept.attrs["sha256"] == one["data_sha256"][0]
    assert (kept.attrs["dataset"], kept.attrs["scale"], kept.attrs["origin"]) == ("embedded", 4, "stored")


@pytest.mark.parametrize(
    "change_of_key",
    ["code_sha256=other", "data_sha256=other", "weights_sha256=other", "protocol=v1:rgb,crop=4",
     "setting=v1:scale=4,lr=repeat", "model=rfdn", "weights=published"],
)  # fmt: skip
def test_a_cell_with_another_key_is_measured(one, change_of_key):
    column, _, other = change_of_key.partition("=")
    change(psnr=12.5, **{column: other})
    table = measured(BICUBIC, ["embedded"])
    assert table["psnr"].tolist() == pytest.approx([one["psnr"].mean()])
    assert table["origin"].tolist() == ["embedded"]
    assert table.attrs["note"] == "1 measured now."


def test_recompute_measures_whatever_is_stored(one):
    change(psnr=12.5)
    table = measured(BICUBIC, ["embedded"], recompute=True)
    assert table["psnr"].tolist() == pytest.approx([one["psnr"].mean()])
    assert cells.stored()["psnr"].tolist() == [12.5, 12.5]


def test_what_is_stored_is_shown_without_its_data(one):
    change(set="set5")
    for recompute in (False, True):
        table = measured(BICUBIC, ["set5", "Set5"], recompute=recompute)
        assert table["origin"].tolist() == ["stored, data not at hand"] * 2
        assert table["psnr"].tolist() == pytest.approx([one["psnr"].mean()] * 2)
    change(code_sha256="older")
    table = measured(BICUBIC, ["set5"])
    assert table["origin"].tolist() == ["stored, by older code, data not at hand"]
    change(weights_sha256="others")
    assert measured(BICUBIC, ["set5"]).empty


def test_what_is_neither_stored_nor_at_hand_is_named(file):
    table = measured([("BSRN", "bsrn", 3), *BICUBIC], ["embedded", "set5"])
    assert table[["model", "set"]].to_numpy().tolist() == [["Bicubic", "embedded"]]
    assert table.attrs["missing"] == ["net_g_BSRN_x3.pth", "set5"]
    assert table.attrs["note"] == "1 measured now; not at hand: net_g_BSRN_x3.pth, set5."


def test_protocol_setting_and_part_of_a_set_are_as_asked(one):
    table = measured(BICUBIC, ["embedded"], protocol=RGB(4), lr="repeat")
    assert table[["protocol", "setting"]].to_numpy().tolist() == [["v1:rgb,crop=4", "v1:scale=4,lr=repeat"]]
    expected = evaluation.evaluate("bicubic", "embedded", 4, RGB(4), lr="repeat", device="cpu")["psnr"].mean()
    assert table["psnr"].tolist() == pytest.approx([expected])
    change(psnr=[12.5, 99])
    assert measured(BICUBIC, ["embedded"], limit=1)["psnr"].tolist() == [12.5]
    change(code_sha256="other")
    assert measured(BICUBIC, ["embedded"], limit=1)["psnr"].tolist() == pytest.approx([one["psnr"][0]])


def test_restoration_is_compared_on_gray_without_a_crop(file):
    table = measured([("JPEG itself", "bicubic", 1)], ["embedded"], jpeg=10)
    assert table[["protocol", "setting"]].to_numpy().tolist() == [["v1:gray", "v1:jpeg=10"]]
    expected = evaluation.evaluate("bicubic", "embedded", 1, jpeg=10, device="cpu")
    assert table["psnr"].tolist() == pytest.approx([expected["psnr"].mean()])


# --- verification -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nsr(monkeypatch, capsys):
    """``nsr("verify", ...)``: exit status and output of the command in this process."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["nsr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    return run


def test_nsr_verify_measures_again_and_says_so(nsr, one):
    change(code_sha256="older")
    assert nsr("verify", "--device", "cpu") == (
        0,
        f"{EMBEDDED}: bit-equal, 2 images, stored by older code\n1 bit-equal\n",
    )
    assert set(cells.stored()["code_sha256"]) == {"older"}
    assert nsr("verify", "--model", "bicubic", "--on", "embedded", "--store")[0] == 0
    pd.testing.assert_frame_equal(cells.stored(), one)


@pytest.mark.parametrize(
    ("change_by", "verdict"),
    [
        ({"psnr": 0.0009}, "bit-equal"),
        ({"psnr": 0.0011}, "differs"),
        ({"psnr": -0.0011}, "differs"),
        ({"ssim": 0.000009}, "bit-equal"),
        ({"ssim": 0.00002}, "differs"),
        ({"psnr": float("inf")}, "differs"),
    ],
    ids=str,
)
def test_numbers_that_are_too_far_apart_differ(nsr, one, change_by, verdict):
    ((metric, by),) = change_by.items()
    change(**{metric: one[metric] + [0, by]})
    before = cells.FILE.read_bytes()
    code, said = nsr("verify", "--device", "cpu", "--store")
    assert code == (verdict == "differs")
    assert said.splitlines()[-1] == f"1 {verdict}"
    if verdict == "differs":
        assert re.search(r"differs, 1 of 2 images, coffee: \S+ dB, SSIM \S+ stored, \S+ dB, SSIM \S+ now", said)
        assert cells.FILE.read_bytes() == before


def test_other_pixels_with_the_same_numbers_agree(one):
    change(pixels_sha256=[one["pixels_sha256"][0], "other"], psnr=one["psnr"] + 0.0004)
    (check,) = verify(device="cpu")
    assert (check.verdict, check.about) == ("agrees", "1 of 2 images bit-equal, others to 4e-04 dB")


def test_equal_pictures_of_infinite_psnr_verify(file):
    cell = Cell("bicubic", 1, "none", "embedded", "v1:gray", "v1:noise=0")
    cells.store(cells.rows_of(cell, cell.measure("cpu")))
    assert cells.stored()["psnr"].tolist() == [float("inf")] * 2
    assert [check.verdict for check in verify(device="cpu")] == ["bit-equal"]


def test_nsr_verify_names_what_is_missing(nsr, one):
    change(set=["embedded", "set5"])
    code, said = nsr("verify", "--on", "Set5")
    assert (code, said) == (0, f"{replace(EMBEDDED, set='set5')}: not at hand, set5\n1 not at hand\n")
    change(set="embedded", data_sha256="other")
    assert "not at hand, the images here are others" in nsr("verify")[1]
    change(weights_sha256="other")
    code, said = nsr("verify")
    assert code == 1
    assert "differs, the weights are others today" in said


def test_nsr_verify_refuses_what_is_not_stored(nsr, one):
    assert nsr("verify", "--model", "bsrn") == (1, "nsr: no stored cell of the model 'bsrn'; there are: bicubic\n")
    assert nsr("verify", "--on", "set5") == (1, "nsr: no stored cell of the set 'set5'; there are: embedded\n")


def test_nsr_evaluate_stores_whole_sets_of_known_weights(nsr, file, tmp_path):
    command = ("evaluate", "published", "--model", "bicubic", "-s", 4)
    assert nsr(*command, "--on", "embedded", "--store", "--device", "cpu")[0] == 0
    assert [check.verdict for check in verify(device="cpu")] == ["bit-equal"]
    for arguments, message in (
        ((*command, "--on", "embedded", "--limit", 1), "cells are kept of whole sets, got limit=1"),
        (
            (*command, "--on", f"embedded,{tmp_path}"),
            f"cells are kept of named sets, see 'nsr data list', got '{tmp_path}'",
        ),
        (("evaluate", "x.pth", "--model", "bsrn", "--on", "set5"), "'published' or 'trained', got 'x.pth'"),
    ):
        code, said = nsr(*arguments, "--store")
        assert code == 1
        assert message in said
    assert len(cells.stored()) == 2


# --- what the repository keeps ----------------------------------------------------------------------------------------


def test_the_repositorys_cells_are_in_order_and_complete():
    assert STORED.columns.tolist() == cells.COLUMNS
    assert not STORED.duplicated([*cells.NAME, "image"]).any()
    assert STORED[cells.NAME].equals(STORED[cells.NAME].sort_values(cells.NAME, ignore_index=True))
    assert not STORED.drop(columns="isa").isna().any().any()
    for kind, column in ((Protocol, "protocol"), (Setting, "setting")):
        assert [kind.parse(text).signature for text in STORED[column]] == STORED[column].tolist()


def test_the_repositorys_cells_come_from_commits_of_its_history():
    assert not STORED["commit"].str.endswith("-dirty").any()
    if not (files.ROOT / ".git").exists():
        pytest.skip("no history here")
    for commit in STORED["commit"].unique():
        command = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
        assert subprocess.run(command, cwd=files.ROOT, check=False).returncode == 0, commit


def test_published_cells_name_the_weights_that_are_pinned_today():
    for cell in STORED[[*cells.NAME, "weights_sha256"]].drop_duplicates().itertuples(index=False):
        assert Cell(*cell[:6]).weights_sha256 == cell.weights_sha256


def test_the_cells_on_the_photographs_that_ship_with_packages_are_bit_equal():
    assert [check.verdict for check in verify("bicubic", ["embedded"], "cpu")] == ["bit-equal"] * 3


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("model", STORED["model"].unique())
def test_stored_cells_are_what_is_measured_today(model):
    at_hand = [check for check in verify(model) if check.verdict != "not at hand"]
    if not at_hand:
        pytest.skip(f"neither data nor weights of {model} are at hand: set NSRLIB_DATA")
    assert [str(check) for check in at_hand if check.verdict == "differs"] == []
