"""Notebook files: what is in them, the parameters that they take, and how they look as a page."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nsrlib import papers
from nsrlib.claims import PROFILES
from nsrlib.files import one_line, write_text
from nsrlib.runs.texts import Scrubber, suggest


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
    found = ["", *re.findall(r"^#{1,4}[ \t]+(.+)$", prose, flags=re.M)]
    last = found[-1][:500].rstrip(" \t#")  # short, as the time of what follows grows with its square
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[*`]|<[^>]+>", "", last)).strip()


def write_page(notebook: Path, target: Path, folder: Path) -> None:
    """A notebook of the run in ``folder`` as a page that needs nothing from the network."""
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
    title = target.name.split(".")[0]
    html, _ = exporter.from_filename(str(notebook), resources={"metadata": {"name": title}})
    write_text(target, Scrubber(folder).folders(html))


def import_papermill() -> Any:
    """papermill, in less than half the time that ``import papermill`` takes."""
    # jsonschema would import it to check addresses, of which notebooks have none; it builds a large grammar at import
    grammar = "rfc3987_syntax"
    sys.modules.setdefault(grammar, None)  # type: ignore[arg-type]
    try:
        import papermill
    finally:
        if sys.modules[grammar] is None:
            del sys.modules[grammar]
    return papermill


def literal_path(path: Path) -> str:
    """For papermill, which formats paths with the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def known_parameters(notebooks: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What the cells tagged ``parameters`` define: notebook -> name -> papermill's record of it.

    papermill itself injects a misspelt name with no more than a warning; see :func:`check_parameters`.

    Raises:
        ValueError: a notebook cannot be read, or has no ``profile`` or ``out_dir``.
    """
    papermill = import_papermill()
    accepted: dict[str, dict[str, Any]] = {}
    for name, path in notebooks.items():
        try:
            accepted[name] = known = papermill.inspect_notebook(literal_path(path))
        except Exception as error:  # nbformat, papermill and json all have their own
            raise ValueError(f"{name}.ipynb is no notebook that can be run: {one_line(str(error))}") from error
        for needed in ("profile", "out_dir"):
            if needed not in known:
                raise ValueError(f"{name}.ipynb has no {needed!r} in a cell tagged 'parameters'")
    return accepted


def check_parameters(
    accepted: Mapping[str, Mapping[str, Any]], profile: str, given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The values that each notebook of ``accepted`` (:func:`known_parameters`) gets, in the types that it takes.

    Raises:
        ValueError: a profile or a name that no notebook knows, a value of another type than the default, or one that
            the paper's :attr:`~nsrlib.papers.Paper.parameters` do not accept.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}{suggest(profile, PROFILES)}; there are: {', '.join(PROFILES)}")
    names = list(accepted)
    own_options = {"profile": f"profile=..., --profile {'|'.join(PROFILES)}", "out_dir": "out=..., --out FOLDER"}
    for own, instead in own_options.items():
        if own in given:
            raise ValueError(f"{own!r} is set by the run itself: give {instead}, not the parameter {given[own]!r}")
    try:
        json.dumps(given)
    except TypeError as error:
        raise ValueError(f"parameters must be numbers, strings, lists or dicts: {error}") from error

    accepts = {name: paper.parameters for name, paper in papers.every().items()}
    checked: dict[str, dict[str, Any]] = {n: {} for n in names}
    for key, value in given.items():
        takers = [n for n in names if key in accepted[n]]
        if not takers:
            every = list(dict.fromkeys(p for n in names for p in accepted[n] if p not in ("profile", "out_dir")))
            raise ValueError(
                f"no parameter {key!r} in {', '.join(names)}{suggest(key, every)}; "
                f"accepted: {', '.join(every) or 'none'}"
            )
        for name in takers:
            checked[name][key] = _checked(name, key, value, accepted[name][key]["default"])
            if wrong := accepts.get(name, {}).get(key, lambda value: "")(checked[name][key]):
                raise ValueError(f"{name}: parameter {key!r} cannot be {checked[name][key]!r}; accepted: {wrong}")
    return {n: {"profile": profile, **checked[n]} for n in names}


def _checked(notebook: str, key: str, value: Any, default_source: str) -> Any:
    """The value as the notebook takes it, or a ValueError if it is of another type than the default."""
    try:
        default = ast.literal_eval(default_source)
    except (ValueError, SyntaxError):
        return value  # an expression: nothing can be told
    if default is None or value is None:
        return value
    if isinstance(default, str) and isinstance(value, list | tuple) and all(isinstance(v, int | str) for v in value):
        return ",".join(map(str, value))  # -p scales=2,3, which is a tuple as Python reads it
    if isinstance(default, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # -p scales=2 for a notebook whose default is "2,3,4"
    # bool is an int to isinstance, and a list may stand for a tuple after its way through JSON
    wanted = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}.get(type(default), (type(default),))
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"{notebook}: parameter {key!r} is a {type(default).__name__} (default {default!r}), "
            f"not a {type(value).__name__}: {value!r}"
        )
    return value
