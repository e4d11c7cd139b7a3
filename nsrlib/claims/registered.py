"""What the papers claim, registered before it is tested: ``data/published/claims.csv``, one claim a row.

A claim says beforehand what decides it: the ``test``, the ``metric`` and ``sets`` it is measured on, the ``margin`` of
differences that do not matter, the number of ``seeds`` aimed at, and the ``floor`` that every arm must reach. The tests
are written in a small language:

=====================================================  =================================================================
``study decompositions: standard > BSConv-U``          a difference of two variants of a study
``study efficiency: k=2 >= dense``                     no worse: the published difference (0 where the paper gives words
                                                       only) is missed by less than the margin
``study dual: dual on HR = lambda 0.1``                a difference below the margin
``study depth: D=16[psnr] > D=16[psnr_best]``          two metrics of the same runs
``study ablation: BN x* > no BN x*``                   the best of the variants that fit the pattern, by its mean
``trend depth: D=1 < D=6 < D=11 < D=16``               one test of an order, see :func:`nsrlib.statistics.trend`
``cells comparison/BSRN/*/psnr, fig1/BSRN/psnr``       printed numbers, by patterns of ids: all that were measured agree
``check T1, not T1c``                                  theorem checks by their ids; ``not``: the check refutes the claim
=====================================================  =================================================================

A floor is ``bicubic+0.5`` (dB, on each set), ``non-local means``, ``JPEG+0.2`` or ``none``; ``first bicubic+0.5`` asks
it of the better arm alone, where the paper claims that the other one fails to train.
"""

from __future__ import annotations

import csv
import fnmatch
import functools
import io
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsrlib.claims.numbers import numbers_of, published
from nsrlib.files import in_checkout

FILE = "data/published/claims.csv"
COLUMNS = (
    "id", "paper", "where", "statement", "effect", "unit", "test",
    "metric", "sets", "margin", "direction", "seeds", "floor", "source",
)  # fmt: skip
DIRECTIONS = {">": "greater", ">=": "no less", "=": "equal", "<": "greater"}
"""What a sign of a test asks of the difference, as the column ``direction`` says it."""
FLOORS = ("bicubic", "non-local means", "JPEG", "none")
FORMS = (
    "study NAME: A > B (or >=, =)",
    "trend NAME: A < B < C",
    "cells PATTERN, PATTERN",
    "check ID, not ID",
)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a variant of a study, or a pattern of them; ``metric`` empty: the claim's."""

    variant: str
    metric: str = ""

    def __str__(self) -> str:
        return f"{self.variant}[{self.metric}]" if self.metric else self.variant

    def among(self, variants: Iterable[str]) -> list[str]:
        """Those of ``variants`` that this arm may mean."""
        if "*" not in self.variant:
            return [v for v in variants if v == self.variant]
        return [v for v in variants if fnmatch.fnmatchcase(v, self.variant)]


@dataclass(frozen=True)
class Test:
    """What decides a claim.

    Attributes:
        kind: study, trend, cells or check.
        study: its name. arms: for a study the better one first, for a trend the worst first.
        names: patterns of ids of printed numbers, or ids of checks.
        refuting: those of ``names`` whose success speaks against the claim.
        sign: ``>``, ``>=``, ``=`` or, of a trend, ``<``.
    """

    __test__ = False  # what pytest would collect by its name

    kind: str
    study: str = ""
    arms: tuple[Arm, ...] = ()
    names: tuple[str, ...] = ()
    refuting: frozenset[str] = frozenset()
    sign: str = ""

    @property
    def of_training(self) -> bool:
        return self.kind in ("study", "trend")

    @classmethod
    def parsed(cls, text: str) -> Test:
        """Read the language of the module's table.

        Raises:
            ValueError: another language; the message lists what is understood.

        Example:
            >>> Test.parsed("trend depth: D=1 < D=6").arms
            (Arm(variant='D=1', metric=''), Arm(variant='D=6', metric=''))
        """
        kind, _, rest = text.strip().partition(" ")
        if kind in ("cells", "check"):
            names = [name.strip() for name in rest.split(",")]
            bare = [name.removeprefix("not ") if kind == "check" else name for name in names]
            if all(bare):
                refuting = frozenset(b for b, name in zip(bare, names, strict=True) if b != name)
                return cls(kind, names=tuple(bare), refuting=refuting)
        study, colon, sides = rest.partition(":")
        if kind in ("study", "trend") and colon and study.strip():
            signs = re.findall(r" (>=|[<>=]) ", f" {sides.strip()} ")
            arms = [_arm(side) for side in re.split(r" (?:>=|[<>=]) ", sides.strip())]
            wanted = {"<"} if kind == "trend" else {">", ">=", "="}
            if signs and set(signs) <= wanted and all(arms) and (kind == "trend" or len(arms) == 2):
                return cls(kind, study.strip(), tuple(arm for arm in arms if arm), sign=signs[0])
        raise ValueError(f"test {text!r} is not understood; it is one of: {'; '.join(FORMS)}")


def _arm(text: str) -> Arm | None:
    found = re.fullmatch(r"([^\[\]]+?)(?:\[([^\[\]]+)\])?", text.strip())
    return Arm(found[1], found[2] or "") if found else None


@dataclass(frozen=True)
class Floor:
    """The PSNR that an arm must reach: that of ``base`` plus ``above`` dB, on each set.

    Attributes:
        base: one of :data:`FLOORS`.
        first: asked of the better arm alone.
    """

    base: str
    above: float = 0.0
    first: bool = False

    @classmethod
    def parsed(cls, text: str) -> Floor:
        """``[first ]BASE[+dB]``. ValueError for anything else.

        Example:
            >>> Floor.parsed("first bicubic+0.5")
            Floor(base='bicubic', above=0.5, first=True)
        """
        base, plus, above = text.removeprefix("first ").partition("+")
        if base not in FLOORS or (plus and not re.fullmatch(r"\d+(\.\d+)?", above)):
            raise ValueError(f"floor {text!r} is not one of {', '.join(FLOORS)}, with +dB behind and 'first ' in front")
        return cls(base, float(above or 0), text.startswith("first "))


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        id: unique within the paper. where: its place in the paper. statement: ours, one sentence.
        effect: what the paper prints for it, in ``unit``; None: words only.
        metric, sets, margin, direction, seeds, floor: of a claim about training; see the module.
        source: where the effect, or the words, were read.
        row: as it stands in the file.
    """

    id: str
    paper: str
    where: str
    statement: str
    test: Test
    effect: float | None = None
    unit: str = ""
    metric: str = ""
    sets: tuple[str, ...] = ()
    margin: float = 0.0
    direction: str = ""
    seeds: int = 0
    floor: Floor = Floor("none")
    source: str = ""
    row: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parsed(cls, row: Mapping[str, str]) -> Claim:
        """A row of the file, checked.

        Raises:
            ValueError: names the claim, the column, the value and what is accepted.
        """
        if missing := [c for c in COLUMNS if row.get(c) is None]:
            raise ValueError(f"a claim lacks the columns {', '.join(missing)}; the file has {', '.join(COLUMNS)}")
        name = f"claim {row['id']!r} of {row['paper']!r}"
        if empty := [c for c in ("id", "paper", "where", "statement", "test") if not row[c].strip()]:
            raise ValueError(f"{name} has no {empty[0]}")
        try:
            test = Test.parsed(row["test"])
            floor = Floor.parsed(row["floor"]) if test.of_training else Floor("none")
            effect = _number(row, "effect") if row["effect"] else None
            margin = _number(row, "margin") if test.of_training else 0.0
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        common: dict[str, Any] = {c: row[c] for c in ("id", "paper", "where", "statement", "unit", "source")}
        if not test.of_training:
            if given := [c for c in ("metric", "sets", "margin", "direction", "seeds", "floor") if row[c]]:
                raise ValueError(f"{name} is not about training, so {given[0]} must be empty, got {row[given[0]]!r}")
            return cls(**common, test=test, effect=effect, row=dict(row))
        if margin <= 0:
            raise ValueError(f"{name}: margin must be above 0, got {row['margin']!r}")
        if row["direction"] != DIRECTIONS[test.sign]:
            raise ValueError(
                f"{name}: the sign {test.sign} means direction {DIRECTIONS[test.sign]!r}, got {row['direction']!r}"
            )
        if not (row["seeds"].isdecimal() and int(row["seeds"]) >= 1):
            raise ValueError(f"{name}: seeds must be a number of at least 1, got {row['seeds']!r}")
        if not row["metric"]:
            raise ValueError(f"{name} has no metric")
        sets = tuple(s.strip() for s in row["sets"].split(",") if s.strip())
        if not sets and floor.base != "none":
            raise ValueError(f"{name} has a floor and no sets to measure it on")
        common |= {"metric": row["metric"], "direction": row["direction"]}
        return cls(
            **common, test=test, effect=effect, sets=sets, margin=margin, seeds=int(row["seeds"]),
            floor=floor, row=dict(row),
        )  # fmt: skip


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise ValueError(f"{column} must be a number, got {row[column]!r}") from None


def registered(paper: str) -> list[Claim]:
    """The claims of a paper, in its order; none where its package brings no ``data/published/claims.csv``.

    Raises:
        ValueError: no such paper; a damaged row; two claims with one id; a pattern that fits no printed number.

    Example:
        >>> print(registered("bsrn")[0].test.study)
        decompositions
    """
    path = numbers_of(paper).root / FILE
    if not path.is_file():
        return []
    rows = [row for row in _rows(path.read_text(encoding="utf-8")) if row.get("paper") == paper]
    claims = [Claim.parsed(row) for row in rows]
    ids = [claim.id for claim in claims]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"{paper} registers two claims as {twice[0]!r}")
    printed = list(published(paper)["id"])
    for claim in claims:
        for pattern in claim.test.names if claim.test.kind == "cells" else ():
            if not fnmatch.filter(printed, pattern):
                raise ValueError(f"claim {claim.id!r}: no printed number of {paper} fits {pattern!r}")
    return claims


def _rows(text: str) -> list[dict[str, str]]:
    return [dict(row) for row in csv.DictReader(io.StringIO(text))]


def check_names(claims: Iterable[Claim], studies: Mapping[str, Collection[str]]) -> None:
    """See that claims name studies and variants that exist.

    Args:
        studies: name -> its variants.

    Raises:
        ValueError: lists every wrong name, each with those there are.
    """
    wrong = []
    for claim in claims:
        test = claim.test
        if not test.of_training:
            continue
        if test.study not in studies:
            wrong.append(f"claim {claim.id!r}: no study {test.study!r}; there are: {', '.join(studies)}")
            continue
        there = studies[test.study]
        for arm in test.arms:
            if not arm.among(there):
                have = ", ".join(there)
                wrong.append(f"claim {claim.id!r}: study {test.study!r} has no variant {arm.variant!r}; it has: {have}")
    if wrong:
        raise ValueError("\n".join(wrong))


# --- registered before the runs, or after? ----------------------------------------------------------------------------

NO_HISTORY = "history not at hand"
_MAY_CHANGE = ("where", "source")
"""Columns that say where something was read; the others are the claim."""


def when_registered(claim: Claim, commits: Iterable[str], root: Path | None = None) -> tuple[str, str]:
    """Whether a claim stood in the history, as it stands now, before results were made.

    Args:
        commits: of the result's runs. root: the folder with the claims; default: the paper's.

    Returns:
        ``registered``, ``exploratory`` or :data:`NO_HISTORY`, and for the last two the reason.
    """
    root = numbers_of(claim.paper).root if root is None else root
    for commit in dict.fromkeys(commits):
        known = _claims_at(root, str(commit))
        if isinstance(known, tuple):
            return known
        before = known.get((claim.paper, claim.id))
        if before is None:
            return "exploratory", f"registered after the results' commit {commit}"
        for column, value in claim.row.items():
            if column not in _MAY_CHANGE and before.get(column) != value:
                return "exploratory", f"its {column} was changed after the results' commit {commit}"
    return "registered", ""


@functools.cache
def _claims_at(root: Path, commit: str) -> dict[tuple[str, str], dict[str, str]] | tuple[str, str]:
    """The rows of the file at a commit by paper and id, or the answer where there are none."""
    if not in_checkout(root):
        return NO_HISTORY, "the claims lie in no repository"
    if not commit or commit == "unknown":
        return "exploratory", "the results name no commit"
    if commit.endswith("-dirty"):
        return "exploratory", f"the results' commit {commit} had changes that nobody can see"
    state, _ = _git(root, "merge-base", "--is-ancestor", commit, "HEAD")
    if state is None:
        return NO_HISTORY, "git is not at hand"
    if state == 1:
        return "exploratory", f"the results' commit {commit} is not in this history"
    if state:
        if _git(root, "rev-parse", "--is-shallow-repository")[1].strip() == "true":
            return NO_HISTORY, f"a shallow clone lacks the results' commit {commit}"
        return "exploratory", f"the results' commit {commit} does not exist"
    state, text = _git(root, "show", f"{commit}:./{FILE}")
    return {} if state else {(row.get("paper", ""), row.get("id", "")): row for row in _rows(text)}


def _git(root: Path, *command: str) -> tuple[int | None, str]:
    """Exit status (None: no git) and output."""
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout.decode("utf-8", "replace")
