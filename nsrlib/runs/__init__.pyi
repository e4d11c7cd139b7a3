from . import (
    batch,
    cluster,
    drift,
    grids,
    notebooks,
    pages,
    parameters,
    progress,
    readme,
    record,
    sources,
    sweep_pages,
    sweeps,
    texts,
    worker,
)
from .batch import report, reproduce, summary
from .record import Failure, Interrupted, NotebookRun, Run
from .sources import list_papers
from .sweeps import sweep

__all__ = [
    "Failure",
    "Interrupted",
    "NotebookRun",
    "Run",
    "batch",
    "cluster",
    "drift",
    "grids",
    "list_papers",
    "notebooks",
    "pages",
    "parameters",
    "progress",
    "readme",
    "record",
    "report",
    "reproduce",
    "sources",
    "summary",
    "sweep",
    "sweep_pages",
    "sweeps",
    "texts",
    "worker",
]
