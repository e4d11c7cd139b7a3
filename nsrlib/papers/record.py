"""What the library knows of a paper: one :class:`Paper` a paper. Every list of papers is made from these records."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsrlib.claims import PROFILES, Numbers
from nsrlib.papers.parameters import COMMON, Accepts
from nsrlib.studies import PILOT, Study, StudyResult, load_study
from nsrlib.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


@dataclass(frozen=True)
class Training:
    """How a paper trains one network.

    Attributes:
        recipe: the published one, as far as it is known.
        setup: losses and further networks, see :func:`~nsrlib.studies.set_up`; empty: the recipe's loss alone.
        patches: keywords of :class:`~nsrlib.data.Patches`.
        shorter: fields of the recipe that differ when it is shorter than the paper's.
    """

    recipe: Recipe
    setup: str = ""
    patches: Mapping[str, Any] = field(default_factory=dict)
    shorter: Mapping[str, Any] = field(default_factory=dict)


def drawn_in(module: str, *names: str) -> dict[str, Callable[[], Figure]]:
    """Functions of a module by name; it is imported when one is called, so a record needs no matplotlib."""

    def draw(name: str) -> Figure:
        return getattr(import_module(module), name)()

    return {name: partial(draw, name) for name in names}


@dataclass(frozen=True)
class Paper(Numbers):
    """One paper.

    Attributes:
        name: short, a word: of its notebook, its files and its command.
        root: folder that holds ``data/published/<name>.csv``, ``data/results/<name>`` and ``notebooks/<name>.ipynb``.
        title: authors, *title*, place and year.
        needs: data and weights that its verdicts need, in words.
        studies: profile -> the trained studies by name.
        trainings: network (a name of :func:`nsrlib.list_models`) -> how it is trained.
        diagrams: name -> a block diagram, see :func:`drawn_in`.
        parameters: of the notebook -> what it accepts; one that is not here may be anything of the default's type.
        networks: device -> networks whose speed the paper compares, by label; the first is the measure of the others.
    """

    title: str = ""
    needs: str = ""
    studies: Callable[[str], dict[str, Study]] = lambda profile: {}
    trainings: Mapping[str, Training] = field(default_factory=dict)
    diagrams: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    parameters: Mapping[str, Accepts] = field(default_factory=lambda: COMMON)
    networks: Callable[[Any], dict[str, nn.Module]] | None = None

    @property
    def notebook(self) -> Path:
        return self.root / "notebooks" / f"{self.name}.ipynb"

    def studies_at(self, profile: str) -> dict[str, Study]:
        """All studies at a profile. ValueError for one that does not exist; lists those there are."""
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
        return self.studies(profile)

    def study_file(self, study: str, profile: str) -> Path:
        return self.results / "studies" / f"{study.replace(' ', '-')}.{profile}.csv"

    def stored_study(self, study: str) -> StudyResult | None:
        """The stored results of the longest profile, or of the pilot, or None."""
        paths = [self.study_file(study, profile) for profile in (*reversed(PROFILES), PILOT)]
        return next((load_study(path) for path in paths if path.is_file()), None)

    def study_results(self, profile: str = "quick", out_dir: str | Path = "") -> dict[str, StudyResult]:
        """What a notebook shows, by study: at profile ``quick`` those that are stored, else all, trained now.

        Args:
            out_dir: where training keeps its runs, so that a repeated call goes on; empty: a temporary folder.
        """
        table = self.studies_at(profile)
        if profile == "quick":
            return {name: found for name in table if (found := self.stored_study(name))}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(out_dir or scratch) / "studies" / self.name
            return {name: s.run(folder / name.replace(" ", "-")) for name, s in table.items()}

    def miniature(self, study: str) -> StudyResult:
        """The quick profile of a study, trained here and now: seconds, and no evidence of anything but that it runs."""
        with tempfile.TemporaryDirectory() as scratch:
            return self.studies_at("quick")[study].run(scratch, progress=False)
