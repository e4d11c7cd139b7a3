"""A sixth paper, from a package of its own: laid out, installed, run, trained, scored, compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nsrlib.papers.new import new_paper

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the package ``espcn``, a git repository, installed into ``site``."""
    folder = tmp_path_factory.mktemp("sixth")
    package = new_paper("espcn", folder / "nsrlib-espcn")
    # no network: what builds it is here, and what it needs too
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", folder / "site", package], capture_output=True, text=True)
    if "No module named" in done.stderr:
        pytest.skip(f"cannot build a package here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    git = ("git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "The package as it is laid out")):
        subprocess.run([*git, *command], cwd=package, check=True)
    return folder


@pytest.fixture
def run(place):
    """``run("nsr", ...)`` in that folder, with the package on the path; its output."""

    def call(*arguments: str, fails: bool = False) -> str:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (place / "nsrlib-espcn", place / "site", ROOT))),
            "NSRLIB_OFFLINE": "1",
            "NSRLIB_DATA": "", "NSRLIB_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        program = [sys.executable, "-m", *(["nsrlib.cli"] if arguments[0] == "nsr" else arguments[:1])]
        done = subprocess.run(
            [*program, *arguments[1:]], cwd=place, env=environment, capture_output=True, text=True, timeout=600
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


def test_its_network_and_its_own_tests(place, run):
    assert "espcn" in run("nsr", "models")
    assert "2 passed" in run("pytest", "-q", "-p", "no:cacheprovider", "nsrlib-espcn/tests")


def test_its_study_is_trained_and_stored(place, run):
    study = ("nsr", "study", "espcn", "--profile", "quick", "--out", "study")
    assert re.search(r"wide +\d\d\.\d+", run(*study, "--store"))
    folder = place / "nsrlib-espcn/nsrlib_espcn/data/results/espcn/studies"
    assert {path.name for path in folder.iterdir()} == {f"width.quick.{end}" for end in ("csv", "curves.csv", "json")}
    rows = pd.read_csv(folder / "width.quick.csv")
    head = subprocess.run(("git", "rev-parse", "HEAD"), cwd=folder, capture_output=True, text=True, check=True).stdout
    assert set(rows["variant"]) == {"wide", "narrow"}
    assert all(head.startswith(commit) for commit in rows["commit"])
    code = place / "nsrlib-espcn/nsrlib_espcn/network.py"
    before = code.read_text()
    code.write_text(before + "# changed\n")
    assert "commit what has changed" in run(*study, "--store", fails=True)
    code.write_text(before)


def test_its_notebook_runs_and_its_verdicts_reach_the_scoreboard(place, run):
    said = run("nsr", "reproduce", "espcn", "--out", "run", "--store")
    assert "2 reproduced" in said
    rows = json.loads((place / "run/results/espcn.json").read_text())["rows"]
    assert {row["id"]: row["verdict"] for row in rows}["table1/espcn/params"] == "reproduced"
    claims = json.loads((place / "run/results/espcn.json").read_text())["claims"]
    assert [claim["verdict"] for claim in claims] == ["holds", "open"]
    assert "espcn" in run("nsr", "scoreboard")
    assert re.search(r"espcn +3 +2 +0 +0 +0 +1: 1 training", run("nsr", "scoreboard", "--paper", "espcn"))
    assert re.search(r"espcn table1 +2 +1", run("nsr", "scoreboard", "--all", "--paper", "espcn"))
    # nbval: what it printed is compared, and a changed number is seen
    shutil.copy(place / "run/notebooks/espcn.ipynb", place / "espcn.ipynb")
    nbval = ("pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "espcn.ipynb")
    assert "passed" in run(*nbval)
    text = (place / "espcn.ipynb").read_text()
    (place / "espcn.ipynb").write_text(text.replace("4.51 K published", "4.52 K published"))
    assert "1 failed" in run(*nbval, fails=True)


@pytest.mark.parametrize("name", ["", "A", "two words", "9lives", "größe", "_hidden"])
def test_a_name_that_no_package_may_have_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be lower-case letters, digits and underscores, got"):
        new_paper(name, tmp_path / "there")
    assert not list(tmp_path.iterdir())


def test_a_paper_or_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="there is a paper 'bsrn' already"):
        new_paper("bsrn", tmp_path / "there")
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="mine is there already; choose another --out"):
        new_paper("espcn", tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())
