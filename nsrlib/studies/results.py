"""What came out of a study: rows, one for every run and test image, kept as CSV."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nsrlib.files import whole_file, write_json

COLUMNS = (
    "variant", "seed", "set", "image", "psnr", "ssim", "steps", "batch", "patch", "params", "loss", "seconds", "task",
    "recipe_sha256", "data_sha256", "commit", "device", "isa", "threads", "torch",
)  # fmt: skip
"""Columns of a stored study; those of a study's own measures follow, the same on all rows of a run."""
TEXT = ("variant", "set", "image", "task", "recipe_sha256", "data_sha256", "commit", "device", "isa", "torch")
KEY = ["variant", "seed", "steps"]
PILOT = "pilot"
"""Profile of stored studies with too few seeds to decide anything: they tell how large the noise is."""


def rows_of(found: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a finished run: what its task returned, and what is the same on all of them.

    A task without ``scores`` makes one row, whose set and image are empty.
    """
    metrics = {k: v for k, v in found.items() if k not in ("scores", "curve", "data")}
    images = found.get("scores") or [{"set": "", "image": ""}]
    return [dict.fromkeys(COLUMNS) | dict(about) | dict(image) | metrics for image in images]


@dataclass
class StudyResult:
    """Finished runs of a study.

    Attributes:
        rows: one a run, test set and image, with the columns :data:`COLUMNS` and the study's own; all budgets.
        curve_rows: one a point of a learning curve: variant, seed, steps (of the run), step, ...
        settings: of the whole budget, by variant.
        tests: test set -> SHA-256.
        profile: under which it is stored; :data:`PILOT` for what decides nothing.
    """

    name: str
    rows: pd.DataFrame
    curve_rows: pd.DataFrame
    settings: dict[str, dict[str, Any]]
    note: str = ""
    tests: dict[str, str] = field(default_factory=dict)
    profile: str = ""

    @classmethod
    def of_rows(
        cls,
        name: str,
        rows: Iterable[Mapping[str, Any]],
        curves: Iterable[Mapping[str, Any]] = (),
        settings: dict[str, dict[str, Any]] | None = None,
        note: str = "",
        tests: dict[str, str] | None = None,
    ) -> StudyResult:
        """Of rows and points that may lack columns; ``settings``: by default none, for the variants in their order.

        Example:
            >>> rows = [{"variant": v, "seed": s, "set": "set5", "psnr": 30.0 + s} for v in "ab" for s in (0, 1)]
            >>> StudyResult.of_rows("an example", rows).table
              variant  seed  psnr_set5
            0       a     0       30.0
            1       a     1       31.0
            2       b     0       30.0
            3       b     1       31.0
        """
        table = _frame([{"set": "", "image": "", **row} for row in rows], COLUMNS)
        named = {v: {} for v in table["variant"]} if settings is None else settings
        return cls(name, table, _frame([dict(point) for point in curves], KEY), named, note, tests or {})

    @property
    def pilot(self) -> bool:
        return self.profile == PILOT

    @property
    def budgets(self) -> list[int]:
        """Steps that variants were trained for, ascending."""
        return sorted({int(steps) for steps in self.rows["steps"].dropna()})

    @property
    def variants(self) -> list[str]:
        """Variants with a run of the whole budget."""
        return list(dict.fromkeys(self._whole(self.rows)["variant"]))

    def _whole(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of the whole budget."""
        whole = {name: s["recipe"]["iterations"] for name, s in self.settings.items() if "recipe" in s}
        steps = table["variant"].map(whole) if len(table) else pd.Series(dtype=float)
        return table[(table["steps"] == steps) | table["steps"].isna() | steps.isna()] if len(table) else table

    def at(self, steps: int) -> StudyResult:
        """The runs of one budget, as a study of which that is the whole.

        Raises:
            ValueError: a budget that the study has not; lists those it has.
        """
        if steps not in self.budgets:
            raise ValueError(f"study {self.name!r} has no runs of {steps} steps; there are: {self.budgets}")
        settings = {
            name: one | {"recipe": one["recipe"] | {"iterations": steps}} if "recipe" in one else one
            for name, one in self.settings.items()
        }
        curves = self.curve_rows[self.curve_rows["steps"] == steps] if len(self.curve_rows) else self.curve_rows
        return replace(self, rows=self.rows[self.rows["steps"] == steps], curve_rows=curves, settings=settings)

    @property
    def table(self) -> pd.DataFrame:
        """A row a run of the whole budget: variant, seed, ``psnr_<set>`` and ``ssim_<set>`` (means over images), then
        params, loss, seconds and the study's own measures."""
        rows = self._whole(self.rows)
        own = [c for c in self._measures() if c not in ("psnr", "ssim")]
        order = {name: place for place, name in enumerate(self.settings)}
        found = []
        for (variant, seed), run in rows.groupby(["variant", "seed"], sort=False):
            means = {(s, m): images[m].mean() for s, images in run.groupby("set", sort=False) for m in ("psnr", "ssim")}
            scores = {f"{m}_{s!s}" if s else m: value for (s, m), value in means.items() if value == value}
            found.append({"variant": variant, "seed": seed, **scores, **run.iloc[0][own]})
        table = pd.DataFrame(found, columns=["variant", "seed"] if not found else None)
        table = table.sort_values(["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c)
        return table.dropna(axis=1, how="all").infer_objects().reset_index(drop=True)

    @property
    def curves(self) -> pd.DataFrame:
        """A row a point of every learning curve of the whole budget: variant, seed, step, ..."""
        return self._whole(self.curve_rows).drop(columns="steps", errors="ignore").reset_index(drop=True)

    def scores(self, sets: Sequence[str] | None = None, metric: str = "psnr", steps: int | None = None) -> pd.DataFrame:
        """What :mod:`nsrlib.statistics` takes: variant, seed, set, image, value.

        Args:
            sets: test sets; None: all.
            metric: ``psnr``, ``ssim``; or a measure of the study's own, or a column of :attr:`table`, which give one
                row a run with an empty set and image.
            steps: a budget; None: the whole.

        Raises:
            ValueError: a set, metric or budget that the study has not; lists those it has.
        """
        if metric not in self._measures():
            table = self.table
            if metric not in table or metric in ("variant", "seed"):
                measures = [*self._measures(), *(str(c) for c in table if c not in self.rows)]
                raise ValueError(f"study {self.name!r} has no metric {metric!r}; there are: {', '.join(measures)}")
            means = table[["variant", "seed", metric]].rename(columns={metric: "value"}).assign(set="", image="")
            return means.dropna(subset="value")[["variant", "seed", "set", "image", "value"]].reset_index(drop=True)
        if steps is not None and steps not in self.budgets:
            raise ValueError(f"study {self.name!r} has no runs of {steps} steps; there are: {self.budgets}")
        rows = self._whole(self.rows) if steps is None else self.rows[self.rows["steps"] == steps]
        if metric not in ("psnr", "ssim"):
            rows = rows.drop_duplicates(["variant", "seed"]).assign(set="", image="")
        elif sets is not None:
            have = list(dict.fromkeys(self.rows["set"]))
            if missing := [name for name in sets if name not in have]:
                raise ValueError(f"study {self.name!r} was not scored on {missing[0]!r}; there are: {', '.join(have)}")
            rows = rows[rows["set"].isin(sets)]
        found = rows[["variant", "seed", "set", "image", metric]].rename(columns={metric: "value"})
        return found.dropna(subset="value").reset_index(drop=True)

    def _measures(self) -> list[str]:
        named = ("psnr", "ssim", "params", "loss", "seconds")
        return [str(c) for c in self.rows if c in named or c not in COLUMNS]

    @property
    def seeds(self) -> list[int]:
        """Seeds that every variant has, at the whole budget."""
        runs = self._whole(self.rows)
        by_variant = [set(runs.loc[runs["variant"] == v, "seed"]) for v in self.settings]
        return sorted(int(s) for s in set.intersection(*by_variant)) if by_variant else []

    def describe(self) -> str:
        """How the numbers came about, in a sentence."""
        devices = sorted(set(self.rows["device"].dropna()))
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) != 1 else "1 seed"
        kind = "a pilot, which decides nothing: " if self.pilot else ""
        return f"{self.note.rstrip('. ')}; {kind}{seeds}, {', '.join(devices)}.".lstrip("; ")

    def only(self, variants: Mapping[str, str] | Iterable[str], name: str = "") -> StudyResult:
        """Some variants, in this order; a mapping gives them other names, ``{here: there}``."""
        names = dict(variants) if isinstance(variants, Mapping) else {v: v for v in variants}

        def chosen(table: pd.DataFrame) -> pd.DataFrame:
            some = table[table["variant"].isin(names)] if len(table) else table
            return some.assign(variant=some["variant"].map(names)) if len(some) else some

        settings = {there: self.settings[here] for here, there in names.items()}
        rows, curves = chosen(self.rows), chosen(self.curve_rows)
        return replace(self, name=name or self.name, rows=rows, curve_rows=curves, settings=settings)

    def store(self, path: str | os.PathLike) -> Path:
        """Write ``path``, a ``.csv``; beside it curves (``.curves.csv``), settings and note (``.json``)."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        order = {name: place for place, name in enumerate(self.settings)}

        def placed(table: pd.DataFrame) -> pd.DataFrame:
            return table.sort_values(KEY, key=lambda c: c.map(order) if c.name == "variant" else c, kind="stable")

        _write_csv(path, placed(self.rows))
        curves = path.with_suffix(".curves.csv")
        if len(self.curve_rows):
            _write_csv(curves, placed(self.curve_rows))
        about = {"name": self.name, "note": self.note, "tests": self.tests, "settings": self.settings}
        write_json(path.with_suffix(".json"), about)
        return path


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with whole_file(path) as draft:
        kept = table.dropna(axis=1, how="all") if len(table) else table
        kept.to_csv(draft, index=False, lineterminator="\n")


def collected(name: str, files: Iterable[Path], settings: dict[str, dict[str, Any]], note: str) -> StudyResult:
    """The runs in files that :func:`nsrlib.studies.run_all` left."""
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    tests: dict[str, str] = {}
    for path in files:
        try:
            run = json.loads(path.read_text())
            rows += run["rows"]
            first = run["rows"][0]
            curves += [{key: first[key] for key in KEY} | point for point in run["curve"]]
            tests |= run["tests"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{path.name} is not a finished run ({type(error).__name__}: {error}); delete it, and it is run again"
            ) from None
    return StudyResult.of_rows(name, rows, curves, settings, note, tests)


def _frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=None if rows else list(columns))
    return table.reindex(columns=[*columns, *(c for c in table if c not in columns)])


def load_study(path: str | os.PathLike) -> StudyResult:
    """What :meth:`StudyResult.store` wrote. ValueError that names the file if it is something else."""
    path = Path(path)
    curves = path.with_suffix(".curves.csv")
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        rows = _read_csv(path, COLUMNS)
        points = _read_csv(curves, KEY) if curves.is_file() else _frame([], KEY)
        profile = path.stem.rpartition(".")[2]
        return StudyResult(about["name"], rows, points, about["settings"], about["note"], about["tests"], profile)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not a stored study: {error}") from None


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    if missing := {"variant", "seed"} - set(table):
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    table = table.reindex(columns=[*columns, *(c for c in table if c not in columns)])
    texts = [c for c in ("variant", "set", "image") if c in table]
    return table.fillna(dict.fromkeys(texts, ""))


def merged(stored: StudyResult | None, fresh: StudyResult) -> StudyResult:
    """Rows that are stored, and those of further runs.

    Raises:
        ValueError: a variant was stored with other settings, or scored on other test images; a row was made by code
            that no commit has.
    """
    commits = sorted({str(c) for c in fresh.rows["commit"] if c != c or c in (None, "unknown") or c.endswith("-dirty")})
    if commits:
        raise ValueError(
            f"runs of study {fresh.name!r} were made by code that no commit has ({', '.join(commits)}): they are not "
            "stored; commit the code and run them from there (nsr study --worktree)"
        )
    if stored is None:
        return fresh
    if other := [n for n in fresh.tests if stored.tests.get(n, fresh.tests[n]) != fresh.tests[n]]:
        raise ValueError(f"study {fresh.name!r} is stored with other images of {', '.join(other)}")
    before, now = (dict(zip(_runs(r.rows), r.rows["recipe_sha256"], strict=True)) for r in (stored, fresh))
    if changed := sorted({str(run[0]) for run in now if before.get(run, now[run]) != now[run]}):
        raise ValueError(f"study {fresh.name!r} is stored with other settings of {', '.join(changed)}: remove its rows")
    rows, curves = (
        pd.concat([old, new[[run not in before for run in _runs(new)]]], ignore_index=True) if len(old) else new
        for old, new in ((stored.rows, fresh.rows), (stored.curve_rows, fresh.curve_rows))
    )
    return replace(fresh, rows=rows, curve_rows=curves, tests=stored.tests | fresh.tests)


def _runs(table: pd.DataFrame) -> list[tuple[str, int, int]]:
    """The run of every row: variant, seed, steps (-1 where a task has none)."""
    return list(zip(table["variant"], table["seed"], table["steps"].fillna(-1).astype(int), strict=True))
