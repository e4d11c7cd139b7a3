"""DRCN's studies: every recursion is scored as the network that it is, and trained with the paper's losses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from nsrlib import data, evaluation, metrics, papers
from nsrlib.models import drcn, read_metadata
from nsrlib.papers.drcn import comparison
from nsrlib.papers.drcn import studies as study
from nsrlib.studies import StudyResult
from nsrlib.training import Recipe


def network(scale: int = 3, recursions: int = 3, **config) -> drcn.LumaDRCN:
    torch.manual_seed(0)
    model = drcn.LumaDRCN(scale, 4, recursions, recur_init=1.0, **config).eval()
    if config.get("ensemble", True):
        with torch.no_grad():
            model.net.w.copy_(torch.tensor([0.5, 0.3, 0.4][:recursions]))
    return model


class Single(torch.nn.Module):
    """One prediction of a DRCN as a network."""

    def __init__(self, model: drcn.LumaDRCN, d: int) -> None:
        super().__init__()
        self.model, self.d = model, d
        self.scale, self.halo, self.min_size = model.scale, model.halo, model.min_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x, every=True)[1][self.d - 1]


@pytest.mark.parametrize("gray", [False, True])
def test_every_output_is_scored_as_evaluate_scores_it(gray):
    model, images = network(), data.load("embedded", 3, limit=1, gray=gray)
    scores = study.recursion_scores(model, images)
    assert list(scores.index) == [1, 2, 3, "equal weights", "ensemble"]

    def alone(net: torch.nn.Module) -> float:
        return evaluation.evaluate(net, images, fast=False)["psnr"].iloc[0]

    for d in (1, 2, 3):
        assert scores.loc[d, "psnr"] == pytest.approx(alone(Single(model, d)), abs=1e-3)
    assert scores.loc["ensemble", "psnr"] == pytest.approx(alone(model), abs=1e-3)
    assert scores["weight"].tolist()[:3] == pytest.approx([0.5 / 1.2, 0.3 / 1.2, 0.4 / 1.2])
    with torch.no_grad():
        model.net.w.fill_(1 / 3)
    assert scores.loc["equal weights", "psnr"] == pytest.approx(alone(model), abs=1e-3)
    assert study.recursion_scores(model, images)["psnr"].diff().iloc[-1] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("lr", data.catalogue.LUMA_LR)
def test_planes_of_luma_are_scored_as_evaluate_scores_them(lr):
    model, images = network(), data.load("embedded", 3, lr=lr, limit=1)
    table = evaluation.evaluate(model, images, protocol=metrics.SELFEXSR_Y(3))
    assert study.recursion_scores(model, images).loc["ensemble", "psnr"] == pytest.approx(
        table["psnr"].iloc[0], abs=1e-6
    )


def test_what_cannot_be_scored_is_refused():
    images = data.load("embedded", 3, limit=1)
    with pytest.raises(ValueError, match="takes a DRCN with an ensemble; the basic model has one prediction"):
        study.recursion_scores(network(ensemble=False), images)
    with pytest.raises(ValueError, match="the model upscales by 2, but embedded was loaded at scale 3"):
        study.recursion_scores(network(2), images)


def test_a_run_measures_every_recursion_and_their_weights(monkeypatch):
    images = data.load("embedded", 3, limit=1)
    monkeypatch.setattr(data, "load", lambda name, scale: images)
    model = network()
    setup = study.training_setup(model, SimpleNamespace(iterations=8), test="embedded", end=0.5)
    found = setup["measure"](model)
    scores = study.recursion_scores(model, images)["psnr"]
    assert set(found) == {*(f"{k}_{d}" for k in ("psnr", "w") for d in (1, 2, 3)), "psnr_best", "psnr_equal"}
    assert [found[f"psnr_{d}"] for d in (1, 2, 3)] == scores.iloc[:3].tolist()
    assert found["psnr_best"] == scores.iloc[:3].max()
    assert found["psnr_equal"] == scores["equal weights"]
    plain = network(ensemble=False)
    assert study.training_setup(plain, SimpleNamespace(iterations=8))["measure"](plain) == {}


def test_alpha_follows_the_learning_rate_as_in_the_authors_code():
    model, recipe = network(), Recipe(iterations=10, lr=0.1, schedule="multistep", milestones=(0.5,))
    losses = study.training_setup(model, recipe, alpha_of_lr=16 / 17)["losses"]
    batch = SimpleNamespace(input=torch.rand(1, 1, 9, 9), target=torch.rand(1, 1, 9, 9))
    for step, alpha in ((0, 16 / 17), (4, 16 / 17), (5, 1.6 / 17)):
        assert losses(model, batch, step) == drcn.drcn_losses(model, batch.input, batch.target, alpha)


def test_a_step_moves_no_weight_further_than_it_may_at_any_learning_rate():
    recipe = Recipe(iterations=10, lr=0.1, optimiser="sgd", schedule="multistep", milestones=(0.5,))
    for step, rate in ((0, 0.1), (5, 0.01)):
        model = network()
        before_step = study.training_setup(model, recipe, clip_step=1e-3)["before_step"]
        for p in model.parameters():
            p.grad = torch.full_like(p, -1e3)
        before_step(model, step)
        assert all(torch.allclose(rate * p.grad, torch.tensor(-1e-3)) for p in model.parameters())
    assert "before_step" not in study.training_setup(model, recipe)


def result() -> StudyResult:
    rows = [
        {"variant": variant, "seed": seed, "set": "set5", "psnr": 32 + seed, "device": "a CPU"}
        | {"psnr_equal": 30, "psnr_1": 31 + seed, "psnr_2": 29}
        for seed in (0, 1, 2)
        for variant in ("D=2", "other")
    ]
    settings = {"D=2": {"config": {"recursions": 2}}, "other": {"config": {"recursions": 2}}}
    return StudyResult.of_rows("a study", rows, settings=settings, note="short")


def test_a_variant_becomes_a_study_of_its_outputs():
    duel = study.against_singles(result(), "D=2")
    wide = duel.table.pivot_table(index="seed", columns="variant", values="psnr")
    assert list(duel.settings) == ["ensemble", "equal weights", "1", "2"]
    assert wide["ensemble"].tolist() == [32, 33, 34]
    assert wide["1"].tolist() == [31, 32, 33]
    assert (wide["2"] == 29).all()
    assert duel.seeds == [0, 1, 2]
    assert duel.describe() == "short; 3 seeds, a CPU."


def test_a_study_without_single_recursions_is_refused():
    for variant, metric in (("D=3", "psnr_set5"), ("D=2", "psnr_b100")):
        with pytest.raises(ValueError, match=f"study 'a study' has no {metric} of single recursions for '{variant}'"):
            study.against_singles(result(), variant, metric)


def test_the_depth_study_changes_nothing_but_the_depth():
    table = study.studies("cpu")["depth"]
    settings = {v: table.settings(v) for v in table.variants}
    assert [s["config"].pop("recursions") for s in settings.values()] == list(study.DEPTHS)
    assert all(s == settings["D=1"] for s in settings.values())


def test_nsr_train_gives_drcn_luma_and_its_own_losses(tmp_path):
    job = papers.Job(
        "drcn", 3, {"features": 4, "recursions": 2}, ["embedded_train"], profile="quick", validate=None,
        changes={"iterations": 2, "batch": 2, "patch": 12},
    )  # fmt: skip
    trained, line = papers.train(job, tmp_path / "run")
    assert {"recursions", "ensemble"} <= set(trained.history.columns)
    assert trained.history["ensemble"].iloc[-1] > 0
    assert (trained.recipe.optimiser, trained.recipe.clip_norm) == ("adam", 5.0)
    assert json.loads(read_metadata(tmp_path / "run" / "weights.safetensors")["config"])["recursions"] == 2
    assert papers.training_of("drcn").recipe.optimiser == "sgd"
    assert line.startswith("2 steps in ")


def test_a_choice_of_the_code_that_did_not_train_has_no_gain():
    names = ["paper", *(variant for of_place in comparison.CHOICES.values() for variant in of_place)]
    level = {v: {"set5": 32.0, "set14": 29.0} for v in names} | {names[1]: {"set5": 29.0, "set14": 29.0}}
    rows = [
        {"variant": v, "seed": k, "set": name, "image": "a", "psnr": psnr + 0.1 * k + 0.2 * (v == names[2])}
        for v in names for k in (0, 1) for name, psnr in level[v].items()
    ]  # fmt: skip
    study = StudyResult.of_rows("code", rows, settings={v: {"scale": 3} for v in names})
    gains = comparison.choices(study).set_index("trained as")["gain"]
    assert gains[names[1]] == f"{names[1]} did not train, below its floor by 1.8 dB on Set5"
    assert gains[names[2]].startswith("+0.20 dB")
    assert gains[names[2]].endswith("2 seeds")
    assert set(comparison.choices(None)["gain"]) == {"not trained yet"}
