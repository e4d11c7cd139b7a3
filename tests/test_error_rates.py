"""Studies that are simulated, so that the truth is known: how often is a verdict wrong, how often is an effect found?

A few are simulated in every run of the tests, a thousand and more in the slow ones. A count may differ from what is
expected by what happens to a binomial count once in ten thousand times; seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nsrlib.statistics import Contrast, contrast, detectable, holm, trend, verdict

RARE = 1e-4
VARIANTS = list("abcdefgh")


def many(few: int, number: int):
    """How many studies: ``few`` always, ``number`` in the slow tests."""
    return pytest.mark.parametrize("studies", [few, pytest.param(number, marks=pytest.mark.slow)])


def simulated(
    studies: int, variants: int, seeds: int, *, effects=0.0, scatter=1.0, seed: int = 0, lost: Callable | None = None
) -> Iterator[pd.DataFrame]:
    """Studies with 19 images that one run carries up and down together (correlation 0.95).

    Args:
        effects, scatter: of each variant; a run's mean over the images scatters by ``scatter``.
        lost: which runs (variant, seed) are missing.
    """
    rng, images = np.random.default_rng(seed), 19
    v, s, i = np.indices((variants, seeds, images)).reshape(3, -1)
    frame = pd.DataFrame(
        {"variant": np.array(VARIANTS)[v], "seed": s, "set": np.where(i < 5, "set5", "set14"), "image": i.astype(str)}
    )
    effects, scatter = (np.broadcast_to(x, variants)[:, None, None] for x in (effects, scatter))
    for _ in range(studies):
        run = rng.normal(size=(variants, seeds, 1)) + np.sqrt(1 / 19) * rng.normal(size=(variants, seeds, images))
        run /= np.sqrt(1 + 1 / 19 / images)
        level = 3 * rng.normal(size=images) + 2 * rng.normal(size=(1, seeds, 1))
        frame["value"] = (30 + level + effects + scatter * run).ravel()
        yield frame if lost is None else frame[~lost(v, s)]


def as_expected(count: int, number: int, rate: float) -> bool:
    return bool(stats.binom.ppf(RARE, number, rate) <= count <= stats.binom.ppf(1 - RARE, number, rate))


def no_more_than(count: int, number: int, rate: float) -> bool:
    return bool(count <= stats.binom.ppf(1 - RARE, number, rate))


def count(frames: Iterator[pd.DataFrame], event: Callable[[Contrast], bool], **options) -> int:
    return sum(event(contrast(frame, "a", "b", **options)) for frame in frames)


def decided(c: Contrast) -> bool:
    return verdict(c, margin=1e-9) in ("holds", "reversed")


@many(30, 2000)
@pytest.mark.parametrize(("variants", "seeds"), [(2, 5), (4, 5), (8, 8)], ids=str)
def test_no_difference_is_called_one_in_a_twentieth_of_the_studies(studies, variants, seeds):
    assert as_expected(count(simulated(studies, variants, seeds), decided), studies, 0.05)


@many(30, 1500)
@pytest.mark.parametrize(("variants", "seeds"), [(2, 5), (4, 8)], ids=str)
def test_a_detectable_difference_is_found_in_four_of_five_studies(studies, variants, seeds):
    effect = detectable(1.0, seeds, (variants - 1) * (seeds - 1))
    effects = [effect] + [0] * (variants - 1)
    found = count(simulated(studies, variants, seeds, effects=effects), lambda c: verdict(c, margin=1e-9) == "holds")
    assert as_expected(found, studies, 0.8)


@many(10, 1000)
@pytest.mark.parametrize("differ", [0, 2], ids=lambda n: f"{n} true effects")
def test_in_a_family_of_claims_one_is_wrong_in_at_most_a_twentieth_of_the_studies(studies, differ):
    wrong = 0
    for frame in simulated(studies, 6, 5, effects=[0] * (6 - differ) + [20] * differ):
        claims = {b: contrast(frame, b, "a") for b in VARIANTS[1:6]}
        judged = dict(zip(claims, holm([c.p for c in claims.values()]), strict=True))
        says = {b: verdict(c, judged[b], margin=1e-9) for b, c in claims.items()}
        wrong += any(says[b] in ("holds", "reversed") for b in VARIANTS[1 : 6 - differ])
        assert all(says[b] == "holds" for b in VARIANTS[6 - differ : 6])
    assert no_more_than(wrong, studies, 0.05)


@many(10, 1500)
def test_runs_that_are_missing_change_no_rate(studies):
    def lost(v, s):
        return ((v == 0) & (s == 6)) | ((v == 1) & (s < 1)) | ((v == 2) & (s > 3)) | ((v == 3) & (s % 2 == 0))

    assert as_expected(count(simulated(studies, 4, 7, lost=lost), decided), studies, 0.05)


@many(20, 1500)
def test_a_difference_as_large_as_the_margin_is_called_none_in_a_twentieth(studies):
    margin = 1.5
    frames = simulated(studies, 4, 8, effects=[margin, 0, 0, 0])
    said = count(frames, lambda c: verdict(c, margin=margin) == "equivalent")
    assert no_more_than(said, studies, 0.05)
    if studies > 1000:
        assert as_expected(said, studies, 0.04)  # a few more are reversed or hold: they come first


@many(20, 1500)
def test_the_published_effect_is_called_too_large_in_a_fortieth_where_it_is_right(studies):
    frames = simulated(studies, 4, 5, effects=[0.5, 0, 0, 0])
    said = count(frames, lambda c: verdict(c, effect=0.5, margin=1e-9) == "smaller than published")
    assert no_more_than(said, studies, 0.025)


@many(20, 1500)
@pytest.mark.parametrize("effect", [0.0, 1.5])
def test_intervals_hold_the_truth_as_often_as_they_say(studies, effect):
    found = [contrast(frame, "a", "b") for frame in simulated(studies, 3, 5, effects=[effect, 0, 0])]
    wins = stats.norm.cdf(effect / np.sqrt(2))
    assert as_expected(sum(c.low <= effect <= c.high for c in found), studies, 0.95)
    assert as_expected(sum(c.low90 <= effect <= c.high90 for c in found), studies, 0.90)
    assert as_expected(sum(c.probability_low <= wins <= c.probability_high for c in found), studies, 0.95)
    if studies > 1000:
        assert 0.75 < np.mean([c.boot_low <= effect <= c.boot_high for c in found]) < 0.9  # narrow: it decides nothing


@many(20, 1500)
def test_a_trend_that_is_none_is_called_one_in_a_twentieth(studies):
    found = [trend(frame, list("dacb")) for frame in simulated(studies, 4, 5)]
    assert as_expected(sum(map(decided, found)), studies, 0.05)


@pytest.mark.slow
def test_two_variants_that_scatter_twice_as_much_as_the_pool_are_called_different_in_a_fifth():
    studies, scatter = 1500, [2, 2, 1, 1, 1, 1, 1, 1]
    frames = [frame.copy() for frame in simulated(studies, 8, 8, scatter=scatter)]
    assert 0.15 < count(iter(frames), decided) / studies < 0.25
    assert as_expected(count(iter(frames), decided, pool=["a", "b"]), studies, 0.05)
    own, pooled = np.median([[c.sd_own, c.sd] for c in (contrast(f, "a", "b") for f in frames[:200])], axis=0)
    assert own > 1.3 * pooled
