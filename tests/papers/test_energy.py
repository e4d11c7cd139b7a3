"""AdderSR's energy comparison: the paper's rule to the digit, and what it leaves out."""

from __future__ import annotations

import pytest

from nsrlib.complexity import PICOJOULES
from nsrlib.papers.addersr.energy import energy_table, honest_energy_table

ENERGY = """
VDSR any - 612.6 2817.9 1.06 1224.1 1105.6 2.549 140.9 36.9 3.815
EDSR x2 B 9384.7 43169.8 8.0 18761.5 16914.8 2.552 2158.5 564.4 3.824
EDSR x3 B 4476.5 20592.0 7.1 8946.0 8077.6 2.549 1029.6 269.8 3.816
EDSR x4 B 2894.5 13314.9 6.8 5782.3 5229.1 2.546 665.7 174.8 3.808
EDSR x2 A 9384.7 43169.8 551.5 18218.0 18436.9 2.341 2158.5 656.8 3.286
EDSR x3 A 4476.5 20592.0 550.7 8402.4 9599.6 2.145 1029.6 362.2 2.843
EDSR x4 A 2894.5 13314.9 686.2 5102.8 7131.7 1.867 665.7 290.3 2.293
EDSR-baseline x2 B 316.2 1454.7 2.0 630.5 574.8 2.531 72.7 19.3 3.766
EDSR-baseline x2 A 316.2 1454.7 36.0 596.5 669.9 2.171 72.7 25.1 2.899
"""


def test_the_energy_table_is_the_specifications_to_the_digit():
    table = energy_table()
    order = ["cnn_ops", "cnn_float32", "ann_mul", "ann_add", "ann_float32", "ratio_float32", "cnn_int8", "ann_int8"]
    order.append("ratio_int8")
    lines = [line.split() for line in ENERGY.strip().splitlines()]
    assert len(table) == len(lines)
    for (_, row), (model, scale, variant, *cells) in zip(table.iterrows(), lines, strict=True):
        assert (row["model"], row["scale"], row["variant"] or "-") == (model, scale, variant)
        ours = [f"{row[k]:.{len(cell.partition('.')[2])}f}" for k, cell in zip(order, cells, strict=True)]
        assert ours == cells


def test_the_papers_two_ratios_are_its_two_variants():
    table = energy_table().set_index(["model", "variant"])["ratio_float32"]
    assert f"{table['VDSR', ''].item():.1f}" == "2.5"
    assert f"{table['EDSR', 'B'].mean():.1f}" == "2.5"
    assert f"{table['EDSR', 'A'].mean():.0f}" == "2"
    limit = {d: (p["multiply"] + p["add"]) / (2 * p["add"]) for d, p in PICOJOULES.items()}
    assert {d: f"{r:.3f}" for d, r in limit.items()} == {"float32": "2.556", "int8": "3.833"}
    assert table.max() < limit["float32"]


def test_the_honest_ratios_are_smaller():
    for dtype in PICOJOULES:
        table = honest_energy_table(dtype).query("network == 'adders'")
        assert (table["ratio"] > table["ratio_all_arithmetic"]).all()
        assert (table["ratio_all_arithmetic"] > table["ratio_with_memory"]).all()
        assert (table["ratio_with_memory"] > 1).all()
        parts = table.loc[:, "arithmetic":"memory"].sum(axis=1)
        assert parts.to_list() == pytest.approx(table["total"].to_list())
