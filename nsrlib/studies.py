"""Studies: variants times seeds, trained alike, and what may be concluded from the differences.

Two variants are compared seed by seed (the same seed means the same patches in the same order), and the 95 % interval
of the mean difference is taken from Student's t. A claimed order *holds* if the interval lies above zero, it *does not*
if it lies below, and otherwise the difference is *within noise*. Fewer than three seeds decide nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from nsrlib.files import commit, device_name, versions, write_json
from nsrlib.training.recipe import Hooks

if TYPE_CHECKING:
    from nsrlib.data import ImageSet
    from nsrlib.data.patches import Patches

Task = Callable[..., Mapping[str, Any]]
"""``task(seed=..., out=folder, **settings) -> {metric: number}``; ``curve`` may hold rows of a learning curve."""
Measure = Callable[[Any], Mapping[str, float]]
"""``measure(network) -> {metric: number}``, of a trained network."""

MOVED = (
    (r"\bnsrlib\.papers\.(\w+)\.studies:", r"nsrlib.experiments.\1:"),
    (r"\bnsrlib\.papers\.(\w+)\.references:", r"nsrlib.experiments.\1_restoration:"),
)
"""Modules of tasks and set-ups, and what they were called when the first runs were named after them."""

MIN_SEEDS = 3
CONFIDENCE = 0.95


def set_up(setup: str, network: Any, recipe: Any, **options: Any) -> tuple[Hooks, Measure | None]:
    """What a training asks for beside a recipe: hooks of :func:`~nsrlib.training.fit`, and a measure.

    Args:
        setup: ``module:function``, called as ``function(network, recipe, **options)``; empty: nothing. It returns
            the fields of :class:`~nsrlib.training.Hooks` as a dict, and may add a ``measure``.
    """
    if not setup:
        return Hooks(), None
    module, _, function = setup.partition(":")
    fields = dict(getattr(importlib.import_module(module), function)(network, recipe, **options))
    measure = fields.pop("measure", None)
    return Hooks(**fields), measure


def validation(images: ImageSet, task: Mapping[str, Any]) -> Measure:
    """A ``validate`` of :func:`~nsrlib.training.fit`: ``psnr``, the mean over ``images`` after ``task`` (noise or JPEG
    to undo; empty: upscaling)."""
    from nsrlib.evaluation import evaluate

    return lambda network: {"psnr": float(evaluate(network, images, fast=False, **task)["psnr"].mean())}


def train_and_score(
    *,
    model: str,
    scale: int,
    recipe: Mapping[str, Any],
    seed: int,
    config: Mapping[str, Any] | None = None,
    train: Sequence[str] = ("t91",),
    test: Sequence[str] = ("set5",),
    patches: Mapping[str, Any] | None = None,
    degradation: Mapping[str, Any] | None = None,
    limit: int | None = None,
    setup: str = "",
    options: Mapping[str, Any] | None = None,
    points: int = 8,
    out: str | None = None,
) -> dict[str, Any]:
    """Train one network and score it: the task of most studies, whose settings are these keywords.

    Args:
        recipe: fields of :class:`~nsrlib.training.Recipe`; ``seed`` is set to the run's.
        patches: keywords of :class:`~nsrlib.data.patches.Patches`.
        degradation: ``{"noise": 25}`` or ``{"jpeg": 10}``: the network, of scale 1, learns to undo that and is scored
            on it, on gray unless it takes colour.
        setup, options: for :func:`set_up`, whose measure adds its numbers to the results.
        test: sets on which PSNR and SSIM are measured under the task's usual protocol, with LR made the papers' way.
        points: validations on the first test set along the way, for the learning curve.

    Returns:
        ``psnr_<set>``, ``ssim_<set>``, ``params``, ``loss``, ``seconds`` of training, ``curve``.
    """
    from nsrlib import data, evaluation
    from nsrlib.models import create_model
    from nsrlib.training import Recipe, RunFolder, fit, seeded

    full = Recipe(**{**recipe, "seed": seed})
    with seeded(seed):
        network = create_model(model, scale, **dict(config or {}))
    task = dict(degradation or {})
    gray = evaluation.takes_gray(network) if task else None
    tests = {name: data.load(name, scale, gray=gray, limit=limit) for name in test}
    hooks, measure = set_up(setup, network, full, **dict(options or {}))
    options_of_patches = json.dumps({**task, **(patches or {})}, sort_keys=True)
    every = max(1, full.iterations // points)
    about = {"model": model, "scale": scale, "config": json.dumps(dict(config or {}))}
    result = fit(
        network,
        training_patches(tuple(train), scale, full.patch, options_of_patches, gray),
        full,
        hooks=hooks,
        validate=validation(next(iter(tests.values())), task),
        validate_every=every,
        log_every=every,
        out=RunFolder(out, metadata=about) if out else None,
        progress=False,
    )
    tables = {name: evaluation.evaluate(result.model, images, **task) for name, images in tests.items()}
    return {
        **{f"{m}_{name}": float(table[m].mean()) for name, table in tables.items() for m in ("psnr", "ssim")},
        **(measure(result.model) if measure else {}),
        "params": sum(p.numel() for p in network.parameters()),
        "loss": float(result.history["loss"].iloc[-1]),
        "seconds": result.seconds,
        "curve": result.history.drop(columns=["lr", "seconds"]).to_dict("records"),
    }


@functools.lru_cache(maxsize=2)
def training_patches(
    names: tuple[str, ...], scale: int | None, patch: int, options: str = "{}", gray: bool | None = None
) -> Patches:
    """Patches of training sets, decoded once per process; ``options``: keywords of ``Patches`` as JSON."""
    from nsrlib import data
    from nsrlib.data.patches import Patches

    images = data.training_set(names, scale, gray=gray)
    return Patches(images, patch, **{"too_small": "skip", **json.loads(options)})


@dataclass(frozen=True)
class Study:
    """Variants times seeds.

    Attributes:
        variants: name -> settings for the task, JSON-able.
        common: settings that all variants share; a variant's own come first, and a ``recipe`` or ``config`` in both is
            merged key by key.
        task: a module-level function, or its ``module:name``.
        note: what a reader must know about the scale of the training.
    """

    name: str
    variants: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    task: Task | str = "nsrlib.studies:train_and_score"
    note: str = ""

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError(f"study {self.name!r} has no variants")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds of study {self.name!r} must be different numbers, got {self.seeds!r}")
        for variant in self.variants:
            if not all(c.isalnum() or c in " ,._+-=" for c in variant):
                raise ValueError(f"variant names become file names: letters, digits and ' ,._+-=', got {variant!r}")

    def settings(self, variant: str) -> dict[str, Any]:
        own, merged = self.variants[variant], dict(self.common)
        for key, value in own.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = {**merged[key], **value} if both else value
        return merged

    def on_data(self, train: Sequence[str] | None, test: Sequence[str] | None) -> Study:
        """The same with other sets, for a task that takes them as :func:`train_and_score` does; None: its own."""
        given = {"train": train, "test": test}
        changes = {name: list(sets) for name, sets in given.items() if sets}
        told = "".join(f"; {name}: {' and '.join(sets)}" for name, sets in changes.items())
        return replace(self, common={**self.common, **changes}, note=self.note + told)

    def digest(self, variant: str) -> str:
        """Eight letters that change when a variant's settings do; moved functions keep the names they had at first."""
        task = self.task if isinstance(self.task, str) else f"{self.task.__module__}:{self.task.__qualname__}"
        content = json.dumps([task, self.settings(variant)], sort_keys=True)
        for now, before in MOVED:
            content = re.sub(now, before, content)
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def run(self, out: str | os.PathLike, *, jobs: int = 1, progress: bool | None = None) -> StudyResult:
        """Run what is not finished yet, ``jobs`` at once, and return everything.

        Each run leaves ``<variant>-seed<k>-<digest>.json`` in ``out`` and, until it is finished, its checkpoints.

        Raises:
            StudyError: runs failed; the others are finished and kept, and the message names each.
            ValueError: ``jobs`` is below 1.
        """
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, not {jobs}")
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        # seed by seed, so that an interrupted study has whole comparisons
        runs = [(v, s) for s, v in itertools.product(self.seeds, self.variants)]
        todo = [(v, s) for v, s in runs if not self._file(folder, v, s).exists()]
        hidden = None if progress is None else not progress
        failed: list[str] = []
        with tqdm(total=len(runs), initial=len(runs) - len(todo), desc=self.name, unit="run", disable=hidden) as bar:
            for variant, seed, error in self._outcomes(folder, todo, jobs):
                bar.update()
                bar.set_postfix_str(f"{variant}, seed {seed}")
                if error:
                    failed.append(f"{variant}, seed {seed}: {error}")
        if failed:
            raise StudyError(
                f"{len(failed)} of {len(runs)} runs of {self.name} failed; the others are kept: {'; '.join(failed)}"
            )
        return self.collect(folder)

    def _outcomes(self, folder: Path, todo: Sequence[tuple[str, int]], jobs: int) -> Iterator[tuple[str, int, str]]:
        """Variant, seed and error (empty: none) of each run, as they end."""
        calls = {
            (v, s): functools.partial(_run_one, self.task, self.settings(v), s, self._file(folder, v, s), v)
            for v, s in todo
        }
        if jobs == 1 or len(todo) <= 1:
            yield from ((*run, _attempt(call)) for run, call in calls.items())
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context, initializer=_one_thread) as pool:
            # no more than are running, so that nothing new begins after Ctrl-C
            waiting = iter(calls.items())
            running: dict[Future[None], tuple[str, int]] = {}
            while True:
                for run, call in itertools.islice(waiting, jobs - len(running)):
                    running[pool.submit(call)] = run
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield *running.pop(future), _attempt(future.result)

    def _file(self, folder: Path, variant: str, seed: int) -> Path:
        return folder / f"{variant}-seed{seed}-{self.digest(variant)}.json"

    def collect(self, out: str | os.PathLike) -> StudyResult:
        """The finished runs in a folder. ValueError that names a damaged file."""
        files = [self._file(Path(out), v, s) for v, s in itertools.product(self.variants, self.seeds)]
        runs = [_stored_run(path) for path in files if path.exists()]
        settings = {variant: self.settings(variant) for variant in self.variants}
        return StudyResult(self.name, runs, settings, self.note)


def _stored_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text())
        return {key: run[key] for key in ("variant", "seed", "metrics", "curve", "provenance")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not a finished run ({error}); delete it, and it is run again") from None


class StudyError(RuntimeError):
    """Some runs of a study failed."""


def _attempt(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".strip()
    return ""


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run_one(task: Task | str, settings: Mapping[str, Any], seed: int, target: Path, variant: str) -> None:
    if isinstance(task, str):
        module, _, name = task.partition(":")
        task = getattr(importlib.import_module(module), name)
    assert callable(task)
    scratch = target.with_suffix("")
    result = dict(task(seed=seed, out=str(scratch), **settings))
    curve = result.pop("curve", [])
    where = {"device": device_name(), "versions": versions(), "commit": commit()}
    write_json(target, {"variant": variant, "seed": seed, "metrics": result, "curve": curve, "provenance": where})
    shutil.rmtree(scratch, ignore_errors=True)


@dataclass
class StudyResult:
    """Finished runs of a study, a dict each (variant, seed, metrics, curve, provenance); ``settings`` by variant."""

    name: str
    runs: list[dict[str, Any]]
    settings: dict[str, dict[str, Any]]
    note: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """A row per run: variant, seed and a column per metric."""
        return pd.DataFrame([{"variant": r["variant"], "seed": r["seed"], **r["metrics"]} for r in self.runs])

    @property
    def curves(self) -> pd.DataFrame:
        """A row per point of every learning curve: variant, seed, step, ..."""
        return pd.DataFrame([{"variant": r["variant"], "seed": r["seed"], **p} for r in self.runs for p in r["curve"]])

    @property
    def seeds(self) -> list[int]:
        """Seeds that every variant has."""
        by_variant = [{r["seed"] for r in self.runs if r["variant"] == v} for v in self.settings]
        return sorted(set.intersection(*by_variant)) if by_variant else []

    def describe(self) -> str:
        """How the numbers came about, in a sentence."""
        devices = sorted({r["provenance"]["device"] for r in self.runs})
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) != 1 else "1 seed"
        return f"{self.note.rstrip('. ')}; {seeds}, {', '.join(devices)}.".lstrip("; ")

    def store(self, path: str | os.PathLike) -> Path:
        write_json(Path(path), asdict(self))
        return Path(path)


def load_study(path: str | os.PathLike) -> StudyResult:
    """What :meth:`StudyResult.store` wrote. ValueError that names the file if it is something else."""
    try:
        return StudyResult(**json.loads(Path(path).read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{Path(path).name} is not a stored study: {error}") from None


def summary(table: pd.DataFrame, metric: str, baseline: str | None = None) -> pd.DataFrame:
    """Mean, spread and number of seeds of each variant, in the table's order; with ``baseline``, paired differences.

    Columns: mean, sd (sample standard deviation), seeds; difference, low and high (its 95 % interval).
    """
    _check(table, metric, [] if baseline is None else [baseline])
    groups = table.groupby("variant", sort=False)[metric]
    result = pd.DataFrame({"mean": groups.mean(), "sd": groups.std(ddof=1), "seeds": groups.count()})
    if baseline is not None:
        pairs = {v: _paired(table, metric, v, baseline) for v in result.index if v != baseline}
        for column in ("difference", "low", "high"):
            result[column] = pd.Series({v: p[column] for v, p in pairs.items()}, dtype=float)
    return result


def ordering(table: pd.DataFrame, metric: str, claims: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Test claims "the first variant has a larger ``metric`` than the second" by the rule of the module.

    Returns:
        Columns better, worse, difference (mean over seeds), sd, low, high, seeds, verdict: ``ordering holds``,
        ``does not``, ``within noise`` or ``too few seeds``.

    Raises:
        ValueError: a variant or metric that the table lacks.
    """
    _check(table, metric, [name for claim in claims for name in claim])
    rows = [{"better": a, "worse": b, **_paired(table, metric, a, b)} for a, b in claims]
    return pd.DataFrame([row | {"verdict": _verdict(row)} for row in rows])


def _verdict(row: Mapping[str, Any]) -> str:
    if row["seeds"] < MIN_SEEDS:
        return "too few seeds"
    return "ordering holds" if row["low"] > 0 else "does not" if row["high"] < 0 else "within noise"


def _paired(table: pd.DataFrame, metric: str, a: str, b: str) -> dict[str, float]:
    from scipy import stats

    wide = table.pivot_table(index="seed", columns="variant", values=metric).reindex(columns=[a, b]).dropna()
    difference = wide[a] - wide[b]
    n = len(difference)
    mean, sd = float(difference.mean()), float(difference.std(ddof=1)) if n > 1 else float("nan")
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * sd / n**0.5 if n > 1 else float("nan")
    return {"difference": mean, "sd": sd, "low": mean - half, "high": mean + half, "seeds": n}


def _check(table: pd.DataFrame, metric: str, variants: Sequence[str] = ()) -> None:
    if metric not in table.columns:
        have = ", ".join(c for c in table.columns if c not in ("variant", "seed"))
        raise ValueError(f"no metric {metric!r}; there are: {have}")
    have_variants = list(dict.fromkeys(table["variant"]))
    if missing := [v for v in dict.fromkeys(variants) if v not in have_variants]:
        raise ValueError(f"no variant {missing[0]!r}; there are: {', '.join(have_variants)}")
