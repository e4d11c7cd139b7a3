"""What comes out of a sweep: one tidy table, its numbers over the swept parameters, and a page that shows them."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nsrlib.files import write_text
from nsrlib.runs import pages
from nsrlib.runs.record import Sweep
from nsrlib.runs.texts import cause_of

_FIGURES = 16  # on the page
_WHERE = ("paper", "table", "row", "column", "scale", "metric", "unit", "how", "verdict", "published")


def table(sweep: Sweep, results: Mapping[str, list[pages.Results]]) -> pd.DataFrame:
    """All numbers of a sweep, one row for each run and number.

    Columns: run, ``param_<name>`` for every parameter, status, seconds, attempts; then kind, which is ``claim`` (a row
    of the ledger, open ones too), ``table`` (a number of a table that the notebook kept, its words joined as row) or
    ``run`` (its seconds, so that every run has a row); paper, table, row, column, scale, metric, unit, how, verdict,
    published, value, difference.

    Args:
        results: key of a run -> what it measured.
    """
    names = list(dict.fromkeys(k for run in sweep.runs for k in run.parameters))
    records: list[dict[str, Any]] = []
    for run in sweep.runs:
        values = {f"param_{k}": run.parameters.get(k) for k in names}
        values = {k: json.dumps(v) if isinstance(v, list | tuple | dict) else v for k, v in values.items()}
        common = {"run": run.key, **values, "status": run.status, "seconds": run.seconds, "attempts": run.attempts}
        seconds = run.seconds if run.status == "ok" else None
        records.append(common | {"kind": "run", "metric": "seconds", "unit": "s", "value": seconds})
        for result in results.get(run.key, ()):
            for row in result.rows:
                numbers = {"value": row.get("ours"), "difference": row.get("difference")}
                records.append(common | {"kind": "claim"} | {k: row.get(k) for k in _WHERE} | numbers)
            for title, rows in result.tables.items():
                for row in rows:
                    label = " · ".join(str(v) for v in row.values() if isinstance(v, str))
                    where = common | {"kind": "table", "paper": result.paper, "table": title, "row": label}
                    records += [
                        where | {"metric": metric, "value": value}
                        for metric, value in row.items()
                        if isinstance(value, int | float) and not isinstance(value, bool)
                    ]
    parameters = [f"param_{k}" for k in names]
    columns = ["run", *parameters, "status", "seconds", "attempts", "kind", *_WHERE, "value", "difference"]
    frame = pd.DataFrame(records, columns=columns)
    frame["scale"] = pd.Series([record.get("scale") for record in records], dtype=object)  # 4, not 4.0
    for column in ("value", "difference"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def defused(frame: pd.DataFrame) -> pd.DataFrame:
    """A table for a file: where a text begins as a formula does, an apostrophe stands before it.

    A spreadsheet would run it; the texts are those of whoever wrote the run. Numbers, and texts that are numbers
    (``-0.5``), stay as they are. ``pandas`` reads the apostrophe as a part of the text.

    Example:
        >>> defused(pd.DataFrame({"row": ["=1+1", "BSRN", "-0.5"], "ours": [-1.0, 2, 3]}))["row"].tolist()
        ["'=1+1", 'BSRN', '-0.5']
    """

    def safe(value: Any) -> Any:
        if not isinstance(value, str) or value[:1] not in tuple("=+-@\t\r\n"):
            return value
        try:
            float(value)
        except ValueError:
            return f"'{value}"
        return value

    frame = frame.copy()
    for name in frame.columns[[kind.kind not in "biuf" for kind in frame.dtypes]]:
        frame[name] = pd.Series(map(safe, frame[name]), frame.index, dtype=object)
    return frame


def write_page(sweep: Sweep, damage: Iterable[str] = ()) -> Path:
    """Write ``sweep.csv``, the figures, the summary and ``index.html``, each whole or not at all.

    ``damage``: lines that the page is to tell, of what could not be read.
    """
    done = [run for run in sweep.runs if run.status == "ok"]
    results: dict[str, list[pages.Results]] = {}
    problems = list(damage)
    labels = sweep.labels()
    for run in done:
        found: list[str] = []
        results[run.key] = pages.read_results(sweep.folder / "runs" / run.key, found)
        problems += [f"{labels[run.key]}: {problem}" for problem in found]
    numbers = table(sweep, results)
    write_text(sweep.folder / "sweep.csv", defused(numbers).to_csv(index=False))
    figures, left_out = _draw(sweep, numbers, problems)

    claims = numbers[numbers["kind"] == "claim"]
    verdicts = [{"verdict": str(v)} for v in claims["verdict"]]
    columns = pages.verdict_columns(verdicts) if verdicts else []
    by_run = {key: Counter(map(str, rows["verdict"])) for key, rows in claims.groupby("run")}
    lines = []
    failures: dict[str, list[str]] = {}  # cause -> the runs that it ended
    for run in sweep.runs:
        counts = [(v, by_run.get(run.key, Counter())[v]) for v in columns]
        place = sweep.place(run)
        prefix = place.relative_to(sweep.folder).as_posix()
        links = {kind: f"{prefix}/{address}" for kind, address in pages.links(place, sweep.paper).items()}
        lines.append({"run": run, "counts": counts, "used": [v for v, n in counts if n], "links": links})
        if run.status == "failed":
            again = "" if run.attempts < 2 else f" ({run.attempts} attempts)"
            failures.setdefault(run.error or "failed", []).append(labels[run.key] + again)
    page = {
        "sweep": sweep,
        "swept": sweep.swept,
        "counts": pages.count_verdicts(verdicts),
        "columns": columns,
        "lines": lines,
        "failures": failures,
        "changing": _changing(sweep, claims),
        "figures_left_out": left_out,
    }
    summary = pages.Summary(
        f"{sweep.paper} over {', '.join(sweep.swept) or 'one point'}",
        f"{sweep.profile} profile, {len(done)} of {len(sweep.runs)} runs ended well",
        [(labels[run.key], by_run[run.key]) for run in sweep.runs if run.key in by_run],
        [(labels[run.key], run.seconds, run.status) for run in sweep.runs],
    )
    every = [result for run in done for result in results[run.key]]
    return pages.render("sweep.html.j2", sweep, page, every, figures, summary, problems)


def _draw(sweep: Sweep, numbers: pd.DataFrame, problems: list[str]) -> tuple[list[dict[str, str]], int]:
    """The figures over the swept parameters, as files and for the page, and how many were left out."""
    shutil.rmtree(sweep.folder / "figures", ignore_errors=True)
    figures: list[dict[str, str]] = []
    left_out = 0
    try:
        from nsrlib.plots import reports, style

        named = numbers.assign(table=[pages.table_name(name) for name in numbers["table"]])
        drawn = reports.over(named, sweep.swept)
        left_out = max(0, len(drawn) - _FIGURES)
        for title, figure in drawn[:_FIGURES]:
            name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()
            path = sweep.folder / "figures" / f"{len(figures) + 1:02}-{name}.png"
            style.write(figure, path)
            src = pages.data_uri(b64encode(path.read_bytes()).decode(), "image/png")
            figures.append({"src": src, "caption": title, "href": f"figures/{path.name}"})
    except Exception as error:  # no matplotlib, no such backend, a full disk, numbers that cannot be drawn
        problems.append(f"the figures were not drawn: {': '.join(cause_of(error))}")
    return figures, left_out


def _changing(sweep: Sweep, claims: pd.DataFrame) -> list[dict[str, Any]]:
    """Claims that were measured with more than one verdict, and in which runs."""
    labels = sweep.labels()
    measured = claims[~claims["verdict"].isin(pages.UNMEASURED)]
    found = []
    for (place, *_), rows in measured.groupby(["table", "row", "column", "scale", "metric"], sort=False, dropna=False):
        if len(set(rows["verdict"])) > 1:
            where = {word: [labels[k] for k in same["run"]] for word, same in rows.groupby("verdict", sort=False)}
            cell = {str(k): None if v is None or v != v else v for k, v in rows.iloc[0].items()}  # NaN is not itself
            found.append({"name": f"{pages.table_name(place)}: {pages.place(cell)}", "verdicts": where})
    return found
