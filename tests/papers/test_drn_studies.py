"""The task of DRN's studies of compression, in miniature: one unpruned network a seed, students alike, equal costs."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from nsrlib import create_model, data
from nsrlib.evaluation import upscale
from nsrlib.images import imresize, to_tensor
from nsrlib.papers import Job, train
from nsrlib.papers.drn import students, studies
from nsrlib.papers.drn.costs import channel_costs
from nsrlib.training import Recipe

STUDY = studies.studies("quick")["widths"]
SETTINGS = STUDY.settings("uniform")


@pytest.fixture(autouse=True)
def one_test_image(monkeypatch):
    original = data.load

    def load(name, *arguments, **options):
        found = original(name, *arguments, **options)
        return found[:1] if name == "embedded" else found

    monkeypatch.setattr(data, "load", load)


@pytest.fixture
def trainings(monkeypatch):
    """Numbers of steps of every training that was begun."""
    begun = []
    original = students.fit

    def counted(model, patches, recipe, **options):
        begun.append(recipe.iterations)
        return original(model, patches, recipe, **options)

    monkeypatch.setattr(students, "fit", counted)
    return begun


def network(f: int = 4, blocks: int = 1, seed: int = 0):
    torch.manual_seed(seed)
    return create_model("drn_s", 4, num_feats=f, num_blocks=blocks)


def test_students_share_the_unpruned_network_of_their_seed(tmp_path, trainings):
    out = [str(tmp_path / name) for name in ("one", "two", "three")]
    first = studies.compress(seed=3, out=out[0], **SETTINGS)
    assert trainings == [SETTINGS["recipe"]["iterations"]]  # tuning is called by another name
    again = studies.compress(seed=3, out=out[1], **SETTINGS)
    whole = studies.compress(seed=3, out=out[2], **SETTINGS | {"widths": "full"})
    assert len(trainings) == 1
    assert [p.name[:15] for p in tmp_path.glob("*.pt")] == ["unpruned-seed3-"]
    timeless = [{k: v for k, v in run.items() if k != "seconds"} for run in (first, again)]
    assert timeless[0] == timeless[1]
    assert whole["params"] > first["params"]
    assert whole["multi_adds"] > first["multi_adds"]
    assert whole["error"] == 0 < first["error"]
    assert all(row["before"] == row["after"] for row in whole["curve"])
    assert all(row["before"] > row["after"] for row in first["curve"])
    assert {"scores", "data", "psnr_embedded_untuned", "seconds"} <= set(first)
    assert {row["set"] for row in first["scores"]} == {"embedded"}


def test_tuning_draws_other_patches_than_training(monkeypatch):
    seeds, original = [], students.fine_tune

    def seen(model, patches, recipe, **options):
        seeds.append(recipe.seed)
        return original(model, patches, recipe, **options)

    monkeypatch.setattr(students, "fine_tune", seen)
    studies.compress(seed=3, **SETTINGS | {"widths": "full"})
    assert seeds
    assert 3 not in seeds


def test_other_settings_and_seeds_get_networks_of_their_own(tmp_path, trainings):
    full = SETTINGS | {"widths": "full"}
    other = full | {"recipe": full["recipe"] | {"lr": 1e-4}}
    for k, (seed, settings) in enumerate([(0, full), (1, full), (0, other)]):
        studies.compress(seed=seed, out=str(tmp_path / str(k)), **settings)
    assert len(trainings) == len(list(tmp_path.glob("*.pt"))) == 3


def test_a_run_without_a_folder_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(math.isfinite(row["psnr"]) for row in studies.compress(seed=0, **SETTINGS)["scores"])
    assert list(tmp_path.iterdir()) == []


def test_unknown_widths_are_refused_before_anything_is_trained(trainings):
    with pytest.raises(ValueError, match=r"widths must be one of full, uniform, searched, .*, got 'best'"):
        studies.compress(seed=0, **SETTINGS | {"widths": "best"})
    assert not trainings


def test_what_is_made_once_is_read_by_the_others(tmp_path):
    out, made = str(tmp_path / "new" / "one"), []

    def make():
        made.append(1)
        return [torch.arange(3), 0.5]

    first, second = students.once(out, "x", {}, make), students.once(out, "x", {}, make)
    assert len(made) == 1
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1] == 0.5
    students.once(out, "x", {"other": 1}, make)
    students.once(None, "x", {}, make)
    assert len(made) == 3


@pytest.mark.parametrize("kind", [name for name in STUDY.variants if name != "unpruned"])
def test_controls_have_the_cost_of_the_searched_widths(kind):
    parent, asked = network(), []
    found = [3, 6, 9, 11, 10, 7]

    def searched(budget):
        asked.append(budget)
        return found if budget is None else [w - 1 for w in found]

    widths = students.choose_widths(students.Settings(**STUDY.settings(kind)), parent, 0, searched)
    costs, fixed = channel_costs(parent)
    cost = [fixed + int(costs @ torch.tensor(w).numpy()) for w in (widths, found)]
    if kind == "uniform":
        assert (widths, asked) == ([3, 6, 12, 12, 12, 12], [])
    elif kind.startswith("searched"):
        assert widths == (found if kind == "searched" else [w - 1 for w in found])
        assert asked == [None] + [cost[1]] * (kind == "searched with cost")
    else:
        assert cost[1] - max(costs) < cost[0] <= cost[1]
        assert widths != found


def test_the_search_with_a_budget_keeps_to_it_and_both_halves_of_the_images_are_used(monkeypatch):
    seen, original = [], students.search_widths

    def spy(model, duals, train, validation, candidates, **options):
        seen.append((train.names, validation.names, candidates))
        return original(model, duals, train, validation, candidates, **options)

    monkeypatch.setattr(students, "search_widths", spy)
    asked = SETTINGS | {"train": ["embedded_train"], "search": {"multiple": 1, "steps": 1, "batch": 2}}
    parent, recipe = network(), Recipe(iterations=1, batch=2, patch=8)
    duals = studies.closed_loop(parent, recipe, 0.1, False, "embedded")["networks"]["dual"]
    costs, fixed = channel_costs(parent)
    budget = fixed + int(costs.sum() * 6)
    plain, within = (
        students.searched(students.Settings(**asked), parent, duals, recipe, None, b) for b in (None, budget)
    )
    assert fixed + costs @ torch.tensor(within).numpy() <= budget
    assert all(w <= c for w, c in zip(plain, (2, 5, 11, 11, 11, 11), strict=True))
    train, validation, candidates = seen[0]
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(data.training_set("embedded_train", 4).names)
    assert candidates[2] == (5, 6, 7, 8, 10, 11)
    assert seen[1][2][2] == (4, 6, 9, 11, 14, 16)


def test_settings_that_mean_nothing_are_refused(trainings):
    with pytest.raises(TypeError, match="unexpected keyword argument 'gama'"):
        studies.compress(seed=0, **SETTINGS | {"gama": 1})
    with pytest.raises(ValueError, match="criterion must be one of drc, dcp, cp, thinet, l1, random, got 'best'"):
        studies.compress(seed=0, **SETTINGS | {"criterion": "best"})
    assert not trainings


def test_the_loop_is_measured_on_all_colours_of_the_reduced_result():
    model = network(2)
    by_hand = []
    for pair in data.load("embedded", 4):
        x = to_tensor(pair.lr)
        error = imresize(upscale(model.eval(), x).clamp(0, 1), 0.25) - x
        by_hand.append(-10 * math.log10(float(error.square().mean())))
    assert studies.loop_psnr(model, "embedded") == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)
    setup = studies.closed_loop(model, Recipe(), 0.0, False, "embedded")
    assert setup["networks"] == {}
    assert set(setup["measure"](model)) == {"psnr_lr"}


def test_nsr_train_closes_the_loop_with_dual_networks(tmp_path):
    job = Job(
        "drn_s", 4, {"num_feats": 4, "num_blocks": 1}, ["embedded_train"],
        profile="quick", changes={"iterations": 2, "batch": 2, "patch": 12}, validate=None,
    )  # fmt: skip
    trained, _ = train(job, tmp_path / "run")
    last = trained.history.iloc[-1]
    assert last["primal"] > 0
    assert last["dual"] > 0
    assert last["loss"] == pytest.approx(last["primal"] + last["dual"], rel=1e-6)
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert set(weights) == set(network().state_dict())  # dual networks are for training alone
