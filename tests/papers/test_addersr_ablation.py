"""AdderSR's ablation: each variant at the rate of its adder weights that its claims choose."""

from __future__ import annotations

import pytest

from nsrlib.papers.addersr import ablation
from nsrlib.studies import StudyResult

# variant -> PSNR of an image of Set5 and of two of Set14, and the number of seeds
RUNS = {
    "BN x1": (30.0, 28.0, 28.0, 2),
    "BN x10": (30.9, 27.0, 27.0, 2),  # better on Set5, worse over all three images
    "BN x100": (40.0, 40.0, 40.0, 1),  # not as often trained
    "BN, shortcut x1": (31.0, 29.0, 29.0, 2),
    "BN, shortcut x10": (31.5, 29.5, 29.5, 2),
    "CNN": (33.0, 31.0, 31.0, 2),
}


@pytest.fixture(scope="module")
def result():
    rows = [
        {"variant": variant, "seed": seed, "set": name, "image": image, "psnr": value}
        for variant, (a, b, c, seeds) in RUNS.items()
        for seed in range(seeds)
        for name, image, value in (("set5", "1", a), ("set14", "1", b), ("set14", "2", c))
    ]
    return StudyResult.of_rows("addersr ablation", rows)


def test_the_best_rate_is_that_of_all_images_among_those_with_most_seeds(result):
    assert ablation.best_rates(result).to_dict() == {"BN": 1, "BN, shortcut": 10}


def test_runs_at_the_best_rate_have_the_variants_names(result):
    best = ablation.at_best_rate(result)
    assert best.table.groupby("variant", sort=False)["psnr_set5"].first().to_dict() == {
        "BN": 30.0, "BN, shortcut": 31.5, "CNN": 33.0}  # fmt: skip


def test_the_rate_stands_in_a_column_of_its_own(result):
    table = ablation.by_rate(result)
    assert set(zip(table["variant"], table["rate"], strict=True)) == {
        ("BN", 1), ("BN", 10), ("BN", 100), ("BN, shortcut", 1), ("BN, shortcut", 10)}  # fmt: skip
