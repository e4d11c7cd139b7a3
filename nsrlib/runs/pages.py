"""The page that shows a run: verdicts, every claim, figures, failures, provenance.

It is one static file that loads nothing from anywhere. Beside it lies the same on one page of A4, ``summary.pdf`` and
``summary.png``.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nsrlib import claims
from nsrlib.files import one_line, write_text
from nsrlib.runs import foreign
from nsrlib.runs.grids import as_text
from nsrlib.runs.notebooks import places
from nsrlib.runs.record import Run, Sweep
from nsrlib.runs.texts import Scrubber, cause_of, clock, map_strings

# Verdict -> (symbol, what it means), as of numbers in claims.VERDICTS.
OF_CLAIMS = {
    "holds": ("✓", "the difference is as claimed, beyond the scatter of the seeds"),
    "reversed": ("✗", "the difference has the other sign, beyond the scatter of the seeds"),
    "does not hold": ("✗", "numbers or theorem checks say otherwise"),
    "smaller than published": ("↘\ufe0e", "the published difference is excluded, and 0 is not"),
    "equivalent": ("=", "the difference is below the margin stated beforehand"),
    "undecided": ("?", "the study is too small to tell"),
    "did not train": ("○", "a network stays below its floor, so nothing is concluded"),
    "identical": ("=", "the same network twice"),
}
UNMEASURED = ("open", "quoted")
HOW = {
    "exact": "follows without data: counts, arithmetic, theorems",
    "data": "follows from public data alone, without a network",
    "weights": "published weights on the real benchmark",
    "open": "not measured",
}


class Results(NamedTuple):
    """What one notebook measured: the rows of its ledger, with ``paper`` and ``verdict``, and what it kept beside."""

    paper: str
    rows: list[dict[str, Any]]
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    tables: Mapping[str, list[dict[str, Any]]] = {}
    claims: tuple[dict[str, Any], ...] = ()


def write_page(run: Run, damage: Iterable[str] = ()) -> Path:
    """Write ``index.html`` into the folder of ``run``, and return its path.

    A damaged or missing part is named on the page, after the lines of ``damage``, and leaves the rest as it is.
    """
    folder, problems = run.folder, list(damage)
    names = [n.name for n in run.notebooks]
    results = read_results(folder, problems)
    cells = {name: _cells(folder, name, problems) for name in names}
    rows = [
        row | {"href": cells.get(row["paper"], {}).get(row.get("cell") or 0, Cell()).href}
        for found in results
        for row in found.rows
    ]
    board = _board(rows)
    every = [cell for of_one in cells.values() for cell in of_one.values()]
    told, lines = in_short(results)
    page = {
        "run": run,
        "counts": count_verdicts(rows),
        "told": told,
        "lines": lines,
        "judged": [{"paper": found.paper, **claim} for found in results for claim in found.claims],
        "board": board,
        # stable: within a verdict the order of the papers stays
        "rows": sorted(rows, key=lambda r: r["verdict"] != "differs"),
        "links": {name: links(folder, name) for name in names},
        "longest": max((n.seconds for n in run.notebooks), default=0) or 1,
        "how": HOW,
        "unmeasured": UNMEASURED,
        "notes": [(found.paper, note) for found in results for note in found.notes],
    }
    figures = [
        {"src": data_uri(image, mime), "caption": cell.caption, "paper": cell.paper, "href": cell.href}
        for cell in every
        for image, mime in cell.images
    ]
    groups: dict[str, Counter[str]] = {}
    for line in board["lines"]:
        groups.setdefault(f"{line['paper']}, {line['table']}", Counter()).update(dict(line["counts"]))
    done = sum(n.status == "ok" for n in run.notebooks)
    summary = Summary(
        "Published against ours",
        f"{run.profile} profile, {done} of {len(names)} notebooks ran to the end in {clock(run.seconds)}",
        list(groups.items()),
        [(n.name, n.seconds, n.status) for n in run.notebooks],
    )
    return render("report.html.j2", run, page, results, figures, summary, problems)


class Summary(NamedTuple):
    """What ``summary.pdf`` shows, see :func:`nsrlib.plots.reports.summary`."""

    title: str
    subtitle: str
    groups: list[tuple[str, Counter[str]]]
    times: list[tuple[str, float, str]]


def render(
    template: str,
    kept: Run | Sweep,
    page: Mapping[str, Any],
    results: list[Results],
    figures: list[dict[str, str]],
    summary: Summary,
    problems: list[str],
) -> Path:
    """Draw the summary and fill a template into ``index.html``; names of this machine are cut out of both."""
    import jinja2

    scrub = Scrubber(kept.folder)
    names = {"command": "Command", "started": "Started", "git": "Commit", "machine": "Machine"}
    lines = [f"{name}: {kept.about[key]}" for key, name in names.items() if kept.about.get(key)]
    if versions := kept.about.get("versions", {}):
        lines.append("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    measured = measured_on(results, versions)
    lines += [f"{what}: {text} ({papers})" for what, text, papers in measured]
    try:
        from nsrlib.plots import reports, style

        figure = reports.summary(*summary, map_strings(lines, scrub.paths))
        style.write(figure, kept.folder / "summary.pdf", kept.folder / "summary.png")
    except Exception as error:  # no matplotlib, no such backend, a full disk, texts that cannot be drawn
        problems.append(f"the summary was not drawn: {': '.join(cause_of(error))}")
    page = {
        **page,
        "verdicts": claims.VERDICTS | OF_CLAIMS,
        "folder": kept.folder.name,
        "measured": measured,
        "inputs": inputs(results),
        "summaries": [kind for kind in ("pdf", "png") if (kept.folder / f"summary.{kind}").exists()],
        "problems": problems,
    }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {"clock": clock, "number": _number, "signed": _signed}
    templates.filters |= {"table": table_name, "place": place, "text": as_text}
    target = kept.folder / "index.html"
    write_text(target, templates.get_template(template).render(map_strings(page, scrub.paths), figures=figures))
    return target


def read_results(folder: Path, problems: list[str]) -> list[Results]:
    """Every readable file in ``results/``; ``problems`` gets a line for whatever cannot be used."""
    found = []
    for path in sorted((folder / "results").glob("*.json")):
        name = f"results/{path.name}"
        try:
            content = foreign.read(path)
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {one_line(str(error))}")
            continue
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            problems.append(f"{name} holds no list of rows")
            continue
        content = foreign.fit(content, foreign.RESULTS, name, problems)
        paper = str(content.get("paper") or path.stem)
        rows = [
            {
                **entry,
                "paper": str(entry.get("paper") or paper),
                "verdict": str(entry.get("verdict") or "open"),
                "reason": str(entry.get("reason") or ""),
            }
            for entry in content["rows"]
        ]
        tables = {title: kept["rows"] for title, kept in content.get("tables", {}).items()}
        notes = tuple(map(str, content.get("notes", ())))
        judged = tuple(claim | {"verdict": str(claim.get("verdict"))} for claim in content.get("claims", ()))
        found.append(Results(paper, rows, content.get("provenance", {}), notes, tables, judged))
    return found


def in_short(results: list[Results]) -> tuple[str, list[dict[str, str]]]:
    """What the numbers and claims come to: a sentence, and a line for each paper, see :func:`nsrlib.claims.lines`."""
    numbers = [
        {name: str(row.get(name)) for name in claims.board.FACT}
        | {"row": str(row.get("row") or row.get("id")), "own": row.get("own") is not False}
        | {"to_the_digit": row.get("to_the_digit") is True, "how": str(row.get("how") or "open")}
        | {"needs": str(row.get("needs") or ""), "verdict": row["verdict"]}
        for found in results
        for row in found.rows
    ]
    if not numbers:
        return "", []
    counts = claims.count(pd.DataFrame(numbers))
    lines = claims.lines(counts, claims.count_claims({found.paper: found.claims for found in results}))
    told = lines.reset_index().to_dict("records")
    return claims.sentence(counts), [{str(k): str(v) for k, v in line.items()} for line in told]


def count_verdicts(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """``(verdict, count)`` in the order of :data:`nsrlib.claims.VERDICTS`; words that are not in it come last."""
    counts = Counter(row["verdict"] for row in rows)
    return [(v, counts[v]) for v in [*claims.VERDICTS, *sorted(set(counts) - set(claims.VERDICTS))] if counts[v]]


def _board(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by paper, table and kind of evidence."""
    columns = verdict_columns(rows)
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        paper, table, how = key = (row["paper"], table_name(row.get("table")), str(row.get("how") or "open"))
        line = lines.setdefault(key, {"paper": paper, "table": table, "how": how, "href": "", "used": Counter()})
        line["used"][row["verdict"]] += 1
        line["href"] = line["href"] or row["href"]
    for line in lines.values():
        line["counts"] = [(v, line["used"][v]) for v in columns]
    # tables in the order of the notebook, evidence from the strongest to none
    tables = list(dict.fromkeys(key[:2] for key in lines))
    kinds = [*HOW, *sorted({how for _, _, how in lines} - set(HOW))]
    ordered = sorted(lines, key=lambda key: (key[0], tables.index(key[:2]), kinds.index(key[2])))
    return {"columns": columns, "papers": sorted({key[0] for key in lines}), "lines": [lines[key] for key in ordered]}


def verdict_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The verdicts that a table of counts has columns for: those used, and always the three main ones."""
    used = {row["verdict"] for row in rows} | {"reproduced", "differs", "open"}
    return [*(v for v in claims.VERDICTS if v in used), *sorted(used - set(claims.VERDICTS))]


def inputs(results: list[Results]) -> list[tuple[str, ...]]:
    """``(kind, name, origin, sha256, papers)``: data and weights that any paper used, each once."""
    found = []
    for paper, _, provenance, *_ in results:
        for kind in ("data", "weights"):
            for name, entry in provenance.get(kind, {}).items():
                entry = entry if isinstance(entry, dict) else {"origin": entry}
                found.append(((kind, str(name), str(entry.get("origin") or ""), str(entry.get("sha256") or "")), paper))
    return _each_once(found)


def measured_on(results: list[Results], versions: Mapping[str, str]) -> list[tuple[str, ...]]:
    """``(what, text, papers)``: where the numbers were measured, and versions that are not those of the run."""
    found = []
    for paper, _, provenance, *_ in results:
        threads, theirs = provenance.get("threads"), provenance.get("versions", {})
        device = [provenance.get("device"), f"{threads} thread{'' if threads == 1 else 's'}" if threads else None]
        found.append((("Measured on", ", ".join(str(d) for d in device if d)), paper))
        found.append((("Also used", ", ".join(f"{k} {v}" for k, v in theirs.items() if versions.get(k) != v)), paper))
    return sorted(_each_once((thing, paper) for thing, paper in found if thing[1]), reverse=True)


def _each_once(found: Iterable[tuple[tuple[str, ...], str]]) -> list[tuple[str, ...]]:
    """Things that papers have, each followed by its papers."""
    papers: dict[tuple[str, ...], dict[str, None]] = {}
    for thing, paper in found:
        papers.setdefault(thing, {})[paper] = None
    return [(*thing, ", ".join(its)) for thing, its in papers.items()]


def links(folder: Path, name: str) -> dict[str, str]:
    """Kind of file -> address relative to the page, for those that exist."""
    possible = {
        "page": (f"notebooks/{name}.html", f"notebooks/{name}.failed.html"),
        "notebook": (f"notebooks/{name}.ipynb", f"notebooks/{name}.failed.ipynb"),
        "numbers": (f"results/{name}.json",),
        "log": (f"logs/{name}.log",),
    }
    return {k: p for k, paths in possible.items() for p in reversed(paths) if (folder / p).exists()}


class Cell(NamedTuple):
    """A code cell of an executed notebook, as the page links to it and shows its figures."""

    paper: str = ""
    caption: str = ""  # the heading above it
    href: str = ""
    images: tuple[tuple[str, str], ...] = ()  # (base64, type) of every PNG and JPEG


def _cells(folder: Path, name: str, problems: list[str]) -> dict[int, Cell]:
    """Number of execution -> cell, for the code cells of a notebook that were executed."""
    found: dict[int, Cell] = {}
    addresses = links(folder, name)
    if "notebook" not in addresses:
        return found
    name_of_file = addresses["notebook"]
    try:
        content = foreign.read(folder / name_of_file)
    except (OSError, ValueError) as error:
        problems.append(f"{name_of_file} cannot be read: {one_line(str(error))}")
        return found
    cells = foreign.fit(content, foreign.NOTEBOOK, name_of_file, problems)["cells"]
    for cell, (_, place) in zip(cells, places(cells), strict=True):
        if number := cell.get("execution_count"):
            found[number] = Cell(
                name,
                place["section"] or name,
                f"{addresses.get('page', name_of_file)}#cell-id={cell.get('id', '')}",
                tuple(_images(cell)),
            )
    return found


def _images(cell: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for output in cell.get("outputs", ()):
        for mime in ("image/png", "image/jpeg"):
            image = output.get("data", {}).get(mime)
            if image and foreign.LINES.sound(image):
                yield "".join(image), mime


def data_uri(encoded: str, mime: str) -> str:
    """The image as it is, or a smaller copy when it is heavy; the notebook's own page has the original."""
    from PIL import Image

    encoded = "".join(encoded.split())
    if len(encoded) > 400_000:
        try:
            picture = Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG", "JPEG"))
            picture.thumbnail((1400, 1400), Image.Resampling.LANCZOS)
            small = io.BytesIO()
            picture.convert("RGBA" if picture.has_transparency_data else "RGB").save(small, "WEBP", quality=88)
        except Exception:  # decoders have many; the browser shows that the picture is broken
            return f"data:{mime};base64,"
        encoded, mime = base64.b64encode(small.getvalue()).decode(), "image/webp"
    return f"data:{mime};base64,{encoded}"


def table_name(table: Any) -> str:
    text = str(table if table is not None else "").strip() or "–"
    return f"Table {text}" if re.fullmatch(r"[\dIVX]+[a-z]?", text) else text


def place(row: Mapping[str, Any]) -> str:
    """Which number of its table: row, column, scale, metric, without saying anything twice."""
    scale = str(row.get("scale") or "").lstrip("x×")
    parts = [row.get("row"), row.get("column"), f"×{scale}" if scale else "", row.get("metric")]
    said: list[str] = []
    for part in (str(p) for p in parts if p):
        if part.lower() not in (s.lower() for s in said):
            said.append(part)
    return " · ".join(said) or str(row.get("id") or "–")


def _decimals(row: Mapping[str, Any]) -> int:
    """Digits that the paper printed; JSON drops trailing zeros, so PSNR and SSIM have a least number."""
    printed = str(row.get("published") if row.get("published") is not None else "")
    digits = len(printed.partition(".")[2]) if re.fullmatch(r"-?[\d,]+\.?\d*", printed) else 0
    return max(min(digits, 20), {"psnr": 2, "ssim": 4}.get(str(row.get("metric") or "").lower(), 0))


def _number(value: Any, row: Mapping[str, Any]) -> str:
    """A measured or published value to the digits of the published one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value in (None, "") else str(value)
    if row.get("published") is None:
        return f"{value:,.6g}"
    return f"{value:,.{_decimals(row)}f}"


def _signed(value: Any, row: Mapping[str, Any]) -> str:
    """A difference with its sign and one digit more than the values, so that a small one does not read as none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value in (None, "") else str(value)
    if value == 0:
        return "0"
    digits = _decimals(row)
    return f"{value:+,.{digits + 1 if digits or value != int(value) else 0}f}".replace("-", "−")
