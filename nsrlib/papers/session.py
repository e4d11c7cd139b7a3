"""What a notebook opens first: its ledger, its test images, its studies, its style, in one call."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from nsrlib import claims, data, plots
from nsrlib.claims import judged as verdicts
from nsrlib.claims.registered import check_names, registered
from nsrlib.data import ImageSet
from nsrlib.data.catalogue import names_in
from nsrlib.models import create_model
from nsrlib.papers.check import Check
from nsrlib.papers.record import Paper
from nsrlib.papers.table import get
from nsrlib.statistics import contrast
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
        self._checks: dict[str, bool] = {}
        self._judged: tuple[Any, pd.DataFrame] | None = None

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

    def check(self, checks: Iterable[Check]) -> list[Check]:
        """Hand theorem checks to the claims that they decide, and return them; of one id all must hold.

        Example:
            >>> session = open("drcn", sets="embedded", scale=3)  # doctest: +ELLIPSIS
            embedded: ...
            >>> found = session.check([Check("T1", "one and one is two", "proved", 1 + 1 == 2)])
            >>> print(found[0])
            T1 proved: one and one is two
        """
        found = list(checks)
        self._checks |= {name: all(c.holds for c in found if c.id == name) for name in {c.id for c in found}}
        return found

    @property
    def judged(self) -> pd.DataFrame:
        """The paper's registered claims by what was measured so far, see :func:`nsrlib.claims.judge_claims`.

        The ledger keeps them. Studies are those of :attr:`studies`, checks those of :meth:`check`, printed numbers
        those that the ledger compared.

        Raises:
            ValueError: a claim names a study or a variant that does not exist; the message lists those there are.
        """
        cells = pd.DataFrame(self.ledger.rows.values(), columns=["id", "ours", "verdict"])
        now = (dict(self._checks), cells.to_dict("records"))
        if self._judged is None or repr(self._judged[0]) != repr(now):
            table = claims.judge_claims(self.paper.name, self._results, checks=self._checks, cells=cells)
            self.ledger.keep_claims(table)
            self._judged = now, table
        return self._judged[1]

    @cached_property
    def _results(self) -> dict[str, StudyResult | None]:
        """The studies that claims name, None where one is not stored."""
        planned = self.paper.studies_at(self.profile if self.profile != "quick" else "cpu")
        ours = registered(self.paper.name)
        check_names(ours, {name: list(study.variants) for name, study in planned.items()})
        asked = {claim.test.study for claim in ours if claim.test.of_training}
        return {name: self.studies.get(name) for name in planned if name in asked}

    def _chosen(self, patterns: Sequence[str], table: pd.DataFrame | None = None) -> pd.DataFrame:
        """Rows whose claims' ids fit, of the judged claims or of ``table``; all without a pattern."""
        ids, table = self.judged["id"], self.judged if table is None else table
        for pattern in patterns:
            if not fnmatch.filter(ids, pattern):
                raise ValueError(f"no claim of {self.paper.name} fits {pattern!r}; there are: {', '.join(ids)}")
        fits = [not patterns or any(fnmatch.fnmatchcase(key, p) for p in patterns) for key in table["id"]]
        return table[fits]

    def claims(self, *patterns: str) -> pd.DataFrame:
        """Registered claims for reading, by patterns of their ids (``decompositions/*``); none: all.

        Columns: where, claim, published, ours with its 95 % interval, ratio, seeds, detectable, verdict, registered,
        reason. ValueError for a pattern that fits none; lists the ids.
        """
        return verdicts.readable(self._chosen(patterns))

    def verdicts(self, *patterns: str) -> str:
        """One line a claim: what became of it, with effect, interval, seeds and the published effect.

        The same stored studies give the same text everywhere. Patterns as in :meth:`claims`.
        """
        return "\n".join(verdicts.line(row) for row in self._chosen(patterns).to_dict("records"))

    def forest(self, *patterns: str, title: str = "") -> Figure:
        """The trained claims as a picture, see :func:`nsrlib.plots.claims`. Patterns as in :meth:`claims`."""
        return plots.claims(self._chosen(patterns), title)

    def by_budget(self, *patterns: str) -> pd.DataFrame:
        """The trained claims at every number of steps, see :func:`nsrlib.claims.by_budget`. Patterns as in
        :meth:`claims`."""
        return self._chosen(patterns, claims.by_budget(self.paper.name, self._results))

    def seeds_missing(self, *patterns: str) -> pd.DataFrame:
        """What the trained claims still take, see :func:`nsrlib.claims.seeds_missing`. Patterns as in
        :meth:`claims`."""
        return self._chosen(patterns, claims.seeds_missing(self.paper.name, self.judged, self._results))

    def exploratory(
        self, study: StudyResult, pairs: Iterable[tuple[str, str]], metric: str = "psnr", unit: str = "dB"
    ) -> str:
        """Differences that no claim registers, one a line, with their 95 % intervals and without a verdict.

        A variant below the floor of its task, see :func:`nsrlib.claims.untrained`, is named without a number.

        Args:
            pairs: variants (a, b), compared as a - b. The scatter is pooled over all of them.
            metric, unit: see :meth:`StudyResult.scores <nsrlib.studies.StudyResult.scores>`.

        Example:
            >>> from nsrlib.studies import StudyResult
            >>> session = open("drcn", sets="embedded", scale=3)  # doctest: +ELLIPSIS
            embedded: ...
            >>> runs = {"a": [30.2, 30.4, 30.3], "b": [30.1, 30.2, 30.3]}
            >>> rows = [{"variant": v, "seed": s, "psnr": x} for v, xs in runs.items() for s, x in enumerate(xs)]
            >>> print(session.exploratory(StudyResult.of_rows("an example", rows), [("a", "b"), ("a", "c")]))
            a - b: +0.10 dB (-0.15 to +0.35), 3 seeds, exploratory
            a - c: no runs of c yet
        """
        pairs = list(pairs)
        scores = study.scores(metric=metric)
        scores = scores[scores["variant"].isin({variant for pair in pairs for variant in pair})]
        there, lines, untrained = set(scores["variant"]), [], claims.untrained(study)
        for a, b in pairs:
            if lost := [variant for variant in (a, b) if variant not in there]:
                lines.append(f"{a} - {b}: no runs of {lost[0]} yet")
                continue
            if below := [variant for variant in (a, b) if variant in untrained]:
                lines.append(f"{a} - {b}: {below[0]} did not train, below its floor by {untrained[below[0]]}")
                continue
            c = contrast(scores, a, b)
            seeds = f"{c.seeds} seed{'s' if c.seeds != 1 else ''}"
            interval = "" if math.isnan(c.low) else f" ({c.low:+.2f} to {c.high:+.2f})"
            found = "the same in all runs" if c.identical else f"{c.difference:+.2f} {unit}{interval}"
            lines.append(f"{a} - {b}: {found}, {seeds}, exploratory")
        return "\n".join(lines)

    @cached_property
    def bicubic(self) -> dict[int, float]:
        """PSNR of bicubic upscaling on Set5 as papers print it, by scale."""
        rows = claims.published(claims.PROTOCOL).query("row == 'bicubic' and column == 'Set5' and metric == 'psnr'")
        return {int(scale): float(value) for scale, value in zip(rows["scale"], rows["value"], strict=True)}

    def sets(self, asked: str = "") -> list[str]:
        """Names of the benchmarks to measure: those asked for, else by the profile; none where they are not at hand.

        ValueError for commas without a name.
        """
        more = [] if self.profile == "quick" else ["b100", "urban100"]
        names = (names_in(asked) if asked else []) or ["set5", "set14", *more]
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
        """Keep the ledger and the judged claims; versions, device, commit, data and weights, one a line."""
        _ = self.judged
        self.ledger.save()
        about = self.ledger.provenance()
        facts = {name: value for name, value in about.items() if not isinstance(value, dict)}
        hashes = {name: one["sha256"][:16] for name, one in (about["data"] | about["weights"]).items()}
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
