"""Batches of notebook runs, and the page that shows them.

``reproduce`` executes the notebooks through papermill, several at once, each in a process of its own with a kernel
of its own, so that one that fails or is killed takes nothing else down. ``report`` turns what lies in the run folder
into one static page. A run folder holds

    run.json                    what was asked for, how each notebook ended, versions, commit
    notebooks/bsrn.ipynb        executed (``bsrn.failed.ipynb`` if it failed) and the same as ``.html``
    results/bsrn.json           the ledger rows that the notebook measured, with their provenance
    logs/bsrn.log               what the kernel and the runner said on stderr
    index.html                  the report

Everything in it is relative to the folder, so that it can be moved or published. Names of the home, the repository
and the run folder are cut out of what is written.

This file is also the program of the worker processes (see ``_worker``): they run it by path and therefore start
without importing torch. It must not import its siblings.
"""

from __future__ import annotations

import ast
import base64
import difflib
import errno
import importlib.metadata
import io
import json
import math
import os
import platform
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

PROFILES = ("quick", "cpu", "gpu", "paper")

# Verdict -> (symbol, what it means). The order is that of the columns of the report.
VERDICTS = {
    "reproduced": ("✓", "within the tolerance that its kind of evidence allows"),
    "trend holds": (
        "↗\ufe0e",
        "trained smaller; the paper's ordering holds beyond the spread of the seeds",
    ),
    "within noise": ("≈", "the spread of the seeds is larger than the difference"),
    "differs": ("✗", "the measurement contradicts the paper"),
    "open": ("○", "not attempted, with the reason given in the notebook"),
}
HOW = {
    "exact": "follows without training: counts, arithmetic, theorems",
    "weights": "published weights on the real benchmark",
    "trained": "trained here, smaller or shorter than in the paper",
    "open": "not reproduced",
}

_Results = tuple[str, list[dict[str, Any]], dict[str, Any]]  # paper, rows, provenance

_ROOT = Path(__file__).resolve().parents[1]
_NOTEBOOKS = _ROOT / "notebooks"
_VERSIONS = ("nsrlib", "torch", "triton", "numpy", "pandas", "papermill", "nbclient", "nbconvert", "ipykernel")
_STOP_SECONDS = 10  # a worker kills its kernel at once; after this it is killed itself


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped, and where: ``cell`` counts from 1 in the notebook that lies in ``notebooks/``."""

    notebook: str
    error: str
    message: str
    section: str = ""
    cell: int | None = None
    line: str = ""
    cell_id: str = ""

    def __str__(self) -> str:
        where = [f"“{self.section}”"] if self.section else []
        if self.cell is not None:
            where.append(f"cell {self.cell}" + (f" ({self.line})" if self.line else ""))
        return ": ".join(filter(None, [self.notebook, ", ".join(where), self.error, self.message]))


@dataclass
class NotebookRun:
    """One notebook of a run; ``status`` is pending, running, ok, failed or interrupted."""

    name: str
    status: str = "pending"
    seconds: float = 0.0
    cells: int = 0
    error: Failure | None = None


@dataclass
class Run:
    """A batch of notebooks and the folder that holds everything it left."""

    folder: Path
    profile: str
    notebooks: list[NotebookRun]
    status: str = "running"
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # started, command, git, versions, machine

    @property
    def ok(self) -> bool:
        """Every notebook ran from top to bottom."""
        return all(n.status == "ok" for n in self.notebooks)

    @property
    def failures(self) -> list[Failure]:
        return [n.error for n in self.notebooks if n.error]

    def save(self) -> None:
        """Write ``run.json``; readers see the old one or the new one, never a part."""
        record = {k: v for k, v in vars(self).items() if k not in ("folder", "notebooks", "about")}
        record |= {**self.about, "notebooks": [asdict(n) for n in self.notebooks]}
        record["failures"] = [str(f) for f in self.failures]
        text = json.dumps(_walk(record, _Scrubber(self.folder).paths), indent=1, ensure_ascii=False)
        _write(self.folder / "run.json", text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """The run whose ``run.json`` lies in ``folder``.

        Raises:
            ValueError: there is no ``run.json``, or it is damaged.
        """
        path = Path(folder) / "run.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            notebooks = [
                NotebookRun(**{**n, "error": Failure(**n["error"]) if n["error"] else None})
                for n in record.pop("notebooks")
            ]
            own = {k: record.pop(k) for k in ("profile", "status", "seconds", "parameters")}
            record.pop("failures", None)
            return cls(Path(folder), notebooks=notebooks, about=record, **own)
        except OSError as error:
            raise ValueError(f"no run in {folder}: {error.strerror} ({path.name})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} in {folder} is damaged: {type(error).__name__}: {error}") from error


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while notebooks ran: kernels are stopped, ``run.json`` is written, ``run`` says how far it got."""

    def __init__(self, run: Run):
        super().__init__(f"interrupted; finished notebooks are in {_nice(run.folder)}")
        self.run = run


def list_papers(notebooks_dir: str | Path | None = None) -> list[str]:
    """Names of the notebooks that can be run, sorted."""
    folder = Path(notebooks_dir or _NOTEBOOKS)
    return sorted(p.stem for p in folder.glob("*.ipynb") if not p.name.startswith("."))


def reproduce(
    papers: str | Iterable[str] | None = None,
    *,
    profile: str = "quick",
    parameters: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    timeout: float | None = None,
    progress: bool = True,
    resume: bool = False,
    notebooks_dir: str | Path | None = None,
) -> Run:
    """Execute notebooks and write a run folder with a report.

    A failing cell ends its own notebook only; what stopped it is in ``Run.failures``. Kernels start in
    ``notebooks_dir``, as they do in JupyterLab.

    Args:
        papers: which notebooks, by name; all when None.
        profile: ``quick``, ``cpu``, ``gpu`` or ``paper``.
        parameters: values for the cells tagged ``parameters``. Each goes to the notebooks that know it.
        out: the run folder, new or empty; ``runs/<date>-<time>-<profile>`` in the repository when None.
        jobs: notebooks at a time; as many as there are cores when None. Several share one GPU.
        timeout: seconds that one cell may take; unlimited when None.
        progress: say on stderr how far each notebook is: a live line on a terminal, plain lines elsewhere.
        resume: keep the notebooks that ``out`` already has finished and run the others.
        notebooks_dir: where the notebooks are; the repository's ``notebooks/`` when None.

    Raises:
        ValueError: unknown paper, profile or parameter, or a parameter of the wrong type, before anything is run.
        FileExistsError: ``out`` is not empty, and this is not a resumption.
        OSError: ``out`` cannot be written.
        Interrupted: on Ctrl-C, after the kernels are stopped and ``run.json`` is written.
    """
    source = Path(notebooks_dir or _NOTEBOOKS).resolve()
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}{_suggest(profile, PROFILES)}; there are: {', '.join(PROFILES)}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
    if resume and out is None:
        raise ValueError("resume needs the run folder: out=...")

    given = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in (parameters or {}).items()}
    before = Run.load(out) if resume and out is not None else None
    if papers is None and before:
        papers = [n.name for n in before.notebooks]
    names = _choose(papers, source)
    per_notebook = _match_parameters(names, source, profile, given)

    if before:
        folder, run = before.folder.resolve(), before
        if (before.profile, before.parameters) != (profile, _walk(given, _Scrubber(folder).paths)):
            raise ValueError(
                f"{_nice(folder)} was run with profile {before.profile!r} and parameters {before.parameters}, "
                f"not {profile!r} and {given}; use a new folder"
            )
        run.folder, run.status = folder, "running"
    else:
        folder = _new_folder(out, profile)
        run = Run(folder, profile, [], parameters=given)
    run.about = _about(names, profile, given)
    known = {n.name: n for n in run.notebooks}
    todo = []
    for name in names:
        if name in known and known[name].status == "ok" and (folder / "notebooks" / f"{name}.ipynb").exists():
            continue
        todo.append(known.setdefault(name, NotebookRun(name)))
    run.notebooks = list(known.values())

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or cores, max(1, len(todo)))
    started = time.monotonic()
    already = run.seconds
    show = _Progress(progress, sys.stderr)
    run.save()
    try:
        _execute(run, todo, per_notebook, source, jobs=jobs, threads=max(1, cores // jobs), timeout=timeout, show=show)
    except KeyboardInterrupt:
        run.status, run.seconds = "interrupted", round(already + time.monotonic() - started, 1)
        run.save()
        report(folder)
        raise Interrupted(run) from None
    finally:
        show.close()
    run.status = "finished" if run.ok else "failed"
    run.seconds = round(already + time.monotonic() - started, 1)
    run.save()
    report(folder)
    return run


def summary(run: Run) -> str:
    """A few lines for the console: how each notebook ended, its verdicts, what failed, where the report is."""
    counts = {paper: Counter(_verdict(r) for r in rows) for paper, rows, _ in _results(run.folder, [])}
    width = max((len(n.name) for n in run.notebooks), default=0)
    states = max((len(n.status) for n in run.notebooks), default=0)
    lines = []
    for n in run.notebooks:
        verdicts = ", ".join(f"{c} {v}" for v, c in _ordered(counts.get(n.name, Counter())))
        lines.append(
            f"{n.name:<{width}}  {n.status:<{states}}  {_clock(n.seconds):>7}  {verdicts or 'no claims recorded'}"
        )
    lines += [f"✗ {failure}" for failure in run.failures]
    done = sum(n.status == "ok" for n in run.notebooks)
    lines.append(f"{done} of {len(run.notebooks)} notebooks ran to the end in {_clock(run.seconds)}")
    lines.append(f"report: {_nice(run.folder / 'index.html')}")
    return "\n".join(lines)


# ---- what is asked for -----------------------------------------------------------------------------------------


def _choose(papers: str | Iterable[str] | None, source: Path) -> list[str]:
    there = list_papers(source)
    if not there:
        raise ValueError(f"no notebooks in {_nice(source)}; they are part of the repository, not of the package")
    names = there if papers is None else [papers] if isinstance(papers, str) else list(dict.fromkeys(papers))
    for name in names:
        if name not in there:
            raise ValueError(f"no notebook {name!r}{_suggest(name, there)}; there are: {', '.join(there)}")
    return names


def _match_parameters(names: list[str], source: Path, profile: str, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of each notebook, checked. papermill itself injects a misspelt name with no more than a warning."""
    import papermill

    for own, instead in (("profile", "profile=..."), ("out_dir", "out=...")):
        if own in given:
            raise ValueError(f"{own!r} is set by the run itself: give {instead}")
    try:
        json.dumps(given)
    except TypeError as error:
        raise ValueError(f"parameters must be numbers, strings, lists or dicts: {error}") from error

    accepted: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            accepted[name] = known = papermill.inspect_notebook(_literal(source / f"{name}.ipynb"))
        except Exception as error:  # nbformat, papermill and json all have their own
            raise ValueError(f"{name}.ipynb is no notebook that can be run: {_short(str(error))}") from error
        for needed in ("profile", "out_dir"):
            if needed not in known:
                raise ValueError(f"{name}.ipynb has no {needed!r} in a cell tagged 'parameters'")
    for key, value in given.items():
        takers = [n for n in names if key in accepted[n]]
        if not takers:
            every = list(dict.fromkeys(p for n in names for p in accepted[n] if p not in ("profile", "out_dir")))
            raise ValueError(
                f"no parameter {key!r} in {', '.join(names)}{_suggest(key, every)}; "
                f"accepted: {', '.join(every) or 'none'}"
            )
        for name in takers:
            _check_type(name, key, value, accepted[name][key]["default"])
    return {n: {"profile": profile, **{k: v for k, v in given.items() if k in accepted[n]}} for n in names}


def _check_type(notebook: str, key: str, value: Any, default_source: str) -> None:
    try:
        default = ast.literal_eval(default_source)
    except (ValueError, SyntaxError):
        return  # an expression: nothing can be told
    if default is None or value is None:
        return
    # bool is an int to isinstance, and a list may stand for a tuple after its way through JSON
    wanted = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}.get(type(default), (type(default),))
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"{notebook}: parameter {key!r} is a {type(default).__name__} (default {default!r}), "
            f"not a {type(value).__name__}: {value!r}"
        )


def _suggest(word: str, possible: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(possible), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths with the parameters


def _new_folder(out: str | Path | None, profile: str) -> Path:
    if out is None:
        stem = _ROOT / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{profile}"
        folder, n = stem, 1
        while folder.exists():
            folder, n = stem.with_name(f"{stem.name}-{n + 1}"), n + 1
    else:
        folder = Path(out).resolve()
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{_nice(folder)} is not empty: choose another folder, or resume the run in it")
    try:
        for part in ("notebooks", "results", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        _write(folder / "run.json", "{}")
    except OSError as error:
        raise OSError(f"cannot write to {_nice(folder)}: {_cause(error)[1]}") from error
    return folder


def _about(names: list[str], profile: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a reader needs to run this again."""

    def git(*args: str) -> str:
        try:
            answer = subprocess.run(["git", "-C", str(_ROOT), *args], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return answer.stdout.strip() if answer.returncode == 0 else ""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    commit = git("rev-parse", "HEAD")
    command = ["nsr", "reproduce", *names, "--profile", profile]
    for key, value in given.items():
        command += ["-p", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "git": commit + ("-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else ""),
        "versions": {"python": platform.python_version()} | {p: v for p in _VERSIONS if (v := version(p))},
        "machine": f"{platform.system()} {platform.machine()}",
    }


# ---- executing -------------------------------------------------------------------------------------------------


def _execute(
    run: Run,
    todo: list[NotebookRun],
    parameters: dict[str, dict[str, Any]],
    source: Path,
    *,
    jobs: int,
    threads: int,
    timeout: float | None,
    show: _Progress,
) -> None:
    """Run ``todo``, at most ``jobs`` at a time, and keep ``run`` and ``run.json`` up to date."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),  # this very nsrlib
        "PYTHONUNBUFFERED": "1",
    }
    # Without these, the threads of several kernels fight for the cores: a hundred times slower has been seen.
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.pop("MPLBACKEND", None)  # a headless Agg from outside would leave the notebooks without figures

    events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    by_name = {n.name: n for n in todo}
    waiting = deque(todo)
    workers: dict[str, subprocess.Popen[str]] = {}
    began: dict[str, float] = {}

    def listen(name: str, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            events.put((name, json.loads(line)))
        events.put((name, {"event": "exit", "code": worker.wait()}))

    def start(notebook: NotebookRun) -> None:
        name = notebook.name
        for stale in _leftovers(run.folder, name):
            stale.unlink(missing_ok=True)
        job = {
            "notebook": str(source / f"{name}.ipynb"),
            "folder": str(run.folder),
            # relative, because the executed notebook shows its parameters
            "parameters": parameters[name] | {"out_dir": os.path.relpath(run.folder / "results", source)},
            "timeout": timeout,
        }
        # -P keeps this file's folder, with its data.py and images.py, off the worker's path
        command = [sys.executable, "-P", __file__, json.dumps(job)]
        with open(run.folder / "logs" / f"{name}.log", "w") as log:
            worker = subprocess.Popen(
                command,
                cwd=source,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the workers in order
            )
        workers[name], began[name] = worker, time.monotonic()
        notebook.status, notebook.error = "running", None
        threading.Thread(target=listen, args=(name, worker), daemon=True).start()
        show.started(name)

    def finish(notebook: NotebookRun, code: int) -> None:
        worker = workers.pop(notebook.name)
        if worker.stdin:
            worker.stdin.close()
        if notebook.status == "running":  # it said nothing at its end
            notebook.status = "failed"
            reason = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            notebook.error = Failure(notebook.name, "worker died", f"{reason}; see logs/{notebook.name}.log")
            unfinished = run.folder / "notebooks" / f".{notebook.name}.running.ipynb"
            if unfinished.exists():
                os.replace(unfinished, run.folder / "notebooks" / f"{notebook.name}.failed.ipynb")
        run.save()
        show.finished(notebook)

    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                start(waiting.popleft())
            try:
                name, event = events.get(timeout=0.5)
            except queue.Empty:
                show.draw()
                continue
            notebook = by_name[name]
            notebook.seconds = round(time.monotonic() - began[name], 1)
            if event["event"] == "cell":
                notebook.cells = event["cells"]
                show.cell(name, event["cell"], event["cells"], event["heading"])
            elif event["event"] == "end":
                notebook.error = Failure(**event["failure"]) if event["failure"] else None
                notebook.status = "failed" if notebook.error else "ok"
            else:
                finish(notebook, event["code"])
    except BaseException:
        _stop(workers)
        for name in workers:
            by_name[name].status = "interrupted"
            (run.folder / "notebooks" / f".{name}.running.ipynb").unlink(missing_ok=True)
        raise


def _stop(workers: dict[str, subprocess.Popen[str]]) -> None:
    for worker in workers.values():
        if worker.stdin:
            worker.stdin.close()  # the order to stop: see _stop_with_parent
    deadline = time.monotonic() + _STOP_SECONDS
    for worker in workers.values():
        try:
            worker.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()


def _leftovers(folder: Path, name: str) -> list[Path]:
    stems = (name, f"{name}.failed", f".{name}.running")
    return [
        folder / "results" / f"{name}.json",
        *(folder / "notebooks" / f"{s}{e}" for s in stems for e in (".ipynb", ".html")),
    ]


class _Progress:
    """How far each notebook is: one live line on a terminal, else a line per start, heading and end."""

    def __init__(self, enabled: bool, stream: TextIO):
        self.enabled, self.stream = enabled, stream
        self.live = enabled and stream.isatty()
        self.at: dict[str, tuple[int, int, float]] = {}

    def started(self, name: str) -> None:
        self.at[name] = (0, 0, time.monotonic())
        self._say(f"{name}: started")

    def cell(self, name: str, cell: int, cells: int, heading: str) -> None:
        self.at[name] = (cell, cells, self.at[name][2])
        if heading and not self.live:
            self._say(f"{name}: {cell}/{cells} cells  {self._since(name)}  {heading}")
        self.draw()

    def finished(self, notebook: NotebookRun) -> None:
        took = self._since(notebook.name)
        self.at.pop(notebook.name)
        self._say(f"{notebook.name}: {notebook.status} in {took}")
        if notebook.error:
            self._say(f"✗ {notebook.error}")

    def draw(self) -> None:
        if self.live:
            parts = [
                f"{name} {f'{cell}/{cells} cells' if cells else 'starting'} {self._since(name)}"
                for name, (cell, cells, _) in self.at.items()
            ]
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + " | ".join(parts)[:width])
            self.stream.flush()

    def close(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _since(self, name: str) -> str:
        return _clock(time.monotonic() - self.at[name][2])

    def _say(self, text: str) -> None:
        if self.enabled:
            self.close()
            print(text, file=self.stream, flush=True)
            self.draw()


# ---- the worker: one process, one notebook ---------------------------------------------------------------------


def _worker(job: dict[str, Any]) -> None:
    """Execute one notebook, leave it and its HTML in the run folder, and report events as JSON lines on stdout."""
    # Keep stdout for events: whatever else prints, the kernel included, goes to the log.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **what: Any) -> None:
        channel.write(json.dumps({"event": event, **what}) + "\n")
        channel.flush()

    folder, name = Path(job["folder"]), Path(job["notebook"]).stem
    running = folder / "notebooks" / f".{name}.running.ipynb"
    position: dict[str, Any] = {}
    failure: Failure | None = None
    try:
        for attempt in (1, 2):
            try:
                _papermill(job, running, position, tell)
                break
            except RuntimeError:
                # Two kernels that start together can be given the same free port.
                if position or attempt == 2:
                    raise
    except Exception as error:
        import traceback

        traceback.print_exc()
        failure = _failure(name, error, position)
    scrub = _Scrubber(folder)
    try:
        if running.exists():
            final = folder / "notebooks" / (f"{name}.failed.ipynb" if failure else f"{name}.ipynb")
            notebook = json.loads(running.read_text(encoding="utf-8"))
            notebook["metadata"].get("papermill", {}).update(input_path=f"{name}.ipynb", output_path=final.name)
            _write(running, json.dumps(_walk(notebook, scrub.folders), indent=1, ensure_ascii=False) + "\n")
            _write(final.with_suffix(".html"), scrub.folders(_to_html(running, title=name)))
            os.replace(running, final)
    except OSError as error:
        failure = failure or Failure(name, *_cause(error))
    tell("end", failure=_walk(asdict(failure), scrub.paths) if failure else None)


def _papermill(job: dict[str, Any], target: Path, position: dict[str, Any], tell: Callable[..., None]) -> None:
    import papermill
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        """papermill's own engine, which also says which cell it is at and lets go of its kernel when told."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            cells = nb_man.nb.cells
            places = list(_places(cells))
            notice = nb_man.cell_start

            def cell_start(cell: Any, cell_index: int, **more: Any) -> None:
                position.update(places[cell_index], cell_id=cell.get("id", ""))
                tell("cell", cell=cell_index + 1, cells=len(cells), heading=position["heading"])
                notice(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            client = PapermillNotebookClient(
                nb_man,
                kernel_name=kernel_name,
                timeout=kwargs.get("execution_timeout"),
                startup_timeout=kwargs.get("start_timeout"),
            )
            threading.Thread(target=_stop_with_parent, args=(client,), daemon=True).start()
            return client.execute()

    papermill_engines.register("nsrlib", Engine)
    papermill.execute_notebook(
        _literal(Path(job["notebook"])),
        _literal(target),
        parameters=job["parameters"],
        engine_name="nsrlib",
        kernel_name="python3",  # the environment that runs this, whatever the notebook was last saved with
        progress_bar=False,
        start_timeout=180,
        execution_timeout=math.ceil(job["timeout"] or 0) or None,  # nbclient counts whole seconds
    )


def _stop_with_parent(client: Any) -> None:
    """End kernel and worker when stdin closes: the parent asks for it, or has died."""
    os.read(0, 1)
    process = getattr(getattr(client.km, "provisioner", None), "process", None)
    if process is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a kernel leads a group of its own
        except (AttributeError, OSError):
            process.kill()
    os._exit(130)


def _places(cells: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each cell: the heading it brings, the section it is in, its number in the source notebook, its first line."""
    section, number = "", 0
    for cell in cells:
        tags = cell["metadata"].get("tags", [])
        if "papermill-error-cell-tag" not in tags and "injected-parameters" not in tags:
            number += 1
        text = "".join(cell["source"])
        heading = _heading(text) if cell["cell_type"] == "markdown" else ""
        section = heading or section
        first = next((s for s in map(str.strip, text.splitlines()) if s), "")
        yield {"heading": heading, "section": section, "cell": number, "line": _short(first, 80)}


def _heading(markdown: str) -> str:
    """The last heading of a markdown cell, as plain text."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.S | re.M)
    found = re.findall(r"^#{1,4}[ \t]+(.+?)[ \t#]*$", prose, flags=re.M)
    if not found:
        return ""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[*`]|<[^>]+>", "", found[-1])).strip()


def _failure(notebook: str, error: Exception, position: Mapping[str, Any]) -> Failure:
    where = {k: position[k] for k in ("section", "cell", "line", "cell_id") if k in position}
    kind, message = _cause(error)
    if kind == "DeadKernelError":
        message += f"; see logs/{notebook}.log"
    return Failure(notebook, kind, message, **where)


def _cause(error: BaseException) -> tuple[str, str]:
    """Name and one line for an exception of the notebook, of its kernel, or of the disk."""
    kind = type(error).__name__
    if kind == "PapermillExecutionError":
        return str(getattr(error, "ename", kind)), _short(str(getattr(error, "evalue", "")))
    if kind == "DeadKernelError":
        return kind, "the kernel died; often the machine is out of memory"
    if kind == "CellTimeoutError":
        seconds = re.search(r"after (\S+) seconds", str(error))
        return kind, f"the cell took longer than {seconds[1] if seconds else 'the allowed'} s"
    if isinstance(error, OSError) and error.errno:
        if error.errno == errno.ENOSPC:
            return kind, "the disk is full" + (f" (writing {Path(error.filename).name})" if error.filename else "")
        return kind, f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    return kind, _short(str(error))


def _short(text: str, limit: int = 300) -> str:
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _to_html(path: Path, title: str) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True)
    # Nothing that the page needs comes from the network. MathJax is fetched if it can be, after the page is up.
    exporter.raw_template = """
        {%- extends 'index.html.j2' -%}
        {%- block html_head_js_requirejs -%}{%- endblock -%}
        {%- block jupyter_widgets -%}{%- endblock -%}
        {%- block html_head_js_mermaidjs -%}{%- endblock -%}
        {%- block html_head_js_mathjax -%}
        {{ mathjax(resources.mathjax_url) | replace('<script src', '<script defer src') }}
        {%- endblock -%}"""
    html, _ = exporter.from_filename(str(path), resources={"metadata": {"name": title}})
    return html


# ---- the report ------------------------------------------------------------------------------------------------


def report(folder: str | Path) -> Path:
    """Build ``index.html`` from what lies in a run folder, and return its path.

    A damaged or missing part is named on the page and leaves the rest as it is. Nothing is measured or run again.

    Raises:
        FileNotFoundError: ``folder`` is not a directory.
    """
    import jinja2

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder {folder}")
    folder = folder.resolve()
    problems: list[str] = []
    try:
        run = Run.load(folder)
    except ValueError as error:
        problems.append(str(error))
        run = Run(folder, "", [NotebookRun(n, "unknown") for n in _names_in(folder)], status="unknown")

    results = _results(folder, problems)
    rows = [
        {**r, "verdict": _verdict(r), "paper": r.get("paper") or paper} for paper, found, _ in results for r in found
    ]
    page = {
        "run": run,
        "counts": _ordered(Counter(r["verdict"] for r in rows)),
        "board": _board(rows),
        # stable: within a verdict the order of the papers stays
        "rows": sorted(rows, key=lambda r: r["verdict"] != "differs"),
        "measured": _measured(results, run.about.get("versions", {})),
        "inputs": _inputs(results),
        "links": {n.name: _links(folder, n.name) for n in run.notebooks},
        "longest": max((n.seconds for n in run.notebooks), default=0) or 1,
        "verdicts": VERDICTS,
        "how": HOW,
        "folder": folder.name,
    }
    scrub = _Scrubber(folder)
    page = _walk(page, scrub.paths) | {"figures": _figures(folder, [n.name for n in run.notebooks], problems)}
    page["problems"] = [scrub.paths(p) for p in problems]

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {"clock": _clock, "number": _number, "signed": _signed, "table": _table_name, "place": _place}
    target = folder / "index.html"
    _write(target, templates.get_template("report.html.j2").render(page))
    return target


def _names_in(folder: Path) -> list[str]:
    found = [*folder.glob("notebooks/*.ipynb"), *folder.glob("results/*.json")]
    return sorted({p.name.split(".")[0] for p in found} - {""})


def _results(folder: Path, problems: list[str]) -> list[_Results]:
    """``(paper, rows, provenance)`` of every readable file in ``results/``."""
    found = []
    for path in sorted((folder / "results").glob("*.json")):
        name = f"results/{path.name}"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {_short(str(error))}")
            continue
        if not isinstance(content, dict) or not isinstance(content.get("rows", []), list):
            problems.append(f"{name} holds no list of rows")
            continue
        rows = [r for r in content.get("rows", []) if isinstance(r, dict)]
        if skipped := len(content.get("rows", [])) - len(rows):
            problems.append(f"{name}: {skipped} entries that are no claims were left out")
        provenance = content.get("provenance")
        found.append((str(content.get("paper") or path.stem), rows, provenance if isinstance(provenance, dict) else {}))
    return found


def _verdict(row: Mapping[str, Any]) -> str:
    return str(row.get("verdict") or "open")


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(v, counts[v]) for v in [*VERDICTS, *sorted(set(counts) - set(VERDICTS))] if counts[v]]


def _board(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by paper, table and kind of evidence. The three main verdicts always have a column."""
    lines: dict[tuple[str, str, str], Counter[str]] = {}
    for r in rows:
        key = (str(r["paper"]), _table_name(r.get("table")), str(r.get("how") or "open"))
        lines.setdefault(key, Counter())[r["verdict"]] += 1
    used = {v for c in lines.values() for v in c} | {"reproduced", "differs", "open"}
    columns = [*(v for v in VERDICTS if v in used), *sorted(used - set(VERDICTS))]
    # tables in the order of the notebook, evidence from the strongest to none
    tables = {key[:2]: place for place, key in reversed(list(enumerate(lines)))}
    kinds = [*HOW, *sorted({how for _, _, how in lines} - set(HOW))]
    lines = dict(sorted(lines.items(), key=lambda item: (item[0][0], tables[item[0][:2]], kinds.index(item[0][2]))))
    return {"columns": columns, "lines": [(*key, count) for key, count in lines.items()]}


def _inputs(results: list[_Results]) -> list[dict[str, Any]]:
    """Data and weights that any paper used, each once."""
    seen: dict[tuple[str, str, str, str], list[str]] = {}
    for paper, _, provenance in results:
        for kind in ("data", "weights"):
            entries = provenance.get(kind)
            for name, entry in entries.items() if isinstance(entries, dict) else ():
                entry = entry if isinstance(entry, dict) else {"origin": entry}
                key = (kind, str(name), str(entry.get("origin") or ""), str(entry.get("sha256") or ""))
                seen.setdefault(key, []).append(paper)
    return [
        {"kind": k, "name": n, "origin": o, "sha256": h, "papers": ", ".join(p)} for (k, n, o, h), p in seen.items()
    ]


def _measured(results: list[_Results], versions: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """``(what, text, papers)``: where the numbers were measured, and versions that are not those of the run."""
    seen: dict[tuple[str, str], list[str]] = {}
    for paper, _, provenance in results:
        threads, theirs = provenance.get("threads"), provenance.get("versions")
        device = [provenance.get("device"), f"{threads} thread{'' if threads == 1 else 's'}" if threads else None]
        other = theirs.items() if isinstance(theirs, dict) else ()
        for what, text in (
            ("Measured on", ", ".join(str(d) for d in device if d)),
            ("Also used", ", ".join(f"{k} {v}" for k, v in other if versions.get(k) != v)),
        ):
            if text:
                seen.setdefault((what, text), []).append(paper)
    return [(what, text, ", ".join(papers)) for (what, text), papers in sorted(seen.items(), reverse=True)]


def _links(folder: Path, name: str) -> dict[str, str]:
    """Kind of file -> address relative to the page, for those that exist."""
    possible = {
        "page": (f"notebooks/{name}.html", f"notebooks/{name}.failed.html"),
        "notebook": (f"notebooks/{name}.ipynb", f"notebooks/{name}.failed.ipynb"),
        "numbers": (f"results/{name}.json",),
        "log": (f"logs/{name}.log",),
    }
    return {k: p for k, paths in possible.items() for p in reversed(paths) if (folder / p).exists()}


def _figures(folder: Path, names: list[str], problems: list[str]) -> list[dict[str, str]]:
    """Every PNG and JPEG that the executed notebooks show, with the heading above it."""
    figures = []
    for name in names:
        links = _links(folder, name)
        if "notebook" not in links:
            continue
        try:
            cells = json.loads((folder / links["notebook"]).read_text(encoding="utf-8"))["cells"]
            for cell, place in zip(cells, _places(cells), strict=True):
                for output in cell.get("outputs", []):
                    for mime in ("image/png", "image/jpeg"):
                        if image := output.get("data", {}).get(mime):
                            figures.append(
                                {
                                    "src": _data_uri("".join(image), mime),
                                    "caption": place["section"] or name,
                                    "paper": name,
                                    "href": f"{links.get('page', links['notebook'])}#cell-id={cell.get('id', '')}",
                                }
                            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{links['notebook']} cannot be read: {type(error).__name__}: {_short(str(error))}")
    return figures


def _data_uri(encoded: str, mime: str, limit: int = 400_000) -> str:
    """The image as it is, or a smaller copy when it is heavy; the notebook's own page has the original."""
    from PIL import Image

    encoded = "".join(encoded.split())
    if len(encoded) > limit:
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        picture.thumbnail((1400, 1400), Image.Resampling.LANCZOS)
        small = io.BytesIO()
        picture.convert("RGBA" if picture.has_transparency_data else "RGB").save(small, "WEBP", quality=88)
        encoded, mime = base64.b64encode(small.getvalue()).decode(), "image/webp"
    return f"data:{mime};base64,{encoded}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _table_name(table: Any) -> str:
    text = str(table if table is not None else "").strip() or "–"
    return f"Table {text}" if re.fullmatch(r"[\dIVX]+[a-z]?", text) else text


def _place(row: Mapping[str, Any]) -> str:
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
    return max(digits, {"psnr": 2, "ssim": 4}.get(str(row.get("metric") or "").lower(), 0))


def _number(value: Any, row: Mapping[str, Any]) -> str:
    """A measured or published value to the digits of the published one."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
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


# ---- files and names ---------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    """Write a whole file or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with ``change`` applied to every string in it, but for images and the files' own objects."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Counter):
        return value
    if isinstance(value, dict):
        return {k: v if str(k).startswith("image/") else _walk(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walk(v, change) for v in value)
    return value


class _Scrubber:
    """Cuts the names of this machine's folders out of texts that may be published."""

    # A path starts where no word, URL or base64 text is going on; after a terminal colour or an escaped newline too.
    _START = r"(?:(?<![\w+/=.~-])|(?<=\[\dm)|(?<=\[\d\dm)|(?<=\[\d;\d\dm)|(?<=\\n)|(?<=\\t))(?:file://)?"
    _ANY = re.compile(_START + r"/(?:[^\s/'\"<>:,;()\\]+/)+([^\s/'\"<>:,;()\\]*)")

    def __init__(self, folder: Path):
        names: dict[str, str] = {}
        for place, short in ((Path.home(), "~"), (_ROOT, "."), (folder, ".")):
            for path in {place, place.resolve()}:
                if len(path.parts) > 1:
                    names[str(path)] = short
        self._names = names
        longest_first = "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True))
        self._known = re.compile(f"{self._START}({longest_first})(?![\\w-])(/?)") if names else None

    def folders(self, text: str) -> str:
        """Home becomes ``~``; what lies in the repository or the run folder is named from there."""

        def short(found: re.Match[str]) -> str:
            name = self._names[found[1]]
            return name + found[2] if name == "~" or not found[2] else ""

        return self._known.sub(short, text) if self._known else text

    def paths(self, text: str) -> str:
        """The same, and of any other absolute path only the last part."""
        return self._ANY.sub(r"…/\1", self.folders(text))


def _nice(path: Path) -> str:
    """A path for a message: relative to where the user is, if it is not far."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    _worker(json.loads(sys.argv[1]))
