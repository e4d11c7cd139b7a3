"""Grids of runs: nothing is run twice, nothing is lost, and verdicts are those of a t test done by hand."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from nsrlib import papers, studies
from nsrlib.studies import Study, StudyError, StudyResult, load_study, ordering, summary

CALLS: list[tuple[str, int]] = []


def task(*, seed: int, out: str, gain: float = 0.0, fail: int | None = None, config: dict | None = None) -> dict:
    """Runs in a moment; leaves something in its folder as training does."""
    CALLS.append((Path(out).name, seed))
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "checkpoint").write_text("half done")
    if seed == fail:
        raise RuntimeError("the loss is nan at step 7\nand more")
    psnr = 30 + gain + math.sin(seed)
    return {"psnr": np.float64(psnr), "steps": 5, "curve": [{"step": 1, "psnr": 20.0}, {"step": 5, "psnr": psnr}]}


def in_a_worker(*, seed: int, out: str, gain: float = 0.0, fail: int | None = None) -> dict:
    if seed == fail:
        raise RuntimeError("no")
    return {"psnr": 30 + gain + math.sin(seed), "process": os.getpid()}


def interrupted(*, seed: int, out: str) -> dict:
    (Path(out).parent / f"began-{seed}").write_text("")
    if seed == 0:
        raise KeyboardInterrupt
    time.sleep(0.3)
    return {"psnr": 0.0}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


def study(**changes) -> Study:
    return Study(**{"name": "toy", "variants": {"a": {"gain": 0.5}, "b": {}}, "task": task, "note": "tiny", **changes})


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_study_runs_every_variant_with_every_seed(tmp_path):
    result = study().run(tmp_path, progress=False)
    table = result.table
    assert list(table.columns) == ["variant", "seed", "psnr", "steps"]
    assert list(zip(table["variant"], table["seed"], strict=True)) == [(v, s) for v in "ab" for s in (0, 1, 2)]
    np.testing.assert_allclose(table["psnr"], [30 + g + math.sin(s) for g in (0.5, 0) for s in (0, 1, 2)])
    assert list(result.curves.columns) == ["variant", "seed", "step", "psnr"]
    assert len(result.curves) == 12
    assert result.seeds == [0, 1, 2]
    # seed by seed, so that an interrupted study has whole comparisons
    assert [seed for _, seed in CALLS] == [0, 0, 1, 1, 2, 2]
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["a"] * 3 + ["b"] * 3
    assert all(p.suffix == ".json" for p in tmp_path.iterdir())  # what runs left behind is gone
    run = json.loads(next(tmp_path.glob("a-seed1-*")).read_text())
    assert {"device", "versions", "commit"} <= run["provenance"].keys()
    assert (run["variant"], run["seed"]) == ("a", 1)


def test_finished_runs_are_not_repeated_and_changed_ones_are_run_anew(tmp_path):
    study().run(tmp_path, progress=False)
    CALLS.clear()
    study().run(tmp_path, progress=False)
    assert CALLS == []
    study(seeds=(0, 1, 2, 3)).run(tmp_path, progress=False)
    assert [seed for _, seed in CALLS] == [3, 3]
    CALLS.clear()
    changed = study(variants={"a": {"gain": 0.75}, "b": {}}).run(tmp_path, progress=False)
    assert [name[:7] for name, _ in CALLS] == ["a-seed0", "a-seed1", "a-seed2"]
    assert changed.table["psnr"][0] == 30.75
    CALLS.clear()
    study(common={"config": {"width": 8}}).run(tmp_path, progress=False)
    assert len(CALLS) == 6
    assert study().collect(tmp_path).table["psnr"][0] == 30.5


def test_an_interrupted_run_finds_its_folder_again(tmp_path):
    with pytest.raises(StudyError):
        study(variants={"a": {"fail": 1}}).run(tmp_path, progress=False)
    kept = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert [p.name[:7] for p in kept] == ["a-seed1"]
    assert (kept[0] / "checkpoint").exists()
    with pytest.raises(StudyError):
        study(variants={"a": {"fail": 1}}).run(tmp_path, progress=False)
    assert [(name, seed) for name, seed in CALLS if seed == 1] == [(kept[0].name, 1)] * 2


def test_a_failing_run_is_reported_and_the_others_are_kept(tmp_path):
    broken = study(variants={"a": {"fail": 0}, "b": {}}, seeds=(0, 1))
    message = r"^1 of 4 runs of toy failed; the others are kept: a, seed 0: RuntimeError: the loss is nan at step 7$"
    with pytest.raises(StudyError, match=message):
        broken.run(tmp_path, progress=False)
    result = broken.collect(tmp_path)
    assert list(zip(result.table["variant"], result.table["seed"], strict=True)) == [("a", 1), ("b", 0), ("b", 1)]
    assert result.seeds == [1]


def test_two_jobs_give_the_results_of_one(tmp_path):
    variants = {"a": {"gain": 0.5}, "b": {}, "c": {"fail": 1}}
    both = [study(variants=variants, task=t, seeds=(0, 1)) for t in (in_a_worker, "test_studies:in_a_worker")]
    for jobs, one in enumerate(both, start=1):
        with pytest.raises(StudyError, match=r"^1 of 6 runs of toy failed; .*: c, seed 1: RuntimeError: no$"):
            one.run(tmp_path / str(jobs), progress=False, jobs=jobs)
    one, two = (s.collect(tmp_path / str(jobs)).table for jobs, s in enumerate(both, start=1))
    assert len(one) == 5
    pd.testing.assert_frame_equal(one.drop(columns="process"), two.drop(columns="process"))
    assert set(one["process"]) == {os.getpid()}
    assert os.getpid() not in set(two["process"])


def test_no_jobs_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, not 0"):
        study(variants={"a": {}}).run(tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_study_in_several_processes(tmp_path):
    many = study(variants={"a": {}}, task=interrupted, seeds=range(12))
    with pytest.raises(KeyboardInterrupt):
        many.run(tmp_path, progress=False, jobs=2)
    assert len(list(tmp_path.glob("began-*"))) <= 3
    time.sleep(1)
    assert len(list(tmp_path.glob("began-*"))) <= 3


def test_a_task_that_cannot_be_found_fails_by_name(tmp_path):
    with pytest.raises(StudyError, match="a, seed 0: ModuleNotFoundError: No module named 'nowhere'"):
        study(task="nowhere:task", seeds=(0,)).run(tmp_path, progress=False)


def test_a_damaged_run_is_named(tmp_path):
    study().run(tmp_path, progress=False)
    path = next(tmp_path.glob("b-seed2-*"))
    for text in ("", "[]", '{"variant": "b"}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"^{path.name} is not a finished run .*; delete it, and it is run again"):
            study().run(tmp_path, progress=False)


def test_settings_of_a_variant_come_before_common_ones_and_are_merged():
    own = {"recipe": {"lr": 2, "batch": 4}, "train": ["x"], "new": 1}
    both = study(
        variants={"a": own, "b": {}}, common={"recipe": {"lr": 1, "patch": 8}, "train": ["y", "z"], "scale": 2}
    )
    assert both.settings("a") == {"recipe": {"lr": 2, "patch": 8, "batch": 4}, "train": ["x"], "scale": 2, "new": 1}
    assert both.settings("b") == {"recipe": {"lr": 1, "patch": 8}, "train": ["y", "z"], "scale": 2}
    assert both.common["recipe"] == {"lr": 1, "patch": 8}


def test_a_study_on_other_data_says_so_and_is_another():
    own = study(common={"train": ["t91", "bsds400"], "test": ["set5", "set14"]})
    small = own.on_data(["t91"], ["set5"])
    assert small.settings("a") == {"train": ["t91"], "test": ["set5"], "gain": 0.5}
    assert small.note == "tiny; train: t91; test: set5"
    assert small.digest("a") != own.digest("a")
    assert own.on_data(None, None) == own


def test_digests_of_stored_runs_stay_what_they_are():
    # names of files that exist hang on them
    named = study(task="nsrlib.studies:train_and_score", common={"scale": 4, "recipe": {"lr": 1e-3}})
    assert [named.digest(v) for v in "ab"] == ["f7e9cedf", "20415bd4"]
    assert study(task=studies.train_and_score).digest("a") == study(task="nsrlib.studies:train_and_score").digest("a")


@pytest.mark.parametrize(
    ("paper", "profile", "name", "variant", "digest"),
    [
        ("bsrn", "cpu", "sizes", "BSRN-1", "23a81ef1"),
        ("drn", "cpu", "pruning", "drc 30", "6ebf9653"),  # its task has moved
        ("drn", "gpu", "dual", "lambda 0.1", "dce75c06"),  # its set-up has
        ("nsr", "cpu", "references", "input", "96bb6f63"),
        ("drcn", "quick", "depth", "D=6", "d0f2a97c"),
    ],
)
def test_runs_are_found_that_were_made_before_tasks_and_set_ups_moved(paper, profile, name, variant, digest):
    assert papers.get(paper).studies_at(profile)[name].digest(variant) == digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "study 'toy' has no variants"),
        ({"seeds": ()}, r"seeds of study 'toy' must be different numbers, got \(\)"),
        ({"seeds": (0, 1, 0)}, r"must be different numbers, got \(0, 1, 0\)"),
        ({"variants": {"a/b": {}}}, "variant names become file names: letters, digits and .*, got 'a/b'"),
    ],
    ids=str,
)
def test_a_wrong_study_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        study(**change)


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_results_survive_a_file(tmp_path):
    result = study().run(tmp_path / "runs", progress=False)
    again = load_study(result.store(tmp_path / "deep" / "toy.json"))
    assert again == result
    pd.testing.assert_frame_equal(again.table, result.table)


@pytest.mark.parametrize("text", ["", '{"name": "x"', "[1, 2]", "{}", '{"name": "x", "rows": []}', "\x00"], ids=repr)
def test_a_file_that_is_no_study_is_named(tmp_path, text):
    (tmp_path / "toy.json").write_text(text)
    with pytest.raises(ValueError, match=r"^toy\.json is not a stored study: "):
        load_study(tmp_path / "toy.json")


def result_of(values: dict[str, dict[int, float]], note: str = "tiny.") -> StudyResult:
    about = {"curve": [], "provenance": {"device": "a processor"}}
    runs = [
        {"variant": v, "seed": s, "metrics": {"psnr": x}, **about} for v, xs in values.items() for s, x in xs.items()
    ]
    return StudyResult("toy", runs, {v: {} for v in values}, note)


def test_a_description_tells_note_seeds_and_device():
    assert result_of({"a": {0: 1.0, 1: 2.0}, "b": {1: 1.0}}).describe() == "tiny; 1 seed, a processor."
    two = result_of({"a": {0: 1.0, 1: 2.0}}, note="")
    two.runs[0]["provenance"] = {"device": "a card"}
    assert two.describe() == "2 seeds, a card, a processor."


# --- conclusions ------------------------------------------------------------------------------------------------------


def table(**variants: list[float]) -> pd.DataFrame:
    return result_of({v: dict(enumerate(xs)) for v, xs in variants.items()}).table


# t(0.975, 2) = 4.302653; differences 0.1, 0.2, 0.3: mean 0.2, sd 0.1, interval 0.2 -+ 4.302653 * 0.1 / sqrt(3) = 0.2484
BASE = [30.0, 31.0, 29.0]


@pytest.mark.parametrize(
    ("differences", "low", "high", "verdict"),
    [
        ([0.1, 0.2, 0.3], -0.048414, 0.448414, "within noise"),
        ([0.9, 1.0, 1.1], 0.751586, 1.248414, "ordering holds"),
        ([-0.9, -1.0, -1.1], -1.248414, -0.751586, "does not"),
        ([0.5, 0.5, 0.5], 0.5, 0.5, "ordering holds"),
        ([0.0, 0.0, 0.0], 0.0, 0.0, "within noise"),
        ([9.0, 9.1], math.nan, math.nan, "too few seeds"),
        ([9.0], math.nan, math.nan, "too few seeds"),
    ],
    ids=str,
)
def test_verdicts_follow_the_interval_of_a_paired_t_test(differences, low, high, verdict):
    n = len(differences)
    found = ordering(table(a=[b + d for b, d in zip(BASE, differences, strict=False)], b=BASE), "psnr", [("a", "b")])
    row = found.iloc[0]
    assert (row["better"], row["worse"], row["seeds"], row["verdict"]) == ("a", "b", n, verdict)
    assert row["difference"] == pytest.approx(np.mean(differences), abs=1e-9)
    if n >= 3:
        assert (row["low"], row["high"]) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=8))
def test_intervals_are_those_of_scipy(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    difference = np.subtract(a, b)
    assume(difference.std() > 1e-6)
    row = ordering(table(a=a, b=b), "psnr", [("a", "b")]).iloc[0]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(interval.low, abs=1e-6), pytest.approx(interval.high, abs=1e-6))
    other = ordering(table(a=a, b=b), "psnr", [("b", "a")]).iloc[0]
    assert other["low"] == -row["high"]
    swap = {"ordering holds": "does not", "does not": "ordering holds", "within noise": "within noise"}
    assert other["verdict"] == swap[row["verdict"]]


def test_only_seeds_that_both_have_are_compared():
    runs = result_of({"a": {0: 31.0, 1: 32.0, 2: 33.1, 7: 99.0}, "b": {1: 31.1, 2: 32.0, 0: 30.0, 8: 0.0}}).table
    row = ordering(runs, "psnr", [("a", "b")]).iloc[0]
    assert row["seeds"] == 3
    assert row["difference"] == pytest.approx(1.0)


def test_a_variant_without_the_metric_decides_nothing():
    runs = table(a=BASE, b=BASE)
    runs.loc[runs["variant"] == "b", "psnr"] = math.nan
    row = ordering(runs, "psnr", [("a", "b")]).iloc[0]
    assert (row["seeds"], row["verdict"]) == (0, "too few seeds")


def test_a_summary_has_mean_spread_and_paired_differences():
    runs = table(c=[1.0, 2.0, 3.0], a=[b + d for b, d in zip(BASE, (0.1, 0.2, 0.3), strict=True)], b=BASE)
    plain = summary(runs, "psnr")
    assert list(plain.index) == ["c", "a", "b"]
    assert list(plain.columns) == ["mean", "sd", "seeds"]
    assert plain.loc["b"].tolist() == [30.0, 1.0, 3]
    paired = summary(runs, "psnr", "b")
    assert paired.loc["a", ["difference", "low", "high"]].tolist() == pytest.approx(
        [0.2, -0.048414, 0.448414], abs=1e-6
    )
    assert paired.loc["b", ["difference", "low", "high"]].isna().all()
    one = summary(table(a=[1.0], b=[2.0]), "psnr", "b")
    assert one.loc["a", "difference"] == -1.0
    assert one.loc["a", ["sd", "low", "high"]].isna().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: ordering(t, "ssim", []), "no metric 'ssim'; there are: psnr"),
        (lambda t: ordering(t, "psnr", [("a", "z")]), "no variant 'z'; there are: a, b"),
        (lambda t: summary(t, "lpips"), "no metric 'lpips'"),
        (lambda t: summary(t, "psnr", "z"), "no variant 'z'; there are: a, b"),
    ],
    ids=["metric", "variant", "summary's metric", "baseline"],
)
def test_unknown_metrics_and_variants_are_told_what_there_is(call, message):
    with pytest.raises(ValueError, match=message):
        call(table(a=BASE, b=BASE))


# --- training in a study ----------------------------------------------------------------------------------------------


def test_the_usual_task_trains_and_scores_and_repeats_itself(tmp_path):
    settings = {
        "model": "rfdn", "scale": 4, "config": {"num_feats": 8, "num_blocks": 1}, "train": ["embedded_train"],
        "test": ["embedded"], "recipe": {"iterations": 4, "batch": 2, "patch": 16}, "points": 2,
    }  # fmt: skip
    first, second, other = (
        studies.train_and_score(seed=seed, out=str(tmp_path / str(k)), **settings) for k, seed in enumerate((0, 0, 1))
    )
    assert set(first) == {"psnr_embedded", "ssim_embedded", "params", "loss", "seconds", "curve"}
    assert [point["step"] for point in first["curve"]] == [2, 4]
    assert first["curve"][-1]["psnr"] == pytest.approx(first["psnr_embedded"], abs=1e-3)
    assert first["loss"] == first["curve"][-1]["loss"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert other["loss"] != first["loss"]
    assert json.loads((tmp_path / "0" / "recipe.json").read_text())["seed"] == 0
    again = studies.train_and_score(seed=0, out=str(tmp_path / "0"), **settings)
    assert again == first  # of its checkpoint, the seconds included
