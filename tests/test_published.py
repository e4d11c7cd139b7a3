"""The published numbers under data/published/: the form of every file, and cells typed a second time."""

import csv
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from nsrlib import claims

FOLDER = Path(__file__).resolve().parents[1] / "data" / "published"
FILES = sorted(path for path in FOLDER.glob("*.csv") if path.stem != "claims")
COLUMNS = ["id", "table", "row", "column", "scale", "metric", "value", "unit", "source", "own", "needs"]
PAPERS = {"nsr", "addersr", "bsrn", "drcn", "drn"}
SCALES = {"", "2", "3", "4", "8"}  # empty: the number belongs to no magnification
UNITS = {  # the units each metric may be printed in; a paper that measures something else adds it here
    "psnr": {"dB"},
    "val_psnr": {"dB"},
    "test_psnr": {"dB"},
    "ssim": {"1"},
    "energy_ratio": {"1"},
    "unpaired_share": {"1"},
    "params": {"K", "M", "1"},
    "params_change_percent": {"%"},
    "multi_adds": {"G"},
    # how many times as large one network is as another, told in words
    "params_ratio": {"1"},
    "multi_adds_ratio": {"1"},
    "flops": {"G"},
    "acts": {"M"},
    "memory": {"M"},
    "time": {"ms", "s"},
    "convs": {"1"},
    "receptive_field": {"px"},
    # places in the NTIRE 2022 ranking, printed in parentheses beside the value they rank
    "time_rank": {"1"},
    "params_rank": {"1"},
    "flops_rank": {"1"},
    "acts_rank": {"1"},
    "memory_rank": {"1"},
    "track1_sum": {"1"},
    "track1_rank": {"1"},
}
BSRN_SETS = ["Set5", "Set14", "B100", "Urban100", "Manga109"]


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = list(reader)
    return reader.fieldnames, rows


@pytest.fixture(scope="module")
def bsrn():
    """The rows of the BSRN paper by id."""
    return {row["id"]: row for row in read(FOLDER / "bsrn.csv")[1]}


def test_there_are_published_numbers():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
class TestForm:
    def test_the_file_is_named_after_a_paper_or_the_protocol(self, path):
        assert path.stem in PAPERS | {"protocol"}  # protocol: what others measured with our metrics

    def test_columns_are_the_agreed_ones(self, path):
        names, rows = read(path)
        assert names == COLUMNS
        assert rows
        assert all(set(row) == set(COLUMNS) and None not in row.values() for row in rows), "a row is too long or short"

    def test_no_cell_has_blanks_around_it(self, path):
        assert all(cell == cell.strip() for row in read(path)[1] for cell in row.values())

    def test_ids_are_unique(self, path):
        assert [name for name, n in Counter(row["id"] for row in read(path)[1]).items() if n > 1] == []

    def test_no_number_is_given_twice(self, path):
        keys = Counter(tuple(row[k] for k in ("table", "row", "column", "scale", "metric")) for row in read(path)[1])
        assert [key for key, n in keys.items() if n > 1] == []

    def test_every_value_is_a_plain_decimal_number(self, path):
        for row in read(path)[1]:
            assert re.fullmatch(r"-?\d+(\.\d+)?", row["value"]), row
            assert Decimal(row["value"]).is_finite()

    def test_every_metric_has_one_of_its_units(self, path):
        for row in read(path)[1]:
            assert row["metric"] in UNITS, row
            assert row["unit"] in UNITS[row["metric"]], row

    def test_every_scale_is_one_that_the_papers_use(self, path):
        assert {row["scale"] for row in read(path)[1]} <= SCALES

    def test_every_number_names_its_table_row_column_and_source(self, path):
        for row in read(path)[1]:
            assert all(row[name] for name in ("id", "table", "row", "column", "source")), row

    def test_every_number_says_whether_it_is_the_paper_s_own_and_what_it_needs(self, path):
        kinds = {"", "data", "weights", *claims.needs.GENERAL}
        for row in read(path)[1]:
            assert row["own"] in ("yes", "no"), row
            assert row["needs"] in kinds or re.fullmatch(r"weights [\w-]+\.(pth|pt)", row["needs"]), row
            assert row["own"] == "yes" or not row["needs"], row
            if row["needs"] == "data" or row["needs"].startswith("weights "):
                assert row["metric"] in ("psnr", "ssim", "val_psnr"), row

    def test_a_size_needs_no_data(self, path):
        of_network = [row for row in read(path)[1] if row["metric"] in ("params", "multi_adds")]
        assert not [row for row in of_network if row["needs"] in ("data", "hardware") or "weights" in row["needs"]]

    def test_what_we_measured_is_no_source(self, path):
        for row in read(path)[1]:
            assert not row["source"].startswith("measured"), row
            assert "reproduce" not in row["source"], row

    def test_a_recalled_number_says_so_first(self, path):
        for row in read(path)[1]:
            assert "recalled" not in row["source"].lower() or row["source"].startswith("recalled"), row


def test_bsrn_holds_every_number_that_was_found(bsrn):
    # fig1: 14 points of 2 numbers, and BSRN-S's multiply-adds. comparison: BSRN, RFDN, IMDN, CARN, LAPAR-A at three
    # scales and 8 older models at x4, 12 numbers each, without CARN's parameters at x3 and x4. ntire: 10 networks of
    # 8 numbers, the first-track sum and place of 8 of them, and 10 single places.
    counts = Counter(row["table"] for row in bsrn.values())
    assert counts == {"fig1": 14 * 2 + 1, "attention": 1, "comparison": 23 * 12 - 2, "ntire": 10 * 8 + 8 * 2 + 10}


def test_bsrn_ids_spell_out_table_row_and_metric(bsrn):
    for name, row in bsrn.items():
        parts = name.split("/")
        assert (parts[0], parts[1], parts[-1]) == (row["table"], row["row"].replace(" ", "-"), row["metric"])
        if row["table"] == "comparison":
            assert parts[2] == f"x{row['scale']}"
            assert row["column"] == (parts[3] if len(parts) == 5 else "model")


def test_bsrn_keeps_trailing_zeros(bsrn):
    digits = {"psnr": r"\d\d\.\d\d", "val_psnr": r"\d\d\.\d\d", "test_psnr": r"\d\d\.\d\d", "ssim": r"0\.\d{4}"}
    for row in bsrn.values():
        assert re.fullmatch(digits.get(row["metric"], ".+"), row["value"]), row
    assert bsrn["comparison/BSRN/x2/Set5/ssim"]["value"] == "0.9610"
    assert bsrn["comparison/BSRN/x2/multi_adds"]["value"] == "73.0"


@pytest.mark.parametrize(
    ("model", "scale", "params", "multi_adds", "cells"),
    [
        ("BSRN", 2, "332", "73.0", "38.10/0.9610 33.74/0.9193 32.24/0.9006 32.34/0.9303 39.14/0.9782"),
        ("BSRN", 3, "340", "33.3", "34.46/0.9277 30.47/0.8449 29.18/0.8068 28.39/0.8567 34.05/0.9471"),
        ("BSRN", 4, "352", "19.4", "32.35/0.8966 28.73/0.7847 27.65/0.7387 26.27/0.7908 30.84/0.9123"),
        ("RFDN", 4, "550", "23.9", "32.24/0.8952 28.61/0.7819 27.57/0.7360 26.11/0.7858 30.58/0.9089"),
        ("IMDN", 2, "694", "158.8", "38.00/0.9605 33.63/0.9177 32.19/0.8996 32.17/0.9283 38.88/0.9774"),
        ("LAPAR-A", 3, "544", "114.0", "34.36/0.9267 30.34/0.8421 29.11/0.8054 28.15/0.8523 33.51/0.9441"),
        ("PAN", 4, "272", "28.2", "32.13/0.8948 28.61/0.7822 27.59/0.7363 26.11/0.7854 30.51/0.9095"),
    ],
)
def test_bsrn_comparison_rows_are_those_of_the_paper(bsrn, model, scale, params, multi_adds, cells):
    start = f"comparison/{model}/x{scale}"
    assert (bsrn[f"{start}/params"]["value"], bsrn[f"{start}/params"]["unit"]) == (params, "K")
    assert (bsrn[f"{start}/multi_adds"]["value"], bsrn[f"{start}/multi_adds"]["unit"]) == (multi_adds, "G")
    for name, cell in zip(BSRN_SETS, cells.split(), strict=True):
        assert "/".join(bsrn[f"{start}/{name}/{metric}"]["value"] for metric in ("psnr", "ssim")) == cell


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("fig1/PAN/params", "272", "K"),
        ("fig1/CARN/params", "1592", "K"),
        ("fig1/BSRN-S/psnr", "32.16", "dB"),
        ("fig1/BSRN/psnr", "32.30", "dB"),  # the script's point is older than the table's 32.35
        ("fig1/SRCNN/psnr", "30.48", "dB"),
        ("comparison/DRRN/x4/multi_adds", "6796.9", "G"),
        ("comparison/CARN/x3/Urban100/psnr", "28.06", "dB"),
        ("ntire/BSRN-S/params", "0.156", "M"),
        ("ntire/BSRN-S/time", "140.47", "ms"),
        ("ntire/BSRN-S/flops", "9.50", "G"),
        ("ntire/BSRN-S/acts", "65.76", "M"),
        ("ntire/BSRN-S/convs", "43", "1"),
        ("ntire/RFDN/test_psnr", "28.75", "dB"),
        ("ntire/IMDN/val_psnr", "29.13", "dB"),
        ("ntire/ByteESR/memory", "377.91", "M"),
        ("attention/BSRN-without-ESA/params_change_percent", "-9", "%"),
    ],
)
def test_bsrn_single_numbers_are_those_of_the_paper(bsrn, name, value, unit):
    assert (bsrn[name]["value"], bsrn[name]["unit"]) == (value, unit)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("comparison/BSRN/x4/Set5/psnr", "LKDN README"),
        ("comparison/BSRN/x2/B100/ssim", "EfficientViT arXiv 2205.14756"),
        ("comparison/BSRN/x2/Set5/psnr", "recalled"),
        ("comparison/BSRN/x3/Manga109/psnr", "recalled"),
        ("comparison/RFDN/x4/Set5/psnr", "RFDN arXiv 2009.11551"),
        ("comparison/RFDN/x4/multi_adds", "recalled"),
        ("comparison/LAPAR-A/x2/Set5/psnr", "SwinIR arXiv 2108.10257v1, Table 3"),
        ("comparison/VDSR/x4/Set5/psnr", "plot script"),
        ("comparison/VDSR/x4/Set5/ssim", "nbaghel777/SRTransGAN 99b9885"),
        ("comparison/VDSR/x4/multi_adds", "recalled"),
        ("ntire/RFDN/test_psnr", "NTIRE2022_ESR results.png"),
    ],
)
def test_bsrn_sources_say_where_the_number_was_read(bsrn, name, start):
    assert bsrn[name]["source"].startswith(start)


def test_bsrn_challenge_sum_adds_the_places_for_parameters_and_flops(bsrn):
    for team in ("BSRN-S", "NJUST_ESR", "HiImageTeam"):
        places = [int(bsrn[f"ntire/{team}/{metric}"]["value"]) for metric in ("params_rank", "flops_rank")]
        assert sum(places) == int(bsrn[f"ntire/{team}/track1_sum"]["value"])


def test_bsrn_older_rows_agree_with_figure_1(bsrn):
    for model in ("SRCNN", "VDSR", "DRRN", "MemNet", "IDN", "LapSRN", "PAN"):
        assert bsrn[f"comparison/{model}/x4/Set5/psnr"]["value"] == bsrn[f"fig1/{model}/psnr"]["value"]
        assert bsrn[f"comparison/{model}/x4/params"]["value"] == bsrn[f"fig1/{model}/params"]["value"]


# --- AdderSR ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def addersr():
    """The rows of the AdderSR paper by id."""
    return {row["id"]: row for row in read(FOLDER / "addersr.csv")[1]}


def test_addersr_holds_every_number_that_was_found(addersr):
    counts = Counter(row["table"] for row in addersr.values())
    # two networks, convolutions and adders, three scales, four sets, PSNR and SSIM; the energy ratio of two abstracts
    assert counts == {"comparison": 2 * 2 * 3 * 4 * 2, "abstract": 1, "listing": 1}


@pytest.mark.parametrize(
    ("row", "scale", "cells"),
    [
        ("VDSR-Adder", 2, "37.37/0.9575 32.91/0.9112 31.82/0.8947 30.48/0.9099"),
        ("EDSR-CNN", 3, "34.65/0.9282 30.52/0.8462 29.25/0.8093 28.80/0.8653"),
        ("EDSR-Adder", 4, "32.13/0.8864 28.57/0.7800 27.58/0.7368 26.33/0.7874"),
    ],
)
def test_addersr_comparison_rows_are_those_of_its_readme(addersr, row, scale, cells):
    for name, cell in zip(BSRN_SETS[:4], cells.split(), strict=True):
        start = f"comparison/{row}/x{scale}/{name}"
        assert "/".join(addersr[f"{start}/{metric}"]["value"] for metric in ("psnr", "ssim")) == cell


def test_addersr_loses_0_04_to_0_33_db_against_its_twins(addersr):
    losses = {}
    for name, row in addersr.items():
        if row["metric"] == "psnr" and "-CNN/" in name:
            twin = addersr[name.replace("-CNN/", "-Adder/")]
            losses.setdefault(row["row"], []).append(Decimal(row["value"]) - Decimal(twin["value"]))
    assert {row: (str(min(d)), str(max(d))) for row, d in losses.items()} == {
        "VDSR CNN": ("0.04", "0.28"),
        "EDSR CNN": ("0.09", "0.33"),
    }


# --- DRCN -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drcn():
    """The rows of the DRCN paper by id."""
    return {row["id"]: row for row in read(FOLDER / "drcn.csv")[1]}


def test_drcn_holds_every_number_that_was_found(drcn):
    counts = Counter(row["table"] for row in drcn.values())
    # six methods, four sets, three scales, PSNR and SSIM; four depths at x3; 16 recursions and the ensemble at three
    # scales; five methods on a picture each, PSNR and SSIM; a user's network
    figures = {"fig4": 4, "fig5": 3 * (16 + 1)} | {f"fig{k}": 5 * 2 for k in (6, 7, 8, 9)}
    assert counts == {"table1": 6 * 4 * 3 * 2, "model": 3, "note": 1, "jiny": 3 + 3} | figures


def test_drcn_figures_agree_with_table_1(drcn):
    for scale in (2, 3, 4):
        assert drcn[f"fig5/ensemble/x{scale}/Set5/psnr"]["value"] == drcn[f"table1/DRCN/x{scale}/Set5/psnr"]["value"]
        single = [Decimal(drcn[f"fig5/d={d}/x{scale}/Set5/psnr"]["value"]) for d in range(1, 17)]
        assert single[-1] < max(single) < Decimal(drcn[f"fig5/ensemble/x{scale}/Set5/psnr"]["value"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fig5/d=5/x2/Set5/psnr", "37.04"),
        ("fig5/d=16/x4/Set5/psnr", "27.29"),
        ("fig6/DRCN/x4/Urban100-img082/psnr", "32.17"),
        ("fig9/SelfEx/x2/B100-58060/ssim", "0.8145"),
    ],
)
def test_drcn_single_numbers_of_figures(drcn, name, value):
    assert drcn[name]["value"] == value
    assert drcn[name]["source"].startswith("kjw0612/rcn e3777dc")


@pytest.mark.parametrize(
    ("paper", "own"),
    [
        ("addersr", {"comparison": ["EDSR Adder", "VDSR Adder"]}),
        ("bsrn", {"comparison": ["BSRN"], "fig1": ["BSRN", "BSRN-S"], "ntire": ["BSRN-S"]}),
        ("drcn", {"table1": ["Bicubic", "DRCN"], "fig6": ["DRCN"], "jiny": [], "note": []}),
        ("drn", {"table3": ["DCLS-DRC"], "x8": ["Bicubic", "DRN-L", "DRN-S"]}),
        ("nsr", {"table4": ["EDSR L over sparse L", "EDSR sparse"], "wdsr": []}),
    ],
)
def test_rows_of_others_are_not_the_paper_s_own(paper, own):
    rows = read(FOLDER / f"{paper}.csv")[1]
    for table, names in own.items():
        assert sorted({row["row"] for row in rows if (row["table"], row["own"]) == (table, "yes")}) == names


def test_errata_are_plain_sentences_about_papers_that_there_are():
    names, rows = read(FOLDER.parent / "errata.csv")
    assert names == ["paper", "place", "printed", "holds", "evidence", "check"]
    assert {row["paper"] for row in rows} == PAPERS
    for row in rows:
        assert row["place"], row
        assert row["holds"], row
        assert row["evidence"], row
        assert row["check"] in ("computed", "read", "read and computed", "reported"), row
        assert not re.search(r"[`|]|\*\*|\.md\b(?<!README\.md)|\.\./", " ".join(row.values())), row
        assert all(cell == cell.strip() for cell in row.values())
    assert len({(row["paper"], row["place"]) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("row", "scale", "cells"),
    [
        ("DRCN", 2, "37.63/0.9588 33.04/0.9118 31.85/0.8942 30.75/0.9133"),
        ("DRCN", 3, "33.82/0.9226 29.76/0.8311 28.80/0.7963 27.15/0.8276"),
        ("DRCN", 4, "31.53/0.8854 28.02/0.7670 27.23/0.7233 25.14/0.7510"),
        ("Bicubic", 2, "33.66/0.9299 30.24/0.8688 29.56/0.8431 26.88/0.8403"),
        ("RFL", 4, "30.14/0.8548 27.24/0.7451 26.75/0.7054 24.19/0.7096"),
        ("A+", 3, "32.58/0.9088 29.13/0.8188 28.29/0.7835 26.03/0.7973"),
    ],
)
def test_drcn_table_1_is_that_of_the_paper(drcn, row, scale, cells):
    for name, cell in zip(BSRN_SETS[:4], cells.split(), strict=True):
        start = f"table1/{row}/x{scale}/{name}"
        assert "/".join(drcn[f"{start}/{metric}"]["value"] for metric in ("psnr", "ssim")) == cell


def test_drcn_leads_every_cell_of_its_table(drcn):
    for name, row in drcn.items():
        if row["table"] == "table1" and row["row"] != "DRCN":
            best = drcn["/".join(["table1", "DRCN", *name.split("/")[2:]])]
            assert Decimal(row["value"]) < Decimal(best["value"]), name


# --- NSR --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nsr():
    """The rows of the NSR paper by id."""
    return {row["id"]: row for row in read(FOLDER / "nsr.csv")[1]}


def test_nsr_holds_every_number_that_was_found(nsr):
    counts = Counter(row["table"] for row in nsr.values())
    # its own rows lack Set14, the literature's have four sets with SSIM; WDSR lacks Set14 and Manga109
    superresolution = {"table4": 3 * (1 + 5) + 3 * 3 * 4 * 2 + 1, "wdsr": 2 * 3 * (1 + 4)}
    # three methods and sets at three noise levels; two networks and JPEG itself, two sets, four qualities
    restoration = {"table5": 3 * 3 * 3 + 4, "table6": 2 * 2 * 4 * 2 + 2 * 4}
    assert counts == superresolution | restoration | {"table2": 1, "table3": 1}


@pytest.mark.parametrize(
    ("start", "cells"),
    [
        ("table4/EDSR-sparse/x2/", "34.87 38.11 - 32.22 32.58 38.95"),
        ("table4/EDSR-sparse/x4/", "29.10 32.26 - 27.61 26.18 30.62"),
        ("wdsr/WDSR-small/x3/", "31.03 34.45 - 29.14 28.33 -"),
        ("wdsr/WDSR-large/x2/", "35.06 38.28 - 32.38 33.07 -"),
        ("table4/VDSR/x2/", "- 37.53 33.03 31.90 30.76 -"),
        ("table4/EDSR-L/x4/", "- 32.46 28.80 27.71 26.64 -"),
    ],
)
def test_nsr_table_4_rows_are_those_of_their_sources(nsr, start, cells):
    for name, cell in zip(["DIV2K-val", *BSRN_SETS], cells.split(), strict=True):
        assert nsr.get(f"{start}{name}/psnr", {"value": "-"})["value"] == cell


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("table4/EDSR-sparse/x3/params", "4887637", "README of ychfan/nsr"),
        ("wdsr/WDSR-large/x4/params", "37852496", "README of ychfan/wdsr"),
        ("table4/EDSR-L-over-sparse-L/multi_adds_ratio", "4", "summary of the paper"),
        ("table5/DnCNN/BSD68/sigma25/psnr", "29.23", "README of cszn/DnCNN"),
        ("table5/BM3D/BSD68/sigma50/psnr", "25.62", "README of cszn/DnCNN"),
        ("table5/DnCNN/Set12/sigma25/psnr", "30.44", "recalled"),
        ("table5/DnCNN/Urban100/sigma15/psnr", "32.64", "recalled from the literature; other papers print up to 32.68"),
        ("table6/DnCNN-3/classic5/q10/ssim", "0.8026", "README of cszn/DnCNN"),
        ("table6/ARCNN/LIVE1/q40/psnr", "33.63", "README of cszn/DnCNN"),
        ("table6/JPEG/classic5/q10/psnr", "27.82", "recalled"),
    ],
)
def test_nsr_single_numbers_and_where_they_were_read(nsr, name, value, source):
    assert nsr[name]["value"] == value
    assert nsr[name]["source"].startswith(source)


def test_nsr_restoration_gets_easier_with_less_noise_and_higher_quality(nsr):
    for row, name in (("BM3D", "BSD68"), ("WNNM", "Set12"), ("DnCNN", "Urban100")):
        levels = [Decimal(nsr[f"table5/{row}/{name}/sigma{s}/psnr"]["value"]) for s in (15, 25, 50)]
        assert levels == sorted(levels, reverse=True)
    for row in ("JPEG", "ARCNN", "DnCNN-3"):
        for name in ("classic5", "LIVE1"):
            levels = [Decimal(nsr[f"table6/{row}/{name}/q{q}/psnr"]["value"]) for q in (10, 20, 30, 40)]
            assert levels == sorted(levels)
