"""The committed notebooks: executed in order, readable, without anything of the machine that ran them.

That their cells still print what they show is nbval's work (``make nbval``).
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

from nsrlib.data import list_sets, sources

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)

CHECKED = "# NBVAL_CHECK_OUTPUT"
# An absolute path of two parts or more; not a part of a web address, of a closing tag or of "fig1/BSRN/psnr".
ABSOLUTE_PATH = re.compile(r"(?<![\w.~:/<>)\]}$*+\\-])/(?:[A-Za-z_][\w.-]*/)+[\w.-]+|\b[A-Z]:\\\w|file://")


@lru_cache
def read(path: Path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tagged(path: Path, tag: str) -> list:
    return [cell for cell in read(path).cells if tag in cell.metadata.get("tags", [])]


def written(cell) -> list[str]:
    """What a cell shows as text: streams, and every text format of its results."""
    shown = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            shown.append(output.text)
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/") or kind.endswith(("json", "javascript", "svg+xml")):
                shown.append(content if isinstance(content, str) else repr(content))
    return shown


def tree(cell) -> ast.Module:
    """The cell's syntax, without lines for IPython."""
    return ast.parse("\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!"))))


def test_it_is_a_valid_notebook_of_the_current_format(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


def test_its_kernel_is_the_one_that_comes_with_jupyter(path):
    metadata = read(path).metadata
    assert (metadata.kernelspec.name, metadata.kernelspec.display_name) == ("python3", "Python 3 (ipykernel)")
    assert metadata.language_info.name == "python"


def test_every_cell_was_executed_in_order_without_an_error(path):
    cells = code(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output.ename for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_no_cell_is_empty(path):
    assert not [k for k, cell in enumerate(read(path).cells) if not cell.source.strip()]


def test_it_begins_with_a_title_and_ends_with_its_provenance(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    headings = [
        line.lstrip("# ").lower()
        for cell in read(path).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if re.match(r"#+ ", line)
    ]
    assert "provenance" in headings[-1]
    assert ".provenance()" in code(path)[-1].source
    assert sum(heading == first.source.splitlines()[0].lstrip("# ").lower() for heading in headings) == 1


def test_parameters_are_plain_assignments_that_papermill_understands(path):
    cells = tagged(path, "parameters")
    assert len(cells) == 1
    assert cells[0] is code(path)[0]
    values = {}
    for line in filter(None, (line.strip() for line in cells[0].source.splitlines())):
        assert line.count("=") == 1, line  # papermill splits there, comments included
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.Assign | ast.AnnAssign), line
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        assert isinstance(target, ast.Name), line
        assert target.id not in values
        values[target.id] = ast.literal_eval(statement.value)
    assert (values["profile"], values["out_dir"]) == ("quick", "")


def test_what_it_claims_is_compared_on_every_run(path):
    checked = [cell for cell in code(path) if CHECKED in cell.source]
    assert checked
    for cell in checked:
        assert cell.source.startswith(CHECKED + "\n")
        assert "".join(written(cell)).strip(), cell.source


def test_no_path_of_a_machine_is_in_it(path):
    found = [
        hit.group()
        for cell in read(path).cells
        for text in [cell.source, *written(cell)]
        for hit in ABSOLUTE_PATH.finditer(text)
    ]
    assert not found


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("saved to " + "/".join(["", "mnt", "x", "y.png"]), True),
        ('"' + "/".join(["", "data", "set5"]) + '"', True),
        ("C:" + "\\Users", True),
        ("file:" + "//x", True),
        ("https://example.org/home/page", False),
        ("</td></tr><br/>", False),
        ("fig1/BSRN/psnr and ../data/x", False),
        ("38.10 / 0.9610", False),
        ("$a/b/c$", False),
        ("table1/A+/x2/Set5/psnr", False),
    ],
    ids=repr,
)
def test_paths_are_told_from_other_slashes(path, text, is_path):
    assert bool(ABSOLUTE_PATH.search(text)) is is_path


def test_it_is_small_enough_to_read_in_a_browser(path):
    assert path.stat().st_size < 2e6


def test_it_keeps_nothing_of_the_run_that_made_it(path):
    notebook = read(path)
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert not {"execution", "ExecuteTime", "papermill"} & cell.metadata.keys()
    widgets = {
        output.data[kind]["model_id"]
        for cell in code(path)
        for output in cell.outputs
        for kind in output.get("data", {})
        if kind == "application/vnd.jupyter.widget-view+json"
    }
    assert widgets or "widgets" not in notebook.metadata, "holds the state of widgets that no output shows"


def test_a_notebook_argues_and_the_library_computes(path):
    for cell in code(path):
        for node in ast.walk(tree(cell)):
            assert not isinstance(node, ast.ClassDef), f"class {node.name} belongs in nsrlib"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{node.name}() is longer than a screen"


def test_no_cell_is_longer_than_a_screen_of_the_lab(path):
    assert not {cell.id: n for cell in code(path) if (n := len(cell.source.splitlines())) > 25}


def test_it_opens_its_paper_in_a_short_cell(path):
    setup = code(path)[1].source
    assert len(setup.splitlines()) <= 12
    assert f'session = nsrlib.papers.open("{path.stem}", profile, out_dir' in setup
    assert "import nsrlib\n" in setup


def test_skipping_is_said_by_the_session_and_ids_are_found_by_the_ledger(path):
    for cell in code(path):
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.lower().startswith("skipped"), cell.source
            if isinstance(node, ast.JoinedStr):
                assert not re.fullmatch(r"[\w{}.-]+(/[^ ]+)+/(psnr|ssim|params|multi_adds)", ast.unparse(node)[2:-1])


def test_cells_that_need_data_name_data_that_exist(path):
    known = {*list_sets()["name"], *(Path(p).name for p in sources() if p.startswith("weights/"))}
    tags = {tag for cell in read(path).cells for tag in cell.metadata.get("tags", [])}
    needs = {tag.removeprefix("needs:") for tag in tags if tag.startswith("needs:")}
    assert needs <= known
    assert {tag for tag in tags if not tag.startswith("needs:")} <= {"parameters", "figure:varies"}
