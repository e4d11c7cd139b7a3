"""What may be concluded from a study: differences between variants, their intervals, and seven verdicts.

### What is replicated

A *run* is one training of one variant with one seed. Another seed gives other initial weights and other patches, so
**seeds are what is replicated**. Images are not: one network sees all of them. Nineteen images do not make nineteen
experiments, and each run counts as one number, the mean over its images. The same seed gives every variant the same
patches in the same order, so two variants are compared seed by seed, over the seeds that both have.

### How a difference is judged

A run's score is taken as *variant + seed + rest*, fitted by least squares to all runs of the study. The rest is what
chance does to one run. Its standard deviation, pooled over variants and seeds, gives the 95 % interval of a difference
by Student's t. Each verdict is the first line that applies:

| verdict | when | it tells |
|---|---|---|
| did not train | a variant misses its floor, such as bicubic + 0.5 dB | nothing: they have not learned the task |
| identical | the paired differences are all exactly 0 | nothing: it is the same network twice |
| holds, reversed | there is a difference, after Holm's correction over the paper's claims | it is so, or the opposite |
| equivalent | the 90 % interval lies inside of the margin | no difference that matters is left |
| smaller than published | the 95 % interval ends below the published effect | an effect like the paper's is ruled out |
| undecided | everything else, and fewer than 5 seeds | too little: `seeds_needed` says how many seeds would do |

![Seven differences, each with its interval, the margin, the published effect and its verdict](statistics.svg)

Thick: the 90 % interval. Thin: the 95 % interval. Gray band: the margin. Diamond: the published effect. A claim that
holds can still have a smaller effect than the paper's; the figure shows both. `nsrlib.plots.verdicts` draws it.

### What stands beside

* `Contrast.detectable`: the smallest difference that a study of this size finds in four of five tries.
* `Contrast.probability`: how often a run of A beats the run of B with the same seed. It needs no unit.
* `Contrast.boot_low`, `Contrast.boot_high`: a bootstrap that draws other seeds and other images. It answers another
  question, whether the difference would survive on other images too. With few seeds it is too narrow, and it decides
  nothing.

### What is assumed

The rest is independent from run to run, close to normal, and scatters alike in all pooled variants. The last is the one
to watch: where the two variants compared scatter twice as much as the others, pooling finds differences that are not
there in one of five tries instead of one of twenty. `Contrast.sd_own` beside `Contrast.sd` shows it, and `pool` names
the variants that are alike. One that did not train belongs to no pool.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

COLUMNS = ("variant", "seed", "set", "image", "value")
"""The columns of `scores`: a row a run and test image; a run that has only its mean calls the image "mean"."""
VERDICTS = ("did not train", "identical", "holds", "reversed", "equivalent", "smaller than published", "undecided")
"""In the order in which they are tried."""
DIRECTIONS = ("greater", "less", "equal")
ALPHA = 0.05
MIN_SEEDS = 5
RESAMPLES = 2000
"""Bootstrap samples behind an interval."""
ROUNDING = 1e-12
"""Scatter below this share of the scores is rounding, and counts as none."""


@dataclass(frozen=True)
class Contrast:
    """The difference a - b of two variants, or the trend from b to a, in the unit of the scores.

    A number that the runs cannot give is NaN: an interval from one seed, anything from no common seed.

    Attributes:
        a, b: the variants; of a trend the last and the first.
        difference: mean over the seeds that both have.
        low, high: 95 % interval by Student's t. low90, high90: 90 % interval.
        se, df: standard error of the difference and degrees of freedom of its variance.
        p: two-sided, of "there is no difference".
        seeds: how many seeds both variants have.
        sd: standard deviation of what variant and seed do not explain, of one run, pooled.
        sd_own: the same from the variants of this contrast alone. Where it is much larger than ``sd``, they scatter
            more than the others, and the interval is too narrow.
        detectable: smallest true difference that a two-sided test at 5 % finds with 80 % power.
        identical: the variants have exactly the same scores on every image of every common seed.
        boot_low, boot_high: 95 % percentile interval of a bootstrap over seeds and images.
        probability: that a run of a has a larger score than the run of b with the same seed.
        probability_low, probability_high: its 95 % interval.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    low90: float
    high90: float
    se: float
    df: int
    p: float
    seeds: int
    sd: float
    sd_own: float
    detectable: float
    identical: bool
    boot_low: float
    boot_high: float
    probability: float
    probability_low: float
    probability_high: float

    @property
    def in_words(self) -> str:
        """The probability as a sentence, without a unit; empty where the runs cannot give it."""
        if math.isnan(self.probability):
            return ""
        best, low, high = (round(100 * x) for x in (self.probability, self.probability_low, self.probability_high))
        bounds = "" if math.isnan(self.probability_low) else f" (between {low} and {high})"
        return f"{self.a} beats {self.b} with {best} of 100 seeds{bounds}"


def run_means(scores: pd.DataFrame) -> pd.DataFrame:
    """One number a run: the mean over all images of all sets given, which count alike.

    Args:
        scores: columns variant, seed, set, image, value (:data:`COLUMNS`).

    Returns:
        Columns variant, seed, value; variants in the order of ``scores``, seeds ascending.

    Raises:
        ValueError: a column or every row is missing, a value is not finite, a score stands twice, or a run lacks an
            image that another run has.

    Example:
        >>> rows = [("a", 0, "set5", "baby", 30.0), ("a", 0, "set5", "bird", 32.0)]
        >>> run_means(pd.DataFrame(rows, columns=COLUMNS)).values.tolist()
        [['a', 0, 31.0]]
    """
    runs = _runs(scores)
    v, s = np.nonzero(runs.done)
    names = np.array(runs.variants, dtype=object)[v]
    return pd.DataFrame({"variant": names, "seed": runs.seeds[s], "value": runs.means[v, s]})


def contrast(scores: pd.DataFrame, a: str, b: str, *, pool: Iterable[str] | None = None) -> Contrast:
    """Compare two variants seed by seed.

    Args:
        scores: columns variant, seed, set, image, value (:data:`COLUMNS`); runs of one number of steps.
        pool: variants whose scatter is pooled, ``a`` and ``b`` in any case; None: all. An empty list gives the paired
            t test of the two alone. A variant that is another one twice counts once.

    Raises:
        ValueError: a variant that is not there, ``a`` equal to ``b``, or what :func:`run_means` raises.

    Example:
        >>> values = {"a": [30.1, 30.3, 30.2, 30.4, 30.3], "b": [30.0, 30.1, 30.1, 30.2, 30.2]}
        >>> rows = [(v, s, "set5", "mean", x) for v, xs in values.items() for s, x in enumerate(xs)]
        >>> c = contrast(pd.DataFrame(rows, columns=COLUMNS), "a", "b")
        >>> f"{c.difference:.2f} [{c.low:.2f}, {c.high:.2f}], p = {c.p:.3f}, {c.seeds} seeds"
        '0.14 [0.07, 0.21], p = 0.005, 5 seeds'
        >>> c.in_words
        'a beats b with 99 of 100 seeds (between 74 and 100)'
        >>> verdict(c, effect=0.1, margin=0.05)
        'holds'
    """
    if a == b:
        raise ValueError(f"a variant is not compared with itself: a and b are both {a!r}")
    return _compare(scores, {a: 1.0, b: -1.0}, (a, b), pool)


def trend(scores: pd.DataFrame, order: Sequence[str], *, pool: Iterable[str] | None = None) -> Contrast:
    """One test of an order of variants: does the score rise along it?

    A line is fitted over the ranks 0, 1, 2, ... of the order. Its last point minus its first is the ``difference``,
    which compares with the difference of the last and the first variant, and equals it for an order of two.

    Args:
        order: variants, the one with the lowest score in the claim first.
        pool: as for :func:`contrast`.

    Raises:
        ValueError: fewer than two variants, one of them twice, or what :func:`contrast` raises.
    """
    order = list(order)
    if len(order) < 2 or len(set(order)) < len(order):
        raise ValueError(f"an order needs at least two different variants, got {order}")
    ranks = np.arange(len(order)) - (len(order) - 1) / 2
    weights = ranks * (len(order) - 1) / np.square(ranks).sum()
    return _compare(scores, dict(zip(order, weights.tolist(), strict=True)), (order[-1], order[0]), pool)


def summary(scores: pd.DataFrame, baseline: str | None = None, *, pool: Iterable[str] | None = None) -> pd.DataFrame:
    """Each variant's mean, spread and number of seeds; with ``baseline``, its difference to that variant.

    Returns:
        Variants as index, in the order of ``scores``. Columns mean, sd (over the variant's runs), seeds; with
        ``baseline`` also difference, low, high (95 %), p, detectable, probability of :func:`contrast`, NaN for the
        baseline itself.

    Raises:
        ValueError: as :func:`contrast`.
    """
    if baseline is not None:
        _runs(scores, [baseline])
    groups = run_means(scores).groupby("variant", sort=False)["value"]
    table = pd.DataFrame({"mean": groups.mean(), "sd": groups.std(ddof=1), "seeds": groups.count()})
    if baseline is not None:
        pool = None if pool is None else list(pool)
        pairs = {str(v): contrast(scores, str(v), baseline, pool=pool) for v in table.index if v != baseline}
        for column in ("difference", "low", "high", "p", "detectable", "probability"):
            table[column] = pd.Series({v: getattr(c, column) for v, c in pairs.items()}, dtype=float)
    return table


def holm(p: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """Holm's correction: p-values that stay below 5 % with at most 5 % chance of *one* false finding in the family.

    A claim that cannot be tested yet (NaN) counts as part of the family and stays NaN.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, got {p.tolist()}")
    order = np.argsort(p)  # NaN last
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def detectable(sd: float, seeds: int, df: int, power: float = 0.8) -> float:
    """The smallest true difference that ``seeds`` paired seeds find with this power, two-sided at 5 %.

    Args:
        sd: standard deviation of one run, without the part that the seed explains (:attr:`Contrast.sd`).
        df: degrees of freedom of ``sd``: ``(variants - 1) * (seeds - 1)`` of a complete study.

    Raises:
        ValueError: a negative ``sd``, no seed, no degree of freedom, or a power outside of [0.5, 1).

    Example:
        >>> round(detectable(sd=0.05, seeds=8, df=21), 3)
        0.073
    """
    if not sd >= 0 or seeds < 1 or df < 1:
        raise ValueError(f"sd must be at least 0, seeds and df at least 1; got sd {sd}, seeds {seeds}, df {df}")
    return _noncentrality(df, power) * sd * math.sqrt(2 / seeds)


def seeds_needed(sd: float, effect: float, power: float = 0.8, *, variants: int = 2) -> int:
    """How many seeds find a true difference of ``effect`` with this power, at least 2.

    Args:
        sd: as for :func:`detectable`; from a pilot of few seeds it is itself uncertain, and so is the answer.
        variants: how many variants each seed trains, which all help to know ``sd``.

    Raises:
        ValueError: an effect of 0, a negative ``sd``, fewer than two variants, a power outside of [0.5, 1).

    Example:
        >>> seeds_needed(sd=0.05, effect=0.1)
        7
        >>> seeds_needed(sd=0.05, effect=0.1, variants=4)
        5
    """
    if not (abs(effect) > 0 and math.isfinite(effect)) or variants < 2:
        raise ValueError(f"effect must not be 0 and variants at least 2; got effect {effect}, variants {variants}")

    def enough(n: int) -> bool:
        return detectable(sd, n, (variants - 1) * (n - 1), power) <= abs(effect)

    high = 2
    while not enough(high):
        high *= 2
    low = max(high // 2, 1)  # not enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def verdict(
    contrast: Contrast,
    p_holm: float | None = None,
    *,
    effect: float | None = None,
    margin: float,
    floor_missed: bool = False,
    min_seeds: int = MIN_SEEDS,
    direction: str = "greater",
) -> str:
    """The first of :data:`VERDICTS` that applies to a claim about a and b.

    ``holds`` and ``reversed`` ask whether the difference is 0, with ``p_holm``. Where it may be 0 and the 95 % interval
    ends below the published effect, on the side towards 0, the effect is ``smaller than published``; an interval above
    the published effect is not. ``equivalent`` and ``smaller than published`` are not corrected for the other claims.

    Args:
        p_holm: ``contrast.p`` after :func:`holm` over the paper's claims; None: the claim is alone.
        effect: the published difference; its size counts, the sign is that of ``direction``. None or NaN: the paper
            gives words only.
        margin: differences up to this size do not matter; stated with the claim, before the result is known.
        floor_missed: a variant lies below its floor.
        min_seeds: with fewer common seeds only the first two verdicts and ``undecided`` are given.
        direction: what the claim says of a and b: "greater", "less" or "equal". A claim of equality *holds* where the
            others are ``equivalent``, is *reversed* where there is a difference and the 95 % interval lies outside of
            the margin, and is otherwise ``undecided``.

    Raises:
        ValueError: a margin that is not above 0, an unknown direction, a ``p_holm`` below the uncorrected p.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be a number above 0, not {margin}")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}")
    p = contrast.p if p_holm is None else p_holm
    if p < contrast.p * (1 - 1e-9):
        raise ValueError(f"p_holm {p} is below the uncorrected p {contrast.p}: it belongs to another claim")
    sign = -1 if direction == "less" else 1
    high = contrast.high if sign > 0 else -contrast.low
    equivalent = -margin <= contrast.low90 and contrast.high90 <= margin
    if floor_missed:
        return "did not train"
    if contrast.identical:
        return "identical"
    if contrast.seeds < min_seeds:
        return "undecided"
    if direction == "equal":
        outside = contrast.low > margin or contrast.high < -margin
        return "holds" if equivalent else "reversed" if p <= ALPHA and outside else "undecided"
    if p <= ALPHA:
        return "holds" if sign * contrast.difference > 0 else "reversed"
    if equivalent:
        return "equivalent"
    if effect is not None and high < abs(effect):  # no high is below NaN
        return "smaller than published"
    return "undecided"


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """Scores as an array: variants V, seeds S, images M of all sets, NaN for runs that are not there."""

    variants: list[str]
    seeds: np.ndarray  # (S,)
    sets: np.ndarray  # (M,) the number of the set that an image belongs to
    cube: np.ndarray  # (V, S, M)

    @property
    def means(self) -> np.ndarray:
        return self.cube.mean(2)  # (V, S)

    @property
    def done(self) -> np.ndarray:
        return np.isfinite(self.means)  # (V, S)


def _runs(scores: pd.DataFrame, wanted: Iterable[str] | None = None) -> _Runs:
    """The runs of the variants wanted, in their order, checked; None: all."""
    if missing := [c for c in COLUMNS if c not in scores.columns]:
        raise ValueError(f"scores lack {', '.join(missing)}; they have {', '.join(map(str, scores.columns))}")
    there = scores["variant"].unique().tolist()
    if not there:
        raise ValueError("scores have no rows")
    variants = there if wanted is None else list(dict.fromkeys(wanted))
    if unknown := [v for v in variants if v not in there]:
        raise ValueError(f"no variant {unknown[0]!r}; there are: {', '.join(map(str, there))}")
    used = scores if wanted is None else scores[scores["variant"].isin(variants)]
    value = used["value"].to_numpy(float)

    def place(row: int) -> str:
        v, seed, name, image = (used[c].iloc[row] for c in COLUMNS[:4])
        return " ".join(f"{v!r}, seed {seed}, {name} {image}".split())

    if len(odd := np.flatnonzero(~np.isfinite(value))):
        raise ValueError(f"the score of {place(odd[0])} is {value[odd[0]]}: it must be a finite number")
    v = pd.Index(variants).get_indexer(pd.Index(used["variant"]))
    s, seeds = pd.factorize(used["seed"], sort=True)
    k, sets = pd.factorize(used["set"], sort=True)
    i, names = pd.factorize(used["image"], sort=True)
    images, m = np.unique(k * len(names) + i, return_inverse=True)
    cube = np.full((len(variants), len(seeds), len(images)), np.nan)
    cell = np.ravel_multi_index((v, s, m), cube.shape)
    if len(twice := np.flatnonzero(np.bincount(cell) > 1)):
        row = np.flatnonzero(cell == twice[0])[1]
        raise ValueError(f"{place(row)} has two scores: a run counts once")
    cube.flat[cell] = value
    absent = np.isnan(cube)
    if (partial := absent.any(2) & ~absent.all(2)).any():
        v0, s0 = np.argwhere(partial)[0]
        lost = images[np.flatnonzero(absent[v0, s0])[0]]
        image = f"{sets[lost // len(names)]} {names[lost % len(names)]}"
        raise ValueError(f"{variants[v0]!r}, seed {seeds[s0]} has no score of {image}, which other runs have")
    return _Runs(variants, np.asarray(seeds), images // len(names), cube)


def _compare(
    scores: pd.DataFrame, weights: Mapping[str, float], names: tuple[str, str], pool: Iterable[str] | None
) -> Contrast:
    """The weighted sum of variants, within each seed that all of them have."""
    others = scores["variant"].unique().tolist() if pool is None and "variant" in scores else pool or []
    runs = _runs(scores, [*weights, *others])  # the arms stand first
    given = np.array([weights.get(v, 0.0) for v in runs.variants])
    arms = np.flatnonzero(given)
    common = np.flatnonzero(runs.done[arms].all(0))
    n = len(common)
    per_image = np.tensordot(given[arms], runs.cube[np.ix_(arms, common)], 1)  # (n, M)
    first = _first_alike(runs.cube)
    weight = np.bincount(first, given, len(given))  # of networks that differ
    weight[np.abs(weight) < ROUNDING] = 0
    a, b = names
    if n and not weight.any():
        zero = dict.fromkeys(("difference", "low", "high", "low90", "high90", "se", "boot_low", "boot_high"), 0.0)
        even = dict.fromkeys(("probability", "probability_low", "probability_high"), 0.5)
        return Contrast(
            a, b, **zero, **even, df=0, p=1.0, seeds=n, sd=math.nan, sd_own=0.0, detectable=math.nan, identical=True
        )
    sd, df = _residual(runs.means, first == np.arange(len(first)), weight, common)
    length = math.sqrt(np.square(weight).sum())
    difference = float(per_image.mean()) if n else math.nan
    se = sd * length / math.sqrt(n) if n else math.nan
    half, half90 = (float(special.stdtrit(df, 1 - q / 2)) * se if df else math.nan for q in (ALPHA, 2 * ALPHA))
    t = _ratio(difference, se, ROUNDING * float(np.nanmax(np.abs(runs.cube))))
    boot_low, boot_high = _bootstrap(per_image, runs.sets)
    probability, low, high = _probability(t, n, df)
    return Contrast(
        a, b, difference, difference - half, difference + half, difference - half90, difference + half90, se, df,
        p=2 * float(special.stdtr(df, -abs(t))) if df and not math.isnan(t) else math.nan,
        seeds=n, sd=sd, sd_own=float(per_image.mean(1).std(ddof=1)) / length if n > 1 else math.nan,
        detectable=_noncentrality(df, 0.8) * se if df else math.nan, identical=False,
        boot_low=boot_low, boot_high=boot_high,
        probability=probability, probability_low=low, probability_high=high,
    )  # fmt: skip


def _first_alike(cube: np.ndarray) -> np.ndarray:
    """For each variant the first with exactly its scores in all seeds that both have; mostly itself."""
    first = np.arange(len(cube))
    for v in range(1, len(cube)):
        for u in range(v):
            both = np.isfinite(cube[u, :, 0]) & np.isfinite(cube[v, :, 0])
            if both.any() and np.array_equal(cube[u, both], cube[v, both]):
                first[v] = first[u]
                break
    return first


def _residual(means: np.ndarray, kept: np.ndarray, weight: np.ndarray, common: np.ndarray) -> tuple[float, int]:
    """Standard deviation and degrees of freedom of what *variant + seed* leaves of the run means ``(V, S)``."""
    v, s = np.nonzero(np.isfinite(means) & kept[:, None])
    y = means[v, s]
    # The last column is the comparison itself. It changes nothing in a complete study; where runs are missing it keeps
    # the estimated variance independent of the estimated difference, as Student's t asks.
    design = np.column_stack(
        [np.eye(means.shape[0])[v], np.eye(means.shape[1])[s], weight[v] * np.isin(s, common)],
    )
    fit, _, rank, _ = np.linalg.lstsq(design, y - y.mean())
    df = len(y) - int(rank)
    if df < 1:
        return math.nan, 0
    sd = math.sqrt(np.square(y - y.mean() - design @ fit).sum() / df)
    return (0.0 if sd <= ROUNDING * np.abs(y).max() else sd), df


def _ratio(difference: float, se: float, rounding: float) -> float:
    """t; infinite where nothing scatters and there is a difference."""
    if se == 0:
        return 0.0 if abs(difference) <= rounding else math.copysign(math.inf, difference)
    return difference / se


def _probability(t: float, n: int, df: int) -> tuple[float, float, float]:
    """P(a beats b) of one seed, with its exact 95 % interval where the rest is normal.

    With d ~ N(delta, s^2) that is Phi(delta / s), and ``t`` has a noncentral t distribution of noncentrality
    ``sqrt(n) delta / s``. Counting wins instead (Wilson) gives intervals of half the scale from five seeds.
    """
    if not n or math.isnan(t):
        return math.nan, math.nan, math.nan
    t = min(max(t, -1000.0), 1000.0)  # all the same beyond, and the search would take minutes
    bounds = [float(special.nctdtrinc(df, q, t)) for q in (1 - ALPHA / 2, ALPHA / 2)]
    best, low, high = (float(special.ndtr(x / math.sqrt(n))) for x in (t, *bounds))
    return best, low, high


def _bootstrap(per_image: np.ndarray, sets: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``(n, M)`` differences, seeds and the images of each set drawn anew.

    All seeds of a sample see the same images, as they did in the study. Sets keep their sizes.
    """
    if len(per_image) < 2:
        return math.nan, math.nan
    seeds, images = _draws(len(per_image), tuple(sets.tolist()))
    means = np.einsum("rm,rm->r", seeds @ per_image, images)
    low, high = np.quantile(means, (ALPHA / 2, 1 - ALPHA / 2))
    return float(low), float(high)


@functools.lru_cache(maxsize=16)
def _draws(n: int, sets: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The weight of each seed ``(RESAMPLES, n)`` and image ``(RESAMPLES, M)`` in each sample; the same in every run."""
    rng = np.random.default_rng(0)
    seeds = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    images = np.empty((RESAMPLES, len(sets)))
    for k in set(sets):
        mine = np.array(sets) == k
        images[:, mine] = rng.multinomial(mine.sum(), np.full(mine.sum(), 1 / mine.sum()), RESAMPLES) / len(sets)
    return seeds, images


@functools.cache
def _noncentrality(df: int, power: float) -> float:
    """The noncentrality at which a two-sided t test at 5 % has this power; the far tail has none of it."""
    if not 0.5 <= power < 1:
        raise ValueError(f"power must be at least 0.5 and below 1, not {power}")
    return float(special.nctdtrinc(df, 1 - power, special.stdtrit(df, 1 - ALPHA / 2)))
