"""What a paper's training does beyond its recipe: losses, further networks, and functions called around each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    before_forward: Callable[[Any, int], None] | None = None
    before_step: Callable[[Any, int], None] | None = None
    after_step: Callable[[Any, int], Mapping[str, float] | None] | None = None
