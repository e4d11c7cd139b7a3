"""Batches of notebook runs, and the page that shows them.

Each notebook runs in a process of its own (:mod:`nsrlib.runs.worker`), so that one that fails or is killed takes
nothing else down. A run folder holds

    run.json                    what was asked for, how each notebook ended, versions, commit
    notebooks/bsrn.ipynb        executed (``bsrn.failed.ipynb`` if it failed) and the same as ``.html``
    results/bsrn.json           the ledger rows that the notebook measured, with their provenance
    logs/bsrn.log               what the kernel and the runner said on stderr
    sources/bsrn.ipynb          the notebook that was run, if it came with an installed package
    index.html                  the report

It can be moved or published: names of this machine's folders are cut out of what is written
(:class:`nsrlib.runs.texts.Scrubber`).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nsrlib import papers
from nsrlib.claims import COMMAND
from nsrlib.files import ROOT, commit, lock, versions
from nsrlib.runs import pages
from nsrlib.runs.grids import as_text, literal
from nsrlib.runs.notebooks import check_parameters, known_parameters
from nsrlib.runs.progress import Bars
from nsrlib.runs.record import Failure, Interrupted, NotebookRun, Run
from nsrlib.runs.texts import Scrubber, cause_of, clock, map_strings, short_path, suggest

_STOP_SECONDS = 10  # a worker kills its kernel at once; after this it is killed itself


def notebooks(folder: str | Path | None = None) -> dict[str, Path]:
    """Name -> file of the notebooks in a folder, sorted; None: those of :func:`nsrlib.papers.every`.

    Raises:
        ValueError: there is none.
    """
    if folder is None:
        found = {paper.name: paper.notebook for paper in papers.every().values() if paper.notebook.is_file()}
    else:
        found = {p.stem: p.resolve() for p in Path(folder).glob("*.ipynb") if not p.name.startswith(".")}
    if not found:
        where = "nsrlib.papers" if folder is None else short_path(Path(folder))
        raise ValueError(f"no notebooks in {where}")
    return dict(sorted(found.items()))


def choose(names: str | Iterable[str] | None, there: Mapping[str, Path]) -> dict[str, Path]:
    """Those of ``there`` that are named, in the order of the names; all for None.

    Raises:
        ValueError: a name that is not there; lists those that are.
    """
    names = list(there if names is None else [names] if isinstance(names, str) else names)
    for name in names:
        if name not in there:
            raise ValueError(f"no notebook {name!r}{suggest(name, there)}; there are: {', '.join(there)}")
    return {name: there[name] for name in names}


def ready(notebook: Path, folder: Path) -> Path:
    """The notebook if it lies in a checkout, else a copy in ``folder``: its kernel starts where it may write."""
    if (notebook.parents[1] / "pyproject.toml").is_file():
        return notebook
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(notebook, folder / notebook.name))


def default_folder() -> Path:
    """Where runs go unless told otherwise: ``runs`` of the checkout, else of the current directory."""
    return (ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()) / "runs"


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

    A failing cell ends its own notebook only; what stopped it is in ``Run.failures``.

    Args:
        papers: which notebooks, by name; default: all.
        parameters: values for the cells tagged ``parameters``. Each goes to the notebooks that know it.
        out: the run folder, new or empty; default: ``runs/<date>-<time>-<profile>`` in the checkout, else here.
        jobs: notebooks at a time; default: one a core. Several share one GPU.
        timeout: seconds that one cell may take.
        progress: say on stderr how far each notebook is: bars on a terminal, plain lines elsewhere.
        resume: keep the notebooks that ``out`` already has finished and run the others.
        notebooks_dir: where the notebooks are; default: those of :func:`nsrlib.papers.every`.
        pages: write the report and the notebooks as HTML; without, :func:`report` still writes the report later.

    Raises:
        ValueError: unknown paper, profile or parameter, or a parameter of the wrong type, before anything is run.
        FileExistsError: ``out`` is not empty, and this is not a resumption; or another run is at work in it.
        OSError: ``out`` cannot be written.
        Interrupted: on Ctrl-C, after the kernels are stopped and ``run.json`` is written.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
    if resume and out is None:
        raise ValueError("resume needs the run folder: out=...")

    # as run.json will give them back
    given = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in (parameters or {}).items()}
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    run = Run.load(out) if resume and out is not None else None
    if papers is None and run:
        papers = [n.name for n in run.notebooks]
    chosen = choose(papers, notebooks(notebooks_dir))
    per_notebook = check_parameters(known_parameters(chosen), profile, given)
    allow_open_files(min(jobs or cores(), len(chosen)))
    folder = run.folder if run else _folder(out, profile)
    with lock(folder, "run"):
        if run is None:
            run = Run(_laid_out(folder), profile, [], parameters=given)
        else:
            run = Run.load(folder)  # once more: until now another process may have been at it
            if (run.profile, run.parameters) != (profile, map_strings(given, Scrubber(folder).paths)):
                raise ValueError(
                    f"{short_path(folder)} was run with profile {run.profile!r} and parameters {run.parameters}, "
                    f"not {profile!r} and {given}; use a new folder"
                )
        run.status, run.about = "running", about(["reproduce", *chosen], profile, given)
        known = {n.name for n in run.notebooks}
        run.notebooks += [NotebookRun(name) for name in chosen if name not in known]
        done = {n.name for n in run.notebooks if n.status == "ok" and (folder / f"notebooks/{n.name}.ipynb").exists()}
        todo = [n for n in run.notebooks if n.name in chosen and n.name not in done]
        todo.sort(key=lambda n: (stored_seconds(n.name, profile), chosen[n.name].stat().st_size), reverse=True)
        if notebooks_dir is None:
            chosen |= {n.name: ready(chosen[n.name], folder / "sources") for n in todo}
        orders = {
            name: {"notebook": str(path), "parameters": per_notebook[name], "timeout": timeout, "page": pages}
            for name, path in chosen.items()
        }
        started, already, interrupted = time.monotonic(), run.seconds, False
        run.save()
        try:
            with Bars(progress, sys.stderr) as bars:
                execute(run, todo, orders, min(jobs or cores(), max(1, len(todo))), bars)
        except KeyboardInterrupt:
            interrupted = True
        run.status = "interrupted" if interrupted else "finished" if run.ok else "failed"
        run.seconds = round(already + time.monotonic() - started, 1)
        run.save()
        if pages:
            report(folder)
    if interrupted:
        raise Interrupted(run)
    return run


def report(folder: str | Path) -> Path:
    """Build ``index.html`` from what lies in a run folder, and return its path. Nothing is measured or run again.

    Raises:
        ValueError: there is no run, or its ``run.json`` is no JSON. Any other damage is named on the page.
    """
    damage: list[str] = []
    return pages.write_page(Run.load(folder, damage), damage)


def summary(run: Run) -> str:
    """A few lines for the console: how each notebook ended, its verdicts, what failed, where the report is."""
    results = pages.read_results(run.folder, [])
    verdicts = {r.paper: ", ".join(f"{count} {word}" for word, count in pages.count_verdicts(r.rows)) for r in results}
    width = max((len(n.name) for n in run.notebooks), default=0)
    lines = []
    for n in run.notebooks:
        claims = verdicts.get(n.name) or "no claims recorded"
        lines.append(f"{n.name:<{width}}  {n.status:<11}  {clock(n.seconds):>7}  {claims}")
    lines += [f"{found.paper}: {note}" for found in results for note in found.notes]
    lines += [f"✗ {failure}" for failure in run.failures]
    done = sum(n.status == "ok" for n in run.notebooks)
    lines.append(f"{done} of {len(run.notebooks)} notebooks ran to the end in {clock(run.seconds)}")
    return "\n".join([*lines, f"report: {short_path(run.folder / 'index.html')}"])


def stored_seconds(paper: str, profile: str) -> float:
    """How long a paper's notebook took when its results were stored; infinite where nothing is known."""
    try:
        stored = papers.every()[paper].results / f"{profile}.json"
        return float(json.loads(stored.read_text(encoding="utf-8"))["provenance"]["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_open_files(runs: int) -> None:
    """Let this process and its children open as many files as so many runs at once take: with too few, kernels hang.

    Raises:
        OSError: the system does not let it.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need, unlimited = 128 + 16 * runs, resource.RLIM_INFINITY
    if unlimited != hard < need:
        raise OSError(f"a process may open {hard} files here, too few for {runs} at once: ulimit -n {need}")
    if unlimited != soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def _folder(out: str | Path | None, profile: str) -> Path:
    """The folder of a new run; by default one that was not there, also where several runs begin in one second."""
    if out:
        return make_folder(Path(out).resolve(), ".")
    place = make_folder(default_folder().resolve(), ".")
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{profile}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(place / name for name in names if _made(place / name))


def _made(folder: Path) -> bool:
    """Make a folder, unless it is there."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _laid_out(folder: Path) -> Path:
    """A locked folder with its parts. FileExistsError if something else is in it."""
    if {path.name for path in folder.iterdir()} - {"run.lock", ".run.owner"}:
        raise FileExistsError(f"{short_path(folder)} is not empty: choose another folder, or resume the run in it")
    return make_folder(folder, "notebooks", "results", "logs")


def make_folder(folder: Path, *parts: str) -> Path:
    """Make a folder with its parts, if they are not there, and see whether it can be written."""
    try:
        for part in parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(f"cannot write to {short_path(folder)}: {cause_of(error)[1]}") from error


def about(words: Iterable[str], profile: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader needs to run ``nsr`` with these words again: started, command, git, versions, machine."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(words, profile, parameters),
        "git": commit(),
        "versions": versions() | {"nsrlib": metadata.version("nsrlib")},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def command(words: Iterable[str], profile: str, parameters: Mapping[str, Any]) -> str:
    """The command line that runs ``nsr`` with these words and parameters.

    Example:
        >>> print(command(["reproduce", "bsrn"], "quick", {"scales": "2,3", "repeats": 1}))
        nsr reproduce bsrn --profile quick -p 'scales="2,3"' -p repeats=1
    """
    given = []
    for name, value in parameters.items():
        text = as_text(value)
        if literal(text) != value and str(literal(text)) != value:  # a text that would be read as something else
            text = json.dumps(value)
        given += ["-p", f"{name}={text}"]
    return shlex.join(["nsr", *words, "--profile", profile, *given])


def execute(run: Run, todo: list[NotebookRun], orders: Mapping[str, Mapping[str, Any]], jobs: int, bars: Bars) -> None:
    """Run ``todo``, at most ``jobs`` at a time, and keep ``run`` and ``run.json`` up to date."""
    environment = _environment(max(1, cores() // jobs))
    events: queue.Queue[tuple[NotebookRun, dict[str, Any]]] = queue.Queue()
    waiting = deque(todo)
    workers: dict[str, subprocess.Popen[str]] = {}
    began, bar = {}, {}

    def listen(notebook: NotebookRun, worker: subprocess.Popen[str]) -> None:
        for line in worker.stdout or ():
            events.put((notebook, json.loads(line)))
        events.put((notebook, {"event": "exit", "code": worker.wait()}))

    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                notebook = waiting.popleft()
                name = notebook.name
                worker = workers[name] = _start_worker(run.folder, orders[name], environment)
                began[name], bar[name] = time.monotonic(), bars.add_task(name, total=None)
                notebook.status, notebook.error = "running", None
                threading.Thread(target=listen, args=(notebook, worker), daemon=True).start()
                bars.say(f"{name}: started")
            notebook, event = events.get()
            name = notebook.name
            notebook.seconds = round(time.monotonic() - began[name], 1)
            if event["event"] == "cell":
                cell, notebook.cells = event["cell"], event["cells"]
                bars.update(bar[name], completed=cell, total=notebook.cells)
                if event["heading"] and not bars.drawn:
                    bars.say(f"{name}: {cell}/{notebook.cells} cells  {clock(notebook.seconds)}  {event['heading']}")
            elif event["event"] == "end":
                notebook.error = Failure(**event["failure"]) if event["failure"] else None
                notebook.status = "failed" if notebook.error else "ok"
            else:
                _stop([workers.pop(name)])
                if notebook.status == "running":  # it said nothing at its end
                    _worker_died(run.folder, notebook, event["code"])
                Scrubber(run.folder).log(run.folder / "logs" / f"{name}.log")
                run.save()
                bars.remove_task(bar[name])
                bars.say(f"{name}: {notebook.status} in {clock(notebook.seconds)}")
                if notebook.error:
                    bars.say(f"✗ {notebook.error}")
    except BaseException:
        _stop(workers.values())
        for notebook in todo:
            if notebook.name in workers:
                notebook.status = "interrupted"
                (run.folder / "notebooks" / f".{notebook.name}.running.ipynb").unlink(missing_ok=True)
        raise


def _worker_died(folder: Path, notebook: NotebookRun, code: int) -> None:
    notebook.status, name = "failed", notebook.name
    reason = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    notebook.error = Failure(name, "worker died", f"{reason}; see logs/{name}.log")
    unfinished = folder / "notebooks" / f".{name}.running.ipynb"
    if unfinished.exists():
        unfinished.replace(unfinished.with_name(f"{name}.failed.ipynb"))


def _environment(threads: int) -> dict[str, str]:
    """What workers and kernels inherit."""
    here = str(Path(__file__).resolve().parents[2])  # this very nsrlib
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    # Without these, the threads of several kernels fight for the cores: a hundred times slower has been seen.
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.pop("MPLBACKEND", None)  # a headless Agg from outside would leave the notebooks without figures
    return environment


def _start_worker(folder: Path, order: Mapping[str, Any], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start the process that executes a notebook (:mod:`nsrlib.runs.worker`), in place of what it left before."""
    notebook = Path(order["notebook"])
    name = notebook.stem
    (folder / "results" / f"{name}.json").unlink(missing_ok=True)
    for end in ("ipynb", "html"):
        for left in (f"{name}.{end}", f"{name}.failed.{end}", f".{name}.running.{end}"):
            (folder / "notebooks" / left).unlink(missing_ok=True)
    # relative, because the executed notebook shows its parameters
    out_dir = os.path.relpath(folder / "results", notebook.parent)
    job = {**order, "folder": str(folder), "parameters": order["parameters"] | {"out_dir": out_dir}}
    own = {key: value for key, value in order["parameters"].items() if key != "profile"}
    environment = environment | {COMMAND: command(["reproduce", name], order["parameters"]["profile"], own)}
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


def _stop(workers: Collection[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.stdin:
            worker.stdin.close()  # the order to stop
    for worker in workers:
        try:
            worker.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
