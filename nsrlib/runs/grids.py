"""Grids of parameters, as they are written on a command line or in a file."""

from __future__ import annotations

import ast
import csv
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nsrlib.files import one_line


def literal(text: str) -> Any:
    """A Python literal, ``true`` or ``false``; anything else is the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
        return {"true": True, "false": False}.get(text.lower(), text)


def parse_values(text: str) -> list[Any]:
    """Values of one parameter as they are written on the command line.

    ``2,3,4`` are three numbers, ``relu,gelu`` two words, ``"2,3",4`` the string ``2,3`` and a number. A list,
    ``["2,3", "4"]`` or ``[[1, 2], [3, 4]]``, holds the values.

    Raises:
        ValueError: there is no value, or one of them is empty.
    """
    try:
        values = ast.literal_eval(f"[{text}]")
        if len(values) == 1 and isinstance(values[0], list):
            values = values[0]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        values = [literal(part.strip()) for part in next(csv.reader([text], skipinitialspace=True), [])]
    if not values or (len(values) > 1 and "" in values):
        raise ValueError(f"{text!r} is no list of values; write v1,v2,... or a list: ['2,3', '4']")
    return values


def parse_grid(pairs: Iterable[str]) -> dict[str, list[Any]]:
    """``["scale=2,3", "seed=0,1"]`` -> name -> values; a name that comes again adds values.

    Raises:
        ValueError: a pair is not ``name=values``.
    """
    grid: dict[str, list[Any]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"-g takes name=v1,v2,..., got {pair!r}")
        grid.setdefault(name, []).extend(parse_values(text))
    return grid


def read_grid(path: str | Path) -> list[dict[str, Any]]:
    """The points in a grid file: a list of ``{name: value}``, or ``{name: [values]}`` for all their combinations.

    In a ``.csv`` names are in the first line; an empty field leaves the notebook's own value.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, damaged, empty, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such grid file: {path}")
    readers: dict[str, Callable[[str], Any]] = {".json": json.loads, ".csv": _read_csv}
    readers |= {".yaml": _read_yaml, ".yml": _read_yaml}
    try:
        if path.suffix not in readers:
            raise ValueError("its name ends in none of .json, .yaml, .yml and .csv")
        return _points(readers[path.suffix](path.read_text(encoding="utf-8-sig")))
    except ValueError as error:
        raise ValueError(f"grid file {path.name}: {one_line(str(error))}") from error


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _read_csv(text: str) -> list[dict[str, Any]]:
    header, *lines = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if row] or [[]]
    for number, row in enumerate(lines, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} fields, the first line {len(header)}")
    return [{k.strip(): literal(v.strip()) for k, v in zip(header, row, strict=True) if v.strip()} for row in lines]


def _points(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, dict):
        values = {k: v if isinstance(v, list) else [v] for k, v in content.items()}
        points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    elif isinstance(content, list) and all(isinstance(point, dict) for point in content):
        points = content
    else:
        raise ValueError("it holds neither a list of {name: value} nor {name: [values]}")
    if not points or not any(points):
        raise ValueError("it holds no values")
    for name in (name for point in points for name in point):
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r} is no name of a parameter")
    return points


def as_text(value: Any) -> str:
    """A value as it is written on a command line, for reading; :func:`literal` is the way back."""
    return value if isinstance(value, str) else repr(value)
