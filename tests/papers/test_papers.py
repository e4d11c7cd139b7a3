"""The studies of the papers: different variants, networks and recipes that exist, no training on test data."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess

import pytest
import torch

from nsrlib import create_model, papers
from nsrlib.claims import PROFILES
from nsrlib.data.catalogue import SETS
from nsrlib.statistics import MIN_SEEDS
from nsrlib.studies import StudyResult, load_study, train_and_score
from nsrlib.training import Recipe, learning_rate

EVERY = [pytest.param(paper, profile, id=f"{paper}-{profile}") for paper in papers.every() for profile in PROFILES]


@pytest.mark.parametrize(("paper", "profile"), EVERY)
def test_every_study_is_made_of_networks_recipes_and_data_that_exist(paper, profile):
    accepted = set(inspect.signature(train_and_score).parameters) - {"seed", "out"}
    for study in papers.get(paper).studies_at(profile).values():
        for variant in study.variants:
            settings = study.settings(variant)
            if study.task is not train_and_score:
                continue
            assert set(settings) <= accepted, variant
            Recipe(**settings["recipe"])
            with torch.device("meta"):
                create_model(settings["model"], settings["scale"], **settings.get("config", {}))
            assert all(SETS[name].role == "train" for name in settings["train"])
            assert all(SETS[name].role != "train" for name in settings["test"])


@pytest.mark.parametrize(("paper", "profile"), EVERY)
def test_variants_are_different_trainings_with_as_many_seeds_as_a_verdict_needs(paper, profile):
    for study in papers.get(paper).studies_at(profile).values():
        assert len({study.digest(v) for v in study.variants}) == len(study.variants) > 1, study.name
        assert len(study.seeds) >= (1 if profile == "quick" else MIN_SEEDS), study.name
        assert study.note, study.name


STORED = [
    pytest.param(paper, name, profile, id=f"{name}-{profile}")
    for paper in papers.every().values()
    for profile in PROFILES
    for name in paper.studies_at(profile)
    if paper.study_file(name, profile).is_file()
]


@pytest.mark.parametrize(("paper", "name", "profile"), STORED)
def test_stored_rows_belong_to_the_settings_of_today_and_say_where_they_come_from(paper, name, profile):
    study, stored = paper.studies_at(profile)[name], load_study(paper.study_file(name, profile))
    digests = {
        (v, study.steps(v, share)): study.digest(v, share) for v in study.variants for share in (1, *study.budgets)
    }
    rows = stored.rows
    assert [digests[v, int(n)] for v, n in zip(rows["variant"], rows["steps"], strict=True)] == list(
        rows["recipe_sha256"]
    )
    assert rows["commit"].str.fullmatch("[0-9a-f]{12}").all()
    assert rows["data_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert not rows[["psnr", "ssim", "seconds", "device", "isa", "threads", "torch", "task"]].isna().any(axis=None)
    assert set(stored.tests) == set(rows["set"])
    assert not rows.duplicated(["variant", "seed", "steps", "set", "image"]).any()
    git = ["git", "-C", str(paper.root), "merge-base", "--is-ancestor"]
    if (paper.root / ".git").exists():
        for commit in set(rows["commit"]):
            assert subprocess.run([*git, commit, "HEAD"], check=False).returncode == 0, (
                f"{commit} is not in the history"
            )


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_never_change_what_is_compared(profile):
    for paper in papers.every():
        assert list(papers.get(paper).studies_at(profile)) == list(papers.get(paper).studies_at("cpu"))
    here, there = (papers.get("bsrn").studies_at(p).values() for p in (profile, "cpu"))
    assert [list(s.variants) for s in here] == [list(s.variants) for s in there]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vdsr", "cpu"), "unknown paper 'vdsr'; there are: .*bsrn"),
        (("bsrn", "huge"), "profile must be one of quick, cpu, gpu, paper, got 'huge'"),
    ],
    ids=["paper", "profile"],
)
def test_unknown_studies_are_told_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        papers.get(arguments[0]).studies_at(arguments[1])


def test_the_stored_results_of_the_longest_profile_are_shown(tmp_path):
    paper = dataclasses.replace(papers.get("bsrn"), root=tmp_path)
    assert paper.stored_study("a study") is None
    for profile in ("gpu", "pilot", "quick", "cpu"):
        path = paper.study_file("a study", profile)
        assert path == tmp_path / "data" / "results" / "bsrn" / "studies" / f"a-study.{profile}.csv"
        StudyResult.of_rows(profile, []).store(path)
    assert paper.stored_study("a study").name == "gpu"


def test_training_with_an_unknown_profile_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="profile must be one of quick, cpu, gpu, paper, got 'fast'"):
        papers.train(papers.Job("rfdn", 2, profile="fast"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- recipes ----------------------------------------------------------------------------------------------------------


RECIPES = {name: training.recipe for paper in papers.every().values() for name, training in paper.trainings.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    recipe = RECIPES[name]
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    assert hash(recipe) == hash(recipe.replace())


def test_published_recipes_are_those_of_the_papers():
    bsrn, small, nsr, drcn, drn = (RECIPES[k] for k in ("bsrn", "bsrn_s", "nsr", "drcn", "drn_s"))
    assert (bsrn.iterations, bsrn.batch, bsrn.patch, bsrn.ema, bsrn.warmup) == (1_000_000, 64, 48, 0, 0)
    assert (small.iterations, small.batch, small.patch, small.lr) == (1_500_000, 256, 64, 2e-3)
    assert (nsr.batch, nsr.patch, nsr.loss, nsr.optimiser, nsr.weight_decay) == (16, 48, "l1", "adam", 0)
    epoch = 800 * 1000 // 16
    assert nsr.iterations == 30 * epoch
    rates = [learning_rate(nsr, step) for step in (20 * epoch - 1, 20 * epoch, 25 * epoch - 1, 25 * epoch)]
    assert rates == pytest.approx([1e-3, 2e-4, 2e-4, 4e-5], rel=1e-12)
    assert (drcn.batch, drcn.patch, drcn.optimiser, drcn.momentum, drcn.weight_decay) == (64, 41, "sgd", 0.9, 1e-4)
    assert (drcn.loss, drcn.lr, drcn.gamma, drcn.patience, drcn.lr_min) == ("l2", 0.01, 0.1, 5, 1e-6)
    assert (drn.iterations, drn.batch, drn.patch, drn.lr, drn.lr_min) == (1_000_000, 32, 96, 1e-4, 1e-7)
    for recipe in (bsrn, small, drn):
        assert (recipe.loss, recipe.optimiser, recipe.betas, recipe.schedule) == ("l1", "adam", (0.9, 0.999), "cosine")
        half = recipe.iterations // 2
        assert learning_rate(recipe, half) == pytest.approx((recipe.lr + 1e-7) / 2, rel=1e-12)
    assert str(bsrn) == "1,000,000 steps of 64 patches of 48x48, l1, adam 0.001 to 1e-07, cosine, seed 0"
