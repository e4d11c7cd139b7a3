"""Every published number with what became of it, and a line for each paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nsrlib.claims.ledger import stored_results
from nsrlib.claims.needs import NEEDS
from nsrlib.claims.numbers import AGREE, HOW, PROTOCOL, judge, known, published, to_the_digit

SCOREBOARD = [
    *("paper", "table", "row", "column", "scale", "metric", "published", "ours", "difference", "how", "verdict"),
    *("to_the_digit", "own", "needs", "reason", "source", "command", "id"),
]
FACT = ["paper", "row", "column", "scale", "metric", "published"]
"""Numbers that are equal in all of these are one fact, however many tables of the paper print it."""

COUNTS = ["own", "reproduced", "to the digit", "agree", "differ", "open", *NEEDS, "quoted", "checked", "quoted differ"]
CLAIM_KINDS = ("training", "no training", "exploratory")
CLAIM_VERDICTS = (
    *("holds", "reversed", "does not hold", "smaller than published", "equivalent", "undecided", "did not train"),
    *("identical", "open"),
)
LINES = ["paper", "own numbers", "reproduced", "to the digit", "agree", "differ", "open", "quoted", "claims"]
_GOOD = ("reproduced", *AGREE, "checked")


def scoreboard(papers: Sequence[str] | None = None) -> pd.DataFrame:
    """Every published number of papers (default: all) with its verdict and the command that measures it.

    Verdicts follow from the stored measurements and today's published numbers. Without stored results all numbers are
    open, or quoted.
    """
    frames = [_numbers(paper) for paper in _all(papers)]
    return pd.concat(frames, ignore_index=True)[SCOREBOARD] if frames else pd.DataFrame(columns=SCOREBOARD)


def _all(papers: Sequence[str] | None) -> list[str]:
    return [name for name in known() if name != PROTOCOL] if papers is None else list(papers)


def _numbers(paper: str) -> pd.DataFrame:
    frame = published(paper).rename(columns={"value": "published"})
    result = stored_results(paper)
    stored = {row["id"]: row for row in result["rows"]} if result else {}
    rows = [_outcome(cell, stored.get(str(cell["id"]))) for cell in frame.drop(columns="needs").to_dict("records")]
    needs = [
        "" if row["how"] != "open" or not own else row.get("needs") or _in_general(word)
        for row, word, own in zip(rows, frame["needs"], frame["own"], strict=True)
    ]
    outcome = pd.DataFrame(rows, columns=["ours", "difference", "how", "verdict", "to_the_digit", "reason"])
    command = result["provenance"]["command"] if result else f"nsr reproduce {paper}"
    return pd.concat([frame.drop(columns="needs"), outcome], axis=1).assign(paper=paper, command=command, needs=needs)


def _in_general(needs: str) -> str:
    """The word of :data:`NEEDS` for what a published file says, where no run has looked what is at hand."""
    return needs if needs in NEEDS else needs.partition(" ")[0] or "run"


def _outcome(cell: Mapping[Any, Any], row: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a stored row says of a published number, judged anew."""
    ours = row["ours"] if row and row["how"] in HOW else None
    if row is None or ours is None:
        about = {"needs": row.get("needs", ""), "reason": row["reason"]} if row else {"needs": "", "reason": ""}
        verdict = "open" if cell["own"] else "quoted"
        return {"ours": None, "difference": None, "how": "open", "verdict": verdict, "to_the_digit": False} | about
    printed = cell["published"]
    return {
        "ours": ours,
        "difference": ours - float(printed),
        "how": row["how"],
        "verdict": judge(ours, printed, cell["metric"], row["how"], own=cell["own"], source=cell["source"]),
        "to_the_digit": row["how"] == "weights" and to_the_digit(ours, printed),
        "reason": row["reason"],
    }


def facts(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a scoreboard, one for each of :data:`FACT`: of several places an own, measured, agreeing one."""
    good, measured = rows["verdict"].isin(_GOOD), rows["how"] != "open"
    best = rows.assign(_own=~rows["own"], _measured=~measured, _good=~good)
    best = best.sort_values(["_own", "_measured", "_good"], kind="stable")
    best = best[~best.duplicated(FACT)].sort_index()
    return best.drop(columns=["_own", "_measured", "_good"])


def count(rows: pd.DataFrame) -> pd.DataFrame:
    """Facts of a scoreboard counted by paper.

    Columns: own (numbers), of these reproduced, to the digit (reproduced with weights, and every digit equal), agree
    (with a rounded number, with memory, cut), differ, open, and open by what is needed (:data:`NEEDS`); quoted
    (numbers from others), of these checked and differing.
    """
    lines = {}
    for paper, cells in facts(rows).groupby("paper", sort=False):
        own, others = cells[cells["own"]], cells[~cells["own"]]
        kind = own["verdict"]
        lines[paper] = {
            "own": len(own),
            "reproduced": (kind == "reproduced").sum(),
            "to the digit": ((kind == "reproduced") & (own["how"] == "weights") & own["to_the_digit"]).sum(),
            "agree": kind.isin(AGREE).sum(),
            "differ": (kind == "differs").sum(),
            "open": (kind == "open").sum(),
            **{word: ((kind == "open") & (own["needs"] == word)).sum() for word in NEEDS},
            "quoted": len(others),
            "checked": (others["verdict"] == "checked").sum(),
            "quoted differ": (others["verdict"] == "differs").sum(),
        }
    return pd.DataFrame.from_dict(lines, "index", columns=COUNTS).rename_axis("paper").astype(int)


def count_claims(claims: Mapping[str, Iterable[Mapping[str, Any]]]) -> pd.DataFrame:
    """The judged claims of papers counted: a row a paper, a column for each pair of kind and verdict that occurs.

    The kinds are ``training``, ``no training`` (theorems and printed numbers decide) and ``exploratory``, for claims
    about training that were not registered before their runs.
    """
    pairs = {
        paper: Counter((_kind(claim), str(claim["verdict"])) for claim in of_one) for paper, of_one in claims.items()
    }
    found = {pair for counted in pairs.values() for pair in counted}
    order = sorted(found, key=lambda pair: (CLAIM_KINDS.index(pair[0]), _place(pair[1])))
    columns = pd.MultiIndex.from_tuples(order, names=["kind", "verdict"])
    rows = [[counted[pair] for pair in order] for counted in pairs.values()]
    return pd.DataFrame(rows, index=pd.Index(list(pairs), name="paper"), columns=columns, dtype=int)


def _kind(claim: Mapping[str, Any]) -> str:
    if claim.get("kind") in ("check", "cells"):
        return "no training"
    return "exploratory" if claim.get("registered") == "exploratory" else "training"


def _place(verdict: str) -> tuple[int, str]:
    return (CLAIM_VERDICTS.index(verdict) if verdict in CLAIM_VERDICTS else len(CLAIM_VERDICTS)), verdict


def stored_claims(papers: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """The judged claims in the stored results, by paper."""
    return {paper: (stored_results(paper) or {}).get("claims", []) for paper in _all(papers)}


def sentence(counts: pd.DataFrame) -> str:
    """What :func:`count` says of all its papers together.

    Example:
        >>> counts = count(scoreboard(["bsrn"]).query("id == 'comparison/BSRN/x4/params'"))
        >>> sentence(counts)[:58]
        'Of the 1 numbers that the paper reports as its own, 1 are '
    """
    total = counts.sum()
    words = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
    who = (
        "the paper reports as its"
        if len(counts) == 1
        else f"the {words.get(len(counts), len(counts))} papers report as their"
    )
    text = (
        f"Of the {total['own']:,} numbers that {who} own, {total['reproduced']:,} are reproduced, "
        f"{total['agree']:,} agree with a number that is rounded, cut or known from memory, {total['differ']:,} differ "
        f"and {total['open']:,} are open" + (f": {needs}." if (needs := by_need(total)) else ".")
    )
    if total["quoted"]:
        text += f" Of {total['quoted']:,} by others that stand beside them, {total['checked']:,} are checked"
        text += f" and {total['quoted differ']:,} differ." if total["quoted differ"] else "."
    return text


WORDS = {
    "run": "a longer run",
    "data": "data",
    "weights": "weights",
    "training": "training",
    "hardware": "hardware",
    "network": "a network",
    "not released": "not released",
}


def by_need(line: Any) -> str:
    """What the open numbers of a line need, in words: ``24 training, 3 data``."""
    needs = sorted((word for word in NEEDS if line[word]), key=lambda word: -line[word])
    return ", ".join(f"{line[word]:,} {WORDS[word]}" for word in needs)


def in_words(judged: pd.Series) -> str:
    """A row of :func:`count_claims`: ``2 hold, 6 undecided; no training: 3 hold``."""
    plural = {"holds": "hold", "does not hold": "do not hold"}
    by_kind: dict[str, list[str]] = {}
    for (kind, verdict), n in zip(judged.index.tolist(), judged.tolist(), strict=True):
        if not n:
            continue
        by_kind.setdefault(kind, []).append(f"{n} {verdict if n == 1 else plural.get(verdict, verdict)}")
    parts = [("" if kind == "training" else f"{kind}: ") + ", ".join(words) for kind, words in by_kind.items()]
    return "; ".join(parts) or "none judged"


def lines(counts: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """:func:`count` and :func:`count_claims` as texts for a page, a row a paper."""
    rows = []
    for line in counts.reset_index().to_dict("records"):
        paper = line["paper"]
        numbers = {name: f"{line[name]:,}" for name in ("reproduced", "to the digit", "agree", "differ")}
        rows.append(
            {"paper": paper, "own numbers": f"{line['own']:,}"}
            | numbers
            | {
                "open": f"{line['open']:,}" + (f": {needs}" if (needs := by_need(line)) else ""),
                "quoted": f"{line['quoted']:,}" + (f", {line['checked']:,} checked" if line["checked"] else ""),
                "claims": in_words(claims.loc[paper]) if paper in claims.index else "none judged",
            }
        )
    return pd.DataFrame(rows, columns=LINES).set_index("paper")
