"""The audit under several versions of Triton: where they come from, and the table that compares them."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pandas as pd
import pytest

pytest.importorskip("triton")
pytest.importorskip("uv")

from nsrlib.bench.audit import audit_all
from nsrlib.bench.tritons import NEWEST, fetch, main, side_by_side


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index without a network: Triton 9.8 and 9.9, which cannot be imported."""
    folder = tmp_path / "index"
    folder.mkdir()
    for version in ("9.8.0", "9.9.0"):
        with zipfile.ZipFile(folder / f"triton-{version}-py3-none-any.whl", "w") as wheel:
            info = f"triton-{version}.dist-info"
            wheel.writestr("triton/__init__.py", "raise ImportError('made for a test')\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: triton\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            files = ["triton/__init__.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
            wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def test_a_version_is_put_into_a_folder_of_its_own(index, tmp_path):
    assert fetch("9.8.0", tmp_path / "one") == "9.8.0"
    assert fetch(NEWEST, tmp_path / "two") == "9.9.0"
    assert (tmp_path / "one" / "triton" / "__init__.py").is_file()


def test_a_version_that_is_not_to_be_had_gives_the_reason_in_a_line(index, tmp_path):
    with pytest.raises(OSError, match=r"triton==3\.6\.0") as caught:
        fetch("3.6.0", tmp_path / "one")
    assert "\n" not in str(caught.value)


def test_versions_stand_side_by_side():
    numbers = {"registers": 168, "stack": 8, "spills": 2, "loop_barriers": 0, "share": 0.708, "error": ""}
    old = pd.DataFrame([{"case": "a", "target": t, **numbers} for t in ("sm_80", "sm_90")])
    new = pd.DataFrame([{"case": "a", "target": "sm_80", **numbers}, {"case": "a", "target": "sm_90", "error": "no"}])
    table = side_by_side({"3.6.0": old, "3.9.0": new})
    assert list(table) == ["kernel", "target", "3.6.0", "3.9.0"]
    assert table["3.6.0"].tolist() == ["168   8   2  0  71%"] * 2
    assert table["3.9.0"].tolist() == ["168   8   2  0  71%", "does not compile"]


def test_a_kernel_that_does_not_compile_does_not_hide_the_others(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # kernels that are imported under it cannot be compiled
    [row] = audit_all(["adder2d forward 64->64"], ["sm_90"], keep_going=True).to_dict("records")
    assert (row["case"], row["target"]) == ("adder2d forward 64->64", "sm_90")
    assert row["error"].endswith("import it in a process without TRITON_INTERPRET")


def test_a_kernel_that_there_is_not_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "conv3d"])
    assert "--only 'conv3d' is in no name; there are: adder2d forward 64->64, " in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_network_the_installed_version_counts_and_one_that_cannot_be_imported_fails(index, monkeypatch):
    import triton

    monkeypatch.setenv("PYTEST_ADDOPTS", "-k innermost_loops")
    wanted = [version for version in ("3.6.0", "3.7.1") if version != triton.__version__]
    command = [sys.executable, "-m", "nsrlib.bench.tritons", *wanted, NEWEST, "--only", "ESA"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    out = done.stdout.splitlines()
    assert out[0].startswith(f"not to be had: Triton {', '.join(wanted)} (")
    assert out[0].endswith(f"; what counts: {triton.__version__}, 9.9.0")
    assert "ImportError: made for a test" in done.stdout
    rows = [line for line in out if line.startswith("bsconv2d 16->16")]
    assert [line.split()[5] for line in rows] == ["sm_80", "sm_90", "sm_100", "gfx942"]
    assert all(line.endswith("%") for line in rows)
    assert any(line.startswith(f"Triton {triton.__version__}: 1 passed") for line in out)
