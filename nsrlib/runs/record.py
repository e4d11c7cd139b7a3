"""What is known of a run and of a sweep: kept beside the results as ``run.json`` and ``sweep.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nsrlib.files import write_text
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
        tried = attempts(self.folder)
        for run in self.runs:
            run.attempts = max(run.attempts, *tried.get(run.key, [0]))
            if (done := finished(self.folder / "runs" / run.key)) is not None:
                run.status, run.error = "ok", ""
                run.seconds, run.attempts = done.notebooks[0].seconds, done.about.get("attempt", run.attempts)
            elif run.status == "ok":
                run.status = "pending"


def attempts(folder: Path) -> dict[str, list[int]]:
    """Key -> numbers of the attempts that lie in the folder."""
    found: dict[str, list[int]] = {}
    for path in (folder / "attempts").glob("*.*"):
        key, _, number = path.name.rpartition(".")
        if number.isdigit():
            found.setdefault(key, []).append(int(number))
    return found


def finished(place: Path) -> Run | None:
    """The run in ``place`` if it ended well and can be read."""
    try:
        run = Run.load(place)
    except ValueError:
        return None
    return run if run.notebooks and run.ok else None
