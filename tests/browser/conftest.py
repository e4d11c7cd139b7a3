"""A headless Chromium and a JupyterLab for the tests here; screenshots go to ``NSR_ARTEFACTS`` or ``runs/browser``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from labs import ARTEFACTS, Lab, wait_for

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
FLAGS += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker("browser")


@pytest.fixture
def browser(tmp_path, request):
    """A Chromium of 1300x1000 pixels with an empty profile; ``browser.keep(name)`` stores a screenshot."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -e '.[test]'")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with chromedriver: see tests/browser/install.sh")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,1000"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    session = webdriver.Chrome(options=options, service=service)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    session.keep = lambda name: session.save_screenshot(str(ARTEFACTS / f"{name}.png"))
    yield session
    if getattr(request.node, "failed", False):
        session.keep("failed-" + re.sub(r"\W+", "-", request.node.name))
        print(*(line["message"] for line in session.get_log("browser") if line["level"] == "SEVERE"), sep="\n")
    session.quit()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.failed = getattr(item, "failed", False) or report.failed


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "notebooks"
    folder.mkdir()
    server = Lab(folder, home)
    try:
        wait_for(server.is_up, 90, lambda: f"JupyterLab is not up: {server.log.read_text()[-1500:]}")
        yield server
    finally:
        server.stop()
