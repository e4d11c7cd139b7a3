"""The wheel holds all that the library reads, and works in an environment that has never seen the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESOURCES = ("data/**/*.csv", "data/**/*.json", "data/**/*.safetensors", "notebooks/*.ipynb")


def call(*command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that must not see this checkout."""
    mine = ("PYTHONPATH", "NSRLIB_DATA", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in mine}
    return subprocess.run(command, cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built from the source distribution, as an index would serve it; no network."""
    pytest.importorskip("setuptools", reason="no setuptools to build with", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    (source := folder / "source").mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nsrlib", "data", "notebooks"):
        shutil.copytree(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
    done = call(sys.executable, "-c", build.format("sdist"), folder, cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    done = call(sys.executable, "-c", build.format("wheel"), folder, cwd=folder / archive.name.removesuffix(".tar.gz"))
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_data_weights_and_notebooks(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path for path in (ROOT / "nsrlib").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    expected = {path.relative_to(ROOT).as_posix() for path in package}
    resources = {path.relative_to(ROOT).as_posix() for pattern in RESOURCES for path in ROOT.glob(pattern)}
    assert held == expected | {f"nsrlib/resources/{name}" for name in resources}
    assert {"data/sources.csv", "data/weights/bsrn_x2.safetensors", "notebooks/nsr.ipynb"} <= resources
    assert {"nsrlib/py.typed", "nsrlib/__init__.pyi", "nsrlib/runs/templates/report.html.j2"} <= held


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """``installed("nsr", ...)``: a command of a fresh environment with the wheel, its dependencies and nothing else."""
    uv = pytest.importorskip("uv", reason="no uv: pip install -e '.[test]'").find_uv_bin()
    folder = tmp_path_factory.mktemp("elsewhere")
    pins = re.findall(r"^[\w.-]+==[^\\\n]+", (ROOT / "requirements.lock").read_text(), re.M)
    (folder / "pins.txt").write_text("\n".join([*pins, (ROOT / "constraints.txt").read_text()]))
    wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    call(uv, "venv", "-q", "--python", sys.executable, "venv", cwd=folder)
    install = [uv, "pip", "install", "-q", "--python", "venv", "-c", "pins.txt", f"{wheel}[notebooks,train]"]
    install += [] if wheels else ["--torch-backend=auto"]
    done = call(*install, cwd=folder, UV_FIND_LINKS=wheels)
    if done.returncode and re.search(r"[Ff]ailed to fetch|connect|dns error|timed out|network", done.stderr):
        pytest.skip(f"no network for a fresh environment: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr

    def run(program: str, *arguments: str) -> str:
        said = call(folder / "venv/bin" / program, *arguments, cwd=folder, NSRLIB_OFFLINE="1", OMP_NUM_THREADS="1")
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    run.folder = folder
    return run


@pytest.mark.slow
def test_the_installed_library_has_its_weights_and_its_numbers(installed):
    code = "import nsrlib; print(nsrlib.__file__, type(nsrlib.create_model('bsrn', 2, pretrained=True)).__name__)"
    where, network = installed("python", "-c", code).split()
    assert (Path(where).is_relative_to(installed.folder), network) == (True, "BSRN")
    assert "bsrn" in installed("nsr", "scoreboard")
    assert "set5" in installed("nsr", "data", "list")


@pytest.mark.slow
def test_the_installed_library_reproduces_a_notebook(installed):
    installed("nsr", "reproduce", "addersr")
    (run,) = (installed.folder / "runs").iterdir()
    assert (run / "index.html").is_file()
    assert not list((installed.folder / "venv").rglob("site-packages/**/runs/20*"))


OPTIONAL = [
    "IPython",
    "ipykernel",
    "ipywidgets",
    "matplotlib",
    "nbconvert",
    "nbformat",
    "papermill",
    "pooch",
    "seaborn",
]


def test_evaluation_needs_none_of_the_optional_packages(tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # as if they were not installed
import nsrlib.cli
sys.argv = ["nsr", "evaluate", "trained", "--model", "bsrn", "--on", "embedded", "--scale", "2", "--limit", "1"]
nsrlib.cli.main()
"""
    done = call(sys.executable, "-c", code, cwd=ROOT, OMP_NUM_THREADS="1")
    assert (done.returncode, "embedded" in done.stdout) == (0, True), done.stderr
