"""JSON of folders that anybody may have written: read in the types that the pages take, and the damage named.

A form says what a file should hold: a leaf of this module, ``[form]`` for a list, or a dict of names, of which ``"*"``
stands for all others. Whatever else is found becomes empty, or is left out of its list, and a line says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nsrlib.files import one_line

_LARGEST = 2**28
_DEEPEST = 12
_TOLD = 8


class Leaf(NamedTuple):
    """A value: what it is in words, what stands for it where it is damaged, and whether one is sound."""

    words: str
    empty: Any
    sound: Callable[[Any], bool]


class Maybe(NamedTuple):
    """What may be absent or null, and is absent then."""

    form: Any


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # NaN is not; 10**400 is no float


def _one_part(value: Any) -> bool:
    """Whether a text names something in a folder, and nothing above it or below."""
    return (
        isinstance(value, str) and 0 < len(value) < 200 and value not in (".", "..") and not set(value) & set("/\\\0")
    )


TEXT = Leaf("text", "", lambda value: isinstance(value, str))
NAME = Leaf("the name of a file", "damaged", _one_part)
COUNT = Leaf("a count", 0, lambda value: type(value) is int and 0 <= value < 2**31)
SECONDS = Leaf("seconds", 0.0, lambda value: _finite(value) and 0 <= value < 1e10)
SCALAR = Leaf("text or a number", None, lambda v: v is None or isinstance(v, str | bool) or _finite(v))
LINES = Leaf("text", "", lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(s, str) for s in v)))
ANY = Leaf("a value", None, lambda value: True)

_ABOUT: dict[str, Any] = {name: Maybe(TEXT) for name in ("started", "command", "git", "machine", "notebook_sha256")}
_ABOUT |= {"versions": Maybe({"*": TEXT}), "files": Maybe({"*": TEXT}), "attempt": Maybe(COUNT), "*": ANY}
_FAILURE: dict[str, Any] = {
    "notebook": TEXT,
    "error": TEXT,
    "message": TEXT,
    "section": Maybe(TEXT),
    "cell": Maybe(COUNT),
}
_FAILURE |= {"line": Maybe(TEXT), "cell_id": Maybe(TEXT)}
_NOTEBOOK = {"name": NAME, "status": TEXT, "seconds": SECONDS, "cells": COUNT, "error": Maybe(_FAILURE)}
_POINT = {"key": NAME, "parameters": {"*": ANY}, "status": TEXT, "seconds": SECONDS, "attempts": COUNT, "error": TEXT}

RUN = {"profile": TEXT, "notebooks": [_NOTEBOOK], "status": TEXT, "seconds": SECONDS, "parameters": {"*": ANY}} | _ABOUT
SWEEP = {"paper": NAME, "profile": TEXT, "runs": [_POINT], "status": TEXT, "seconds": SECONDS} | _ABOUT
_CLAIM: dict[str, Any] = {
    name: Maybe(SCALAR) for name in ("id", "where", "statement", "line", "reason", "verdict", "kind", "registered")
}
_ROW: dict[str, Any] = {
    name: Maybe(SCALAR) for name in ("id", "paper", "table", "row", "column", "scale", "metric", "unit", "source")
}
_ROW |= {
    name: Maybe(SCALAR) for name in ("published", "ours", "difference", "how", "verdict", "needs", "reason", "own")
}
_PROVENANCE: dict[str, Any] = {"device": Maybe(SCALAR), "threads": Maybe(SCALAR), "versions": Maybe({"*": SCALAR})}
_PROVENANCE |= {"data": Maybe({"*": ANY}), "weights": Maybe({"*": ANY}), "*": ANY}
RESULTS = {
    "paper": Maybe(SCALAR),
    "rows": [_ROW | {"cell": Maybe(COUNT), "*": ANY}],
    "tables": Maybe({"*": {"rows": [{"*": SCALAR}]}}),
    "notes": Maybe([SCALAR]),
    "claims": Maybe([_CLAIM | {"*": ANY}]),
    "provenance": Maybe(_PROVENANCE),
}
_CELL: dict[str, Any] = {
    "cell_type": TEXT,
    "source": LINES,
    "metadata": {"tags": Maybe([TEXT]), "*": ANY},
    "id": Maybe(TEXT),
}
_CELL |= {"execution_count": Maybe(COUNT), "outputs": Maybe([{"data": Maybe({"*": ANY})}])}
NOTEBOOK = {"cells": [_CELL]}


def read(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, nested too deeply, or larger than 256 MiB.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    if (size := path.stat().st_size) > _LARGEST:
        raise ValueError(f"it has {size} bytes, at most {_LARGEST} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{type(error).__name__}: {one_line(str(error))}") from None


def fit(value: Any, form: Any, name: str, problems: list[str]) -> Any:
    """``value`` in the types of ``form``; ``problems`` gets lines about ``name``, few even where much is damaged."""
    found: list[str] = []
    value = _fit(value, form, "", found)
    problems += [f"{name}: {line}" for line in found[:_TOLD]]
    if len(found) > _TOLD:
        problems.append(f"{name}: {len(found) - _TOLD} more of this kind")
    return value


def _fit(value: Any, form: Any, where: str, problems: list[str]) -> Any:
    if isinstance(form, Leaf):
        if form.sound(value):
            return _plain(value, _DEEPEST)
        problems.append(f"{where} is not {form.words}: {_shown(value)}")
        return form.empty
    kind = type(form)
    if not isinstance(value, kind):
        problems.append(f"{where or 'it'} is not a {'list' if kind is list else 'mapping'}: {_shown(value)}")
        return _empty(form)
    if kind is list:
        wanted = type(form[0]) if isinstance(form[0], dict | list) else object
        sound = [entry for entry in value if isinstance(entry, wanted)]
        if lost := len(value) - len(sound):
            problems.append(f"{lost} of {len(value)} entries of {where} were left out")
        return [_fit(entry, form[0], f"{where}[{number}]", problems) for number, entry in enumerate(sound)]
    fitted = {}
    for key, part in form.items():
        optional = isinstance(part, Maybe)
        part = part.form if optional else part
        if key in value and not (optional and value[key] is None):
            fitted[key] = _fit(value[key], part, f"{where}.{key}".lstrip("."), problems)
            if optional and isinstance(part, dict) and not isinstance(value[key], dict):
                del fitted[key]  # rather than one of empty parts
        elif not optional and key != "*":
            problems.append(f"{where} lacks {key}".lstrip())
            fitted[key] = _empty(part)
    for key in value.keys() - form.keys() if "*" in form else ():
        fitted[_plain(key, 0)] = _fit(value[key], form["*"], f"{where}.{_shown(key)}".lstrip("."), problems)
    return {_plain(key, 0): fitted[_plain(key, 0)] for key in [*value, *fitted] if _plain(key, 0) in fitted}


def _empty(form: Any) -> Any:
    if isinstance(form, dict):
        return {key: _empty(part) for key, part in form.items() if key != "*" and not isinstance(part, Maybe)}
    return form.empty if isinstance(form, Leaf) else []


def _shown(value: Any) -> str:
    return one_line(_plain(value if isinstance(value, str) else repr(value)[:99], 0), 40)


def _plain(value: Any, depth: int) -> Any:
    """A value whose texts can be written, and which is not nested without end."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a pair of surrogates cannot
    if isinstance(value, list | dict) and not depth:
        return "…"
    if isinstance(value, list):
        return [_plain(entry, depth - 1) for entry in value]
    if isinstance(value, dict):
        return {_plain(key, 0): _plain(entry, depth - 1) for key, entry in value.items()}
    return value
