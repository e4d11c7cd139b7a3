"""Claims at every length of training, the seeds that they still take, and the picture of both."""

from __future__ import annotations

import math
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest

from nsrlib import claims, papers, plots, statistics
from nsrlib.studies import StudyResult

NAMES = ("standard", "DSConv", "BSConv-S", "BSConv-U")
WHOLE, SHORT = 900, 90
REST = (-0.4, 0.5, -0.2, 0.3, -0.5, 0.3)
"""Of each seed; the variants take it in turns, so that no difference is the same in all seeds."""


def result(seeds: int = 6, short: float = 0.1, whole: float = 0.3, names=NAMES, below: float = 0.0) -> StudyResult:
    """BSRN's decompositions: ``standard`` is better by so many dB at either length."""

    def rows() -> Iterator[dict]:
        for steps, effect in ((SHORT, short), (WHOLE, whole)):
            for k, variant in enumerate(names):
                for seed in range(seeds):
                    rest = 0.02 * REST[(seed + k) % len(REST)]
                    psnr = (effect if variant == "standard" else 0) + rest - (below if steps == SHORT else 0)
                    about = {"variant": variant, "seed": seed, "steps": steps, "seconds": 1800.0, "commit": "unknown"}
                    yield from (about | {"set": "set5", "image": i, "psnr": 30 + psnr} for i in "ab")
                    yield from (about | {"set": "set14", "image": i, "psnr": 27.5 + psnr} for i in "ab")

    settings = {v: {"scale": 4, "recipe": {"iterations": WHOLE}} for v in NAMES}
    return StudyResult.of_rows("bsrn decompositions", rows(), settings=settings)


def by_budget(study: StudyResult | None):
    return claims.by_budget("bsrn", {"decompositions": study}).set_index(["id", "steps"])


FIRST = "decompositions/standard->-DSConv/ordering"


def test_a_study_at_one_budget_is_a_study_of_that_length():
    study = result()
    short = study.at(SHORT)
    assert short.budgets == [SHORT]
    assert set(short.table["psnr_set5"].round(1)) != set(study.table["psnr_set5"].round(1))
    assert short.scores().equals(study.scores(steps=SHORT))
    assert study.settings["standard"]["recipe"]["iterations"] == WHOLE
    with pytest.raises(ValueError, match=r"has no runs of 7 steps; there are: \[90, 900\]"):
        study.at(7)


def test_each_claim_is_measured_at_each_length():
    table = by_budget(result())
    assert len(table) == 5 * 2
    assert table.loc[(FIRST, SHORT), "ours"] == pytest.approx(0.1, abs=0.02)
    assert table.loc[(FIRST, WHOLE), "ours"] == pytest.approx(0.3, abs=0.02)
    assert table.loc[(FIRST, WHOLE), ["label", "seeds", "margin", "unit"]].tolist() == [
        "standard - DSConv", 6, 0.05, "dB"]  # fmt: skip
    judged = claims.judge_claims(
        "bsrn", dict.fromkeys(("attention", "activations", "sizes")) | {"decompositions": result()}
    )
    whole = judged.set_index("id").loc[FIRST, ["ours", "low", "high"]].tolist()
    assert table.loc[(FIRST, WHOLE), ["ours", "low", "high"]].tolist() == whole


def test_below_the_floor_there_is_no_difference_but_a_reason():
    table = by_budget(result(below=3))
    short, whole = table.loc[(FIRST, SHORT)], table.loc[(FIRST, WHOLE)]
    assert math.isnan(short["ours"])
    assert "standard is below its floor" in short["reason"]
    assert whole["ours"] == pytest.approx(0.3, abs=0.02)
    assert whole["reason"] == ""


@pytest.mark.parametrize("names", [("standard",), ("standard", "DSConv")])
def test_an_unfinished_study_gives_what_it_has(names):
    table = by_budget(result(1, names=names))
    assert len(table) == 2 * (len(names) - 1)
    assert table["low"].isna().all()
    assert by_budget(None).empty


@pytest.mark.parametrize("whole", [(), ("standard",)])
def test_a_study_of_which_only_short_runs_are_complete_judges_nothing_yet(whole):
    study = result(1)
    rows = study.rows[(study.rows["steps"] == SHORT) | study.rows["variant"].isin(whole)]
    study = StudyResult.of_rows(study.name, rows.to_dict("records"), settings=study.settings)
    others = dict.fromkeys(("attention", "activations", "sizes"))
    judged = claims.judge_claims("bsrn", others | {"decompositions": study}).set_index("id")
    waits_for = "DSConv" if whole else "standard"
    assert tuple(judged.loc[FIRST, ["verdict", "reason"]]) == ("open", f"no runs of {waits_for} yet")
    assert list(by_budget(study).loc[FIRST].index) == [SHORT]


def test_the_seeds_that_are_missing_and_their_hours_are_told():
    studies = dict.fromkeys(("attention", "activations", "sizes")) | {"decompositions": result(2)}
    judged = claims.judge_claims("bsrn", studies)
    row = claims.seeds_missing("bsrn", judged, studies).set_index("id").loc[FIRST]
    assert row[["label", "seeds", "wanted"]].tolist() == ["standard - DSConv", 2, 0.1]
    sd = judged.set_index("id").loc[FIRST, "sd"]
    assert row["needed"] == statistics.seeds_needed(sd, 0.1, variants=4)
    assert row["hours"] == pytest.approx((row["needed"] - 2) * 4 * 0.5)
    one = {**studies, "decompositions": result(1)}
    assert claims.seeds_missing("bsrn", claims.judge_claims("bsrn", one), one).empty


def test_the_picture_has_a_panel_a_claim_and_a_point_a_length():
    table = claims.by_budget("bsrn", {"decompositions": result()})
    table.loc[table["id"] == FIRST, "effect"] = 0.25
    fig = plots.budgets(table, "Decompositions")
    shown = [ax for ax in fig.axes if ax.get_title("left")]
    assert shown[0].get_title("left").replace("\n", " ") == "standard - DSConv 6 seeds"
    assert len(shown) == 5
    assert shown[0].lines[0].get_ydata()[0] == 0
    points = [line for line in shown[0].lines if list(line.get_xdata()) == [SHORT, WHOLE]]
    assert points[0].get_ydata() == pytest.approx(table.loc[table["id"] == FIRST, "ours"].tolist())
    assert [line.get_ydata()[0] for line in shown[0].lines if line.get_linestyle() == "--"] == [0.25]
    assert [text.get_text() for text in shown[0].get_xticklabels()] == ["90", "900"]
    plt.close(fig)
    with pytest.raises(ValueError, match="no difference to draw"):
        plots.budgets(table.assign(ours=math.nan))


def test_a_session_answers_by_patterns(capsys):
    session = papers.open("bsrn", sets="embedded", scale=4)
    session.studies = dict.fromkeys(("attention", "activations", "sizes")) | {"decompositions": result()}
    assert len(session.by_budget("decompositions/BSConv-U*")) == 4
    assert session.seeds_missing(FIRST)["label"].tolist() == ["standard - DSConv"]
    with pytest.raises(ValueError, match="no claim of bsrn fits 'x'"):
        session.by_budget("x")
