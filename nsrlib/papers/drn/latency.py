"""How much of the multiply-adds that pruning saves is saved in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from nsrlib.bench.networks import latency
from nsrlib.complexity import count

if TYPE_CHECKING:
    import pandas as pd


def realised(networks: Mapping[str, nn.Module], size: tuple[int, int], repeats: int = 5) -> pd.DataFrame:
    """Seconds of a pass on one CPU thread and multiply-adds (G) of networks, the first of which is not pruned.

    Columns seconds, multiply-adds (G), time saved, multiply-adds saved (shares of the first's) and realised, the
    quotient of the two.
    """
    import pandas as pd

    seconds = latency(networks, [size], repeats=repeats, threads=1, device="cpu").set_index("model")["seconds"]
    adds = pd.Series({k: count(n, size).multi_adds / 1e9 for k, n in networks.items()})
    table = pd.DataFrame({"seconds": seconds, "multiply-adds (G)": adds})
    table["time saved"] = 1 - seconds / seconds.iloc[0]
    saved = table["multiply-adds saved"] = 1 - adds / adds.iloc[0]
    table["realised"] = table["time saved"] / saved.where(saved > 0)
    return table.loc[list(networks)]
