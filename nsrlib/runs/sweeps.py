"""Sweeps: one notebook, run for every point of a grid of its parameters, on the cores of this machine or on a cluster.

The runs are handed to Dask (the extra ``sweep``). A sweep folder holds

    sweep.json                     what was asked for, how each run ended, versions, commit, hash of the notebook
    runs/scale-2-seed-0-1a2b3c4d/  a finished run: a folder as in :mod:`nsrlib.runs`, without a page of its own
    attempts/scale-2-...-1a2b3c4d.1/   a run that goes on, has failed, or was killed
    sweep.csv                      one row for each run and number; ``sweep.parquet`` too where pyarrow is installed
    figures/                       the numbers over the swept parameters
    index.html, summary.png        the report

A run is made in ``attempts`` and moved to ``runs`` in one step once it has ended well: what is in ``runs`` is whole,
and there once, whatever was killed on the way. Its name ends in a digest of the notebook's sources, the parameters and
the profile, so the same command goes on where it was stopped, and a larger grid in the same folder repeats nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO

import filelock

from nsrlib.runs import batch
from nsrlib.runs import sweep_pages
from nsrlib.files import ROOT, one_line, sha256_of, write_text
from nsrlib.runs.worker import Scrubber, cause_of, map_strings
from nsrlib.runs.grids import as_text, literal, read_grid
from nsrlib.runs.pages import clock
from nsrlib.claims import PROFILES

NOTEBOOKS = ROOT / "notebooks"
_CONNECT_SECONDS = 20  # for a scheduler to answer
RETRIES = 1  # a run that fails is tried once more, as far as possible by another worker


@dataclass
class SweepRun:
    """One point of the grid; ``status`` is pending, running, ok, failed or interrupted."""

    key: str
    parameters: dict[str, Any]
    status: str = "pending"
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""


@dataclass
class Sweep:
    """A grid of runs of one notebook and the folder that holds everything they left."""

    folder: Path
    paper: str
    profile: str
    runs: list[SweepRun]
    status: str = "running"
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)  # started, command, git, versions, machine, notebook's sha256

    @property
    def ok(self) -> bool:
        return all(run.status == "ok" for run in self.runs)

    @property
    def swept(self) -> dict[str, list[Any]]:
        """Parameters of more than one value, each with its values: numbers in order, else as they came."""
        values: dict[str, list[Any]] = {}
        for name in dict.fromkeys(k for run in self.runs for k in run.parameters):
            found = [run.parameters.get(name) for run in self.runs]
            values[name] = [v for k, v in enumerate(found) if v not in found[:k]]
            if all(isinstance(v, int | float) for v in values[name]):
                values[name].sort()
        return {name: found for name, found in values.items() if len(found) > 1}

    @property
    def fixed(self) -> dict[str, Any]:
        """Parameters that are the same in all runs."""
        first = self.runs[0].parameters if self.runs else {}
        return {k: v for k, v in first.items() if k not in self.swept}

    def label(self, run: SweepRun) -> str:
        """What tells a run from the others: its swept parameters."""
        return ", ".join(f"{k}={as_text(run.parameters.get(k))}" for k in self.swept) or self.paper

    def place(self, run: SweepRun) -> Path:
        """The folder of a run: of the finished one, else of its last attempt, which may not exist."""
        done = self.folder / "runs" / run.key
        return done if done.is_dir() else self.folder / "attempts" / f"{run.key}.{run.attempts}"

    def save(self) -> None:
        """Write ``sweep.json``, whole or not at all."""
        record = {k: v for k, v in vars(self).items() if k not in ("folder", "runs", "about")}
        record |= {**self.about, "runs": [asdict(run) for run in self.runs]}
        text = json.dumps(map_strings(record, Scrubber(self.folder).paths), indent=1, ensure_ascii=False)
        write_text(self.folder / "sweep.json", text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """The sweep whose ``sweep.json`` lies in ``folder``, its runs as they are now.

        Raises:
            ValueError: there is no ``sweep.json``, or it is damaged.
        """
        path = Path(folder).resolve() / "sweep.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            its_runs = [SweepRun(**run) for run in record.pop("runs")]
            own = {k: record.pop(k) for k in ("paper", "profile", "status", "seconds")}
        except OSError as error:
            raise ValueError(f"no sweep in {folder}: {error.strerror} ({path.name})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} in {folder} is damaged: {type(error).__name__}: {error}") from error
        sweep = cls(path.parent, runs=its_runs, about=record, **own)
        sweep.look()
        return sweep

    def look(self) -> None:
        """Bring the runs up to date with what lies in the folder."""
        tried = _attempts(self.folder)
        for run in self.runs:
            run.attempts = max(run.attempts, *tried.get(run.key, [0]))
            if (done := _finished(self.folder / "runs" / run.key)) is not None:
                run.status, run.error = "ok", ""
                run.seconds, run.attempts = done.notebooks[0].seconds, done.about.get("attempt", run.attempts)
            elif run.status == "ok":
                run.status = "pending"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep: the workers are stopped, the report is written; ``sweep`` says how far it got."""

    def __init__(self, sweep: Sweep):
        super().__init__("interrupted; the same command goes on")
        self.sweep = sweep


class RunFailed(RuntimeError):
    """A run of a sweep ended with an error, which is the message."""


# --- running ----------------------------------------------------------------------------------------------------------


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
    replaced, and its run starts again. Call it from a script only under ``if __name__ == "__main__":``, as all that
    starts processes.

    Args:
        paper: the notebook's name.
        grid: parameter -> its values; all combinations are run.
        points: a grid file (:func:`read_grid`) or a list of ``{name: value}``; combined with those of ``grid``.
        parameters: the same for all runs.
        profile: ``quick``, ``cpu``, ``gpu`` or ``paper``.
        out: the sweep's folder; ``runs/sweeps/<paper>-<profile>`` in the repository when None.
        workers: runs at once on this machine; one for each core when None. A kernel gets cores / workers threads.
        scheduler: address of a running Dask scheduler (``tcp://host:8786``) whose workers see the same folders.
        timeout: seconds that one cell may take; unlimited when None.
        progress: a live table on a terminal, plain lines on stderr elsewhere.
        notebooks_dir: where the notebooks are; the repository's ``notebooks/`` when None.

    Raises:
        ValueError: unknown notebook, profile or parameter, a value of the wrong type, no grid; before anything is run.
        FileExistsError: the folder holds something else, or another sweep is at work in it.
        ImportError: Dask is not installed.
        OSError: the folder cannot be written, or the scheduler cannot be reached.
        Interrupted: on Ctrl-C, after the workers are stopped and the report is written.
    """
    source = Path(notebooks_dir or NOTEBOOKS).resolve()
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}{batch.suggest(profile, PROFILES)}; there are: {', '.join(PROFILES)}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if workers is not None and scheduler:
        raise ValueError("workers are those of the scheduler: leave one of the two out")
    listed = read_grid(points) if isinstance(points, str | Path) else list(points or [])
    if not grid and not listed:
        raise ValueError("nothing to sweep over: give -g name=v1,v2,... or a grid file")
    batch.choose(paper, source)
    notebook = source / f"{paper}.ipynb"
    digest = notebook_digest(notebook)
    planned = _plan(paper, source, digest, profile, grid or {}, listed or [{}], parameters or {})
    _need_dask()

    folder = Path(out or ROOT / "runs" / "sweeps" / f"{paper}-{profile}").resolve()
    with _only_one(_prepare(folder)):
        about = batch.about(_command(paper, profile, grid or {}, points, parameters or {}))
        this = Sweep(folder, paper, profile, planned, about=about | {"notebook_sha256": digest})
        _set_damaged_aside(this, say := _say(progress))
        this.look()
        todo = [run for run in this.runs if run.status != "ok"]
        if len(todo) < len(planned):
            say(f"{len(planned) - len(todo)} of {len(planned)} runs are finished already")
        this.save()
        before = {run.key: run.attempts for run in todo}
        started, stopped = time.monotonic(), False
        try:
            if todo:
                _execute(this, todo, source, workers=workers, scheduler=scheduler, timeout=timeout, progress=progress)
        except KeyboardInterrupt:
            stopped = True
        this.look()
        for run in todo:
            if stopped and run.status in ("pending", "running"):
                run.status = "interrupted" if run.attempts > before[run.key] else "pending"
        this.status = "interrupted" if stopped else "finished" if this.ok else "failed"
        this.seconds = round(time.monotonic() - started, 1)
        this.save()
        _clear_attempts(this)
        sweep_pages.write_page(this)
    if stopped:
        raise Interrupted(this)
    return this


def _plan(
    paper: str,
    source: Path,
    digest: str,
    profile: str,
    grid: Mapping[str, Sequence[Any]],
    points: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, Any],
) -> list[SweepRun]:
    """Every point once, its parameters checked and in the types that the notebook takes."""
    if twice := sorted((set(fixed) & set(grid)) | {k for point in points for k in point if k in grid or k in fixed}):
        raise ValueError(f"{twice[0]!r} is given twice: as a parameter, in the grid or in the grid file")
    for name, values in grid.items():
        if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"the values of {name!r} must be a list that is not empty, got {values!r}")
    accepted = batch.known_parameters([paper], source)
    planned: dict[str, SweepRun] = {}
    for point in points:
        for values in itertools.product(*grid.values()):
            given = {**fixed, **point, **dict(zip(grid, values, strict=True))}
            checked = batch.check_parameters(accepted, profile, given)[paper]
            own = {k: v for k, v in checked.items() if k != "profile"}
            text = json.dumps([digest, profile, own], sort_keys=True)
            words = "-".join(f"{k}-{as_text(v)}" for k, v in own.items() if k not in fixed)
            slug = re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:48].rstrip("-.")
            key = f"{slug or paper}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
            planned.setdefault(key, SweepRun(key, own))
    return list(planned.values())


def notebook_digest(notebook: Path) -> str:
    """SHA-256 of what a notebook runs, its cells' sources: outputs and metadata do not change it.

    Raises:
        ValueError: it is no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook.name} is no notebook that can be run: {one_line(str(error))}") from error
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _command(
    paper: str,
    profile: str,
    grid: Mapping[str, Sequence[Any]],
    points: object,
    parameters: Mapping[str, Any],
) -> list[str]:
    command = ["nsr", "sweep", paper, "--profile", profile]
    for name, values in grid.items():
        command += ["-g", f"{name}={json.dumps(list(values)) if _quoted(values) else ','.join(map(as_text, values))}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}={as_text(value)}"]
    if points:
        command += ["--grid", Path(points).name if isinstance(points, str | Path) else "points.json"]
    return command


def _quoted(values: Sequence[Any]) -> bool:
    return any(
        isinstance(v, list | tuple | dict) or (isinstance(v, str) and ("," in v or literal(v) != v)) for v in values
    )


def _need_dask() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ImportError(f"nsr sweep needs Dask: pip install 'nsrlib[sweep]' ({error})") from error


def _prepare(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "sweep.json").exists() and not _only_lock(folder):
        raise FileExistsError(f"{batch.short_path(folder)} is not empty and no sweep: choose another folder")
    try:
        for part in ("runs", "attempts"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "sweep.lock").touch()
        write_text(folder / ".probe", "")
        (folder / ".probe").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {batch.short_path(folder)}: {cause_of(error)[1]}") from error
    return folder


def _only_lock(folder: Path) -> bool:
    """Left by a sweep that ended before it had planned anything."""
    return {path.name for path in folder.iterdir()} <= {"runs", "attempts", "sweep.lock"}


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it when this process ends, however that happens."""
    lock = filelock.FileLock(folder / "sweep.lock", timeout=0)
    owner = folder / ".sweep.owner"
    try:
        lock.acquire()
    except filelock.Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "unknown"
        raise FileExistsError(
            f"another sweep is at work in {batch.short_path(folder)} ({who}): wait for it, or choose another --out"
        ) from None
    except NotImplementedError as error:
        raise OSError(f"the file system of {batch.short_path(folder)} has no locks; choose another --out") from error
    try:
        write_text(owner, f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _attempts(folder: Path) -> dict[str, list[int]]:
    """Key -> numbers of the attempts that lie in the folder."""
    found: dict[str, list[int]] = {}
    for path in (folder / "attempts").glob("*.*"):
        key, _, number = path.name.rpartition(".")
        if number.isdigit():
            found.setdefault(key, []).append(int(number))
    return found


def _finished(place: Path) -> batch.Run | None:
    """The run in ``place`` if it ended well and can be read."""
    try:
        run = batch.Run.load(place)
    except ValueError:
        return None
    return run if run.notebooks and run.ok else None


def _set_damaged_aside(this: Sweep, say: Any) -> None:
    """Take finished runs whose files are not what they were out of ``runs``, so that they are made anew."""
    for run in this.runs:
        place = this.folder / "runs" / run.key
        if not place.exists():
            continue
        done = _finished(place)
        hashes = done.about.get("files", {}) if done else {}
        wrong = [name for name, digest in hashes.items() if sha256_of(place / name) != digest]
        if done is None or wrong:
            say(f"{this.label(run)}: {wrong[0] if wrong else 'run.json'} is damaged or missing; it runs again")
            os.replace(place, _claim(this.folder, run.key, empty=False))


def _claim(folder: Path, key: str, *, empty: bool = True) -> Path:
    """A folder for the next attempt, which nobody else has."""
    number = max(_attempts(folder).get(key, [0])) + 1
    while True:
        place = folder / "attempts" / f"{key}.{number}"
        try:
            place.mkdir()
            return place
        except FileExistsError:
            number += 1


def _job(this: Sweep, run: SweepRun, source: Path, timeout: float | None) -> dict[str, Any]:
    """All that a worker needs to know for :func:`run_one`."""
    return {
        "paper": this.paper,
        "profile": this.profile,
        "parameters": run.parameters,
        "key": run.key,
        "folder": str(this.folder),
        "source": str(source),
        "timeout": timeout,
        "notebook_sha256": this.about["notebook_sha256"],
    }


def run_one(job: Mapping[str, Any]) -> float:
    """One run, on a worker: made in ``attempts``, moved to ``runs`` when it has ended well. Returns its seconds.

    Raises:
        RunFailed: the notebook failed; its folder stays in ``attempts``.
        FileNotFoundError: this worker does not see the sweep's folder.
    """
    folder, source, key = Path(job["folder"]), Path(job["source"]), job["key"]
    if not (folder / "sweep.json").exists():
        raise FileNotFoundError(
            f"the worker on {socket.gethostname()} does not see the sweep's folder; all need one file system"
        )
    final = folder / "runs" / key
    if (done := _finished(final)) is not None:
        return done.notebooks[0].seconds  # by a worker that was thought lost
    if notebook_digest(source / f"{job['paper']}.ipynb") != job["notebook_sha256"]:
        raise RunFailed(f"{job['paper']}.ipynb was changed while the sweep ran; start it again")
    place = _claim(folder, key)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run = batch.reproduce(
        job["paper"],
        profile=job["profile"],
        parameters=job["parameters"],
        out=place,
        jobs=1,
        timeout=job["timeout"],
        progress=False,
        notebooks_dir=source,
        pages=False,
    )
    # here and not in the run's own process, which would import nbconvert each time
    for path in (place / "notebooks").glob("[!.]*.ipynb"):
        worker.write_page(path, path.with_suffix(".html"), place)
    numbers = [*(place / "results").rglob("*.json"), *(place / "notebooks").glob("*.ipynb")]
    run.about |= {
        "attempt": int(place.suffix[1:]),
        "threads": os.environ["OMP_NUM_THREADS"],
        "notebook_sha256": job["notebook_sha256"],
        "files": {path.relative_to(place).as_posix(): sha256_of(path) for path in sorted(numbers)},
    }
    run.save()
    if not run.ok:
        raise RunFailed("; ".join(map(str, run.failures)))
    try:
        os.rename(place, final)
    except OSError:
        if _finished(final) is None:
            raise
        shutil.rmtree(place, ignore_errors=True)  # another worker was faster
    return run.notebooks[0].seconds


def _execute(
    this: Sweep,
    todo: list[SweepRun],
    source: Path,
    *,
    workers: int | None,
    scheduler: str | None,
    timeout: float | None,
    progress: bool,
) -> None:
    """Hand ``todo`` to Dask and follow it to the end."""
    from distributed import as_completed

    show = _Progress(this, progress, sys.stderr)
    with _cluster(scheduler, workers, len(todo)) as client, show:
        if scheduler and not client.scheduler_info()["workers"]:
            show.say(f"waiting for workers at {scheduler}")
        batch = uuid.uuid4().hex[:8]  # a scheduler takes equal keys for the same task, in whatever folder
        futures = {
            client.submit(
                run_one,
                _job(this, run, source, timeout),
                key=f"{run.key}-{batch}",
                pure=False,
                retries=RETRIES,
            ): run
            for run in todo
        }
        try:
            for future in as_completed(futures, loop=client.loop):
                run = futures[future]
                try:
                    run.seconds, run.status = future.result(), "ok"
                except Exception as error:
                    run.status, run.error = "failed", _why(error)
                show.ended(run)
                future.release()
        except BaseException:
            client.cancel(list(futures), force=True)
            raise


def _why(error: Exception) -> str:
    if isinstance(error, RunFailed):
        return str(error)
    kind, message = cause_of(error)
    if kind == "KilledWorker":
        return "it was at work on several workers when they died; often the machine is out of memory"
    return f"{kind}: {message}"


@contextlib.contextmanager
def _cluster(scheduler: str | None, workers: int | None, count: int) -> Iterator[Any]:
    """A client of workers: those of ``scheduler``, or as many processes here as there are cores."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise OSError(f"no Dask scheduler answers at {scheduler}: {one_line(str(error))}") from error
        with client:
            yield client
        return
    cores = batch.cores()
    workers = min(workers or cores, count)
    # Dask's own default is one thread; the kernels inherit this
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // workers)))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads)}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # of the worker's own process, which holds nothing; the kernels are not counted
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],  # Ctrl-C is for this process
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _clear_attempts(this: Sweep) -> None:
    """Remove what earlier attempts of finished runs have left."""
    done = {run.key for run in this.runs if run.status == "ok"}
    for key, numbers in _attempts(this.folder).items():
        for number in numbers if key in done else ():
            shutil.rmtree(this.folder / "attempts" / f"{key}.{number}", ignore_errors=True)


def _say(enabled: bool) -> Any:
    return (lambda text: print(text, file=sys.stderr, flush=True)) if enabled else (lambda text: None)


class _Progress:
    """How far a sweep is: a live table on a terminal, else a line for each run that has ended."""

    def __init__(self, sweep: Sweep, enabled: bool, stream: TextIO):
        self.sweep, self.enabled, self.stream = sweep, enabled, stream
        self.live: Any = None
        self.began = time.monotonic()
        self.seen: dict[tuple[str, int], float] = {}  # attempt -> when it was first seen
        self.before = sum(run.status == "ok" for run in sweep.runs)

    def __enter__(self) -> Self:
        if self.enabled and self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream)
            self.live = Live(get_renderable=self.table, console=console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        elif self.enabled:
            print(text, file=self.stream, flush=True)

    def ended(self, run: SweepRun) -> None:
        if self.live and run.status == "ok":
            return  # the table shows it
        ended = sum(run.status in ("ok", "failed") for run in self.sweep.runs)
        took = f" in {clock(run.seconds)}" if run.seconds else ""
        self.say(f"[{ended}/{len(self.sweep.runs)}] {self.sweep.label(run)}: {run.status}{took}")
        if run.error:
            self.say(f"✗ {run.error}")

    def table(self) -> Any:
        """What goes on first, then what failed, then the rest; as many lines as the terminal has."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        tried = _attempts(self.sweep.folder)
        for run in self.sweep.runs:
            if run.status in ("pending", "running") and run.key in tried:
                number = max(tried[run.key])
                if number > run.attempts or run.status == "running":  # not one of an earlier sweep
                    run.status = "running"
                    run.attempts = max(run.attempts, number)
                    self.seen.setdefault((run.key, number), now)
        counts = {
            word: sum(run.status == word for run in self.sweep.runs) for word in ("ok", "running", "failed", "pending")
        }
        words = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        ended = counts["ok"] + counts["failed"] - self.before
        left = counts["running"] + counts["pending"]
        rest = f", about {clock((now - self.began) / ended * left)} left" if ended and left else ""
        names = [*self.sweep.swept] or [*self.sweep.fixed]
        head = f"{self.sweep.paper}: {words}; {clock(now - self.began)}{rest}"
        table = Table(box=None)
        for name in (*names, "", "time"):
            table.add_column(name)
        order = {word: k for k, word in enumerate(("running", "failed", "ok", "pending"))}
        room = max(3, shutil.get_terminal_size().lines - 5)
        for run in sorted(self.sweep.runs, key=lambda run: order.get(run.status, 9))[:room]:
            since = now - self.seen.get((run.key, run.attempts), now) if run.status == "running" else run.seconds
            again = f", attempt {run.attempts}" if run.attempts > 1 and run.status != "pending" else ""
            style = {"ok": "green", "failed": "red", "pending": "dim"}.get(run.status)
            cells = [as_text(run.parameters.get(name)) for name in names]
            table.add_row(*cells, run.status + again, clock(since) if since else "", style=style)
        return Group(Text(head), table)


def is_sweep(folder: str | Path) -> bool:
    """Whether a folder is that of a sweep, damaged or not, and not of a run."""
    folder = Path(folder)
    return (folder / "sweep.json").exists() or ((folder / "runs").is_dir() and not (folder / "run.json").exists())


def report(folder: str | Path) -> Path:
    """Build table, figures and page of a sweep folder from what lies in it, and return the page. Nothing is run.

    Raises:
        FileNotFoundError: ``folder`` is not a directory.
        ValueError: it holds no sweep.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"no sweep folder {folder}")
    try:
        return sweep_pages.write_page(Sweep.load(folder))
    except ValueError as error:
        done = [run for path in sorted((folder / "runs").glob("*/run.json")) if (run := _finished(path.parent))]
        if not done:
            raise
        # the plan is lost, the runs are not
        found = [SweepRun(run.folder.name, run.parameters, "ok") for run in done]
        sweep = Sweep(folder, done[0].notebooks[0].name, done[0].profile, found, "unknown", about=done[0].about)
        sweep.look()
        return sweep_pages.write_page(sweep, [f"{error}; the finished runs are shown"])


def summary(sweep: Sweep) -> str:
    """A few lines for the console: what failed and why, how many runs ended well, where the report is."""
    lines = [
        f"✗ {sweep.label(run)}: {run.error or 'failed'} ({run.attempts} attempts)"
        for run in sweep.runs
        if run.status == "failed"
    ]
    done = sum(run.status == "ok" for run in sweep.runs)
    lines.append(f"{done} of {len(sweep.runs)} runs ended well in {clock(sweep.seconds)}")
    if sweep.status == "interrupted":
        lines.append("interrupted: the same command goes on where it was stopped")
    lines.append(f"table: {batch.short_path(sweep.folder / 'sweep.csv')}")
    lines.append(f"report: {batch.short_path(sweep.folder / 'index.html')}")
    return "\n".join(lines)
