"""What is known of a run and of a sweep: kept beside the results as ``run.json`` and ``sweep.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from nsrlib.files import write_text
from nsrlib.runs import foreign
from nsrlib.runs.grids import as_text
from nsrlib.runs.texts import Scrubber, map_strings, short_path


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

    def __post_init__(self) -> None:
        if isinstance(self.error, dict):  # from run.json
            self.error = Failure(**self.error)


@dataclass
class _Kept:
    """What lies as JSON in its ``folder``: its fields, and those of ``about`` beside them."""

    kind: ClassVar[str]  # "run": of run.json
    form: ClassVar[dict[str, Any]]
    folder: Path

    def save(self) -> None:
        """Write ``run.json`` or ``sweep.json``; readers see the old one or the new one, never a part."""
        record = asdict(self)
        record |= record.pop("about")
        del record["folder"]
        text = json.dumps(map_strings(record, Scrubber(self.folder).paths), indent=1, ensure_ascii=False)
        write_text(self.folder / f"{self.kind}.json", text + "\n")

    @classmethod
    def load(cls, folder: str | Path, problems: list[str] | None = None) -> Self:
        """What :meth:`save` has left in ``folder``.

        Args:
            problems: gets a line for each damaged part, which is empty then; None: damage is an error.

        Raises:
            ValueError: there is nothing, it is no JSON, or it is damaged.
        """
        path, found = Path(folder).resolve() / f"{cls.kind}.json", list[str]()
        try:
            content = foreign.read(path)
            if not isinstance(content, dict):
                raise ValueError("it is no mapping")
        except OSError as error:
            raise ValueError(f"no {cls.kind} in {folder}: {error.strerror} ({path.name})") from error
        except ValueError as error:
            raise ValueError(f"{path.name} in {folder} is damaged: {error}") from error
        record = foreign.fit(content, cls.form, path.name, found)
        if problems is None and found:
            raise ValueError(f"{path.name} in {folder} is damaged: {found[0].partition(': ')[2]}")
        if problems is not None:
            problems += found
        own = {f.name: record.pop(f.name) for f in fields(cls) if f.name in cls.form}
        return cls(folder=path.parent, about=record, **own)  # type: ignore[call-arg]


@dataclass
class Run(_Kept):
    """A batch of notebooks and the folder that holds everything it left."""

    kind = "run"
    form = foreign.RUN
    profile: str
    notebooks: list[NotebookRun]
    status: str = "running"
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # started, command, git, versions, machine

    def __post_init__(self) -> None:
        self.notebooks = [NotebookRun(**n) if isinstance(n, dict) else n for n in self.notebooks]

    @property
    def ok(self) -> bool:
        return all(n.status == "ok" for n in self.notebooks)

    @property
    def failures(self) -> list[Failure]:
        return [n.error for n in self.notebooks if n.error]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: what ran is stopped, the record and the report are written; ``run`` (or sweep) says how far it got."""

    def __init__(self, run: Any):
        super().__init__(f"interrupted; what has finished is in {short_path(run.folder)}")
        self.run = run


@dataclass
class SweepRun:
    """One point of the grid; ``status`` is pending, ok, failed or interrupted."""

    key: str
    parameters: dict[str, Any]
    status: str = "pending"
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""


@dataclass
class Sweep(_Kept):
    """A grid of runs of one notebook and the folder that holds everything they left."""

    kind = "sweep"
    form = foreign.SWEEP
    paper: str
    profile: str
    runs: list[SweepRun]
    status: str = "running"
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)  # started, command, git, versions, machine, notebook's sha256

    def __post_init__(self) -> None:
        self.runs = [SweepRun(**run) if isinstance(run, dict) else run for run in self.runs]

    @property
    def ok(self) -> bool:
        return all(run.status == "ok" for run in self.runs)

    @property
    def swept(self) -> dict[str, list[Any]]:
        """Parameters of more than one value, each with its values: numbers in order, else as they came."""
        swept = {}
        for name in dict.fromkeys(k for run in self.runs for k in run.parameters):
            found = [run.parameters.get(name) for run in self.runs]
            first: dict[Any, Any] = {}
            for value in found:
                first.setdefault(json.dumps(value) if isinstance(value, list | tuple | dict) else value, value)
            values = list(first.values())
            if len(values) > 1:
                swept[name] = sorted(values) if all(isinstance(v, int | float) for v in values) else values
        return swept

    @property
    def fixed(self) -> dict[str, Any]:
        """Parameters that are the same in all runs."""
        swept = self.swept
        return {k: v for run in self.runs[:1] for k, v in run.parameters.items() if k not in swept}

    def labels(self) -> dict[str, str]:
        """Key of each run -> :meth:`label`, in a time that grows with the number of runs and no faster."""
        swept = list(self.swept)
        return {run.key: self._label(run, swept) for run in self.runs}

    def label(self, run: SweepRun) -> str:
        """What tells a run from the others: its swept parameters."""
        return self._label(run, self.swept)

    def _label(self, run: SweepRun, swept: Iterable[str]) -> str:
        return ", ".join(f"{k}={as_text(run.parameters.get(k))}" for k in swept) or self.paper

    def place(self, run: SweepRun) -> Path:
        """The folder of a run: of the finished one, else of its last attempt, which may not exist."""
        done = self.folder / "runs" / run.key
        return done if done.is_dir() else self.folder / "attempts" / f"{run.key}.{run.attempts}"

    @classmethod
    def load(cls, folder: str | Path, problems: list[str] | None = None) -> Self:
        """The sweep that :meth:`save` has left in ``folder``, its runs as they are now."""
        sweep = super().load(folder, problems)
        sweep.look()
        return sweep

    def look(self) -> None:
        """Bring the runs up to date with what lies in the folder."""
        tried = attempts(self.folder)
        for run in self.runs:
            run.attempts = max(run.attempts, tried.get(run.key, 0))
            if done := finished(self.folder / "runs" / run.key):
                run.status, run.error = "ok", ""
                run.seconds, run.attempts = done.notebooks[0].seconds, done.about.get("attempt", run.attempts)
            elif run.status == "ok":
                run.status = "pending"


def attempts(folder: Path) -> dict[str, int]:
    """Key -> number of the last attempt that lies in the folder."""
    found: dict[str, int] = {}
    for path in (folder / "attempts").glob("*.*"):
        key, _, number = path.name.rpartition(".")
        if number.isdigit():
            found[key] = max(found.get(key, 0), int(number))
    return found


def finished(place: Path) -> Run | None:
    """The run in ``place`` if it ended well and can be read."""
    try:
        run = Run.load(place)
    except ValueError:
        return None
    return run if run.notebooks and run.ok else None
