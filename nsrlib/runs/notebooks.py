"""Notebook files: what is in them, and how they look as a page."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nsrlib.files import one_line, write_text
from nsrlib.runs.texts import Scrubber


def digest(notebook: Path) -> str:
    """SHA-256 of what a notebook runs, its cells' sources: outputs and metadata do not change it.

    Raises:
        ValueError: it is no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook.name} is no notebook that can be run: {one_line(str(error))}") from error
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def places(cells: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each cell the heading it brings, and its place: section, number in the source notebook, first line."""
    section, number = "", 0
    for cell in cells:
        tags = cell["metadata"].get("tags", [])
        if "papermill-error-cell-tag" not in tags and "injected-parameters" not in tags:
            number += 1
        text = "".join(cell["source"])
        heading = _heading(text) if cell["cell_type"] == "markdown" else ""
        section = heading or section
        first = next((s for s in map(str.strip, text.splitlines()) if s), "")
        yield heading, {"section": section, "cell": number, "line": one_line(first, 80)}


def _heading(markdown: str) -> str:
    """The last heading of a markdown cell, as plain text."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.S | re.M)
    found = re.findall(r"^#{1,4}[ \t]+(.+?)[ \t#]*$", prose, flags=re.M)
    if not found:
        return ""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[*`]|<[^>]+>", "", found[-1])).strip()


def write_page(notebook: Path, target: Path, folder: Path) -> None:
    """A notebook of the run in ``folder`` as a page that needs nothing from the network."""
    write_text(target, Scrubber(folder).folders(_to_html(notebook, title=target.name.split(".")[0])))


def _to_html(path: Path, title: str) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True)
    # Nothing that the page needs comes from the network. MathJax is fetched if it can be, after the page is up.
    exporter.raw_template = """
        {%- extends 'index.html.j2' -%}
        {%- block html_head_js_requirejs -%}{%- endblock -%}
        {%- block jupyter_widgets -%}{%- endblock -%}
        {%- block html_head_js_mermaidjs -%}{%- endblock -%}
        {%- block html_head_js_mathjax -%}
        {{ mathjax(resources.mathjax_url) | replace('<script src', '<script defer src') }}
        {%- endblock -%}"""
    html, _ = exporter.from_filename(str(path), resources={"metadata": {"name": title}})
    return html


def import_papermill() -> Any:
    """papermill, in less than half the time that ``import papermill`` takes."""
    # jsonschema would import it to check addresses, of which notebooks have none; it builds a large grammar at import
    grammar = "rfc3987_syntax"
    blocked = grammar not in sys.modules
    if blocked:
        sys.modules[grammar] = None  # type: ignore[assignment]
    try:
        import papermill
    finally:
        if blocked:
            del sys.modules[grammar]
    return papermill


def literal_path(path: Path) -> str:
    """For papermill, which formats paths with the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")
