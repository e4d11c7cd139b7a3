"""The ``nsr`` command: what it prints, its exit status, and that a failure is one line and leaves nothing behind.

The file is long because the command has many verbs, and one way to call them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import Done, photo, refused
from PIL import Image
from typer.testing import CliRunner

from nsrlib import claims, cli, evaluation, files, models, papers, runs
from nsrlib.bench import audit
from nsrlib.cli.options import assignments
from nsrlib.data import sources
from nsrlib.runs import readme, sweeps

COMMANDS = ["reproduce", "sweep", "report", "scoreboard", "evaluate", "upscale", "models", "train", "study", "bench"]
COMMANDS += ["data", "verify"]


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_help_lists_the_commands():
    done = CliRunner().invoke(cli.app, ["--help"])
    assert done.exit_code == 0
    assert [c for c in COMMANDS if not re.search(rf"^\s+{c}\s+\S", done.output, re.M)] == []


@pytest.mark.parametrize("command", [*([c] for c in COMMANDS), *(["data", c] for c in ("list", "fetch", "verify"))])
def test_every_command_has_help_with_a_sentence(command):
    done = CliRunner().invoke(cli.app, [*command, "--help"])
    assert done.exit_code == 0
    assert re.search(r"Usage: .*\n\n\s+[A-Z].*\.", done.output)


def test_help_of_the_main_job_names_its_options():
    text = CliRunner().invoke(cli.app, ["reproduce", "--help"]).output
    for option in ("--profile", "-p", "--out", "--jobs", "--timeout", "--resume", "--store"):
        assert option in text


def test_help_groups_every_command_and_cuts_no_sentence():
    text = CliRunner().invoke(cli.app, ["--help"]).output
    assert "..." not in text.split("Options:")[1]
    shown = re.findall(r"^  ([a-z]+)  +[A-Z].*", text.split("--help ")[-1], re.M)
    assert sorted(shown) == sorted(COMMANDS)
    grouped = [name for names in cli._GROUPS.values() for name in names]
    assert len(set(grouped)) == len(grouped)


def test_examples_in_the_help_name_commands_and_options_that_exist():
    text = CliRunner().invoke(cli.app, ["--help"]).output
    examples = re.findall(r"^ +nsr ([a-z].*?)(?:   |$)", text, re.M)
    assert len(examples) >= 3
    for example in examples:
        command, *words = example.split()
        usage = CliRunner().invoke(cli.app, [command, "--help"])
        assert usage.exit_code == 0
        assert [w for w in words if w.startswith("--") and w not in usage.output] == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_shell_completes_commands_and_options(tmp_path):
    """``nsr --install-completion`` in a home of its own, then what bash offers."""
    home = tmp_path / "home"
    home.mkdir()
    program = tmp_path / "nsr"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'nsr'\nfrom nsrlib.cli import main\nmain()\n")
    program.chmod(0o755)
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = subprocess.run(
        ["nsr", "--install-completion", "bash"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "completion installed" in done.stdout
    script = """
    source ~/.bashrc
    complete -p nsr >/dev/null || exit 3
    offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _nsr_completion nsr; echo "${COMPREPLY[*]}"; }
    offer nsr rep; offer nsr data v; offer nsr upscale --mo
    """
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["reproduce report", "verify", "--model"]


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["evaluate"], ["evaluate", "published"], ["upscale", "--tile", "many"], ["models", "--nope"]],
    ids=" ".join,
)
def test_wrong_usage_has_status_two(nsr, arguments):
    done = nsr(*arguments)
    assert done.code == 2
    assert "Usage: " in done.err
    assert "Traceback" not in done.err


# --- one line for every problem that the user can solve ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("evaluate published --model bsnr", r"unknown model 'bsnr' \(did you mean 'bsrn'\?\); known: .*bicubic, "),
        ("evaluate published --model bsrn --scale 5", "scale of bsrn must be one of 2, 3, 4, got 5"),
        ("evaluate published --model bicubic --on set55", "unknown data set 'set55': did you mean 'set5'"),
        ("evaluate published --model bicubic --on set5", "set5.*NSRLIB_DATA"),
        ("evaluate published --model bicubic --on ./nowhere", "there is no folder ./nowhere"),
        (
            "evaluate published --model bicubic --space lab",
            "--space must be one of y, selfexsr, vdsr, rgb, gray, got 'lab'",
        ),
        (
            "evaluate published --model bicubic --protocol y,crp=2",
            r"a protocol has no field 'crp=2'; there are: .*crop=",
        ),
        (
            "evaluate published --model bicubic --protocol y --crop 2",
            "--protocol says all of it; leave out --space and",
        ),
        (
            "evaluate published --model bicubic --protocol y --space y",
            "--protocol says all of it; leave out --space and",
        ),
        ("evaluate published --model bicubic --on embedded --lr magic", "unknown lr convention 'magic'"),
        ("evaluate published --model bicubic --on embedded --limit 0", "limit must be a positive whole number"),
        ("evaluate published --model bicubic --on embedded --crop -1", "crop"),
        ("evaluate published --model bicubic --on embedded --device nonsense", "device 'nonsense' cannot be used"),
        ("evaluate published --model bicubic --on embedded --csv nowhere/x.csv", "no such folder: nowhere"),
        ("evaluate published --model bsrn", r"net_g_BSRN_x4\.pth"),
        ("evaluate nowhere.pth --model bsrn", r"no such weights file: nowhere\.pth"),
        ("evaluate published --model rfdn --scale 2", "no published weights for rfdn x2"),
        ("upscale nowhere.png --model bicubic", r"no such image: nowhere\.png"),
        ("upscale . --model bicubic", r"no pictures in \. \(.*\.png.*\); to write there: --out \."),
        ("bench kernals", "nsr bench takes 'models', 'kernels' or 'all', got 'kernals'"),
        ("bench all", "nsr bench all needs --out, a folder"),
        ("study bsrn --store --data t91", "--store keeps studies as they are; leave out --data, --on and --seeds"),
        ("study bsrn --budget soon", "a budget is a time such as 2h, 90min or 1h30, got 'soon'"),
        ("study bsrn --seeds 0", "seeds must be at least 1, got 0"),
        ("bench kernels --only conv3d", "unknown operator 'conv3d'; known: adder2d, "),
        ("bench kernels --budget 0", "budget must be positive, got 0"),
        ("bench kernels --audit --only conv3d", "--only 'conv3d' is in no name; there are: adder2d forward 64->64, "),
        ("bench kernels --audit --out audit.txt", r"--out must end in \.csv or \.json, got audit\.txt"),
        ("bench kernels --out nowhere/x.json", "no such folder: nowhere"),
        ("bench models --audit", "--audit is for nsr bench kernels"),
        ("bench --repeats 0", "repeats must be at least 1, got 0"),
        ("bench --threads -1", "threads must be at least 1, got -1"),
        ("bench --device nonsense", "device 'nonsense' cannot be used"),
        ("scoreboard --paper bsrm", "unknown paper 'bsrm'; there are: "),
        ("data fetch set55", "unknown data set 'set55': did you mean 'set5'"),
        ("data fetch figure", "unknown data set 'figure': did you mean 'figures'"),
        ("data fetch manga109", "its licence forbids redistribution"),
        ("data fetch set5", "set5"),
        ("data verify set55", "unknown data set 'set55'"),
        ("report nowhere", "no run in nowhere"),
        ("reproduce bsrm", r"no notebook 'bsrm' \(did you mean 'bsrn'\?\)"),
        ("reproduce bsrn --profile quik", r"no profile 'quik' \(did you mean 'quick'\?\)"),
        ("reproduce bsrn -p max_imagse=3", r"no parameter 'max_imagse' in bsrn \(did you mean 'max_images'\?\)"),
        ("reproduce bsrn -p max_images=many", "parameter 'max_images' is a int"),
        ("reproduce bsrn -p max_images", "-p takes name=value, got 'max_images'"),
        ("reproduce bsrn --jobs 0", "jobs must be at least 1"),
        ("sweep bsrm -g scales=2", r"no notebook 'bsrm' \(did you mean 'bsrn'\?\)"),
        ("sweep bsrn", "nothing to sweep over: give -g"),
        ("sweep bsrn -g scale=2", r"no parameter 'scale' in bsrn \(did you mean 'scales'\?\)"),
        ("sweep bsrn -g max_images=1,many", "parameter 'max_images' is a int"),
        ("sweep bsrn -g scales", "-g takes name=v1,v2,..., got 'scales'"),
        ("sweep bsrn -g scales=2 -p repeats", "-p takes name=value, got 'repeats'"),
        ("sweep bsrn --grid nowhere.csv", r"no such grid file: nowhere\.csv"),
        ("sweep bsrn -g scales=2 --workers 0", "workers must be at least 1, not 0"),
        # what would do nothing
        ("evaluate published --model bicubic --on ,", "--on: ',' names no data set; write one or more"),
        ("evaluate nowhere.pth --model bicubic --on embedded", r"no such weights file: nowhere\.pth"),
        (
            "train bsrn --data t91 --data= --profile quick",
            "--data takes the name of a data set or a folder, got an empty",
        ),
        ("study bsrn --plan --data=", "--data takes the name of a data set or a folder, got an empty"),
        ("study bsrn --plan --on ,", "--on: ',' names no data set"),
        ("verify --on ,", "--on: ',' names no data set"),
        ("verify --on zzz", "no stored cell of the set 'zzz'; there are: "),
        ("verify --model zzz", "no stored cell of the model 'zzz'; there are: "),
        ("verify --model=", "no stored cell of the model ''; there are: "),
        ("verify --model bsrn --on set12", "no stored cell of the set 'set12'; there are: set14, set5"),
        ("scoreboard --paper ../sources", "unknown paper '../sources'; there are: "),
        ("scoreboard --paper=", "unknown paper ''; there are: "),
        ("bench --paper=", "no paper '' with networks to time"),
        ("data fetch ,", "unknown data set ','"),
        ("data verify ,", "unknown data set ','"),
        ("report .", r"no run in \."),
        # parameters of notebooks
        (
            "reproduce bsrn -p scales=2,5",
            "parameter 'scales' cannot be '2,5'; accepted: one or more of 2, 3, 4, separated",
        ),
        ("reproduce bsrn -p sets=foo", "parameter 'sets' cannot be 'foo'; accepted: set5, "),
        ("reproduce -p max_images=-1", "parameter 'max_images' cannot be -1; accepted: a whole number from 0 on"),
        ("reproduce bsrn -p profile=gpu2", r"'profile' is set by the run itself: .*--profile quick\|cpu\|gpu\|paper"),
        ("sweep bsrn -g scales=2,5", "parameter 'scales' cannot be '5'"),
        ("sweep bsrn -g scales=2,4 -p repeats=0", "parameter 'repeats' cannot be 0"),
    ],
)
def test_a_problem_is_one_line_and_status_one(nsr, arguments, pattern):
    refused(nsr(*arguments.split()), pattern)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "published", "--model", "bicubic", "--on", ""],
        ["verify", "--on", ""],
        ["study", "bsrn", "--plan", "--on", ""],
        ["train", "bsrn", "--data", ""],
        ["data", "verify", ""],
        ["data", "fetch", ""],
        ["reproduce", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_names_nothing(nsr, arguments):
    Image.fromarray(photo(32, 40, 3)).save("a.png")  # which the empty path of a folder would find
    refused(nsr(*arguments), "(''|an empty one)")
    assert [path.name for path in Path.cwd().iterdir()] == ["a.png"]


def test_an_error_inside_nsrlib_is_not_hidden(nsr, monkeypatch):
    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(models, "list_models", broken)
    with pytest.raises(ZeroDivisionError):
        nsr("models")


@pytest.mark.parametrize("message", ["shapes do not match", "CUDA error: an illegal memory access was encountered"])
def test_another_runtime_error_is_not_hidden(nsr, monkeypatch, message):
    def broken():
        raise RuntimeError(message)

    monkeypatch.setattr(models, "list_models", broken)
    with pytest.raises(RuntimeError, match=message):
        nsr("models")


def in_a_process(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nsrlib.cli", *arguments],
        cwd=folder,
        env=os.environ | {"NSRLIB_OFFLINE": "1", "NSRLIB_CACHE": str(folder / "cache")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_process_has_the_same_status_and_line(tmp_path):
    done = in_a_process(tmp_path, "evaluate", "published", "--model", "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"nsr: unknown model 'nothing'; known: .*\n", done.stderr)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-0.5", -0.5), ("1e3", 1000.0), ("'3'", "3"), ("set5", "set5"), ("2,3", (2, 3)), ("[2, 3]", [2, 3]),
        ("{'a': 1}", {"a": 1}), ("True", True), ("true", True), ("FALSE", False), ("None", None), ("", ""),
        ("a=b", "a=b"), ("/some/folder", "/some/folder"), ("[1,", "[1,"), ("{[]: 1}", "{[]: 1}"), ("x y", "x y"),
        ("__import__('os')", "__import__('os')"), ("(" * 300, "(" * 300), ("1 +", "1 +"), ("\0", "\0"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_a_parameter_is_a_python_literal_or_else_text(text, value):
    (parsed,) = assignments([f"name={text}"]).values()
    assert parsed == value
    assert type(parsed) is type(value)


def test_later_parameters_win_and_none_is_none_given():
    assert assignments(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}
    assert assignments(None) == {}


@pytest.mark.parametrize("pair", ["a", "=1", "1a=2", "a-b=2", " a=1", ""])
def test_a_parameter_without_a_name_is_refused(pair):
    with pytest.raises(ValueError, match=f"^-p takes name=value, got {pair!r}$"):
        assignments([pair])


# --- reproduce --------------------------------------------------------------------------------------------------------


class FakeRun:
    folder = Path("run")
    ok = True


@pytest.fixture
def reproduced(monkeypatch) -> dict:
    """What ``runs.reproduce`` was called with, instead of a run."""
    calls: dict = {}

    def reproduce(papers, **keywords):
        calls.update(keywords, papers=papers)
        return FakeRun()

    monkeypatch.setattr(runs, "reproduce", reproduce)
    monkeypatch.setattr(runs, "summary", lambda run: "the summary")
    monkeypatch.setattr(FakeRun, "ok", True)
    return calls


def test_reproduce_passes_everything_on(nsr, reproduced):
    text = "reproduce bsrn drn --profile cpu -p a=1 -p b=x --out there -j 2 --timeout 9 --resume"
    done = nsr(*text.split())
    assert done == Done(0, "the summary\n", "")
    assert reproduced == {
        "papers": ["bsrn", "drn"], "profile": "cpu", "parameters": {"a": 1, "b": "x"}, "out": Path("there"), "jobs": 2,
        "timeout": 9.0, "resume": True,
    }  # fmt: skip


def test_reproduce_takes_all_papers_by_default(nsr, reproduced):
    assert nsr("reproduce").code == 0
    assert reproduced == {
        "papers": None, "profile": "quick", "parameters": {}, "out": None, "jobs": None, "timeout": None,
        "resume": False,
    }  # fmt: skip


@pytest.mark.parametrize("ok", [True, False])
def test_reproduce_stores_the_numbers_of_a_good_run_only(nsr, reproduced, monkeypatch, ok):
    kept = []
    monkeypatch.setattr(FakeRun, "ok", ok)
    stored = files.ROOT / "data/results/x/cpu.json"
    monkeypatch.setattr(claims, "store", lambda folder: kept.append(folder) or [stored])
    done = nsr("reproduce", "--store")
    assert done.code == (0 if ok else 1)
    assert kept == ([Path("run")] if ok else [])
    assert done.out == "the summary\n" + ("stored data/results/x/cpu.json\n" if ok else "")


def test_an_interrupted_run_is_summed_up_and_has_status_130(nsr, reproduced, monkeypatch):
    def interrupted(*_, **__):
        raise runs.Interrupted(FakeRun())

    monkeypatch.setattr(runs, "reproduce", interrupted)
    assert nsr("reproduce")[:2] == (130, "the summary\n")


# --- sweep and report -------------------------------------------------------------------------------------------------


@pytest.fixture
def swept(monkeypatch) -> dict:
    """What ``sweeps.sweep`` was called with, instead of a sweep."""
    calls: dict = {}

    def sweep(paper, grid, **keywords):
        calls.update(keywords, paper=paper, grid=grid)
        return FakeRun()

    monkeypatch.setattr(sweeps, "sweep", sweep)
    monkeypatch.setattr(sweeps, "summary", lambda sweep: "the summary")
    monkeypatch.setattr(FakeRun, "ok", True)
    return calls


@pytest.mark.parametrize("ok", [True, False])
def test_sweep_passes_everything_on(nsr, swept, monkeypatch, ok):
    monkeypatch.setattr(FakeRun, "ok", ok)
    done = nsr("sweep", "bsrn", "-g", "scales=2,'3,4'", "-g", "a=x", "--grid", "g.csv", "-p", "b=1", "--profile", "cpu",
               "--out", "there", "-w", 3, "--timeout", 9)  # fmt: skip
    assert done == Done(0 if ok else 1, "the summary\n", "")
    assert swept == {
        "paper": "bsrn", "grid": {"scales": [2, "3,4"], "a": ["x"]}, "points": Path("g.csv"), "parameters": {"b": 1},
        "profile": "cpu", "out": Path("there"), "workers": 3, "scheduler": None, "timeout": 9.0,
    }  # fmt: skip


def test_an_interrupted_sweep_is_summed_up_and_has_status_130(nsr, swept, monkeypatch):
    def interrupted(*_, **__):
        raise sweeps.Interrupted(FakeRun())

    monkeypatch.setattr(sweeps, "sweep", interrupted)
    assert nsr("sweep", "bsrn", "-g", "a=1")[:2] == (130, "the summary\n")


@pytest.mark.parametrize(("file", "module"), [("run.json", runs), ("sweep.json", sweeps)])
def test_report_is_for_runs_and_for_sweeps(nsr, monkeypatch, file, module):
    monkeypatch.setattr(module, "report", lambda folder: f"the page of {folder}")
    Path("there").mkdir()
    Path("there", file).touch()
    assert nsr("report", "there") == Done(0, "the page of there\n", "")


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_prints_means_and_writes_every_row(nsr, pictures):
    done = nsr("evaluate", "published", "--model", "bicubic", "--on", f"{pictures}, {pictures}", "--scale", 2,
               "--device", "cpu", "--csv", "rows.csv")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    expected = evaluation.evaluate("bicubic", pictures, 2, device="cpu")
    means = expected[["psnr", "ssim"]].mean()
    header, *lines = done.out.splitlines()
    assert header.startswith("bicubic x2; Y of BT.601")
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{pictures}: {means.psnr:.3f} dB, SSIM {means.ssim:.5f}, ")
        assert line.endswith(" s/image (folder)")
    rows = pd.read_csv("rows.csv")
    assert rows["image"].tolist() == ["a", "b", "a", "b"]
    assert set(rows["dataset"]) == {str(pictures)}
    np.testing.assert_allclose(rows["psnr"], [*expected["psnr"]] * 2, rtol=1e-12)
    assert rows["pixels_sha256"].tolist() == [*expected["pixels_sha256"]] * 2
    assert set(zip(rows["protocol"], rows["setting"], strict=True)) == {("v1:y,crop=2", "v1:scale=2")}


def test_evaluate_finds_every_set_before_it_measures_one(nsr, pictures):
    done = nsr("evaluate", "published", "--model", "bicubic", "--on", f"{pictures},sett5", "-s", 2)
    refused(done, "unknown data set 'sett5': did you mean 'set5'")
    assert "dB" not in done.out


def test_a_set_that_breaks_on_the_way_costs_no_row_of_the_others(nsr, pictures):
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no picture")
    done = nsr("evaluate", "published", "--model", "bicubic", "--on", f"{pictures},broken", "-s", 2, "--csv", "x.csv")
    refused(done, r"broken/a\.png")
    assert done.out.count(" dB, ") == 1
    assert pd.read_csv("x.csv")["image"].tolist() == ["a", "b"]


def test_a_folder_with_a_comma_in_its_name_is_one_set(nsr, pictures):
    pictures.rename("a, b")
    done = nsr("evaluate", "published", "--model", "bicubic", "--on", "a, b,./a, b", "-s", 2)
    assert [line.partition(":")[0] for line in done.out.splitlines()[1:]] == ["a, b", "./a, b"]


def test_evaluate_can_print_every_image_of_a_part(nsr, pictures):
    done = nsr("evaluate", "published", "--model", "bicubic", "--on", pictures, "-s", 4, "--images", "--limit", 1)
    assert re.search(r"^\s+a\s+\d+\.\d{4}\s+0\.\d{4}", done.out, re.M)
    assert not re.search(r"^\s+b\s", done.out, re.M)


@pytest.mark.parametrize(("space", "words"), [("y", "Y of BT.601"), ("rgb", "RGB"), ("vdsr", "clamped")])
def test_evaluate_takes_the_protocol_and_prints_it(nsr, pictures, space, words):
    from nsrlib.metrics import PRESETS

    done = nsr("evaluate", "published", "--model", "bicubic", "--on", pictures, "-s", 2, "--space", space, "--crop", 3)
    assert done.code == 0
    assert done.out.startswith(f"bicubic x2; {PRESETS[space](3)}")
    assert words in done.out
    assert "crop 3 px" in done.out


def test_evaluate_takes_the_protocol_of_a_table(nsr, pictures):
    command = ("evaluate", "published", "--model", "bicubic", "--on", pictures, "-s", 2)
    by_options = nsr(*command, "--space", "selfexsr", "--crop", 3)
    signature = re.search(r"\((v1:\S+)\)$", by_options.out, re.M)[1]
    by_signature = nsr(*command, "--protocol", signature)
    without_times = [re.sub(r"[\d.]+ s/image", "", done.out) for done in (by_options, by_signature)]
    assert without_times[0] == without_times[1]
    assert "crop 0 px" in nsr(*command, "--protocol", "y").out


# --- data, models, bench, scoreboard ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [True, False])
def test_verify_has_status_one_if_a_file_is_damaged(nsr, tmp_path, monkeypatch, damaged):
    root = tmp_path / "data"
    root.mkdir()
    source = next(s for s in sources().values() if s.path.startswith("Set12/"))
    if damaged:
        path = root / source.path
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * source.bytes)
    monkeypatch.setenv("NSRLIB_DATA", str(root))
    done = nsr("data", "verify", "set12")
    assert done.code == (1 if damaged else 0)
    assert done.err == ""
    assert (source.path in done.out) is damaged
    assert done.out.splitlines()[-1] == ("11 missing, 1 damaged" if damaged else "12 missing")


def test_list_says_where_everything_is(nsr):
    done = nsr("data", "list")
    assert done.code == 0
    assert re.search(r"^\s*embedded\s.*embedded$", done.out, re.M)
    assert re.search(r"^\s*set5\s.*download$", done.out, re.M)
    assert "licence" not in done.out
    terms = nsr("data", "list", "--terms").out
    assert re.search(r"^weights: MIT .*Apache-2\.0.*No licence stated", terms, re.M)
    assert re.search(r"^figures: none stated$", terms, re.M)


def test_fetching_an_embedded_set_needs_nothing(nsr):
    assert nsr("data", "fetch", "embedded") == Done(0, "embedded: 0 files are in place\n", "")


def test_models_lists_every_network(nsr):
    lines = nsr("models").out.splitlines()
    assert [line.split()[0] for line in lines] == models.list_models()
    assert re.search(r"^bsrn\s+351,936|^bsrn\s+352,\d{3}", "\n".join(lines), re.M)


@pytest.fixture
def tiny_networks(monkeypatch):
    """One paper with one network that is fast to time."""
    tiny = papers.Paper("tiny", networks=lambda device: {"tiny": models.create_model("bicubic", 2)})
    monkeypatch.setattr("nsrlib.papers.table.every", lambda: {"tiny": tiny, "other": papers.Paper("other")})


def test_bench_prints_a_line_for_each_network(nsr, tiny_networks):
    for options in ((), ("--paper", "tiny")):
        done = nsr("bench", "--repeats", 1, "--threads", 1, "--device", "cpu", *options)
        assert done.code == 0
        assert done.out.startswith("seconds of one pass, best of 1, cpu, 1 threads\n")
        assert re.search(r"^tiny\s+\d\.\d{4}\s+\d\.\d{4}$", done.out, re.M)


def test_bench_names_the_papers_whose_networks_can_be_timed(nsr, tiny_networks):
    done = nsr("bench", "--paper", "other", "--device", "cpu")
    assert (done.code, done.err) == (1, "nsr: no paper 'other' with networks to time; there are: tiny\n")


def test_bench_writes_its_table(nsr, tiny_networks, tmp_path):
    for name in ("times.json", "times.csv"):
        assert nsr("bench", "--repeats", 1, "--device", "cpu", "--out", tmp_path / name).code == 0
    stored = json.loads((tmp_path / "times.json").read_text())
    assert [row["input"] for row in stored["rows"]] == ["128x128", "320x180"]
    assert stored["device"] == "cpu"
    assert stored["versions"]["torch"] == torch.__version__
    assert (tmp_path / "times.csv").read_text().startswith("model,input,seconds\ntiny,128x128,")


def test_bench_kernels_prints_every_case_and_what_was_reached(nsr, monkeypatch, tmp_path):
    from nsrlib.bench import kernels
    from nsrlib.bench.operators import OPERATORS, Case

    hard = OPERATORS["mixed_conv2d_hard"]
    plain = hard._replace(ways=lambda *of: {label: way for label, way in hard.ways(*of).items() if not way.compiled})
    monkeypatch.setitem(OPERATORS, "mixed_conv2d_hard", plain)
    monkeypatch.setattr(kernels, "cases_of", lambda device: [Case("mixed_conv2d_hard", (2, 16, 6, 5))])
    monkeypatch.setattr(kernels, "limits", lambda *args: {"copy": 1e10, "float32": 1e11})
    done = nsr("bench", "kernels", "--device", "cpu", "--threads", 1, "--out", tmp_path / "cpu.json")
    assert done.code == 0
    case = "mixed_conv2d_hard forward float32 2x16x6x5 to 16, NCHW"
    assert re.search(rf"^{case}: [\d.]+ ms, .* limit; .* takes [\d.]+ times as long$", done.out, re.M)
    assert re.search(rf"^{case}\n +way +median_ms", done.out, re.M)
    assert re.search(r"^ +aim +least +worst +best +verdict$", done.out, re.M)
    assert json.loads((tmp_path / "cpu.json").read_text())["provenance"]["command"] == "nsr bench kernels --threads 1"


def test_bench_audit_prints_and_writes_what_became_of_the_kernels(nsr, tmp_path, monkeypatch):
    def audit_all(names, progress):
        columns = [
            "target",
            "kernel",
            "num_warps",
            "registers",
            "stack",
            "share",
            "loop_barriers",
            "loop_spills",
            "mix",
        ]
        row = dict(zip(columns, ["sm_90", "k", 4, 232, 0, 0.849, 0, 0, "FADD:1152 " * 9], strict=True))
        table = pd.DataFrame([{"case": name, **row} for name in names])
        table.attrs = {"triton": "3.7"}
        return table

    monkeypatch.setattr(audit, "audit_all", audit_all)
    done = nsr("bench", "kernels", "--audit", "--only", "12->64", "--out", tmp_path / "audit.csv")
    assert done.code == 0
    assert done.out.startswith("Triton 3.7; registers a thread, stack and shared memory in bytes\n")
    assert re.search(r"^bsconv2d 12->64 bfloat16, head +sm_90 .* 85% FADD:1152 .*\.\.\.$", done.out, re.M)
    assert (tmp_path / "audit.csv").read_text().splitlines()[1].endswith("FADD:1152 " * 9)


def test_scoreboard_is_a_sentence_and_a_line_a_paper(nsr):
    done = nsr("scoreboard", "--paper", "bsrn")
    assert done.code == 0
    own = claims.count(claims.scoreboard(["bsrn"])).loc["bsrn", "own"]
    assert done.out.startswith(f"Of the {own} numbers that the paper reports as its own, ")
    assert re.search(rf"^bsrn +{own} +\d", done.out, re.M)
    chosen = [name for name in papers.every() if name in claims.known()]
    assert nsr("scoreboard", "--markdown").out == readme.scoreboard_markdown(chosen) + "\n"


def test_scoreboard_shows_every_table_on_demand(nsr):
    assert re.search(r"^\s+comparison\s+\d", nsr("scoreboard", "--all", "--paper", "bsrn").out, re.M)
    board = claims.scoreboard([name for name in papers.every() if name in claims.known()])
    assert nsr("scoreboard", "--all", "--markdown").out == readme.tables_markdown(board) + "\n"


def test_damaged_results_are_one_line(nsr, tmp_path, monkeypatch):
    table = files.ROOT / "data" / "published" / "bsrn.csv"
    monkeypatch.setattr(claims.numbers, "ROOT", tmp_path)
    for folder in ("published", "results/bsrn"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data" / "published" / "bsrn.csv").write_bytes(table.read_bytes())
    (tmp_path / "data" / "results" / "bsrn" / "cpu.json").write_text("{")
    refused(nsr("scoreboard"), r"results/bsrn/cpu\.json is damaged: ")


# --- train, study -----------------------------------------------------------------------------------------------------

TINY = (
    "-s",
    2,
    "-c",
    "num_feats=8",
    "-c",
    "num_blocks=1",
    "--profile",
    "quick",
    "-r",
    "iterations=4",
    "-r",
    "patch=16",
)


def a_folder_of_photos(count: int = 3, side: int = 64) -> Path:
    folder = Path("photos")
    folder.mkdir()
    for k in range(count):
        Image.fromarray(photo(side, side, 3, seed=k)).save(folder / f"{k}.png")
    return folder


def test_train_learns_from_a_folder_and_leaves_log_curves_and_weights(nsr):
    done = nsr("train", "rfdn", "--data", a_folder_of_photos(), *TINY, "--validate", "embedded_val", "--out", "run")
    assert done.code == 0, done
    first, recipe, last = done.out.splitlines()
    assert re.match(r"rfdn x2: [\d,]+ parameters; Patches\(photos x2, 3 images, ", first)
    assert recipe.startswith("recipe: 4 steps of 8 patches of 16x16, l1, adam")
    assert re.match(r"4 steps in \d+ s, loss [\d.e-]+, \d+\.\d\d dB on embedded_val; see run", last)
    kept = {p.name for p in Path("run").iterdir()}
    assert {"log.txt", "history.csv", "recipe.json", "weights.safetensors", "events", "figures"} <= kept
    assert (Path("run") / "figures" / "curves.png").stat().st_size > 5000
    assert models.read_metadata("run/weights.safetensors")["config"] == '{"num_feats": 8, "num_blocks": 1}'
    # the curves hold a row per step, the last with the PSNR on the held-out picture
    history = pd.read_csv("run/history.csv")
    assert list(history["step"]) == [1, 2, 3, 4]
    assert history["psnr"].notna().iloc[-1]


def test_train_goes_on_where_it_was_and_refuses_another_recipe_there(nsr):
    folder = a_folder_of_photos()
    common = ("train", "rfdn", "--data", folder, *TINY, "--validate", "", "--out", "run")
    assert nsr(*common).code == 0
    again = nsr(*common)
    assert "4 steps" in again.out
    assert "resumed at step 4" in Path("run/log.txt").read_text()
    refused(nsr(*common, "-r", "lr=0.5"), r"another recipe \(lr 0\.001 -> 0\.5\)")
    assert nsr(*common, "-r", "lr=0.5", "--fresh").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-r", "loss=l3"], "loss must be one of l1, l2, charbonnier, got 'l3'"),
        (["-r", "batch=0"], "batch must be a positive whole number, got 0"),
        (["-r", "schedule=steps"], "schedule must be one of constant, cosine"),
        (["-r", "speed=2"], "a recipe has no speed; it has iterations, batch"),
        (["-r", "patch=40"], r"patch=40 is larger than 3 of 3 images, first 0 \(32x32\)"),
        (["-c", "width=2"], "rfdn takes no keyword 'width'"),
        (["--profile", "fast"], "profile must be one of quick, cpu, gpu, paper, got 'fast'"),
        (["--data", "set5"], "do not train on set5: it is a test set"),
    ],
    ids=str,
)
def test_train_says_what_is_wrong_and_leaves_no_folder(nsr, options, message):
    refused(nsr("train", "rfdn", "--data", a_folder_of_photos(), *TINY, "--out", "run", *options), message)
    assert not Path("run").exists()


def test_train_refuses_or_leaves_out_a_broken_file_as_asked(nsr):
    folder = a_folder_of_photos()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    common = ("train", "rfdn", "--data", folder, *TINY, "--validate", "", "--out", "run")
    refused(nsr(*common), r"broken\.png")
    with pytest.warns(UserWarning, match="1 of 4 images skipped"):
        done = nsr(*common, "--skip-broken")
    assert done.code == 0
    assert "3 images" in done.out
    assert "1 left out" in done.out


def test_study_runs_a_grid_and_repeats_nothing(nsr, monkeypatch):
    done = nsr("study", "bsrn", "attention", "--profile", "quick", "--out", "runs")
    assert done.code == 0, done
    assert "without ESA" in done.out
    kept = {p: p.stat().st_mtime_ns for p in Path("runs/attention").iterdir()}
    assert len(kept) == 4
    assert all(p.suffix == ".json" for p in kept)
    assert nsr("study", "bsrn", "attention", "--profile", "quick", "--out", "runs").out == done.out
    assert {p: p.stat().st_mtime_ns for p in Path("runs/attention").iterdir()} == kept


def test_study_tells_what_it_would_take_and_trains_nothing(nsr):
    done = nsr("study", "bsrn", "attention", "--profile", "quick", "--plan", "--out", "runs")
    assert done.code == 0, done
    assert re.search(r"attention +4 +20 ", done.out)
    assert re.search(r"all that is missing: about \d+\.\d hours with --jobs 1", done.out)
    assert not Path("runs").exists()


def test_a_budget_too_short_for_one_run_is_refused_by_name(nsr):
    done = nsr("study", "bsrn", "attention", "--profile", "quick", "--budget", "0.001s", "--out", "runs")
    refused(done, r"a budget of 0 s is too short: a run takes \d+ s")


def test_study_lists_what_there_is(nsr):
    refused(nsr("study", "bsrn", "colours"), "bsrn has no study 'colours'; there are: decompositions, attention")
    refused(nsr("study", "none"), "unknown paper 'none'; there are: .*bsrn")
