"""Recipes refuse what is wrong, and learning rates follow their formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SHORT

from nsrlib.training import Recipe, learning_rate

COUNTS = ("iterations", "batch", "patch", "patience")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({k: 0}, f"{k} must be a positive whole number, got 0") for k in COUNTS],
        ({"batch": 2.0}, r"batch must be a positive whole number, got 2\.0"),
        ({"batch": True}, "batch must be a positive whole number, got True"),
        ({"warmup": -1}, "warmup must be a whole number, 0 or more, got -1"),
        ({"seed": 1.5}, r"seed must be a whole number, 0 or more, got 1\.5"),
        ({"loss": "ssim"}, "loss must be one of l1, l2, charbonnier, got 'ssim'"),
        ({"optimiser": "lion"}, "optimiser must be one of adam, adamw, sgd, got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, linear, multistep, plateau, got 'step'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, auto, got 'float16'"),
        ({"lr": 0}, "lr must be positive, got 0"),
        ({"lr": math.nan}, "lr must be positive, got nan"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": True}, "lr must be a number, got True"),
        *[
            ({k: -1.0}, rf"{k} must be 0 or more, got -1\.0")
            for k in ("weight_decay", "lr_min", "clip_norm", "clip_value")
        ],
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1\.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\), got -0\.1"),
        ({"milestones": (0.5, 1.0)}, r"milestones must be rising fractions between 0 and 1, got \(0\.5, 1\.0\)"),
        ({"milestones": (0.5, 0.25)}, "milestones must be rising fractions"),
        ({"milestones": 0.5}, r"milestones must be a sequence, got 0\.5"),
        ({"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\), got \(0\.9,\)"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"gamma": 1.5}, r"gamma must be between 0 and 1, got 1\.5"),
        ({"lr_scale": (("*", -1.0),)}, "factors of lr_scale must be 0 or more"),
        ({"lr_scale": (("*",),)}, r"lr_scale must be pairs \(pattern, factor\), got"),
        ({"channels_last": "no"}, "channels_last must be True or False, got 'no'"),
        ({"compile": 1}, "compile must be True or False, got 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_wrong_recipe_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)
    with pytest.raises(ValueError, match=message):
        SHORT.replace(**change)


def test_a_recipe_has_no_other_fields():
    with pytest.raises(ValueError, match="a recipe has no dropout, rate; it has iterations, batch, patch"):
        Recipe().replace(rate=1, dropout=0.5)


@given(
    step=st.integers(0, 99),
    lr=st.floats(1e-6, 1.0),
    low=st.floats(0, 1e-6),
    gamma=st.floats(0.01, 0.99),
    factor=st.floats(1e-3, 1.0),
)
def test_learning_rates_follow_their_formulas(step, lr, low, gamma, factor):
    def rate(schedule, **more):
        return learning_rate(
            Recipe(iterations=100, lr=lr, lr_min=low, gamma=gamma, schedule=schedule, **more), step, factor
        )

    close = {"rel": 1e-12, "abs": 0}
    assert rate("cosine") == pytest.approx(low + (lr - low) * math.cos(math.pi * step / 200) ** 2, **close)
    assert rate("linear") == pytest.approx(((100 - step) * lr + step * low) / 100, **close)
    assert rate("constant") == rate("plateau") == lr * factor
    drops = (step >= 25) + (step >= 50) + (step >= 75)
    assert rate("multistep", milestones=(0.25, 0.5, 0.75)) == pytest.approx(lr * gamma**drops, **close)
    assert rate("cosine", warmup=100) == pytest.approx(lr * (step + 1) / 100, **close)
