"""For nbval: what is skipped without data, and figures that are compared with the stored ones.

A verdict cell that needs data has a tag ``needs:set5`` or ``needs:net_g_BSRN_x4.pth`` for each
data set and each weights file. It only prints, so nothing after it misses it. Where something
is missing, it is skipped, and no figure of the notebook is compared: they show other pictures.

Every figure must look as it is stored, but for what another machine may render otherwise
(``nsrlib.runs.drift.changed_pixels``), unless its cell has the tag ``figure:varies``, as one
of times has.
"""

import base64
import io
import os
import warnings
from functools import lru_cache
from pathlib import Path

import pytest

ALLOWED = 25  # pixels; a digit has about as many
ARTEFACTS = Path(__file__).resolve().parents[1] / "runs"


@lru_cache
def is_here(name: str) -> bool:
    """Whether a data set, a weights file or a group of files can be had."""
    from nsrlib import data
    from nsrlib.data.catalogue import GROUPS

    try:
        if f"weights/{name}" in data.sources():
            data.weights_path(name)
        elif name in GROUPS:
            data.fetch_set(name)
        else:
            data.load(name)
    except data.DataUnavailable:
        return False
    return True


def tags_of(item) -> list[str]:
    cell = getattr(item, "cell", None)
    return cell.metadata.get("tags", []) if cell is not None else []


def needs_of(item) -> list[str]:
    return [tag.removeprefix("needs:") for tag in tags_of(item) if tag.startswith("needs:")]


def pytest_collection_modifyitems(items):
    for item in items:
        for name in needs_of(item):
            if not is_here(name):
                item.add_marker(
                    pytest.mark.skip(
                        reason=f"{name} is not at hand: set NSRLIB_DATA or use a network"
                    )
                )


@lru_cache
def missing(path: Path) -> list[str]:
    """What the verdict cells of a notebook need and is not here."""
    import nbformat

    tags = {t for cell in nbformat.read(path, 4).cells for t in cell.metadata.get("tags", [])}
    needs = sorted(tag.removeprefix("needs:") for tag in tags if tag.startswith("needs:"))
    names = [name for name in needs if not is_here(name)]
    if names:
        warnings.warn(
            f"figures of {path.name} are not compared: {', '.join(names)} not at hand",
            stacklevel=2,
        )
    return names


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if getattr(item, "test_outputs", None) is not None and "figure:varies" not in tags_of(item):
        then, now = figures(item.cell.outputs), figures(item.test_outputs)
        if (then or now) and not missing(Path(item.path)):
            compare(item, then, now)
    return result


def figures(outputs) -> list[bytes]:
    """Those drawn: nbval's kernel gives a cell's value too, even behind a semicolon."""
    found = [output["data"] for output in outputs if output["output_type"] == "display_data"]
    return [base64.b64decode(data["image/png"]) for data in found if "image/png" in data]


def compare(item, then: list[bytes], now: list[bytes]) -> None:
    import numpy as np
    from PIL import Image

    from nsrlib.runs.drift import changed_pixels

    again = "If that is meant: make notebooks stores the outputs anew."
    if len(then) != len(now):
        item.raise_cell_error(
            f"{len(now)} figures instead of the {len(then)} that are stored. {again}"
        )
    for k, pair in enumerate(zip(then, now, strict=True), 1):
        stored, fresh = (np.asarray(Image.open(io.BytesIO(p)).convert("RGB")) for p in pair)
        changed = changed_pixels(stored, fresh)
        if (count := int(changed.sum())) <= ALLOWED:
            continue
        folder = Path(os.environ.get("NSR_ARTEFACTS") or ARTEFACTS) / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{Path(item.path).stem}-{item.cell.get('id', item.cell_num)}-{k}"
        for suffix, content in zip(("stored", "now"), pair, strict=True):
            (folder / f"{name}-{suffix}.png").write_bytes(content)
        Image.fromarray(changed).save(folder / f"{name}-changed.png")
        item.raise_cell_error(
            f"Figure {k} has changed in {count} pixels, allowed are {ALLOWED}; both pictures "
            f"are in the folder {folder.parent.name}/{folder.name}, {name}-*.png. {again}"
        )
