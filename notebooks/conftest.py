"""For nbval: verdict cells that need data which is not here are skipped, and say so.

Such a cell is tagged ``needs:set5``, ``needs:set5,set14`` or ``needs:net_g_BSRN_x4.pth``: data sets and weights files.
It only prints a verdict, so nothing after it misses it.
"""

from functools import lru_cache

import pytest


@lru_cache
def missing(names: str) -> str:
    """The first of ``names`` (joined by commas) that is not at hand, or an empty string."""
    from nsrlib import data

    for name in names.split(","):
        try:
            if name.endswith((".pth", ".safetensors")):
                data.weights_path(name)
            else:
                data.load(name)
        except data.DataUnavailable:
            return name
    return ""


def pytest_collection_modifyitems(items):
    for item in items:
        cell = getattr(item, "cell", None)
        for tag in cell.metadata.get("tags", []) if cell is not None else []:
            if tag.startswith("needs:") and (name := missing(tag.removeprefix("needs:"))):
                item.add_marker(pytest.mark.skip(reason=f"{name} is not at hand: set NSRLIB_DATA or use a network"))
