"""In which memory format and precision a network trains fastest here: found by a few steps of each."""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.training.recipe import Recipe

if TYPE_CHECKING:
    from nsrlib.training.recipe import Hooks

STEPS = 3
"""Timed passes of each form, after one that is not."""
WORTH = 1.05
"""How many times as fast a form must be to be taken in place of the one before it."""

Loss = Callable[[nn.Module, Batch, Mapping[str, nn.Module]], Tensor]


def is_open(recipe: Recipe) -> bool:
    """Whether a recipe leaves its form to the machine."""
    return recipe.channels_last is None or recipe.precision == "auto"


def decided(recipe: Recipe, kept: Path) -> Recipe:
    """The form that a run was begun with, as its ``recipe.json`` tells; the recipe as it is where there is none."""
    if not kept.is_file():
        return recipe
    before = json.loads(kept.read_text())
    return _with_form(recipe, (before["channels_last"], before["precision"]))


def fastest(recipe: Recipe, model: nn.Module, data: Patches, hooks: Hooks, loss: Loss) -> tuple[Recipe, str]:
    """The recipe in the form that is fastest here, and a sentence that says so; nothing of ``model`` changes.

    What the recipe names itself stays.
    """
    device = data.device
    batch = data.batch(recipe.batch, stream_seed(recipe.seed, 0))
    formats = (False, True) if recipe.channels_last is None else (recipe.channels_last,)
    precisions = ("float32", "bfloat16") if recipe.precision == "auto" else (recipe.precision,)
    seconds: dict[tuple[bool, str], float] = {}
    gpus = [device] if device.type == "cuda" else []
    for form in itertools.product(formats, precisions):
        with torch.random.fork_rng(devices=gpus):
            seconds[form] = _seconds(form, model, hooks, batch, loss)
    best, *others = seconds
    for form in others:
        if seconds[best] > WORTH * seconds[form]:
            best = form
    rest = ", ".join(f"{_words(form)} {1e3 * s:.3g}" for form, s in seconds.items() if form != best)
    sentence = f"{_words(best)}: {1e3 * seconds[best]:.3g} ms forward and backward" + (f" ({rest})" if rest else "")
    return _with_form(recipe, best), sentence


def _with_form(recipe: Recipe, form: tuple[bool, str]) -> Recipe:
    last, precision = form
    return recipe.replace(
        channels_last=last if recipe.channels_last is None else recipe.channels_last,
        precision=precision if recipe.precision == "auto" else recipe.precision,
    )


def _words(form: tuple[bool, str]) -> str:
    return f"{'channels last' if form[0] else 'planes'} in {form[1]}"


def _seconds(form: tuple[bool, str], model: nn.Module, hooks: Hooks, batch: Batch, loss: Loss) -> float:
    """Of the fastest pass, forward and backward, of a copy."""
    last, precision = form
    copies: dict[str, Any] = {name: copy.deepcopy(net) for name, net in {"model": model, **hooks.networks}.items()}
    if last:
        batch = Batch(*(t.to(memory_format=torch.channels_last) for t in batch))
    device, found = batch.input.device, []
    for net in copies.values():
        net.to(device).train()
        if last:
            net.to(memory_format=torch.channels_last)
    net = copies.pop("model")
    for _ in range(1 + STEPS):
        if hooks.before_forward:
            hooks.before_forward(net, 0)
        begun = _now(device)
        with torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            value = loss(net, batch, copies)
        value.backward()
        found.append(_now(device) - begun)
    return min(found[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
