"""Options that several commands have, and how their words are read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nsrlib.data.catalogue import names_in
from nsrlib.runs import grids

TaskScale = Annotated[
    int | None,
    typer.Option(
        "--scale", "-s", help="Upscaling factor; default: a weights file's, else 4, or 1 with --noise or --jpeg."
    ),
]
Config = Annotated[list[str] | None, typer.Option("-c", help="name=value, an option of the network; repeatable.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]


def level(text: str | None, option: str, kind: type) -> Any:
    """``25`` -> 25, ``0,55`` -> (0, 55), None -> None."""
    try:
        numbers = [kind(part) for part in text.split(",")] if text is not None else [None]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(f"{option} takes a number or a range such as 10,40, got {text!r}")
    return tuple(numbers) if len(numbers) == 2 else numbers[0]


def assignments(pairs: list[str] | None, option: str = "-p") -> dict[str, Any]:
    """``["scale=4", "sets='set5'"]`` -> values; what is no Python literal is a string."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{option} takes name=value, got {pair!r}")
        values[name] = grids.literal(text)
    return values


def names(text: str, option: str = "--on") -> list[str]:
    """``set5,set14`` -> both. A folder whose name has a comma stays whole. ValueError: no name is left."""
    try:
        return names_in(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def listed(given: list[str] | None, option: str) -> list[str]:
    """What a repeatable option was given; none: an empty list. ValueError for an empty name, which names nothing."""
    if given and not all(name.strip() for name in given):
        raise ValueError(f"{option} takes the name of a data set or a folder, got an empty one")
    return given or []
