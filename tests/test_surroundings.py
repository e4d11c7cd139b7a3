"""What a machine may lack: memory, disk, a home, letters, open files, a GPU. The command says so, or does without."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import photo, refused
from PIL import Image

from nsrlib import evaluation, files, models, papers, studies
from nsrlib.data import download
from nsrlib.runs import batch
from nsrlib.training import RunFolder, save_weights

# --- memory and disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 1, "nsr: not enough memory; try a smaller --tile\n"),
        (RuntimeError("CUDA out of memory. Tried to\nallocate"), 1, "nsr: not enough memory; try a smaller --tile\n"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 1,
         "nsr: not enough memory; try a smaller --tile\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "nsr: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x.png"), 1, "nsr: Permission denied: x.png\n"),
        (ValueError("two\n  lines"), 1, "nsr: two lines\n"),
        (ValueError(), 1, "nsr: ValueError\n"),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:9]}" if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_what_goes_wrong_on_the_way_gives_one_line_and_a_status(nsr, pictures, monkeypatch, error, code, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(evaluation, "upscaled_bands", fail)
    done = nsr("upscale", pictures / "a.png", pictures / "out.png", "--model", "bicubic")
    assert (done.code, done.err.replace("\nnsr", "nsr")) == (code, said)
    assert sorted(p.name for p in pictures.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("command", "cure"),
    [
        ("train bicubic --scale 2", "; try a smaller batch or patch: -r batch=8, -r patch=24"),
        ("models", ""),
    ],
)
def test_a_shortage_of_memory_names_a_cure_that_the_command_has(nsr, monkeypatch, command, cure):
    def fail(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(models, "list_models", fail)
    monkeypatch.setattr(papers, "train", fail)
    assert nsr(*command.split()).err == f"nsr: not enough memory{cure}\n"


def test_failed_runs_of_a_study_are_one_line(nsr, monkeypatch):
    def fail():
        raise studies.StudyError("1 of 4 runs of attention failed;\nbsrn, seed 0: RuntimeError: out of memory")

    monkeypatch.setattr(models, "list_models", fail)
    refused(nsr("models"), "1 of 4 runs of attention failed; bsrn, seed 0: RuntimeError: out of memory")


@pytest.mark.parametrize("what", ["text", "JSON", "weights", "checkpoint"])
def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch, what):
    target = {"JSON": tmp_path / "a.json", "weights": tmp_path / "a.safetensors"}.get(what, tmp_path / "a.txt")
    real = Path.open

    def full(path, *arguments, **options):
        if path.name.endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"No space left on device: .*(a\.|checkpoint-)") as stop:
        {
            "text": lambda: files.write_text(target, "words"),
            "JSON": lambda: files.write_json(target, {}),
            "weights": lambda: save_weights(torch.nn.Linear(1, 1), target),
            "checkpoint": lambda: RunFolder(tmp_path).keep(1, {}),
        }[what]()
    if what != "checkpoint":
        assert stop.value.filename == str(target)


# --- no home ----------------------------------------------------------------------------------------------------------

NOBODY = """
import pwd
def nobody(*_):
    raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
"""

FAILING = [
    "# T\u00eftle \u2013 \u2713",
    "profile = 'quick'\nout_dir = ''",
    "raise ValueError('gr\u00f6\u00dfer \u2717 \u7167')",
]


def notebook(path: Path) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [
        {"cell_type": kind, "id": f"c{k}", "metadata": {"tags": ["parameters"] if k == 1 else []}, "source": text}
        | ({} if kind == "markdown" else {"execution_count": None, "outputs": []})
        for k, (kind, text) in enumerate(zip(("markdown", "code", "code"), FAILING, strict=True))
    ]
    path.parent.mkdir()
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def command(folder: Path, *arguments: object, code: str = "", without: str = "", **environment: str):
    """The command in a process of its own, after ``code``; ``nsr reproduce`` takes the notebooks of ``folder``."""
    program = (
        f"import sys; sys.argv[0] = 'nsr'\n{code}\nfrom nsrlib import cli, runs\nreal = runs.reproduce\n"
        "runs.reproduce = lambda papers, **options: real(papers, **options | {'notebooks_dir': 'source'})\n"
        "cli.main()"
    )
    inherited = {name: value for name, value in os.environ.items() if name != without} | environment
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder, env=inherited | {"NSRLIB_OFFLINE": "1"}, capture_output=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="users are numbers on POSIX only")
def test_a_user_without_home_and_name_gets_the_run_and_its_report(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOBODY)
    notebook(tmp_path / "source" / "fails.ipynb")
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    (tmp_path / "temporary").mkdir()
    done = command(
        tmp_path,
        "reproduce",
        "fails",
        "--out",
        "run",
        without="HOME",
        PYTHONPATH=path,
        TMPDIR=str(tmp_path / "temporary"),
    )
    assert "ValueError: gr\u00f6\u00dfer" in done.stdout.decode(), done
    assert "Traceback" not in done.stderr.decode()
    assert (tmp_path / "run" / "index.html").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "site", "source", "temporary"]


def test_without_a_home_downloads_go_to_a_temporary_folder(monkeypatch, tmp_path):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("NSRLIB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert files.home() is None
    assert download.cache_dir().is_absolute()
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path))
    assert download.cache_dir() == tmp_path


def test_a_folder_of_a_user_who_is_not_there_is_one_line(nsr):
    refused(nsr("evaluate", "published", "--model", "bicubic", "--on", "~nobody-of-this-name/x"), "home directory")


# --- consoles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8", "cp1252"])
def test_a_console_without_the_letters_changes_no_exit_status(tmp_path, encoding):
    name = "gr\u00f6\u00dfer \u7167.png"
    Image.fromarray(photo(8, 9, 3)).save(tmp_path / name)
    done = command(tmp_path, "upscale", name, "--model", "bicubic", "--scale", "2", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.match(rb"gr.{2,8}er .*\.png 9x8 -> ", done.stdout)
    assert (tmp_path / "gr\u00f6\u00dfer \u7167_x2.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux only")
def test_a_name_that_is_no_text_can_be_told(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.fromarray(photo(8, 9, 3)).save(tmp_path / name)
    done = command(tmp_path, "upscale", name, "--model", "bicubic", "--scale", "2")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / os.fsdecode(b"caf\xe9_x2.png")).exists()


def test_a_failed_cell_is_named_on_any_console(tmp_path):
    notebook(tmp_path / "source" / "fails.ipynb")
    done = command(tmp_path, "reproduce", "fails", "--out", "run", PYTHONIOENCODING="latin-1")
    assert done.returncode == 1
    assert "cell 3 (raise ValueError('gr\u00f6\u00dfer \\u2717 \\u7167')): ValueError" in done.stdout.decode("latin-1")
    assert b"Traceback" not in done.stderr


# --- open files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [["sweep", "bsrn", "-g", "repeats=1,2"], ["reproduce", "bsrn"]], ids=lambda v: v[0])
def test_too_few_open_files_are_told_before_anything_runs(tmp_path, verb):
    resource = pytest.importorskip("resource")
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))"
    program = f"import sys; sys.argv[0] = 'nsr'\n{code}\nfrom nsrlib import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *verb, "--out", "run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(r"nsr: a process may open 48 files here, too few for \d+ at once: ulimit -n \d+\n", done.stderr)
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] != 48


def test_a_limit_of_open_files_that_may_be_raised_is_raised():
    resource = pytest.importorskip("resource")
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 256:
        pytest.skip("the limit here cannot be raised")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, soft) if soft > 0 else 64, hard))
    try:
        batch.allow_open_files(2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (160, hard)
        batch.allow_open_files(1)  # and is not lowered
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (160, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta", "mps", "cuda:7", "nonsense", "", "cpu:x", "xla", "vulkan"])
def test_a_device_that_cannot_be_used_is_one_short_line(nsr, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("a Mac")
    done = nsr("evaluate", "published", "--model", "bicubic", "--on", "embedded", "--limit", 1, "--device", device)
    refused(done, rf"device '{device}' cannot be used: .*there are auto, cpu")
    assert len(done.err) < 240


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(False, True, "mps"), (True, True, "cuda"), (False, False, "cpu"), (True, False, "cuda")],
)
def test_auto_takes_cuda_then_a_macs_gpu_then_the_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert evaluation.pick_device("auto") == torch.device(chosen)
