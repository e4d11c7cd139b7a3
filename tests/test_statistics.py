"""Contrasts, trends and verdicts, against worked examples, SciPy and statsmodels; what they do with odd studies."""

from __future__ import annotations

import itertools
import math
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, stats

from nsrlib.statistics import (
    COLUMNS,
    VERDICTS,
    Contrast,
    contrast,
    detectable,
    holm,
    run_means,
    seeds_needed,
    summary,
    trend,
    verdict,
)

NAN = math.nan


def means(**values: list[float]) -> pd.DataFrame:
    """Scores of runs of which only the mean is known; None: not trained."""
    rows = [(v, s, "set5", "mean", x) for v, xs in values.items() for s, x in enumerate(xs) if x is not None]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def per_image(cube: np.ndarray, variants: str = "abcdefgh") -> pd.DataFrame:
    """Scores ``(variants, seeds, images)``; the first five images are Set5's."""
    rows = [
        (variants[v], s, "set5" if i < 5 else "set14", f"image {i}", cube[v, s, i])
        for v, s, i in np.ndindex(cube.shape)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def drawn(variants: int, seeds: int, images: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 30 + rng.normal(size=(variants, 1, 1)) + rng.normal(size=(1, seeds, 1)) + rng.normal(
        size=(variants, seeds, images)
    )  # fmt: skip


# Yields of penicillin by four processes (treatments) in five blends (blocks). Box, Hunter and Hunter, "Statistics for
# Experimenters" (1978), Sec. 7.1: residual sum of squares 226 with 12 degrees of freedom.
PENICILLIN = means(
    A=[89.0, 84, 81, 87, 79], B=[88.0, 77, 87, 92, 81], C=[97.0, 92, 87, 89, 80], D=[94.0, 79, 85, 84, 88]
)


# --- contrasts --------------------------------------------------------------------------------------------------------


def test_a_published_table_of_blocks_and_treatments_has_its_residual_variance():
    c = contrast(PENICILLIN, "C", "A")
    assert (c.difference, c.df, c.seeds) == (pytest.approx(5.0), 12, 5)
    assert c.sd**2 == pytest.approx(226 / 12)
    assert c.se == pytest.approx(math.sqrt(2 / 5 * 226 / 12))
    half = 2.178813 * c.se  # of a table of Student's t, 12 degrees of freedom
    assert (c.low, c.high) == (pytest.approx(5 - half, abs=1e-5), pytest.approx(5 + half, abs=1e-5))
    half = 1.782288 * c.se
    assert (c.low90, c.high90) == (pytest.approx(5 - half, abs=1e-5), pytest.approx(5 + half, abs=1e-5))


pairs = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=8)


@given(pairs)
def test_two_variants_alone_are_the_paired_t_test(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    assume(np.subtract(a, b).std() > 1e-6)
    c, theirs = contrast(means(a=a, b=b, c=[0.0] * len(a)), "a", "b", pool=[]), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (c.low, c.high) == (pytest.approx(interval.low, abs=1e-6), pytest.approx(interval.high, abs=1e-6))
    assert c.p == pytest.approx(theirs.pvalue, abs=1e-6)
    assert c.df == theirs.df
    assert c.sd == pytest.approx(c.sd_own)
    other = contrast(means(a=a, b=b), "b", "a")
    assert (other.low, other.p) == (pytest.approx(-c.high, abs=1e-9), pytest.approx(c.p, abs=1e-9))
    assert other.probability == pytest.approx(1 - c.probability, abs=1e-9)


def test_pooled_scatter_is_what_double_centring_leaves():
    y = drawn(5, 6)[:, :, 0]
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    c = contrast(per_image(y[..., None]), "b", "d")
    assert (c.df, c.sd) == (20, pytest.approx(math.sqrt((rest**2).sum() / 20)))
    some = contrast(per_image(y[..., None]), "b", "d", pool=["a"])
    y = y[[0, 1, 3]]
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    assert (some.df, some.sd) == (10, pytest.approx(math.sqrt((rest**2).sum() / 10)))
    assert some.difference == c.difference
    assert some.sd_own == pytest.approx((y[1] - y[2]).std(ddof=1) / math.sqrt(2))


@pytest.mark.slow
def test_an_incomplete_study_is_fitted_as_statsmodels_fits_it():
    pytest.importorskip("statsmodels", reason="no statsmodels: pip install -e '.[test]'")
    from statsmodels.formula.api import ols

    scores = per_image(drawn(4, 6))
    lost = scores["variant"].isin(["c", "d"]) & scores["seed"].isin([1, 4]) & (scores["variant"] + "1" != "c4")
    scores = scores[~lost].drop(scores[(scores["variant"] == "d") & (scores["seed"] == 0)].index)
    fit = ols("value ~ C(variant) + C(seed)", run_means(scores)).fit()
    row = np.array([float(name == "C(variant)[T.b]") for name in fit.params.index])
    theirs = fit.t_test(-row)
    c = contrast(scores, "a", "b")
    assert c.df == fit.df_resid
    assert c.sd**2 == pytest.approx(fit.mse_resid)
    assert (c.difference, c.se, c.p) == tuple(pytest.approx(float(np.ravel(x)[0])) for x in
                                              (theirs.effect, theirs.sd, theirs.pvalue))  # fmt: skip
    for alpha, ours in ((0.05, (c.low, c.high)), (0.1, (c.low90, c.high90))):
        assert ours == pytest.approx(tuple(theirs.conf_int(alpha)[0]))


def test_only_seeds_that_both_have_are_compared():
    c = contrast(means(a=[30.0, 32.0, 33.1, 99.0, None], b=[29.0, 31.0, 32.4, None, 5.0]), "a", "b")
    assert (c.seeds, c.df) == (3, 2)
    assert c.difference == pytest.approx(0.9)
    assert c.sd == pytest.approx(np.std([1, 1, 0.7], ddof=1) / math.sqrt(2))


def test_runs_of_other_variants_help_where_a_pair_is_incomplete():
    """The residuals of an independent fit, in which the pair has a coefficient of its own."""
    y = drawn(3, 5)[:, :, 0]
    y[0, 4] = y[1, 3] = np.nan
    v, s = np.nonzero(np.isfinite(y))
    pair = np.where(s < 3, (v == 0).astype(float) - (v == 1), 0)
    x = np.column_stack([v == 1, v == 2, *(s == k for k in range(5)), pair]).astype(float)
    rest = y[v, s] - x @ np.linalg.pinv(x) @ y[v, s]
    df = len(v) - np.linalg.matrix_rank(x)
    scores = per_image(y[..., None]).dropna()
    c = contrast(scores, "a", "b")
    assert (c.seeds, c.df) == (3, df) == (3, 5)
    assert c.sd == pytest.approx(math.sqrt((rest**2).sum() / df))
    assert c.difference == pytest.approx((y[0] - y[1])[:3].mean())


def test_images_are_no_runs():
    cube = drawn(3, 5, 19)
    every, mean = (contrast(per_image(x), "a", "c") for x in (cube, cube.mean(2, keepdims=True)))
    twice = contrast(per_image(np.concatenate([cube, cube], 2)), "a", "c")
    for field in ("difference", "low", "high", "p", "df", "seeds", "sd", "probability_low"):
        assert getattr(every, field) == pytest.approx(getattr(mean, field))
        assert getattr(twice, field) == pytest.approx(getattr(mean, field))


def test_all_images_of_all_sets_count_alike():
    rows = [("a", 7, "set5", str(i), 30.0) for i in range(5)] + [("a", 7, "set14", str(i), 26.0) for i in range(15)]
    assert run_means(pd.DataFrame(rows, columns=list(COLUMNS))).to_dict("records") == [
        {"variant": "a", "seed": 7, "value": 27.0}
    ]


def test_the_order_of_the_rows_and_the_level_of_variants_and_seeds_change_nothing():
    cube = drawn(4, 5, 6)
    plain = contrast(per_image(cube), "b", "c")
    assert contrast(per_image(cube).sample(frac=1, random_state=0), "b", "c") == replace(
        plain, **{f: pytest.approx(getattr(plain, f)) for f in plain.__dataclass_fields__ if f not in "ab"}
    )
    moved = cube + np.arange(4)[:, None, None] + np.array([0, 9, -3, 5, 1])[None, :, None]
    c = contrast(per_image(moved), "b", "c")
    assert (c.difference, c.sd, c.df) == (pytest.approx(plain.difference - 1), pytest.approx(plain.sd), plain.df)
    assert c.boot_low == pytest.approx(plain.boot_low - 1)


def test_a_variant_that_exploded_can_be_left_out_of_the_pool():
    y = drawn(3, 5)
    calm = contrast(per_image(y), "a", "b")
    y[2] *= [[1], [50], [1], [9], [-30]]
    assert contrast(per_image(y), "a", "b").sd > 50 * calm.sd
    assert contrast(per_image(y), "a", "b", pool=["a", "b"]) == contrast(per_image(y[:2]), "a", "b")


# --- odd studies ------------------------------------------------------------------------------------------------------


def test_one_seed_gives_a_difference_and_nothing_else():
    c = contrast(means(a=[30.5], b=[30.0], c=[31.0]), "a", "b")
    assert (c.difference, c.seeds, c.df, c.identical) == (0.5, 1, 0, False)
    assert np.isnan([c.low, c.high, c.low90, c.se, c.p, c.sd, c.detectable, c.boot_low, c.probability]).all()
    assert c.in_words == ""
    assert verdict(c, margin=0.1, min_seeds=1) == "undecided"


def test_two_seeds_give_a_wide_interval():
    c = contrast(means(a=[30.5, 30.7], b=[30.0, 30.0]), "a", "b")
    assert (c.low, c.high) == (
        pytest.approx(0.6 - 12.7062 * 0.1, abs=1e-4),
        pytest.approx(0.6 + 12.7062 * 0.1, abs=1e-4),
    )
    assert c.probability_low < 0.7 < c.probability


def test_one_common_seed_is_judged_by_the_scatter_of_the_study():
    c = contrast(means(a=[30.5, None, None], b=[30.0, 30.1, 30.2], c=[29.0, 29.3, 29.1], d=[28, 28.1, 28.3]), "a", "b")
    assert (c.seeds, c.df) == (1, 3)
    assert c.low < 0.5 < c.high
    assert math.isnan(c.boot_low)


def test_no_common_seed_is_undecided():
    c = contrast(means(a=[30.5, None], b=[None, 30.0]), "a", "b")
    assert (c.seeds, c.identical) == (0, False)
    assert np.isnan([c.difference, c.low, c.p, c.probability, c.boot_high, c.detectable]).all()
    assert verdict(c, margin=0.1) == "undecided"


def test_a_difference_that_never_varies_is_certain():
    c = contrast(means(a=[30.3, 30.4, 30.8], b=[30.2, 30.3, 30.7]), "a", "b")
    assert (c.sd, c.se, c.p, c.detectable) == (0, 0, 0, 0)
    assert c.low == c.high == c.difference == pytest.approx(0.1)
    assert c.probability == pytest.approx(1)
    assert verdict(c, margin=0.05, min_seeds=3) == "holds"
    rounding = contrast(means(a=[30.2 + 4e-15] * 3, b=[30.2] * 3), "a", "b")
    assert (rounding.p, rounding.identical) == (1, False)
    assert verdict(rounding, margin=0.05, min_seeds=3) == "equivalent"


def test_identical_networks_are_told():
    cube = drawn(3, 5, 4)
    cube[1] = cube[0]
    c = contrast(per_image(cube), "a", "b")
    assert c.identical
    assert (c.difference, c.low, c.high, c.p, c.seeds, c.probability) == (0, 0, 0, 1, 5, 0.5)
    assert verdict(c, margin=0.1) == verdict(c, margin=0.1, direction="equal") == "identical"
    cube[1, 2, 0] += 1
    cube[1, 2, 1] -= 1  # the means are still the same
    assert not contrast(per_image(cube), "a", "b").identical
    assert contrast(means(a=[1.0, 2.0], b=[1.0, 2.0]), "a", "b").identical


def test_the_same_network_twice_counts_once():
    cube = drawn(3, 5, 2)
    once = contrast(per_image(cube), "a", "b")
    double = contrast(per_image(cube[[0, 1, 2, 2, 0]]), "a", "b")
    assert (double.sd, double.df) == (pytest.approx(once.sd), once.df)
    cube[2] = cube[1]
    line, pair = trend(per_image(cube), ["a", "b", "c"]), contrast(per_image(cube[:2]), "b", "a")
    assert line.difference == pytest.approx(pair.difference)
    assert (line.df, line.low) == (pair.df, pytest.approx(pair.low))


BAD = {
    "unknown variant": (lambda s: contrast(s, "a", "z"), "no variant 'z'; there are: a, b, c"),
    "unknown in the pool": (lambda s: contrast(s, "a", "b", pool=["y"]), "no variant 'y'; there are: a, b, c"),
    "unknown baseline": (lambda s: summary(s, "z"), "no variant 'z'; there are: a, b, c"),
    "itself": (lambda s: contrast(s, "a", "a"), "a and b are both 'a'"),
    "order of one": (lambda s: trend(s, ["a"]), "at least two different variants, got ['a']"),
    "order with one twice": (lambda s: trend(s, ["a", "b", "a"]), "at least two different variants"),
    "no value": (lambda s: contrast(s.drop(columns="value"), "a", "b"), "scores lack value; they have variant, seed"),
    "no variants": (lambda s: contrast(s.drop(columns="variant"), "a", "b"), "scores lack variant"),
    "no rows": (lambda s: run_means(s.iloc[:0]), "scores have no rows"),
    "nan": (lambda s: contrast(s.assign(value=s["value"].where(s.index != 7)), "a", "b"),
            "the score of 'b', seed 1, set5 image 1 is nan: it must be a finite number"),
    "inf": (lambda s: run_means(s.replace({"value": {s["value"][2]: math.inf}})),
            "the score of 'a', seed 1, set5 image 0 is inf"),
    "twice": (lambda s: contrast(pd.concat([s, s.iloc[[3]]], ignore_index=True), "a", "b"),
              "'a', seed 1, set5 image 1 has two scores"),
    "an image is missing": (lambda s: contrast(s.drop(index=6), "a", "b"),
                            "'b', seed 1 has no score of set5 image 0, which other runs have"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_judged_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call(per_image(drawn(3, 2, 2)))


def test_variants_that_are_not_asked_for_may_be_broken():
    scores = means(a=[30.0, 31, 30.5], b=[29.0, 30, 29.7], c=[NAN, 1.0, 2.0])
    assert contrast(scores, "a", "b", pool=["a", "b"]).seeds == 3
    with pytest.raises(ValueError, match="score of 'c', seed 0"):
        contrast(scores, "a", "b")


# --- trends -----------------------------------------------------------------------------------------------------------


def test_a_trend_is_the_fitted_line_from_first_to_last():
    y = drawn(4, 6)[:, :, 0]
    t = trend(per_image(y[..., None]), ["c", "a", "d", "b"])
    lines = [np.polyfit(range(4), y[[2, 0, 3, 1], s], 1)[0] * 3 for s in range(6)]
    assert t.difference == pytest.approx(np.mean(lines))
    assert (t.a, t.b, t.seeds, t.df) == ("b", "c", 6, 15)
    assert t.se == pytest.approx(t.sd * 3 / math.sqrt(5) / math.sqrt(6))  # of a slope over ranks 0 to 3: 1 / sqrt(5)
    assert t.sd_own == pytest.approx(np.std(lines, ddof=1) / (3 / math.sqrt(5)))


def test_an_order_of_two_is_a_contrast():
    scores = per_image(drawn(3, 5, 3))
    assert trend(scores, ["a", "b"]) == contrast(scores, "b", "a")


def test_a_trend_finds_what_no_step_shows():
    rest = drawn(4, 6, seed=3) - drawn(4, 6, seed=3).mean(1, keepdims=True)
    scores = per_image(rest + 0.9 * np.arange(4)[:, None, None])
    steps = holm([contrast(scores, b, a).p for a, b in itertools.pairwise("abcd")])
    whole = trend(scores, list("abcd"))
    assert min(steps) > 0.05
    assert verdict(whole, margin=0.1) == "holds"
    assert whole.difference == pytest.approx(2.7)
    assert verdict(trend(scores, list("dcba")), margin=0.1) == "reversed"


# --- what stands beside -----------------------------------------------------------------------------------------------


def test_the_bootstrap_of_means_is_that_of_scipy():
    a, b = drawn(2, 8)[:, :, 0]
    c = contrast(means(a=a, b=b), "a", "b")
    theirs = stats.bootstrap(((a - b),), np.mean, n_resamples=40_000, method="percentile", rng=1).confidence_interval
    assert (c.boot_low, c.boot_high) == (pytest.approx(theirs.low, abs=0.05), pytest.approx(theirs.high, abs=0.05))
    assert contrast(means(a=a, b=b), "a", "b") == c


def test_the_bootstrap_draws_images_within_their_sets_for_both_variants():
    cube = drawn(2, 6, 19)
    same = cube + 5 * np.random.default_rng(1).normal(size=19)  # some images are harder: it cancels in a pair
    assert contrast(per_image(same), "a", "b").boot_low == pytest.approx(contrast(per_image(cube), "a", "b").boot_low)
    flat = cube.mean(2, keepdims=True) + np.zeros(19)
    sets = flat + np.stack([np.where(np.arange(19) < 5, 3.0, 0), np.zeros(19)])[:, None]  # one set favours a: no chance
    first, second = (contrast(per_image(x), "a", "b") for x in (flat, sets))
    assert second.boot_high - second.boot_low == pytest.approx(first.boot_high - first.boot_low)
    some = flat + np.stack([np.random.default_rng(2).normal(size=19), np.zeros(19)])[:, None]  # some images favour a
    third = contrast(per_image(some), "a", "b")
    assert third.boot_high - third.boot_low > 1.05 * (first.boot_high - first.boot_low)
    assert third.high - third.low == pytest.approx(first.high - first.low)


@pytest.mark.timing
def test_a_contrast_of_eight_seeds_and_nineteen_images_is_fast():
    scores = per_image(drawn(4, 8, 19))
    start = time.perf_counter()
    contrast(scores, "a", "b")
    assert time.perf_counter() - start < 0.1


def below(t: float, df: int, nc: float) -> float:
    """P(T <= t) of the noncentral t distribution, summed over the scatter that may have been estimated."""
    ratio = (np.arange(4000) + 0.5) / 1000  # of the estimated to the true standard deviation
    density = stats.chi.pdf(ratio * math.sqrt(df), df) * math.sqrt(df)
    return float((stats.norm.cdf(t * ratio - nc) * density).sum() / 1000)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.4, 2.0])
def test_the_probability_of_winning_has_the_exact_interval_of_normal_theory(shift):
    y = drawn(3, 6)
    y[0] += shift + y[1].mean() - y[0].mean()
    c = contrast(per_image(y), "a", "b")
    t = c.difference / c.se
    assert c.probability == pytest.approx(stats.norm.cdf(c.difference / (c.sd * math.sqrt(2))))
    for bound, q in ((c.probability_low, 0.975), (c.probability_high, 0.025)):
        nc = optimize.brentq(lambda nc, q=q: below(t, c.df, nc) - q, t - 12, t + 12)
        assert bound == pytest.approx(stats.norm.cdf(nc / math.sqrt(6)), abs=1e-5)


def test_the_probability_is_told_without_a_unit():
    c = contrast(means(a=[30.1, 30.3, 30.2], b=[30.0, 30.1, 30.3]), "a", "b")
    assert c.in_words == "a beats b with 67 of 100 seeds (between 21 and 94)"


@pytest.mark.parametrize(("seeds", "power"), [(2, 0.8), (5, 0.8), (8, 0.9), (40, 0.5)])
def test_the_detectable_effect_has_its_power(seeds, power):
    effect, df = detectable(0.07, seeds, 3 * (seeds - 1), power), 3 * (seeds - 1)
    critical = stats.t.ppf(0.975, df)
    found = stats.nct.sf(critical, df, effect / (0.07 * math.sqrt(2 / seeds)))
    assert found == pytest.approx(power, abs=1e-6)


def test_a_contrast_knows_its_detectable_effect():
    c = contrast(PENICILLIN, "A", "D")
    assert c.detectable == pytest.approx(detectable(c.sd, 5, 12))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sd", "effect", "power"), [(1.0, 1.0, 0.8), (0.05, 0.02, 0.9), (0.3, 0.9, 0.8), (1, 0.01, 0.8)]
)
def test_the_seeds_needed_are_those_of_statsmodels(sd, effect, power):
    pytest.importorskip("statsmodels", reason="no statsmodels: pip install -e '.[test]'")
    from statsmodels.stats.power import TTestPower

    # a paired difference scatters by sd * sqrt(2)
    theirs = TTestPower().solve_power(effect / (sd * math.sqrt(2)), None, 0.05, power)
    assert seeds_needed(sd, -effect, power) == math.ceil(float(np.ravel(theirs)[0]))


@given(st.floats(0.001, 1), st.floats(0.01, 1), st.integers(2, 8))
def test_the_seeds_needed_are_the_fewest(sd, effect, variants):
    n = seeds_needed(sd, effect, variants=variants)
    assert detectable(sd, n, (variants - 1) * (n - 1)) <= effect
    assert n == 2 or detectable(sd, n - 1, (variants - 1) * (n - 2)) > effect


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seeds_needed(0.1, 0.0), "effect must not be 0 and variants at least 2; got effect 0.0"),
        (lambda: seeds_needed(0.1, NAN), "got effect nan"),
        (lambda: seeds_needed(0.1, 0.1, variants=1), "variants 1"),
        (lambda: seeds_needed(NAN, 0.1), "sd must be at least 0, .* got sd nan"),
        (lambda: detectable(-1, 5, 4), "got sd -1, seeds 5, df 4"),
        (lambda: detectable(1, 0, 4), "seeds 0"),
        (lambda: detectable(1, 5, 0), "df 0"),
        (lambda: detectable(1, 5, 4, power=1.0), "power must be at least 0.5 and below 1, not 1.0"),
        (lambda: holm([0.1, 1.2]), r"between 0 and 1, got \[0.1, 1.2\]"),
    ],
)
def test_impossible_plans_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_summary_has_mean_spread_and_paired_differences():
    base = [29.0, 30.0, 31.0]
    runs = means(c=[1.0, 2.0, 3.0], a=[29.1, 30.2, 31.3], b=base)
    plain = summary(runs)
    assert list(plain.index) == ["c", "a", "b"]
    assert list(plain.columns) == ["mean", "sd", "seeds"]
    assert plain.loc["b"].tolist() == [30.0, 1.0, 3]
    paired = summary(runs, "b", pool=[])
    assert paired.loc["a", ["difference", "low", "high"]].tolist() == pytest.approx(
        [0.2, -0.048414, 0.448414], abs=1e-6
    )
    assert paired.loc["b", ["difference", "low", "high", "p"]].isna().all()
    assert summary(runs, "b").loc["a", "p"] == contrast(runs, "a", "b").p
    one = summary(means(a=[1.0], b=[2.0]), "b")
    assert one.loc["a", "difference"] == -1.0
    assert one.loc["a", ["sd", "low", "high"]].isna().all()


# --- Holm and the verdicts --------------------------------------------------------------------------------------------


def test_holm_on_a_worked_example():
    # Wikipedia, "Holm-Bonferroni method", the example of four hypotheses
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == []
    assert holm([0.9, 0.5]).tolist() == [1, 1]


def test_a_claim_that_is_not_tested_yet_belongs_to_the_family():
    adjusted = holm([0.01, NAN, 0.04])
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.03, 0.08])
    assert math.isnan(adjusted[1])


@pytest.mark.slow
def test_holm_is_that_of_statsmodels():
    pytest.importorskip("statsmodels", reason="no statsmodels: pip install -e '.[test]'")
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for size in (1, 4, 12):
        p = rng.uniform(size=size).round(1) ** 2  # with ties, zeros and ones
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


BASE = contrast(means(a=[30.0, 30.1, 30.3, 30.2, 30.0], b=[30.1, 30.0, 30.1, 30.3, 30.0]), "a", "b")


def finding(
    low: float, high: float, p: float, low90: float | None = None, high90: float | None = None, **more
) -> Contrast:
    """A contrast with these intervals; the narrower one leaves off a tenth at either end unless given."""
    cut = (high - low) / 10
    return replace(
        BASE, difference=(low + high) / 2, low=low, high=high, p=p, **more,
        low90=low + cut if low90 is None else low90, high90=high - cut if high90 is None else high90,
    )  # fmt: skip


WIDE = finding(-0.1, 0.3, 0.2)
CASES = {
    "did not train comes first": (finding(0.1, 0.3, 0.001), {"floor_missed": True}, "did not train"),
    "a missed floor hides what is identical": (replace(BASE, identical=True), {"floor_missed": True}, "did not train"),
    "identical": (replace(BASE, identical=True, seeds=1), {}, "identical"),
    "holds": (finding(0.1, 0.3, 0.001), {}, "holds"),
    "holds, smaller than published": (finding(0.01, 0.05, 0.001), {"effect": 0.2}, "holds"),
    "holds inside of the margin": (finding(0.001, 0.01, 0.02), {}, "holds"),
    "reversed": (finding(-0.3, -0.1, 0.001), {}, "reversed"),
    "too few seeds": (finding(0.1, 0.3, 0.001, seeds=4), {}, "undecided"),
    "enough seeds for a pilot": (finding(0.1, 0.3, 0.001, seeds=3), {"min_seeds": 3}, "holds"),
    "few seeds are not equivalent": (finding(-0.01, 0.01, 0.9, seeds=4), {}, "undecided"),
    "not after Holm": (finding(0.1, 0.3, 0.02), {"p_holm": 0.06}, "undecided"),
    "on the line": (finding(0.1, 0.3, 0.02), {"p_holm": 0.05}, "holds"),
    "equivalent": (finding(-0.06, 0.03, 0.5, low90=-0.05), {}, "equivalent"),
    "not equivalent below": (finding(-0.06, 0.03, 0.5, low90=-0.051), {}, "undecided"),
    "not equivalent above": (finding(-0.03, 0.06, 0.5, high90=0.051), {}, "undecided"),
    "equivalent before smaller": (finding(-0.04, 0.04, 1.0), {"effect": 0.1}, "equivalent"),
    "smaller": (finding(-0.02, 0.09, 0.2), {"effect": 0.1}, "smaller than published"),
    "smaller, and not above 0 after Holm": (finding(0.01, 0.09, 0.02), {"effect": 0.1, "p_holm": 0.1},
                                            "smaller than published"),
    "the published effect is inside": (finding(-0.02, 0.11, 0.2), {"effect": 0.1}, "undecided"),
    "larger than published is not smaller": (finding(0.2, 0.4, 0.02), {"effect": 0.1, "p_holm": 0.1}, "undecided"),
    "below 0 and below the published effect": (finding(-0.2, 0.02, 0.1), {"effect": 0.1}, "smaller than published"),
    "words only": (finding(-0.2, 0.02, 0.1), {"effect": None}, "undecided"),
    "words only, in a table": (finding(-0.2, 0.02, 0.1), {"effect": NAN}, "undecided"),
    "undecided": (WIDE, {"effect": 0.1}, "undecided"),
    "less: holds": (finding(-0.3, -0.1, 0.001), {"direction": "less"}, "holds"),
    "less: reversed": (finding(0.1, 0.3, 0.001), {"direction": "less"}, "reversed"),
    "less: smaller": (finding(-0.09, 0.02, 0.2), {"direction": "less", "effect": -0.1}, "smaller than published"),
    "less: smaller, by its size": (finding(-0.09, 0.02, 0.2), {"direction": "less", "effect": 0.1},
                                   "smaller than published"),
    "less: inside": (finding(-0.11, 0.02, 0.2), {"direction": "less", "effect": -0.1}, "undecided"),
    "equal: holds": (finding(-0.03, 0.03, 1.0), {"direction": "equal"}, "holds"),
    "equal: holds although not 0": (finding(0.01, 0.04, 0.01), {"direction": "equal"}, "holds"),
    "equal: reversed above": (finding(0.06, 0.2, 0.001), {"direction": "equal"}, "reversed"),
    "equal: reversed below": (finding(-0.2, -0.06, 0.001), {"direction": "equal"}, "reversed"),
    "equal: not after Holm": (finding(0.06, 0.2, 0.02), {"direction": "equal", "p_holm": 0.06}, "undecided"),
    "equal: there is a difference, perhaps inside": (finding(0.03, 0.2, 0.01), {"direction": "equal"}, "undecided"),
    "equal: nothing known": (WIDE, {"direction": "equal", "effect": 0.5}, "undecided"),
    "equal: too few seeds": (finding(-0.03, 0.03, 1.0, seeds=4), {"direction": "equal"}, "undecided"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_the_first_line_that_applies(name):
    found, options, expected = CASES[name]
    p_holm = options.get("p_holm")
    options = {"margin": 0.05} | {k: v for k, v in options.items() if k != "p_holm"}
    assert verdict(found, p_holm, **options) == expected
    assert expected in VERDICTS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "margin must be a number above 0, not 0.0"),
        ({"margin": NAN}, "margin must be a number above 0, not nan"),
        ({"margin": 0.1, "direction": "better"}, "direction must be one of greater, less, equal, not 'better'"),
        ({"margin": 0.1, "p_holm": 0.1}, "p_holm 0.1 is below the uncorrected p 0.2: it belongs to another claim"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        verdict(WIDE, **options)
