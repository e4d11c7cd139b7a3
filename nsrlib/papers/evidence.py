"""Train a paper's studies: what it would take, what fits into the hours at hand, where the rows go."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from nsrlib.claims.judged import judge_claims, seeds_missing
from nsrlib.claims.registered import registered
from nsrlib.files import ROOT, code_commit
from nsrlib.papers.record import Paper
from nsrlib.studies import Cost, Job, Run, Study, StudyResult, cost, estimate, load_study, merged, run_all


@dataclass(frozen=True)
class Evidence:
    """Studies of one paper at one profile.

    Attributes:
        names: which studies; empty: all.
        folder: where finished runs are kept; it is outside of what git tracks.
        seeds: of every study, in place of its own number.
        train, test: other sets than the studies' own, see :meth:`~nsrlib.studies.Study.on_data`.

    Raises:
        ValueError: a profile, study or number of seeds that cannot be.
    """

    paper: Paper
    profile: str
    folder: Path
    names: Sequence[str] = ()
    seeds: int | None = None
    train: Sequence[str] | None = None
    test: Sequence[str] | None = None
    studies: Mapping[str, Study] = field(init=False)

    def __post_init__(self) -> None:
        table = self.paper.studies_at(self.profile)
        if unknown := sorted(set(self.names) - set(table)):
            raise ValueError(f"{self.paper.name} has no study {unknown[0]!r}; there are: {', '.join(table)}")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        chosen = {name: table[name].on_data(self.train, self.test) for name in self.names or table}
        if self.seeds:
            chosen = {name: replace(one, seeds=range(self.seeds)) for name, one in chosen.items()}
        object.__setattr__(self, "studies", chosen)

    def stored(self, name: str, root: Path | None = None) -> StudyResult | None:
        """What is stored of a study at this profile, in this repository or in another checkout of it."""
        path = self.stored_at(name, root or self.paper.root)
        return load_study(path) if path.is_file() else None

    def stored_at(self, name: str, root: Path) -> Path:
        return root / self.paper.study_file(name, self.profile).relative_to(self.paper.root)

    def runs_of(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def first(self, name: str) -> list[str]:
        """Variants of a study that registered claims compare."""
        variants = list(self.studies[name].variants)
        tests = [claim.test for claim in registered(self.paper.name) if claim.test.study == name]
        named = {variant for test in tests for arm in test.arms for variant in arm.among(variants)}
        return [variant for variant in variants if variant in named]

    # --- what it would take -------------------------------------------------------------------------------------------

    def costs(self, progress: bool | None = False) -> dict[str, dict[str, Cost | None]]:
        """Seconds of a step, measured now, by study and variant, of those that have budgets without a stored run.

        ``progress``: a bar; None: if someone is watching.
        """
        variants = [(name, variant) for name in self.studies for variant in self._unknown(name)]
        found: dict[str, dict[str, Cost | None]] = {name: {} for name in self.studies}
        hidden = None if progress is None else not progress
        with tqdm(variants, desc="timing a few steps", unit="variant", disable=hidden) as bar:
            for name, variant in bar:
                bar.set_postfix_str(f"{name}, {variant}")
                found[name][variant] = cost(self.studies[name], variant)
        return found

    def _unknown(self, name: str) -> list[str]:
        """Variants with a length of training that no stored run has."""
        study, done = self.studies[name], {(v, steps) for v, _, steps in _done(self.stored(name))}
        shares = (1.0, *study.budgets)
        return [v for v in study.variants if not all((v, study.steps(v, share)) in done for share in shares)]

    def plan(self, jobs: int, costs: Mapping[str, Mapping[str, Cost | None]]) -> pd.DataFrame:
        """A row for each study and budget: variants, steps, seconds of a step with its share of all else, hours for one
        more seed and for all that is missing, with ``jobs`` runs at once."""
        rows = []
        for name, study in self.studies.items():
            stored = self.stored(name)
            todo = Job(study, self.runs_of(name), _done(stored)).todo()
            for share in (1.0, *study.budgets):
                runs = [run for run in study.runs() if run.share == share]
                seconds = {v: estimate(study, Run(v, 0, share), costs[name], stored) for v in study.variants}
                missing = [seconds[run.variant] for run in todo if run.share == share]
                steps = study.steps(next(iter(study.variants)), share)
                rows.append(
                    {
                        "study": name,
                        "variants": len(study.variants),
                        "steps": steps,
                        "s/step": sum(seconds.values()) / len(seconds) / steps if steps else None,
                        "seeds": len({run.seed for run in runs}),
                        "hours a seed": sum(seconds.values()) / jobs / 3600,
                        "runs missing": len(missing),
                        "hours missing": sum(missing) / jobs / 3600,
                    }
                )
        return pd.DataFrame(rows)

    def power(self) -> pd.DataFrame:
        """What the registered claims still take, by the noise of the stored runs or pilots, see
        :func:`nsrlib.claims.seeds_missing`."""
        every: dict[str, StudyResult | None] = dict.fromkeys(self.paper.studies_at(self.profile))
        results = every | {name: self.paper.stored_study(name) for name in self.studies}
        return seeds_missing(self.paper.name, judge_claims(self.paper.name, results), results)

    # --- running ------------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        jobs: int = 1,
        budget: float | None = None,
        into: Path | None = None,
        progress: bool | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> dict[str, StudyResult]:
        """Train what is missing, short runs first, and return what there is.

        Args:
            jobs, budget, progress: as of :func:`~nsrlib.studies.run_all`; a budget needs a few timed steps first.
            into: root of the checkout in whose ``data/results`` rows are stored as runs finish; what is stored there
                already is not run again. None: nowhere.

        Raises:
            ValueError: rows are to be stored, but the code is not that of a commit.
        """
        if into and not re.fullmatch("[0-9a-f]{12}", state := code_commit(self.paper.root)):
            raise ValueError(
                f"rows that are stored name the commit of their code, and this code is {state}: commit what has "
                "changed, or run the last commit with --worktree"
            )
        done = {name: self.stored(name, into) if into else None for name in self.studies}
        work = [Job(s, self.runs_of(n), _done(done[n]), self.first(n)) for n, s in self.studies.items()]
        if into:
            for name in self.studies:  # runs that finished when nothing was stored
                self.store(name, into)
        names = {study.name: name for name, study in self.studies.items()}
        costs = self.costs(progress) if budget and any(job.todo() for job in work) else {}
        known = {name: self.stored(name) for name in self.studies}

        def seconds(study: Study, run: Run) -> float:
            name = names[study.name]
            return estimate(study, run, costs.get(name, {}), known[name])

        def finished(job: Job, run: Run) -> None:
            if into:
                self.store(names[job.study.name], into)

        left = run_all(
            work, jobs=jobs, seconds=seconds, budget=budget, finished=finished, progress=progress, code=self.paper.root
        )
        if left:
            say(f"{len(left)} runs are left for another time; the same command goes on")
        return {name: self.result(name, into) for name in self.studies}

    def result(self, name: str, into: Path | None = None) -> StudyResult:
        """Runs in the folder, and what is stored."""
        found = self.studies[name].collect(self.runs_of(name))
        stored = self.stored(name, into) if into else None
        return merged(stored, found) if into and (len(found.rows) or stored) else found

    def store(self, name: str, into: Path) -> None:
        """Merge the finished runs of a study into ``data/results`` of a checkout."""
        path = self.stored_at(name, into)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".store.lock"):
            result = self.result(name, into)
            if len(result.rows):
                result.store(path)


def _done(stored: StudyResult | None) -> list[tuple[str, int, int | None]]:
    """Runs that are stored: variant, seed, steps."""
    if stored is None:
        return []
    runs = stored.rows[["variant", "seed", "steps"]].drop_duplicates().itertuples(index=False)
    return [(str(v), int(s), None if steps != steps else int(steps)) for v, s, steps in runs]


def in_worktree(command: Sequence[str], folder: Path, repository: Path = ROOT) -> int:
    """Run a command with the code of the last commit, in a worktree that is gone afterwards; its exit status.

    Args:
        command: a Python that does not look into the current folder first (``python -P``), and its arguments.
        folder: where the worktree is made, outside of what git tracks.

    Raises:
        ValueError: the repository is no git checkout.
    """
    commit = code_commit(repository).removesuffix("-dirty")
    if commit == "unknown":
        raise ValueError("--worktree needs a git checkout of this repository")
    place = folder / f"worktree-{commit}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)

    def git(*command: str) -> None:
        subprocess.run(["git", "worktree", *command], cwd=repository, check=True, capture_output=True)

    git("add", "--detach", str(place), commit)
    try:
        environment = {**os.environ, "PYTHONPATH": str(place)}
        return subprocess.run(command, env=environment).returncode
    finally:
        git("remove", "--force", str(place))


def hours(text: str) -> float:
    """Seconds of a budget such as ``2h``, ``90min``, ``1h30`` or ``45s``.

    Example:
        >>> from nsrlib.studies import duration
        >>> hours("1h30"), hours("90min"), duration(hours("45s"))
        (5400.0, 5400.0, '45 s')

    Raises:
        ValueError: anything else, or nothing left of it.
    """
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)(?:min|m)|(?<=h)(\d+))?(?:([\d.]+)s)?", text.replace(" ", ""))
    try:
        h, m, after_h, s = (float(part or 0) for part in match.groups()) if match else (0.0,) * 4
    except ValueError:
        h = m = after_h = s = 0.0
    if not (total := 3600 * h + 60 * (m + after_h) + s) > 0:
        raise ValueError(f"a budget is a time such as 2h, 90min or 1h30, got {text!r}")
    return total
