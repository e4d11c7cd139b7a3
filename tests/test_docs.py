"""The API pages: ``make docs`` has nothing to complain about, and every public module has its page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc", reason="no pdoc: pip install -e '.[test]'")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """What the recipe of the Makefile writes and says, with this Python and into a folder of the test."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    recipe = subprocess.run(
        ["make", "-n", "docs"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = [x for x in recipe.stdout.replace("\\\n", " ").splitlines() if "pdoc" in x]
    words = shlex.split(line)
    start = words.index("-m")
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, *(str(folder) if word == "docs" else word for word in words[start:])]
    environment |= dict(word.split("=", 1) for word in words[: start - 1])
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    return folder, done


@pytest.mark.slow
def test_the_api_pages_are_built_without_a_warning(docs):
    _, done = docs
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_every_module_has_a_page_that_begins_with_its_docstring(docs):
    folder, _ = docs
    missing = []
    for path in (ROOT / "nsrlib").rglob("*.py"):
        if "template" in path.parts:
            continue
        name = path.relative_to(ROOT)
        page = folder / (name.parent if path.name == "__init__.py" else name).with_suffix(".html")
        first = re.sub(r"\W+", " ", path.read_text().split('"""')[1].split(":")[0].split(".")[0]).split()
        if not page.exists() or first[0] not in re.sub(r"<[^>]+>", "", page.read_text()):
            missing.append(str(page.relative_to(folder)))
    assert missing == []


@pytest.mark.slow
def test_the_start_page_links_equations_to_the_functions_that_compute_them(docs):
    folder, _ = docs
    page = (folder / "nsrlib.html").read_text()
    (table,) = re.findall(r"<table>.*?</table>", page, re.S)
    links = set(re.findall(r'href="([^"]+)"', table))
    functions = {"models/drcn.html#DRCN", "models/drn.html#dual_regression_loss"}
    functions |= {f"ops/{operator}.html" for operator in ("adder2d", "bsconv2d", "mixed_conv2d")}
    assert links == {f"nsrlib/{function}" for function in functions}
    assert "http" not in "".join(re.findall(r"<(?:script|link)[^>]*>", page))  # nothing comes from a network
    names = re.findall(r'<section id="(\w+)">', page)
    assert names == ["create_model", "evaluate", "imresize", "list_models", "load_weights", "psnr", "ssim", "upscale"]


@pytest.mark.slow
def test_references_to_functions_have_become_links(docs):
    folder, _ = docs
    page = (folder / "nsrlib" / "plots" / "viewers.html").read_text()
    assert ":func:" not in page.split("View Source")[0]
    assert re.search(r'<a href="#explore">explore\(\)</a>', page)
