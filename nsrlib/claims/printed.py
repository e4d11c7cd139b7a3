"""A table of a paper as it was printed, with ours, the verdict and the source in every cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import pandas as pd

from nsrlib.claims.numbers import VERDICTS, decimals

BLUE, RED, GRAY = "#0072B2", "#D55E00", "#6b6b6b"  # measured and agreeing, contradicted, not measured
MODEL = "model"
"""The printed column of what belongs to a network and to no data set."""
NOTHING = "–"


class Cell(NamedTuple):
    """One or more printed numbers that stand together, ``32.35 / 0.8966``.

    Attributes:
        printed, ours: texts; ``ours`` is empty if nothing of it is measured.
        verdicts: of each number. sources: places in :attr:`PrintedTable.sources`, from 1.
    """

    printed: str
    ours: str
    verdicts: tuple[str, ...]
    sources: tuple[int, ...]

    @property
    def mark(self) -> str:
        """One mark if all numbers have the same verdict."""
        marks = [VERDICTS[verdict][0] for verdict in self.verdicts]
        return marks[0] if len(set(self.verdicts)) == 1 else " / ".join(marks)

    def __str__(self) -> str:
        ours = f" ({self.ours})" if self.ours else ""
        return f"{self.printed}{ours} {self.mark} [{', '.join(map(str, self.sources))}]"

    @property
    def html(self) -> str:
        ink = RED if "differs" in self.verdicts else BLUE if self.ours else GRAY
        second = f'<br><span style="color: {ink}">{self.ours}</span>' if self.ours else ""
        mark = f'<span style="color: {ink}">{self.mark}</span><sup>{",".join(map(str, self.sources))}</sup>'
        return (
            f"{self.printed} {mark}{second}" if second else f'<span style="color: {GRAY}">{self.printed}</span> {mark}'
        )


@dataclass(frozen=True)
class PrintedTable:
    """What a notebook shows of it: the cells, what the marks mean, the notes, and where the numbers were read.

    Attributes:
        cells: a row for each network (and scale, where there are several), a column for each data set, of
            :class:`Cell`; None where nothing was printed.
        counts: verdict -> how many numbers have it.
        notes: a sentence for each number that differs or is cut.
        sources: where the numbers were read, as the cells number them.
        own: the rows that hold numbers of the paper's own; bold on the page.
    """

    cells: pd.DataFrame
    counts: dict[str, int]
    notes: list[str]
    sources: list[str]
    own: set[Any]

    @property
    def legend(self) -> str:
        marks = ", ".join(f"{VERDICTS[verdict][0]} {verdict}: {n}" for verdict, n in self.counts.items())
        return f"Printed, and ours where it is measured. {marks}."

    def __str__(self) -> str:
        notes = [f"- {note}" for note in self.notes]
        sources = [f"[{k}] {source}" for k, source in enumerate(self.sources, 1)]
        texts = self.cells.map(lambda cell: "" if cell is None else str(cell))
        return "\n".join([texts.to_string(), self.legend, *notes, *sources])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        scaled = self.cells.index.nlevels > 1
        heads = "".join(f'<th style="text-align: center">{_head(*column)}</th>' for column in self.cells.columns)
        rows, last = [f"<tr><th></th>{heads}</tr>"], ""
        for key, line in zip(self.cells.index, self.cells.to_numpy(), strict=True):
            scale, name = key if scaled else ("", key)
            if scale != last:
                rows.append(f'<tr><th colspan="{len(line) + 1}" style="text-align: left">{escape(scale)}</th></tr>')
                last = scale
            label = f"<b>{escape(name)}</b>" if key in self.own else escape(name)
            style = 'style="text-align: center; white-space: nowrap; vertical-align: top"'
            cells = "".join(f"<td {style}>{'' if cell is None else cell.html}</td>" for cell in line)
            rows.append(f'<tr><td style="text-align: left; vertical-align: top">{label}</td>{cells}</tr>')
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        sources = "".join(f"<li>{escape(source)}</li>" for source in self.sources)
        return (
            f'<table style="font-size: 90%">{"".join(rows)}</table><p>{escape(self.legend)}</p>'
            + (f"<ul>{notes}</ul>" if notes else "")
            + f"<p>Sources of the printed numbers:</p><ol>{sources}</ol>"
        )


def _head(column: str, metrics: str) -> str:
    return f"{escape(column)}<br><small>{escape(metrics)}</small>" if column else f"<small>{escape(metrics)}</small>"


def printed_table(rows: Iterable[Mapping[str, Any]], notes: Iterable[str] = ()) -> PrintedTable:
    """Lay out numbers as the paper does: a row a network, a column a data set, in the order of ``rows``.

    Up to two metrics of a data set share a column, more have one each. A ``<metric>_rank`` stands in parentheses behind
    its metric.

    Args:
        rows: of one printed table, as :class:`~nsrlib.claims.Ledger` keeps them.
        notes: sentences that are shown below.
    """
    table = pd.DataFrame(list(rows))
    scaled = len(set(table["scale"].dropna())) > 1
    scales = table["scale"].map(lambda scale: "" if pd.isna(scale) else f"x{scale:.0f}")
    table["key"] = list(zip(scales, table["row"], strict=True)) if scaled else table["row"]
    mixed = table.groupby(["column", "metric"])["unit"].transform("nunique") > 1
    table["text"] = table["published"] + (" " + table["unit"]).where(mixed & (table["unit"] != "1"), "")
    sources = list(dict.fromkeys(table["source"]))
    lines: dict[Any, dict[tuple[str, str], Cell]] = {key: {} for key in table["key"]}
    columns = []
    for column, of_column in table.groupby("column", sort=False):
        metrics = list(dict.fromkeys(of_column["metric"]))
        bases = [m for m in metrics if m.removesuffix("_rank") == m or m.removesuffix("_rank") not in metrics]
        for shown in [bases] if len(bases) <= 2 else [[base] for base in bases]:
            head = ("" if column == MODEL else str(column), " / ".join(_title(of_column, base) for base in shown))
            columns.append(head)
            of_head = of_column[of_column["metric"].isin([*shown, *(f"{base}_rank" for base in shown)])]
            for key, numbers in of_head.groupby("key", sort=False):
                lines[key][head] = _cell(numbers.set_index("metric"), shown, sources)
    keys: Any = sorted(lines, key=lambda key: key[0]) if scaled else list(lines)
    cells = pd.DataFrame(
        [[lines[key].get(head) for head in columns] for key in keys],
        index=pd.MultiIndex.from_tuples(keys) if scaled else pd.Index(keys),
        columns=pd.MultiIndex.from_tuples(columns),
        dtype=object,
    )
    counted = table["verdict"].value_counts()
    counts = {verdict: int(counted[verdict]) for verdict in VERDICTS if verdict in counted}
    return PrintedTable(cells, counts, list(notes), sources, set(table.loc[table["own"], "key"]))


def _title(numbers: pd.DataFrame, metric: str) -> str:
    """``psnr (dB)``; a unit that is not the same in all rows stands in the cells."""
    units = set(numbers.loc[numbers["metric"] == metric, "unit"])
    return f"{metric} ({units.pop()})" if len(units) == 1 and units != {"1"} else metric


def _cell(numbers: pd.DataFrame, metrics: list[str], sources: list[str]) -> Cell:
    """The numbers of a cell, with their metrics as the index; ``metrics`` are all that its column has."""
    printed, ours = [], []
    for metric in metrics:
        if metric not in numbers.index:
            printed.append(NOTHING)
            ours.append(NOTHING)
            continue
        row: Any = numbers.loc[metric]
        rank = numbers["published"].get(f"{metric}_rank")
        printed.append(row["text"] + ("" if rank is None else f" ({rank!s})"))
        ours.append(NOTHING if pd.isna(row["ours"]) else f"{row['ours']:.{decimals(row['published']) + 1}f}")
    measured = " / ".join(ours) if set(ours) != {NOTHING} else ""
    places = sorted({sources.index(source) + 1 for source in numbers["source"]})
    return Cell(" / ".join(printed), measured, tuple(numbers["verdict"]), tuple(places))
