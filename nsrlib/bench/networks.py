"""Seconds of one pass of networks, side by side."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from nsrlib.bench.clock import cpu_threads
from nsrlib.evaluation import pick_device
from nsrlib.files import commit, cpu_name, device_name, versions, whole_file, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from torch import Tensor, nn


SIZES = ((128, 128), (180, 320))


def latency(
    models: Mapping[str, nn.Module],
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    device: str | torch.device = "auto",
    repeats: int = 5,
    threads: int | None = None,
    budget: float = math.inf,
) -> pd.DataFrame:
    """Seconds of one forward pass, best of ``repeats``, the models taken in turns so that a busy moment hits all.

    Args:
        models: networks that take three channels, used as they are.
        sizes: low-resolution ``(H, W)``.
        threads: of the CPU; default: PyTorch's.
        budget: minutes. No size and no turn is begun after them, but one of each network at the first size.

    Returns:
        Columns model, input ("WxH"), seconds; attrs: device, threads, repeats.

    Raises:
        ValueError: ``repeats`` or ``threads`` below 1, or no such device.
    """
    import pandas as pd

    until = time.monotonic() + 60 * budget
    for name, number in (("repeats", repeats), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    chosen = pick_device(device)
    rows: list[dict[str, object]] = []
    ready = {label: model.to(chosen).eval() for label, model in models.items()}
    # upscaled to a smooth input: on noise some networks leave their trained range
    thumbnail = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with cpu_threads(threads):
        for h, w in sizes:
            if rows and time.monotonic() >= until:
                break
            x = F.interpolate(thumbnail, size=(h, w), mode="bilinear", align_corners=False).to(chosen)
            best = dict.fromkeys(ready, float("inf"))
            for turn in range(repeats + 1):
                if turn > 1 and time.monotonic() >= until:
                    break
                for label, model in ready.items():
                    seconds = seconds_of(model, x)
                    if turn:  # the first turn warms up
                        best[label] = min(best[label], seconds)
            rows += [{"model": label, "input": f"{w}x{h}", "seconds": s} for label, s in best.items()]
    table = pd.DataFrame(rows)
    table.attrs = {"device": str(chosen), "threads": threads or torch.get_num_threads(), "repeats": repeats}
    return table


@torch.inference_mode()
def seconds_of(model: nn.Module, x: Tensor) -> float:
    """Seconds of one pass over ``x``, on the device that holds it: by its events on CUDA, else by the wall clock."""
    if x.is_cuda:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        model(x)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    model(x)
    return time.perf_counter() - begin


def store(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write measured times, or what an audit found: rows as ``.csv``, or as ``.json`` with where they were made."""
    path = Path(path)
    if path.suffix == ".csv":
        with whole_file(path) as draft:
            table.to_csv(draft, index=False)
        return
    hardware = cpu_name() if table.attrs.get("device", "cpu") == "cpu" else device_name()
    about = {"hardware": hardware, "versions": versions(), "commit": commit()}
    write_json(path, {**table.attrs, **about, "rows": table.to_dict("records")})
