"""Twelve faults, one after the other: each has a clear cause in one line, and what was finished stays as it was.

The faults of single functions are tested beside them (``test_download.py``, ``test_batch.py``, ``test_sweeps.py``);
here the whole way is gone, from the notebook or the disk to what the user reads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from test_sweeps import pretend_in_line
from tiny import DIES, FAILS, GOOD, PARAMETERS, TINY, write_notebook

from nsrlib.runs import Run, report, reproduce, sweep, sweeps
from nsrlib.runs.record import Sweep

pytest.importorskip("papermill")
pytestmark = pytest.mark.slow

LOADS = "from nsrlib import data\n"
NO_DATA = ["# A notebook without data", PARAMETERS, "## Claim 2", LOADS + 'data.load("set5", 4, download=False)']
NO_NETWORK = [
    "# A notebook without a network",
    PARAMETERS,
    "## Setup",
    LOADS + 'print(data.benchmark_or_embedded("set5", 4)[1])',
    "## Claim 3",
    'data.load("set5", 4)',
]
NO_BACKEND = [
    "# A notebook without a backend",
    PARAMETERS,
    "## Figure 1",
    'import matplotlib\nmatplotlib.use("nothing")',
]
FAULTY = {
    "good": GOOD,
    "fails": FAILS,
    "dies": DIES,
    "data": NO_DATA,
    "network": NO_NETWORK,
    "backend": NO_BACKEND,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def nsr(*arguments: object, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after ``code``."""
    program = f"import os, signal, sys; sys.argv[0] = 'nsr'\n{code}\nfrom nsrlib import cli; cli.main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def missing(package: str) -> str:
    """Code after which there is no such package."""
    return (
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.split('.')[0] == {package!r}: raise ModuleNotFoundError(f'No module named {{name!r}}')\n"
        "sys.meta_path.insert(0, Missing())\n"
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    """One run of a good notebook and of those with a fault, where nothing is at hand and no network answers."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("runs") / "run"
    for name, cells in FAULTY.items():
        write_notebook(source / f"{name}.ipynb", cells)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NSRLIB_DATA", "NSRLIB_OFFLINE", "NO_PROXY", "no_proxy"):
            patch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")  # nobody is there
        patch.setenv("NSRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return reproduce(out=folder, progress=False, notebooks_dir=source)


def failure(run: Run, name: str) -> str:
    """The line that says why a notebook stopped. The good one beside it is whole, with its page and numbers."""
    assert {n.name: n.status for n in run.notebooks if n.name in ("good", name)} == {"good": "ok", name: "failed"}
    assert len(json.loads((run.folder / "results" / "good.json").read_text())["rows"]) == 3
    assert (run.folder / "notebooks" / "good.html").exists()
    assert (run.folder / "notebooks" / f"{name}.failed.ipynb").exists()
    (line,) = [str(f) for f in run.failures if f.notebook == name]
    assert "\n" not in line
    page = (run.folder / "index.html").read_text()
    assert f"<b>{name}</b>" in page
    assert ">1</b>" in page  # the good one's verdicts are counted
    return line


# ---- in the notebook


def test_1_missing_data(done):
    line = failure(done, "data")
    assert line.startswith("data: “Claim 2”, cell 4 (from nsrlib import data): DataUnavailable: set5")
    assert "NSRLIB_DATA" in line


def test_2_a_failing_cell(done):
    assert failure(done, "fails") == "fails: “Claim 7”, cell 4 (# the line): ArithmeticError: two lines"


def test_3_a_kernel_that_dies(done):
    line = failure(done, "dies")
    assert line.startswith("dies: “Claim 8”, cell 4 (import os): DeadKernelError: the kernel died")
    assert line.endswith("see logs/dies.log")
    assert "DeadKernelError" in (done.folder / "logs" / "dies.log").read_text()


def test_4_no_network(done):
    line = failure(done, "network")
    assert line.startswith('network: “Claim 3”, cell 6 (data.load("set5", 4)): DataUnavailable: set5')
    assert re.search("cannot be reached|no connection|network", line), line
    # what does not need the network went on without it, and said so
    text = (done.folder / "notebooks" / "network.failed.ipynb").read_text()
    assert re.search("embedded|ship", text)


def test_5_a_matplotlib_backend_that_is_not_there(done, tmp_path):
    line = failure(done, "backend")
    assert line.startswith("backend: “Figure 1”, cell 4 (import matplotlib): ValueError: ")
    assert "nothing" in line
    # the report itself draws, too; without matplotlib it lacks its summary and nothing else
    copy = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    for name in ("summary.png", "summary.pdf"):
        (copy / name).unlink()
    for code, backend, cause in (
        ("", "nothing", "ValueError: Key backend: &#39;nothing&#39; is not a valid value"),
        (missing("matplotlib"), "", "ModuleNotFoundError: No module named &#39;matplotlib&#39;"),
    ):
        said = nsr("report", copy, code=code, MPLBACKEND=backend)
        assert (said.returncode, said.stderr) == (0, "")
        page = (copy / "index.html").read_text()
        assert f"the summary was not drawn: {cause}" in page
        assert 'href="summary' not in page
        assert "29.50" in page


# ---- on the disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 700 kB. It takes root on Linux to make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if os.name != "posix" or os.getuid() != 0 or shutil.which("mount") is None or subprocess.call(command):
        pytest.skip("no file system of its own can be made here: only root may, outside a container")
    yield folder
    subprocess.check_call(["umount", "-l", str(folder)])


BIG = [
    "# A big notebook",
    PARAMETERS,
    "## Claim 9",
    "import random\nprint(''.join(random.choices('abcdefgh', k=2_000_000)))",
]


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_6_a_full_disk(small_disk, tmp_path):
    for name, cells in {"good": GOOD, "big": BIG}.items():
        write_notebook(tmp_path / "source" / f"{name}.ipynb", cells)
    out = small_disk / "run"
    run = reproduce("good", out=out, progress=False, notebooks_dir=tmp_path / "source", pages=False)
    finished = {name: text for name, text in contents(out).items() if "good" in name}
    assert run.ok
    options = {"out": out, "resume": True, "progress": False, "notebooks_dir": tmp_path / "source", "pages": False}
    run = reproduce(["good", "big"], **options)
    assert {n.name: n.status for n in run.notebooks} == {"good": "ok", "big": "failed"}
    assert "the disk is full" in str(run.failures[0])
    assert {name: text for name, text in contents(out).items() if name in finished} == finished
    assert Run.load(out).notebooks == run.notebooks
    with pytest.raises(OSError, match="No space left"):
        fill(small_disk / "rest")
    said = nsr("report", out)
    assert said.returncode == 1
    assert re.fullmatch("nsr: No space left on device.*\n", said.stderr)
    assert {name: text for name, text in contents(out).items() if name in finished} == finished
    assert not [p for p in out.rglob("*") if p.name.startswith(".") and p.is_file()]  # no half files


def test_7_a_folder_that_cannot_be_written(done, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    source = tmp_path / "source"
    write_notebook(source / "tiny.ipynb", TINY)
    for start in (
        lambda out: reproduce("tiny", out=out, notebooks_dir=source),
        lambda out: sweep("tiny", {"scale": [2]}, out=out, notebooks_dir=source),
    ):
        with pytest.raises(OSError, match=r"cannot write to .*file/out: Not a directory"):
            start(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "precious"
    if os.getuid() == 0:
        return  # who may write everywhere
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot write to .*locked/out: Permission denied"):
        reproduce("tiny", out=locked / "out", notebooks_dir=source)
    locked.chmod(0o700)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished sweep of pretended runs: the sweep, and ``again(grid)`` in the same folder."""
    source = tmp_path / "source"
    write_notebook(source / "tiny.ipynb", TINY)
    calls = pretend_in_line(monkeypatch)

    def again(grid) -> Sweep:
        return sweep("tiny", grid, out=tmp_path / "sweep", notebooks_dir=source)

    done = again({"scale": [2, 3]})
    calls.clear()
    return done, again, calls


def test_8_a_misspelt_parameter(finished):
    done, again, calls = finished
    before = contents(done.folder)
    message = r"no parameter 'sacle' in tiny \(did you mean 'scale'\?\); accepted: scale, seed, "
    with pytest.raises(ValueError, match=message):
        again({"sacle": [2, 3]})
    assert contents(done.folder) == before
    assert calls == []


def test_9_two_sweeps_in_one_folder(finished):
    done, again, calls = finished
    before = contents(done.folder)
    with filelock.FileLock(done.folder / "sweep.lock"):
        (done.folder / ".sweep.owner").write_text("process 42 on there since now")
        with pytest.raises(
            FileExistsError, match=r"another sweep is at work in .*sweep \(process 42 on there since now\)"
        ):
            again({"scale": [2, 3, 4]})
        (done.folder / ".sweep.owner").unlink()
    assert contents(done.folder) == before
    assert calls == []
    assert again({"scale": [2, 3, 4]}).ok
    assert [call["scale"] for call in calls] == [4]


@pytest.mark.parametrize("which", ["results/tiny.json", "run.json", "notebooks/tiny.ipynb"])
def test_10_a_corrupted_result_file(finished, which, capsys):
    done, again, calls = finished
    good, bad = (done.folder / "runs" / run.key for run in done.runs)
    before = contents(good)
    (bad / which).write_text('{"rows": [')
    page = sweeps.report(done.folder).read_text()
    if which == "results/tiny.json":
        assert "scale=3: results/tiny.json cannot be read: " in page
    assert f'href="runs/{good.name}/notebooks/tiny.html"' in page
    assert again({"scale": [2, 3]}).ok
    assert f"scale=3: {which} is damaged or missing; it runs again" in capsys.readouterr().err
    assert [call["scale"] for call in calls] == [3]
    assert contents(good) == before
    assert "cannot be read" not in (done.folder / "index.html").read_text()


@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_11_an_interrupted_report(done, tmp_path, end):
    copy = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    report(copy)
    before = contents(copy)
    code = (
        "replace, count = os.replace, iter(range(9))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def stop(*paths):\n"
        f"    if str(paths[1]).endswith('index.html'): os.kill(os.getpid(), signal.{end})\n"
        "    replace(*paths)\n"
        "os.replace = stop\n"
    )
    said = nsr("report", copy, code=code)
    assert said.returncode == (-signal.SIGKILL if end == "SIGKILL" else 130)
    assert "Traceback" not in said.stderr
    after = contents(copy)
    drafts = [name for name in after if name.startswith(".index.html")]
    assert len(drafts) == (1 if end == "SIGKILL" else 0)
    assert {k: v for k, v in after.items() if k not in drafts and "summary" not in k} == {
        k: v for k, v in before.items() if "summary" not in k
    }
    assert report(copy).read_bytes() == before["index.html"]


# ---- in the environment


def test_12_missing_triton(tmp_path):
    no_triton = missing("triton")
    said = nsr("bench", "kernels", "--audit", code=no_triton)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == (
        "nsr: compiling kernels needs Triton (Linux): pip install 'nsrlib[triton]' (No module named 'triton')\n"
    )
    # everything else goes on
    from PIL import Image

    Image.new("RGB", (24, 16), (90, 120, 60)).save(tmp_path / "a.png")
    said = nsr("upscale", tmp_path / "a.png", tmp_path / "b.png", "--model", "bicubic", code=no_triton)
    assert (said.returncode, said.stderr) == (0, "")
    code = (
        f"{no_triton}import torch\n"
        "from nsrlib.ops.adder2d import adder2d, adder2d_ref\n"
        "torch.manual_seed(0)\n"
        "x, w = torch.rand(1, 3, 5, 5), torch.rand(4, 3, 3, 3)\n"
        "assert torch.allclose(adder2d(x, w), adder2d_ref(x, w), rtol=1e-5)\n"
        "sys.exit(0)"
    )
    assert nsr(code=code).returncode == 0
