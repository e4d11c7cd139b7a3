"""A report as its reader sees it: opened from the disk, filtered, in the dark, on a phone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="no selenium: pip install -e '.[test]'")
nbformat = pytest.importorskip("nbformat")
from labs import wait_for
from selenium.webdriver.common.by import By

from nsrlib import runs

VERDICTS = ["reproduced", "reproduced", "differs", "checked", "open"]
ROWS = [
    {
        "id": f"table{k}/Net/psnr",
        "table": f"table{k}",
        "row": "Net",
        "column": f"Set{k}",
        "scale": 2,
        "metric": "psnr",
        "how": "open" if verdict == "open" else "exact",
        "published": 30.0 + k,
        "ours": None if verdict == "open" else 30.0 + k,
        "verdict": verdict,
        "reason": "no weights" if verdict == "open" else "",
    }
    for k, verdict in enumerate(VERDICTS)
]
LEDGER = {"paper": "tiny", "profile": "quick", "rows": ROWS, "provenance": {"device": "cpu", "threads": 1}}
CELLS = [
    'profile = "quick"\nout_dir = ""',
    f"import json\nfrom pathlib import Path\nPath(out_dir, 'tiny.json').write_text(json.dumps({LEDGER!r}))",
    "from matplotlib import pyplot as plt\nplt.plot([1, 3, 2]);",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """``index.html`` of a run of one small notebook."""
    folder = tmp_path_factory.mktemp("report")
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_markdown_cell("# Tiny"), *map(nbformat.v4.new_code_cell, CELLS)]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "tiny.ipynb")
    run = runs.reproduce(["tiny"], out=folder / "run", notebooks_dir=folder / "notebooks")
    assert run.ok, json.dumps([str(failure) for failure in run.failures])
    return run.folder / "index.html"


def claims(browser) -> list[str]:
    """The text of the claims that can be seen."""
    rows = browser.find_elements(By.CSS_SELECTOR, ".claims tbody tr")
    return [row.text for row in rows if row.is_displayed()]


def test_a_report_is_filtered_by_verdict_and_by_words(browser, page):
    browser.get(page.as_uri())
    everything = claims(browser)
    assert len(everything) >= 4
    differs = browser.find_element(By.CSS_SELECTOR, ".filter button[data-verdict='differs']")
    differs.click()
    wait_for(lambda: len(claims(browser)) == 1, 10, "one claim differs, others are shown")
    assert "differs" in claims(browser)[0]
    assert browser.find_element(By.CSS_SELECTOR, ".filter output").text == f"1 of {len(VERDICTS)}"
    browser.keep("report-filtered")
    differs.click()
    wait_for(lambda: len(claims(browser)) >= 4, 10, "the filter is off, claims are missing")
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("set3")
    wait_for(lambda: len(claims(browser)) == 1, 10, "one claim is about Set3, others are shown")
    assert "checked" in claims(browser)[0]
    severe = [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not severe


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_fits_phones_and_the_dark(browser, page, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    colours = browser.execute_script("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    ground, ink = (sum(map(int, c[c.index("(") + 1 : -1].split(",")[:3])) for c in colours)
    assert (ground > ink) is (scheme == "light")
    figure = browser.find_element(By.CSS_SELECTOR, "figure img")
    wait_for(lambda: figure.get_property("naturalWidth") > 0, 10, "the figure is not shown")
    browser.keep(f"report-{scheme}-{width}")
