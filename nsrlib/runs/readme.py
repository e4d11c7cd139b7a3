"""The tables of the README: they come from stored results and stand between markers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from nsrlib.bench import kernels
from nsrlib.bench.operators import OURS
from nsrlib.claims import scoreboard, stored_results
from nsrlib.files import ROOT, write_text
from nsrlib.papers import Paper, every


def board_of(papers: Iterable[Paper] | None = None) -> pd.DataFrame:
    """:func:`nsrlib.claims.scoreboard` of papers, in their order; default: all of :func:`nsrlib.papers.every`."""
    papers = every().values() if papers is None else papers
    return scoreboard([paper.name for paper in papers if paper.published.is_file()])


def scoreboard_markdown(board: pd.DataFrame | None = None) -> str:
    """The scoreboard by paper and table as a Markdown table; default: :func:`board_of` all papers."""
    board = board_of() if board is None else board
    lines = [
        "| paper | table | cells | exact | with weights | trend | noise | differs | open | quoted | command |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for (paper, table), cells in board.groupby(["paper", "table"], sort=False):
        good = cells[cells["verdict"].isin(["reproduced", "trend holds"])]
        counts = [int((good["how"] == how).sum()) for how in ("exact", "weights", "trained")]
        counts += [int((cells["verdict"] == word).sum()) for word in ("within noise", "differs", "open", "quoted")]
        numbers = " | ".join(str(n) if n else "" for n in counts)
        lines.append(f"| {paper} | {table} | {len(cells)} | {numbers} | `{cells['command'].iloc[0]}` |")
    good = board[board["verdict"].isin(["reproduced", "trend holds"])]
    if recalled := int(good["source"].str.startswith("recalled").sum()):
        lines.append(
            f"\nOf the {len(good)} reproduced numbers, {recalled} were published but are quoted here from memory."
        )
    return "\n".join(lines)


def speed_markdown(papers: Iterable[Paper] | None = None) -> str:
    """The stored latency of the networks of every paper that compares their speed, as Markdown tables."""
    papers = every().values() if papers is None else papers
    return "\n\n".join(filter(None, map(_speed, papers))) or "Not measured yet."


def _speed(paper: Paper) -> str:
    result = stored_results(paper.name) if paper.networks else None
    kept = (result or {}).get("tables", {}).get("latency")
    if result is None or kept is None:
        return ""
    table = pd.DataFrame(kept["rows"]).set_index("model")
    lines = ["| network | " + " | ".join(table.columns) + " |", "|---|" + "--:|" * table.shape[1]]
    lines += [f"| {name} | " + " | ".join(f"{v:.3g}" for v in row) + " |" for name, *row in table.itertuples()]
    where = result["provenance"]
    return "\n".join([*lines, "", f"{kept['note']} on {where['device']}, PyTorch {where['versions']['torch']}."])


def kernels_markdown() -> str:
    """The stored benchmark of the operators as a Markdown table: a GPU's if there is one."""
    stored = [kernels.table(path) for path in sorted(kernels.RESULTS.glob("*.json"))]
    if not stored:
        return "Not measured yet."
    rows = max(stored, key=lambda table: table.attrs["provenance"]["cuda"] is not None)
    lines = ["| operator | ours (ms) | strongest alternative | times as long |", "|---|--:|---|--:|"]
    for case, ways in rows.groupby("case", sort=False):
        ours = ways[ways["way"] == OURS]
        rivals = ways[(ways["way"] != OURS) & ways["equal"].eq(True)].dropna(subset=["speedup"])
        if ours["median_ms"].notna().any() and len(rivals):
            best = rivals.sort_values("speedup").iloc[0]
            time = float(ours["median_ms"].iloc[0])
            shown = f"{time:,.0f}" if time >= 1000 else f"{time:.3g}"
            lines.append(f"| {case} | {shown} | {best['way']} | {best['speedup']:.2f} |")
    where = rows.attrs["provenance"]
    threads = f", {where['threads']} thread" + "s" * (where["threads"] != 1) if where["cuda"] is None else ""
    note = f"{where['device']}{threads}, PyTorch {where['versions']['torch']}; `{where['command']}`."
    aims = kernels.verdicts(rows)["verdict"].value_counts()
    reached = f"Aims reached: {aims.get('reached', 0)} of {aims.sum()}."
    return "\n".join([*lines, "", f"Below 1 the alternative is faster. {reached} {note}"])


def update_readme(path: str | os.PathLike = ROOT / "README.md", *, write: bool = True) -> bool:
    """Put the stored results of this repository's papers between the README's markers; tells whether they were there.

    Raises:
        ValueError: a marker is missing.
    """
    path = Path(path)
    text = before = path.read_text()
    own = [paper for paper in every().values() if paper.root == ROOT]
    board, speed = scoreboard_markdown(board_of(own)), speed_markdown(own)
    for name, content in (("scoreboard", board), ("speed", speed), ("kernels", kernels_markdown())):
        head, start, rest = text.partition(f"<!-- {name} -->")
        _, end, tail = rest.partition(f"<!-- /{name} -->")
        if not start or not end:
            raise ValueError(f"{path.name} lacks the markers <!-- {name} --> and <!-- /{name} -->")
        text = f"{head}{start}\n\n{content}\n\n{end}{tail}"
    if write and text != before:
        write_text(path, text)
    return text == before
