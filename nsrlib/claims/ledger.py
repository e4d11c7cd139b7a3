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
from pathlib import Path
from typing import Any

import pandas as pd

from nsrlib.claims.numbers import PROFILES, How, as_printed, decimals, judge, numbers_of, published
from nsrlib.files import ROOT, commit, device_name, versions, write_json
from nsrlib.studies import StudyResult, ordering


class VerdictError(AssertionError):
    """A claim that was expected to hold does not; the message names every cell."""


class Ledger:
    """The claims of one paper in one run of its notebook.

    ``<paper>.json`` is written into ``out_dir`` after every change; into nothing, where that is empty.
    """

    def __init__(self, paper: str, profile: str = "quick", out_dir: str | os.PathLike = "") -> None:
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
        self.paper, self.profile = paper, profile
        self.out_dir = Path(out_dir) if str(out_dir) else None
        self.published = published(paper).set_index("id", drop=False)
        self.rows: dict[str, dict[str, Any]] = {}
        self._started = time.time()
        self._data: dict[str, dict[str, str]] = {}
        self._weights: dict[str, dict[str, str]] = {}
        self._tables: dict[str, dict[str, Any]] = {}
        self._notes: list[str] = []

    def compare(
        self, measured: Mapping[str, float], how: How, *, known: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """Put measured values beside the published ones, keep the verdicts, and return :meth:`table` of these cells.

        Args:
            measured: id of the published number -> our value in the same unit.
            known: id -> reason, for cells that are known to differ; they do not raise in :meth:`verdict`.

        Raises:
            KeyError: an id that was never published; the message gives the nearest one.
            ValueError: a value that is not finite. The ledger is unchanged then.
        """
        rows = {}
        for key, value in measured.items():
            row = self._row(key)
            if not math.isfinite(value):
                raise ValueError(f"{key} is not a finite number: {value}")
            rows[key] = row | {
                "ours": float(value),
                "difference": float(value) - float(row["published"]),
                "how": how,
                "verdict": judge(float(value), row["published"], row["metric"], how),
                "reason": (known or {}).get(key, ""),
            }
        self.rows |= rows
        self.save()
        return self.table(list(measured))

    def cells(self, table: str, frame: pd.DataFrame, **same: Any) -> dict[str, float]:
        """Our numbers by the ids of the printed cells that they belong to, for :meth:`compare`.

        Args:
            frame: a column for each metric, named as the printed ones (psnr, params), and the columns row, column and
                scale as far as they tell the cells apart; capitals do not matter. What is not a number, or was not
                printed, is left out.
            same: row, column or scale where all lines have the same.

        Raises:
            ValueError: a table without cells; a number that fits two of them, or two numbers for one.
        """
        printed = self.published[self.published["table"] == table].reset_index(drop=True)
        if printed.empty:
            tables = ", ".join(dict.fromkeys(self.published["table"]))
            raise ValueError(f"{self.paper} prints no table {table!r}; there are: {tables}")
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

    def orderings(
        self, table: str, pairs: Mapping[str, tuple[str, str]] | Sequence[tuple[str, str]], **same: Any
    ) -> dict[str, tuple[str, str]]:
        """Printed orderings by their ids, for :meth:`trend`.

        Args:
            pairs: (better variant, worse variant), as printed; or the printed row ``better > worse`` -> such a pair.
            same: as in :meth:`cells`.

        Raises:
            ValueError: an ordering that the table does not print.
        """
        named = pairs if isinstance(pairs, Mapping) else {f"{a} > {b}": (a, b) for a, b in pairs}
        frame = pd.DataFrame({"row": list(named), "ordering": range(len(named))})
        found = self.cells(table, frame, **same)
        variants = list(named.values())
        if missing := set(range(len(named))) - set(found.values()):
            raise ValueError(f"{table} prints no ordering {', '.join(list(named)[int(k)] for k in sorted(missing))}")
        return {key: variants[int(k)] for key, k in found.items()}

    def trend(self, study: StudyResult | None, metric: str, claims: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
        """Test orderings that the paper claims (published value ``>0``) on a trained study.

        Args:
            study: None, where it is not stored, gives an empty table.
            metric: one of its columns, in the claims' unit.
            claims: id of the published ordering -> (better variant, worse variant).

        Returns:
            :meth:`table` of these cells; ours is the mean difference, the verdict that of :func:`studies.ordering`.

        Raises:
            KeyError: an id that was never published.
            ValueError: an unknown variant or metric; an id that is no ordering.
        """
        if study is None:
            return self.table([])
        for key in claims:
            if (found := self._published_row(key)["metric"]) != "ordering":
                raise ValueError(f"{key} is no ordering, its metric is {found}")
        tested = ordering(study.table, metric, list(claims.values()))
        words = {"ordering holds": "trend holds", "does not": "differs", "too few seeds": "open"}
        for key, test in zip(claims, tested.to_dict("records"), strict=True):
            verdict = words.get(test["verdict"], test["verdict"])
            interval = f"95 %: {test['low']:+.3f} to {test['high']:+.3f}, {test['seeds']} seeds"
            measured = {"ours": float(test["difference"]), "how": "trained", "reason": interval}
            few = {"ours": None, "how": "open", "reason": f"only {test['seeds']} seeds"}
            outcome = {"difference": None, "verdict": verdict, "scale of training": study.describe()}
            self.rows[key] = self._row(key) | outcome | (few if verdict == "open" else measured)
        self.save()
        return self.table(list(claims))

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
            if r["metric"] == "ordering":
                ours, difference = "" if r["ours"] is None else f"{r['ours']:+.3f}{unit}", r["reason"]
            elif r["ours"] is not None:
                ours, difference = f"{r['ours']:.{d}f}", f"{r['difference']:+.{d}f}"
            scale = f"x{r['scale']}" if r["scale"] else ""
            shown = {"published": r["published"] + unit, "scale": scale, "ours": ours, "difference": difference}
            rows.append(r | shown)
        return pd.DataFrame(rows, columns=columns, index=pd.Index(ids, name="id"))

    def verdict(self, table: pd.DataFrame) -> str:
        """One line for each cell of ``table`` (or a word that there is none); the same text in all runs that agree.

        Raises:
            VerdictError: a cell differs and no reason was given for it.
        """
        if table.empty:
            return "not measured: data or weights are not at hand"
        lines, wrong = [], []
        for key in table.index:
            r = self.rows[str(key)]
            scale = f" x{r['scale']}" if r["scale"] else ""
            column = "" if r["column"] == "model" else f" {r['column']}"
            unit = "" if r["unit"] in ("1", "") else f" {r['unit']}"
            if r["metric"] == "ordering" and r["ours"] is not None:
                lines.append(f"{r['row']}: {r['verdict']}, {r['ours']:+.3f}{unit} ({r['reason']})")
                continue
            ours = "" if r["ours"] is None else f"{as_printed(r['ours'], r['published'])} ours, "
            cell = f"{r['row']}{scale}{column} {r['metric']}"
            line = f"{cell}: {r['published']}{unit} published, {ours}{r['verdict']}"
            if r["ours"] is None or (r["verdict"] == "differs" and r["reason"]):
                line += f" ({r['reason']})"
            elif r["verdict"] == "differs":
                wrong.append(line)
            lines.append(line)
        if wrong:
            raise VerdictError(f"{len(wrong)} of {len(lines)} cells differ: " + "; ".join(wrong))
        return "\n".join(lines)

    def close(self, reasons: Mapping[str, str], *, quoted: Sequence[str] = ()) -> pd.DataFrame:
        """Mark every published number that was not compared as open, or as quoted.

        Args:
            reasons: pattern of ids (``comparison/*/Manga109/*``; the first match counts) -> why.
            quoted: patterns of ids that the paper took from other papers and does not claim; ``reasons`` come first.
        """
        for key in self.published.index:
            if key in self.rows:
                continue
            why = next((text for pattern, text in reasons.items() if fnmatch.fnmatchcase(str(key), pattern)), "")
            is_quoted = not why and any(fnmatch.fnmatchcase(str(key), pattern) for pattern in quoted)
            why = why or ("quoted by the paper from other papers" if is_quoted else "not attempted")
            outcome = {"verdict": "quoted" if is_quoted else "open", "reason": why}
            self.rows[str(key)] = self._row(str(key)) | {"ours": None, "difference": None, "how": "open"} | outcome
        self.save()
        rows = pd.DataFrame(self.rows.values(), columns=["how", "verdict", "reason", "id"])
        groups = (
            rows[rows["how"] == "open"]
            .groupby(["verdict", "reason"], sort=False)["id"]
            .agg(["size", "first"])
            .reset_index()
        )
        return groups.set_axis(["verdict", "reason", "cells", "example"], axis=1)

    def counts(self) -> pd.DataFrame:
        rows = pd.DataFrame(self.rows.values(), columns=["table", "how", "verdict"])
        return rows.groupby(["table", "how", "verdict"]).size().rename("cells").reset_index()

    def used_results(self, results: pd.DataFrame) -> None:
        """Remember which data an :func:`nsrlib.evaluation.benchmark` table came from."""
        for table in results.attrs["tables"].values():
            a = table.attrs
            self._data[f"{a['dataset']} x{a['scale']}"] = {"origin": a["origin"], "sha256": a["sha256"]}

    def used_weights(self, *filenames: str) -> None:
        """Remember published weights by their hash and repository, as far as they are at hand."""
        from nsrlib import data
        from nsrlib.data.download import sha256_of

        for filename in filenames:
            try:
                path = data.weights_path(filename, download=False)
            except data.DataUnavailable:
                continue
            source = data.sources()[f"weights/{filename}"]
            owner, repository, commit = source.url.split("/")[3:6]
            origin = f"{owner}/{repository}@{commit[:7]}" + ("" if source.verified else ", unverified")
            self._weights[filename] = {"origin": origin, "sha256": sha256_of(path)}

    def note(self, sentence: str) -> None:
        """Tell the reader of the report something first: which data was used, what was missing."""
        self._notes.append(sentence)
        self.save()

    def keep(self, name: str, table: pd.DataFrame, note: str) -> None:
        """Store a measured table that is no claim of the paper (times, say) with the results; ``note`` says how."""
        rows = table.reset_index().astype(object)
        rows = rows.where(rows.notna(), None)  # JSON has no NaN
        self._tables[name] = {"note": note, "rows": rows.to_dict("records")}
        self.save()

    def provenance(self) -> dict[str, Any]:
        """Versions, device, commit, seconds, data and weights of this run; no paths, no names of machines."""
        import torch

        return {
            "versions": versions(),
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "commit": commit(ROOT),
            "seconds": round(time.time() - self._started, 1),
            "data": self._data,
            "weights": self._weights,
            "command": f"nsr reproduce {self.paper} --profile {self.profile}",
        }

    def save(self) -> None:
        """Write ``<out_dir>/<paper>.json`` in one step; does nothing without ``out_dir``."""
        if self.out_dir is None:
            return
        content: dict[str, Any] = {"paper": self.paper, "profile": self.profile, "rows": list(self.rows.values())}
        content |= {"tables": self._tables, "notes": self._notes, "provenance": self.provenance()}
        write_json(self.out_dir / f"{self.paper}.json", content)


def _executing() -> int | None:
    """The ``[n]`` of the notebook cell that is being executed, for links to it; None elsewhere."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
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
