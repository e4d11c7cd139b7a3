"""Training a paper's studies by the hour: plans, budgets, rows that are stored as runs finish."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nsrlib import papers
from nsrlib.papers import evidence
from nsrlib.papers.evidence import Evidence, hours
from nsrlib.studies import Study

IMAGES = ("baby", "bird")


def train(*, seed: int, out: str, gain: float = 0.0, recipe: dict | None = None) -> dict:
    steps = (recipe or {}).get("iterations", 0)
    time.sleep(0.002 * steps)
    psnr = 30 + gain + seed / 10
    scores = [{"set": s, "image": name, "psnr": psnr, "ssim": 0.9} for s in ("set5", "set14") for name in IMAGES]
    return {"scores": scores, "seconds": 0.002 * steps, "data": {"train": "aa", "set5": "bb", "set14": "cc"}}


def toy(profile: str) -> dict[str, Study]:
    recipe = {"iterations": 50, "batch": 2, "patch": 8}
    variants = {"good": {"gain": 0.5}, "bad": {}, "odd": {}}
    claimed = Study("toy claimed", variants, {"recipe": recipe}, range(2), {0.1: (0,)}, train, "tiny")
    return {"claimed": claimed, "other": dataclasses.replace(claimed, name="toy other", budgets={})}


@pytest.fixture
def paper(tmp_path, monkeypatch) -> papers.Paper:
    """A paper whose repository is a folder of its own; its claim compares two of three variants."""
    monkeypatch.setattr("nsrlib.studies.study.code_commit", lambda root: "0123456789ab")
    monkeypatch.setattr(evidence, "code_commit", lambda root: "0123456789ab")
    return papers.Paper("toy", tmp_path / "repository", studies=toy)


@pytest.fixture
def chosen(paper, tmp_path, monkeypatch) -> Evidence:
    monkeypatch.setattr(Evidence, "first", lambda self, name: ["good", "bad"] if name == "claimed" else [])
    return Evidence(paper, "cpu", tmp_path / "runs")


def stored(paper: papers.Paper, study: str) -> pd.DataFrame:
    return pd.read_csv(paper.study_file(study, "cpu"))


def test_rows_are_stored_as_runs_finish_and_none_is_run_twice(chosen, paper):
    chosen.run(into=paper.root, progress=False)
    rows = stored(paper, "claimed")
    assert len(rows) == (2 * 3 + 3) * 4
    assert set(rows["commit"]) == {"0123456789ab"}
    assert rows.groupby("steps")["seed"].nunique().to_dict() == {5: 1, 50: 2}
    before = paper.study_file("claimed", "cpu").read_bytes()
    # on "another machine": the rows of the repository, none of the runs
    elsewhere = dataclasses.replace(chosen, folder=chosen.folder.with_name("elsewhere"))
    elsewhere.run(into=paper.root, progress=False)
    assert not list(elsewhere.folder.rglob("*-seed*.json"))
    assert paper.study_file("claimed", "cpu").read_bytes() == before


def test_a_stopped_study_goes_on_from_the_rows_of_the_repository(chosen, paper, monkeypatch):
    calls = []

    def stops(*, seed: int, out: str, **settings) -> dict:
        calls.append(seed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(seed=seed, out=out, **settings)

    changed = {name: dataclasses.replace(s, task=stops) for name, s in chosen.studies.items()}
    monkeypatch.setattr(evidence.Paper, "studies_at", lambda self, profile: changed)
    first = Evidence(paper, "cpu", chosen.folder)
    with pytest.raises(KeyboardInterrupt):
        first.run(into=paper.root, progress=False)
    half = stored(paper, "claimed")
    assert half[["variant", "seed"]].drop_duplicates().to_numpy().tolist() == [["good", 0], ["bad", 0]]
    there = Evidence(paper, "cpu", chosen.folder.with_name("there"))
    there.run(into=paper.root, progress=False)
    assert len(calls) == 4 + (9 + 6) - 3
    whole = paper.stored_study("claimed").table
    once = chosen.studies["claimed"].run(chosen.folder.with_name("once"), progress=False).table
    pd.testing.assert_frame_equal(whole, once)


def test_code_that_no_commit_has_is_not_stored(chosen, paper, monkeypatch):
    for state in ("0123456789ab-dirty", "unknown"):
        monkeypatch.setattr(evidence, "code_commit", lambda root, state=state: state)
        with pytest.raises(ValueError, match=f"this code is {state}: commit what has changed, or run .* --worktree"):
            chosen.run(into=paper.root, progress=False)
    assert not chosen.folder.exists()
    assert len(chosen.run(progress=False)["other"].table) == 6  # not stored: any code will do


def test_a_plan_tells_hours_by_study_and_budget(chosen, paper):
    costs = chosen.costs()
    table = chosen.plan(1, costs).set_index(["study", "steps"])
    assert list(table.index) == [("claimed", 50), ("claimed", 5), ("other", 50)]
    assert table["s/step"].tolist() == pytest.approx([0.002] * 3, rel=0.4)
    assert table["runs missing"].tolist() == [6, 3, 6]
    assert table["seeds"].tolist() == [2, 1, 2]
    assert table.loc[("claimed", 50), "hours missing"] == pytest.approx(6 * 0.1 / 3600, rel=0.5)
    assert chosen.plan(2, costs)["hours missing"].sum() == pytest.approx(table["hours missing"].sum() / 2)
    chosen.run(into=paper.root, progress=False)
    assert chosen.plan(1, costs)["runs missing"].sum() == 0


def test_a_plan_times_nothing_that_stored_runs_tell(chosen, paper, monkeypatch):
    monkeypatch.setattr(evidence, "cost", lambda study, variant: pytest.fail(f"timed {variant}"))
    with pytest.raises(pytest.fail.Exception, match="timed good"):
        chosen.costs()
    chosen.run(into=paper.root, progress=False)
    more = dataclasses.replace(chosen, seeds=3)
    hours = more.plan(1, more.costs()).set_index(["study", "steps"])["hours missing"] * 3600
    assert hours["claimed", 50] == pytest.approx(3 * 0.1, rel=0.5)


def test_the_noise_of_stored_runs_tells_how_many_seeds_a_claim_needs():
    scales = Evidence(papers.get("drcn"), "cpu", Path("runs"), ["scales", "ablations"])
    table = scales.power().set_index("id")
    assert table.loc["fig5/ensemble->-best-single-recursion/x2/ordering", "wanted"] == 0.59  # published
    assert table.loc["ablations/skip/ordering", "wanted"] == 0.1  # words only
    assert table["seeds"].min() >= 2
    assert (table["detectable"] < table["wanted"]).equals(table["needed"] <= table["seeds"])
    assert len(Evidence(papers.get("drcn"), "cpu", Path("runs"), ["width"]).power()) == 0  # no claim


def test_a_budget_takes_claimed_variants_first_and_says_what_is_left(chosen, paper):
    said: list[str] = []
    chosen.run(budget=0.35, into=paper.root, progress=False, say=said.append)
    done = stored(paper, "claimed")[["variant", "steps"]].drop_duplicates().to_numpy().tolist()
    assert [run for run in done if run[1] == 5] == [["good", 5], ["bad", 5]]
    assert {variant for variant, _ in done} == {"good", "bad"}
    assert any("runs are left for another time" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["nothing"]}, "toy has no study 'nothing'; there are: claimed, other"),
        ({"profile": "huge"}, "profile must be one of quick, cpu, gpu, paper, got 'huge'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ],
    ids=["study", "profile", "seeds"],
)
def test_what_cannot_be_trained_is_refused(paper, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Evidence(**{"paper": paper, "profile": "cpu", "folder": tmp_path / "runs"} | changes)
    assert not (tmp_path / "runs").exists()


def test_a_number_of_seeds_replaces_the_study_s_own(paper, tmp_path):
    assert len(Evidence(paper, "cpu", tmp_path, seeds=7).studies["claimed"].seeds) == 7


def test_variants_of_registered_claims_come_first():
    bsrn = Evidence(papers.get("bsrn"), "cpu", Path("runs"))
    assert bsrn.first("decompositions") == ["standard", "DSConv", "BSConv-S", "BSConv-U"]
    assert bsrn.first("attention") == ["ESA and CCA", "without CCA", "without ESA"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90min", 5400), ("90m", 5400), ("1h30", 5400), ("45s", 45), ("1.5h", 5400), ("1 h 30 min", 5400)],
)
def test_budgets_are_written_as_people_write_them(text, seconds):
    assert hours(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0h", "h", "1.2.3h", "-1h"])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=f"a budget is a time such as 2h, 90min or 1h30, got '{text}'"):
        hours(text)


# --- in a worktree ----------------------------------------------------------------------------------------------------


def git(folder: Path, *command: str) -> None:
    name = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *name, *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository whose only module has changed since its commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "module_of_a_commit.py").write_text("print('as committed')")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    (folder / "module_of_a_commit.py").write_text("print('changed since')")
    return folder


def test_a_worktree_runs_what_is_committed_and_is_gone_afterwards(repository, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(repository)
    runs = tmp_path / "runs"
    command = [sys.executable, "-P", "-m", "module_of_a_commit"]
    assert evidence.in_worktree(command, runs, repository) == 0
    assert capfd.readouterr().out.strip() == "as committed"
    assert list(runs.iterdir()) == []
    assert evidence.in_worktree([sys.executable, "-c", "raise SystemExit(3)"], runs, repository) == 3
    listed = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1


def test_without_a_repository_there_is_no_worktree(tmp_path):
    with pytest.raises(ValueError, match="--worktree needs a git checkout of this repository"):
        evidence.in_worktree(["true"], tmp_path / "runs", tmp_path)


def test_a_commit_is_told_with_what_has_changed_but_not_with_results(repository):
    from nsrlib.files import code_commit

    assert code_commit(repository).endswith("-dirty")
    git(repository, "checkout", ".")
    assert len(commit := code_commit(repository)) == 12
    (repository / "data" / "results").mkdir(parents=True)
    (repository / "data" / "results" / "new.csv").touch()
    assert code_commit(repository) == commit
    (repository / "new.py").touch()
    assert code_commit(repository) == f"{commit}-dirty"
