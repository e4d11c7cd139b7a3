"""BSRN's comparison: who is measured how, what may stand beside which printed cell, and Figure 1."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from nsrlib import claims, metrics, plots
from nsrlib.papers.bsrn import comparison, figures


@pytest.fixture(scope="module")
def sizes():
    return comparison.sizes()


def test_the_rows_of_others_are_the_networks_that_the_table_prints(sizes):
    printed = claims.published("bsrn").set_index("id")["value"]
    params = sizes.set_index(["row", "scale"])["params"]
    compared = [(row, scale) for row, scale in params.index if f"comparison/{row}/x{scale}/params" in printed]
    assert compared == [
        *(("BSRN", scale) for scale in (2, 3, 4)), *(("IMDN", scale) for scale in (2, 3, 4)), ("VDSR", 4), ("SRCNN", 4),
    ]  # fmt: skip
    for row, scale in compared:
        assert claims.to_the_digit(params[row, scale], printed[f"comparison/{row}/x{scale}/params"])


def test_imdn_counts_multiply_adds_without_biases_and_rounds_its_x3_input_up(sizes):
    printed = claims.published("bsrn").set_index("id")["value"]
    ours = sizes.query("row == 'IMDN'").set_index("scale")["macs"]
    texts = [printed[f"comparison/IMDN/x{scale}/multi_adds"] for scale in (2, 3, 4)]
    assert [claims.as_printed(ours[scale], text) for scale, text in zip((2, 3, 4), texts, strict=True)] == texts


def test_the_networks_of_challenges_have_names_of_their_own(sizes):
    params = sizes.set_index("row")["params"]
    for name in ("RFDN (433 K)", "IMDN (894 K)"):
        assert f"({params[name]:.0f} K)" in name
    assert not {"RFDN (433 K)", "IMDN (894 K)"} & set(claims.published("bsrn")["row"])


def test_every_network_is_measured_by_the_protocol_of_its_paper():
    found = comparison.measured([4], ["set5"], download=False)
    rows = found.set_index("model")
    assert rows.loc["BSRN", ["protocol", "setting"]].tolist() == ["v1:y,crop=4", "v1:scale=4"]
    for name in ("VDSR", "SRCNN", "bicubic"):
        assert rows.loc[name, "protocol"] == metrics.VDSR_Y(4).signature
        assert "lr=luma" in rows.loc[name, "setting"]
    assert rows["psnr"].round(2).loc[["BSRN", "VDSR", "SRCNN", "bicubic"]].tolist() == [32.35, 31.35, 30.48, 28.42]
    assert [line.partition(":")[0] for line in found.attrs["note"].splitlines()] == list(comparison.WAYS)


def test_figure_1_names_a_ring_only_where_it_lies_off_its_circle():
    measured = {"BSRN": ("bsrn", 32.351), "VDSR": ("vdsr", 31.346), "SRCNN": ("srcnn", 30.484)}
    measured |= {"RFDN (433 K)": ("rfdn", 32.155)}
    fig = figures.quality_and_size(claims.published("bsrn"), measured)
    (ax,) = fig.axes
    red = [text.get_text() for text in ax.texts if text.get_color() == plots.RED]
    assert red == ["BSRN, measured", "", "", "RFDN (433 K)"]
    assert len([text for text in ax.texts if text.get_color() != plots.RED]) == 14
    plt.close(fig)
