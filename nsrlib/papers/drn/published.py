"""DRN's printed tables beside what can be measured without the authors' weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nsrlib import data, evaluation
from nsrlib.claims import measured
from nsrlib.complexity import count
from nsrlib.models import create_model

if TYPE_CHECKING:
    import pandas as pd

RIVALS = ("CP", "ThiNet", "DCP")
"""Criteria whose pruned networks Table 2 prints, all with 30 % of each layer's channels removed."""


def sizes(counts: pd.DataFrame) -> tuple[dict[str, float], dict[str, str]]:
    """The printed sizes that :func:`nsrlib.papers.drn.costs.complexity_table` decides: id -> ours, and id -> reason for
    those that are known to differ."""
    ours: dict[str, float] = {}
    for row in counts.to_dict("records"):
        name = str(row["model"])
        if name.startswith("DRN"):
            key = f"models/{name}/x{row['scale']}/model"
            ours[f"{key}/params"] = row["params"] / 1e6
            ours[f"{key}/multi_adds"] = row["thop_96" if name[-1].isdigit() else "multi_adds_96"]
    table = counts.set_index(["model", "scale"])
    params, plain, thop = (table[column].to_dict() for column in ("params", "multi_adds_96", "thop_96"))
    for name in ("DRN-S", "DRN-L"):
        ours[f"table1/{name}/x4/model/params"] = params[name, 4] / 1e6
        ours[f"table1/{name}/x4/model/multi_adds"] = plain[name, 4]
        ours[f"x8/{name}/x8/model/params"] = params[name, 8] / 1e6
    in_table2 = {"DRN-S": ("DRN-S", plain), "DRN-S-with-DRC": ("DRN-S30", thop)}
    in_table2 |= {f"DRN-S-with-{rival}": ("uniform 30%", plain) for rival in RIVALS}
    for label, (name, rule) in in_table2.items():
        ours[f"table2/{label}/x4/model/params"] = params[name, 4] / 1e3
        ours[f"table2/{label}/x4/model/multi_adds"] = rule[name, 4]
    known = {f"models/{name}/x8/model/multi_adds": "between the two rules; unexplained" for name in ("DRN-S", "DRN-L")}
    known["table2/DRN-S/x4/model/params"] = "4.8 M, written in K"
    fewer = "30 % off every layer leaves fewer; unexplained"
    return ours, known | {f"table2/DRN-S-with-{rival}/x4/model/params": fewer for rival in RIVALS}


def conventions(counts: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Multiply-adds (G) at x4 for an input of 96x96 and for an output of 1280x720, beside what Tables 1 and 2 print."""
    import pandas as pd

    rows = {}
    for name in ("edsr", "vdsr"):
        with torch.device("meta"):
            model = create_model(name, 4)
        rows[name.upper()] = [count(model, (96, 96)).multi_adds / 1e9, count(model).multi_adds / 1e9]
    table = counts[counts["scale"] == 4].set_index("model")
    for name in ("DRN-S", "DRN-S30"):
        rows[name] = [table["multi_adds_96"][name], table["multi_adds_720p"][name]]
    mixed = pd.DataFrame.from_dict(rows, "index", columns=["96x96 input (G)", "1280x720 output (G)"])
    adds = printed[printed["metric"].eq("multi_adds") & printed["column"].eq("model")]
    for name, title in (("table1", "Table 1 prints"), ("table2", "Table 2 prints")):
        of_table = adds[adds["table"] == name].set_index("row")["value"].rename(index={"DRN-S with DRC": "DRN-S30"})
        mixed[title] = [of_table.get(network, "") for network in mixed.index]
        mixed.loc["IMDN", title] = of_table["IMDN"]
    return mixed.rename_axis("network")


def bicubic(names: Sequence[str], limit: int | None = None) -> pd.DataFrame:
    """The bicubic row at x4 and x8, of the sets that are at hand, in the two ways that papers use.

    Columns scale, set, way (``luma``: gray files as they are, the HR luma resized; ``colour``: RGB at 8 bit, gray files
    as three equal channels), psnr, ssim.
    """
    import pandas as pd

    rows = []
    for scale in (4, 8):
        for name in names:
            try:
                one = data.load(name, scale, limit=limit)
            except data.DataUnavailable:
                continue
            luma = evaluation.protocol_sensitivity(one, 1).iloc[0]
            rows.append((scale, name, "luma", luma["psnr"], luma["ssim"]))
    colour = measured([("Bicubic", "bicubic", scale) for scale in (4, 8)], names, limit=limit or 0)
    rows += [(m["scale"], m["set"], "colour", m["psnr"], m["ssim"]) for m in colour.to_dict("records")]
    return pd.DataFrame(rows, columns=["scale", "set", "way", "psnr", "ssim"])


def table(printed: pd.DataFrame, name: str, scale: int, measured: pd.DataFrame) -> pd.DataFrame:
    """A table of the paper as it prints it, with the rows that :func:`bicubic` measured at its end."""
    import pandas as pd

    rows = printed[(printed["table"] == name) & (printed["scale"] == scale)]
    wide = rows.pivot_table(index="row", columns=["column", "metric"], values="value", aggfunc="first", sort=False)
    out = pd.DataFrame(index=wide.index)
    for metric, title in (("params", "parameters"), ("multi_adds", "multiply-adds (G)")):
        if ("model", metric) in wide:
            unit = rows.loc[rows["metric"] == metric, "unit"].iloc[0]
            out[f"{title} ({unit})" if metric == "params" else title] = wide["model", metric]
    for column in [c for c in dict.fromkeys(rows["column"]) if c != "model"]:
        out[column] = wide[column, "psnr"] + " / " + wide[column, "ssim"]
    titles = {str(column).lower(): column for column in out}
    for way, mine in measured[measured["scale"] == scale].groupby("way", sort=False):
        scores = mine.to_dict("records")
        cells = {titles.get(m["set"], m["set"]): f"{m['psnr']:.2f} / {m['ssim']:.3f}" for m in scores}
        out.loc[f"Bicubic, measured ({way})"] = pd.Series(cells).reindex(out.columns)
    return out.fillna("")
