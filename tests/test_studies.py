"""Grids of runs: nothing is run twice, nothing is lost, and rows say where they come from."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nsrlib import studies
from nsrlib.files import lock
from nsrlib.studies import Job, Run, Study, StudyError, StudyResult, duration, load_study, merged, run_all

IMAGES = {"set5": ["baby", "bird"], "set14": ["zebra"]}

CALLS: list[tuple[str, int]] = []


def task(
    *,
    seed: int,
    out: str,
    gain: float = 0.0,
    fail: int | None = None,
    config: dict | None = None,
    recipe: dict | None = None,
) -> dict:
    """Runs in a moment; leaves something in its folder as training does."""
    CALLS.append((Path(out).name, seed))
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "checkpoint").write_text("half done")
    if seed == fail:
        raise RuntimeError("the loss is nan at step 7\nand more")
    return made(seed, gain + (recipe or {}).get("iterations", 0) / 1000)


def made(seed: int, gain: float) -> dict:
    """What a task returns whose network reaches 30 dB and more on the first picture, a little less on the others."""
    psnr = 30 + gain + math.sin(seed)
    pictures = [(name, image) for name, images in IMAGES.items() for image in images]
    scores = [{"set": s, "image": n, "psnr": psnr - k, "ssim": 0.9} for k, (s, n) in enumerate(pictures)]
    curve = [{"step": 1, "psnr": 20.0}, {"step": 5, "psnr": psnr}]
    data = {"train": "11", "set5": "55", "set14": "14"}
    return {"scores": scores, "params": 7, "gap": np.float64(gain), "curve": curve, "data": data}


def in_a_worker(*, seed: int, out: str, gain: float = 0.0, fail: int | None = None) -> dict:
    if seed == fail:
        raise RuntimeError("no")
    return made(seed, gain) | {"process": os.getpid()}


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
    return Study(
        **{
            "name": "toy",
            "variants": {"a": {"gain": 0.5}, "b": {}},
            "task": task,
            "note": "tiny",
            "seeds": (0, 1, 2),
            **changes,
        }
    )


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_study_runs_every_variant_with_every_seed(tmp_path):
    result = study().run(tmp_path, progress=False)
    table = result.table
    assert list(table.columns) == [
        "variant",
        "seed",
        "psnr_set5",
        "ssim_set5",
        "psnr_set14",
        "ssim_set14",
        "params",
        "gap",
    ]
    assert list(zip(table["variant"], table["seed"], strict=True)) == [(v, s) for v in "ab" for s in (0, 1, 2)]
    np.testing.assert_allclose(table["psnr_set5"], [29.5 + g + math.sin(s) for g in (0.5, 0) for s in (0, 1, 2)])
    np.testing.assert_allclose(table["psnr_set14"], [28 + g + math.sin(s) for g in (0.5, 0) for s in (0, 1, 2)])
    assert list(result.curves.columns) == ["variant", "seed", "step", "psnr"]
    assert len(result.curves) == 12
    assert result.seeds == [0, 1, 2]
    # seed by seed, so that an interrupted study has whole comparisons
    assert [seed for _, seed in CALLS] == [0, 0, 1, 1, 2, 2]
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["a"] * 3 + ["b"] * 3
    assert all(p.suffix == ".json" for p in tmp_path.iterdir())  # what runs left behind is gone


def test_every_row_says_where_it_comes_from(tmp_path):
    with_steps = study(common={"recipe": {"iterations": 60, "batch": 4, "patch": 16}}, seeds=(3,))
    rows = with_steps.run(tmp_path, progress=False).rows
    assert list(rows.columns[:20]) == [
        "variant", "seed", "set", "image", "psnr", "ssim", "steps", "batch", "patch", "params", "loss", "seconds",
        "task", "recipe_sha256", "data_sha256", "commit", "device", "isa", "threads", "torch",
    ]  # fmt: skip
    assert len(rows) == 6
    first = rows.iloc[0]
    assert first[["variant", "seed", "set", "image"]].tolist() == ["a", 3, "set5", "baby"]
    assert first[["steps", "batch", "patch", "threads"]].tolist() == [60, 4, 16, 1]
    assert first["task"] == "test_studies:task"
    assert first["recipe_sha256"] == with_steps.digest("a")
    assert len(first["recipe_sha256"]) == 64
    assert first["data_sha256"] == "11"
    assert not rows[["commit", "device", "isa", "torch"]].isna().any(axis=None)


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
    assert changed.table["psnr_set5"][0] == 30.25
    CALLS.clear()
    study(common={"config": {"width": 8}}).run(tmp_path, progress=False)
    assert len(CALLS) == 6
    assert study().collect(tmp_path).table["psnr_set5"][0] == 30.0


def test_shorter_budgets_are_trainings_of_their_own(tmp_path):
    short = study(common={"recipe": {"iterations": 60}}, seeds=(0, 1, 2), budgets={1 / 3: (0, 1), 0.1: (0,)})
    result = short.run(tmp_path, progress=False)
    assert result.budgets == [6, 20, 60]
    assert len(CALLS) == 6 + 4 + 2
    assert len({name for name, _ in CALLS}) == 12
    assert result.scores(["set14"], steps=6)["value"].tolist() == pytest.approx([28.506, 28.006])
    assert set(result.scores()["seed"]) == {0, 1, 2}  # of the whole budget, like all that follows
    assert len(result.table) == 6
    assert len(result.curves) == 12
    assert result.seeds == [0, 1, 2]


def test_what_claims_need_is_trained_first_short_runs_first_and_seed_by_seed():
    budgets = {0.5: (0, 1), 0.2: (0,)}
    both = study(
        variants={v: {} for v in "xab"}, common={"recipe": {"iterations": 60}}, seeds=range(7), budgets=budgets
    )
    order = both.runs(first=("a", "b"))
    assert order[:3] == [Run("a", 0, 0.2), Run("b", 0, 0.2), Run("a", 0, 0.5)]
    short, five, more = order[2:6], order[6:16], order[16:20]
    assert {(r.variant, r.seed, r.share) for r in short} == {(v, s, 0.5) for v in "ab" for s in (0, 1)}
    assert five[:3] == [Run("a", 0), Run("b", 0), Run("a", 1)]
    assert {(r.variant, r.seed) for r in five} == {(v, s) for v in "ab" for s in range(5)}
    assert {(r.variant, r.seed) for r in more} == {(v, s) for v in "ab" for s in (5, 6)}
    assert {r.variant for r in order[20:]} == {"x"}


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
    began = len(list(tmp_path.glob("began-*")))
    assert began <= 6  # of 12
    time.sleep(1)
    assert len(list(tmp_path.glob("began-*"))) == began


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


def test_a_digest_changes_with_the_settings_and_only_with_them():
    named = study(task="nsrlib.studies.task:train_and_score", common={"scale": 4, "recipe": {"iterations": 9}})
    assert named.digest("a") != named.digest("b") != named.digest("b", 1 / 3)
    assert named.digest("a") == replace(named, seeds=(5,), note="other", name="other").digest("a")
    again = study(variants={"a": {"recipe": {"iterations": 9}, "gain": 0.5, "scale": 4}}, task=named.task)
    assert named.digest("a") == again.digest("a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "study 'toy' has no variants"),
        ({"seeds": ()}, r"seeds of study 'toy' must be different numbers, got \(\)"),
        ({"seeds": (0, 1, 0)}, r"must be different numbers, got \(0, 1, 0\)"),
        ({"budgets": {0.1: ()}}, r"must be different numbers, got \(\)"),
        ({"budgets": {3: (0,)}}, "budgets of study 'toy' are shares of its steps, 0 to 1, got 3"),
        ({"variants": {"a/b": {}}}, "variant names become file names: letters, digits and .*, got 'a/b'"),
    ],
    ids=str,
)
def test_a_wrong_study_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        study(**change)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_budget_runs_what_fits_in_the_order_of_value(tmp_path):
    job = Job(study(task="test_studies:slow"), tmp_path)
    left = run_all([job], seconds=lambda one, run: 0.4, budget=1.0, progress=False)
    done = sorted(path.name[:7] for path in tmp_path.glob("*.json"))
    assert done[:2] == ["a-seed0", "b-seed0"]
    assert len(done) + len(left) == 6
    assert len(left) >= 3
    assert [run for _, run in left] == study().runs()[len(done) :]
    assert run_all([job], progress=False) == []


def slow(*, seed: int, out: str, gain: float = 0.0) -> dict:
    time.sleep(0.35)
    return made(seed, gain)


def test_a_budget_too_short_for_one_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a budget of 10 s is too short: a run takes 2 h 05 min"):
        run_all([Job(study(), tmp_path)], seconds=lambda one, run: 7500, budget=10, progress=False)
    assert CALLS == []


def test_several_studies_share_a_budget_by_the_value_of_their_runs(tmp_path):
    one, two = study(name="one", seeds=range(6)), study(name="two", variants={"c": {}}, seeds=range(6))
    run_all([Job(one, tmp_path / "1", first=("a",)), Job(two, tmp_path / "2", first=("c",))], progress=False)
    order = [name[:7] for name, _ in CALLS]
    assert order[:10] == [f"a-seed{s}" for s in range(5)] + [f"c-seed{s}" for s in range(5)]
    assert order[10:12] == ["a-seed5", "c-seed5"]
    assert {name[0] for name in order[12:]} == {"b"}


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (300, "5 min"), (3660, "1 h 01 min"), (90_000, "25 h 00 min")]
)
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


def test_the_cost_of_a_run_is_taken_from_a_few_steps():
    paced = study(task="test_studies:paced", common={"recipe": {"iterations": 1000}, "points": 2})
    cost = studies.cost(paced, "a")
    assert cost.step == pytest.approx(0.005, rel=0.3)
    assert cost.of(1000) == pytest.approx(5, rel=0.4)
    assert studies.cost(study(), "a") is None  # no recipe, no steps
    assert studies.estimate(paced, Run("a", 0), {"a": cost}) == cost.of(1000)
    assert studies.estimate(paced, Run("b", 0), {"a": cost}) == 0


def paced(*, seed: int, out: str, recipe: dict, points: int, gain: float = 0.0) -> dict:
    time.sleep(0.02 * points + 0.005 * recipe["iterations"])
    return made(seed, gain)


def test_what_runs_took_counts_more_than_a_few_steps(tmp_path):
    one = study(common={"recipe": {"iterations": 60}}, seeds=(0,))
    result = one.run(tmp_path, progress=False)
    stored = replace(result, rows=result.rows.assign(seconds=123.0))
    assert studies.estimate(one, Run("a", 1), {"a": studies.Cost(9, 9)}, stored) == 123
    assert studies.estimate(one, Run("a", 1, 0.5), {"a": studies.Cost(1, 9)}, stored) == 39


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clean(monkeypatch) -> None:
    """The code is that of a commit."""
    monkeypatch.setattr("nsrlib.studies.study.code_commit", lambda root: "0123456789ab")


def test_results_survive_a_file_that_one_line_of_pandas_reads(tmp_path, clean):
    result = study(common={"recipe": {"iterations": 60}}, budgets={0.5: (0,)}).run(tmp_path / "runs", progress=False)
    path = result.store(tmp_path / "deep" / "toy.cpu.csv")
    assert sorted(p.name for p in path.parent.iterdir()) == ["toy.cpu.csv", "toy.cpu.curves.csv", "toy.cpu.json"]
    again = load_study(path)
    pd.testing.assert_frame_equal(again.table, result.table)
    one, two = (r.curves.sort_values(["variant", "seed", "step"], ignore_index=True) for r in (again, result))
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(again.scores(steps=30), result.scores(steps=30))
    assert (again.settings, again.note, again.tests) == (result.settings, "tiny", {"set5": "55", "set14": "14"})
    assert (again.profile, again.pilot) == ("cpu", False)
    frame = pd.read_csv(path)
    assert frame.loc[frame["image"] == "zebra", "psnr"].max() == result.rows.query("image == 'zebra'")["psnr"].max()
    before = path.read_bytes()
    again.store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", '{"name": "x"', "[1, 2]", "{}", '{"name": "x", "rows": []}', "\x00"], ids=repr)
def test_a_file_that_is_no_study_is_named(tmp_path, text):
    (tmp_path / "toy.cpu.csv").write_text("variant,seed\n")
    (tmp_path / "toy.cpu.json").write_text(text)
    with pytest.raises(ValueError, match=r"^toy\.cpu\.csv is not a stored study: "):
        load_study(tmp_path / "toy.cpu.csv")


def test_rows_of_code_without_a_commit_are_not_stored(tmp_path, monkeypatch):
    for state in ("0123456789ab-dirty", "unknown"):
        monkeypatch.setattr("nsrlib.studies.study.code_commit", lambda root, state=state: state)
        result = study().run(tmp_path / state, progress=False)
        with pytest.raises(ValueError, match=rf"runs of study 'toy' were made by code that no commit has \({state}\)"):
            merged(None, result)


def test_rows_of_other_settings_or_other_pictures_are_not_mixed(tmp_path, clean):
    stored = study(seeds=(0,)).run(tmp_path / "1", progress=False)
    other = study(variants={"a": {"gain": 0.6}, "b": {}}).run(tmp_path / "2", progress=False)
    with pytest.raises(ValueError, match="study 'toy' is stored with other settings of a: remove its rows"):
        merged(stored, other)
    with pytest.raises(ValueError, match="study 'toy' is stored with other images of set14"):
        merged(replace(stored, tests={"set5": "55", "set14": "41"}), study().collect(tmp_path / "1"))
    both = merged(stored, study().run(tmp_path / "1", progress=False))
    assert both.seeds == [0, 1, 2]
    assert len(both.rows) == 18
    assert len(both.curves) == 12


def test_a_study_that_is_killed_goes_on_elsewhere_and_ends_the_same(tmp_path, clean):
    """In a process of its own, killed without warning; then on "another machine", where only the rows are."""
    code = "import test_studies as t; t.study(task='test_studies:slow').run({!r}, progress=False, jobs=2)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code.format(str(tmp_path / "here"))], env=environment)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "here").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = study(task="test_studies:slow").collect(tmp_path / "here")
    assert 3 <= len(half.table) < 6
    half.rows["commit"] = "0123456789ab"
    half.store(tmp_path / "data" / "toy.cpu.csv")

    stored = load_study(tmp_path / "data" / "toy.cpu.csv")
    runs = [(v, int(s), None) for v, s in zip(half.table["variant"], half.table["seed"], strict=True)]
    there = study(task="test_studies:slow")
    run_all([Job(there, tmp_path / "there", stored=runs)], progress=False)
    assert len(list((tmp_path / "there").glob("*.json"))) == 6 - len(half.table)
    whole = merged(stored, there.collect(tmp_path / "there"))
    pd.testing.assert_frame_equal(whole.table, there.run(tmp_path / "once", progress=False).table)


def test_scores_are_told_by_set_metric_and_budget(tmp_path):
    result = study().run(tmp_path, progress=False)
    assert list(result.scores().columns) == ["variant", "seed", "set", "image", "value"]
    assert len(result.scores()) == 18
    assert set(result.scores(["set14"])["image"]) == {"zebra"}
    assert set(result.scores(metric="ssim")["value"]) == {0.9}
    gap = result.scores(metric="gap")
    assert (len(gap), set(gap["set"]), set(gap["value"])) == (6, {""}, {0.5, 0.0})
    both = result.scores(metric="psnr_set14"), result.scores(["set14"])
    assert sorted(both[0]["value"]) == sorted(both[1]["value"])
    for call, message in (
        (lambda: result.scores(["b100"]), "study 'toy' was not scored on 'b100'; there are: set5, set14"),
        (
            lambda: result.scores(metric="lpips"),
            "has no metric 'lpips'; there are: psnr, ssim, params, .*gap.*psnr_set5",
        ),
        (lambda: result.scores(steps=7), r"has no runs of 7 steps; there are: \[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_some_variants_can_be_taken_in_another_order_and_by_other_names(tmp_path):
    result = study().run(tmp_path, progress=False)
    assert list(dict.fromkeys(result.only(["b", "a"]).table["variant"])) == ["b", "a"]
    named = result.only({"b": "plain"}, "one")
    assert (named.name, set(named.table["variant"]), set(named.curves["variant"])) == ("one", {"plain"}, {"plain"})
    assert named.settings == {"plain": {}}


def test_a_description_tells_note_seeds_and_device(tmp_path):
    result = study().run(tmp_path, progress=False)
    one = replace(result, rows=result.rows[(result.rows["variant"] == "a") | (result.rows["seed"] == 1)])
    one.rows["device"] = "a processor"
    assert one.describe() == "tiny; 1 seed, a processor."
    assert "a pilot, which decides nothing" in replace(one, profile=studies.PILOT).describe()
    empty = StudyResult("toy", result.rows[:0], result.curve_rows[:0], result.settings)
    assert empty.table.empty
    assert empty.seeds == []
    assert empty.describe() == "0 seeds, ."


# --- training in a study ----------------------------------------------------------------------------------------------


def test_the_usual_task_trains_and_scores_and_repeats_itself(tmp_path):
    settings = {
        "model": "rfdn", "scale": 4, "config": {"num_feats": 8, "num_blocks": 1}, "train": ["embedded_train"],
        "test": ["embedded"], "recipe": {"iterations": 4, "batch": 2, "patch": 16}, "points": 2,
    }  # fmt: skip
    first, second, other = (
        studies.train_and_score(seed=seed, out=str(tmp_path / str(k)), **settings) for k, seed in enumerate((0, 0, 1))
    )
    assert set(first) == {"scores", "params", "loss", "seconds", "curve", "data"}
    assert {row["set"] for row in first["scores"]} == {"embedded"}
    assert first["data"].keys() == {"train", "embedded"}
    assert [point["step"] for point in first["curve"]] == [2, 4]
    mean = np.mean([row["psnr"] for row in first["scores"]])
    assert first["curve"][-1]["psnr"] == pytest.approx(mean, abs=1e-3)
    assert first["loss"] == first["curve"][-1]["loss"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert other["loss"] != first["loss"]
    assert json.loads((tmp_path / "0" / "recipe.json").read_text())["seed"] == 0
    again = studies.train_and_score(seed=0, out=str(tmp_path / "0"), **settings)
    assert again == first  # of its checkpoint, the seconds included


def test_a_study_that_another_process_works_on_is_refused_and_another_one_is_not(tmp_path):
    one, other = Study("one", {"a": {}}, task=task, seeds=[0]), Study("other", {"a": {}}, task=task, seeds=[0])
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    CALLS.clear()
    with lock(tmp_path / "one", "study"):
        with pytest.raises(
            FileExistsError, match=r"another study is at work in .*one \(process \d+ on .*\): wait for it"
        ):
            run_all([Job(other, tmp_path / "other"), Job(one, tmp_path / "one")], progress=False)
        assert CALLS == []
        run_all([Job(other, tmp_path / "other")], progress=False)
    run_all([Job(one, tmp_path / "one")], progress=False)
    assert len(CALLS) == 2
    assert [path.suffix for path in (tmp_path / "one").iterdir()] == [".json"]
