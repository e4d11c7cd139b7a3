"""A network that tells how a picture was cut for it."""

from __future__ import annotations

from torch import Tensor, nn


class Counting(nn.Module):
    """Doubles a picture and remembers the sizes it was given."""

    scale, halo, min_size = 2, 4, 1

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[-2:]))
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
