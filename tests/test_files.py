"""What a number's origin says, on any machine; one process in a folder. Writing JSON is tested where ledgers are."""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from nsrlib import files


def test_versions_are_those_that_run():
    found = files.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == metadata.version("numpy")
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    installed = metadata.version

    def version(package: str) -> str:
        if package != "numpy":
            raise metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(metadata, "version", version)
    assert files.versions() == {"python": platform.python_version(), "numpy": installed("numpy")}


def test_the_processor_has_a_name_even_without_proc(monkeypatch):
    def unreadable(path):
        raise FileNotFoundError(path)

    assert files.cpu_name().endswith(f"({os.cpu_count()} cores)")
    monkeypatch.setattr(files.Path, "read_text", unreadable)
    assert re.fullmatch(rf".+ \({os.cpu_count()} cores\)", files.cpu_name())


def test_the_device_is_the_card_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert files.device_name() == "a card"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert files.device_name() == files.cpu_name()


def test_a_changed_checkout_says_so(tmp_path):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "file").write_text("one")
    git("init")
    git("add", "file")
    git("commit", "-m", "one")
    clean = files.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,16}", clean)
    (tmp_path / "file").write_text("two")
    assert files.commit(tmp_path) == f"{clean}-dirty"
    assert files.commit(tmp_path / "nowhere") == "unknown"


def test_a_folder_inside_of_somebody_elses_repository_has_no_commit():
    assert files.commit(files.ROOT / "data") == "unknown"


def test_a_package_at_the_top_of_a_checkout_has_its_commit_and_one_further_down_has_none(tmp_path):
    for name in ("", "site/"):
        (tmp_path / f"{name}package").mkdir(parents=True)
        (tmp_path / f"{name}package/__init__.py").touch()
    (tmp_path / "folder").mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init"], ["add", "."], ["commit", "-m", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True, capture_output=True)
    assert re.fullmatch("[0-9a-f]{12}", files.code_commit(tmp_path / "package"))
    assert files.code_commit(tmp_path / "site/package") == files.code_commit(tmp_path / "folder") == "unknown"
    results = tmp_path / "package/data/results"
    results.mkdir(parents=True)
    (results / "rows.csv").touch()
    assert not files.code_commit(tmp_path / "package").endswith("-dirty")
    (tmp_path / "package/new.py").touch()
    assert files.code_commit(tmp_path / "package").endswith("-dirty")


def test_a_file_that_fails_halfway_leaves_the_old_one(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a", "half \ud800")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


# --- one process in a folder ------------------------------------------------------------------------------------------

HOLDS = """
import sys, time
from pathlib import Path
from nsrlib.files import lock
with lock(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock of ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_process_in_a_folder_is_told_who_is_there(tmp_path, holder):
    pattern = (
        rf"^another training is at work in {re.escape(str(tmp_path))} \(process {holder.pid} on .* since 20.*\): wait"
    )
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=pattern), files.lock(tmp_path, "training"):
        pytest.fail("two processes in one folder")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with files.lock(tmp_path, "report"):  # another kind of work
        pass


def test_a_killed_process_does_not_block_its_folder(tmp_path, holder):
    holder.kill()
    holder.wait()
    with files.lock(tmp_path, "training"):
        assert f"process {os.getpid()} on " in (tmp_path / ".training.owner").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_an_error_inside(tmp_path):
    with pytest.raises(ZeroDivisionError), files.lock(tmp_path, "run"):
        raise ZeroDivisionError
    with files.lock(tmp_path, "run"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told_and_the_work_goes_on(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(number, "cannot lock")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=rf"no locks in {tmp_path} \(cannot lock\): see to it that no other run works"),
        files.lock(tmp_path, "run"),
    ):
        (tmp_path / "result").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
