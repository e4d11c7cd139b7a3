"""The table of papers, from which every list of papers is made."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import TYPE_CHECKING

from nsrlib.evaluation import pick_device
from nsrlib.papers import addersr, bsrn, drcn, drn, nsr
from nsrlib.papers.record import Paper, Training
from nsrlib.training.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

OWN = (nsr.PAPER, addersr.PAPER, bsrn.PAPER, drcn.PAPER, drn.PAPER)


def every() -> dict[str, Paper]:
    """All papers by name: this library's, then those of other packages.

    Such a package names its record in its ``pyproject.toml``::

        [project.entry-points."nsrlib.papers"]
        espcn = "nsrlib_espcn:PAPER"

    One that cannot be loaded is left out, with a warning.
    """
    found = {paper.name: paper for paper in OWN}
    for point in sorted(metadata.entry_points(group="nsrlib.papers"), key=lambda p: p.name):
        try:
            paper = point.load()
            if not isinstance(paper, Paper):
                raise TypeError(f"{point.value} is a {type(paper).__name__}, not an nsrlib.papers.Paper")
            if paper.name in found:
                raise ValueError(f"there is a paper {paper.name!r} already")
        except Exception as error:  # whatever another package raises must not stop this one
            warnings.warn(f"paper {point.name} cannot be loaded: {type(error).__name__}: {error}", stacklevel=2)
            continue
        found[paper.name] = paper
    return found


def get(name: str) -> Paper:
    """The paper of that name. ValueError lists those there are."""
    table = every()
    if name not in table:
        raise ValueError(f"unknown paper {name!r}; there are: {', '.join(table)}")
    return table[name]


def training_of(model: str) -> Training:
    """How the paper of a network trains it; of a network that no paper trains here, a plain L1 recipe."""
    trainings = {name: training for paper in every().values() for name, training in paper.trainings.items()}
    return trainings.get(model, Training(Recipe()))


def networks_of(paper: str | None = None, device: str | torch.device = "auto") -> dict[str, nn.Module]:
    """The networks whose speed a paper compares, by label; None: those of all papers.

    Raises:
        ValueError: no such paper, or one that compares none; lists those that do.
    """
    table = {name: found.networks for name, found in every().items() if found.networks}
    if paper is not None and paper not in table:
        raise ValueError(f"no paper {paper!r} with networks to time; there are: {', '.join(table)}")
    place = pick_device(device)
    chosen = table.values() if paper is None else [table[paper]]
    return {label: network for networks in chosen for label, network in networks(place).items()}
