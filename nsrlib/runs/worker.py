"""One notebook in a process of its own: executed, cleaned of this machine's names, also saved as a page.

This is the program of the worker processes of :mod:`nsrlib.runs.batch`, ``python -m nsrlib.runs.worker``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nsrlib.files import write_text
from nsrlib.runs.notebooks import import_papermill, literal_path, places, write_page
from nsrlib.runs.record import Failure
from nsrlib.runs.texts import Scrubber, cause_of, map_strings


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
            write_text(running, json.dumps(scrub.notebook(notebook), indent=1, ensure_ascii=False) + "\n")
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


if __name__ == "__main__":
    run_notebook(json.loads(sys.argv[1]))
