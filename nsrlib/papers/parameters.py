"""What the parameters of notebooks may be, so that a wrong one is found before a notebook starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nsrlib.data.catalogue import SETS, key_of, names_in

Accepts = Callable[[Any], str]
"""Says what is accepted in place of a value, in words; empty where the value is."""


def whole(least: int) -> Accepts:
    """A whole number from ``least`` on."""
    return lambda value: "" if isinstance(value, int) and value >= least else f"a whole number from {least} on"


def some_of(choices: Collection[int]) -> Accepts:
    """Some of these numbers, as a text with commas.

    Example:
        >>> some_of((2, 3, 4))("2,5")
        'one or more of 2, 3, 4, separated by commas'
    """
    known = set(map(str, choices))
    words = f"one or more of {', '.join(map(str, choices))}, separated by commas"
    return lambda text: "" if {part.strip() for part in str(text).split(",")} <= known else words


def sets(text: str) -> str:
    """Names of data sets, or whole paths of folders, since a notebook runs in another folder; empty: the usual ones."""
    try:
        names = names_in(text) if text else []
    except ValueError:
        names = [""]
    known = all(key_of(name) or (Path(name).is_absolute() and Path(name).is_dir()) for name in names)
    return "" if known else f"{', '.join(SETS)}, or whole paths of folders, separated by commas"


COMMON: Mapping[str, Accepts] = {"sets": sets, "max_images": whole(0), "repeats": whole(1)}
"""Parameters that mean the same in every notebook."""
