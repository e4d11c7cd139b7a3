"""How far a run or a sweep is: bars on a terminal, plain lines in a log."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


class Bars(Progress):
    """A bar for whatever is at work, ``drawn`` on a terminal only, and lines that stay."""

    def __init__(self, enabled: bool, stream: TextIO, *more: ProgressColumn):
        self.drawn = enabled and stream.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *more)
        console = Console(file=stream, quiet=not enabled, force_jupyter=False)
        super().__init__(*columns, console=console, transient=True, disable=not self.drawn)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
