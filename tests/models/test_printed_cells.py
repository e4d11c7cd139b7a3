"""The rows of VDSR and SRCNN that tables print since 2016: their authors' weights, under the protocol of that time."""

from __future__ import annotations

from itertools import product

import pytest

from nsrlib.claims import as_printed
from nsrlib.claims import published as published_numbers
from nsrlib.evaluation import evaluate
from nsrlib.metrics import VDSR_Y

PRINTED = {"vdsr": ("nsr", "table4/VDSR"), "srcnn": ("drcn", "table1/SRCNN")}
CELLS = [
    pytest.param(*cell, marks=[] if cell[1] == "Set5" and cell[2] > 2 else pytest.mark.slow)
    for cell in product(PRINTED, ("Set5", "Set14"), (2, 3, 4))
]


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "column", "scale"), CELLS)
def test_the_authors_weights_give_every_printed_digit(published, benchmark, name, column, scale):
    # rows and columns of VDSR's kernels exchanged: 0.04 dB less at x4, more at x2; zeros around SRCNN's planes: 3 dB less
    paper, row = PRINTED[name]
    printed = published_numbers(paper).set_index("id")["value"]
    measured = evaluate(published(name, scale), benchmark(column.lower(), scale, "luma"), protocol=VDSR_Y(scale))
    for metric in ("psnr", "ssim"):
        expected = str(printed[f"{row}/x{scale}/{column}/{metric}"])
        assert as_printed(measured[metric].mean(), expected) == expected, measured[metric].mean()
