"""Lay out a package that adds a paper: ``nsr new-paper``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nsrlib.papers.table import every

TEMPLATE = Path(__file__).with_name("template")


def new_paper(name: str, out: str | os.PathLike | None = None) -> Path:
    """Copy the template to a folder, under the name of the paper.

    Args:
        name: lower-case letters, digits and underscores, beginning with a letter.
        out: the folder, which must not exist; default: ``nsrlib-<name>`` here.

    Returns:
        The folder. Install it by ``pip install -e <folder>``, and ``nsr reproduce <name>`` runs its notebook.
    """
    if not (name.isascii() and name.isidentifier() and name == name.lower() and name[0].isalpha()):
        raise ValueError(f"name must be lower-case letters, digits and underscores, got {name!r}")
    if name in (known := every()):
        raise ValueError(f"there is a paper {name!r} already; there are: {', '.join(known)}")
    target = Path(out or f"nsrlib-{name}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; choose another --out")
    title = "".join(part.capitalize() for part in name.split("_"))
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_dir() or "__pycache__" in source.parts:
            continue
        place = draft / str(source.relative_to(TEMPLATE)).replace("newpaper", name)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        place.write_text(text.replace("newpaper", name).replace("NewPaper", title), encoding="utf-8")
    draft.rename(target)
    return target
