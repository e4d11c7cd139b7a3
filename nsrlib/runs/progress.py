"""How far a run or a sweep is, on the terminal or as plain lines in a log."""

from __future__ import annotations

import shutil
import time
from typing import Any, Self, TextIO

from nsrlib.runs.grids import as_text
from nsrlib.runs.record import NotebookRun, Sweep, SweepRun, attempts
from nsrlib.runs.texts import clock


class Notebooks:
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


class Points:
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
        tried = attempts(self.sweep.folder)
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
