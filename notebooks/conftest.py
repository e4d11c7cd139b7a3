"""For nbval: verdict cells that need data which is not here are skipped, and say so.

Such a cell has a tag ``needs:set5`` or ``needs:net_g_BSRN_x4.pth`` for each data set and each
weights file. It only prints a verdict, so nothing after it misses it.
"""

from functools import lru_cache

import pytest


@lru_cache
def is_here(name: str) -> bool:
    """Whether a data set or a weights file can be had."""
    from nsrlib import data

    try:
        if name.endswith((".pth", ".safetensors")):
            data.weights_path(name)
        else:
            data.load(name)
    except data.DataUnavailable:
        return False
    return True


def pytest_collection_modifyitems(items):
    for item in items:
        cell = getattr(item, "cell", None)
        for tag in cell.metadata.get("tags", []) if cell is not None else []:
            name = tag.removeprefix("needs:")
            if name != tag and not is_here(name):
                item.add_marker(
                    pytest.mark.skip(
                        reason=f"{name} is not at hand: set NSRLIB_DATA or use a network"
                    )
                )
