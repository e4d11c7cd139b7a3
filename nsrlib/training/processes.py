"""Several processes that train one network together, and signals that stop them."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from nsrlib.evaluation import pick_device


@dataclass(frozen=True)
class Processes:
    """This process, of number ``rank`` among the ``count`` that train one network together."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes and validates."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """This process's part of a batch. ValueError if the batch cannot be divided."""
        if batch % self.count:
            raise ValueError(f"recipe.batch={batch} cannot be divided among {self.count} processes")
        own = batch // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def told_by_first(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def mean(self, values: Tensor) -> Tensor:
        """Means over all processes, in float64 on the CPU; with equal shares the mean of means is the mean."""
        if self.count > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
        return values.cpu().double() / self.count  # in this order: a Mac's GPU has no float64

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number over all processes."""
        if self.count == 1:
            return list(numbers)
        highest = torch.tensor(numbers, device=self.device)
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
        return highest.tolist()


@contextmanager
def joined(device: str | torch.device) -> Iterator[Processes]:
    """This process; joins the others if ``torchrun`` started several."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(pick_device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = str(device).startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    place = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(place)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(minutes=10))
        # kept for further calls: a group that is left and joined again finds the addresses of the old one
        atexit.register(torch.distributed.destroy_process_group)
    yield Processes(place, rank, count)


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM puts its number into; the second Ctrl-C interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    # only the main thread may
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
