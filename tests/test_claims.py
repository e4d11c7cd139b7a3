"""The ledger: rounding as papers round, verdicts, what is kept on disk, what the scoreboard makes of it.

The file is long because one small ledger serves all of it.
"""

from __future__ import annotations

import errno
import getpass
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from decimal import ROUND_DOWN, Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsrlib import claims, files, papers
from nsrlib.claims import Ledger, VerdictError, as_printed, decimals, errata, is_cut, judge, significant

TOY = """\
id,table,row,column,scale,metric,value,unit,source,own,needs
t/BSRN/set5/psnr,t,BSRN,Set5,4,psnr,32.35,dB,Table 3,yes,weights toy.pth
t/BSRN/set5/ssim,t,BSRN,Set5,4,ssim,0.8966,1,recalled; the published weights reproduce it to the last digit,yes,data
t/BSRN/params,t,BSRN,model,4,params,352,K,Table 3,yes,
t/BSRN/adds,t,BSRN,model,4,multi_adds,73.0,G,Table 3,yes,
t/RFDN/set5/psnr,t,RFDN,Set5,4,psnr,32.24,dB,"RFDN Table 3, a public transcription of a table that is quoted",no,
abl/ESA/change,abl,without ESA,model,,params_change,-9,%,a summary,yes,training
"""
PLAIN = """\
id,table,row,column,scale,metric,value,unit,source
t/BSRN/params,t,BSRN,model,4,params,352,K,Table 3
"""
FACTS = """\
fig/BSRN/params,fig,BSRN,model,4,params,352,K,Figure 1,yes,
fig/BSRN/set5/psnr,fig,BSRN,Set5,4,psnr,32.30,dB,Figure 1,yes,hardware
fig/RFDN/set5/psnr,fig,RFDN,Set5,4,psnr,32.24,dB,Figure 1,no,
"""


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A repository with one paper, ``toy``, and no results; no data set is at hand but the embedded ones."""
    monkeypatch.setattr(claims.numbers, "ROOT", tmp_path)
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path))
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "published").mkdir(parents=True)
    (tmp_path / "data" / "published" / "toy.csv").write_text(TOY)
    return tmp_path


def measured(ledger: Ledger) -> pd.DataFrame:
    """Two weights cells, two exact ones."""
    ledger.compare({"t/BSRN/set5/psnr": 32.3512, "t/BSRN/set5/ssim": 0.89655}, "weights")
    ledger.compare({"t/BSRN/params": 352.4, "t/BSRN/adds": 72.96}, "exact")
    return ledger.table(list(ledger.rows))


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "printed", "text"),
    [
        (32.345, "32.35", "32.35"),  # half up, where float formatting gives 32.34
        (0.125, "0.12", "0.13"),
        (2.5, "2", "3"),
        (352.49, "352", "352"),
        (352.5, "352", "353"),
        (72.96, "73.0", "73.0"),
        (73, "73.00", "73.00"),
        (9.999, "9.50", "10.00"),
        (-9.4, "-9", "-9"),
        (-9.5, "-9", "-10"),
        (-0.125, "-0.12", "-0.13"),
        (-0.001, "0.00", "0.00"),  # no minus zero
        (0.0, "0.0", "0.0"),
        (1e-7, "0.000", "0.000"),
        (1e22, "1", "1" + "0" * 22),
    ],
)
def test_numbers_are_rounded_half_up_to_the_printed_digits(value, printed, text):
    assert as_printed(value, printed) == text


@pytest.mark.parametrize(("printed", "number"), [("352", 0), ("73.0", 1), ("0.8966", 4), ("-9", 0), ("12.", 0)])
def test_trailing_zeros_are_digits(printed, number):
    assert decimals(printed) == number


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBERS, st.integers(0, 6))
def test_a_value_rounded_to_printed_digits_agrees(value, digits):
    printed = as_printed(value, f"{0:.{digits}f}")
    assert decimals(printed) == digits
    expected = "reproduced" if significant(printed) >= 3 else "agrees with a rounded number"
    assert judge(value, printed, "params", "exact") == expected
    assert judge(float(printed), printed, "params", "data") == expected
    assert judge(value, printed, "params", "exact", source="recalled from the literature") == "agrees with memory"
    assert judge(value, printed, "params", "exact", source="recalled", own=False) == "checked"
    assert not is_cut(value, printed)


@given(st.integers(-(10**6), 10**6), st.integers(0, 4), st.floats(-3, 3))
def test_exact_means_within_half_a_unit_of_the_last_printed_digit(units, digits, offset):
    printed = str(Decimal(units).scaleb(-digits))
    value = float(Decimal(printed) + Decimal(repr(offset)).scaleb(-digits))
    away = abs(Decimal(repr(value)) - Decimal(printed)).scaleb(digits)
    if away != Decimal("0.5"):
        assert (judge(value, printed, "x", "exact") in ("differs", "cut")) == (away > Decimal("0.5"))


@given(st.floats(0.001, 1e4), st.integers(0, 4))
def test_a_number_is_cut_if_its_digits_are_ours_and_rounding_gives_others(value, digits):
    exact = Decimal(repr(value))
    printed = str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_DOWN))
    rounded = as_printed(value, printed)
    assert is_cut(value, printed) == (Decimal(rounded) != Decimal(printed))
    if is_cut(value, printed):
        assert judge(value, printed, "ssim", "exact") == judge(value, printed, "ssim", "data") == "cut"
        assert judge(value, printed, "ssim", "exact", own=False) == "checked"


# --- verdicts on single cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "printed", "metric", "how", "verdict"),
    [
        (32.36, "32.35", "psnr", "weights", "reproduced"),
        (32.34, "32.35", "psnr", "weights", "reproduced"),
        (32.3601, "32.35", "psnr", "weights", "differs"),
        (32.3399, "32.35", "psnr", "weights", "differs"),
        (32.36, "32.35", "psnr", "exact", "differs"),
        (32.354, "32.35", "psnr", "data", "reproduced"),
        (32.345, "32.34", "psnr", "data", "cut"),
        (32.4, "32.4", "psnr", "weights", "reproduced"),
        (32.38, "32.4", "psnr", "weights", "differs"),  # the tolerance is the same however few digits are printed
        (32.42, "32.4", "psnr", "weights", "differs"),
        (0.89665, "0.8966", "ssim", "weights", "reproduced"),
        (0.89655, "0.8966", "ssim", "weights", "reproduced"),
        (0.8967, "0.8966", "ssim", "weights", "differs"),
        (0.8965, "0.8966", "ssim", "weights", "differs"),
        (0.89476, "0.894", "ssim", "weights", "cut"),
        (0.89433, "0.894", "ssim", "weights", "reproduced"),
        (0.89576, "0.894", "ssim", "weights", "differs"),
        (352.5, "352", "params", "weights", "reproduced"),  # no tolerance of its own: half a printed unit
        (352.51, "352", "params", "weights", "cut"),
        (351.49, "352", "params", "weights", "differs"),
        (73.049, "73.0", "multi_adds", "exact", "reproduced"),
        (73.05, "73.0", "multi_adds", "exact", "cut"),
        (73.05, "73", "multi_adds", "exact", "agrees with a rounded number"),
        (0.156288, "0.156", "params", "exact", "reproduced"),
        (0.0156, "0.016", "params", "exact", "agrees with a rounded number"),
        (-9.49, "-9", "change", "exact", "agrees with a rounded number"),
        (-9.5, "-9", "change", "exact", "cut"),
        (9.0, "-9", "change", "exact", "differs"),
        (0.0, "-0.0", "change", "exact", "agrees with a rounded number"),
        (math.nan, "32.35", "psnr", "weights", "open"),
        (math.inf, "352", "params", "exact", "open"),
    ],
)
def test_a_cell_is_judged_by_its_metric_and_how_it_was_measured(value, printed, metric, how, verdict):
    assert judge(value, printed, metric, how) == verdict


@given(st.integers(1000, 5000), st.integers(-300, 300))
def test_the_tolerance_of_psnr_is_a_hundredth_of_a_decibel_on_both_sides(units, thousandths):
    printed = f"{units / 100:.2f}"
    value = float(Decimal(printed) + Decimal(thousandths).scaleb(-4))
    expected = "reproduced" if abs(thousandths) <= 100 else "differs"
    assert judge(value, printed, "psnr", "weights") == expected


# --- the ledger of one run --------------------------------------------------------------------------------------------


def test_numbers_stay_as_they_were_printed(toy):
    table = claims.published("toy")
    assert table.set_index("id")["value"]["t/BSRN/adds"] == "73.0"
    assert table["scale"].tolist() == [4, 4, 4, 4, 4, pd.NA]
    assert table["own"].tolist() == [True, True, True, True, False, True]


def test_a_file_without_own_and_needs_holds_own_numbers_that_need_nothing(toy):
    (toy / "data" / "published" / "toy.csv").write_text(PLAIN)
    assert claims.published("toy")[["own", "needs"]].to_numpy().tolist() == [[True, ""]]


def test_the_table_of_claims_is_no_paper(toy):
    (toy / "data" / "published" / "claims.csv").write_text("id,paper\n")
    assert list(claims.known()) == ["toy"]


def test_a_paper_without_numbers_is_named_with_those_that_have_some(toy):
    for call in (lambda: claims.published("bsrm"), lambda: Ledger("bsrm")):
        with pytest.raises(ValueError, match=r"no published numbers for 'bsrm'; there are: toy$"):
            call()


def test_an_unknown_profile_is_refused(toy):
    with pytest.raises(ValueError, match="profile must be one of quick, cpu, gpu, paper, got 'quik'"):
        Ledger("toy", "quik")


def test_a_comparison_gives_published_ours_difference_and_source(toy):
    table = measured(Ledger("toy"))
    assert table.index.name == "id"
    assert table.columns.tolist() == [
        "row", "scale", "column", "metric", "published", "ours", "difference", "verdict", "source",
    ]  # fmt: skip
    assert table.loc["t/BSRN/set5/psnr"].tolist() == [
        "BSRN", "x4", "Set5", "psnr", "32.35 dB", "32.351", "+0.001", "reproduced", "Table 3",
    ]  # fmt: skip
    assert table.loc["t/BSRN/set5/ssim", ["published", "ours", "difference"]].tolist() == [
        "0.8966", "0.89655", "-0.00005",
    ]  # fmt: skip
    assert table.loc["t/BSRN/adds", "published"] == "73.0 G"


def test_a_cell_without_scale_has_none_in_the_table(toy):
    ledger = Ledger("toy")
    table = ledger.compare({"abl/ESA/change": -9.2}, "exact")
    assert table.loc["abl/ESA/change", ["scale", "published", "ours", "difference"]].tolist() == [
        "", "-9 %", "-9.2", "-0.2",
    ]  # fmt: skip
    assert ledger.verdict(table) == ("without ESA params_change: -9 % published, -9 ours, agrees with a rounded number")


def test_compare_returns_only_what_it_was_given(toy):
    ledger = Ledger("toy")
    measured(ledger)
    assert ledger.compare({"t/RFDN/set5/psnr": 32.24}, "weights").index.tolist() == ["t/RFDN/set5/psnr"]
    assert len(ledger.rows) == 5


def test_a_ledger_is_written_once_for_a_cell_of_a_notebook(tmp_path):
    code = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell('''
from pathlib import Path
from nsrlib.claims import Ledger, published
ledger, path = Ledger("bsrn", out_dir={str(tmp_path)!r}), Path({str(tmp_path)!r}, "bsrn.json")
''')
shell.run_cell('''
for key in published("bsrn")["id"][:5]:
    ledger.compare({{key: 1.0}}, "weights")
during = path.exists()
raise ArithmeticError
''')
shell.run_cell("import json; rows = len(json.loads(path.read_text())['rows']); before = path.stat().st_mtime_ns")
shell.run_cell("after = path.stat().st_mtime_ns")
shell.run_cell("ledger.note('a note')")
shell.run_cell("last = json.loads(path.read_text())['notes']")
names = ("during", "rows", "last")
print("found", *[shell.user_ns[name] for name in names], shell.user_ns["before"] == shell.user_ns["after"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert "found False 5 ['a note'] True" in done.stdout


def test_an_id_that_was_never_published_is_named_with_the_nearest(toy):
    ledger = Ledger("toy")
    values = {"t/BSRN/params": 352.0, "t/BSRN/set5/pnsr": 32.35}
    with pytest.raises(KeyError, match=r"'t/BSRN/set5/pnsr' is not in data/published/toy.csv; near: t/BSRN/set5/psnr"):
        ledger.compare(values, "weights")
    assert not ledger.rows
    with pytest.raises(KeyError, match=r"'?zzzz'? is not in data/published/toy.csv\"$"):
        ledger.compare({"zzzz": 1.0}, "exact")


@pytest.mark.parametrize(
    ("value", "reason"), [(math.nan, "not a number"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
@pytest.mark.parametrize("how", ["exact", "data", "weights"])
def test_a_measurement_that_is_no_number_leaves_its_cell_open(toy, value, reason, how):
    ledger = Ledger("toy", out_dir=toy / "out")
    table = ledger.compare({"t/BSRN/params": 352.0, "t/RFDN/set5/psnr": value}, how)
    assert ledger.verdict(table).splitlines()[1] == f"RFDN x4 Set5 psnr: 32.24 dB published, open ({reason})"
    rows = {row["id"]: row for row in json.loads((toy / "out" / "toy.json").read_text())["rows"]}
    assert rows["t/RFDN/set5/psnr"]["ours"] is None
    ledger.close()
    assert ledger.finish() == "1 numbers measured, 0 differ, each with a reason"
    ledger.compare({"t/RFDN/set5/psnr": 32.24}, how)
    assert ledger.rows["t/RFDN/set5/psnr"]["verdict"] == "checked"


def test_another_kind_of_measurement_is_refused_and_changes_nothing(toy):
    ledger = Ledger("toy")
    with pytest.raises(ValueError, match="how must be one of exact, data, weights, got 'trained'"):
        ledger.compare({"t/BSRN/params": 352.0}, "trained")
    assert not ledger.rows


def test_the_verdict_is_one_line_a_cell(toy):
    ledger = Ledger("toy")
    assert ledger.verdict(measured(ledger)).splitlines() == [
        "BSRN x4 Set5 psnr: 32.35 dB published, 32.35 ours, reproduced to the digit",
        "BSRN x4 Set5 ssim: 0.8966 published, 0.8966 ours, agrees with memory to the digit",
        "BSRN x4 params: 352 K published, 352 ours, reproduced",
        "BSRN x4 multi_adds: 73.0 G published, 73.0 ours, reproduced",
    ]


@given(st.floats(-0.0049, 0.0049))
def test_the_text_of_a_verdict_does_not_change_with_digits_that_were_not_printed(offset):
    ledger = Ledger("bsrn")
    cell = "comparison/BSRN/x4/Set5/psnr"
    texts = [ledger.verdict(ledger.compare({cell: 32.35 + d}, "weights")) for d in (0, offset)]
    assert texts[0] == texts[1]


def test_numbers_that_differ_are_shown_and_all_are_named_at_the_end(toy):
    ledger = Ledger("toy")
    table = ledger.compare({"t/BSRN/set5/psnr": 32.31, "t/RFDN/set5/psnr": 31.0}, "weights")
    assert ledger.verdict(table).splitlines() == [
        "BSRN x4 Set5 psnr: 32.35 dB published, 32.31 ours, differs",
        "RFDN x4 Set5 psnr: 32.24 dB published, 31.00 ours, differs",
    ]
    ledger.verdict(ledger.compare({"t/BSRN/params": 400.0}, "exact"))
    ledger.close()
    assert {"reason": ""}.items() <= ledger.rows["t/BSRN/params"].items()
    with pytest.raises(VerdictError) as error:
        ledger.finish()
    assert str(error.value) == (
        "3 of 3 numbers differ without a reason: BSRN x4 Set5 psnr: 32.35 dB published, 32.31 ours, differs; "
        "RFDN x4 Set5 psnr: 32.24 dB published, 31.00 ours, differs; "
        "BSRN x4 params: 352 K published, 400 ours, differs"
    )
    assert isinstance(error.value, AssertionError)


def test_a_known_difference_is_told_with_its_reason_and_does_not_stop(toy):
    ledger = Ledger("toy")
    known = {"t/BSRN/params": "an older model", "t/BSRN/adds": "not needed"}
    table = ledger.compare({"t/BSRN/params": 357.0, "t/BSRN/adds": 73.0}, "exact", known=known)
    assert ledger.verdict(table).splitlines() == [
        "BSRN x4 params: 352 K published, 357 ours, differs (an older model)",
        "BSRN x4 multi_adds: 73.0 G published, 73.0 ours, reproduced",
    ]
    assert ledger.finish() == "2 numbers measured, 1 differ, each with a reason"


def test_a_cut_number_says_so(toy):
    ledger = Ledger("toy")
    table = ledger.compare({"t/BSRN/params": 352.637, "t/RFDN/set5/psnr": 32.2455}, "data")
    assert ledger.verdict(table).splitlines() == [
        "BSRN x4 params: 352 K published, 353 ours, cut (the printed number is cut, not rounded)",
        "RFDN x4 Set5 psnr: 32.24 dB published, 32.25 ours, checked (the printed number is cut, not rounded)",
    ]
    assert "2 numbers measured, 0 differ" in ledger.finish()


def test_measuring_again_replaces_the_row(toy):
    ledger = Ledger("toy")
    ledger.compare({"t/BSRN/params": 1.0}, "exact")
    ledger.compare({"t/BSRN/params": 352.0}, "exact")
    assert [r["verdict"] for r in ledger.rows.values()] == ["reproduced"]


def test_closing_computes_why_every_other_number_is_open(toy):
    ledger = Ledger("toy", out_dir=toy / "out")
    groups = ledger.close({"t/BSRN/*": "its authors have it", "*": "a day on a GPU"})
    assert groups.to_numpy().tolist() == [
        ["open", "weights", "the weights toy.pth are not at hand: its authors have it", 1, "t/BSRN/set5/psnr"],
        ["open", "data", "Set5 is not at hand: its authors have it", 1, "t/BSRN/set5/ssim"],
        ["open", "run", "not asked for in this run", 2, "t/BSRN/params"],
        ["quoted", "", "not the paper's own number: a day on a GPU", 1, "t/RFDN/set5/psnr"],
        ["open", "training", "needs the paper's training: a day on a GPU", 1, "abl/ESA/change"],
    ]
    rows = {r["id"]: r for r in json.loads((toy / "out" / "toy.json").read_text())["rows"]}
    assert len(rows) == 6
    assert {"ours": None, "verdict": "open", "how": "open", "scale": None}.items() <= rows["abl/ESA/change"].items()


def test_a_number_whose_data_and_weights_are_at_hand_was_not_asked_for(toy):
    from PIL import Image

    (toy / "weights").mkdir()
    (toy / "weights" / "toy.pth").write_bytes(b"x")
    assert claims.lacking("weights toy.pth", "Set5", 4) == ("data", "Set5 is not at hand")
    for k in range(109):
        (toy / "Manga109").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(toy / "Manga109" / f"{k:03}.png")
    assert claims.lacking("weights toy.pth", "Manga109", 4) == ("run", "not asked for in this run")
    for k in range(5):
        (toy / "Set5").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(toy / "Set5" / f"{k}.png")
    assert claims.lacking("data", "Set5", 4) == ("data", "only an unverified copy of Set5 is at hand")
    assert claims.lacking("weights", "Manga109", 4)[0] == "weights"
    with pytest.raises(ValueError, match="needs must be empty, data, weights FILE or one of training, hardware"):
        claims.lacking("luck", "Set5", 4)


def test_open_cells_can_be_shown(toy):
    ledger = Ledger("toy")
    ledger.close()
    table = ledger.table(list(ledger.rows))
    assert set(table["ours"]) == set(table["difference"]) == {""}
    last = ledger.verdict(table).splitlines()[-1]
    assert last == "without ESA params_change: -9 % published, open (needs the paper's training)"
    assert ledger.verdict(table[:0]) == "not measured in this run"


def test_closing_a_complete_ledger_leaves_nothing_open(toy):
    ledger = Ledger("toy")
    ledger.compare({key: float(v) for key, v in ledger.published["value"].items()}, "exact")
    assert len(ledger.close({"*": "why"})) == 0
    assert {r["verdict"] for r in ledger.rows.values()} == {
        "reproduced", "agrees with memory", "agrees with a rounded number", "checked",
    }  # fmt: skip


def test_show_keeps_the_mark_of_what_was_only_recalled(toy):
    ledger = Ledger("toy")
    table = ledger.compare({"t/BSRN/set5/ssim": 0.8966, "t/RFDN/set5/psnr": 32.24}, "weights")
    shown = claims.show(table)
    assert shown.index.names == ["row", "scale", "column", "metric"]
    assert shown["source"].tolist() == [
        "recalled; the published weights repro...", "RFDN Table 3, a public transcription ...",
    ]  # fmt: skip
    assert table.loc["t/BSRN/set5/ssim", "source"].endswith("to the last digit")  # the table itself is left alone


@pytest.mark.parametrize("paper", sorted(claims.known()))
def test_recalled_numbers_stay_marked_through_show(paper):
    ledger = Ledger(paper)
    numbers = ledger.published[ledger.published["metric"] != "ordering"]["value"]
    table = ledger.compare({key: float(v) for key, v in numbers.items()}, "exact")
    recalled = table["source"].str.contains("recall", case=False).to_numpy()
    assert claims.show(table)["source"].str.startswith("recalled").to_numpy().tolist() == recalled.tolist()


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_without_a_folder_nothing_is_written(toy, monkeypatch):
    monkeypatch.chdir(toy)
    measured(Ledger("toy"))
    assert [p.as_posix() for p in Path().rglob("*.*")] == ["data/published/toy.csv"]


def test_the_file_follows_every_change(toy):
    ledger = Ledger("toy", "cpu", toy / "deep" / "out")
    measured(ledger)
    content = json.loads((toy / "deep" / "out" / "toy.json").read_text())
    assert (content["paper"], content["profile"]) == ("toy", "cpu")
    assert content["rows"] == list(ledger.rows.values())
    assert content["provenance"]["command"] == "nsr reproduce toy --profile cpu"
    assert [p.name for p in (toy / "deep" / "out").iterdir()] == ["toy.json"]


def half(content, file, **_):
    file.write('{"rows": [')
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "replacement"),
    [("json.dump", half), ("os.replace", interrupted)],
    ids=["disk full in the middle", "interrupted before the last step"],
)
@pytest.mark.parametrize("old", [True, False], ids=["over an old file", "new"])
def test_a_failure_while_writing_leaves_no_half_file(toy, monkeypatch, name, replacement, old):
    path = toy / "out" / "toy.json"
    if old:
        files.write_json(path, {"a": 1})
    before = path.read_text() if old else None
    monkeypatch.setattr(name, replacement)
    with pytest.raises((OSError, KeyboardInterrupt)):
        files.write_json(path, {"a": 2})
    assert [p.name for p in path.parent.iterdir()] == (["toy.json"] if old else [])
    assert not old or path.read_text() == before


@pytest.mark.parametrize(
    ("content", "error"),
    [({"a": math.nan}, ValueError), ({"a": [1, math.inf]}, ValueError), ({"a": 1, "b": object()}, TypeError)],
    ids=["nan", "inf", "object"],
)
def test_what_json_cannot_hold_is_refused(tmp_path, content, error):
    files.write_json(tmp_path / "x.json", {"old": True})
    with pytest.raises(error):
        files.write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": True}
    assert len(list(tmp_path.iterdir())) == 1


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    import numpy as np

    files.write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 0.5, "b": 3, "c": True}


def test_results_can_be_read_by_whoever_can_read_other_files(tmp_path):
    (tmp_path / "plain").touch()
    files.write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_provenance_names_no_path_no_user_and_no_machine(toy, monkeypatch):
    from nsrlib import evaluation
    from nsrlib.data import load

    monkeypatch.setenv("NSRLIB_DATA", str(toy))
    monkeypatch.setenv("USER", "jane-doe-17")
    monkeypatch.setenv("LOGNAME", "jane-doe-17")
    pictures = toy / "jane" / "pictures"
    pictures.mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (32, 32), (90, 20, 30)).save(pictures / "a.png")
    ledger = Ledger("toy", out_dir=toy / "out")
    table = evaluation.evaluate("bicubic", load(pictures, 2), device="cpu")
    measured(ledger)
    about = json.loads((toy / "out" / "toy.json").read_text())["provenance"]
    assert about["data"] == {"pictures x2": {"origin": "folder", "sha256": table.attrs["sha256"]}}
    assert {"versions", "device", "threads", "commit", "seconds", "weights"} <= about.keys()
    assert about["versions"]["python"] == platform.python_version()
    text = json.dumps(about)
    assert not re.findall(r"(?<![\w.~:/-])(?:/[\w.-]+){2,}|[A-Z]:\\", text)
    for private in (str(toy), str(Path.home()), str(Path(claims.__file__).parent), os.getcwd(), getpass.getuser()):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", text)
    assert not re.search(rf"(?<!\w){re.escape(platform.node() or 'no name')}(?!\w)", text)


def test_a_run_records_what_it_used_and_nothing_else(toy):
    import nsrlib
    from nsrlib.data import load

    load("embedded", 3)[0]  # before this run
    nsrlib.create_model("drcn", 3, pretrained=True)
    ledger = Ledger("toy")
    asked = load("embedded_gray_train", 2)  # found, but never looked at
    photographs = load("embedded", 4)
    assert photographs[:1][0].name == "chelsea"
    nsrlib.create_model("bsrn", 2, pretrained=True)
    about = ledger.provenance()
    assert list(about["data"]) == ["embedded x4, 1 of 2 images"]
    assert about["data"]["embedded x4, 1 of 2 images"] == {"origin": "embedded", "sha256": photographs[:1].sha256}
    file = nsrlib.models.WEIGHTS_DIR / "bsrn_x2.safetensors"
    assert about["weights"] == {
        file.name: {"origin": "trained with this library", "sha256": files.sha256_of(file)},
    }
    assert asked.sha256  # which is no use either
    assert ledger.provenance()["data"].keys() == about["data"].keys()
    for pair in photographs:
        assert pair.hr.size
    assert ledger.provenance()["data"]["embedded x4"]["sha256"] == photographs.sha256


def test_the_command_of_a_run_is_that_which_started_it(toy, monkeypatch):
    assert Ledger("toy", "cpu").provenance()["command"] == "nsr reproduce toy --profile cpu"
    monkeypatch.setenv(claims.COMMAND, "nsr reproduce toy --profile cpu -p scales=2")
    assert Ledger("toy", "cpu").provenance()["command"] == "nsr reproduce toy --profile cpu -p scales=2"


def test_a_folder_without_git_has_no_commit(toy):
    assert files.commit(toy) == "unknown"


@pytest.mark.skipif(shutil.which("git") is None or not (files.ROOT / ".git").exists(), reason="no git checkout")
def test_the_commit_is_short_and_hexadecimal():
    assert re.fullmatch(r"[0-9a-f]{7,16}(-dirty)?", files.commit(files.ROOT))


# --- cells by their words ---------------------------------------------------------------------------------------------


def frame(**columns):
    return pd.DataFrame(columns)


def test_a_frame_of_ours_finds_its_printed_cells(toy):
    ledger = Ledger("toy")
    scores = frame(
        row=["bsrn", "RFDN", "VDSR"], psnr=[32.351, 32.2, 31.0], ssim=[0.8966, math.nan, 0.8], seconds=[1, 2, 3]
    )
    scores.attrs["tables"] = {"set5": frame(psnr=[1.0, 2.0])}  # as results of a benchmark have
    assert ledger.cells("t", scores, column="set5", scale=4) == {
        "t/BSRN/set5/psnr": 32.351,
        "t/BSRN/set5/ssim": 0.8966,
        "t/RFDN/set5/psnr": 32.2,
    }
    assert ledger.cells("t", frame(params=[352.0]), row="BSRN") == {"t/BSRN/params": 352.0}
    assert ledger.cells("t", scores[:0], column="Set5", scale=4) == {}


def test_what_was_measured_on_an_unverified_copy_is_no_number_of_ours(toy):
    scores = frame(row=["BSRN", "RFDN"], psnr=[31.0, 32.2], origin=["NSRLIB_DATA, unverified copy", "NSRLIB_DATA"])
    assert Ledger("toy").cells("t", scores, column="set5", scale=4) == {"t/RFDN/set5/psnr": 32.2}


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("x", {"row": ["BSRN"]}, "toy prints no table 'x'; there are: t, abl"),
        (
            "t",
            {"psnr": [32.0], "column": ["Set5"]},
            "cells and numbers do not pair: t/BSRN/set5/psnr, t/RFDN/set5/psnr",
        ),
        ("t", {"psnr": [32.0, 33.0], "row": ["BSRN", "BSRN"]}, "cells and numbers do not pair: t/BSRN/set5/psnr"),
    ],
    ids=["no such table", "a number for two cells", "two numbers for a cell"],
)
def test_cells_that_are_not_told_apart_are_refused(toy, table, columns, message):
    with pytest.raises(ValueError, match=message):
        Ledger("toy").cells(table, frame(**columns))


def test_cells_are_counted_by_table_and_verdict(toy):
    ledger = Ledger("toy")
    ledger.compare({"t/BSRN/params": 352.0, "t/BSRN/adds": 73.0}, "exact")
    assert ledger.counts().to_numpy().tolist() == [["t", "exact", "reproduced", 2]]


# --- the scoreboard ---------------------------------------------------------------------------------------------------


def stored(toy: Path, profile: str, **values: float) -> None:
    ledger = Ledger("toy", profile, toy / f"run-{profile}" / "results")
    ledger.compare({f"t/BSRN/{k.replace('_', '/')}": v for k, v in values.items()}, "weights")
    ledger.close({"abl/*": "no words"})
    claims.store(toy / f"run-{profile}")


def test_without_results_everything_is_open_or_quoted(toy):
    board = claims.scoreboard(["toy"])
    assert board.columns.tolist() == [
        "paper", "table", "row", "column", "scale", "metric", "published", "ours", "difference", "how", "verdict",
        "to_the_digit", "own", "needs", "reason", "source", "command", "id",
    ]  # fmt: skip
    assert board["verdict"].tolist() == ["open"] * 4 + ["quoted", "open"]
    assert board["needs"].tolist() == ["weights", "data", "run", "run", "", "training"]
    assert set(board["how"]) == {"open"}
    assert set(board["command"]) == {"nsr reproduce toy"}
    assert board["ours"].isna().all()
    assert set(board["reason"]) == {""}


def test_a_scoreboard_of_nothing_is_empty_but_has_its_columns(toy):
    board = claims.scoreboard([])
    assert len(board) == 0
    assert "verdict" in board
    with pytest.raises(ValueError, match="no published numbers for 'absent'; there are: toy"):
        claims.scoreboard(["absent"])


def test_stored_results_fill_the_scoreboard_and_the_longest_profile_wins(toy):
    stored(toy, "quick", set5_psnr=30.0)
    board = claims.scoreboard(["toy"]).set_index("id")
    assert board.loc["t/BSRN/set5/psnr", ["ours", "how", "verdict"]].tolist() == [30.0, "weights", "differs"]
    stored(toy, "cpu", set5_psnr=32.351, params=352.1, set5_ssim=0.8966)
    board = claims.scoreboard(["toy"]).set_index("id")
    assert board.loc["t/BSRN/set5/psnr", ["ours", "verdict"]].tolist() == [32.351, "reproduced"]
    assert board.loc["t/BSRN/set5/psnr", "published"] == "32.35"
    assert board["verdict"].value_counts().to_dict() == {
        "open": 2, "reproduced": 2, "quoted": 1, "agrees with memory": 1,
    }  # fmt: skip
    assert board.loc["abl/ESA/change", "reason"] == "needs the paper's training: no words"
    assert set(board["command"]) == {"nsr reproduce toy --profile cpu"}


def test_the_default_scoreboard_is_that_of_the_repository():
    board = claims.scoreboard()
    assert set(board["paper"]) == set(papers.every())
    assert len(board[board["paper"] == "bsrn"]) == len(claims.published("bsrn"))


def test_verdicts_follow_from_todays_published_numbers(toy):
    stored(toy, "cpu", set5_psnr=32.351, params=352.1)
    path = toy / "data" / "published" / "toy.csv"
    path.write_text(TOY.replace("32.35,dB,Table 3,yes", "32.34,dB,Table 3,no").replace("352,K", "353,K"))
    board = claims.scoreboard(["toy"]).set_index("id")
    assert board.loc["t/BSRN/set5/psnr", ["verdict", "published"]].tolist() == ["differs", "32.34"]
    assert board.loc["t/BSRN/set5/psnr", "difference"] == pytest.approx(0.011)
    assert board.loc["t/BSRN/params", "verdict"] == "differs"


def test_stored_results_of_another_form_are_read(toy):
    stored(toy, "cpu", params=352.1)
    path = toy / "data" / "results" / "toy" / "cpu.json"
    content = json.loads(path.read_text())
    del content["claims"]
    old = {
        "id": "abl/ESA/change",
        "ours": -0.2,
        "difference": None,
        "how": "trained",
        "verdict": "trend holds",
        "reason": "3",
    }
    content["rows"] = [
        {k: v for k, v in row.items() if k not in ("own", "needs", "to_the_digit")}
        for row in content["rows"] if row["id"] != old["id"]
    ]  # fmt: skip
    path.write_text(json.dumps(content | {"rows": [*content["rows"], old]}))
    board = claims.scoreboard(["toy"]).set_index("id")
    assert board.loc["abl/ESA/change", ["how", "verdict", "needs"]].tolist() == ["open", "open", "training"]
    assert board.loc["t/BSRN/params", "verdict"] == "reproduced"
    assert claims.stored_claims(["toy"]) == {"toy": []}


def test_a_fact_counts_once_however_many_tables_print_it(toy):
    (toy / "data" / "published" / "toy.csv").write_text(TOY + FACTS)
    ledger = Ledger("toy", "cpu", toy / "run" / "results")
    ledger.compare({"fig/BSRN/params": 352.1}, "exact")
    ledger.compare({"t/BSRN/set5/psnr": 32.342, "fig/RFDN/set5/psnr": 32.24}, "weights")
    ledger.close()
    claims.store(toy / "run")
    board = claims.scoreboard(["toy"])
    assert len(board) == 9  # ids of all places stay
    counts = claims.count(board).loc["toy"]
    assert counts[counts > 0].to_dict() == {
        # psnr, ssim, params, adds, the change, and the figure's other psnr; RFDN's
        "own": 6, "reproduced": 2, "open": 4, "run": 1, "data": 1, "training": 1, "hardware": 1,
        "quoted": 1, "checked": 1,
    }  # fmt: skip
    assert claims.sentence(claims.count(board)) == (
        "Of the 6 numbers that the paper reports as its own, 2 are reproduced, 0 agree with a number that is rounded, "
        "cut or known from memory, 0 differ and 4 are open: 1 a longer run, 1 data, 1 training, 1 hardware. "
        "Of 1 by others that stand beside them, 1 are checked."
    )


def test_to_the_digit_counts_only_weights_that_are_reproduced(toy):
    stored(toy, "cpu", set5_psnr=32.3512, set5_ssim=0.8966, params=352.1)
    counts = claims.count(claims.scoreboard(["toy"])).loc["toy"]
    assert counts[["reproduced", "to the digit", "agree"]].tolist() == [2, 2, 1]
    stored(toy, "gpu", set5_psnr=32.342, set5_ssim=0.8966, params=352.1)
    assert claims.count(claims.scoreboard(["toy"])).loc["toy", "to the digit"] == 1


def test_claims_are_kept_and_counted_by_kind(toy):
    ledger = Ledger("toy", "cpu", toy / "run" / "results")
    judged = pd.DataFrame(
        {
            "id": list("abcdef"),
            "kind": ["study", "study", "trend", "check", "study", "cells"],
            "registered": ["registered", "registered", "registered", "", "exploratory", ""],
            "ours": [0.2, math.nan, 0.1, math.nan, 0.3, 2.0],
            "by_set": [{"Set5": [0.2, math.nan, math.nan]}, *[{}] * 5],  # one seed has no interval
            "verdict": ["holds", "undecided", "holds", "holds", "reversed", "does not hold"],
        }
    )
    ledger.keep_claims(judged)
    claims.store(toy / "run")
    kept = claims.stored_claims(["toy"])["toy"]
    assert (kept[0]["ours"], kept[1]["ours"], kept[5]["verdict"]) == (0.2, None, "does not hold")
    assert kept[0]["by_set"] == {"Set5": [0.2, None, None]}
    counted = claims.count_claims({"toy": kept, "none": []})
    assert counted.loc["toy", ("training", "holds")] == 2
    lines = claims.lines(claims.count(claims.scoreboard(["toy"])), counted)
    assert lines.loc["toy", "claims"] == (
        "2 hold, 1 undecided; no training: 1 holds, 1 does not hold; exploratory: 1 reversed"
    )
    assert lines.loc["toy", "open"] == "5: 2 a longer run, 1 data, 1 weights, 1 training"
    with pytest.raises(ValueError, match="the judged claims need a column verdict; there are: id"):
        ledger.keep_claims(judged[["id"]])


def test_lines_of_papers_without_claims_say_so():
    counts = claims.count(claims.scoreboard(["drn"]))
    assert claims.lines(counts, claims.count_claims({})).loc["drn", "claims"] == "none judged"


def test_errata_say_what_holds_and_on_which_evidence(toy):
    assert errata("toy").columns.tolist() == ["place", "printed", "holds", "evidence", "check"]
    assert len(errata("toy")) == 0
    (toy / "data" / "errata.csv").write_text(
        "paper,place,printed,holds,evidence,check\n"
        "toy,Table 1,1,2,counted,computed\nother,Table 2,1,2,counted,computed\n"
    )
    assert errata("toy").to_numpy().tolist() == [["Table 1", "1", "2", "counted", "computed"]]


DAMAGE = ['{"rows": [', "", "[1, 2]", "{}", '{"paper": "toy", "rows": 3}', '"text"']


@pytest.mark.parametrize("text", DAMAGE, ids=str)
def test_damaged_stored_results_are_named(toy, text):
    path = toy / "data" / "results" / "toy" / "gpu.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for call in (claims.stored_results, lambda paper: claims.scoreboard([paper])):
        with pytest.raises(ValueError, match=r"^data/results/toy/gpu\.json is (damaged: |not a ledger)"):
            call("toy")


def test_a_binary_file_in_the_place_of_results_is_named(toy):
    path = toy / "data" / "results" / "toy" / "cpu.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"^data/results/toy/cpu\.json is damaged: "):
        claims.stored_results("toy")


def test_there_are_no_results_before_something_is_stored(toy):
    assert claims.stored_results("toy") is None


def test_storing_copies_the_ledgers_of_a_run(toy):
    ledger = Ledger("toy", "cpu", toy / "run" / "results")
    measured(ledger)
    places = claims.store(toy / "run")
    assert places == claims.store(toy / "run" / "results") == [toy / "data" / "results" / "toy" / "cpu.json"]
    run = json.loads((toy / "run" / "results" / "toy.json").read_text())
    for row in run["rows"]:
        del row["cell"]  # where it stands in the notebook of that run
    assert json.loads(places[0].read_text()) == run
    assert claims.stored_results("toy")["rows"] == run["rows"]


@pytest.mark.parametrize("text", DAMAGE, ids=str)
def test_a_run_with_a_damaged_ledger_stores_nothing(toy, text):
    measured(Ledger("toy", "cpu", toy / "run"))
    (toy / "run" / "zzz.json").write_text(text)
    with pytest.raises(ValueError, match=r"zzz\.json is (damaged: |not a ledger)"):
        claims.store(toy / "run")
    assert not (toy / "data" / "results").exists()


def test_a_folder_without_results_has_nothing_to_store(toy):
    with pytest.raises(ValueError, match="no results in published"):
        claims.store(toy / "data" / "published")


# --- tables beside the claims -----------------------------------------------------------------------------------------


def test_a_table_that_is_no_claim_is_kept_with_the_results(toy):
    ledger = Ledger("toy", "cpu", toy / "out")
    times = pd.DataFrame({"128x128": [0.14, 0.2]}, index=pd.Index(["RFDN", "BSRN"], name="model"))
    ledger.keep("latency", times, "best of 3")
    kept = json.loads((toy / "out" / "toy.json").read_text())["tables"]["latency"]
    assert kept == {
        "note": "best of 3",
        "rows": [{"model": "RFDN", "128x128": 0.14}, {"model": "BSRN", "128x128": 0.2}],
    }


def test_a_poorer_run_does_not_replace_the_stored_one(toy):
    ledger = Ledger("toy", out_dir=toy / "run" / "results")
    ledger.compare({"t/BSRN/set5/psnr": 32.3512, "t/BSRN/set5/ssim": 0.89655}, "weights")
    claims.store(toy / "run")
    poorer = Ledger("toy", out_dir=toy / "poor" / "results")
    # as many cells, but not those
    poorer.compare({"t/BSRN/set5/psnr": 32.3512}, "weights")
    poorer.compare({"t/BSRN/params": 352.4}, "exact")
    with pytest.raises(ValueError, match="toy lacks 1 of the 2 cells that are stored, first t/BSRN/set5/ssim; delete"):
        claims.store(toy / "poor")
