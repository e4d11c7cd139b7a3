"""Every published number with what became of it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nsrlib.claims.ledger import stored_results
from nsrlib.claims.numbers import PROTOCOL, known, published


def scoreboard(papers: Sequence[str] | None = None) -> pd.DataFrame:
    """Every published number of papers (default: all) with its verdict and the command that measures it.

    Papers without stored results are all ``open``.
    """
    frames = []
    for paper in [name for name in known() if name != PROTOCOL] if papers is None else papers:
        frame = published(paper).rename(columns={"value": "published"})
        result = stored_results(paper)
        outcome = ["id", "ours", "difference", "how", "verdict", "reason"]
        frame = frame.merge(pd.DataFrame(result["rows"] if result else [], columns=outcome), on="id", how="left")
        frame[["how", "verdict"]] = frame[["how", "verdict"]].fillna("open")
        frame["reason"] = frame["reason"].fillna("")
        frame.insert(0, "paper", paper)
        frame["command"] = result["provenance"]["command"] if result else f"nsr reproduce {paper}"
        frames.append(frame)
    columns = ["paper", "table", "row", "column", "scale", "metric", "published", "ours", "difference"]
    columns += ["how", "verdict", "reason", "source", "command", "id"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
