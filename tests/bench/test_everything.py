"""One run on a graphics card: a step that fails, hangs or crashes costs no other; a bare machine lacks nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nsrlib.bench import cases_of, everything
from nsrlib.bench.everything import Step

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(steps, minutes)``: what it said, whether no step failed, and the folder of results."""
    monkeypatch.setattr(everything, "GRACE", 0.5)
    monkeypatch.setattr(everything, "RESERVE", 0.5)
    monkeypatch.setattr(everything, "LEAST", 0.0)
    monkeypatch.setattr(everything, "WORTH", 1.0)

    def run(steps, minutes=0.5):
        monkeypatch.setattr(time, "process_time", lambda: 0.0)  # the tests before this one
        monkeypatch.setattr(everything, "steps", lambda device, minutes, paper, out, scratch: steps(out, scratch))
        said: list[str] = []
        passed = everything.run(["nsr"], "cpu", minutes, tmp_path / "out", "bsrn", said.append)
        return said, passed, tmp_path / "out"

    return run


def test_a_step_that_fails_hangs_or_is_absent_costs_no_other(run):
    hang = "import time; print('begun', flush=True); time.sleep(60)"
    begun = time.monotonic()
    said, passed, out = run(
        lambda out, scratch: [
            Step("wrong", 0.3, python("print('before'); raise SystemExit(3)")),
            Step("slow", 0.2, python(hang)),
            Step("absent", 0.1, []),
            Step("good", 0.3, python("print('fine')")),
            Step("too long", 0, python(hang)),
            Step("late", 0.1, python("")),
        ],
        minutes=0.2,
    )
    assert time.monotonic() - begun < 14
    assert [line.rpartition(",")[0] for line in said[:6]] == [
        "wrong: failed: status 3", "slow: out of time", "absent: absent", "good: passed", "too long: out of time",
        "late: left out, no time",
    ]  # fmt: skip
    assert not passed
    summary = (out / "summary.md").read_text()
    assert summary in said[-1]
    for name, last in {"wrong": "before", "slow": "KeyboardInterrupt", "good": "fine"}.items():
        [line] = [line for line in summary.splitlines() if line.split()[:1] == [name]]
        assert line.endswith(last)
    log = (out / "bench.log").read_text()
    assert log.index("===== wrong: ") < log.index("before") < log.index("===== slow: ") < log.index("begun")
    assert sorted(p.name for p in out.iterdir()) == ["bench.log", "summary.md"]


def test_a_step_goes_on_after_a_crash_with_what_is_kept(run):
    code = "import sys; print(sys.argv[1:], flush=True); sys.exit('--resume' not in sys.argv)"
    said, passed, out = run(lambda out, scratch: [Step("times", 0.9, python(code), ("--resume",))])
    assert passed
    assert said[0].startswith("times: passed")
    assert (out / "bench.log").read_text().splitlines()[-2:] == ["[]", "['--resume']"]


@pytest.mark.parametrize(("end", "kept"), [("time.sleep(60)", {"a", "c"}), ("sys.exit(1)", {"a", "b", "c"})])
def test_a_launch_that_the_clock_cut_short_is_not_held_against_its_kernel(run, end, kept):
    launched = {"a": "returned", "b": "did not return", "c": "RuntimeError: no"}
    table = {"provenance": {"device": "a card", "cuda": None}, "limits": {}, "left_out": [], "rows": []}
    code = f"import pathlib, sys, time; pathlib.Path(sys.argv[1], 'card.json').write_text(sys.argv[2]); {end}"
    command = [*python(code), "OUT", json.dumps({**table, "launched": launched})]
    _, _, out = run(lambda out, scratch: [Step("launches", 0, [str(out) if w == "OUT" else w for w in command])], 0.05)
    assert set(json.loads((out / "card.json").read_text())["launched"]) == kept


def test_nothing_runs_on_after_a_step(run, tmp_path):
    child = f"import time; time.sleep(2.5); open({str(tmp_path / 'late')!r}, 'w')"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    run(lambda out, scratch: [Step("parent", 0, python(parent))], minutes=0.04)
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_trainings_become_one_table(run):
    runs = {f"v-seed{s}-x.json": {"rows": [{"variant": "v", "seed": s, "psnr": 30 + s}]} for s in (0, 1)}
    code = "import json, pathlib, sys; [pathlib.Path(sys.argv[1], k).write_text(json.dumps(v)) for k, v in {}.items()]"
    command = python(code.format(runs))
    _, passed, out = run(lambda out, scratch: [Step("trainings", 0, [*command, str(scratch)])])
    assert passed
    assert (out / "trainings.csv").read_text().split() == ["variant,seed,psnr", "v,0,30", "v,1,31"]


def test_what_the_launches_and_times_say_is_in_the_summary(run):
    row = {"case": "c", "op": "adder2d", "mode": "forward", "dtype": "float32", "shape": [1, 1, 1, 1], "way": "nsrlib"}
    where = {"device": "a card", "cuda": "13.0"}
    rows = [{**row, "median_ms": 1.0, "percent_of_limit": 61.0, "peak_bytes": 1}]
    table = {"provenance": where, "limits": {}, "left_out": [], "launched": {"d": "did not return"}, "rows": rows}
    code = "import pathlib, sys; pathlib.Path(sys.argv[1], 'a-card.json').write_text(sys.argv[2])"
    _, _, out = run(lambda out, scratch: [Step("times", 0.9, [*python(code), str(out), json.dumps(table)])])
    summary = (out / "summary.md").read_text()
    assert "a card: 1 rows of ours, 1 timed; 0 rows of others, 0 timed\n\nd: did not return\n" in summary
    [aim] = [line for line in summary.splitlines() if "adder2d float32: percent of the limit" in line]
    assert aim.split()[-4:] == ["60", "61", "61", "reached"]


@pytest.mark.parametrize(
    ("device", "minutes", "message"),
    [
        ("cuda", 9, "device 'cuda' cannot be used, CUDA is not available here; cpu rehearses"),
        ("cpu", 0, "minutes must be positive, got 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused_at_once(tmp_path, monkeypatch, device, minutes, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        everything.run(["nsr"], device, minutes, tmp_path / "out", "bsrn")
    assert not (tmp_path / "out").exists()


def test_the_commands_are_those_of_the_card_or_of_the_rehearsal(tmp_path):
    card, rehearsal = (everything.steps(device, 9, "bsrn", tmp_path, tmp_path) for device in ("cuda", "cpu"))
    names = ["first launches", "times of operators", "ncu", "compute-sanitizer", "times of networks", "trainings"]
    assert [step.name for step in card] == ["operators, compiled", "compilations", *names]
    assert [step.name for step in rehearsal] == ["operators, interpreted", *names]
    seconds = {step.name: 540 * step.share for step in card}
    assert seconds["operators, compiled"] <= 90
    assert seconds["times of operators"] <= 180
    assert sum(seconds.values()) <= 0.85 * 540  # the rest is for trainings
    assert "decompositions" in card[-1].command


# --- on a bare machine ------------------------------------------------------------------------------------------------

MISSING = (
    *("pooch", "papermill", "nbval", "nbformat", "nbclient", "nbconvert", "jupyter_client", "jupyterlab", "ipykernel"),
    *("IPython", "ipywidgets", "platformdirs", "statsmodels", "numba", "hypothesis", "seaborn", "sklearn", "yaml"),
)

BARE = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in {MISSING!r} else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def run_bare(code: str) -> str:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        python(BARE + code), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_on_the_way_imports_what_a_bare_machine_lacks():
    """Its tests are collected, those that need hypothesis skipped; a case is launched; every module is imported."""
    out = run_bare("""
import contextlib, tempfile
import nsrlib.cli, nsrlib.bench.audit, nsrlib.bench.everything, nsrlib.studies
from nsrlib import bench, data, evaluation, papers, training

assert all(p.studies_at("gpu") for p in papers.every().values() if p.studies)
assert papers.get("bsrn").networks("cpu")
with tempfile.TemporaryDirectory() as folder:
    table = bench.time_kernels("cpu", out=folder, once=True, only="hard", compiled=False)
    assert set(table.attrs["launched"].values()) == {"returned"}
import pytest
marks = "not hypothesis and not timing and not slow"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/ops", "-m", marks, "-k", "any_shape or bad_input"]))
""")
    assert "needs hypothesis" in out
    assert " passed" in out


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_rehearsal_ends_in_its_time_with_a_row_for_each_case_and_a_summary(tmp_path):
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", "bench-gpu", f"PY={sys.executable}", "DEVICE=cpu", "MINUTES=2", f"OUT={tmp_path}"]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert time.monotonic() - begun < 130, done.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) <= 8
    assert {"bench.log", "summary.md"} <= names
    [times] = tmp_path.glob("*.json")
    rows = json.loads(times.read_text())["rows"]
    assert {row["case"] for row in rows} == {str(case) for case in cases_of("cpu")}
    assert all("median_ms" in row or row["skipped"] for row in rows)
    summary = (tmp_path / "summary.md").read_text()
    assert summary in done.stdout
    for step in everything.steps("cpu", 2, "bsrn", tmp_path, tmp_path):
        assert step.name in summary
