"""Runs of small notebooks, made here: what is refused, what is left behind when one fails, what the page says."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from tiny import DIES, FAILS, GOOD, PARAMETERS, PIXEL, SLEEPS, alive, wait_until, write_notebook

from nsrlib import papers
from nsrlib.claims import COMMAND
from nsrlib.files import ROOT
from nsrlib.runs import Failure, Run, batch, grids, pages, report, reproduce, summary, texts
from nsrlib.runs.notebooks import check_parameters

pytest.importorskip("papermill")
nbformat = pytest.importorskip("nbformat")


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name, cells in {"good": GOOD, "fails": FAILS, "dies": DIES}.items():
        write_notebook(folder / f"{name}.ipynb", cells)
    return folder


@pytest.fixture(scope="module")
def done(notebooks, tmp_path_factory):
    """One run of all three notebooks, two at a time, with what it said on stderr."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setenv("MPLBACKEND", "Agg")
        said = folder.with_suffix(".txt")
        with said.open("w") as stream:
            patch.setattr(sys, "stderr", stream)
            run = reproduce(
                ["good", "fails", "dies"],
                parameters={"steps": 5},
                out=folder,
                jobs=2,
                timeout=99.5,
                notebooks_dir=notebooks,
            )
    return run, said.read_text()


@pytest.fixture
def copy(done, tmp_path) -> Path:
    return Path(shutil.copytree(done[0].folder, tmp_path / "copy"))


# ---- what is refused before anything runs


def test_papers_are_the_notebooks(notebooks):
    assert list(batch.notebooks(notebooks)) == ["dies", "fails", "good"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"papers": "goood"}, r"no notebook 'goood' \(did you mean 'good'\?\); there are: dies, fails, good"),
        ({"profile": "quik"}, r"no profile 'quik' \(did you mean 'quick'\?\); there are: quick, cpu, gpu, paper"),
        ({"parameters": {"stesp": 1}}, r"no parameter 'stesp' in dies, fails, good \(did you mean 'steps'\?\)"),
        ({"papers": "dies", "parameters": {"steps": 1}}, r"no parameter 'steps' in dies; accepted: none"),
        ({"parameters": {"steps": "many"}}, r"good: parameter 'steps' is a int \(default 3\), not a str: 'many'"),
        ({"parameters": {"steps": True}}, r"not a bool: True"),
        ({"parameters": {"name": [[1]]}}, r"parameter 'name' is a str"),
        ({"parameters": {"name": {1}}}, r"parameters must be numbers, strings, lists or dicts"),
        ({"parameters": {"out_dir": "x"}}, r"'out_dir' is set by the run itself: give out="),
        ({"jobs": 0}, r"jobs must be at least 1, not 0"),
        ({"timeout": -1}, r"timeout must be a positive number of seconds, not -1"),
        ({"resume": True}, r"resume needs the run folder"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_wrong_argument_is_named_before_anything_runs(notebooks, tmp_path, arguments, message):
    out = None if "resume" in arguments else tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        reproduce(**{"out": out, "notebooks_dir": notebooks, **arguments})
    assert not (tmp_path / "out").exists()


def test_an_int_is_good_for_a_float_parameter_and_for_text():
    accepted = {"n": {"rate": {"default": "0.5"}, "scales": {"default": "'2,3,4'"}}}
    checked = check_parameters(accepted, "quick", {"rate": 1, "scales": 2})
    assert checked == {"n": {"profile": "quick", "rate": 1, "scales": "2"}}


def test_a_notebook_without_the_two_parameters_is_refused(tmp_path):
    write_notebook(tmp_path / "bare.ipynb", ["x = 1"])
    with pytest.raises(ValueError, match=r"bare.ipynb has no 'profile' in a cell tagged 'parameters'"):
        reproduce(notebooks_dir=tmp_path, out=tmp_path / "out")


def test_a_damaged_notebook_is_named(tmp_path):
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match=r"broken.ipynb is no notebook that can be run: "):
        reproduce(notebooks_dir=tmp_path, out=tmp_path / "out")


def test_a_folder_without_notebooks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^no notebooks in "):
        reproduce(notebooks_dir=tmp_path)


def test_a_folder_in_use_is_not_touched(notebooks, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="is not empty: choose another folder, or resume"):
        reproduce("good", out=tmp_path, notebooks_dir=notebooks)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# ---- what a run leaves


def test_one_failing_notebook_leaves_the_others_alone(done):
    run, _ = done
    assert {n.name: n.status for n in run.notebooks} == {"good": "ok", "fails": "failed", "dies": "failed"}
    assert not run.ok
    assert run.status == "failed"


def test_the_folder_holds_notebooks_pages_results_and_logs(done):
    folder = done[0].folder
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {
        "index.html",
        "run.json",
        "summary.pdf",
        "summary.png",
        "notebooks/good.ipynb",
        "notebooks/good.html",
        "notebooks/fails.failed.ipynb",
        "notebooks/fails.failed.html",
        "notebooks/dies.failed.ipynb",
        "notebooks/dies.failed.html",
        "results/good.json",
        "logs/good.log",
        "logs/fails.log",
        "logs/dies.log",
    }
    assert "DeadKernelError" in (folder / "logs" / "dies.log").read_text()


def test_a_run_tells_its_notebooks_their_command(tmp_path):
    told = (
        "import json, os\nfrom pathlib import Path\n"
        f"Path(out_dir, 'told.json').write_text(json.dumps(os.environ['{COMMAND}']))"
    )
    write_notebook(tmp_path / "told.ipynb", ["# A", 'profile = "quick"\nout_dir = ""\nscales = "2,3"\nsteps = 3', told])
    given = {"scales": "3,4", "steps": 5}
    where = {"out": tmp_path / "out", "notebooks_dir": tmp_path}
    run = reproduce(profile="cpu", parameters=given, progress=False, pages=False, **where)
    assert run.ok
    said = json.loads((run.folder / "results" / "told.json").read_text())
    assert said == run.about["command"] == """nsr reproduce told --profile cpu -p 'scales="3,4"' -p steps=5"""
    words = [word for before, word in pairwise(shlex.split(said)) if before == "-p"]
    assert {name: grids.literal(text) for name, _, text in (word.partition("=") for word in words)} == given


def test_parameters_and_threads_reach_the_kernel(done):
    cores = len(os.sched_getaffinity(0))
    text = (done[0].folder / "notebooks" / "good.ipynb").read_text()
    assert f"with 5 threads {max(1, cores // 2)}" in text


def test_no_name_of_this_machine_is_left(done, notebooks):
    folder = done[0].folder
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".html", ".ipynb"):
            assert str(folder) not in path.read_text(), path.name
            assert f"{Path.home()}/" not in path.read_text(), path.name
    for name in ("run.json", "index.html"):
        text = re.sub(r"data:image/[^\"]*", "", (folder / name).read_text())
        assert not re.findall(r"(?<![\w<./])/(?:home|root|tmp|srv|usr|work|private)/[^\"<]*", text)


def test_progress_without_a_terminal_is_plain_lines(done):
    _, said = done
    lines = said.splitlines()
    assert "good: started" in lines
    assert any(re.fullmatch(r"good: \d/5 cells  0:\d\d  Claim 1: a picture is shown", line) for line in lines)
    assert any(re.fullmatch(r"good: ok in 0:\d\d", line) for line in lines)
    assert "✗ fails: “Claim 7”, cell 4 (# the line): ArithmeticError: two lines" in lines
    assert "\r" not in said


def test_run_json_says_what_was_run(done):
    run, _ = done
    record = json.loads((run.folder / "run.json").read_text())
    assert record["command"] == "nsr reproduce good fails dies --profile quick -p steps=5"
    assert record["parameters"] == {"steps": 5}
    assert record["versions"]["papermill"]
    assert [bool(n["error"]) for n in record["notebooks"]] == [False, True, True]
    again = Run.load(run.folder)
    assert (again.notebooks, again.status) == (run.notebooks, run.status)


def test_summary_has_notebooks_verdicts_failures_and_report(done):
    text = summary(done[0])
    assert re.search(r"^good   ok +0:\d\d  1 reproduced, 1 differs, 1 open$", text, re.M)
    assert re.search(r"^dies   failed +0:\d\d  no claims recorded$", text, re.M)
    assert "✗ fails: “Claim 7”" in text
    assert "1 of 3 notebooks ran to the end" in text
    assert text.endswith("index.html")


def test_the_longest_notebook_starts_first(tmp_path, monkeypatch):
    """By the stored times; one without is taken for long, the largest file first."""
    for name, size in {"short": 9, "long": 1, "new": 2, "larger": 5}.items():
        write_notebook(tmp_path / f"notebooks/{name}.ipynb", ["# A", PARAMETERS, "#" * size * 100])
    found = {name: papers.Paper(name, tmp_path) for name in ("short", "long", "new")}
    for name, text in {"short": '{"provenance": {"seconds": 20}}', "long": '{"provenance": {"seconds": 90}}'}.items():
        found[name].results.mkdir(parents=True)
        (found[name].results / "quick.json").write_text(text)
    found["new"].results.mkdir()
    (found["new"].results / "quick.json").write_text("damaged")
    monkeypatch.setattr(papers, "every", lambda: found)
    order: list[str] = []
    monkeypatch.setattr(batch, "execute", lambda run, todo, *_, **__: order.extend(n.name for n in todo))
    reproduce(out=tmp_path / "out", notebooks_dir=tmp_path / "notebooks", pages=False)
    assert order == ["larger", "new", "long", "short"]


# ---- the notebooks of papers


def test_a_paper_of_another_package_runs_from_its_own_folder(tmp_path, monkeypatch):
    """Installed without a checkout: a copy of its notebook is run, below the current directory."""
    package = papers.Paper("sixth", tmp_path / "site-packages" / "nsrlib_sixth")
    write_notebook(package.notebook, ["# A", PARAMETERS, "open('here.txt', 'w').close()"])
    monkeypatch.setattr(papers, "every", lambda: {"sixth": package})
    monkeypatch.setattr(batch, "ROOT", tmp_path / "site-packages" / "nsrlib")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert list(batch.notebooks()) == ["sixth"]
    with pytest.raises(ValueError, match="no notebook 'seventh'; there are: sixth"):
        reproduce("seventh")
    run = reproduce(progress=False, pages=False)
    assert run.ok, run.failures
    assert run.folder.parent == work / "runs"
    assert (run.folder / "sources" / "here.txt").exists()
    assert [p.name for p in package.notebook.parent.iterdir()] == ["sixth.ipynb"]
    assert (run.folder / "notebooks" / "sixth.ipynb").exists()


def test_the_notebooks_of_a_checkout_run_where_they_lie():
    for paper in papers.every().values():
        if paper.root == ROOT:
            assert batch.ready(paper.notebook, Path("nowhere")) == paper.notebook
    assert batch.default_folder() == ROOT / "runs"


# ---- resuming and stopping


def test_resuming_keeps_what_is_finished_and_runs_the_rest(done, notebooks, tmp_path, copy):
    source = tmp_path / "mended"
    for name, cells in {"good": GOOD, "fails": FAILS[:3]}.items():
        write_notebook(source / f"{name}.ipynb", cells)
    (copy / "results" / "fails.json").write_text("stale")
    record = json.loads((copy / "run.json").read_text())
    record["notebooks"] = [n for n in record["notebooks"] if n["name"] != "dies"]
    (copy / "run.json").write_text(json.dumps(record))
    kept = (copy / "notebooks" / "good.ipynb").stat().st_mtime_ns

    run = reproduce(out=copy, parameters={"steps": 5}, resume=True, progress=False, notebooks_dir=source)

    assert run.ok
    assert run.status == "finished"
    assert (copy / "notebooks" / "good.ipynb").stat().st_mtime_ns == kept
    assert not (copy / "notebooks" / "fails.failed.ipynb").exists()
    assert not (copy / "results" / "fails.json").exists()


def test_resuming_with_other_settings_is_refused(notebooks, copy):
    with pytest.raises(ValueError, match=r"was run with profile 'quick' and parameters \{'steps': 5\}, not 'cpu'"):
        reproduce(out=copy, profile="cpu", resume=True, notebooks_dir=notebooks)


def test_resuming_a_damaged_run_is_refused(notebooks, copy):
    (copy / "run.json").write_text('{"notebooks": [')
    with pytest.raises(ValueError, match=r"run.json in .* is damaged: JSONDecodeError"):
        reproduce(out=copy, resume=True, notebooks_dir=notebooks)


def pretended(run, todo, *_):
    """In place of ``batch.execute``: every notebook has ended well."""
    for notebook in todo:
        notebook.status = "ok"
        (run.folder / "notebooks" / f"{notebook.name}.ipynb").write_text("{}")


@pytest.mark.parametrize("resume", [True, False])
def test_two_runs_in_one_folder_are_refused_and_the_first_goes_on(notebooks, tmp_path, monkeypatch, resume):
    options = {"out": tmp_path / "run", "progress": False, "pages": False, "notebooks_dir": notebooks}
    asked = []

    def execute(run, todo, *rest):
        asked.append([notebook.name for notebook in todo])
        with pytest.raises(FileExistsError, match=r"another run is at work in .*run \(process \d+ on .*\): wait"):
            reproduce("good", resume=resume, **options)
        pretended(run, todo)

    monkeypatch.setattr(batch, "execute", execute)
    assert reproduce("good", **options).ok
    assert asked == [["good"]]
    monkeypatch.setattr(batch, "execute", pretended)
    assert reproduce("good", resume=True, **options).ok  # the folder is free
    assert not list((tmp_path / "run").glob("*lock"))


def test_runs_that_begin_in_one_second_have_folders_of_their_own(notebooks, tmp_path, monkeypatch):
    class Clock(batch.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(batch, "datetime", Clock)
    monkeypatch.setattr(batch, "default_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(batch, "execute", pretended)
    with ThreadPoolExecutor(6) as pool:
        options = {"progress": False, "pages": False, "notebooks_dir": notebooks}
        ended = [pool.submit(reproduce, "good", **options) for _ in range(6)]
        folders = sorted(future.result().folder.name for future in ended)
    assert folders == ["20260102-030405-quick", *(f"20260102-030405-quick-{k}" for k in range(2, 7))]


@pytest.mark.slow
def test_ctrl_c_ends_the_kernel_and_says_so(tmp_path):
    write_notebook(tmp_path / "source" / "sleeps.ipynb", SLEEPS)
    script = tmp_path / "script.py"  # deliberately without a __main__ guard
    script.write_text(
        # a shell's background job inherits an ignored SIGINT, and Python then leaves it ignored
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from nsrlib.runs import *\nfrom nsrlib.runs import Interrupted\n"
        f"try:\n    reproduce('sleeps', out={str(tmp_path / 'out')!r}, notebooks_dir={str(tmp_path / 'source')!r})\n"
        "except Interrupted as stop:\n    print(stop.run.status)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    pid = tmp_path / "out" / "results" / "pid"
    wait_until(lambda: (pid.exists() and pid.read_text().isdigit()) or process.poll() is not None)
    kernel = int(pid.read_text())
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[0].strip() == "interrupted"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "out" / "index.html").exists()
    wait_until(lambda: not alive(kernel))


def test_causes_are_one_clear_line():
    from nbclient.exceptions import CellTimeoutError

    timeout = CellTimeoutError.error_from_timeout_and_cell(
        "Cell execution timed out", 9, nbformat.v4.new_code_cell("x")
    )
    assert texts.cause_of(timeout) == ("CellTimeoutError", "the cell took longer than 9 s")
    full = OSError(errno.ENOSPC, "No space left on device", "notebooks/x.ipynb")
    assert texts.cause_of(full) == ("OSError", "the disk is full (writing x.ipynb)")
    assert str(Failure("bsrn", "ValueError", "why")) == "bsrn: ValueError: why"


# ---- the page


def test_the_page_loads_nothing_from_anywhere(done):
    page = (done[0].folder / "index.html").read_text()
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page)
    assert f'src="data:image/png;base64,{PIXEL}"' in page
    for href in re.findall(r'href="(?!data:)([^"#]+)', page):
        assert (done[0].folder / href).exists(), href


def test_the_notebook_page_waits_for_nothing_from_the_network(done):
    page = (done[0].folder / "notebooks" / "good.html").read_text()
    assert [tag for tag in re.findall(r"<script[^>]*src=[^>]*>", page) if "defer" not in tag] == []
    assert not re.findall(r"<link[^>]*stylesheet", page)


def test_a_figure_has_the_heading_above_it_and_links_to_its_cell(done):
    folder = done[0].folder
    page = (folder / "index.html").read_text()
    href, anchor = re.search(r'<figure><a href="([^"#]+)#([^"]+)">', page).groups()
    assert "Claim 1: a picture is shown</figcaption>" in page
    assert f'id="{anchor}"' in (folder / href).read_text()


def test_numbers_have_the_digits_of_the_paper(done):
    page = (done[0].folder / "index.html").read_text()
    cells = re.findall(r'data-label="(\w+)"[^>]*>([^<]*)<', page)
    assert cells[:3] == [("Published", "30.00"), ("Ours", "29.50"), ("Difference", "−0.500")]  # differs comes first
    assert cells[3:6] == [("Published", "32.30"), ("Ours", "32.30"), ("Difference", "+0.004")]
    assert cells[6:] == [("Published", "–"), ("Ours", "–"), ("Difference", "–")]


def test_a_claim_links_to_the_cell_that_measured_it(done):
    folder = done[0].folder
    page = (folder / "index.html").read_text()
    claims = page[page.index('id="claims"') :]
    href, anchor = re.search(r'<td class="where"><a href="([^"#]+)#([^"]+)">good, Table 2</a>', claims).groups()
    cell = next(c for c in nbformat.read(folder / "notebooks" / "good.ipynb", 4).cells if f"cell-id={c.id}" == anchor)
    assert "Claim" in cell.source or "import base64" in cell.source
    assert f'id="{anchor}"' in (folder / href).read_text()
    board = page[page.index('id="scoreboard"') : page.index('id="claims"')]
    assert f'<a href="{href}#{anchor}">Table 2</a>' in board


def test_the_page_tells_the_run_in_a_sentence_and_a_line_a_paper(done):
    page = (done[0].folder / "index.html").read_text()
    assert "Of the 3 numbers that the paper reports as its own, 1 are reproduced, 0 agree" in page
    cells = re.search(r'<th scope="row">good</th>(<td>.*?)</tr>', page[page.index('class="lines"') :])[1]
    assert re.findall(r"<td>([^<]*)</td>", cells) == ["3", "1", "0", "0", "1", "1", "0", "none judged"]
    folded = page[page.index("<summary>Every table of every paper</summary>") :]
    assert folded.index('<table class="board') < folded.index("</details>")


def test_the_page_shows_what_became_of_the_claims(copy):
    judged = [{"id": "c", "where": "Table 9", "statement": "A <b> B", "verdict": "reversed", "reason": "8 seeds"}]
    (copy / "results" / "bsrn.json").write_text(json.dumps({"paper": "bsrn", "rows": [], "claims": [*judged, 3]}))
    page = report(copy).read_text()
    claims = page[page.index('id="judged"') : page.index('id="claims"')]
    assert re.search(r"reversed.*bsrn, Table 9.*A &lt;b&gt; B.*8 seeds", claims, re.S)


def test_the_page_can_be_filtered_by_paper_and_verdict_and_has_two_themes(done):
    page = (done[0].folder / "index.html").read_text()
    assert re.search(r'<div class="filter" hidden>\s*<input type="search"', page)  # nothing to see without scripts
    assert re.findall(r'<button type="button" aria-pressed="false" data-verdict="([^"]+)"', page) == [
        "reproduced", "differs", "open",
    ]  # fmt: skip
    rows = re.findall(r'<tr [^>]*data-verdicts="([^"]*)"', page)
    assert sorted(rows) == ["differs", "open", "open", "reproduced", "reproduced|differs"]
    assert "prefers-color-scheme: dark" in page
    assert page.count("--ground: #14161a") == 2  # the system's dark and the reader's


def test_text_from_a_ledger_is_not_markup(done):
    assert "<script>alert" not in (done[0].folder / "index.html").read_text()


def test_a_second_report_is_the_same(copy):
    first = report(copy).read_text()
    assert report(copy).read_text() == first


def test_damaged_parts_are_named_and_the_rest_is_shown(copy):
    (copy / "results" / "bsrn.json").write_text('{"rows": [{"id"')
    (copy / "results" / "nsr.json").write_text("[1, 2]")
    (copy / "results" / "drn.json").write_text('{"rows": [3, {"verdict": "new word", "ours": "many"}]}')
    (copy / "notebooks" / "good.ipynb").write_text('{"cells"')
    page = report(copy).read_text()
    assert "results/bsrn.json cannot be read" in page
    assert "results/nsr.json holds no list of rows" in page
    assert "results/drn.json: 1 of 2 entries of rows were left out" in page
    assert "notebooks/good.ipynb cannot be read: JSONDecodeError" in page
    assert "new word" in page
    assert "29.50" in page


def test_a_folder_without_a_run_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("somebody's own page")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"no run in .*: No such file or directory \(run\.json\)"):
            report(folder)
    assert (tmp_path / "index.html").read_text() == "somebody's own page"


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("open('{home}/x/y.png')", "open('~/x/y.png')"),
        ("\x1b[32m{home}/x\x1b[39m", "\x1b[32m~/x\x1b[39m"),
        ("{root}/nsrlib/runs.py", "nsrlib/runs.py"),
        ("in {run}", "in ."),
        ("{home}-other", "{home}-other"),
        ("iVBOR{home}/9A==", "iVBOR{home}/9A=="),
        ("https://a.org{home}/b", "https://a.org{home}/b"),
    ],
)
def test_only_whole_paths_are_cut(monkeypatch, text, published):
    monkeypatch.setenv("HOME", "/mnt/alice")
    monkeypatch.setattr(texts, "ROOT", Path("/mnt/alice/repo"))
    names = {"home": "/mnt/alice", "root": "/mnt/alice/repo", "run": "/mnt/run"}
    scrub = texts.Scrubber(Path("/mnt/run"))
    assert scrub.folders(text.format(**names)) == published.format(**names)


def test_any_other_absolute_path_is_reduced_to_its_name(tmp_path):
    scrub = texts.Scrubber(tmp_path)
    assert scrub.paths("no file '/srv/bob/data/set5' or https://x.org/a/b, 3 km/h") == (
        "no file '…/set5' or https://x.org/a/b, 3 km/h"
    )


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ('File "{packages}/torch/nn/module.py", line 3', 'File "site-packages/torch/nn/module.py", line 3'),
        ("{temporary}/ipykernel_7/12.py", "tmp/ipykernel_7/12.py"),
        ("read {data}/set5/HR/a.png", "read NSRLIB_DATA/set5/HR/a.png"),
        ("kept in {cache}", "kept in NSRLIB_CACHE"),
        ("{run}/results/a.json", "results/a.json"),
    ],
    ids=["packages", "temporary", "data", "cache", "run"],
)
def test_places_of_the_machine_have_short_names(monkeypatch, text, published):
    import sysconfig
    import tempfile

    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/mnt/scratch")
    monkeypatch.setenv("NSRLIB_DATA", os.pathsep.join(["/mnt/more", "/mnt/sr"]))
    monkeypatch.setenv("NSRLIB_CACHE", "/mnt/kept")
    names = {"packages": sysconfig.get_path("purelib"), "temporary": "/mnt/scratch", "data": "/mnt/sr"}
    names |= {"cache": "/mnt/kept", "run": "/mnt/scratch/run"}
    scrub = texts.Scrubber(Path("/mnt/scratch/run"))
    assert scrub.folders(text.format(**names)) == published


def test_outputs_of_notebooks_and_logs_keep_no_absolute_path(tmp_path):
    scrub = texts.Scrubber(tmp_path)
    picture = "data:image/jpeg;base64,/9j/4AAQSkZJRg/abc/d=="
    text = f"cannot open '/srv/bob/sr/a.png'; <img src='{picture}'>"
    outputs = [{"data": {"text/plain": [text], "image/jpeg": "/9j/4AAQ/x/y"}}]
    cells = [{"source": "open('/srv/bob/sr/a.png')", "outputs": outputs}, {"source": "# prose"}]
    cleaned = scrub.notebook({"cells": cells, "metadata": {}})["cells"]
    data = cleaned[0]["outputs"][0]["data"]
    assert data["text/plain"] == [f"cannot open '…/a.png'; <img src='{picture}'>"]
    assert data["image/jpeg"] == "/9j/4AAQ/x/y"
    assert cleaned[0]["source"] == "open('/srv/bob/sr/a.png')"  # the program stays what it was
    (tmp_path / "a.log").write_bytes(b"at /srv/bob/sr/a.py \xff\n")
    scrub.log(tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text(encoding="utf-8") == "at …/a.py �\n"


def test_heavy_figures_are_shown_smaller():
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (1800, 600, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    uri = pages.data_uri(base64.b64encode(png.getvalue()).decode(), "image/png")
    small = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert uri.startswith("data:image/webp;")
    assert max(small.size) == 1400
