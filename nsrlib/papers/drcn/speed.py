"""DRCN's fast forms against the plain one: time, memory and the difference of their outputs, on one CPU thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from nsrlib.bench.clock import CpuClock
from nsrlib.models.drcn import DRCN, FastDRCN
from nsrlib.training import seeded

FIRST = "naive: D predictions, then their sum"


def table(repeats: int = 3, compiled: bool = False) -> pd.DataFrame:
    """The forms in turns, the best of ``repeats``, on a smooth picture of 256x256 with random weights.

    bfloat16 runs once, on a part of 64x64: where the CPU has no units for it, it is emulated.

    Args:
        compiled: ``torch.compile`` too.

    Returns:
        Seconds and MB (beyond weights, input and output included) per megapixel, times as fast as the plain form, and
        the largest difference to its output.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with seeded(0):
        net = DRCN(features=96, recursions=9, recur_init=0.9, last_gain=0.1).eval()
        picture = F.interpolate(torch.rand(1, 1, 16, 16), size=(256, 256), mode="bilinear")
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        FIRST: lambda v: net(v)[0],
        "collapsed, library calls": FastDRCN(net, winograd=False),
        "collapsed and Winograd (the default)": FastDRCN(net),
    }
    if compiled:
        forms["collapsed, torch.compile"] = FastDRCN(net, compile=True)
    inputs = dict.fromkeys(forms, picture)
    forms["collapsed, bfloat16"] = FastDRCN(net, torch.bfloat16)
    inputs["collapsed, bfloat16"] = picture[..., :64, :64]
    best, peak, answer = dict.fromkeys(forms, float("inf")), {}, {}
    clock = CpuClock()
    try:
        with torch.inference_mode():
            for label, form in forms.items():  # warms up, too
                answer[label] = form(inputs[label])
                peak[label] = clock.peak(partial(form, inputs[label])) / 1e6
            for turn in range(repeats):
                for label, form in forms.items():
                    if inputs[label] is picture or turn == 0:
                        best[label] = min(best[label], clock.launch(partial(form, inputs[label])) / 1000)
    finally:
        torch.set_num_threads(threads)
    megapixels = {k: y[0, 0].numel() / 1e6 for k, y in answer.items()}
    apart = {k: (y - answer[FIRST][..., : y.shape[2], : y.shape[3]]).abs().max() for k, y in answer.items()}
    seconds = pd.Series({k: s / megapixels[k] for k, s in best.items()})
    return pd.DataFrame(
        {
            "seconds per megapixel": seconds,
            "times as fast": seconds[FIRST] / seconds,
            "MB per megapixel": {k: mb / megapixels[k] for k, mb in peak.items()},
            "largest difference": {k: f"{gap:.1e}" for k, gap in apart.items()},
        }
    )
