"""What a notebook opens first: its ledger, its test images, its studies, its style, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from nsrlib import claims, data, plots
from nsrlib.data import ImageSet
from nsrlib.models import create_model
from nsrlib.papers.record import Paper
from nsrlib.papers.table import get
from nsrlib.studies import StudyResult


class Session:
    """A paper's notebook at work, made by :func:`open`.

    Attributes:
        paper: its record. profile: quick, cpu, gpu or paper. out_dir: where figures and the ledger go; empty: nowhere.
        ledger: of the paper's claims.
        images: the test sets, or the embedded photographs where a benchmark is not at hand.
        where: a sentence that says which.
    """

    def __init__(self, paper: Paper, profile: str, out_dir: str | Path, images: list[ImageSet], where: str) -> None:
        self.paper, self.profile, self.out_dir = paper, profile, out_dir
        self.images, self.where = images, where
        self.ledger = claims.Ledger(paper.name, profile, out_dir)
        self.ledger.note(where)

    @property
    def on_benchmark(self) -> bool:
        return self.images[0].name != "embedded"

    @cached_property
    def printed(self) -> pd.DataFrame:
        """The paper's numbers, see :func:`nsrlib.claims.published`."""
        return claims.published(self.paper.name)

    @cached_property
    def studies(self) -> dict[str, StudyResult]:
        """The paper's trained studies: at ``quick`` those that are stored, else trained now. Says which there are."""
        found = self.paper.study_results(self.profile, self.out_dir)
        for name in self.paper.studies_at(self.profile):
            if name in found:
                print(f"{name}: {found[name].describe()}")
            else:
                print(f"{name}: no stored study, skipped")
                self.ledger.note(f"The study '{name}' is not stored: no verdicts on its claims.")
        return found

    @cached_property
    def bicubic(self) -> dict[int, float]:
        """PSNR of bicubic upscaling on Set5 as papers print it, by scale."""
        rows = claims.published(claims.PROTOCOL).query("row == 'bicubic' and column == 'Set5' and metric == 'psnr'")
        return {int(scale): float(value) for scale, value in zip(rows["scale"], rows["value"], strict=True)}

    def sets(self, asked: str = "") -> list[str]:
        """Names of the benchmarks to measure: those asked for, else by the profile; none where they are not at hand."""
        more = [] if self.profile == "quick" else ["b100", "urban100"]
        names = [name.strip() for name in asked.split(",") if name.strip()] or ["set5", "set14", *more]
        return names if self.on_benchmark else []

    def need(self, what: str, there: Any) -> bool:
        """Whether something is there; if not, says so in the one line that stands in place of a cell's output.

        Example:
            >>> session = open("drcn", sets="embedded", scale=3)  # doctest: +ELLIPSIS
            embedded: ...
            >>> if session.need("the study of depth", None):
            ...     print("never reached")
            Skipped: needs the study of depth.
        """
        present = len(there) > 0 if hasattr(there, "__len__") else bool(there)
        if not present:
            print(f"Skipped: needs {what}.")
        return present

    def published_network(self, name: str, scale: int) -> tuple[nn.Module, bool]:
        """A network with its authors' weights, or with random ones where they cannot be had; and which."""
        try:
            return create_model(name, scale, pretrained="published"), True
        except data.DataUnavailable:
            return create_model(name, scale).eval(), False

    def save(self, fig: Figure, name: str) -> None:
        """Keep a figure as ``<name>.png`` beside the ledger, if there is a place."""
        plots.save(fig, name, self.out_dir)

    def provenance(self) -> pd.DataFrame:
        """Keep the ledger; versions, device, commit, data and weights of this run, one a line."""
        self.ledger.save()
        about = self.ledger.provenance()
        facts = {name: value for name, value in about.items() if not isinstance(value, dict)}
        hashes = {f"{one.name} x{one.scale}": one.sha256[:16] for one in self.images}
        hashes |= {name: one["sha256"][:16] for name, one in (about["data"] | about["weights"]).items()}
        return pd.Series(facts | about["versions"] | hashes, name="this run").to_frame()


def open(
    name: str,
    profile: str = "quick",
    out_dir: str | Path = "",
    *,
    sets: str | Sequence[str] = "set5",
    scale: int,
    max_images: int = 0,
    width: int = 110,
) -> Session:
    """Set up a notebook: seed, style of figures and tables, ledger, test images; says where the images come from.

    Args:
        out_dir: where the ledger and figures go; empty: nowhere.
        sets: test sets, or one; where they are not at hand, the embedded photographs.
        max_images: of each set; 0: all.
        width: characters of a table's column.

    Raises:
        ValueError: no such paper, profile or set.
    """
    torch.manual_seed(0)
    plots.use_style()
    options: Any = pd.options.display
    options.max_colwidth, options.max_rows = width, 160
    images, where = data.benchmark_or_embedded(sets, scale, limit=max_images or None)
    session = Session(get(name), profile, out_dir, images, where)
    print(where)
    return session
