"""All that a checkpoint keeps of a training: networks, running mean, optimisers, plateaus, and what was logged."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsrlib.data.patches import Patches
from nsrlib.training.recipe import Recipe, learning_rate

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw a network's first weights from ``seed``, on the CPU, and leave its generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Plateau:
    """What the schedule ``plateau`` has left of the learning rate: ``factor``, smaller when validations stall."""

    def __init__(self, gamma: float, patience: int) -> None:
        self.gamma, self.patience = gamma, patience
        self.factor, self.best, self.stalled = 1.0, -math.inf, 0

    def see(self, quality: float) -> None:
        """Take note of a validation: larger is better."""
        self.stalled = 0 if quality > self.best else self.stalled + 1
        self.best = max(quality, self.best)
        if self.stalled >= self.patience:
            self.factor, self.stalled = self.factor * self.gamma, 0


class State:
    """A training as far as it is: ``step`` steps of ``recipe`` on ``data``, in ``seconds``.

    Attributes:
        mean: the running mean of the model's weights, as ``torch.optim.swa_utils`` has it, or None.
        rows: of the log. window: the losses since the last row, still on the device.
    """

    def __init__(self, model: nn.Module, networks: Mapping[str, nn.Module], recipe: Recipe, data: Patches) -> None:
        self.recipe, self.data, self.settings = recipe, data, dataclasses.asdict(recipe)
        self.model = model.to(data.device).train()
        self.networks = {name: net.to(data.device).train() for name, net in networks.items()}
        every = {"model": self.model, **self.networks}
        if recipe.channels_last:
            for net in every.values():
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p for net in every.values() for p in net.parameters()]
        self.optimisers = {name: _optimiser(net, recipe, data.device) for name, net in every.items()}
        self.mean: Any = None
        if recipe.ema:
            from torch.optim.swa_utils import AveragedModel

            self.mean = AveragedModel(self.model, multi_avg_fn=_running_mean(recipe.ema), use_buffers=True)
        self.step, self.seconds, self.clock = 0, 0.0, 0.0
        self.plateau = Plateau(recipe.gamma, recipe.patience)
        self.rows: list[dict[str, float]] = []
        self.window: list[dict[str, Tensor]] = []

    def learning_rate(self, step: int) -> float:
        return learning_rate(self.recipe, step, self.plateau.factor)

    def ended(self) -> bool:
        """Whether all steps are done, or the plateaus have left too little of the learning rate."""
        recipe = self.recipe
        flat = recipe.schedule == "plateau" and recipe.lr * self.plateau.factor < recipe.lr_min
        return flat or self.step >= recipe.iterations

    def prepare(self) -> None:
        """Set the learning rate of the next step and forget the gradients of the last."""
        lr = self.learning_rate(self.step)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = lr * group["lr_scale"]
            optimiser.zero_grad(set_to_none=True)

    def update(self) -> None:
        """Clip the gradients and move all weights, and then their running mean."""
        if self.recipe.clip_value:
            nn.utils.clip_grad_value_(self.parameters, self.recipe.clip_value)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        for optimiser in self.optimisers.values():
            optimiser.step()
        if self.mean:
            self.mean.update_parameters(self.model)
        self.step += 1

    def elapsed(self) -> float:
        """Bring ``seconds`` up to date; returns them to the millisecond."""
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        return round(self.seconds, 3)

    def weights_are_finite(self) -> bool:
        """A finite loss may have an infinite gradient (a square root at 0), which the next loss would only show."""
        with torch.no_grad():
            return bool(nn.utils.get_total_norm(self.parameters, math.inf).isfinite())  # asked once for all

    def is_sound(self) -> bool:
        """Whether all weights, and all losses since the last row, are numbers."""
        return all(bool(losses["loss"].isfinite()) for losses in self.window) and self.weights_are_finite()

    def current(self) -> nn.Module:
        """The network that is validated: the running mean where there is one."""
        return self.mean.module if self.mean else self.model

    def result(self) -> nn.Module:
        """The trained network in evaluation mode, with the running mean of its weights where there is one."""
        if self.mean:
            self.model.load_state_dict(self.mean.module.state_dict())
        return self.model.eval()

    def content(self) -> dict[str, Any]:
        """What :meth:`restore` takes."""
        self.elapsed()
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "ema": self.mean.state_dict() if self.mean else None,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "plateau": [self.plateau.factor, self.plateau.best, self.plateau.stalled],
            "rows": self.rows,
            "window": self.window,
            "seconds": self.seconds,
            "recipe": self.settings,
            "data": self.data.fingerprint,
        }

    def restore(self, kept: Mapping[str, Any], where: Path) -> None:
        """Go on from a checkpoint in ``where``. ValueError: it is of another recipe, other data or another network."""
        before = kept["recipe"]
        changed = [f"{k} {before.get(k)!r} -> {v!r}" for k, v in self.settings.items() if before.get(k) != v]
        if kept["data"] != self.data.fingerprint:
            changed.append("the training images")
        if set(kept["networks"]) != set(self.networks):
            changed.append(f"networks {sorted(kept['networks'])} -> {sorted(self.networks)}")
        if changed:
            raise ValueError(
                f"{where} holds a run with another recipe ({'; '.join(changed)}); "
                "take another folder, or resume=False to start anew"
            )
        try:
            self.model.load_state_dict(kept["model"])
            for name, net in self.networks.items():
                net.load_state_dict(kept["networks"][name])
            if self.mean:
                self.mean.load_state_dict(kept["ema"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(kept["optimisers"][name])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{where} holds a run of another network: {reason}") from None
        self.step, self.rows, self.window, self.seconds = (kept[k] for k in ("step", "rows", "window", "seconds"))
        self.plateau.factor, self.plateau.best, self.plateau.stalled = kept["plateau"]


def _running_mean(decay: float) -> Callable[..., None]:
    def update(means: Any, current: Any, count: Tensor) -> None:
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, current, 1 - decay)
        else:  # counts and indices have no mean
            torch._foreach_copy_(means, current)

    return torch.no_grad()(update)


def _optimiser(network: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = next((f for pattern, f in recipe.lr_scale if fnmatch.fnmatchcase(name, pattern)), 1.0)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    if not groups:
        raise ValueError(f"{type(network).__name__} has no parameters to train")
    members = [
        {"params": params, "lr": recipe.lr * scale, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), params in groups.items()
    ]
    options: dict[str, Any] = {"momentum": recipe.momentum} if recipe.optimiser == "sgd" else {"betas": recipe.betas}
    # one call for all parameters: small networks would spend more time in the optimiser than in their layers
    fused = all(p.dtype == torch.float32 for group in groups.values() for p in group) and device.type in ("cpu", "cuda")
    return OPTIMISERS[recipe.optimiser](members, fused=fused, **options)
