"""Texts that people read: causes in one line, times, paths, and the names of this machine cut out of them."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nsrlib.files import ROOT, home, one_line, write_text


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


def _places(folder: Path) -> Iterator[tuple[str | Path, str]]:
    """Folders of this machine that texts of a run speak of, each with a short name; of equal ones the last counts."""
    yield from ((tempfile.gettempdir(), "tmp"), (sysconfig.get_path("stdlib"), f"python{sys.version_info[1]}"))
    yield from ((sysconfig.get_path(kind), "site-packages") for kind in ("purelib", "platlib"))
    if sys.prefix != sys.base_prefix:
        yield sys.prefix, "venv"
    for name in ("NSRLIB_CACHE", "NSRLIB_DATA"):
        yield from ((place, name) for place in os.environ.get(name, "").split(os.pathsep) if os.path.isabs(place))
    if place := home():
        yield place, "~"
    yield from ((ROOT, "."), (folder, "."))


class Scrubber:
    """Cuts the names of this machine's folders out of texts that may be published."""

    # A path starts where no word, URL or base64 text is going on; after a terminal colour or an escaped newline too.
    _START = r"(?:(?<![\w+/=.~-])(?<!;base64,)|(?<=\[\dm)|(?<=\[\d\dm)|(?<=\[\d;\d\dm)|(?<=\\n)|(?<=\\t))(?:file://)?"
    _ANY = re.compile(_START + r"/(?:[^\s/'\"<>:,;()\\]+/)+([^\s/'\"<>:,;()\\]*)")

    def __init__(self, folder: Path):
        self._names: dict[str, str] = {}
        for place, short in _places(folder):
            for path in (Path(place), Path(place).resolve()):
                if len(path.parts) > 1:
                    self._names[str(path)] = short
        longest_first = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._known = re.compile(f"{self._START}({longest_first})(?![\\w-])(/?)")

    def folders(self, text: str) -> str:
        """What lies in the repository or the run folder is named from there; of other known places a short name stays.

        ``~`` is the home, ``tmp`` the place of temporary files, ``site-packages`` and ``venv`` those of packages,
        ``NSRLIB_DATA`` and ``NSRLIB_CACHE`` what these variables name.
        """

        def short(found: re.Match[str]) -> str:
            name = self._names[found[1]]
            return name + found[2] if name != "." or not found[2] else ""

        return self._known.sub(short, text)

    def paths(self, text: str) -> str:
        """The same, and of any other absolute path only the last part."""
        return self._ANY.sub(r"…/\1", self.folders(text))

    def notebook(self, content: dict[str, Any]) -> dict[str, Any]:
        """An executed notebook: the known places everywhere, and in outputs every absolute path."""
        cells = [
            cell | {"outputs": map_strings(cell["outputs"], self.paths)} if "outputs" in cell else cell
            for cell in content["cells"]
        ]
        return map_strings(content | {"cells": cells}, self.folders)

    def log(self, path: Path) -> None:
        """Cut the paths out of a log in its place; one that cannot be written stays as it is."""
        with contextlib.suppress(OSError):
            write_text(path, self.paths(path.read_text(encoding="utf-8", errors="replace")))
