"""What a reader does: open a notebook in JupyterLab, run all cells, move a slider, see the picture change.

The notebooks are copies without outputs and with parameters that make them short. Chromium is
installed by ``tests/browser/install.sh``; without it these tests are skipped.
"""

from __future__ import annotations

import ast
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("selenium", reason="no selenium: pip install -e '.[test]'")
nbformat = pytest.importorskip("nbformat")
from labs import ROOT, wait_for
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = {"max_images": 1, "repeats": 1, "steps": 50}
"""Parameters, where a notebook has them."""
SECONDS = float(os.environ.get("NSR_BROWSER_SECONDS") or 600)
"""That a whole notebook may take; a busy machine needs more."""
VIEWER = ".jp-OutputArea-output .widget-vbox:has(.noUi-handle):has(img)"


def shortened(path: Path, target: Path) -> None:
    """Write a copy without outputs and with short parameters."""
    notebook = nbformat.read(path, 4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            lines = []
            for line in cell.source.splitlines():
                names = [t.id for s in ast.parse(line).body if isinstance(s, ast.Assign) for t in s.targets]
                lines.append(f"{names[0]} = {SHORT[names[0]]}" if names and names[0] in SHORT else line)
            cell.source = "\n".join(lines)
    nbformat.write(notebook, target)


def click(browser, selector: str, text: str = "") -> None:
    """Click the first element that can be seen and holds the text."""

    def done():
        for element in browser.find_elements(By.CSS_SELECTOR, selector):
            try:
                if element.is_displayed() and text in element.text:
                    element.click()
                    return True
            except StaleElementReferenceException:
                return False
        return False

    wait_for(done, 30, f"nothing to click at {selector} {text!r}")


def open_notebook(browser, lab, name: str) -> None:
    browser.get(lab.address(name))
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-Cell"), 90, "no notebook in the page")

    def is_ready():  # run before that, a notebook asks for a kernel
        assert not browser.find_elements(By.CSS_SELECTOR, ".jp-Dialog"), "JupyterLab asks something"
        states = [s["kernel"]["execution_state"] for s in lab.ask("api/sessions") or [] if s["path"] == name]
        bars = browser.find_elements(By.CSS_SELECTOR, "#jp-main-statusbar")
        return states == ["idle"] and any("| Idle" in bar.text for bar in bars)

    wait_for(is_ready, 90, "the kernel is not ready")


def prompts(browser) -> list[str]:
    """``[ ]:``, ``[*]:`` or ``[3]:`` of each code cell."""
    return [e.text for e in browser.find_elements(By.CSS_SELECTOR, ".jp-CodeCell .jp-InputPrompt")]


def run_all(browser, lab, name: str, seconds: float) -> list:
    """Run > Run All Cells, wait, save; returns the code cells as saved."""

    def has_begun():  # a menu that is just being opened swallows the click
        ActionChains(browser).send_keys(Keys.ESCAPE).perform()
        click(browser, ".lm-MenuBar-item", "Run")
        time.sleep(0.5)
        click(browser, ".lm-Menu-item[data-command='runmenu:run-all']")
        time.sleep(1)
        return any(text[1:-2].strip() for text in prompts(browser))

    wait_for(has_begun, 60, "Run All Cells runs nothing")
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(lab.folder / name, 4).cells)

    def is_done():
        return sum(text[1:-2].isdecimal() for text in prompts(browser)) == cells

    wait_for(is_done, seconds, "the cells are not done")
    path, before = lab.folder / name, (lab.folder / name).stat().st_mtime_ns
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
    wait_for(lambda: path.stat().st_mtime_ns != before, 30, "the notebook is not saved")
    time.sleep(0.5)
    saved = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    errors = [f"{o.ename}: {o.evalue}" for cell in saved for o in cell.outputs if o.output_type == "error"]
    assert not errors
    assert all(cell.execution_count for cell in saved)
    return saved


def shown(image) -> np.ndarray:
    """What the screen shows of an element."""
    return np.asarray(Image.open(io.BytesIO(image.screenshot_as_png)).convert("RGB"), dtype=np.int16)


def changed(image, before: np.ndarray) -> bool:
    after = shown(image)
    return after.shape != before.shape or bool((np.abs(after - before) > 16).any())


def viewers(browser) -> list:
    """The innermost boxes that hold a slider and a picture."""
    boxes = browser.find_elements(By.CSS_SELECTOR, VIEWER)
    return [box for box in boxes if not box.find_elements(By.CSS_SELECTOR, VIEWER.split()[-1])]


def in_sight(browser, element) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    time.sleep(0.3)


def move_slider(browser, box) -> None:
    """Ten steps of the box's first slider by the keyboard, and wait until one of its pictures is another."""
    images = box.find_elements(By.CSS_SELECTOR, "img")
    handle = box.find_element(By.CSS_SELECTOR, ".noUi-handle")
    in_sight(browser, box)
    before = [shown(image) for image in images]
    assert all(np.ptp(picture) > 0 for picture in before), "an empty picture"
    browser.execute_script("arguments[0].focus({preventScroll: true})", handle)
    value = handle.get_attribute("aria-valuenow")
    key = Keys.ARROW_LEFT if value == handle.get_attribute("aria-valuemax") else Keys.ARROW_RIGHT
    for _ in range(10):
        handle.send_keys(key)
    assert handle.get_attribute("aria-valuenow") != value
    in_sight(browser, box)
    wait_for(lambda: any(map(changed, images, before)), 30, "the slider moved and no picture changed")


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_notebook_runs_in_jupyterlab_and_its_sliders_move_pictures(browser, lab, path):
    shortened(path, lab.folder / path.name)
    open_notebook(browser, lab, path.name)
    saved = run_all(browser, lab, path.name, SECONDS)
    expected = sum("widget-view" in str(cell.outputs) for cell in saved)
    assert expected, "nothing to move in this notebook"
    boxes = wait_for(lambda: len(viewers(browser)) == expected and viewers(browser), 30, f"not {expected} viewers")
    for k, box in enumerate(boxes):
        in_sight(browser, box)
        browser.keep(f"{path.stem}-{k}-before")
        move_slider(browser, box)
        browser.keep(f"{path.stem}-{k}-after")


SMALL = """
import numpy as np
from nsrlib.plots import viewers
truth = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
truth[:, 45:] = 90
truth = truth.repeat(4, 0).repeat(4, 1)
viewers.own_picture(truth, lambda x: ({"inverted": 255 - x, "brighter": x // 2 + 127}, x))
"""


@pytest.fixture
def small(browser, lab):
    """A notebook of one comparer, run."""
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.cells.append(nbformat.v4.new_code_cell(SMALL.strip()))
    nbformat.write(notebook, lab.folder / "small.ipynb")
    open_notebook(browser, lab, "small.ipynb")
    run_all(browser, lab, "small.ipynb", 60)
    return wait_for(lambda: viewers(browser), 30, "no viewer")[0]


def test_the_crop_follows_the_pointer(browser, small):
    whole, crops = small.find_elements(By.CSS_SELECTOR, "img")
    in_sight(browser, small)
    before = shown(crops)
    size = whole.size
    ActionChains(browser).move_to_element_with_offset(whole, -size["width"] // 4, -size["height"] // 4).perform()
    wait_for(lambda: changed(crops, before), 20, "the pointer moved and the crops did not")
    readouts = [r.text for r in small.find_elements(By.CSS_SELECTOR, ".widget-readout")]
    row, column = (int(text) for text in readouts[-2:])
    assert abs(row - 60) <= 3  # a quarter of 240 x 360 pixels; the browser rounds
    assert abs(column - 90) <= 3
    browser.keep("small-pointer")


def test_a_picture_of_ones_own_takes_the_place_of_the_default(browser, small, tmp_path):
    whole = small.find_elements(By.CSS_SELECTOR, "img")[0]
    in_sight(browser, small)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (100, 80), (0, 114, 178)).save(photo)
    # The widget's input is not in the page until its button is clicked, and then it opens a window of the system.
    browser.execute_script(
        "const make = document.createElement.bind(document); HTMLInputElement.prototype.click = function () {"
        "this.style.display = 'block'; this.id = 'upload'; document.body.prepend(this); }"
    )
    click(browser, "button", "your picture")
    browser.find_element(By.ID, "upload").send_keys(str(photo))

    def says():
        return any("photo.png, 100x80" in e.text for e in browser.find_elements(By.CSS_SELECTOR, ".widget-html"))

    wait_for(says, 30, "the message does not name the file")
    box = wait_for(lambda: viewers(browser), 20, "no viewer")[0]
    whole = box.find_elements(By.CSS_SELECTOR, "img")[0]
    in_sight(browser, box)
    wait_for(lambda: shown(whole).shape[1] in range(95, 106), 20, "the new picture is not shown")
    browser.keep("small-own-picture")
