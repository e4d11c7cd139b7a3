"""One run of a paper's notebook: measured beside published, and what became of every number."""

from __future__ import annotations

import difflib
import fnmatch
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nsrlib.claims.needs import lacking
from nsrlib.claims.numbers import (
    HOW,
    PROFILES,
    How,
    as_printed,
    decimals,
    is_cut,
    judge,
    numbers_of,
    published,
    to_the_digit,
)
from nsrlib.claims.printed import PrintedTable, printed_table
from nsrlib.data import UNVERIFIED, used
from nsrlib.files import ROOT, commit, device_name, versions, write_json

COMMAND = "NSRLIB_COMMAND"
"""Environment variable by which ``nsr reproduce`` tells a notebook the command that runs it, with its parameters."""


class VerdictError(AssertionError):
    """Numbers differ and nobody said why; the message names every one."""


class Ledger:
    """The numbers and claims of one paper in one run of its notebook.

    ``<paper>.json`` is written into ``out_dir`` after every change, in a notebook after every cell with changes; into
    nothing, where that is empty. It says which data sets and weights were used since the ledger was opened.
    """

    def __init__(self, paper: str, profile: str = "quick", out_dir: str | os.PathLike = "") -> None:
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
        self.paper, self.profile = paper, profile
        self.out_dir = Path(out_dir) if str(out_dir) else None
        self.published = published(paper).set_index("id", drop=False)
        self.rows: dict[str, dict[str, Any]] = {}
        self._started = time.time()
        self._opened = used.now()
        self._tables: dict[str, dict[str, Any]] = {}
        self._claims: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._waits = False  # whether a change is written when the notebook's cell has ended

    def compare(
        self, measured: Mapping[str, float], how: How, *, known: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """Put measured values beside the published ones, keep the verdicts, and return :meth:`table` of these cells.

        A value that is not finite leaves its number open.

        Args:
            measured: id of the published number -> our value in the same unit.
            how: ``exact``, ``data`` or ``weights``, see :func:`nsrlib.claims.judge`.
            known: id -> reason, for cells that are known to differ; they do not raise in :meth:`finish`.

        Raises:
            KeyError: an id that was never published; the message gives the nearest one.
            ValueError: another ``how``. The ledger is unchanged then.
        """
        if how not in HOW:
            raise ValueError(f"how must be one of {', '.join(HOW)}, got {how!r}")
        rows = {
            key: self._measured(key, float(value), how, (known or {}).get(key, "")) for key, value in measured.items()
        }
        self.rows |= rows
        self._changed()
        return self.table(list(measured))

    def _measured(self, key: str, value: float, how: How, known: str) -> dict[str, Any]:
        """The row of a measured number."""
        row = self._row(key)
        printed = row["published"]
        if not math.isfinite(value):
            return row | _unmeasured("open", "not a number" if math.isnan(value) else "infinite", "run")
        verdict = judge(value, printed, row["metric"], how, own=row["own"], source=row["source"])
        cut = "the printed number is cut, not rounded" if verdict != "differs" and is_cut(value, printed) else ""
        return row | {
            "ours": value,
            "difference": value - float(printed),
            "how": how,
            "verdict": verdict,
            "to_the_digit": how == "weights" and to_the_digit(value, printed),
            "needs": "",
            "reason": known if verdict == "differs" else cut,
        }

    def cells(self, table: str, frame: pd.DataFrame, **same: Any) -> dict[str, float]:
        """Our numbers by the ids of the printed cells that they belong to, for :meth:`compare`.

        Args:
            frame: a column for each metric, named as the printed ones (psnr, params), and the columns row, column and
                scale as far as they tell the cells apart; capitals do not matter. What is not a number, was not
                printed, or has an ``origin`` that is an unverified copy of a set, is left out.
            same: row, column or scale where all lines have the same.

        Raises:
            ValueError: a table without cells; a number that fits two of them, or two numbers for one.
        """
        printed = self.published[self.published["table"] == table].reset_index(drop=True)
        if printed.empty:
            tables = ", ".join(dict.fromkeys(self.published["table"]))
            raise ValueError(f"{self.paper} prints no table {table!r}; there are: {tables}")
        if "origin" in frame:
            frame = frame[~frame["origin"].astype(str).str.contains(UNVERIFIED)]
        frame = frame.reset_index(drop=True)
        frame.attrs = {}  # which pandas compares, and fails where they hold tables
        for word, value in same.items():
            frame[word] = value
        words = [word for word in ("row", "column", "scale") if word in frame]
        metrics = [name for name in frame if name in set(printed["metric"])]
        ours = frame.melt(words, metrics, var_name="metric", value_name="ours", ignore_index=False)
        ours = ours.sort_index(kind="stable").dropna(subset="ours").reset_index(drop=True)
        keys = [*words, "metric"]
        plain = [t[keys].astype(str).apply(lambda c: c.str.casefold()) for t in (ours, printed)]
        both = plain[0].assign(ours=ours["ours"], line=ours.index).merge(plain[1].assign(id=printed["id"]), on=keys)
        for one in ("id", "line"):
            if len(twice := both[both.duplicated(one, keep=False)]):
                raise ValueError(f"{table}: cells and numbers do not pair: {', '.join(dict.fromkeys(twice['id']))}")
        return {str(key): float(value) for key, value in zip(both["id"], both["ours"], strict=True)}

    def _published_row(self, key: str) -> Any:
        if key not in self.published.index:
            near = "".join(f"; near: {one}" for one in difflib.get_close_matches(key, list(self.published.index), 1))
            raise KeyError(f"{key!r} is not in data/published/{self.paper}.csv{near}")
        return self.published.loc[key]

    def _row(self, key: str) -> dict[str, Any]:
        """What the ledger says of a published number before anything is measured."""
        cell = self._published_row(key)
        return {
            "id": key,
            "paper": self.paper,
            **{k: cell[k] for k in ("table", "row", "column", "metric", "unit", "source")},
            "own": bool(cell["own"]),
            "scale": None if pd.isna(cell["scale"]) else int(cell["scale"]),
            "published": cell["value"],
            "cell": _executing(),
        }

    def table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows of the ledger for reading: published, ours (one digit more than printed), difference, verdict, source.

        The index is the cell's id; its pieces are shown as columns row, scale, column, metric.
        """
        columns = ["row", "scale", "column", "metric", "published", "ours", "difference", "verdict", "source"]
        rows = []
        for key in ids:
            r = self.rows[key]
            d = decimals(r["published"]) + 1
            unit = "" if r["unit"] == "1" else f" {r['unit']}"
            ours = difference = ""
            if r["ours"] is not None:
                ours, difference = f"{r['ours']:.{d}f}", f"{r['difference']:+.{d}f}"
            scale = f"x{r['scale']}" if r["scale"] else ""
            shown = {"published": r["published"] + unit, "scale": scale, "ours": ours, "difference": difference}
            rows.append(r | shown)
        return pd.DataFrame(rows, columns=columns, index=pd.Index(ids, name="id"))

    def printed(self, table: str, **only: Any) -> PrintedTable:
        """A table of the paper whole, as it was printed, with ours, verdict and source in every cell.

        A number that was not measured so far is open, or quoted; nothing is kept of that.

        Args:
            only: row, column, scale or metric, where not all of the table is meant.

        Raises:
            ValueError: no number is like that; lists what there is.

        Example:
            >>> ledger = Ledger("bsrn")
            >>> table = ledger.compare({"comparison/BSRN/x4/Set5/psnr": 32.351}, "weights")
            >>> print(ledger.printed("comparison", scale=4, row="BSRN", column="Set5").cells.iloc[0, 0])
            32.35 / 0.8966 (32.351 / –) ✓ / ○ [1]
        """
        fits, where = self.published, self.paper
        for word, value in {"table": table, **only}.items():
            if word not in ("table", "row", "column", "scale", "metric"):
                raise ValueError(f"tables are cut by row, column, scale or metric, not by {word}")
            there, fits = fits[word], fits[fits[word] == value]
            if fits.empty:
                known = ", ".join(map(str, dict.fromkeys(there.dropna())))
                raise ValueError(f"{where} prints no {word} {value!r}; there are: {known}")
            where = f"{where}, {value}"
        rows = [
            self.rows.get(key) or self._row(key) | _unmeasured("open" if own else "quoted", "", "")
            for key, own in zip(fits["id"], fits["own"], strict=True)
        ]
        return printed_table(rows, [self._line(row["id"]) for row in rows if row["ours"] is not None and row["reason"]])

    def verdict(self, table: pd.DataFrame) -> str:
        """One line for each cell of ``table`` (or a word that there is none); the same text in all runs that agree."""
        return "\n".join(self._line(str(key)) for key in table.index) or "not measured in this run"

    def _line(self, key: str) -> str:
        r = self.rows[key]
        scale = f" x{r['scale']}" if r["scale"] else ""
        column = "" if r["column"] == "model" else f" {r['column']}"
        unit = "" if r["unit"] in ("1", "") else f" {r['unit']}"
        ours = "" if r["ours"] is None else f"{as_printed(r['ours'], r['published'])} ours, "
        exactly = " to the digit" if r["to_the_digit"] else ""
        why = f" ({r['reason']})" if r["reason"] else ""
        cell = f"{r['row']}{scale}{column} {r['metric']}"
        return f"{cell}: {r['published']}{unit} published, {ours}{r['verdict']}{exactly}{why}"

    def close(self, needed: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Mark every published number that was not compared as open, or as quoted, with a reason that is computed.

        Args:
            needed: pattern of ids (``comparison/*/Manga109/*``; the first that fits counts) -> what measuring takes in
                general. It follows the reason, unless all that is lacking is a run that asks for the number.

        Returns:
            verdict, needs (see :data:`nsrlib.claims.NEEDS`), reason, number of cells, an example.
        """
        at_hand: dict[tuple[str, str, int | None], tuple[str, str]] = {}
        for cell in self.published.to_dict("records"):
            if cell["id"] in self.rows:
                continue
            row = self._row(cell["id"])
            needs, reason = "", "not the paper's own number"
            if row["own"]:
                what = (cell["needs"], row["column"], row["scale"])
                needs, reason = at_hand[what] = at_hand.get(what) or lacking(*what)
            patterns = (text for pattern, text in (needed or {}).items() if fnmatch.fnmatchcase(cell["id"], pattern))
            if needs != "run" and (more := next(patterns, "")):
                reason += f": {more}"
            self.rows[cell["id"]] = row | _unmeasured("open" if row["own"] else "quoted", reason, needs)
        self._changed()
        rows = pd.DataFrame(self.rows.values(), columns=["how", "verdict", "needs", "reason", "id"])
        unmeasured = rows[rows["how"] == "open"].groupby(["verdict", "needs", "reason"], sort=False)["id"]
        groups = unmeasured.agg(["size", "first"]).reset_index()
        return groups.set_axis(["verdict", "needs", "reason", "cells", "example"], axis=1)

    def finish(self) -> str:
        """The last call of a notebook: a sentence, if every number that differs has a reason.

        Raises:
            VerdictError: some have none; the message names all of them.
        """
        measured = [key for key, row in self.rows.items() if row["ours"] is not None]
        differs = [key for key in measured if self.rows[key]["verdict"] == "differs"]
        wrong = [self._line(key) for key in differs if not self.rows[key]["reason"]]
        if wrong:
            all_of_them = "; ".join(wrong)
            raise VerdictError(f"{len(wrong)} of {len(measured)} numbers differ without a reason: {all_of_them}")
        return f"{len(measured)} numbers measured, {len(differs)} differ, each with a reason"

    def counts(self) -> pd.DataFrame:
        rows = pd.DataFrame(self.rows.values(), columns=["table", "how", "verdict"])
        return rows.groupby(["table", "how", "verdict"]).size().rename("cells").reset_index()

    def note(self, sentence: str) -> None:
        """Tell the reader of the report something first: which data was used, what was missing."""
        self._notes.append(sentence)
        self._changed()

    def keep(self, name: str, table: pd.DataFrame, note: str) -> None:
        """Store a measured table that is no claim of the paper (times, say) with the results; ``note`` says how."""
        self._tables[name] = {"note": note, "rows": _records(table.reset_index())}
        self._changed()

    def keep_claims(self, table: pd.DataFrame) -> None:
        """Store what became of the paper's claims, see :func:`nsrlib.claims.judge_claims`.

        Raises:
            ValueError: a table without a column ``verdict``.
        """
        if "verdict" not in table:
            raise ValueError(f"the judged claims need a column verdict; there are: {', '.join(map(str, table))}")
        self._claims = _records(table)
        self._changed()

    @cached_property
    def _environment(self) -> dict[str, Any]:
        return {"versions": versions(), "device": device_name(), "threads": 0, "commit": commit(ROOT)}

    def provenance(self) -> dict[str, Any]:
        """Versions, device, commit, seconds, data and weights of this run; no paths, no names of machines."""
        import torch

        inputs = used.since(self._opened)
        return self._environment | {
            "threads": torch.get_num_threads(),
            "seconds": round(time.time() - self._started, 1),
            "data": inputs["data"],
            "weights": inputs["weights"],
            "command": os.environ.get(COMMAND) or f"nsr reproduce {self.paper} --profile {self.profile}",
        }

    def _changed(self) -> None:
        """Write the file, or see to it that it is written when the cell of the notebook has ended."""
        shell = _shell()
        if shell is None:
            self.save()
        elif not self._waits:
            self._waits = True
            shell.events.register("post_run_cell", self._cell_ended)

    def _cell_ended(self, *_: Any) -> None:
        _shell().events.unregister("post_run_cell", self._cell_ended)
        self._waits = False
        self.save()

    def save(self) -> None:
        """Write ``<out_dir>/<paper>.json`` in one step; does nothing without ``out_dir``."""
        if self.out_dir is None:
            return
        content: dict[str, Any] = {"paper": self.paper, "profile": self.profile, "rows": list(self.rows.values())}
        content |= {
            "claims": self._claims,
            "tables": self._tables,
            "notes": self._notes,
            "provenance": self.provenance(),
        }
        write_json(self.out_dir / f"{self.paper}.json", content)


def _unmeasured(verdict: str, reason: str, needs: str) -> dict[str, Any]:
    """What the ledger says of a number without a value of ours."""
    nothing = {"ours": None, "difference": None, "how": "open", "to_the_digit": False}
    return nothing | {"verdict": verdict, "needs": needs, "reason": reason}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, which has no NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if pd.isna(value) else value

    return [{str(k): plain(v) for k, v in row.items()} for row in table.astype(object).to_dict("records")]


def _shell() -> Any:
    """The IPython that runs the cells of a notebook; None elsewhere."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def _executing() -> int | None:
    """The ``[n]`` of the notebook cell that is being executed, for links to it; None elsewhere."""
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


def stored_results(paper: str) -> dict[str, Any] | None:
    """The stored run of the longest profile, or None. Damaged files raise ValueError naming the file."""
    numbers = numbers_of(paper)
    for profile in reversed(PROFILES):
        path = numbers.results / f"{profile}.json"
        if path.is_file():
            return _read_ledger(path, str(path.relative_to(numbers.root)))
    return None


def _read_ledger(path: Path, name: str) -> dict[str, Any]:
    """What :meth:`Ledger.save` wrote. ValueError, with ``name``, for anything else."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    keys = {"paper", "profile", "rows", "provenance"}
    if not isinstance(content, dict) or not keys <= content.keys() or not isinstance(content["rows"], list):
        raise ValueError(f"{name} is not a ledger")
    return content


def store(results: str | os.PathLike) -> list[Path]:
    """Copy the ledgers of a run folder to ``data/results/<paper>/<profile>.json`` and return their places."""
    folder = Path(results)
    folder = folder / "results" if (folder / "results").is_dir() else folder
    contents = [_read_ledger(path, path.name) for path in sorted(folder.glob("*.json"))]
    if not contents:
        raise ValueError(f"no results in {folder.name}")
    if alien := [content["profile"] for content in contents if content["profile"] not in PROFILES]:  # it names a file
        raise ValueError(f"a ledger of profile {alien[0]!r} cannot be stored; there are: {', '.join(PROFILES)}")
    targets = [numbers_of(content["paper"]).results / f"{content['profile']}.json" for content in contents]
    for content, target in zip(contents, targets, strict=True):
        stored = _measured_cells(_read_ledger(target, target.name)) if target.is_file() else set()
        if lost := sorted(stored - _measured_cells(content)):
            raise ValueError(
                f"this run of {content['paper']} lacks {len(lost)} of the {len(stored)} cells that are stored, first "
                f"{lost[0]}; delete data/results/{content['paper']}/{target.name} to store it all the same"
            )
    for content, target in zip(contents, targets, strict=True):
        rows = [{k: v for k, v in row.items() if k != "cell"} for row in content["rows"]]  # numbers of that run only
        write_json(target, content | {"rows": rows})
    return targets


def _measured_cells(ledger: Mapping[str, Any]) -> set[str]:
    return {row["id"] for row in ledger["rows"] if row["how"] != "open"}


def show(table: pd.DataFrame) -> pd.DataFrame:
    """A ledger table for a page: without ids, sources shortened ("recalled" comes first and stays)."""
    short = [text if len(text) <= 40 else text[:37] + "..." for text in table["source"]]
    return table.assign(source=short).set_index(["row", "scale", "column", "metric"])
