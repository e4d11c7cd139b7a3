"""Which notebooks there are, and where their runs go."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from nsrlib import papers
from nsrlib.files import ROOT
from nsrlib.runs.texts import short_path, suggest


def notebooks(folder: str | Path | None = None) -> dict[str, Path]:
    """Name -> file of the notebooks in a folder, sorted; None: those of :func:`nsrlib.papers.every`.

    Raises:
        ValueError: there is none.
    """
    if folder is None:
        found = {paper.name: paper.notebook for paper in papers.every().values() if paper.notebook.is_file()}
    else:
        found = {p.stem: p.resolve() for p in Path(folder).glob("*.ipynb") if not p.name.startswith(".")}
    if not found:
        where = "nsrlib.papers" if folder is None else short_path(Path(folder))
        raise ValueError(f"no notebooks in {where}")
    return dict(sorted(found.items()))


def list_papers(notebooks_dir: str | Path | None = None) -> list[str]:
    """Names of the notebooks that can be run, sorted."""
    return list(notebooks(notebooks_dir))


def choose(names: str | Iterable[str] | None, there: Mapping[str, Path]) -> dict[str, Path]:
    """Those of ``there`` that are named, in the order of the names; all for None.

    Raises:
        ValueError: a name that is not there; lists those that are.
    """
    names = list(there if names is None else [names] if isinstance(names, str) else names)
    for name in names:
        if name not in there:
            raise ValueError(f"no notebook {name!r}{suggest(name, there)}; there are: {', '.join(there)}")
    return {name: there[name] for name in names}


def ready(notebook: Path, folder: Path) -> Path:
    """The notebook if it lies in a checkout, else a copy in ``folder``: its kernel starts where it may write."""
    if (notebook.parents[1] / "pyproject.toml").is_file():
        return notebook
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(notebook, folder / notebook.name))


def in_checkout() -> bool:
    """Whether this library runs from a checkout of its repository, or was installed without one."""
    return (ROOT / "pyproject.toml").is_file()


def default_folder() -> Path:
    """Where runs go unless told otherwise: ``runs`` of the checkout, else of the current directory."""
    return (ROOT if in_checkout() else Path.cwd()) / "runs"
