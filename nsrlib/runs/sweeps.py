"""Sweeps: one notebook, run for every point of a grid of its parameters, on the cores of this machine or on a cluster.

A sweep folder holds

    sweep.json                     what was asked for, how each run ended, versions, commit, hash of the notebook
    runs/scale-2-seed-0-1a2b3c4d/  a finished run: a folder as in :mod:`nsrlib.runs`, without a page of its own
    attempts/scale-2-...-1a2b3c4d.1/   a run that goes on, has failed, or was killed
    sweep.csv                      one row for each run and number
    figures/                       the numbers over the swept parameters
    index.html, summary.png        the report

A run is made in ``attempts`` and moved to ``runs`` in one step once it has ended well: what is in ``runs`` is whole,
and there once, whatever was killed on the way. Its name ends in a digest of the notebook's sources, the parameters and
the profile, so the same command goes on where it was stopped, and a larger grid in the same folder repeats nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import TimeRemainingColumn

from nsrlib.files import lock, sha256_of
from nsrlib.runs import batch, cluster, sweep_pages
from nsrlib.runs.grids import as_text, read_grid
from nsrlib.runs.notebooks import check_parameters, digest, known_parameters
from nsrlib.runs.progress import Bars
from nsrlib.runs.record import Interrupted, Sweep, SweepRun, finished
from nsrlib.runs.texts import clock, short_path


def sweep(
    paper: str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    points: str | Path | Sequence[Mapping[str, Any]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    profile: str = "quick",
    out: str | Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    timeout: float | None = None,
    progress: bool = True,
    notebooks_dir: str | Path | None = None,
) -> Sweep:
    """Run a notebook for every point of a grid and write a table, figures and a report.

    Finished runs of the folder are kept. A run that fails is tried once more, then reported; a worker that dies is
    replaced, and its run starts again. A script needs ``if __name__ == "__main__":`` around it.

    Args:
        grid: parameter -> its values; all combinations are run.
        points: a grid file (:func:`read_grid`) or a list of ``{name: value}``; combined with those of ``grid``.
        parameters: the same for all runs.
        out: the sweep's folder; default: ``runs/sweeps/<paper>-<profile>`` in the checkout, else here.
        workers: runs at once on this machine; default: one a core. A kernel gets cores / workers threads.
        scheduler: address of a running Dask scheduler (``tcp://host:8786``) whose workers see the same folders.
        timeout, progress, notebooks_dir: as for :func:`nsrlib.runs.reproduce`.

    Raises:
        ValueError: unknown notebook, profile or parameter, a value of the wrong type, no grid; before anything is run.
        FileExistsError: the folder holds something else, or another sweep is at work in it.
        ImportError: Dask is not installed.
        OSError: the folder cannot be written, the scheduler cannot be reached, or too few files may be open.
        Interrupted: on Ctrl-C, after the workers are stopped and the report is written.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if workers is not None and scheduler:
        raise ValueError("workers are those of the scheduler: leave one of the two out")
    listed = read_grid(points) if isinstance(points, str | Path) else list(points or [])
    if not grid and not listed:
        raise ValueError("nothing to sweep over: give -g name=v1,v2,... or a grid file")
    notebook = batch.choose(paper, batch.notebooks(notebooks_dir))[paper]
    sha256 = digest(notebook)
    planned = plan(notebook, sha256, profile, grid or {}, listed or [{}], parameters or {})
    if find_spec("distributed") is None:
        raise ImportError("nsr sweep needs Dask: pip install 'nsrlib[sweep]'")

    if not scheduler:
        batch.allow_open_files(min(workers or batch.cores(), len(planned)))
    folder = Path(out or batch.default_folder() / "sweeps" / f"{paper}-{profile}").resolve()
    bars = Bars(progress, sys.stderr, TimeRemainingColumn())
    with lock(_prepare(folder), "sweep"):
        about = batch.about(_words(paper, grid or {}, points), profile, parameters or {})
        this = Sweep(folder, paper, profile, planned, about=about | {"notebook_sha256": sha256})
        _set_damaged_aside(this, bars)
        this.look()
        todo = [run for run in this.runs if run.status != "ok"]
        if len(todo) < len(planned):
            bars.say(f"{len(planned) - len(todo)} of {len(planned)} runs are finished already")
        this.save()
        source = (notebook if notebooks_dir else batch.ready(notebook, folder / "sources")).parent
        before = {run.key: run.attempts for run in todo}
        started, stopped = time.monotonic(), False
        try:
            if todo:
                cluster.execute(this, todo, source, bars, workers=workers, scheduler=scheduler, timeout=timeout)
        except KeyboardInterrupt:
            stopped = True
        this.look()
        for run in todo:
            if stopped and run.status == "pending" and run.attempts > before[run.key]:
                run.status = "interrupted"
        this.status = "interrupted" if stopped else "finished" if this.ok else "failed"
        this.seconds = round(time.monotonic() - started, 1)
        this.save()
        _clear_attempts(this)
        sweep_pages.write_page(this)
    if stopped:
        raise Interrupted(this)
    return this


def plan(
    notebook: Path,
    sha256: str,
    profile: str,
    grid: Mapping[str, Sequence[Any]],
    points: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, Any],
) -> list[SweepRun]:
    """Every point once, its parameters checked and in the types that the notebook takes."""
    paper = notebook.stem
    if twice := sorted((set(fixed) & set(grid)) | {k for point in points for k in point if k in grid or k in fixed}):
        raise ValueError(f"{twice[0]!r} is given twice: as a parameter, in the grid or in the grid file")
    for name, values in grid.items():
        if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"the values of {name!r} must be a list that is not empty, got {values!r}")
    accepted = known_parameters({paper: notebook})
    planned: dict[str, SweepRun] = {}
    for point in points:
        for values in itertools.product(*grid.values()):
            given = {**fixed, **point, **dict(zip(grid, values, strict=True))}
            checked = check_parameters(accepted, profile, given)[paper]
            own = {k: v for k, v in checked.items() if k != "profile"}
            text = json.dumps([sha256, profile, own], sort_keys=True)
            words = "-".join(f"{k}-{as_text(v)}" for k, v in own.items() if k not in fixed)
            slug = re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:48].rstrip("-.")
            key = f"{slug or paper}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
            planned.setdefault(key, SweepRun(key, own))
    return list(planned.values())


def _words(paper: str, grid: Mapping[str, Sequence[Any]], points: object) -> list[str]:
    """The command, but for profile and parameters."""
    words = ["sweep", paper, *(word for name, values in grid.items() for word in ("-g", f"{name}={list(values)}"))]
    if points:
        words += ["--grid", Path(points).name if isinstance(points, str | Path) else "points.json"]
    return words


def _prepare(folder: Path) -> Path:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    # a sweep that ended before it had planned anything leaves no more than these
    if "sweep.json" not in there and there - {"runs", "attempts", "sweep.lock", ".sweep.owner"}:
        raise FileExistsError(f"{short_path(folder)} is not empty and no sweep: choose another folder")
    return batch.make_folder(folder, "runs", "attempts")


def _set_damaged_aside(this: Sweep, bars: Bars) -> None:
    """Take finished runs whose files are not what they were out of ``runs``, so that they are made anew."""
    for run in this.runs:
        place = this.folder / "runs" / run.key
        if not place.exists():
            continue
        done = finished(place)
        hashes = done.about.get("files", {}) if done else {"run.json": ""}
        wrong = [name for name, digest in hashes.items() if not done or sha256_of(place / name) != digest]
        if wrong:
            bars.say(f"{this.label(run)}: {wrong[0]} is damaged or missing; it runs again")
            os.replace(place, cluster.next_attempt(this.folder, run.key))


def _clear_attempts(this: Sweep) -> None:
    """Remove what earlier attempts of finished runs have left."""
    for run in this.runs:
        for path in (this.folder / "attempts").glob(f"{run.key}.*") if run.status == "ok" else ():
            shutil.rmtree(path, ignore_errors=True)


def report(folder: str | Path) -> Path:
    """Build table, figures and page of a sweep folder from what lies in it, and return the page. Nothing is run.

    Raises:
        ValueError: it holds no sweep, or its ``sweep.json`` is no JSON. Any other damage is named on the page.
    """
    damage: list[str] = []
    return sweep_pages.write_page(Sweep.load(folder, damage), damage)


def summary(sweep: Sweep) -> str:
    """A few lines for the console: what failed and why, how many runs ended well, where the report is."""
    labels = sweep.labels()
    lines = [
        f"✗ {labels[run.key]}: {run.error or 'failed'} ({run.attempts} attempts)"
        for run in sweep.runs
        if run.status == "failed"
    ]
    done = sum(run.status == "ok" for run in sweep.runs)
    lines.append(f"{done} of {len(sweep.runs)} runs ended well in {clock(sweep.seconds)}")
    if sweep.status == "interrupted":
        lines.append("interrupted: the same command goes on where it was stopped")
    table, page = (short_path(sweep.folder / name) for name in ("sweep.csv", "index.html"))
    return "\n".join([*lines, f"table: {table}", f"report: {page}"])
