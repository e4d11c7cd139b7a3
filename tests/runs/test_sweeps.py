"""Sweeps: grids, what is refused, what is kept and repeated, the table and the page, workers that are killed.

Most runs here are pretended, by a ``reproduce`` that writes what the real one leaves; the slow tests run notebooks.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pandas as pd
import pytest
from tiny import PIXEL, TINY, alive, wait_until, write_notebook

from nsrlib.runs import Failure, NotebookRun, Run, batch, cluster, notebooks, sweep, sweeps
from nsrlib.runs.record import Sweep

pytest.importorskip("papermill")
pytest.importorskip("distributed")
nbformat = pytest.importorskip("nbformat")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_notebook(folder / "tiny.ipynb", TINY)
    return folder


def ledger(parameters: dict) -> dict:
    """Two claims of which one depends on the scale, an open one, and a table."""
    scale, seed = parameters.get("scale", 2), parameters.get("seed", 0)
    psnr = 30 + scale + seed / 8
    row = {"table": "2", "column": "Set5", "scale": 4, "metric": "psnr", "unit": "dB", "published": "32.3"}
    row |= {"how": "weights", "cell": 2}
    good = "reproduced" if scale == 2 else "differs"
    return {
        "paper": "tiny",
        "rows": [
            row | {"id": "a", "row": "BSRN", "ours": psnr, "difference": psnr - 32.3, "verdict": good},
            row | {"id": "b", "row": "RFDN", "ours": 32.3, "difference": 0, "verdict": "reproduced"},
            row | {"id": "c", "row": "NSR", "how": "open", "verdict": "open", "reason": "<no data>", "ours": None},
        ],
        "tables": {"latency": {"note": "", "rows": [{"model": "BSRN", "seconds": psnr / 100, "slow": True}]}},
        "provenance": {"device": "cpu", "threads": 1, "data": {"set5": {"origin": "here", "sha256": "ab" * 32}}},
    }  # fmt: skip


def pretend(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Runs that take no time; returns the parameters of every one of them, in order. ``mode="fails"`` fails."""
    calls: list[dict] = []

    def reproduce(paper, *, profile, parameters, out, **_) -> Run:
        calls.append(dict(parameters))
        fails = parameters.get("mode") == "fails"
        error = Failure(paper, "ArithmeticError", "no", cell=2) if fails else None
        run = Run(out, profile, [NotebookRun(paper, "failed" if fails else "ok", 1.5, 3, error)], "finished", 1.5)
        run.parameters = dict(parameters)
        for part in ("notebooks", "results", "logs"):
            (out / part).mkdir()
        picture = nbformat.v4.new_output("display_data", {"image/png": PIXEL})
        cell = nbformat.v4.new_code_cell("show()", execution_count=2, outputs=[picture])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), out / "notebooks" / f"{paper}{'.failed' * fails}.ipynb")
        (out / "logs" / f"{paper}.log").write_text("said\n")
        if not fails:
            (out / "results" / f"{paper}.json").write_text(json.dumps(ledger(parameters)))
        run.save()
        return run

    monkeypatch.setattr(batch, "reproduce", reproduce)
    return calls


@pytest.fixture
def pretended(monkeypatch) -> list[dict]:
    return pretend(monkeypatch)


def pretend_in_line(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The same, and nobody but this process at work."""

    def execute(this, todo, source, bars, *, timeout, **_):
        for run in todo:
            try:
                run.seconds, run.status = cluster.run_one(cluster.job_of(this, run, source, timeout)), "ok"
            except cluster.RunFailed as error:
                run.status, run.error = "failed", str(error)

    monkeypatch.setattr(cluster, "execute", execute)
    return pretend(monkeypatch)


@pytest.fixture
def in_line(monkeypatch) -> list[dict]:
    return pretend_in_line(monkeypatch)


@pytest.fixture
def run_sweep(source, tmp_path):
    """``run_sweep(grid, ...)`` of the tiny notebook into one folder."""

    def run(grid=None, **options) -> Sweep:
        return sweep("tiny", grid, **{"out": tmp_path / "sweep", "notebooks_dir": source, "progress": False} | options)

    return run


# ---- what is refused before anything runs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to sweep over: give -g name=v1,v2,... or a grid file"),
        ({"grid": {"sacle": [2]}}, r"no parameter 'sacle' in tiny \(did you mean 'scale'\?\); accepted: scale, seed"),
        ({"grid": {"scale": [2, "many"]}}, "tiny: parameter 'scale' is a int"),
        ({"grid": {"out_dir": ["x"]}}, "'out_dir' is set by the run itself"),
        ({"grid": {"scale": [2]}, "parameters": {"scale": 3}}, "'scale' is given twice"),
        ({"grid": {"scale": [2]}, "points": [{"scale": 3}]}, "'scale' is given twice"),
        ({"grid": {"scale": []}}, "the values of 'scale' must be a list that is not empty"),
        ({"grid": {"mode": "good"}}, "the values of 'mode' must be a list that is not empty, got 'good'"),
        ({"grid": {"scale": [2]}, "profile": "quik"}, "no profile 'quik' .did you mean 'quick'"),
        ({"grid": {"scale": [2]}, "workers": 0}, "workers must be at least 1, not 0"),
        ({"grid": {"scale": [2]}, "workers": 2, "scheduler": "tcp://x:1"}, "workers are those of the scheduler"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_before_anything_runs(run_sweep, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_sweep(**options)
    assert not (tmp_path / "sweep").exists()


def test_an_unknown_notebook_is_named(source, tmp_path):
    with pytest.raises(ValueError, match=r"no notebook 'tinny' \(did you mean 'tiny'\?\)"):
        sweep("tinny", {"scale": [2]}, notebooks_dir=source, out=tmp_path / "sweep")


def test_without_dask_it_says_what_to_install(run_sweep, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"nsr sweep needs Dask: pip install 'nsrlib\[sweep\]'"):
        run_sweep({"scale": [2]})
    assert not (tmp_path / "sweep").exists()


def test_a_scheduler_that_does_not_answer_is_named(run_sweep, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9: "):
        run_sweep({"scale": [2]}, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(OSError, match="no Dask scheduler answers at nonsense://x"):
        run_sweep({"scale": [2]}, scheduler="nonsense://x")


def test_a_folder_in_use_is_not_touched(run_sweep, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="is not empty and no sweep: choose another folder"):
        run_sweep({"scale": [2]}, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# ---- the plan


def planned(source: Path, grid: dict, points=({},), fixed=None, digest="d", profile="quick") -> list:
    return sweeps.plan(source / "tiny.ipynb", digest, profile, grid, points, fixed or {})


def test_every_combination_is_run_once_in_the_types_of_the_notebook(source):
    plan = planned(source, {"scale": [2, 3], "scales": [2, "2", "2,3"]})
    assert [run.parameters for run in plan] == [
        {"scale": a, "scales": b} for a in (2, 3) for b in ("2", "2,3")
    ]  # 2 and "2" are the same to this notebook
    assert len({run.key for run in plan}) == 4


def test_points_are_combined_with_the_grid(source):
    plan = planned(source, {"seed": [0, 1]}, [{"scale": 2}, {"scale": 3, "mode": "x"}], {"marks": "m"})
    assert [list(run.parameters.values()) for run in plan] == [
        ["m", 2, 0], ["m", 2, 1], ["m", 3, "x", 0], ["m", 3, "x", 1],
    ]  # fmt: skip


def test_the_key_says_what_was_run_and_changes_with_everything_that_counts(source):
    (plain,) = planned(source, {"scale": [2]})
    assert re.fullmatch(r"scale-2-[0-9a-f]{10}", plain.key)
    assert planned(source, {"scale": [2]})[0].key == plain.key
    others = [
        planned(source, {"scale": [3]}),
        planned(source, {"scale": [2]}, digest="e"),
        planned(source, {"scale": [2]}, profile="cpu"),
        planned(source, {"scale": [2]}, fixed={"seed": 1}),
    ]
    assert len({plain.key, *(run.key for plan in others for run in plan)}) == 5
    (odd,) = planned(source, {"marks": ["../../x y;" * 30]})
    assert re.fullmatch(r"[A-Za-z0-9.-]{1,60}", odd.key)
    assert not odd.key.startswith(".")


def test_the_digest_is_that_of_the_sources_alone(source, tmp_path):
    path = tmp_path / "tiny.ipynb"
    notebook = nbformat.read(source / "tiny.ipynb", 4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="x")]
    notebook.metadata["more"] = 1
    nbformat.write(notebook, path)
    assert notebooks.digest(path) == notebooks.digest(source / "tiny.ipynb")
    notebook.cells[2].source += "\n# more"
    nbformat.write(notebook, path)
    assert notebooks.digest(path) != notebooks.digest(source / "tiny.ipynb")


# ---- what is kept, repeated and left


def test_a_finished_run_is_never_repeated_and_a_larger_grid_adds_to_it(run_sweep, in_line, tmp_path):
    first = run_sweep({"scale": [2, 3]})
    assert first.ok
    assert [run.attempts for run in first.runs] == [1, 1]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep" / "runs").rglob("*") if p.is_file()}
    again = run_sweep({"scale": [2, 3, 4]})
    assert [call["scale"] for call in in_line] == [2, 3, 4]
    assert again.ok
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert pd.read_csv(tmp_path / "sweep" / "sweep.csv").query("kind == 'run'")["param_scale"].tolist() == [2, 3, 4]


def test_a_run_has_its_parameters_versions_hashes_log_notebook_and_page(run_sweep, in_line, tmp_path):
    done = run_sweep({"scale": [2]})
    place = tmp_path / "sweep" / "runs" / done.runs[0].key
    assert {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()} == {
        "run.json", "notebooks/tiny.ipynb", "notebooks/tiny.html", "results/tiny.json", "logs/tiny.log",
    }  # fmt: skip
    record = json.loads((place / "run.json").read_text())
    assert record["parameters"] == {"scale": 2}
    assert record["attempt"] == 1
    assert record["notebook_sha256"] == json.loads((tmp_path / "sweep" / "sweep.json").read_text())["notebook_sha256"]
    assert set(record["files"]) == {"notebooks/tiny.ipynb", "results/tiny.json"}
    assert list((tmp_path / "sweep" / "attempts").iterdir()) == []


def test_a_failed_run_is_reported_and_tried_again_by_the_next_sweep(run_sweep, in_line, tmp_path):
    grid = {"mode": ["good", "fails"]}
    first = run_sweep(grid)
    good, bad = first.runs
    assert (first.status, good.status, bad.status) == ("failed", "ok", "failed")
    assert bad.error == "tiny: cell 2: ArithmeticError: no"
    assert "✗ mode=fails: tiny: cell 2: ArithmeticError: no (1 attempts)" in sweeps.summary(first)
    failed = tmp_path / "sweep" / "attempts" / f"{bad.key}.1"
    assert (failed / "notebooks" / "tiny.failed.ipynb").exists()
    assert (failed / "logs" / "tiny.log").exists()
    second = run_sweep(grid)
    assert [call["mode"] for call in in_line] == ["good", "fails", "fails"]
    assert second.runs[1].attempts == 2


def test_a_changed_notebook_is_run_anew(run_sweep, in_line, tmp_path, source):
    run_sweep({"scale": [2]})
    other = tmp_path / "other"
    write_notebook(other / "tiny.ipynb", [*TINY, "more = 1"])
    run_sweep({"scale": [2]}, notebooks_dir=other)
    assert len(in_line) == 2
    assert len(list((tmp_path / "sweep" / "runs").iterdir())) == 2


def test_a_notebook_that_changes_during_the_sweep_stops_the_run(source, tmp_path, pretended):
    (tmp_path / "sweep.json").touch()
    job = {"folder": str(tmp_path), "notebook": str(source / "tiny.ipynb"), "key": "k", "sha256": "other"}
    with pytest.raises(cluster.RunFailed, match=r"tiny\.ipynb was changed while the sweep ran; start it again"):
        cluster.run_one(job)


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not see the sweep's folder; all need one file system"):
        cluster.run_one({"folder": str(tmp_path / "elsewhere"), "notebook": "", "key": "k"})


def test_two_workers_on_the_same_run_leave_one_result(run_sweep, in_line, monkeypatch, tmp_path):
    done = run_sweep({"scale": [2]})
    final = tmp_path / "sweep" / "runs" / done.runs[0].key
    job = cluster.job_of(done, done.runs[0], tmp_path, None)
    late = cluster.next_attempt(done.folder, done.runs[0].key)  # a worker that was thought lost begins ...
    late.rmdir()
    monkeypatch.setattr(notebooks, "digest", lambda path: job["sha256"])
    looked = iter([None, Run.load(final)])  # ... before the other one has finished
    monkeypatch.setattr(cluster, "finished", lambda place: next(looked))
    before = (final / "run.json").read_bytes()
    assert cluster.run_one(job) == 1.5
    assert (final / "run.json").read_bytes() == before
    assert [p.name for p in final.parent.iterdir()] == [final.name]


# ---- the table and the page


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    """A sweep over scale and seed, of which one half fails."""
    folder = tmp_path_factory.mktemp("made") / "sweep"
    grid, points = {"scale": [2, 3, 4], "seed": [0, 1]}, [{"mode": "good"}, {"mode": "fails"}]
    with pytest.MonkeyPatch.context() as patch:
        pretend_in_line(patch)
        sweep("tiny", grid, points=points, out=folder, notebooks_dir=source, progress=False)
    return folder


@pytest.fixture
def wide(made, tmp_path) -> Sweep:
    """A copy of it."""
    return Sweep.load(shutil.copytree(made, tmp_path / "sweep"))


def test_the_table_has_a_row_for_each_run_and_number(wide):
    table = pd.read_csv(wide.folder / "sweep.csv")
    assert list(table) == [
        "run", "param_mode", "param_scale", "param_seed", "status", "seconds", "attempts", "kind", "paper", "table",
        "row", "column", "scale", "metric", "unit", "how", "verdict", "published", "value", "difference",
    ]  # fmt: skip
    assert table["kind"].value_counts().to_dict() == {"claim": 18, "run": 12, "table": 6}
    assert not table.duplicated(["run", "kind", "table", "row", "metric"]).any()
    claims = table[(table["kind"] == "claim") & (table["row"] == "BSRN")]
    assert claims["value"].tolist() == [30 + s + k / 8 for s in (2, 3, 4) for k in (0, 1)]
    assert claims["value"].tolist() == (30 + claims["param_scale"] + claims["param_seed"] / 8).tolist()
    kept = table[table["kind"] == "table"]
    assert set(kept["row"]) == {"BSRN"}
    assert set(kept["metric"]) == {"seconds"}  # a truth value is no number
    failed = table[table["status"] == "failed"]
    assert len(failed) == 6
    assert failed["value"].isna().all()


def test_the_page_shows_runs_failures_changes_and_figures_and_loads_nothing(wide):
    page = (wide.folder / "index.html").read_text()
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page)
    for href in re.findall(r'href="(?!data:)([^"#]+)', page):
        assert (wide.folder / href).exists(), href
    assert "6 of 12 runs ended well" in page
    assert "<code>tiny: cell 2: ArithmeticError: no</code><br>6 runs: mode=fails, scale=2, seed=0; mode=fails" in page
    assert len(re.findall(r"<tr data-verdicts", page)) == 12
    changing = page[page.index('id="changing"') :]
    assert "Table 2: BSRN · Set5 · ×4 · psnr" in changing
    assert "RFDN" not in changing
    assert page.count("data:image/png;base64,") == 3  # PSNR, latency, seconds
    assert "NaN" not in re.sub(r"base64,[^\"]*", "", page)
    assert str(wide.folder) not in page


def test_figures_lie_in_the_folder_too(wide):
    assert sorted(p.name for p in (wide.folder / "figures").iterdir()) == [
        "01-table-2-psnr.png", "02-seconds.png", "03-latency-seconds.png",
    ]  # fmt: skip
    for name in ("summary.png", "summary.pdf"):
        assert (wide.folder / name).stat().st_size > 10_000


def test_a_second_report_is_the_same(wide):
    files = {p: p.read_bytes() for p in wide.folder.rglob("*") if p.is_file()}
    del files[wide.folder / "summary.pdf"]  # its fonts hold the time
    assert sweeps.report(wide.folder) == wide.folder / "index.html"
    assert {p: p.read_bytes() for p in files} == files


def test_a_folder_without_a_whole_sweep_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("somebody's own page")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"no sweep in .*: No such file or directory \(sweep\.json\)"):
            sweeps.report(folder)
    (tmp_path / "sweep.json").write_text('{"runs": [')
    with pytest.raises(ValueError, match=r"sweep\.json in .* is damaged: JSONDecodeError"):
        sweeps.report(tmp_path)
    assert (tmp_path / "index.html").read_text() == "somebody's own page"


@pytest.mark.parametrize(
    "grid",
    [{"seed": [0, 1]}, {"scale": [2]}, {"scales": ["2", "2,3"]}, {"scale": [2, 3], "mode": ["a", "b"]}],
    ids=str,
)
def test_any_grid_gets_a_page(run_sweep, in_line, grid):
    done = run_sweep(grid)
    assert f"tiny over {', '.join(done.swept) or 'one point'}" in (done.folder / "index.html").read_text()


# ---- Dask


@pytest.fixture(scope="module")
def address():
    """A scheduler with one worker, both in this process, so that pretended runs stay pretended."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def test_a_run_that_fails_is_tried_once_more_and_then_reported(run_sweep, pretended, address, capsys):
    done = run_sweep({"mode": ["fails", "good"]}, scheduler=address, progress=True)
    bad, good = done.runs
    assert (bad.status, bad.attempts, bad.error) == ("failed", 2, "tiny: cell 2: ArithmeticError: no")
    assert (good.status, good.attempts) == ("ok", 1)
    assert sorted(call["mode"] for call in pretended) == ["fails", "fails", "good"]
    said = capsys.readouterr().err
    assert re.search(r"^\[\d/2\] mode=good: ok in 0:02$", said, re.M)
    assert "✗ tiny: cell 2: ArithmeticError: no" in said


def test_a_terminal_shows_how_far_the_sweep_is_below_what_has_ended(run_sweep, pretended, address, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    run_sweep({"seed": [0, 1]}, scheduler=address)
    assert terminal.getvalue() == ""
    run_sweep({"seed": [0, 1, 2], "mode": ["fails"]}, scheduler=address, progress=True)
    said = terminal.getvalue()
    assert "0/3" in said
    assert re.search(r"\[3/3\] seed=\d: failed$", said, re.M)
    assert "\x1b[2K" in said


def test_a_run_that_fails_once_ends_well(run_sweep, pretended, address, monkeypatch):
    pretend, failed = batch.reproduce, []

    def reproduce(paper, *, parameters, **options):
        if not failed:
            failed.append(1)
            parameters = parameters | {"mode": "fails"}
        return pretend(paper, parameters=parameters, **options)

    monkeypatch.setattr(batch, "reproduce", reproduce)
    done = run_sweep({"seed": [0]}, scheduler=address)
    assert done.ok
    assert done.runs[0].attempts == 2
    assert list((done.folder / "attempts").iterdir()) == []


def test_an_error_outside_the_notebook_is_reported_with_its_kind(run_sweep, pretended, address, monkeypatch):
    def reproduce(*_, **__):
        raise OSError(28, "No space left on device", "/x/run.json")

    monkeypatch.setattr(batch, "reproduce", reproduce)
    done = run_sweep({"seed": [0]}, scheduler=address)
    assert done.runs[0].error == "OSError: the disk is full (writing run.json)"
    assert "the disk is full (writing run.json)" in (done.folder / "index.html").read_text()


def busy_workers() -> list[int]:
    """Workers, children of this process, that are executing a notebook."""
    ours = {process.pid for process in multiprocessing.active_children()}
    parents = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if "nsrlib.runs.worker" in (path / "cmdline").read_text():
                parents.append(int((path / "stat").read_text().rpartition(")")[2].split()[1]))
        except OSError:
            continue  # it has ended
    return [pid for pid in parents if pid in ours]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_24_runs_on_two_workers_of_which_one_is_killed_give_24_results_each_once(run_sweep, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    folder = tmp_path / "sweep"
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: len(list((folder / "runs").glob("*"))) >= 6)
        wait_until(lambda: busy_workers())
        killed.append(busy_workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = run_sweep(
        {"scale": [2, 3, 4], "seed": list(range(8))}, parameters={"marks": str(marks)}, workers=2, progress=False
    )
    killer.join()
    assert len(killed) == 1
    assert done.ok, sweeps.summary(done)
    # 24 results, none twice: folders, rows, and what the notebooks themselves have counted
    places = list((folder / "runs").iterdir())
    assert len(places) == 24
    table = pd.read_csv(folder / "sweep.csv")
    expected = [(s, k) for s in (2, 3, 4) for k in range(8)]
    for kind in ("run", "claim"):
        rows = table[table["kind"] == kind]
        assert sorted(zip(rows["param_scale"], rows["param_seed"], strict=True)) == expected
    claims = table[table["kind"] == "claim"]
    assert (claims["value"] == 30 + claims["param_scale"] + claims["param_seed"] / 8).all()
    attempts = [run.attempts for run in done.runs]
    assert sorted(attempts) == [1] * 23 + [2]
    begun, ended = ([p.name.rsplit("-", 1) for p in marks.glob(f"*.{word}")] for word in ("begun", "done"))
    assert {name for name, _ in ended} == {f"{s}-{k}" for s, k in expected}
    assert len(ended) in (24, 25)  # the killed one may have got to its last cell
    wait_until(lambda: not [pid for _, pid in begun if alive(int(pid.partition(".")[0]))])  # no kernel is left
    assert list((folder / "attempts").iterdir()) == []
    page = (folder / "index.html").read_text()
    assert "24 of 24 runs ended well" in page
    assert len(re.findall(r"<tr data-verdicts", page)) == 24
    with (folder / "sweep.csv").open() as file:
        assert sum(row["verdict"] == "reproduced" for row in csv.DictReader(file)) == 24


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_ctrl_c_leaves_what_the_same_command_goes_on_with(tmp_path):
    marks, folder = tmp_path / "marks", tmp_path / "sweep"
    marks.mkdir()
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from nsrlib import cli, papers\n"
        f"tiny = papers.Paper('tiny', Path({str(tmp_path)!r}))\n"
        "papers.every = lambda: {'tiny': tiny}\n"
        "if __name__ == '__main__': cli.main()\n"
    )
    (tmp_path / "nsr.py").write_text(code)
    write_notebook(tmp_path / "notebooks/tiny.ipynb", TINY)
    command = [sys.executable, str(tmp_path / "nsr.py"), "sweep", "tiny", "-g", "seed=0,1", "-p", "mode=waits"]
    command += ["-p", f"marks={marks}", "--out", str(folder), "--workers", "2"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    process = start()
    wait_until(lambda: process.poll() is not None or (list(marks.glob("2-1-*")) and list((folder / "runs").glob("*"))))
    assert process.poll() is None, process.communicate()
    (kernel,) = [int(p.name.split("-")[2].split(".")[0]) for p in marks.glob("2-1-*")]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of its processes
    out, err = process.communicate(timeout=900)
    assert process.returncode == 130, err
    assert "1 of 2 runs ended well" in out
    assert "interrupted: the same command goes on where it was stopped" in out
    assert "Traceback" not in err
    wait_until(lambda: not alive(kernel))
    record = json.loads((folder / "sweep.json").read_text())
    assert [run["status"] for run in record["runs"]] == ["ok", "interrupted"]
    assert "1 of 2 runs ended well, interrupted" in (folder / "index.html").read_text()
    (finished,) = (folder / "runs").iterdir()
    kept = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}

    (marks / "go").touch()
    process = start()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert "1 of 2 runs are finished already" in err
    assert "2 of 2 runs ended well" in out
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert len(list(marks.glob("2-0-*.begun"))) == 1
    assert len(list(marks.glob("2-1-*.begun"))) == 2


def test_a_folder_is_free_again_when_its_sweep_has_been_killed(run_sweep, in_line, tmp_path):
    run_sweep({"seed": [0]})
    (tmp_path / "sweep" / ".sweep.owner").write_text("process 1 on nowhere")  # the lock itself went with the process
    assert run_sweep({"seed": [0, 1]}).ok
    with filelock.FileLock(tmp_path / "sweep" / "sweep.lock", timeout=0):
        pass
