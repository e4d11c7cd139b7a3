"""Batches of notebook runs, and the page that shows them.

``reproduce`` executes the notebooks through papermill, several at once, each in a process of its own (see
:mod:`nsrlib.runs.worker`) with a kernel of its own, so that one that fails or is killed takes nothing else down. ``report``
turns what lies in the run folder into one static page (see :mod:`nsrlib.runs.pages`). A run folder holds

    run.json                    what was asked for, how each notebook ended, versions, commit
    notebooks/bsrn.ipynb        executed (``bsrn.failed.ipynb`` if it failed) and the same as ``.html``
    results/bsrn.json           the ledger rows that the notebook measured, with their provenance
    logs/bsrn.log               what the kernel and the runner said on stderr
    index.html                  the report

Everything in it is relative to the folder, so that it can be moved or published. Names of the home, the repository
and the run folder are cut out of what is written.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import json
import math
import os
import platform
import queue
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from nsrlib.runs import worker
from nsrlib.runs import pages
from nsrlib.files import ROOT, one_line, write_text
from nsrlib.runs.worker import Failure, Scrubber, cause_of, literal_path, map_strings
from nsrlib.claims import PROFILES, known
from nsrlib.runs.pages import clock

__all__ = [
    "PROFILES",
    "Failure",
    "Interrupted",
    "NotebookRun",
    "Run",
    "list_papers",
    "report",
    "reproduce",
    "summary",
]


_NOTEBOOKS = ROOT / "notebooks"
_VERSIONS = ("nsrlib", "torch", "triton", "numpy", "pandas", "papermill", "nbclient", "nbconvert", "ipykernel")
_STOP_SECONDS = 10  # a worker kills its kernel at once; after this it is killed itself


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
        text = json.dumps(map_strings(record, Scrubber(self.folder).paths), indent=1, ensure_ascii=False)
        write_text(self.folder / "run.json", text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """The run whose ``run.json`` lies in ``folder``.

        Raises:
            ValueError: there is no ``run.json``, or it is damaged.
        """
        path = Path(folder).resolve() / "run.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            notebooks = [
                NotebookRun(**{**n, "error": Failure(**n["error"]) if n["error"] else None})
                for n in record.pop("notebooks")
            ]
            own = {k: record.pop(k) for k in ("profile", "status", "seconds", "parameters")}
            record.pop("failures", None)
            return cls(path.parent, notebooks=notebooks, about=record, **own)
        except OSError as error:
            raise ValueError(f"no run in {folder}: {error.strerror} ({path.name})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} in {folder} is damaged: {type(error).__name__}: {error}") from error


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while notebooks ran: kernels are stopped, ``run.json`` is written, ``run`` says how far it got."""

    def __init__(self, run: Run):
        super().__init__(f"interrupted; finished notebooks are in {short_path(run.folder)}")
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
    pages: bool = True,
) -> Run:
    """Execute notebooks and write a run folder with a report.

    The notebooks that took longest when their results were stored start first. A failing cell ends its own notebook
    only; what stopped it is in ``Run.failures``. Kernels start in ``notebooks_dir``, as they do in JupyterLab.

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
        pages: write the report and the notebooks as HTML; without, :func:`report` still writes the report later.

    Raises:
        ValueError: unknown paper, profile or parameter, or a parameter of the wrong type, before anything is run.
        FileExistsError: ``out`` is not empty, and this is not a resumption.
        OSError: ``out`` cannot be written.
        Interrupted: on Ctrl-C, after the kernels are stopped and ``run.json`` is written.
    """
    source = Path(notebooks_dir or _NOTEBOOKS).resolve()
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}{suggest(profile, PROFILES)}; there are: {', '.join(PROFILES)}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
    if resume and out is None:
        raise ValueError("resume needs the run folder: out=...")

    given = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in (parameters or {}).items()}
    run = Run.load(out) if resume and out is not None else None
    if papers is None and run:
        papers = [n.name for n in run.notebooks]
    names = choose(papers, source)
    per_notebook = check_parameters(known_parameters(names, source), profile, given)
    if run is None:
        run = Run(_new_folder(out, profile), profile, [], parameters=given)
    elif (run.profile, run.parameters) != (profile, map_strings(given, Scrubber(run.folder).paths)):
        raise ValueError(
            f"{short_path(run.folder)} was run with profile {run.profile!r} and parameters {run.parameters}, "
            f"not {profile!r} and {given}; use a new folder"
        )
    command = ["nsr", "reproduce", *names, "--profile", profile]
    for key, value in given.items():
        command += ["-p", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    run.status, run.about = "running", about(command)
    known = {n.name for n in run.notebooks}
    run.notebooks += [NotebookRun(name) for name in names if name not in known]
    done = {n.name for n in run.notebooks if n.status == "ok" and (run.folder / f"notebooks/{n.name}.ipynb").exists()}
    todo = [n for n in run.notebooks if n.name in names and n.name not in done]
    todo.sort(key=lambda n: _expected_seconds(source / f"{n.name}.ipynb", profile), reverse=True)

    jobs = min(jobs or cores(), max(1, len(todo)))
    started, already = time.monotonic(), run.seconds
    show = _Progress(progress, sys.stderr)
    run.save()
    interrupted = False
    try:
        _execute(
            run,
            todo,
            {name: {"parameters": per_notebook[name], "timeout": timeout, "page": pages} for name in names},
            source,
            jobs=jobs,
            threads=max(1, cores() // jobs),
            show=show,
        )
    except KeyboardInterrupt:
        interrupted = True
    finally:
        show.close()
    run.status = "interrupted" if interrupted else "finished" if run.ok else "failed"
    run.seconds = round(already + time.monotonic() - started, 1)
    run.save()
    if pages:
        report(run.folder)
    if interrupted:
        raise Interrupted(run)
    return run


def report(folder: str | Path) -> Path:
    """Build ``index.html`` from what lies in a run folder, and return its path.

    A damaged or missing part is named on the page and leaves the rest as it is. Nothing is measured or run again.

    Raises:
        FileNotFoundError: ``folder`` is not a directory.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder {folder}")
    problems = []
    try:
        run = Run.load(folder)
    except ValueError as error:
        problems = [str(error)]
        found = [*folder.glob("notebooks/*.ipynb"), *folder.glob("results/*.json")]
        if not found:
            raise ValueError(f"{folder.name} is no run folder: it has no run.json, results/ or notebooks/") from None
        names = sorted({path.name.split(".")[0] for path in found} - {""})
        run = Run(folder, "", [NotebookRun(name, "unknown") for name in names], status="unknown")
    return pages.write_page(run, problems)


def summary(run: Run) -> str:
    """A few lines for the console: how each notebook ended, its verdicts, what failed, where the report is."""
    results = pages.read_results(run.folder, [])
    verdicts = {
        found.paper: ", ".join(f"{count} {verdict}" for verdict, count in pages.count_verdicts(found.rows))
        for found in results
    }
    width = max((len(n.name) for n in run.notebooks), default=0)
    states = max((len(n.status) for n in run.notebooks), default=0)
    lines = []
    for n in run.notebooks:
        claims = verdicts.get(n.name) or "no claims recorded"
        lines.append(f"{n.name:<{width}}  {n.status:<{states}}  {clock(n.seconds):>7}  {claims}")
    lines += [f"{found.paper}: {note}" for found in results for note in found.notes]
    lines += [f"✗ {failure}" for failure in run.failures]
    done = sum(n.status == "ok" for n in run.notebooks)
    lines.append(f"{done} of {len(run.notebooks)} notebooks ran to the end in {clock(run.seconds)}")
    lines.append(f"report: {short_path(run.folder / 'index.html')}")
    return "\n".join(lines)


def choose(papers: str | Iterable[str] | None, source: Path) -> list[str]:
    """Names of notebooks that there are; all for None. ValueError names one that there is not."""
    there = list_papers(source)
    if not there:
        raise ValueError(f"no notebooks in {short_path(source)}; they are part of the repository, not of the package")
    names = there if papers is None else [papers] if isinstance(papers, str) else list(dict.fromkeys(papers))
    for name in names:
        if name not in there:
            raise ValueError(f"no notebook {name!r}{suggest(name, there)}; there are: {', '.join(there)}")
    return names


def known_parameters(names: Iterable[str], source: Path) -> dict[str, dict[str, Any]]:
    """What the cells tagged ``parameters`` define: notebook -> name -> papermill's record of it.

    papermill itself injects a misspelt name with no more than a warning; see :func:`check_parameters`.

    Raises:
        ValueError: a notebook cannot be read, or has no ``profile`` or ``out_dir``.
    """
    papermill = worker.import_papermill()

    accepted: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            accepted[name] = known = papermill.inspect_notebook(literal_path(source / f"{name}.ipynb"))
        except Exception as error:  # nbformat, papermill and json all have their own
            raise ValueError(f"{name}.ipynb is no notebook that can be run: {one_line(str(error))}") from error
        for needed in ("profile", "out_dir"):
            if needed not in known:
                raise ValueError(f"{name}.ipynb has no {needed!r} in a cell tagged 'parameters'")
    return accepted


def check_parameters(
    accepted: Mapping[str, Mapping[str, Any]], profile: str, given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The values that each notebook of ``accepted`` (:func:`known_parameters`) gets, in the types that it takes.

    Raises:
        ValueError: a name that no notebook knows, or a value of another type than the default.
    """
    names = list(accepted)
    for own, instead in (("profile", "profile=..."), ("out_dir", "out=...")):
        if own in given:
            raise ValueError(f"{own!r} is set by the run itself: give {instead}")
    try:
        json.dumps(given)
    except TypeError as error:
        raise ValueError(f"parameters must be numbers, strings, lists or dicts: {error}") from error

    checked: dict[str, dict[str, Any]] = {n: {} for n in names}
    for key, value in given.items():
        takers = [n for n in names if key in accepted[n]]
        if not takers:
            every = list(dict.fromkeys(p for n in names for p in accepted[n] if p not in ("profile", "out_dir")))
            raise ValueError(
                f"no parameter {key!r} in {', '.join(names)}{suggest(key, every)}; "
                f"accepted: {', '.join(every) or 'none'}"
            )
        for name in takers:
            checked[name][key] = _checked(name, key, value, accepted[name][key]["default"])
    return {n: {"profile": profile, **checked[n]} for n in names}


def _checked(notebook: str, key: str, value: Any, default_source: str) -> Any:
    """The value as the notebook takes it, or a ValueError if it is of another type than the default."""
    try:
        default = ast.literal_eval(default_source)
    except (ValueError, SyntaxError):
        return value  # an expression: nothing can be told
    if default is None or value is None:
        return value
    if isinstance(default, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # -p scales=2 for a notebook whose default is "2,3,4"
    # bool is an int to isinstance, and a list may stand for a tuple after its way through JSON
    wanted = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}.get(type(default), (type(default),))
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"{notebook}: parameter {key!r} is a {type(default).__name__} (default {default!r}), "
            f"not a {type(value).__name__}: {value!r}"
        )
    return value


def suggest(word: str, possible: Iterable[str]) -> str:
    """A question for an error message: what the misspelt ``word`` may have meant."""
    close = difflib.get_close_matches(word, list(possible), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _expected_seconds(notebook: Path, profile: str) -> tuple[float, int]:
    """What to start first, largest first: the stored time; unknown counts as long, and then the larger file."""
    try:
        stored = known()[notebook.stem].results / f"{profile}.json"
        seconds = float(json.loads(stored.read_text(encoding="utf-8"))["provenance"]["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        seconds = math.inf
    return seconds, notebook.stat().st_size


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _new_folder(out: str | Path | None, profile: str) -> Path:
    if out is None:
        stem = ROOT / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{profile}"
        folder, n = stem, 1
        while folder.exists():
            folder, n = stem.with_name(f"{stem.name}-{n + 1}"), n + 1
    else:
        folder = Path(out).resolve()
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{short_path(folder)} is not empty: choose another folder, or resume the run in it")
    try:
        for part in ("notebooks", "results", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        write_text(folder / "run.json", "{}")
    except OSError as error:
        raise OSError(f"cannot write to {short_path(folder)}: {cause_of(error)[1]}") from error
    return folder


def about(command: Iterable[str]) -> dict[str, Any]:
    """What a reader needs to run this again: started, command, git, versions, machine."""

    def git(*args: str) -> str:
        try:
            answer = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return answer.stdout.strip() if answer.returncode == 0 else ""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    commit = git("rev-parse", "HEAD")
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "git": commit + ("-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else ""),
        "versions": {"python": platform.python_version()} | {p: v for p in _VERSIONS if (v := version(p))},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _execute(
    run: Run,
    todo: list[NotebookRun],
    orders: dict[str, dict[str, Any]],
    source: Path,
    *,
    jobs: int,
    threads: int,
    show: _Progress,
) -> None:
    """Run ``todo``, at most ``jobs`` at a time, and keep ``run`` and ``run.json`` up to date."""
    environment = _environment(threads)
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
        worker = _start_worker(run.folder, source / f"{name}.ipynb", orders[name], environment)
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


def _environment(threads: int) -> dict[str, str]:
    """What workers and kernels inherit."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),  # this very nsrlib
        "PYTHONUNBUFFERED": "1",
    }
    # Without these, the threads of several kernels fight for the cores: a hundred times slower has been seen.
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.pop("MPLBACKEND", None)  # a headless Agg from outside would leave the notebooks without figures
    return environment


def _start_worker(
    folder: Path, notebook: Path, order: dict[str, Any], environment: dict[str, str]
) -> subprocess.Popen[str]:
    """Start the process that executes ``notebook`` (:mod:`nsrlib.runs.worker`), in place of what it left before."""
    name = notebook.stem
    (folder / "results" / f"{name}.json").unlink(missing_ok=True)
    for stem in (name, f"{name}.failed", f".{name}.running"):
        for suffix in ("ipynb", "html"):
            (folder / "notebooks" / f"{stem}.{suffix}").unlink(missing_ok=True)
    # relative, because the executed notebook shows its parameters
    out_dir = os.path.relpath(folder / "results", notebook.parent)
    job = order | {
        "notebook": str(notebook),
        "folder": str(folder),
        "parameters": order["parameters"] | {"out_dir": out_dir},
    }
    with open(folder / "logs" / f"{name}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nsrlib.runs.worker", json.dumps(job)],
            cwd=notebook.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the workers in order
        )


def _stop(workers: dict[str, subprocess.Popen[str]]) -> None:
    for worker in workers.values():
        if worker.stdin:
            worker.stdin.close()  # the order to stop
    deadline = time.monotonic() + _STOP_SECONDS
    for worker in workers.values():
        try:
            worker.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()


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
        return clock(time.monotonic() - self.at[name][2])

    def _say(self, text: str) -> None:
        if self.enabled:
            self.close()
            print(text, file=self.stream, flush=True)
            self.draw()


def short_path(path: Path) -> str:
    """A path for a message: relative to where the user is, if it is not far."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
