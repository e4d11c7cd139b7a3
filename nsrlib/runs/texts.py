"""Texts that people read: causes in one line, times, paths, and the names of this machine cut out of them."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nsrlib.files import ROOT, home, one_line


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_path(path: Path) -> str:
    """A path for a message: relative to where the user is, if it is not far."""
    full, here = path.resolve(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else path)


def suggest(word: str, possible: Iterable[str]) -> str:
    """A question for an error message: what the misspelt ``word`` may have meant."""
    close = difflib.get_close_matches(word, list(possible), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def cause_of(error: BaseException) -> tuple[str, str]:
    """Name and one line for an exception of the notebook, of its kernel, or of the disk."""
    kind = type(error).__name__
    if kind == "PapermillExecutionError":
        return str(getattr(error, "ename", kind)), one_line(str(getattr(error, "evalue", "")))
    if kind == "DeadKernelError":
        return kind, "the kernel died; often the machine is out of memory"
    if kind == "CellTimeoutError":
        return kind, re.sub(r".*after (\S+) seconds.*", r"the cell took longer than \1 s", one_line(str(error)))
    if isinstance(error, OSError) and error.errno:
        if error.errno == errno.ENOSPC:
            return kind, "the disk is full" + (f" (writing {Path(error.filename).name})" if error.filename else "")
        return kind, f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    return kind, one_line(str(error))


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with ``change`` applied to every string in it, but for images and keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {k: v if str(k).startswith("image/") else map_strings(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_strings(v, change) for v in value)
    return value


class Scrubber:
    """Cuts the names of this machine's folders out of texts that may be published."""

    # A path starts where no word, URL or base64 text is going on; after a terminal colour or an escaped newline too.
    _START = r"(?:(?<![\w+/=.~-])|(?<=\[\dm)|(?<=\[\d\dm)|(?<=\[\d;\d\dm)|(?<=\\n)|(?<=\\t))(?:file://)?"
    _ANY = re.compile(_START + r"/(?:[^\s/'\"<>:,;()\\]+/)+([^\s/'\"<>:,;()\\]*)")

    def __init__(self, folder: Path):
        self._names: dict[str, str] = {}
        for place, short in ((home(), "~"), (ROOT, "."), (folder, ".")):
            for path in (place, place.resolve()) if place else ():
                if len(path.parts) > 1:
                    self._names[str(path)] = short
        longest_first = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._known = re.compile(f"{self._START}({longest_first})(?![\\w-])(/?)")

    def folders(self, text: str) -> str:
        """Home becomes ``~``; what lies in the repository or the run folder is named from there."""

        def short(found: re.Match[str]) -> str:
            name = self._names[found[1]]
            return name + found[2] if name == "~" or not found[2] else ""

        return self._known.sub(short, text)

    def paths(self, text: str) -> str:
        """The same, and of any other absolute path only the last part."""
        return self._ANY.sub(r"…/\1", self.folders(text))
