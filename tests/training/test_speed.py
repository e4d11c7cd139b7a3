"""The form in which a network trains: named by the recipe, or found by a few steps on this machine."""

from __future__ import annotations

import json
import time

import pytest
import torch
from tiny_runs import DATA, SHORT, same, state, tiny
from torch import nn

from nsrlib.training import Hooks, fit

OPEN = SHORT.replace(channels_last=None, precision="auto")


class Slow(nn.Module):
    """A network that dawdles in one memory format or one precision."""

    def __init__(self, slow_in_planes: bool = False, slow_in_bfloat16: bool = False) -> None:
        super().__init__()
        self.body, self.slow = tiny(), (slow_in_planes, slow_in_bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = not x.is_contiguous(memory_format=torch.channels_last)
        if (self.slow[0] and planes) or (self.slow[1] and torch.is_autocast_enabled("cpu")):
            time.sleep(0.02)
        return self.body(x)


@pytest.mark.parametrize(
    ("slow", "last", "precision"),
    [
        ({"slow_in_planes": True, "slow_in_bfloat16": True}, True, "float32"),
        ({"slow_in_bfloat16": True}, None, "float32"),
    ],
)
def test_the_faster_form_is_taken_and_told(slow, last, precision):
    result = fit(Slow(**slow), DATA, OPEN, progress=False)
    assert result.recipe.precision == precision
    assert last is None or result.recipe.channels_last == last
    assert ("channels last" if result.recipe.channels_last else "planes") in result.chosen.split(":")[0]
    assert result.chosen.count("bfloat16") == 2  # both memory formats were tried
    assert result.chosen.count(" ms ") == 1


def test_a_trial_leaves_no_trace_in_the_training():
    """The same weights as with the form that was chosen, named from the start: random numbers, statistics and all."""
    one, two = tiny(), tiny()
    chosen = fit(one, DATA, OPEN.replace(precision="float32"), progress=False).recipe
    assert chosen.channels_last in (True, False)
    plain = fit(two, DATA, chosen, progress=False)
    assert plain.chosen == ""
    assert same(state(one), state(two))


def test_losses_and_networks_of_a_paper_are_part_of_the_trial():
    second, seen = tiny(1), []
    before = state(second)

    def losses(model, batch, step, dual):
        seen.append(dual)
        return {"a": (model(batch.input) - batch.target).abs().mean(), "b": dual(batch.input).square().mean()}

    recipe = OPEN.replace(iterations=1)
    fit(tiny(), DATA, recipe, hooks=Hooks(losses=losses, networks={"dual": second}), progress=False)
    assert len({id(dual) for dual in seen}) == 5  # four forms on copies, then the network itself
    assert seen[-1] is second
    assert not same(before, state(second))


def test_a_run_goes_on_in_the_form_that_it_began_with(tmp_path):
    first = fit(Slow(slow_in_planes=True), DATA, OPEN.replace(precision="float32"), out=tmp_path, progress=False)
    assert first.recipe.channels_last is True
    assert json.loads((tmp_path / "recipe.json").read_text())["channels_last"] is True
    assert "fastest here: channels last in float32" in (tmp_path / "log.txt").read_text()
    again = fit(Slow(), DATA, OPEN.replace(precision="float32"), out=tmp_path, progress=False)
    assert (again.recipe, again.chosen) == (first.recipe, "")
    assert same(state(first.model), state(again.model))
