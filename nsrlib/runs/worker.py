"""One notebook in a process of its own: executed, cleaned of this machine's names, also saved as a page.

This is the program of the worker processes of :mod:`nsrlib.runs.batch`, ``python -m nsrlib.runs.worker``. What the
workers share with the report is here too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nsrlib.files import ROOT, one_line, write_text

@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped, and where: ``cell`` counts from 1 in the notebook that lies in ``notebooks/``."""

    notebook: str
    error: str
    message: str
    section: str = ""
    cell: int | None = None
    line: str = ""
    cell_id: str = ""

    def __str__(self) -> str:
        where = [f"“{self.section}”"] if self.section else []
        if self.cell is not None:
            where.append(f"cell {self.cell}" + (f" ({self.line})" if self.line else ""))
        return ": ".join(filter(None, [self.notebook, ", ".join(where), self.error, self.message]))


def run_notebook(job: dict[str, Any]) -> None:
    """Execute one notebook, leave it and its HTML in the run folder, and report events as JSON lines on stdout."""
    # Keep stdout for events: whatever else prints, the kernel included, goes to the log.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **what: Any) -> None:
        channel.write(json.dumps({"event": event, **what}) + "\n")
        channel.flush()

    folder, name = Path(job["folder"]), Path(job["notebook"]).stem
    running = folder / "notebooks" / f".{name}.running.ipynb"
    position: dict[str, Any] = {}
    failure: Failure | None = None
    try:
        try:
            _execute(job, running, position, tell)
        except RuntimeError:
            if position:
                raise
            _execute(job, running, position, tell)  # two kernels that start together can be given the same free port
    except Exception as error:
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        kind, message = cause_of(error)
        if kind == "DeadKernelError":
            message += f"; see logs/{name}.log"
        failure = Failure(name, kind, message, **position)
    scrub = Scrubber(folder)
    try:
        if running.exists():
            final = folder / "notebooks" / (f"{name}.failed.ipynb" if failure else f"{name}.ipynb")
            notebook = json.loads(running.read_text(encoding="utf-8"))
            notebook["metadata"].get("papermill", {}).update(input_path=f"{name}.ipynb", output_path=final.name)
            write_text(running, json.dumps(map_strings(notebook, scrub.folders), indent=1, ensure_ascii=False) + "\n")
            os.replace(running, final)
            if job.get("page", True):
                write_page(final, final.with_suffix(".html"), folder)
    except (OSError, ValueError) as error:  # ValueError: a notebook that a full disk has cut short
        failure = failure or Failure(name, *cause_of(error))
        running.unlink(missing_ok=True)  # which leaves room for run.json
    tell("end", failure=map_strings(asdict(failure), scrub.paths) if failure else None)


def _execute(job: dict[str, Any], target: Path, position: dict[str, Any], tell: Callable[..., None]) -> None:
    """Run the notebook into ``target``; ``position`` follows where it is, in the words of :class:`Failure`."""
    papermill = import_papermill()
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        """papermill's own engine, which also says which cell it is at and lets go of its kernel when told."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            cells = nb_man.nb.cells
            place_of = list(places(cells))
            notice = nb_man.cell_start

            def cell_start(cell: Any, cell_index: int, **more: Any) -> None:
                heading, place = place_of[cell_index]
                position.update(place, cell_id=cell.get("id", ""))
                tell("cell", cell=cell_index + 1, cells=len(cells), heading=heading)
                notice(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            client = PapermillNotebookClient(
                nb_man,
                kernel_name=kernel_name,
                timeout=kwargs.get("execution_timeout"),
                startup_timeout=kwargs.get("start_timeout"),
            )
            threading.Thread(target=_stop_with_parent, args=(client,), daemon=True).start()
            return client.execute()

    papermill_engines.register("nsrlib", Engine)
    papermill.execute_notebook(
        literal_path(Path(job["notebook"])),
        literal_path(target),
        parameters=job["parameters"],
        engine_name="nsrlib",
        kernel_name="python3",  # the environment that runs this, whatever the notebook was last saved with
        progress_bar=False,
        start_timeout=180,
        execution_timeout=math.ceil(job["timeout"] or 0) or None,  # nbclient counts whole seconds
    )


def _stop_with_parent(client: Any) -> None:
    """End kernel and worker when stdin closes: the parent asks for it, or has died."""
    os.read(0, 1)
    process = getattr(getattr(client.km, "provisioner", None), "process", None)
    if process is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a kernel leads a group of its own
        except (AttributeError, OSError):
            process.kill()
    os._exit(130)


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


def cause_of(error: BaseException) -> tuple[str, str]:
    """Name and one line for an exception of the notebook, of its kernel, or of the disk."""
    kind = type(error).__name__
    if kind == "PapermillExecutionError":
        return str(getattr(error, "ename", kind)), one_line(str(getattr(error, "evalue", "")))
    if kind == "DeadKernelError":
        return kind, "the kernel died; often the machine is out of memory"
    if kind == "CellTimeoutError":
        seconds = re.search(r"after (\S+) seconds", str(error))
        return kind, f"the cell took longer than {seconds[1] if seconds else 'the allowed'} s"
    if isinstance(error, OSError) and error.errno:
        if error.errno == errno.ENOSPC:
            return kind, "the disk is full" + (f" (writing {Path(error.filename).name})" if error.filename else "")
        return kind, f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    return kind, one_line(str(error))


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


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with ``change`` applied to every string in it, but for images and keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {k: v if str(k).startswith("image/") else map_strings(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_strings(v, change) for v in value)
    return value


class Scrubber:
    """Cuts the names of this machine's folders out of texts that may be published."""

    # A path starts where no word, URL or base64 text is going on; after a terminal colour or an escaped newline too.
    _START = r"(?:(?<![\w+/=.~-])|(?<=\[\dm)|(?<=\[\d\dm)|(?<=\[\d;\d\dm)|(?<=\\n)|(?<=\\t))(?:file://)?"
    _ANY = re.compile(_START + r"/(?:[^\s/'\"<>:,;()\\]+/)+([^\s/'\"<>:,;()\\]*)")

    def __init__(self, folder: Path):
        self._names: dict[str, str] = {}
        for place, short in ((Path.home(), "~"), (ROOT, "."), (folder, ".")):
            for path in (place, place.resolve()):
                if len(path.parts) > 1:
                    self._names[str(path)] = short
        longest_first = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._known = re.compile(f"{self._START}({longest_first})(?![\\w-])(/?)")

    def folders(self, text: str) -> str:
        """Home becomes ``~``; what lies in the repository or the run folder is named from there."""

        def short(found: re.Match[str]) -> str:
            name = self._names[found[1]]
            return name + found[2] if name == "~" or not found[2] else ""

        return self._known.sub(short, text)

    def paths(self, text: str) -> str:
        """The same, and of any other absolute path only the last part."""
        return self._ANY.sub(r"…/\1", self.folders(text))


def literal_path(path: Path) -> str:
    """For papermill, which formats paths with the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


if __name__ == "__main__":
    run_notebook(json.loads(sys.argv[1]))
