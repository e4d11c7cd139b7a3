"""Networks timed side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nsrlib import create_model, papers
from nsrlib.bench.networks import latency, seconds_of

WITH_NETWORKS = [paper for paper in papers.every().values() if paper.networks]


def test_every_model_is_measured_at_every_size_and_the_threads_are_restored():
    before = torch.get_num_threads()
    models = {"bicubic": create_model("bicubic", 2), "imdn": create_model("imdn", 2, num_feats=8, num_blocks=1)}
    table = latency(models, [(16, 20), (24, 16)], device="cpu", repeats=2, threads=1)
    assert table[["model", "input"]].to_numpy().tolist() == [
        ["bicubic", "20x16"], ["imdn", "20x16"], ["bicubic", "16x24"], ["imdn", "16x24"],
    ]  # fmt: skip
    assert (table["seconds"] > 0).all()
    assert table.attrs == {"device": "cpu", "threads": 1, "repeats": 2}
    assert torch.get_num_threads() == before


def test_a_spent_budget_ends_the_turns_and_the_sizes_but_every_network_has_a_time():
    models = {name: create_model("bicubic", 2) for name in ("a", "b")}
    table = latency(models, [(16, 20), (24, 16)], device="cpu", repeats=10**9, threads=1, budget=1e-9)
    assert table["input"].tolist() == ["20x16", "20x16"]
    assert (table["seconds"] < float("inf")).all()


@pytest.mark.parametrize("paper", WITH_NETWORKS, ids=lambda paper: paper.name)
def test_every_network_that_a_paper_compares_runs_and_is_timed(paper):
    models = paper.networks("cpu")
    table = latency(models, [(32, 32)], device="cpu", repeats=1)
    assert table["model"].tolist() == list(models)
    assert (table["seconds"] > 0).all()
    assert not any(m.training for m in models.values())


@pytest.mark.parametrize("paper", WITH_NETWORKS, ids=lambda paper: paper.name)
def test_forms_of_one_network_compute_the_same(paper):
    models = paper.networks("cpu")
    # "BSRN, fused here" has the weights of "BSRN, as published"
    forms = [(a, b) for a in models for b in models if a < b and a.split(",")[0] == b.split(",")[0] and "-S" not in a]
    assert forms
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other in forms:
            torch.testing.assert_close(models[one](x), models[other](x), rtol=1e-4, atol=1e-5)


def test_time_is_that_of_one_pass_without_gradients():
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.outputs: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            import time

            time.sleep(0.02)
            self.outputs.append(x * self.weight)
            return self.outputs[-1]

    model = Slow()
    assert seconds_of(model, torch.zeros(1)) >= 0.02
    assert [y.requires_grad for y in model.outputs] == [False]


def test_latency_gives_the_best_turn_without_the_first(monkeypatch):
    from nsrlib.bench import networks

    times = iter([9.0, 9.0, 0.5, 0.1, 0.3, 0.2])
    monkeypatch.setattr(networks, "seconds_of", lambda *_: next(times))
    models = {"a": create_model("bicubic", 2), "b": create_model("bicubic", 2)}
    assert latency(models, [(16, 16)], device="cpu", repeats=2)["seconds"].tolist() == [0.3, 0.1]
    assert next(times, None) is None


@pytest.mark.parametrize("options", [{"repeats": 0}, {"threads": 0}], ids=str)
def test_numbers_below_one_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1, got 0"):
        latency({}, [], device="cpu", **options)
