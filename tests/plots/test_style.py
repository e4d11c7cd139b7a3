"""One palette, figures as files, tables for a page."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from nsrlib import plots
from nsrlib.plots import style


def test_the_style_takes_the_palette_for_lines():
    with mpl.rc_context():
        plots.use_style()
        ax = Figure().subplots()
        lines = [ax.plot([0, 1])[0].get_color() for _ in range(8)]
    assert lines[:3] == [plots.BLUE, plots.ORANGE, plots.GREEN]
    assert len(set(lines)) == 7
    assert plots.YELLOW not in lines
    assert not ax.spines["top"].get_visible()


def test_the_same_figure_gives_the_same_file(tmp_path):
    files = [[tmp_path / str(k) / f"a.{kind}" for kind in ("png", "pdf", "svg")] for k in range(2)]
    for paths in files:
        with mpl.rc_context(style.STYLE):
            fig = Figure(figsize=(2, 1))
            fig.subplots().plot([0, 1])
            style.write(fig, *paths)
    first, second = ([path.read_bytes() for path in paths] for paths in files)
    assert [content[:4] for content in first[:2]] == [b"\x89PNG", b"%PDF"]
    assert first == second
    assert Image.open(files[0][0]).size == (220, 110)


def test_save_writes_a_picture_where_there_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fig = Figure()
    plots.save(fig, "one")
    assert list(tmp_path.iterdir()) == []
    plots.save(fig, "one", tmp_path / "out")
    plots.save(fig, "two", str(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out" / "figures").iterdir()) == ["one.png", "two.png"]
    assert Image.open(tmp_path / "out" / "figures" / "one.png").format == "PNG"


def test_numbers_of_a_table_become_text_with_the_digits_asked_for():
    table = pd.DataFrame(
        {
            "n": [1, 2000],
            "psnr": [32.3456, float("nan")],
            "share": np.array([0.25, 1234.5678], np.float32),
            "name": ["a", "b"],
        }
    )
    before = table.copy()
    shown = plots.style_numbers(table, {"psnr": 2})
    assert shown["psnr"].tolist() == ["32.35", ""]
    assert shown["share"].tolist() == ["0.250", "1,234.568"]
    assert shown["n"].tolist() == [1, 2000]
    assert shown["name"].tolist() == ["a", "b"]
    assert plots.style_numbers(table, 0)["psnr"].tolist() == ["32", ""]
    pd.testing.assert_frame_equal(table, before)
    assert shown.columns.tolist() == table.columns.tolist()


def test_sentences_are_aligned_to_the_left_and_the_same_in_every_run():
    table = pd.DataFrame({"id": ["T1"], "statement": ["a < b"]})
    page = plots.left_aligned(table)
    assert "text-align: left" in page.data
    assert "a &lt; b" in page.data
    assert page.data == plots.left_aligned(table).data


def test_only_what_draws_loads_what_it_draws_with():
    code = """if True:
        import sys
        from nsrlib import papers, plots
        papers.every()
        assert not {"matplotlib", "ipywidgets", "ipyevents"} & set(sys.modules)
        from nsrlib.plots import reports, style
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
