"""The studies of the papers: different variants, networks and recipes that exist, no training on test data."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch

from nsrlib import create_model, papers
from nsrlib.claims import PROFILES
from nsrlib.data import _CATALOGUE
from nsrlib.studies import MIN_SEEDS, StudyResult, train_and_score
from nsrlib.training import Recipe

EVERY = [
    pytest.param(paper, profile, id=f"{paper}-{profile}") for paper in sorted(papers.STUDIES) for profile in PROFILES
]


@pytest.mark.parametrize(("paper", "profile"), EVERY)
def test_every_study_is_made_of_networks_recipes_and_data_that_exist(paper, profile):
    accepted = set(inspect.signature(train_and_score).parameters) - {"seed", "out"}
    for study in papers.studies(paper, profile).values():
        for variant in study.variants:
            settings = study.settings(variant)
            if study.task != "nsrlib.studies:train_and_score":
                continue
            assert set(settings) <= accepted, variant
            Recipe(**settings["recipe"])
            with torch.device("meta"):
                create_model(settings["model"], settings["scale"], **settings.get("config", {}))
            assert all(_CATALOGUE[name].role == "train" for name in settings["train"])
            assert all(_CATALOGUE[name].role != "train" for name in settings["test"])


@pytest.mark.parametrize(("paper", "profile"), EVERY)
def test_variants_are_different_trainings_with_as_many_seeds_as_a_verdict_needs(paper, profile):
    for study in papers.studies(paper, profile).values():
        assert len({study.digest(v) for v in study.variants}) == len(study.variants) > 1, study.name
        assert len(study.seeds) >= (1 if profile == "quick" else MIN_SEEDS), study.name
        assert study.note, study.name


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_never_change_what_is_compared(profile):
    for paper in papers.STUDIES:
        assert list(papers.studies(paper, profile)) == list(papers.studies(paper, "cpu"))
    here, there = (papers.studies("bsrn", p).values() for p in (profile, "cpu"))
    assert [list(s.variants) for s in here] == [list(s.variants) for s in there]


def test_the_shorter_study_differs_in_its_iterations_alone():
    table = papers.studies("bsrn", "cpu")
    long, short = table["decompositions"], table["decompositions short"]
    assert short.common["recipe"]["iterations"] == long.common["recipe"]["iterations"] // 4
    recipe = {**short.common["recipe"], "iterations": long.common["recipe"]["iterations"]}
    note = short.note.replace(f"{short.common['recipe']['iterations']:,} steps", f"{recipe['iterations']:,} steps")
    same = dataclasses.replace(short, name=long.name, note=note, common={**short.common, "recipe": recipe})
    assert same == long


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vdsr", "cpu"), "no studies for 'vdsr'; there are: .*bsrn"),
        (("bsrn", "huge"), "profile must be one of quick, cpu, gpu, paper, got 'huge'"),
    ],
    ids=["paper", "profile"],
)
def test_unknown_studies_are_told_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        papers.studies(*arguments)


def test_the_stored_results_of_the_longest_profile_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS_DIR", tmp_path)
    assert papers.stored("bsrn", "a study") is None
    for profile in ("gpu", "quick", "cpu"):
        path = papers.stored_path("bsrn", "a study", profile)
        assert path == tmp_path / "bsrn" / "studies" / f"a-study.{profile}.json"
        StudyResult(profile, [], {}).store(path)
    result, profile = papers.stored("bsrn", "a study")
    assert (result.name, profile) == ("gpu", "gpu")


def test_training_with_an_unknown_profile_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="profile must be one of quick, cpu, gpu, paper, got 'fast'"):
        papers.train("rfdn", 2, profile="fast", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
