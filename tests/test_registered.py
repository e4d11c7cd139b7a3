"""Registered claims: the language of their tests, every verdict with its reason, floors, Holm, the frozen history.

The file is long because one toy paper serves all of it.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nsrlib import claims, papers, plots, statistics
from nsrlib.claims import floors, judge_claims, published
from nsrlib.claims.judged import line, readable
from nsrlib.claims.registered import COLUMNS, NO_HISTORY, Claim, Test, check_names, registered, when_registered
from nsrlib.files import ROOT
from nsrlib.papers.addersr import energy
from nsrlib.papers.check import Check

PAPERS = ("nsr", "addersr", "bsrn", "drcn", "drn")
BASE = {"set5": 30.0, "set14": 27.5}
"""Far above bicubic at x4 (28.42 and 26.00)."""


def row(test: str, id: str = "a/claim", **columns: str) -> dict[str, str]:
    """A row of the file."""
    sign = next((s for s in (" >= ", " = ", " < ", " > ") if s in test), "")
    direction = {" >= ": "no less", " = ": "equal"}.get(sign, "greater")
    rules = {"metric": "psnr", "sets": "set5,set14", "margin": "0.05", "direction": direction, "seeds": "5"}
    rules |= {"floor": "bicubic+0.5"}
    if not test.startswith(("study", "trend")):
        rules = dict.fromkeys(rules, "")
    known = {"id": id, "paper": "toy", "where": "Table 1", "statement": f"{id} is so.", "unit": "dB", "test": test}
    return dict.fromkeys(COLUMNS, "") | known | rules | columns


def write(root: Path, *rows: Mapping[str, str]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    (root / "data" / "published" / "claims.csv").write_text(text.getvalue())


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """``toy(row, ...)`` registers the claims of a paper in a folder without a history."""
    monkeypatch.setattr(claims.numbers, "ROOT", tmp_path)
    folder = tmp_path / "data" / "published"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "published" / "protocol.csv", folder)
    head = "id,table,row,column,scale,metric,value,unit,source\n"
    numbers = [f"t/{name}/params,t,{name},model,4,params,{k},K,Table 1\n" for k, name in enumerate("abc", 1)]
    (folder / "toy.csv").write_text(head + "".join(numbers))
    return lambda *rows: write(tmp_path, *rows)


def study(
    means: Mapping[str, float],
    seeds: int = 8,
    sd: float = 0.02,
    *,
    sets: Sequence[str] = ("set5", "set14"),
    settings: Mapping[str, Any] | None = None,
    commit: str = "unknown",
    scatter: Mapping[str, float] | None = None,
    **metrics: Mapping[str, float],
) -> Any:
    """What a study's result offers: two images a set, a scatter that is the run's own, further metrics by variant."""
    rows, rng = [], np.random.default_rng(0)
    noise = {v: rng.standard_normal(seeds) for v in means}
    for variant, mean in means.items():
        z = (noise[variant] - noise[variant].mean()) / noise[variant].std() if seeds > 1 else noise[variant]
        for seed in range(seeds):
            shift = mean + (scatter or {}).get(variant, sd) * z[seed]
            more = {name: values[variant] + shift - mean for name, values in metrics.items() if variant in values}
            about = {"variant": variant, "seed": seed, "commit": commit, **more}
            rows += [
                about | {"set": s, "image": f"{i}", "psnr": BASE.get(s, 29.5) + i - 0.5 + shift}
                for s in sets
                for i in (0, 1)
            ]
    table = pd.DataFrame(rows)

    def scores(sets=None, metric="psnr", steps=None):
        found = table if sets is None else table[table["set"].isin(sets)]
        if metric != "psnr":
            found = found.dropna(subset=[metric]).drop_duplicates(["variant", "seed"]).assign(set="", image="")
        return found.assign(value=found[metric])[list(statistics.COLUMNS)]

    about = {v: {"scale": 4} | dict(settings or {}) for v in means}
    return SimpleNamespace(
        rows=table, scores=scores, settings=about, pilot=False, variants=list(dict.fromkeys(table["variant"]))
    )


def judged(result: Any, **given: Any) -> pd.Series:
    """The first claim of ``toy``, whose study is ``s``."""
    return judge_claims("toy", {"s": result}, **given).iloc[0]


# --- the language -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "study_name", "arms", "sign"),
    [
        ("study decompositions: standard > BSConv-U", "study", "decompositions", ["standard", "BSConv-U"], ">"),
        ("study ablations: no skip > no skip, He, SGD", "study", "ablations", ["no skip", "no skip, He, SGD"], ">"),
        ("study depth: D=16[psnr] > D=16[psnr_best]", "study", "depth", ["D=16[psnr]", "D=16[psnr_best]"], ">"),
        ("study sparse inference: k=2 >= dense", "study", "sparse inference", ["k=2", "dense"], ">="),
        ("study dual: dual on HR = lambda 0.1", "study", "dual", ["dual on HR", "lambda 0.1"], "="),
        ("trend depth: D=1 < D=6 < D=11", "trend", "depth", ["D=1", "D=6", "D=11"], "<"),
    ],
)  # fmt: skip
def test_a_test_of_training_names_its_study_and_its_arms(text, kind, study_name, arms, sign):
    test = Test.parsed(text)
    assert (test.kind, test.study, [str(arm) for arm in test.arms], test.sign) == (kind, study_name, arms, sign)
    assert test.of_training


def test_cells_and_checks_are_lists_with_commas():
    assert Test.parsed("cells t/*/psnr, dual hr/a b").names == ("t/*/psnr", "dual hr/a b")
    test = Test.parsed("check T1 exact, not T1c")
    assert test.names == ("T1 exact", "T1c")
    assert test.refuting == {"T1c"}
    assert not test.of_training


@pytest.mark.parametrize(
    "text",
    ["", "stdy s: a > b", "study s: a > b > c", "study s: a", "study : a > b", "study s a > b", "study s: a < b",
     "trend s: a > b", "trend s: a", "trend s: a < b > c", "cells ", "cells a,,b", "check", "study s: a[ > b"],
)  # fmt: skip
def test_another_language_is_refused_with_the_forms_there_are(text):
    with pytest.raises(ValueError, match=r"is one of: study NAME: A > B .*trend NAME: .*cells PATTERN.*check ID"):
        Test.parsed(text)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"statement": " "}, "claim 'a/claim' of 'toy' has no statement"),
        ({"test": "study s: a ? b"}, "claim 'a/claim' of 'toy': test 'study s: a [?] b' is not understood"),
        ({"direction": "equal"}, "the sign > means direction 'greater', got 'equal'"),
        ({"margin": ""}, "margin must be a number, got ''"),
        ({"margin": "0"}, "margin must be above 0, got '0'"),
        ({"effect": "some"}, "effect must be a number, got 'some'"),
        ({"seeds": "many"}, "seeds must be a number of at least 1, got 'many'"),
        ({"floor": "bicubic+x"}, r"floor 'bicubic\+x' is not one of bicubic, non-local means, JPEG, none"),
        ({"floor": "nearest"}, "floor 'nearest' is not one of"),
        ({"sets": ""}, "has a floor and no sets"),
        ({"metric": ""}, "has no metric"),
        ({"test": "cells t/a/params"}, "is not about training, so metric must be empty, got 'psnr'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_row_says_which_claim_and_what_is_accepted(columns, message):
    with pytest.raises(ValueError, match=message):
        Claim.parsed(row("study s: a > b") | columns)


def test_a_file_without_a_column_says_which(toy):
    with pytest.raises(ValueError, match="lacks the columns margin, floor"):
        Claim.parsed({k: v for k, v in row("study s: a > b").items() if k not in ("margin", "floor")})


def test_ids_are_unique_and_patterns_fit_printed_numbers(toy):
    toy(row("study s: a > b"), row("study s: a > c"))
    with pytest.raises(ValueError, match="toy registers two claims as 'a/claim'"):
        registered("toy")
    toy(row("cells t/x/*"))
    with pytest.raises(ValueError, match=r"no printed number of toy fits 't/x/\*'"):
        registered("toy")


def test_a_paper_without_a_file_has_no_claims(toy):
    assert registered("toy") == []
    assert judge_claims("toy", {}).empty


def test_wrong_names_are_listed_with_those_there_are(toy):
    toy(row("study s: a > x"), row("trend q: a < b", id="b"), row("study s: a x* > y*", id="c"))
    with pytest.raises(ValueError, match="claim 'a/claim': study 's' has no variant 'x'; it has: a, b, a x1") as error:
        check_names(registered("toy"), {"s": ["a", "b", "a x1"]})
    text = str(error.value)
    assert "claim 'b': no study 'q'; there are: s" in text
    assert "claim 'c': study 's' has no variant 'y*'" in text
    assert "'a x*'" not in text


# --- the claims of the repository -------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", PAPERS)
def test_every_claim_names_a_study_and_variants_that_exist(paper):
    found = registered(paper)
    assert 8 <= len(found) <= 16
    check_names(found, {name: list(study.variants) for name, study in papers.get(paper).studies_at("cpu").items()})


@pytest.mark.parametrize("paper", PAPERS)
def test_every_claim_of_training_is_registered_by_the_rules(paper):
    for claim in registered(paper):
        assert claim.source, claim.id
        assert claim.statement.endswith("."), claim.id
        if claim.test.of_training:
            assert claim.seeds in (5, 8), claim.id
            assert claim.sets, claim.id
            if claim.effect is None or abs(claim.effect) < 0.05:  # half of next to nothing decides nothing
                assert claim.margin == 0.05, claim.id
            else:
                assert claim.margin == pytest.approx(abs(claim.effect) / 2), claim.id
        else:
            assert claim.margin == 0, claim.id


def fitted(values: Sequence[float]) -> float:
    """Last minus first point of the line through values at equal steps."""
    return float(np.polyfit(range(len(values)), values, 1)[0]) * (len(values) - 1)


def test_effects_are_those_that_the_papers_print():
    numbers = {p: published(p).set_index("id")["value"] for p in PAPERS}

    def dB(paper: str, pattern: str) -> float:
        return float(numbers[paper][pattern])

    def both(paper: str, a: str, b: str) -> float:
        """The difference on the 19 images of Set5 and Set14."""
        n = {"Set5": 5, "Set14": 14}
        return sum(k * (dB(paper, f"{a}/{s}/psnr") - dB(paper, f"{b}/{s}/psnr")) for s, k in n.items()) / 19

    depths = fitted([dB("drcn", f"fig4/D={d}/x3/Set5/psnr") for d in (1, 6, 11, 16)])

    def by_lambda(*values: str) -> float:
        return fitted([dB("drn", f"lambda/DRN-S-{value}/x4/Set5/psnr") for value in values])

    expected = {
        ("drcn", "fig4/D/trend"): depths,
        ("drcn", "fig4/D/trend-of-wide"): depths,
        ("drcn", "fig4/D/16-over-11"): dB("drcn", "fig4/D=16/x3/Set5/psnr") - dB("drcn", "fig4/D=11/x3/Set5/psnr"),
        ("drn", "dual/with->-without/ordering"): dB("drn", "dual/DRN-S-with/x4/Set5/psnr")
        - dB("drn", "dual/DRN-S-without/x4/Set5/psnr"),
        ("drn", "lambda/rise/trend"): by_lambda("0.001", "0.01", "0.1"),
        ("drn", "lambda/fall/trend"): by_lambda("10", "1", "0.1"),
        ("drn", "dual hr/equal/ordering"): dB("drn", "dual hr/DRN-S-with/x4/Set5/psnr")
        - dB("drn", "dual hr/DRN-S-without/x4/Set5/psnr"),
        ("drn", "criteria/DRC->=-unpruned/ordering"): both("drn", "table2/DRN-S-with-DRC/x4", "table2/DRN-S/x4"),
        ("addersr", "abstract/energy"): float(numbers["addersr"]["abstract/Adder/energy_ratio"]),
        ("addersr", "listing/energy"): float(numbers["addersr"]["listing/Adder/energy_ratio"]),
        ("bsrn", "attention/params"): float(numbers["bsrn"]["attention/BSRN-without-ESA/params_change_percent"]),
        ("nsr", "table2/compute"): float(numbers["nsr"]["table2/dense-over-sparse/multi_adds_ratio"]),
        ("nsr", "table4/compute"): float(numbers["nsr"]["table4/EDSR-L-over-sparse-L/multi_adds_ratio"]),
    }  # fmt: skip
    for scale in (2, 3, 4):
        single = numbers["drcn"].filter(regex=rf"^fig5/d=\d+/x{scale}/Set5/psnr$").astype(float)
        key = f"fig5/ensemble->-best-single-recursion/x{scale}/ordering"
        expected["drcn", key] = dB("drcn", f"fig5/ensemble/x{scale}/Set5/psnr") - single.max()
        pair = (f"comparison/VDSR-{kind}/x{scale}" for kind in ("Adder", "CNN"))
        expected["addersr", f"comparison/adder->=-CNN/x{scale}/ordering"] = both("addersr", *pair)
    for rival in ("CP", "ThiNet", "DCP"):
        pair = (f"table2/DRN-S-with-{kind}/x4" for kind in ("DRC", rival))
        expected["drn", f"criteria/DRC->-{rival}/ordering"] = both("drn", *pair)
    ours = {(p, c.id): c.effect for p in PAPERS for c in registered(p) if c.effect is not None}
    assert ours == pytest.approx(expected, abs=6e-4)


def test_numbers_and_claims_are_kept_apart():
    assert all("ordering" not in set(published(paper)["metric"]) for paper in claims.known())


def test_both_energy_ratios_are_held_against_all_networks():
    for check in energy.checks():
        assert check.figures["networks"] == len(energy.energy_table())
        assert 0 < check.figures["agree"] < check.figures["networks"]
        assert not check.holds
    assert sum(check.figures["agree"] for check in energy.checks()) == len(energy.energy_table())


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "effect", "a", "verdict"),
    [
        ("study s: a > b", "", 0.2, "holds"),
        ("study s: a > b", "", -0.2, "reversed"),
        ("study s: a > b", "", 0.005, "equivalent"),
        ("study s: a > b", "0.5", 0.035, "smaller than published"),
        ("study s: a >= b", "", -0.005, "holds"),
        ("study s: a >= b", "", -0.2, "reversed"),
        ("study s: a >= b", "", -0.05, "undecided"),
        ("study s: a >= b", "-0.2", -0.2, "holds"),
        ("study s: a >= b", "-0.2", -0.4, "reversed"),
        ("study s: a = b", "", 0.005, "holds"),
        ("study s: a = b", "", 0.2, "reversed"),
    ],
)
def test_each_verdict_of_a_difference(toy, test, effect, a, verdict):
    margin = "0.001" if verdict == "smaller than published" else "0.05"
    toy(row(test, effect=effect, margin=margin))
    sd = 0.05 if verdict == "smaller than published" else 0.02
    found = judged(study({"a": a, "b": 0.0}, sd=sd))
    assert found["verdict"] == verdict
    assert found["ours"] == pytest.approx(a, abs=1e-6)
    assert found["low"] < a < found["high"]
    assert found["ratio"] == pytest.approx(a / float(effect)) if effect else math.isnan(found["ratio"])


def test_the_ratio_and_each_set_stand_beside_the_verdict(toy):
    toy(row("study s: a > b", effect="0.4"))
    found = judged(study({"a": 0.2, "b": 0.0}))
    assert found["ratio"] == pytest.approx(0.5)
    assert {name: values[0] for name, values in found["by_set"].items()} == pytest.approx({"Set5": 0.2, "Set14": 0.2})
    assert found["probability_low"] < found["probability"] <= found["probability_high"] <= 1
    assert found["seeds"] == 8


def test_an_undecided_claim_says_what_would_have_been_found_and_the_seeds_for_more(toy):
    toy(row("study s: a > b", effect="0.1"))
    found = judged(study({"a": 0.06, "b": 0.0}, sd=0.2))
    assert found["verdict"] == "undecided"
    assert found["detectable"] > 0.2
    needed = int(found["seeds_needed"])
    sd = found["detectable"] / statistics.detectable(1.0, 8, 7)
    assert statistics.detectable(sd, needed, needed - 1) <= 0.1 < statistics.detectable(sd, needed - 1, needed - 2)


def test_networks_below_their_floor_conclude_nothing_and_print_no_effect(toy):
    toy(row("study s: a > b"))
    found = judged(study({"a": 0.0, "b": -1.2}))
    assert found["verdict"] == "did not train"
    assert found["reason"] == "b is below its floor by 0.1 dB on Set5 and 0.2 dB on Set14"
    assert found[["ours", "low", "high", "ratio", "p", "detectable"]].isna().all()
    assert found["by_set"] == {}


def test_each_set_has_its_own_floor(toy):
    toy(row("study s: a > b"))
    assert judged(study({"a": 0.0, "b": -1.05}))["reason"] == "b is below its floor by 0.1 dB on Set14"
    assert judged(study({"a": 0.0, "b": -0.95}))["verdict"] == "holds"


def test_the_same_network_twice_is_identical(toy):
    toy(row("study s: a > b"))
    result = study({"a": 0.0, "b": 0.0}, sd=0.0)
    assert judged(result)["verdict"] == "identical"
    assert judged(result)["reason"] == "all runs of both give the same numbers"


@pytest.mark.parametrize(("seeds", "verdict", "reason"), [
    (1, "undecided", "only 1 seed"), (4, "undecided", "only 4 seeds"), (5, "holds", "5 seeds of 8 so far"),
    (8, "holds", ""),
])  # fmt: skip
def test_few_seeds_decide_nothing(toy, seeds, verdict, reason):
    toy(row("study s: a > b", seeds="8"))
    found = judged(study({"a": 0.5, "b": 0.0}, seeds))
    assert (found["verdict"], found["reason"]) == (verdict, reason)


def test_what_was_not_measured_is_open_and_says_why(toy):
    toy(row("study s: a > b"))
    assert tuple(judged(None)[["verdict", "reason"]]) == ("open", "no stored study")
    assert tuple(judged(study({"a": 0.0}))[["verdict", "reason"]]) == ("open", "no runs of b yet")
    found = judged(study({"a": 0.5, "b": 0.0}, sets=["set12"]))
    assert tuple(found[["verdict", "reason"]]) == ("open", "not measured on Set5 and Set14")
    found = judged(study({"a": 0.5, "b": 0.0}, sets=["set5"]))
    assert tuple(found[["verdict", "reason", "sets"]]) == ("undecided", "not measured on Set14", "set5")
    with pytest.raises(ValueError, match="no study 's' was given; there are: q"):
        judge_claims("toy", {"q": None})


def test_a_score_that_is_no_number_is_an_error(toy):
    toy(row("study s: a > b"))
    result = study({"a": 0.5, "b": 0.0})
    result.rows.loc[0, "psnr"] = math.nan
    with pytest.raises(ValueError, match=r"'a', seed 0, .*nan: it must be a finite number"):
        judged(result)


# --- kinds of tests ---------------------------------------------------------------------------------------------------


def test_a_trend_is_one_test_with_its_steps(toy):
    toy(row("trend s: a < b < c", effect="0.6"))
    found = judged(study({"c": 0.3, "b": 0.3, "a": 0.0}))
    assert found["verdict"] == "holds"
    assert found["ours"] == pytest.approx(0.3)
    assert found["ratio"] == pytest.approx(0.5)
    assert {name: values[0] for name, values in found["steps"].items()} == pytest.approx(
        {"b > a": 0.3, "c > b": 0.0}, abs=1e-9
    )
    assert all(low < middle < high for middle, low, high in found["steps"].values())


def test_two_metrics_of_one_run_are_compared_within_the_run(toy):
    toy(row("study s: a[psnr] > a[single]", sets="set5"))
    single = {"a": BASE["set5"] - 0.2}
    found = judged(study({"a": 0.0, "b": 5.0}, sd=0.5, single=single))
    assert found["ours"] == pytest.approx(0.2)
    assert found["verdict"] == "holds"
    assert found["high"] - found["low"] < 1e-6  # the run's own scatter drops out


def test_a_pattern_means_the_best_of_its_variants(toy):
    toy(row("study s: a x* > b x*"))
    found = judged(study({"a x1": 0.0, "a x10": 0.3, "b x1": 0.1, "b x10": -0.3, "a, b x1": 9.0}))
    assert found["ours"] == pytest.approx(0.2)
    assert found["verdict"] == "holds"


CELLS = pd.DataFrame({"id": ["t/a/params", "t/b/params", "t/c/params"], "ours": [1.0, 2.5, math.nan],
                      "verdict": ["reproduced", "differs", "open"]})  # fmt: skip


def test_cells_hold_when_all_that_were_measured_agree(toy):
    toy(row("cells t/*/params"), row("cells t/a/params", id="b", effect="2"), row("cells t/c/*, t/a/*", id="c"))
    table = judge_claims("toy", {}, cells=CELLS).set_index("id")
    assert table.loc["a/claim", ["verdict", "reason"]].tolist() == [
        "does not hold",
        "1 of 2 numbers agree; not t/b/params",
    ]
    assert table.loc["b", ["verdict", "ours", "ratio"]].tolist() == ["holds", 1.0, 0.5]
    assert table.loc["c", "verdict"] == "holds"
    assert set(judge_claims("toy", {})["verdict"]) == {"open"}
    assert set(judge_claims("toy", {}, cells=CELLS.tail(1))["reason"]) == {"none of its numbers was measured"}


def test_checks_hold_when_all_say_so_and_some_refute_the_claim(toy):
    toy(row("check T1, T2"), row("check T1, not T1c", id="b"), row("check T9", id="c"))
    table = judge_claims("toy", {}, checks={"T1": True, "T2": False, "T1c": True}).set_index("id")
    assert table["verdict"].tolist() == ["does not hold", "does not hold", "open"]
    assert table["reason"].tolist() == ["1 of 2 checks agree; not T2", "1 of 2 checks agree; not T1c", "not run: T9"]
    table = judge_claims("toy", {}, checks={"T1": True, "T2": True, "T1c": False}).set_index("id")
    assert table["verdict"].tolist()[:2] == ["holds", "holds"]


# --- floors, pooling, Holm --------------------------------------------------------------------------------------------


def test_a_claim_that_the_other_arm_fails_asks_the_floor_of_the_better_one_alone(toy):
    toy(row("study s: a > b", floor="first bicubic+0.5"))
    assert judged(study({"a": 0.0, "b": -9.0}))["verdict"] == "holds"
    assert judged(study({"a": -9.0, "b": 0.0}))["verdict"] == "did not train"
    toy(row("study s: a > b", floor="none"))
    assert judged(study({"a": -9.0, "b": -9.5}))["verdict"] == "holds"


def test_a_variant_that_did_not_train_is_not_pooled(toy):
    toy(row("study s: a > b"))
    means, wild = {"a": 0.1, "b": 0.0, "c": 0.05}, {"d": 3.0}
    without = judged(study(means))
    dead = judged(study(means | {"d": -9.0}, scatter=wild))
    alive = judged(study(means | {"d": 0.0}, scatter=wild))
    assert dead["low"] == pytest.approx(without["low"])
    assert alive["low"] < without["low"] - 0.5
    assert without["high"] - without["low"] < judged(study({"a": 0.1, "b": 0.0}))["high"] * 2  # c helps


def test_arms_that_scatter_more_than_their_study_are_told(toy):
    toy(row("study s: a > b"))
    calm = dict.fromkeys("cdefgh", 0.0)
    found = judged(study({"a": 0.1, "b": 0.0} | calm, scatter={"a": 0.2, "b": 0.2}))
    assert "its arms scatter 1.7 times as much as the study, so the interval is too narrow" in found["reason"]
    assert found["sd_own"] > 1.5 * found["sd"] > 0
    assert judged(study({"a": 0.1, "b": 0.0} | calm))["reason"] == ""


def test_floors_of_restoration_are_known_without_images(toy, monkeypatch):
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    monkeypatch.setenv("NSRLIB_DATA", "")
    noise, jpeg = {"scale": 1, "degradation": {"noise": 25}}, {"scale": 1, "degradation": {"jpeg": 10}}
    assert floors.psnr_of("non-local means", "set12", noise) == pytest.approx(28.52, abs=0.01)
    assert floors.psnr_of("JPEG", "classic5", jpeg | {"limit": 7}) == pytest.approx(27.82, abs=0.01)
    assert floors.psnr_of("bicubic", "set14", {"scale": 3}) == 27.55
    toy(row("study s: a > b", floor="non-local means", sets="set12"))
    above, below = ({"a": mean, "b": mean - 0.3} for mean in (-0.5, -0.9))  # 29.5 + mean
    assert judged(study(above, sets=["set12"], settings=noise))["verdict"] == "holds"
    assert "b is below its floor by 0.2 dB on Set12" in judged(study(below, sets=["set12"], settings=noise))["reason"]
    with pytest.raises(ValueError, match="the floor JPEG is not for the task upscaling"):
        floors.psnr_of("JPEG", "set5", {"scale": 2})


@pytest.mark.parametrize("line_of_file", (ROOT / "data/results/floors.csv").read_text().splitlines()[1:])
def test_stored_floors_are_those_of_the_images(benchmark, line_of_file):
    base, name, scale, noise, jpeg, limit, psnr = line_of_file.split(",")
    if name == "bsd68":
        pytest.skip("half a minute, and the same code")
    benchmark(name)
    found = floors.measured(base, name, int(scale), int(noise), int(jpeg), int(limit))
    assert found == pytest.approx(float(psnr), abs=0.005)


def test_without_a_floor_nothing_is_decided(toy, monkeypatch):
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    monkeypatch.setenv("NSRLIB_DATA", "")
    toy(row("study s: a > b", floor="JPEG+0.2", sets="classic5"))
    result = study({"a": 0.5, "b": 0.0}, sets=["classic5"], settings={"scale": 1, "degradation": {"jpeg": 97}})
    assert judged(result)["verdict"] == "undecided"
    assert judged(result)["reason"] == "the floor JPEG is not known without the test images"


def test_holm_counts_all_registered_claims_of_training_measured_or_not(toy):
    first, other = row("study s: a > b"), row("study q: a > b", id="q")
    result = study({"a": 0.056, "b": 0.0}, seeds=8, sd=0.05)
    toy(first)
    alone = judged(result)
    assert 0.025 < alone["p"] < 0.05
    assert alone["p_holm"] == alone["p"]
    assert alone["verdict"] == "holds"
    toy(first, row("cells t/a/params", id="c"))
    assert judged(result)["verdict"] == "holds"
    toy(first, other)
    table = judge_claims("toy", {"s": result, "q": None})
    assert table["p_holm"].iloc[0] == pytest.approx(2 * alone["p"])
    assert table["verdict"].tolist() == ["undecided", "open"]
    strong = judge_claims("toy", {"s": result, "q": study({"a": 1.0, "b": 0.0})})
    assert strong["verdict"].tolist() == ["holds", "holds"]


def test_a_study_that_decides_nothing_takes_no_rank_in_holm(toy):
    toy(row("study s: a > b"), row("study q: a > b", id="q"))
    result = study({"a": 0.056, "b": 0.0}, seeds=8, sd=0.05)
    table = judge_claims("toy", {"s": result, "q": study({"a": 1.0, "b": 0.0}, seeds=3)})
    assert table["verdict"].tolist() == ["undecided", "undecided"]
    assert table["p"].notna().all()


# --- frozen -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def history(toy, tmp_path):
    """``history(row, ...)`` registers claims, commits, and returns the commit."""
    git(tmp_path, "init", "-q", "-b", "main")

    def commit(*rows: Mapping[str, str]) -> str:
        toy(*rows)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "claims")
        return git(tmp_path, "rev-parse", "HEAD")

    return commit


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_claim_is_registered_if_it_stood_before_the_runs(history):
    before = history()
    at = history(row("study s: a > b"))
    after = history(row("study s: a > b"), row("study s: a > c", id="later"))
    claim, later = registered("toy")
    assert when_registered(claim, [at, after]) == ("registered", "")
    assert when_registered(claim, [at[:7]]) == ("registered", "")
    assert when_registered(claim, [after, before]) == ("exploratory", f"registered after the results' commit {before}")
    assert when_registered(later, [at])[0] == "exploratory"
    assert when_registered(later, [after])[0] == "registered"


@pytest.mark.parametrize(
    ("column", "value"), [("margin", "0.06"), ("sets", "set5"), ("statement", "Another."), ("seeds", "3")]
)
def test_a_claim_that_was_changed_is_exploratory(history, column, value):
    old = history(row("study s: a > b"))
    new = history(row("study s: a > b", **{column: value}))
    (claim,) = registered("toy")
    assert when_registered(claim, [old]) == ("exploratory", f"its {column} was changed after the results' commit {old}")
    assert when_registered(claim, [new])[0] == "registered"


def test_where_a_claim_was_read_may_be_corrected(history):
    old = history(row("study s: a > b"))
    history(row("study s: a > b", source="page 7", where="Table 2"))
    assert when_registered(registered("toy")[0], [old])[0] == "registered"


def test_results_of_no_visible_code_are_exploratory(history, tmp_path):
    first = history(row("study s: a > b"))
    git(tmp_path, "checkout", "-q", "-b", "side")
    side = history(row("study s: a > b"))
    git(tmp_path, "checkout", "-q", "main")
    (claim,) = registered("toy")
    for commit, why in (
        (f"{first}-dirty", "had changes that nobody can see"),
        ("unknown", "name no commit"),
        ("", "name no commit"),
        ("0" * 40, "does not exist"),
        (side, "is not in this history"),
    ):
        status, reason = when_registered(claim, [commit])
        assert status == "exploratory", commit
        assert why in reason


def test_without_a_history_nothing_is_called_exploratory(toy, history, tmp_path, tmp_path_factory, monkeypatch):
    commit = history(row("study s: a > b"))
    history(row("study s: a > b"))
    (claim,) = registered("toy")
    shallow = tmp_path_factory.mktemp("shallow") / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tmp_path}", str(shallow))
    assert when_registered(claim, [commit], root=shallow)[0] == NO_HISTORY
    assert "shallow" in when_registered(claim, [commit], root=shallow)[1]
    bare = tmp_path_factory.mktemp("wheel")
    assert when_registered(claim, [commit], root=bare) == (NO_HISTORY, "the claims lie in no repository")


def test_an_exploratory_claim_is_shown_as_such_and_stays_out_of_the_family(history):
    at = history(row("study s: a > b"))
    history(row("study s: a > b"), *(row("study s: a > c", id=f"later {k}") for k in range(3)))
    result = study({"a": 0.056, "b": 0.0, "c": 0.02}, sd=0.05, commit=at)
    table = judge_claims("toy", {"s": result})
    assert table["registered"].tolist() == ["registered", *["exploratory"] * 3]
    assert table["p_holm"].iloc[0] == table["p"].iloc[0]  # alone in its family
    assert table["p_holm"].iloc[1] == pytest.approx(min(1, 3 * table["p"].iloc[1]))
    assert table["history"].iloc[1] == f"registered after the results' commit {at}"
    found = judge_claims("toy", {"s": study({"a": 1.0, "b": 0.0, "c": 0.0}, commit=at)})
    assert [line(r).endswith("(exploratory)") for r in found.to_dict("records")] == [False, True, True, True]


def test_the_real_history_holds_the_claims_from_their_first_commit_on():
    log = ["log", "--reverse", "--format=%H", "--", "data/published/claims.csv"]
    if not (ROOT / ".git").exists() or git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("the history is not at hand")
    commits = git(ROOT, *log).splitlines()
    claim = next(c for c in registered("bsrn") if c.id == "decompositions/BSConv-U->-DSConv/ordering")
    assert when_registered(claim, commits)[0] == "registered"
    assert when_registered(claim, [f"{commits[0]}~1"])[0] == "exploratory"


@pytest.mark.parametrize("paper", PAPERS)
def test_what_a_stored_study_concludes_was_registered_before(paper):
    found = {name: papers.get(paper).stored_study(name) for name in papers.get(paper).studies_at("cpu")}
    results = {
        name: None if result is None or getattr(result, "pilot", True) else result for name, result in found.items()
    }
    table = judge_claims(paper, results)
    concluded = table[table["verdict"].isin(["holds", "reversed", "equivalent", "smaller than published"])]
    assert set(concluded["registered"]) <= {"registered", NO_HISTORY}


# --- reading ----------------------------------------------------------------------------------------------------------


def lines(table: pd.DataFrame) -> list[str]:
    return [line(r) for r in table.to_dict("records")]


def test_lines_say_what_was_found(toy):
    toy(
        row("study s: a > b", statement="A is better than B."),
        row("study s: b > a", id="b", effect="0.15", statement="B is better."),
        row("study s: a > dead", id="c", statement="A is not dead."),
        row("study s: a > same", id="d", effect="0.3", margin="0.15", statement="A is not the same."),
        row("study q: a > b", id="e", statement="Nobody looked."),
        row("check T1", id="f", statement="It is a theorem."),
    )  # fmt: skip
    result = study({"a": 0.2, "b": 0.0, "dead": -5.0, "same": 0.2})
    assert lines(judge_claims("toy", {"s": result, "q": None}, checks={"T1": True})) == [
        "A is better than B: holds, +0.20 dB (+0.18 to +0.22) on Set5 and Set14, 8 seeds; published: words only",
        "B is better: reversed, -0.20 dB (-0.22 to -0.18) on Set5 and Set14, 8 seeds; published: +0.15 dB",
        "A is not dead: did not train (dead is below its floor by 3.9 dB on Set5 and 4.0 dB on Set14)",
        "A is not the same: equivalent, +0.00 dB (-0.02 to +0.02) on Set5 and Set14, 8 seeds; up to 0.15 dB do not "
        "matter; published: +0.3 dB",
        "Nobody looked: open (no stored study)",
        "It is a theorem: holds (1 check agrees)",
    ]
    few = lines(judge_claims("toy", {"s": study({"a": 0.2, "b": 0.0, "dead": 0.0, "same": 0.0}, 3), "q": None}))
    assert "on Set5 and Set14, 3 seeds of at least 5; published: words only" in few[0]
    toy(row("study s: a > b", statement="A is better than B."))
    (wide,) = lines(judge_claims("toy", {"s": study({"a": 0.1, "b": 0.0}, sd=0.3)}))
    assert wide.startswith("A is better than B: undecided, +0.10 dB (-0.")
    assert "; this study would have found 0.4" in wide


def test_the_table_for_reading_has_no_empty_words(toy):
    toy(
        row("study s: a > b", effect="0.4"),
        row("cells t/a/params", id="b", effect="1", unit="K"),
        row("check T1", id="c"),
    )
    table = readable(judge_claims("toy", {"s": study({"a": 0.2, "b": 0.0})}, cells=CELLS))
    assert table.loc["a/claim", ["published", "ours", "ratio", "seeds"]].tolist() == [
        "+0.4 dB", "+0.20 dB (+0.18 to +0.22)", "0.50", "8"]  # fmt: skip
    assert table.loc["b", ["published", "ours", "verdict"]].tolist() == ["1 K", "1 K", "holds"]
    assert not table.map(lambda text: "nan" in text).any(axis=None)


def test_a_session_judges_with_checks_cells_and_studies_of_its_notebook(tmp_path, capsys):
    session = papers.open("addersr", out_dir=tmp_path, sets="embedded", scale=2)
    session.studies = dict.fromkeys(session.paper.studies_at("cpu"))
    assert (
        session.verdicts("listing/energy") == "Adder networks need about 2 times less energy: open (not run: energy 2)"
    )
    assert [c.id for c in session.check(energy.checks())] == ["energy 2.5", "energy 2"]
    session.check(
        [Check("T1", "", "proved", True), Check("T1a", "", "checked", True), Check("T1a", "", "checked", False)]
    )
    assert session.verdicts("listing/energy", "theorem1/all*").splitlines() == [
        "Adder networks need about 2 times less energy: does not hold (its check energy 2 says otherwise)",
        "No adder filter passes every image on unchanged: does not hold (1 of 2 checks agree; not T1a)",
    ]
    assert session.claims("theorem1/*")["verdict"].tolist() == ["does not hold", "open"]
    session.provenance()
    stored = pd.read_json(tmp_path / "addersr.json", typ="series")["claims"]
    assert [c["id"] for c in stored] == [c.id for c in registered("addersr")]
    assert stored[0]["verdict"] == "does not hold"
    with pytest.raises(ValueError, match=r"no claim of addersr fits 'theorem3/\*'; there are: abstract/energy, "):
        session.claims("theorem3/*")


def test_the_picture_shows_every_trained_claim_with_its_verdict(toy):
    toy(row("study s: a > b", effect="0.4"), row("study s: a > dead", id="b"), row("cells t/a/params", id="c"))
    table = judge_claims("toy", {"s": study({"a": 0.2, "b": 0.0, "dead": -5.0})})
    fig = plots.claims(table, "Toy")
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a/claim is so", "b is so"]
    says = [t.get_text().replace("\n", " ") for t in ax.texts]
    assert says[0] == "holds: 8 seeds, 0.50 of the published effect"
    assert says[1].startswith("did not train: dead is below its floor")
    diamonds = [x.get_xdata()[0] for x in ax.lines if x.get_marker() == "D"]
    assert diamonds == [0.4]
    assert ax.get_xlim()[0] < 0 < 0.4 < ax.get_xlim()[1]
    plt.close(fig)
    with pytest.raises(ValueError, match="no claim about training to draw"):
        plots.claims(table.tail(1))
