"""The cells tagged ``parameters``: what a notebook takes, and whether it is given that."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsrlib.files import one_line
from nsrlib.runs.notebooks import import_papermill, literal_path
from nsrlib.runs.texts import suggest


def known_parameters(notebooks: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What the cells tagged ``parameters`` define: notebook -> name -> papermill's record of it.

    papermill itself injects a misspelt name with no more than a warning; see :func:`check_parameters`.

    Args:
        notebooks: name -> file.

    Raises:
        ValueError: a notebook cannot be read, or has no ``profile`` or ``out_dir``.
    """
    papermill = import_papermill()

    accepted: dict[str, dict[str, Any]] = {}
    for name, path in notebooks.items():
        try:
            accepted[name] = known = papermill.inspect_notebook(literal_path(path))
        except Exception as error:  # nbformat, papermill and json all have their own
            raise ValueError(f"{name}.ipynb is no notebook that can be run: {one_line(str(error))}") from error
        for needed in ("profile", "out_dir"):
            if needed not in known:
                raise ValueError(f"{name}.ipynb has no {needed!r} in a cell tagged 'parameters'")
    return accepted


def check_parameters(
    accepted: Mapping[str, Mapping[str, Any]], profile: str, given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The values that each notebook of ``accepted`` (:func:`known_parameters`) gets, in the types that it takes.

    Raises:
        ValueError: a name that no notebook knows, or a value of another type than the default.
    """
    names = list(accepted)
    for own, instead in (("profile", "profile=..."), ("out_dir", "out=...")):
        if own in given:
            raise ValueError(f"{own!r} is set by the run itself: give {instead}")
    try:
        json.dumps(given)
    except TypeError as error:
        raise ValueError(f"parameters must be numbers, strings, lists or dicts: {error}") from error

    checked: dict[str, dict[str, Any]] = {n: {} for n in names}
    for key, value in given.items():
        takers = [n for n in names if key in accepted[n]]
        if not takers:
            every = list(dict.fromkeys(p for n in names for p in accepted[n] if p not in ("profile", "out_dir")))
            raise ValueError(
                f"no parameter {key!r} in {', '.join(names)}{suggest(key, every)}; "
                f"accepted: {', '.join(every) or 'none'}"
            )
        for name in takers:
            checked[name][key] = _checked(name, key, value, accepted[name][key]["default"])
    return {n: {"profile": profile, **checked[n]} for n in names}


def _checked(notebook: str, key: str, value: Any, default_source: str) -> Any:
    """The value as the notebook takes it, or a ValueError if it is of another type than the default."""
    try:
        default = ast.literal_eval(default_source)
    except (ValueError, SyntaxError):
        return value  # an expression: nothing can be told
    if default is None or value is None:
        return value
    if isinstance(default, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # -p scales=2 for a notebook whose default is "2,3,4"
    # bool is an int to isinstance, and a list may stand for a tuple after its way through JSON
    wanted = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}.get(type(default), (type(default),))
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"{notebook}: parameter {key!r} is a {type(default).__name__} (default {default!r}), "
            f"not a {type(value).__name__}: {value!r}"
        )
    return value
