"""Which choice of a protocol explains a number: a network measured under every plausible one, and what comes near it.

Somebody reports 30.36 dB where a paper prints 32.35::

    table = measured(create_model("bsrn", 4, pretrained="published"), "set5", 4)
    print("\\n".join(explained(table, 30.36)))
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nsrlib.data import Pair, load
from nsrlib.evaluation import Setting, for_protocol, pick_device, upscale
from nsrlib.images import to_tensor, to_uint8
from nsrlib.metrics import RGB, Protocol, planes
from nsrlib.models import optimise

if TYPE_CHECKING:
    import pandas as pd

WORDS: dict[str, Mapping[Any, str]] = {
    "lr": {
        "paper": "LR in double precision",
        "mirror": "LR as in SwinIR's files",
        "repeat": "LR as in SelfExSR's files",
    },
    "space": {"y": "luma", "rgb": "RGB"},
    "luma_rounding": {"none": "luma not rounded", "nearest": "luma rounded"},
    "crop": {0: "nothing cropped"},
    "quantise": {True: "output at 8 bit", False: "output not rounded"},
    "gray_as_is": {False: "gray as three channels", True: "gray at 0..255"},
}
"""The choices, each with its values in words; any other crop is a number of pixels. The first is BSRN's way."""
CHOICES = tuple(WORDS)


def words(choice: str, value: Any) -> str:
    """A value of a choice as people say it.

    Example:
        >>> words("space", "rgb"), words("crop", 4)
        ('RGB', '4 px cropped')
    """
    return WORDS[choice].get(value) or f"{value} px cropped"


@torch.inference_mode()
def measured(
    network: nn.Module,
    dataset: str | os.PathLike,
    scale: int,
    *,
    limit: int | None = None,
    device: str | torch.device = "auto",
) -> pd.DataFrame:
    """PSNR of a network on a set under every combination of the choices. It sees each image once for each kind of LR.

    The border crop is 0, 1, 2 or the scale. Where all three channels are compared there is no luma to round; gray files
    are a choice only where the set has some. An output that is not rounded is compared as it is, which
    :func:`nsrlib.evaluation.evaluate` never does.

    Args:
        network: upscales RGB by ``scale``.
        dataset: name or folder, see :func:`nsrlib.data.load`.
        limit: only the first so many images.
        device: as :func:`nsrlib.evaluation.pick_device`.

    Returns:
        A row a combination, the default protocol first: the columns of :data:`CHOICES`, psnr (dB, mean over the
        images), changes (which choices differ from the default, in words), protocol and setting (signatures). ``attrs``
        has dataset, scale and images (their number).

    Example:
        >>> from nsrlib.models import create_model
        >>> table = measured(create_model("bicubic", 4), "embedded", 4, limit=1, device="cpu")
        >>> len(table), table["protocol"][0], round(float(table["psnr"][0]), 2)
        (72, 'v1:y,crop=4', 31.48)
    """
    import pandas as pd

    chosen = pick_device(device)
    model = optimise(network, chosen)
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    rows = []
    for lr in WORDS["lr"]:
        images = load(dataset, scale, lr=lr, limit=limit)
        crops = [scale, *sorted({0, 1, 2} - {scale})]
        ways = _uncropped(any(pair.gray for pair in images))
        scores = []
        for pair in images:
            if pair.lr is None:
                raise ValueError(f"scale must be 2 or more, got {scale}")
            output = upscale(model, to_tensor(pair.lr, chosen).to(kind))
            scores.append([_psnr(output, pair, protocol, crops) for protocol in ways])
        setting, means = Setting(scale, lr).signature, np.mean(scores, 0)
        for protocol, row in zip(ways, means, strict=True):
            for crop, value in zip(crops, row, strict=True):
                one = replace(protocol, crop=crop)
                values = {"lr": lr} | {choice: getattr(one, choice) for choice in CHOICES[1:]}
                rows.append(values | {"psnr": float(value), "protocol": one.signature, "setting": setting})
    table = pd.DataFrame(rows)
    changed = [[c for c in CHOICES if row[c] != rows[0][c]] for row in rows]
    said = [", ".join(words(c, row[c]) for c in cs) for cs, row in zip(changed, rows, strict=True)]
    table.insert(len(CHOICES) + 1, "changes", said)
    table.attrs = {"dataset": images.name, "scale": scale, "images": len(images)}
    return table


def _uncropped(gray: bool) -> list[Protocol]:
    """Every combination but LR and the crop, the default first."""
    views = [Protocol(luma_rounding=r, gray_as_is=g) for r in ("none", "nearest") for g in ([False, True][: 1 + gray])]
    return [replace(view, quantise=quantise) for quantise in (True, False) for view in [*views, RGB()]]


def _psnr(output: Tensor, pair: Pair, protocol: Protocol, crops: list[int]) -> list[float]:
    """:func:`nsrlib.metrics.psnr` of one output at several crops; its colours are converted once."""
    sr = to_uint8(output, output=True) if protocol.quantise else output[0].permute(1, 2, 0).float().cpu().numpy()
    x, y = (planes(picture, protocol) for picture in for_protocol(sr, pair.hr, pair.gray, protocol))
    error = (x - y).square()
    h, w = error.shape[-2:]
    return [10 * math.log10(255**2 / float(error[..., c : h - c, c : w - c].mean())) for c in crops]


def alone(table: pd.DataFrame) -> pd.DataFrame:
    """What each single change away from the default protocol does: its rows of ``table``, with the column moved (dB).

    Args:
        table: of :func:`measured`.
    """
    first, choices = table.iloc[0], [choice for choice in CHOICES if choice in table]
    single = (table[choices] != first[choices]).sum(axis=1) == 1
    return table[single].assign(moved=table["psnr"] - first["psnr"])


def near(table: pd.DataFrame, reported: float, tolerance: float = 0.05) -> pd.DataFrame:
    """Combinations within ``tolerance`` dB of a number, nearest first, with the column off (theirs less the number).

    Args:
        table: of :func:`measured`.

    Raises:
        ValueError: a tolerance that is negative or no number; ``reported`` is no number.
    """
    if not math.isfinite(reported):
        raise ValueError(f"reported must be a number of dB, got {reported}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of dB from 0 on, got {tolerance}")
    found = table.assign(off=table["psnr"] - reported)
    return found[found["off"].abs() <= tolerance].sort_values("off", key=abs, kind="stable")


def causes(table: pd.DataFrame, reported: float, tolerance: float = 0.05) -> list[str]:
    """Choices that none of the combinations near a number makes as the default does: without them it is not reached.

    Empty where no combination is near, or one that is makes every choice as the default does.

    Example:
        >>> import pandas as pd
        >>> rows = [("y", 4, 32.35), ("y", 0, 32.14), ("rgb", 4, 30.44), ("rgb", 0, 30.34), ("rgb", 1, 30.38)]
        >>> table = pd.DataFrame(rows, columns=["space", "crop", "psnr"])
        >>> causes(table, 30.36), causes(table, 30.36, 0.1), causes(table, 29)
        (['RGB', '0 or 1 px cropped'], ['RGB'], [])
    """
    found = near(table, reported, tolerance)
    different = [c for c in CHOICES if c in table and len(found) and not (found[c] == table[c].iloc[0]).any()]
    return [_any_of(c, sorted(found[c].unique())) for c in different]


def _any_of(choice: str, values: list[Any]) -> str:
    if choice == "crop" and len(values) > 1:
        return f"{' or '.join(map(str, values))} px cropped"
    return " or ".join(words(choice, value) for value in values)


def explained(table: pd.DataFrame, reported: float, tolerance: float = 0.05, number: int = 6) -> list[str]:
    """Lines that say which choices explain a number: the nearest combinations, then the :func:`conclusion`.

    Args:
        table: of :func:`measured`. reported: dB. number: combinations that are listed.
    """
    first = table.iloc[0]
    usual = f"{first['psnr']:.2f} dB by the default protocol [{first['protocol']} {first['setting']}]"
    within = len(near(table, reported, tolerance))
    lines = [
        f"{reported:.2f} dB reported; {usual}",
        f"within {tolerance:g} dB: {within} of {len(table)} combinations; the nearest:",
    ]
    for row in near(table, reported, math.inf).head(number).to_dict("records"):
        what = row["changes"] or "the default protocol"
        lines.append(f"  {row['psnr']:.3f} dB ({row['off']:+.3f})  {what}  [{row['protocol']} {row['setting']}]")
    return lines + conclusion(table, reported, tolerance)


def conclusion(table: pd.DataFrame, reported: float, tolerance: float = 0.05) -> list[str]:
    """What all combinations near a number share, what one change alone explains, and what none does.

    Example:
        >>> import pandas as pd
        >>> rows = [("y", 4, 32.35, ""), ("rgb", 4, 30.44, "RGB"), ("rgb", 0, 30.34, "RGB, nothing cropped")]
        >>> table = pd.DataFrame(rows, columns=["space", "crop", "psnr", "changes"])
        >>> print("\\n".join(conclusion(table, 30.36, 0.1)))
        all within 0.1 dB have in common: RGB
        the best single change, RGB: -1.910 of -1.990 dB
        no combination gives 30.36: at least 0.015 dB come from something that is not among them
    """
    gap, digit = reported - table["psnr"].iloc[0], 0.005
    if abs(gap) <= digit:
        return ["nothing to explain: it is what the default protocol gives"]
    if shared := causes(table, reported, tolerance):
        lines = [f"all within {tolerance:g} dB have in common: {'; '.join(shared)}"]
    elif near(table, reported, tolerance).empty:
        lines = [f"no combination is within {tolerance:g} dB"]
    else:
        lines = [f"no choice has to differ from the default to come within {tolerance:g} dB"]
    single = near(alone(table), reported, math.inf).iloc[0]
    if abs(single["off"]) < abs(gap):
        lines.append(f"the best single change, {single['changes']}: {single['moved']:+.3f} of {gap:+.3f} dB")
    if (rest := near(table, reported, math.inf)["off"].abs().iloc[0]) > digit:
        missing = f"at least {rest - digit:.3f} dB come from something that is not among them"
        lines.append(f"no combination gives {reported:.2f}: {missing}")
    return lines
