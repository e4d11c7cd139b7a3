"""Operators: one file each, with its reference, Triton kernels, autograd and public function.

``nsrlib.ops.adder2d`` is the function, although a file bears the same name; the file's other names come with
``from nsrlib.ops.adder2d import ...``. Nothing is imported before it is used: ``import nsrlib`` needs no Triton.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsrlib.ops.adder2d import adder2d, adder2d_int8
    from nsrlib.ops.bsconv2d import bsconv2d
    from nsrlib.ops.mixed_conv2d import mixed_conv2d

__all__ = ["adder2d", "adder2d_int8", "bsconv2d", "mixed_conv2d"]

_FILES = {"adder2d": "adder2d", "adder2d_int8": "adder2d", "bsconv2d": "bsconv2d", "mixed_conv2d": "mixed_conv2d"}


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FILES])


class _Package(ModuleType):
    """Keeps the function when Python sets the file it has just imported as an attribute of the package."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FILES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
