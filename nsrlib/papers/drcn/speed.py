"""DRCN's fast forms against the plain one: time, memory and the difference of their outputs, on one CPU thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.bench.clock import CpuClock, cpu_threads
from nsrlib.models.drcn import DRCN, FastDRCN
from nsrlib.training import seeded

FIRST = "naive: D predictions, then their sum"


def network(features: int, recursions: int) -> DRCN:
    """Random weights that change the picture a little."""
    with seeded(0):
        return DRCN(features=features, recursions=recursions, recur_init=0.9, last_gain=0.1).eval()


def picture(side: int) -> Tensor:
    """A smooth picture ``(1, 1, side, side)``."""
    with seeded(0):
        return F.interpolate(torch.rand(1, 1, 16, 16), size=(side, side), mode="bilinear")


def table(repeats: int = 3, compiled: bool = False, side: int = 128) -> pd.DataFrame:
    """The forms of F = 96, D = 9 in turns, medians of ``repeats``, on a smooth picture with random weights.

    bfloat16 runs once, on a part of half the side: where the CPU has no units for it, it is emulated.

    Args:
        compiled: ``torch.compile`` too.

    Returns:
        Seconds and MB (beyond weights, input and output included) per megapixel, times as fast as the plain form, and
        the largest difference to its output.
    """
    net, whole = network(96, 9), picture(side)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        FIRST: lambda v: net(v)[0],
        "collapsed, library calls": FastDRCN(net, winograd=False),
        "collapsed and Winograd (the default)": FastDRCN(net),
    }
    if compiled:
        forms["collapsed, torch.compile"] = FastDRCN(net, compile=True)
    inputs = dict.fromkeys(forms, whole)
    forms["collapsed, bfloat16"] = FastDRCN(net, torch.bfloat16)
    inputs["collapsed, bfloat16"] = whole[..., : side // 2, : side // 2]
    calls = {label: partial(form, inputs[label]) for label, form in forms.items()}
    with torch.inference_mode(), cpu_threads(1):
        answer = {label: call() for label, call in calls.items()}
        peak = {label: CpuClock().peak(call) / 1e6 for label, call in calls.items()}
        emulated = calls.pop("collapsed, bfloat16")
        seconds = medians(calls, repeats) | medians({"collapsed, bfloat16": emulated}, 1)
    megapixels = {k: y[0, 0].numel() / 1e6 for k, y in answer.items()}
    apart = {k: (y - answer[FIRST][..., : y.shape[2], : y.shape[3]]).abs().max() for k, y in answer.items()}
    each = pd.Series({k: s / megapixels[k] for k, s in seconds.items()})
    return pd.DataFrame(
        {
            "seconds per megapixel": each,
            "times as fast": each[FIRST] / each,
            "MB per megapixel": {k: mb / megapixels[k] for k, mb in peak.items()},
            "largest difference": {k: f"{gap:.1e}" for k, gap in apart.items()},
        }
    )


def against_plain(networks: Mapping[str, DRCN], repeats: int = 3, side: int = 128) -> pd.DataFrame:
    """The form that :func:`nsrlib.models.optimise` chooses beside the plain one, in turns, medians of ``repeats``.

    Returns:
        A row for each network: F, D, form, seconds of both on one picture of ``side`` x ``side``, times as fast.

    Example:
        >>> rows = against_plain({"a small one": network(4, 2)}, repeats=1, side=16)
        >>> rows[["F", "D", "form"]].values.tolist()
        [[4, 2, 'library calls']]
    """
    rows, whole = {}, picture(side)
    with torch.inference_mode(), cpu_threads(1):
        for label, net in networks.items():
            fast = FastDRCN(net)
            for form in (net, fast):
                form(whole[..., :16, :16])  # warms up
            seconds = medians({"plain": partial(net, whole), "default": partial(fast, whole)}, repeats)
            rows[label] = {
                "F": net.features,
                "D": net.recursions,
                "form": "Winograd" if fast.winograd else "library calls",
                "plain (s)": seconds["plain"],
                "default (s)": seconds["default"],
                "times as fast": seconds["plain"] / seconds["default"],
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def medians(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each call: the median of ``repeats``, taken in turns, so that a busy moment meets all of them."""
    clock = CpuClock()
    taken: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(repeats):
        for label, call in calls.items():
            taken[label].append(clock.launch(call) / 1000)
    return {label: median(seconds) for label, seconds in taken.items()}
