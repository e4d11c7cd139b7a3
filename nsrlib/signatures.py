"""Settings as one short word, and back: ``v1:y,crop=4`` stands beside every number that was measured so.

A signature has every field of a frozen dataclass that differs from its default; equal settings have equal signatures,
and different settings different ones. A new field joins by itself. Its default must be what was computed before it
came, so that what is stored keeps its meaning.
"""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

VERSION = "v1"
"""Changes when a signature would come to mean another computation than before."""


def written(settings: Any, skip: str = "") -> list[str]:
    """``name=value`` of each field that differs from its default, in their order, without the field ``skip``.

    Values are yes and no, whole numbers, the shortest decimals that give a float back, and words.

    Example:
        >>> from nsrlib.metrics import Protocol
        >>> written(Protocol(crop=4, quantise=False))
        ['crop=4', 'quantise=no']
    """

    def word(value: Any, default: Any) -> str:
        if isinstance(default, bool):
            return "yes" if value else "no"
        if isinstance(value, Integral):
            return str(int(value))
        return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")

    values = [(f.name, getattr(settings, f.name), f.default) for f in fields(settings) if f.name != skip]
    return [f"{name}={word(value, default)}" for name, value, default in values if value != default]


def parts(text: str) -> list[str]:
    """``v1:y,crop=4``, or as a person types it ``y, crop=4`` -> y and crop=4.

    Raises:
        ValueError: another version.
    """
    version, colon, rest = text.rpartition(":")
    if colon and version.strip() != VERSION:
        raise ValueError(f"{text!r} is a signature of version {version!r}, and not {VERSION!r}")
    return [part for part in (part.strip() for part in rest.split(",")) if part]


def read(cls: type, pairs: list[str], skip: str = "") -> dict[str, Any]:
    """What :func:`written` wrote, as keywords of the dataclass ``cls``.

    Raises:
        ValueError: no such field; given twice; a value that it does not take. The message lists what there is.

    Example:
        >>> from nsrlib.metrics import Protocol
        >>> read(Protocol, ["crop=4", "quantise=no"])
        {'crop': 4, 'quantise': False}
        >>> read(Protocol, ["quantise=maybe"])
        Traceback (most recent call last):
        ValueError: quantise takes yes or no, got 'maybe'
    """
    kinds = {name: kind for name, kind in get_type_hints(cls).items() if name != skip}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, word = (piece.strip() for piece in pair.partition("="))
        if not equals or name not in kinds:
            possible = ", ".join(f"{name}=" for name in kinds)
            raise ValueError(f"a {cls.__name__.lower()} has no field {pair!r}; there are: {possible}")
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = _value(name, kinds[name], word)
    return values


def _value(name: str, kind: Any, word: str) -> Any:
    """A word as bool, int, float, str, one of the words of a ``Literal``, or whichever of a union it fits."""
    accepted: list[str] = []
    for one in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        choices: dict[str, Any] = {"yes": True, "no": False} if one is bool else {}
        choices |= {text: text for text in (get_args(one) if get_origin(one) is Literal else ())}
        if word in choices:
            return choices[word]
        if one in (int, float, str):
            try:
                return one(word)
            except ValueError:
                choices[{int: "a whole number", float: "a number"}[one]] = None
        accepted += choices
    raise ValueError(f"{name} takes {' or '.join(accepted)}, got {word!r}")
