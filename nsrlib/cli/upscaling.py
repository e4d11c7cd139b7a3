"""Which pictures ``nsr upscale`` reads and where each result goes, all of it checked before a network runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from nsrlib import evaluation, pictures
from nsrlib.cli import problems

_STOPS_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""With these errors nothing that comes after can be written either."""


def split(words: Sequence[Path], out: str | None) -> tuple[list[Path], str | None]:
    """Sources, and where they go: of two words the second is the target if it is not there (``IN OUT``).

    Raises:
        FileNotFoundError: a source is not there.
    """
    sources = list(words)
    if out is None and len(sources) == 2 and sources[0].is_file() and not sources[1].exists():
        if not sources[1].suffix:
            raise FileNotFoundError(f"no such image: {sources[1]}; for a new folder: --out {sources[1]}")
        return sources[:1], str(sources[1])
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"no such image: {source}")
    return sources, out


def plan(sources: Sequence[Path], out: str | None, scale: int, force: bool, resume: bool) -> list[tuple[Path, Path]]:
    """(source, target) of every picture that is to be made.

    Args:
        out: a file, for one picture; or a folder, which is made. Without a suffix, or with a slash at its end, what is
            not there is a folder. None: beside each source.
        force: replace targets that exist.
        resume: leave out pictures whose target exists.

    Raises:
        ValueError: nothing to do; two pictures would have one target; a target is a source; a folder needs ``--out``.
        FileExistsError: a target exists.
        Further as :func:`nsrlib.pictures.check_target`.
    """
    if force and resume:
        raise ValueError("--force replaces what is there, --resume keeps it; leave one out")
    named = [path for source in sources for path in (_pictures_in(source, out) if source.is_dir() else [source])]
    own = {_place(path): path for path in named}  # each once
    files = list(own.values())
    targets = _targets(files, out, scale)
    taken: dict[Path, Path] = {}
    for source, target in zip(files, targets, strict=True):
        if (other := taken.setdefault(_place(target), source)) != source:
            raise ValueError(f"{other} and {source} would both become {target}; rename one, or upscale it on its own")
        if _place(target) in own:
            raise ValueError(f"{target} is itself a source; choose another --out")
        if target.is_dir():
            raise ValueError(f"cannot write {target}: it is a folder")
        if target.exists() and not (force or resume):
            hint = "--force replaces it, --resume leaves it and goes on with the others, --out chooses another place"
            raise FileExistsError(f"{target} is there already; {hint}")
    if out and targets[0] != Path(out):
        Path(out).mkdir(parents=True, exist_ok=True)
    for target in targets:
        pictures.check_target(target)
    return list(zip(files, targets, strict=True))


def _place(path: Path) -> Path:
    """Equal for what would be replaced together: a link is a place of its own."""
    return path.parent.resolve() / path.name


def _pictures_in(folder: Path, out: str | None) -> list[Path]:
    """Those that lie directly in a folder, by name."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in pictures.SUFFIXES and path.is_file())
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise ValueError(
            f"no pictures in {folder} ({', '.join(sorted(pictures.SUFFIXES))}); to write there: --out {folder}"
        )
    if out is None:
        raise ValueError(f"{folder} is a folder: --out says where its {len(found)} pictures go")
    return found


def _targets(files: Sequence[Path], out: str | None, scale: int) -> list[Path]:
    beside = [evaluation.default_output(path, scale) for path in files]
    if out is None:
        return beside
    folder = Path(out)
    if folder.is_dir() or out.endswith(("/", os.sep)) or not folder.suffix:
        return [folder / path.name for path in beside]
    if len(files) > 1:
        raise ValueError(f"--out {out} is one file for {len(files)} pictures; give a folder, with a slash at its end")
    return [folder]


def run(network: Any, jobs: Sequence[tuple[Path, Path]], *, force: bool, **options: Any) -> int:
    """Upscale every picture, with a line for each; how many could not be.

    What is wrong with a single picture is raised; with one of several, it is told at the end.
    """
    scale, wrong = int(network.scale), []
    todo = [(source, target) for source, target in jobs if force or not target.exists()]
    for _, target in [job for job in jobs if job not in todo]:
        typer.echo(f"{target} is there already")
    for number, (source, target) in enumerate(todo, 1):
        try:
            picture = evaluation.upscale_file(
                network, source, target, progress=sys.stderr.isatty(), force=force, **options
            )
        except Exception as error:
            line = problems.line_of(error, "upscale")
            if len(jobs) == 1 or line is None or getattr(error, "errno", None) in _STOPS_ALL:
                raise
            wrong.append(line if str(source) in line else f"{source}: {line}")
            continue
        for note in picture.notes:
            typer.echo(f"note: {note}" if len(jobs) == 1 else f"note: {source.name}: {note}")
        h, w = picture.levels.shape[:2]
        count = "" if len(jobs) == 1 else f"[{number}/{len(todo)}] "
        typer.echo(f"{count}{source.name} {w}x{h} -> {target} {w * scale}x{h * scale}")
    for line in wrong:
        typer.secho(f"nsr: {line}", fg="red", err=True)
    if wrong:
        typer.echo(f"{len(todo) - len(wrong)} of {len(todo)} pictures upscaled")
    return len(wrong)
