"""What became of the registered claims: each with its effect, its interval, a verdict and the reason for it."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import special

from nsrlib import statistics
from nsrlib.claims import floors
from nsrlib.claims.registered import Arm, Claim, registered, when_registered
from nsrlib.statistics import MIN_SEEDS, Contrast

if TYPE_CHECKING:
    from nsrlib.studies import StudyResult

VERDICTS = (*statistics.VERDICTS, "does not hold", "open")
"""All that may become of a claim. ``does not hold``: numbers or theorem checks say so; ``open``: not measured."""
SCATTERS = 1.5
"""How many times the pooled scatter a claim's own arms may scatter before its reason says so."""
TARGET = 0.1
"""Effect in dB that :func:`~nsrlib.statistics.seeds_needed` is asked for where the paper prints none."""
COLUMNS = (
    "id", "where", "statement", "effect", "unit", "kind", "sets", "margin", "direction", "ours", "low", "high", "ratio",
    "p", "p_holm", "seeds", "sd", "sd_own", "detectable", "seeds_needed",
    "probability", "probability_low", "probability_high",
    "by_set", "steps", "verdict", "reason", "registered", "history", "source",
)  # fmt: skip

BUDGET_COLUMNS = ("id", "label", "steps", "seeds", "ours", "low", "high", "effect", "margin", "unit", "reason")
MISSING_COLUMNS = ("id", "label", "unit", "seeds", "detectable", "wanted", "needed", "hours")


def sought(claim: Claim) -> float:
    """The difference that a study should be able to find: a published one, else :data:`TARGET`; of a claim that two are
    alike, its margin."""
    return claim.margin if claim.direction in ("no less", "equal") else abs(claim.effect or TARGET)


def judge_claims(
    paper: str,
    studies: Mapping[str, StudyResult | None],
    *,
    checks: Mapping[str, bool] | None = None,
    cells: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Judge a paper's registered claims by what is at hand, one row a claim, in the paper's order.

    Args:
        studies: name -> results, None where they are not stored; every study that a claim names.
        checks: id of a theorem check -> whether it holds.
        cells: rows of a :class:`~nsrlib.claims.Ledger`: columns id, ours, verdict.

    Returns:
        :data:`COLUMNS`. ``ours``, ``low``, ``high`` (95 %) and ``detectable`` are in ``unit``; ``ratio`` is ours over
        ``effect``; ``sd`` is the pooled scatter of one run, ``sd_own`` that of the claim's own arms. ``by_set`` and
        ``steps`` are dicts of label -> [difference, low, high]: each test set alone, each step of a trend. ``sets`` are
        those measured. ``registered`` says whether the claim stood before its runs (empty: it needs none or has none),
        and ``history`` why not. Numbers that do not exist are NaN.

        Holm's correction is over the registered claims about training, measured or not, so that a claim that holds
        still does when more is measured; those that were registered later are corrected over all claims.

    Raises:
        ValueError: a study that a claim names is not among ``studies``; what :func:`registered` raises.
    """
    claims = registered(paper)
    found = [_Judged(claim, *_evidence(claim, studies)) for claim in claims]
    known = {} if cells is None else {str(r["id"]): r for r in cells.to_dict("records")}
    trained = [one for one in found if one.claim.test.of_training]
    strict = [one for one in trained if one.registered != "exploratory"]
    for family, theirs in ((trained, [o for o in trained if o.registered == "exploratory"]), (strict, strict)):
        adjusted = statistics.holm([one.deciding_p for one in family])
        for one, p in zip(family, adjusted, strict=True):
            if one in theirs:
                one.p_holm = float(p)
    rows = [one.row() if one.claim.test.of_training else _exact_row(one.claim, checks or {}, known) for one in found]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_budget(paper: str, studies: Mapping[str, StudyResult | None]) -> pd.DataFrame:
    """The claims about training at every number of steps that was trained: does an effect grow, or fade?

    Each budget is a training of its own with the whole schedule, no point of a longer one. Nothing is concluded from
    the shorter ones.

    Args:
        studies: as for :func:`judge_claims`.

    Returns:
        A row for each claim and budget with runs of its arms in common: id, label (``A - B``), steps, seeds, ours, low,
        high (95 %), effect (published, NaN: words only), margin, unit, reason. Where an arm misses its floor, ``ours``,
        ``low`` and ``high`` are NaN and ``reason`` says so.
    """
    rows = []
    for claim in registered(paper):
        result = studies.get(claim.test.study) if claim.test.of_training else None
        if result is None:
            continue
        for steps in result.budgets:
            one = _Judged(claim, *_evidence(claim, {claim.test.study: result.at(steps)}))
            if one.contrast is None or not one.contrast.seeds:
                continue
            found = [math.nan] * 3 if one.floor_missed else _three(one.contrast)
            rows.append(
                {"id": claim.id, "label": f"{one.contrast.a} - {one.contrast.b}", "steps": steps}
                | {"seeds": one.contrast.seeds, **dict(zip(("ours", "low", "high"), found, strict=True))}
                | {"effect": math.nan if claim.effect is None else claim.effect, "margin": claim.margin}
                | {"unit": claim.unit, "reason": one.reason if one.floor_missed else ""}
            )
    return pd.DataFrame(rows, columns=list(BUDGET_COLUMNS))


def seeds_missing(paper: str, table: pd.DataFrame, studies: Mapping[str, StudyResult | None]) -> pd.DataFrame:
    """What the claims about training still take: the seeds that would find an effect worth finding, and their hours.

    Args:
        table: of :func:`judge_claims`. studies: those that it was made from.

    Returns:
        A row for each claim whose scatter is known: id, label, unit, seeds, detectable (what they would have found),
        wanted (the published effect, :data:`TARGET` where there is none, the margin of a claim of equality), needed
        (seeds for that, see :func:`~nsrlib.statistics.seeds_needed`), hours (of one process, for the seeds that are
        missing, all variants of the study).
    """
    judged: dict[str, Any] = {str(row["id"]): row for row in table.to_dict("records")}
    rows = []
    for claim in registered(paper):
        result = studies.get(claim.test.study) if claim.test.of_training else None
        row = judged[claim.id]
        if result is None or _missing(row["seeds_needed"]):
            continue
        runs = result.table
        hours = runs.groupby("variant")["seconds"].mean().sum() / 3600 if "seconds" in runs else math.nan
        missing = max(0, int(row["seeds_needed"] - row["seeds"]))
        arms = [str(arm) for arm in claim.test.arms]
        label = f"{arms[-1]} - {arms[0]}" if claim.test.kind == "trend" else f"{arms[0]} - {arms[1]}"
        rows.append(
            {"id": claim.id, "label": label, "unit": claim.unit}
            | {"seeds": int(row["seeds"]), "detectable": row["detectable"], "wanted": sought(claim)}
            | {"needed": int(row["seeds_needed"]), "hours": missing * hours}
        )
    return pd.DataFrame(rows, columns=list(MISSING_COLUMNS))


def line(row: Mapping[Any, Any]) -> str:
    """A row of :func:`judge_claims` as a sentence, with the same digits on every machine.

    Example:
        >>> row = dict(statement="A is better than B.", verdict="holds", ours=0.213, low=0.12, high=0.3, unit="dB")
        >>> row |= dict(kind="study", sets="set5,set14", seeds=8, effect=float("nan"), registered="registered")
        >>> print(line(row))
        A is better than B: holds, +0.21 dB (+0.12 to +0.30) on Set5 and Set14, 8 seeds; published: words only
    """
    head = f"{str(row['statement']).rstrip('.')}: {row['verdict']}"
    if row["kind"] not in ("study", "trend") or _missing(row["ours"]) or row["verdict"] == "identical":
        return f"{head} ({row['reason']})"
    unit = f" {row['unit']}" if row["unit"] not in ("", "1") else ""
    sets = [floors.title(name) for name in str(row["sets"]).split(",") if name]
    where = f" on {', '.join(sets[:-1])}{' and ' if sets[:-1] else ''}{sets[-1]}" if sets else ""
    seeds = int(row["seeds"])
    found = [f"{head}, {_signed(row['ours'])}{unit}"]
    if not _missing(row["low"]):
        found.append(f" ({_signed(row['low'])} to {_signed(row['high'])})")
    found.append(f"{where}, {seeds} seed{'s' if seeds != 1 else ''}")
    if row["verdict"] == "undecided" and seeds < MIN_SEEDS:
        found.append(f" of at least {MIN_SEEDS}")
    elif row["verdict"] == "undecided":
        found.append(f"; this study would have found {row['detectable']:.2f}{unit}")
    elif row["verdict"] == "equivalent":
        found.append(f"; up to {row['margin']:g}{unit} do not matter")
    found.append("; published: " + ("words only" if _missing(row["effect"]) else f"{row['effect']:+g}{unit}"))
    decided = row["verdict"] != "undecided"
    return "".join(found) + (" (exploratory)" if decided and row["registered"] == "exploratory" else "")


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # adding 0 makes -0.00 into +0.00


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The judged claims for a page: a claim a row, in words and short numbers; not measured is empty."""

    def number(value: Any, form: str) -> str:
        return "" if _missing(value) else format(value, form)

    def shown(row: Mapping[Any, Any]) -> dict[str, str]:
        trained = row["kind"] in ("study", "trend")
        ours = number(row["ours"], ".3g") if not trained or _missing(row["ours"]) else _signed(row["ours"])
        interval = "" if _missing(row["low"]) else f" ({_signed(row['low'])} to {_signed(row['high'])})"
        unit = f" {row['unit']}" if row["unit"] not in ("", "1") else ""
        words = "words only" if trained else ""
        return {
            "where": row["where"],
            "claim": row["statement"],
            "published": words if _missing(row["effect"]) else f"{row['effect']:{'+g' if trained else 'g'}}{unit}",
            "ours": f"{ours}{unit}{interval}" if ours else "",
            "ratio": number(row["ratio"], ".2f"),
            "seeds": number(row["seeds"], ".0f"),
            "detectable": f"{number(row['detectable'], '.2f')}{unit}" if not _missing(row["detectable"]) else "",
            "verdict": row["verdict"],
            "registered": row["registered"],
            "reason": "; ".join(text for text in (row["reason"], row["history"]) if text),
        }

    rows = [shown(row) for row in table.to_dict("records")]
    return pd.DataFrame(rows, index=pd.Index(table["id"], name="id"))


# --- claims that need no training -------------------------------------------------------------------------------------


def _exact_row(claim: Claim, checks: Mapping[str, bool], cells: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any]:
    row = _empty_row(claim)
    names, missing = claim.test.names, []
    if claim.test.kind == "check":
        missing = [name for name in names if name not in checks]
        right = [name for name in names if checks.get(name) == (name not in claim.test.refuting)]
        total, what = len(names), "check"
    else:
        ids = [key for name in names for key in fnmatch.filter(cells, name)]
        there = [key for key in dict.fromkeys(ids) if not _missing(cells[key].get("ours"))]
        right = [key for key in there if not str(cells[key]["verdict"]).startswith("differs")]
        total, what = len(there), "number"
        if len(there) == 1 and claim.effect is not None:
            row["ours"] = float(cells[there[0]]["ours"])
            row["ratio"] = _ratio(row["ours"], claim.effect)
    if missing or not total:
        lost = f"not run: {', '.join(missing)}" if missing else "none of its numbers was measured"
        return row | {"verdict": "open", "reason": lost}
    against = [name for name in (names if what == "check" else there) if name not in right]
    if against and total == 1:
        reason = f"its {what} {against[0]} says otherwise"
    elif against:
        reason = f"{len(right)} of {total} {what}s agree; not {', '.join(against[:3])}{', ...' if against[3:] else ''}"
    else:
        reason = f"{total} {what}{'s agree' if total > 1 else ' agrees'}"
    return row | {"verdict": "does not hold" if against else "holds", "reason": reason}


def _empty_row(claim: Claim) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
    row |= {name: getattr(claim, name) for name in ("id", "where", "statement", "unit", "direction", "source")}
    row |= {"effect": math.nan if claim.effect is None else claim.effect, "kind": claim.test.kind, "registered": ""}
    row |= {"sets": "", "margin": claim.margin or math.nan, "by_set": {}, "steps": {}, "reason": "", "history": ""}
    return row


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _ratio(ours: float, effect: float | None) -> float:
    return ours / effect if effect else math.nan


# --- claims about training --------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class _Judged:
    """A claim and what its study says; ``p_holm`` comes last, when the whole family is known."""

    claim: Claim
    contrast: Contrast | None = None
    reason: str = ""
    floor_missed: bool = False
    decides: bool = True
    registered: str = ""
    history: str = ""
    sets: Sequence[str] = ()
    pooled: int = 2
    by_set: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    steps: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    p_holm: float = math.nan

    @property
    def p(self) -> float:
        """Two-sided, of what the claim is tested for; NaN where there is nothing to test."""
        return math.nan if self.contrast is None or self.floor_missed else self._tested(self.contrast).p

    @property
    def deciding_p(self) -> float:
        """What Holm corrects: NaN too where too little was measured for a verdict."""
        enough = self.contrast is not None and self.contrast.seeds >= MIN_SEEDS and self.decides
        return self.p if enough else math.nan

    def _tested(self, c: Contrast) -> Contrast:
        """The contrast as its claim is tested: ``no less`` asks whether the difference passes a bound, not 0."""
        if self.claim.direction != "no less" or not c.df or c.identical:
            return c
        bound = (self.claim.effect or 0.0) - self.claim.margin
        t = (c.difference - bound) / c.se if c.se else math.copysign(math.inf, c.difference - bound)
        moved = {n: getattr(c, n) - bound for n in ("difference", "low", "high", "low90", "high90")}
        return dataclasses.replace(c, p=2 * float(special.stdtr(c.df, -abs(t))), **moved)

    def row(self) -> dict[str, Any]:
        row, c, claim = _empty_row(self.claim), self.contrast, self.claim
        row |= {"registered": self.registered, "history": self.history, "reason": self.reason}
        row["sets"] = ",".join(self.sets)
        if c is None:
            return row | {"verdict": "open"}
        row["seeds"] = c.seeds
        row["verdict"] = self._verdict(c)
        if row["verdict"] == "did not train":
            return row
        if row["verdict"] == "identical":
            row["reason"] = "all runs of both give the same numbers"
        row |= {"ours": c.difference, "low": c.low, "high": c.high, "ratio": _ratio(c.difference, claim.effect)}
        row |= {"p": self.p, "p_holm": self.p_holm, "detectable": c.detectable}
        row |= {n: getattr(c, n) for n in ("sd", "sd_own", "probability", "probability_low", "probability_high")}
        if c.se > 0 and c.seeds:
            one_run = c.se * math.sqrt(c.seeds / 2)  # as if it were a difference of two, also of a trend
            row["seeds_needed"] = statistics.seeds_needed(one_run, sought(claim), variants=max(2, self.pooled))
        return row | {"by_set": self.by_set, "steps": self.steps}

    def _verdict(self, c: Contrast) -> str:
        claim, p = self.claim, None if math.isnan(self.p_holm) else self.p_holm
        enough = MIN_SEEDS if self.decides else math.inf
        rules: dict[str, Any] = {"floor_missed": self.floor_missed, "min_seeds": enough}
        if claim.direction != "no less":
            return statistics.verdict(
                c, p, effect=claim.effect, margin=claim.margin, direction=claim.direction, **rules
            )
        found = statistics.verdict(self._tested(c), p, margin=claim.margin, **rules)
        return "undecided" if found == "equivalent" else found  # as far from the bound as makes no difference


def _evidence(claim: Claim, studies: Mapping[str, StudyResult | None]) -> tuple[Any, ...]:
    """The fields of :class:`_Judged` after ``claim``."""
    test = claim.test
    if not test.of_training:
        return ()
    if test.study not in studies:
        raise ValueError(f"claim {claim.id!r}: no study {test.study!r} was given; there are: {', '.join(studies)}")
    result = studies[test.study]
    if result is None:
        return None, "no stored study"
    there = result.variants
    if lost := [arm.variant for arm in test.arms if not arm.among(there)]:
        return None, f"no runs of {lost[0]} yet"
    sets = [name for name in claim.sets if name in set(result.rows["set"])]
    absent = [floors.title(name) for name in claim.sets if name not in sets]
    if claim.sets and not sets:
        return None, f"not measured on {' and '.join(absent)}"
    compared = _Compared(claim, result, sets)
    runs = result.rows[result.rows["variant"].isin([v for arm in test.arms for v in arm.among(there)])]
    when, why = when_registered(claim, [str(commit) for commit in runs["commit"]])
    missed, unknown = compared.floors()
    contrast = compared.contrast(sets)
    reasons = [missed] if missed else [unknown, f"not measured on {' and '.join(absent)}" if absent else ""]
    if not missed and contrast.seeds < claim.seeds:
        few = contrast.seeds < MIN_SEEDS
        seeds = f"{contrast.seeds} seed{'s' if contrast.seeds != 1 else ''}"
        reasons.append(f"only {seeds}" if few else f"{seeds} of {claim.seeds} so far")
    if not missed and contrast.sd_own > SCATTERS * contrast.sd:
        times = contrast.sd_own / contrast.sd if contrast.sd else math.inf
        reasons.append(f"its arms scatter {times:.1f} times as much as the study, so the interval is too narrow")
    by_set = {floors.title(name): _three(compared.contrast([name])) for name in sets if len(sets) > 1}
    steps = {} if test.kind == "study" else dict(compared.steps(sets))
    decides = not absent and not unknown
    text = "; ".join(reason for reason in reasons if reason)
    return contrast, text, bool(missed), decides, when, why, sets, compared.pooled, by_set, steps


def _three(c: Contrast) -> list[float]:
    return [c.difference, c.low, c.high]


class _Compared:
    """The arms of a claim within a study's scores."""

    def __init__(self, claim: Claim, result: StudyResult, sets: Sequence[str]) -> None:
        self.claim, self.result = claim, result
        self.arms = [self._best(arm, sets) for arm in claim.test.arms]
        metrics = {arm.metric or claim.metric for arm in self.arms}
        self.inside = len(metrics) > 1 or metrics != {claim.metric}
        self.names = [str(arm) if self.inside else arm.variant for arm in self.arms]
        self.levels = self._scores("psnr").groupby(["variant", "set"])["value"].mean()
        self.pool = self._pooled()

    def _best(self, arm: Arm, sets: Sequence[str]) -> Arm:
        """The variant that an arm's pattern means: of those with most seeds the one with the highest mean."""
        there = arm.among(self.result.variants)
        if len(there) == 1:
            return dataclasses.replace(arm, variant=there[0])
        scores = self._scores(arm.metric or self.claim.metric, sets)
        means = statistics.run_means(scores[scores["variant"].isin(there)])
        best = means.groupby("variant")["value"].agg(["count", "mean"])
        return dataclasses.replace(arm, variant=str(best.sort_values(["count", "mean"]).index[-1]))

    def _scores(self, metric: str, sets: Sequence[str] = ()) -> pd.DataFrame:
        scores = self.result.scores(sets=None, metric=metric)
        return scores[scores["set"].isin([*sets, ""])] if sets else scores

    def scores(self, sets: Sequence[str]) -> pd.DataFrame:
        """Of all variants; for a comparison within runs one number a run and arm."""
        if not self.inside:
            return self._scores(self.claim.metric, sets)
        parts = []
        for arm, name in zip(self.arms, self.names, strict=True):
            scores = self._scores(arm.metric or self.claim.metric, sets)
            means = statistics.run_means(scores[scores["variant"] == arm.variant])
            parts.append(means.assign(variant=name, set="", image=""))
        return pd.concat(parts, ignore_index=True)

    def contrast(self, sets: Sequence[str]) -> Contrast:
        scores = self.scores(sets)
        if self.claim.test.kind == "trend":
            return statistics.trend(scores, self.names, pool=self.pool)
        return statistics.contrast(scores, self.names[0], self.names[1], pool=self.pool)

    def steps(self, sets: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
        scores = self.scores(sets)
        for below, above in zip(self.names, self.names[1:], strict=False):
            yield f"{above} > {below}", _three(statistics.contrast(scores, above, below, pool=self.pool))

    def _pooled(self) -> list[str]:
        """The variants whose scatter is pooled with the arms': all that reach the floor, if it is asked of all."""
        floor = self.claim.floor
        if self.inside or floor.first or floor.base == "none":
            return []
        variants = dict.fromkeys(self._scores(self.claim.metric, self.claim.sets)["variant"])
        return [v for v in variants if self._short(v) == []]

    @property
    def pooled(self) -> int:
        return len({*self.pool, *self.names})

    def floors(self) -> tuple[str, str]:
        """In words, the arms that miss their floor, and a floor that is not known; mostly both empty."""
        floor = self.claim.floor
        if floor.base == "none":
            return "", ""
        better = self.arms[-1] if self.claim.test.kind == "trend" else self.arms[0]
        arms = dict.fromkeys(arm.variant for arm in ([better] if floor.first else self.arms))
        short = {variant: self._short(variant) for variant in arms}
        if None in short.values():
            return "", f"the floor {floor.base} is not known without the test images"
        words = []
        for variant, sets in short.items():
            below = " and ".join(f"{db:.1f} dB on {name}" for name, db in sets or ())
            words += [f"{variant} is below its floor by {below}"] if below else []
        return "; ".join(words), ""

    def _short(self, variant: str) -> list[tuple[str, float]] | None:
        """The sets on which a variant's mean misses the floor, and by how many dB; None where no floor is known."""
        floor, missed = self.claim.floor, []
        for name in self.claim.sets:
            if (variant, name) not in self.levels:
                continue
            base = floors.psnr_of(floor.base, name, self.result.settings[variant])
            if base is None:
                return None
            below = base + floor.above - float(self.levels[variant, name])
            if below > 0:
                missed.append((floors.title(name), below))
        return missed
