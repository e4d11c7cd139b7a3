from . import (
    batch,
    cluster,
    drift,
    grids,
    notebooks,
    pages,
    progress,
    readme,
    record,
    sweep_pages,
    sweeps,
    texts,
    worker,
)
from .batch import report, reproduce, summary
from .record import Failure, Interrupted, NotebookRun, Run
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
    "notebooks",
    "pages",
    "progress",
    "readme",
    "record",
    "report",
    "reproduce",
    "summary",
    "sweep",
    "sweep_pages",
    "sweeps",
    "texts",
    "worker",
]
