"""Runs of a sweep, handed to Dask: as many processes as there are cores here, or the workers of a scheduler."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nsrlib.files import one_line, sha256_of
from nsrlib.runs import batch, notebooks
from nsrlib.runs.progress import Bars
from nsrlib.runs.record import Sweep, SweepRun, attempts, finished
from nsrlib.runs.texts import cause_of, clock

RETRIES = 1  # a run that fails is tried once more, as far as possible by another worker
CONNECT_SECONDS = 20  # for a scheduler to answer


class RunFailed(RuntimeError):
    """A run of a sweep ended with an error, which is the message."""


def next_attempt(folder: Path, key: str) -> Path:
    """A folder for the next attempt, which nobody else has."""
    for number in itertools.count(attempts(folder).get(key, 0) + 1):
        place = folder / "attempts" / f"{key}.{number}"
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            break
    return place


def job_of(this: Sweep, run: SweepRun, source: Path, timeout: float | None) -> dict[str, Any]:
    """All that a worker needs to know for :func:`run_one`."""
    options = {"profile": this.profile, "parameters": run.parameters, "timeout": timeout}
    return {
        "folder": str(this.folder),
        "key": run.key,
        "notebook": str(source / f"{this.paper}.ipynb"),
        "sha256": this.about["notebook_sha256"],
        "options": options,
    }


def run_one(job: Mapping[str, Any]) -> float:
    """One run, on a worker: made in ``attempts``, moved to ``runs`` when it has ended well. Returns its seconds.

    Raises:
        RunFailed: the notebook failed; its folder stays in ``attempts``.
        FileNotFoundError: this worker does not see the sweep's folder.
    """
    folder, notebook, key = Path(job["folder"]), Path(job["notebook"]), job["key"]
    if not (folder / "sweep.json").exists():
        here = socket.gethostname()
        raise FileNotFoundError(f"the worker on {here} does not see the sweep's folder; all need one file system")
    final = folder / "runs" / key
    if done := finished(final):
        return done.notebooks[0].seconds  # by a worker that was thought lost
    if notebooks.digest(notebook) != job["sha256"]:
        raise RunFailed(f"{notebook.name} was changed while the sweep ran; start it again")
    place = next_attempt(folder, key)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options = job["options"] | {"out": place, "notebooks_dir": notebook.parent}
    run = batch.reproduce(notebook.stem, jobs=1, progress=False, pages=False, **options)
    # here and not in the run's own process, which would import nbconvert each time
    for path in (place / "notebooks").glob("[!.]*.ipynb"):
        notebooks.write_page(path, path.with_suffix(".html"), place)
    numbers = [*(place / "results").rglob("*.json"), *(place / "notebooks").glob("*.ipynb")]
    run.about |= {
        "attempt": int(place.suffix[1:]),
        "threads": os.environ["OMP_NUM_THREADS"],
        "notebook_sha256": job["sha256"],
        "files": {path.relative_to(place).as_posix(): sha256_of(path) for path in sorted(numbers)},
    }
    run.save()
    if not run.ok:
        raise RunFailed("; ".join(map(str, run.failures)))
    try:
        os.rename(place, final)
    except OSError:
        if finished(final) is None:
            raise
        shutil.rmtree(place, ignore_errors=True)  # another worker was faster
    return run.notebooks[0].seconds


def execute(
    this: Sweep,
    todo: list[SweepRun],
    source: Path,
    bars: Bars,
    *,
    workers: int | None,
    scheduler: str | None,
    timeout: float | None,
) -> None:
    """Hand ``todo`` to Dask and follow it to the end."""
    from distributed import as_completed

    ended = itertools.count(len(this.runs) - len(todo) + 1)
    with _cluster(scheduler, workers, len(todo)) as client, bars:
        if scheduler and not client.scheduler_info()["workers"]:
            bars.say(f"waiting for workers at {scheduler}")
        bar = bars.add_task(this.paper, total=len(this.runs), completed=len(this.runs) - len(todo))
        batch = uuid.uuid4().hex[:8]  # a scheduler takes equal keys for the same task, in whatever folder
        futures = {}
        for run in todo:
            job = job_of(this, run, source, timeout)
            futures[client.submit(run_one, job, key=f"{run.key}-{batch}", pure=False, retries=RETRIES)] = run
        try:
            for future in as_completed(futures, loop=client.loop):
                run = futures[future]
                try:
                    run.seconds, run.status = future.result(), "ok"
                except Exception as error:
                    run.status, run.error = "failed", _why(error)
                future.release()
                bars.advance(bar)
                took = f" in {clock(run.seconds)}" if run.seconds else ""
                bars.say(f"[{next(ended)}/{len(this.runs)}] {this.label(run)}: {run.status}{took}")
                if run.error:
                    bars.say(f"✗ {run.error}")
        except BaseException:
            client.cancel(list(futures), force=True)
            raise


def _why(error: Exception) -> str:
    kind, message = cause_of(error)
    if kind == "KilledWorker":
        return "it was at work on several workers when they died; often the machine is out of memory"
    return str(error) if isinstance(error, RunFailed) else f"{kind}: {message}"


@contextlib.contextmanager
def _cluster(scheduler: str | None, workers: int | None, count: int) -> Iterator[Any]:
    """A client of workers: those of ``scheduler``, or as many processes here as there are cores."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise OSError(f"no Dask scheduler answers at {scheduler}: {one_line(str(error))}") from error
        with client:
            yield client
        return
    workers = min(workers or batch.cores(), count)
    # Dask's own default is one thread; the kernels inherit this
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, batch.cores() // workers)))
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
