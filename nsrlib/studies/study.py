"""What a study trains (variants, seeds, budgets of steps), and how: finished runs are kept, whatever ends them."""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from nsrlib.files import ROOT, code_commit, device_name, lock, versions, write_json
from nsrlib.statistics import MIN_SEEDS
from nsrlib.studies.results import StudyResult, collected, rows_of
from nsrlib.studies.task import train_and_score

Task = Callable[..., Mapping[str, Any]]
"""``task(seed=..., out=folder, **settings) -> {metric: number}``.

Three keys are no metrics: ``scores``, rows of set, image, psnr and ssim; ``curve``, rows of a learning curve; ``data``,
set -> SHA-256, with that of the training images as ``train``.
"""


@dataclass(frozen=True)
class Run:
    """One training: ``share`` of the steps of a variant, with a seed."""

    variant: str
    seed: int
    share: float = 1.0


@dataclass(frozen=True)
class Study:
    """Variants times seeds.

    Attributes:
        variants: name -> settings for the task, JSON-able.
        common: settings that all variants share; a variant's own come first, and a ``recipe`` or ``config`` in both is
            merged key by key.
        budgets: share of the recipe's steps -> seeds, for runs that are shorter than the study's: trainings of their
            own, each with its whole schedule.
        task: a module-level function, or its ``module:name``.
        note: what a reader must know about the scale of the training.
    """

    name: str
    variants: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = range(MIN_SEEDS)
    budgets: Mapping[float, Sequence[int]] = field(default_factory=dict)
    task: Task | str = train_and_score
    note: str = ""

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError(f"study {self.name!r} has no variants")
        for seeds in (self.seeds, *self.budgets.values()):
            if not seeds or len(set(seeds)) != len(seeds):
                raise ValueError(f"seeds of study {self.name!r} must be different numbers, got {seeds!r}")
        for share in self.budgets:
            if not 0 < share < 1:
                raise ValueError(f"budgets of study {self.name!r} are shares of its steps, 0 to 1, got {share!r}")
        for variant in self.variants:
            if not all(c.isalnum() or c in " ,._+-=" for c in variant):
                raise ValueError(f"variant names become file names: letters, digits and ' ,._+-=', got {variant!r}")

    def settings(self, variant: str, share: float = 1.0) -> dict[str, Any]:
        own, merged = self.variants[variant], dict(self.common)
        for key, value in own.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = {**merged[key], **value} if both else value
        if share != 1:
            merged["recipe"] = {**merged["recipe"], "iterations": max(1, round(merged["recipe"]["iterations"] * share))}
        return merged

    def on_data(self, train: Sequence[str] | None, test: Sequence[str] | None) -> Study:
        """The same with other sets, for a task that takes them as :func:`train_and_score` does; None: its own."""
        given = {"train": train, "test": test}
        changes = {name: list(sets) for name, sets in given.items() if sets}
        told = "".join(f"; {name}: {' and '.join(sets)}" for name, sets in changes.items())
        return replace(self, common={**self.common, **changes}, note=self.note + told)

    def task_name(self) -> str:
        return self.task if isinstance(self.task, str) else f"{self.task.__module__}:{self.task.__qualname__}"

    def digest(self, variant: str, share: float = 1.0) -> str:
        """SHA-256 of the task and a variant's settings: what ``recipe_sha256`` holds."""
        content = json.dumps([self.task_name(), self.settings(variant, share)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def steps(self, variant: str, share: float = 1.0) -> int | None:
        """Training steps of a run; None where the task has no recipe."""
        recipe = self.settings(variant, share).get("recipe")
        return None if recipe is None else int(recipe["iterations"])

    def runs(self, first: Sequence[str] = ()) -> list[Run]:
        """All runs, in an order in which there are whole comparisons soon and wherever it ends.

        The variants in ``first`` (those of registered claims) come before the others; of both, the budgets from the
        shortest on, five seeds of the whole one, then the seeds beyond. Within each of these, seed by seed.
        """
        whole = [Run(v, s) for s, v in itertools.product(self.seeds, self.variants)]
        short = [Run(v, s, share) for share, seeds in self.budgets.items() for s in seeds for v in self.variants]
        return sorted([*whole, *short], key=lambda run: self.rank(run, first))

    def rank(self, run: Run, first: Sequence[str] = ()) -> float:
        """The lower, the sooner."""
        beyond = run.share == 1 and run.seed in list(self.seeds)[MIN_SEEDS:]
        return run.share + beyond + 3 * bool(first and run.variant not in first)

    def file(self, folder: Path, run: Run) -> Path:
        """Where a finished run is kept."""
        return folder / f"{run.variant}-seed{run.seed}-{self.digest(run.variant, run.share)[:8]}.json"

    def run(self, out: str | os.PathLike, *, jobs: int = 1, progress: bool | None = None) -> StudyResult:
        """Run what is not finished yet, ``jobs`` at once, and return everything.

        Each run leaves ``<variant>-seed<k>-<digest>.json`` in ``out`` and, until it is finished, its checkpoints.

        Raises:
            StudyError: runs failed; the others are finished and kept, and the message names each.
            ValueError: ``jobs`` is below 1.
        """
        run_all([Job(self, Path(out))], jobs=jobs, progress=progress)
        return self.collect(out)

    def collect(self, out: str | os.PathLike) -> StudyResult:
        """The finished runs in a folder. ValueError that names a damaged file."""
        files = [path for run in self.runs() if (path := self.file(Path(out), run)).exists()]
        return collected(self.name, files, {v: self.settings(v) for v in self.variants}, self.note)


class StudyError(RuntimeError):
    """Some runs of a study failed."""


@dataclass
class Job:
    """A study that is to be run.

    Attributes:
        folder: where its finished runs are kept, a file each.
        stored: (variant, seed, steps) of runs that need no repetition although they are not in ``folder``.
        first: variants that come before the others, see :meth:`Study.runs`.
    """

    study: Study
    folder: Path
    stored: Collection[tuple[str, int, int | None]] = ()
    first: Sequence[str] = field(default_factory=tuple)

    def todo(self) -> list[Run]:
        """What is neither in the folder nor stored."""
        study = self.study
        missing = [run for run in study.runs(self.first) if not study.file(self.folder, run).exists()]
        return [r for r in missing if (r.variant, r.seed, study.steps(r.variant, r.share)) not in self.stored]


Place = tuple[int, "Run"]
"""A job by its number, and one of its runs."""


def run_all(
    jobs_of_studies: Sequence[Job],
    *,
    jobs: int = 1,
    seconds: Callable[[Study, Run], float] | None = None,
    budget: float | None = None,
    finished: Callable[[Job, Run], None] = lambda job, run: None,
    progress: bool | None = None,
    code: Path = ROOT,
) -> list[Place]:
    """Run what is missing of studies, ``jobs`` at once, on one CPU thread each.

    Args:
        seconds: what a run is expected to take; what runs took here counts more.
        budget: seconds; no run begins that is not expected to end within them.
        finished: called after every run that did not fail.
        progress: a bar; None: if someone is watching.
        code: folder of the checkout whose commit the rows name.

    Returns:
        The runs for which the budget was too short.

    Raises:
        StudyError: runs failed; the others are finished and kept, and the message names each.
        ValueError: ``jobs`` is below 1; the budget is too short for a single run.
        FileExistsError: another process works on one of the studies in the same folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    for job in jobs_of_studies:
        job.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        for folder in {job.folder for job in jobs_of_studies}:
            locks.enter_context(lock(folder, "study"))
        return _run_all(jobs_of_studies, jobs, seconds, budget, finished, progress, code)


def _run_all(
    jobs_of_studies: Sequence[Job],
    jobs: int,
    seconds: Callable[[Study, Run], float] | None,
    budget: float | None,
    finished: Callable[[Job, Run], None],
    progress: bool | None,
    code: Path,
) -> list[Place]:
    todo = [(k, run) for k, job in enumerate(jobs_of_studies) for run in job.todo()]
    todo.sort(key=lambda place: jobs_of_studies[place[0]].study.rank(place[1], jobs_of_studies[place[0]].first))
    clock = _Clock(jobs_of_studies, seconds, budget)
    if todo and not clock.fits(todo[0]):
        raise ValueError(f"a budget of {duration(budget or 0)} is too short: a run takes {duration(clock(todo[0]))}")
    every = sum(len(job.study.runs()) for job in jobs_of_studies)
    failed: list[str] = []
    left = list(todo)
    hidden = None if progress is None else not progress
    name = jobs_of_studies[0].study.name if len(jobs_of_studies) == 1 else "studies"
    with tqdm(total=every, initial=every - len(todo), desc=name, unit="run", disable=hidden) as bar:
        for place, error in _outcomes(jobs_of_studies, todo, jobs, clock, code_commit(code)):
            left.remove(place)
            job, run = jobs_of_studies[place[0]], place[1]
            bar.update()
            bar.set_postfix_str(f"{run.variant}, seed {run.seed}{clock.left(left, jobs)}")
            if error:
                failed.append(f"{run.variant}, seed {run.seed}: {error}")
            else:
                finished(job, run)
    if failed:
        raise StudyError(f"{len(failed)} of {every} runs of {name} failed; the others are kept: {'; '.join(failed)}")
    return left


@dataclass
class _Clock:
    """What runs are expected to take, and whether there is time for one."""

    jobs: Sequence[Job]
    expected: Callable[[Study, Run], float] | None
    budget: float | None
    begun: float = field(default_factory=time.monotonic)
    took: dict[tuple[int, str, float], float] = field(default_factory=dict)

    def __call__(self, place: Place) -> float:
        k, run = place
        if (known := self.took.get((k, run.variant, run.share))) is not None:
            return known
        return self.expected(self.jobs[k].study, run) if self.expected else 0.0

    def saw(self, place: Place, seconds: float) -> None:
        k, run = place
        self.took[k, run.variant, run.share] = seconds

    def fits(self, place: Place) -> bool:
        return self.budget is None or time.monotonic() - self.begun + self(place) <= self.budget

    def left(self, places: Sequence[Place], jobs: int) -> str:
        total = sum(map(self, places))
        return f", about {duration(total / jobs)} to go" if total else ""


def duration(seconds: float) -> str:
    """``5400`` -> ``1 h 30 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _outcomes(
    jobs: Sequence[Job], todo: Sequence[Place], processes: int, clock: _Clock, commit: str
) -> Iterator[tuple[Place, str]]:
    """Each run as it ends, with its error (empty: none); none begins for which there is no time."""

    def call(place: Place) -> Callable[[], float]:
        job, run = jobs[place[0]], place[1]
        study, share = job.study, run.share
        settings = study.settings(run.variant, share)
        about = {"variant": run.variant, "seed": run.seed, "recipe_sha256": study.digest(run.variant, share)}
        about |= {"task": study.task_name(), "commit": commit}
        return functools.partial(_run_one, study.task, settings, study.file(job.folder, run), about)

    waiting = itertools.takewhile(clock.fits, todo)  # asked just before a run begins
    if processes == 1 or len(todo) <= 1:
        for place in waiting:
            yield place, _attempt(call(place), place, clock)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(todo)), mp_context=context, initializer=_worker) as pool:
        # no more than are running, so that nothing new begins after Ctrl-C
        running: dict[Future[float], Place] = {}
        while True:
            for place in itertools.islice(waiting, processes - len(running)):
                running[pool.submit(call(place))] = place
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place = running.pop(future)
                yield place, _attempt(future.result, place, clock)


def _attempt(call: Callable[[], float], place: Place, clock: _Clock) -> str:
    try:
        clock.saw(place, call())
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".strip()
    return ""


def _worker() -> None:
    """A process that ends with the one that started it, also if that is killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def task_of(task: Task | str) -> Task:
    """The function that a study's task names."""
    if not isinstance(task, str):
        return task
    module, _, name = task.partition(":")
    function: Task = getattr(importlib.import_module(module), name)
    return function


def _run_one(task: Any, settings: dict[str, Any], target: Path, about: dict[str, Any]) -> float:
    """Run a task on one thread, keep what it returns in ``target``; the seconds that it took."""
    import torch

    begun, function = time.monotonic(), task_of(task)
    scratch = target.with_suffix("")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads are added in another order
    try:
        found = dict(function(seed=about["seed"], out=str(scratch), **settings))
        about |= {"threads": torch.get_num_threads()}
    finally:
        torch.set_num_threads(threads)
    data = dict(found.get("data") or {})
    about |= {"data_sha256": data.pop("train", None), "device": device_name(), "torch": versions().get("torch")}
    about |= {"isa": torch.backends.cpu.get_cpu_capability()}
    recipe = settings.get("recipe") or {}
    about |= {"steps": recipe.get("iterations"), "batch": recipe.get("batch"), "patch": recipe.get("patch")}
    rows = rows_of(found, about)
    write_json(target, {"rows": rows, "curve": list(found.get("curve") or []), "tests": data})
    shutil.rmtree(scratch, ignore_errors=True)
    return time.monotonic() - begun
