"""The README's tables: from stored results, of the papers in their order, between markers."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from nsrlib import claims, papers
from nsrlib.bench import kernels
from nsrlib.files import write_json
from nsrlib.runs import readme

TOY = """\
id,table,row,column,scale,metric,value,unit,source,own,needs
t/BSRN/set5/psnr,t,BSRN,Set5,4,psnr,32.35,dB,Table 3,yes,data
t/BSRN/set5/ssim,t,BSRN,Set5,4,ssim,0.8966,1,recalled,yes,data
t/BSRN/params,t,BSRN,model,4,params,352,K,Table 3,yes,
t/BSRN/adds,t,BSRN,model,4,multi_adds,73.0,G,Table 3,yes,
t/RFDN/set5/psnr,t,RFDN,Set5,4,psnr,32.24,dB,RFDN Table 3,no,
abl/ESA/change,abl,without ESA,model,,params_change,-9,%,a summary,yes,training
"""
README = (
    "# Title\n<!-- scoreboard -->\nold\n<!-- /scoreboard -->\nText.\n<!-- speed --><!-- /speed -->\nEnd.\n"
    "<!-- kernels --><!-- /kernels -->\n<!-- notebooks --><!-- /notebooks -->\n"
)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A repository with one paper, ``toy``, and no results."""
    for module in (claims.numbers, readme):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(kernels, "RESULTS", tmp_path / "data" / "results" / "ops")
    paper = papers.Paper("toy", tmp_path, networks=lambda device: {})
    monkeypatch.setattr(readme, "every", lambda: {"toy": paper, "elsewhere": papers.Paper("elsewhere", tmp_path / "x")})
    paper.published.parent.mkdir(parents=True)
    paper.published.write_text(TOY)
    return tmp_path


def as_dicts(markdown: str) -> list[dict[str, str]]:
    header, rule, *rows = markdown.splitlines()
    assert len({line.count("|") for line in (header, rule, *rows)}) == 1
    names = [name.strip() for name in header.strip("|").split("|")]
    return [dict(zip(names, (c.strip() for c in row.strip("|").split("|")), strict=True)) for row in rows]


def test_a_paper_has_one_line_under_a_sentence_and_a_line_for_each_table(toy):
    ledger = claims.Ledger("toy", "cpu", toy / "run" / "results")
    ledger.compare({"t/BSRN/set5/psnr": 32.351, "t/BSRN/set5/ssim": 0.5, "t/RFDN/set5/psnr": 32.241}, "weights")
    ledger.close({"abl/*": "no words"})
    ledger.keep_claims(pd.DataFrame({"id": ["a", "b"], "verdict": ["holds", "undecided"]}))
    claims.store(toy / "run")
    sentence, empty, *table = readme.scoreboard_markdown(["toy"]).split("\n")
    assert (sentence[:38], empty) == ("Of the 5 numbers that the paper report", "")
    assert as_dicts("\n".join(table)) == [{
        "paper": "toy", "own numbers": "5", "reproduced": "1", "to the digit": "1", "agree": "0", "differ": "1",
        "open": "3: 2 a longer run, 1 training", "quoted": "1, 1 checked", "claims": "1 holds, 1 undecided",
    }]  # fmt: skip
    first, second = as_dicts(readme.tables_markdown(claims.scoreboard(["toy"])))
    assert first == {
        "paper": "toy", "table": "t", "cells": "5", "reproduced": "1", "checked": "1", "differs": "1", "open": "2",
        "command": "`nsr reproduce toy --profile cpu`",
    }  # fmt: skip
    assert (second["table"], second["cells"], second["open"], second["differs"]) == ("abl", "1", "1", "")


def test_the_readme_is_brought_up_to_date_between_its_markers(toy):
    path = toy / "README.md"
    path.write_text(README)
    assert not readme.update_readme(path, write=False)
    assert path.read_text() == README
    assert not readme.update_readme(path)
    text = path.read_text()
    assert text.startswith("# Title\n<!-- scoreboard -->\n\nOf the 5 numbers that the paper reports as its own, ")
    assert "\n\n| paper | own numbers |" in text
    assert "old" not in text
    assert "<!-- /scoreboard -->\nText.\n<!-- speed -->\n\nNot measured yet.\n\n<!-- /speed -->\nEnd.\n" in text
    assert readme.update_readme(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "marker", [f"<!-- {end}{n} -->" for n in ("scoreboard", "notebooks", "speed", "kernels") for end in ("", "/")]
)
def test_a_readme_without_a_marker_is_refused_and_left_alone(toy, marker):
    path = toy / "README.md"
    path.write_text(README.replace(marker, ""))
    with pytest.raises(ValueError, match=r"README\.md lacks the markers <!-- "):
        readme.update_readme(path)
    assert path.read_text() == README.replace(marker, "")


def test_the_kernels_table_names_the_strongest_rival_of_each_case(toy):
    def row(case: str, way: str, ms: float, speedup: float, equal: bool = True) -> dict:
        what = {"case": case, "op": case, "mode": "forward", "dtype": "float32"}
        return {**what, "way": way, "median_ms": ms, "speedup": speedup, "equal": equal}

    rows = [
        row("adder2d", "nsrlib", 10, 1), row("adder2d", "broadcast", 90, 9), row("adder2d", "cdist", 14, 1.4),
        row("adder2d", "a convolution", 1, 0.1, equal=False), row("bsconv2d", "nsrlib", 8, 1),
        row("bsconv2d", "eager", 6, 0.75),
    ]  # fmt: skip
    where = {"device": "a processor", "threads": 1, "cuda": None, "command": "nsr bench", "commit": "0123456789"}
    where |= {"versions": {"torch": "2"}}
    content = {"rows": rows, "limits": {}, "left_out": [], "provenance": where}
    write_json(toy / "data" / "results" / "ops" / "a.json", content)
    lines = readme.kernels_markdown().splitlines()
    assert lines[2:4] == ["| adder2d | 10 | cdist | 1.40 |", "| bsconv2d | 8 | eager | 0.75 |"]
    assert lines[-1] == (
        "Below 1 the alternative is faster. Aims reached: 0 of 5. "
        "a processor, 1 thread, PyTorch 2, commit 0123456; `nsr bench`."
    )


def test_the_readme_shows_the_stored_results():
    assert readme.update_readme(write=False), "run: nsr scoreboard --write"


def test_papers_come_in_their_order():
    text = (papers.get("bsrn").root / "README.md").read_text()
    lines = text.partition("<!-- scoreboard -->")[2].partition("<!-- /scoreboard -->")[0].splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert list(dict.fromkeys(names[1:])) == [name for name, p in papers.every().items() if p.published.is_file()]


def test_the_speed_of_a_paper_s_networks_is_a_table_with_its_device(toy):
    ledger = claims.Ledger("toy", "cpu", toy / "run" / "results")
    ledger.compare({"t/BSRN/params": 352.4}, "exact")
    times = pd.DataFrame({"128x128": [0.14, 0.2], "times RFDN": [1, 10 / 7]}, pd.Index(["RFDN", "BSRN"], name="model"))
    ledger.keep("latency", times, "best of 3")
    claims.store(toy / "run")
    lines = readme.speed_markdown(readme.every().values()).splitlines()
    assert lines[:4] == [
        "| network | 128x128 | times RFDN |", "|---|--:|--:|", "| RFDN | 0.14 | 1 |", "| BSRN | 0.2 | 1.43 |",
    ]  # fmt: skip
    assert re.fullmatch(r"best of 3 on .+, PyTorch .+\.", lines[-1])


def test_the_notebooks_are_named_with_title_time_and_needs(toy, monkeypatch):
    new = papers.Paper("new", toy, title="A, *B*, 2030", needs="nothing")
    old = papers.Paper("old", toy, title="C, *D*, 2020")
    monkeypatch.setattr(papers, "every", lambda: {"new": new, "old": old})
    write_json(old.results / "quick.json", {"provenance": {"seconds": 200}})
    assert readme.notebooks_markdown([new, old]).splitlines() == [
        "| notebook | paper | `quick`, 2 CPU cores | needs for its verdicts |",
        "|---|---|--:|---|",
        "| [new.ipynb](notebooks/new.ipynb) | A, *B*, 2030 |  | nothing |",
        "| [old.ipynb](notebooks/old.ipynb) | C, *D*, 2020 | about 3 min |  |",
    ]
