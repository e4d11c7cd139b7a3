"""Why a published number was not measured: what measuring it takes, and how much of that is at hand."""

from __future__ import annotations

from nsrlib import data
from nsrlib.data.download import find, local_roots

GENERAL = {
    "training": "needs the paper's training",
    "hardware": "measured on the authors' hardware",
    "network": "needs a network that is not built here",
    "not released": "needs what nobody released",
}
NEEDS = ("run", "data", "weights", *GENERAL)
"""What an open number needs. ``run``: everything is at hand, but the run that was made did not measure it."""


def lacking(needs: str, column: str, scale: int | None) -> tuple[str, str]:
    """What is lacking to measure a number: a word of :data:`NEEDS` and a reason. Nothing is downloaded.

    Args:
        needs: as in :func:`nsrlib.claims.published`.
        column: the data set, where it needs one.

    Raises:
        ValueError: ``needs`` is none of those words.

    Example:
        >>> lacking("training", "Set5", 4)
        ('training', "needs the paper's training")
        >>> lacking("", "model", 4)
        ('run', 'not asked for in this run')
    """
    kind, _, file = needs.partition(" ")
    if needs in GENERAL:
        return needs, GENERAL[needs]
    if kind not in ("", "data", "weights"):
        raise ValueError(f"needs must be empty, data, weights FILE or one of {', '.join(GENERAL)}, got {needs!r}")
    if kind == "weights" and not file:
        return "weights", "needs the authors' weights, which cannot be had from a pinned address"
    if kind == "weights" and not _weights_at_hand(file):
        return "weights", f"the weights {file} are not at hand"
    if kind and (reason := _why_not_the_set(column, scale)):
        return "data", reason
    return "run", "not asked for in this run"


def _weights_at_hand(file: str) -> bool:
    source = data.sources().get(f"weights/{file}")
    if source is not None:
        return bool(find([source]))
    return any((root / "weights" / file).is_file() for _, root in local_roots())


def _why_not_the_set(name: str, scale: int | None) -> str:
    """Why a set cannot be measured on; empty if it can."""
    try:
        images = data.load(name, scale, download=False)
    except (data.DataUnavailable, ValueError):  # ValueError: a set that the catalogue does not have
        return f"{name} is not at hand"
    return f"only an unverified copy of {name} is at hand" if data.UNVERIFIED in images.origin else ""
