"""Run and sweep folders that anybody may have written: whatever is in them, a page is made and names the damage."""

from __future__ import annotations

import copy
import json
import random
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import LEDGER, PIXEL

from nsrlib import cli
from nsrlib.plots import reports
from nsrlib.runs import report, sweeps
from nsrlib.runs.record import Run, Sweep, SweepRun
from nsrlib.runs.sweep_pages import defused

RUN = {
    "profile": "quick",
    "status": "finished",
    "seconds": 5.8,
    "parameters": {"scales": "2,3", "steps": 3},
    "started": "2026-11-27T23:42:36+00:00",
    "command": "nsr reproduce good",
    "git": "8426456e39c43e4e9658cb68580a27c519a646a1-dirty",
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
    "machine": "Linux x86_64",
    "notebooks": [
        {"name": "good", "status": "ok", "seconds": 5.8, "cells": 6, "error": None},
        {
            "name": "bad",
            "status": "failed",
            "seconds": 1,
            "cells": 2,
            "error": {
                "notebook": "bad", "error": "E", "message": "m", "section": "s", "cell": 2, "line": "l", "cell_id": "x",
            },
        },
    ],
}  # fmt: skip
RESULTS = LEDGER | {
    "notes": ["a note"],
    "tables": {"latency": {"note": "", "rows": [{"model": "BSRN", "seconds": 0.5, "slow": True}]}},
    "claims": [{"id": "c", "where": "Table 2", "statement": "s", "verdict": "holds", "kind": "check", "line": "l"}],
}
CELLS = [
    {"cell_type": "markdown", "metadata": {}, "source": ["# A heading\n"], "id": "a"},
    {
        "cell_type": "code", "metadata": {"tags": ["x"]}, "source": "show()", "id": "b", "execution_count": 3,
        "outputs": [{"output_type": "display_data", "data": {"image/png": PIXEL, "text/plain": ["x"]}, "metadata": {}}],
    },
]  # fmt: skip
SWEEP = {k: v for k, v in RUN.items() if k not in ("parameters", "notebooks")} | {
    "paper": "good",
    "runs": [
        {"key": f"scale-{k}", "parameters": {"scale": k}, "status": "ok", "seconds": 1.5, "attempts": 1, "error": ""}
        for k in (2, 3)
    ],
}
FOREIGN = [
    *(None, True, False, 0, -1, 3, 10**400, 2.5, -1e308, float("nan"), float("inf"), "", "x", "{{7*7}}", "$\\frac{"),
    *("../../outside", "\ud800", "\0", "<script>alert(1)</script>", "=1+1", "9" * 5000, "#" * 3000),
    *([], [[]], [None], [3, "x"], {}, {"x": {}}, {"\ud800": [1]}, json.loads("[" * 300 + "]" * 300)),
]


def write_run(folder: Path, run: Any = RUN, results: Any = RESULTS, cells: Any = CELLS) -> Path:
    for part in ("results", "notebooks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "results" / "good.json").write_text(json.dumps(results))
    (folder / "notebooks" / "good.ipynb").write_text(json.dumps({"cells": cells}))
    return folder


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a value with each of its keys or numbers."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [place for key, part in items for place in [(value, key), *places(part)]]


def mutated(content: Any, dice: random.Random) -> Any:
    """One or a few values at any depth become something else, or are gone."""
    content = copy.deepcopy(content)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        if not (there := places(content)):
            break
        container, key = dice.choice(there)
        if dice.random() < 0.2:
            del container[key]
        else:
            container[key] = copy.deepcopy(dice.choice(FOREIGN))
    return content


def few_figures(monkeypatch, every: int) -> None:
    """The summary is drawn for one page in so many: drawing takes most of the time."""
    draw, count = reports.summary, iter(range(10**9))

    def summary(*args):
        if next(count) % every:
            raise ImportError("not drawn")
        return draw(*args)

    monkeypatch.setattr(reports, "summary", summary)
    monkeypatch.setattr(reports, "over", lambda *args: [])


def unharmed(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    assert "<script>alert" not in text
    return text


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_folder_with_wrong_types_at_any_depth_has_a_page(tmp_path, monkeypatch, seed):
    few_figures(monkeypatch, 25)
    dice = random.Random(seed)
    for number in range(75):
        parts = [RUN, RESULTS, CELLS]
        which = dice.randrange(3)
        parts[which] = mutated(parts[which], dice)
        try:
            unharmed(report(write_run(tmp_path, *parts)))
        except ValueError as error:  # run.json is no mapping: there is no run
            pytest.fail(f"{number}: {error}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sweep_folder_with_wrong_types_at_any_depth_has_a_page(tmp_path, monkeypatch, seed):
    few_figures(monkeypatch, 25)
    dice = random.Random(seed)
    for run in SWEEP["runs"]:
        write_run(tmp_path / "runs" / run["key"], RUN | {"notebooks": RUN["notebooks"][:1]})
    results = tmp_path / "runs" / "scale-2" / "results" / "good.json"
    for _ in range(25):
        (tmp_path / "sweep.json").write_text(json.dumps(mutated(SWEEP, dice)))
        results.write_text(json.dumps(mutated(RESULTS, dice)))
        unharmed(sweeps.report(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seconds": "{{7*7}}"}, "run.json: seconds is not seconds: {{7*7}}"),
        ({"versions": [3]}, "run.json: versions is not a mapping: [3]"),
        ({"git": None, "started": 7}, "run.json: started is not text: 7"),
        ({"notebooks": [3, RUN["notebooks"][0]]}, "run.json: 1 of 2 entries of notebooks were left out"),
        (
            {"notebooks": [RUN["notebooks"][0] | {"name": "../good"}]},
            "run.json: notebooks[0].name is not the name of a",
        ),
        ({"notebooks": [{"name": "good"}]}, "run.json: notebooks[0] lacks status"),
        ({"parameters": "many"}, "run.json: parameters is not a mapping: many"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_page_names_the_damage_and_shows_the_rest(tmp_path, monkeypatch, change, told):
    few_figures(monkeypatch, 10**9)
    folder = write_run(tmp_path, RUN | change)
    page = unharmed(report(folder))
    assert told in page
    assert "29.50" in page
    with pytest.raises(ValueError, match=r"run\.json in .* is damaged: "):
        Run.load(folder)


def test_the_command_has_one_line_for_what_is_no_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nsr", "report", str(write_run(tmp_path))])
    for text in ("[" * 100_000, "[]", "3", '{"notebooks": [', "", "\ufeff{}"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith("nsr: run.json in ")
        assert said.count("\n") == 1


def test_files_that_are_no_json_at_all_are_named(tmp_path, monkeypatch):
    few_figures(monkeypatch, 10**9)
    folder = write_run(tmp_path)
    (folder / "results" / "deep.json").write_text("[" * 100_000)
    (folder / "results" / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (folder / "results" / "folder.json").mkdir()
    (folder / "notebooks" / "good.ipynb").write_text("[" * 100_000)
    page = unharmed(report(folder))
    for line in (
        "results/deep.json cannot be read: it is nested too deeply",
        "results/bytes.json cannot be read: UnicodeDecodeError",
        "results/folder.json cannot be read: it is no file",
        "notebooks/good.ipynb cannot be read: it is nested too deeply",
    ):
        assert line in page


def test_a_picture_that_only_claims_to_be_one_is_not_decoded_by_something_else(tmp_path, monkeypatch):
    import base64

    few_figures(monkeypatch, 10**9)
    postscript = base64.b64encode(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n" + bytes(400_000)
    ).decode()
    cells = copy.deepcopy(CELLS)
    cells[1]["outputs"][0]["data"] = {"image/png": postscript}
    start = time.monotonic()
    page = unharmed(report(write_run(tmp_path, cells=cells)))
    assert time.monotonic() - start < 60
    assert 'src="data:image/png;base64,"' in page


def test_formulas_in_the_table_of_a_sweep_are_texts(tmp_path, monkeypatch):
    few_figures(monkeypatch, 10**9)
    rows = [RESULTS["rows"][0] | {"row": text} for text in ("=HYPERLINK(1)", "@SUM(1)", "+1+1", "-2+3", "-0.5", "BSRN")]
    for run in SWEEP["runs"]:
        folder = tmp_path / "runs" / run["key"]
        write_run(folder, RUN | {"notebooks": RUN["notebooks"][:1]}, RESULTS | {"rows": rows})
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    sweeps.report(tmp_path)
    table = pd.read_csv(tmp_path / "sweep.csv")
    claims = table[(table["kind"] == "claim") & (table["run"] == "scale-2")]
    assert claims["row"].tolist() == ["'=HYPERLINK(1)", "'@SUM(1)", "'+1+1", "'-2+3", "-0.5", "BSRN"]
    assert claims["value"].tolist() == [32.30401] * 6
    numbers = pd.DataFrame({"a": [-1, 2], "b": [-0.5, None]})
    pd.testing.assert_frame_equal(defused(numbers), numbers)


def test_labels_of_a_sweep_take_a_time_that_grows_with_its_runs():
    def seconds(n: int) -> float:
        runs = [SweepRun(f"k{k}", {"seed": k, "scale": k % 3, "list": [k]}) for k in range(n)]
        sweep, start = Sweep(Path(), "paper", "quick", runs), time.process_time()
        labels = sweep.labels()
        assert labels["k7"] == "seed=7, scale=1, list=[7]" == sweep.label(runs[7])
        assert len(labels) == n
        return time.process_time() - start

    assert seconds(3000) < 2  # 46 s at 800 runs, where every label looks at all runs for each of its values


def test_values_that_are_swept_are_each_named_once():
    values = [[1, 2], [1, 2], "a", [2]]
    sweep = Sweep(Path(), "p", "quick", [SweepRun(str(k), {"x": v, "y": 1}) for k, v in enumerate(values)])
    assert sweep.swept == {"x": [[1, 2], "a", [2]]}
    assert sweep.fixed == {"y": 1}
    numbers = Sweep(Path(), "p", "quick", [SweepRun(str(k), {"x": v}) for k, v in enumerate([3, 1, 3, 2.5])])
    assert numbers.swept == {"x": [1, 2.5, 3]}
