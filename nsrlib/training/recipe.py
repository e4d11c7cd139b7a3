"""How a network is trained: a :class:`Recipe`, checked when it is made, and the :class:`Hooks` of a paper beyond it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHOICES = {
    "loss": ("l1", "l2", "charbonnier"),
    "optimiser": ("adam", "adamw", "sgd"),
    "schedule": ("constant", "cosine", "linear", "multistep", "plateau"),
    "precision": ("float32", "bfloat16", "auto"),
}

_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    float: ((int, float), "a number"),
    str: (str, "a word"),
    tuple: ((tuple, list), "a sequence"),
}


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("iterations batch patch patience", lambda v: _whole(v, 1), "a positive whole number"),
    ("warmup seed", lambda v: _whole(v, 0), "a whole number, 0 or more"),
    *((name, words.__contains__, f"one of {', '.join(words)}") for name, words in _CHOICES.items()),
    ("lr", lambda v: 0 < v < math.inf, "positive"),
    ("weight_decay lr_min clip_norm clip_value", lambda v: 0 <= v < math.inf, "0 or more"),
    ("ema momentum", lambda v: 0 <= v < 1, "in [0, 1)"),
    ("milestones", lambda v: all(0 < f < 1 for f in v) and list(v) == sorted(v), "rising fractions between 0 and 1"),
    ("betas", lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers in [0, 1)"),
    ("gamma", lambda v: 0 < v < 1, "between 0 and 1"),
)
"""Fields, what holds of each, and that in words."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; ``loss``, ``optimiser``, ``schedule`` and ``precision`` are words.

    Attributes:
        batch: patches a step, over all processes.
        patch: side of the input patch in pixels (of the low-resolution image, unless the input is upscaled first).
        loss: ``l1``, ``l2`` or ``charbonnier`` (epsilon 1e-3), the mean over all elements.
        optimiser: ``adam``, ``adamw`` or ``sgd`` (with ``momentum``).
        lr: learning rate at the start.
        lr_scale: pairs (pattern of parameter names, factor); the first that matches multiplies ``lr``.
        weight_decay: for weights; biases and other vectors are spared.
        schedule: ``cosine`` or ``linear``: from ``lr`` to ``lr_min``; ``multistep``: times ``gamma`` at each of
            ``milestones``; ``plateau``: times ``gamma`` when ``patience`` validations in a row have not been better,
            end below ``lr_min``; ``constant``.
        milestones: as fractions of ``iterations``, so that a shorter training keeps its shape.
        warmup: steps of linear rise from 0.
        clip_norm, clip_value: largest Euclidean norm of the whole gradient, and of an element; 0: no clipping.
        ema: decay of the running mean of the weights, which is then what is validated and returned; 0: none.
        precision: ``float32``; ``bfloat16`` for autocast; ``auto``: the faster one.
        channels_last: memory format of weights and patches; None: the faster one. What is left open is decided by a few
            steps before the first, see :mod:`nsrlib.training.speed`, and kept when a run goes on.
        compile: ``torch.compile`` the network. Pays on GPUs; on a CPU a step of these networks became 1.5 times slower.
        seed: of weights drawn by :func:`fit`'s caller with :func:`seeded`, of patches and of noise.

    Raises:
        ValueError: names the field, the value and what is accepted.
    """

    iterations: int = 10_000
    batch: int = 16
    patch: int = 48
    loss: str = "l1"
    optimiser: str = "adam"
    lr: float = 1e-3
    lr_scale: tuple[tuple[str, float], ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    lr_min: float = 1e-7
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    patience: int = 5
    warmup: int = 0
    clip_norm: float = 0.0
    clip_value: float = 0.0
    ema: float = 0.0
    precision: str = "float32"
    channels_last: bool | None = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            accepted, words = _KINDS.get(kind, (object, ""))
            if value is None and field.name == "channels_last":
                continue
            if not isinstance(value, accepted) or (kind is float and isinstance(value, bool)):
                raise ValueError(f"{field.name} must be {words}, got {value!r}")
        try:  # lists come from JSON
            object.__setattr__(self, "lr_scale", tuple((str(p), float(f)) for p, f in self.lr_scale))
        except (TypeError, ValueError):
            raise ValueError(f"lr_scale must be pairs (pattern, factor), got {self.lr_scale!r}") from None
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for names, holds, words in _RULES:
            for name in names.split():
                if not holds(value := getattr(self, name)):
                    raise ValueError(f"{name} must be {words}, got {value!r}")
        if not all(0 <= factor < math.inf for _, factor in self.lr_scale):
            raise ValueError(f"factors of lr_scale must be 0 or more, got {self.lr_scale!r}")

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed. ValueError for a name that is no field."""
        fields = [f.name for f in dataclasses.fields(self)]
        if wrong := sorted(set(changes) - set(fields)):
            raise ValueError(f"a recipe has no {', '.join(wrong)}; it has {', '.join(fields)}")
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        decay = f" to {self.lr_min:g}" if self.schedule in ("cosine", "linear") else ""
        return (
            f"{self.iterations:,} steps of {self.batch} patches of {self.patch}x{self.patch}, {self.loss}, "
            f"{self.optimiser} {self.lr:g}{decay}, {self.schedule}, seed {self.seed}"
        )


def learning_rate(recipe: Recipe, step: int, factor: float = 1.0) -> float:
    """Learning rate of a step (counted from 0); ``factor`` is what the plateaus so far have left of it."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = step / recipe.iterations
    if recipe.schedule == "cosine":
        return recipe.lr_min + 0.5 * (recipe.lr - recipe.lr_min) * (1 + math.cos(math.pi * done))
    if recipe.schedule == "linear":
        return recipe.lr + (recipe.lr_min - recipe.lr) * done
    if recipe.schedule == "multistep":
        return recipe.lr * recipe.gamma ** sum(done >= m for m in recipe.milestones)
    return recipe.lr * factor


Losses = Callable[..., Mapping[str, "Tensor"]]
"""``losses(model, batch, step, **networks) -> {name: term}``; the terms are weighted already and summed."""


@dataclass(frozen=True)
class Hooks:
    """What is called in a training. Steps are counted from 0.

    Attributes:
        losses: called as ``losses(model, batch, step, **networks)``; returns named terms that are summed. None: the
            recipe's loss between the output and the target.
        networks: further networks that are trained along, each with an optimiser of its own after the same recipe.
        before_forward: called with (model, step) first of all, to set what depends on the step.
        before_step: called with (model, step) between the gradients and the optimiser, to rescale gradients.
        after_step: called with (model, steps done) at every row of the log; what it returns goes into that row.
    """

    losses: Losses | None = None
    networks: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
    before_forward: Callable[[Any, int], None] | None = None
    before_step: Callable[[Any, int], None] | None = None
    after_step: Callable[[Any, int], Mapping[str, float] | None] | None = None
