"""The two commands of the README, as far as they can be tried without installing anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@pytest.fixture
def copy(tmp_path) -> Path:
    """What ``make`` needs to know, in a folder where nothing is installed."""
    folder = tmp_path / "copy"
    (folder / "nsrlib").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # These tests may run under make themselves.
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "PAPERS", "PROFILE", "ARGS"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@needs_make
@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("reproduce", r"\.venv/bin/nsr reproduce +--profile quick"),
        ("test", r"nbval +passed"),
        ("audit", r"\.venv/bin/python -m nsrlib\.bench\.tritons"),
        ("lab", r"\.venv/bin/jupyter lab notebooks"),
        ("test-browser", r"-m pytest .* tests/browser"),
        ("docs", r"-m pdoc .*--output-directory docs"),
        ("bench", r"\.venv/bin/nsr bench models"),
        ("bench-gpu", r"\.venv/bin/python -m nsrlib\.cli bench all --device cuda --budget 9 "),
    ],
)
def test_a_target_installs_first_and_into_its_own_folder_only(copy, target, last):
    done = make(copy, "-n", target)
    assert (done.returncode, done.stderr) == (0, "")
    commands = done.stdout.replace("\\\n", " ").splitlines()
    installs = [c for c in commands if re.search(r"\b(pip|uv|conda|apt|apt-get|brew|npm)\b.*\binstall\b", c)]
    installs = list(dict.fromkeys(installs))  # -n repeats them for each step
    assert len(installs) == 4  # uv, then with it the lock, torch and the project
    assert [c for c in installs if "--require-hashes" not in c] == [*installs[2:]]
    for command in installs:
        assert re.search(r"(^|\s)\.venv/bin/(python -m pip|uv pip) install ", command), command
        assert "--python .venv/bin/python" in command or "uv pip" not in command
    everything = "\n".join(commands)
    assert not re.search(r"\bsudo\b|--user\b|--system\b|--break-system-packages|--target\b|--prefix\b", everything)
    assert set(re.findall(r"-m venv (\S+)", everything)) == {".venv"}
    assert re.search(last, commands[-1])
    assert [p.name for p in copy.iterdir() if p.name == ".venv"] == []  # -n did nothing


@needs_make
def test_a_bare_machine_measures_with_its_own_python_and_installs_nothing(copy):
    done = make(copy, "-n", "bench-gpu", "PY=python3", "DEVICE=cpu", "MINUTES=2")
    command = f"PYTHONPATH={copy}\\S* python3 -m nsrlib.cli bench all --device cpu --budget 2 --out runs/bench-cpu"
    assert re.fullmatch(command, " ".join(done.stdout.replace("\\\n", " ").split()))


@needs_make
def test_nothing_is_installed_twice(copy):
    fake_environment(copy / ".venv")
    (copy / ".venv" / "installed").touch()
    done = make(copy, "-n", "reproduce", "PAPERS=bsrn drn", "PROFILE=cpu", "ARGS=--resume")
    assert done.stdout.split() == [".venv/bin/nsr", "reproduce", "bsrn", "drn", "--profile", "cpu", "--resume"]
    os.utime(copy / ".venv" / "installed", (1, 1))  # older than pyproject.toml
    assert "uv pip install" in make(copy, "-n", "reproduce").stdout


@needs_make
@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("test", ["ruff check", "ruff format --check", "/mypy", '"not slow and', "-m timing", "--nbval-lax"]),
        ("test-all", ['"not slow and', '"slow and', "-m timing", "--nbval-lax", "tests/browser"]),
    ],
)
def test_test_means_lint_types_units_and_notebooks(copy, target, steps):
    fake_environment(copy / ".venv")
    (copy / ".venv" / "installed").touch()
    text = make(copy, "-n", target).stdout
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def fake_environment(folder: Path, fails: str = "", lacks: str = "") -> None:
    """Programs that write their command into ``log``; one whose command contains ``fails`` fails."""
    (folder / "bin").mkdir(parents=True)
    for name in {"nsr", "ruff", "mypy", "pytest", "pdoc", "jupyter", "uv", "python"} - {lacks}:
        path = folder / "bin" / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{folder}/log"\ncase "{name} $*" in {fails or "nothing"}) exit 3;; esac\n'
        )
        path.chmod(0o755)


@needs_make
@pytest.mark.parametrize("fails", ["", "ruff?format*", "*not?slow*"], ids=["nothing fails", "format", "unit"])
def test_a_step_that_fails_keeps_no_other_from_running(copy, fails):
    fake_environment(copy / ".venv", fails)
    (copy / ".venv" / "installed").touch()
    done = make(copy, "test")
    ran = (copy / ".venv" / "log").read_text()
    for step in ("ruff check", "mypy", "not slow", "-m timing", "--nbval-lax"):
        assert step in ran
    report = [line.split()[:2] for line in done.stdout.splitlines() if re.search(r"(passed|FAILED) +\d+ s$", line)]
    failed = {"": "", "ruff?format*": "lint", "*not?slow*": "unit"}[fails]
    steps = ("lint", "types", "unit", "timing", "nbval")
    assert report == [[step, "FAILED" if step == failed else "passed"] for step in steps]
    assert (done.returncode != 0) == bool(fails)


@needs_make
@pytest.mark.parametrize("target", ["docs", "lint", "lock", "reproduce"])
def test_nothing_is_installed_through_a_link(copy, tmp_path, target):
    fake_environment(tmp_path / "theirs")
    (copy / ".venv").symlink_to(tmp_path / "theirs")
    make(copy, target)
    ran = (tmp_path / "theirs" / "log").read_text()
    assert ran
    assert "install" not in ran
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {"bin", "log"}


@needs_make
def test_a_link_to_an_incomplete_environment_is_refused(copy, tmp_path):
    fake_environment(tmp_path / "theirs", lacks="pdoc")
    (copy / ".venv").symlink_to(tmp_path / "theirs")
    done = make(copy, "docs")
    assert done.returncode != 0
    assert done.stderr.startswith(
        f".venv is a link, and nothing is installed through a link: {tmp_path / 'theirs'} has no pdoc."
    )
    assert not (tmp_path / "theirs" / "log").exists()


def fake_python(folder: Path, version: str) -> Path:
    """A Python that claims another version and leaves a mark when it is asked for more than that."""
    path = folder / f"python{version}"
    major, minor = version.split(".")
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" != -c ]; then touch "{folder}/asked-for-more"; exit 7; fi\n'
        f"exec '{sys.executable}' -c \"import sys; sys.version_info = ({major}, {minor}, 0, 'final', 0)\n$2\"\n"
    )
    path.chmod(0o755)
    return path


@needs_make
@pytest.mark.parametrize("target", ["reproduce", "test"])
@pytest.mark.parametrize("version", ["3.10", "3.9", "3.14"])
def test_a_python_that_will_not_do_is_refused_in_one_sentence(copy, tmp_path, version, target):
    python = fake_python(tmp_path, version)
    done = make(copy, target, f"PYTHON={python}")
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first == (
        f"nsrlib needs Python 3.11 to 3.13, {python} is {version}; try: make PYTHON=python3.12 {target}"
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not (copy / ".venv").exists()
    assert not (tmp_path / "asked-for-more").exists()


@needs_make
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_a_python_that_will_do_is_used(copy, tmp_path, version):
    done = make(copy, "reproduce", f"PYTHON={fake_python(tmp_path, version)}")
    assert done.returncode != 0  # this one cannot make a virtual environment
    assert "nsrlib needs Python" not in done.stderr
    assert (tmp_path / "asked-for-more").exists()
    assert not (copy / ".venv" / "installed").exists()


def test_the_bounds_of_the_makefile_are_those_of_pyproject():
    import tomllib

    low, high = re.search(r"\(3, (\d+)\) <= v <= \(3, (\d+)\)", (ROOT / "Makefile").read_text()).groups()
    bound = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert bound == f">=3.{low},<3.{int(high) + 1}"


def test_ci_runs_both_commands_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert re.search(r"^make (-C \S+ )?reproduce$", text, re.M)
    assert re.search(r"^make (-C \S+ )?test$", text, re.M)
    subprocess.run(["bash", "-n", str(script)], check=True)
    readme = (ROOT / "README.md").read_text()
    assert "make reproduce" in readme
    assert "make test" in readme
