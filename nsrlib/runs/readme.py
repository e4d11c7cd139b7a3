"""The tables of the README: they come from records and stored results, and stand between markers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path

import pandas as pd

from nsrlib import claims
from nsrlib.bench import kernels
from nsrlib.bench.operators import OURS
from nsrlib.files import ROOT, write_text
from nsrlib.papers import Paper, every
from nsrlib.runs.batch import stored_seconds


def scoreboard_markdown(papers: Sequence[str]) -> str:
    """A sentence on the numbers of papers, and a line for each paper, as Markdown."""
    counts = claims.count(claims.scoreboard(papers))
    lines = claims.lines(counts, claims.count_claims(claims.stored_claims(papers))).reset_index()
    return f"{claims.sentence(counts)}\n\n{_table(claims.board.LINES, 'lrrrrrlll', lines.to_numpy())}"


def tables_markdown(board: pd.DataFrame) -> str:
    """:func:`nsrlib.claims.scoreboard` by paper and table as a Markdown table: every place where a number stands."""
    counts, rows = tables(board), []
    commands = board.drop_duplicates("paper").set_index("paper")["command"].to_dict()
    for (paper, table), *cells in counts.itertuples():
        rows.append((paper, table, sum(cells), *(n or "" for n in cells), f"`{commands[paper]}`"))
    return _table(("paper", "table", "cells", *counts, "command"), "ll" + "r" * (1 + counts.shape[1]) + "l", rows)


def tables(board: pd.DataFrame) -> pd.DataFrame:
    """Cells of a scoreboard by paper and table, in their order, a column for each verdict that occurs."""
    counts = board.pivot_table(
        index=["paper", "table"], columns="verdict", values="id", aggfunc="count", fill_value=0, sort=False
    )
    order = ("reproduced", *claims.AGREE, "checked", "differs", "open", "quoted")
    return counts[[word for word in order if word in counts]]


def _table(names: Iterable[str], sides: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; ``sides`` has an ``l`` or an ``r`` for each column."""
    rule = "|" + "".join({"l": "---|", "r": "--:|"}[side] for side in sides)
    return "\n".join([f"| {' | '.join(names)} |", rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def notebooks_markdown(papers: Iterable[Paper]) -> str:
    """The notebooks of papers as a Markdown table; times are those of the stored runs."""
    rows = []
    for paper in papers:
        seconds = stored_seconds(paper.name, "quick")
        time = "" if seconds == inf else f"about {seconds / 60:.0f} min"
        rows.append((f"[{paper.name}.ipynb](notebooks/{paper.name}.ipynb)", paper.title, time, paper.needs))
    return _table(("notebook", "paper", "`quick`, 2 CPU cores", "needs for its verdicts"), "llrl", rows)


def speed_markdown(papers: Iterable[Paper]) -> str:
    """The stored latency of the networks of every paper that compares their speed, as Markdown tables."""
    return "\n\n".join(filter(None, map(_speed, papers))) or "Not measured yet."


def _speed(paper: Paper) -> str:
    result = claims.stored_results(paper.name) if paper.networks else None
    kept = (result or {}).get("tables", {}).get("latency")
    if result is None or kept is None:
        return ""
    table = pd.DataFrame(kept["rows"]).set_index("model")
    rows = [(name, *(f"{v:.3g}" for v in row)) for name, *row in table.itertuples()]
    text, where = _table(("network", *table), "l" + "r" * table.shape[1], rows), result["provenance"]
    return f"{text}\n\n{kept['note']} on {where['device']}, PyTorch {where['versions']['torch']}."


def kernels_markdown() -> str:
    """The stored benchmark of the operators as a Markdown table: a GPU's if there is one."""
    stored = [kernels.table(path) for path in sorted(kernels.RESULTS.glob("*.json"))]
    if not stored:
        return "Not measured yet."
    rows = max(stored, key=lambda table: table.attrs["provenance"]["cuda"] is not None)
    lines = []
    for case, ways in rows.groupby("case", sort=False):
        ours = ways[ways["way"] == OURS]
        rivals = ways[(ways["way"] != OURS) & ways["equal"].eq(True)].dropna(subset=["speedup"])
        if ours["median_ms"].notna().any() and len(rivals):
            best = rivals.sort_values("speedup").iloc[0]
            time = float(ours["median_ms"].iloc[0])
            shown = f"{time:,.0f}" if time >= 1000 else f"{time:.3g}"
            lines.append((case, shown, best["way"], f"{best['speedup']:.2f}"))
    where = rows.attrs["provenance"]
    threads = f", {where['threads']} thread" + "s" * (where["threads"] != 1) if where["cuda"] is None else ""
    software = f"PyTorch {where['versions']['torch']}, commit {where['commit'][:7]}"
    note = f"{where['device']}{threads}, {software}; `{where['command']}`."
    aims = kernels.verdicts(rows)["verdict"].value_counts()
    reached = f"Aims reached: {aims.get('reached', 0)} of {aims.sum()}."
    text = _table(("operator", "ours (ms)", "strongest alternative", "times as long"), "lrlr", lines)
    return f"{text}\n\nBelow 1 the alternative is faster. {reached} {note}"


def update_readme(path: str | os.PathLike = ROOT / "README.md", *, write: bool = True) -> bool:
    """Put what is stored of this repository's papers between the README's markers; tells whether it was there.

    Raises:
        ValueError: a marker is missing.
    """
    path = Path(path)
    text = before = path.read_text()
    own = [paper for paper in every().values() if paper.root == ROOT]
    contents = {
        "scoreboard": scoreboard_markdown([paper.name for paper in own if paper.published.is_file()]),
        "notebooks": notebooks_markdown(own),
        "speed": speed_markdown(own),
        "kernels": kernels_markdown(),
    }
    for name, content in contents.items():
        head, start, rest = text.partition(f"<!-- {name} -->")
        _, end, tail = rest.partition(f"<!-- /{name} -->")
        if not start or not end:
            raise ValueError(f"{path.name} lacks the markers <!-- {name} --> and <!-- /{name} -->")
        text = f"{head}{start}\n\n{content}\n\n{end}{tail}"
    if write and text != before:
        write_text(path, text)
    return text == before
