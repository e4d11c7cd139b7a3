"""What this process has used: sets whose pictures were looked at, weights that were loaded. A run records it.

Example:
    >>> start = now()
    >>> note("weights", "a.pth", lambda: ("a.pth", "a file", lambda: "0f3c"))
    >>> since(start)
    {'data': {}, 'weights': {'a.pth': {'origin': 'a file', 'sha256': '0f3c'}}}
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["data", "weights"]


@dataclass
class _Use:
    kind: Kind
    name: str
    origin: str
    sha256: Callable[[], str]
    last: int  # place of its last use in the order of all uses


_uses: dict[tuple[Kind, Hashable], _Use] = {}
_order = itertools.count()


def note(kind: Kind, key: Hashable, about: Callable[[], tuple[str, str, Callable[[], str]]]) -> None:
    """Say that something is used.

    Args:
        key: tells it from others.
        about: called when it is used for the first time; gives its name, its origin, and a function that gives its
            sha256, which is called once, if a run wants to know.
    """
    if (use := _uses.get((kind, key))) is None:
        use = _uses[kind, key] = _Use(kind, *about(), last=0)
    use.last = next(_order)


def now() -> int:
    """The present moment, for :func:`since`."""
    return next(_order)


def since(moment: int) -> dict[Kind, dict[str, dict[str, str]]]:
    """Kind -> name -> origin and sha256 of what was used after a moment, in the order of first use."""
    found: dict[Kind, dict[str, dict[str, str]]] = {"data": {}, "weights": {}}
    for use in [use for use in _uses.values() if use.last > moment]:
        digest = use.sha256()
        use.sha256 = lambda digest=digest: digest  # type: ignore[misc]
        entry = {"origin": use.origin, "sha256": digest}
        name = use.name if found[use.kind].get(use.name, entry) == entry else f"{use.name} ({digest[:8]})"
        found[use.kind][name] = entry
    return found
